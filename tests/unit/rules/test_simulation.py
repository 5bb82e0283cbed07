"""The simulation: told by hand, equal to deciding for each campaign in each run, and fast."""

from __future__ import annotations

import time as clocks
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.base.values import NoticeKind, RetryStatus
from shared.rules.cadence import Interval, OffHours, PlannedRun, is_off_hours, next_run, timeline
from shared.rules.outlook import attempts_ahead
from shared.rules.retry import (
    Action,
    RetryPolicy,
    count,
    decide,
    is_auto_reset_due,
    notice_for,
    reset,
)
from shared.rules.simulation import EMPTY, FULL, Event, Kind, Stuck, simulate

ROME = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
MONDAY = datetime(2026, 11, 30, 10, 0, tzinfo=ROME)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
SPRING = datetime(2026, 3, 28, 20, 0, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)


def runs_after(begin: datetime, length: timedelta) -> list[PlannedRun]:
    until = begin.astimezone(UTC) + length
    return [run for _, run in timeline({"a1_to_a2": Interval(3)}, begin, until, ROME, WINDOW)]


def naive(runs: Sequence[PlannedRun], campaigns: Sequence[Stuck], policy: RetryPolicy) -> Iterator[Event]:
    """As the runs do it: decide for each campaign in each run."""
    standing = {order: one.status for order, one in enumerate(campaigns)}
    for run in runs:
        now = run.at.astimezone(UTC)
        yield Event(now, run.rule, Kind.RUN)
        for order, one in enumerate(campaigns):
            if one.since > now or order not in standing:
                continue
            status = standing[order]
            is_off = is_off_hours(run.at, WINDOW)
            if is_auto_reset_due(status, policy, now, is_off_hours=is_off):
                status = reset(status, is_automatic=True)
                yield Event(now, run.rule, Kind.AUTO_RESET, status)
            found = FULL if one.files_at is not None and one.files_at <= now else EMPTY
            action = decide(status, found, policy, now)
            if action is Action.COUNT_ATTEMPT:
                status, attempt = count(status, policy, now)
                yield Event(now, run.rule, Kind.ATTEMPT, status, attempt)
                if attempt.permanently_failed:
                    yield Event(now, run.rule, Kind.PERMANENT_FAILURE, status, attempt)
                yield Event(now, run.rule, Kind.NOTICE, status, attempt, notice_for(attempt))
            standing[order] = status
            if action is Action.UPLOAD:
                yield Event(now, run.rule, Kind.UPLOADED, reset(status, is_automatic=False))
                del standing[order]


def told(events: Iterator[Event]) -> list[str]:
    """The events of campaigns, short: when by the office's clock, what, which attempt."""
    return [
        f"{event.at.astimezone(ROME):%a %H:%M} {event.kind}"
        + (f" {event.attempt.number}/{event.attempt.max_attempts}" if event.attempt else "")
        for event in events
        if event.status is not None
    ]


def test_simulate__a_cycle_with_waits_a_reset_by_itself_and_files() -> None:
    policy = RetryPolicy(delays=(3, 10), auto_reset_days=1)
    one = Stuck(RetryStatus("c"), MONDAY, files_at=MONDAY + DAY + 20 * MINUTE)
    assert told(simulate(runs_after(MONDAY - 3 * MINUTE, 2 * DAY), [one], policy)) == [
        "Mon 10:00 attempt 1/3", "Mon 10:00 notice 1/3",
        "Mon 10:03 attempt 2/3", "Mon 10:03 notice 2/3",
        "Mon 10:15 attempt 3/3", "Mon 10:15 permanent_failure 3/3", "Mon 10:15 notice 3/3",
        "Tue 10:15 auto_reset", "Tue 10:15 attempt 1/3", "Tue 10:15 notice 1/3",
        "Tue 10:18 attempt 2/3", "Tue 10:18 notice 2/3",
        "Tue 10:21 uploaded",
    ]  # fmt: skip


def test_simulate__limit_snooze_and_the_kinds_of_notices() -> None:
    snoozed = RetryStatus("c", max_retries=2, snoozed_until=MONDAY + 7 * MINUTE)
    events = list(simulate(runs_after(MONDAY - MINUTE, DAY), [Stuck(snoozed, MONDAY)], RetryPolicy()))
    assert told(iter(events)) == [
        "Mon 10:08 attempt 1/2", "Mon 10:08 notice 1/2",
        "Mon 10:11 attempt 2/2", "Mon 10:11 permanent_failure 2/2", "Mon 10:11 notice 2/2",
    ]  # fmt: skip
    assert [event.notice for event in events if event.notice] == [NoticeKind.RETRY, NoticeKind.PERMANENT]


