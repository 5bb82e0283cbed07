"""Where a campaign stands, in words for people: since when, and what comes next. Pure.

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
    """One campaign's state. words: also what waits for it when it is in A1 again. since: None when nobody
    wrote that down. coming: what comes next.
    """

    state: State
    words: str
    since: datetime | None
    coming: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What it takes to judge a campaign's row.

    gone: the status of a campaign that the DAM no longer shows. zone: in which times are told.
    """

    policy: RetryPolicy
    status_a1: str
    gone: str
    zone: tzinfo
    now: datetime

    def standing(self, row: Mapping[str, Any]) -> Standing:
        """Where the campaign of this row stands. row: of status_all.sql, failed.sql or near_failure.sql."""
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
        return "permanently failed" if state is State.PERMANENTLY_FAILED else "at rest"

    def _coming(self, state: State, retry: RetryStatus) -> str:
        if retry.status == self.gone:
            return "nothing: the DAM does not show it"
        if retry.status not in (None, self.status_a1):
            return f"nothing while it is at {retry.status}"
        if state is State.PERMANENTLY_FAILED:
            by_itself = auto_reset_at(retry, self.policy)
            return (
                "nothing until it is reset"
                if by_itself is None
                else f"reset by itself {self.soon(by_itself)}"
            )
        if state is State.ERRING:
            return "tried again in each run"
        if state is State.DUE:
            return "looked at in each run" if retry.status else "looked at once it is in the DAM's list"
        number = count(retry, self.policy, self.now)[1].number
        following = f"attempt {number} of {max(number, self.policy.limit(retry))}"
        if state is State.SNOOZED:
            return f"{following} after the snooze"
        due = counts_from(retry, self.policy, self.now)
        return f"{following} in the next run" if due is None else f"{following} from {self.soon(due)}"

    def soon(self, instant: datetime) -> str:
        """A time that lies less than a year ahead."""
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
    """The retry state in a row; what was never counted is zero."""
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
