"""The number of the run that may write: who takes it, and what becomes of whoever had it before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from sessions import end_sessions
from shared.base.commands import Commands
from shared.base.errors import CampaignLostError, DbError, ExitCode, LockLostError
from shared.base.values import (
    Asset,
    BoxFile,
    Campaign,
    DamFolder,
    Notice,
    NoticeKind,
    OpenUpload,
    UploadTotals,
)
from shared.database import ORCHESTRATOR_LOCK, UPLOADER_LOCK, Database
from shared.loop.journal import Journal
from shared.loop.memory import Memory, TaskRun
from shared.notices.outbox import Outbox
from shared.upkeep.retention import prune
from shared.upload.buckets import Buckets
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.standing import Standing

COMMANDS = Commands("python", "scripts")
NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
PAUSE = timedelta(minutes=2)
CAMPAIGN = Campaign("c", "C-1", "Summer", "A1")
NOTICE_ID = "00000000-0000-0000-0000-000000000001"
TABLES = (
    *("campaign_status", "campaign_assets", "upload_sessions", "campaign_uploads", "campaign_errors"),
    *("notices", "notice_deliveries", "rate_buckets", "orchestrator_task_runs"),
)

WRITES: dict[str, Callable[[Database], object]] = {
    "increment": lambda db: db.increment_a1_retry("c", "C-1", "Summer", "empty"),
    "reset": lambda db: db.reset_a1_retry("c"),
    "in a1": lambda db: Standing(db).record_in_a1(CAMPAIGN),
    "left search": lambda db: Standing(db).mark_left_search("c"),
    "follow": lambda db: Standing(db).follow_status("c", "A2"),
    "request a2": lambda db: Standing(db).request_a2("c"),
    "folder": lambda db: Ledger(db).claim_box_folder("c", "f"),
    "upload": lambda db: Ledger(db).record_upload(
        "c", Asset("a", "a", DamFolder("f", "f", None), 1, "1"), BoxFile("b", "b", 1, "0" * 40), "run"
    ),
    "campaign upload": lambda db: Ledger(db).record_campaign_upload("c", UploadTotals(1, 1), "run", NOW),
    "session": lambda db: Ledger(db).remember_upload(OpenUpload("c", "a", "s", "1", 1, "f", None), "run"),
    "session over": lambda db: Ledger(db).forget_upload("s"),
    "leave to call": lambda db: Buckets(db).take_calls("calls", 1, 60),
    "pause": lambda db: Buckets(db).pause_calls("calls", 1),
    "error": lambda db: LastingErrors(db).note("c", "Box/locked", "locked"),
    "errors over": lambda db: LastingErrors(db).clear("c"),
    "notice": lambda db: Outbox(db).queue(
        Notice(str(uuid4()), NoticeKind.RETRY, "c", "s", "t", "h", ("a@example.com",), NOW)
    ),
    "task run": lambda db: Memory(db).record_task_run(TaskRun("r", "t", NOW, NOW, "host")),
    "prune": lambda db: prune(db, NOW),
    "digest": lambda db: Outbox(db).supersede(
        [], Notice(str(uuid4()), NoticeKind.RETRY, "", "s", "t", "h", ("a@example.com",), NOW), NOW
    ),
    "mail claimed": lambda db: Outbox(db).claim_mail(str(uuid4()), NOW, pauses=[PAUSE], doubt_pauses=[PAUSE]),
    "mails postponed": lambda db: Outbox(db).postpone_due(NOW, "away", pauses=[PAUSE]),
    "mails given up": lambda db: Outbox(db).give_up_doubtful(NOW, 1),
    "mail sent": lambda db: Outbox(db).record_sent(str(uuid4()), ["a@example.com"], NOW),
    "mail refused": lambda db: Outbox(db).record_refused(str(uuid4()), ["a@example.com"], "550", NOW),
    "mails late": lambda db: Outbox(db).tell_late(NOW, NOW),
}


@pytest.fixture
def pair(database_url: str) -> Iterator[tuple[Database, Database]]:
    """Two connections; the first holds the run, and then its lock, though not its connection, was lost."""
    with Database(database_url, 3) as first, Database(database_url, 3) as second:
        assert first.take_run(UPLOADER_LOCK) is None
        Standing(first).record_in_a1(CAMPAIGN)
        first.rows("SELECT pg_advisory_unlock_all() IS NULL")
        yield first, second


def contents(url: str) -> dict[str, list[Any]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        found = {}
        for table in TABLES:
            cursor.execute(f"SELECT t::text FROM {table} t ORDER BY 1")  # noqa: S608 - our own names
            found[table] = cursor.fetchall()
        return found


def test_number__rises_with_each_holder_and_per_lock(database_url: str) -> None:
    epochs = []
    for _ in range(3):
        with Database(database_url) as database:
            assert database.take_run(UPLOADER_LOCK) is None
            epochs.append(database.epoch)
    with Database(database_url) as other:
        assert other.take_run(ORCHESTRATOR_LOCK) is None
        assert (epochs, other.epoch) == ([1, 2, 3], 1)


def test_number__is_not_taken_while_somebody_has_the_lock(database_url: str) -> None:
    with Database(database_url, application_name="the holder") as first, Database(database_url) as second:
        assert first.take_run(UPLOADER_LOCK) is None
        assert "the holder" in str(second.take_run(UPLOADER_LOCK))
        assert second.epoch is None
        first.ensure_held()
        assert first.rows("SELECT lock, epoch, holder FROM run_epochs") == [(1, 1, "the holder")]


@pytest.mark.parametrize("name", WRITES)
def test_write__of_a_run_that_lost_its_lock_changes_nothing(
    pair: tuple[Database, Database], database_url: str, name: str
) -> None:
    first, second = pair
    WRITES[name](first)  # while the number is still its own
    assert second.take_run(UPLOADER_LOCK) is None
    before = contents(database_url)
    with pytest.raises(LockLostError) as caught:
        WRITES[name](first)
    assert caught.value.exit_code is ExitCode.TRY_LATER
    assert caught.value.ends_run
    with pytest.raises(LockLostError), first.transaction():
        pytest.fail("a transaction was begun")
    with pytest.raises(LockLostError):
        first.ensure_held()
    assert contents(database_url) == before
    WRITES[name](second)


ODD_WRITES: dict[str, Callable[[Database], object]] = {
    "with": lambda db: db.rows(
        "WITH one AS (SELECT 'c' AS id) UPDATE campaign_status SET status = 'X' FROM one"
        " WHERE campaign_id = one.id RETURNING status"
    ),
    "comment": lambda db: db.execute("-- SELECT\nDELETE FROM campaign_status"),
    "block": lambda db: db.execute("DO $$ BEGIN DELETE FROM campaign_status; END $$"),
    "query file": lambda db: db.run_query(
        "reset", {"ids": ["c"], "seen": [None], "who": "somebody", "reason": "a test"}
    ),
}


@pytest.mark.parametrize("name", ODD_WRITES)
def test_write__is_refused_whatever_it_begins_with(
    pair: tuple[Database, Database], database_url: str, name: str
) -> None:
    first, second = pair
    assert second.take_run(UPLOADER_LOCK) is None
    before = contents(database_url)
    with pytest.raises(LockLostError):
        ODD_WRITES[name](first)
    assert contents(database_url) == before


# --- one campaign -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRITES, *ODD_WRITES])
def test_write__of_a_run_that_lost_a_campaign_changes_nothing(
    pair: tuple[Database, Database], database_url: str, name: str
) -> None:
    """Another host's worker has taken the campaign: neither of them holds a run that tells."""
    first, second = pair
    write = {**WRITES, **ODD_WRITES}[name]
    frozen, other = first.take_campaign("c"), first.take_campaign("d")
    second.take_campaign("c")
    before = contents(database_url)
    with pytest.raises(CampaignLostError) as caught:
        write(frozen)
    assert not caught.value.ends_run
    with pytest.raises(CampaignLostError), frozen.transaction():
        pytest.fail("a transaction was begun")
    with pytest.raises(CampaignLostError):
        frozen.ensure_held()
    assert contents(database_url) == before
    other.ensure_held()
    first.ensure_held()
    Standing(other).record_in_a1(Campaign("d", "C-2", "Autumn", "A1"))


