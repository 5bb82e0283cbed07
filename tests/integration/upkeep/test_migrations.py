"""Migrations on a living database: nobody waits for long, and a stop at any point is no end."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest

from shared.base.errors import DbError
from shared.database import Database
from shared.upkeep.migrator import Migrator
from shared.upkeep.schema import Schema, migration_files
from shared.upkeep.statements import LOCK_PATIENCE, index_of, statements
from simulators.postgres import PostgresServer

REPOSITORY = Path(__file__).resolve().parents[3]
RELEASED = ("001", "002", "003", "004", "005", "006", "007")
"""What 0.1.0 brought."""
BEFORE_US = """
    CREATE TABLE campaign_status (campaign_id TEXT, campaign_number TEXT, campaign_name TEXT,
        status TEXT,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
        updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now());
    INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status)
        SELECT md5(n::text), 'C-' || n, 'Campaign ' || n, CASE WHEN n %% 500 = 0 THEN 'A1' ELSE 'A2' END
        FROM generate_series(1, %d) n;
    ALTER TABLE campaign_status ADD PRIMARY KEY (campaign_id);
    ANALYZE campaign_status;
"""
READ = "SELECT campaign_name FROM campaign_status WHERE campaign_id = md5(%s::text)"
WRITE = "UPDATE campaign_status SET updated_at = now() WHERE campaign_id = md5(%s::text)"


def migrate(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "migrate.py"],
        env={"DATABASE_URL": url, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill(url: str, rows: int) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(BEFORE_US % rows)
    connection.close()


class Traffic:
    """Readers and writers on campaign_status, each with a longest wait for a lock.

    refused: statements that had to wait longer than that. slowest: seconds of the slowest statement.
    """

    def __init__(self, url: str, rows: int, patience_ms: int) -> None:
        self._url, self._rows, self._patience_ms = url, rows, patience_ms
        self._is_over = threading.Event()
        self.done = {READ: 0, WRITE: 0}
        self.refused = 0
        self.slowest = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=(sql, 7 * n)) for n, sql in enumerate((READ, WRITE) * 2)
        ]

    def _work(self, sql: str, seed: int) -> None:
        connection = psycopg2.connect(self._url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {self._patience_ms}")
            number = seed
            while not self._is_over.is_set():
                number = (number * 1103515245 + 12345) % self._rows
                began = time.monotonic()
                try:
                    cursor.execute(sql, (number + 1,))
                except psycopg2.errors.LockNotAvailable:
                    self.refused += 1
                self.done[sql] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                time.sleep(0.002)
        connection.close()

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def open_transaction(url: str, sql: str) -> Iterator[Callable[[], None]]:
    """A transaction of somebody else's, left open; the function given ends it."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute(sql)
    yield connection.rollback
    connection.close()


