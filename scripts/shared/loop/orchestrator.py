"""Runs the loop: starts each task when it is due, in a process of its own, and waits in between without
polling.

`rules/cadence` decides when, `task_runner` runs a task, `teller` sends e-mails and pings, `journal` keeps the
state. This module has the order of one turn (`Orchestrator._turn`), and the reaction to signals.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

from shared.base.errors import AppError, ConfigError, ExitCode, gravest
from shared.base.logs import configure_logging, new_run_id
from shared.database import Database
from shared.loop import service_manager
from shared.loop.context import Context
from shared.loop.journal import RECONNECT_SECONDS, Journal
from shared.loop.service_manager import ServiceManager
from shared.loop.signals import STOPS, Signals
from shared.loop.task_runner import TaskRunner
from shared.loop.tasks import Task
from shared.loop.teller import Teller
from shared.loop.wall_clock import Action, WallClock
from shared.settings import OrchestratorSettings, source_of

logger = logging.getLogger("orchestrator")

LOOP_ANSWER_SECONDS = 10.0
"""How long the database may work on a query of the loop, which waits for it."""


class Orchestrator:
    """The loop over the table of tasks that its settings define.

    read_settings: raises ConfigError; called at the start and on SIGHUP.
    env_file: read again at each start of a task, which only gets the variables that it reads.
    """

    def __init__(
        self,
        tasks_for: Callable[[OrchestratorSettings], Sequence[Task]],
        read_settings: Callable[[], OrchestratorSettings],
        *,
        env_file: Path | None = None,
        is_verbose: bool = False,
        environment: Mapping[str, str] = os.environ,
        clock: WallClock | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self._tasks_for = tasks_for
        self._read_settings = read_settings
        self._is_verbose = is_verbose
        self._signals = Signals()
        self._stops = 0
        self._is_round_begun = False
        self._service = ServiceManager(environment)
        settings = read_settings()
        own = service_manager.VARIABLES
        self._context = Context(
            settings=settings,
            clock=clock or WallClock(),
            journal=Journal(
                self._open_database, reconnect_seconds, is_shared=False, commands=settings.commands
            ),
            still_acts=self._still_acts,
            is_stopping=lambda: self._signals.is_stop,
            host=socket.gethostname(),
            env_file=env_file,
            environment={name: value for name, value in environment.items() if name not in own},
        )
        self._journal = self._context.journal
        self._clock = self._context.clock
        self._run_id = new_run_id({})
        self._configure_log()
        self._teller = Teller(self._context)
        self._runners = [TaskRunner(task, self._context, self._teller) for task in tasks_for(settings)]

    def _configure_log(self) -> None:
        log, secrets = self._context.settings.log, self._context.settings.secrets
        level = "DEBUG" if self._is_verbose else log.level
        configure_logging(log.format, level, run_id=self._run_id, secrets=secrets)
        logger.debug(
            "read the settings from %s",
            source_of(self._context.env_file),
            extra={"action": "settings_read"},
        )

    @property
    def running(self) -> list[TaskRunner]:
        """The tasks that are running."""
        return [runner for runner in self._runners if runner.child is not None]

    # Running

    def run_forever(self) -> ExitCode:
        """Run until SIGTERM or SIGINT; returns 0. Raises ConfigError when the database lacks migrations."""
        with self._signals:
            self._attend_journal()
            self._service.ready()
            logger.info(
                "started on %s, %s, process %d",
                self._context.host, self._context.settings.cadence.timezone, os.getpid(),
                extra={"action": "started"},
            )  # fmt: skip
            while not self._stops or self.running:
                self._turn()
        self._end()
        return ExitCode.OK

    def run_once(self) -> int:
        """Run what is due now; returns 0, or the most serious exit code of the runs."""
        self._journal.is_shared = True
        with self._signals:
            if not self._may_begin_round():
                return ExitCode.TRY_LATER
            self._start_due()
            self._is_round_begun = True
            # The database may have become unreachable before anything was started.
            is_lost = self._journal.file is None and not self.running
            while self.running:
                self._turn()
        self._end()
        codes = [runner.exit_code for runner in self._runners if runner.exit_code is not None]
        return gravest(codes or [ExitCode.TRY_LATER] * is_lost)

    def _may_begin_round(self) -> bool:
        """Whether the database answers, and no loop is active. When it does not answer, an e-mail
        goes out.
        """
        try:
            self._attend_journal()
        except AppError as exc:
            self._teller.round_began(exc.exit_code, str(exc))
            raise
        if self._journal.file is None:
            logger.error("without the database it is unknown what is due")
            self._teller.round_began(ExitCode.TRY_LATER, self._journal.trouble)
            return False
        self._teller.round_began(ExitCode.OK, "")
        if not self._journal.is_acting:
            logger.warning("another orchestrator is active: %s", self._journal.holder)
        return self._journal.is_acting

    def _turn(self) -> None:
        """Start what is due, wait until something happens, and handle it."""
        self._attend_journal()
        if self._may_start():
            self._start_due()
        self._tell_service()
        for act in self._wait():
            act()
        for runner in self.running:
            runner.attend()

    def _may_start(self) -> bool:
        return not self._stops and not self._is_round_begun and self._journal.is_acting

    def _start_due(self) -> None:
        for runner in self._runners:
            if not runner.is_due() or not self._still_acts():
                continue
            if self._journal.is_shared and not self._claim(runner):
                continue
            # The database may have changed the plan, and a stop signal may have come.
            if runner.is_due() and not self._signals.is_stop:
                runner.start()

    def _claim(self, runner: TaskRunner) -> bool:
        """With several `--once`: take the task's lock, and read what its last holder did in the meantime."""
        name = runner.task.name
        if not self._journal.lock_task(name):
            logger.info("%s is still running, started by another process", name)
            return False
        self._learn_last_runs([runner])
        return True

    def _wait(self) -> list[Action]:
        """Wait until a run, a time limit, the database or the watchdog is due, or a file can be read."""
        instants = [
            runner.plan().at.astimezone(UTC)
            for runner in self._runners
            if runner.child is None and self._may_start()
        ]
        seconds = [runner.attend_at - self._clock.monotonic() for runner in self.running]
        if self._journal.retry_at is not None:
            seconds.append(self._journal.retry_at - self._clock.monotonic())
        if self._service.watchdog_seconds is not None:
            seconds.append(self._service.watchdog_seconds)
        actions: dict[int, Action] = {self._signals.file: self._obey_signals}
        if self._journal.file is not None:  # readable: the server has ended the connection
            actions[self._journal.file] = self._journal.check_connection
        for file, action in actions.items():
            self._clock.watch(file, action)
        try:
            return self._clock.wait(min(instants, default=None), min(seconds, default=None))
        finally:
            for file in actions:
                self._clock.forget(file)

    def _end(self) -> None:
        self._service.stopping()
        self._teller.close()
        self._journal.close()
        self._clock.close()
        logger.info("ended", extra={"action": "ended"})

    def _tell_service(self) -> None:
        if not self._service.is_there:
            return
        self._service.feed_watchdog()
        if self._journal.is_acting:
            states = "; ".join(runner.state for runner in self._runners)
            self._service.status(("stopping; " if self._stops else "") + states)
        else:
            self._service.status(f"on standby, {self._journal.holder} is active")

    # Signals

    def _obey_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                self._reload()
            elif number in STOPS:
                self._stop()

    def _stop(self) -> None:
        """Let running tasks finish at the first signal, and end them at the second."""
        self._stops += 1
        patience = self._context.settings.stop_seconds if self._stops == 1 else 0.0
        until = self._clock.monotonic() + patience
        for runner in self.running:
            if runner.child is not None:
                runner.child.shorten(until, "the orchestrator was stopped")
        names = ", ".join(runner.task.name for runner in self.running)
        logger.info(
            "stopping%s", f"; {names} may take {patience:.0f} s to finish" if names else "",
            extra={"action": "stopping"},
        )  # fmt: skip
        self._service.stopping()

    def _reload(self) -> None:
        self._service.reloading()
        ZoneInfo.clear_cache()  # the rules of time zones may have been upgraded
        try:
            settings = self._read_settings()
        except ConfigError as exc:
            for fault in exc.faults:
                logger.error("%s", fault, extra={"action": "bad_configuration"})
            logger.error("the old settings stay in use")
        else:
            is_moved = settings.database != self._context.settings.database
            self._context.settings = settings
            self._configure_log()
            if is_moved:
                self._journal.reopen(self._open_database)
            self._change_table()
            logger.info("read the settings again", extra={"action": "reloaded"})
        self._service.ready()

    def _change_table(self) -> None:
        """Make the table match the settings. A task that is running stays, at least until the next reload."""
        tasks = {task.name: task for task in self._tasks_for(self._context.settings)}
        self._runners = [one for one in self._runners if one.task.name in tasks or one.child is not None]
        known = {runner.task.name for runner in self._runners}
        for runner in self._runners:
            runner.task = tasks.get(runner.task.name, runner.task)
        new = [
            TaskRunner(task, self._context, self._teller) for name, task in tasks.items() if name not in known
        ]
        self._runners += new
        self._learn_last_runs(new)

    # The database

    def _open_database(self) -> Database:
        return Database(
            self._context.settings.database.dsn,
            # PostgreSQL keeps only 63 bytes.
            application_name=f"a1_to_a2 orchestrator {self._context.host}:{os.getpid()}"[:63],
            answer_seconds=LOOP_ANSWER_SECONDS,
            is_stopping=self._context.is_stopping,
        )

    def _attend_journal(self) -> None:
        """Connect or become active when it is time; then read what another orchestrator did in
        the meantime.
        """
        has_taken_over = self._journal.attend(self._clock.monotonic())
        if not self._journal.is_acting:
            self._teller.forget()
        if not has_taken_over:
            return
        self._learn_last_runs(self._runners)
        self._teller.learn(self._journal.alerts())

    def _learn_last_runs(self, runners: Sequence[TaskRunner]) -> None:
        """Give these runners their last runs from the database."""
        by_name = {runner.task.name: runner for runner in runners}
        for name, last in self._journal.last_runs(list(by_name), self._clock.now()).items():
            by_name[name].learn(last)

    def _still_acts(self) -> bool:
        """Whether no other orchestrator is active, by the lock and not from memory: this process may
        have been frozen for long. While the database is away, the tasks' own locks must be enough.
        """
        self._journal.check_connection()
        self._attend_journal()
        return self._journal.is_acting
