"""What preflight.sql, the one description of the schema, says of a fresh database and of odd ones."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import PASSWORD, _temporary_folder
from shared.database import Database
from shared.upkeep.schema import Difference, Schema
from simulators.postgres import EmbeddedPostgres, PostgresServer

PREFLIGHT = Path(__file__).resolve().parents[3] / "database" / "queries" / "preflight.sql"

MADE_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1, a.attnum
"""


@contextmanager
def changed(database: Database, *statements: str) -> Iterator[None]:
    """The database with these changes, which are taken back at the end."""

    for statement in ("BEGIN", *statements):
        database.execute(statement)
    try:
        yield
    finally:
        database.execute("ROLLBACK")


def differences(database: Database) -> list[Difference]:
    return Schema(database).differences(status_a1="A1", status_a2="A2")


def by_psql(postgres: PostgresServer, url: str, *arguments: str) -> list[Difference]:
    """What psql prints."""
    name = urlsplit(url).path[1:]
    done = postgres.psql("--csv", "-q", *arguments, "-f", PREFLIGHT, database=name)
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(io.StringIO(done.stdout))
    assert header == ["severity", "what", "cure"]
    return [Difference(*row) for row in rows]


@pytest.fixture(scope="module")
def migrated_url(postgres: PostgresServer, template_database: str, worker: str) -> Iterator[str]:
    """A database with all migrations, in which every change is taken back."""
    name = f"a1_to_a2_odd_{worker}_test"
    yield postgres.create_database(name, template=template_database)
    postgres.drop_database(name)


def test_preflight__is_silent_where_all_is_well(postgres: PostgresServer, database_url: str) -> None:
    with Database(database_url) as database:
        assert differences(database) == []
        assert Schema(database).differences(status_a1="X-1", status_a2="X-2") == []
    assert by_psql(postgres, database_url) == []
    assert by_psql(postgres, database_url, "-v", "status_a1=X-1", "-v", "max_retries=9") == []


def test_preflight__psql_and_the_scripts_say_the_same(postgres: PostgresServer, database_url: str) -> None:
    with Database(database_url) as database:
        database.execute("ALTER TABLE campaign_status ALTER COLUMN status TYPE varchar(3)")
        database.execute("ALTER TABLE campaign_status ADD CONSTRAINT known CHECK (status IN ('A1', 'A2'))")
        database.execute("DROP TABLE daily_reports")
        told = differences(database)
    assert len(told) == 3
    assert by_psql(postgres, database_url) == told


