"""What the database knows of one campaign, for `explain`: read in one snapshot, by four statements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.base.values import NoticeKind, RetryStatus
from shared.database import Database
from shared.rules.cadence import LastRun

SHOWN = 20
"""Attempts, and e-mails about them, that are read at most: the latest."""
RECENT_EVENTS = 2000
"""So far back a campaign's history is looked through."""

# Nothing that a run does in between makes two halves that do not fit.
ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# One row in any case. The first twelve columns are those of a RetryStatus.
CAMPAIGN = """
SELECT s.campaign_id, coalesce(s.a1_retry_count, 0), s.a1_last_retry_at,
       coalesce(s.a1_permanently_failed, FALSE), s.a1_failure_reason, coalesce(s.campaign_number, ''),
       coalesce(s.campaign_name, ''), s.status, s.a1_max_retries, s.a1_snoozed_until, s.a1_cycle,
       s.a1_auto_resets,
       s.created_at, s.updated_at, s.a2_requested_at, s.lock_doubted_at, s.left_search_at, s.box_folder_id,
       u.started_at, u.completed_at, u.assets, u.bytes,
       a.files, a.bytes, a.first_at, a.last_at, o.files, o.last_at, e.holder, e.taken_at,
       r.planned_at, r.started_at, r.finished_at, r.exit_code
FROM (SELECT %(campaign_id)s::text AS id) asked
LEFT JOIN campaign_status s ON s.campaign_id = asked.id
LEFT JOIN LATERAL (SELECT started_at, completed_at, assets, bytes FROM campaign_uploads
                   WHERE campaign_id = asked.id ORDER BY completed_at DESC LIMIT 1) u ON TRUE
CROSS JOIN LATERAL (SELECT count(*) AS files, coalesce(sum(size_bytes), 0)::bigint AS bytes,
                           min(verified_at) AS first_at, max(verified_at) AS last_at
                    FROM campaign_assets WHERE campaign_id = asked.id
                      AND verified_at > coalesce(u.completed_at, '-infinity')) a
CROSS JOIN LATERAL (SELECT count(*) AS files, max(created_at) AS last_at
                    FROM upload_sessions WHERE campaign_id = asked.id) o
LEFT JOIN campaign_epochs e ON e.campaign_id = asked.id
LEFT JOIN LATERAL (SELECT planned_at, started_at, finished_at, exit_code FROM orchestrator_task_runs
                   WHERE task = 'a1_to_a2' AND started_at <= %(now)s
                   ORDER BY started_at DESC LIMIT 1) r ON TRUE
"""

ERRORS = """
SELECT kind, message, began_at, last_seen_at, nullif(last_notice_at, '-infinity')
FROM campaign_errors WHERE campaign_id = %(campaign_id)s ORDER BY last_seen_at DESC, kind
"""

EVENTS = """
SELECT kind, at, cycle, actor, source, reason, detail
FROM (SELECT * FROM campaign_events WHERE campaign_id = %(campaign_id)s ORDER BY id DESC LIMIT %(limit)s) e
WHERE kind IN ('attempt', 'reset', 'snooze', 'limit', 'status') ORDER BY id
"""

# The latest notices about attempts, the latest of an error and of a success, with what became of each.
MAILS = """
SELECT n.id::text, n.kind, n.created_at, n.cycle, n.attempt, count(d.recipient), count(d.sent_at),
       count(d.gave_up_at), (array_agg(d.last_error ORDER BY d.next_try_at DESC)
                             FILTER (WHERE d.sent_at IS NULL AND d.last_error IS NOT NULL))[1]
FROM (SELECT %(attempts)s::text[] AS kinds, %(limit)s AS most
      UNION ALL SELECT ARRAY[%(error)s], 1 UNION ALL SELECT ARRAY[%(success)s], 1) wanted
CROSS JOIN LATERAL (SELECT id, kind, created_at, cycle, attempt FROM notices
                    WHERE campaign_id = %(campaign_id)s AND kind = ANY(wanted.kinds)
                    ORDER BY created_at DESC LIMIT wanted.most) n
LEFT JOIN notice_deliveries d ON d.notice_id = n.id
GROUP BY n.id, n.kind, n.created_at, n.cycle, n.attempt ORDER BY n.created_at
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """A notice to some recipients: how many have it, and of how many it was given up.

    last_error: why somebody has not got it; None when no try failed.
    """

    id: str
    kind: str
    created_at: datetime
    cycle: int | None
    attempt: int | None
    recipients: int
    sent: int
    given_up: int
    last_error: str | None

    @property
    def waiting(self) -> int:
        return self.recipients - self.sent - self.given_up


@dataclass(frozen=True, slots=True)
class AttemptFact:
    """One attempt as the history has it, and its e-mails. number: as it was counted."""

    number: int
    at: datetime
    reason: str
    mails: tuple[Mail, ...] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did, from where, and why. actor "auto": the product itself."""

    at: datetime
    actor: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class ErrorFact:
    """A failure that is not over. told_at: when its last notice was made; None: none yet."""

    kind: str
    message: str
    began_at: datetime
    last_seen_at: datetime
    told_at: datetime | None