def wait_until_queued(url: str) -> None:
    """Until the runner has stood in the queue for the table, and has left it, and stands there again."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    times, was_queued = 0, False
    give_up_at = time.monotonic() + 60
    with connection.cursor() as cursor:
        while times < 2:
            assert time.monotonic() < give_up_at
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE relation = 'campaign_status'::regclass"
                " AND mode = 'AccessExclusiveLock' AND NOT granted"
            )
            ((count,),) = cursor.fetchall()
            times += bool(count) and not was_queued
            was_queued = bool(count)
            time.sleep(0.01)
    connection.close()


def live_migration(url: str, rows: int, patience_ms: int) -> Traffic:
    """All migrations by the runner, on a filled table in use; a long transaction is in the way at first."""
    fill(url, rows)
    with Traffic(url, rows, patience_ms) as traffic:
        with Database(url) as database:
            for path in migration_files()[:2]:  # the index over the status takes as long as there are rows
                Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, digest(path))
        with open_transaction(url, WRITE % "'1'") as end, ThreadPoolExecutor(1) as thread:
            migrating = thread.submit(migrate, url)
            wait_until_queued(url)
            end()
            done = migrating.result()
    assert done.returncode == 0, done.stderr
    assert "waits for a lock" in done.stderr, "the long transaction was in the way"
    assert traffic.done[READ] > 20
    assert traffic.done[WRITE] > 20
    return traffic


def test_runner__blocks_neither_readers_nor_writers(empty_database_url: str) -> None:
    """Nobody ever waits 2 s for a lock: by the server's own word, whatever the machine does meanwhile.

    Everybody waits behind the runner while it waits, so its own patience is what this comes down to.
    """
    traffic = live_migration(empty_database_url, 200_000, 2000)
    assert traffic.refused == 0
    assert LOCK_PATIENCE.total_seconds() <= 0.2


@pytest.mark.migrations
@pytest.mark.timeout(1800)
def test_runner__on_five_million_rows_holds_nobody_up_for_200_ms(empty_database_url: str) -> None:
    traffic = live_migration(empty_database_url, 5_000_000, 200)
    print(  # noqa: T201 - the figures are what this is run for
        f"reads and writes meanwhile: {list(traffic.done.values())}, refused after 200 ms: {traffic.refused},"
        f" slowest {traffic.slowest * 1000:.0f} ms"
    )
    assert traffic.refused == 0


def test_runner__takes_no_lock_that_blocks_while_it_builds_an_index(empty_database_url: str) -> None:
    """Held up in the middle of each index by a snapshot of somebody's, it has no lock that writers mind."""
    fill(empty_database_url, 100)
    with (
        Database(empty_database_url, application_name="migrating") as database,
        open_transaction(empty_database_url, "SELECT 1 FROM campaign_status") as end,
    ):
        index = next(
            one for one in statements(migration_files()[0].read_text(encoding="utf-8")) if index_of(one)
        )
        building = threading.Thread(target=lambda: Migrator(database).apply(index, "x", "y"))
        with psycopg2.connect(empty_database_url) as watch, watch.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE schema_migrations (name TEXT PRIMARY KEY, applied_at TEXT, sha256 TEXT)"
            )
            watch.commit()
            # An old snapshot: the build has to wait for it.
            end()
            other = psycopg2.connect(empty_database_url)
            other.set_session(isolation_level="REPEATABLE READ")
            with other.cursor() as old:
                old.execute("SELECT 1 FROM campaign_status")
            building.start()
            modes: set[str] = set()
            give_up_at = time.monotonic() + 20
            while "ShareUpdateExclusiveLock" not in modes:
                assert time.monotonic() < give_up_at, modes
                cursor.execute(
                    "SELECT mode FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                    " WHERE a.application_name = 'migrating' AND l.relation = 'campaign_status'::regclass"
                )
                modes = {row[0] for row in cursor.fetchall()}
                watch.commit()
                time.sleep(0.02)
            assert not modes & {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}
            other.rollback()
            other.close()
            building.join()
        watch.close()


