"""Reads the figures of the daily report: each query (SQL) is next to the value that it fills.

Each section of the report is one statement; it reads at most SHOWN_ROWS rows, and the count of all. The
templates use a value's fields by their names: add a new column here and in a template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime, timedelta
from typing import Any, Generic, TypeVar
from zoneinfo import ZoneInfo

from shared.base.errors import ExitCode
from shared.base.values import MOST_DOUBTS, Campaign, NoticeKind
from shared.database import Database
from shared.report.day import ReportDay
from shared.rules.alerts import TaskAlert

SHOWN_ROWS = 40
"""Most rows of a section: with all sections full, the e-mail stays below the size at which mail clients cut
it.
"""
SHOWN_RESETS = 20
"""Most rows of the section of resets: a bulk reset must not crowd out what people must act on."""
LATE_AFTER = timedelta(seconds=60)
"""A run that started longer than this after its planned minute was late."""
LOST_AFTER = timedelta(days=1)
"""A run without an end counts as lost after this, or as soon as the next run of its task has started."""

Row = TypeVar("Row")

DAILY_REPORT_QUEUED_AT = "SELECT queued_at FROM daily_reports WHERE report_date = %(report_date)s"

PREVIOUS_DAILY_REPORT = """
SELECT report_date, queued_at FROM daily_reports WHERE report_date < %(report_date)s
ORDER BY report_date DESC LIMIT 1
"""

# When two processes claim the same date, the second waits here for the first, and then inserts nothing.
CLAIM_DAILY_REPORT = """
INSERT INTO daily_reports (report_date, notice_id, queued_at)
VALUES (%(report_date)s, %(notice_id)s, %(queued_at)s)
ON CONFLICT (report_date) DO NOTHING
"""

# A report also lists uploads from the future: a clock that ran ahead wrote their dates.
ASSIGN_UPLOADS = """
UPDATE campaign_uploads SET report_date = %(report_date)s
WHERE report_date IS NULL AND (completed_at < %(until)s OR completed_at > now() + interval '5 minutes')
"""

LATEST_REPORT = "SELECT now(), max(report_date) FROM daily_reports"

# Reports of dates that have not begun: a clock that ran ahead made them. Those dates still need their
# reports, and the uploads in them count as today's.
FORGET_LATER_REPORTS = """
DELETE FROM daily_reports WHERE report_date > %(today)s;
UPDATE campaign_uploads SET report_date = %(today)s WHERE report_date > %(today)s
"""


@dataclass(frozen=True, slots=True)
class Section(Generic[Row]):
    """The first rows of a section, and how many there are in all."""

    rows: tuple[Row, ...] = ()
    total: int = 0

    @property
    def more(self) -> int:
        """Rows that are not shown."""
        return self.total - len(self.rows)


# The uploads of a report: those it claimed, and those of its own day that a later report claimed. A preview
# also shows those that the report would claim.
REPORTED_UPLOADS = """
SELECT is_before, total, total_assets, total_bytes, campaign_id, coalesce(campaign_number, ''),
       coalesce(campaign_name, ''), c.status, assets, bytes, started_at, completed_at
FROM (SELECT u.*, u.completed_at < %(start)s AS is_before, count(*) OVER section AS total,
             sum(u.assets) OVER section AS total_assets, sum(u.bytes) OVER section::bigint AS total_bytes,
             row_number() OVER (PARTITION BY u.completed_at < %(start)s
                                ORDER BY u.completed_at, u.campaign_id) AS place
      FROM campaign_uploads u
      WHERE u.report_date = %(report_date)s
         OR (u.report_date IS NOT NULL AND u.completed_at >= %(start)s AND u.completed_at < %(until)s)
         OR (%(is_preview)s AND u.report_date IS NULL
             AND (u.completed_at < %(until)s OR u.completed_at > now() + interval '5 minutes'))
      WINDOW section AS (PARTITION BY u.completed_at < %(start)s)) numbered
LEFT JOIN campaign_status c USING (campaign_id)
WHERE place <= %(limit)s
ORDER BY is_before, place
"""


@dataclass(frozen=True, slots=True)
class Upload:
    """A campaign that reached A2."""

    campaign: Campaign
    assets: int
    size_bytes: int
    started_at: datetime
    completed_at: datetime

    @property
    def duration(self) -> timedelta:
        return self.completed_at - self.started_at


@dataclass(frozen=True, slots=True)
class UploadSection(Section[Upload]):
    """Uploads, with the totals of all of them, including those not shown."""

    assets: int = 0
    size_bytes: int = 0


CAMPAIGNS_IN_RETRY = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       a1_retry_count, a1_last_retry_at, coalesce(a1_failure_reason, ''), a1_max_retries
FROM campaign_status
WHERE status = %(status)s AND a1_retry_count > 0 AND NOT coalesce(a1_permanently_failed, FALSE)
ORDER BY a1_retry_count DESC, a1_last_retry_at, campaign_id LIMIT %(limit)s
"""

