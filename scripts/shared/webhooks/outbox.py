"""Keeps webhooks in the outbox: which message is due to which target, each try's result, the open incidents.

A message is a row of `notices`, queued in the transaction of what it reports, with a delivery for each
target. Messages of one dedup key go to a target in their order: each one waits until the one before is
sent or given up. Many of a type go as one, which `mail_id` names, as e-mails do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.base.webhooks import CLOSING, OPENING, EventType, WebhookTarget
from shared.database import WEBHOOK_LOCK_CLASS, Database
from shared.notices.wording import one_line
from shared.webhooks.payloads import About, AttemptLine, CrowdLine, Message

KNOWN_TARGETS = "SELECT name, begun_at, off_at IS NOT NULL FROM webhook_targets WHERE name = ANY(%(names)s)"

BEGIN_TARGETS = """
INSERT INTO webhook_targets (name, begun_at) SELECT name, %(now)s FROM unnest(%(names)s) AS name
ON CONFLICT (name) DO NOTHING
"""

STORE = """
INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at, campaign_number,
                     campaign_name, attempt, detail, cycle, dedup_key)
VALUES (%(id)s, %(kind)s, %(campaign_id)s, %(title)s, %(body)s, '', %(created_at)s, %(number)s, %(name)s,
        %(attempt)s, %(reason)s, %(cycle)s, %(dedup_key)s)
ON CONFLICT (id) DO NOTHING
"""

QUEUE = """
INSERT INTO notice_deliveries (notice_id, recipient, channel, next_try_at)
SELECT %(id)s, target, 'webhook', %(created_at)s FROM unnest(%(targets)s) AS target
"""

# The latest attempts of a cycle. The trigger has already written the one of this transaction.
ATTEMPTS = """
SELECT coalesce((detail ->> 'attempt')::integer, 0), at, reason
FROM (SELECT id, at, reason, detail FROM campaign_events
      WHERE campaign_id = %(campaign_id)s AND kind = 'attempt' AND cycle = %(cycle)s
      ORDER BY id DESC LIMIT %(most)s) e
ORDER BY id
"""

# The latest report of a failure that is not over: its cycle, and when.
OPEN_OF = """
SELECT coalesce(n.cycle, 0), n.created_at FROM notices n
WHERE n.{column} = %(value)s AND n.kind = ANY(%(opening)s)
  AND NOT EXISTS (SELECT FROM notices c WHERE c.dedup_key = n.dedup_key AND c.kind = ANY(%(closing)s)
                    AND c.created_at >= n.created_at)
ORDER BY n.created_at DESC LIMIT 1
"""

# The acts of the last days that have no message in the outbox. A message's id comes from its event's id, so
# that this also finds an act whose transaction ended long after the event.
UNTOLD_ACTS = """
SELECT md5('campaign_events/' || e.id)::uuid::text, e.kind, e.at, e.actor, e.source, e.reason, e.detail,
       e.campaign_id, coalesce(c.campaign_number, ''), coalesce(c.campaign_name, ''), coalesce(e.cycle, 1)
FROM (SELECT * FROM campaign_events
      WHERE kind IN ('reset', 'snooze', 'undo') AND at >= %(since)s OFFSET 0) e
LEFT JOIN LATERAL (SELECT campaign_number, campaign_name FROM campaign_status
                   WHERE campaign_id = e.campaign_id OFFSET 0) c ON TRUE
WHERE e.source <> 'upload' AND (e.kind <> 'undo' OR (e.detail ->> 'permanently_failed')::boolean)
  AND NOT EXISTS (SELECT FROM notices n WHERE n.id = md5('campaign_events/' || e.id)::uuid OFFSET 0)
