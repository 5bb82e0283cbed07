"""Tables that are older than the product: what --check says, what 018 mends, and that runs then work."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from shared.database import Database
from shared.upkeep.schema import Schema, migration_files
from simulators.postgres import EmbeddedPostgres, PostgresServer
from world import REPOSITORY, World

MEND = REPOSITORY / "database" / "migrations" / "018_mend_old_tables.sql"
ROLES = REPOSITORY / "database" / "roles.sql"
TABLE = "CREATE TABLE campaign_status (campaign_number TEXT, campaign_name TEXT, status TEXT, "
"""An old one, but for its key."""
LONG_NAME = "Summer in the city, a campaign whose name is longer than fifty letters"


@dataclass(frozen=True)
class Old:
    """tables, more: what was there before 001. before: what --check says until 018. after: what it still
    says then; None: nothing. cure: what the operator does about it.
    """

    tables: str
    before: str
    after: str | None = None
    cure: str = ""
    more: str = ""


OLD = {
    "no_unique_key": Old(
        TABLE + "id SERIAL PRIMARY KEY, campaign_id TEXT NOT NULL)",
        "fault  campaign_status has no unique key over campaign_id",
    ),
    "duplicates": Old(
        TABLE + "id SERIAL PRIMARY KEY, campaign_id TEXT NOT NULL)",
        "several rows have the id 'x' (2 rows)",
        "several rows have the id 'x' (2 rows)",
        "DELETE FROM campaign_status WHERE id = 2; CREATE UNIQUE INDEX ON campaign_status (campaign_id)",
        more="INSERT INTO campaign_status (campaign_id, status) VALUES ('x', 'A2'), ('x', 'A2'), ('y', 'A2')",
    ),
    "deferrable_key": Old(
        TABLE + "campaign_id TEXT, CONSTRAINT late UNIQUE (campaign_id) DEFERRABLE)",
        "it is deferrable",
        "cure: ALTER TABLE campaign_status DROP CONSTRAINT late, ADD UNIQUE (campaign_id)",
        "ALTER TABLE campaign_status DROP CONSTRAINT late, ADD UNIQUE (campaign_id)",
    ),
    "short_columns": Old(
        "CREATE TABLE campaign_status (campaign_id VARCHAR(40) PRIMARY KEY, campaign_number VARCHAR(10),"
        " campaign_name VARCHAR(50), status CHAR(2), a1_failure_reason VARCHAR(5))",
        "fault  campaign_status.campaign_name is character varying(50); its values need at least 255",
    ),
    "short_column_under_a_view": Old(
        TABLE + "campaign_id TEXT PRIMARY KEY)",
        "fault  campaign_status.campaign_name is character varying(50)",
        "cure: drop the view names first",
        "DROP VIEW names; ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE text",
        more="ALTER TABLE campaign_status ALTER campaign_name TYPE VARCHAR(50);"
        "CREATE VIEW names AS SELECT campaign_name FROM campaign_status",
    ),
    "inherited_column": Old(
        "CREATE TABLE base (campaign_id TEXT, campaign_number TEXT, campaign_name VARCHAR(50), status TEXT);"
        "CREATE TABLE campaign_status (PRIMARY KEY (campaign_id)) INHERITS (base)",
        "fault  campaign_status.campaign_name is character varying(50)",
        "fault  campaign_status.campaign_name is character varying(50)",
        "ALTER TABLE base ALTER COLUMN campaign_name TYPE text",
    ),
    "generated_column": Old(
        "CREATE TABLE campaign_status (campaign_id TEXT PRIMARY KEY, campaign_number TEXT, status TEXT,"
        " campaign_name VARCHAR(50), label TEXT GENERATED ALWAYS AS (campaign_name || '!') STORED)",
        "fault  campaign_status.campaign_name is character varying(50)",
        "cure: drop the generated column label first",
        "ALTER TABLE campaign_status DROP COLUMN label, ALTER COLUMN campaign_name TYPE text",
    ),
    "times_without_zone": Old(
        TABLE + "campaign_id TEXT PRIMARY KEY, created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP,"
        " a1_retry_count INTEGER, a1_last_retry_at TIMESTAMP, a1_permanently_failed BOOLEAN)",
        "fault  campaign_status.a1_last_retry_at is timestamp without time zone",
        more="INSERT INTO campaign_status (campaign_id, status, created_at)"
        " VALUES ('old', 'A2', '2026-01-31 10:00')",
    ),
    "unknown_column": Old(
        TABLE + "campaign_id TEXT PRIMARY KEY, brand VARCHAR(20) NOT NULL)",
        "fault  campaign_status.brand is NOT NULL without a default",
        "fault  campaign_status.brand is NOT NULL without a default",
        "ALTER TABLE campaign_status ALTER COLUMN brand SET DEFAULT ''",
    ),
    "no_number": Old(
        "CREATE TABLE campaign_status (campaign_id TEXT PRIMARY KEY, status TEXT)",
        "fault  campaign_status.campaign_number is missing",
    ),
    "strict_check": Old(
        TABLE + "campaign_id TEXT PRIMARY KEY, CONSTRAINT known CHECK (status IN ('A1', 'B1')))",
        "which refuses status 'A2', status 'GONE'",
        "cure: ALTER TABLE campaign_status DROP CONSTRAINT known",
        "ALTER TABLE campaign_status DROP CONSTRAINT known",
    ),
}


def run_sql(postgres: PostgresServer, world: World, *arguments: str | Path) -> str:
    """psql on the world's database, in the checkout; what it said on standard error."""
    done = postgres.psql("-q", *arguments, database=urlsplit(world.database_url).path[1:])
    assert done.returncode == 0, done.stderr
    return done.stderr


