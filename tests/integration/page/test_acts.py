"""What people do on the page: once, on nothing that has changed, told whole, and taken back."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import psycopg2
import pytest

from conftest import PASSWORD
from shared.base.commands import here
from shared.base.errors import DbError
from shared.base.values import Notice, NoticeKind
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.page.acts import CHANGED, LOCKED, UNKNOWN, Act, Acts, Asked, Outcome, RefusedError
from shared.page.filters import Filter
from shared.report.events import events_of, in_words
from shared.report.explain import Installation, explain
from shared.report.facts import facts_of
from shared.report.state import State
from shared.report.week import STUCK_FAILED
from shared.rules.retry import RetryPolicy
from simulators.postgres import EmbeddedPostgres, PostgresServer

REPOSITORY = Path(__file__).resolve().parents[3]
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
ROME = ZoneInfo("Europe/Rome")
POLICY = RetryPolicy(auto_reset_days=30)
BY = Installation(POLICY, ROME, None, "A1", "Master Assets", here())
STATE = """
SELECT a1_retry_count, a1_last_retry_at, a1_permanently_failed, a1_failure_reason, a1_max_retries,
       a1_snoozed_until, a1_cycle, a1_auto_resets
FROM campaign_status WHERE campaign_id = %(id)s
"""
NOTHING = "not permanently failed, and no attempt is counted"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


def acts(database: Database) -> Acts:
    return Acts(database, POLICY, "A1", ROME, datetime.now(UTC))


def failed(database: Database, *ids: str) -> None:
    for one in ids:
        for _ in range(3):
            database.increment_a1_retry(one, f"C-{one}", f"Campaign {one}", "empty", at=NOW - DAY)


def drawn(database: Database, request_id: UUID | None = None, **changes: str) -> Asked:
    at: datetime = database.row("SELECT clock_timestamp()")[0]
    asked = {"person": "anna", "peer": "10.0.0.7", "reason": "files are there", **changes}
    return Asked(request_id or uuid4(), at, **asked)


def state(database: Database, campaign_id: str) -> tuple[Any, ...]:
    return database.row(STATE, {"id": campaign_id})


def events(database: Database, campaign_id: str) -> list[tuple[Any, ...]]:
    return database.rows(
        "SELECT kind, actor, source, reason, detail FROM campaign_events"
        " WHERE campaign_id = %(id)s ORDER BY id", {"id": campaign_id},
    )  # fmt: skip


# --- once ---------------------------------------------------------------------------------------------------


def test_act__is_done_once_for_a_request_and_written_down(database: Database) -> None:
    failed(database, "a", "b")
    asked = drawn(database)
    done = acts(database).do(Act.RESET, Filter("failed"), asked)
    assert (done.done, done.skipped, done.is_repeated, done.can_undo) == (2, {}, False, True)
    assert done.filter == {"state": "failed"}
    kind, *rest = events(database, "a")[-1]
    assert (kind, rest[:3]) == ("reset", ["anna", "page", "files are there"])
    assert rest[3]["act"] == done.act_id == str(asked.request_id)
    database.increment_a1_retry("a", "C-a", "Campaign a", "empty")
    again = acts(database).do(Act.RESET, Filter("failed"), asked)
    assert again.is_repeated
    assert (again.done, again.at) == (2, done.at)
    assert state(database, "a")[0] == 1, "nothing was done the second time"
    assert acts(database).outcome(done.act_id) == done
    assert database.row("SELECT peer FROM page_acts") == ("10.0.0.7",)


@pytest.mark.parametrize("change", ["act", "person", "targets"])
def test_request__that_was_used_for_something_else_is_refused(database: Database, change: str) -> None:
    failed(database, "a", "b")
    asked = drawn(database)
    acts(database).do(Act.RESET, ["a"], asked)
    other = drawn(database, asked.request_id, **({"person": "bert"} if change == "person" else {}))
    act, ids = (Act.WAKE if change == "act" else Act.RESET), (["b"] if change == "targets" else ["a"])
    with pytest.raises(RefusedError, match="used this page for something else"):
        acts(database).do(act, ids, other)
    assert state(database, "b")[2] is True


def test_act__of_two_processes_at_once_is_done_once(database: Database, database_url: str) -> None:
    failed(database, *(f"c{number}" for number in range(50)))
    asked, found = drawn(database), []

    def post() -> None:
        with Database(database_url) as own:
            found.append(acts(own).do(Act.RESET, Filter("failed"), asked))

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.is_repeated for one in found) == [False, True, True, True]
    assert {one.done for one in found} == {50}
    assert database.row("SELECT count(*) FROM campaign_events WHERE kind = 'reset'") == (50,)


# --- what is left alone -------------------------------------------------------------------------------------


def test_act__leaves_alone_what_changed_since_the_page_was_drawn(database: Database) -> None:
    failed(database, "a")
    asked = drawn(database)
    failed(database, "later")
    done = acts(database).do(Act.RESET, Filter("failed"), asked)
    assert (done.done, done.skipped) == (1, {CHANGED: 1})
    assert state(database, "later")[2] is True
    database.execute("UPDATE campaign_status SET updated_at = now() + interval '1 year', a1_last_retry_at ="
                     " now() + interval '1 year' WHERE campaign_id = 'later'")  # fmt: skip
    assert acts(database).do(Act.RESET, ["later"], drawn(database)).done == 1, "a clock that ran ahead"


def test_act__tells_each_that_it_leaves_alone_and_why(database: Database, database_url: str) -> None:
    failed(database, "a", "locked")
    database.execute("INSERT INTO campaign_status (campaign_id, status) VALUES ('calm', 'A1')")
    database.execute("INSERT INTO campaign_errors (campaign_id, kind, message) VALUES ('unread', 'k', 'm')")
    other = psycopg2.connect(database_url)
    other.cursor().execute("SELECT FROM campaign_status WHERE campaign_id = 'locked' FOR UPDATE")
    hostile = "'; DROP TABLE campaign_status; --\0%s"
    ids = ["a", "a", "locked", "calm", "unread", "nobody", hostile]
    done = acts(database).do(Act.RESET, ids, drawn(database))
    other.close()
    assert done.done == 1
    assert done.skipped == {LOCKED: 1, NOTHING: 1, "no run has been able to read it yet": 1, UNKNOWN: 2}


@pytest.mark.parametrize(
    ("act", "value", "said"),
    [
        (Act.SNOOZE, {"until": "2020-01-01T08:00"}, "2020-01-01T08:00 is in the past"),
        (Act.SNOOZE, {"until": "2999-01-01T08:00"}, "more than 90 days ahead"),
        (Act.SNOOZE, {}, "expected a time"),
        (Act.LIMIT, {"limit": 1001}, "from 1 to 1000"),
        (Act.LIMIT, {}, "from 1 to 1000"),
        (Act.RESEND, {}, "not a campaign"),
        (Act.DRAIN, {}, "not a campaign"),
    ],
)
def test_act__says_what_is_wrong(database: Database, act: Act, value: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        acts(database).do(act, ["a"], drawn(database), **value)
    assert database.row("SELECT count(*) FROM page_acts") == (0,)


# --- undo ---------------------------------------------------------------------------------------------------


def explained(database: Database, campaign_id: str) -> Any:
    now = datetime.now(UTC)
    return explain(facts_of(database, campaign_id, now), BY, now)


def test_undo__of_a_reset_brings_everything_back(database: Database) -> None:
    failed(database, "a")
    database.execute("UPDATE campaign_status SET a1_auto_resets = 2, a1_cycle = 4")
    with database.transaction():
        database.act_as("bert", "a1_retry.py", "before")
        database.reset_a1_retry("a")
    failed(database, "a")
    database.execute("UPDATE campaign_status SET a1_auto_resets = 2")
    before, told = state(database, "a"), explained(database, "a")
    done = acts(database).do(Act.RESET, ["a"], drawn(database))
    assert state(database, "a")[6:] == (before[6] + 1, 0)
    undone = acts(database).undo(done.act_id, drawn(database, person="bert", reason="wrong ones"))
    assert (undone.undone, undone.left_alone, undone.undone_by, undone.can_undo) == (1, {}, "bert", False)
    assert state(database, "a") == before
    after = explained(database, "a")
    assert (after.state, after.facts.attempts) == (State.PERMANENTLY_FAILED, told.facts.attempts)
    assert (after.facts.last_reset, after.next) == (told.facts.last_reset, told.next)
    assert after.facts.last_reset.actor == "bert"
    assert not database.increment_a1_retry("a", "C-a", "Campaign a", "empty").counted, "no mail more"
    *_, reset, undo = events(database, "a")
    assert (reset[0], undo[:4]) == ("reset", ("undo", "bert", "page", "wrong ones"))
    assert undo[4]["undoes"] == done.act_id
    assert database.row(STUCK_FAILED, {"limit": 5})[-2] == "bert", "the digest names the reset that holds"
    again = acts(database).undo(done.act_id, drawn(database))
    assert again.is_repeated
    assert (again.undone, state(database, "a"), len(events(database, "a"))) == (
        1, before, len(events(database, "a")),
    )  # fmt: skip


def test_undo__leaves_alone_what_somebody_or_a_run_has_touched(database: Database, database_url: str) -> None:
    names = ("free", "counted", "uploaded", "taken", "erring", "snoozed", "locked", "gone")
    failed(database, *names)
    done = acts(database).do(Act.RESET, Filter("failed"), drawn(database))
    database.increment_a1_retry("counted", "", "", "empty")
    database.execute("UPDATE campaign_status SET status = 'A2', updated_at = now()"
                     " WHERE campaign_id = 'uploaded'")  # fmt: skip
    database.take_campaign("taken")
    database.execute("INSERT INTO campaign_errors (campaign_id, kind, message) VALUES ('erring', 'k', 'm')")
    end = (datetime.now(UTC) + DAY).isoformat()
    acts(database).do(Act.SNOOZE, ["snoozed"], drawn(database), until=end)
    database.execute("DELETE FROM campaign_status WHERE campaign_id = 'gone'")
    other = psycopg2.connect(database_url)
    other.cursor().execute("SELECT FROM campaign_status WHERE campaign_id = 'locked' FOR UPDATE")
    undone = acts(database).undo(done.act_id, drawn(database))
    other.close()
    assert undone.undone == 1
    assert undone.left_alone == {
        "changed since": 3, "a run has looked at it since": 2, LOCKED: 1, UNKNOWN: 1,
    }  # fmt: skip
    assert [name for name in names[:-1] if state(database, name)[2]] == ["free"]


def test_undo__of_a_snooze_a_wake_and_a_limit(database: Database) -> None:
    failed(database, "a")
    start = state(database, "a")
    end = (datetime.now(UTC) + DAY).isoformat()
    snoozed = acts(database).do(Act.SNOOZE, ["a"], drawn(database), until=end)
    between = state(database, "a")
    assert (snoozed.value, between[5], between[2]) == (end, datetime.fromisoformat(end), False)
    woken = acts(database).do(Act.WAKE, ["a"], drawn(database))
    limited = acts(database).do(Act.LIMIT, ["a"], drawn(database), limit=5)
    same = acts(database).do(Act.LIMIT, ["a"], drawn(database), limit=5)
    assert (state(database, "a")[4:6], same.skipped, same.can_undo) == (
        (5, None), {"nothing to change": 1}, False,
    )  # fmt: skip
    for done in (limited, woken, snoozed):
        undone = acts(database).undo(done.act_id, drawn(database))
        # The undo of the limit has touched it since: the wake before it stays.
        assert undone.undone == (1 if done is limited else 0), done
    assert facts_of(database, "a", NOW).last_limit is None
    history = database.run_query("history", {"campaign_id": "a"})[1]
    assert events_of(history, 3)[-1].limit == 3
    told = [in_words(event, ROME, "GONE") for event in events_of(history, 3)]
    assert (
        told[-1] == "undone; the campaign is as before (attempts back to 0) by anna (page): files are there"
    )
    failed(database, "b")
    start = state(database, "b")
    snoozed = acts(database).do(Act.SNOOZE, ["b"], drawn(database), until=end)
    assert acts(database).undo(snoozed.act_id, drawn(database)).undone == 1
    assert state(database, "b") == start
    assert facts_of(database, "b", NOW).last_snooze is None


def test_undo__of_what_is_not_on_record_or_changed_nothing_is_refused(database: Database) -> None:
    with pytest.raises(RefusedError, match="not on record"):
        acts(database).undo(str(uuid4()), drawn(database))
    with pytest.raises(RefusedError, match="not on record"):
        acts(database).undo("../etc/passwd", drawn(database))
    done = acts(database).do(Act.RESET, ["nobody"], drawn(database))
    with pytest.raises(RefusedError, match="cannot be undone"):
        acts(database).undo(done.act_id, drawn(database))


def test_setting_of_an_undo__hides_no_reset_and_no_status(database: Database) -> None:
    failed(database, "a")
    with database.transaction():
        database.rows("SELECT set_config('a1_to_a2.undo', 'made up', TRUE)")
        database.execute("UPDATE campaign_status SET a1_permanently_failed = FALSE, status = 'B7'")
    assert [event[0] for event in events(database, "a")[-3:]] == ["status", "undo", "reset"]


# --- resend -------------------------------------------------------------------------------------------------


def queue(database: Database, number: int, *recipients: str, age: timedelta = 9 * DAY) -> UUID:
    name = UUID(int=number)
    Outbox(database).queue(
        Notice(str(name), NoticeKind.ERROR, "a", "subject", "text", "html", recipients, NOW - age)
    )
    return name


def deliveries(database: Database) -> dict[str, tuple[Any, ...]]:
    rows = database.rows("SELECT recipient, tries, gave_up_at IS NULL, sent_at IS NULL, next_try_at <= now()"
                         " FROM notice_deliveries")  # fmt: skip
    return {row[0]: row[1:] for row in rows}


def test_resend__owes_again_what_was_given_up_and_keeps_it_for_five_days(database: Database) -> None:
    name = queue(database, 1, "gone@x", "has@x", "waits@x", "new@x")
    database.execute("""
        UPDATE notice_deliveries SET tries = 40, doubts = 10, gave_up_at = now() WHERE recipient = 'gone@x';
        UPDATE notice_deliveries SET sent_at = now() WHERE recipient = 'has@x';
        UPDATE notice_deliveries SET tries = 4, next_try_at = now() + interval '1 hour'
            WHERE recipient = 'waits@x'""")
    done = acts(database).resend(name, drawn(database))
    assert (done.done, done.can_undo) == (2, False)
    assert done.skipped == {"already delivered": 1, "not tried yet: the next run sends it": 1}
    owed = (0, True, True, True)
    assert deliveries(database) | {"has@x": None} == {
        "gone@x": owed, "has@x": None, "waits@x": owed, "new@x": owed,
    }  # fmt: skip
    told = [event for event in events(database, "a") if event[0] == "resend"]
    assert [(event[1], event[3], event[4]["act"]) for event in told] == [
        ("anna", "files are there", done.act_id)
    ] * 2
    outbox, now = Outbox(database), datetime.now(UTC)
    assert outbox.give_up_doubtful(now, 10) == [], "handovers are counted anew"
    too_old = {"give_up_before": now - 5 * DAY}
    assert not outbox.record_refused(str(name), ["gone@x"], "550 no", now, **too_old)
    assert outbox.record_refused(str(name), ["new@x"], "550 no", now, **too_old)


def test_resend__of_all_given_up_leaves_alone_what_was_given_up_later(database: Database) -> None:
    queue(database, 1, "early@x")
    queue(database, 2, "late@x")
    database.execute("UPDATE notice_deliveries SET gave_up_at = now() WHERE recipient = 'early@x'")
    asked = drawn(database)
    database.execute("UPDATE notice_deliveries SET gave_up_at = now() WHERE recipient = 'late@x'")
    done = acts(database).resend(None, asked)
    assert (done.done, done.skipped, done.filter) == (1, {CHANGED: 1}, {"notices": "given up"})
    assert acts(database).resend(None, asked).is_repeated


def test_resend__says_of_a_folded_and_of_an_unknown_notice_that_nobody_is_to_get_it(
    database: Database,
) -> None:
    name = queue(database, 1, "a@x")
    database.execute("UPDATE notices SET folded_into = gen_random_uuid(); DELETE FROM notice_deliveries")
    assert acts(database).resend(name, drawn(database)).skipped == {"a later notice took its place": 1}
    assert acts(database).resend(uuid4(), drawn(database)).skipped == {"unknown notice": 1}


# --- the page's role ----------------------------------------------------------------------------------------


@pytest.fixture
def page_url(postgres: PostgresServer, database_url: str) -> Iterator[str]:
    """The URL of the database as the page's role of database/roles.sql, which was applied twice."""
    url = urlsplit(database_url)
    run, page = f"run_{url.path[1:]}", f"page_{url.path[1:]}"
    admin = postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url
    with Database(admin) as superuser:  # making a role takes more than owning a database
        for name in (run, page):
            superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")

    def grant(page_role: str) -> subprocess.CompletedProcess[str]:
        roles = ("-v", f"role={run}", "-v", f"page_role={page_role}")
        return postgres.psql(*roles, "-f", REPOSITORY / "database" / "roles.sql", database=url.path[1:])

    for _ in range(2):
        done = grant(page)
        assert done.returncode == 0, done.stderr
    assert "role and page_role are both" in grant(run).stderr
    yield url._replace(netloc=f"{page}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
    with Database(urlsplit(admin)._replace(path=url.path).geturl()) as superuser:
        superuser.execute(f"DROP OWNED BY {run}, {page}")
        superuser.execute(f"DROP ROLE {run}, {page}")


FORBIDDEN = """
INSERT INTO campaign_status (campaign_id) VALUES ('x')
DELETE FROM campaign_status
UPDATE campaign_status SET status = 'A2'
UPDATE campaign_status SET campaign_name = 'x'
INSERT INTO campaign_events (campaign_id, kind, actor, source) VALUES ('a', 'reset', 'x', 'x')
SELECT add_campaign_event('a', 'reset', 1, '', '{}', NULL)
DELETE FROM campaign_events
UPDATE page_acts SET person = 'somebody else'
DELETE FROM page_acts
UPDATE page_act_campaigns SET a1_retry_count = 9
DELETE FROM notices
UPDATE notices SET subject = 'x'
UPDATE notice_deliveries SET recipient = 'me@x'
INSERT INTO notice_deliveries (notice_id, recipient, next_try_at) SELECT id, 'me@x', now() FROM notices
UPDATE notice_deliveries SET sent_at = now()
INSERT INTO campaign_epochs VALUES ('a', 1, 'x', now())
UPDATE run_epochs SET epoch = 9
SELECT hold_run(1, 1) FROM run_epochs FOR UPDATE
UPDATE workers SET seen_at = now()
DELETE FROM workers
INSERT INTO worker_campaigns VALUES ('a', 'w', now())
CREATE TABLE mine ()
""".strip().splitlines()


def test_page_role__is_enough_for_every_act_and_for_nothing_else(database: Database, page_url: str) -> None:
    failed(database, "a", "b")
    name = queue(database, 1, "a@x")
    database.execute("UPDATE notice_deliveries SET gave_up_at = now()")
    database.execute("INSERT INTO workers VALUES ('w', 'h', now(), now(), 16)")
    end = (datetime.now(UTC) + DAY).isoformat()
    with Database(page_url) as page:
        done: list[Outcome] = [
            acts(page).do(Act.RESET, Filter("failed"), drawn(page)),
            acts(page).do(Act.SNOOZE, ["a"], drawn(page), until=end),
            acts(page).do(Act.WAKE, ["a"], drawn(page)),
            acts(page).do(Act.LIMIT, ["a"], drawn(page), limit=5),
            acts(page).resend(name, drawn(page)),
            acts(page).drain("w", drawn(page)),
        ]
        assert [one.done for one in done] == [2, 1, 1, 1, 1, 1]
        assert acts(page).undo(done[0].act_id, drawn(page)).undone == 1
        assert facts_of(page, "a", NOW).retry.max_retries == 5
        page.execute("INSERT INTO page_sessions VALUES ('hash', 'anna', 'print', now(), now())")
        assert page.execute("DELETE FROM page_sessions") == 1
        for statement in FORBIDDEN:
            with pytest.raises(DbError) as caught:
                page.execute(statement)
            assert caught.value.kind == "no_right", statement
    assert {event[1] for event in events(database, "a") if event[2] == "page"} == {"anna"}
