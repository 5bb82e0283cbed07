"""What is said of a campaign that a worker has, and of the worker."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from hostile import ATTACKS
from shared.base.commands import Commands
from shared.base.tables import WIDTH, columns_of
from shared.base.values import GONE, RetryStatus
from shared.report import listing
from shared.report.explain import Installation, explain
from shared.report.explain_text import as_json, as_text
from shared.report.facts import CampaignFacts
from shared.report.states import Rules
from shared.report.workers import Holder, InHand, Worker, WorkerState, holders_of
from shared.rules.retry import RetryPolicy

ROME = ZoneInfo("Europe/Rome")
NOW = datetime(2026, 11, 30, 10, 16, 40, tzinfo=ROME)
MINUTE = timedelta(minutes=1)
SINCE = "Mon 2026-11-30 10:06 CET"
WORKING = Worker(
    "a1_to_a2 worker b:7", "b", WorkerState.WORKING, NOW - 60 * MINUTE, NOW, 16, None, None,
    campaigns=(InHand("c1", "C-1", "Easter", NOW - 10 * MINUTE), InHand("c2", None, None, NOW)),
)  # fmt: skip
DRAINING = replace(
    WORKING, state=WorkerState.DRAINING, drain_asked_at=NOW - MINUTE, drain_asked_by="olga@admin"
)
LOST = replace(WORKING, state=WorkerState.LOST, seen_at=NOW - 5 * MINUTE)
OTHER = Worker("a1_to_a2 worker c:8", "c", WorkerState.WORKING, NOW, NOW, 4, None, None)
BY = Installation(RetryPolicy(), ROME, None, "A1", "Master Assets", Commands("python", "scripts"))
RULES = Rules(RetryPolicy(), "A1", GONE, ROME, NOW)
HAS = f"worker a1_to_a2 worker b:7 on host b has had it since {SINCE}"


@pytest.mark.parametrize(
    ("worker", "others", "said"),
    [
        pytest.param(WORKING, (), HAS, id="working"),
        pytest.param(
            DRAINING, (),
            f"{HAS}; olga@admin asked it to stop: it finishes the files in hand, the next run queues the"
            " rest, which waits until another worker starts", id="draining, the only one",
        ),
        pytest.param(
            DRAINING, (OTHER,),
            f"{HAS}; olga@admin asked it to stop: it finishes the files in hand, the next run gives the rest"
            " to another worker", id="draining",
        ),
        pytest.param(
            LOST, (OTHER,),
            f"{HAS}, but is lost: it was last seen Mon 2026-11-30 10:11 CET; within 90 s it is"
            " free again, and the next run gives it to another worker", id="lost",
        ),
        pytest.param(
            LOST, (replace(DRAINING, worker="d"), replace(LOST, worker="e")),
            f"{HAS}, but is lost: it was last seen Mon 2026-11-30 10:11 CET; within 90 s it is"
            " free again, and the next run queues it, which waits until another worker starts",
            id="lost, and the others accept nothing",
        ),
    ],
)  # fmt: skip
def test_holder__is_named_with_what_comes_of_it(
    worker: Worker, others: tuple[Worker, ...], said: str
) -> None:
    holder = holders_of([replace(one, campaigns=()) for one in others] + [worker])["c1"]
    assert holder.words(ROME) == said
    row = RetryStatus("c1", 0, None, False, None, "C-1", "Easter", "A1")
    told = explain(CampaignFacts("c1", row, worker=holder), BY, NOW)
    assert said in told.notes
    assert "  Note  worker a1_to_a2 worker b:7 on host b" in as_text(told, BY)
    assert json.loads(as_json(told, BY))["worker"] == {
        "worker": "a1_to_a2 worker b:7", "host": "b", "state": worker.state,
        "since": "2026-11-30T09:06:40+00:00",
        "seen_at": f"2026-11-30T09:{'11' if worker is LOST else '16'}:40+00:00",
    }  # fmt: skip


def test_campaign__that_no_worker_has_is_told_as_before() -> None:
    told = explain(CampaignFacts("c1", RetryStatus("c1", status="A1")), BY, NOW)
    assert "worker" not in as_text(told, BY)
    assert json.loads(as_json(told, BY))["worker"] is None


def test_table__fits_a_terminal_and_shows_who_has_what() -> None:
    assert listing.workers([WORKING, OTHER], RULES).splitlines() == [
        "worker               host  state    since                 in hand",
        "a1_to_a2 worker b:7  b     working  2026-11-30 09:16 CET  2 of 16",
        "a1_to_a2 worker c:8  c     working  2026-11-30 10:16 CET  0 of 4",
        "",
        "number  name    worker               since",
        "C-1     Easter  a1_to_a2 worker b:7  2026-11-30 10:06 CET",
        "c2              a1_to_a2 worker b:7  2026-11-30 10:16 CET",
    ]
    assert "lost, last seen Mon 2026-11-30 10:11 CET" in listing.workers([LOST], RULES)
    assert "a1_to_a2 worker b:7, lost" in listing.in_hand([LOST], RULES)
    assert listing.in_hand([OTHER], RULES) == ""
    troubled = replace(OTHER, trouble="the DAM refused\nthe login", trouble_at=NOW)
    assert troubled.words(ROME) == (
        "working; no campaign could be worked on Mon 2026-11-30 10:16 CET: the DAM refused the login"
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_table__stays_within_100_columns_and_one_line_for_any_name(attack: str) -> None:
    name = (attack + "x" * 300)[:255]
    worker = replace(
        DRAINING, worker=name[:63], host=name, drain_asked_by=name, campaigns=(InHand(name, name, name, NOW),)
    )
    text = listing.workers([worker, replace(worker, state=WorkerState.LOST)], RULES)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    assert max(map(columns_of, text.split("\n"))) <= WIDTH
    said = Holder(worker, NOW, has_others=True).words(ROME)
    assert "\n" not in said
