"""Simulates what runs will do with campaigns whose folders stay empty, by the rules of the runs. Pure.

It contains no rules of its own. It does not look at a campaign in each run: the rules say when another look
could change something, and the first run after that looks again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from heapq import heapify, heappop, heappush

from shared.base.values import Asset, Attempt, DamFolder, MasterAssets, NoticeKind, RetryStatus
from shared.rules.cadence import PlannedRun, Rule
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

EMPTY = MasterAssets("folder")
FULL = MasterAssets("folder", (Asset("asset", "a.jpg", DamFolder("folder", "", None), 1, "1"),))


class Kind(StrEnum):
    """The kinds of events, in the order in which one run causes them for one campaign."""

    RUN = "run"
    AUTO_RESET = "auto_reset"
    UPLOADED = "uploaded"
    ATTEMPT = "attempt"
    PERMANENT_FAILURE = "permanent_failure"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a run does, or the run itself.

    at: when the run begins, in UTC. rule: the one that allows the run. status: the campaign's state after it;
    None: the event is the run. attempt: for attempts, permanent failures and notices.
    """

    at: datetime
    rule: Rule
    kind: Kind
    status: RetryStatus | None = None
    attempt: Attempt | None = None
    notice: NoticeKind | None = None


@dataclass(frozen=True, slots=True)
class Stuck:
    """A campaign at the start of a simulation.

    since: when it was set to A1, empty. files_at: when its files arrive; None: never.
    """

    status: RetryStatus
    since: datetime
    files_at: datetime | None = None

    def holds(self, now: datetime) -> MasterAssets:
        """The content of its folder at that time."""
        return EMPTY if self.files_at is None or now < self.files_at else FULL


def simulate(runs: Sequence[PlannedRun], campaigns: Sequence[Stuck], policy: RetryPolicy) -> Iterator[Event]:
    """The events of these runs, ordered by time; those of one run in the order of the campaigns.

    runs: in order of time, each at a whole minute, as `cadence.timeline` has them.
    """
    instants = [run.at.astimezone(UTC) for run in runs]
    looks = [(bisect_left(instants, one.since), order, one.status) for order, one in enumerate(campaigns)]
    heapify(looks)
    for index, (run, now) in enumerate(zip(runs, instants, strict=True)):
        yield Event(now, run.rule, Kind.RUN)
        while looks and looks[0][0] == index:
            _, order, status = heappop(looks)
            events, status, again = _look(campaigns[order], status, policy, now, run.rule)
            yield from events
            if again is not None:
                heappush(looks, (max(index + 1, bisect_left(instants, again)), order, status))


def _look(
    stuck: Stuck, status: RetryStatus, policy: RetryPolicy, now: datetime, rule: Rule
) -> tuple[list[Event], RetryStatus, datetime | None]:
    """One run's look at one campaign: its events, the campaign's state afterwards, and the instant before
    which another look would do nothing; None: never. status: the state before the look.
    """
    events = []
    if is_auto_reset_due(status, policy, now, is_off_hours=rule == "off_hours"):
        status = reset(status, is_automatic=True)
        events.append(Event(now, rule, Kind.AUTO_RESET, status))
    match decide(status, stuck.holds(now), policy, now):
        case Action.UPLOAD:
            events.append(Event(now, rule, Kind.UPLOADED, reset(status, is_automatic=False)))
            return events, status, None
        case Action.SKIP:
            return events, status, auto_reset_at(status, policy)
        case Action.COUNT_ATTEMPT:
            status, attempt = count(status, policy, now)
            events.append(Event(now, rule, Kind.ATTEMPT, status, attempt))
            if attempt.permanently_failed:
                events.append(Event(now, rule, Kind.PERMANENT_FAILURE, status, attempt))
            events.append(Event(now, rule, Kind.NOTICE, status, attempt, notice_for(attempt)))
            return events, status, now
        case Action.WAIT:
            until = counts_from(status, policy, now)
        case Action.SNOOZE:
            until = status.snoozed_until
    return events, status, min(instant for instant in (until, stuck.files_at) if instant is not None)
