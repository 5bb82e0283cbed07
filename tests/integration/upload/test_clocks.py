"""Clocks that ran ahead and were put right: a row from tomorrow, or from next year, stops nothing.

Each test writes what a clock that ran ahead has written, and looks at what the product does by the right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

import daily_report
from shared.base.clocks import TOLERANCE, is_waiting
from shared.base.commands import Commands
from shared.base.values import Campaign, MailServer, Notice, NoticeKind, OpenUpload
from shared.database import Database
from shared.http.patience import LONGEST_WAIT_SECONDS
from shared.notices.delivery import PAUSES, deliver_due_notices
from shared.notices.outbox import Outbox
from shared.notifier import Mailer
from shared.report.day import report_day
from shared.report.figures import Figures
from shared.rules.alerts import REMINDER_INTERVAL, TaskAlert, after_failure, after_success
from shared.rules.cadence import Daily, Interval, LastRun, OffHours, plan
from shared.rules.rate import LONGEST_PAUSE_SECONDS, WINDOW_SECONDS
from shared.upload.buckets import Buckets
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.standing import Standing
from simulators.mail import MailSink

ROME = ZoneInfo("Europe/Rome")
COMMANDS = Commands("python", "scripts")
NOW = datetime(2026, 11, 23, 18, 0, 4, tzinfo=UTC)
TODAY = date(2026, 11, 23)
LONGEST_DELAY = timedelta(hours=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
AHEAD = pytest.mark.parametrize("ahead", [HOUR, DAY, 365 * DAY], ids=["an hour", "tomorrow", "next year"])


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


# --- the rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "waits"),
    [(-DAY, False), (-HOUR, False), (-HOUR / 2, True), (TOLERANCE, True), (2 * TOLERANCE, False),
     (DAY, False)],
)  # fmt: skip
def test_wait__is_on_between_its_beginning_and_its_end(begun: timedelta, waits: bool) -> None:
    assert is_waiting(NOW + begun, HOUR, NOW) is waits


def test_longest_pauses__are_as_long_as_those_that_are_made() -> None:
    assert max(PAUSES) <= LONGEST_DELAY
    assert LONGEST_WAIT_SECONDS <= LONGEST_PAUSE_SECONDS


# --- Box's limits -------------------------------------------------------------------------------------------


@AHEAD
def test_rate__what_was_counted_counts_as_of_now(database: Database, ahead: timedelta) -> None:
    assert Buckets(database).take_calls("b", 120, 240).count == 120
    database.execute("UPDATE rate_buckets SET second = second + %(ahead)s, counts[1] = 240",
                  {"ahead": int(ahead.total_seconds())})  # fmt: skip
    assert Buckets(database).take_calls("b", 1, 240).count == 0, "nobody knows when: as late as can be"
    database.execute("UPDATE rate_buckets SET second = second - %(seconds)s", {"seconds": WINDOW_SECONDS})
    assert Buckets(database).take_calls("b", 120, 240).count == 120, "a minute later it is over"


@AHEAD
def test_rate__a_pause_from_the_future_is_over(database: Database, ahead: timedelta) -> None:
    Buckets(database).take_calls("b", 1, 240)
    Buckets(database).pause_calls("b", 30)
    database.execute("UPDATE rate_buckets SET paused_until = paused_until + %(ahead)s",
                  {"ahead": ahead.total_seconds()})  # fmt: skip
    assert Buckets(database).take_calls("b", 1, 240).count == 1
    Buckets(database).pause_calls("b", 30)
    assert 29 < Buckets(database).take_calls("b", 1, 240).wait_seconds <= 30, "a pause of now holds"


# --- the outbox ---------------------------------------------------------------------------------------------


@AHEAD
@pytest.mark.parametrize("count", [1, 30], ids=["single", "table"])
def test_outbox__a_notice_from_the_future_goes_out(
    database: Database, mail: MailSink, ahead: timedelta, count: int
) -> None:
    def deliver(now: datetime) -> int:
        server = MailServer("127.0.0.1", mail.port, "none", None, None, "robot@example.com")
        return deliver_due_notices(database, Mailer(server), now, ROME, COMMANDS).sent

    for number in range(count):
        notice_id, campaign = str(uuid4()), f"{number:040x}"
        to = ("support@example.com",)
        Outbox(database).queue(Notice(notice_id, NoticeKind.RETRY, campaign, "s", "t", "h", to, NOW + ahead))
    assert deliver(NOW) == count
    assert deliver(NOW) == 0, "once"


def test_outbox__a_pause_that_is_on_is_kept(database: Database) -> None:
    to = ("support@example.com",)
    Outbox(database).queue(Notice(str(uuid4()), NoticeKind.RETRY, "c", "s", "t", "h", to, NOW))
    for put_off in (HOUR / 60, LONGEST_DELAY):
        database.execute(
            "UPDATE notice_deliveries SET tries = 1, next_try_at = %(at)s", {"at": NOW + put_off}
        )
        assert not Outbox(database).is_due(NOW)
        assert Outbox(database).is_due(NOW + put_off)


# --- campaigns ----------------------------------------------------------------------------------------------


@AHEAD
def test_error__reminds_and_goes_on_from_now(database: Database, ahead: timedelta) -> None:
    assert LastingErrors(database).note("c", "Box/locked", "no").is_notice_due
    database.execute("UPDATE campaign_errors SET began_at = now() + %(ahead)s, last_notice_at = now() +"
                  " %(ahead)s", {"ahead": ahead})  # fmt: skip
    righted = LastingErrors(database).note("c", "Box/locked", "no")
    assert righted.is_notice_due
    assert righted.began_at <= database.row("SELECT now()")[0]
    again = LastingErrors(database).note("c", "Box/locked", "no")
    assert not again.is_notice_due
    assert again.is_reminder


@AHEAD
def test_left_search__is_asked_again_and_then_after_a_day(database: Database, ahead: timedelta) -> None:
    Standing(database).record_in_a1(Campaign("c", "C-1", "Summer", "A1"))
    database.execute("UPDATE campaign_status SET left_search_at = now() + %(ahead)s", {"ahead": ahead})
    assert [left.campaign_id for left in Standing(database).left_behind("A1", [])] == ["c"]
    Standing(database).mark_left_search("c")
    assert Standing(database).left_behind("A1", []) == []


@AHEAD
def test_lock_doubt__lasts_its_hour_from_now(database: Database, ahead: timedelta) -> None:
    Standing(database).record_in_a1(Campaign("c", "C-1", "Summer", "A2"))
    database.execute("UPDATE campaign_status SET lock_doubted_at = now() + %(ahead)s", {"ahead": ahead})
    assert [left.campaign_id for left in Standing(database).left_behind("A1", [])] == ["c"]
    database.execute("UPDATE campaign_status SET lock_doubted_at = lock_doubted_at - interval '1 hour'")
    assert Standing(database).left_behind("A1", []) == []


@AHEAD
def test_attempt__is_counted_whatever_the_last_one_says(database: Database, ahead: timedelta) -> None:
    database.increment_a1_retry("c", "C-1", "Summer", "empty")
    database.execute("UPDATE campaign_status SET a1_last_retry_at = now() + %(ahead)s, updated_at = now() +"
                  " %(ahead)s", {"ahead": ahead})  # fmt: skip
    assert database.increment_a1_retry("c", "C-1", "Summer", "empty").number == 2
    told = database.get_a1_retry_status("c").last_retry_at
    assert told is not None
    assert told <= database.row("SELECT now()")[0]


@AHEAD
def test_upload_session__is_gone_on_with_until_its_campaign_left(
    database: Database, ahead: timedelta
) -> None:
    Standing(database).record_in_a1(Campaign("c", "C-1", "Summer", "A1"))
    upload = OpenUpload("c", "a", "s", "1", 1, "f", None)
    Ledger(database).remember_upload(upload, "run")
    database.execute("UPDATE upload_sessions SET created_at = now() + %(ahead)s", {"ahead": ahead})
    assert Ledger(database).open_upload("c", "a") == upload
    assert Ledger(database).stale_uploads("A1") == []
    Standing(database).follow_status("c", "A2")
    assert Ledger(database).stale_uploads("A1") == [upload]


# --- the daily report ---------------------------------------------------------------------------------------


@AHEAD
def test_report__tells_of_an_upload_from_the_future_at_once_and_once(
    database: Database, ahead: timedelta
) -> None:
    database.execute(
        "INSERT INTO campaign_uploads (campaign_id, completed_at, started_at, assets, bytes, run_id)"
        " VALUES ('c', now() + %(ahead)s, now(), 1, 1, 'r')", {"ahead": ahead},
    )  # fmt: skip

    def told(day: date, now: datetime, *, claims: bool) -> list[str]:
        wanted = report_day(day, now, ROME, Figures(database).previous(day))
        if claims:
            assert Figures(database).claim(wanted, str(uuid4()), now)
        sections = Figures(database).uploads(wanted, is_preview=not claims)
        return [row.campaign.id for section in sections for row in section.rows]

    assert told(TODAY, NOW, claims=False) == ["c"]
    assert told(TODAY, NOW, claims=True) == ["c"]
    assert told(TODAY + DAY, NOW + DAY, claims=True) == []


@AHEAD
@pytest.mark.parametrize("is_told", [True, False], ids=["today was told of", "today was not"])
def test_report__of_a_date_to_come_takes_nothing_from_it(
    database_url: str, mail: MailSink, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, is_told: bool
) -> None:
    """A clock that ran ahead over 19:00 has made the report of a later date; its date comes all the same."""
    changes = {
        "DATABASE_URL": database_url,
        "MAIL_FROM": "a@example.com",
        "ERROR_NOTIFICATION_EMAILS": "b@example.com",
        "ORCHESTRATOR_TIMEZONE": "UTC",
        **mail.settings,
    }
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    arguments = daily_report.parse_arguments([])

    def report(now: datetime) -> list[str]:
        seen = len(mail.messages)
        assert daily_report.run(arguments, "test", now) == 0
        return [str(one.message["Subject"]).rsplit(" ", 1)[1] for one in mail.messages[seen:]]

    now = datetime.now(UTC).replace(hour=19)
    later = now + max(ahead, DAY)
    if is_told:
        assert report(now) == [str(now.date())]
    assert report(later) == [str(later.date())]
    assert report(now) == ([] if is_told else [str(now.date())])
    assert report(later) == [str(later.date())]


def test_report__a_clock_that_was_set_back_sends_none_again(database: Database) -> None:
    yesterday, today = (report_day(TODAY - back, NOW - back, ROME, None) for back in (DAY, timedelta()))
    for day, now in ((yesterday, NOW - DAY), (today, NOW)):
        assert Figures(database).claim(day, str(uuid4()), now)
    Figures(database).forget_later(NOW - DAY, ROME)
    assert not Figures(database).claim(today, str(uuid4()), NOW)


# --- the loop -----------------------------------------------------------------------------------------------


@AHEAD
def test_alert__reminds_goes_on_from_now_and_is_forgotten(ahead: timedelta) -> None:
    from_the_future = TaskAlert("a1_to_a2", "exit code 75", 9, NOW + ahead, True, NOW + ahead)
    alerts, news = after_failure(
        {"exit code 75": from_the_future}, "a1_to_a2", "exit code 75", NOW, threshold=3
    )
    assert news is not None
    assert (news.kind, news.began_at) == ("reminder", NOW)
    assert after_failure(alerts, "a1_to_a2", "exit code 75", NOW + HOUR, threshold=3)[1] is None
    remembered, news = after_success({"exit code 75": from_the_future}, NOW)
    assert news is not None
    assert not remembered
    assert after_success(alerts, NOW + REMINDER_INTERVAL)[0] == {}


@AHEAD
@pytest.mark.parametrize("schedule", [Interval(3), Daily(time(19))], ids=["interval", "daily"])
def test_plan__a_run_from_the_future_puts_nothing_off(ahead: timedelta, schedule: Interval | Daily) -> None:
    planned = NOW.replace(hour=18, minute=0, second=0)
    ended_ahead = LastRun(planned, NOW, NOW + ahead, 75)
    assert plan(schedule, ended_ahead, NOW + HOUR / 2, ROME, WINDOW).at <= NOW + HOUR / 2
    all_ahead = LastRun(planned + ahead, NOW + ahead, NOW + ahead, 0)
    if isinstance(schedule, Interval) or ahead >= DAY:
        assert plan(schedule, all_ahead, NOW, ROME, WINDOW).at <= NOW