ORDER BY e.id
"""

# Undelivered; and undelivered with its time come. A time that is further away than any pause was written by a
# clock that was ahead.
_OWED = "d.channel = 'webhook' AND d.recipient = %(target)s AND d.sent_at IS NULL AND d.gave_up_at IS NULL"
_DUE = """{owed}
  AND (d.next_try_at <= %(now)s OR d.next_try_at > %(now)s::timestamptz + interval '25 hours'
       OR (d.tries = 0 AND d.next_try_at > %(now)s::timestamptz + interval '65 minutes'))"""


def _filled(statement: str) -> str:
    """The statement with these conditions in it."""
    return statement.replace("{due}", _DUE).replace("{owed}", _OWED)


# When to call this target next; NULL: never.
NEXT_TIME = _filled("""
SELECT min(CASE WHEN d.next_try_at > %(now)s::timestamptz + interval '25 hours' THEN %(now)s
                WHEN t.wait_until > %(now)s::timestamptz + interval '25 hours' THEN d.next_try_at
                ELSE greatest(d.next_try_at, t.wait_until) END)
FROM notice_deliveries d LEFT JOIN webhook_targets t ON t.name = d.recipient
WHERE {owed} AND t.off_at IS NULL
""")

IS_READY = """
SELECT EXISTS (SELECT FROM webhook_targets
               WHERE name = %(target)s AND off_at IS NULL
                 AND (wait_until IS NULL OR wait_until <= %(now)s
                      OR wait_until > %(now)s::timestamptz + interval '25 hours'))
"""

NEXT_MESSAGE = _filled("""
SELECT coalesce(d.mail_id, d.notice_id)::text, n.kind, d.mail_id IS NOT NULL OR d.doubts > 0 AS is_begun
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE {due} AND coalesce(d.mail_id, d.notice_id) <> ALL(%(passed)s::uuid[])
  AND NOT EXISTS (SELECT FROM notices e JOIN notice_deliveries o ON o.notice_id = e.id
                  WHERE e.dedup_key = n.dedup_key AND (e.created_at, e.id) < (n.created_at, n.id)
                    AND o.channel = 'webhook' AND o.recipient = d.recipient
                    AND o.sent_at IS NULL AND o.gave_up_at IS NULL)
ORDER BY is_begun DESC, n.created_at, n.id LIMIT 1
""")

# A type of which more than this many messages wait for the target, or several that the limit has held back.
CROWD = _filled("""
SELECT n.kind, bool_or(d.last_error LIKE %(held)s)
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE {owed} AND d.mail_id IS NULL AND d.doubts = 0 AND n.campaign_id <> '' AND n.kind = ANY(%(kinds)s)
GROUP BY n.kind
HAVING bool_or(d.next_try_at <= %(now)s)
   AND (count(*) > %(more_than)s OR (count(*) > 1 AND bool_or(d.last_error LIKE %(held)s)))
ORDER BY min(n.created_at) LIMIT 1
""")

CROWD_LINES = _filled("""
SELECT n.id::text, n.campaign_id, coalesce(n.campaign_number, ''), coalesce(n.campaign_name, ''),
       coalesce(n.cycle, 1), coalesce(n.attempt, 0), n.dedup_key, coalesce(n.detail, '')
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE {owed} AND d.mail_id IS NULL AND d.doubts = 0 AND n.campaign_id <> '' AND n.kind = %(kind)s
ORDER BY n.created_at, n.campaign_id, n.id FOR UPDATE OF d SKIP LOCKED
""")

GATHER = """
UPDATE notice_deliveries SET mail_id = %(id)s, next_try_at = least(next_try_at, %(now)s)
WHERE notice_id = ANY(%(gathered)s::uuid[]) AND recipient = %(target)s AND channel = 'webhook'
"""

# Before a call. The message counts as tried, and as perhaps arrived, until the result is recorded.
CLAIM = _filled("""
UPDATE notice_deliveries d
SET tries = d.tries + 1, doubts = coalesce(d.doubts, 0) + 1,
    next_try_at = %(now)s + (%(pauses)s)[least(d.tries + 1, cardinality(%(pauses)s))]
