"""The only access to PostgreSQL: transactions, the run's lock and fence, and campaigns' retry state.

The statements for other tables are next to their use, in small classes that get the `Database`:
notices.outbox, loop.memory, upload.ledger and its neighbours, report.figures, upkeep.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.base.commands import Commands, here
from shared.base.errors import ConfigError, DbError, ExitCode, LockLostError, out_of_reach
from shared.base.queries import defaults, query
from shared.base.redaction import escape_line
from shared.base.values import Attempt, RetryStatus
from shared.postgres.connection import ANSWER_SECONDS, Answer, Connection
from shared.postgres.fence import TAKE_CAMPAIGN, TAKE_RUN, Fence
from shared.rules.retry import DEFAULT_MAX_RETRIES

logger = logging.getLogger(__name__)

DATABASE_FOLDER = Path(__file__).resolve().parents[2] / "database"
STALE_ANSWER_SECONDS = 0.1
"""When the answer about who has the run took longer than this, we ask again, a few times."""
STALE_ANSWERS = 3
LOCK_CLASS = 0xA1A2
"""First key of our advisory locks; the second key distinguishes them."""
UPLOADER_LOCK = 1
MIGRATION_LOCK = 2
ORCHESTRATOR_LOCK = 3
TASK_LOCK_CLASS = 0xA1A3
"""First key of the locks of single tasks; the second is computed from the task's name."""
MAIL_LOCK_CLASS = 0xA1A4
"""First key of the locks of single e-mails; the second is computed from the e-mail's id."""
WEBHOOK_LOCK_CLASS = 0xA1A5
"""First key of the locks of webhook targets; the second is computed from the target's name."""

_READ = re.compile(r"\s*SELECT\b")
"""A statement outside a transaction that begins differently counts as a write."""

TRY_LOCK = "SELECT pg_try_advisory_lock(%(lock_class)s, %(lock)s)"
TRY_SHARED_LOCK = "SELECT pg_try_advisory_lock_shared(%(lock_class)s, %(lock)s)"

# Who has an advisory lock, by the application_name that every run sets. Our role cannot see the address and
# the time of another role's session.
LOCK_HOLDER = """
SELECT a.application_name, a.pid, a.usename, coalesce(host(a.client_addr), 'local socket'), a.backend_start
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = %(lock_class)s AND l.objid = %(lock)s AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

APPLIED_MIGRATIONS = "SELECT name, sha256 FROM schema_migrations"

# Where the migrations are recorded when this session does not see them.
MIGRATIONS_ELSEWHERE = """
SELECT s.nspname, has_schema_privilege(s.oid, 'USAGE')
FROM pg_namespace s JOIN pg_class c ON c.relnamespace = s.oid
WHERE c.relname = 'schema_migrations' AND to_regclass('schema_migrations') IS NULL
  AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('name', 'sha256')) = 2
ORDER BY s.nspname LIMIT 1
"""

# The retry state of many campaigns at once; the columns may contain NULLs from before 003.
RETRY_STATES = """
SELECT campaign_id, coalesce(a1_retry_count, 0), a1_last_retry_at, coalesce(a1_permanently_failed, FALSE),
       a1_failure_reason, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       a1_max_retries, a1_snoozed_until, coalesce(a1_cycle, 1), coalesce(a1_auto_resets, 0)
FROM campaign_status WHERE campaign_id = ANY(%(campaign_ids)s)
"""

# Count one attempt: never above the maximum, never for a campaign that is permanently failed or was snoozed
# after the run read its state. A campaign's own limit at or below the count makes this attempt the last one.
# `rules.retry.count` is the same rule.
INCREMENT_A1_RETRY = """
INSERT INTO campaign_status AS c (campaign_id, campaign_number, campaign_name, status, a1_retry_count,
                                  a1_last_retry_at, a1_permanently_failed, a1_failure_reason)
VALUES (%(campaign_id)s, %(campaign_number)s, %(campaign_name)s, %(status)s,
        1, coalesce(%(at)s, now()), %(max)s <= 1, %(reason)s)
ON CONFLICT (campaign_id) DO UPDATE SET
    campaign_number = EXCLUDED.campaign_number,
    campaign_name = EXCLUDED.campaign_name,
    status = EXCLUDED.status,
    a1_retry_count = greatest(coalesce(c.a1_retry_count, 0),
                              least(coalesce(c.a1_retry_count, 0) + 1, coalesce(c.a1_max_retries, %(max)s))),
    a1_last_retry_at = EXCLUDED.a1_last_retry_at,
    a1_permanently_failed = coalesce(c.a1_retry_count, 0) + 1 >= coalesce(c.a1_max_retries, %(max)s),
    a1_failure_reason = EXCLUDED.a1_failure_reason,
    updated_at = now()
