"""The retry rule: tables of cases, and what holds for every order of runs, resets, limits and snoozes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.base.values import Asset, Attempt, DamFolder, MasterAssets, NoticeKind, RetryStatus
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, OffHours, next_run
from shared.rules.outlook import attempts_ahead
from shared.rules.retry import (
    Action,
    RetryPolicy,
    auto_reset_at,
    count,
    counts_from,
    decide,
    is_auto_reset_due,
    notice_for,
    reset,
)

ROME = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
ROOT = DamFolder("f", "Master Assets", None)
FULL = MasterAssets("f", (Asset("a", "a.jpg", ROOT, 1, "1"),))
EMPTY = MasterAssets("f")
NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
USUAL = RetryPolicy()


@pytest.mark.parametrize(
    ("status", "found", "wanted"),
    [
        pytest.param(RetryStatus("c", permanently_failed=True), None, Action.SKIP, id="failed: not asked"),
        pytest.param(
            RetryStatus("c", permanently_failed=True), FULL, Action.SKIP, id="failed: files change nothing"
        ),
        pytest.param(RetryStatus("c"), FULL, Action.UPLOAD, id="files"),
        pytest.param(RetryStatus("c"), EMPTY, Action.COUNT_ATTEMPT, id="empty"),
        pytest.param(RetryStatus("c"), MasterAssets(None), Action.COUNT_ATTEMPT, id="no folder"),
        pytest.param(
            RetryStatus("c", snoozed_until=NOW + MINUTE), EMPTY, Action.SNOOZE, id="snoozed: nothing counts"
        ),
        pytest.param(
            RetryStatus("c", snoozed_until=NOW + MINUTE), FULL, Action.UPLOAD, id="snoozed: files go on"
        ),
        pytest.param(RetryStatus("c", snoozed_until=NOW), EMPTY, Action.COUNT_ATTEMPT, id="snooze is over"),
        pytest.param(
            RetryStatus("c", permanently_failed=True, snoozed_until=NOW + DAY), EMPTY, Action.SKIP,
            id="failed, and snoozed by plain SQL",
        ),
    ],
)  # fmt: skip
def test_decide__table(status: RetryStatus, found: MasterAssets | None, wanted: Action) -> None:
    assert decide(status, found, USUAL, NOW) is wanted


@pytest.mark.parametrize(
    ("delays", "attempts", "last", "waits_until"),
    [
        pytest.param((), 1, -1, None, id="no delays: each run counts"),
        pytest.param((3, 10), 0, None, None, id="the first attempt never waits"),
        pytest.param((3, 10), 1, -2, 1, id="attempt 2 waits 3 minutes"),
        pytest.param((3, 10), 1, -3, None, id="attempt 2, 3 minutes later"),
        pytest.param((3, 10), 2, -3, 7, id="attempt 3 waits 10"),
        pytest.param((3, 10), 2, -10, None, id="attempt 3, 10 minutes later"),
        pytest.param((3, 10), 7, -9, 1, id="the last delay repeats"),
        pytest.param((3,), 1, 5, None, id="a last attempt in the future holds nothing up"),
        pytest.param((3,), 1, None, None, id="reset by hand, and the time forgotten"),
    ],
)
def test_delays__table(
    delays: tuple[int, ...], attempts: int, last: int | None, waits_until: int | None
) -> None:
    """Minutes from now."""
    at = None if last is None else NOW + last * MINUTE
    status = RetryStatus("c", retry_count=attempts, last_retry_at=at)
    wanted = None if waits_until is None else NOW + waits_until * MINUTE
    policy = RetryPolicy(delays=delays)
    assert counts_from(status, policy, NOW) == wanted
    assert decide(status, EMPTY, policy, NOW) is (Action.COUNT_ATTEMPT if wanted is None else Action.WAIT)
    assert decide(status, FULL, policy, NOW) is Action.UPLOAD, "files that come are never kept waiting"


@pytest.mark.parametrize("late", [0.0, 0.4, 2.0, 29.0])
@pytest.mark.parametrize("earlier", [0.0, 0.4, 29.0])
def test_delays__whole_planned_minutes_are_compared(late: float, earlier: float) -> None:
    """A run begins some seconds into its minute, and by another clock some seconds before it."""
    first = NOW + timedelta(seconds=late)
    status = RetryStatus("c", retry_count=1, last_retry_at=first)
    again = NOW + 3 * MINUTE - timedelta(seconds=earlier)
    assert decide(status, EMPTY, RetryPolicy(delays=(3,)), again) is Action.COUNT_ATTEMPT


def test_delays__a_plain_reset_makes_the_wait_void() -> None:
    """People set the count to 0 and leave the time of the last attempt as it is."""
    status = RetryStatus("c", retry_count=0, last_retry_at=NOW - MINUTE)
    assert decide(status, EMPTY, RetryPolicy(delays=(60,)), NOW) is Action.COUNT_ATTEMPT


@pytest.mark.parametrize(
    ("begin", "delays", "wanted"),
    [
        ("2026-11-30T10:00", (), ["10:00", "10:03", "10:06"]),
        ("2026-11-30T10:00", (3, 10), ["10:00", "10:03", "10:15"]),
        ("2026-11-30T10:00", (3, 10, 30), ["10:00", "10:03", "10:15"]),
        ("2026-12-05T12:30", (3, 10), ["12:30", "13:30", "14:30"]),
        ("2026-10-25T01:00", (60,), ["01:00", "02:00", "02:00"]),
        ("2026-03-29T01:00", (60,), ["01:00", "03:00", "04:00"]),
    ],
)
def test_attempts_ahead__by_the_cadence(begin: str, delays: tuple[int, ...], wanted: list[str]) -> None:
    """From the run before the first attempt on; `wanted` in the office's time."""
    policy = RetryPolicy(delays=delays)
    first = datetime.fromisoformat(begin).replace(tzinfo=ROME)
    status, _ = count(RetryStatus("c"), policy, first)
    ahead = [first, *attempts_ahead(status, policy, first, ROME, WINDOW)]
    assert [f"{at:%H:%M}" for at in ahead] == wanted


