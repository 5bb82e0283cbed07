"""Decides which time a daily report covers. Pure; time is an argument.

A report covers its local day from 00:00 up to now, and what happened after the previous report was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

LOOK_BACK = timedelta(days=7)
"""How far before its day a report looks, at most, for runs and errors that were in no report."""


@dataclass(frozen=True, slots=True)
class ReportDay:
    """What a report covers: [start, until) of the local day, and [since, start) before it.

    since: where the previous report ended; equal to start when there is none.
    is_over: the whole day is covered.
    """

    date: date
    start: datetime
    until: datetime
    since: datetime
    is_over: bool


def local_day(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """[00:00, 24:00) of a local date, in UTC: 23 or 25 hours when the clock changes."""
    bounds = (datetime.combine(one, time.min, zone) for one in (day, day + timedelta(days=1)))
    start, end = (bound.astimezone(UTC) for bound in bounds)
    return start, end


def report_day(day: date, now: datetime, zone: ZoneInfo, previous: tuple[date, datetime] | None) -> ReportDay:
    """What the report of a date covers when it is made now.

    previous: the latest report of an earlier date as (that date, when it was made). It covered nothing after
    it was made, nor after its own day. Raises ValueError for a date that has not begun and for a naive now.
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
