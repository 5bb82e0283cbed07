"""A month with a thousand stuck campaigns: simulated time, the product's own pass and outbox, real PostgreSQL
and real SMTP. In the middle the DAM is away for 36 hours, and the mail server for 24.

Every campaign is owed its two retry notices and its permanent one, and not one more; and each notice is to
arrive in exactly one e-mail for each recipient, or to be folded into a later one that does.

What the runs do must be what the simulation foretells, event for event: also with waits, limits of a
campaign's own, snoozes, resets by people and by the product itself, and over both clock changes.
"""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import getaddresses
from typing import Any, cast

import pytest

from conftest import PASS_VARIABLES
from shared.base.errors import AppError, DamError, ExitCode
from shared.base.values import Campaign, MasterAssets, NoticeKind, RetryStatus, SearchHit
from shared.database import UPLOADER_LOCK, Database
from shared.notices.delivery import deliver_due_notices
from shared.notifier import Mailer
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, PlannedRun, is_off_hours, next_run
from shared.rules.retry import reset
from shared.rules.simulation import Event, Kind, Stuck, simulate
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
Row = tuple[datetime, str, str, int, int]
"""(when, campaign, what, number, cycle): an event to compare."""

# What one campaign's row may be changed to by plain SQL.
CHANGE = """
INSERT INTO campaign_status (campaign_id, a1_retry_count, a1_last_retry_at, a1_permanently_failed,
                             a1_max_retries, a1_snoozed_until)
VALUES (%(campaign_id)s, %(retry_count)s, %(last_retry_at)s, %(permanently_failed)s,
        %(max_retries)s, %(snoozed_until)s)
ON CONFLICT (campaign_id) DO UPDATE SET
    a1_retry_count = EXCLUDED.a1_retry_count, a1_last_retry_at = EXCLUDED.a1_last_retry_at,
    a1_permanently_failed = EXCLUDED.a1_permanently_failed,
    a1_max_retries = EXCLUDED.a1_max_retries, a1_snoozed_until = EXCLUDED.a1_snoozed_until
"""


