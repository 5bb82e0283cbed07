"""The loop: starts each task when it is due, one process each, and waits in between without polling.

Decisions are `cadence.plan` (when) and `alerts` (what is worth an e-mail); memory is `journal`; a run is a
`child`. This module waits, starts, ends, and tells.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from uuid import uuid4

from shared import service_manager
from shared.alerts import AlertNews, Alerts, after_failure, after_success
from shared.cadence import (
    A1_TO_A2_INTERVAL_MINUTES,
    Daily,
    Interval,
    LastRun,
    PlannedRun,
    Schedule,
    next_run,
    plan,
)
from shared.child import Child
from shared.database import Database, TaskRun
from shared.errors import ConfigError, ExitCode, NotifyError
from shared.heartbeat import Signal, ping
from shared.journal import RECONNECT_SECONDS, Journal, Role
from shared.logs import configure_logging
from shared.messenger import Errand, Messenger
from shared.models import Notice
from shared.redaction import redact, spellings
from shared.service_manager import ServiceManager
from shared.settings import (
    OrchestratorSettings,
    environment_for,
    report_variables,
    uploader_variables,
)
from shared.wall_clock import WallClock

logger = logging.getLogger("orchestrator")

SCRIPTS = Path(__file__).resolve().parents[1]
LAST_WORDS_SECONDS = 20.0
"""How long messages may still take when the loop ends."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row of the table.

    script: below scripts/. limit: after which a run is asked to end; kill_after: how long it may then still
    take, so that the file in hand is finished. has_heartbeat: whether its runs are pinged.
    own_failures: exit codes of which the task itself has told people already. reads: the variables of ours
    that its script reads, and of which alone it is shown; None: all but those of the loop.
    """

    name: str
    script: str
    schedule: Schedule
    limit: timedelta
    kill_after: timedelta = timedelta(minutes=1)
    arguments: tuple[str, ...] = ()
    has_heartbeat: bool = False
    own_failures: frozenset[int] = frozenset()
    reads: frozenset[str] | None = None


TASKS = (
    Task(
        "a1_to_a2",
        "a1_to_a2_box_uploader.py",
        Interval(A1_TO_A2_INTERVAL_MINUTES),
        limit=timedelta(hours=12),
        has_heartbeat=True,
        own_failures=frozenset({ExitCode.SOME_FAILED}),
        reads=uploader_variables(),
    ),
    Task(
        "daily_report",
        "daily_report.py",
        Daily(time_of_day(19, 0)),
        limit=timedelta(minutes=15),
        reads=report_variables(),
    ),
)
"""What the loop does. To add a task: a row here, and its script in scripts/ (RUN_ORCHESTRATOR.md)."""


@dataclass(slots=True)
class _State:
    """What the loop knows of one task."""

    last: LastRun | None = None
    child: Child | None = None
    run: TaskRun | None = None
    heartbeat_id: str = ""
    alerts: Alerts = field(default_factory=dict)


class Orchestrator:
    """The loop over a table of tasks. read_settings: raises ConfigError; asked at the start and on SIGHUP."""

    def __init__(
        self,
        tasks: Sequence[Task],
        read_settings: Callable[[], OrchestratorSettings],
        *,
        task_arguments: Sequence[str] = (),
        is_verbose: bool = False,
        environment: Mapping[str, str] = os.environ,
        clock: WallClock | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._read_settings = read_settings
        self._task_arguments = tuple(task_arguments)
        self._is_verbose = is_verbose
        self._settings = read_settings()
        self.instance = uuid4().hex[:12]
        self._configure_log()
        own = service_manager.VARIABLES
        self._environment = {name: value for name, value in environment.items() if name not in own}
        self._clock = clock or WallClock()
        self._reconnect_seconds = reconnect_seconds
        self._service = ServiceManager(environment)
        self._messenger = Messenger()
        self._host = socket.gethostname()
        self._states = {name: _State() for name in self._tasks}
        self._stops = 0
        self._codes: list[int] = []

    def _configure_log(self) -> None:
        log = self._settings.log
        level = "DEBUG" if self._is_verbose else log.level
        configure_logging(log.format, level, run_id=self.instance, secrets=self._settings.secrets)
        self._redacted = spellings(self._settings.secrets)

    # Running

    def run_forever(self) -> ExitCode:
        """Until SIGTERM or SIGINT; 0 then. Raises ConfigError when the database lacks migrations."""
        self._journal = self._new_journal(is_shared=False)
        with _Signals(self._clock) as signals:
            self._attend_journal()
            self._service.ready()
            logger.info(
                "started on %s, %s, process %d", self._host, self._settings.cadence.timezone, os.getpid(),
                extra={"action": "started"},
            )  # fmt: skip
            while not self._stops or self._children():
                self._attend_journal()
                if not self._stops and self._journal.role is Role.ACTING:
                    self._start_due()
                self._tell_service()
                self._handle(self._wait(), signals)
                self._attend_children()
        self._end()
        return ExitCode.OK

    def run_once(self) -> int:
        """Run what is due now and leave: 0, or the gravest exit code of the runs."""
        self._journal = self._new_journal(is_shared=True)
        with _Signals(self._clock) as signals:
            self._attend_journal()
            if self._journal.file is None:
                logger.error("without the database nobody knows what is due")
                return ExitCode.TRY_LATER
            if self._journal.role is not Role.ACTING:
                logger.warning("another orchestrator is at work: %s", self._journal.holder)
                return ExitCode.TRY_LATER
            self._start_due()
            while self._children():
                self._attend_journal()
                self._handle(self._wait(), signals)
                self._attend_children()
        self._end()
        return gravest(self._codes)

    def _new_journal(self, *, is_shared: bool) -> Journal:
        return Journal(
            self._open_database,
            self._reconnect_seconds,
            is_shared=is_shared,
            commands=self._settings.commands,
        )

    def _end(self) -> None:
        self._service.stopping()
        self._messenger.close(LAST_WORDS_SECONDS)
        self._journal.close()
        self._clock.close()
        logger.info("ended", extra={"action": "ended"})

    def _children(self) -> list[tuple[Task, _State, Child]]:
        return [
            (self._tasks[name], state, state.child)
            for name, state in self._states.items()
            if state.child is not None
        ]

    def _plan(self, task: Task, state: _State) -> PlannedRun:
        cadence = self._settings.cadence
        return plan(task.schedule, state.last, self._clock.now(), cadence.timezone, cadence.off_hours)

    def _start_due(self) -> None:
        for name, task in self._tasks.items():
            state = self._states[name]
            if state.child is not None or self._plan(task, state).at > self._clock.now():
                continue
            if not self._still_acts() or (self._journal.is_shared and not self._claim(name, state)):
                continue
            planned = self._plan(task, state)
            if planned.at <= self._clock.now():
                self._start(task, state, planned)

    def _still_acts(self) -> bool:
        """Whether no other orchestrator acts, by a look at the lock and not from memory: this process may
        have been frozen for long. With the database away the tasks' own locks must do.
        """
        self._journal.check_connection()
        self._attend_journal()
        return self._journal.role is Role.ACTING

    def _start(self, task: Task, state: _State, planned: PlannedRun) -> None:
        now = self._clock.now()
        run = TaskRun(uuid4().hex[:12], task.name, planned.planned_at, now, self._host)
        command = [sys.executable, str(SCRIPTS / task.script), *task.arguments, *self._task_arguments]
        self._tell_of_missed_runs(task, state, planned)
        state.last = LastRun(run.planned_at, run.started_at)
        state.run = run
        try:
            state.child = Child(
                command,
                environment_for(task.reads, self._environment),
                limit=task.limit,
                kill_after=task.kill_after,
                started=self._clock.monotonic(),
            )
        except OSError as exc:
            logger.error("%s cannot be started: %s", task.name, exc, extra={"action": "task_not_started"})
            self._journal.record(run)
            self._finish(task, state, ExitCode.BUG, f"cannot be started: {exc.strerror}", [])
            return
        self._clock.watch(state.child.output, ("output", task.name))
        logger.info(
            "%s[%s] started: planned for %s (%s), process %d",
            task.name, run.run_id, _shown(planned.planned_at), planned.rule, state.child.pid,
            extra={"action": "task_started", "task": task.name, "task_run": run.run_id},
        )  # fmt: skip
        if task.has_heartbeat:
            state.heartbeat_id = str(uuid4())
            self._ping(state, "start")
        self._journal.record(run)

    def _tell_of_missed_runs(self, task: Task, state: _State, planned: PlannedRun) -> None:
        if state.last is None or not isinstance(task.schedule, Interval) or task.schedule.is_exempt:
            return
        cadence = self._settings.cadence
        expected = next_run(
            task.schedule.minutes, state.last.planned_at, cadence.timezone, cadence.off_hours
        ).at.astimezone(UTC)
        if expected < planned.at.astimezone(UTC):
            logger.info(
                "%s: nothing ran from %s to %s (still running, machine asleep or orchestrator down);"
                " one run makes up for it", task.name, _shown(expected), _shown(planned.at),
                extra={"action": "runs_missed"},
            )  # fmt: skip

    # Children

    def _attend_children(self) -> None:
        now = self._clock.monotonic()
        for task, state, child in self._children():
            if child.has_ended():
                self._clock.forget(child.output)
                code, ending, lines = child.reap()
                self._log_output(task, state, lines)
                self._finish(task, state, code, ending, list(child.tail))
                continue
            done = child.enforce_limit(now)
            if done:
                logger.warning("%s[%s] %s", task.name, state.run.run_id if state.run else "", done)

    def _log_output(self, task: Task, state: _State, lines: Sequence[str]) -> None:
        run_id = state.run.run_id if state.run else ""
        for line in lines:
            logger.info("%s[%s] | %s", task.name, run_id, line, extra={"task": task.name, "task_run": run_id})

    def _finish(self, task: Task, state: _State, code: int, ending: str, tail: Sequence[str]) -> None:
        assert state.run is not None  # noqa: S101 - set by _start
        now = self._clock.now()
        run = replace(state.run, finished_at=now, exit_code=code, ending=ending)
        state.last = LastRun(run.planned_at, run.started_at, now, code)
        state.child = state.run = None
        self._codes.append(code)
        self._journal.record(run)
        logger.log(
            logging.INFO if code == 0 else logging.WARNING,
            "%s[%s] done in %.1f s: %s; next at %s",
            task.name, run.run_id, (now - run.started_at).total_seconds(), ending,
            _shown(self._plan(task, state).at),
            extra={"action": "task_done", "task": task.name, "task_run": run.run_id, "exit_code": code},
        )  # fmt: skip
        if task.has_heartbeat:
            signal_name: Signal = (
                "success" if code == 0 else "log" if code == ExitCode.TRY_LATER else "failure"
            )
            self._ping(state, signal_name, ending)
        if not self._stops:  # what was cut short by a stop says nothing of the task
            self._note_outcome(task, state, code, ending, tail, now)
        if code != 0:
            self._deliver_outbox()
        if isinstance(task.schedule, Daily):
            self._journal.prune(now)

    def _note_outcome(
        self, task: Task, state: _State, code: int, ending: str, tail: Sequence[str], now: datetime
    ) -> None:
        before = state.alerts
        if code == 0 or code in task.own_failures:
            state.alerts, news = after_success(before, now)
        else:
            threshold = self._settings.alert_after_failures
            state.alerts, news = after_failure(before, task.name, ending, now, threshold=threshold)
        if state.alerts == before or not self._still_acts():
            return
        self._note_alerts(task, state, news, tail, now)

    def _note_alerts(
        self, task: Task, state: _State, news: AlertNews | None, tail: Sequence[str], now: datetime
    ) -> None:
        notice = None if news is None else self._compose(news, tail, now)
        is_saved = self._journal.save_alerts(task.name, state.alerts, notice)
        if notice is not None:
            logger.warning("notice: %s", notice.subject, extra={"action": "task_alert"})
            if is_saved:
                self._deliver_outbox()
            elif self._still_acts():
                self._mail_directly(notice)

    # Telling

    def _compose(self, news: AlertNews, tail: Sequence[str], now: datetime) -> Notice:
        from shared.notifier import task_alert

        return task_alert(
            news,
            tail=[redact(line, self._redacted) for line in tail],
            host=self._host,
            recipients=self._settings.mail.error_recipients,
            timezone=self._settings.cadence.timezone,
            now=now,
        )

    def _deliver_outbox(self) -> None:
        """Deliver what the outbox owes, in case the run that failed did not come to it."""
        settings, now = self._settings, self._clock.now

        def errand() -> bool:
            from shared.notifier import Mailer
            from shared.outbox import deliver_due_notices

            with Database(settings.database.dsn, application_name="a1_to_a2 messenger") as database:
                mailer, timezone = Mailer(settings.mail.server), settings.cadence.timezone
                counts = deliver_due_notices(database, mailer, now(), timezone, settings.commands)
            return counts.failed == 0

        self._messenger.send(Errand(errand, key="outbox"))

    def _mail_directly(self, notice: Notice) -> None:
        """Without the outbox, because the database is away: that, too, must come to somebody's ears."""
        server = self._settings.mail.server

        def errand() -> bool:
            from shared.notifier import Mailer

            with Mailer(server) as mailer:
                refused = mailer.send(notice).refused
            if len(refused) == len(notice.recipients):
                raise NotifyError(f"every recipient was refused: {refused}", kind="rejected")
            return True

        self._messenger.send(Errand(errand))

    def _ping(self, state: _State, kind: Signal, text: str = "") -> None:
        url, run_id = self._settings.heartbeat_url, state.heartbeat_id

        def errand() -> bool:
            ping(url, kind, run_id, text)
            return True

        if url:
            self._messenger.send(Errand(errand))

    def _tell_service(self) -> None:
        if not self._service.is_there:
            return
        self._service.feed_watchdog()
        if self._journal.role is Role.STANDING_BY:
            self._service.status(f"standing by, {self._journal.holder} acts")
            return
        parts = [
            f"{name} running since {_shown(state.last.started_at)}"
            if state.child is not None and state.last is not None
            else f"{name} next at {_shown(self._plan(self._tasks[name], state).at)}"
            for name, state in self._states.items()
        ]
        self._service.status(("stopping; " if self._stops else "") + "; ".join(parts))

    # Waiting

    def _wait(self) -> list[object]:
        """Until something is due: a run, a time limit, the database, the watchdog; or something happens."""
        instants = [
            self._plan(self._tasks[name], state).at.astimezone(UTC)
            for name, state in self._states.items()
            if state.child is None and not self._stops and self._journal.role is Role.ACTING
        ]
        if self._journal.is_shared:
            instants = []  # one round: nothing is started any more
        now = self._clock.monotonic()
        seconds = [child.deadline - now for _, _, child in self._children()]
        if self._journal.retry_at is not None:
            seconds.append(self._journal.retry_at - now)
        if self._service.watchdog_seconds is not None:
            seconds.append(self._service.watchdog_seconds)
        file = self._journal.file
        if file is not None:
            self._clock.watch(file, "database")
        try:
            return list(
                self._clock.wait(min(instants, default=None), max(min(seconds), 0.0) if seconds else None)
            )
        finally:
            if file is not None:
                self._clock.forget(file)

    def _handle(self, keys: Sequence[object], signals: _Signals) -> None:
        for key in keys:
            if key == "database":
                self._journal.check_connection()
            elif key == "signals":
                for number in signals.take():
                    self._obey(number)
            elif isinstance(key, tuple):
                self._read_output(key[1])

    def _read_output(self, name: str) -> None:
        state = self._states[name]
        if state.child is None:
            return
        lines = state.child.read_lines()
        if lines is None:
            self._clock.forget(state.child.output)
        else:
            self._log_output(self._tasks[name], state, lines)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stops += 1
            is_first = self._stops == 1
            patience = self._settings.stop_seconds if is_first else 0.0
            for _, _, child in self._children():
                child.shorten(self._clock.monotonic() + patience, "the orchestrator was stopped")
            running = ", ".join(task.name for task, _, _ in self._children())
            logger.info(
                "stopping%s", f"; {running} may take {patience:.0f} s to finish" if running else "",
                extra={"action": "stopping"},
            )  # fmt: skip
            self._service.stopping()

    def _reload(self) -> None:
        self._service.reloading()
        try:
            settings = self._read_settings()
        except ConfigError as exc:
            for fault in exc.faults:
                logger.error("%s", fault, extra={"action": "bad_configuration"})
            logger.error("the settings stay as they were")
        else:
            is_moved = settings.database != self._settings.database
            self._settings = settings
            self._configure_log()
            if is_moved:
                self._journal.reopen(self._open_database)
            logger.info("the settings were read again", extra={"action": "reloaded"})
        self._service.ready()

    # Memory

    def _open_database(self) -> Database:
        name = f"a1_to_a2 orchestrator {self._host}:{os.getpid()}"[:63]
        return Database(self._settings.database.dsn, application_name=name)

    def _attend_journal(self) -> None:
        """Connect or take over when it is time; what another orchestrator did is known from then on."""
        is_ours = self._journal.attend(self._clock.monotonic())
        if self._journal.role is Role.STANDING_BY:
            for state in self._states.values():
                state.alerts = {}  # whoever acts counts now
        if not is_ours:
            return
        for name, last in self._journal.last_runs(list(self._tasks), self._clock.now()).items():
            self._learn(self._states[name], last)
        for name, alerts in self._journal.alerts().items():
            if name in self._states and not self._states[name].alerts:
                self._states[name].alerts = alerts

    @staticmethod
    def _learn(state: _State, last: LastRun) -> None:
        if state.last is None or state.last.started_at < last.started_at:
            state.last = last

    def _claim(self, name: str, state: _State) -> bool:
        """Among several `--once`: take the task's lock, and learn what its last holder did meanwhile."""
        if not self._journal.lock_task(name):
            logger.info("%s is still running, started by another process", name)
            return False
        for last in self._journal.last_runs([name], self._clock.now()).values():
            self._learn(state, last)
        return True


class _Signals:
    """The signals that the loop obeys, as bytes in a pipe that it watches."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock

    def __enter__(self) -> _Signals:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._clock.watch(self._reader, "signals")
        self._previous_file = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, lambda *_: None) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_file)
        self._clock.forget(self._reader)
        os.close(self._reader)
        os.close(self._writer)

    def take(self) -> bytes:
        """The numbers of the signals that came."""
        with suppress(BlockingIOError):
            return os.read(self._reader, 512)
        return b""


def gravest(codes: Sequence[int]) -> int:
    """One exit code for several runs: a bug before a bad configuration, before failures, before patience."""
    order = (ExitCode.BUG, ExitCode.BAD_CONFIG, ExitCode.SOME_FAILED, ExitCode.TRY_LATER)
    known = [code if code in order else ExitCode.BUG for code in codes if code != 0]
    return min(known, key=order.index) if known else ExitCode.OK


def _shown(instant: datetime) -> str:
    return instant.isoformat(timespec="minutes")
