"""One connection to PostgreSQL, and every wait on it with an end.

psycopg2 in its asynchronous mode never waits by itself. The loop here does, until the server has answered,
the deadline has passed, or the process has been told to stop. So a server that takes a statement and never
answers (frozen, or waiting for a standby that is down) holds nobody up for much longer than ANSWER_SECONDS.
"""

from __future__ import annotations

import codecs
import logging
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, encodings, libpq_version, parse_dsn

from shared.base.errors import ConfigError, DbError, out_of_reach

if TYPE_CHECKING:
    from shared.postgres.refusals import Refusal

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long one address of the server may take to let us in; connect_timeout in DATABASE_URL wins."""
ANSWER_SECONDS = 60.0
"""How long the server may work on a statement (its statement_timeout)."""
GRACE_SECONDS = 5.0
"""How much later its answer may come, before the connection counts as lost."""
STOP_SECONDS = 3.0
"""How long an answer may still take once the process has been told to stop."""
LOCK_SECONDS = 5.0
"""How long a statement may wait for a lock of somebody else."""
SHORT_LOCK_SECONDS = 0.25
"""The same after a first wait in vain: a thousand locked rows must not cost an hour."""
UNACKNOWLEDGED_SECONDS = 30
"""How long sent bytes may stay unacknowledged, on either side, before the connection counts as lost."""
LOOK_SECONDS = 2.0
"""How long a look at who blocks us may take."""
STOP_POLL_SECONDS = 0.25
POOLER_GUESTS = 4
"""How many may be given another process of a pooler before ours counts as kept."""
TRIES = 4
"""How often a statement is sent that PostgreSQL gives up for the sake of another transaction."""

# Our session's own, whatever a role's or a server's defaults are. A host of ours that vanishes with a lock in
# hand (power, network) is noticed by the server within a minute; its own default is hours.
_SESSION = {
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": f"{UNACKNOWLEDGED_SECONDS}s",
}
_SESSION_SINCE = {140000: {"idle_session_timeout": "0"}, 170000: {"transaction_timeout": "0"}}

# Which sessions keep session %(pid)s waiting, and which keep those waiting: the one at the root first. Of
# another role's session we may see its process, role and application alone.
BLOCKERS = """
WITH RECURSIVE chain (pid) AS (
    SELECT unnest(pg_blocking_pids(%(pid)s))
    UNION SELECT unnest(pg_blocking_pids(chain.pid)) FROM chain WHERE chain.pid <> 0)
SELECT c.pid, a.usename, a.application_name, host(a.client_addr), a.client_port = -1,
       a.xact_start, a.state
FROM chain c LEFT JOIN pg_stat_activity a USING (pid)
ORDER BY cardinality(pg_blocking_pids(c.pid)), a.xact_start NULLS LAST
"""

IS_NEW_PROCESS = """
SELECT pid, backend_start > %(began)s FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""

# What a table's columns and constraints say of values, for a refusal that does not tell by itself.
COLUMN_LIMITS = """
SELECT attname, atttypmod - 4, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped AND atttypmod > 4
  AND atttypid IN ('varchar'::regtype, 'bpchar'::regtype)
ORDER BY attnum
"""
CONSTRAINT = """
SELECT pg_get_constraintdef(c.oid),
       ARRAY(SELECT attname::text FROM pg_attribute a
             WHERE a.attrelid = c.conrelid AND attnum = ANY(c.conkey))
FROM pg_constraint c WHERE conrelid = to_regclass(%(table)s) AND conname = %(constraint)s
"""

