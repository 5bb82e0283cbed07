"""Makes one connection to PostgreSQL, with a limit for every wait.

In its asynchronous mode psycopg2 never waits by itself. The loop here waits, until the server has answered,
the deadline has passed, or the process was asked to stop. So a server that accepts a statement and never
answers (frozen, or waiting for a standby that is down) does not block us for much longer than ANSWER_SECONDS.
"""

from __future__ import annotations

import codecs
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, encodings, libpq_version, parse_dsn

from shared.base.errors import ConfigError, DbError, out_of_reach

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long one address of the server may take to log us in; connect_timeout in DATABASE_URL wins."""
ANSWER_SECONDS = 60.0
"""How long the server may work on a statement (its statement_timeout)."""
GRACE_SECONDS = 5.0
"""How much later its answer may come before the connection counts as lost."""
STOP_SECONDS = 3.0
"""How long an answer may still take after the process was asked to stop."""
LOCK_SECONDS = 5.0
"""How long a statement may wait for another session's lock."""
SHORT_LOCK_SECONDS = 0.25
"""The same after one wait has failed: a thousand locked rows must not cost an hour."""
UNACKNOWLEDGED_SECONDS = 30
"""How long sent bytes may stay unacknowledged, on either side, before the connection counts as lost."""
LOOK_SECONDS = 2.0
"""How long the query for the sessions that block us may take."""
STOP_POLL_SECONDS = 0.25
POOLER_GUESTS = 4
"""How many test connections must get other processes from a pooler before ours counts as our own."""
TRIES = 4
"""How often we send a statement again that PostgreSQL cancelled in favour of another transaction."""

# The settings of our session, whatever the defaults of the role or the server. When one of our hosts
# disappears with a lock (power, network), the server notices within a minute; its own default is hours.
_SESSION = {
    "default_transaction_isolation": "read committed",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": f"{UNACKNOWLEDGED_SECONDS}s",
}
_SESSION_SINCE = {140000: {"idle_session_timeout": "0"}, 170000: {"transaction_timeout": "0"}}

# The sessions that block session %(pid)s, and those that block them: the root first. Of another role's
# session we may see only its process, role and application.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's answer to a statement; for several in one text, to the last one."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    count: int


