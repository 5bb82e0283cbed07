"""Keeps the totals for the metrics, which never decrease, even when the counted rows are removed.

A forgotten transaction may have locked a row. So nothing here waits for a row, and nothing here is part of
another transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.base.errors import ExitCode
from shared.database import Database

# A row that another transaction has locked is skipped, and so is not among the returned rows.
ADD_TOTALS = """
INSERT INTO metric_totals (name, label)
SELECT * FROM unnest(%(names)s::text[], %(labels)s::text[]) AS added (name, label)
ON CONFLICT (name, label) DO NOTHING;
WITH free AS (
    SELECT t.name, t.label, added.value
    FROM metric_totals t
    JOIN unnest(%(names)s::text[], %(labels)s::text[], %(values)s::bigint[]) AS added (name, label, value)
        ON added.name = t.name AND added.label = t.label
    FOR UPDATE OF t SKIP LOCKED)
UPDATE metric_totals t SET value = t.value + free.value
FROM free WHERE t.name = free.name AND t.label = free.label
RETURNING t.name, t.label
"""

READ_TOTALS = "SELECT name, label, value FROM metric_totals"

KILLED = "killed"
OUTCOMES = {
    ExitCode.OK: "done",
    ExitCode.SOME_FAILED: "some_failed",
    ExitCode.TRY_LATER: "try_later",
    ExitCode.BAD_CONFIG: "bad_config",
    ExitCode.BUG: "bug",
}
"""{exit code: how the run of a task ended, in the metric's word}."""
TASK_OUTCOMES = (*OUTCOMES.values(), KILLED)


@dataclass(frozen=True, slots=True)
class Total:
    """One total. label: what distinguishes it; "" for none."""

    name: str
    label: str = ""


ATTEMPTS = Total("attempts")
TRANSFERRED_BYTES = Total("transferred_bytes")
BOX_THROTTLED = Total("box_throttled")
TASK_RUNS = "task_runs"
"""The name of the totals of runs, one for each task and outcome."""


def task_run(task: str, exit_code: int | None) -> Total:
    """The total in which a run of a task counts. exit_code: minus the signal's number when a signal ended it.

    An exit code that is not ours is a bug: Python itself ends with 1.
    """
    is_killed = exit_code is not None and exit_code < 0
    return Total(TASK_RUNS, f"{task}/{KILLED if is_killed else _outcome(exit_code)}")


def _outcome(exit_code: int | None) -> str:
    return next((word for code, word in OUTCOMES.items() if code == exit_code), OUTCOMES[ExitCode.BUG])


class Totals:
    """The table of totals, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, amounts: Mapping[Total, int]) -> dict[Total, int]:
        """Add to these totals, by one statement outside any transaction; returns what could not be added,
        because another transaction has locked its row.
        """
        values = {
            "names": [total.name for total in amounts],
            "labels": [total.label for total in amounts],
            "values": list(amounts.values()),
        }
        added = {Total(*row) for row in self._database.rows(ADD_TOTALS, values)}
        return {total: amount for total, amount in amounts.items() if total not in added}

    def read(self) -> dict[Total, int]:
        """All totals, without those that never counted anything."""
        return {Total(name, label): value for name, label, value in self._database.rows(READ_TOTALS)}
