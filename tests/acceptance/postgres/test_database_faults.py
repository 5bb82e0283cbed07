"""A database that is silent, locked, pooled or of another shape: through the scripts, as in the field."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import psycopg2
import pytest

from conftest import MIGRATIONS, ApplyMigrations
from database_front import beside, line_to, pooler_to
from simulators.postgres import PostgresServer
from world import World, wait_for

LOOP = "orchestrator-prod.py"
UPLOADER = "a1_to_a2_box_uploader.py"
ERROR = "🛑 A1→A2 Error - Campaign "


@contextmanager
def forgotten(world: World, statement: str, *values: str) -> Iterator[int]:
    """A window of an SQL tool, in which somebody forgot to commit; the server's process."""
    words = {"application_name": "DBeaver 23 - Main"}
    with closing(psycopg2.connect(world.database_url, **words)) as own, own.cursor() as cursor:
        cursor.execute(statement, values or None)
        yield own.info.backend_pid


def set_for_database(world: World, **settings: str) -> None:
    name = urlsplit(world.database_url).path[1:]
    changes = (f"ALTER DATABASE {name} SET {setting} = '{value}'" for setting, value in settings.items())
    world.sql("; ".join(changes))


# ---------------------------------------------------------------------------------------------------------
# Silence


@pytest.mark.parametrize("word", ["set_config", "schema_migrations", "run_epochs", "a1_retry_count"])
def test_uploader__ends_when_told_to_while_the_database_is_silent(world: World, word: str) -> None:
    world.add_full_campaign("Summer", "C-1")
    with line_to(world.database_url, word.encode()) as line:
        process = world.start(
            UPLOADER, "--auth-pfx-v2", DATABASE_URL=beside(world.database_url, line.address)
        )
        wait_for(line.is_silent.is_set)
        process.send_signal(signal.SIGTERM)
        run = world.finish(process)
    assert run.exit_code == 75, run.stderr
    assert "was not answered within" in run.stderr


def test_loop__ends_when_told_to_while_the_database_is_silent(world: World) -> None:
    with line_to(world.database_url, b"run_epochs") as line:
        process = world.start(LOOP, DATABASE_URL=beside(world.database_url, line.address))
        wait_for(line.is_silent.is_set)
        process.send_signal(signal.SIGTERM)
        run = world.finish(process)
    assert run.exit_code == 0, run.stderr
    assert "the database is away" in run.stderr


# ---------------------------------------------------------------------------------------------------------
# Locks of others


def test_locked_row__leaves_its_campaign_to_the_next_run(world: World) -> None:
    held = world.add_full_campaign("Held", "C-0")
    others = [world.add_full_campaign(f"Free {number}", f"C-{number}") for number in range(1, 4)]
    for campaign in (held, *others):
        world.sql("INSERT INTO campaign_status (campaign_id, status) VALUES (%s, 'A1')", campaign)
    reset = "UPDATE campaign_status SET a1_retry_count = 0 WHERE campaign_id = %s"
    with forgotten(world, reset, held) as pid:
        run = world.upload()
    assert run.exit_code in (0, 4), run.stderr
    assert [world.dam.status(campaign) for campaign in others] == ["A2"] * 3
    assert world.dam.status(held) == "A1"
    told = next(line for line in run.stderr.splitlines() if held in line and "is locked by" in line)
    for words in (f"server process {pid}", "'DBeaver 23 - Main'", "idle in transaction", "since"):
        assert words in told
    world.upload()
    assert world.dam.status(held) == "A2", "and the next run does it"


def test_locked_table__ends_the_run_with_who_locks_it(world: World) -> None:
    world.add_full_campaign("Summer", "C-1")
    with forgotten(world, "LOCK TABLE campaign_status") as pid:
        run = world.upload()
    assert run.exit_code == 75
    assert f"server process {pid}" in run.stderr
    assert world.subjects == []


# ---------------------------------------------------------------------------------------------------------
# Settings of the server


def test_settings__of_a_dba_do_no_harm(world: World) -> None:
    full, empty = world.add_full_campaign("Full", "C-1"), world.dam.add_campaign("Empty", "C-2")
    set_for_database(
        world,
        idle_in_transaction_session_timeout="1ms",
        statement_timeout="100ms",
        lock_timeout="1ms",
        default_transaction_isolation="serializable",
        tcp_user_timeout="1000",
    )
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert run.outcomes == {full: "uploaded", empty: "empty"}


