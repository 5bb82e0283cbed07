"""What `explain` says of each state: the texts as they are shown, and what they must never hold."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from hostile import ATTACKS
from shared.base.commands import Commands
from shared.base.links import Links
from shared.base.values import Asset, Campaign, DamFolder, MasterAssets, RetryStatus
from shared.report.explain import Coming, Installation, Live, explain, state_of
from shared.report.explain_text import HEADS, WIDTH, as_json, as_text
from shared.report.facts import (
    Act,
    AttemptFact,
    CampaignFacts,
    ErrorFact,
    Mail,
    ProgressFact,
    UploadFact,
)
from shared.report.state import State
from shared.rules.cadence import LastRun, OffHours
from shared.rules.retry import RetryPolicy, reason_for

ROME = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
BY = Installation(
    RetryPolicy(delays=(3, 10)), ROME, WINDOW, "A1", "Master Assets", Commands("python", "scripts")
)
NOW = datetime(2026, 11, 30, 10, 16, 40, tzinfo=ROME)
"""A Monday; a run was at 10:15, the next one is at 10:18."""
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ID = "0b0d5568" * 5
ROW = RetryStatus(ID, 0, None, False, None, "C-1001", "Easter 2027", "A1")
EMPTY_FOLDER = reason_for(MasterAssets("f"), "Master Assets")
RAN = LastRun(at := NOW.replace(minute=15, second=0), at, at + timedelta(seconds=4), 0)
UPLOAD = UploadFact(NOW - 20 * MINUTE, NOW - 9 * MINUTE, 14, 73_400_320)
FAILURE = ErrorFact("DAM/forbidden", "403 for folder f", NOW - 3 * HOUR, NOW - MINUTE, NOW - 3 * HOUR)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-{text}").replace(tzinfo=ROME)


def mail(
    number: int, recipients: int = 3, sent: int = 3, given_up: int = 0, error: str | None = None
) -> Mail:
    return Mail(f"a81f0{number}00-0000", "k", at("30 10:00"), 1, number, recipients, sent, given_up, error)


def attempts(*times: str) -> tuple[AttemptFact, ...]:
    return tuple(
        AttemptFact(number, at(text), EMPTY_FOLDER, (mail(number),)) for number, text in enumerate(times, 1)
    )


def in_a1(count: int = 0, last: str = "", *, failed: bool = False, **changes: object) -> RetryStatus:
    last_at = at(last) if last else None
    reason = EMPTY_FOLDER if count else None
    row = replace(
        ROW, retry_count=count, last_retry_at=last_at, permanently_failed=failed, failure_reason=reason
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def facts(row: RetryStatus | None, **changes: object) -> CampaignFacts:
    told = {"updated_at": at("30 09:00"), "last_run": RAN, **changes}
    return CampaignFacts(ID, row, **told)  # type: ignore[arg-type]


THREE = attempts("30 10:00", "30 10:03", "30 10:15")
RESET = Act(at("30 09:58"), "anna", "a1_retry.py", "files are there")

CASES: dict[State, tuple[CampaignFacts, str]] = {
    State.NEVER_SEEN: (
        facts(None),
        """
        0b0d55680b0d55680b0d55680b0d55680b0d5568
        UNKNOWN: never_seen
          Why   no run has seen this campaign: it is not in the database
          Rule  3 attempts (A1_MAX_RETRIES); waits of 3 and 10 min (A1_RETRY_DELAYS); never reset by itself
                (A1_AUTO_RESET_DAYS is 0)
          Next  Mon 2026-11-30 10:18 CET  a run finds it as soon as it is in A1 and below the campaigns
                  folder
          Do    check the id, or ask the DAM:
                python scripts/a1_retry.py explain --live 0b0d55680b0d55680b0d55680b0d55680b0d5568
        """,
    ),
    State.NOT_A1: (
        facts(replace(in_a1(2, "30 10:03"), status="B7"), status_at=at("30 10:09")),
        """
        NOT TRIED: not_a1, since Mon 2026-11-30 10:09 CET
          Why   it is in B7, and runs only look at campaigns in A1; 2 of 3 attempts remain counted
          Next  nothing, until it is in A1 again
          Do    if it should be uploaded, set it to A1 in the DAM
        """,
    ),
    State.GONE: (
        facts(replace(in_a1(3, "30 10:03", failed=True), status="GONE"), status_at=at("30 10:09")),
        """
        NOT TRIED: gone, since Mon 2026-11-30 10:09 CET
          Why   the DAM does not show it: it was deleted, or our user may not see it; it is permanently
                failed, so runs would skip it there until somebody resets it
          Next  nothing, until it is in A1 again
          Do    if it should be uploaded, set it to A1 in the DAM
                before it goes back to A1, reset it:
                python scripts/a1_retry.py reset 0b0d55680b0d55680b0d55680b0d55680b0d5568
        """,
    ),
    State.DUE: (
        facts(in_a1(cycle=2), last_reset=RESET, in_a1_at=at("28 09:00")),
        """
        TO BE TRIED: due, since Mon 2026-11-30 09:58 CET
          Why   it is in A1, and no attempt is counted in cycle 2
          Next  Mon 2026-11-30 10:18 CET  the next run looks again, and uploads what it finds
                Mon 2026-11-30 10:18 CET  if it is still empty, attempt 1 of 3 counts, and an e-mail goes
                  out
                Mon 2026-11-30 10:33 CET  if it is still empty, the last attempt counts, and the campaign is
                  permanently failed
          Do    put the files into "Master Assets"; the next run uploads them
          Note  reset by anna Mon 2026-11-30 09:58 CET with a1_retry.py: files are there
        """,
    ),
    State.EMPTY: (
        facts(in_a1(1, "30 10:12"), attempts=attempts("30 10:12")),
        """
        IN RETRY: empty, since Mon 2026-11-30 10:12 CET
          Why   the folder "Master Assets" contains no usable files; 1 of 3 attempts are spent (cycle 1)
                 1  Mon 2026-11-30 10:12 CET  empty                  e-mail a81f0100 to 3, delivered
          Next  Mon 2026-11-30 10:18 CET  the next run looks again, and uploads what it finds
                Mon 2026-11-30 10:18 CET  if it is still empty, attempt 2 of 3 counts, and an e-mail goes
                  out
                Mon 2026-11-30 10:30 CET  if it is still empty, the last attempt counts, and the campaign is
                  permanently failed
          Do    put the files into "Master Assets"; the next run uploads them
                if the files come later, snooze it:
                python scripts/a1_retry.py snooze --until YYYY-MM-DD --reason WHY ID
        """,
    ),
    State.WAITING: (
        facts(in_a1(2, "30 10:15"), attempts=attempts("30 10:12", "30 10:15")),
        """
        IN RETRY: waiting, since Mon 2026-11-30 10:15 CET
          Why   the folder "Master Assets" contains no usable files; 2 of 3 attempts are spent (cycle 1);
                the next attempt does not count before Mon 2026-11-30 10:25 CET
                 1  Mon 2026-11-30 10:12 CET  empty                  e-mail a81f0100 to 3, delivered
                 2  Mon 2026-11-30 10:15 CET  empty (after 3 min)    e-mail a81f0200 to 3, delivered
          Next  Mon 2026-11-30 10:18 CET  the next run looks again, and uploads what it finds
                Mon 2026-11-30 10:27 CET  if it is still empty, the last attempt counts, and the campaign is
                  permanently failed
        """,
    ),
    State.SNOOZED: (
        facts(
            in_a1(1, "30 10:12", snoozed_until=at("30 12:00")),
            last_snooze=Act(at("30 10:13"), "anna", "a1_retry.py", "the agency delivers at noon"),
        ),
        """
        ATTEMPTS ON HOLD: snoozed, since Mon 2026-11-30 10:13 CET
          Why   files are promised: until Mon 2026-11-30 12:00 CET no look counts as an attempt; 1 of 3
                attempts are spent
          Next  Mon 2026-11-30 10:18 CET  the next run looks again, and uploads what it finds
                Mon 2026-11-30 12:00 CET  the snooze ends; after that an empty folder counts as an attempt
                Mon 2026-11-30 12:00 CET  if it is still empty, attempt 2 of 3 counts, and an e-mail goes
                  out
                Mon 2026-11-30 12:12 CET  if it is still empty, the last attempt counts, and the campaign is
                  permanently failed
          Do    put the files into "Master Assets"; the next run uploads them
                to end the snooze:
                python scripts/a1_retry.py wake 0b0d55680b0d55680b0d55680b0d55680b0d5568
          Note  snoozed by anna Mon 2026-11-30 10:13 CET with a1_retry.py: the agency delivers at noon,
                  until Mon 2026-11-30 12:00 CET
        """,
    ),
    State.PERMANENTLY_FAILED: (
        facts(in_a1(3, "30 10:15", failed=True), attempts=THREE),
        """
        C-1001 "Easter 2027"  0b0d55680b0d55680b0d55680b0d55680b0d5568
        SKIPPED: permanently_failed, since Mon 2026-11-30 10:15 CET
          Why   the folder "Master Assets" contains no usable files; 3 of 3 attempts are spent (cycle 1)
                 1  Mon 2026-11-30 10:00 CET  empty                  e-mail a81f0100 to 3, delivered
                 2  Mon 2026-11-30 10:03 CET  empty (after 3 min)    e-mail a81f0200 to 3, delivered
                 3  Mon 2026-11-30 10:15 CET  empty (after 12 min)   e-mail a81f0300 to 3, delivered
          Rule  3 attempts (A1_MAX_RETRIES); waits of 3 and 10 min (A1_RETRY_DELAYS); never reset by itself
                (A1_AUTO_RESET_DAYS is 0)
          Next  runs skip it, without e-mails, until somebody resets it
          Do    put the files into "Master Assets", then:
                python scripts/a1_retry.py reset 0b0d55680b0d55680b0d55680b0d55680b0d5568
        As of Mon 2026-11-30 10:16 CET. The DAM was not asked; --live asks it now.
        """,
    ),
    State.UNSEEN: (
        facts(in_a1(), left_search_at=at("30 10:00")),
        """
        NOT TRIED: unseen, since Mon 2026-11-30 10:00 CET
          Next  the first run whose search shows it looks at it again
                Tue 2026-12-01 10:03 CET  if the search still does not show it, a run reads it by its id
        """,
    ),
    State.ERRING: (
        facts(in_a1(1, "30 10:12"), errors=(FAILURE,), error_mail=mail(1)),
        """
        FAILING: erring, since Mon 2026-11-30 07:16 CET
          Why   it fails with an error, which does not spend an attempt: 403 for folder f [DAM/forbidden];
                last seen Mon 2026-11-30 10:15 CET
          Next  Mon 2026-11-30 10:18 CET  the next run tries again
          Do    fix what the error describes; the next run tries again by itself
          Note  an e-mail went out about the error Mon 2026-11-30 07:16 CET: e-mail a81f0100 to 3, delivered
        """,
    ),
    State.UPLOADING: (
        facts(
            in_a1(),
            progress=ProgressFact(9, 5_000_000, at("30 10:12"), at("30 10:14"), 1, at("30 10:13")),
            holder="a1_to_a2 host:1 run x",
            taken_at=at("30 10:12"),
        ),
        """
        IN PROGRESS: uploading, since Mon 2026-11-30 10:12 CET
          Why   its upload is running, or the next run continues it: 9 files in Box so far (5.0 MB), 1 large
                file partly uploaded
          Next  Mon 2026-11-30 10:18 CET  the next run uploads what is still missing
          Note  a1_to_a2 host:1 run x last worked on it, from Mon 2026-11-30 10:12 CET
        """,
    ),
    State.UPLOADED: (
        facts(replace(ROW, status="A2"), upload=UPLOAD, in_a1_at=at("30 09:00"), success_mail=mail(2)),
        """
        DONE: uploaded, since Mon 2026-11-30 10:07 CET
          Why   14 assets, 73.4 MB are in Box, and the DAM confirmed A2; the upload began Mon 2026-11-30
                09:56 CET
          Next  nothing, until it is in A1 again
          Do    nothing; to compare the DAM and Box again:
                python scripts/a1_to_a2_box_uploader.py --verify=0b0d55680b0d55680b0d55680b0d55680b0d5568
          Note  e-mail a81f0200 to 3, delivered
        """,
    ),
    State.LOCK_DOUBTFUL: (
        facts(replace(ROW, status="A2"), upload=UPLOAD, lock_doubted_at=at("30 10:07")),
        """
        DONE: lock_doubtful, since Mon 2026-11-30 10:07 CET
          Next  Mon 2026-11-30 11:07 CET  until then each run looks whether the DAM has locked it
          Do    nothing
        """,
    ),
}
"""{state: (facts, lines that its text must have, in this order)}."""


def test_states__are_all_shown_here() -> None:
    assert set(CASES) == set(State)


@pytest.mark.parametrize(("state", "words"), HEADS.items())
def test_head__does_not_repeat_the_code_behind_it(state: State, words: str) -> None:
    assert state.value.replace("_", " ") not in words.lower()


@pytest.mark.parametrize("state", CASES)
def test_text__of_each_state(state: State) -> None:
    found, wanted = CASES[state]
    explanation = explain(found, BY, NOW)
    assert explanation.state is state
    text = as_text(explanation, BY)
    lines = iter(text.splitlines())
    for line in wanted.strip("\n").splitlines()[:-1]:
        assert line.removeprefix(" " * 8).replace(" ID", f" {ID}") in lines, f"{line}\n\n{text}"
    assert explanation.is_known is (state is not State.NEVER_SEEN)


@pytest.mark.parametrize(
    ("row", "changes", "state"),
    [
        (None, {"errors": (FAILURE,)}, State.ERRING),
        (in_a1(3, "30 10:15", failed=True), {"errors": (FAILURE,)}, State.PERMANENTLY_FAILED),
        (in_a1(snoozed_until=NOW + DAY), {"errors": (FAILURE,)}, State.ERRING),
        (in_a1(snoozed_until=NOW), {}, State.DUE),
        (in_a1(1, "30 10:15", snoozed_until=NOW + DAY), {}, State.SNOOZED),
        (in_a1(3, "30 10:15", failed=True, snoozed_until=NOW + DAY), {}, State.PERMANENTLY_FAILED),
        (in_a1(), {"a2_requested_at": NOW}, State.UPLOADING),
        # It was emptied after some of its files had been copied.
        (in_a1(1, "30 10:12"), {"progress": ProgressFact(1, 1, at("30 10:01"), at("30 10:01"))}, State.EMPTY),
        (in_a1(1, "30 10:12"), {"progress": ProgressFact(1, 1, at("30 10:14"), NOW)}, State.UPLOADING),
        # … and reset since then.
        (
            in_a1(),
            {"progress": ProgressFact(1, 1, at("30 09:57"), at("30 09:57")), "last_reset": RESET},
            State.DUE,
        ),
        (replace(ROW, status=None), {}, State.NOT_A1),
        # It came to A2, was set to A1 again, and to A2 by hand.
        (replace(ROW, status="A2"), {"upload": UPLOAD, "in_a1_at": NOW}, State.NOT_A1),
        (replace(ROW, status="A2"), {"upload": UPLOAD}, State.UPLOADED),
        (replace(ROW, status="A2"), {"upload": UPLOAD, "lock_doubted_at": NOW - HOUR}, State.UPLOADED),
    ],
)
def test_state__where_two_could_be_told(
    row: RetryStatus | None, changes: dict[str, object], state: State
) -> None:
    assert state_of(facts(row, **changes), BY.policy, "A1", NOW) is state


def test_limit__of_its_own_is_named_with_who_set_it() -> None:
    act = Act(at("27 10:00"), "anna", "psql", "a slow agency")
    told = explain(facts(in_a1(1, "30 10:15", max_retries=5), last_limit=act), BY, NOW)
    assert told.limit == 5
    assert told.rule[:2] == (
        "5 attempts (this campaign's own limit, set by anna Fri 2026-11-27 10:00 CET with psql: a slow"
        " agency; A1_MAX_RETRIES is 3)",
        "waits of 3 and 10 min, the last one repeated (A1_RETRY_DELAYS)",
    )


def test_limit__below_the_count_makes_the_next_attempt_the_last() -> None:
    told = explain(facts(in_a1(3, "30 10:00", max_retries=2)), BY, NOW)
    assert [(step.what, step.at) for step in told.next] == [
        (Coming.LOOK, at("30 10:18")),
        (Coming.PERMANENT_FAILURE, at("30 10:18")),
    ]


FIRST, SECOND = (
    f"it is reset by itself (automatic reset {number} of 3), and that run looks again; until then runs"
    " skip it"
    for number in (1, 2)
)


@pytest.mark.parametrize(
    ("days", "resets", "wanted", "text"),
    [
        (30, 0, "2026-12-30T10:15", FIRST),
        # A Saturday: the first run in office hours is on Monday.
        (5, 1, "2026-12-07T05:00", SECOND),
        (365, 0, "2027-11-30T10:15", FIRST),
        (30, 3, None, "runs skip it, without e-mails, until a person resets it: 3 of 3 automatic resets are"
         " used up"),
    ],
)  # fmt: skip
def test_auto_reset__is_told_to_the_minute(days: int, resets: int, wanted: str | None, text: str) -> None:
    by = replace(BY, policy=replace(BY.policy, auto_reset_days=days))
    (step,) = explain(facts(in_a1(3, "30 10:15", failed=True, auto_resets=resets)), by, NOW).next
    assert step.at == (None if wanted is None else datetime.fromisoformat(wanted).replace(tzinfo=ROME))
    assert step.text == text


def test_auto_reset__without_office_hours_names_no_minute() -> None:
    never = replace(WINDOW, days=frozenset(range(7)))
    by = replace(BY, window=never, policy=RetryPolicy(auto_reset_days=1))
    (step,) = explain(facts(in_a1(3, "30 10:15", failed=True)), by, NOW).next
    assert (step.what, step.at) == (Coming.AUTO_RESET, None)
    assert "the first run in office hours from Tue 2026-12-01 10:15 CET on resets it by itself" in step.text


@pytest.mark.parametrize(
    ("last_run", "note", "is_foretold"),
    [
        (RAN, None, True),
        (None, "the orchestrator has no run on record, so the time of the next run is unknown", False),
        (
            replace(RAN, exit_code=75),
            "the last run, planned for Mon 2026-11-30 10:15 CET, ended with exit code 75: until runs succeed"
            " again, looks may fail, and a failed look does not count as an attempt",
            True,
        ),
        (
            replace(RAN, finished_at=None, exit_code=None),
            "a run has been under way since Mon 2026-11-30 10:15 CET: it may still reach this campaign, and"
            " the next run waits until it ends",
            True,
        ),
        (
            LastRun(at("30 10:00"), at("30 10:00"), at("30 10:01"), 0),
            "the orchestrator has not started the upload since Mon 2026-11-30 10:00 CET; a run was due Mon"
            " 2026-11-30 10:03 CET, and nothing happens until it runs again",
            False,
        ),
    ],
)
def test_runs__that_do_not_come_are_told(
    last_run: LastRun | None, note: str | None, is_foretold: bool
) -> None:
    told = explain(facts(in_a1(1, "30 10:00"), last_run=last_run), BY, NOW)
    assert told.notes == (() if note is None else (note,))
    assert all((step.at is not None) is is_foretold for step in told.next)
    is_overdue = last_run is not None and told.run is not None and told.run.overdue_since is not None
    assert ("orchestrator-prod.py" in told.do[0].command) is is_overdue


def test_zone__that_is_not_set_foretells_nothing() -> None:
    by = replace(BY, zone=ZoneInfo("UTC"), window=None)
    told = explain(facts(in_a1(1, "30 10:00")), by, NOW)
    assert {step.at for step in told.next} == {None}
    assert "ORCHESTRATOR_TIMEZONE is not set here" in as_text(told, by)


@pytest.mark.parametrize(
    ("mail", "said"),
    [
        (mail(1), "e-mail a81f0100 to 3, delivered"),
        (mail(1, 3, 1, 0, "450 busy"), "e-mail a81f0100 to 3: 1 delivered, 2 waiting (450 busy)"),
        (
            mail(1, 3, 2, 1, "550 no such user"),
            "e-mail a81f0100 to 3: 2 delivered, 1 given up (550 no such user)",
        ),
    ],
)
def test_mail__with_what_became_of_it(mail: Mail, said: str) -> None:
    attempt = AttemptFact(1, at("30 10:00"), reason_for(MasterAssets(None), "Master Assets"), (mail,))
    text = as_text(explain(facts(in_a1(1, "30 10:00"), attempts=(attempt,)), BY, NOW), BY)
    assert f"1 Mon 2026-11-30 10:00 CET no folder {said}" in " ".join(text.split())


@pytest.mark.parametrize(
    ("row", "status", "assets", "said"),
    [
        (in_a1(1, "30 10:12"), "A1", 0, 'and "Master Assets" is empty: the next run counts attempt 2'),
        (in_a1(1, "30 10:15"), "A1", 2, "contains 2 assets (10 bytes): the next run uploads them"),
        (in_a1(2, "30 10:15"), "A1", 0, '"Master Assets" is empty: the next run waits'),
        (in_a1(3, "30 10:15", failed=True), "A1", 2, "runs skip it until somebody resets it"),
        (in_a1(snoozed_until=NOW + DAY), "A1", 0, "the next run counts nothing, because it is snoozed"),
        (in_a1(), "B7", 2, "is in B7, and"),
        (None, "A1", 1, "contains 1 asset (5 bytes): the next run uploads them"),
    ],
)  # fmt: skip
def test_live__says_what_the_next_run_makes_of_it(
    row: RetryStatus | None, status: str, assets: int, said: str
) -> None:
    folder = DamFolder("f", "Master Assets", None)
    found = MasterAssets("f", tuple(Asset(str(n), "a.jpg", folder, 5, "1") for n in range(assets)))
    told = explain(facts(row), BY, NOW, Live(Campaign(ID, "C-1001", "Easter 2027", status), found))
    text = as_text(told, BY)
    assert said in " ".join(text.split())
    assert "not asked" not in text
    assert told.is_known
    assert json.loads(as_json(told, BY))["live"]["assets"] == assets


def test_live__that_finds_nothing() -> None:
    told = explain(facts(None), BY, NOW, Live(None, None))
    assert not told.is_known
    assert "  DAM   now: the DAM does not show this campaign" in as_text(told, BY)


@pytest.mark.parametrize("state", CASES)
def test_json__has_the_same_code_and_the_same_sentences(state: State) -> None:
    explanation = explain(CASES[state][0], BY, NOW)
    document = json.loads(as_json(explanation, BY))
    assert document["state"] == state.value
    assert document["why"] == explanation.why
    assert [step["what"] for step in document["next"]] == [step.what for step in explanation.next]
    assert document["as_of"] == "2026-11-30T09:16:40+00:00"


def test_links__are_named_where_they_are_set() -> None:
    links = Links(
        dam="https://dam.example.com/#/{campaign_id}",
        box="https://app.box.com/folder/{folder_id}",
        page="https://page.example.com",
    )
    told, by = explain(facts(in_a1(1, "30 10:00")), BY, NOW), replace(BY, links=links)
    page, dam = f"https://page.example.com/campaigns/{ID}", f"https://dam.example.com/#/{ID}"
    lines = as_text(told, by).splitlines()
    assert [line for line in lines if "https://" in line] == [f"  Page  {page}", f"  DAM   {dam}"]
    assert json.loads(as_json(told, by))["links"] == {"page": page, "dam": dam, "box": None}
    in_box = replace(told, facts=replace(told.facts, box_folder_id="3123"))
    assert "  Box   https://app.box.com/folder/3123" in as_text(in_box, by).splitlines()
    assert json.loads(as_json(in_box, BY))["links"] == {"page": None, "dam": None, "box": None}
    assert "https://" not in as_text(in_box, BY)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("state", CASES)
def test_hostile__texts_stay_on_their_lines(state: State, attack: str) -> None:
    """Whatever a name, a reason or an error holds: no line that is not ours, none too wide, no escape."""
    found = CASES[state][0]
    act = Act(RESET.at, attack, attack, attack)
    row = found.row and replace(
        found.row, campaign_name=attack, campaign_number=attack, failure_reason=attack,
        status=found.row.status if found.row.status != "B7" else attack or "B7",
    )  # fmt: skip
    hostile = replace(
        found, campaign_id=attack or "x", row=row, holder=attack,
        last_reset=act, last_snooze=act, last_limit=act,
        errors=tuple(replace(one, kind=attack, message=attack) for one in found.errors),
        attempts=tuple(
            replace(one, reason=attack, mails=(mail(1, 3, 0, 0, attack),)) for one in found.attempts
        ),
    )  # fmt: skip
    explanation = explain(hostile, BY, NOW)
    assert explanation.state is state
    by = replace(
        BY, links=Links(page="https://page.example.com", dam="https://dam.example.com/{campaign_id}")
    )
    text = as_text(explanation, by)
    assert not set(text) & set("\0\x1b\r\u2028\u2029\x85\u202e")
    commands = {deed.command for deed in explanation.do if deed.command}
    lines = text.splitlines()
    assert all(len(line) <= WIDTH or line.strip() in commands or "https://" in line for line in lines)
    ours = [line for line in lines if not line.startswith(" ")]
    assert len(ours) == 3
    assert f": {state}" in ours[1]
    assert ours[2].startswith("As of ")
    document = as_json(explanation, by)
    assert not set(document) & set("\0\x1b\r\n\u2028\u2029\x85\u202e")
    if row is not None:
        assert json.loads(document)["campaign_name"] == attack