WHERE NOT coalesce(c.a1_permanently_failed, FALSE)
  AND NOT coalesce(c.a1_snoozed_until > EXCLUDED.a1_last_retry_at, FALSE)
RETURNING a1_retry_count, TRUE, a1_permanently_failed, coalesce(a1_max_retries, %(max)s),
          coalesce(a1_cycle, 1)
"""

ACT_AS = """
SELECT set_config('a1_to_a2.actor', %(actor)s, TRUE), set_config('a1_to_a2.source', %(source)s, TRUE),
       set_config('a1_to_a2.reason', %(reason)s, TRUE)
"""

# PostgreSQL ends a session, and its locks, a moment after the connection: a run that is started at once must
# not find the lock of the previous one.
UNLOCK_ALL = "SELECT pg_advisory_unlock_all()"

UNLOCK = "SELECT pg_advisory_unlock(%(lock_class)s, %(lock)s)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between the database and what we need. severity: 'fault', 'passing' or 'warning'."""

    severity: str
    what: str
    cure: str

    def __str__(self) -> str:
        return escape_line(f"{self.severity}  {self.what}; cure: {self.cure}")


class Database:
    """One connection, in autocommit: a statement outside `transaction()` is a transaction of its own.

    Any thread may call it: a transaction, or a statement, makes the other threads wait until it ends.

    dsn: a libpq connection string or postgresql:// URL. max_retries: A1_MAX_RETRIES. waits_for_disk: False
    for data that may be lost when the server itself crashes, because we would find it out again; a later
    commit that does wait writes it to disk too. answer_seconds: how long the server may work on a statement;
    None: no limit. idle_seconds: after which the server ends a transaction in which we do nothing; None:
    never. is_stopping: whether the process was asked to stop; then we wait for an answer only a few seconds
    longer. Raises DbError for every refusal of PostgreSQL; retryable when it was out of reach.
    """

    def __init__(
        self,
        dsn: str,
        max_retries: int = DEFAULT_MAX_RETRIES,
        *,
        application_name: str = "a1_to_a2",
        waits_for_disk: bool = True,
        answer_seconds: float | None = ANSWER_SECONDS,
        idle_seconds: float | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.max_retries = max_retries
        self._fence = Fence()
        self._lock = threading.RLock()
        self._is_own_session: bool | None = None
        self._connection = Connection(
            dsn,
            application_name=application_name,
            answer_seconds=answer_seconds,
            waits_for_disk=waits_for_disk,
            idle_seconds=idle_seconds,
            is_stopping=is_stopping,
        )

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        if self.epoch is not None and not self.is_closed:
            with suppress(DbError):
                self.execute(UNLOCK_ALL)
        self.close()

    def close(self) -> None:
        """Close the connection, which releases its advisory locks a moment later."""
        self._connection.close()

    @property
    def file(self) -> int:
        """The connection's socket, which is readable when the server ended the connection."""
        return self._connection.file()

    def ensure_alive(self) -> None:
        """Raise DbError when the connection is gone, LockLostError when a lock is gone, with or
        without it.
        """
        if self._fence.question:
            self.ensure_held()
        else:
            self.execute("SELECT 1")

    @property
    def is_closed(self) -> bool:
        """Whether the connection was closed or lost."""
        return self._connection.is_closed

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Use the connection alone. Waits for another thread as long as for an answer."""
        deadline = self._connection.deadline()
        while not self._lock.acquire(timeout=(pause := deadline.pause())):
            if pause == 0.0:
                raise out_of_reach(f"another thread has waited for an answer for {deadline.waited:.0f} s")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together or not at all. Transactions cannot be nested."""
        with self._turn():
            if self._connection.is_in_transaction:
                raise RuntimeError("a transaction is already open")
            self._connection.is_in_transaction = True
            try:
                self.execute(f"BEGIN;{self._fence.before_write}", self._fence.values or None)
                yield
                self.execute("COMMIT")
            except BaseException as exc:
                if not self.is_closed:
                    try:
                        self.execute("ROLLBACK")
                    except DbError as error:
                        logger.debug("the rollback failed; the server will do it: %s", error)
                        self.close()
                self._connection.is_in_transaction = False
                self._after(exc)
                raise
            self._connection.is_in_transaction = False

    # Single run, migrations

    def lock_or_holder(self, lock: int, *, is_shared: bool = False) -> str | None:
        """Take an advisory lock until this connection ends. None: it is ours; else who has it."""
        self.ensure_own_session()
        keys = {"lock_class": LOCK_CLASS, "lock": lock}
        if self.row(TRY_SHARED_LOCK if is_shared else TRY_LOCK, keys)[0]:
            return None
        return _who(self.rows(LOCK_HOLDER, keys))

    def try_lock(self, lock_class: int, name: str) -> bool:
        """Take the advisory lock of this name until `unlock`, or until this connection ends; False when
        another session has it.
        """
        return bool(self.row(TRY_LOCK, _named(lock_class, name))[0])

    def unlock(self, lock_class: int, name: str) -> None:
        """Release the lock of this name."""
        self.execute(UNLOCK, _named(lock_class, name))

    def take_run(self, lock: int) -> str | None:
        """Become the only run: take the lock, and check it in every write from now on. None: it is ours; else
        who has it.

        After this, a write raises LockLostError when another run has taken the lock, whatever happened to
        this connection's own.
        """
        self.ensure_own_session()
        self._fence = Fence()
        keys = {"lock_class": LOCK_CLASS, "lock": lock}
        rows = self.rows(TAKE_RUN, keys)
        if not rows:
            return _who(self.rows(LOCK_HOLDER, keys))
        self._fence = replace(self._fence, run=(lock, rows[0][0]))
        return None

    def take_campaign(self, campaign_id: str) -> Database:
        """Claim a campaign. Returns the same connection; its writes check that we still hold it.

        After this, a write of an earlier holder raises CampaignLostError.
        """
        epoch = self.row(TAKE_CAMPAIGN, {"campaign_id": campaign_id})[0]
        return self._with(replace(self._fence, campaign=(campaign_id, epoch)))

    def holding(self, holder: Database) -> Database:
        """The same connection; its writes check what another connection of this process holds."""
        return self._with(holder._fence)

    def _with(self, fence: Fence) -> Database:
        twin = copy(self)
        twin._fence = fence
        return twin

    @property
    def epoch(self) -> int | None:
        """The number of this connection's run; None when it has none."""
        return self._fence.run[1] if self._fence.run else None

    def ensure_held(self) -> None:
        """Call this right before an effect outside the database. Raises LockLostError when another run may be
        working: it has taken the lock, or our connection is gone, and the lock with it. Raises
        CampaignLostError when another run works on the campaign.
        """
        if not self._fence.question:
            return
        # A process that was frozen during the query gets an answer from before it was frozen.
        for _ in range(STALE_ANSWERS):
            asked_at = time.monotonic()
            self._ask_whether_held()
            if time.monotonic() - asked_at < STALE_ANSWER_SECONDS:
                return
        logger.debug("the database is slow to answer who has the run")

    def _ask_whether_held(self) -> None:
        try:
            answers = self.row(self._fence.question, self._fence.values)
        except DbError as exc:
            if not exc.is_out_of_reach:
                raise
            raise LockLostError(f"the connection with the run's lock is gone: {exc.message}") from exc
        loss = self._fence.loss(answers)
        if loss is not None:
            raise loss

    def ensure_own_session(self) -> None:
        """Call this before the first lock, because a lock belongs to a session. Raises ConfigError with a
        pooler that gives our session to others between two transactions; without a pooler it costs nothing.
        """
        if self._is_own_session is None:
            self._is_own_session = not self._connection.is_pooled or self._connection.keeps_session()
        if not self._is_own_session:
            raise ConfigError(
                "DATABASE_URL or DB_HOST: the connection pooler there gives our session, with the run's lock,"
                " to others between two transactions; use pool_mode = session (PgBouncer) for this"
                " database, or connect to PostgreSQL itself"
            )

    def applied_migrations(self) -> dict[str, str | None]:
        """{name: SHA-256, or None when psql applied it}; empty for a database without migrations."""
        try:
            return dict(self.rows(APPLIED_MIGRATIONS))
        except DbError as exc:
            if sqlstate(exc) == "42P01":
                return {}
            raise

    def pending_migrations(self) -> list[Path]:
        """The migration files that this database lacks, in order. Raises DbError when the record of
        migrations is in a schema that this session cannot see.
        """
        applied = self.applied_migrations()
        if not applied:
            for schema, is_usable in self.rows(MIGRATIONS_ELSEWHERE):
                raise DbError(
                    f"PostgreSQL: the product's tables are in the schema {schema}, "
                    + ("which is not on the search_path" if is_usable else "which this role may not use"),
                    kind="schema_differs" if is_usable else "no_right",
                    hint=f"see: {here().run('orchestrator-prod.py', '--check')}",
                )
        return [path for path in migration_files() if path.stem not in applied]

    def ensure_migrated(self, commands: Commands) -> None:
        """Raise ConfigError, with the command to run, when migrations are pending; otherwise as above."""
        pending = self.pending_migrations()
        if pending:
            raise ConfigError(commands.lacks(pending))

    # Retry state

    def get_a1_retry_status(self, campaign_id: str) -> RetryStatus:
        """The campaign's retry state; zeros when it has no row."""
        return self.get_a1_retry_states([campaign_id]).get(campaign_id, RetryStatus(campaign_id))

    def get_a1_retry_states(self, campaign_ids: Sequence[str]) -> dict[str, RetryStatus]:
        """The states of many campaigns with one statement; campaigns without a row are left out."""
        if not campaign_ids:
            return {}
        rows = self.rows(RETRY_STATES, {"campaign_ids": list(campaign_ids)})
        return {row[0]: RetryStatus(*row) for row in rows}

    def increment_a1_retry(
        self,
        campaign_id: str,
        campaign_number: str,
        campaign_name: str,
        reason: str,
        *,
        status: str = "A1",
        at: datetime | None = None,
    ) -> Attempt:
        """Count one attempt, atomically; the attempt that reaches the maximum marks the campaign as
        permanently failed.

        A campaign that is already permanently failed, or snoozed, is not changed (counted is False). at: when
        the run began, None: now.
        """
        rows = self.rows(
            INCREMENT_A1_RETRY,
            {
                "campaign_id": campaign_id,
                "campaign_number": campaign_number,
                "campaign_name": campaign_name,
                "status": status,
                "reason": reason,
                "max": self.max_retries,
                "at": at,
            },
        )
        if rows:
            return Attempt(*rows[0])
        standing = self.get_a1_retry_status(campaign_id)
        limit = standing.max_retries or self.max_retries
        return Attempt(standing.retry_count, False, standing.permanently_failed, limit, standing.cycle)

    def reset_a1_retry(self, campaign_id: str) -> bool:
        """Set the campaign back to attempt zero; False when it has no row."""
        return self.execute(query("reset"), {"ids": [campaign_id]}) == 1

    def act_as(self, actor: str, source: str, reason: str) -> None:
        """Set who makes the changes of this transaction, with what and why, for the history
        (migration 023).
        """
        self.row(ACT_AS, {"actor": actor, "source": source, "reason": reason})

    # Operators

    def differences(self, *, status_a1: str, status_a2: str) -> list[Difference]:
        """How this database differs from what the product needs, faults first."""
        values = {"status_a1": status_a1, "status_a2": status_a2, "max_retries": str(self.max_retries)}
        return [Difference(*row) for row in self.run_query("preflight", values)[1]]

    def run_query(self, name: str, values: Mapping[str, object]) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run `database/queries/NAME.sql`, which psql can run too; returns column names and rows."""
        answer = self._answer(query(name), {**defaults(name), **values})
        return answer.columns, answer.rows

    # Asking

    def row(self, sql: str, values: Mapping[str, object] | None = None) -> tuple[Any, ...]:
        """The first row of a statement that always has one."""
        return self.rows(sql, values)[0]

    def rows(self, sql: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement; %(name)s in it is replaced by a value."""
        return self._answer(sql, values).rows

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> int:
        """Run one statement; returns how many rows it changed."""
        return self._answer(sql, values).count

    def _answer(self, sql: str, values: Mapping[str, object] | None) -> Answer:
        """A write outside a transaction gets the fence before it. Both are sent together, and PostgreSQL runs
        them as one transaction.
        """
        with self._turn():
            if not (self._connection.is_in_transaction or _READ.match(sql)):
                sql = self._fence.before_write + sql
                values = {**(values or {}), **self._fence.values} or None
            try:
                return self._connection.execute(sql, values)
            except DbError as exc:
                self._after(exc)
                raise

    def _after(self, exc: BaseException) -> None:
        """After one lock that we could not get, wait less long: there are probably more."""
        if isinstance(exc, DbError) and exc.kind == "row_locked" and not self._connection.is_in_transaction:
            self._connection.wait_less_for_locks()


def _who(holders: Sequence[tuple[Any, ...]]) -> str:
    """Who has a lock, in words; holders: the rows of LOCK_HOLDER."""
    if not holders:
        return "a run that has just ended"
    name, pid, user, address, since = holders[0]
    if since is None:
        return f"{name} (server process {pid}, of the role {user})"
    return f"{name} (server process {pid}, from {address}, since {since:%Y-%m-%d %H:%M:%S %Z})"


def _named(lock_class: int, name: str) -> dict[str, int]:
    """The keys of a lock that has a name."""
    return {"lock_class": lock_class, "lock": zlib.crc32(name.encode()) >> 1}


def readiness(found: Iterable[Difference]) -> ExitCode:
    """The exit code for these findings: somebody must act, or wait, or all is well."""
    severities = {difference.severity for difference in found}
    if "fault" in severities:
        return ExitCode.BAD_CONFIG
    return ExitCode.TRY_LATER if "passing" in severities else ExitCode.OK


def migration_files() -> list[Path]:
    """The migrations in the order of their numbers."""
    return sorted((DATABASE_FOLDER / "migrations").glob("[0-9][0-9][0-9]_*.sql"))


def sqlstate(exc: DbError) -> str | None:
    """The SQLSTATE of the refusal behind the error."""
    return getattr(exc.__cause__, "pgcode", None)
