"""Keeps the outbox in PostgreSQL: which notice is due to whom, by which e-mail, and the result of each try.

A notice is queued in the transaction of what it reports, with a delivery for each recipient. A delivery is
open until it is sent or given up. It goes out as the e-mail of its own notice, or of the digest that
`mail_id` names: one notice with the content of many, for one recipient.

When a later notice of a campaign comes before an earlier one has been sent, the later one replaces it
(`overtaken`, `queue`).

The content of an e-mail is committed before it is sent, and so is `doubts`, which says that it may have
arrived. When the process is killed in between, both remain: the same e-mail is sent again, with the same
Message-ID.

The same tables hold the messages of webhooks (channel `webhook`, see `shared.webhooks`). Here each statement
names the channel, or an id or a kind that only e-mails have.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

from shared.base.errors import DbError
from shared.base.values import DIGEST_KINDS, Notice, NoticeKind, NoticeLine, Overtaken, Trouble
from shared.database import MAIL_LOCK_CLASS, Database

logger = logging.getLogger(__name__)

STORE_NOTICE = """
INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at, campaign_number,
                     campaign_name, attempt, max_attempts, detail, cycle)
VALUES (%(id)s, %(kind)s, %(campaign_id)s, %(subject)s, %(text)s, %(html)s, %(created_at)s, %(number)s,
        %(name)s, %(attempt)s, %(max_attempts)s, %(detail)s, %(cycle)s)
ON CONFLICT (id) DO NOTHING
"""

QUEUE_DELIVERIES = """
INSERT INTO notice_deliveries (notice_id, recipient, next_try_at)
SELECT %(id)s, recipient, %(created_at)s FROM unnest(%(recipients)s) AS recipient
"""

# Deliveries that no process has begun to send. A locked one is just being sent, and is skipped.
OVERTAKEN = """
SELECT n.id, n.kind, n.attempt, d.recipient,
       (SELECT count(*) FROM notice_deliveries o WHERE o.notice_id = n.id),
       (SELECT array_agg(e.attempt) FROM notices e
        WHERE e.campaign_id = n.campaign_id AND e.folded_into = n.id)
FROM notices n JOIN notice_deliveries d ON d.notice_id = n.id
WHERE n.campaign_id = %(campaign_id)s AND n.kind = ANY(%(kinds)s)
  AND (n.cycle = %(cycle)s OR %(cycle)s::integer IS NULL) AND d.recipient = ANY(%(recipients)s)
  AND d.sent_at IS NULL AND d.gave_up_at IS NULL AND d.mail_id IS NULL AND d.doubts = 0
ORDER BY n.created_at, n.id FOR UPDATE OF d SKIP LOCKED
"""

# Delete the deliveries that OVERTAKEN has locked. The new notice keeps the time since when each recipient has
# waited, and whether a run has reported that as late. Notices folded into a folded notice move to the new
# one.
FOLD = """
UPDATE notices SET folded_into = %(id)s
WHERE campaign_id = %(campaign_id)s AND (id = ANY(%(ids)s::uuid[]) OR folded_into = ANY(%(ids)s::uuid[]));
WITH gone AS (
    DELETE FROM notice_deliveries d
    USING unnest(%(ids)s::uuid[], %(recipients)s::text[]) AS o (notice_id, recipient), notices n
    WHERE d.notice_id = o.notice_id AND d.recipient = o.recipient AND n.id = o.notice_id
    RETURNING d.recipient, coalesce(d.owed_since, n.created_at) AS since, d.late_told_at)
UPDATE notice_deliveries d SET owed_since = waited.since, late_told_at = waited.told_at
FROM (SELECT recipient, min(since) AS since, max(late_told_at) AS told_at FROM gone GROUP BY 1) waited
WHERE d.notice_id = %(id)s AND d.recipient = waited.recipient
"""

# The notices about a campaign since its last completed upload, one row per kind. The upload's time is by the
# server's clock, the notices' times by ours: both must be earlier.
TROUBLES = """
SELECT n.kind, min(n.created_at), (array_agg(coalesce(n.detail, '') ORDER BY n.created_at DESC))[1],
       coalesce((array_agg(n.attempt ORDER BY n.created_at DESC))[1], 0), array_agg(DISTINCT d.recipient)
