"""Predicts what happens to a campaign whose folder stays empty: the coming runs, and what they do. Pure.

It uses the rules of the runs; the e-mails, `explain` and `--simulate` use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from shared.base.values import MasterAssets, RetryStatus
from shared.rules.cadence import (
    A1_TO_A2_INTERVAL_MINUTES,
    Interval,
    LastRun,
    OffHours,
    is_off_hours,
    next_run,
    plan,
)
from shared.rules.retry import Action, RetryPolicy, auto_reset_at, count, decide, is_auto_reset_due

EMPTY = MasterAssets(None)
MOST_RUNS = 10_000
"""How many runs it looks ahead: more than a month, because later times are of no use."""
OVERDUE_AFTER = timedelta(minutes=10)
"""How late a run may be before it counts as missing."""
LONGEST_RUN = timedelta(hours=12)
"""For this long, the uploader's time limit, a run without an end counts as one that is under way; after that
as one that was killed.
"""
WEEK = timedelta(days=7)
WALKED = timedelta(days=10)
"""Only the runs of this many days before an instant are computed; earlier ones are skipped."""


@dataclass(frozen=True, slots=True)
class ComingRun:
    """The next run, computed from the last one.

    at: the minute that it is planned for, local; when a run is under way or overdue, as if that were over
    now. under_way_since: when a run began that has not ended. overdue_since: since when a run is missing.
    """

    at: datetime
    under_way_since: datetime | None = None
    overdue_since: datetime | None = None


def coming_run(last: LastRun, now: datetime, zone: ZoneInfo, window: OffHours) -> ComingRun:
    """The next run of the uploader. last: its last run that the orchestrator started."""
    at = plan(Interval(A1_TO_A2_INTERVAL_MINUTES), last, now, zone, window).at
    if last.finished_at is None and now - last.started_at < LONGEST_RUN:
        return ComingRun(at, under_way_since=last.started_at)
    due = next_run(A1_TO_A2_INTERVAL_MINUTES, last.planned_at, zone, window).at
    since = max(due.astimezone(UTC), (last.finished_at or last.started_at).astimezone(UTC))
    return ComingRun(at, overdue_since=since if now - since > OVERDUE_AFTER else None)


def runs_from(
    first: datetime, zone: ZoneInfo, window: OffHours, towards: datetime | None = None
) -> Iterator[datetime]:
    """The first run and all that follow it, without end. towards: a distant instant around which the runs
    matter; runs long before it are left out.

    With off-hours the runs of each day are at the same minutes, and without them they are evenly spaced, so
    the skipped runs do not change the later ones.
    """
    at = first
    if towards is not None and (far := towards - WALKED - first) > timedelta(0):
        interval = timedelta(minutes=A1_TO_A2_INTERVAL_MINUTES)
        at = (first.astimezone(UTC) + far // interval * interval).astimezone(zone)
    while True:
        yield at
        at = next_run(A1_TO_A2_INTERVAL_MINUTES, at, zone, window).at


def attempts_ahead(
    status: RetryStatus, policy: RetryPolicy, last_run: datetime, zone: ZoneInfo, window: OffHours
) -> Iterator[datetime]:
    """The runs in which an empty look counts as an attempt, up to the one of the permanent failure.

    status: after last_run, the minute that the latest run was planned for. It ends early after MOST_RUNS.
    """
    first = next_run(A1_TO_A2_INTERVAL_MINUTES, last_run, zone, window).at
    return attempts_of(status, policy, runs_from(first, zone, window))


@lru_cache(maxsize=64)
def attempts_to_come(
    status: RetryStatus, policy: RetryPolicy, last_run: datetime, zone: ZoneInfo, window: OffHours
) -> tuple[datetime, ...]:
    """The same as a tuple, computed once for all campaigns in the same state."""
    return tuple(attempts_ahead(status, policy, last_run, zone, window))


def attempts_of(status: RetryStatus, policy: RetryPolicy, runs: Iterable[datetime]) -> Iterator[datetime]:
    """The same for given runs. status: before the first of them."""
    for at in islice(runs, MOST_RUNS):
        if status.permanently_failed:
            return
        if decide(status, EMPTY, policy, at) is Action.COUNT_ATTEMPT:
            status, _attempt = count(status, policy, at)
            yield at


def auto_reset_of(
    status: RetryStatus, policy: RetryPolicy, runs: Iterable[datetime], zone: ZoneInfo, window: OffHours
) -> datetime | None:
    """The first of these runs that resets a permanently failed campaign by itself; None when none does:
    automatic resets are off or used up, or there are no office hours.
    """
    due = auto_reset_at(status, policy)
    if due is None:
        return None
    a_week_late: datetime | None = None
    for at in islice(runs, MOST_RUNS):
        if is_auto_reset_due(status, policy, at, is_off_hours=is_off_hours(at.astimezone(zone), window)):
            return at
        a_week_late = a_week_late or (at + WEEK if at >= due else None)
        if a_week_late is not None and at > a_week_late:
            return None
    return None