def with_old_tables(world: World, postgres: PostgresServer, url: str, *tables: str) -> World:
    """A world on a database that had these tables before 001; all but 018 is applied."""
    old = replace(world, database_url=url, env={**world.env, "DATABASE_URL": url})
    for statements in filter(None, tables):
        old.sql(statements)
    for path in migration_files():
        if path != MEND:
            run_sql(postgres, old, "-f", path)
    return old


def by_lines(statements: str) -> str:
    """Each statement on a line of its own, with psql's own ones relative to the checkout."""
    return "\n".join(
        part.strip().replace("database/", f"{REPOSITORY}/database/") + ("" if "\\i" in part else ";")
        for part in statements.split(";")
    )


@pytest.mark.parametrize("name", OLD)
def test_old_table__is_told_of_mended_and_works(
    world: World, postgres: PostgresServer, empty_database_url: str, name: str
) -> None:
    case = OLD[name]
    old = with_old_tables(world, postgres, empty_database_url, case.tables, case.more)
    before = old.run("orchestrator-prod.py", "--check")
    assert before.exit_code == 2
    assert case.before in before.stdout
    assert "018_mend_old_tables.sql" in before.stderr
    mended = old.run("migrate.py")
    assert mended.exit_code == 0, mended.stderr
    if case.after is not None:
        assert case.after in mended.stderr
        after, status = old.run("orchestrator-prod.py", "--check"), old.run("migrate.py", "--status")
        assert (after.exit_code, status.exit_code) == (2, 2)
        assert case.after in after.stdout
        assert case.after in status.stdout
        run_sql(postgres, old, "-c", "SELECT 1")
        done = postgres.psql(input=by_lines(case.cure), database=urlsplit(old.database_url).path[1:])
        assert done.returncode == 0, done.stderr
    check = old.run("orchestrator-prod.py", "--check")
    assert check.exit_code == 0, check.stdout
    assert "fault" not in check.stdout
    full, empty = old.add_full_campaign(LONG_NAME, "C-1"), old.dam.add_campaign("Empty", "C-2")
    run = old.upload()
    assert run.exit_code == 0, run.stderr
    assert run.outcomes == {full: "uploaded", empty: "empty"}
    old.dam.set_status(empty, "A code that is longer than twenty letters")
    assert old.upload().exit_code == 0
    assert [old.row(one)["status"] for one in (full, empty)] == [
        "A2",
        "A code that is longer than twenty letters",
    ]