FROM notices n JOIN notice_deliveries d ON d.notice_id = n.id
WHERE n.campaign_id = %(campaign_id)s AND n.kind = ANY(%(kinds)s) AND d.gave_up_at IS NULL
  AND n.created_at > coalesce((SELECT max(completed_at) FROM campaign_uploads
                               WHERE campaign_id = %(campaign_id)s), '-infinity')
  AND n.created_at > coalesce((SELECT max(created_at) FROM notices
                               WHERE campaign_id = %(campaign_id)s AND kind = ANY(%(ends)s)), '-infinity')
GROUP BY n.kind ORDER BY min(n.created_at), n.kind
"""

# NULL when no delivery is open.
IS_NOTICE_DUE = """
SELECT bool_or(next_try_at <= %(now)s),
       bool_or(next_try_at > %(now)s::timestamptz + CASE WHEN tries = 0 THEN interval '5 minutes'
                                                         WHEN doubts = 0 THEN interval '65 minutes'
                                                         ELSE interval '365 minutes' END)
FROM notice_deliveries WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL
"""

# Put off before the first try, or for longer than the longest pause between two (an hour; six hours when the
# e-mail may have arrived): by a clock that ran ahead. Due now.
RIGHT_NEXT_TRIES = """
UPDATE notice_deliveries SET next_try_at = %(now)s
WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL
  AND next_try_at > %(now)s::timestamptz + CASE WHEN tries = 0 THEN interval '5 minutes'
                                                WHEN doubts = 0 THEN interval '65 minutes'
                                                ELSE interval '365 minutes' END
"""

IS_NOTICE_LATE = """
SELECT EXISTS (SELECT FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
               WHERE d.channel = 'email' AND d.sent_at IS NULL AND d.gave_up_at IS NULL
                 AND coalesce(d.owed_since, n.created_at) < %(before)s)
"""

# Notices that have waited since before that time and were not reported yet: how many, since when, and why.
TELL_LATE_NOTICES = """
WITH late AS (
    UPDATE notice_deliveries d SET late_told_at = %(now)s
    FROM (SELECT o.notice_id, o.recipient, coalesce(o.owed_since, n.created_at) AS since
          FROM notice_deliveries o JOIN notices n ON n.id = o.notice_id
          WHERE o.channel = 'email' AND o.sent_at IS NULL AND o.gave_up_at IS NULL AND o.late_told_at IS NULL
            AND coalesce(o.owed_since, n.created_at) < %(before)s
          FOR UPDATE OF o SKIP LOCKED) owed
    WHERE d.notice_id = owed.notice_id AND d.recipient = owed.recipient
    RETURNING d.notice_id, owed.since, d.next_try_at, d.last_error)
SELECT count(DISTINCT notice_id), min(since),
       (array_agg(last_error ORDER BY next_try_at DESC) FILTER (WHERE last_error IS NOT NULL))[1]
FROM late
"""

# The next e-mail to send: first one that was begun before, then the oldest. TRUE: it was begun, so its
# content is fixed.
NEXT_MAIL = """
SELECT coalesce(d.mail_id, d.notice_id), d.mail_id IS NOT NULL OR d.doubts > 0 AS is_begun
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.channel = 'email' AND d.sent_at IS NULL AND d.gave_up_at IS NULL AND d.next_try_at <= %(now)s
  AND coalesce(d.mail_id, d.notice_id) <> ALL(%(passed)s::uuid[])
ORDER BY is_begun DESC, n.created_at, 1 LIMIT 1
"""

# A kind and recipient with more than this many open notices, at least one of them due; oldest first. Notices
# that an outage postponed count too: otherwise they would come one by one within the hour. Notices that may
# have arrived do not count: they keep their e-mail.
CROWD = """
SELECT n.kind, d.recipient
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.mail_id IS NULL AND d.doubts = 0 AND d.sent_at IS NULL AND d.gave_up_at IS NULL
  AND n.kind = ANY(%(kinds)s)