FAILED_CAMPAIGNS = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       coalesce(a1_retry_count, 0), a1_last_retry_at, coalesce(a1_failure_reason, '')
FROM campaign_status
WHERE a1_permanently_failed
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class EmptyCampaign:
    """A campaign in retry, or permanently failed. last_attempt_at None: the row was changed by hand.
    max_attempts: of one in retry, if it has a limit of its own.
    """

    campaign: Campaign
    attempts: int
    last_attempt_at: datetime | None
    reason: str
    max_attempts: int | None = None


# Only those with a notice: a failure that usually ends by itself has none yet.
LASTING_FAILURES = """
SELECT total, campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status, kind, message,
       began_at
FROM (SELECT count(*) OVER () AS total, campaign_id, kind, message, began_at FROM campaign_errors
      WHERE last_notice_at > '-infinity' ORDER BY began_at DESC, campaign_id, kind LIMIT %(limit)s) shown
LEFT JOIN campaign_status c USING (campaign_id)
ORDER BY began_at DESC, campaign_id, kind
"""


@dataclass(frozen=True, slots=True)
class LastingFailure:
    """A failure of a campaign that is still going on."""

    campaign: Campaign
    kind: str
    message: str
    began_at: datetime


FAILING_CAMPAIGNS = (
    "SELECT count(DISTINCT campaign_id) FROM campaign_errors WHERE last_notice_at > '-infinity'"
)

# Campaigns that had an error notice and no longer fail.
FAILURES_OVER = """
SELECT total, campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status
FROM (SELECT count(*) OVER () AS total, campaign_id
      FROM (SELECT DISTINCT campaign_id FROM notices
            WHERE kind = %(kind)s AND created_at >= %(since)s AND created_at < %(until)s
              AND campaign_id <> '') n
      WHERE NOT EXISTS (SELECT FROM campaign_errors e WHERE e.campaign_id = n.campaign_id)
      ORDER BY campaign_id LIMIT %(limit)s) shown
LEFT JOIN campaign_status c USING (campaign_id)
ORDER BY campaign_id
"""

# Runs by the time they ended, so that each counts in one report. A run without an end counts as lost from the
# start of the next run of its task, at the latest a day after its own start.
ENDED_RUNS = """
SELECT ended_at < %(start)s, task,
       count(*) FILTER (WHERE NOT is_lost AND exit_code IN (0, %(some_failed)s)),
       count(*) FILTER (WHERE NOT is_lost AND exit_code = %(some_failed)s),
       count(*) FILTER (WHERE started_at > planned_at + %(late_after)s),
       count(*) FILTER (WHERE NOT is_lost
                          AND coalesce(exit_code, -1) NOT IN (0, %(some_failed)s, %(try_later)s)),
       count(*) FILTER (WHERE NOT is_lost AND exit_code = %(try_later)s),
       count(*) FILTER (WHERE is_lost)
FROM (SELECT task, planned_at, started_at, exit_code, finished_at IS NULL AS is_lost,
             coalesce(finished_at, least(lead(started_at) OVER (PARTITION BY task ORDER BY started_at),
                                         started_at + %(lost_after)s)) AS ended_at
      FROM orchestrator_task_runs
      WHERE started_at >= %(since)s - %(lost_after)s AND started_at < %(until)s) runs
WHERE ended_at >= %(since)s AND ended_at < %(until)s
GROUP BY 1, 2 ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class TaskRuns:
    """The runs of a task that ended in a period, by outcome. done: those that did their work; failing: in how
    many of these some campaigns failed. late: of all of them, whatever their outcome.
    """

    task: str
    done: int = 0
    failing: int = 0
    late: int = 0
    failed: int = 0
    again: int = 0
    lost: int = 0

    @property
    def total(self) -> int:
        return self.done + self.in_trouble

    @property
    def well_done(self) -> int:
        """Those in which no campaign failed."""
        return self.done - self.failing

    @property
    def in_trouble(self) -> int:
        """Those that are not done."""
        return self.failed + self.again + self.lost

    @property
    def has_trouble(self) -> bool:
        return bool(self.in_trouble or self.late)


# doubts: after this many tries with an unknown result, an e-mail is given up; it may have arrived.
OUTBOX_BACKLOG = """
SELECT count(*), min(coalesce(d.owed_since, n.created_at)),
       (SELECT count(*) FROM notice_deliveries
        WHERE channel = 'email' AND gave_up_at >= %(since)s AND gave_up_at < %(until)s
          AND doubts < %(doubts)s),
       (SELECT count(*) FROM notice_deliveries
        WHERE channel = 'email' AND gave_up_at >= %(since)s AND gave_up_at < %(until)s
          AND doubts >= %(doubts)s),
       (SELECT count(*) FROM notice_deliveries
        WHERE channel = 'webhook' AND sent_at IS NULL AND gave_up_at IS NULL AND tries > 0),
       (SELECT count(*) FROM notice_deliveries WHERE channel = 'webhook' AND gave_up_at IS NOT NULL)
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.channel = 'email' AND d.sent_at IS NULL AND d.gave_up_at IS NULL AND d.tries > 0
"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """E-mails that the mail server did not accept: waiting, since when, and given up.

    doubtful: given up, but they may have arrived. webhooks_waiting: what a target has not accepted so far.
    webhooks_dead: what is no longer tried, of any day: somebody may send it again.
    """

    waiting: int = 0
    oldest_at: datetime | None = None
    given_up: int = 0
    doubtful: int = 0
    webhooks_waiting: int = 0
    webhooks_dead: int = 0


SNOOZED = """
SELECT shown.*, e.actor, e.reason
FROM (SELECT count(*) OVER () AS total, campaign_id, coalesce(campaign_number, ''),
             coalesce(campaign_name, ''), status, a1_snoozed_until
      FROM campaign_status
      WHERE a1_snoozed_until > %(now)s AND status = %(status)s AND NOT coalesce(a1_permanently_failed, FALSE)
      ORDER BY a1_snoozed_until, campaign_id LIMIT %(limit)s) shown
