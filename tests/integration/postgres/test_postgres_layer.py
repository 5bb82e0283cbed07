"""The embedded PostgreSQL that the demo and every database test stand on, and the fixtures made of it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from simulators.postgres import EmbeddedPostgres, PostgresError, PostgresServer, find_binaries

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"

# Never stopped by its own code: it stands for a pytest or a demo that is killed.
START_AND_SLEEP = """
import sys, time
from pathlib import Path
from simulators.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), password=sys.stdin.readline().strip())
server.start()
print(server.pid, server.port, flush=True)
time.sleep(60)
"""


def fetch(url: str, statement: str) -> object:
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def wait_until(condition: Callable[[], bool], seconds: float = 8.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def port_answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_server__takes_the_role_over_tcp(private_postgres: EmbeddedPostgres) -> None:
    assert fetch(private_postgres.url, "SELECT current_user") == "ferrero_user"
    assert fetch(private_postgres.url, "SELECT current_database()") == "ferrero_tracking"
    assert fetch(private_postgres.url, "SHOW server_encoding") == "UTF8"
    assert fetch(private_postgres.url, "SHOW listen_addresses") == "127.0.0.1"


def test_server__refuses_a_wrong_or_missing_password(private_postgres: EmbeddedPostgres) -> None:
    right = private_postgres.url
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(right.replace("only-for-tests", "guessed"))
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(right.replace(":only-for-tests", ""))
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(private_postgres.admin_url.replace("only-for-tests", "guessed"))


def test_server__keeps_the_password_out_of_arguments_and_files(
    private_postgres: EmbeddedPostgres,
) -> None:
    done = private_postgres.psql("-Atc", "SELECT 1")
    assert "only-for-tests" not in " ".join(map(str, done.args))
    for file in private_postgres.data_dir.rglob("*"):
        if file.is_file():
            assert b"only-for-tests" not in file.read_bytes(), file


def test_server__keeps_committed_rows_through_a_crash(private_postgres: EmbeddedPostgres) -> None:
    url = private_postgres.url
    with contextlib.closing(psycopg2.connect(url)) as open_connection, open_connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        open_connection.commit()
        private_postgres.restart("immediate")
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")
    assert private_postgres.url == url
    assert fetch(url, "SELECT answer FROM kept") == 42
    private_postgres.stop()
    assert private_postgres.pid is None
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(url)


def test_server__awkward_names_and_passwords(free_folder: Path) -> None:
    server = EmbeddedPostgres(free_folder, user='o"r', password="p'w\"$ %@/ü\\", database="a b'c")
    with server:
        assert fetch(server.url, "SELECT current_user || '/' || current_database()") == "o\"r/a b'c"
        assert server.psql("-Atc", "SELECT 1").stdout == "1\n"


def test_server__says_who_has_the_port(free_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = EmbeddedPostgres(free_folder, port=taken.getsockname()[1], password="x")
        with pytest.raises(PostgresError, match="is taken by"):
            server.start()


def test_server__leaves_a_strangers_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    before = tmp_path.stat()
    with pytest.raises(PostgresError, match="neither empty nor"):
        EmbeddedPostgres(tmp_path, password="x").start()
    assert (tmp_path.stat().st_uid, tmp_path.stat().st_mode) == (before.st_uid, before.st_mode)


def test_outlive__goes_on_and_is_taken_over(free_folder: Path) -> None:
    first = EmbeddedPostgres(free_folder, password="x", outlive=True)
    try:
        with first:
            pid = first.pid
        second = EmbeddedPostgres(free_folder, password="x", outlive=True)
        with second:
            assert (second.pid, second.url) == (pid, first.url)
            assert fetch(second.url, "SELECT 1") == 1
        with pytest.raises(PostgresError, match="already runs"):
            EmbeddedPostgres(free_folder, password="x").start()
        second.stop()
        assert first.pid is None
        assert not port_answers(first.port)
    finally:
        first.stop()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's end"
)
def test_killed_parent__leaves_no_server(free_folder: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_SLEEP, str(free_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])},
    )
    with parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write("secret\n")
        parent.stdin.flush()
        pid, port = map(int, parent.stdout.readline().split())
        assert process_exists(pid)
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not process_exists(pid))
    assert not port_answers(port)


def test_psql__reports_failure_by_exit_code(postgres: PostgresServer, empty_database_url: str) -> None:
    database = empty_database_url.rpartition("/")[2]
    done = postgres.psql("-At", input="SELECT 1;\nSELECT nonsense;\nSELECT 2;\n", database=database)
    assert (done.returncode, done.stdout) == (3, "1\n")
    assert 'column "nonsense" does not exist' in done.stderr


def test_databases__clone_and_drop(postgres: PostgresServer, worker: str) -> None:
    original, copy = f"original_{worker}_test", f"copy_{worker}_test"
    postgres.psql("-c", "SELECT 1")
    postgres.create_database(original)
    try:
        postgres.psql("-c", "CREATE TABLE t AS SELECT 7 AS n", database=original)
        copy_url = postgres.create_database(copy, template=original)
        left_open = psycopg2.connect(copy_url)
        with contextlib.closing(left_open):
            assert fetch(copy_url, "SELECT n FROM t") == 7
            postgres.drop_database(copy)
        with pytest.raises(psycopg2.OperationalError, match="does not exist"):
            psycopg2.connect(copy_url)
        postgres.drop_database(copy)  # once more: nothing to do
    finally:
        postgres.drop_database(original)


def test_apply_migrations__runs_files_in_name_order(
    postgres: PostgresServer,
    apply_migrations: Callable[[str, Path], None],
    empty_database_url: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "002_b.sql").write_text("INSERT INTO t VALUES (2);")
    (tmp_path / "001_a.sql").write_text("CREATE TABLE t (n int);")
    (tmp_path / "010_c.sql").write_text("INSERT INTO t SELECT max(n) * 5 FROM t;")
    apply_migrations(empty_database_url.rpartition("/")[2], tmp_path)
    assert fetch(empty_database_url, "SELECT max(n) FROM t") == 10


def test_apply_migrations__fails_loudly(
    apply_migrations: Callable[[str, Path], None], empty_database_url: str, tmp_path: Path
) -> None:
    database = empty_database_url.rpartition("/")[2]
    with pytest.raises(pytest.fail.Exception, match="no migrations"):
        apply_migrations(database, tmp_path)
    (tmp_path / "001_bad.sql").write_text("SELECT 1/0;")
    with pytest.raises(pytest.fail.Exception, match=r"001_bad\.sql: exit code 3\n.*division by zero"):
        apply_migrations(database, tmp_path)


def test_find_binaries__pg_bin_goes_first_and_must_be_right(tmp_path: Path) -> None:
    found = find_binaries({"PATH": os.environ["PATH"]})
    assert find_binaries({"PG_BIN": str(found)}) == found
    with pytest.raises(PostgresError, match="PG_BIN: "):
        find_binaries({"PG_BIN": str(tmp_path)})


def test_environment__hides_the_machines_settings() -> None:
    told = {"HTTPS_PROXY", "https_proxy", "DATABASE_URL", "PGHOST", "DAM_PASSWORD_FILE", "BOX_CLIENT_ID"}
    assert not told & set(os.environ)


@pytest.fixture
def free_folder() -> Iterator[Path]:
    """An empty folder that an unprivileged server can reach too, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-layer-"))
    yield folder
    shutil.rmtree(folder)
