"""The loop: starts each task when it is due, one process each, and waits in between without polling.

Decisions are `cadence.plan` (when) and `alerts` (what is worth an e-mail); memory is `journal`; a run is a
`task_process`. This module waits, starts, ends, and tells.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

from shared.base.errors import AppError, ConfigError, ExitCode, NotifyError, gravest
from shared.base.logs import RUN_ID_VARIABLE, configure_logging, new_run_id, read_event, readable
from shared.base.redaction import redact, spellings
from shared.base.values import MailServer, Notice
from shared.database import Database
from shared.loop import service_manager
from shared.loop.heartbeat import Signal, ping
from shared.loop.journal import RECONNECT_SECONDS, Journal, Role
from shared.loop.memory import TaskRun
from shared.loop.messenger import Errand, Messenger
from shared.loop.service_manager import ServiceManager
from shared.loop.state_file import state_file
from shared.loop.task_process import Child
from shared.loop.wall_clock import WallClock
from shared.rules.alerts import (
    LATE_NOTICE,
    SILENCE_LIMIT,
    AlertNews,
    Alerts,
    after_failure,
    after_silence,
    after_success,
)
from shared.rules.cadence import (
    A1_TO_A2_INTERVAL_MINUTES,
    Daily,
    Interval,
    LastRun,
    PlannedRun,
    Schedule,
    next_run,
    plan,
)
from shared.settings import (
    OrchestratorSettings,
    find_env_file,
    report_variables,
    task_environment,
    uploader_variables,
)

logger = logging.getLogger("orchestrator")

SCRIPTS = Path(__file__).resolve().parents[2]
ROUND = "orchestrator --once"
"""The name of a round of cron's in the e-mail about it."""
STOPS = (signal.SIGTERM, signal.SIGINT)
LAST_WORDS_SECONDS = 20.0
"""How long messages may still take when the loop ends."""
LOOP_ANSWER_SECONDS = 10.0
"""How long the database may work on a question of the loop, which does nothing else meanwhile."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row of the table.

    script: below scripts/. limit: after which a run is asked to end; kill_after: how long it may then still
    take, so that the file in hand is finished. has_heartbeat: whether its runs are pinged.
    own_failures: exit codes of which the task itself has told people already. reads: the variables of ours
    that its script reads, and of which alone it is shown; None: all but those of the loop. silence: how long
    it may write nothing before people are told.
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
    silence: timedelta = SILENCE_LIMIT


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
    """What the loop knows of one task. level: of the last event that its run has logged."""

    last: LastRun | None = None
    child: Child | None = None
    run: TaskRun | None = None
    level: int = logging.INFO
    heartbeat_id: str = ""
    alerts: Alerts = field(default_factory=dict)


class Orchestrator:
    """The loop over a table of tasks. read_settings: raises ConfigError; asked at the start and on SIGHUP.

    env_file: read again at each start of a task, which is handed what it reads and nothing else.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        read_settings: Callable[[], OrchestratorSettings],
        *,
        env_file: Path | None = None,
        is_verbose: bool = False,
        environment: Mapping[str, str] = os.environ,
        clock: WallClock | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._read_settings = read_settings
        self._env_file = env_file
        self._is_verbose = is_verbose
        self._settings = read_settings()
        self.instance = new_run_id({})
        self._configure_log()
        own = service_manager.VARIABLES
        self._environment = {name: value for name, value in environment.items() if name not in own}
        self._clock = clock or WallClock()
        self._reconnect_seconds = reconnect_seconds
        self._service = ServiceManager(environment)
        self._messenger = Messenger()
        self._host = socket.gethostname()
        self._states = {name: _State() for name in self._tasks}
        self._signals = _Signals(self._clock)
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
        with self._signals:
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
                self._handle(self._wait())
                self._attend_children()
        self._end()
        return ExitCode.OK

    def run_once(self) -> int:
        """Run what is due now and leave: 0, or the gravest exit code of the runs."""
        self._journal = self._new_journal(is_shared=True)
        with self._signals:
            try:
                self._attend_journal()
            except AppError as exc:
                self._tell_of_round(exc.exit_code, str(exc))
                raise
            if self._journal.file is None:
                logger.error("without the database nobody knows what is due")
                self._tell_of_round(ExitCode.TRY_LATER, self._journal.trouble)
                return ExitCode.TRY_LATER
            self._tell_of_round(ExitCode.OK, "")
            if self._journal.role is not Role.ACTING:
                logger.warning("another orchestrator is at work: %s", self._journal.holder)
                return ExitCode.TRY_LATER
            self._start_due()
            if self._journal.file is None and not self._codes and not self._children():
                self._codes.append(ExitCode.TRY_LATER)  # it went away before anything was started
            while self._children():
                self._attend_journal()
                self._handle(self._wait())
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

    def _is_stopping(self) -> bool:
        """Whether a signal has asked to stop, from that moment on."""
        return self._signals.is_stop

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
            if planned.at <= self._clock.now() and not self._signals.is_stop:
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
        run = TaskRun(new_run_id({}), task.name, planned.planned_at, now, self._host)
        self._tell_of_missed_runs(task, state, planned)
        state.last = LastRun(run.planned_at, run.started_at)
        state.run, state.level = run, logging.INFO
        state.heartbeat_id = str(uuid4())
        try:
            file = find_env_file(self._env_file, self._environment)
            environment = task_environment(task.reads, self._environment, file)
            state.child = Child(
                [sys.executable, str(SCRIPTS / task.script), *task.arguments],
                environment | {RUN_ID_VARIABLE: run.run_id},
                limit=task.limit,
                kill_after=task.kill_after,
                started=self._clock.monotonic(),
            )
        except ConfigError as exc:
            for fault in exc.faults:
                logger.error("%s", fault, extra=_about(run, "bad_configuration"))
            self._journal.record(run)
            self._finish(task, state, ExitCode.BAD_CONFIG, f"exit code {ExitCode.BAD_CONFIG:d}", exc.faults)
            return
        except (OSError, ValueError) as exc:  # ValueError: a NUL byte in a variable
            logger.error("%s cannot be started: %s", task.name, exc, extra=_about(run, "task_not_started"))
            self._journal.record(run)
            self._finish(task, state, ExitCode.BUG, f"cannot be started: {exc}", [])
            return
        self._clock.watch(state.child.output, ("output", task.name))
        logger.info(
            "%s started: planned for %s (%s), process %d",
            task.name, _shown(planned.planned_at), planned.rule, state.child.pid,
            extra=_about(run, "task_started"),
        )  # fmt: skip
        if task.has_heartbeat:
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
            assert state.run is not None  # noqa: S101 - set by _start, as the child is
            done = child.enforce_limit(now)
            if done:
                logger.warning("%s: %s", task.name, done, extra=_about(state.run, "task_over_time"))
            elif now >= self._silent_at(task, child):
                self._tell_of_silence(task, state, child)

    @staticmethod
    def _silent_at(task: Task, child: Child) -> float:
        """The monotonic second at which people are to be told that a run writes nothing."""
        return math.inf if child.is_silence_told else child.heard_at + task.silence.total_seconds()

    def _tell_of_silence(self, task: Task, state: _State, child: Child) -> None:
        child.is_silence_told = True
        now = self._clock.now()
        since = now - timedelta(seconds=self._clock.monotonic() - child.heard_at)
        assert state.run is not None  # noqa: S101 - set by _start, as the child is
        shown = _shown(since.astimezone(self._settings.cadence.timezone))
        logger.warning(
            "%s has written nothing since %s: it may hang; process %d", task.name, shown, child.pid,
            extra=_about(state.run, "task_silent"),
        )  # fmt: skip
        if not self._stops:
            before = state.alerts
            state.alerts, news = after_silence(before, task.name, since, now)
            self._note_alerts(task, state, before, news, list(child.tail), now)

    def _log_output(self, task: Task, state: _State, lines: Sequence[str]) -> None:
        """Log each line once, as the event that it is, or as a further line of the event before it."""
        assert state.run is not None  # noqa: S101 - set by _start, as the child is
        about = _about(state.run)
        for line in lines:
            event = read_event(line)
            if event is None:
                if logger.isEnabledFor(state.level):
                    origin, text = logging.getLogger(task.name), line.removeprefix("  | ")
                    origin.log(state.level, "| %s", text, extra=about)
                continue
            state.level = event.levelno
            if logger.isEnabledFor(event.levelno):
                event.name = f"{task.name}.{event.name}"  # none of them passes for the loop's own
                vars(event).update(about)
                logger.handle(event)

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
            "%s done in %.1f s: %s; next at %s",
            task.name, (now - run.started_at).total_seconds(), ending, _shown(self._plan(task, state).at),
            extra={**_about(run, "task_done"), "exit_code": code},
        )  # fmt: skip
        if task.has_heartbeat:
            self._ping_end(state, code, ending, now)
        if not self._stops:  # what was cut short by a stop says nothing of the task
            self._note_outcome(task, state, code, ending, tail, now)
        if code != 0:
            self._deliver_outbox()

    def _note_outcome(
        self, task: Task, state: _State, code: int, ending: str, tail: Sequence[str], now: datetime
    ) -> None:
        before = state.alerts
        if code == 0 or code in task.own_failures:
            state.alerts, news = after_success(before, now)
        else:
            threshold = self._settings.alert_after_failures
            state.alerts, news = after_failure(before, task.name, ending, now, threshold=threshold)
        self._note_alerts(task, state, before, news, tail, now)

    def _note_alerts(
        self,
        task: Task,
        state: _State,
        before: Alerts,
        news: AlertNews | None,
        tail: Sequence[str],
        now: datetime,
    ) -> None:
        if state.alerts == before or not self._still_acts():
            return
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
            tail=[redact(line, self._redacted) for text in tail for line in readable(text).split("\n")],
            host=self._host,
            recipients=self._settings.mail.error_recipients,
            timezone=self._settings.cadence.timezone,
            now=now,
        )

    def _deliver_outbox(self) -> None:
        """Deliver what the outbox owes, in case the run that failed did not come to it."""
        settings, now = self._settings, self._clock.now

        def errand() -> bool:
            from shared.notices.delivery import deliver_due_notices
            from shared.notifier import Mailer

            name, is_stopping = "a1_to_a2 messenger", self._is_stopping
            with Database(settings.database.dsn, application_name=name, is_stopping=is_stopping) as database:
                mailer, timezone = Mailer(settings.mail.server), settings.cadence.timezone
                counts = deliver_due_notices(database, mailer, now(), timezone, settings.commands)
            # A refused login stays refused until somebody acts: the next run tries again, and says so.
            return counts.failed == 0 or bool(counts.faults)

        self._messenger.send(Errand(errand, key="outbox"))

    def _mail_directly(self, notice: Notice) -> None:
        """Without the outbox, because the database is away: that, too, must come to somebody's ears."""
        server = self._settings.mail.server

        def errand() -> bool:
            _hand_over(server, notice)
            return True

        self._messenger.send(Errand(errand))

    def _tell_of_round(self, code: int, said: str) -> None:
        """Tell people that a round found no database to work with: when that begins, once a day, and when it
        is over. There is no outbox then, and no memory but a file.
        """
        now = self._clock.now()
        name = f"once-{zlib.crc32(repr((SCRIPTS, str(self._env_file or ''))).encode()):08x}.json"
        with state_file(self._environment, name, is_made=code != 0) as memory:
            if memory is None and code == 0:
                return
            before = {} if memory is None else memory.read(now)
            if code == 0:
                alerts, news = after_success(before, now)
            else:
                alerts, news = after_failure(before, ROUND, f"exit code {code}", now, threshold=1)
            is_kept = memory is not None and (alerts == before or memory.write(alerts))
            # What cannot be remembered is told once an hour: never silent, and never each minute.
            if news is None or (not is_kept and now.minute):
                return
            try:
                _hand_over(self._settings.mail.server, self._compose(news, [said], now))
            except AppError as exc:
                logger.error("nobody could be told: %s", exc, extra={"action": "alert_failed"})
                if memory is not None:
                    memory.write(before)

    def _ping_end(self, state: _State, code: int, ending: str, now: datetime) -> None:
        """A run without an answer for somebody to act on is a success only while its mail goes out."""
        kind: Signal = "failure"
        if code in (ExitCode.SOME_FAILED, ExitCode.TRY_LATER):
            kind = "log"
        elif code == 0:
            kind = "success"
            if self._settings.heartbeat_url and self._journal.has_late_mail(now - LATE_NOTICE):
                kind, ending = "log", f"{ending}; e-mails have waited for more than an hour"
        self._ping(state, kind, ending)

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
        seconds = [
            min(child.deadline, self._silent_at(task, child)) - now for task, _, child in self._children()
        ]
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

    def _handle(self, keys: Sequence[object]) -> None:
        for key in keys:
            if key == "database":
                self._journal.check_connection()
            elif key == "signals":
                for number in self._signals.take():
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
        elif lines:
            state.child.heard_at = self._clock.monotonic()
            self._log_output(self._tasks[name], state, lines)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number in STOPS:
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
        ZoneInfo.clear_cache()  # the rules of time zones may have been upgraded
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
        return Database(
            self._settings.database.dsn,
            application_name=name,
            answer_seconds=LOOP_ANSWER_SECONDS,
            is_stopping=self._is_stopping,
        )

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
    """The signals that the loop obeys, as bytes in a pipe that it watches.

    is_stop: whether one of them asks to stop; known before the loop comes to it, so that what takes its time
    meanwhile (the database, say) starts nothing afterwards.
    """

    NUMBERS = (*STOPS, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self.is_stop = False

    def __enter__(self) -> _Signals:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._clock.watch(self._reader, "signals")
        self._previous_file = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note) for number in self.NUMBERS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # those that came while the process began
        return self

    def _note(self, number: int, _: object) -> None:
        self.is_stop |= number in STOPS

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


def _hand_over(server: MailServer, notice: Notice) -> None:
    """Give a notice to the mail server, past the outbox. Raises NotifyError when nobody gets it."""
    from shared.notifier import Mailer

    with Mailer(server) as mailer:
        refused = mailer.send(notice).refused
    if len(refused) == len(notice.recipients):
        raise NotifyError(f"every recipient was refused: {refused}", kind="rejected")


def _about(run: TaskRun, action: str | None = None) -> dict[str, str]:
    """The log's fields about a run: its own id takes the place of the loop's."""
    return {"task": run.task, "run_id": run.run_id, **({"action": action} if action else {})}


def _shown(instant: datetime) -> str:
    return instant.isoformat(timespec="minutes")