@dataclass(frozen=True)
class Change:
    """What somebody makes of a campaign by plain SQL, before the first run from then on."""

    at: datetime
    campaign: int
    make: Callable[[RetryStatus], RetryStatus]


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
    """The month, or a part of it, run by run."""

    database: Database
    settings: Settings
    sink: MailSink
    dam: StuckDam
    exit_codes: Counter[int] = field(default_factory=Counter)
    runs: list[PlannedRun] = field(default_factory=list)
    changes: Sequence[Change] = ()
    delivers: bool = True
    """False where only the notices' rows matter."""
    resets: list[Row] = field(default_factory=list)
    """Those that the product made by itself."""
    last_event: int = 0

    def play(self, runs: list[PlannedRun]) -> None:
        self.runs = runs
        is_mail_up = True
        pending = list(self.changes)
        for run in self.runs:
            now = run.at.astimezone(UTC)
            while pending and pending[0].at <= now:
                self.change(pending.pop(0))
            is_wanted = not MAIL_AWAY[0] <= now < MAIL_AWAY[1]
            if is_wanted != is_mail_up:
                (self.sink.start if is_wanted else self.sink.stop)()
                is_mail_up = is_wanted
            self.run(now)
            self.note_resets(now)

    def planned(
        self, every: timedelta | None = None, begin: datetime = START, end: datetime = END
    ) -> list[PlannedRun]:
        """A run at each planned instant; every: only so often, for a quick look."""
        zone, window = self.settings.timezone, self.settings.off_hours
        runs, now = [], begin
        while now < end:
            wall = now.astimezone(zone)
            runs.append(PlannedRun(wall, "off_hours" if is_off_hours(wall, window) else "in_hours", wall))
            planned = next_run(A1_TO_A2_INTERVAL_MINUTES, wall, zone, window).at.astimezone(UTC)
            now = planned if every is None else max(planned, now + every)
        return runs

    def change(self, change: Change) -> None:
        """As somebody with psql."""
        made = change.make(self.database.get_a1_retry_status(_id(change.campaign)))
        self.database.execute(CHANGE, {name: getattr(made, name) for name in RetryStatus.__slots__})

    def note_resets(self, now: datetime) -> None:
        """The resets of a run: PostgreSQL's own clock, which is not the month's, has dated them."""
        rows = self.database.rows(
            "SELECT id, campaign_id, source, (detail->>'next_cycle')::int FROM campaign_events"
            " WHERE kind = 'reset' AND id > %(last)s ORDER BY id", {"last": self.last_event},
        )  # fmt: skip
        for number, campaign_id, source, cycle in rows:
            self.last_event = number
            if source == "auto":
                self.resets.append((now, campaign_id, Kind.AUTO_RESET.value, 0, cycle))

    def run(self, now: datetime) -> None:
        """One run, as run_pass makes it."""
        self.dam.now = now
        report = Report(run_id="simulated", started_at=now)
        single = Pass(
            self.settings, self.database, cast("Any", self.dam), report, clock=lambda: now, is_dry_run=False,
            is_stopping=lambda: False, progress=Progress(lambda: 0.0),
            open_ledger=lambda: Database(self.settings.database.dsn),
        )  # fmt: skip
        try:
            self.exit_codes[single.run([])] += 1
        except AppError as exc:
            self.exit_codes[exc.exit_code] += 1
        finally:
            if self.delivers:
                mailer, zone = Mailer(self.settings.mail.server), self.settings.timezone
                deliver_due_notices(self.database, mailer, now, zone, self.settings.commands)

    def happened(self) -> list[Row]:
        """What the runs did, by their rows."""
        attempts = self.database.rows(
            "SELECT at, campaign_id, %(attempt)s, (detail->>'attempt')::int, cycle FROM campaign_events"
            " WHERE kind = 'attempt' UNION ALL"
            " SELECT at, campaign_id, %(failure)s, (detail->>'attempt')::int, cycle FROM campaign_events"
            " WHERE kind = 'attempt' AND (detail->>'permanently_failed')::boolean",
            {"attempt": Kind.ATTEMPT.value, "failure": Kind.PERMANENT_FAILURE.value},
        )
        notices = self.database.rows(
            "SELECT created_at, campaign_id, kind, attempt, cycle FROM notices WHERE campaign_id <> ''"
        )
        return sorted([*attempts, *notices, *self.resets])

    def foretold(self) -> list[Row]:
        """What the simulation says, from one change to the next."""
        campaigns = {
            _id(number): Stuck(RetryStatus(_id(number)), entry)
            for number, entry in enumerate(self.dam.entries)
        }
        answered = [run for run in self.runs if not DAM_AWAY[0] <= run.at.astimezone(UTC) < DAM_AWAY[1]]
        rows: list[Row] = []
        begin = START - timedelta(days=365)
        for change in [*self.changes, None]:
            end = END + timedelta(days=365) if change is None else change.at
            part = [run for run in answered if begin <= run.at.astimezone(UTC) < end]
            for event in simulate(part, list(campaigns.values()), self.settings.retry):
                if event.status is not None:
                    one = event.status.campaign_id
                    campaigns[one] = replace(campaigns[one], status=event.status)
                    rows.append(_row(event, event.status))
            if change is not None:
                changed = campaigns[_id(change.campaign)]
                campaigns[_id(change.campaign)] = replace(changed, status=change.make(changed.status))
            begin = end
        return sorted(rows)

    def assert_as_foretold(self) -> Counter[str]:
        """How often what happened."""
        happened, foretold = self.happened(), self.foretold()
        first = next((pair for pair in zip(happened, foretold, strict=False) if pair[0] != pair[1]), None)
        assert first is None, "the first difference"
        assert len(happened) == len(foretold)
        return Counter(what for _, _, what, _, _ in happened)

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