def test_foreign_table__under_our_name_is_told_and_its_cure_works(
    world: World, postgres: PostgresServer, empty_database_url: str
) -> None:
    """A migration that meets it stops; the cure goes with the error, and migrate.py then goes on."""
    old = replace(
        world, database_url=empty_database_url, env={**world.env, "DATABASE_URL": empty_database_url}
    )
    old.sql("CREATE TABLE campaign_assets (id SERIAL PRIMARY KEY, campaign_id TEXT, path TEXT)")
    told = "campaign_assets is not the table that the product makes: it lacks asset_id"
    refused = old.run("migrate.py")
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert "or rename that table; then: psql" in refused.stderr
    for name, arguments in (("orchestrator-prod.py", "--check"), ("migrate.py", "--status")):
        assert f"fault  {told}" in old.run(name, arguments).stdout
    old.sql("ALTER TABLE campaign_assets RENAME TO old_assets")
    run_sql(postgres, old, "-f", REPOSITORY / "database/migrations/002_create_campaign_assets.sql")
    assert old.run("migrate.py").exit_code == 0
    check = old.run("orchestrator-prod.py", "--check")
    assert check.exit_code == 0, check.stdout
    full = old.add_full_campaign("Foreign", "C-1")
    assert old.upload().outcomes == {full: "uploaded"}


def test_old_table__times_are_of_the_zone_that_is_named(
    world: World, postgres: PostgresServer, empty_database_url: str
) -> None:
    case = OLD["times_without_zone"]
    old = with_old_tables(world, postgres, empty_database_url, case.tables, case.more)
    run_sql(postgres, old, "-c", "SET TimeZone = 'Europe/Rome'", "-f", MEND)
    row = old.row("old")
    assert row["created_at"] == datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
    assert (row["a1_retry_count"], row["a1_permanently_failed"]) == (0, False)


def test_old_table__that_is_large_is_left_and_named(
    world: World, postgres: PostgresServer, empty_database_url: str
) -> None:
    """Nothing that takes longer the more rows there are is done to a large table."""
    tables = (
        "CREATE TABLE campaign_status (campaign_id TEXT, campaign_number VARCHAR(9), campaign_name TEXT,"
        " status TEXT, a1_last_retry_at TIMESTAMP); INSERT INTO campaign_status (campaign_id, campaign_name)"
        " SELECT n, repeat('x', 1500) FROM generate_series(1, 25000) n"
    )
    old = with_old_tables(world, postgres, empty_database_url, tables)
    pages = "SELECT pg_relation_filenode('campaign_status') AS node"
    before = old.sql(pages)
    said = run_sql(postgres, old, "-c", "SET TimeZone = 'Europe/Rome'", "-f", MEND)
    assert old.sql(pages) == before
    assert "in a quiet hour: ALTER TABLE campaign_status ALTER COLUMN a1_last_retry_at" in said
    assert "CREATE UNIQUE INDEX CONCURRENTLY ON campaign_status (campaign_id)" in said
    with Database(old.database_url) as database:
        told = " ".join(one.what for one in Schema(database).differences(status_a1="A1", status_a2="A2"))
    assert "campaign_status.a1_last_retry_at is timestamp" in told
    assert "no unique key over campaign_id" in told
    assert "campaign_number" not in told, "a varchar becomes text however large the table"