def test_read_only_server__is_tried_again_later(world: World) -> None:
    world.add_full_campaign("Summer", "C-1")
    set_for_database(world, default_transaction_read_only="on")
    for words in ("daily_report.py", "orchestrator-prod.py --check", "migrate.py --status"):
        run = world.run(*words.split())
        assert run.exit_code == 75, run.stderr
    assert world.upload().exit_code == 75
    assert "target_session_attrs=read-write" in world.upload().stderr


def test_campaign_number__held_by_a_forgotten_transaction_costs_its_campaign(world: World) -> None:
    """The number is taken before anything is done for the campaign."""
    held = world.add_full_campaign("Held", "C-1")
    other = world.add_full_campaign("Other", "C-2")
    left = world.dam.add_campaign("Left", "C-3")
    assert world.upload("--campaign", left).exit_code == 0
    world.dam.set_status(left, "A7")
    statement = (
        "INSERT INTO campaign_epochs VALUES (%s, 9, 'somebody', now());"
        " UPDATE campaign_epochs SET epoch = epoch + 1 WHERE campaign_id = %s"
    )
    with forgotten(world, statement, held, left):
        run = world.upload()
    assert (run.exit_code, run.outcomes[held], run.outcomes[other]) == (0, "postponed", "uploaded")
    assert "DBeaver" in run.stderr
    assert world.row(left)["status"] == "A1"
    run = world.upload()
    assert (run.exit_code, run.outcomes[held]) == (0, "uploaded")
    assert world.row(left)["status"] == "A7"


# ---------------------------------------------------------------------------------------------------------
# Values that a table does not take


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        pytest.param(
            "ALTER TABLE campaign_status ADD CONSTRAINT known CHECK (status IN ('A1', 'A2'))",
            None,
            ("known CHECK", "status = 'GONE'", "DROP CONSTRAINT known"),
            id="GONE",
        ),
        pytest.param(
            "ALTER TABLE campaign_status ALTER COLUMN status TYPE VARCHAR(20)",
            "IN REVIEW BY THE BRAND OFFICE",
            ("campaign_status.status is character varying(20)", "29 characters", "TYPE text"),
            id="long status",
        ),
    ],
)
def test_campaign_that_left__and_does_not_fit_is_followed_by_the_others(
    world: World, change: str, status: str | None, words: tuple[str, ...]
) -> None:
    first = world.dam.add_campaign("Autumn", "C-7", campaign_id="0" * 40)
    second = world.dam.add_campaign("Winter", "C-8", campaign_id="f" * 40)
    assert world.upload().exit_code == 0
    world.sql(change)
    if status is None:
        world.dam.remove(first)
    else:
        world.dam.set_status(first, status)
    world.dam.set_status(second, "A2")
    world.mail.messages.clear()
    for _ in range(2):
        run = world.upload()
        assert run.exit_code == 4, run.stderr
        assert run.outcomes[first] == "failed"
        assert all(word in run.stderr for word in (first, *words)), run.stderr
    assert world.subjects == [f"{ERROR}Autumn"], "once, by name"
    assert world.row(second)["status"] == "A2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            "ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE VARCHAR(50)",
            ("campaign_status.campaign_name is character varying(50)", "68 characters", "TYPE text"),
            id="short name",
        ),
        pytest.param(
            "ALTER TABLE campaign_status ADD CONSTRAINT brief CHECK (length(campaign_name) < 60)",
            ("brief CHECK", "DROP CONSTRAINT brief"),
            id="check",
        ),
    ],
)
def test_campaign__that_does_not_fit_costs_itself_alone(
    world: World, change: str, words: tuple[str, ...]
) -> None:
    world.sql(change)
    long = world.add_full_campaign("x" * 68, "C-1")
    short = world.add_full_campaign("Short", "C-2")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (4, {long: "failed", short: "uploaded"})
    assert all(word in run.stderr for word in words), run.stderr
    assert f"{ERROR}{'x' * 68}" in world.subjects


