"""What a daily report tells, as values: the local day, and what happened in it. Pure; time is an argument.

A report covers its local day from 00:00 up to now, and what no earlier report could tell because it happened
after it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Generic, TypeVar
from zoneinfo import ZoneInfo

from shared.base.values import Campaign
from shared.rules.alerts import TaskAlert

SHOWN_ROWS = 40
"""Rows that a section of the e-mail shows at most: all sections full stay below what mail clients cut off."""
LATE_AFTER = timedelta(seconds=60)
"""A run that started longer than this after its planned minute was late."""
LOST_AFTER = timedelta(days=1)
"""A run without an end counts as lost after this, or as soon as the next run of its task has started."""
LOOK_BACK = timedelta(days=7)
"""How far before its day a report reaches at most for runs and errors that no report has told of."""

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class ReportDay:
    """What a report covers: [start, until) of the local day, and [since, start) before it.

    since: where the report before this one ended; equal to start when there is none to go on from.
    is_over: the whole day is covered.
    """

    date: date
    start: datetime
    until: datetime
    since: datetime
    is_over: bool


@dataclass(frozen=True, slots=True)
class Section(Generic[Row]):
    """The first rows of a section, and how many there are in all."""

    rows: tuple[Row, ...] = ()
    total: int = 0

    @property
    def more(self) -> int:
        """Rows that are not shown."""
        return self.total - len(self.rows)


@dataclass(frozen=True, slots=True)
class Upload:
    """A campaign that reached A2."""

    campaign: Campaign
    assets: int
    size_bytes: int
    started_at: datetime
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class UploadSection(Section[Upload]):
    """Uploads with the totals of all of them, those not shown included."""

    assets: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EmptyCampaign:
    """A campaign in retry, or permanently failed. last_attempt_at None: the row was changed by hand."""

    campaign: Campaign
    attempts: int
    last_attempt_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class LastingFailure:
    """A failure of a campaign that is not over."""

    campaign: Campaign
    kind: str
    message: str
    began_at: datetime


@dataclass(frozen=True, slots=True)
class TaskRuns:
    """The runs of a task that ended in a time, by how. failing: of those done, in how many some campaigns
    failed. late: of all of them, whatever their end.
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
        return self.done + self.failed + self.again + self.lost

    @property
    def has_trouble(self) -> bool:
        return self.done < self.total or self.late > 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """E-mails the mail server did not take: waiting, since when, and those that are not tried any more.

    doubtful: given up, and they may have arrived.
    """

    waiting: int = 0
    oldest_at: datetime | None = None
    given_up: int = 0
    doubtful: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """One report. Campaigns in retry and failed, lasting failures, alerts and backlog are as of now.

    alerts: of the tasks that keep failing, those that were announced. campaigns_failing: at present.
    """

    day: ReportDay
    next_run_at: datetime
    uploads: UploadSection = field(default_factory=UploadSection)
    uploads_before: UploadSection = field(default_factory=UploadSection)
    in_retry: Section[EmptyCampaign] = field(default_factory=Section)
    failed: Section[EmptyCampaign] = field(default_factory=Section)
    failures: Section[LastingFailure] = field(default_factory=Section)
    failures_over: Section[Campaign] = field(default_factory=Section)
    campaigns_failing: int = 0
    alerts: tuple[TaskAlert, ...] = ()
    runs: tuple[TaskRuns, ...] = ()
    runs_before: tuple[TaskRuns, ...] = ()
    backlog: Backlog = field(default_factory=Backlog)

    @property
    def needs_somebody(self) -> bool:
        """Something stays as it is until a person acts."""
        return bool(self.failed.total or self.failures.total or self.alerts or self._undelivered)

    @property
    def _undelivered(self) -> int:
        return self.backlog.given_up + self.backlog.doubtful

    @property
    def has_trouble(self) -> bool:
        """Something did not go as planned, and may heal by itself."""
        runs = (*self.runs, *self.runs_before)
        return bool(
            self.in_retry.total
            or self.failures_over.total
            or self.backlog.waiting
            or any(task.has_trouble for task in runs)
        )

    @property
    def is_quiet(self) -> bool:
        """Nothing happened, and nothing stands: one line says it."""
        has_news = self.uploads.total or self.uploads_before.total
        return not (has_news or self.needs_somebody or self.has_trouble)


def local_day(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """[00:00, 24:00) of a local date, in UTC: 23 or 25 hours when the clock changes."""
    bounds = (datetime.combine(one, time.min, zone) for one in (day, day + timedelta(days=1)))
    start, end = (bound.astimezone(UTC) for bound in bounds)
    return start, end


def report_day(day: date, now: datetime, zone: ZoneInfo, previous: tuple[date, datetime] | None) -> ReportDay:
    """What the report of a date covers when it is made now.

    previous: the latest report of an earlier date as (that date, when it was made). It told of nothing that
    came after it was made, nor after its own day. Raises ValueError for a date that has not begun and for a
    naive now.
    """
    if now.tzinfo is None:
        raise ValueError(f"expected an aware time, got {now!r}")
    start, end = local_day(day, zone)
    if now < start:
        raise ValueError(f"{day} has not begun in {zone}")
    since = start
    if previous is not None:
        previous_date, made_at = previous
        ended_at = min(made_at, local_day(previous_date, zone)[1])
        if start - LOOK_BACK <= ended_at:
            since = ended_at
    return ReportDay(day, start, min(end, now), since, is_over=now >= end)
