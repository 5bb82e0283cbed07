"""The connection to PostgreSQL: waits that end, locks of others, refusals by their code, poolers, TLS."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest

from conftest import Tls
from database_front import beside, encrypted, line_to, pooler_to, receive, refusing, start_up
from raw_server import serving
from shared.base.errors import ConfigError, DbError, ExitCode
from shared.base.values import Campaign
from shared.database import ORCHESTRATOR_LOCK, UPLOADER_LOCK, Database
from shared.postgres import connection as connection_module
from shared.postgres.connection import Connection
from shared.settings import load_operator_settings
from shared.upkeep.migrator import Migrator
from shared.upkeep.schema import Schema
from shared.upload.standing import Standing
from simulators.postgres import EmbeddedPostgres, PostgresServer

CAMPAIGN = Campaign("a" * 40, "C-1", "Summer", "A1")
OTHER = Campaign("b" * 40, "C-2", "Winter", "A1")


def sql(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as own:
        own.autocommit = True
        with own.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def held(url: str, statement: str, **words: str) -> Iterator[int]:
    """Somebody runs a statement and forgets to commit; the server process."""
    with closing(psycopg2.connect(url, **words)) as own, own.cursor() as cursor:
        cursor.execute(statement)
        yield own.info.backend_pid


# ---------------------------------------------------------------------------------------------------------
# Waits


def test_statement__that_is_never_answered_ends(private_postgres: EmbeddedPostgres) -> None:
    with Database(private_postgres.url, answer_seconds=0.5) as database:
        pid = database.row("SELECT pg_backend_pid()")[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(DbError, match="was not answered within") as failure:
                database.ensure_alive()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (failure.value.kind, failure.value.exit_code) == ("out_of_reach", ExitCode.TRY_LATER)
        assert database.is_closed, "an answer that is owed must not be taken for another one's"


def test_connecting__to_a_stopped_postmaster_ends(private_postgres: EmbeddedPostgres) -> None:
    assert private_postgres.pid is not None
    os.kill(private_postgres.pid, signal.SIGSTOP)
    try:
        with pytest.raises(DbError, match="was not answered within") as failure:
            Database(f"{private_postgres.url}?connect_timeout=1")
    finally:
        os.kill(private_postgres.pid, signal.SIGCONT)
    assert failure.value.is_out_of_reach


@pytest.mark.parametrize("seconds", [60.0, None])
def test_wait__is_cut_short_by_a_stop(database_url: str, seconds: float | None) -> None:
    stop = threading.Event()
    name = "the one that waits"
    with Database(
        database_url, application_name=name, answer_seconds=seconds, is_stopping=stop.is_set
    ) as database:
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(DbError, match="was not answered"):
            database.execute("SELECT pg_sleep(600)")
    if seconds is None:  # what has no deadline at the server is cancelled there
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND query LIKE %s"
        assert sql(database_url, left, name, "SELECT pg_sleep%") == [(0,)]


def test_thread__waits_no_longer_for_another_one_than_for_an_answer(database_url: str) -> None:
    with Database(database_url, answer_seconds=0.5) as database:
        inside, leave = threading.Event(), threading.Event()

        def stay() -> None:
            with database.transaction():
                inside.set()
                leave.wait(30)

        thread = threading.Thread(target=stay)
        thread.start()
        inside.wait(30)
        with pytest.raises(DbError, match="another thread has waited"):
            database.ensure_alive()
        leave.set()
        thread.join()
        database.ensure_alive()


def test_hosts__a_silent_one_leads_to_the_next(database_url: str) -> None:
    silent = threading.Event()
    with serving(lambda client: silent.wait(30) and None) as address:
        parts = psycopg2.extensions.parse_dsn(database_url)
        port = address.rpartition(":")[2]
        url = beside(database_url, f"127.0.0.1:{port},{parts['host']}:{parts['port']}")
        with Database(f"{url}?connect_timeout=1&target_session_attrs=read-write") as database:
            assert database.get_a1_retry_states([CAMPAIGN.id]) == {}
        silent.set()


def test_hosts__a_name_without_address_is_out_of_reach() -> None:
    with pytest.raises(DbError, match="name has no address") as failure:
        Database("postgresql://u:p@no-such-host.invalid/db")
    assert failure.value.is_out_of_reach


def test_statement__in_many_threads(database_url: str) -> None:
    with Database(database_url, 1000) as database:
        threads = [
            threading.Thread(
                target=lambda: [
                    database.increment_a1_retry(CAMPAIGN.id, "C", "N", "empty") for _ in range(25)
                ]
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert database.get_a1_retry_status(CAMPAIGN.id).retry_count == 200


# ---------------------------------------------------------------------------------------------------------
# What a DBA may have set

DBA_SETTINGS = {
    "idle_in_transaction_session_timeout": ("1s", "0"),
    "statement_timeout": ("100ms", "1min"),
    "lock_timeout": ("1ms", "5s"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "tcp_user_timeout": ("1", "30000"),
}


@pytest.mark.parametrize("name", DBA_SETTINGS)
def test_session__has_its_own_settings(database_url: str, name: str) -> None:
    theirs, ours = DBA_SETTINGS[name]
    database_name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    sql(database_url, f"ALTER DATABASE {database_name} SET {name} = '{theirs}'")
    with Database(database_url) as database:
        assert database.row(f"SHOW {name}") == (ours,)


def test_read_only__is_a_passing_state(database_url: str) -> None:
    database_name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    sql(database_url, f"ALTER DATABASE {database_name} SET default_transaction_read_only = on")
    with (
        Database(database_url) as database,
        pytest.raises(DbError, match=r"read-only \(a standby") as failure,
    ):
        database.take_run(UPLOADER_LOCK)
    assert (failure.value.exit_code, failure.value.ends_run) == (75, True)
    with pytest.raises(DbError, match="read-only") as failure:
        Database(f"{database_url}?target_session_attrs=read-write")
    assert failure.value.exit_code == 75


# ---------------------------------------------------------------------------------------------------------
# Locks of others


def test_row__that_somebody_holds_is_told_with_who_holds_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half of a wait must be enough for the look at who holds the row, on a busy machine too.
    monkeypatch.setattr(connection_module, "LOCK_SECONDS", 3.0)
    monkeypatch.setattr(connection_module, "SHORT_LOCK_SECONDS", 2.0)
    with Database(database_url) as database:
        Standing(database).record_in_a1(CAMPAIGN)
        Standing(database).record_in_a1(OTHER)
        update = "UPDATE campaign_status SET a1_retry_count = 0"
        with held(database_url, update, application_name="DBeaver - Main") as pid:
            for campaign in (CAMPAIGN, OTHER):
                with pytest.raises(DbError) as failure, database.transaction():
                    database.increment_a1_retry(campaign.id, "C-1", "Summer", "empty")
                assert (failure.value.kind, failure.value.retryable) == ("row_locked", True)
                assert f"server process {pid}, user " in failure.value.message
                for word in ("'DBeaver - Main'", "from 127.0.0.1", "idle in transaction", "open since 2"):
                    assert word in failure.value.message
            assert database.row("SHOW lock_timeout") == ("2s",), "the next one is not waited for as long"
        assert database.increment_a1_retry(CAMPAIGN.id, "C-1", "Summer", "empty").number == 1


def test_table__that_somebody_holds_ends_a_run_with_75(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "LOCK_SECONDS", 1.0)
    with Database(database_url) as database, held(database_url, "LOCK TABLE schema_migrations") as pid:
        with pytest.raises(DbError, match=f"server process {pid}") as failure:
            Schema(database).pending()
        assert failure.value.exit_code == 75
        assert "(schema_migrations)" in failure.value.message


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT asset_id FROM campaign_assets",
        "SELECT extract(epoch FROM now()) FROM campaign_assets FOR UPDATE",
        "WITH c AS (SELECT 1 FROM campaign_status FOR UPDATE SKIP LOCKED) DELETE FROM campaign_assets",
    ],
)
def test_table__that_somebody_holds_is_named(
    database_url: str, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(connection_module, "LOCK_SECONDS", 1.0)
    with (
        Database(database_url) as database,
        held(database_url, "LOCK TABLE campaign_assets"),
        pytest.raises(DbError, match=r"we need \(campaign_assets\)"),
    ):
        database.execute(statement)


def test_holder__of_another_role_is_named_as_far_as_it_shows(
    postgres: PostgresServer, database_url: str, worker: str
) -> None:
    name = f"a1_other_{worker}"
    admin = postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url
    database_name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    admin = psycopg2.extensions.make_dsn(admin, dbname=database_name)
    sql(admin, f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    sql(admin, f"GRANT SELECT, INSERT, UPDATE ON run_epochs, campaign_status TO {name}")
    words = psycopg2.extensions.parse_dsn(database_url)
    url = f"postgresql://{name}:p@{words['host']}:{words['port']}/{database_name}"
    try:
        with Database(database_url, application_name="the owner's") as first, Database(url) as second:
            assert first.take_run(ORCHESTRATOR_LOCK) is None
            for holder in (second.take_run(ORCHESTRATOR_LOCK), second.lock_or_holder(ORCHESTRATOR_LOCK)):
                assert holder is not None
                assert holder.startswith("the owner's (server process ")
        with (
            Database(url) as second,
            held(database_url, "LOCK TABLE campaign_status") as pid,
            pytest.raises(DbError, match=rf"server process {pid}, user .* may not see more"),
        ):
            second.get_a1_retry_status(CAMPAIGN.id)
    finally:
        sql(admin, f"DROP OWNED BY {name}")
        sql(admin, f"DROP ROLE {name}")


def test_deadlock__is_tried_again(database_url: str) -> None:
    """Two sessions, each of which wants what the other has; ours is the one that PostgreSQL gives up."""
    update = "UPDATE campaign_status SET a1_retry_count = %s WHERE campaign_id = %s"
    one = "UPDATE campaign_status SET a1_retry_count = 7 WHERE campaign_id = '{}'"
    both = f"{one.format(CAMPAIGN.id)}; {one.format(OTHER.id)}"
    with Database(database_url) as database, closing(psycopg2.connect(database_url)) as other:
        Standing(database).record_in_a1(CAMPAIGN)
        Standing(database).record_in_a1(OTHER)
        for _ in range(20):
            cursor = other.cursor()
            cursor.execute(update, [1, OTHER.id])
            ours = threading.Thread(target=database.execute, args=(both,))
            ours.start()
            while sql(database_url, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
                pass
            try:
                cursor.execute(update, [1, CAMPAIGN.id])
            except psycopg2.errors.DeadlockDetected:  # it was slow, and was given up itself
                other.rollback()
                ours.join()
                continue
            other.commit()
            ours.join()
            break
        else:
            pytest.fail("PostgreSQL never gave up our session")
        states = database.get_a1_retry_states([CAMPAIGN.id, OTHER.id])
        assert [state.retry_count for state in states.values()] == [7, 7]


# ---------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        ("28P01", "login_refused", 2),
        ("28000", "login_refused", 2),
        ("3D000", "no_database", 2),
        ("42501", "no_right", 2),
        ("53300", "out_of_reach", 75),
        ("53400", "out_of_reach", 75),
        ("57P03", "out_of_reach", 75),
        ("57P01", "out_of_reach", 75),
        ("08P01", "out_of_reach", 75),
        ("22023", "database_error", 2),
    ],
)
def test_refused_connection__is_told_by_its_code_in_any_language(
    code: str, kind: str, exit_code: int
) -> None:
    text = "autenticazione fallita per ferrero su db-eins"
    with refusing(code, text, "FATALE") as address, pytest.raises(DbError) as failure:
        Database(f"postgresql://ferrero:geheim@{address}/db-eins")
    error = failure.value
    assert (error.kind, error.exit_code) == (kind, exit_code)
    assert code in error.message
    assert error.hint or exit_code == 75 or kind == "database_error"
    for name in ("ferrero", "geheim", "db-eins", address):
        assert name not in str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("password authentication failed", "login_refused"),
        ("no such user: ferrero", "login_refused"),
        ("no such database: db", "no_database"),
        ("SSL required", "tls"),
    ],
)
def test_refusal_of_a_pooler__is_told_by_its_words(text: str, kind: str) -> None:
    with refusing("08P01", text) as address, pytest.raises(DbError) as failure:
        Database(f"postgresql://ferrero:geheim@{address}/db")
    assert (failure.value.kind, failure.value.exit_code) == (kind, 2)


def test_pooler__without_a_free_connection_is_told_with_its_setting() -> None:
    with refusing("08P01", "query_wait_timeout") as address, pytest.raises(DbError) as failure:
        Database(f"postgresql://ferrero:geheim@{address}/db")
    assert failure.value.exit_code == 75
    assert "default_pool_size" in failure.value.hint


def test_connection__that_fails_quotes_no_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DbError) as failure:
        Database(f"postgresql://somebody:secret-word@127.0.0.1:{port}/somewhere")
    assert failure.value.is_out_of_reach
    assert "refused" in failure.value.message
    for name in ("somebody", "secret-word", "somewhere", str(port)):
        assert name not in str(failure.value)


@pytest.mark.parametrize(
    "tail",
    [
        ":99999/db",
        ":0/db",
        ":5432/db?sslmode=full",
        ":5432/db?target_session_attrs=writable",
        ":5432/db?sslmode=disable&require_auth=scram",
        ":5432/db?channel_binding=yes",
    ],
)
def test_option__that_libpq_does_not_know_is_a_faulty_setting(tail: str) -> None:
    with pytest.raises(DbError) as failure:
        Database(f"postgresql://somebody:secret-word@127.0.0.1{tail}")
    assert (failure.value.kind, failure.value.exit_code) == ("faulty_option", 2)
    assert "DATABASE_URL" in str(failure.value)
    assert "secret-word" not in str(failure.value)


VALUES = {
    "too long": (
        "ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE VARCHAR(5)",
        ("campaign_status.campaign_name is character varying(5)", "6 characters"),
        "ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE text",
    ),
    "check": (
        "ALTER TABLE campaign_status ADD CONSTRAINT known CHECK (status IN ('A2', 'A3'))",
        ("campaign_status.status: known CHECK", "does not allow status = 'A1'"),
        "DROP CONSTRAINT known",
    ),
    "not null": (
        "ALTER TABLE campaign_status ADD brand TEXT NOT NULL",
        ("campaign_status.brand must not be empty",),
        "ALTER COLUMN brand DROP NOT NULL",
    ),
    "unique": (
        "CREATE UNIQUE INDEX one_status ON campaign_status (status)",
        ("campaign_status: one_status", "status"),
        "one_status",
    ),
    "number": (
        "ALTER TABLE campaign_status ALTER COLUMN campaign_number TYPE integer USING 1",
        ("campaign_status", "integer"),
        "--check",
    ),
    "trigger": (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$;"
        "CREATE TRIGGER no BEFORE INSERT ON campaign_status FOR EACH ROW EXECUTE FUNCTION no()",
        ("campaign_status", "not today"),
        "--check",
    ),
}


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_value__that_is_refused_is_told_with_column_and_cure(
    database_url: str, case: str, is_in_transaction: bool
) -> None:
    change, words, cure = VALUES[case]
    with Database(database_url) as database:
        if case == "unique":
            Standing(database).record_in_a1(OTHER)
        sql(database_url, change)
        where = database.transaction() if is_in_transaction else contextlib.nullcontext()
        with pytest.raises(DbError) as failure, where:
            Standing(database).record_in_a1(CAMPAIGN)
        error = failure.value
        assert (error.kind, error.ends_run, error.is_system_wide) == ("value_refused", False, False)
        assert all(word in error.message for word in words), error.message
        assert cure in error.hint
        database.ensure_alive()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        pytest.param("ALTER TABLE campaign_status RENAME TO other", "schema_differs", id="no table"),
        pytest.param("ALTER TABLE campaign_status DROP campaign_number", "schema_differs", id="no column"),
        pytest.param("DROP FUNCTION hold_run", "schema_differs", id="no function"),
        pytest.param(
            "ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey CASCADE",
            "schema_differs",
            id="no key",
        ),
    ],
)
def test_schema__that_differs_is_told_with_the_command_that_shows_how(
    database_url: str, change: str, kind: str
) -> None:
    with Database(database_url) as database:
        assert database.take_run(UPLOADER_LOCK) is None
        sql(database_url, change)
        with pytest.raises(DbError) as failure:
            Standing(database).record_in_a1(CAMPAIGN)
    assert (failure.value.kind, failure.value.exit_code) == (kind, 2)
    assert "orchestrator-prod.py --check" in failure.value.hint
    assert failure.value.is_system_wide, "no campaign is to blame, and none makes an e-mail of it"


# ---------------------------------------------------------------------------------------------------------
# Encodings


@pytest.fixture
def odd_database(postgres: PostgresServer, worker: str) -> Iterator[Any]:
    made: list[str] = []

    def make(encoding: str) -> str:
        name = f"a1_to_a2_{worker}_{encoding.lower()}_test"
        postgres.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        made.append(name)
        with Database(postgres.url_for(name)) as database:
            for path in Schema(database).pending():
                Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, "0" * 64)
        return postgres.url_for(name)

    yield make
    for name in made:
        postgres.drop_database(name)


def test_latin1__stores_what_it_can(odd_database: Any) -> None:
    url = odd_database("LATIN1")
    with Database(url) as database:
        Standing(database).record_in_a1(Campaign(CAMPAIGN.id, "C-1", "⚠️ Größe 夏", "A1"))
        assert database.get_a1_retry_status(CAMPAIGN.id).campaign_name == "?? Größe ?"


def test_sql_ascii__reads_bytes_that_are_no_letters(odd_database: Any) -> None:
    url = odd_database("SQL_ASCII")
    sql(
        url,
        "INSERT INTO campaign_status (campaign_id, campaign_name) VALUES (%s, E'caf\\351 \\\\')",
        OTHER.id,
    )
    with Database(url) as database:
        Standing(database).record_in_a1(Campaign(CAMPAIGN.id, "C-1", "⚠️ Größe 夏 \\'", "A1"))
        states = database.get_a1_retry_states([CAMPAIGN.id, OTHER.id])
        assert states[CAMPAIGN.id].campaign_name == "⚠️ Größe 夏 \\'"
        assert states[OTHER.id].campaign_name == "caf\\xe9 \\"


# ---------------------------------------------------------------------------------------------------------
# Poolers


def test_pooler__that_keeps_sessions_works_as_it_comes(database_url: str) -> None:
    with pooler_to(database_url, "session") as address:
        url = beside(database_url, address)
        with closing(Connection(url, application_name="pooled")) as pooled:
            assert pooled.is_pooled
        with Database(url) as first, Database(url) as second:
            assert first.take_run(UPLOADER_LOCK) is None
            assert second.take_run(UPLOADER_LOCK) is not None


@pytest.mark.parametrize("take", [Database.take_run, Database.lock_or_holder])
def test_pooler__that_shares_sessions_is_refused(
    database_url: str, take: Callable[[Database, int], str | None]
) -> None:
    with (
        pooler_to(database_url, "transaction") as address,
        Database(beside(database_url, address)) as database,
        pytest.raises(ConfigError, match="pool_mode = session"),
    ):
        take(database, UPLOADER_LOCK)


def test_run__that_is_over_keeps_no_lock_from_the_next_one(database_url: str) -> None:
    """PostgreSQL ends the session of a closed connection a moment later: too late for a run begun at once."""
    with Database(database_url) as waiting:
        for _ in range(50):
            with Database(database_url) as run:
                assert run.take_run(UPLOADER_LOCK) is None
            assert waiting.take_run(UPLOADER_LOCK) is None
            waiting.execute("SELECT pg_advisory_unlock_all()")


def test_direct_connection__costs_no_second_one(database_url: str, sent_statements: list[str]) -> None:
    with closing(Connection(database_url, application_name="direct")) as direct:
        assert not direct.is_pooled
    with Database(database_url) as database:
        sent_statements.clear()
        database.take_run(UPLOADER_LOCK)
        assert len(sent_statements) == 1


# ---------------------------------------------------------------------------------------------------------
# TLS


def opened(url: str, address: str, **env: str) -> Connection:
    """As a script would, with these settings."""
    settings = load_operator_settings({"DATABASE_URL": beside(url, address), **env})
    return Connection(settings.database.dsn, application_name="tls")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host seen as another one."""
    monkeypatch.setattr("shared.settings.LOOPBACK_HOSTS", ())


