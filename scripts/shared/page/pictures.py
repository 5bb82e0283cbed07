"""Computes the pictures of the start page: the week with its runs, and the last thirty days. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, Interval, OffHours, timeline

DAYS_SHOWN = 30
_LEAD = timedelta(days=3)
"""The first run of a week follows from those before it."""
_DAY_MINUTES = 1440


@dataclass(frozen=True, slots=True)
class WeekDay:
    """One day's runs in local time, in minutes from midnight.

    spans: (from, to) of runs in office hours, one every interval. slots: the single runs outside them.
    """

    date: date
    spans: tuple[tuple[int, int], ...]
    slots: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.date:%A}"

    @property
    def spans_in_words(self) -> str:
        """`05:00 to 22:00`; "" when the day has no office hours."""
        return ", ".join(f"{clock(first)} to {clock(last)}" for first, last in self.spans)

    @property
    def slots_in_words(self) -> str:
        return ", ".join(map(clock, self.slots))


@dataclass(frozen=True, slots=True)
class Week:
    """A week, from Monday. in_hours, off_hours: how many runs it has."""

    days: tuple[WeekDay, ...]
    in_hours: int
    off_hours: int


def clock(minute: int) -> str:
    """`05:00`; the end of a day is 24:00."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def monday_of(now: datetime, zone: ZoneInfo) -> date:
    """The Monday of the local week."""
    today = now.astimezone(zone).date()
    return today - timedelta(days=today.weekday())


@lru_cache(maxsize=4)
def week_of(monday: date, zone: ZoneInfo, window: OffHours) -> Week:
    """When the uploader runs in the week that begins on this Monday, by the loop's rule."""
    begin = datetime.combine(monday, time(), zone)
    end = datetime.combine(monday + timedelta(days=7), time(), zone)
    interval = A1_TO_A2_INTERVAL_MINUTES
    runs = [
        run
        for _, run in timeline({"a1_to_a2": Interval(interval)}, begin - _LEAD, end, zone, window)
        if monday <= run.at.date() < end.date()
    ]
    days = []
    for number in range(7):
        day = monday + timedelta(days=number)
        of_day = [run for run in runs if run.at.date() == day]
        minutes = [_minute(run.at) for run in of_day if run.rule == "in_hours"]
        slots = tuple(_minute(run.at) for run in of_day if run.rule == "off_hours")
        days.append(WeekDay(day, _spans(minutes, interval), slots))
    in_hours = sum(run.rule == "in_hours" for run in runs)
    return Week(tuple(days), in_hours, len(runs) - in_hours)


def _minute(at: datetime) -> int:
    return at.hour * 60 + at.minute


def _spans(minutes: Iterable[int], interval: int) -> tuple[tuple[int, int], ...]:
    """Runs that follow one another at the interval, as (first, end of the last one's interval)."""
    spans: list[tuple[int, int]] = []
    for minute in minutes:
        end = min(minute + interval, _DAY_MINUTES)
        if spans and minute - spans[-1][1] <= interval:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((minute, end))
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class Bar:
    """One day of the strip. up, down: how far its bars go, in hundredths of the highest one."""

    date: date
    uploaded: int
    failed: int
    up: int
    down: int


def strip(uploaded: Mapping[date, int], failed: Mapping[date, int], today: date) -> Sequence[Bar]:
    """The last days, the oldest first. uploaded, failed: {day: campaigns}; a missing day had none."""
    days = [today - timedelta(days=back) for back in reversed(range(DAYS_SHOWN))]
    highest = max((uploaded.get(day, 0) for day in days), default=0)
    deepest = max((failed.get(day, 0) for day in days), default=0)
    return [
        Bar(
            day,
            uploaded.get(day, 0),
            failed.get(day, 0),
            _height(uploaded.get(day, 0), highest),
            _height(failed.get(day, 0), deepest),
        )
        for day in days
    ]


def _height(value: int, highest: int) -> int:
    return max(4, round(100 * value / highest)) if value else 0