def test_simulate__resets_by_itself_in_office_hours_only() -> None:
    """Failed on Friday: due on Sunday, done on Monday at the end of the window."""
    friday = datetime(2026, 11, 27, 21, 50, tzinfo=ROME)
    policy = RetryPolicy(1, auto_reset_days=2, auto_reset_cycles=1)
    events = simulate(runs_after(friday - MINUTE, 8 * DAY), [Stuck(RetryStatus("c"), friday)], policy)
    assert [line for line in told(events) if "notice" not in line and "permanent" not in line] == [
        "Fri 21:52 attempt 1/1", "Mon 05:00 auto_reset", "Mon 05:00 attempt 1/1",
    ]  # fmt: skip


def test_simulate__runs_are_those_of_the_timeline() -> None:
    runs = runs_after(MONDAY, 7 * DAY)
    events = list(simulate(runs, [], RetryPolicy()))
    assert [(event.at, event.rule) for event in events] == [
        (run.at.astimezone(UTC), run.rule) for run in runs
    ]
    assert list(simulate([], [Stuck(RetryStatus("c"), MONDAY)], RetryPolicy())) == []


@pytest.mark.parametrize("begin", [SPRING, AUTUMN])
@pytest.mark.parametrize("delays", [(), (3, 10), (30,), (60,), (61, 90)])
def test_simulate__says_what_the_mails_say_over_a_clock_change(
    begin: datetime, delays: tuple[int, ...]
) -> None:
    """`attempts_ahead` is what an e-mail tells of the attempts to come."""
    policy = RetryPolicy(12, delays)
    first = next_run(3, begin, ROME, WINDOW).at.astimezone(UTC)
    events = simulate(runs_after(begin, 3 * DAY), [Stuck(RetryStatus("c"), begin)], policy)
    attempts = [event for event in events if event.kind is Kind.ATTEMPT]
    assert len(attempts) == 12
    assert attempts[0].at == first
    assert attempts[0].status is not None
    ahead = attempts_ahead(attempts[0].status, policy, first, ROME, WINDOW)
    assert [at.astimezone(UTC) for at in ahead] == [event.at for event in attempts[1:]]


def instants(begin: datetime) -> st.SearchStrategy[datetime]:
    """About the time that is simulated; not always whole minutes, and by other clocks."""
    seconds = st.one_of(st.integers(-60, 4 * 24 * 60).map(lambda minutes: 60 * minutes),
                        st.integers(-3600, 4 * 24 * 3600))  # fmt: skip
    zones = st.sampled_from([UTC, ROME, ZoneInfo("America/New_York")])
    return st.builds(lambda ahead, zone: (begin + timedelta(seconds=ahead)).astimezone(zone), seconds, zones)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[PlannedRun], list[Stuck], RetryPolicy]:
    begin = draw(st.sampled_from([SPRING, AUTUMN, MONDAY.astimezone(UTC)]))
    policy = RetryPolicy(
        draw(st.integers(1, 5)),
        tuple(draw(st.lists(st.integers(1, 200), max_size=3))),
        draw(st.sampled_from([0, 1, 2])),
        draw(st.integers(1, 3)),
    )
    some = st.one_of(st.none(), instants(begin))
    status = st.builds(
        RetryStatus, st.just("c"), st.integers(0, 6), some, st.booleans(), cycle=st.integers(1, 3),
        max_retries=st.sampled_from([None, 1, 4]), snoozed_until=some, auto_resets=st.integers(0, 3),
    )  # fmt: skip
    campaigns = draw(st.lists(st.builds(Stuck, status, instants(begin), some), max_size=4))
    runs = runs_after(begin, timedelta(hours=draw(st.integers(0, 80))))
    return runs[:: draw(st.sampled_from([1, 1, 7]))], campaigns, policy


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_simulate__equals_deciding_for_each_campaign_in_each_run(
    world: tuple[list[PlannedRun], list[Stuck], RetryPolicy],
) -> None:
    assert list(simulate(*world)) == list(naive(*world))


def test_simulate__a_thousand_campaigns_over_a_month_in_no_time() -> None:
    policy = RetryPolicy(delays=(3, 10), auto_reset_days=5, auto_reset_cycles=2)
    campaigns = [Stuck(RetryStatus(str(n)), MONDAY + n * 7 * MINUTE) for n in range(1000)]
    runs = runs_after(MONDAY, 30 * DAY)
    began = clocks.process_time()
    found = Counter(event.kind for event in simulate(runs, campaigns, policy))
    assert clocks.process_time() - began < 2
    assert found[Kind.ATTEMPT] == found[Kind.NOTICE] == 9000
    assert found[Kind.AUTO_RESET] == 2000
