"""What people do on the page: reset, snooze, wake, limit, resend, drain; and the undo.

Each act is one transaction, and the database keeps it under the request's id: the same request sent again
does nothing and gets the same answer. An act skips a campaign that has changed since the page was drawn, that
another transaction has locked, or whose state does not allow it; the answer gives the reason for each.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from shared.base.errors import ConfigError
from shared.base.text import replace_unstorable
from shared.base.values import GONE
from shared.database import Database
from shared.page.filters import CAMPAIGNS, UNREAD, Filter
from shared.report.states import retry_status
from shared.rules.retry import RetryPolicy
from shared.rules.snooze import snooze_end

SOURCE = "page"
MOST_AT_ONCE = 10_000
"""An act changes at most this many; the answer counts the rest as skipped."""
MOST_ATTEMPTS = 1000
MOST_REASON = 500

CHANGED = "changed since the page was drawn"
LOCKED = "locked by another transaction: try again"
TOO_MANY = f"not among the first {MOST_AT_ONCE:,}: do it again for the rest"
NOT_READ = "no run has been able to read it yet"
UNKNOWN = "unknown campaign"
UNTOUCHED = "nothing to change"
ENDED = "it has ended, or was asked before"


class RefusedError(Exception):
    """The act cannot be done as asked; nothing was changed. Its text is a sentence for people."""


class Act(StrEnum):
    """What a person can do."""

    RESET = "reset"
    SNOOZE = "snooze"
    WAKE = "wake"
    LIMIT = "limit"
    RESEND = "resend"
    DRAIN = "drain"


CAN_BE_UNDONE = frozenset({Act.RESET, Act.SNOOZE, Act.WAKE, Act.LIMIT})

POSSIBLE: Mapping[Act, str] = MappingProxyType(
    {
        Act.RESET: "(c.a1_permanently_failed OR c.a1_retry_count > 0) IS TRUE",
        Act.SNOOZE: "(c.a1_permanently_failed OR c.status = %(status_a1)s OR c.status IS NULL) IS TRUE",
        Act.WAKE: "(c.a1_snoozed_until > %(now)s AND c.a1_snoozed_until > now()) IS TRUE",
        Act.LIMIT: "c.status IS DISTINCT FROM %(gone)s",
    }
)
"""{act: whether a row c of campaign_status is in a state for it}; `Acts.possible` says the same."""

_IMPOSSIBLE: Mapping[Act, str] = MappingProxyType(
    {
        Act.RESET: "not permanently failed, and no attempt is counted",
        Act.SNOOZE: "not in A1",
        Act.WAKE: "not snoozed",
        Act.LIMIT: "no longer in the DAM",
    }
)

_HAS_LIMIT = "c.a1_max_retries IS NOT DISTINCT FROM nullif(%(value)s::integer, 0)"

_OF_FILTER = """
{unread}
SELECT s.campaign_id FROM ({campaigns}) s WHERE {condition}
ORDER BY s.updated_at DESC NULLS LAST, s.campaign_id
"""

# A second copy of the request has the same id: it waits here until the first one has ended.
_BEGIN = """
INSERT INTO page_acts (id, person, peer, act, reason, filter, value, drawn_at, asked)
VALUES (%(id)s, %(person)s, %(peer)s, %(act)s, %(reason)s, %(filter)s::jsonb, %(value)s, %(drawn_at)s,
        %(asked)s)
