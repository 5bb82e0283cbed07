"""Workers on a real PostgreSQL: their states, who asks one to stop, what `explain` and the metrics see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet import add_engine
from shared.database import Database
from shared.report.facts import facts_of
from shared.report.metrics import QUEUED, read_standings
from shared.report.workers import WorkerState, holders_of, workers_of
from shared.rules.retry import RetryPolicy
from shared.scale.jobs import LOCK, Jobs
from simulators.postgres import PostgresServer

SECOND = timedelta(seconds=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


def add(database: Database, worker: str, host: str, *campaigns: str, unseen: timedelta = 0 * SECOND) -> None:
    values = {"worker": worker, "host": host, "unseen": unseen, "campaigns": list(campaigns)}
    database.execute(
        "INSERT INTO workers VALUES (%(worker)s, %(host)s, now() - interval '1 hour', now() - %(unseen)s, 4)",
        values,
    )
    database.execute(
        "INSERT INTO worker_campaigns SELECT c, %(worker)s, now() FROM unnest(%(campaigns)s::text[]) c",
        values,
    )


def states(database: Database) -> dict[str, str]:
    return {one.worker: one.state.value for one in workers_of(database)}


def test_workers__are_lost_after_two_minutes_by_the_clock_of_the_server(database: Database) -> None:
    assert workers_of(database) == []
    add(database, "w1", "a", "c1", "c2")
    add(database, "w2", "a", unseen=100 * SECOND)
    add(database, "w3", "b", "c3", unseen=121 * SECOND)
    assert states(database) == {"w1": "working", "w2": "working", "w3": "lost"}
    first, *_ = workers_of(database)
    assert [(one.campaign_id, one.campaign_number) for one in first.campaigns] == [("c1", None), ("c2", None)]
    holders = holders_of(workers_of(database))
    assert {one: held.worker.worker for one, held in holders.items()} == {"c1": "w1", "c2": "w1", "c3": "w3"}


def test_worker__that_was_lost_is_forgotten_when_its_host_has_a_newer_one(database: Database) -> None:
    add(database, "w1", "a", "c1", unseen=300 * SECOND)
    add(database, "w2", "a")  # older: it began an hour ago
    add(database, "w3", "b")
    assert states(database) == {"w1": "lost", "w2": "working", "w3": "working"}
    database.execute("UPDATE workers SET started_at = now() - interval '1 minute' WHERE worker = 'w3'")
    assert "w1" in states(database), "of another host"
    database.execute("UPDATE workers SET started_at = now() - interval '1 minute' WHERE worker = 'w2'")
    assert states(database) == {"w2": "working", "w3": "working"}
    assert holders_of(workers_of(database)) == {}


def test_drain__asks_the_workers_of_a_host_once(database: Database) -> None:
    for worker, host in (("w1", "a"), ("w2", "a"), ("w3", "b")):
        add(database, worker, host)
    for name, who, changed in (("a", "olga", 2), ("a", "ben", 0), ("w3", "", 1), ("none", "ben", 0)):
        assert len(database.run_query("drain", {"name": name, "who": who})[1]) == changed
    assert states(database) == dict.fromkeys(("w1", "w2", "w3"), "draining")
    (own,) = database.row("SELECT session_user::text")
    assert [one.drain_asked_by for one in workers_of(database)] == ["olga", "olga", own]


def test_explain__knows_who_has_a_campaign(database: Database) -> None:
    add(database, "w1", "a", "c1")
    now = datetime.now(UTC)
    held = facts_of(database, "c1", now).worker
    assert held is not None
    assert (held.worker.worker, held.worker.state, held.has_others) == ("w1", WorkerState.WORKING, False)
    assert facts_of(database, "c2", now).worker is None
    database.execute("DELETE FROM workers")  # by the removal of old rows, a day later
    assert facts_of(database, "c1", now).worker is None


def test_metrics__count_what_is_queued_where_there_is_a_queue(
    database: Database, database_url: str, postgres: PostgresServer
) -> None:
    def queued() -> int:
        return read_standings(database, RetryPolicy(), "A1", datetime.now(UTC)).queued

    assert queued() == 0
    add_engine(postgres, database_url)
    Jobs(database).put(["c1", "c2", "c3"])
    database.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE lock = 'campaign:c2'")
    database.execute("INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('default', 'other')")
    assert queued() == 2
    assert f"'{LOCK}%%'" in QUEUED


def test_metrics__count_workers_and_what_they_have(database: Database) -> None:
    def read() -> tuple[list[int], int, int]:
        now = read_standings(database, RetryPolicy(), "A1", datetime.now(UTC))
        return [now.workers[state] for state in WorkerState], now.in_hand, now.queued

    assert read() == ([0, 0, 0], 0, 0)
    add(database, "w1", "a", "c1", "c2")
    add(database, "w2", "b", "c3")
    add(database, "w3", "c", "c4", unseen=300 * SECOND)
    database.run_query("drain", {"name": "b", "who": "olga"})
    assert read() == ([1, 1, 1], 4, 0)