def test_campaign__is_held_by_other_connections_of_the_process(
    pair: tuple[Database, Database], database_url: str
) -> None:
    first, second = pair
    held = first.take_campaign("c")
    with Database(database_url) as third:
        ledger = Ledger(third.holding(held))
        ledger.forget_upload("s")
        second.take_campaign("c")
        with pytest.raises(CampaignLostError):
            ledger.forget_upload("s")
        third.execute("DELETE FROM upload_sessions")  # itself it holds nothing


def test_campaign__of_a_run_that_lost_its_lock_is_lost_with_it(pair: tuple[Database, Database]) -> None:
    first, second = pair
    held = first.take_campaign("c")
    assert second.take_run(UPLOADER_LOCK) is None
    for attempt in (held.ensure_held, lambda: first.take_campaign("d")):
        with pytest.raises(LockLostError):
            attempt()


@pytest.mark.parametrize("lost", ["run", "campaign"])
def test_takeover__waits_for_a_write_that_is_under_way(pair: tuple[Database, Database], lost: str) -> None:
    first, second = pair
    held = first if lost == "run" else first.take_campaign("c")
    order: list[str] = []

    def take() -> None:
        if lost == "run":
            assert second.take_run(UPLOADER_LOCK) is None
        else:
            second.take_campaign("c")
        order.append("taken")

    with held.transaction():
        Standing(held).request_a2("c")
        thread = threading.Thread(target=take)
        thread.start()
        thread.join(0.3)
        order.append("committed")
    thread.join()
    assert order == ["committed", "taken"]