@dataclass(frozen=True, slots=True)
class UploadFact:
    """An upload that reached A2."""

    started_at: datetime
    completed_at: datetime
    assets: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ProgressFact:
    """An upload that has not reached A2: files that are in Box, and large ones that are half there."""

    files: int = 0
    size_bytes: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    open_files: int = 0
    open_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """Everything about one campaign. row: None when no run has seen it.

    attempts: of the row's cycle, the latest. status_at: when the row's status changed last; in_a1_at: when it
    last became A1. holder, taken_at: the run that last began to work on it. last_run: of the uploader, by the
    orchestrator.
    """

    campaign_id: str
    row: RetryStatus | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    a2_requested_at: datetime | None = None
    lock_doubted_at: datetime | None = None
    left_search_at: datetime | None = None
    box_folder_id: str | None = None
    errors: tuple[ErrorFact, ...] = ()
    attempts: tuple[AttemptFact, ...] = ()
    last_reset: Act | None = None
    last_snooze: Act | None = None
    last_limit: Act | None = None
    status_at: datetime | None = None
    in_a1_at: datetime | None = None
    upload: UploadFact | None = None
    progress: ProgressFact = ProgressFact()
    holder: str | None = None
    taken_at: datetime | None = None
    error_mail: Mail | None = None
    success_mail: Mail | None = None
    last_run: LastRun | None = None


def facts_of(database: Database, campaign_id: str, now: datetime, *, status_a1: str = "A1") -> CampaignFacts:
    """What the database knows of a campaign now. database: holds no run. Raises DbError."""
    asked = {"campaign_id": campaign_id}
    kinds = {
        "attempts": [NoticeKind.RETRY.value, NoticeKind.PERMANENT.value],
        "error": NoticeKind.ERROR.value,
        "success": NoticeKind.SUCCESS.value,
    }
    with database.transaction():
        database.execute(ONE_SNAPSHOT)
        found = database.row(CAMPAIGN, {**asked, "now": now})
        errors = database.rows(ERRORS, asked)
        events = database.rows(EVENTS, {**asked, "limit": RECENT_EVENTS})
        mails = [Mail(*row) for row in database.rows(MAILS, {**asked, **kinds, "limit": SHOWN})]
    created_at, updated_at, a2_requested_at, lock_doubted_at, left_search_at, box_folder_id = found[12:18]
    status, upload, progress, last_run = found[:12], found[18:22], found[22:28], found[30:]
    holder, taken_at = found[28:30]
    row = None if status[0] is None else RetryStatus(*status)
    statuses = [(event[1], event[6].get("status")) for event in events if event[0] == "status"]
    return CampaignFacts(
        campaign_id,
        row,
        created_at=created_at,
        updated_at=updated_at,
        a2_requested_at=a2_requested_at,
        lock_doubted_at=lock_doubted_at,
        left_search_at=left_search_at,
        box_folder_id=box_folder_id,
        errors=tuple(ErrorFact(*error) for error in errors),
        attempts=_attempts(events, [one for one in mails if one.kind in kinds["attempts"]], row)
        if row
        else (),
        last_reset=_last(events, "reset"),
        last_snooze=_last(events, "snooze"),
        last_limit=_last(events, "limit"),
        status_at=statuses[-1][0] if statuses else None,
        in_a1_at=next((at for at, became in reversed(statuses) if became == status_a1), None),
        upload=None if upload[1] is None else UploadFact(*upload),
        progress=ProgressFact(*progress),
        holder=holder,
        taken_at=taken_at,
        error_mail=next((mail for mail in mails if mail.kind == kinds["error"]), None),
        success_mail=next((mail for mail in mails if mail.kind == kinds["success"]), None),
        last_run=None if last_run[0] is None else LastRun(*last_run),
    )


def _last(events: Iterable[tuple[Any, ...]], kind: str) -> Act | None:
    found = [event for event in events if event[0] == kind]
    if not found:
        return None
    _kind, at, _cycle, actor, source, reason, _detail = found[-1]
    return Act(at, actor, source, reason)


def _attempts(
    events: Iterable[tuple[Any, ...]], mails: Iterable[Mail], row: RetryStatus
) -> tuple[AttemptFact, ...]:
    """The latest attempts of the row's cycle, each with the e-mails that have its number and were made
    before the next one of that number: a count that was changed by hand brings a number back.
    """
    counted = [event for event in events if event[0] == "attempt" and event[2] == row.cycle][-SHOWN:]
    told = [mail for mail in mails if mail.cycle == row.cycle]
    attempts: list[AttemptFact] = []
    for _kind, at, _cycle, _actor, _source, reason, detail in reversed(counted):
        number = int(detail.get("attempt") or 0)
        mails_of = tuple(mail for mail in told if mail.attempt == number and mail.created_at >= at)
        told = [mail for mail in told if mail not in mails_of]
        attempts.insert(0, AttemptFact(number, at, reason, mails_of))
    return tuple(attempts)