def test_runner__stopped_after_any_statement_is_begun_again(
    empty_database_url: str, postgres: PostgresServer, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every statement in turn, the last run still makes the schema that one run makes."""
    count = sum(len(statements(path.read_text(encoding="utf-8"))) for path in migration_files())
    fill(empty_database_url, 100)
    run = Database.execute

    class KilledError(BaseException):
        pass

    for stop_after in [*range(1, count + len(migration_files()), 3), None]:
        left = stop_after

        def counted(self: Database, sql: str, values: object = None) -> int:
            nonlocal left
            if left is not None and not sql.startswith("SELECT"):
                left -= 1
                if left < 0:
                    raise KilledError
            return run(self, sql, values)  # type: ignore[arg-type]

        monkeypatch.setattr(Database, "execute", counted)
        with Database(empty_database_url) as database:
            try:
                for path in Schema(database).pending():
                    Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, "x")
            except KilledError:
                continue
    monkeypatch.undo()
    assert shape_of(postgres, empty_database_url) == shape_by_psql(postgres, worker)
    with Database(empty_database_url) as database:
        assert Schema(database).pending() == []


def shape_of(postgres: PostgresServer, url: str) -> list[tuple[object, ...]]:
    with Database(url) as database:
        return database.rows(
            "SELECT table_name, column_name, data_type, column_default, is_nullable"
            " FROM information_schema.columns WHERE table_schema = 'public' UNION ALL"
            " SELECT tablename, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'"
            " ORDER BY 1, 2"
        )


def shape_by_psql(postgres: PostgresServer, worker: str) -> list[tuple[object, ...]]:
    name = f"a1_to_a2_psql_{worker}_test"
    url = postgres.create_database(name)
    try:
        for path in migration_files():
            assert postgres.psql("-f", path, database=name).returncode == 0
        return shape_of(postgres, url)
    finally:
        postgres.drop_database(name)


def test_runner__makes_an_index_anew_that_was_left_unusable(empty_database_url: str) -> None:
    with Database(empty_database_url) as database:
        for path in migration_files():
            Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, "x")
        database.execute(
            "INSERT INTO campaign_status (campaign_id, box_folder_id) VALUES ('a', '1'), ('b', '2')"
        )
        database.execute("DROP INDEX campaign_status_box_folder_idx")
        database.execute("UPDATE campaign_status SET box_folder_id = '1'")
        sixth = next(path for path in migration_files() if path.name.startswith("006"))
        with pytest.raises(DbError):
            Migrator(database).apply(sixth.read_text(encoding="utf-8"), sixth.stem, "x")
        database.execute("UPDATE campaign_status SET box_folder_id = campaign_id")
        Migrator(database).apply(sixth.read_text(encoding="utf-8"), sixth.stem, "x")
        assert database.rows("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
        with pytest.raises(DbError):
            database.execute("UPDATE campaign_status SET box_folder_id = '1'")


def test_runner__refuses_an_edited_old_file(empty_database_url: str, tmp_path: Path) -> None:
    """The files themselves, in a checkout of their own, one of them edited after it was applied."""
    for folder in ("scripts", "database"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, tmp_path / "scripts" / "migrate.py"],
            env={"DATABASE_URL": empty_database_url, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run().returncode == 0
    edited = tmp_path / "database" / "migrations" / "003_add_a1_retry_tracking.sql"
    edited.write_text(edited.read_text(encoding="utf-8") + "-- a harmless comment\n", encoding="utf-8")
    refused = run()
    assert refused.returncode == 2
    assert "003_add_a1_retry_tracking.sql: changed since it was applied" in refused.stderr


def test_new_schema__carries_the_code_of_the_release(database_url: str, empty_database_url: str) -> None:
    """What came after 0.1.0 only adds: no old column went or changed, and no old INSERT lacks a value. Except
    for a1_resets, which is a part of campaign_events since 023: the old tool no longer resets.
    """
    with Database(empty_database_url) as old, Database(database_url) as new:
        for path in migration_files():
            if path.name.startswith(RELEASED):
                Migrator(old).apply(path.read_text(encoding="utf-8"), path.stem, "x")
        columns = (
            "SELECT table_name, column_name, data_type, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public'"
        )
        before, after = set(old.rows(columns)), set(new.rows(columns))
        before = {row for row in before if row[0] != "a1_resets"}
        assert before <= after
        tables = {row[0] for row in before}
        added = [row for row in after - before if row[0] in tables]
        assert [row for row in added if row[3] == "NO" and row[4] is None] == []
        constraints = (
            "SELECT conrelid::regclass::text, contype, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace"
        )
        forbidding = {
            row for row in set(new.rows(constraints)) - set(old.rows(constraints)) if row[0] in tables
        }
        assert forbidding == set()


@pytest.mark.parametrize("applied", [0, 1, 6, -1])
def test_old_schema__is_told_by_what_it_lacks(empty_database_url: str, applied: int) -> None:
    files = migration_files()
    with Database(empty_database_url) as database:
        for path in files[:applied]:
            Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, "x")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "daily_report.py", "--dry-run"],
        env={
            "DATABASE_URL": empty_database_url, "PATH": "/usr/bin:/bin", "SMTP_HOST": "127.0.0.1",
            "SMTP_SECURITY": "none", "MAIL_FROM": "a@example.com",
            "ERROR_NOTIFICATION_EMAILS": "b@example.com", "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert files[applied].name in done.stderr
    assert f"{sys.executable} {REPOSITORY / 'scripts' / 'migrate.py'}" in done.stderr
    if applied == 0:
        operator = subprocess.run(
            [sys.executable, REPOSITORY / "scripts" / "a1_retry.py", "status"],
            env={"DATABASE_URL": empty_database_url, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert operator.returncode == 2
        assert f"{sys.executable} {REPOSITORY / 'scripts' / 'migrate.py'}" in operator.stderr
