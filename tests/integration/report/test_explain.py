"""`explain` on a real PostgreSQL: what it tells of the next runs is what they then do, and what it reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from conftest import PASS_VARIABLES
from shared.base.values import (
    Asset,
    BoxFile,
    Campaign,
    DamFolder,
    MasterAssets,
    Notice,
    NoticeKind,
    NoticeLine,
    OpenUpload,
    RetryStatus,
    SearchHit,
    UploadTotals,
)
from shared.database import UPLOADER_LOCK, Database
from shared.loop.memory import Memory, TaskRun
from shared.notices.outbox import Outbox
from shared.report.explain import Coming, Explanation, Installation, explain, state_of
from shared.report.explain_text import as_text
from shared.report.facts import CampaignFacts, facts_of
from shared.report.state import State
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, next_run
from shared.rules.retry import RetryPolicy
from shared.settings import Settings, load_settings
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.progress import Progress
from shared.upload.run_report import Report
from shared.upload.standing import Standing
from shared.upload.uploader import Pass

ROME = ZoneInfo("Europe/Rome")
FRIDAY = datetime(2026, 3, 27, 21, 15, tzinfo=ROME)
"""The clock changes in the night before Sunday; a campaign that fails now is reset by itself on Monday."""
MONDAY = datetime(2026, 3, 30, 6, 0, tzinfo=ROME)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
LATENESS = (0, 2, 11, 29)
"""Seconds after its minute that a run begins."""
ASKED_AGAIN = 6
"""After so many runs a campaign is asked about again although what was told of it still stands."""


@dataclass
class EmptyDam:
    """A DAM whose campaigns enter A1 at these times, are empty, and stay; others leave it again."""

    entries: Sequence[datetime]
    now: datetime = FRIDAY
    gone_from_a1: set[int] = field(default_factory=set)

    def guarded(self, ensure_held: Callable[[], None]) -> EmptyDam:
        return self

    def find_campaigns(self) -> list[SearchHit]:
        numbers = [n for n, entry in enumerate(self.entries) if entry <= self.now]
        return [SearchHit(_id(n), "A1") for n in numbers if n not in self.gone_from_a1]

    def read_campaign(self, campaign_id: str) -> Campaign | None:
        number = int(campaign_id, 16)
        status = "B7" if number in self.gone_from_a1 else "A1"
        return Campaign(campaign_id, f"C-{number}", f"Campaign {number}", status)

    def list_master_assets(self, campaign_id: str) -> MasterAssets:
        return MasterAssets(f"folder of {campaign_id}")

    def release_lock(self, campaign: Campaign) -> None:
        """Nobody locks anything here."""


@dataclass
class Play:
    """Runs, one after the other, and what was told before each of them."""

    database: Database
    reader: Database
    settings: Settings
    dam: EmptyDam
    runs: int = 0
    told: dict[int, dict[Coming, datetime]] = field(default_factory=dict)
    states: set[State] = field(default_factory=set)
    happened: dict[Coming, int] = field(default_factory=dict)

    @property
    def installation(self) -> Installation:
        settings = self.settings
        return Installation(
            settings.retry, settings.timezone, settings.off_hours, "A1", "Master Assets", settings.commands
        )

    def explained(self, number: int, now: datetime) -> Explanation:
        return explain(facts_of(self.reader, _id(number), now), self.installation, now)

    def act(self, number: int, sql: str, *values: Any) -> None:
        """Somebody changes a campaign's row: what was told of it is void."""
        named = {f"v{place}": value for place, value in enumerate(values)}
        self.database.execute(
            f"UPDATE campaign_status SET {sql} WHERE campaign_id = %(id)s",  # noqa: S608 - of this file
            {"id": _id(number), **named},
        )
        self.told.pop(number, None)

    def states_of_rows(self) -> dict[int, RetryStatus]:
        ids = [_id(number) for number in range(len(self.dam.entries))]
        found = self.database.get_a1_retry_states(ids)
        return {number: found.get(_id(number), RetryStatus(_id(number))) for number in range(len(ids))}

    def step(self, planned: datetime) -> None:
        """Ask before the run, let it run, and compare."""
        if self.runs:
            self._ask(planned)
        before = self.states_of_rows()
        self._run(planned)
        after = self.states_of_rows()
        for number, told in list(self.told.items()):
            was, became = before[number], after[number]
            is_reset = became.cycle > was.cycle
            has_counted = became.last_retry_at not in (None, was.last_retry_at)
            has_failed = became.permanently_failed and (is_reset or not was.permanently_failed)
            when = f"campaign {number} at {planned}, told {told}"
            assert (told.get(Coming.AUTO_RESET) == planned) is is_reset, when
            if is_reset:
                assert has_counted, "the run that resets looks as well"
                self._note(number, Coming.AUTO_RESET)
                continue
            assert (told.get(Coming.PERMANENT_FAILURE) == planned) is has_failed, when
            if Coming.ATTEMPT in told or Coming.PERMANENT_FAILURE in told:
                is_told = planned in (told.get(Coming.ATTEMPT), told.get(Coming.PERMANENT_FAILURE))
                assert is_told is has_counted, when
            if has_failed:
                self._note(number, Coming.PERMANENT_FAILURE)
            elif has_counted:
                self._note(number, Coming.ATTEMPT)
        self.runs += 1

    def _note(self, number: int, what: Coming) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1
        del self.told[number]

    def _ask(self, planned: datetime) -> None:
        """What is told a while before the run; what was told before still holds."""
        now = planned - timedelta(seconds=50)
        for number, entry in enumerate(self.dam.entries):
            is_told = number in self.told and (self.runs + number) % ASKED_AGAIN
            if entry > planned or is_told or number in self.dam.gone_from_a1:
                continue
            explanation = self.explained(number, now)
            assert all(len(line) <= 100 for line in as_text(explanation, self.installation).splitlines()
                       if "a1_retry.py" not in line)  # fmt: skip
            self.states.add(explanation.state)
            told = {one.what: one.at.astimezone(ROME) for one in explanation.next if one.at is not None}
            if explanation.state is State.NEVER_SEEN:
                assert told == {Coming.LOOK: planned}
                continue
            looks = told.pop(Coming.LOOK, planned)
            assert looks == planned, "the very next run"
            told.pop(Coming.SNOOZE_ENDS, None)  # the run after it counts, which is told as well
            assert self.told.setdefault(number, told) == told, f"campaign {number} at {now}"

    def _run(self, planned: datetime) -> None:
        """One run, begun a little late, as the orchestrator starts and records it."""
        began = planned + timedelta(seconds=LATENESS[self.runs % len(LATENESS)])
        self.dam.now = began
        single = Pass(
            self.settings, self.database, cast("Any", self.dam), Report(run_id="play", started_at=began),
            clock=lambda: began, is_dry_run=False, is_stopping=lambda: False,
            progress=Progress(lambda: 0.0), open_ledger=lambda: Database(self.settings.database.dsn),
        )  # fmt: skip
        assert single.run([]) == 0
        run = TaskRun(str(self.runs), "a1_to_a2", planned, began, "host", began + timedelta(seconds=3), 0)
        Memory(self.database).record_task_run(run)


