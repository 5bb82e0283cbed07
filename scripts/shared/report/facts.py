"""Reads what the database knows about one campaign, for `explain`: in one snapshot, by six statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from shared.base.values import NoticeKind, RetryStatus
from shared.database import Database
from shared.report.events import Event, without_undone
from shared.report.workers import Holder, holders_of, workers_of
from shared.rules.cadence import LastRun

SHOWN = 20
"""The most attempts, and e-mails about them, that are read: the latest."""
ATTEMPT_MAILS = [NoticeKind.RETRY.value, NoticeKind.PERMANENT.value]
RECENT_EVENTS = 2000
"""The most events of a campaign that are read: the latest."""

# All statements see the same state, whatever a run does in between.
ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# Always exactly one row. The first twelve columns are those of a RetryStatus.
CAMPAIGN = """
SELECT s.campaign_id, coalesce(s.a1_retry_count, 0), s.a1_last_retry_at,
       coalesce(s.a1_permanently_failed, FALSE), s.a1_failure_reason, coalesce(s.campaign_number, ''),
       coalesce(s.campaign_name, ''), s.status, s.a1_max_retries, s.a1_snoozed_until,
       coalesce(s.a1_cycle, 1), coalesce(s.a1_auto_resets, 0),
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
SELECT at, kind, cycle, actor, source, reason, detail
FROM (SELECT * FROM campaign_events WHERE campaign_id = %(campaign_id)s ORDER BY id DESC LIMIT %(limit)s) e
WHERE kind IN ('attempt', 'reset', 'snooze', 'limit', 'status', 'undo') ORDER BY id
"""

# The latest notices about attempts, the latest of an error and of a success, with what became of each.
MAILS = """
SELECT n.id::text, n.kind, n.created_at, n.cycle, n.attempt, count(d.recipient), count(d.sent_at),
       count(d.gave_up_at), (array_agg(d.last_error ORDER BY d.next_try_at DESC)
                             FILTER (WHERE d.sent_at IS NULL AND d.last_error IS NOT NULL))[1],
       n.folded_into::text
FROM (SELECT %(attempts)s::text[] AS kinds, %(limit)s AS most
      UNION ALL SELECT ARRAY[%(error)s], 1 UNION ALL SELECT ARRAY[%(success)s], 1) wanted
CROSS JOIN LATERAL (SELECT id, kind, created_at, cycle, attempt, folded_into FROM notices
                    WHERE campaign_id = %(campaign_id)s AND kind = ANY(wanted.kinds)
                    ORDER BY created_at DESC LIMIT wanted.most) n
LEFT JOIN notice_deliveries d ON d.notice_id = n.id
GROUP BY n.id, n.kind, n.created_at, n.cycle, n.attempt, n.folded_into ORDER BY n.created_at
"""


# What each webhook's target knows of the cycle.
WEBHOOKS = """
SELECT d.recipient, max(d.ticket), count(d.sent_at), count(d.gave_up_at), count(*)
FROM notices n JOIN notice_deliveries d ON d.notice_id = n.id
WHERE n.campaign_id = %(campaign_id)s AND d.channel = 'webhook'
  AND n.cycle = (SELECT coalesce(a1_cycle, 1) FROM campaign_status WHERE campaign_id = %(campaign_id)s)
GROUP BY d.recipient ORDER BY d.recipient
"""


@dataclass(frozen=True, slots=True)
class WebhookFact:
    """What a webhook's target got about the cycle. ticket: the incident that it opened; None: it opens none,
    or has not so far.
    """

    target: str
    ticket: str | None
    sent: int
    given_up: int
    messages: int

    @property
    def state(self) -> str:
        """What became of its messages, in words."""
        if self.given_up:
            return "given up"
        return "delivered" if self.sent == self.messages else "waiting"

    def __str__(self) -> str:
        return f"{self.target}: {self.ticket or self.state}"


@dataclass(frozen=True, slots=True)
class Mail:
    """A notice to some recipients: how many received it, and for how many it was given up.

    last_error: why someone has not received it; None when no try failed. folded_into: the id of the later
    notice that replaced it before it went out.
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
    folded_into: str | None = None

    @property
    def waiting(self) -> int:
        return self.recipients - self.sent - self.given_up


