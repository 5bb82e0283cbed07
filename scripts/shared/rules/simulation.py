"""What runs will do with campaigns whose folders stay empty, by the rules that the runs obey. Pure.

No rule stands here. A campaign is not looked at in each run: the rules say when another look could change
something, and it is looked at again in the first run from then on.
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
    """What an event is, in the order in which one run brings them for one campaign."""

    RUN = "run"
    AUTO_RESET = "auto_reset"
    UPLOADED = "uploaded"
    ATTEMPT = "attempt"
    PERMANENT_FAILURE = "permanent_failure"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a run does, or the run itself.

    at: when the run begins, in UTC. rule: the one that allows the run. status: where the campaign then
    stands; None: the event is the run. attempt: of attempts, permanent failures and notices.
    """

    at: datetime
    rule: Rule
    kind: Kind
    status: RetryStatus | None = None
    attempt: Attempt | None = None
    notice: NoticeKind | None = None


@dataclass(frozen=True, slots=True)
class Stuck:
    """A campaign as a simulation takes it up.

    since: from when on it is in A1, and empty. files_at: when its files arrive; None: never.
    """

    status: RetryStatus
    since: datetime
    files_at: datetime | None = None

    def holds(self, now: datetime) -> MasterAssets:
        """What its folder holds then."""
        return EMPTY if self.files_at is None or now < self.files_at else FULL


def simulate(runs: Sequence[PlannedRun], campaigns: Sequence[Stuck], policy: RetryPolicy) -> Iterator[Event]:
    """The events of these runs in order of time; those of one run in the order of the campaigns.

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
    """One run's look at one campaign: what comes of it, where the campaign then stands, and the instant
    before which another look would do nothing; None: for ever. status: where it stands before the look.
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