def _id(number: int) -> str:
    return f"{number:040x}"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load_settings(
        {
            **PASS_VARIABLES,
            "DATABASE_URL": database_url,
            "SMTP_HOST": "mail.example.com",
            "ERROR_NOTIFICATION_EMAILS": "support@example.com,oncall@example.com",
            "A1_RETRY_DELAYS": "3,10,30",
            "A1_AUTO_RESET_DAYS": "1",
            "A1_AUTO_RESET_CYCLES": "1",
        },
        "password",
    )


@pytest.fixture
def reader(settings: Settings) -> Iterator[Database]:
    """An operator's connection."""
    with closing(Database(settings.database.dsn)) as opened:
        yield opened


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    for name in ("uploader", "shared"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with closing(Database(settings.database.dsn, settings.retry.max_retries)) as opened:
        assert opened.take_run(UPLOADER_LOCK) is None
        yield opened
    for name in ("uploader", "shared"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.timeout(600)
def test_next__is_what_the_runs_then_do(database: Database, reader: Database, settings: Settings) -> None:
    """From a Friday evening to a Monday morning, with people who act in between."""
    entries = [
        FRIDAY,  # 0: left alone: fails, is reset by itself on Monday, and fails again
        FRIDAY + 39 * MINUTE,  # 1: its attempts reach into the night
        FRIDAY,  # 2: has a limit of its own, is given a smaller one later, and so begins anew
        FRIDAY,  # 3: is snoozed until Saturday noon
        FRIDAY,  # 4: is snoozed for ten minutes
        FRIDAY,  # 5: is reset by hand on Saturday
        datetime(2026, 3, 29, 1, 40, tzinfo=ROME),  # 6: enters in the night in which the clock changes
        MONDAY - 40 * MINUTE,  # 7: enters on Monday
        FRIDAY,  # 8: leaves A1 on Saturday
    ]
    play = Play(database, reader, settings, EmptyDam(entries))
    acts: list[tuple[datetime, int, str, tuple[Any, ...]]] = [
        (FRIDAY + MINUTE, 2, "a1_max_retries = 6", ()),
        (FRIDAY + MINUTE, 3, "a1_snoozed_until = %(v0)s", (FRIDAY + 15 * HOUR + 55 * MINUTE,)),
        (FRIDAY + 4 * MINUTE, 4, "a1_snoozed_until = %(v0)s", (FRIDAY + 20 * MINUTE,)),
        (FRIDAY + 18 * HOUR, 5, "a1_retry_count = 0, a1_permanently_failed = FALSE", ()),
        (FRIDAY + 40 * HOUR, 2, "a1_max_retries = 2, a1_permanently_failed = FALSE", ()),
    ]
    planned = FRIDAY
    while planned < MONDAY:
        for due in [act for act in acts if act[0] <= planned]:
            acts.remove(due)
            play.act(due[1], due[2], *due[3])
        if planned >= FRIDAY + 17 * HOUR:
            play.dam.gone_from_a1.add(8)
            play.told.pop(8, None)
        play.step(planned)
        planned = next_run(A1_TO_A2_INTERVAL_MINUTES, planned, settings.timezone, settings.off_hours).at

    assert play.happened == {Coming.ATTEMPT: 21, Coming.PERMANENT_FAILURE: 17, Coming.AUTO_RESET: 6}
    assert play.states == {
        *(State.NEVER_SEEN, State.EMPTY, State.WAITING, State.SNOOZED, State.PERMANENTLY_FAILED),
        State.DUE,
    }
    last = play.explained(0, MONDAY)
    assert last.state is State.PERMANENTLY_FAILED
    assert [step.text for step in last.next] == [
        "runs skip it, without e-mails, until a person resets it: 1 of 1 automatic resets are used up"
    ]
    told = [[mail.kind for mail in attempt.mails] for attempt in last.facts.attempts]
    assert told == [[NoticeKind.RETRY], [NoticeKind.RETRY], [NoticeKind.PERMANENT]], "of the second cycle"
    assert last.facts.last_reset is not None
    assert last.facts.last_reset.actor == "auto"
    assert play.explained(8, MONDAY).state is State.NOT_A1


# --- what is read -------------------------------------------------------------------------------------------


def test_facts__of_a_cycle_with_its_mails_and_who_reset_it(database: Database, reader: Database) -> None:
    campaign = Campaign(_id(1), "C-1", "Summer", "A1")
    for number in (1, 2):  # the second attempt is of the cycle after the reset
        attempted = datetime(2026, 11, 30, 9, number, tzinfo=UTC)
        database.increment_a1_retry(
            campaign.id, campaign.number, campaign.name, f"why {number}", at=attempted
        )
        queue(database, campaign.id, NoticeKind.RETRY, attempted + timedelta(seconds=4), 1)
        if number == 1:
            with database.transaction():
                database.act_as("anna", "a1_retry.py", "files are there")
                database.reset_a1_retry(campaign.id)
    queue(database, campaign.id, NoticeKind.ERROR, datetime(2026, 11, 30, 9, 2, 30, tzinfo=UTC), None)
    database.execute("UPDATE notice_deliveries SET sent_at = now() WHERE recipient = 'a@example.com'")
    database.execute(
        "UPDATE notice_deliveries SET gave_up_at = now(), last_error = '550'"
        " WHERE recipient = 'b@example.com'"
    )
    LastingErrors(database).note(campaign.id, "DAM/forbidden", "403")
    facts = facts_of(reader, campaign.id, datetime.now(UTC))
    assert facts.row is not None
    assert (facts.row.campaign_name, facts.row.retry_count, facts.row.cycle) == ("Summer", 1, 2)
    (attempt,) = facts.attempts
    assert (attempt.number, attempt.reason) == (1, "why 2")
    (mail,) = attempt.mails
    assert (mail.recipients, mail.sent, mail.given_up, mail.waiting, mail.last_error) == (3, 1, 1, 1, "550")
    assert facts.last_reset is not None
    assert (facts.last_reset.actor, facts.last_reset.source, facts.last_reset.reason) == (
        "anna", "a1_retry.py", "files are there",
    )  # fmt: skip
    assert [(error.kind, error.message, error.told_at is not None) for error in facts.errors] == [
        ("DAM/forbidden", "403", True)
    ]
    assert facts.error_mail is not None
    assert facts.error_mail.kind == NoticeKind.ERROR
    assert facts.success_mail is None


def test_facts__of_a_campaign_that_nobody_has_seen(reader: Database) -> None:
    assert facts_of(reader, "x", datetime.now(UTC)) == CampaignFacts("x")


def test_facts__of_an_upload_under_way_and_of_one_that_is_done(database: Database, reader: Database) -> None:
    asset = Asset("a1", "a.jpg", DamFolder("f", "Master Assets", None), 5, "1")
    Standing(database).record_in_a1(Campaign("c", "C-1", "Summer", "A1"))
    ledger = Ledger(database)
    ledger.record_upload("c", asset, BoxFile("b1", "a.jpg", 5, "sha1"), "r")
    ledger.remember_upload(OpenUpload("c", "a2", "s", "1", 9, "f", None), "r")
    database.take_campaign("c")
    now = datetime.now(UTC)
    facts = facts_of(reader, "c", now)
    assert (facts.progress.files, facts.progress.size_bytes, facts.progress.open_files) == (1, 5, 1)
    assert facts.holder == "a1_to_a2"
    assert state_of(facts, RetryPolicy(), "A1", now) is State.UPLOADING
    ledger.forget_upload("s")
    Standing(database).follow_status("c", "A2")
    ledger.record_campaign_upload("c", UploadTotals(1, 5), "r", None)
    facts = facts_of(reader, "c", now)
    assert facts.upload is not None
    assert (facts.upload.assets, facts.upload.size_bytes, facts.progress.files) == (1, 5, 0)
    assert facts.in_a1_at is not None
    assert state_of(facts, RetryPolicy(), "A1", now) is State.UPLOADED


def test_facts__are_read_by_indexes(database: Database, reader: Database, sent_statements: list[str]) -> None:
    """Of many campaigns with a history one is looked up; the statements are few."""
    database.execute("""
        INSERT INTO campaign_status (campaign_id, campaign_number, status, a1_retry_count, a1_last_retry_at)
        SELECT 'c' || n, 'C-' || n, 'A1', 1, now() FROM generate_series(1, 4000) n;
        INSERT INTO campaign_epochs SELECT 'c' || n, 1, 'run', now() FROM generate_series(1, 4000) n;
        INSERT INTO campaign_errors (campaign_id, kind, message)
        SELECT 'c' || n, 'k', 'm' FROM generate_series(1, 4000) n;
        INSERT INTO campaign_uploads (campaign_id, started_at, assets, bytes, run_id)
        SELECT 'c' || n, now(), 1, 1, 'r' FROM generate_series(1, 4000) n;
        INSERT INTO campaign_assets (campaign_id, asset_id, asset_name, revision, size_bytes, sha1,
                                     box_file_id, box_name, run_id)
        SELECT 'c' || n, 'a', 'a', '1', 1, 's', 'b', 'b', 'r' FROM generate_series(1, 4000) n;
        INSERT INTO upload_sessions (campaign_id, asset_id, session_id, revision, size_bytes, folder_id,
                                     run_id)
        SELECT 'c' || n, 'a', 's', '1', 1, 'f', 'r' FROM generate_series(1, 4000) n;
        INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at, attempt, cycle)
        SELECT gen_random_uuid(), 'a1_to_a2_no_assets_retry', 'c' || n, '', '', '', now(), 1, 1
        FROM generate_series(1, 4000) n;
        INSERT INTO notice_deliveries (notice_id, recipient, next_try_at) SELECT id, 'a', now() FROM notices;
        INSERT INTO orchestrator_task_runs (run_id, task, planned_at, started_at, host)
        SELECT n::text, 'a1_to_a2', now(), now() - n * interval '1 minute', 'h'
        FROM generate_series(1, 4000) n;
    """)
    database.execute("ANALYZE")
    sent_statements.clear()
    facts = facts_of(reader, "c7", datetime.now(UTC))
    assert [len(attempt.mails) for attempt in facts.attempts] == [1]
    questions = [sql for sql in sent_statements if sql.lstrip().startswith("SELECT")]
    assert len(questions) == 6
    values = {
        "campaign_id": "c7", "now": datetime.now(UTC), "limit": 20, "error": "e", "success": "s",
        "attempts": ["a1_to_a2_no_assets_retry"],
    }  # fmt: skip
    for question in questions:
        plan = "\n".join(row[0] for row in reader.rows(f"EXPLAIN {question}", values))
        scanned = {*re.findall(r"Seq Scan on (\w+)", plan)}
        assert scanned <= {"workers", "worker_campaigns"}, plan  # a few rows


def queue(database: Database, campaign_id: str, kind: NoticeKind, at: datetime, attempt: int | None) -> None:
    """A notice to three people."""
    row = database.get_a1_retry_status(campaign_id)
    line = None if attempt is None else NoticeLine(campaign_id, "C-1", "Summer", attempt, 3, "")
    people = ("a@example.com", "b@example.com", "c@example.com")
    notice = Notice(str(uuid4()), kind, campaign_id, "s", "t", "h", people, at, line, row.cycle)
    with database.transaction():
        Outbox(database).queue(notice)
