"""The database's promises, on a real PostgreSQL: counting, migrations, the operator's SQL."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest

from shared.base.errors import DbError
from shared.base.values import Attempt, OpenUpload
from shared.database import UPLOADER_LOCK, Database, migration_files
from shared.report.figures import Figures
from shared.rules.alerts import HEALING_PATIENCE
from shared.upload.buckets import Buckets
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from simulators.postgres import EmbeddedPostgres, PostgresServer

REPOSITORY = Path(__file__).resolve().parents[2]
CAMPAIGN = "0b0d556833750c2df8442a558924d3019fb75dad"
HOSTILE = 'Robert\'); DROP TABLE campaign_status;-- %s 100% "<b>" 🎉'


def columns_of(url: str) -> list[tuple[object, ...]]:
    """The shape of every table of ours."""
    with Database(url) as database:
        return database.rows(
            "SELECT table_name, column_name, data_type, column_default, is_nullable"
            " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        )


def test_increment__counts_to_the_maximum_under_contention(database_url: str) -> None:
    attempts: list[Attempt] = []

    def hammer() -> None:
        with Database(database_url, 3) as database:
            attempts.extend(database.increment_a1_retry(CAMPAIGN, "C-1", HOSTILE, "empty") for _ in range(5))

    threads = [threading.Thread(target=hammer) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = sorted(attempt.number for attempt in attempts if attempt.counted)
    assert counted == [1, 2, 3]
    with Database(database_url) as database:
        status = database.get_a1_retry_status(CAMPAIGN)
        assert (status.retry_count, status.permanently_failed) == (3, True)
        assert status.campaign_name == HOSTILE
        assert database.reset_a1_retry(CAMPAIGN)
        assert database.get_a1_retry_status(CAMPAIGN).retry_count == 0
        assert not database.reset_a1_retry("unknown")


def test_reset__of_the_mark_alone_is_a_whole_one(database_url: str) -> None:
    """Else the next empty look would be the last one again, with another last e-mail in the same cycle."""
    with Database(database_url, 2) as database:
        for _ in range(2):
            database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty")
        with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE campaign_status SET a1_permanently_failed = FALSE")
        connection.close()
        assert database.get_a1_retry_status(CAMPAIGN).cycle == 2
        attempt = database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty")
        assert attempt == Attempt(1, True, False, 2, 2)


def test_states__of_many_campaigns_cost_one_statement(database_url: str, sent_statements: list[str]) -> None:
    with Database(database_url) as database:
        database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty")
        sent_statements.clear()
        found = database.get_a1_retry_states([CAMPAIGN, *(str(number) for number in range(2000))])
        assert len(sent_statements) == 1
        assert list(found) == [CAMPAIGN]


def test_transaction__rolls_an_attempt_back(database_url: str) -> None:
    with Database(database_url) as database:

        def count_and_fail() -> None:
            with database.transaction():
                database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty")
                database.execute("SELECT 1/0")

        with pytest.raises(DbError):
            count_and_fail()
        assert database.get_a1_retry_status(CAMPAIGN).retry_count == 0


def test_connection__lets_the_server_notice_a_vanished_host_within_a_minute(database_url: str) -> None:
    with Database(database_url) as database:
        shown = [
            int(database.row(f"SHOW tcp_keepalives_{name}")[0]) for name in ("idle", "interval", "count")
        ]
    idle, interval, count = shown
    assert 0 < idle + interval * count < 60
    separator = "&" if "?" in database_url else "?"
    with Database(f"{database_url}{separator}options=-c%20work_mem%3D5MB") as database:
        assert database.row("SHOW work_mem")[0] == "5MB"  # the user's own options stay
        assert database.row("SHOW tcp_keepalives_idle")[0] == str(idle)


def test_lock__names_its_holder_and_ends_with_it(database_url: str) -> None:
    with Database(database_url, application_name="the holder") as first, Database(database_url) as second:
        assert first.lock_or_holder(UPLOADER_LOCK) is None
        assert "the holder" in str(second.lock_or_holder(UPLOADER_LOCK))
        first.close()
        give_up_at = time.monotonic() + 10
        while second.lock_or_holder(UPLOADER_LOCK) is not None:  # the server takes a moment to see it
            assert time.monotonic() < give_up_at
            time.sleep(0.02)


def test_error__begins_is_quiet_and_reminds(database_url: str) -> None:
    with Database(database_url) as database:
        assert LastingErrors(database).note(CAMPAIGN, "DAM/forbidden", "no").is_notice_due
        assert not LastingErrors(database).note(CAMPAIGN, "DAM/forbidden", "no").is_notice_due
        assert LastingErrors(database).note(CAMPAIGN, "Box/locked", "no").is_notice_due
        database.execute("UPDATE campaign_errors SET last_notice_at = now() - interval '25 hours'")
        again = LastingErrors(database).note(CAMPAIGN, "DAM/forbidden", "no")
        assert again.is_notice_due
        assert again.is_reminder


def test_error__that_heals_is_told_when_it_outlasts_its_patience(database_url: str) -> None:
    def note() -> tuple[bool, bool, bool]:
        seen = LastingErrors(database).note(CAMPAIGN, "DAM/keeps_changing", "again", HEALING_PATIENCE)
        return seen.is_notice_due, seen.is_reminder, seen.is_young

    def pass_time(began: int = 0, notice: int = 0) -> None:
        database.execute(
            "UPDATE campaign_errors SET began_at = began_at - make_interval(mins => %(began)s),"
            " last_notice_at = last_notice_at - make_interval(mins => %(notice)s)",
            {"began": began, "notice": notice},
        )

    with Database(database_url) as database:
        assert note() == (False, False, True)
        pass_time(began=59)
        assert note() == (False, False, True)
        assert Figures(database).failures().total == 0, "the report tells what a notice told"
        pass_time(began=1)
        assert note() == (True, False, False)
        assert note() == (False, True, False)
        pass_time(notice=24 * 60)
        assert note() == (True, True, False)
        assert LastingErrors(database).note(CAMPAIGN, "DAM/forbidden", "no").is_notice_due


def test_migrations__twice_by_psql_and_on_a_filled_table(
    postgres: PostgresServer, empty_database_url: str
) -> None:
    name = empty_database_url.rsplit("/", 1)[1]
    made_by_hand = """
        CREATE TABLE campaign_status (id serial PRIMARY KEY, campaign_id VARCHAR(64) UNIQUE NOT NULL,
            campaign_number VARCHAR(50), campaign_name VARCHAR(255), status VARCHAR(10),
            created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now());
        INSERT INTO campaign_status (campaign_id, status)
            SELECT 'c' || n, 'A2' FROM generate_series(1, 10000) n;
    """
    assert postgres.psql("-c", made_by_hand, database=name).returncode == 0
    with Database(empty_database_url) as database:
        before = database.row("SELECT pg_relation_filenode('campaign_status')")
    for path in migration_files():
        done = postgres.psql("-f", path, database=name)
        assert done.returncode == 0, done.stderr
    first = columns_of(empty_database_url)
    for path in migration_files():
        assert postgres.psql("-f", path, database=name).returncode == 0
    assert columns_of(empty_database_url) == first
    with Database(empty_database_url) as database:
        assert database.row("SELECT pg_relation_filenode('campaign_status')") == before, "not rewritten"
        assert database.pending_migrations() == []
        assert database.increment_a1_retry("c1", "C-1", "Summer", "empty").number == 1


def test_migration_names__no_number_is_used_twice() -> None:
    numbers = [path.name[:3] for path in migration_files()]
    assert len(set(numbers)) == len(numbers)
    assert "003_add_a1_retry_tracking.sql" in [path.name for path in migration_files()]


def run_script(script: str, *arguments: str, url: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A script as an operator runs it."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / script, *arguments],
        env={"DATABASE_URL": url, "PATH": "/usr/bin:/bin"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_migrate__status_and_apply(empty_database_url: str) -> None:
    assert run_script("migrate.py", "--status", url=empty_database_url).returncode == 1
    done = run_script("migrate.py", url=empty_database_url)
    assert done.returncode == 0, done.stderr
    assert run_script("migrate.py", "--status", url=empty_database_url).returncode == 0
    with Database(empty_database_url) as database:
        database.execute("UPDATE schema_migrations SET sha256 = 'other' WHERE name LIKE '001%%'")
    refused = run_script("migrate.py", url=empty_database_url)
    assert refused.returncode == 2
    assert "changed since it was applied" in refused.stderr


def test_operators__queries_and_tool_agree(database_url: str, postgres: PostgresServer) -> None:
    name = database_url.rsplit("/", 1)[1]
    with Database(database_url, 3) as database:
        for campaign_id, attempts in (("failed", 3), ("near", 2), ("fresh", 1)):
            for _ in range(attempts):
                database.increment_a1_retry(campaign_id, "C-1", f"line\n{HOSTILE}", "empty")
    for file in sorted((REPOSITORY / "database" / "queries").glob("[!r]*.sql")):
        done = postgres.psql(
            "-v",
            "campaign_id=near",
            "-v",
            "max_retries=3",
            "-v",
            f"mail={UUID(int=0)}",
            *("-v", "ids={near}", "-v", "until=tomorrow", "-v", "words={near}"),
            "-f",
            file,
            database=name,
        )
        assert done.returncode == 0, f"{file.name}: {done.stderr}"
    near = run_script("a1_retry.py", "near-failure", "--json", url=database_url).stdout
    assert [row["campaign_id"] for row in json.loads(near)] == ["near"]
    failed = run_script("a1_retry.py", "failed", url=database_url).stdout.splitlines()
    assert len(failed) == 2, "one line for the heads, one for the campaign, whatever its name"
    assert run_script("a1_retry.py", "status", "unknown", url=database_url).returncode == 4
    asked = run_script("a1_retry.py", "reset", "--all-failed", url=database_url, stdin="n\n")
    assert "nothing was changed" in asked.stdout
    assert run_script("a1_retry.py", "reset", "--all-failed", "--yes", url=database_url).returncode == 0
    query = REPOSITORY / "database" / "queries" / "reset_one.sql"
    assert postgres.psql("-v", "campaign_id=near", "-f", query, database=name).returncode == 0
    with Database(database_url) as database:
        states = database.get_a1_retry_states(["failed", "near", "fresh"])
        assert [states[key].retry_count for key in ("failed", "near", "fresh")] == [0, 0, 1]
        noted = database.rows(
            "SELECT campaign_id, (detail ->> 'permanently_failed')::boolean, source FROM campaign_events"
            " WHERE kind = 'reset' ORDER BY id"
        )
        assert noted == [("failed", True, "a1_retry.py"), ("near", False, "psql")]


def test_docs__sql_blocks_run(database_url: str) -> None:
    blocks = [
        block
        for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "MARKDOWN_DOCS").glob("*.md")]
        for block in re.findall(r"```sql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert blocks
    with Database(database_url) as database:
        for block in blocks:
            database.execute(block)


def test_transaction__keeps_other_threads_out(database_url: str) -> None:
    """What another thread writes meanwhile must not be rolled back with it."""
    with Database(database_url) as database:
        is_open, may_end = threading.Event(), threading.Event()

        def fail() -> None:
            with contextlib.suppress(ValueError), database.transaction():
                database.execute("INSERT INTO rate_buckets (bucket) VALUES ('lost')")
                is_open.set()
                may_end.wait(10)
                raise ValueError

        def write() -> None:
            is_open.wait(10)
            database.execute("INSERT INTO rate_buckets (bucket) VALUES ('kept')")

        threads = [threading.Thread(target=fail), threading.Thread(target=write)]
        for thread in threads:
            thread.start()
        is_open.wait(10)
        time.sleep(0.1)
        may_end.set()
        for thread in threads:
            thread.join()
        assert database.rows("SELECT bucket FROM rate_buckets") == [("kept",)]


def test_upload_session__outlives_a_crash_of_the_server(private_postgres: EmbeddedPostgres) -> None:
    """Also on the connection that does not wait for the disk; what else goes there may be lost."""
    url = private_postgres.create_database("ledger_test")
    for file in migration_files():
        done = private_postgres.psql("--quiet", "-f", file, database="ledger_test")
        assert done.returncode == 0, done.stderr
    private_postgres.psql("-c", "ALTER SYSTEM SET wal_writer_delay = '10s'", database="ledger_test")
    private_postgres.restart("fast")
    upload = OpenUpload("c", "a", "s", "1", 1, "f", None)
    with contextlib.suppress(DbError), Database(url, waits_for_disk=False) as database:
        Ledger(database).remember_upload(upload, "run")
        private_postgres.restart("immediate")
    with Database(url) as after:
        assert Ledger(after).open_upload("c", "a") == upload


def test_take_calls__runs_share_one_minute(database_url: str) -> None:
    with Database(database_url) as first, Database(database_url) as second:
        granted = sum(Buckets(run).take_calls("b", 50, 240).count for run in (first, second) * 5)
        assert 120 <= granted <= 124, "half of the limit at once, then four a second"
        Buckets(first).pause_calls("b", 30)
        assert Buckets(second).take_calls("b", 1, 240).count == 0
        assert 29 < Buckets(second).take_calls("b", 1, 240).wait_seconds <= 30


def test_increment__of_one_that_was_snoozed_meanwhile_counts_nothing(database_url: str) -> None:
    """The run read where the campaign stands before somebody snoozed it."""
    with Database(database_url) as database:
        database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty")
        database.execute("UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day'")
        assert database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty") == Attempt(1, False, False, 3)
        database.execute("UPDATE campaign_status SET a1_snoozed_until = now() - interval '1 day'")
        assert database.increment_a1_retry(CAMPAIGN, "C-1", "Summer", "empty").number == 2


def test_idle_transaction__is_ended_so_that_its_row_is_free(database_url: str) -> None:
    """A worker that is frozen in a transaction must not block the one that replaces it."""
    with Database(database_url, idle_seconds=0.3) as frozen, Database(database_url) as other:
        other.increment_a1_retry("c", "C-1", "Summer", "empty")
        with contextlib.suppress(DbError), frozen.transaction():
            frozen.execute("UPDATE campaign_status SET status = 'A1'")
            assert other.execute("UPDATE campaign_status SET status = 'A2'") == 1, "it waited for the end"
            frozen.execute("UPDATE campaign_status SET status = 'A3'")
        assert frozen.is_closed
        assert other.row("SELECT status FROM campaign_status")[0] == "A2"