# The table that a statement writes to, else the first one that it reads.
_TABLES = (
    r"(?i)\b(?:INSERT\s+INTO|(?<!FOR )UPDATE|DELETE\s+FROM)\s+([a-z_]\w*)",
    r"(?i)\bFROM\s+([a-z_]\w*)\b(?!\s*\()",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to a statement; of several in one text, to the last."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    count: int


class Deadline:
    """The end of a wait. A stop of the process brings it forward. seconds None: only a stop ends the wait."""

    def __init__(self, seconds: float | None, is_stopping: Callable[[], bool]) -> None:
        self._began_at = time.monotonic()
        self._ends_at = None if seconds is None else self._began_at + seconds
        self._is_stopping = is_stopping
        self._has_seen_stop = False

    @property
    def waited(self) -> float:
        return time.monotonic() - self._began_at

    def pause(self) -> float:
        """How long to wait before looking here again; 0: the time is over."""
        now = time.monotonic()
        if not self._has_seen_stop and self._is_stopping():
            self._has_seen_stop = True
            stop_at = now + STOP_SECONDS
            self._ends_at = stop_at if self._ends_at is None else min(self._ends_at, stop_at)
        if self._ends_at is None:
            return STOP_POLL_SECONDS
        return min(max(self._ends_at - now, 0.0), STOP_POLL_SECONDS)


class Connection:
    """A session of PostgreSQL, in autocommit, for one thread at a time.

    answer_seconds: how long the server may work on a statement; None: as long as it takes.
    waits_for_disk: see Database. is_stopping: whether the process has been told to stop.
    Raises DbError: login_refused, out_of_reach, …; ConfigError for a connection string that libpq refuses.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str,
        answer_seconds: float | None = ANSWER_SECONDS,
        waits_for_disk: bool = True,
        is_stopping: Callable[[], bool] = lambda: False,
        connect_seconds: float | None = None,
    ) -> None:
        self._dsn = dsn
        self._application_name = application_name
        self._answer_seconds = answer_seconds
        self._is_stopping = is_stopping
        self._lock_seconds = LOCK_SECONDS
        self._blocker: str | None = None
        self._may_look = False
        self.is_in_transaction = False
        self._words = _parsed(dsn)
        self._connect_seconds = connect_seconds or _connect_seconds(self._words)
        self._connection: Any = self._connected({})
        if self._connection.get_parameter_status("server_encoding") == "SQL_ASCII":
            # Such a server keeps bytes and knows no letters: what is no UTF-8 would fail a whole answer.
            self._connection.close()
            self._connection = self._connected({"client_encoding": "SQL_ASCII"})
        self._codec = _codec(self._connection.get_parameter_status("server_encoding"))
        session = {
            "lock_timeout": f"{LOCK_SECONDS:.0f}s",
            "statement_timeout": f"{(answer_seconds or 0) * 1000:.0f}",
            **_SESSION,
        }
        for version, settings in _SESSION_SINCE.items():
            if self._connection.server_version >= version:
                session |= settings
        if not waits_for_disk:
            session["synchronous_commit"] = "off"
        calls = ", ".join(f"set_config('{name}', '{value}', FALSE)" for name, value in session.items())
        self.pid: int = self.execute(f"SELECT {calls}, pg_backend_pid()").rows[0][-1]
        """The server's process, by its own word."""
        self._may_look = connect_seconds is None

    @property
    def is_pooled(self) -> bool:
        """Whether somebody stands in between: a pooler tells its clients a number of its own."""
        return bool(self.pid != self._connection.info.backend_pid)

    @property
    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    def file(self) -> int:
        return int(self._connection.fileno())

    def close(self) -> None:
        self._connection.close()

    def deadline(self) -> Deadline:
        """Until when an answer to something asked now is waited for."""
        seconds = self._answer_seconds
        return Deadline(None if seconds is None else seconds + min(seconds, GRACE_SECONDS), self._is_stopping)

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> Answer:
        """Send a statement, or several in one text, and wait for the answer. Raises DbError.

        Outside a transaction it is sent again when PostgreSQL gave it up for the sake of another one.
        """
        values = self._storable(values)
        for tries_left in reversed(range(TRIES)):
            self._blocker = None
            try:
                return self._executed(sql, values)
            except psycopg2.Error as exc:
                from shared.postgres.refusals import is_repeatable, statement_error  # a good run does without

                if tries_left and is_repeatable(exc) and not self.is_in_transaction:
                    continue
                raise statement_error(exc, self._refusal(exc, sql, values), is_lost=self.is_closed) from exc
        raise AssertionError("the last try returns or raises")

    def _executed(self, sql: str, values: Mapping[str, object] | None) -> Answer:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql, values)
            try:
                self._wait(self._connection, self.deadline(), "a statement")
            except BaseException:
                if self.is_closed and self._answer_seconds is None:
                    self._cancel()
                raise
            if cursor.description is None:
                return Answer([], [], cursor.rowcount)
            return Answer([column.name for column in cursor.description], cursor.fetchall(), cursor.rowcount)

    def wait_less_for_locks(self) -> None:
        """After a lock that could not be had: do not wait as long for the next one."""
        if self._lock_seconds > SHORT_LOCK_SECONDS and not self.is_closed:
            self._lock_seconds = SHORT_LOCK_SECONDS
            milliseconds = int(SHORT_LOCK_SECONDS * 1000)
            self.execute(f"SELECT set_config('lock_timeout', '{milliseconds}', FALSE)")

    # Waiting

    def _wait(self, connection: Any, deadline: Deadline, what: str) -> None:
        """Until the server has answered. Raises DbError when that takes too long. The connection is closed
        then, because nothing else can be done with it while an answer is owed.
        """
        poller, watched = select.poll(), -1
        try:
            while (state := connection.poll()) != POLL_OK:
                if connection.fileno() != watched:
                    if watched >= 0:
                        poller.unregister(watched)
                    watched = connection.fileno()
                poller.register(watched, select.POLLIN if state == POLL_READ else select.POLLOUT)
                while not poller.poll(min(deadline.pause(), self._seconds_to_look(deadline)) * 1000):
                    if deadline.pause() == 0.0:
                        raise out_of_reach(f"{what} was not answered within {deadline.waited:.0f} s")
                    if self._seconds_to_look(deadline) == 0.0:
                        self._look_who_blocks()
        except psycopg2.Error:
            raise
        except BaseException:
            connection.close()
            raise

    def _seconds_to_look(self, deadline: Deadline) -> float:
        """Once in a wait, when half of the patience for a lock is over: afterwards nobody could tell."""
        if not self._may_look or self._blocker is not None:
            return STOP_POLL_SECONDS
        return max(self._lock_seconds / 2 - deadline.waited, 0.0)

    def _look_who_blocks(self) -> None:
        rows = self._looked_up(BLOCKERS, {"pid": self.pid})
        self._blocker = _described(rows[0], len(rows) - 1) if rows else ""

    def _looked_up(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """The answer to a question about this session, by another one; nothing when there is no answer."""
        try:
            with closing(self._beside()) as beside:
                return beside.execute(sql, values).rows
        except DbError as exc:
            logger.debug("a look from beside failed: %s", exc)
            return []

    def _beside(self) -> Connection:
        """A second connection, for a moment."""
        return Connection(
            self._dsn,
            application_name=self._application_name,
            answer_seconds=LOOK_SECONDS,
            connect_seconds=LOOK_SECONDS,
        )

    def _cancel(self) -> None:
        """Let the server give up a statement that has no deadline of its own there.

        Not by psycopg2's cancel(): it waits without end, with all threads, for a server that is frozen.
        """
        self._looked_up("SELECT pg_cancel_backend(%(pid)s)", {"pid": self.pid})

    def keeps_session(self) -> bool:
        """Whether a pooler leaves us the server's process between two transactions. When it does not, ours is
        free while we do nothing, and somebody who comes meanwhile is given it; or the next one of ours is
        another. A client that gets a process made for it, or none, has met no free one.
        """
        began = self.execute("SELECT clock_timestamp()").rows[0][0]
        with ExitStack() as others:
            for _ in range(POOLER_GUESTS):
                try:
                    guest = others.enter_context(closing(self._beside()))
                except DbError as exc:
                    logger.debug("the pooler has no room for a second connection: %s", exc)
                    break
                try:
                    guest.execute("BEGIN")
                    guest_pid, is_new = guest.execute(IS_NEW_PROCESS, {"began": began}).rows[0]
                except DbError:  # a pooler in statement mode refuses transactions
                    return False
                if guest_pid == self.pid:
                    return False
                if is_new:
                    break
            return bool(self.execute("SELECT pg_backend_pid()").rows[0][0] == self.pid)

    # Refusals

    def _storable(self, values: Mapping[str, object] | None) -> Mapping[str, object] | None:
        """The values, with a ? for each letter that the database's encoding does not have."""
        if self._codec is None or values is None:
            return values
        codec = self._codec
        return {
            name: value.encode(codec, "replace").decode(codec) if isinstance(value, str) else value
            for name, value in values.items()
        }

    def _refusal(self, exc: psycopg2.Error, sql: str, values: Mapping[str, object] | None) -> Refusal:
        """What is known of a refused statement, beyond the server's own words."""
        from shared.postgres.refusals import Refusal

        found = next(filter(None, (re.search(pattern, sql) for pattern in _TABLES)), None)
        table = exc.diag.table_name or (found[1] if found else None)
        refusal = Refusal(table, exc.diag.column_name, exc.diag.constraint_name, blocker=self._blocker)
        texts = {name: value for name, value in (values or {}).items() if isinstance(value, str)}
        if exc.pgcode == "22001" and refusal.column is None:
            limits = self._looked_up(COLUMN_LIMITS, {"table": table})
            too_long = [row for row in limits if len(texts.get(row[0], "")) > row[1]]
            longest = max(map(len, texts.values()), default=0)
            for column, _, declared in too_long or [row for row in limits if longest > row[1]]:
                length = len(texts[column]) if column in texts else longest
                return Refusal(table, column, None, definition=declared, value=f"{length} characters")
        if refusal.constraint is not None:
            for definition, columns in self._looked_up(
                CONSTRAINT, {"table": table, "constraint": refusal.constraint}
            ):
                shown = [f"{name} = {texts[name][:40]!r}" for name in columns if name in texts]
                return Refusal(
                    table,
                    ", ".join(columns),
                    refusal.constraint,
                    definition=definition,
                    value=", ".join(shown),
                )
        return refusal

    # Connecting

    def _connected(self, changes: Mapping[str, str]) -> Any:
        """A new connection, to the first of the server's addresses that lets us in."""
        error: DbError | None = None
        for address in _addresses(self._words):
            for is_verbose in (False, True):
                try:
                    return self._connected_to(address | dict(changes), is_verbose=is_verbose)
                except psycopg2.Error as exc:
                    from shared.postgres.refusals import connection_error, is_said_by_server

                    # psycopg2 keeps the SQLSTATE of a refused connection to itself, and the words of the
                    # server are in its own language: ask once more, for the code.
                    if not is_verbose and is_said_by_server(str(exc)):
                        continue
                    error = connection_error(str(exc), self._words)
                    error.__cause__ = exc
                except DbError as exc:
                    error = exc
                if not error.is_out_of_reach:
                    raise error
                break
        raise error or out_of_reach("the server's name has no address")

    def _connected_to(self, address: Mapping[str, str], *, is_verbose: bool) -> Any:
        words: dict[str, Any] = {
            **self._words,
            "application_name": self._application_name,
            "client_encoding": "UTF8",
            "tcp_user_timeout": UNACKNOWLEDGED_SECONDS * 1000,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            **address,
        }
        connection = psycopg2.connect(async_=True, **words)
        try:
            if is_verbose:
                _ask_for_code(connection)
            # An own deadline: libpq's connect_timeout counts in its blocking calls alone.
            self._wait(connection, Deadline(self._connect_seconds, self._is_stopping), "the connection")
        except BaseException:
            connection.close()
            raise
        return connection


def _ask_for_code(connection: Any) -> None:
    """Have libpq put the SQLSTATE into the text of an error, by its own function in the library that psycopg2
    has loaded. Where that cannot be found, the text must do.
    """
    verbose = 2
    with suppress(AttributeError, ImportError, OSError):
        import ctypes  # costs a hundredth of an idle run, and only a refused one needs it

        library = ctypes.CDLL(psycopg2._psycopg.__file__)
        library.PQsetErrorVerbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.PQsetErrorVerbosity(connection.pgconn_ptr, verbose)


def _parsed(dsn: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in parse_dsn(dsn).items()}
    except psycopg2.Error as exc:
        # Without libpq's words: they quote the text, and with it the password.
        if "require_auth" in str(exc):
            raise ConfigError(
                f"DB_SSLMODE: this libpq ({libpq_version()}) cannot keep the password from a server that is"
                " not verified (16 and later can); use verify-full"
            ) from None
        raise ConfigError(
            "DATABASE_URL: libpq cannot read it; options behind ? are those of PostgreSQL's manual 34.1.2"
        ) from None


def _connect_seconds(words: Mapping[str, str]) -> float:
    """connect_timeout as libpq takes it: 0, or less, is none; ours is in its place then."""
    try:
        return max(float(words.get("connect_timeout") or 0), 0.0) or CONNECT_SECONDS
    except ValueError:
        raise ConfigError("DATABASE_URL: connect_timeout is not a number of seconds") from None


def _addresses(words: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Every address of the server, in order. libpq would try them too; but it would leave a silent one only
    by the timer that counts in blocking calls alone.
    """
    hosts = words.get("host", "").split(",")
    numbers = words.get("hostaddr", "").split(",") if words.get("hostaddr") else None
    ports = words.get("port", "").split(",")
    count = len(numbers) if numbers else len(hosts)
    if "service" in words or (count == 1 and not hosts[0] and not numbers):
        yield {}
        return
    for place in range(count):
        host = hosts[place] if len(hosts) == count else ""
        port = ports[place] if len(ports) == count else ports[0]
        chosen = {name: value for name, value in (("host", host), ("port", port)) if value}
        if numbers:
            yield {**chosen, "hostaddr": numbers[place]}
        elif not host or host.startswith(("/", "@")):
            yield chosen
        else:
            for address in _resolved(host):
                yield {**chosen, "hostaddr": address}


def _resolved(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_LENIENT = "a1_to_a2_lenient_utf_8"


def _codec(server_encoding: str | None) -> str | None:
    """How to find out what a database can store; None where it is everything."""
    if server_encoding in (None, "UTF8", "SQL_ASCII"):
        return None
    try:
        return codecs.lookup(encodings[str(server_encoding).replace("_", "")]).name
    except (KeyError, LookupError):
        return "ascii"


def _lenient(name: str) -> codecs.CodecInfo | None:
    """UTF-8 that shows what is none as an escape, for databases that know no encoding."""
    if name != _LENIENT:
        return None
    return codecs.CodecInfo(
        lambda text, errors="strict": (text.encode("utf-8"), len(text)),
        lambda data, errors="strict": (bytes(data).decode("utf-8", "backslashreplace"), len(data)),
        name=_LENIENT,
    )


codecs.register(_lenient)
encodings["SQLASCII"] = encodings["SQL_ASCII"] = _LENIENT


def _described(row: tuple[Any, ...], others: int) -> str:
    """Somebody who holds a lock, as far as we may know."""
    pid, user, application, address, is_local, since, state = row
    if not pid:
        return "a prepared transaction (see pg_prepared_xacts)"
    parts = [f"server process {pid}"]
    if user:
        parts.append(f"user {user}")
    parts.append(f"application {application!r}" if application else "no application name")
    if address or is_local:
        parts.append(f"from {address or 'this server itself'}")
    if state:
        parts.append(state)
    if since:
        parts.append(f"its transaction is open since {since:%Y-%m-%d %H:%M:%S %Z}")
    else:
        parts.append("the rest is hidden from our role (pg_read_all_stats shows it)")
    return ", ".join(parts) + (f"; {others} more wait in front of us" if others else "")
