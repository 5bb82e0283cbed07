"""When a task runs next: interval in office hours, slower and on fixed minutes outside them. Pure.

Time is an argument everywhere; instants are aware and whole minutes; intervals are elapsed minutes, also
across a clock change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

A1_TO_A2_INTERVAL_MINUTES = 3
MINUTE = timedelta(minutes=1)

Rule = Literal["in_hours", "off_hours"]


@dataclass(frozen=True, slots=True)
class OffHours:
    """The window [start, end) on local wall time, whole days besides (0 = Monday), and its slower rule."""

    enabled: bool
    start: time
    end: time
    days: frozenset[int]
    extra_minutes: int
    run_minutes: frozenset[int]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """An instant and the rule that allowed it."""

    at: datetime
    rule: Rule


def whole_minute(instant: datetime) -> datetime:
    """Cut an instant down to its minute."""
    return instant.replace(second=0, microsecond=0)


def is_off_hours(wall: datetime, window: OffHours) -> bool:
    """Whether this local wall time is outside office hours; judged by the wall time alone."""
    if not window.enabled:
        return False
    if wall.weekday() in window.days:
        return True
    clock = wall.time()
    if window.start < window.end:
        return window.start <= clock < window.end
    return clock >= window.start or clock < window.end


def next_run(interval_minutes: int, last_planned: datetime, zone: ZoneInfo, window: OffHours) -> PlannedRun:
    """The earliest minute that satisfies the rule which holds at that minute.

    In office hours a run is due `interval_minutes` after the last planned one; outside, at a listed minute
    of the hour and `extra_minutes` later than that. Walking the minutes keeps both rules, the window's
    edges and both clock changes in one place; the walk is at most a window long.

    Raises ValueError for a naive last_planned.
    """
    if last_planned.tzinfo is None:
        raise ValueError(f"last_planned must be aware, got {last_planned!r}")
    last = whole_minute(last_planned).astimezone(UTC)
    off_hours_from = last + timedelta(minutes=interval_minutes + window.extra_minutes)
    candidate = last + timedelta(minutes=interval_minutes)
    while True:
        wall = candidate.astimezone(zone)
        if not is_off_hours(wall, window):
            return PlannedRun(wall, "in_hours")
        if wall.minute in window.run_minutes and candidate >= off_hours_from:
            return PlannedRun(wall, "off_hours")
        candidate += MINUTE