@pytest.mark.parametrize(
    ("before", "limit", "number", "is_last"),
    [
        (0, None, 1, False), (2, None, 3, True), (0, 1, 1, True),
        (2, 1, 2, True), (2, 2, 2, True), (2, 5, 3, False),
    ],
)  # fmt: skip
def test_limit__at_or_below_the_count_makes_the_next_look_the_last(
    before: int, limit: int | None, number: int, is_last: bool
) -> None:
    status = RetryStatus("c", retry_count=before, max_retries=limit)
    after, attempt = count(status, USUAL, NOW)
    assert attempt == Attempt(number, True, is_last, limit or 3, 1)
    assert (after.retry_count, after.permanently_failed) == (number, is_last)


@pytest.mark.parametrize(
    ("days", "resets", "failed", "due", "is_off_hours", "wanted"),
    [
        pytest.param(0, 0, True, 100 * DAY, False, False, id="off"),
        pytest.param(30, 0, True, 30 * DAY, False, True, id="after 30 days"),
        pytest.param(30, 0, True, 30 * DAY - MINUTE, False, False, id="a minute too early"),
        pytest.param(30, 0, True, 30 * DAY, True, False, id="in office hours only"),
        pytest.param(30, 3, True, 100 * DAY, False, False, id="the cap"),
        pytest.param(30, 2, True, 30 * DAY, False, True, id="the last one below it"),
        pytest.param(30, 0, False, 100 * DAY, False, False, id="not failed"),
    ],
)
def test_auto_reset__table(
    days: int, resets: int, failed: bool, due: timedelta, is_off_hours: bool, wanted: bool
) -> None:
    status = RetryStatus(
        "c", retry_count=3, permanently_failed=failed, last_retry_at=NOW - due, auto_resets=resets
    )
    policy = RetryPolicy(auto_reset_days=days)
    assert is_auto_reset_due(status, policy, NOW, is_off_hours=is_off_hours) is wanted
    if days and failed and resets < 3:
        assert auto_reset_at(status, policy) == NOW - due + days * DAY
    else:
        assert auto_reset_at(status, policy) is None


