"""The list of campaigns: its states are those of the report, its pages are whole, and none is left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.base.values import GONE
from shared.database import Database
from shared.page.acts import POSSIBLE, Act, Acts
from shared.page.campaigns import PAGE_SIZE, Campaigns
from shared.page.filters import STATES, Filter
from shared.page.overview import Overview
from shared.report.state import State
from shared.report.states import Rules, Standing, retry_status
from shared.rules.cadence import OffHours
from shared.rules.retry import RetryPolicy, count

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
POLICY = RetryPolicy(max_retries=3)
WINDOW = OffHours(False, time(22), time(5), frozenset(), 30, frozenset({0, 30}))
RULES = Rules(POLICY, "A1", GONE, UTC, NOW)
HOSTILE = "100%_<b>'; DROP TABLE campaign_status;--\\"

INSERT = """
INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,
    a1_permanently_failed, a1_last_retry_at, a1_max_retries, a1_snoozed_until, updated_at)
VALUES (%(id)s, %(number)s, %(name)s, %(status)s, %(count)s, %(failed)s, %(last)s, %(limit)s, %(snoozed)s,
        %(updated)s)
"""
FAILURE = """
INSERT INTO campaign_errors (campaign_id, kind, message, began_at, last_seen_at)
VALUES (%(id)s, %(kind)s, 'HTTP 403', %(began)s, %(seen)s)
"""


def add(database: Database, campaign_id: str, **changes: Any) -> None:
    values = {
        "id": campaign_id, "number": None, "name": None, "status": "A1", "count": 0, "failed": False,
        "last": None, "limit": None, "snoozed": None, "updated": NOW - DAY, **changes,
    }  # fmt: skip
    database.execute(INSERT, values)


def fail(database: Database, campaign_id: str, began: datetime, kind: str = "DAM/forbidden") -> None:
    database.execute(FAILURE, {"id": campaign_id, "kind": kind, "began": began, "seen": NOW})


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        # As old tables are.
        opened.execute("ALTER TABLE campaign_status ALTER a1_retry_count DROP NOT NULL")
        opened.execute("ALTER TABLE campaign_status ALTER a1_permanently_failed DROP NOT NULL")
        opened.execute("ALTER TABLE campaign_status ALTER updated_at DROP NOT NULL")
        yield opened


@pytest.fixture
def every_kind(database: Database) -> Database:
    """A campaign of each combination of what a state depends on; and some that no run could read yet."""
    kinds = product(
        ("A1", None, "B7", GONE), (None, 0, 1, 2, 3), (None, False, True), (None, 1, 5),
        (None, NOW - DAY, NOW + DAY), (None, NOW - 2 * DAY, NOW - DAY / 2),
    )  # fmt: skip
    with database.transaction():
        for number, (status, counted, failed, limit, snoozed, began) in enumerate(kinds):
            name = f"{number:040x}"
            add(database, name, status=status, count=counted, failed=failed, limit=limit, snoozed=snoozed)
            if began is not None:
                fail(database, name, began)
        fail(database, "long unread", NOW - 3 * DAY)
        fail(database, "long unread", NOW - DAY / 4, "DAM/other")
        fail(database, "unread", NOW - DAY / 4)
    database.execute("INSERT INTO campaign_uploads SELECT campaign_id, now(), now(), 1, 1, 'r'"
                     " FROM campaign_status WHERE a1_retry_count = 0")  # fmt: skip
    return database


def rows_of(database: Database, chosen: Filter) -> list[Any]:
    campaigns = Campaigns(database)
    first = campaigns.page(chosen, POLICY, "A1", 1, NOW)
    rows = list(first.rows)
    for number in range(2, first.pages + 1):
        rows += campaigns.page(chosen, POLICY, "A1", number, NOW).rows
    assert len(rows) == first.total
    return rows


def is_in(state: str, row: Any, one: Standing, long_failing: set[str]) -> bool:
    """Whether a campaign belongs under a filter, by the rules of the report and the runs."""
    retry = retry_status(row)
    is_tried = one.state not in (State.NOT_A1, State.GONE)
    return {
        "stuck": one.words == "permanently failed" or row["campaign_id"] in long_failing
        or (is_tried and retry.running_snooze(NOW) is not None),
        "failed": one.words == "permanently failed",
        "erring": one.words.startswith("error "),
        "snoozed": one.state is State.SNOOZED,
        "near_failure": retry.status == "A1" and retry.retry_count > 0 and not retry.permanently_failed
        and count(retry, POLICY, NOW)[1].permanently_failed,
        "in_retry": one.state in (State.EMPTY, State.WAITING),
        "in_a1": retry.status == "A1",
        "uploaded": retry.status == "B7" and row["a1_retry_count"] == 0,
        "gone": one.state is State.GONE,
        "": True,
    }[state]  # fmt: skip


def test_states__are_those_of_the_report(every_kind: Database) -> None:
    rows = rows_of(every_kind, Filter())
    assert len(rows) == 4 * 5 * 3 * 3 * 3 * 3 + 2
    long_failing = {
        row[0] for row in every_kind.rows("SELECT campaign_id FROM campaign_errors"
                                          " WHERE began_at < now() - interval '1 day'")
    }  # fmt: skip
    counts = Overview(every_kind, POLICY, "A1", NOW).counters(ZoneInfo("UTC"), WINDOW, tuple(STATES)).counts
    assert list(counts) == list(STATES)
    for state in STATES:
        wanted = {row["campaign_id"] for row in rows if is_in(state, row, RULES.standing(row), long_failing)}
        found = [row["campaign_id"] for row in rows_of(every_kind, Filter(state))]
        assert set(found) == wanted, state
        assert len(found) == len(wanted) == counts[state] > 0, state


def test_possible__says_the_same_as_the_act(every_kind: Database) -> None:
    acts = Acts(every_kind, POLICY, "A1", None, NOW)
    values = {"status_a1": "A1", "gone": GONE, "now": NOW}
    rows = rows_of(every_kind, Filter())
    for act, condition in POSSIBLE.items():
        sql = f"SELECT campaign_id FROM campaign_status c WHERE {condition}"  # noqa: S608 - our own
        wanted = {row[0] for row in every_kind.rows(sql, values)}
        assert {row["campaign_id"] for row in rows if act in acts.possible(row)} == wanted, act
    assert acts.possible(Campaigns(every_kind).one("unread", NOW) or {}) == ()


def test_pages__hold_each_campaign_once_though_all_have_one_time(database: Database) -> None:
    for number in range(2 * PAGE_SIZE + 1):
        add(database, f"{number:040x}", updated=None if number == 0 else NOW - DAY)
    add(database, "latest", updated=NOW)
    rows = rows_of(database, Filter())
    ids = [row["campaign_id"] for row in rows]
    assert ids == ["latest", *(f"{number:040x}" for number in range(1, 2 * PAGE_SIZE + 1)), f"{0:040x}"]
    beyond = Campaigns(database).page(Filter(), POLICY, "A1", 10**9, NOW)
    assert (beyond.number, [row["campaign_id"] for row in beyond.rows]) == (3, ids[100:])
    none = Campaigns(database).page(Filter("gone"), POLICY, "A1", 7, NOW)
    assert (none.rows, none.total, none.number, none.pages) == ((), 0, 1, 1)
    assert abs(none.drawn_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_text__is_looked_for_as_it_is_written(database: Database) -> None:
    add(database, "a", number="C-1", name=HOSTILE)
    add(database, "b", number="C-10", name="Summer 1000")
    found = {q: [row["campaign_id"] for row in rows_of(database, Filter(q=q))]
             for q in (HOSTILE, "100%", "summer", "c-1", "a", "%", "_", "\\", "nothing")}  # fmt: skip
    assert found == {
        HOSTILE: ["a"], "100%": ["a"], "summer": ["b"], "c-1": ["a", "b"], "a": ["a"], "%": ["a"],
        "_": ["a"], "\\": ["a"], "nothing": [],
    } | {"a": ["a"]}  # fmt: skip


def test_older__counts_from_the_last_change_or_the_beginning_of_the_trouble(database: Database) -> None:
    add(database, "young")
    add(database, "old", updated=NOW - 9 * DAY)
    add(database, "failed long ago", failed=True, last=NOW - 9 * DAY, count=3)
    add(database, "fails long")
    fail(database, "fails long", NOW - 9 * DAY)
    found = {row["campaign_id"] for row in rows_of(database, Filter(older=7))}
    assert found == {"old", "failed long ago", "fails long"}


def test_acts__have_a_condition_each() -> None:
    assert {*POSSIBLE, Act.RESEND, Act.DRAIN} == set(Act)
