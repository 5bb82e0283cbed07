"""The codes of where a campaign stands, and which of them its count brings. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from shared.base.values import RetryStatus
from shared.rules.retry import RetryPolicy, counts_from


class State(StrEnum):
    """Where a campaign stands, by codes that are the same in text, JSON, page and metrics.

    A list of campaigns tells by their rows alone: UPLOADING, UNSEEN, UPLOADED and LOCK_DOUBTFUL are known to
    `explain` only, and are DUE or NOT_A1 there.

    DUE: in A1, and no attempt is counted. EMPTY: attempts are counted, and the next empty look counts too.
    WAITING: attempts are counted, and the next one waits. UNSEEN: in A1 by its row, and the search does not
    show it. NOT_A1: neither A1 nor brought to A2 by an upload. GONE: the DAM does not show it.
    """

    NEVER_SEEN = "never_seen"
    NOT_A1 = "not_a1"
    GONE = "gone"
    DUE = "due"
    EMPTY = "empty"
    WAITING = "waiting"
    SNOOZED = "snoozed"
    PERMANENTLY_FAILED = "permanently_failed"
    UNSEEN = "unseen"
    ERRING = "erring"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    LOCK_DOUBTFUL = "lock_doubtful"


def state_by_count(status: RetryStatus, policy: RetryPolicy, now: datetime) -> State:
    """Where a campaign in A1 stands that is neither given up nor fails: its count and its snooze decide."""
    if status.running_snooze(now) is not None:
        return State.SNOOZED
    if status.retry_count == 0:
        return State.DUE
    return State.EMPTY if counts_from(status, policy, now) is None else State.WAITING
