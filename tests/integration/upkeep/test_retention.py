"""No table grows without bound: what has had its life is removed in small bites, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import daily_report
from shared import database as database_module
from shared.database import Database
from shared.loop import memory
from shared.notices import outbox
from shared.upkeep.retention import BITE, LIVES, MOST_SECONDS, prune
from shared.upload import ledger, standing
from shared.webhooks import outbox as webhook_outbox
from simulators.mail import MailSink
from simulators.postgres import EmbeddedPostgres, PostgresServer

REPOSITORY = Path(__file__).resolve().parents[3]
NOW = datetime.now(UTC)
DAY = timedelta(days=1)

# A row of each table, of the age that is asked for: what makes it old, and nothing that keeps it.
ROWS = {
    "notices": "INSERT INTO notices VALUES (%(uuid)s, 'k', '', '', '', '', %(at)s)",
    "orchestrator_task_runs": "INSERT INTO orchestrator_task_runs"
    " (run_id, task, planned_at, started_at, host) VALUES (%(key)s, 't', %(at)s, %(at)s, 'h')",
    "orchestrator_task_alerts": "INSERT INTO orchestrator_task_alerts"
    " VALUES ('t', %(key)s, 3, %(at)s, TRUE, %(at)s)",
    "campaign_errors": "INSERT INTO campaign_errors VALUES (%(key)s, 'k', '', %(at)s, %(at)s, %(at)s)",
    "campaign_assets": "INSERT INTO campaign_assets"
    " VALUES (%(key)s, 'a', '', '1', 1, '', '1', '', %(at)s, 'r')",
    "campaign_uploads": "INSERT INTO campaign_uploads VALUES (%(key)s, %(at)s, %(at)s, 1, 1, 'r', %(at)s)",
    "daily_reports": "INSERT INTO daily_reports VALUES (%(at)s, %(uuid)s, %(at)s)",
    "campaign_events": "INSERT INTO campaign_events (campaign_id, at, kind, actor, source)"
    " VALUES (%(key)s, %(at)s, 'reset', 'me', 'psql')",
    "page_acts": "INSERT INTO page_acts (id, at, person, peer, act, reason, filter, value, drawn_at, asked)"
    " VALUES (%(uuid)s, %(at)s, 'me', '', 'reset', '', '{}', '', %(at)s, '')",
    "page_act_campaigns": "WITH act AS (INSERT INTO page_acts"
    " (id, person, peer, act, reason, filter, value, drawn_at, asked)"
    " VALUES (gen_random_uuid(), 'me', '', 'reset', '', '{}', '', now(), '') RETURNING id)"
    " INSERT INTO page_act_campaigns (act_id, campaign_id, at) SELECT id, %(key)s, %(at)s FROM act",
    "page_sessions": "INSERT INTO page_sessions (token_hash, person, fingerprint, expires_at)"
    " VALUES (%(key)s, 'me', '', %(at)s)",
    "workers": "INSERT INTO workers VALUES (%(key)s, 'h', %(at)s, %(at)s, 16)",
    "worker_campaigns": "INSERT INTO worker_campaigns VALUES (%(key)s, 'killed', %(at)s)",
}  # fmt: skip


class Watched(Database):
    """Notes how many rows each statement removes."""

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> int:
        count = super().execute(sql, values)
        if sql.lstrip().startswith("DELETE"):
            bites.append(count)
        return count


bites: list[int] = []


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    bites.clear()
    with Watched(database_url) as opened:
        yield opened


def add(database: Database, table: str, number: int, age: timedelta) -> None:
    values = {"uuid": f"{number:032x}", "key": f"{number:040x}", "at": NOW - age}
    database.execute(ROWS[table], values)


def count(database: Database, table: str) -> int:
    return int(database.row(f"SELECT count(*) FROM {table}")[0])  # noqa: S608 - our own name


def only(removed: dict[str, int]) -> dict[str, int]:
    return {table: rows for table, rows in removed.items() if rows}


# --- which rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", LIVES)
def test_row__goes_after_its_life_and_not_before(database: Database, table: str) -> None:
    kept = LIVES[table].kept
    add(database, table, 1, kept - 2 * DAY)
    add(database, table, 2, kept + 2 * DAY)
    assert only(prune(database, NOW)) == {table: 1}
    assert count(database, table) == 1
    assert only(prune(database, NOW + 4 * DAY)) == {}, "a clock of ours that runs ahead removes nothing"
    assert only(prune(database, NOW - 4 * DAY)) == {}


def test_notice__that_somebody_is_still_to_get_stays_with_its_digest(database: Database) -> None:
    for number, ending in enumerate(("sent_at", "gave_up_at", None), start=1):
        add(database, "notices", number, 900 * DAY)
        add(database, "notices", 100 + number, 900 * DAY)
        ended = {} if ending is None else {ending: NOW - 800 * DAY}
        columns = "".join(f", {column}" for column in ended)
        places = "".join(f", %({column})s" for column in ended)
        database.execute(
            "INSERT INTO notice_deliveries (notice_id, recipient, next_try_at, mail_id"  # noqa: S608 - our own
            f"{columns}) VALUES (%(id)s, 'a', now(), %(mail)s{places})",
            {"id": f"{number:032x}", "mail": f"{100 + number:032x}", **ended},
        )
    assert only(prune(database, NOW)) == {"notices": 2}
    assert only(prune(database, NOW)) == {"notices": 2}, "their digests"
    assert only(prune(database, NOW)) == {}
    assert count(database, "notice_deliveries") == 1


def test_ledger__stays_while_its_campaign_moves_and_the_uploads_with_it(database: Database) -> None:
    for number in (1, 2):
        add(database, "campaign_assets", number, 900 * DAY)
        add(database, "campaign_uploads", number, 900 * DAY)
        database.execute(
            "INSERT INTO campaign_status (campaign_id, status, updated_at) VALUES (%(id)s, 'A2', %(at)s)",
            {"id": f"{number:040x}", "at": NOW - (900 if number == 1 else 20) * DAY},
        )
    assert only(prune(database, NOW)) == {"campaign_assets": 1, "campaign_uploads": 1}
    assert database.rows("SELECT campaign_id FROM campaign_uploads") == [(f"{2:040x}",)]
    assert count(database, "campaign_status") == 2


def test_upload__that_no_report_has_told_of_stays(database: Database) -> None:
    add(database, "campaign_uploads", 1, 900 * DAY)
    database.execute("UPDATE campaign_uploads SET report_date = NULL")
    assert only(prune(database, NOW)) == {}


# --- how ----------------------------------------------------------------------------------------------------


def fill(database: Database, rows: int) -> None:
    """So many old notices, each of two recipients, and as many runs; and a young one of each."""
    database.execute(f"""
        INSERT INTO notices
            SELECT gen_random_uuid(), 'a1_to_a2_error', 'c' || n, '', '', '', now() - interval '300 days'
            FROM generate_series(1, {rows}) n;
        INSERT INTO notice_deliveries (notice_id, recipient, tries, next_try_at, sent_at)
            SELECT id, recipient, 1, created_at, created_at FROM notices, (VALUES ('a'), ('b')) r (recipient);
        INSERT INTO orchestrator_task_runs
            (run_id, task, planned_at, started_at, finished_at, exit_code, host)
            SELECT n::text, 'a1_to_a2', at, at, at, 0, 'h' FROM generate_series(1, {rows}) n,
                LATERAL (SELECT now() - interval '40 days' - n * interval '3 minutes') t (at);
    """)  # noqa: S608 - a number of ours
    add(database, "notices", 1, DAY)
    add(database, "orchestrator_task_runs", 1, DAY)
    database.execute("ANALYZE")


def test_prune__removes_fifty_thousand_rows_in_bites(database: Database) -> None:
    fill(database, 50_000)
    assert only(prune(database, NOW)) == {"notices": 50_000, "orchestrator_task_runs": 50_000}
    assert max(bites) == BITE
    assert count(database, "notices") == count(database, "orchestrator_task_runs") == 1
    assert count(database, "notice_deliveries") == 0


def test_prune__has_so_much_time_a_day_and_goes_on_the_next_day(database: Database) -> None:
    fill(database, 3 * BITE)
    seconds = iter([0.0, 1.0, MOST_SECONDS - 1])
    assert only(prune(database, NOW, clock=lambda: next(seconds, MOST_SECONDS))) == {"notices": 2 * BITE}
    assert only(prune(database, NOW)) == {"notices": BITE, "orchestrator_task_runs": 3 * BITE}


@pytest.fixture
def role(database_url: str, postgres: PostgresServer) -> Iterator[str]:
    """The URL of the database as the role of database/roles.sql."""
    url = urlsplit(database_url)
    name = f"role_{url.path[1:]}"
    admin = postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url
    with Database(admin) as superuser:  # making a role takes more than owning a database
        superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'only-for-tests'")
    arguments = ("-v", f"role={name}", "-f", REPOSITORY / "database" / "roles.sql")
    done = postgres.psql(*arguments, database=url.path[1:])
    assert done.returncode == 0, done.stderr
    yield url._replace(netloc=f"{name}:only-for-tests@{url.hostname}:{url.port}").geturl()
    with Database(urlsplit(admin)._replace(path=url.path).geturl()) as superuser:
        superuser.execute(f"DROP OWNED BY {name}")
        superuser.execute(f"DROP ROLE {name}")


def test_role__may_remove_what_is_old(database: Database, role: str) -> None:
    for table, life in LIVES.items():
        add(database, table, 1, life.kept + 2 * DAY)
    with Database(role) as least:
        assert prune(least, NOW) == dict.fromkeys(LIVES, 1)


def test_report__removes_what_is_old_and_does_not_fail_with_it(
    database: Database, database_url: str, role: str, mail: MailSink, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    changes = {
        "MAIL_FROM": "a@example.com",
        "ERROR_NOTIFICATION_EMAILS": "b@example.com",
        "ORCHESTRATOR_TIMEZONE": "UTC",
        **mail.settings,
    }
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    name = urlsplit(role).username
    database.execute(f"REVOKE DELETE ON campaign_events FROM {name}")
    add(database, "notices", 1, 200 * DAY)
    add(database, "campaign_events", 1, 900 * DAY)
    arguments = daily_report.parse_arguments([])
    monkeypatch.setenv("DATABASE_URL", role)
    assert daily_report.run(arguments, "test", NOW) == 0
    told = capsys.readouterr().err
    assert "the next report tries again: PostgreSQL: permission denied for table campaign_events" in told
    assert (count(database, "notices"), count(database, "campaign_events")) == (1, 1), (
        "the report is a notice too"
    )
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert daily_report.run(arguments, "test", NOW) == 0
    assert count(database, "campaign_events") == 0
    assert len(mail.messages) == 1


def test_webhooks__of_a_target_that_nobody_knows_any_more_are_given_up(database: Database) -> None:
    for days in (4, 6):
        database.execute(
            """
            WITH n AS (INSERT INTO notices VALUES (gen_random_uuid(), 'k', '', '', '', '', %(at)s)
                       RETURNING id)
            INSERT INTO notice_deliveries (notice_id, recipient, channel, next_try_at)
            SELECT id, 'gone', 'webhook', %(at)s FROM n
            """,
            {"at": NOW - timedelta(days=days)},
        )
    prune(database, NOW)
    assert database.rows("SELECT gave_up_at IS NOT NULL FROM notice_deliveries ORDER BY next_try_at") == [
        (True,), (False,),
    ]  # fmt: skip


# --- what it costs, and what a run reads --------------------------------------------------------------------


def plan_of(database: Database, sql: str, values: dict[str, Any]) -> str:
    return "\n".join(row[0] for row in database.rows(f"EXPLAIN {sql.lstrip()}", values))


def test_cost__neither_a_run_nor_the_removal_reads_a_table_through(database: Database) -> None:
    database.execute("""
        INSERT INTO campaign_status (campaign_id, status, a1_retry_count, updated_at)
            SELECT 'c' || n, 'A2', 0, now() - n * interval '1 hour' FROM generate_series(1, 20000) n;
        INSERT INTO campaign_assets
            SELECT 'c' || n, 'a', '', '1', 1, '', '1', '', now() - n * interval '1 hour', 'r'
            FROM generate_series(1, 20000) n;
        INSERT INTO campaign_uploads
            SELECT 'c' || n, at, at, 1, 1, 'r', at::date FROM generate_series(1, 20000) n,
                LATERAL (SELECT now() - n * interval '1 hour') t (at);
        INSERT INTO orchestrator_task_runs
            (run_id, task, planned_at, started_at, finished_at, exit_code, host)
            SELECT n::text, 'a1_to_a2', at, at, at, 0, 'h' FROM generate_series(1, 20000) n,
                LATERAL (SELECT now() - n * interval '3 minutes') t (at);
        INSERT INTO notices
            SELECT gen_random_uuid(), 'a1_to_a2_error', 'c' || n, '', '', '', now() - n * interval '1 hour'
            FROM generate_series(1, 20000) n;
        INSERT INTO notice_deliveries (notice_id, recipient, tries, next_try_at, sent_at, mail_id)
            SELECT id, 'a', 1, created_at, created_at, id FROM notices;
        INSERT INTO daily_reports SELECT now()::date - n, gen_random_uuid() FROM generate_series(1, 3000) n;
        INSERT INTO campaign_events (campaign_id, at, kind, actor, source)
            SELECT 'c' || n, now() - n * interval '1 hour', 'reset', '', '' FROM generate_series(1, 20000) n;
        INSERT INTO page_acts (id, at, person, peer, act, reason, filter, value, drawn_at, asked)
            SELECT gen_random_uuid(), now() - n * interval '1 hour', '', '', 'reset', '', '{}', '', now(), ''
            FROM generate_series(1, 20000) n;
        INSERT INTO page_act_campaigns (act_id, campaign_id, at) SELECT id, 'c1', at FROM page_acts;
        INSERT INTO page_sessions (token_hash, person, fingerprint, expires_at)
            SELECT n::text, '', '', now() + (n - 100) * interval '1 hour' FROM generate_series(1, 20000) n;
    """)
    database.execute("ANALYZE")
    values: dict[str, Any] = {
        "now": NOW, "limit": BITE, "status": "A1", "seen": ["c1", "c2"], "campaign_ids": ["c1", "c2"],
        "tasks": ["a1_to_a2"], "kinds": ["a1_to_a2_error"], "more_than": 20, "campaign_id": "c1",
        "passed": ["00000000-0000-0000-0000-000000000001"], "target": "ops", "since": NOW,
    }  # fmt: skip
    of_a_run = {
        name: getattr(module, name)
        for module, names in (
            (database_module, ("RETRY_STATES",)),
            (standing, ("LEFT_BEHIND",)),
            (ledger, ("STALE_UPLOADS", "UPLOADED_ASSETS", "UPLOAD_TOTALS")),
            (outbox, ("IS_NOTICE_DUE", "NEXT_MAIL", "CROWD")),
            (webhook_outbox, ("NEXT_TIME", "NEXT_MESSAGE", "UNTOLD_ACTS")),
            (memory, ("LAST_TASK_RUNS",)),
        )
        for name in names
    }
    plans = {name: plan_of(database, sql, values) for name, sql in of_a_run.items()}
    for table, life in LIVES.items():
        plans[f"removal from {table}"] = plan_of(database, life.removal, values | {"kept": life.kept})
    small = (
        *("orchestrator_task_alerts", "campaign_errors", "upload_sessions", "webhook_targets", "unnest"),
        *("workers", "worker_campaigns"),
    )
    for name, plan in plans.items():
        scanned = [table for table in re.findall(r"Seq Scan on (\w+)", plan) if table not in small]
        assert scanned == [], f"{name}\n{plan}"


# --- what is said of it -------------------------------------------------------------------------------------


def test_docs__state_the_life_of_every_table(database: Database) -> None:
    text = (REPOSITORY / "MARKDOWN_DOCS" / "RELIABILITY_AND_SECURITY.md").read_text(encoding="utf-8")
    section = text.split("## How long rows are kept")[1].split("\n## ")[0]
    told = {
        table: life
        for names, life in re.findall(r"^\| (`.*?`) \| (.*?) \|", section, re.MULTILINE)
        for table in re.findall(r"`(\w+)`", names)
    }
    tables = {row[0] for row in database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert set(told) == tables
    for table, life in LIVES.items():
        assert f"{life.kept.days} day" in told[table], table
