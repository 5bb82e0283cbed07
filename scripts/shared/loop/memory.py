"""Reads and writes the loop's state in PostgreSQL: its tasks' runs, and the alerts about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from shared.database import TASK_LOCK_CLASS, Database
from shared.rules.alerts import Alerts, TaskAlert
from shared.rules.cadence import LastRun

# The last run of each task: one index lookup per task, however long the history.
LAST_TASK_RUNS = """
SELECT t.task, r.planned_at, r.started_at, r.finished_at, r.exit_code
FROM unnest(%(tasks)s::text[]) AS t (task) CROSS JOIN LATERAL (
    SELECT planned_at, started_at, finished_at, exit_code FROM orchestrator_task_runs
    WHERE task = t.task AND started_at <= %(now)s ORDER BY started_at DESC LIMIT 1) r
"""

RECORD_TASK_RUN = """
INSERT INTO orchestrator_task_runs (run_id, task, planned_at, started_at, finished_at, exit_code, ending,
                                    host)
VALUES (%(run_id)s, %(task)s, %(planned_at)s, %(started_at)s, %(finished_at)s, %(exit_code)s, %(ending)s,
        %(host)s)
ON CONFLICT (run_id) DO UPDATE SET
    finished_at = EXCLUDED.finished_at, exit_code = EXCLUDED.exit_code, ending = EXCLUDED.ending
"""

TASK_ALERTS = """
SELECT task, ending, failures, began_at, is_announced, last_notice_at FROM orchestrator_task_alerts
"""

DELETE_TASK_ALERTS = "DELETE FROM orchestrator_task_alerts WHERE task = %(task)s"

INSERT_TASK_ALERT = """
INSERT INTO orchestrator_task_alerts (task, ending, failures, began_at, is_announced, last_notice_at)
VALUES (%(task)s, %(ending)s, %(failures)s, %(began_at)s, %(is_announced)s, %(last_notice_at)s)
"""


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One run of a task by the orchestrator. exit_code: minus the signal's number when a signal ended it."""

    run_id: str
    task: str
    planned_at: datetime
    started_at: datetime
    host: str
    finished_at: datetime | None = None
    exit_code: int | None = None
    ending: str | None = None


class Memory:
    """The loop's tables, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_task(self, task: str) -> bool:
        """Take the lock of one task until this connection ends; False when another run has it."""
        return self._database.try_lock(TASK_LOCK_CLASS, task)

    def last_task_runs(self, tasks: Sequence[str], now: datetime) -> dict[str, LastRun]:
        """{task: its last run}, without tasks that never ran.

        A run in the future, because the clock was set back, is ignored.
        """
        rows = self._database.rows(LAST_TASK_RUNS, {"tasks": list(tasks), "now": now})
        return {row[0]: LastRun(*row[1:]) for row in rows}

    def record_task_run(self, run: TaskRun) -> None:
        """Record the start or the end of a run."""
        self._database.execute(RECORD_TASK_RUN, asdict(run))

    def task_alerts(self) -> dict[str, Alerts]:
        """{task: {ending: alert}} of all tasks that are failing."""
        found: dict[str, dict[str, TaskAlert]] = {}
        for row in self._database.rows(TASK_ALERTS):
            alert = TaskAlert(*row)
            found.setdefault(alert.task, {})[alert.ending] = alert
        return dict(found)

    def replace_task_alerts(self, task: str, alerts: Alerts) -> None:
        """Replace a task's alerts; inside a transaction, together with their notice."""
        self._database.execute(DELETE_TASK_ALERTS, {"task": task})
        for alert in alerts.values():
            self._database.execute(INSERT_TASK_ALERT, asdict(alert))