FROM notices n
WHERE n.id = d.notice_id AND {owed} AND d.notice_id = ANY(ARRAY(
    SELECT o.notice_id FROM notice_deliveries o
    WHERE (o.notice_id = %(id)s AND o.mail_id IS NULL OR o.mail_id = %(id)s) AND o.recipient = %(target)s
    FOR UPDATE SKIP LOCKED))
RETURNING d.tries, greatest(n.created_at, d.owed_since), d.notice_id::text
""")

READ = "SELECT kind, subject, body_text, dedup_key, created_at FROM notices WHERE id = %(id)s"

# Somebody has removed the common message by hand.
FREE = _filled(
    "UPDATE notice_deliveries d SET mail_id = NULL, doubts = 0 WHERE d.mail_id = %(id)s AND {owed}"
)

SENT = _filled("""
UPDATE notice_deliveries d SET sent_at = %(now)s, last_error = NULL, ticket = %(ticket)s
WHERE d.notice_id = ANY(%(carried)s::uuid[]) AND {owed}
""")

FAILED = _filled("""
UPDATE notice_deliveries d
SET last_error = %(error)s, doubts = d.doubts - %(certain)s, next_try_at = %(next_try_at)s,
    gave_up_at = CASE WHEN %(is_dead)s THEN %(now)s::timestamptz END
WHERE d.notice_id = ANY(%(carried)s::uuid[]) AND {owed}
""")

WAIT = """
UPDATE webhook_targets SET wait_until = %(until)s WHERE name = %(target)s
"""

TURN_OFF = """
UPDATE webhook_targets SET off_at = %(now)s, off_why = %(why)s WHERE name = %(target)s AND off_at IS NULL
"""

TURN_ON = """
UPDATE webhook_targets SET off_at = NULL, off_why = NULL, wait_until = NULL
WHERE name = %(target)s AND (off_at IS NOT NULL OR wait_until IS NOT NULL)
"""

# Messages that a target did not receive in time, because it is turned off.
EXPIRE = _filled("""
UPDATE notice_deliveries d
SET gave_up_at = %(now)s, last_error = coalesce(d.last_error, 'not tried: the target is turned off')
WHERE d.recipient = %(target)s AND d.notice_id = ANY(ARRAY(
    SELECT d.notice_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
    WHERE {owed} AND greatest(n.created_at, d.owed_since) < %(before)s FOR UPDATE OF d SKIP LOCKED))
""")

# A failure that is already over opens no incident.
SKIP_OVER = _filled("""
UPDATE notice_deliveries d SET sent_at = %(now)s, last_error = 'over before it was sent'
WHERE d.recipient = %(target)s AND d.notice_id = ANY(ARRAY(
    SELECT d.notice_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
    WHERE {owed} AND d.mail_id IS NULL AND d.doubts = 0 AND n.kind = ANY(%(opening)s)
      AND EXISTS (SELECT FROM notices c WHERE c.dedup_key = n.dedup_key AND c.kind = ANY(%(closing)s)
                    AND c.created_at >= n.created_at OFFSET 0)
    FOR UPDATE OF d SKIP LOCKED))
""")

# A reminder of a failure that already has an incident opens no second one.
SKIP_REMINDERS = _filled("""
UPDATE notice_deliveries d
SET sent_at = %(now)s, last_error = NULL,
    ticket = (SELECT x.ticket FROM notices n JOIN notices m ON m.dedup_key = n.dedup_key
              JOIN notice_deliveries x ON x.notice_id = m.id
              WHERE n.id = d.notice_id AND m.kind = ANY(%(opening)s) AND x.recipient = %(target)s
                AND x.channel = 'webhook' AND x.ticket IS NOT NULL
              ORDER BY m.created_at DESC LIMIT 1)