@pytest.mark.usefixtures("elsewhere")
def test_tls__is_asked_for_elsewhere(database_url: str, tls: Tls) -> None:
    with encrypted(database_url, tls.server_context) as address:
        with closing(opened(database_url, address, DB_CA_BUNDLE=str(tls.ca_path))) as connection:
            assert connection.execute("SELECT 1").rows == [(1,)], "by TLS: the address speaks nothing else"
        with pytest.raises(DbError, match="certificate verify failed") as failure:
            opened(database_url, address)
    assert (failure.value.exit_code, failure.value.kind) == (2, "tls")
    assert "DB_CA_BUNDLE" in failure.value.hint
    assert "DB_SSLMODE" in failure.value.hint


@pytest.mark.usefixtures("elsewhere")
def test_tls__of_another_name_is_refused(database_url: str, tls: Tls) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.ca.issue_cert("db.example.com").configure_cert(context)
    with (
        encrypted(database_url, context) as address,
        pytest.raises(DbError, match="does not match") as failure,
    ):
        opened(database_url, address, DB_CA_BUNDLE=str(tls.ca_path))
    assert (failure.value.exit_code, failure.value.kind) == (2, "tls")
    assert "127.0.0.1" not in str(failure.value)


@pytest.mark.usefixtures("elsewhere")
def test_tls__that_a_server_does_not_speak_is_told(database_url: str) -> None:
    with line_to(database_url) as line, pytest.raises(DbError, match="SSL") as failure:
        opened(database_url, line.address)
    assert (failure.value.exit_code, failure.value.kind) == (2, "tls")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_password__is_not_shown_to_a_server_that_may_be_anybody(
    tls: Tls, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    heard = []

    def ask_in_clear(client: socket.socket) -> None:
        receive(client, 8)
        client.sendall(b"S")
        with tls.server_context.wrap_socket(client, server_side=True) as inside:
            start_up(inside)
            inside.sendall(b"R\0\0\0\10\0\0\0\3")
            heard.append(inside.recv(100))

    with serving(ask_in_clear) as address, pytest.raises(DbError, match="unencrypted password") as failure:
        opened("postgresql://u:secret@h/db", address, DB_SSLMODE=mode)
    assert (failure.value.exit_code, failure.value.kind) == (2, "tls")
    assert b"secret" not in b"".join(heard)
    assert f"DB_SSLMODE: {mode} does not check" in caplog.text


def test_tls__is_taken_on_this_host_where_it_is_offered(database_url: str, tls: Tls) -> None:
    with (
        encrypted(database_url, tls.server_context) as address,
        closing(opened(database_url, address)) as connection,
    ):
        assert connection.execute("SELECT 1").rows == [(1,)], "by TLS: the address speaks nothing else"


def test_line__that_falls_silent_ends_a_transaction(database_url: str) -> None:
    with (
        line_to(database_url, b"campaign_status") as line,
        Database(beside(database_url, line.address), answer_seconds=0.5) as database,
    ):
        with pytest.raises(DbError, match="was not answered"), database.transaction():
            Standing(database).record_in_a1(CAMPAIGN)
        assert database.is_closed
        with pytest.raises(DbError) as failure:
            database.ensure_alive()
        assert failure.value.is_out_of_reach