GROUP BY n.kind, d.recipient HAVING count(*) > %(more_than)s AND bool_or(d.next_try_at <= %(now)s)
ORDER BY min(n.created_at), n.kind, d.recipient LIMIT 1
"""

# The crowd's notices, each as a line of a table, without those that another process has locked. Notices from
# before 016 do not have their campaign's name; its row does.
CROWD_LINES = """
SELECT n.id, n.campaign_id, coalesce(n.campaign_number, c.campaign_number, ''),
       coalesce(n.campaign_name, c.campaign_name, ''), coalesce(n.attempt, c.a1_retry_count, 0),
       coalesce(n.max_attempts, %(max)s), coalesce(n.detail, ''),
       (SELECT count(*) FROM notices e WHERE e.campaign_id = n.campaign_id AND e.folded_into = n.id),
       c.box_folder_id
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
LEFT JOIN campaign_status c ON c.campaign_id = n.campaign_id
WHERE d.mail_id IS NULL AND d.doubts = 0 AND d.sent_at IS NULL AND d.gave_up_at IS NULL
  AND n.kind = %(kind)s AND d.recipient = %(recipient)s
ORDER BY n.created_at, n.campaign_id, n.id FOR UPDATE OF d SKIP LOCKED
"""

SUPERSEDE = """
UPDATE notice_deliveries SET mail_id = %(id)s, next_try_at = least(next_try_at, %(now)s)
WHERE notice_id = ANY(%(superseded)s::uuid[]) AND recipient = %(recipient)s
"""

# Before an e-mail is sent: it counts as tried, and as perhaps arrived, until its result is recorded. Rows
# that another transaction has locked are skipped.
CLAIM_MAIL = """
UPDATE notice_deliveries d
SET tries = d.tries + 1, doubts = d.doubts + 1,
    next_try_at = %(now)s + greatest((%(pauses)s)[least(d.tries + 1, cardinality(%(pauses)s))],
                                     (%(doubt_pauses)s)[least(d.doubts + 1, cardinality(%(doubt_pauses)s))])
FROM (SELECT notice_id, recipient FROM notice_deliveries
      WHERE coalesce(mail_id, notice_id) = %(id)s AND sent_at IS NULL AND gave_up_at IS NULL
        AND next_try_at <= %(now)s
      FOR UPDATE SKIP LOCKED) due
WHERE d.notice_id = due.notice_id AND d.recipient = due.recipient
RETURNING d.notice_id, d.recipient
"""

READ_NOTICE = """
SELECT kind, campaign_id, subject, body_text, body_html, created_at, cycle FROM notices WHERE id = %(id)s
"""

# Somebody has removed the digest by hand.
FREE_MAIL = """
UPDATE notice_deliveries SET mail_id = NULL, doubts = 0
WHERE mail_id = %(id)s AND sent_at IS NULL AND gave_up_at IS NULL
"""

# The mail server itself has a problem: that counts as a try of all due notices.
POSTPONE_DUE = """
UPDATE notice_deliveries d
SET tries = d.tries + 1, last_error = %(error)s,
    next_try_at = greatest(%(now)s + (%(pauses)s)[least(d.tries + 1, cardinality(%(pauses)s))],
                           %(now)s + interval '1 microsecond')
FROM (SELECT notice_id, recipient FROM notice_deliveries
      WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL AND next_try_at <= %(now)s
      FOR UPDATE SKIP LOCKED) due
WHERE d.notice_id = due.notice_id AND d.recipient = due.recipient
RETURNING d.notice_id
"""

GIVE_UP_DOUBTFUL = """
UPDATE notice_deliveries d
SET gave_up_at = %(now)s,
    last_error = 'may have arrived: sent ' || d.doubts || ' times without a known result'
                 || coalesce('; ' || d.last_error, '')
FROM (SELECT notice_id, recipient FROM notice_deliveries
      WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL AND next_try_at <= %(now)s
        AND doubts >= %(most)s
      FOR UPDATE SKIP LOCKED) due
WHERE d.notice_id = due.notice_id AND d.recipient = due.recipient
RETURNING d.notice_id, d.recipient, d.last_error
"""

MARK_SENT = """
UPDATE notice_deliveries SET sent_at = %(now)s, last_error = NULL
WHERE coalesce(mail_id, notice_id) = %(id)s AND recipient = ANY(%(recipients)s)
  AND sent_at IS NULL AND gave_up_at IS NULL
