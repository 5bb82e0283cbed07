"""The cadence: DESIGN's table, an independent oracle over ordinary weeks and clock changes, restarts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.rules.cadence import (
    CATCH_UP,
    DAILY_RETRY,
    WEEKLY_CATCH_UP,
    Daily,
    Interval,
    LastRun,
    OffHours,
    Weekly,
    daily_instant,
    next_run,
    plan,
    timeline,
)

ROME = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
A1 = Interval(3)
REPORT = Daily(time(19))
MINUTE = timedelta(minutes=1)


def rome(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ROME, fold=fold)


# An oracle that shares nothing with the product but the words of the rule: it classifies every minute of a
# stretch of time first, by arithmetic on minutes of the week, and then looks the next run up in that list.


class Oracle:
    """The rule, minute by minute, over [start, start + minutes)."""

    def __init__(self, start: datetime, minutes: int, zone: ZoneInfo, window: OffHours) -> None:
        self.start = start.astimezone(UTC)
        opening = window.start.hour * 60 + window.start.minute
        closing = window.end.hour * 60 + window.end.minute
        length = (closing - opening) % 1440
        self.kinds = []  # "i" in hours, "s" a slot, "-" neither
        for index in range(minutes):
            wall = (self.start + index * MINUTE).astimezone(zone)
            of_day = wall.hour * 60 + wall.minute
            is_off = window.enabled and (wall.weekday() in window.days or (of_day - opening) % 1440 < length)
            self.kinds.append("i" if not is_off else "s" if wall.minute in window.run_minutes else "-")

    def next(self, interval: int, extra: int, last: int) -> int:
        for index in itertools.count(last + 1):
            waited = index - last
            if self.kinds[index] == "i" and waited >= interval:
                return index
            if self.kinds[index] == "s" and waited >= interval + extra:
                return index
        raise AssertionError

    def index(self, instant: datetime) -> int:
        return int((instant.astimezone(UTC) - self.start) / MINUTE)

    def check(self, interval: int, window: OffHours, zone: ZoneInfo, last: int) -> None:
        """Every run from here to the end of the stretch is where the oracle puts it."""
        at = self.start + last * MINUTE
        longest = 2 * (interval + window.extra_minutes) + 1500
        while last + longest < len(self.kinds):
            run = next_run(interval, at, zone, window)
            wanted = self.next(interval, window.extra_minutes, last)
            assert self.index(run.at) == wanted, (zone, at, run)
            assert run.rule == ("in_hours" if self.kinds[wanted] == "i" else "off_hours")
            last, at = wanted, run.at


TIMES = st.builds(time, st.integers(0, 23), st.integers(0, 59))
WINDOWS = st.builds(
    OffHours,
    st.sampled_from([True, True, True, False]),
    TIMES,
    TIMES,
    st.frozensets(st.integers(0, 6)),
    st.sampled_from([0, 1, 27, 30, 45, 600]),
    st.frozensets(st.integers(0, 59), min_size=1, max_size=4),
).filter(lambda window: window.start != window.end)


@settings(max_examples=60, deadline=None)
@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2037, 1, 1)),  # noqa: DTZ001 - hypothesis wants naive ones
    st.integers(1, 90),
    WINDOWS,
    st.sampled_from(["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
)
def test_next_run__as_the_oracle_says(start: datetime, interval: int, window: OffHours, name: str) -> None:
    zone = ZoneInfo(name)
    aware = start.replace(second=0, microsecond=0, tzinfo=UTC)
    Oracle(aware, 5 * 1440, zone, window).check(interval, window, zone, 0)


@cache
def clock_changes(name: str) -> tuple[datetime, ...]:
    """The first minute of each new offset of a zone, 2025 to 2037."""
    zone = ZoneInfo(name)
    found = []
    at, end, step = datetime(2025, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC), timedelta(hours=12)
    before = at.astimezone(zone).utcoffset()
    while at < end:
        after = (at + step).astimezone(zone).utcoffset()
        if after != before:
            low, high = at, at + step
            while high - low > MINUTE:
                middle = low + (high - low) // 2
                middle = middle.replace(second=0, microsecond=0)
                low, high = (low, middle) if middle.astimezone(zone).utcoffset() == after else (middle, high)
            found.append(high)
        at, before = at + step, after
    return tuple(found)


def sweep(names: list[str]) -> Iterator[tuple[str, datetime]]:
    return ((name, change) for name in names for change in clock_changes(name))


def check_clock_change(name: str, change: datetime) -> None:
    """Around one change: each run as the oracle says, and the report once per local date."""
    zone = ZoneInfo(name)
    start = change - timedelta(hours=20)
    oracle = Oracle(start, 4 * 1440, zone, WINDOW)
    for first in (0, 1, 2):
        oracle.check(3, WINDOW, zone, first)
    for hour, minute in ((19, 0), (2, 30), (0, 0), (23, 59)):
        at = time(hour, minute)
        day = start.astimezone(zone).date()
        for offset in range(4):
            instant = daily_instant(day + offset * timedelta(days=1), at, zone)
            wall = instant.replace(tzinfo=None)
            assert wall >= datetime.combine(day + offset * timedelta(days=1), at)
            before = (instant.astimezone(UTC) - MINUTE).astimezone(zone).replace(tzinfo=None)
            assert before < datetime.combine(day + offset * timedelta(days=1), at) or instant.fold == 0
        runs = [
            run.at for _, run in timeline({"r": Daily(at)}, start, start + timedelta(hours=72), zone, WINDOW)
        ]
        dates = [run.astimezone(zone).date() for run in runs]
        assert len(set(dates)) == len(dates) in (2, 3, 4), (name, change, runs)


def test_next_run__clock_changes_of_some_zones() -> None:
    names = ["Europe/Rome", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Gaza", "America/St_Johns",
             "Antarctica/Troll", "Pacific/Chatham", "America/Nuuk"]  # fmt: skip
    checked = list(sweep(names))
    assert len(checked) > 150
    for name, change in checked[::4]:
        check_clock_change(name, change)


@pytest.mark.zones
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(16))
def test_next_run__clock_changes_of_every_zone(part: int) -> None:
    names = sorted(available_timezones())[part::16]
    for name, change in sweep(names):
        check_clock_change(name, change)
    assert names


def simulate(zone: ZoneInfo, start: datetime, days: int) -> tuple[list[str], int]:
    """Wake up for whatever is due, as the loop does; (the reports' dates, the uploader's runs)."""
    now, end = start, start + timedelta(days=days)
    a1 = LastRun(start - 3 * MINUTE, start - 3 * MINUTE)
    report: LastRun | None = None
    dates, runs, previous = [], 0, None
    next_report = plan(REPORT, report, now, zone, WINDOW).at.astimezone(UTC)
    while True:
        next_a1 = plan(A1, a1, now, zone, WINDOW).at.astimezone(UTC)
        now = max(now, min(next_a1, next_report))
        if now >= end:
            return dates, runs
        if next_a1 == now:
            assert now != previous
            previous, runs = now, runs + 1
            a1 = LastRun(now, now, now, 0)
        if next_report == now:
            dates.append(now.astimezone(zone).date().isoformat())
            report = LastRun(now, now, now, 0)
            next_report = plan(REPORT, report, now, zone, WINDOW).at.astimezone(UTC)


@pytest.mark.timeout(600)  # two and a half million plans
@pytest.mark.parametrize("days", [1404, pytest.param(10_000, marks=pytest.mark.zones)])
def test_plan__thousands_of_days_without_a_miss(days: int) -> None:
    start = datetime(2025, 1, 6, 5, 0, tzinfo=UTC)
    assert start.weekday() == 0
    weeks, rest = divmod(days, 7)
    dates, runs = simulate(ZoneInfo("UTC"), start, days)
    wanted = [(date(2025, 1, 6) + timedelta(days=day)).isoformat() for day in range(days)]
    assert dates == wanted
    # Four more days after whole weeks: 340 runs a day in office hours, and 22:30 to 04:30 seven nights.
    assert runs == weeks * 1783 + rest * (340 + 7)


@pytest.mark.parametrize(
    ("last", "now", "wanted"),
    [
        pytest.param(None, "2026-01-28T10:00:40", "2026-01-28T10:00", id="first start: at once"),
        pytest.param(None, "2026-01-28T22:10:00", "2026-01-28T22:30", id="first start off-hours: next slot"),
        pytest.param("2026-01-28T21:57", "2026-01-28T21:59:00", "2026-01-28T22:30", id="restart at 21:59"),
        pytest.param("2026-01-28T09:00", "2026-01-28T10:01:20", "2026-01-28T10:01", id="slept for an hour"),
        pytest.param("2026-01-28T21:30", "2026-01-28T22:31:02", "2026-01-28T23:00", id="slept past a slot"),
        pytest.param("2026-01-28T12:00", "2026-01-28T09:00:30", "2026-01-28T09:00", id="clock set back"),
        pytest.param("2026-01-28T12:00", "2026-01-28T12:01:00", "2026-01-28T12:03", id="ordinary"),
        pytest.param("2026-01-31T10:00", "2026-01-31T10:31:00", "2026-01-31T11:00", id="Saturday"),
    ],
)  # fmt: skip
def test_plan__interval(last: str | None, now: str, wanted: str) -> None:
    known = None if last is None else LastRun(rome(last), rome(last))
    assert plan(A1, known, rome(now), ROME, WINDOW).at == rome(wanted)


def run_of(day: str, *, code: int | None = 0, at: str = "19:00") -> LastRun:
    began = rome(f"{day}T{at}")
    return LastRun(rome(f"{day}T19:00"), began, None if code is None else began, code)


@pytest.mark.parametrize(
    ("last", "now", "wanted"),
    [
        pytest.param(run_of("2026-01-27"), "2026-01-28T18:59:59", "2026-01-28T19:00", id="18:59:59"),
        pytest.param(run_of("2026-01-27"), "2026-01-28T19:00:01", "2026-01-28T19:00", id="19:00:01, not yet"),
        pytest.param(run_of("2026-01-28"), "2026-01-28T19:00:01", "2026-01-29T19:00", id="19:00:01, done"),
        pytest.param(run_of("2026-01-27"), "2026-01-28T21:59:59", "2026-01-28T21:59", id="late, just so"),
        pytest.param(run_of("2026-01-27"), "2026-01-28T22:00:00", "2026-01-29T19:00", id="too late"),
        pytest.param(run_of("2026-01-28", code=75), "2026-01-28T19:00:30", "2026-01-28T19:10", id="again"),
        pytest.param(run_of("2026-01-28", code=None), "2026-01-28T19:01", "2026-01-28T19:10", id="was cut"),
        pytest.param(run_of("2026-01-28", code=2, at="21:55"), "2026-01-28T21:56", "2026-01-29T19:00",
                     id="no time left to try again"),
        pytest.param(run_of("2026-01-28"), "2026-01-28T16:00", "2026-01-29T19:00", id="clock set back hours"),
        pytest.param(run_of("2026-02-03"), "2026-01-28T16:00", "2026-01-28T19:00", id="clock set back days"),
        pytest.param(None, "2026-01-31T12:00", "2026-01-31T19:00", id="weekends too"),
    ],
)  # fmt: skip
def test_plan__daily(last: LastRun | None, now: str, wanted: str) -> None:
    assert plan(REPORT, last, rome(now), ROME, WINDOW).at == rome(wanted)


def test_plan__a_late_daily_run_keeps_its_planned_minute_and_its_date() -> None:
    run = plan(REPORT, None, rome("2026-01-28T20:15:30"), ROME, WINDOW)
    assert (run.at, run.planned_at) == (rome("2026-01-28T20:15"), rome("2026-01-28T19:00"))
    late = plan(Daily(time(23)), None, rome("2026-01-29T00:10"), ROME, WINDOW)
    assert late.at == rome("2026-01-29T23:00")
    assert timedelta(hours=3) == CATCH_UP
    assert timedelta(minutes=10) == DAILY_RETRY


def test_daily_instant__a_time_shown_twice_and_a_time_left_out() -> None:
    assert daily_instant(date(2026, 10, 25), time(2, 30), ROME).utcoffset() == timedelta(hours=2)
    assert daily_instant(date(2026, 3, 29), time(2, 30), ROME) == rome("2026-03-29T03:00")


def test_plan__the_night_the_clocks_go_back_has_one_report() -> None:
    schedule = Daily(time(2, 30))
    first = plan(schedule, None, rome("2026-10-25T02:30"), ROME, WINDOW)
    last = LastRun(first.planned_at, first.at, first.at, 0)
    again = plan(schedule, last, rome("2026-10-25T02:30", fold=1), ROME, WINDOW)
    assert again.at.date() == date(2026, 10, 26)


# --- once a week --------------------------------------------------------------------------------------------

DIGEST = Weekly(0, time(8))
"""2026-01-26 is a Monday."""


def digest_of(day: str, *, code: int | None = 0, at: str = "08:00") -> LastRun:
    began = rome(f"{day}T{at}")
    return LastRun(rome(f"{day}T08:00"), began, None if code is None else began, code)


@pytest.mark.parametrize(
    ("last", "now", "wanted"),
    [
        pytest.param(None, "2026-01-28T10:00", "2026-02-02T08:00", id="the week's day is over"),
        pytest.param(None, "2026-01-26T07:59:59", "2026-01-26T08:00", id="07:59:59"),
        pytest.param(digest_of("2026-01-19"), "2026-01-26T08:00:01", "2026-01-26T08:00", id="not yet"),
        pytest.param(digest_of("2026-01-26"), "2026-01-26T08:00:01", "2026-02-02T08:00", id="done"),
        pytest.param(digest_of("2026-01-19"), "2026-01-26T19:59:59", "2026-01-26T19:59", id="late, just so"),
        pytest.param(digest_of("2026-01-19"), "2026-01-26T20:00", "2026-02-02T08:00", id="too late"),
        pytest.param(digest_of("2026-01-26", code=75), "2026-01-26T08:00:30", "2026-01-26T08:10", id="again"),
        pytest.param(digest_of("2026-01-26", code=None), "2026-01-26T08:01", "2026-01-26T08:10",
                     id="was cut"),
        pytest.param(digest_of("2026-01-26", code=2, at="19:55"), "2026-01-26T19:56", "2026-02-02T08:00",
                     id="no time left to try again"),
        pytest.param(digest_of("2026-01-26"), "2026-01-26T05:00", "2026-02-02T08:00",
                     id="clock set back hours"),
        pytest.param(digest_of("2026-02-09"), "2026-01-26T05:00", "2026-01-26T08:00",
                     id="clock set back weeks"),
        pytest.param(digest_of("2026-01-26"), "2026-02-16T08:00", "2026-02-16T08:00", id="down for weeks"),
    ],
)  # fmt: skip
def test_plan__weekly(last: LastRun | None, now: str, wanted: str) -> None:
    assert plan(DIGEST, last, rome(now), ROME, WINDOW).at == rome(wanted)


@pytest.mark.parametrize(
    ("schedule", "last", "now", "wanted"),
    [
        pytest.param(Weekly(4, time(8)), "2026-01-26T08:00", "2026-01-28T09:00", "2026-02-06T08:00",
                     id="another day in a week that has had its run"),
        pytest.param(Weekly(0, time(20)), "2026-01-19T20:00", "2026-01-27T07:59", "2026-01-27T07:59",
                     id="caught up on the next date"),
        pytest.param(Weekly(6, time(20)), "2026-01-18T20:00", "2026-01-25T23:59", "2026-01-25T23:59",
                     id="the last minute of the week"),
        pytest.param(Weekly(6, time(20)), "2026-01-18T20:00", "2026-01-26T00:00", "2026-02-01T20:00",
                     id="never in another week"),
        pytest.param(Weekly(5, time(3)), None, "2026-01-31T02:00", "2026-01-31T03:00", id="off-hours too"),
    ],
)  # fmt: skip
def test_plan__weekly_edges(schedule: Weekly, last: str | None, now: str, wanted: str) -> None:
    known = None if last is None else LastRun(rome(last), rome(last), rome(last), 0)
    run = plan(schedule, known, rome(now), ROME, WINDOW)
    assert (run.at, run.rule) == (rome(wanted), "weekly")


def test_plan__a_late_weekly_run_keeps_its_planned_minute() -> None:
    run = plan(DIGEST, None, rome("2026-01-26T17:15:30"), ROME, WINDOW)
    assert (run.at, run.planned_at) == (rome("2026-01-26T17:15"), rome("2026-01-26T08:00"))
    assert timedelta(hours=12) == WEEKLY_CATCH_UP


def test_plan__weekly_on_the_nights_of_the_clock_changes() -> None:
    schedule = Weekly(6, time(2, 30))
    assert plan(schedule, None, rome("2026-03-28T12:00"), ROME, WINDOW).at == rome("2026-03-29T03:00")
    first = plan(schedule, None, rome("2026-10-25T02:30"), ROME, WINDOW)
    assert first.at.utcoffset() == timedelta(hours=2)
    last = LastRun(first.planned_at, first.at, first.at, 0)
    again = plan(schedule, last, rome("2026-10-25T02:30", fold=1), ROME, WINDOW)
    assert again.at.date() == date(2026, 11, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2037, 1, 1)),  # noqa: DTZ001 - hypothesis wants naive ones
    st.integers(0, 6),
    TIMES,
    st.lists(st.tuples(st.integers(1, 3 * 1440), st.sampled_from([0, 0, 75, None])), min_size=1, max_size=12),
    st.sampled_from(["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
)
def test_plan__weekly_is_once_a_week_whatever_happens(
    start: datetime, day: int, at: time, looks: list[tuple[int, int | None]], name: str
) -> None:
    """Awake now and then, each run ending well or not: what starts is due, of its week, and not done yet."""
    zone, schedule = ZoneInfo(name), Weekly(day, at)
    now, last, done = start.replace(tzinfo=UTC), None, set()
    for minutes, code in looks:
        now += timedelta(minutes=minutes)
        run = plan(schedule, last, now, zone, WINDOW)
        begins = run.planned_at.astimezone(UTC)
        week = run.planned_at.isocalendar()[:2]
        assert run.planned_at.weekday() == day or run.planned_at.time() != at, "or the clock jumped over it"
        assert timedelta(0) <= run.at.astimezone(UTC) - begins < WEEKLY_CATCH_UP
        assert run.at.isocalendar()[:2] == week
        assert week not in done
        assert run.at.astimezone(UTC) - now < timedelta(days=14, hours=2)
        if run.at.astimezone(UTC) <= now:
            last = LastRun(run.planned_at, now, None if code is None else now, code)
            if code == 0:
                done.add(week)


def test_timeline__a_weekly_task() -> None:
    start = rome("2026-10-19T08:00")
    runs = list(timeline({"w": DIGEST}, start, start + timedelta(days=21), ROME, WINDOW))
    assert [(run.at, run.rule) for _, run in runs] == [
        (rome("2026-10-26T08:00"), "weekly"), (rome("2026-11-02T08:00"), "weekly"),
        (rome("2026-11-09T08:00"), "weekly"),
    ]  # fmt: skip
