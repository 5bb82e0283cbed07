"""Defines the table of tasks: what the loop starts, when, and how long a run may take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path

from shared.base.errors import ExitCode
from shared.rules.alerts import SILENCE_LIMIT
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, Daily, Interval, Schedule, Weekly
from shared.settings import ReportSettings, Settings, variables_of

SCRIPTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Task:
    """A row of the table.

    script: below scripts/, run with these arguments. limit: after which a run is asked to end; kill_after:
    how long it may then still take, so that it can finish the current file. has_heartbeat: whether its runs
    are pinged. own_failures: exit codes that the task itself has already reported to people. reads: the
    variables of ours that its script reads; it gets only these; None: all except those of the loop. silence:
    how long it may write nothing before people get an e-mail.
    """

    name: str
    script: str
    schedule: Schedule
    limit: timedelta
    kill_after: timedelta = timedelta(minutes=1)
    has_heartbeat: bool = False
    own_failures: frozenset[int] = frozenset()
    reads: frozenset[str] | None = None
    silence: timedelta = SILENCE_LIMIT
    arguments: tuple[str, ...] = ()


TASKS = (
    Task(
        "a1_to_a2",
        "a1_to_a2_box_uploader.py",
        Interval(A1_TO_A2_INTERVAL_MINUTES),
        limit=timedelta(hours=12),
        has_heartbeat=True,
        own_failures=frozenset({ExitCode.SOME_FAILED}),
        reads=variables_of(Settings),
    ),
    Task(
        "daily_report",
        "daily_report.py",
        Daily(time(19, 0)),
        limit=timedelta(minutes=15),
        reads=variables_of(ReportSettings),
    ),
)
"""The tasks of the loop. To add one: a row here, and its script in scripts/ (RUN_ORCHESTRATOR.md)."""


def tasks_with(digest: Weekly | None) -> tuple[Task, ...]:
    """The whole table. digest: when the weekly digest is sent; None: never."""
    if digest is None:
        return TASKS
    weekly = Task(
        "weekly_digest",
        "daily_report.py",
        digest,
        limit=timedelta(minutes=15),
        reads=variables_of(ReportSettings),
        arguments=("--weekly",),
    )
    return (*TASKS, weekly)