LEFT JOIN LATERAL (SELECT actor, reason FROM campaign_events e
                   WHERE e.campaign_id = shown.campaign_id AND e.kind = 'snooze'
                     AND NOT EXISTS (SELECT FROM campaign_events u
                                     WHERE u.campaign_id = e.campaign_id AND u.kind = 'undo'
                                       AND u.detail ->> 'undoes' = e.detail ->> 'act')
                   ORDER BY e.id DESC LIMIT 1) e ON TRUE
ORDER BY a1_snoozed_until, campaign_id
"""


@dataclass(frozen=True, slots=True)
class SnoozedCampaign:
    """A campaign whose files are promised. snoozed_by, reason None: no longer in the history."""

    campaign: Campaign
    until: datetime
    snoozed_by: str | None
    reason: str | None


# Campaigns that became permanently failed in the report's period, including those reset since.
NEWLY_FAILED = """
SELECT count(DISTINCT campaign_id) FROM campaign_events
WHERE kind = 'attempt' AND detail ->> 'permanently_failed' = 'true' AND at >= %(since)s AND at < %(until)s
"""

# Resets by people and automatic ones, but not the return to 0 after an upload.
RESETS = """
SELECT shown.total, shown.campaign_id, coalesce(c.campaign_number, ''), coalesce(c.campaign_name, ''),
       c.status, shown.actor,
       shown.source, shown.at, shown.reason,
       EXISTS (SELECT FROM campaign_events u
               WHERE u.campaign_id = shown.campaign_id AND u.kind = 'undo'
                 AND u.detail ->> 'undoes' = shown.detail ->> 'act')
FROM (SELECT count(*) OVER () AS total, id, campaign_id, actor, source, at, reason, detail
      FROM campaign_events
      WHERE kind = 'reset' AND source <> 'upload' AND at >= %(since)s AND at < %(until)s
      ORDER BY at, id LIMIT %(limit)s) shown