WHERE d.recipient = %(target)s AND d.notice_id = ANY(ARRAY(
    SELECT d.notice_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
    WHERE {owed} AND d.mail_id IS NULL AND d.doubts = 0 AND n.kind = ANY(%(opening)s)
      AND (n.body_text::jsonb #>> '{data,is_reminder}')::boolean
      AND EXISTS (SELECT FROM notices m JOIN notice_deliveries x ON x.notice_id = m.id
                  WHERE m.dedup_key = n.dedup_key AND m.kind = ANY(%(opening)s) AND x.recipient = %(target)s
                    AND x.channel = 'webhook' AND x.ticket IS NOT NULL
                    AND NOT EXISTS (SELECT FROM notices c
                                    WHERE c.dedup_key = n.dedup_key AND c.kind = ANY(%(closing)s)
                                      AND c.created_at >= m.created_at) OFFSET 0)
    FOR UPDATE OF d SKIP LOCKED))
""")

# Messages that would close an incident, but the target has none of that key: either none was opened, or one
# for many campaigns. The latest of the messages for that one closes it.
SKIP_CLOSING = _filled("""
UPDATE notice_deliveries d SET sent_at = %(now)s, last_error = NULL
WHERE d.recipient = %(target)s AND d.notice_id = ANY(ARRAY(
    SELECT d.notice_id FROM notice_deliveries d
    WHERE {owed} AND d.notice_id = ANY(ARRAY(
        SELECT c.notice_id FROM (
            SELECT d.notice_id, o.notice_id AS opening, o.mail_id,
                   row_number() OVER (PARTITION BY o.mail_id ORDER BY n.created_at DESC, n.id DESC) AS place
            FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
            LEFT JOIN LATERAL (
                SELECT x.notice_id, x.mail_id FROM notices m JOIN notice_deliveries x ON x.notice_id = m.id
                WHERE m.dedup_key = n.dedup_key AND m.kind = ANY(%(opening)s) AND x.recipient = %(target)s
                  AND x.channel = 'webhook'
                  AND (x.ticket IS NOT NULL OR x.sent_at IS NULL AND x.gave_up_at IS NULL)
                ORDER BY m.created_at DESC LIMIT 1) o ON TRUE
            WHERE {owed} AND d.mail_id IS NULL AND d.doubts = 0 AND n.kind = ANY(%(closing)s)) c
        WHERE c.opening IS NULL OR c.mail_id IS NOT NULL AND c.place > 1))
    FOR UPDATE OF d SKIP LOCKED))
""")

# The latest incident that a key opened, and the common message that opened it, if one did.
TICKET = """
SELECT d.ticket, d.mail_id::text, n.created_at, coalesce(m.dedup_key, n.dedup_key)
FROM notices n JOIN notice_deliveries d ON d.notice_id = n.id LEFT JOIN notices m ON m.id = d.mail_id
WHERE n.dedup_key = %(dedup_key)s AND n.kind = ANY(%(opening)s) AND d.channel = 'webhook'
  AND d.recipient = %(target)s AND d.ticket IS NOT NULL
ORDER BY n.created_at DESC LIMIT 1
"""

IS_CLOSED = """
SELECT EXISTS (SELECT FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
               WHERE d.recipient = %(target)s AND d.ticket = %(ticket)s AND d.channel = 'webhook'
                 AND d.sent_at IS NOT NULL AND n.kind = ANY(%(closing)s) AND n.created_at >= %(since)s)
"""

# Whether a failure in a common message is not over.
HAS_OPEN = """
SELECT EXISTS (SELECT FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
               WHERE d.mail_id = %(id)s AND d.recipient = %(target)s
                 AND NOT EXISTS (SELECT FROM notices c
                                 WHERE c.dedup_key = n.dedup_key AND c.kind = ANY(%(closing)s)
                                   AND c.created_at >= n.created_at))
"""

# When the incidents of the last hour were opened, the oldest first.
OPENED = """
SELECT min(d.sent_at) FROM notice_deliveries d
WHERE d.channel = 'webhook' AND d.recipient = %(target)s AND d.ticket IS NOT NULL
GROUP BY d.ticket HAVING min(d.sent_at) > %(now)s::timestamptz - interval '1 hour' ORDER BY 1
"""

HOLD_BACK = _filled("""
UPDATE notice_deliveries d SET next_try_at = %(until)s, last_error = %(why)s
WHERE d.recipient = %(target)s AND d.notice_id = ANY(ARRAY(
    SELECT d.notice_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
    WHERE {owed} AND d.doubts = 0 AND n.kind = ANY(%(opening)s) FOR UPDATE OF d SKIP LOCKED))
""")

REDELIVER = """
UPDATE notice_deliveries
SET tries = 0, doubts = 0, next_try_at = now(), sent_at = NULL, gave_up_at = NULL, owed_since = now()
WHERE channel = 'webhook' AND (notice_id = %(id)s OR mail_id = %(id)s)
  AND (sent_at IS NOT NULL OR gave_up_at IS NOT NULL)
"""

_OPENING, _CLOSING = [event.value for event in OPENING], [event.value for event in CLOSING]
HELD_BACK = "held back"
"""The stored error of a message begins with this while the limit on new incidents holds it back."""
LOOK_BACK = timedelta(days=7)
"""An act that no run has reported within this time is no longer reported."""


@dataclass(frozen=True, slots=True)
class KnownTarget:
    """A target that a run has seen. begun_at: since when it gets messages. is_off: it answered 410."""

    name: str
    begun_at: datetime
    is_off: bool


@dataclass(frozen=True, slots=True)
class Act:
    """What a person, or the product itself, did to a campaign. message_id: the same each time it is read."""

    message_id: str
    kind: str
    at: datetime
    actor: str
    source: str
    reason: str
    detail: dict[str, Any]
    about: About


@dataclass(frozen=True, slots=True)
class DueMessage:
    """A message that this process sends. tries: with this one. since: when it was queued, or queued again.
    carried: the ids of the messages that it contains; only its own, unless it is a common message.
    """

    id: str
    event: EventType
    title: str
    body: str
    dedup_key: str
    created_at: datetime
    tries: int
    since: datetime
    carried: tuple[str, ...]

    @property
    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Ticket:
    """An incident of a target. mail_id: of the common message that opened it; None: a message of its own did.
    dedup_key: of the message that opened it.
    """

    key: str
    mail_id: str | None
    since: datetime
    dedup_key: str


class WebhookOutbox:
    """Messages and their deliveries, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known_targets(self, names: Sequence[str], now: datetime) -> dict[str, KnownTarget]:
        """What is stored about these targets. A new one gets messages from now on."""
        values = {"names": list(names), "now": now}
        rows = self._database.rows(KNOWN_TARGETS, values)
        if len(rows) < len(names):
            self._database.execute(BEGIN_TARGETS, values)
            rows = self._database.rows(KNOWN_TARGETS, values)
        return {row[0]: KnownTarget(*row) for row in rows}

    def queue(self, message: Message, targets: Sequence[WebhookTarget]) -> bool:
        """Queue a message for those of the targets that want it. Returns whether it was new."""
        wanting = [target.name for target in targets if target.wants(message.event)]
        if not wanting or not self._store(message):
            return False
        values = {"id": message.id, "created_at": message.created_at, "targets": wanting}
        self._database.execute(QUEUE, values)
        return True

    def _store(self, message: Message) -> bool:
        about = message.about
        values = {
            "id": message.id,
            "kind": message.event.value,
            "campaign_id": about.id if about else "",
            "title": message.title,
            "body": message.body,
            "created_at": message.created_at,
            "number": one_line(about.number, 100) if about else None,
            "name": one_line(about.name) if about else None,
            "attempt": about.attempt if about else None,
            "reason": message.reason,
            "cycle": about.cycle if about else None,
            "dedup_key": message.dedup_key,
        }
        return self._database.execute(STORE, values) == 1

    def attempts(self, campaign_id: str, cycle: int, most: int) -> list[AttemptLine]:
        values = {"campaign_id": campaign_id, "cycle": cycle, "most": most}
        return [AttemptLine(*row) for row in self._database.rows(ATTEMPTS, values)]

    def open_of_campaign(self, campaign_id: str) -> tuple[int, datetime] | None:
        """The cycle and time of the latest report of a campaign's failure that is not over; None: all are."""
        return self._open_of("campaign_id", campaign_id)

    def open_since(self, dedup_key: str) -> datetime | None:
        """When the failure of this key was last reported; None when it is over."""
        found = self._open_of("dedup_key", dedup_key)
        return None if found is None else found[1]

    def _open_of(self, column: str, value: str) -> tuple[int, datetime] | None:
        values = {"value": value, "opening": _OPENING, "closing": _CLOSING}
        rows = self._database.rows(OPEN_OF.format(column=column), values)
        return rows[0] if rows else None

    def untold_acts(self, since: datetime) -> list[Act]:
        """The resets, snoozes and undone resets since then that have no message in the outbox."""
        rows = self._database.rows(UNTOLD_ACTS, {"since": since})
        return [
            Act(message_id, kind, at, actor, source, reason, detail, About(*of))
            for message_id, kind, at, actor, source, reason, detail, *of in rows
        ]

    # Delivery to one target

    @contextmanager
    def lock(self, target: str) -> Iterator[bool]:
        """Lock a target, so that only this process calls it. Yields False when another process has the lock.
        The lock ends with this connection at the latest.
        """
        is_ours = self._database.try_lock(WEBHOOK_LOCK_CLASS, target)
        try:
            yield is_ours
        finally:
            if is_ours and not self._database.is_closed:
                self._database.unlock(WEBHOOK_LOCK_CLASS, target)

    def next_time(self, target: str, now: datetime) -> datetime | None:
        """When to call the target next; None when no message waits, or the target is turned off."""
        found: datetime | None = self._database.row(NEXT_TIME, {"target": target, "now": now})[0]
        return found

    def is_ready(self, target: str, now: datetime) -> bool:
        """Whether the target may be called: it is not turned off, and has not asked for a pause."""
        return bool(self._database.row(IS_READY, {"target": target, "now": now})[0])

    def next_message(
        self, target: str, now: datetime, passed: Collection[str]
    ) -> tuple[str, EventType, bool] | None:
        """The id of the message that goes out next, its type, and whether it is begun: a common message, or
        one that a try may have sent.
        """
        values = {"target": target, "now": now, "passed": list(passed)}
        rows = self._database.rows(NEXT_MESSAGE, values)
        return (rows[0][0], EventType(rows[0][1]), rows[0][2]) if rows else None

    def crowd(
        self, target: str, kinds: Sequence[EventType], now: datetime, *, more_than: int
    ) -> tuple[EventType, bool] | None:
        """A type that now goes as one message: more than this many wait, or the limit has held several back.
        And whether the limit has done so.
        """
        values = {
            "target": target, "now": now, "kinds": [kind.value for kind in kinds], "more_than": more_than,
            "held": f"{HELD_BACK}%",
        }  # fmt: skip
        rows = self._database.rows(CROWD, values)
        return (EventType(rows[0][0]), rows[0][1] or False) if rows else None

    def crowd_lines(self, target: str, kind: EventType) -> list[CrowdLine]:
        """All undelivered messages of a type, locked until the end of the transaction."""
        rows = self._database.rows(CROWD_LINES, {"target": target, "kind": kind.value})
        return [CrowdLine(row[0], About(*row[1:6]), row[6], row[7]) for row in rows]

    def gather(self, target: str, common: Message, lines: Sequence[CrowdLine], now: datetime) -> None:
        """Send these only within the common message. Belongs in the transaction of `crowd_lines`."""
        self._store(common)
        values = {
            "id": common.id,
            "gathered": [line.notice_id for line in lines],
            "target": target,
            "now": now,
        }
        self._database.execute(GATHER, values)

    def claim(
        self, target: str, message_id: str, now: datetime, pauses: Sequence[timedelta]
    ) -> DueMessage | None:
        """Count a message as tried, and return it; None when it is no longer due."""
        values = {"target": target, "id": message_id, "now": now, "pauses": list(pauses)}
        with self._database.transaction():
            claimed = self._database.rows(CLAIM, values)
            if not claimed:
                return None
            found = self._database.rows(READ, values)
            if not found:
                self._database.execute(FREE, values)
                return None
        kind, title, body, dedup_key, created_at = found[0]
        tries, since = max(row[0] for row in claimed), min(row[1] for row in claimed)
        carried = tuple(row[2] for row in claimed)
        return DueMessage(
            message_id, EventType(kind), title, body, dedup_key, created_at, tries, since, carried
        )

    def record_sent(self, target: str, due: DueMessage, ticket: str | None, now: datetime) -> None:
        values = {"target": target, "carried": list(due.carried), "ticket": ticket, "now": now}
        self._database.execute(SENT, values)

    def record_failed(
        self,
        target: str,
        due: DueMessage,
        error: str,
        now: datetime,
        *,
        next_try_at: datetime,
        is_dead: bool,
        may_have_arrived: bool,
    ) -> None:
        values = {
            "target": target, "carried": list(due.carried), "error": error, "now": now,
            "next_try_at": next_try_at, "is_dead": is_dead, "certain": int(not may_have_arrived),
        }  # fmt: skip
        self._database.execute(FAILED, values)

    def wait(self, target: str, until: datetime) -> None:
        """Send nothing to the target until then, as it asked."""
        self._database.execute(WAIT, {"target": target, "until": until})

    def turn_off(self, target: str, why: str, now: datetime) -> bool:
        """Send the target nothing until `turn_on`. Returns whether it was on."""
        return self._database.execute(TURN_OFF, {"target": target, "why": why, "now": now}) == 1

    def turn_on(self, target: str) -> bool:
        """Send the target messages again. Returns whether it was off, or had asked for a pause."""
        return self._database.execute(TURN_ON, {"target": target}) == 1

    def expire(self, target: str, before: datetime, now: datetime) -> int:
        """Give up the messages that were queued before then. Returns how many."""
        return self._database.execute(EXPIRE, {"target": target, "before": before, "now": now})

    def redeliver(self, message_id: str) -> int:
        """Queue a message again that was sent or given up, under its id. Returns for how many targets."""
        return self._database.execute(REDELIVER, {"id": message_id})

    # Incidents

    def skip_needless(self, target: str, now: datetime) -> None:
        """Skip messages whose incident is over, is already open, or was never opened."""
        values = {"target": target, "now": now, "opening": _OPENING, "closing": _CLOSING}
        self._database.execute(SKIP_OVER, values)
        self._database.execute(SKIP_REMINDERS, values)
        self._database.execute(SKIP_CLOSING, values)

    def ticket(self, target: str, dedup_key: str) -> Ticket | None:
        """The latest incident that this key opened."""
        values = {"target": target, "dedup_key": dedup_key, "opening": _OPENING}
        rows = self._database.rows(TICKET, values)
        return Ticket(*rows[0]) if rows else None

    def is_closed(self, target: str, ticket: Ticket) -> bool:
        """Whether the target has received a message that closed the incident."""
        values = {"target": target, "ticket": ticket.key, "closing": _CLOSING, "since": ticket.since}
        return bool(self._database.row(IS_CLOSED, values)[0])

    def has_open(self, target: str, mail_id: str) -> bool:
        """Whether a campaign of a common incident still fails."""
        values = {"target": target, "id": mail_id, "closing": _CLOSING}
        return bool(self._database.row(HAS_OPEN, values)[0])

    def opened_within_hour(self, target: str, now: datetime) -> list[datetime]:
        """When the incidents of the last hour were opened, the oldest first."""
        return [row[0] for row in self._database.rows(OPENED, {"target": target, "now": now})]

    def hold_back(self, target: str, until: datetime, why: str) -> None:
        """Let messages that would open an incident wait until then."""
        values = {"target": target, "until": until, "why": f"{HELD_BACK}: {why}", "opening": _OPENING}
        self._database.execute(HOLD_BACK, values)