def _row(event: Event, status: RetryStatus) -> Row:
    number = event.attempt.number if event.attempt else 0
    return (event.at, status.campaign_id, (event.notice or event.kind).value, number, status.cycle)


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
def open_month(database_url: str, mail: MailSink) -> Iterator[Callable[..., Month]]:
    """A month whose settings are the usual ones with these variables over them."""
    logging.getLogger("uploader").setLevel(logging.ERROR)
    logging.getLogger("shared").setLevel(logging.ERROR)
    with ExitStack() as stack:

        def opened(**variables: str) -> Month:
            settings = load_settings(
                {
                    **PASS_VARIABLES,
                    "DATABASE_URL": database_url,
                    "ERROR_NOTIFICATION_EMAILS": ",".join(RECIPIENTS),
                    **mail.settings,
                    **variables,
                },
                "password",
            )
            database = stack.enter_context(closing(Database(database_url, settings.retry.max_retries)))
            assert database.take_run(UPLOADER_LOCK) is None
            return Month(database, settings, mail, StuckDam([]))

        yield opened
    for name in ("uploader", "shared"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def month(open_month: Callable[..., Month]) -> Month:
    return open_month()


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
    month.play(month.planned(timedelta(minutes=90)))
    assert_month(month, count)


@pytest.mark.calm
@pytest.mark.timeout(3600)
def test_month__a_thousand_campaigns_every_three_minutes(
    month: Month, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 1000
    month.dam.entries = entries(count, seed=3)
    month.play(month.planned())
    with capsys.disabled():
        sys.stdout.write(
            f"\nruns by exit code {dict(month.exit_codes)}, DAM calls {dict(month.dam.calls)},"
            f" e-mails {len(month.sink.messages)}\n"
        )
    assert_month(month, count)


def assert_month(month: Month, count: int) -> None:
    told = month.assert_as_foretold()
    assert [told[kind] for kind in CAMPAIGN_KINDS] == [2 * count, count]
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


def changes(entered: Sequence[datetime], seed: int, last: datetime = END) -> list[Change]:
    """What people do meanwhile to a third of the campaigns, some of it before they are in A1: limits, snoozes
    that end or are ended, resets.
    """
    chance = random.Random(seed)  # noqa: S311 - a seeded play
    made: list[Change] = []
    for campaign in chance.sample(range(len(entered)), len(entered) // 3):
        about = entered[campaign] - timedelta(hours=3)
        at = about + chance.random() * min(timedelta(days=3), last - about)
        match chance.choice(["limit", "snooze", "wake", "reset"]):
            case "limit":
                made.append(Change(at, campaign, _limited(chance.choice([1, 2, 5, 6]))))
            case "reset":
                made.append(Change(at, campaign, _reset))
            case what:
                until = at + chance.random() * timedelta(days=6)
                made.append(Change(at, campaign, _snoozed(until)))
                if what == "wake":
                    made.append(Change(at + (until - at) / 2, campaign, _snoozed(None)))
    return sorted(made, key=lambda change: change.at)


def _limited(limit: int) -> Callable[[RetryStatus], RetryStatus]:
    return lambda status: replace(status, max_retries=limit)


def _snoozed(until: datetime | None) -> Callable[[RetryStatus], RetryStatus]:
    return lambda status: replace(status, snoozed_until=until)


def _reset(status: RetryStatus) -> RetryStatus:
    """A reset of a campaign at zero begins no new cycle."""
    return reset(status, is_automatic=False) if status.retry_count or status.permanently_failed else status


@pytest.mark.timeout(600)
def test_month__with_waits_limits_snoozes_and_resets(open_month: Callable[..., Month]) -> None:
    """Waits are longer than the 90 minutes between two of these runs."""
    month = open_month(A1_RETRY_DELAYS="100,200", A1_AUTO_RESET_DAYS="5", A1_AUTO_RESET_CYCLES="2")
    month.delivers = False
    month.dam.entries = entries(60, seed=5)
    month.changes = changes(month.dam.entries, seed=6)
    month.play(month.planned(timedelta(minutes=90)))
    told = month.assert_as_foretold()
    assert told[Kind.AUTO_RESET] > 60
    assert told[NoticeKind.PERMANENT] == told[Kind.PERMANENT_FAILURE] > 120
    assert told[NoticeKind.RETRY] + told[NoticeKind.PERMANENT] == told[Kind.ATTEMPT]


@pytest.mark.parametrize(
    ("begin", "end", "delays"),
    [
        pytest.param("2026-03-28T18:00+00:00", "2026-03-30T05:00+00:00", "3,10", id="spring"),
        pytest.param("2026-10-24T17:00+00:00", "2026-10-26T06:00+00:00", "3,60", id="autumn"),
    ],
)
def test_clock_change__each_run_from_saturday_to_monday(
    open_month: Callable[..., Month], begin: str, end: str, delays: str
) -> None:
    first, last = datetime.fromisoformat(begin), datetime.fromisoformat(end)
    month = open_month(A1_RETRY_DELAYS=delays, A1_AUTO_RESET_DAYS="1")
    month.delivers = False
    month.dam.entries = [first + timedelta(hours=3 * number) for number in range(10)]
    month.changes = changes(month.dam.entries, seed=7, last=last)
    month.play(month.planned(None, first, last))
    told = month.assert_as_foretold()
    assert told[Kind.AUTO_RESET] > 0
    assert told[Kind.ATTEMPT] > 25


@pytest.mark.calm
@pytest.mark.timeout(3600)
def test_month__a_thousand_campaigns_with_waits_snoozes_and_resets(
    open_month: Callable[..., Month], capsys: pytest.CaptureFixture[str]
) -> None:
    """A run every three minutes for a month, then every hour until the last campaign has had its three
    automatic resets, 30 days apart. The number of notices is the one that the simulation names before.
    """
    month = open_month(A1_RETRY_DELAYS="3,10", A1_AUTO_RESET_DAYS="30", A1_AUTO_RESET_CYCLES="3")
    month.dam.entries = entries(1000, seed=3)
    month.changes = changes(month.dam.entries, seed=4)
    end = END + timedelta(days=105)
    month.runs = [*month.planned(), *month.planned(timedelta(hours=1), END, end)]
    foretold = Counter(what for _, _, what, _, _ in month.foretold())
    month.play(month.runs)
    told = month.assert_as_foretold()
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(told)}\n")
    assert told == foretold
    assert told[NoticeKind.RETRY] + told[NoticeKind.PERMANENT] == told[Kind.ATTEMPT]
    assert told[Kind.AUTO_RESET] >= 3000