@dataclass(frozen=True, slots=True)
class AttemptFact:
    """One attempt from the history, and its e-mails. number: as it was counted then."""

    number: int
    at: datetime
    reason: str
    mails: tuple[Mail, ...] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """What a person did, with what, and why. actor "auto": the product itself."""

    at: datetime
    actor: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class ErrorFact:
    """A failure that is still going on. told_at: when its last notice was made; None: none yet."""

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
    """An upload that has not reached A2: files in Box, and large files that are partly uploaded."""

    files: int = 0
    size_bytes: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    open_files: int = 0
    open_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """Everything about one campaign. row: None when no run has seen it.

    attempts: of the row's cycle, the latest. status_at: when the row's status last changed; in_a1_at: when it
    last became A1. holder, taken_at: the run that last began to work on it. worker: the one that has it now.
    last_run: the last run of the uploader that the orchestrator started.
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
    worker: Holder | None = None
    error_mail: Mail | None = None
    success_mail: Mail | None = None
    webhooks: tuple[WebhookFact, ...] = ()
    last_run: LastRun | None = None

    @property
    def retry(self) -> RetryStatus:
        """The row; zeros for a campaign without one."""
        return self.row or RetryStatus(self.campaign_id)


def facts_of(database: Database, campaign_id: str, now: datetime, *, status_a1: str = "A1") -> CampaignFacts:
    """What the database knows about a campaign now. database: without the run lock. Raises DbError."""
    asked = {"campaign_id": campaign_id}
    kinds = {"attempts": ATTEMPT_MAILS, "error": NoticeKind.ERROR.value, "success": NoticeKind.SUCCESS.value}
    with database.transaction():
        database.execute(ONE_SNAPSHOT)
        found = database.row(CAMPAIGN, {**asked, "now": now})
        errors = database.rows(ERRORS, asked)
        history = database.rows(EVENTS, {**asked, "limit": RECENT_EVENTS})
        events = without_undone(Event(*row) for row in history)
        mails = [Mail(*row) for row in database.rows(MAILS, {**asked, **kinds, "limit": SHOWN})]
        webhooks = tuple(WebhookFact(*row) for row in database.rows(WEBHOOKS, asked))
        worker = holders_of(workers_of(database)).get(campaign_id)
    created_at, updated_at, a2_requested_at, lock_doubted_at, left_search_at, box_folder_id = found[12:18]
    status, upload, progress, last_run = found[:12], found[18:22], found[22:28], found[30:]
    holder, taken_at = found[28:30]
    row = None if status[0] is None else RetryStatus(*status)
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
        attempts=_attempts(events, mails, row.cycle) if row else (),
        last_reset=_last_act(events, "reset"),
        last_snooze=_last_act(events, "snooze"),
        last_limit=_last_act(events, "limit"),
        status_at=_last_at(events, "status"),
        in_a1_at=_last_at(events, "status", status=status_a1),
        upload=None if upload[1] is None else UploadFact(*upload),
        progress=ProgressFact(*progress),
        holder=holder,
        taken_at=taken_at,
        worker=worker,
        error_mail=_mail(mails, NoticeKind.ERROR),
        success_mail=_mail(mails, NoticeKind.SUCCESS),
        webhooks=webhooks,
        last_run=None if last_run[0] is None else LastRun(*last_run),
    )


def _last(events: Sequence[Event], kind: str, **facts: str) -> Event | None:
    """The last event of a kind that has these facts."""
    return next(
        (one for one in reversed(events) if one.kind == kind and facts.items() <= one.detail.items()), None
    )


def _last_at(events: Sequence[Event], kind: str, **facts: str) -> datetime | None:
    event = _last(events, kind, **facts)
    return None if event is None else event.at


def _last_act(events: Sequence[Event], kind: str) -> Act | None:
    event = _last(events, kind)
    return None if event is None else Act(event.at, event.actor, event.source, event.reason)


def _mail(mails: Iterable[Mail], kind: NoticeKind) -> Mail | None:
    """The one e-mail of this kind that was read."""
    return next((mail for mail in mails if mail.kind == kind), None)


def _attempts(events: Iterable[Event], mails: Iterable[Mail], cycle: int) -> tuple[AttemptFact, ...]:
    """The latest attempts of a cycle, with their e-mails."""
    counted = [
        AttemptFact(int(event.detail.get("attempt") or 0), event.at, event.reason)
        for event in events
        if event.kind == "attempt" and event.cycle == cycle
    ]
    told = [mail for mail in mails if mail.kind in ATTEMPT_MAILS and mail.cycle == cycle]
    return _with_mails(counted[-SHOWN:], told)


def _with_mails(attempts: Sequence[AttemptFact], mails: Sequence[Mail]) -> tuple[AttemptFact, ...]:
    """Each attempt with the e-mails that have its number and were made before the next attempt of that
    number: a count that was changed by hand repeats numbers.
    """
    told: list[AttemptFact] = []
    for one in reversed(attempts):
        mails_of = tuple(mail for mail in mails if mail.attempt == one.number and mail.created_at >= one.at)
        mails = [mail for mail in mails if mail not in mails_of]
        told.insert(0, replace(one, mails=mails_of))
    return tuple(told)
