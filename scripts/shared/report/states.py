"""Puts a campaign's state into words: since when, and what happens next. Pure.

The rules that decide in the runs decide here too (rules/retry.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from shared.base.values import RetryStatus
from shared.notices.wording import abbreviation
from shared.report.state import State, state_by_count
from shared.rules.retry import RetryPolicy, auto_reset_at, count, counts_from


@dataclass(frozen=True, slots=True)
class Standing:
    """One campaign's state. words: for a campaign outside A1, the state it has when it returns. since: None
    when it is not on record. coming: what happens next.
    """

    state: State
    words: str
    since: datetime | None
    coming: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that put a campaign's row into words.

    gone: the status of a campaign that the DAM no longer shows. zone: of the times in the words.
    """

    policy: RetryPolicy
    status_a1: str
    gone: str
    zone: tzinfo
    now: datetime

    def standing(self, row: Mapping[str, Any]) -> Standing:
        """The standing of this row's campaign. row: of status_all.sql, failed.sql or near_failure.sql."""
        retry = retry_status(row)
        state = self._state(retry, has_error=bool(row.get("error_kind")))
        shown = state
        if retry.status not in (None, self.status_a1):
            shown = State.GONE if retry.status == self.gone else State.NOT_A1
        return Standing(shown, self._words(state, retry, row), _since(state, row), self._coming(state, retry))

    def _state(self, retry: RetryStatus, *, has_error: bool) -> State:
        if retry.permanently_failed:
            return State.PERMANENTLY_FAILED
        if has_error:
            return State.ERRING
        return state_by_count(retry, self.policy, self.now)

    def _words(self, state: State, retry: RetryStatus, row: Mapping[str, Any]) -> str:
        if state is State.ERRING:
            return f"error {row['error_kind']}"
        if state is State.SNOOZED and retry.snoozed_until is not None:
            return f"snoozed until {self.soon(retry.snoozed_until)}"
        if state in (State.EMPTY, State.WAITING):
            spent = f"empty {retry.retry_count} of {max(self.policy.limit(retry), retry.retry_count)}"
            return f"{spent}, waiting" if state is State.WAITING else spent
        return "permanently failed" if state is State.PERMANENTLY_FAILED else "no attempts counted"

    def _coming(self, state: State, retry: RetryStatus) -> str:
        if retry.status == self.gone:
            return "nothing: the DAM does not show it"
        if retry.status not in (None, self.status_a1):
            return f"nothing while it is in {retry.status}"
        if state is State.PERMANENTLY_FAILED:
            by_itself = auto_reset_at(retry, self.policy)
            return (
                "nothing until it is reset"
                if by_itself is None
                else f"reset by itself {self.soon(by_itself)}"
            )
        if state is State.ERRING:
            return "each run tries again"
        if state is State.DUE:
            return "each run looks at it" if retry.status else "runs look once the DAM's search shows it"
        number = count(retry, self.policy, self.now)[1].number
        following = f"attempt {number} of {max(number, self.policy.limit(retry))}"
        if state is State.SNOOZED:
            return f"{following} after the snooze"
        due = counts_from(retry, self.policy, self.now)
        return f"{following} in the next run" if due is None else f"{following} from {self.soon(due)}"

    def soon(self, instant: datetime) -> str:
        """A time less than a year ahead."""
        return f"{instant.astimezone(self.zone):%d %b %H:%M}"

    def at(self, instant: datetime | None) -> str:
        """A time for a cell of a table; "" for none."""
        if instant is None:
            return ""
        local = instant.astimezone(self.zone)
        return f"{local:%Y-%m-%d %H:%M} {abbreviation(local)}"


def _since(state: State, row: Mapping[str, Any]) -> datetime | None:
    column = {State.ERRING: "error_since", State.SNOOZED: "snoozed_at"}.get(state, "a1_last_retry_at")
    since: datetime | None = row.get(column)
    return since


def retry_status(row: Mapping[str, Any]) -> RetryStatus:
    """The retry state in a row; a missing count is zero."""
    return RetryStatus(
        row["campaign_id"],
        retry_count=row["a1_retry_count"] or 0,
        last_retry_at=row["a1_last_retry_at"],
        permanently_failed=bool(row["a1_permanently_failed"]),
        failure_reason=row["a1_failure_reason"],
        campaign_number=row["campaign_number"] or "",
        campaign_name=row["campaign_name"] or "",
        status=row["status"],
        max_retries=row["a1_max_retries"],
        snoozed_until=row["a1_snoozed_until"],
        cycle=row["a1_cycle"] or 1,
        auto_resets=row["a1_auto_resets"] or 0,
    )
