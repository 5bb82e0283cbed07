"""Keeps the orchestrator's state in PostgreSQL, and decides which of several orchestrators is active.

While the database is away, the loop continues from memory, and writes later what it could not write.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from shared.base.commands import Commands
from shared.base.errors import ConfigError, DbError
from shared.base.values import Notice
from shared.database import ORCHESTRATOR_LOCK, Database
from shared.loop.memory import Memory, TaskRun
from shared.notices.outbox import Outbox
from shared.rules.alerts import Alerts
from shared.rules.cadence import LastRun
from shared.upkeep.schema import Schema
from shared.upkeep.totals import Total, Totals, task_run

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECONNECT_SECONDS = 15.0
"""How often it tries to reach the database again, or to get the lock that another orchestrator has."""
MOST_UNWRITTEN_RUNS = 1000
"""Runs of about two days. When the database is away for longer, the oldest are lost."""


class Journal:
    """The loop's side of the database.

    is_shared: for `--once`, where several orchestrators may be active, each on its own tasks.
    """

    def __init__(
        self,
        open_database: Callable[[], Database],
        reconnect_seconds: float = RECONNECT_SECONDS,
        *,
        is_shared: bool,
        commands: Commands,
    ) -> None:
        self._open_database = open_database
        self._commands = commands
        self._reconnect_seconds = reconnect_seconds
        self.is_shared = is_shared
        self._database: Database | None = None
        self._unwritten: deque[TaskRun] = deque(maxlen=MOST_UNWRITTEN_RUNS)
        self._uncounted: Counter[Total] = Counter()
        """Runs that are not in the totals for the metrics yet."""
        self._was_reached = False
        self._is_away_told = False
        self._retry_at = 0.0
        self._has_late_mail = False
        self.trouble = ""
        """The error by which the database was last lost."""
        self.holder: str | None = None
        """The active orchestrator, while this one is on standby."""

    @property
    def file(self) -> int | None:
        """The connection's socket, to watch; None without a connection."""
        return None if self._database is None else self._database.file

    @property
    def is_acting(self) -> bool:
        """Whether this orchestrator starts tasks. It also does so before it has reached the database: the
        tasks have locks of their own.
        """
        return self.holder is None

    @property
    def retry_at(self) -> float | None:
        """The monotonic second at which `attend` has something to do; None for never."""
        is_settled = self._database is not None and self.is_acting
        return None if is_settled else self._retry_at

    def attend(self, now: float) -> bool:
        """Connect, or try to get the lock, when it is time; True when this orchestrator has just got the
        lock.

        Raises ConfigError when the database lacks migrations, and DbError when it refuses us from the start.
        """
        if self.retry_at is None or now < self.retry_at:
            return False
        self._retry_at = now + self._reconnect_seconds
        try:
            self._database = self._database or self._connect()
            self._heed(self._holder_of_lock(self._database))
            if self.is_acting:
                self._write_late_runs(self._database)
            return self.is_acting
        except DbError as exc:
            if not self._was_reached and not exc.is_out_of_reach:
                raise
            self._lose(exc)
            return False

    def _connect(self) -> Database:
        database = self._open_database()
        try:
            Schema(database).ensure_migrated(self._commands)
        except (DbError, ConfigError):
            database.close()
            raise
        self._was_reached = True
        if self._is_away_told:
            logger.info("the database is back")
            self._is_away_told = False
        return database

    def _holder_of_lock(self, database: Database) -> str | None:
        """Take the orchestrator's lock; None when it is ours, else who has it."""
        if self.is_shared:
            return database.lock_or_holder(ORCHESTRATOR_LOCK, is_shared=True)
        return database.take_run(ORCHESTRATOR_LOCK)

    def _heed(self, holder: str | None) -> None:
        """Become active, or switch to standby; each change is logged once."""
        if holder is not None and self.is_acting:
            logger.info("on standby, because another orchestrator is active: %s", holder)
        elif holder is None and not self.is_acting:
            logger.info("this orchestrator is now the active one")
        self.holder = holder

    def _write_late_runs(self, database: Database) -> None:
        while self._unwritten:
            Memory(database).record_task_run(self._unwritten[0])
            self._unwritten.popleft()

    def check_connection(self) -> None:
        """Find out whether the server ended the connection, or another orchestrator has the lock."""
        if self._database is None:
            return
        self._ask(lambda database: database.ensure_alive(), None)
        if self._database is None:
            self._retry_at = 0.0

    def _lose(self, exc: DbError) -> None:
        """Log that the database is away: once, not at every try."""
        log = logger.debug if self._is_away_told else logger.warning
        log(
            "the database is away; the loop continues from memory: %s", exc, extra={"action": "database_away"}
        )
        self._is_away_told = True
        self.trouble = str(exc)
        self.close()

    def close(self) -> None:
        """Close the connection, which releases the locks."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def reopen(self, open_database: Callable[[], Database]) -> None:
        """Use this database address from now on."""
        self._open_database = open_database
        self._retry_at = 0.0
        self.close()

    def lock_task(self, task: str) -> bool:
        """Take the task's lock; False when another process has it, or the database is away."""
        return self._ask(lambda database: Memory(database).lock_task(task), False)

    def last_runs(self, tasks: Sequence[str], now: datetime) -> dict[str, LastRun]:
        """{task: its last run}; from memory while the database is away."""
        return self._ask(lambda database: Memory(database).last_task_runs(tasks, now), {})

    def alerts(self) -> dict[str, Alerts]:
        """{task: {ending: alert}}; from memory while the database is away."""
        return self._ask(lambda database: Memory(database).task_alerts(), {})

    def has_late_mail(self, before: datetime) -> bool:
        """Whether a notice from before then is undelivered; while the database is away, the last answer."""
        known = self._has_late_mail
        self._has_late_mail = self._ask(lambda database: Outbox(database).is_late(before), known)
        return self._has_late_mail

    def record(self, run: TaskRun) -> None:
        """Write the start or end of a run; later, when the database is away."""

        def write(database: Database) -> bool:
            Memory(database).record_task_run(run)
            return True

        if not self._ask(write, False):
            self._unwritten.append(run)
        if run.finished_at is not None:
            self._uncounted[task_run(run.task, run.exit_code)] += 1
            self._ask(self._count_runs, None)

    def _count_runs(self, database: Database) -> None:
        """Add the missing runs to the totals. What cannot be added now is added the next time."""
        try:
            self._uncounted = Counter(Totals(database).add(self._uncounted))
        except DbError as exc:
            if exc.is_out_of_reach:
                raise
            logger.warning("could not count runs in the metrics: %s", exc, extra={"action": "not_counted"})

    def save_alerts(
        self,
        task: str,
        alerts: Alerts,
        notice: Notice | None,
        also: Callable[[Database], object] = lambda _: None,
    ) -> bool:
        """Write a task's alerts and their notice in one transaction; False when the database is away, or
        another orchestrator is active: then it writes them. also: writes what else belongs to the notice.
        """
        if not self.is_acting:
            return False

        def write(database: Database) -> bool:
            with database.transaction():
                Memory(database).replace_task_alerts(task, alerts)
                if notice is not None:
                    Outbox(database).queue(notice)
                    also(database)
            return True

        return self._ask(write, False)

    def _ask(self, question: Callable[[Database], T], otherwise: T) -> T:
        """The database's answer, or the fallback while it is away."""
        if self._database is None:
            return otherwise
        try:
            return question(self._database)
        except DbError as exc:
            self._lose(exc)
            return otherwise
