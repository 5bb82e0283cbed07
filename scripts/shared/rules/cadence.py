"""Decides when a task runs next: at its interval in office hours, less often and on fixed minutes outside.
Pure.

Time is always an argument. Instants are aware and whole minutes. Intervals are elapsed minutes, also across a
clock change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

from shared.base.clocks import is_waiting

A1_TO_A2_INTERVAL_MINUTES = 3
MINUTE = timedelta(minutes=1)
CATCH_UP = timedelta(hours=3)
"""How late a daily task may still start, on its own date."""
WEEKLY_CATCH_UP = timedelta(hours=12)
"""How late a weekly task may still start, in its own week, which begins on a Monday."""
DAILY_RETRY = timedelta(minutes=10)
"""How long after its failure a daily or weekly task is tried again, while it may still start."""

Rule = Literal["in_hours", "off_hours", "daily", "weekly"]


@dataclass(frozen=True, slots=True)
class OffHours:
    """The window [start, end) in local time, whole days (0 = Monday), and the slower rule inside them."""

    enabled: bool
    start: time
    end: time
    days: frozenset[int]
    extra_minutes: int
    run_minutes: frozenset[int]


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many minutes in office hours, less often outside them."""

    minutes: int


@dataclass(frozen=True, slots=True)
class Daily:
    """Once per local date, at a time of day, regardless of the window."""

    at: time
    rule: ClassVar[Rule] = "daily"
    period: ClassVar[timedelta] = timedelta(days=1)
    catch_up: ClassVar[timedelta] = CATCH_UP

    def period_of(self, day: date) -> date:
        """The first date of the period that contains the date."""
        return day

    def day_in(self, period: date) -> date:
        """The date of a period's run."""
        return period


@dataclass(frozen=True, slots=True)
class Weekly:
    """Once per local week, on a day (0 = Monday) at a time of day, regardless of the window."""

    day: int
    at: time
    rule: ClassVar[Rule] = "weekly"
    period: ClassVar[timedelta] = timedelta(days=7)
    catch_up: ClassVar[timedelta] = WEEKLY_CATCH_UP

    def period_of(self, day: date) -> date:
        return day - timedelta(days=day.weekday())

    def day_in(self, period: date) -> date:
        return period + timedelta(days=self.day)


Calendar = Daily | Weekly
Schedule = Interval | Calendar


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a task: the minute it was planned for, and how it went, if known.

    finished_at and exit_code are None while it runs. They stay None when its orchestrator was killed.
    """

    planned_at: datetime
    started_at: datetime
    finished_at: datetime | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """An instant and the rule that allowed it.

    planned_at: the minute that the schedule names; earlier than `at` when a daily or weekly task is late.
    """

    at: datetime
    rule: Rule
    planned_at: datetime


def whole_minute(instant: datetime) -> datetime:
    """Cut an instant down to its minute."""
    return instant.replace(second=0, microsecond=0)


def is_off_hours(wall: datetime, window: OffHours) -> bool:
    """Whether this local time is outside office hours. Only the local time decides."""
    if not window.enabled:
        return False
    if wall.weekday() in window.days:
        return True
    clock = wall.time()
    if window.start < window.end:
        return window.start <= clock < window.end
    return clock >= window.start or clock < window.end


def plan(
    schedule: Schedule, last: LastRun | None, now: datetime, zone: ZoneInfo, window: OffHours
) -> PlannedRun:
    """When a task that is not running starts next: at once when `at` is not after `now`.

    A last run in the future is ignored, because the clock was set back; but its date still counts for a daily
    task, and its week for a weekly one. Missed runs become one run, in the first minute from `now` on that
    the rule allows.
    """
    if isinstance(schedule, Calendar):
        return _next_in_calendar(schedule, last, now, zone)
    this_minute = whole_minute(now).astimezone(UTC)
    planned = None if last is None else whole_minute(last.planned_at).astimezone(UTC)
    if planned is not None and planned > this_minute:
        planned = None
    return _earliest(this_minute, planned, schedule, zone, window)


def next_run(interval_minutes: int, last_planned: datetime, zone: ZoneInfo, window: OffHours) -> PlannedRun:
    """The run that follows one planned at last_planned. Raises ValueError for a naive last_planned."""
    if last_planned.tzinfo is None:
        raise ValueError(f"last_planned must be aware, got {last_planned!r}")
    last = whole_minute(last_planned)
    return _earliest(last, last, Interval(interval_minutes), zone, window)


def _earliest(
    not_before: datetime, last: datetime | None, schedule: Interval, zone: ZoneInfo, window: OffHours
) -> PlannedRun:
    """The earliest minute that satisfies the rule that applies at that minute.

    In office hours a run is due an interval after the last planned one; outside, at a listed minute of the
    hour and `extra_minutes` later than that. Walking the minutes handles both rules, the window's edges and
    both clock changes in one place; the walk is at most as long as a window.
    """
    candidate = off_hours_from = not_before.astimezone(UTC)
    if last is not None:
        due = last.astimezone(UTC) + timedelta(minutes=schedule.minutes)
        candidate = max(candidate, due)
        off_hours_from = due + timedelta(minutes=window.extra_minutes)
    while True:
        wall = candidate.astimezone(zone)
        if not is_off_hours(wall, window):
            return PlannedRun(wall, "in_hours", wall)
        if wall.minute in window.run_minutes and candidate >= off_hours_from:
            return PlannedRun(wall, "off_hours", wall)
        candidate += MINUTE


def daily_instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The first minute of a local date whose local time is `at` or later.

    When the clock shows `at` twice, the first time counts. When it jumps over `at`, the minute after the jump
    counts, which may be on the next date.
    """
    earliest = datetime.combine(day, at, zone)
    if earliest.astimezone(UTC).astimezone(zone).time() == at:
        return earliest
    candidate = earliest.replace(fold=1).astimezone(UTC)
    while (wall := candidate.astimezone(zone)).replace(tzinfo=None) < datetime.combine(day, at):
        candidate += MINUTE
    return wall


