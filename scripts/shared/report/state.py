"""Defines the codes of a campaign's state, and decides between those that its count decides. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from shared.base.values import RetryStatus
from shared.rules.retry import RetryPolicy, counts_from


class State(StrEnum):
    """A campaign's state, by codes that are the same in text, JSON, page and metrics.

    A list of campaigns reads only their rows: only `explain` knows UPLOADING, UNSEEN, UPLOADED and
    LOCK_DOUBTFUL; a list shows DUE or NOT_A1 instead.

    DUE: in A1, and no attempt is counted. EMPTY: attempts are counted, and the next empty look counts too.
    WAITING: attempts are counted, and the next one must wait. UNSEEN: in A1 by its row, but the search does
    not show it. NOT_A1: not in A1, and no upload of ours set it to A2. GONE: the DAM does not show it.
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
    """The state of a campaign in A1 that neither is permanently failed nor has an error: by its count and
    snooze.
    """
    if status.running_snooze(now) is not None:
        return State.SNOOZED
    if status.retry_count == 0:
        return State.DUE
    return State.EMPTY if counts_from(status, policy, now) is None else State.WAITING