def test_auto_reset__is_counted_and_a_persons_one_begins_anew() -> None:
    failed = RetryStatus(
        "c", retry_count=3, permanently_failed=True, last_retry_at=NOW, auto_resets=1, cycle=4
    )
    assert reset(failed, is_automatic=True) == RetryStatus("c", auto_resets=2, cycle=5)
    assert reset(failed, is_automatic=False) == RetryStatus("c", auto_resets=0, cycle=5)


@pytest.mark.parametrize("at", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_time__that_is_infinity_holds_nothing_up(at: datetime) -> None:
    """PostgreSQL knows infinity, and somebody may have written it."""
    waiting = RetryStatus("c", retry_count=1, last_retry_at=at)
    assert counts_from(waiting, RetryPolicy(delays=(3,)), NOW) is None
    failed = RetryStatus("c", retry_count=3, permanently_failed=True, last_retry_at=at)
    assert not is_auto_reset_due(failed, RetryPolicy(auto_reset_days=3), NOW, is_off_hours=True)
    auto_reset_at(failed, RetryPolicy(auto_reset_days=3))


def test_notice_for__one_kind_each() -> None:
    assert notice_for(Attempt(1, counted=True, permanently_failed=False)) is NoticeKind.RETRY
    assert notice_for(Attempt(3, counted=True, permanently_failed=True)) is NoticeKind.PERMANENT
    assert notice_for(Attempt(3, counted=False, permanently_failed=True)) is None


STEPS = st.one_of(
    st.just("run"),
    st.just("reset"),
    st.tuples(st.just("limit"), st.one_of(st.none(), st.integers(1, 6))),
    st.tuples(st.just("snooze"), st.integers(-5, 3 * 24 * 60)),
    st.tuples(st.just("clock"), st.integers(-3 * 60, 3 * 60)),
)


@given(
    steps=st.lists(STEPS, max_size=60),
    delays=st.lists(st.integers(1, 60), max_size=3),
    most=st.integers(1, 5),
    days=st.sampled_from([0, 1]),
)
def test_cycle__never_brings_more_than_its_notices(
    steps: list[str | tuple[str, int | None]], delays: list[int], most: int, days: int
) -> None:
    """Runs, resets, limits, snoozes and clocks that jump, in any order."""
    policy = RetryPolicy(most, tuple(delays), days)
    status, now, limits = RetryStatus("c"), NOW, [most]
    told: list[NoticeKind | None] = []

    def check() -> None:
        assert told.count(NoticeKind.RETRY) <= max(limits) - 1
        assert told.count(NoticeKind.PERMANENT) <= 1
        assert not told or NoticeKind.PERMANENT not in told[:-1], "nothing follows the permanent one"

    for step in steps:
        now = next_run(A1_TO_A2_INTERVAL_MINUTES, now, ROME, WINDOW).at
        match step:
            case "reset":
                if status.retry_count or status.permanently_failed:
                    status, told, limits = reset(status, is_automatic=False), [], [policy.limit(status)]
            case ("limit", int() | None as limit):
                status = replace(status, max_retries=limit)
                limits.append(policy.limit(status))
            case ("snooze", int() as minutes):
                status = replace(status, snoozed_until=now + minutes * MINUTE)
            case ("clock", int() as minutes):
                now += minutes * MINUTE
            case _:
                if is_auto_reset_due(status, policy, now, is_off_hours=False):
                    status, told, limits = reset(status, is_automatic=True), [], [policy.limit(status)]
                action = decide(status, EMPTY, policy, now)
                if action is Action.COUNT_ATTEMPT:
                    assert status.snoozed_until is None or now >= status.snoozed_until
                    status, attempt = count(status, policy, now)
                    told.append(notice_for(attempt))
        check()


def test_attempts_ahead__of_one_that_never_counts_ends() -> None:
    status = RetryStatus("c", snoozed_until=NOW + 20 * 365 * DAY)
    assert list(islice(attempts_ahead(status, USUAL, NOW, ROME, WINDOW), 1)) == []