class Deadline:
    """The deadline of a wait. A stop of the process makes it earlier. seconds None: only a stop ends the
    wait.
    """

    def __init__(self, seconds: float | None, is_stopping: Callable[[], bool]) -> None:
        self._began_at = time.monotonic()
        self._ends_at = None if seconds is None else self._began_at + seconds
        self._is_stopping = is_stopping
        self._has_seen_stop = False

    @property
    def waited(self) -> float:
        return time.monotonic() - self._began_at

    def pause(self) -> float:
        """How long to wait before checking again; 0: the time is over."""
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

    answer_seconds: how long the server may work on a statement; None: no limit.
    waits_for_disk, idle_seconds: see Database. is_stopping: whether the process was asked to stop.
    Raises DbError: login_refused, out_of_reach, …; ConfigError for a connection string that libpq refuses.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str,
        answer_seconds: float | None = ANSWER_SECONDS,
        waits_for_disk: bool = True,
        idle_seconds: float | None = None,
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
            # Such a database stores bytes without an encoding. A byte that is not UTF-8 would break a whole
            # answer.
            self._connection.close()
            self._connection = self._connected({"client_encoding": "SQL_ASCII"})
        self._codec = _codec(self._connection.get_parameter_status("server_encoding"))
        session = {
            "lock_timeout": f"{LOCK_SECONDS:.0f}s",
            "statement_timeout": f"{(answer_seconds or 0) * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{(idle_seconds or 0) * 1000:.0f}",
            **_SESSION,
        }
        for version, settings in _SESSION_SINCE.items():
            if self._connection.server_version >= version:
                session |= settings
        if not waits_for_disk:
            session["synchronous_commit"] = "off"
        calls = ", ".join(f"set_config('{name}', '{value}', FALSE)" for name, value in session.items())
        self.pid: int = self.execute(f"SELECT {calls}, pg_backend_pid()").rows[0][-1]
        """The number of the server's process, from the server itself."""
        self._may_look = connect_seconds is None

    @property
    def is_pooled(self) -> bool:
        """Whether there is a pooler in between: it gives its clients other process numbers."""
        return bool(self.pid != self._connection.info.backend_pid)

    @property
    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    def file(self) -> int:
        return int(self._connection.fileno())

    def close(self) -> None:
        self._connection.close()

    def deadline(self) -> Deadline:
        """How long we wait for the answer to the next statement."""
        seconds = self._answer_seconds
        return Deadline(None if seconds is None else seconds + min(seconds, GRACE_SECONDS), self._is_stopping)

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> Answer:
        """Send a statement, or several in one text, and wait for the answer. Raises DbError.

        Outside a transaction we send it again when PostgreSQL cancelled it in favour of another one.
        """
        values = self._storable(values)
        for tries_left in reversed(range(TRIES)):
            self._blocker = None
            try:
                return self._executed(sql, values)
            except psycopg2.Error as exc:
                from shared.postgres import refusals  # a successful run does not need it

                if tries_left and refusals.is_repeatable(exc) and not self.is_in_transaction:
                    continue
                blocker = self._blocker or "somebody"
                refusal = refusals.refusal_of(exc, sql, values or {}, blocker, self._looked_up)
                raise refusals.statement_error(refusal, is_lost=self.is_closed) from exc
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
        """After a lock that we did not get, wait less long for the next one."""
        if self._lock_seconds > SHORT_LOCK_SECONDS and not self.is_closed:
            self._lock_seconds = SHORT_LOCK_SECONDS
            milliseconds = int(SHORT_LOCK_SECONDS * 1000)
            self.execute(f"SELECT set_config('lock_timeout', '{milliseconds}', FALSE)")

    # Waiting

    def _wait(self, connection: Any, deadline: Deadline, what: str) -> None:
        """Wait until the server has answered. Raises DbError when that takes too long; the connection is then
        closed, because it is useless while an answer may still come.
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
        """Look once during a wait who blocks us, after half of the time for a lock: later it would be
        unknown.
        """
        if not self._may_look or self._blocker is not None:
            return STOP_POLL_SECONDS
        return max(self._lock_seconds / 2 - deadline.waited, 0.0)

    def _look_who_blocks(self) -> None:
        rows = self._looked_up(BLOCKERS, {"pid": self.pid})
        self._blocker = _described(rows[0], len(rows) - 1) if rows else ""

    def _looked_up(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Ask by another session about this one; no rows when there is no answer."""
        try:
            with closing(self._beside()) as beside:
                return beside.execute(sql, values).rows
        except DbError as exc:
            logger.debug("the query by a second connection failed: %s", exc)
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
        """Cancel a statement for which the server has no time limit.

        psycopg2's cancel() would wait forever for a frozen server, and block all threads.
        """
        self._looked_up("SELECT pg_cancel_backend(%(pid)s)", {"pid": self.pid})

    def keeps_session(self) -> bool:
        """Whether a pooler keeps the server's process for us between two transactions. If it does not, our
        process is free while we do nothing: the next client gets it, or we get another one. When the pooler
        starts a process for a client, or has none, no process was free.
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

    def _storable(self, values: Mapping[str, object] | None) -> Mapping[str, object] | None:
        """The values, with a ? for each letter that the database's encoding does not have."""
        if self._codec is None or values is None:
            return values
        codec = self._codec
        return {
            name: value.encode(codec, "replace").decode(codec) if isinstance(value, str) else value
            for name, value in values.items()
        }

    # Connecting

    def _connected(self, changes: Mapping[str, str]) -> Any:
        """A new connection, to the first of the server's addresses that accepts us."""
        error: DbError | None = None
        for address in _addresses(self._words):
            for is_verbose in (False, True):
                try:
                    return self._connected_to(address | dict(changes), is_verbose=is_verbose)
                except psycopg2.Error as exc:
                    from shared.postgres.refusals import connection_error, is_said_by_server

                    # psycopg2 does not show the SQLSTATE of a refused connection, and the server may use any
                    # language: connect once more, to get the code.
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
            # Our own deadline: libpq's connect_timeout works only in its blocking calls.
            self._wait(connection, Deadline(self._connect_seconds, self._is_stopping), "the connection")
        except BaseException:
            connection.close()
            raise
        return connection


