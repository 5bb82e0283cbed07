"""Where campaigns stand, in words: a table of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.report.state import State
from shared.report.states import Rules
from shared.rules.retry import RetryPolicy

ROME = ZoneInfo("Europe/Rome")
NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
RULES = Rules(RetryPolicy(), "A1", "GONE", ROME, NOW)
WAITS = Rules(RetryPolicy(delays=(3, 30)), "A1", "GONE", ROME, NOW)
BY_ITSELF = Rules(RetryPolicy(auto_reset_days=30), "A1", "GONE", ROME, NOW)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
FAILED = {"a1_retry_count": 3, "a1_permanently_failed": True, "a1_last_retry_at": NOW - DAY}
TWICE = {"a1_retry_count": 2, "a1_last_retry_at": NOW - 2 * MINUTE}
ERROR = {"error_kind": "DAM/forbidden", "error_since": NOW - DAY}
SNOOZED = {"a1_snoozed_until": NOW + 7 * DAY, "snoozed_at": NOW - MINUTE}


def row(**changes: Any) -> dict[str, Any]:
    names = ("a1_last_retry_at", "a1_failure_reason", "a1_max_retries", "a1_snoozed_until", "error_kind",
             "error_since", "snoozed_at")  # fmt: skip
    return {
        **{"campaign_id": "c1", "campaign_number": "C-1", "campaign_name": "Summer", "status": "A1"},
        **{"a1_retry_count": 0, "a1_permanently_failed": False, "a1_cycle": 1, "a1_auto_resets": 0},
        **dict.fromkeys(names), **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "changes", "wanted"),
    [
        pytest.param(RULES, {}, (State.DUE, "no attempts counted", "each run looks at it"), id="nothing"),
        pytest.param(
            RULES, TWICE, (State.EMPTY, "empty 2 of 3", "attempt 3 of 3 in the next run"), id="in retry"
        ),
        pytest.param(
            RULES, TWICE | {"a1_max_retries": 5},
            (State.EMPTY, "empty 2 of 5", "attempt 3 of 5 in the next run"), id="a limit of its own",
        ),
        pytest.param(
            RULES, TWICE | {"a1_max_retries": 1},
            (State.EMPTY, "empty 2 of 2", "attempt 2 of 2 in the next run"), id="a limit below the count",
        ),
        pytest.param(
            WAITS, TWICE,
            (State.WAITING, "empty 2 of 3, waiting", "attempt 3 of 3 from 30 Nov 10:28"), id="waiting",
        ),
        pytest.param(
            WAITS, TWICE | {"a1_last_retry_at": NOW - 30 * MINUTE},
            (State.EMPTY, "empty 2 of 3", "attempt 3 of 3 in the next run"), id="waited long enough",
        ),
        pytest.param(
            RULES, TWICE | SNOOZED,
            (State.SNOOZED, "snoozed until 07 Dec 10:00", "attempt 3 of 3 after the snooze"), id="snoozed",
        ),
        pytest.param(
            RULES, {"a1_snoozed_until": NOW}, (State.DUE, "no attempts counted", "each run looks at it"),
            id="a snooze that is over",
        ),
        pytest.param(
            RULES, FAILED, (State.PERMANENTLY_FAILED, "permanently failed", "nothing until it is reset"),
            id="failed",
        ),
        pytest.param(
            BY_ITSELF, FAILED,
            (State.PERMANENTLY_FAILED, "permanently failed", "reset by itself 29 Dec 10:00"),
            id="failed, reset by itself",
        ),
        pytest.param(
            BY_ITSELF, FAILED | {"a1_auto_resets": 3},
            (State.PERMANENTLY_FAILED, "permanently failed", "nothing until it is reset"),
            id="failed, reset by itself often enough",
        ),
        pytest.param(
            RULES, ERROR | TWICE, (State.ERRING, "error DAM/forbidden", "each run tries again"),
            id="erring",
        ),
        pytest.param(
            RULES, ERROR | FAILED,
            (State.PERMANENTLY_FAILED, "permanently failed", "nothing until it is reset"),
            id="failed counts before an error",
        ),
        pytest.param(
            RULES, FAILED | {"status": "B1"},
            (State.NOT_A1, "permanently failed", "nothing while it is in B1"), id="elsewhere",
        ),
        pytest.param(
            RULES, TWICE | {"status": "GONE"},
            (State.GONE, "empty 2 of 3", "nothing: the DAM does not show it"), id="gone",
        ),
        pytest.param(
            RULES, dict.fromkeys(("a1_retry_count", "a1_permanently_failed", "a1_cycle", "status")) | ERROR,
            (State.ERRING, "error DAM/forbidden", "each run tries again"), id="never read",
        ),
    ],
)  # fmt: skip
def test_standing__of_a_row(rules: Rules, changes: dict[str, Any], wanted: tuple[State, str, str]) -> None:
    standing = rules.standing(row(**changes))
    assert (standing.state, standing.words, standing.coming) == wanted


@pytest.mark.parametrize(
    ("changes", "since"),
    [(TWICE, NOW - 2 * MINUTE), (FAILED | SNOOZED, NOW - DAY), (ERROR, NOW - DAY), (SNOOZED, NOW - MINUTE)],
)
def test_since__is_when_the_state_began(changes: dict[str, Any], since: datetime) -> None:
    assert RULES.standing(row(**changes)).since == since