def test_column__that_nobody_fills_is_named_with_its_cure(world: World) -> None:
    world.sql("ALTER TABLE campaign_status ADD brand VARCHAR(20) NOT NULL")
    world.add_full_campaign("Summer", "C-1")
    run = world.upload()
    assert run.exit_code == 4
    assert "campaign_status.brand must not be empty" in run.stderr
    assert "ALTER COLUMN brand DROP NOT NULL" in run.stderr


@pytest.mark.parametrize("table", ["campaign_errors", "notices"])
def test_error_notice__that_cannot_be_stored_does_not_end_the_run(world: World, table: str) -> None:
    world.sql("ALTER TABLE campaign_status ADD CONSTRAINT brief CHECK (length(campaign_name) < 60)")
    world.sql(
        f"ALTER TABLE {table} ADD CONSTRAINT never CHECK (kind NOT LIKE '%error%' AND kind NOT LIKE '%/%')"
    )
    long = world.add_full_campaign("x" * 68, "C-1")
    short = world.add_full_campaign("Short", "C-2")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (4, {long: "failed", short: "uploaded"})
    assert "no error notice can be stored" in run.stderr


def test_table_of_another_tool__is_no_campaigns_fault(world: World) -> None:
    world.sql("ALTER TABLE campaign_assets DROP COLUMN revision")
    world.add_full_campaign("Summer", "C-1")
    run = world.upload()
    assert (run.exit_code, world.subjects) == (2, [])
    assert "orchestrator-prod.py --check" in run.stderr


# ---------------------------------------------------------------------------------------------------------
# Encodings


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_encoding__that_cannot_hold_a_text_ends_no_run(
    world: World, postgres: PostgresServer, apply_migrations: ApplyMigrations, worker: str, encoding: str
) -> None:
    name = f"a1_to_a2_{worker}_{encoding.lower()}_run_test"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        url = postgres.url_for(name)
        apply_migrations(name, MIGRATIONS)  # migrate.py refuses to begin on such a database
        full, empty = world.add_full_campaign("Été 夏", "C-1"), world.dam.add_campaign("Größe ⚠️", "C-2")
        with closing(psycopg2.connect(url)) as own, own, own.cursor() as cursor:
            cursor.execute(
                "INSERT INTO campaign_status (campaign_id, campaign_name, status)"
                " VALUES (%s, convert_from(decode('78e9', 'hex'), 'SQL_ASCII'), 'A1')",
                [full],
            )
        run = world.upload(DATABASE_URL=url)
        assert run.exit_code == 0, run.stderr
        assert run.outcomes == {full: "uploaded", empty: "empty"}
        assert len(world.mail.messages) == 2
    finally:
        postgres.drop_database(name)


# ---------------------------------------------------------------------------------------------------------
# What stands in between


def test_pooler__in_session_mode_works_as_it_comes(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    with pooler_to(world.database_url, "session") as address:
        url = beside(world.database_url, address)
        assert world.run(LOOP, "--check", DATABASE_URL=url).exit_code == 0
        run = world.upload(DATABASE_URL=url)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr


@pytest.mark.parametrize(
    "command",
    [(UPLOADER, "--auth-pfx-v2"), (LOOP,), (LOOP, "--once"), (LOOP, "--check"), ("daily_report.py",)],
    ids=["run", "loop", "once", "check", "report"],
)
def test_pooler__in_transaction_mode_is_refused_with_the_reason(
    world: World, command: tuple[str, ...]
) -> None:
    with pooler_to(world.database_url, "transaction") as address:
        run = world.run(*command, DATABASE_URL=beside(world.database_url, address))
    assert run.exit_code == 2, run.stderr
    assert "pool_mode = session" in run.stderr


@pytest.mark.parametrize(
    "password", ["se@cret-word", "se/cret-word", "se?cret-word", "se#cret-word", "se%cret"]
)
def test_url__with_a_password_that_is_not_escaped_is_refused(world: World, password: str) -> None:
    parts = urlsplit(world.database_url)
    url = f"postgresql://somebody:{password}@{parts.hostname}:{parts.port}{parts.path}"
    for run in (world.upload(DATABASE_URL=url), world.run(LOOP, "--once", DATABASE_URL=url)):
        assert run.exit_code == 2
        assert "%40 %2F" in run.stderr
        assert "cret" not in run.stderr + run.stdout