def _ask_for_code(connection: Any) -> None:
    """Make libpq put the SQLSTATE into the text of an error, by its own function in the library that psycopg2
    has loaded. If that is missing, the text must be enough.
    """
    verbose = 2
    with suppress(AttributeError, ImportError, OSError):
        import ctypes  # it costs a hundredth of an idle run, and only a refused connection needs it

        library = ctypes.CDLL(psycopg2._psycopg.__file__)
        library.PQsetErrorVerbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.PQsetErrorVerbosity(connection.pgconn_ptr, verbose)


def _parsed(dsn: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in parse_dsn(dsn).items()}
    except psycopg2.Error as exc:
        # Without libpq's own words: they quote the text, and so the password.
        if "require_auth" in str(exc):
            raise ConfigError(
                f"DB_SSLMODE: this libpq ({libpq_version()}) cannot keep the password from a server that is"
                " not verified (16 and later can); use verify-full"
            ) from None
        raise ConfigError(
            "DATABASE_URL: libpq cannot read it; options behind ? are those of PostgreSQL's manual 34.1.2"
        ) from None


def _connect_seconds(words: Mapping[str, str]) -> float:
    """connect_timeout as libpq reads it: 0 or less means none, and then ours is used."""
    try:
        return max(float(words.get("connect_timeout") or 0), 0.0) or CONNECT_SECONDS
    except ValueError:
        raise ConfigError("DATABASE_URL: connect_timeout is not a number of seconds") from None


def _addresses(words: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Every address of the server, in order. libpq would try them too, but only its blocking calls ever give
    up on a silent one.
    """
    if "service" in words or not (words.get("host") or words.get("hostaddr")):
        yield {}  # libpq knows the host: from its service file, or its own socket
        return
    for place in _places(words):
        host = place.get("host", "")
        if "hostaddr" in place or not host or host.startswith(("/", "@")):
            yield place
        else:
            yield from ({**place, "hostaddr": address} for address in _resolved(host))


def _places(words: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Host, address and port of each server, combined like libpq does; a single port is for all hosts."""
    hosts, numbers, ports = (words.get(name, "").split(",") for name in ("host", "hostaddr", "port"))
    has_numbers = bool(words.get("hostaddr"))
    count = len(numbers if has_numbers else hosts)
    for at in range(count):
        host = hosts[at] if len(hosts) == count else ""
        port = ports[at] if len(ports) == count else ports[0]
        place = {name: value for name, value in (("host", host), ("port", port)) if value}
        yield {**place, "hostaddr": numbers[at]} if has_numbers else place


def _resolved(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_LENIENT = "a1_to_a2_lenient_utf_8"


def _codec(server_encoding: str | None) -> str | None:
    """The codec for what a database can store; None if it can store everything."""
    if server_encoding in (None, "UTF8", "SQL_ASCII"):
        return None
    try:
        return codecs.lookup(encodings[str(server_encoding).replace("_", "")]).name
    except (KeyError, LookupError):
        return "ascii"


def _lenient(name: str) -> codecs.CodecInfo | None:
    """UTF-8 that shows other bytes as escapes, for databases without an encoding."""
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
    """Who has a lock, as far as we may see it."""
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
        parts.append(f"its transaction has been open since {since:%Y-%m-%d %H:%M:%S %Z}")
    else:
        parts.append("our role may not see more (pg_read_all_stats would show it)")
    return ", ".join(parts) + (f"; {others} more sessions are waiting before us" if others else "")