"""

# How many notices of a digest have no open delivery any more.
DIGEST_DONE = """
SELECT count(*) FROM notice_deliveries d
WHERE d.mail_id = %(id)s
  AND NOT EXISTS (SELECT FROM notice_deliveries o
                  WHERE o.notice_id = d.notice_id AND o.sent_at IS NULL AND o.gave_up_at IS NULL)
"""

# The mail server refused. Notices of a digest that certainly did not arrive, in this try and the earlier
# ones, may be sent alone or in another digest. Old ones are given up, counted from when somebody resent them;
# with give_up_before NULL none is. next_try_at NULL: as the claim has set it. They are never due again in the
# same round.
MARK_REFUSED = """
UPDATE notice_deliveries d
SET last_error = %(error)s, doubts = d.doubts - %(certain)s,
    mail_id = CASE WHEN d.doubts > %(certain)s THEN d.mail_id END,
    next_try_at = greatest(coalesce(%(next_try_at)s, d.next_try_at), %(now)s + interval '1 microsecond'),
    gave_up_at = CASE WHEN greatest(n.created_at, d.owed_since) < %(give_up_before)s THEN %(now)s END
FROM notices n
WHERE n.id = d.notice_id AND coalesce(d.mail_id, d.notice_id) = %(id)s AND d.recipient = ANY(%(recipients)s)
  AND d.sent_at IS NULL AND d.gave_up_at IS NULL
RETURNING d.gave_up_at IS NOT NULL
"""

# A digest without notices.
DROP_DIGEST = """
DELETE FROM notices n
WHERE n.id = %(id)s
  AND NOT EXISTS (SELECT FROM notice_deliveries d WHERE d.notice_id = n.id OR d.mail_id = n.id)