def test_half_built_key__is_made_anew(
    world: World, postgres: PostgresServer, empty_database_url: str
) -> None:
    case = OLD["duplicates"]
    old = with_old_tables(world, postgres, empty_database_url, case.tables, case.more)
    build = (
        "CREATE UNIQUE INDEX CONCURRENTLY campaign_status_campaign_id_idx ON campaign_status (campaign_id)"
    )
    name = urlsplit(old.database_url).path[1:]
    assert postgres.psql("-c", build, database=name).returncode != 0
    old.sql("DELETE FROM campaign_status WHERE id = 2")
    assert "half built" in old.run("orchestrator-prod.py", "--check").stdout
    assert run_sql(postgres, old, "-f", MEND).count("WARNING") == 0
    assert old.sql("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
    assert old.run("orchestrator-prod.py", "--check").exit_code == 0


def test_migrate__refuses_a_database_that_cannot_hold_every_text(
    world: World, postgres: PostgresServer, worker: str
) -> None:
    name = f"a1_to_a2_latin_{worker}_test"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        latin = replace(world, env={**world.env, "DATABASE_URL": postgres.url_for(name)})
        refused = latin.run("migrate.py")
        assert refused.exit_code == 2
        assert "encoding LATIN1" in refused.stderr
        assert "ENCODING 'UTF8'" in refused.stderr
        for path in migration_files():  # by psql, as from before
            done = postgres.psql("-q", "-f", path, database=name)
            assert done.returncode == 0, done.stderr
        assert latin.run("migrate.py").exit_code == 0
        check = latin.run("orchestrator-prod.py", "--check")
        assert check.exit_code == 2
        assert "has the encoding LATIN1" in check.stdout
    finally:
        postgres.drop_database(name)


# Schemas and rights


def admin_of(postgres: PostgresServer, url: str) -> str:
    """A superuser's URL for the database of `url`."""
    admin = postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url
    return urlsplit(admin)._replace(path=urlsplit(url).path).geturl()


@contextmanager
def new_role(postgres: PostgresServer, url: str, name: str) -> Iterator[str]:
    """A role without rights; the URL of the database as that role."""
    admin = psycopg2.connect(admin_of(postgres, url))
    admin.autocommit = True
    parts = urlsplit(url)
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'only-for-tests'")
        try:
            yield f"postgresql://{name}:only-for-tests@{parts.hostname}:{parts.port}{parts.path}"
        finally:
            cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    admin.close()


def grant(
    postgres: PostgresServer, url: str, role: str, *, as_admin: bool = False
) -> subprocess.CompletedProcess[str]:
    server = PostgresServer(admin_of(postgres, url)) if as_admin else postgres
    return server.psql("-q", "-v", f"role={role}", "-f", ROLES, database=urlsplit(url).path[1:])


def test_role__works_on_an_old_table_with_a_serial_in_another_schema(
    world: World, postgres: PostgresServer, empty_database_url: str, worker: str
) -> None:
    """The tables in a schema of their own, a column that fills itself from a sequence, and functions that
    nobody may call by default.
    """
    url, name = empty_database_url, f"a1_other_{worker}"
    old = replace(world, database_url=url, env={**world.env, "DATABASE_URL": url})
    old.sql(
        "CREATE SCHEMA dam; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
        "CREATE TABLE dam.campaign_status (id SERIAL PRIMARY KEY, campaign_id TEXT UNIQUE,"
        " campaign_number TEXT, campaign_name TEXT, status TEXT)"
    )
    for path in migration_files():
        run_sql(postgres, old, "-c", "SET search_path = dam", "-f", path)
    with new_role(postgres, url, name) as role_url:
        own = replace(world, database_url=url, env={**world.env, "DATABASE_URL": role_url})
        check = own.run("orchestrator-prod.py", "--check")
        assert check.exit_code == 2
        assert f"in the schema dam, and the role {name} has no USAGE on it" in check.stdout
        assert f"-v role={name} -f database/roles.sql" in check.stdout
        refused = own.upload()
        assert refused.exit_code == 2
        assert "which this role may not use" in refused.stderr
        assert "the database lacks" not in refused.stderr + check.stderr
        granted = grant(postgres, url, name, as_admin=True)
        assert granted.returncode == 0, granted.stderr
        check = own.run("orchestrator-prod.py", "--check")
        assert check.exit_code == 0, check.stdout
        full = own.add_full_campaign("Summer", "C-1")
        assert own.upload().outcomes == {full: "uploaded"}


def test_role__is_told_what_it_lacks(
    world: World, postgres: PostgresServer, database_url: str, worker: str
) -> None:
    name = f"a1_poor_{worker}"
    with new_role(postgres, database_url, name) as role_url:
        poor = replace(world, env={**world.env, "DATABASE_URL": role_url})
        check = poor.run("orchestrator-prod.py", "--check")
        assert check.exit_code == 2
        assert f"the role {name} lacks INSERT, SELECT, UPDATE on campaign_status" in check.stdout
        assert "the database lacks" not in check.stderr
        assert grant(postgres, database_url, name).returncode == 0
        assert poor.run("orchestrator-prod.py", "--check").exit_code == 0
        poor_grant = grant(PostgresServer(role_url), role_url, name)
        assert poor_grant.returncode != 0
        assert "may not grant on the tables in the schema public" in poor_grant.stderr


def test_role__a_table_of_notices_that_is_refused_ends_no_run(
    world: World, postgres: PostgresServer, database_url: str, worker: str
) -> None:
    name = f"a1_mail_{worker}"
    for number in range(22):
        world.dam.add_campaign(f"Empty {number}", f"C-{number}")
    with new_role(postgres, database_url, name) as role_url:
        assert grant(postgres, database_url, name).returncode == 0
        own = replace(world, env={**world.env, "DATABASE_URL": role_url})
        for _ in range(2):
            refused = own.upload(SMTP_PORT="1")
            assert "permission denied" not in refused.stderr
            assert len(refused.outcomes) == 22
    assert world.sql("SELECT count(*) AS n FROM notices WHERE campaign_id = ''") == [{"n": 0}]


@pytest.mark.parametrize("file", ["reset_one.sql", "reset_all_failed.sql"])
def test_reset_by_psql__works_for_a_person_who_may_only_change_campaigns(
    world: World, postgres: PostgresServer, database_url: str, worker: str, file: str
) -> None:
    world.sql(
        "INSERT INTO campaign_status (campaign_id, a1_retry_count, a1_permanently_failed)"
        " VALUES ('x', 3, TRUE)"
    )
    name = f"a1_person_{worker}"
    with new_role(postgres, database_url, name) as role_url:
        world.sql(f"GRANT SELECT, UPDATE ON campaign_status TO {name}")
        done = PostgresServer(role_url).psql(
            *("-v", "campaign_id=x", "-f", REPOSITORY / "database" / "queries" / file),
            database=urlsplit(role_url).path[1:],
        )
    assert done.returncode == 0, done.stderr
    assert world.row("x")["a1_permanently_failed"] is False
    noted = world.sql("SELECT actor, source FROM campaign_events WHERE kind = 'reset'")
    assert noted == [{"actor": name, "source": "psql"}]


def test_roles_sql__fails_where_it_has_nothing_to_grant_on(
    postgres: PostgresServer, empty_database_url: str
) -> None:
    done = grant(postgres, empty_database_url, "nobody_of_this_name")
    assert done.returncode != 0
    assert "nothing is granted" in done.stderr
    assert "Apply the migrations first" in done.stderr
    assert not re.search("relation .* does not exist", done.stderr)


def test_mend__gives_execute_to_those_who_may_write(
    world: World, postgres: PostgresServer, database_url: str, worker: str
) -> None:
    name = f"a1_run_{worker}"
    with new_role(postgres, database_url, name) as role_url:
        assert grant(postgres, database_url, name).returncode == 0
        with Database(database_url) as database:
            database.execute(f"REVOKE EXECUTE ON FUNCTION hold_run FROM PUBLIC, {name}")
        own = replace(world, env={**world.env, "DATABASE_URL": role_url})
        assert "lacks EXECUTE on the function hold_run" in own.run("orchestrator-prod.py", "--check").stdout
        run_sql(postgres, world, "-f", MEND)
        assert own.run("orchestrator-prod.py", "--check").exit_code == 0


def test_dashboard__follows_the_configured_codes(world: World, postgres: PostgresServer) -> None:
    world.sql(
        "INSERT INTO campaign_status (campaign_id, status, a1_retry_count)"
        " VALUES ('a', 'X1', 2), ('b', 'X1', 0), ('c', 'X2', 0), ('d', 'A1', 2)"
    )
    near = world.run("a1_retry.py", "near-failure", "--json", DAM_STATUS_A1="X1")
    assert '"campaign_id": "a"' in near.stdout
    assert '"campaign_id": "d"' not in near.stdout
    assert '"campaign_id": "d"' in world.run("a1_retry.py", "near-failure", "--json").stdout
    name, folder = urlsplit(world.database_url).path[1:], REPOSITORY / "database" / "queries"
    codes = ("-v", "status_a1=X1", "-v", "status_a2=X2")
    shown = postgres.psql("-tA", "-q", *codes, "-f", folder / "dashboard.sql", database=name).stdout
    assert shown.strip().startswith("2|1|0|1|")
    shown = postgres.psql("-tA", "-q", "-f", folder / "dashboard.sql", database=name).stdout
    assert shown.strip().startswith("1|1|0|0|")
    shown = postgres.psql("-tA", "-q", *codes, "-f", folder / "near_failure.sql", database=name).stdout
    assert shown.startswith("a|")