def _next_in_calendar(schedule: Calendar, last: LastRun | None, now: datetime, zone: ZoneInfo) -> PlannedRun:
    """The run of the first date or week, from now on, that had no run and is not too late."""
    this_minute = whole_minute(now).astimezone(UTC)
    period = schedule.period_of(now.astimezone(zone).date())
    while True:
        planned = daily_instant(schedule.day_in(period), schedule.at, zone)
        begins = planned.astimezone(UTC)
        start = max(begins, this_minute)
        if last is not None and schedule.period_of(last.planned_at.astimezone(zone).date()) == period:
            if last.exit_code == 0:
                period += schedule.period
                continue
            # It did not end well, as far as we know: try again, but not at once.
            ended = whole_minute(last.finished_at or last.started_at).astimezone(UTC)
            if is_waiting(ended, DAILY_RETRY, this_minute):
                start = max(start, ended + DAILY_RETRY)
        wall = start.astimezone(zone)
        if start < begins + schedule.catch_up and schedule.period_of(wall.date()) == period:
            return PlannedRun(wall, schedule.rule, planned)
        period += schedule.period


def timeline(
    schedules: Mapping[str, Schedule], after: datetime, until: datetime, zone: ZoneInfo, window: OffHours
) -> Iterator[tuple[str, PlannedRun]]:
    """The runs in (after, until], in order of time, as (task, run).

    It assumes that every interval task was last planned at `after`, and that no daily or weekly task is late.
    """

    def following(schedule: Schedule, last: datetime) -> PlannedRun:
        if isinstance(schedule, Calendar):
            return _following_in_calendar(schedule, last, zone)
        return _earliest(last, last, schedule, zone, window)

    start = whole_minute(after).astimezone(zone)
    upcoming = {name: following(schedule, start) for name, schedule in schedules.items()}
    while upcoming:
        name = min(upcoming, key=lambda task: upcoming[task].at.astimezone(UTC))
        run = upcoming[name]
        if run.at.astimezone(UTC) > until.astimezone(UTC):
            return
        yield name, run
        upcoming[name] = following(schedules[name], run.at)


def _following_in_calendar(schedule: Calendar, after: datetime, zone: ZoneInfo) -> PlannedRun:
    period = schedule.period_of(after.astimezone(zone).date())
    while True:
        instant = daily_instant(schedule.day_in(period), schedule.at, zone)
        is_own = schedule.period_of(instant.date()) == period
        if instant.astimezone(UTC) > after.astimezone(UTC) and is_own:
            return PlannedRun(instant, schedule.rule, instant)
        period += schedule.period
