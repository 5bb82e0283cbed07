"""A month with a thousand stuck campaigns: simulated time, the product's own pass and outbox, real PostgreSQL
and real SMTP. In the middle the DAM is away for 36 hours, and the mail server for 24.

Every campaign is owed its two retry notices and its permanent one, and not one more; and each notice is to
arrive in exactly one e-mail for each recipient, or to be folded into a later one that does.
"""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import getaddresses
from typing import Any, cast

import pytest

from shared.base.errors import AppError, DamError, ExitCode
from shared.base.values import Campaign, MasterAssets, NoticeKind, SearchHit
from shared.database import UPLOADER_LOCK, Database
from shared.notices.delivery import deliver_due_notices
from shared.notifier import Mailer
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, next_run
from shared.settings import Settings, load_settings
from shared.upload.progress import Progress
from shared.upload.run_report import Report
from shared.upload.uploader import Pass
from simulators.mail import MailSink, Received

START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
"""A Monday; the clock changes on the 29th."""
END = START + timedelta(days=30)
DAM_AWAY = (START + timedelta(days=9, hours=5), START + timedelta(days=10, hours=17))
MAIL_AWAY = (START + timedelta(days=16, hours=3), START + timedelta(days=17, hours=3))
RECIPIENTS = ("support@example.com", "oncall@example.com")
BURST_SHARE = 0.3
CAMPAIGN_KINDS = (NoticeKind.RETRY.value, NoticeKind.PERMANENT.value)


@dataclass
class StuckDam:
    """A DAM whose campaigns enter A1 one after the other, are all empty, and stay."""

    entries: list[datetime]
    now: datetime = START
    calls: Counter[str] = field(default_factory=Counter)

    def guarded(self, ensure_held: Callable[[], None]) -> StuckDam:
        return self  # nothing of an empty campaign is written to the DAM

    def find_campaigns(self) -> list[SearchHit]:
        self._answer("search")
        return [SearchHit(_id(n), "A1") for n, entry in enumerate(self.entries) if entry <= self.now]

    def read_campaign(self, campaign_id: str) -> Campaign | None:
        self._answer("read")
        number = int(campaign_id, 16)
        return Campaign(campaign_id, f"C-{number}", f"Campaign {number}", "A1")

    def list_master_assets(self, campaign_id: str) -> MasterAssets:
        self._answer("list")
        return MasterAssets(f"folder of {campaign_id}")

    def release_lock(self, campaign: Campaign) -> None:
        """Nobody locks anything here."""

    def _answer(self, what: str) -> None:
        if DAM_AWAY[0] <= self.now < DAM_AWAY[1]:
            raise DamError("the DAM is out of reach", kind="out_of_reach", retryable=True)
        self.calls[what] += 1


@dataclass
class Month:
    """The month, run by run."""

    database: Database
    settings: Settings
    sink: MailSink
    dam: StuckDam
    exit_codes: Counter[int] = field(default_factory=Counter)

    def play(self, every: timedelta | None) -> None:
        """A run at each planned instant; every: only so often, for a quick look."""
        now = START
        is_mail_up = True
        while now < END:
            is_wanted = not MAIL_AWAY[0] <= now < MAIL_AWAY[1]
            if is_wanted != is_mail_up:
                (self.sink.start if is_wanted else self.sink.stop)()
                is_mail_up = is_wanted
            self.run(now)
            planned = next_run(
                A1_TO_A2_INTERVAL_MINUTES, now, self.settings.timezone, self.settings.off_hours
            ).at.astimezone(UTC)
            now = planned if every is None else max(planned, now + every)

    def run(self, now: datetime) -> None:
        """One run, as run_pass makes it."""
        self.dam.now = now
        report = Report(run_id="simulated", started_at=now)
        single = Pass(
            self.settings, self.database, cast("Any", self.dam), report, clock=lambda: now, is_dry_run=False,
            is_stopping=lambda: False, progress=Progress(lambda: 0.0, None),
            open_ledger=lambda: Database(self.settings.database.dsn),
        )  # fmt: skip
        try:
            self.exit_codes[single.run([])] += 1
        except AppError as exc:
            self.exit_codes[exc.exit_code] += 1
        finally:
            mailer = Mailer(self.settings.mail.server)
            deliver_due_notices(self.database, mailer, now, self.settings.timezone, self.settings.commands)

    def assert_told_once(self, count: int) -> None:
        """By the rows, and by what lies in the inbox."""
        rows = self.database.rows(
            "SELECT campaign_id, array_agg(kind || ' ' || attempt ORDER BY created_at)"
            " FROM notices WHERE campaign_id <> '' GROUP BY 1"
        )
        cycle = [f"{CAMPAIGN_KINDS[0]} 1", f"{CAMPAIGN_KINDS[0]} 2", f"{CAMPAIGN_KINDS[1]} 3"]
        assert len(rows) == count
        assert all(kinds == cycle for _, kinds in rows)
        arrived = Counter(
            (_mail_id(mail), recipient) for mail in self.sink.messages for recipient in mail.envelope_to
        )
        assert set(arrived.values()) == {1}
        carried = self.database.rows(
            "SELECT coalesce(mail_id, notice_id), recipient, array_agg(notice_id::text)"
            " FROM notice_deliveries WHERE sent_at IS NOT NULL GROUP BY 1, 2"
        )
        assert {(mail_id, recipient) for mail_id, recipient, _ in carried} == set(arrived)
        folds = self.database.rows(
            "SELECT detail ->> 'notice_id', detail ->> 'recipient', detail ->> 'into'"
            " FROM campaign_events WHERE kind = 'notice_folded'"
        )
        assert 0 < len(folds) < count, "those whose cycle began while no mail went out"
        for one in RECIPIENTS:
            told = Counter(
                notice for _, recipient, notices in carried if recipient == one for notice in notices
            )
            folded = {notice: into for notice, recipient, into in folds if recipient == one}
            assert not told.keys() & folded.keys()
            assert len(told) + len(folded) == 3 * count
            assert set(told.values()) == {1}
            assert set(folded.values()) <= told.keys() | folded.keys()
            self._assert_shown(one, len(told))

    def _assert_shown(self, one: str, notices: int) -> None:
        """Each line of each e-mail, read from the e-mails alone; what they do not show they count."""
        shown: Counter[tuple[str, str]] = Counter()
        more = 0
        for mail in self.sink.messages:
            if one in mail.envelope_to:
                lines, rest = _shown(mail)
                shown.update(lines)
                more += rest
        assert set(shown.values()) == {1}
        assert sum(shown.values()) + more == notices


