"""The runs that are ahead: when the next one comes, and that a leap ahead leads to the same runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import dropwhile, islice, takewhile
from zoneinfo import ZoneInfo

import pytest

from shared.base.values import RetryStatus
from shared.rules.cadence import LastRun, OffHours
from shared.rules.outlook import (
    LONGEST_RUN,
    WALKED,
    ComingRun,
    attempts_ahead,
    attempts_of,
    auto_reset_of,
    coming_run,
    runs_from,
)
from shared.rules.retry import RetryPolicy

ROME = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
NOW = datetime(2026, 11, 30, 10, 16, 40, tzinfo=ROME)
AT = NOW.replace(minute=15, second=0)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
RAN = LastRun(AT, AT, AT + timedelta(seconds=4), 0)
RUNS_STILL = replace(RAN, finished_at=None, exit_code=None)


def utc(at: datetime) -> datetime:
    return at.astimezone(UTC)


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (RAN, ComingRun(AT + 3 * MINUTE)),
        (RUNS_STILL, ComingRun(AT + 3 * MINUTE, under_way_since=AT)),
        # It ended late: what it missed comes at once.
        (
            LastRun(AT - 30 * MINUTE, AT - 30 * MINUTE, NOW, 0),
            ComingRun(NOW.replace(second=0)),
        ),
        (
            LastRun(AT - 30 * MINUTE, AT - 30 * MINUTE, AT - 29 * MINUTE, 0),
            ComingRun(NOW.replace(second=0), overdue_since=utc(AT - 27 * MINUTE)),
        ),
        # Its orchestrator was killed under it, on Sunday at 22:13.
        (
            LastRun(AT - LONGEST_RUN - 2 * MINUTE, AT - LONGEST_RUN - 2 * MINUTE),
            ComingRun(NOW.replace(second=0), overdue_since=utc(datetime(2026, 11, 29, 23, 0, tzinfo=ROME))),
        ),
    ],
)
def test_coming_run__by_the_last_one(last: LastRun, wanted: ComingRun) -> None:
    assert coming_run(last, NOW, ROME, WINDOW) == wanted


@pytest.mark.parametrize("first", [AT, AT + MINUTE, AT + 13 * timedelta(hours=1) + 15 * MINUTE])
@pytest.mark.parametrize(
    "window",
    [
        WINDOW,
        replace(WINDOW, enabled=False),
        replace(WINDOW, days=frozenset({0, 1, 2, 3, 4, 5})),
        replace(WINDOW, extra_minutes=0, end=time(5, 1)),
    ],
)
def test_runs__after_a_leap_are_the_same(first: datetime, window: OffHours) -> None:
    towards = first + 40 * DAY
    walked = dropwhile(lambda at: at < towards, runs_from(first, ROME, window))
    leapt = list(takewhile(lambda at: at < towards + DAY, runs_from(first, ROME, window, towards)))
    assert leapt[0] >= towards - WALKED - 3 * MINUTE
    wanted = list(takewhile(lambda at: at < towards + DAY, walked))
    assert [at for at in leapt if at >= towards] == wanted


def test_attempts__of_given_runs_are_those_after_the_last_run() -> None:
    status, policy = RetryStatus("c", 1, AT), RetryPolicy(max_retries=4, delays=(3, 10))
    ahead = list(attempts_ahead(status, policy, AT, ROME, WINDOW))
    runs = runs_from(AT + 3 * MINUTE, ROME, WINDOW)
    assert list(attempts_of(status, policy, runs)) == ahead
    assert ahead == [AT + 3 * MINUTE, AT + 15 * MINUTE, AT + 27 * MINUTE]


def test_auto_reset__without_office_hours_never_comes() -> None:
    failed = RetryStatus("c", 3, AT, permanently_failed=True)
    always_off = replace(WINDOW, days=frozenset(range(7)))
    runs = runs_from(AT, ROME, always_off)
    assert auto_reset_of(failed, RetryPolicy(auto_reset_days=1), runs, ROME, always_off) is None
    assert next(runs) - AT < 10 * DAY, "it is soon known"
    assert auto_reset_of(failed, RetryPolicy(), islice(runs, 10), ROME, always_off) is None