def test_preflight__lists_every_column_that_the_migrations_make(migrated_url: str) -> None:
    """Each one taken away, and each one of another type, is named; and none is listed that nobody makes."""
    with Database(migrated_url) as database:
        made = database.rows(MADE_COLUMNS)
        for table in dict(row[:2] for row in made):
            # Without its id campaign_status is nobody's of ours, and no more is said.
            columns = [row[1] for row in made if row[0] == table and row[1] != "campaign_id"]
            gone = [f"ALTER TABLE {table} DROP COLUMN {column} CASCADE" for column in columns]
            with changed(database, *gone):
                named = " ".join(one.what for one in differences(database) if one.severity == "fault")
                assert [one for one in columns if not re.search(rf"\b{table}\b.*\b{one}\b", named)] == []
            with changed(
                database, *gone, *(f"ALTER TABLE {table} ADD COLUMN {column} bytea" for column in columns)
            ):
                named = " ".join(one.what for one in differences(database) if one.severity == "fault")
                assert [one for one in columns if f"{table}.{one} is bytea" not in named] == []
    listed = re.findall(
        r"^    \('(\w+)', '(\w+)', '([a-z ]+(?:\[\])?)', (?:NULL|\d+), '\w+', '\w*'\)",
        PREFLIGHT.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert sorted(listed) == sorted(made)


# What is odd; how it is told, in part; and its cure, in part.
ODD = """
DROP TABLE notices CASCADE
  fault: the table notices is missing
  cure: 004_create_outbox.sql
DROP TABLE campaign_assets; CREATE TABLE campaign_assets (id SERIAL PRIMARY KEY, campaign TEXT NOT NULL)
  fault: campaign_assets is not the table that the product makes: it lacks campaign_id, asset_id
  cure: 002_
DROP TABLE schema_migrations; CREATE TABLE schema_migrations (version VARCHAR PRIMARY KEY)
  fault: schema_migrations is not the table that the product makes: it lacks name
  cure: a schema of its own
ALTER TABLE notices RENAME TO n; CREATE VIEW notices AS SELECT * FROM n
  fault: notices is a view, not a table
  cure: rename
ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE varchar(50)
  fault: campaign_status.campaign_name is character varying(50); its values need at least 255
  cure: ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE text
ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE varchar(500)
  warning: a longer value is refused
  cure: TYPE text
ALTER TABLE campaign_status ALTER COLUMN status TYPE char(20)
  fault: is character(20); it pads
  cure: TYPE text
CREATE TYPE codes AS ENUM ('A1', 'A2'); ALTER TABLE campaign_status ALTER COLUMN status TYPE codes USING
    status::codes
  fault: campaign_status.status is codes; it does not accept every text
  cure: USING status::text
ALTER TABLE campaign_status ALTER COLUMN campaign_id TYPE uuid USING NULL
  fault: campaign_id is uuid
  cure: TYPE text
ALTER TABLE campaign_status ALTER COLUMN a1_failure_reason TYPE json USING NULL
  fault: a1_failure_reason is json
  cure: TYPE text
ALTER TABLE campaign_status ALTER COLUMN a1_retry_count TYPE numeric
  fault: a1_retry_count is numeric
  cure: TYPE integer
ALTER TABLE campaign_assets ALTER COLUMN size_bytes TYPE integer
  fault: size_bytes is integer; bigint is needed
  cure: TYPE bigint
ALTER TABLE campaign_status ALTER COLUMN a1_last_retry_at TYPE timestamp
  fault: a1_last_retry_at is timestamp without time zone
  cure: AT TIME ZONE
ALTER TABLE campaign_status ALTER COLUMN created_at TYPE timestamp
  warning: created_at is timestamp without time zone
  cure: AT TIME ZONE
ALTER TABLE campaign_status ALTER COLUMN status TYPE varchar(9); CREATE VIEW shown AS SELECT status FROM
    campaign_status
  fault: status is character varying(9)
  cure: drop the view shown first
ALTER TABLE campaign_status ALTER COLUMN status TYPE varchar(9); CREATE VIEW inner_one AS SELECT status FROM
    campaign_status; CREATE MATERIALIZED VIEW outer_one AS SELECT * FROM inner_one
  fault: status is character varying(9)
  cure: drop the materialized view outer_one, the view inner_one first
ALTER TABLE campaign_status ALTER COLUMN status TYPE varchar(9), ADD COLUMN shown text GENERATED ALWAYS AS
    (status || '!') STORED
  fault: status is character varying(9)
  cure: drop the generated column shown first
ALTER TABLE campaign_status ALTER COLUMN status TYPE varchar(9); CREATE FUNCTION f() RETURNS trigger LANGUAGE
    plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER touch BEFORE UPDATE OF status ON campaign_status FOR
    EACH ROW EXECUTE FUNCTION f()
  fault: status is character varying(9)
  cure: drop the trigger touch first
ALTER TABLE campaign_status ALTER COLUMN status TYPE varchar(9); CREATE POLICY mine ON campaign_status USING
    (status <> 'x')
  fault: status is character varying(9)
  cure: drop the policy mine first
ALTER TABLE campaign_status ALTER COLUMN a1_retry_count TYPE text; ALTER TABLE campaign_status ALTER COLUMN
    a1_retry_count SET DEFAULT 'none'
  fault: a1_retry_count is text
  cure: ALTER COLUMN a1_retry_count SET DEFAULT 0
ALTER TABLE campaign_status DROP COLUMN a1_permanently_failed; ALTER TABLE campaign_status ADD COLUMN
    a1_permanently_failed integer NOT NULL DEFAULT 0
  fault: a1_permanently_failed is integer
  cure: USING a1_permanently_failed <> 0, ALTER COLUMN a1_permanently_failed SET DEFAULT FALSE
ALTER TABLE campaign_status DROP COLUMN updated_at; ALTER TABLE campaign_status ADD COLUMN updated_at bigint
    NOT NULL
  fault: updated_at is bigint
  cure: USING to_timestamp(updated_at), ALTER COLUMN updated_at SET DEFAULT now()
ALTER TABLE campaign_events ALTER COLUMN id DROP IDENTITY
  fault: campaign_events.id is NOT NULL without a default
  cure: ADD GENERATED ALWAYS AS IDENTITY; SELECT setval(
CREATE DOMAIN code AS text CHECK (VALUE <> 'GONE'); ALTER TABLE campaign_status ALTER COLUMN status TYPE
    code
  fault: refuses status 'GONE'
  cure: ALTER COLUMN status TYPE text
CREATE DOMAIN code AS varchar(20); ALTER TABLE campaign_status ALTER COLUMN status TYPE code
  fault: status is code; its values need at least 50
  cure: TYPE text
ALTER TABLE campaign_status ADD COLUMN brand VARCHAR(20) NOT NULL
  fault: campaign_status.brand is NOT NULL without a default
  cure: DROP NOT NULL; or give it a default
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey, ADD COLUMN id INTEGER PRIMARY KEY,
    ADD UNIQUE (campaign_id)
  fault: campaign_status.id is NOT NULL without a default
  cure: ADD GENERATED BY DEFAULT AS IDENTITY; SELECT setval(
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey, ADD COLUMN code TEXT PRIMARY KEY,
    ADD UNIQUE (campaign_id)
  fault: campaign_status.code is NOT NULL without a default
  cure: DROP CONSTRAINT campaign_status_pkey; ALTER TABLE campaign_status ALTER COLUMN code DROP NOT NULL
ALTER TABLE campaign_status ALTER COLUMN created_at DROP DEFAULT
  fault: campaign_status.created_at is NOT NULL without a default
  cure: SET DEFAULT now()
ALTER TABLE campaign_status ALTER COLUMN a1_last_retry_at SET NOT NULL
  fault: a1_last_retry_at is NOT NULL
  cure: DROP NOT NULL
ALTER TABLE campaign_status ALTER COLUMN status SET NOT NULL
  warning: campaign_status.status is NOT NULL
  cure: DROP NOT NULL
ALTER TABLE campaign_status DROP COLUMN campaign_number; ALTER TABLE campaign_status ADD COLUMN
    campaign_number text GENERATED ALWAYS AS ('x') STORED
  fault: campaign_number is generated
  cure: DROP EXPRESSION
ALTER TABLE campaign_status ALTER COLUMN a1_retry_count DROP DEFAULT; ALTER TABLE campaign_status ALTER
    COLUMN a1_retry_count ADD GENERATED ALWAYS AS IDENTITY
  fault: a1_retry_count is generated
  cure: BY DEFAULT
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey
  fault: campaign_status has no unique key over campaign_id
  cure: CREATE UNIQUE INDEX CONCURRENTLY ON campaign_status (campaign_id)
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey; INSERT INTO campaign_status
    (campaign_id) VALUES ('x'), ('x'), ('y')
  fault: several rows have the id 'x' (2 rows)
  cure: keep one row
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey; ALTER TABLE campaign_status ADD UNIQUE
    (campaign_id) DEFERRABLE
  fault: it is deferrable
  cure: ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_campaign_id_key, ADD UNIQUE
        (campaign_id)
ALTER TABLE campaign_status ADD CONSTRAINT odd UNIQUE (campaign_id) DEFERRABLE
  fault: the deferrable key odd over campaign_id
  cure: DROP CONSTRAINT odd
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey; CREATE UNIQUE INDEX odd ON
    campaign_status (campaign_id) WHERE status = 'A1'
  fault: the index odd cannot be used, it is partial
  cure: CREATE UNIQUE INDEX
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey; CREATE UNIQUE INDEX odd ON
    campaign_status (lower(campaign_id))
  fault: it is over (an expression)
  cure: CREATE UNIQUE INDEX
ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey; CREATE UNIQUE INDEX odd ON
    campaign_status (campaign_id, status)
  fault: over campaign_id, status
  cure: CREATE UNIQUE INDEX
ALTER TABLE campaign_errors DROP CONSTRAINT campaign_errors_pkey
  fault: campaign_errors has no unique key over campaign_id, kind
  cure: (campaign_id, kind)
DROP INDEX campaign_status_box_folder_idx
  fault: no unique key over box_folder_id
  cure: WHERE box_folder_id IS NOT NULL
CREATE UNIQUE INDEX odd ON campaign_status (campaign_name)
  warning: unique index odd over campaign_name
  cure: DROP INDEX odd
ALTER TABLE campaign_status ADD CHECK (status IN ('A1', 'A2', 'B1'))
  fault: which refuses status 'GONE'
  cure: DROP CONSTRAINT
ALTER TABLE campaign_status ADD CHECK (status IN ('A1', 'A2', 'GONE'))
  warning: refuses another status of the DAM
  cure: DROP CONSTRAINT
ALTER TABLE campaign_status ADD CHECK (status ~ '^[AB][0-9]$')
  fault: which refuses status 'GONE'
  cure: DROP CONSTRAINT
ALTER TABLE campaign_status ADD CHECK (a1_retry_count < 3) NOT VALID
  fault: which refuses a1_retry_count 3
  cure: DROP CONSTRAINT
ALTER TABLE campaign_status ADD CHECK (a1_retry_count BETWEEN 0 AND 5)
  warning: refuses a1_retry_count 1000
  cure: DROP CONSTRAINT
ALTER TABLE campaign_status ADD CHECK (length(campaign_name) < 60)
  warning: refuses a campaign_name of 255
  cure: DROP CONSTRAINT
ALTER TABLE campaign_status ADD CHECK (status::int > 0)
  warning: could not be tested
  cure: check whether
ALTER TABLE notices ADD CHECK (kind <> 'x')
  warning: notices has the constraint
  cure: check whether
ALTER TABLE campaign_status ADD UNIQUE (campaign_name)
  warning: unique index campaign_status_campaign_name_key over campaign_name
  cure: DROP CONSTRAINT campaign_status_campaign_name_key
CREATE TABLE brands (name TEXT PRIMARY KEY); ALTER TABLE campaign_status ADD FOREIGN KEY (campaign_number)
    REFERENCES brands
  warning: may refuse what the product writes
  cure: DROP CONSTRAINT
CREATE TABLE audit (run TEXT REFERENCES orchestrator_task_runs)
  warning: audit refers to orchestrator_task_runs
  cure: CASCADE
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER touch
    BEFORE UPDATE ON campaign_status FOR EACH ROW EXECUTE FUNCTION f()
  warning: trigger touch (f)
  cure: DISABLE TRIGGER touch
CREATE RULE loud AS ON INSERT TO campaign_status DO ALSO SELECT 1
  fault: has the rule loud
  cure: DROP RULE loud
ALTER TABLE campaign_status ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY
  fault: row-level security applies to campaign_status
  cure: DISABLE ROW LEVEL SECURITY
ALTER TABLE rate_buckets SET UNLOGGED
  warning: rate_buckets is UNLOGGED
  cure: SET LOGGED
DROP FUNCTION hold_run
  fault: hold_run(integer, bigint) is missing
  cure: 015_create_run_epochs.sql
REVOKE UPDATE, INSERT ON run_epochs FROM CURRENT_USER
  fault: lacks INSERT, UPDATE on run_epochs
  cure: roles.sql
REVOKE UPDATE ON campaign_status FROM CURRENT_USER; GRANT UPDATE (status) ON campaign_status TO
    CURRENT_USER
  fault: lacks UPDATE (campaign_id, campaign_number, campaign_name, created_at
  cure: roles.sql
REVOKE UPDATE ON notices FROM CURRENT_USER
  fault: lacks UPDATE (folded_into) on notices
  cure: roles.sql
REVOKE DELETE ON notice_deliveries FROM CURRENT_USER
  fault: lacks DELETE on notice_deliveries
  cure: roles.sql
REVOKE EXECUTE ON FUNCTION hold_run FROM PUBLIC, CURRENT_USER
  fault: lacks EXECUTE on the function hold_run
  cure: roles.sql
ALTER TABLE campaign_status ADD COLUMN id SERIAL; REVOKE ALL ON SEQUENCE campaign_status_id_seq FROM
    CURRENT_USER
  fault: lacks USAGE on the sequence campaign_status_id_seq
  cure: roles.sql
SET LOCAL default_transaction_read_only = on
  passing: are read-only
  cure: RESET default_transaction_read_only
SET LOCAL search_path = pg_catalog
  fault: in the schema public, which is not on the search_path
  cure: SET search_path = public
CREATE SCHEMA old; CREATE TABLE old.campaign_status (x INT)
  warning: the schema old also contains campaign_status
  cure: search_path = old
CREATE SCHEMA fresh; ALTER TABLE campaign_status SET SCHEMA fresh; SET LOCAL search_path = fresh, public
  warning: spread over the schemas fresh, public
  cure: SET SCHEMA
"""


def read_odd() -> Iterator[tuple[str, str, str, str]]:
    """(statements, severity, what, cure) of each."""
    for found in re.finditer(
        r"^(\S.*?)\n  (fault|passing|warning): (.*?)\n  cure: (.*?)(?=\n\S|\Z)", ODD, re.M | re.S
    ):
        statements, severity, what, cure = (" ".join(part.split()) for part in found.groups())
        yield statements, severity, what, cure


@pytest.mark.parametrize(("statements", "severity", "what", "cure"), list(read_odd()))
def test_preflight__names_each_odd_thing_once_with_its_cure(
    migrated_url: str, statements: str, severity: str, what: str, cure: str
) -> None:
    with Database(migrated_url) as database, changed(database, statements):
        told = differences(database)
    assert [one.severity for one in told if what in one.what] == [severity], [str(one) for one in told]
    assert cure in next(one.cure for one in told if what in one.what)
    faults = [one for one in told if one.severity == "fault"]
    assert len(faults) == (severity == "fault"), [str(one) for one in told]


def statements_of(cure: str) -> list[str]:
    """A cure as an operator takes it: what is to be dropped before, then its statements."""
    before, _, words = cure.rpartition(" first, and create it again afterwards: ")
    drops = [f"DROP {thing}" for thing in re.sub("^drop the ", "", before).split(", the ") if thing]
    drops = [re.sub("(trigger|policy) .*", r"\g<0> ON campaign_status", drop) for drop in drops]
    drops = [drop.replace("DROP generated", "ALTER TABLE campaign_status DROP") for drop in drops]
    words = re.sub(r"^[^:]*: (?=ALTER|DROP|CREATE)", "", words)
    words = words.replace("'...'", "'UTC'").replace(" CONCURRENTLY", "")
    return drops + [part for part in words.split("; ") if re.match("ALTER|DROP|CREATE|SELECT", part)]


CURED_BY_SQL = [
    pytest.param(statements, what, id=statements)
    for statements, _, what, cure in read_odd()
    if not re.search(r"\.sql|\.\.\. |schema of its own|check whether|keep one row|search_path|RESET", cure)
    and not re.search(r"a view, not a table|is not the table|spread over", what)
]


@pytest.mark.parametrize(("statements", "what"), CURED_BY_SQL)
def test_preflight__the_cure_cures(migrated_url: str, statements: str, what: str) -> None:
    with Database(migrated_url) as database, changed(database, statements, "SAVEPOINT odd"):
        cure = next(one.cure for one in differences(database) if what in one.what)
        database.execute("ROLLBACK TO SAVEPOINT odd")  # preflight.sql leaves its transaction read-only
        for statement in statements_of(cure):
            database.execute(statement)
        assert [one for one in differences(database) if what in one.what] == []


HARMLESS = """
ALTER TABLE campaign_status ADD COLUMN id SERIAL, ADD COLUMN brand VARCHAR(20) NOT NULL DEFAULT 'x', ADD
    COLUMN note TEXT

ALTER TABLE campaign_status ALTER COLUMN campaign_name TYPE varchar, ALTER COLUMN a1_retry_count TYPE
    smallint

ALTER TABLE campaign_status ALTER COLUMN a1_retry_count TYPE bigint

ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey; CREATE UNIQUE INDEX odd ON
    campaign_status (campaign_id) INCLUDE (status)

ALTER TABLE campaign_status ADD CHECK (a1_retry_count >= 0), ADD CHECK (campaign_id <> ''), ADD CHECK (NOT
    a1_permanently_failed OR a1_failure_reason IS NOT NULL)

CREATE VIEW shown AS SELECT * FROM campaign_status; CREATE INDEX mine ON campaign_status (campaign_number)

CREATE TABLE audit (id TEXT REFERENCES campaign_status (campaign_id))
"""


@pytest.mark.parametrize("statements", HARMLESS.strip().split("\n\n"))
def test_preflight__leaves_alone_what_does_no_harm(migrated_url: str, statements: str) -> None:
    with Database(migrated_url) as database, changed(database, statements):
        assert differences(database) == []


def test_preflight__tells_of_a_partitioned_table(migrated_url: str) -> None:
    parts = (
        "ALTER TABLE campaign_status RENAME TO whole",
        "CREATE TABLE campaign_status (LIKE whole INCLUDING DEFAULTS) PARTITION BY HASH (campaign_id)",
    )
    with Database(migrated_url) as database, changed(database, *parts):
        (told,) = [one for one in differences(database) if "is partitioned" in one.what]
    assert told.severity == "fault"
    assert "CREATE TABLE campaign_status AS TABLE campaign_status_parts" in told.cure


def test_preflight__writes_nothing_and_waits_for_a_standby(database_url: str) -> None:
    """A CHECK that writes is tried as well, and does not come to it."""
    with Database(database_url) as database:
        database.execute("CREATE TABLE told (x TEXT)")
        database.execute(
            "CREATE FUNCTION tell(x TEXT) RETURNS BOOLEAN LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO told VALUES (x); RETURN TRUE; END'"
        )
        database.execute("ALTER TABLE campaign_status ADD CHECK (tell(status))")
        (told,) = differences(database)
        assert "could not be tested" in told.what
        assert database.rows("SELECT * FROM told") == []


def test_preflight__works_on_a_standby_and_says_that_it_passes() -> None:
    with _temporary_folder() as folder:
        server = EmbeddedPostgres(folder, password=PASSWORD, outlive=True)
        server.start()
        server.stop()
        signal = folder / "pgdata" / "standby.signal"
        signal.touch()
        server.start()
        try:
            with Database(server.url) as database:
                found = {one.what: one.severity for one in differences(database)}
        finally:
            server.stop("immediate")
    assert found["the server is a standby and accepts no writes; this ends when it is promoted"] == "passing"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_preflight__tells_that_an_encoding_cannot_hold_every_text(
    postgres: PostgresServer, worker: str, encoding: str
) -> None:
    name = f"a1_to_a2_{encoding.lower()}_{worker}_test"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        told = by_psql(postgres, postgres.url_for(name))
        with Database(postgres.url_for(name)) as database:
            assert differences(database) == told
    finally:
        postgres.drop_database(name)
    assert any(one.severity == "fault" and f"has the encoding {encoding}" in one.what for one in told)
