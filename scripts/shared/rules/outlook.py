"""What is ahead of a campaign whose folder stays empty: when its attempts count. Pure.

The same rules decide in the runs; the e-mails, `explain` and `--simulate` read them from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

from shared.base.values import MasterAssets, RetryStatus
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, OffHours, next_run
from shared.rules.retry import Action, RetryPolicy, count, decide

EMPTY = MasterAssets(None)
MOST_RUNS = 50_000
"""So many runs are looked ahead, about four months: what lies behind that is not worth naming."""


def attempts_ahead(
    status: RetryStatus, policy: RetryPolicy, last_run: datetime, zone: ZoneInfo, window: OffHours
) -> Iterator[datetime]:
    """The runs whose empty look counts an attempt, up to the one that gives the campaign up.

    status: after last_run, the minute that the latest run was planned for. Ends early after MOST_RUNS.
    """
    at = last_run
    for _ in range(MOST_RUNS):
        if status.permanently_failed:
            return
        at = next_run(A1_TO_A2_INTERVAL_MINUTES, at, zone, window).at
        if decide(status, EMPTY, policy, at) is Action.COUNT_ATTEMPT:
            status, _attempt = count(status, policy, at)
            yield at