def _id(number: int) -> str:
    return f"{number:040x}"


def _mail_id(mail: Received) -> str:
    return str(mail.message["Message-ID"]).strip("<>").split("@")[0]


def _shown(mail: Received) -> tuple[list[tuple[str, str]], int]:
    """[(number, attempt)] that an e-mail tells of, and how many more it says there are."""
    body = mail.message.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert [address for _, address in getaddresses([str(mail.message["To"])])] == list(mail.envelope_to)
    if "THE CAMPAIGNS" not in text:
        number = next(line.split()[-1] for line in text.splitlines() if line.startswith("  Number"))
        attempt = next(line.split()[1] for line in text.splitlines() if line.startswith("  Attempt"))
        return [(number, attempt.rstrip(","))], 0
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("- C-")]
    rest = next((int(line.split()[1]) for line in text.splitlines() if line.endswith("listed by:")), 0)
    return [(cells[0][2:], cells[2].split()[1].split("/")[0]) for cells in lines], rest


@pytest.fixture
def month(database_url: str, mail: MailSink) -> Iterator[Month]:
    settings = load_settings(
        {
            "DATABASE_URL": database_url,
            "DAM_BASE_URL": "https://dam.example.com",
            "DAM_CLIENT_ID": "id",
            "DAM_CLIENT_SECRET": "secret",
            "DAM_USERNAME": "user",
            "DAM_PASSWORD": "password",
            "DAM_CAMPAIGNS_FOLDER_ID": "root",
            "DAM_STATUS_FIELD_ID": "status",
            "DAM_NUMBER_FIELD_ID": "number",
            "BOX_CLIENT_ID": "id",
            "BOX_CLIENT_SECRET": "secret",
            "BOX_ENTERPRISE_ID": "1",
            "BOX_ROOT_FOLDER_ID": "0",
            "MAIL_FROM": "a1-to-a2@example.com",
            "ERROR_NOTIFICATION_EMAILS": ",".join(RECIPIENTS),
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
            **mail.settings,
        },
        "password",
    )
    logging.getLogger("uploader").setLevel(logging.ERROR)
    logging.getLogger("shared").setLevel(logging.ERROR)
    with closing(Database(database_url, settings.retry.max_retries)) as database:
        assert database.take_run(UPLOADER_LOCK) is None
        yield Month(database, settings, mail, StuckDam([]))
    for name in ("uploader", "shared"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def entries(count: int, seed: int) -> list[datetime]:
    """When campaigns enter A1: some all at once, some while DAM or mail is away, the rest by chance."""
    chance = random.Random(seed)  # noqa: S311 - a seeded play
    burst = [START + timedelta(days=1)] * int(count * BURST_SHARE)
    last = END - timedelta(days=4)
    away = [
        begin + chance.random() * (end - begin)
        for begin, end in (DAM_AWAY, MAIL_AWAY)
        for _ in range(count // 10)
    ]
    rest = [START + chance.random() * (last - START) for _ in range(count - len(burst) - len(away))]
    return burst + away + rest


def test_month__of_stuck_campaigns_with_two_outages(month: Month) -> None:
    count = 120
    month.dam.entries = entries(count, seed=3)
    month.play(timedelta(minutes=90))
    assert_month(month, count)


@pytest.mark.calm
@pytest.mark.timeout(3600)
def test_month__a_thousand_campaigns_every_three_minutes(
    month: Month, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 1000
    month.dam.entries = entries(count, seed=3)
    month.play(None)
    with capsys.disabled():
        sys.stdout.write(
            f"\nruns by exit code {dict(month.exit_codes)}, DAM calls {dict(month.dam.calls)},"
            f" e-mails {len(month.sink.messages)}\n"
        )
    assert_month(month, count)


def assert_month(month: Month, count: int) -> None:
    month.assert_told_once(count)
    assert set(month.exit_codes) == {ExitCode.OK, ExitCode.TRY_LATER}
    assert month.dam.calls["list"] == 3 * count, "one look an attempt, and none at what has failed for good"
    states = month.database.rows("SELECT DISTINCT a1_retry_count, a1_permanently_failed FROM campaign_status")
    assert states == [(3, True)]
    burst = int(count * BURST_SHARE)
    subjects = Counter(str(mail.message["Subject"]) for mail in month.sink.messages)
    assert subjects[f"❌ PERMANENTLY FAILED - {burst} Campaigns (No Assets After 3 Attempts)"] == len(
        RECIPIENTS
    )
    assert len(month.sink.messages) < 3 * count, "fewer e-mails than notices"
