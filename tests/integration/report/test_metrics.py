"""What the metrics ask a real PostgreSQL: the same answers as the rules give, cheap, and never falling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import psycopg2
import pytest

from shared.base.commands import Commands
from shared.database import Database
from shared.loop.journal import Journal
from shared.loop.memory import TaskRun
from shared.report import metrics
from shared.report.metrics import STATES, read_standings
from shared.report.state import State
from shared.report.states import Rules
from shared.rules.retry import RetryPolicy
from shared.upkeep.retention import prune
from shared.upkeep.totals import ATTEMPTS, TRANSFERRED_BYTES, Totals, task_run

NOW = datetime(2026, 11, 30, 9, 0, 20, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
POLICY = RetryPolicy(delays=(3, 30))
ROME = ZoneInfo("Europe/Rome")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


ADD_CAMPAIGN = """
INSERT INTO campaign_status (campaign_id, status, a1_retry_count, a1_last_retry_at, a1_permanently_failed,
                             a1_max_retries, a1_snoozed_until)
VALUES (%(id)s, %(status)s, %(count)s, %(last)s, %(failed)s, %(limit)s, %(snoozed)s)
"""
ADD_ERROR = "INSERT INTO campaign_errors (campaign_id, kind, message) VALUES (%(id)s, %(kind)s, 'no')"
ADD_RUN = """
INSERT INTO orchestrator_task_runs (run_id, task, planned_at, started_at, finished_at, exit_code, host)
VALUES (%(id)s, %(task)s, %(at)s, %(at)s, %(end)s, %(code)s, 'h')
"""


def fill(database: Database) -> None:
    """A campaign for each way in which the columns that decide can stand together."""
    ways = product(
        ("A1", "A2", "GONE", None),
        (0, 1, 2, 3),
        (None, NOW - 2 * MINUTE, NOW - 3 * MINUTE, NOW - 31 * MINUTE, NOW + DAY),
        (False, True),
        (None, 2),
        (None, NOW - MINUTE, NOW + DAY),
        (False, True),
    )
    with database.transaction():
        for number, (status, count, last, failed, limit, snoozed, has_error) in enumerate(ways):
            values = {
                "id": f"c{number}", "status": status, "count": count, "last": last, "failed": failed,
                "limit": limit, "snoozed": snoozed, "kind": "DAM/forbidden",
            }  # fmt: skip
            database.execute(ADD_CAMPAIGN, values)
            if has_error:
                database.execute(ADD_ERROR, values)
                database.execute(ADD_ERROR, {**values, "kind": "Box/forbidden"})
        database.execute(ADD_ERROR, {"id": "never read", "kind": "DAM/forbidden"})


@pytest.mark.parametrize("policy", [POLICY, RetryPolicy(), RetryPolicy(max_retries=2, delays=(3,))])
def test_campaigns__stand_where_the_rules_say(database: Database, policy: RetryPolicy) -> None:
    fill(database)
    (ids,) = database.row(
        "SELECT array_agg(campaign_id) FROM (SELECT campaign_id FROM campaign_status"
        " UNION SELECT campaign_id FROM campaign_errors) known"
    )
    columns, rows = database.run_query("status_all", {"ids": "{" + ",".join(f'"{one}"' for one in ids) + "}"})
    rules = Rules(policy, "A1", "GONE", ROME, NOW)
    stand = Counter(rules.standing(dict(zip(columns, row, strict=True))).state for row in rows)
    told = read_standings(database, policy, "A1", NOW)
    assert told.campaigns == {state: stand[state] for state in STATES}
    assert set(stand) - set(STATES) == {State.NOT_A1, State.GONE}
    assert bool(told.campaigns[State.WAITING]) == bool(policy.delays)
    near = database.run_query("near_failure", {"max_retries": policy.max_retries})[1]
    assert told.near_failure == len(near) > 0


def add_run(database: Database, task: str, at: datetime, code: int | None, **changes: Any) -> None:
    end = None if code is None else at + MINUTE
    values = {"id": f"{task} {at}", "task": task, "at": at, "end": end, "code": code, **changes}
    database.execute(ADD_RUN, values)


def test_tasks__by_their_last_run_and_their_last_success(database: Database) -> None:
    for hours, code in ((5, 0), (4, 4), (3, 75), (2, -9), (1, None), (-2, 0)):
        add_run(database, "a1_to_a2", NOW - hours * HOUR, code)
    add_run(database, "daily_report", NOW - DAY, 2)
    told = {one.task: one for one in read_standings(database, POLICY, "A1", NOW).tasks}
    assert set(told) == {"a1_to_a2", "daily_report"}
    assert told["a1_to_a2"].last_run == (NOW - HOUR).timestamp(), "a run from the future counts for nothing"
    assert told["a1_to_a2"].last_success == (NOW - 4 * HOUR + MINUTE).timestamp()
    assert told["daily_report"].last_success is None


def test_notices__by_the_oldest_that_is_owed_and_those_given_up_lately(database: Database) -> None:
    def add(number: int, minutes: int, **columns: Any) -> None:
        values = {"id": f"00000000-0000-0000-0000-{number:012}", "at": NOW - minutes * MINUTE}
        database.execute("INSERT INTO notices VALUES (%(id)s, 'k', '', '', '', '', %(at)s)", values)
        given = {"owed_since": None, "sent_at": None, "gave_up_at": None, **columns}
        database.execute(
            "INSERT INTO notice_deliveries"
            " (notice_id, recipient, next_try_at, owed_since, sent_at, gave_up_at)"
            " VALUES (%(id)s, 'a@example.com', %(at)s, %(owed_since)s, %(sent_at)s, %(gave_up_at)s)",
            {**values, **given},
        )

    add(1, 900, sent_at=NOW)
    add(2, 800, gave_up_at=NOW - HOUR)
    add(3, 9000, gave_up_at=NOW - 3 * DAY)
    told = read_standings(database, POLICY, "A1", NOW)
    assert (told.oldest_pending_seconds, told.given_up) == ({"email": 0, "webhook": 0}, 1)
    add(4, 5)
    assert read_standings(database, POLICY, "A1", NOW).oldest_pending_seconds["email"] == 300
    add(5, 2, owed_since=NOW - HOUR)
    assert read_standings(database, POLICY, "A1", NOW).oldest_pending_seconds["email"] == 3600
    assert read_standings(database, POLICY, "A1", NOW - DAY).oldest_pending_seconds["email"] == 0, (
        "never below 0"
    )


# --- totals -------------------------------------------------------------------------------------------------


def test_totals__grow_and_outlive_their_rows(database: Database) -> None:
    totals = Totals(database)
    for _ in range(2):
        assert totals.add({ATTEMPTS: 2, TRANSFERRED_BYTES: 2**40}) == {}
    run = task_run("a1_to_a2", 0)
    totals.add({run: 1})
    add_run(database, "a1_to_a2", NOW - 400 * DAY, 0)
    assert prune(database, datetime.now(UTC))["orchestrator_task_runs"] == 1
    assert totals.read() == {ATTEMPTS: 4, TRANSFERRED_BYTES: 2**41, run: 1}


def test_totals__wait_for_nobody(database: Database, database_url: str) -> None:
    Totals(database).add({ATTEMPTS: 1, TRANSFERRED_BYTES: 1})
    with closing(psycopg2.connect(database_url)) as somebody, somebody.cursor() as cursor:
        cursor.execute("SELECT * FROM metric_totals WHERE name = 'attempts' FOR UPDATE")  # and no end of it
        database.execute("SET lock_timeout = '1ms'")
        left = Totals(database).add({ATTEMPTS: 5, TRANSFERRED_BYTES: 6})
    assert left == {ATTEMPTS: 5}
    assert Totals(database).read() == {ATTEMPTS: 1, TRANSFERRED_BYTES: 7}


def journal_on(url: str) -> Journal:
    made = Journal(lambda: Database(url), is_shared=False, commands=Commands("python", "scripts"))
    assert made.attend(0.0)
    return made


def ended(number: int, code: int) -> TaskRun:
    return TaskRun(f"r{number}", "a1_to_a2", NOW, NOW, "h", NOW + MINUTE, code, f"exit code {code}")


def test_loop__counts_each_run_once_and_keeps_what_it_cannot_add(
    database: Database, database_url: str
) -> None:
    with closing(journal_on(database_url)) as journal:
        journal.record(TaskRun("r1", "a1_to_a2", NOW, NOW, "h"))  # it begins
        journal.record(ended(1, 0))
        journal.record(ended(2, 75))
        with closing(psycopg2.connect(database_url)) as somebody, somebody.cursor() as cursor:
            cursor.execute("SELECT * FROM metric_totals FOR UPDATE")
            journal.record(ended(3, 0))
            assert journal.file is not None, "a held total is no reason to go on without the database"
        assert Totals(database).read() == {task_run("a1_to_a2", 0): 1, task_run("a1_to_a2", 75): 1}
        journal.record(ended(4, -9))
    counted = {task_run("a1_to_a2", 0): 2, task_run("a1_to_a2", 75): 1, task_run("a1_to_a2", -9): 1}
    assert Totals(database).read() == counted


def test_loop__goes_on_where_it_may_not_count(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(journal_on(database_url)) as journal:
        database.execute("ALTER TABLE metric_totals RENAME TO elsewhere")
        journal.record(ended(1, 0))
        assert journal.file is not None
        assert "could not count runs in the metrics" in caplog.text
        assert database.rows("SELECT exit_code FROM orchestrator_task_runs") == [(0,)]
        database.execute("ALTER TABLE elsewhere RENAME TO metric_totals")
        journal.record(ended(2, 0))
    assert Totals(database).read() == {task_run("a1_to_a2", 0): 2}


# --- what it costs ------------------------------------------------------------------------------------------


def test_cost__no_statement_reads_the_history(database: Database) -> None:
    database.execute("""
        INSERT INTO campaign_status (campaign_id, status, a1_retry_count)
            SELECT 'c' || n, CASE WHEN n % 100 = 0 THEN 'A1' ELSE 'A2' END, 0
            FROM generate_series(1, 20000) n;
        INSERT INTO campaign_errors (campaign_id, kind, message)
            SELECT 'c' || n, 'k', '' FROM generate_series(1, 20) n;
        INSERT INTO orchestrator_task_runs
            (run_id, task, planned_at, started_at, finished_at, exit_code, host)
            SELECT n::text, 'a1_to_a2', at, at, at, CASE WHEN n < 19000 THEN 75 ELSE 0 END, 'h'
            FROM generate_series(1, 20000) n,
                LATERAL (SELECT '2026-11-23'::timestamptz - n * interval '3 minutes') t(at);
        INSERT INTO notices
            SELECT gen_random_uuid(), 'a1_to_a2_error', 'c' || n, '', '', '',
                   '2026-11-20'::timestamptz - n * interval '1 hour' FROM generate_series(1, 20000) n;
        INSERT INTO notice_deliveries (notice_id, recipient, tries, next_try_at, sent_at)
            SELECT id, 'a', 1, created_at, created_at FROM notices;
    """)
    database.execute("ANALYZE")
    values = {"now": NOW, "status_a1": "A1", "delays": [3], "max_retries": 3, "within": DAY}
    for name in ("CAMPAIGNS", "TASKS", "NOTICES"):
        statement = f"EXPLAIN {getattr(metrics, name)}"
        plan = "\n".join(row[0] for row in database.rows(statement, values))
        for table in ("campaign_status", "orchestrator_task_runs", "notices", "notice_deliveries"):
            assert f"Seq Scan on {table}" not in plan, f"{name}\n{plan}"