ON CONFLICT (id) DO NOTHING
"""

_END = "UPDATE page_acts SET done = %(done)s, skipped = %(skipped)s::jsonb WHERE id = %(id)s"

_NAME_ACT = "SELECT set_config('a1_to_a2.act', %(id)s, TRUE)"

# Lock the campaigns that can be changed, keep their present state, and give the reason for each other one. A
# time in the future was written by a clock that ran ahead: it does not count as a change.
_HOLD = """
WITH asked AS (
    SELECT DISTINCT campaign_id FROM unnest(%(ids)s::text[]) AS campaign_id
), held AS (
    SELECT c.campaign_id, c.a1_retry_count, c.a1_last_retry_at, c.a1_permanently_failed, c.a1_failure_reason,
           c.a1_max_retries, c.a1_snoozed_until, c.a1_cycle, c.a1_auto_resets,
           {possible} AS is_possible, {moot} AS is_moot,
           (c.updated_at > %(drawn_at)s AND c.updated_at <= clock_timestamp()
            OR c.a1_last_retry_at > %(drawn_at)s AND c.a1_last_retry_at <= clock_timestamp()) IS TRUE
               AS has_changed
    FROM campaign_status c WHERE c.campaign_id = ANY (%(ids)s::text[])
    FOR UPDATE SKIP LOCKED
), judged AS MATERIALIZED (
    SELECT asked.campaign_id AS asked_id,
           CASE WHEN held.campaign_id IS NOT NULL
                    THEN CASE WHEN NOT held.is_possible THEN %(impossible)s
                              WHEN held.has_changed THEN %(changed)s
                              WHEN held.is_moot THEN %(untouched)s END
                WHEN EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = asked.campaign_id)
                    THEN %(locked)s
                WHEN EXISTS (SELECT FROM campaign_errors e WHERE e.campaign_id = asked.campaign_id)
                    THEN %(unread)s
                ELSE %(unknown)s END AS why_not,
           held.*
    FROM asked LEFT JOIN held ON held.campaign_id = asked.campaign_id
), kept AS (
    INSERT INTO page_act_campaigns (act_id, campaign_id, a1_retry_count, a1_last_retry_at,
        a1_permanently_failed, a1_failure_reason, a1_max_retries, a1_snoozed_until, a1_cycle, a1_auto_resets)
    SELECT %(id)s, asked_id, a1_retry_count, a1_last_retry_at, a1_permanently_failed, a1_failure_reason,
           a1_max_retries, a1_snoozed_until, a1_cycle, a1_auto_resets
    FROM judged WHERE why_not IS NULL
)
SELECT asked_id, why_not FROM judged ORDER BY asked_id
"""

# Restore each campaign that nobody and no run has changed since. After a reset, a run that has only looked at
# the campaign counts too: that run continues with the values it read.
_UNDO = """
WITH kept AS (
    SELECT k.*, a.at AS acted_at,
           a.act = 'reset' OR a.act = 'snooze' AND coalesce(k.a1_permanently_failed, FALSE) AS is_reset
    FROM page_act_campaigns k JOIN page_acts a ON a.id = k.act_id WHERE k.act_id = %(id)s
), held AS (
    SELECT c.campaign_id, c.updated_at, coalesce(c.a1_retry_count, 0) AS a1_retry_count,
           coalesce(c.a1_permanently_failed, FALSE) AS a1_permanently_failed,
           coalesce(c.a1_cycle, 1) AS a1_cycle
    FROM campaign_status c WHERE c.campaign_id IN (SELECT campaign_id FROM kept)
    FOR UPDATE SKIP LOCKED
), judged AS MATERIALIZED (
    SELECT kept.*,
           CASE WHEN held.campaign_id IS NULL
                    THEN CASE WHEN EXISTS (SELECT FROM campaign_status c
                                           WHERE c.campaign_id = kept.campaign_id)
                              THEN %(locked)s ELSE %(unknown)s END
                WHEN held.updated_at IS DISTINCT FROM kept.acted_at
                     OR kept.is_reset AND (held.a1_retry_count > 0 OR held.a1_permanently_failed
                                           OR held.a1_cycle <> coalesce(kept.a1_cycle, 1) + 1)
                    THEN %(touched)s
                WHEN kept.is_reset AND (
                     EXISTS (SELECT FROM campaign_epochs e
                             WHERE e.campaign_id = kept.campaign_id AND e.taken_at >= kept.acted_at)
                     OR EXISTS (SELECT FROM campaign_errors e
                                WHERE e.campaign_id = kept.campaign_id AND e.last_seen_at >= kept.acted_at))
                    THEN %(tried)s END AS why_not
    FROM kept LEFT JOIN held ON held.campaign_id = kept.campaign_id
), given_back AS (
    UPDATE campaign_status c
    SET a1_retry_count = j.a1_retry_count, a1_last_retry_at = j.a1_last_retry_at,
        a1_permanently_failed = j.a1_permanently_failed, a1_failure_reason = j.a1_failure_reason,
        a1_max_retries = j.a1_max_retries, a1_snoozed_until = j.a1_snoozed_until, a1_cycle = j.a1_cycle,
        a1_auto_resets = j.a1_auto_resets, updated_at = now()
    FROM judged j WHERE j.why_not IS NULL AND c.campaign_id = j.campaign_id
)
SELECT why_not, count(*)::integer FROM judged GROUP BY why_not
"""

_UNDO_AS = "SELECT set_config('a1_to_a2.undo', %(id)s, TRUE)"

_UNDONE = """
UPDATE page_acts
SET undone_at = now(), undone_by = %(person)s, undone_from = %(peer)s, undo_reason = %(reason)s,
    undo_done = %(done)s, undo_skipped = %(skipped)s::jsonb
