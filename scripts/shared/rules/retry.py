"""The retry rule: decides what follows a look at a campaign's Master Assets folder. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum

from shared.base.values import Attempt, MasterAssets, NoticeKind, RetryStatus

DEFAULT_MAX_RETRIES = 3
"""Attempts in a cycle when A1_MAX_RETRIES is not set. This is the only place of the number."""
DEFAULT_AUTO_RESET_CYCLES = 3
LONGEST_SNOOZE = timedelta(days=90)
_HALF_A_MINUTE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How empty looks are counted.

    max_retries: attempts of a cycle, unless the campaign has a limit of its own. delays: minutes that attempt
    2, 3, … waits after the previous one, the last for all that follow; empty: each empty look counts.
    auto_reset_days: after this many days a permanently failed campaign begins a new cycle by itself; 0:
    never. auto_reset_cycles: at most this many times, until a person resets it.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    delays: tuple[int, ...] = ()
    auto_reset_days: int = 0
    auto_reset_cycles: int = DEFAULT_AUTO_RESET_CYCLES

    def limit(self, status: RetryStatus) -> int:
        """The attempts of one cycle of this campaign."""
        return self.max_retries if status.max_retries is None else status.max_retries


class Action(Enum):
    """What to do with an A1 campaign."""

    UPLOAD = "upload"
    COUNT_ATTEMPT = "count an attempt"
    WAIT = "too early to count"
    SNOOZE = "files are promised"
    SKIP = "skip until reset"


def decide(status: RetryStatus, found: MasterAssets | None, policy: RetryPolicy, now: datetime) -> Action:
    """Decide about one campaign from its retry state and the *proven* content of its folder.

    found is None before the DAM was asked: a permanently failed campaign is skipped without asking. A listing
    that could not be finished has raised an error and never gets here. So only a folder that is proven empty
    or missing spends an attempt. now: when the run began, which is the time of its attempts.
    """
    if status.permanently_failed or found is None:
        return Action.SKIP
    if found.assets:
        return Action.UPLOAD
    if status.running_snooze(now) is not None:
        return Action.SNOOZE
    return Action.COUNT_ATTEMPT if counts_from(status, policy, now) is None else Action.WAIT


def counts_from(status: RetryStatus, policy: RetryPolicy, now: datetime) -> datetime | None:
    """The minute from which an empty look counts again; None: it counts now.

    It compares whole planned minutes: an attempt is made some seconds into its run, and a wait of 3 minutes
    would otherwise end after the run 3 minutes later. A last attempt in the future was written by a clock
    that ran ahead; nothing waits for it.
    """
    if not policy.delays or status.retry_count == 0 or status.last_retry_at is None:
        return None
    this_minute = _planned_minute(now)
    delay = policy.delays[min(status.retry_count, len(policy.delays)) - 1]
    try:
        last = _planned_minute(status.last_retry_at)
        due = last + timedelta(minutes=delay)
    except OverflowError:  # infinity, set by hand
        return None
    return due if last <= this_minute < due else None


def _planned_minute(instant: datetime) -> datetime:
    """The minute that a run was planned for, from when it began: clocks differ by some seconds, both ways.

    In UTC: Python compares and adds two local times of one zone without regard to clock changes.
    """
    return (instant.astimezone(UTC) + _HALF_A_MINUTE).replace(second=0, microsecond=0)


def count(status: RetryStatus, policy: RetryPolicy, now: datetime) -> tuple[RetryStatus, Attempt]:
    """One more attempt, as `Database.increment_a1_retry` counts it in PostgreSQL.

    A limit at or below the count makes this attempt the last one, and the count stays.
    """
    limit = policy.limit(status)
    if status.permanently_failed:
        return status, Attempt(status.retry_count, False, True, limit, status.cycle)
    number = max(status.retry_count, min(status.retry_count + 1, limit))
    is_last = status.retry_count + 1 >= limit
    counted = replace(status, retry_count=number, last_retry_at=now, permanently_failed=is_last)
    return counted, Attempt(number, True, is_last, limit, status.cycle)


def reset(status: RetryStatus, *, is_automatic: bool) -> RetryStatus:
    """Back to attempt zero of the next cycle, as the reset statement and its trigger do it in PostgreSQL."""
    return replace(
        status,
        retry_count=0,
        last_retry_at=None,
        permanently_failed=False,
        failure_reason=None,
        cycle=status.cycle + 1,
        auto_resets=status.auto_resets + 1 if is_automatic else 0,
    )


def auto_reset_at(status: RetryStatus, policy: RetryPolicy) -> datetime | None:
    """When a permanently failed campaign begins a new cycle by itself, in office hours; None: never."""
    if not (status.permanently_failed and policy.auto_reset_days) or status.last_retry_at is None:
        return None
    if status.auto_resets >= policy.auto_reset_cycles:
        return None
    try:
        return _planned_minute(status.last_retry_at) + timedelta(days=policy.auto_reset_days)
    except OverflowError:  # infinity, set by hand
        return None


def days_until_again(status: RetryStatus, policy: RetryPolicy) -> int:
    """For how many days runs would skip the campaign if it failed permanently now; 0: until a person acts."""
    return policy.auto_reset_days if status.auto_resets < policy.auto_reset_cycles else 0


def is_auto_reset_due(status: RetryStatus, policy: RetryPolicy, now: datetime, *, is_off_hours: bool) -> bool:
    """Whether the run that begins now resets this campaign by itself."""
    due = auto_reset_at(status, policy)
    return due is not None and not is_off_hours and due <= _planned_minute(now)


def notice_for(attempt: Attempt) -> NoticeKind | None:
    """The one e-mail that an attempt makes; None when nothing was counted."""
    if not attempt.counted:
        return None
    return NoticeKind.PERMANENT if attempt.permanently_failed else NoticeKind.RETRY


def reason_for(found: MasterAssets, folder_name: str) -> str:
    """Why the attempt counted, in words for people."""
    if found.folder_id is None:
        return f'the campaign has no folder named "{folder_name}"'
    return f'the folder "{folder_name}" contains no usable files'