"""


TAKES_PLACE_OF = {
    NoticeKind.RETRY: (NoticeKind.RETRY,),
    NoticeKind.PERMANENT: (NoticeKind.RETRY,),
    NoticeKind.SUCCESS: (NoticeKind.RETRY,),
    NoticeKind.RECOVERED: (NoticeKind.RETRY, NoticeKind.PERMANENT, NoticeKind.ERROR),
}
"""{kind: the kinds that a notice of it replaces}. An error is still worth an e-mail until the campaign is in
A2.
"""


@dataclass(frozen=True, slots=True)
class LateNotices:
    """Notices that have waited for too long and that no run has reported yet. last_error: None: no try."""

    count: int
    oldest_at: datetime
    last_error: str | None


@dataclass(frozen=True, slots=True)
class DueMail:
    """An e-mail that is ours to send, to notice.recipients. count: how many notices it carries."""

    notice: Notice
    count: int
    is_digest: bool


class Outbox:
    """Notices and their deliveries, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def overtaken(
        self, kind: NoticeKind, campaign_id: str, recipients: Sequence[str], *, cycle: int | None
    ) -> tuple[Overtaken, ...]:
        """The campaign's notices whose place one of this kind takes, held until the end of the transaction in
        which it is to be queued. cycle: None: of all cycles.
        """
        kinds = [one.value for one in TAKES_PLACE_OF[kind]]
        values = {"campaign_id": campaign_id, "kinds": kinds, "recipients": list(recipients), "cycle": cycle}
        rows = self._database.rows(OVERTAKEN, values)
        return tuple(_overtaken(list(of_notice)) for _, of_notice in groupby(rows, key=itemgetter(0)))

    def troubles(self, campaign_id: str) -> list[Trouble]:
        """The problems that people had notices about since the campaign's last completed upload."""
        kinds = [NoticeKind.PERMANENT.value, NoticeKind.ERROR.value]
        ends = [NoticeKind.RECOVERED.value, NoticeKind.SUCCESS.value]
        rows = self._database.rows(TROUBLES, {"campaign_id": campaign_id, "kinds": kinds, "ends": ends})
        return [
            Trouble(NoticeKind(kind), since, detail, attempt, tuple(recipients))
            for kind, since, detail, attempt, recipients in rows
        ]

    def queue(self, notice: Notice) -> bool:
        """Put a notice into the outbox, in the transaction of what it reports. It replaces the notices that
        it has overtaken. False: there is already one with its id, and nothing is done.
        """
        if not self._store(notice):
            return False
        values = {"id": notice.id, "recipients": list(notice.recipients), "created_at": notice.created_at}
        self._database.execute(QUEUE_DELIVERIES, values)
        pairs = [(old.notice_id, recipient) for old in notice.overtaken for recipient in old.recipients]
        if pairs:
            ids, recipients = (list(column) for column in zip(*pairs, strict=True))
            values = {
                "id": notice.id,
                "campaign_id": notice.campaign_id,
                "ids": ids,
                "recipients": recipients,
            }
            self._database.execute(FOLD, values)
        return True

    def _store(self, notice: Notice) -> bool:
        values = {name: getattr(notice, name) for name in Notice.__slots__}
        told = ("number", "name", "attempt", "max_attempts", "detail")
        values |= {name: getattr(notice.line, name, None) for name in told}
        return self._database.execute(STORE_NOTICE, values) == 1

    def is_known(self, notice_id: str) -> bool:
        """Whether a notice with this id has been queued."""
        return bool(self._database.rows(READ_NOTICE, {"id": notice_id}))

    def is_due(self, now: datetime) -> bool | None:
        """Whether something is due: the one outbox query of an idle run. None: no delivery is open."""
        is_due, is_put_off_wrongly = self._database.row(IS_NOTICE_DUE, {"now": now})
        if is_put_off_wrongly:
            self._database.execute(RIGHT_NEXT_TRIES, {"now": now})
            return True
        return None if is_due is None else bool(is_due)

    def is_late(self, before: datetime) -> bool:
        """Whether a notice from before that time is undelivered."""
        return bool(self._database.row(IS_NOTICE_LATE, {"before": before})[0])

    def tell_late(self, before: datetime, now: datetime) -> LateNotices | None:
        """The undelivered notices from before that time, each reported once."""
        with self._database.transaction():
            late = self._database.row(TELL_LATE_NOTICES, {"before": before, "now": now})
        return LateNotices(*late) if late[0] else None

    def next_mail(self, now: datetime, passed: Collection[str]) -> tuple[str, bool] | None:
        """The id of the e-mail that goes out next, and whether it was begun before; None when nothing is due.
        passed: ids that are left out.
        """
        rows = self._database.rows(NEXT_MAIL, {"now": now, "passed": list(passed)})
        return rows[0] if rows else None

    def crowd(self, now: datetime, *, more_than: int) -> tuple[NoticeKind, str] | None:
        """A kind of notice and a recipient with more than this many open notices."""
        values = {"now": now, "kinds": list(DIGEST_KINDS), "more_than": more_than}
        rows = self._database.rows(CROWD, values)
        return (NoticeKind(rows[0][0]), rows[0][1]) if rows else None

    def crowd_lines(self, kind: NoticeKind, recipient: str) -> dict[str, NoticeLine]:
        """{id: line} of a recipient's open notices of a kind, locked until the end of the transaction."""
        values = {"kind": kind.value, "recipient": recipient, "max": self._database.max_retries}
        return {row[0]: NoticeLine(*row[1:]) for row in self._database.rows(CROWD_LINES, values)}

    def supersede(self, superseded: Collection[str], digest: Notice, now: datetime) -> None:
        """Let these notices go to the digest's one recipient in it, and not alone; in the transaction of
        `crowd_lines`.
        """
        self._store(digest)
        (recipient,) = digest.recipients
        values = {"id": digest.id, "superseded": list(superseded), "recipient": recipient, "now": now}
        self._database.execute(SUPERSEDE, values)

    @contextmanager
    def mail_lock(self, mail_id: str) -> Iterator[bool]:
        """Hold an e-mail, so that no other process sends it; False when one does. The lock ends with this
        connection at the latest, so a process that is killed leaves the e-mail to the next.
        """
        is_ours = self._database.try_lock(MAIL_LOCK_CLASS, mail_id)
        try:
            yield is_ours
        finally:
            if is_ours and not self._database.is_closed:
                try:
                    self._database.unlock(MAIL_LOCK_CLASS, mail_id)
                except DbError as exc:
                    logger.debug("an unlock failed, the connection's end will do it: %s", exc)

    def claim_mail(
        self,
        mail_id: str,
        now: datetime,
        *,
        pauses: Sequence[timedelta],
        doubt_pauses: Sequence[timedelta],
    ) -> DueMail | None:
        """The due part of an e-mail; from now on it counts as tried, whatever the result. None: nothing is
        due, or its text is gone, and its notices can be sent again.

        pauses, doubt_pauses: until the next try, after one, two, … tries, or tries of unknown end; the longer
        one counts.
        """
        values = {"id": mail_id, "now": now, "pauses": list(pauses), "doubt_pauses": list(doubt_pauses)}
        with self._database.transaction():
            claimed = self._database.rows(CLAIM_MAIL, values)
            if not claimed:
                return None
            found = self._database.rows(READ_NOTICE, values)
            if not found:
                count = self._database.execute(FREE_MAIL, values)
                logger.warning("e-mail %s is not on record; its %d notices go out again", mail_id, count)
                return None
        kind, campaign_id, subject, text, html, created_at, cycle = found[0]
        recipients = tuple(sorted({recipient for _, recipient in claimed}))
        notice = Notice(
            mail_id, NoticeKind(kind), campaign_id, subject, text, html, recipients, created_at, cycle=cycle
        )
        carried = {notice_id for notice_id, _ in claimed}
        return DueMail(notice, len(carried), is_digest=carried != {mail_id})

    def postpone_due(self, now: datetime, error: str, *, pauses: Sequence[timedelta]) -> int:
        """Count all due notices as tried, because the mail server accepts nothing; returns how many."""
        rows = self._database.rows(POSTPONE_DUE, {"now": now, "error": error, "pauses": list(pauses)})
        return len({row[0] for row in rows})

    def give_up_doubtful(self, now: datetime, most: int) -> list[tuple[str, str, str]]:
        """Give up notices that may have arrived this many times; returns (notice, recipient, why) of each."""
        return self._database.rows(GIVE_UP_DOUBTFUL, {"now": now, "most": most})

    def record_sent(self, mail_id: str, recipients: Sequence[str], now: datetime) -> None:
        """Record that the mail server accepted the e-mail for these."""
        self._database.execute(MARK_SENT, {"id": mail_id, "recipients": list(recipients), "now": now})

    def digest_done(self, digest_id: str) -> int:
        """How many notices of a digest have no open delivery any more."""
        return int(self._database.row(DIGEST_DONE, {"id": digest_id})[0])

    def record_refused(
        self,
        mail_id: str,
        recipients: Sequence[str],
        error: str,
        now: datetime,
        *,
        may_have_arrived: bool = False,
        give_up_before: datetime | None = None,
        next_try_at: datetime | None = None,
    ) -> bool:
        """Record that the mail server refused the e-mail for these; returns whether all its notices are given
        up now.

        give_up_before: what is older is not tried again. next_try_at: None: as claimed.
        """
        values = {
            "id": mail_id,
            "recipients": list(recipients),
            "error": error,
            "now": now,
            "certain": int(not may_have_arrived),
            "give_up_before": give_up_before,
            "next_try_at": next_try_at,
        }
        are_given_up = all(row[0] for row in self._database.rows(MARK_REFUSED, values))
        self._database.execute(DROP_DIGEST, values)
        return are_given_up


def _overtaken(rows: Sequence[tuple[Any, ...]]) -> Overtaken:
    """One notice. rows: those of OVERTAKEN, one for each recipient."""
    notice_id, kind, attempt, _, deliveries, earlier = rows[0]
    told = [attempt] if kind == NoticeKind.RETRY else []
    attempts = tuple(sorted({*told, *(earlier or ())} - {None}))
    recipients = tuple(row[3] for row in rows)
    return Overtaken(
        notice_id, NoticeKind(kind), attempts, recipients, is_partial=deliveries > len(recipients)
    )