WHERE id = %(id)s
"""

_OUTCOME = """
SELECT a.id::text, a.act, a.at, a.person, a.peer, a.reason, a.filter, a.value, a.drawn_at, a.done, a.skipped,
       a.undone_at IS NULL AND EXISTS (SELECT FROM page_act_campaigns k WHERE k.act_id = a.id), a.undone_at,
       coalesce(a.undone_by, ''), coalesce(a.undo_reason, ''), coalesce(a.undo_done, 0),
       coalesce(a.undo_skipped, '{}'), a.asked
FROM page_acts a WHERE a.id = %(id)s
"""

# Due again from now on. A notice that may have arrived keeps its e-mail, and so its Message-ID.
_RESEND = """
WITH asked AS MATERIALIZED (
    SELECT d.notice_id, d.recipient FROM notice_deliveries d
    WHERE {which} ORDER BY d.notice_id, d.recipient LIMIT %(most)s
), held AS (
    SELECT d.* FROM notice_deliveries d
    WHERE (d.notice_id, d.recipient) IN (SELECT notice_id, recipient FROM asked)
    FOR UPDATE SKIP LOCKED
), judged AS MATERIALIZED (
    SELECT asked.*, CASE WHEN h.notice_id IS NULL THEN %(locked)s
                         WHEN h.sent_at IS NOT NULL THEN 'already delivered'
                         WHEN h.gave_up_at > %(drawn_at)s AND h.gave_up_at <= clock_timestamp()
                             THEN %(changed)s
                         WHEN h.gave_up_at IS NULL AND h.tries = 0 AND h.next_try_at <= now()
                             THEN 'not tried yet: the next run sends it' END AS why_not
    FROM asked LEFT JOIN held h ON h.notice_id = asked.notice_id AND h.recipient = asked.recipient
), owed AS (
    UPDATE notice_deliveries d
    SET tries = 0, doubts = least(d.doubts, 1), next_try_at = now(), gave_up_at = NULL,
        owed_since = CASE WHEN d.gave_up_at IS NULL THEN d.owed_since ELSE now() END,
        late_told_at = CASE WHEN d.gave_up_at IS NULL THEN d.late_told_at END
    FROM judged j WHERE j.why_not IS NULL AND d.notice_id = j.notice_id AND d.recipient = j.recipient
)
SELECT why_not, count(*)::integer FROM judged GROUP BY why_not
"""

_GIVEN_UP = "d.channel = 'email' AND d.gave_up_at IS NOT NULL AND d.sent_at IS NULL"
# For a digest: the deliveries that it contains.
_OF_NOTICE = (
    "(d.notice_id = %(notice)s OR d.mail_id = %(notice)s) AND coalesce(d.recipient = %(recipient)s, TRUE)"
)

_NOTICE = "SELECT folded_into IS NOT NULL FROM notices WHERE id = %(notice)s"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. request_id: made when the page was drawn. drawn_at: when that was, by the database's
    clock. peer: the address that the request came from.
    """

    request_id: UUID
    drawn_at: datetime
    person: str
    peer: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an act did. done: how many it changed. skipped: {why: how many}. value: the end of a
    snooze (ISO), a limit, or "". filter: of an act on a filter; {"chosen": how many} for selected ones;
    {"notice": id, "recipient": …} or {"notices": "given up"} for a resend; {"worker": name} for a drain.

    undone: how many the undo restored; left_alone: {why: how many it did not}.
    """

    act_id: str
    act: Act
    at: datetime
    person: str
    peer: str
    reason: str
    filter: Mapping[str, str]
    value: str
    drawn_at: datetime
    done: int
    skipped: Mapping[str, int]
    can_undo: bool
    undone_at: datetime | None = None
    undone_by: str = ""
    undo_reason: str = ""
    undone: int = 0
    left_alone: Mapping[str, int] = field(default_factory=dict)
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts, given a `Database` (raises DbError). now: decides which campaigns are still snoozed, and how
    far ahead a snooze may end. zone: of a time without one; None: such a time is refused.
    """

    database: Database
    policy: RetryPolicy
    status_a1: str
    zone: ZoneInfo | None
    now: datetime

    def possible(self, row: Mapping[str, Any]) -> tuple[Act, ...]:
        """The acts that are possible for a campaign in this state. row: of `Campaigns`, or of
        status_all.sql.
        """
        if row["a1_cycle"] is None:  # no run has been able to read it yet
            return ()
        status = retry_status(row)
        can_be = {
            Act.RESET: status.permanently_failed or status.retry_count > 0,
            Act.SNOOZE: status.permanently_failed or status.status in (None, self.status_a1),
            Act.WAKE: status.running_snooze(self.now) is not None,
            Act.LIMIT: status.status != GONE,
        }
        return tuple(act for act, is_possible in can_be.items() if is_possible)

    def do(
        self,
        act: Act,
        targets: Sequence[str] | Filter,
        asked: Asked,
        *,
        until: str | None = None,
        limit: int | None = None,
    ) -> Outcome:
        """Reset, snooze, wake or limit the campaigns of these ids, or all that match a filter now.

        until: the end of a snooze, as a person wrote it. limit: attempts of a cycle; 0: the same as all.
        Raises RefusedError.
        """
        value = self._value(act, until, limit)
        chosen = targets.query() if isinstance(targets, Filter) else {"chosen": str(len(set(targets)))}
        what = chosen if isinstance(targets, Filter) else sorted(set(targets))
        request = _Request(act, _clean(asked), chosen, value, _digest([act, value, what]))
        return self._once(request, lambda: self._change(request, targets))

    def resend(self, notice_id: UUID | None, asked: Asked, *, recipient: str | None = None) -> Outcome:
        """Send a notice again to those who did not receive it: to all of them, or to one. notice_id None:
        every delivery that was given up. Raises RefusedError.
        """
        which = {"notices": "given up"} if notice_id is None else {"notice": str(notice_id)}
        which |= {} if recipient is None else {"recipient": recipient}
        request = _Request(Act.RESEND, _clean(asked), which, "", _digest([Act.RESEND, which]))
        return self._once(request, lambda: self._send(request, notice_id, recipient))

    def drain(self, worker: str, asked: Asked) -> Outcome:
        """Ask a worker to finish the files in hand and to stop. Raises RefusedError."""
        which = {"worker": replace_unstorable(worker)}
        request = _Request(Act.DRAIN, _clean(asked), which, "", _digest([Act.DRAIN, which]))
        return self._once(request, lambda: self._drain(request))

    def outcome(self, act_id: str) -> Outcome | None:
        """What an act did; None when no act has this id."""
        try:
            values = {"id": str(UUID(act_id))}
        except ValueError:
            return None
        rows = self.database.rows(_OUTCOME, values)
        return _outcome(rows[0]) if rows else None

    def undo(self, act_id: str, asked: Asked) -> Outcome:
        """Undo what an act changed, except where somebody or a run has changed it since. A second
        time does nothing. Raises RefusedError.
        """
        asked = _clean(asked)
        with self.database.transaction():
            found = self.outcome(act_id)
            if found is None:
                raise RefusedError("this act is not on record")
            values = {"id": found.act_id, "person": asked.person, "peer": asked.peer, "reason": asked.reason}
            self.database.rows("SELECT FROM page_acts WHERE id = %(id)s FOR UPDATE", values)
            found = self._kept(found.act_id)
            if found.undone_at is not None:
                return replace(found, is_repeated=True)
            if not found.can_undo:
                raise RefusedError("this act cannot be undone: it changed nothing, or it was too long ago")
            self.database.act_as(asked.person, SOURCE, asked.reason)
            self.database.rows(_UNDO_AS, values)
            told = {"touched": "changed since", "tried": "a run has looked at it since"}
            rows = self.database.rows(_UNDO, {**values, **told, "locked": LOCKED, "unknown": UNKNOWN})
            done, skipped = _parted(dict(rows))
            self.database.execute(_UNDONE, {**values, "done": done, "skipped": json.dumps(skipped)})
            return self._kept(found.act_id)

    # One request, once

    def _once(self, request: _Request, work: Callable[[], Counter[str | None]]) -> Outcome:
        """Do the work, unless the request has been answered before. work: returns {None: how many it changed,
        why: how many it skipped}.
        """
        with self.database.transaction():
            is_new = self.database.execute(_BEGIN, request.values) == 1
            if is_new:
                done, skipped = _parted(work())
                values = {**request.values, "done": done, "skipped": json.dumps(skipped)}
                self.database.execute(_END, values)
            else:
                request.ensure_same(self.database.row(_OUTCOME, request.values))
            return replace(self._kept(request.values["id"]), is_repeated=not is_new)

    def _kept(self, act_id: object) -> Outcome:
        return _outcome(self.database.row(_OUTCOME, {"id": act_id}))

    # What is done

    def _value(self, act: Act, until: str | None, limit: int | None) -> str:
        """What a snooze or a limit sets, as page_acts keeps it."""
        if act is Act.SNOOZE:
            try:
                return snooze_end(until or "", self.zone, self.now).isoformat()
            except ConfigError as exc:
                raise RefusedError(str(exc).removeprefix("--until: ")) from exc
        if act is Act.LIMIT:
            if limit is None or not 0 <= limit <= MOST_ATTEMPTS:
                raise RefusedError(
                    f"a limit is a number from 1 to {MOST_ATTEMPTS}, or 0 for the limit of all campaigns"
                )
            return str(limit)
        if act in (Act.RESEND, Act.DRAIN):
            raise RefusedError(f"{act.value} changes a notice or a worker, not a campaign")
        return ""

    def _change(self, request: _Request, targets: Sequence[str] | Filter) -> Counter[str | None]:
        if isinstance(targets, Filter):
            sql = _OF_FILTER.format(unread=UNREAD, campaigns=CAMPAIGNS, condition=targets.sql())
            values = targets.values(self.now, self.policy, self.status_a1)
            ids = [row[0] for row in self.database.rows(sql, values)]
        else:
            ids = [replace_unstorable(one) for one in dict.fromkeys(targets)]
        counted: Counter[str | None] = Counter({TOO_MANY: max(0, len(ids) - MOST_AT_ONCE)})
        held = self._hold(request, ids[:MOST_AT_ONCE])
        counted.update(why for _, why in held if why is not None)
        free = [campaign_id for campaign_id, why in held if why is None]
        if free:
            counted[None] = self._run(request, free)
            counted[UNTOUCHED] = len(free) - counted[None]
        return counted

    def _hold(self, request: _Request, ids: Sequence[str]) -> list[tuple[str, str | None]]:
        """(id, why it is skipped, or None) of each; those with None are locked until the act is done."""
        values = {
            **request.values, "ids": list(ids), "now": self.now, "status_a1": self.status_a1, "gone": GONE,
            "changed": CHANGED, "impossible": _IMPOSSIBLE[request.act], "locked": LOCKED, "unread": NOT_READ,
            "unknown": UNKNOWN, "untouched": UNTOUCHED,
        }  # fmt: skip
        moot = _HAS_LIMIT if request.act is Act.LIMIT else "FALSE"
        rows = self.database.rows(_HOLD.format(possible=POSSIBLE[request.act], moot=moot), values)
        return [(campaign_id, why) for campaign_id, why in rows]

    def _run(self, request: _Request, ids: Sequence[str]) -> int:
        """Run the statement that the tools run; returns how many campaigns it changed."""
        asked = request.asked
        self.database.rows(_NAME_ACT, request.values)
        who = {"who": asked.person, "source": SOURCE, "reason": asked.reason}
        what = {"until": request.value, "max_retries": request.value}
        self.database.act_as(asked.person, SOURCE, asked.reason)
        _, rows = self.database.run_query(request.act.value, {"ids": list(ids), **who, **what})
        return len(rows)

    def _send(self, request: _Request, notice_id: UUID | None, recipient: str | None) -> Counter[str | None]:
        asked, name = request.asked, None if notice_id is None else str(notice_id)
        self.database.rows(_NAME_ACT, request.values)
        self.database.act_as(asked.person, SOURCE, asked.reason)
        values = {
            **request.values, "notice": name, "recipient": recipient, "most": MOST_AT_ONCE,
            "changed": CHANGED, "locked": LOCKED,
        }  # fmt: skip
        which = _GIVEN_UP if notice_id is None else _OF_NOTICE
        counted: Counter[str | None] = Counter(dict(self.database.rows(_RESEND.format(which=which), values)))
        if not counted and notice_id is not None:
            found = self.database.rows(_NOTICE, values)
            why = "a later notice took its place" if found and found[0][0] else "it has no recipients"
            counted[why if found else "unknown notice"] = 1
        return counted

    def _drain(self, request: _Request) -> Counter[str | None]:
        values = {"name": request.filter["worker"], "who": request.asked.person}
        _, rows = self.database.run_query("drain", values)
        return Counter({None: len(rows)} if rows else {ENDED: 1})