def test_connection_gone__is_a_lock_lost(database_url: str) -> None:
    with Database(database_url, application_name="first") as first:
        assert first.take_run(UPLOADER_LOCK) is None
        assert end_sessions(database_url, "first") == 1
        with pytest.raises(LockLostError, match="connection"):
            first.ensure_held()


def test_without_a_run__writes_are_free(database_url: str) -> None:
    with Database(database_url) as operator, Database(database_url) as run:
        assert run.take_run(UPLOADER_LOCK) is None
        run.increment_a1_retry("c", "C-1", "Summer", "empty")
        assert operator.reset_a1_retry("c")
        operator.ensure_held()


# --- the orchestrator ---------------------------------------------------------------------------------------


def test_journal__cut_off_stands_by_and_tells_nothing(database_url: str) -> None:
    first, second = (
        Journal(
            lambda name=name: Database(database_url, application_name=name),
            0.0,
            is_shared=False,
            commands=COMMANDS,
        )
        for name in ("first", "second")
    )
    notice = Notice(NOTICE_ID, NoticeKind.TASK_ALERT, "", "s", "t", "h", ("a@example.com",), NOW)
    assert first.attend(0.0)
    assert end_sessions(database_url, "first") == 1
    assert second.attend(0.0)
    assert not first.save_alerts("task", {}, notice)
    first.check_connection()
    first.attend(1.0)
    assert (first.is_acting, second.is_acting) == (False, True)
    assert not first.save_alerts("task", {}, notice), "connected again, and still not its to write"
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM notices")
        assert cursor.fetchone() == (0,)
    for journal in (first, second):
        journal.close()


def test_journal__number_taken_is_noticed(database_url: str) -> None:
    journal = Journal(lambda: Database(database_url), 0.0, is_shared=False, commands=COMMANDS)
    assert journal.attend(0.0)
    with Database(database_url) as admin:
        admin.execute("UPDATE run_epochs SET epoch = epoch + 1")
    assert not journal.save_alerts("task", {}, None)
    with pytest.raises(DbError), Database(database_url) as other:
        other.execute("SELECT hold_run(3, 1)")
    assert journal.attend(1.0), "its lock was free again, so it takes the next number"
    journal.close()
