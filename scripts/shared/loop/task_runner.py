"""Runs one task of the table: when it starts next, its process, and the record of its end."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from shared.base.env_file import find_env_file
from shared.base.errors import ConfigError, ExitCode
from shared.base.logs import RUN_ID_VARIABLE, new_run_id, read_event
from shared.loop.context import Context
from shared.loop.memory import TaskRun
from shared.loop.task_process import Child
from shared.loop.tasks import SCRIPTS, Task
from shared.loop.teller import Teller
from shared.rules.cadence import Interval, LastRun, PlannedRun, next_run, plan
from shared.settings import task_environment

logger = logging.getLogger("orchestrator")


class TaskRunner:
    """Runs one task, in one process at a time.

    last: its last run, started by any process; None when there was none. child: the running process.
    exit_code: of the last run that this process started; None before the first one has ended.
    """

    def __init__(self, task: Task, context: Context, teller: Teller) -> None:
        self.task = task
        self.last: LastRun | None = None
        self.child: Child | None = None
        self.exit_code: int | None = None
        self._context = context
        self._teller = teller
        self._run: TaskRun
        self._heartbeat_id: str
        self._level: int
        """Of the last event that the run logged; lines that are not events share it."""

    def plan(self) -> PlannedRun:
        """When it starts next, for a task that is not running."""
        cadence, now = self._context.settings.cadence, self._context.clock.now()
        return plan(self.task.schedule, self.last, now, cadence.timezone, cadence.off_hours)

    def is_due(self) -> bool:
        return self.child is None and self.plan().at <= self._context.clock.now()

    def learn(self, last: LastRun) -> None:
        """Set the last run, which another orchestrator may have started."""
        if self.last is None or self.last.started_at < last.started_at:
            self.last = last

    @property
    def state(self) -> str:
        """Its state, for the line that `systemctl status` shows."""
        if self.child is not None:
            return f"{self.task.name} running since {shown(self._run.started_at)}"
        return f"{self.task.name} next at {shown(self.plan().at)}"

    def start(self) -> None:
        """Start a run now, and record it; a run that cannot start ends at once."""
        planned = self.plan()
        self._log_missed_runs(planned)
        self._run = TaskRun(
            new_run_id({}), self.task.name, planned.planned_at, self._context.clock.now(), self._context.host
        )
        self.last = LastRun(self._run.planned_at, self._run.started_at)
        self._level, self._heartbeat_id = logging.INFO, str(uuid4())
        try:
            child = self._new_process()
        except ConfigError as exc:
            for fault in exc.faults:
                logger.error("%s", fault, extra=self._about("bad_configuration"))
            self._end(ExitCode.BAD_CONFIG, f"exit code {ExitCode.BAD_CONFIG:d}", exc.faults)
            return
        except (OSError, ValueError) as exc:  # ValueError: a NUL byte in a variable
            logger.error("%s cannot start: %s", self.task.name, exc, extra=self._about("task_not_started"))
            self._end(ExitCode.BUG, f"cannot start: {exc}", [])
            return
        self.child = child
        self._context.clock.watch(child.output, self._read_output)
        logger.info(
            "%s started: planned for %s (%s), process %d",
            self.task.name, shown(planned.planned_at), planned.rule, child.pid,
            extra=self._about("task_started"),
        )  # fmt: skip
        if self.task.has_heartbeat:
            self._teller.ping("start", self._heartbeat_id)
        self._context.journal.record(self._run)

    def _log_missed_runs(self, planned: PlannedRun) -> None:
        if self.last is None or not isinstance(self.task.schedule, Interval):
            return
        cadence = self._context.settings.cadence
        following = next_run(
            self.task.schedule.minutes, self.last.planned_at, cadence.timezone, cadence.off_hours
        )
        if following.at.astimezone(UTC) < planned.at.astimezone(UTC):
            logger.info(
                "%s: no run started from %s to %s (a run was still running, the machine asleep or the"
                " orchestrator stopped); one run now covers this time",
                self.task.name, shown(following.at), shown(planned.at),
                extra={"action": "runs_missed"},
            )  # fmt: skip

    def _new_process(self) -> Child:
        """Raises ConfigError for the env file, OSError and ValueError for a process that cannot start."""
        context, task = self._context, self.task
        env_file = find_env_file(context.env_file, context.environment)
        environment = task_environment(task.reads, context.environment, env_file)
        return Child(
            [sys.executable, str(SCRIPTS / task.script), *task.arguments],
            environment | {RUN_ID_VARIABLE: self._run.run_id},
            limit=task.limit,
            kill_after=task.kill_after,
            started=context.clock.monotonic(),
        )

    # The running process

    @property
    def attend_at(self) -> float:
        """The monotonic second at which `attend` has something to do, if the process does not end before."""
        return math.inf if self.child is None else min(self.child.deadline, self._silent_at(self.child))

    def attend(self) -> None:
        """Find out whether the process has ended, its time is over, or it has been silent for too long."""
        child, now = self.child, self._context.clock.monotonic()
        if child is None:
            return
        if child.has_ended():
            self._context.clock.forget(child.output)
            code, ending, lines = child.reap()
            self._log_output(lines)
            self.child = None
            self._end(code, ending, list(child.tail))
        elif done := child.enforce_limit(now):
            logger.warning("%s: %s", self.task.name, done, extra=self._about("task_over_time"))
        elif now >= self._silent_at(child):
            self._tell_of_silence(child)

    def _silent_at(self, child: Child) -> float:
        """The monotonic second at which people get an e-mail that the run has written nothing."""
        return math.inf if child.is_silence_told else child.heard_at + self.task.silence.total_seconds()

    def _tell_of_silence(self, child: Child) -> None:
        child.is_silence_told = True
        clock = self._context.clock
        since = clock.now() - timedelta(seconds=clock.monotonic() - child.heard_at)
        logger.warning(
            "%s has written nothing since %s: it may hang; process %d",
            self.task.name, shown(since.astimezone(self._context.settings.cadence.timezone)), child.pid,
            extra=self._about("task_silent"),
        )  # fmt: skip
        self._teller.run_is_silent(self.task, self._run.run_id, since, list(child.tail))

    def _read_output(self) -> None:
        if self.child is None:
            return
        lines = self.child.read_lines()
        if lines is None:
            self._context.clock.forget(self.child.output)
        elif lines:
            self.child.heard_at = self._context.clock.monotonic()
            self._log_output(lines)

    def _log_output(self, lines: Sequence[str]) -> None:
        """Log each line once, as an event or as a further line of the event before it."""
        for line in lines:
            event = read_event(line)
            if event is None:
                text = line.removeprefix("  | ")
                if logger.isEnabledFor(self._level):
                    logging.getLogger(self.task.name).log(self._level, "| %s", text, extra=self._about())
                continue
            self._level = event.levelno
            if logger.isEnabledFor(event.levelno):
                event.name = (
                    f"{self.task.name}.{event.name}"  # none of them can look like an event of the loop
                )
                vars(event).update(self._about())
                logger.handle(event)

    def _end(self, code: int, ending: str, tail: Sequence[str]) -> None:
        """Record the end of the run, and report it. tail: its last lines."""
        now = self._context.clock.now()
        run = replace(self._run, finished_at=now, exit_code=code, ending=ending)
        self.last = LastRun(run.planned_at, run.started_at, now, code)
        self.exit_code = code
        self._context.journal.record(run)
        logger.log(
            logging.INFO if code == 0 else logging.WARNING,
            "%s done in %.1f s: %s; next at %s",
            self.task.name, (now - run.started_at).total_seconds(), ending, shown(self.plan().at),
            extra={**self._about("task_done"), "exit_code": code},
        )  # fmt: skip
        if self.task.has_heartbeat:
            self._teller.ping_end(self._heartbeat_id, code, ending)
        self._teller.run_ended(self.task, self._run.run_id, code, ending, tail)

    def _about(self, action: str | None = None) -> dict[str, str]:
        """The log's fields about the run: its own id replaces the loop's."""
        about = {"task": self.task.name, "run_id": self._run.run_id}
        return about | {"action": action} if action else about


def shown(instant: datetime) -> str:
    return instant.isoformat(timespec="minutes")