@dataclass(frozen=True, slots=True)
class _Request:
    """The request, as page_acts keeps it. digest: of all that must be equal when the request comes again."""

    act: Act
    asked: Asked
    filter: Mapping[str, str]
    value: str
    digest: str

    @property
    def values(self) -> dict[str, object]:
        return {
            "id": str(self.asked.request_id),
            "person": self.asked.person,
            "peer": self.asked.peer,
            "act": self.act.value,
            "reason": self.asked.reason,
            "filter": json.dumps(dict(self.filter)),
            "value": self.value,
            "drawn_at": self.asked.drawn_at,
            "asked": self.digest,
        }

    def ensure_same(self, kept: tuple[Any, ...]) -> None:
        """Raise RefusedError when this request's id was used for another request. kept: a row of _OUTCOME."""
        if (kept[1], kept[3], kept[-1]) != (self.act.value, self.asked.person, self.digest):
            raise RefusedError(
                "nothing was changed: you have already used this page for something else; reload it"
            )


def _outcome(row: tuple[Any, ...]) -> Outcome:
    """An act from a row of _OUTCOME."""
    act_id, act, at, person, peer, reason, chosen, value, drawn_at, done, skipped, has_kept = row[:12]
    return Outcome(
        act_id, Act(act), at, person, peer, reason, chosen, value, drawn_at, done, skipped,
        has_kept and done > 0 and act in CAN_BE_UNDONE, *row[12:17],
    )  # fmt: skip


def _parted(counted: Mapping[str | None, int]) -> tuple[int, dict[str, int]]:
    """How many were changed, and {why: how many were not}."""
    skipped = {why: count for why, count in counted.items() if why is not None and count}
    return counted.get(None, 0), skipped


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _clean(asked: Asked) -> Asked:
    return replace(
        asked,
        person=replace_unstorable(asked.person),
        peer=replace_unstorable(asked.peer),
        reason=replace_unstorable(asked.reason)[:MOST_REASON],
    )
