"""The retry rule: what a look at a campaign's Master Assets folder leads to. Pure; no clock, no I/O."""

from __future__ import annotations

from enum import Enum

from shared.base.values import Attempt, MasterAssets, NoticeKind, RetryStatus

DEFAULT_MAX_RETRIES = 3
"""Attempts in a cycle when A1_MAX_RETRIES is not set. The number stands here only."""


class Action(Enum):
    """What to do with an A1 campaign."""

    UPLOAD = "upload"
    COUNT_ATTEMPT = "count an attempt"
    SKIP = "skip until reset"


def decide(status: RetryStatus, found: MasterAssets | None) -> Action:
    """Decide on one campaign from its retry state and what its folder *proved* to hold.

    found is None before the DAM was asked: a permanently failed campaign is skipped without asking.
    A listing that could not be finished has raised an error and never gets here. So only a folder that is
    proven to be empty or missing spends an attempt.
    """
    if status.permanently_failed or found is None:
        return Action.SKIP
    return Action.UPLOAD if found.assets else Action.COUNT_ATTEMPT


def notice_for(attempt: Attempt) -> NoticeKind | None:
    """The one e-mail that an attempt makes; None when nothing was counted."""
    if not attempt.counted:
        return None
    return NoticeKind.PERMANENT if attempt.permanently_failed else NoticeKind.RETRY


def reason_for(found: MasterAssets, folder_name: str) -> str:
    """Why the attempt counted, in words for people."""
    if found.folder_id is None:
        return f'the campaign has no folder named "{folder_name}"'
    return f'the folder "{folder_name}" holds no live assets'