LEFT JOIN campaign_status c USING (campaign_id)
ORDER BY shown.at, shown.id
"""


@dataclass(frozen=True, slots=True)
class Reset:
    """A campaign that started again at attempt 1. actor: who reset it; source: with what, `auto` for an
    automatic reset. is_undone: somebody undid it.
    """

    campaign: Campaign
    actor: str
    source: str
    at: datetime
    reason: str
    is_undone: bool

    @property
    def is_automatic(self) -> bool:
        return self.source == "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """One report. Campaigns in retry and failed, current failures, alerts and backlog are as of now.

    alerts: tasks that keep failing and had an alert. campaigns_failing: at present.
    newly_failed: campaigns that became permanently failed in the report's period, reset since or not.
    """

    day: ReportDay
    next_run_at: datetime
    uploads: UploadSection = field(default_factory=UploadSection)
    uploads_before: UploadSection = field(default_factory=UploadSection)
    in_retry: Section[EmptyCampaign] = field(default_factory=Section)
    failed: Section[EmptyCampaign] = field(default_factory=Section)
    newly_failed: int = 0
    resets: Section[Reset] = field(default_factory=Section)
    snoozed: Section[SnoozedCampaign] = field(default_factory=Section)
    failures: Section[LastingFailure] = field(default_factory=Section)
    failures_over: Section[Campaign] = field(default_factory=Section)
    campaigns_failing: int = 0
    alerts: tuple[TaskAlert, ...] = ()
    runs: tuple[TaskRuns, ...] = ()
    runs_before: tuple[TaskRuns, ...] = ()
    backlog: Backlog = field(default_factory=Backlog)

    @property
    def all_runs(self) -> TaskRuns:
        """The runs of the day, of all tasks together."""
        kinds = [one.name for one in fields(TaskRuns) if one.name != "task"]
        return TaskRuns("", **{kind: sum(getattr(task, kind) for task in self.runs) for kind in kinds})

    @property
    def needs_somebody(self) -> bool:
        """Something stays as it is until a person acts."""
        return bool(
            self.failed.total
            or self.failures.total
            or self.alerts
            or self.backlog.given_up
            or self.backlog.doubtful
            or self.backlog.webhooks_dead
        )

    @property
    def has_trouble(self) -> bool:
        """Something did not go as planned, and may end by itself."""
        runs = (*self.runs, *self.runs_before)
        return bool(
            self.in_retry.total
            or self.snoozed.total
            or self.failures_over.total
            or self.backlog.waiting
            or self.backlog.webhooks_waiting
            or any(task.has_trouble for task in runs)
        )

    @property
    def is_quiet(self) -> bool:
        """Nothing happened, and nothing is open: the report is one line."""
        has_news = self.uploads.total or self.uploads_before.total or self.resets.total or self.newly_failed
        return not (has_news or self.needs_somebody or self.has_trouble)


class Figures:
    """Reads the database for the report. Every method raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def queued_at(self, report_date: date) -> datetime | None:
        """When the report of a local date was put into the outbox; None: not yet."""
        rows = self._database.rows(DAILY_REPORT_QUEUED_AT, {"report_date": report_date})
        return rows[0][0] if rows else None

    def previous(self, report_date: date) -> tuple[date, datetime] | None:
        """The latest report of an earlier date, as (its date, when it was made)."""
        rows = self._database.rows(PREVIOUS_DAILY_REPORT, {"report_date": report_date})
        return (rows[0][0], rows[0][1]) if rows else None

    def forget_later(self, now: datetime, zone: ZoneInfo) -> None:
        """Delete the reports of dates that have not begun, by our clock and by the server's: a clock that ran
        ahead made them. When only one clock was set back, nothing is deleted.
        """
        server_now, latest = self._database.row(LATEST_REPORT)
        today = max(now, server_now).astimezone(zone).date()
        if latest is not None and latest > today:
            self._database.execute(FORGET_LATER_REPORTS, {"today": today})

    def claim(self, day: ReportDay, notice_id: str, now: datetime) -> bool:
        """Claim the report of a date, and the uploads of no report so far, in the caller's transaction.

        False when the date is already claimed; then nothing has been changed.
        """
        values = {"report_date": day.date, "notice_id": notice_id, "queued_at": now, "until": day.until}
        if self._database.execute(CLAIM_DAILY_REPORT, values) == 0:
            return False
        self._database.execute(ASSIGN_UPLOADS, values)
        return True

    def report(
        self,
        day: ReportDay,
        *,
        status_a1: str,
        next_run_at: datetime,
        alerts: Iterable[TaskAlert],
        now: datetime | None = None,
        is_preview: bool = False,
    ) -> DayReport:
        """All values of the report of this day. now: None: the end of what the report covers. is_preview:
        with what the report would claim.
        """
        uploads, uploads_before = self.uploads(day, is_preview=is_preview)
        runs, runs_before = self.runs(day)
        return DayReport(
            day=day,
            next_run_at=next_run_at,
            uploads=uploads,
            uploads_before=uploads_before,
            in_retry=self.in_retry(status_a1),
            failed=self.failed(),
            newly_failed=self.newly_failed(day),
            resets=self.resets(day),
            snoozed=self.snoozed(status_a1, now or day.until),
            failures=self.failures(),
            failures_over=self.failures_over(day),
            campaigns_failing=self.campaigns_failing(),
            alerts=tuple(alert for alert in alerts if alert.is_announced),
            runs=runs,
            runs_before=runs_before,
            backlog=self.backlog(day),
        )

    def uploads(self, day: ReportDay, *, is_preview: bool) -> tuple[UploadSection, UploadSection]:
        """The uploads of the day, and earlier ones that were in no report.

        is_preview: with those that a real report would claim.
        """
        values = {
            "report_date": day.date, "start": day.start, "until": day.until, "is_preview": is_preview,
            "limit": SHOWN_ROWS,
        }  # fmt: skip
        rows = self._database.rows(REPORTED_UPLOADS, values)

        def section(wanted: bool) -> UploadSection:
            chosen = [row for row in rows if row[0] is wanted]
            if not chosen:
                return UploadSection()
            uploads = tuple(Upload(_campaign(row[3:]), *row[8:]) for row in chosen)
            return UploadSection(uploads, *chosen[0][1:4])

        return section(False), section(True)

    def in_retry(self, status: str) -> Section[EmptyCampaign]:
        """Campaigns in this status that have spent an attempt and are not permanently failed."""
        return self._section(EmptyCampaign, CAMPAIGNS_IN_RETRY, {"status": status})

    def failed(self) -> Section[EmptyCampaign]:
        """Every permanently failed campaign, latest first."""
        return self._section(EmptyCampaign, FAILED_CAMPAIGNS)

    def newly_failed(self, day: ReportDay) -> int:
        """How many campaigns became permanently failed in the report's period."""
        return int(self._database.row(NEWLY_FAILED, {"since": day.since, "until": day.until})[0])

    def resets(self, day: ReportDay) -> Section[Reset]:
        """The resets in the report's period, in order."""
        return self._section(Reset, RESETS, {"since": day.since, "until": day.until}, SHOWN_RESETS)

    def snoozed(self, status: str, now: datetime) -> Section[SnoozedCampaign]:
        """Campaigns in this status whose files are promised; the snooze that ends first comes first."""
        return self._section(SnoozedCampaign, SNOOZED, {"status": status, "now": now})

    def failures(self) -> Section[LastingFailure]:
        """Current failures of campaigns, latest first."""
        return self._section(LastingFailure, LASTING_FAILURES)

    def campaigns_failing(self) -> int:
        """How many campaigns fail at present, however many failures each has."""
        return int(self._database.row(FAILING_CAMPAIGNS)[0])

    def failures_over(self, day: ReportDay) -> Section[Campaign]:
        """Campaigns that had an error notice in the report's period and no longer fail."""
        values = {"kind": NoticeKind.ERROR.value, "since": day.since, "until": day.until}
        return self._section(lambda campaign: campaign, FAILURES_OVER, values)

    def runs(self, day: ReportDay) -> tuple[tuple[TaskRuns, ...], tuple[TaskRuns, ...]]:
        """The runs that ended in the day, by task, and those that ended since the report before it."""
        values = {
            "start": day.start,
            "since": day.since,
            "until": day.until,
            "late_after": LATE_AFTER,
            "lost_after": LOST_AFTER,
            "some_failed": ExitCode.SOME_FAILED.value,
            "try_later": ExitCode.TRY_LATER.value,
        }
        rows = self._database.rows(ENDED_RUNS, values)
        on_the_day = tuple(TaskRuns(*row[1:]) for row in rows if not row[0])
        return on_the_day, tuple(TaskRuns(*row[1:]) for row in rows if row[0])

    def _section(
        self,
        made: Callable[..., Row],
        question: str,
        values: Mapping[str, object] | None = None,
        limit: int = SHOWN_ROWS,
    ) -> Section[Row]:
        """The rows of an answer. Each begins with the count of all, then the campaign's columns, then the
        columns of the value.
        """
        rows = self._database.rows(question, {**(values or {}), "limit": limit})
        return Section(tuple(made(_campaign(row), *row[5:]) for row in rows), total=rows[0][0] if rows else 0)

    def backlog(self, day: ReportDay) -> Backlog:
        """E-mails that the mail server was offered and did not accept."""
        values = {"since": day.since, "until": day.until, "doubts": MOST_DOUBTS}
        return Backlog(*self._database.row(OUTBOX_BACKLOG, values))


def _campaign(row: tuple[Any, ...]) -> Campaign:
    """The campaign of a row that begins with a count and then has id, number, name and status."""
    return Campaign(*row[1:5])
