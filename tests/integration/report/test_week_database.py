"""The weekly digest on a real PostgreSQL: what counts as stuck, in which order, and how much is shown."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.base.commands import Commands
from shared.base.values import Campaign, NoticeKind, RetryStatus
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.report.week import MOST_ROWS, WeekFigures, WeekReport

NOW = datetime.now(UTC).replace(microsecond=0)
TODAY = NOW.date()
DAY = timedelta(days=1)
EMPTY = 'the folder "Master Assets" contains no usable files'
COMPOSER = Composer(
    timezone=ZoneInfo("Europe/Rome"),
    max_attempts=3,
    folder_name="Master Assets",
    commands=Commands("python", "scripts"),
    error_recipients=("support@example.com", "oncall@example.com"),
    success_recipients=(),
    report_recipients=("managers@example.com",),
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url, 3)) as opened:
        yield opened


def report(database: Database, now: datetime = NOW) -> WeekReport:
    return WeekFigures(database).report(TODAY, now, status_a1="A1")


def add(database: Database, campaign: str, **columns: object) -> None:
    values = {
        "campaign_id": campaign,
        "campaign_number": f"C-{campaign}",
        "campaign_name": "n",
        "status": "A1",
    }
    values |= columns  # type: ignore[arg-type]
    names = ", ".join(values)
    marks = ", ".join(f"%({name})s" for name in values)
    database.execute(f"INSERT INTO campaign_status ({names}) VALUES ({marks})", values)  # noqa: S608


def fail(database: Database, campaign: str, days: float, **columns: object) -> None:
    at = NOW - days * DAY
    add(
        database, campaign, a1_retry_count=3, a1_permanently_failed=True, a1_last_retry_at=at,
        a1_failure_reason=EMPTY, **columns,
    )  # fmt: skip


def ids(rows: tuple[object, ...]) -> list[str]:
    return [row.campaign.id for row in rows]  # type: ignore[attr-defined]


def test_nothing_stuck__one_line_says_so(database: Database) -> None:
    add(database, "young")
    database.execute(
        "INSERT INTO campaign_errors (campaign_id, kind, message) VALUES ('young', 'Box/x', 'm')"
    )
    add(database, "over", a1_snoozed_until=NOW - DAY)
    found = report(database)
    assert found.is_quiet
    notice = COMPOSER.weekly_digest(found, notice_id="x", now=NOW)
    assert notice.subject == f"🗓️ Stuck Campaigns - 0 ({TODAY})"
    assert notice.recipients == ("managers@example.com",)
    assert "Nothing is stuck" in notice.text
    assert "PERMANENTLY FAILED" not in notice.text
    assert "Nothing is stuck" in notice.html


def test_failed__the_oldest_first_with_cycle_and_last_reset(database: Database) -> None:
    fail(database, "young", 2)
    fail(database, "old", 9)
    fail(database, "unknown", 1)
    database.execute("UPDATE campaign_status SET a1_last_retry_at = NULL WHERE campaign_id = 'unknown'")
    for who in ("ann", "bob"):
        with database.transaction():
            database.act_as(who, "a1_retry.py", "files promised")
            database.reset_a1_retry("old")
        database.execute(
            "UPDATE campaign_status SET a1_permanently_failed = TRUE, a1_retry_count = 3,"
            " a1_last_retry_at = %(at)s, a1_failure_reason = 'x' WHERE campaign_id = 'old'",
            {"at": NOW - 9 * DAY},
        )  # fmt: skip
    found = report(database)
    assert ids(found.failed.rows) == ["unknown", "old", "young"]
    old = found.failed.rows[1]
    assert (old.cycle, old.reset_by, old.reason) == (3, "bob", "x")
    assert old.reset_at is not None
    text = COMPOSER.weekly_digest(found, notice_id="x", now=NOW).text
    assert "- C-old n: for 9 d 0 h, since " in text
    assert ", cycle 3, now in A1; x; last reset by bob, " in text
    assert "- C-unknown n: since an unknown time, cycle 1, now in A1;" in text
    assert "never reset" in text
    assert "a1_retry.py reset old" in text


def test_erring_and_snoozed__with_cure_and_reason(database: Database) -> None:
    for campaign, days in (("young", 0.9), ("old", 30), ("middle", 2)):
        add(database, campaign)
        database.execute(
            "INSERT INTO campaign_errors (campaign_id, kind, message, began_at)"
            " VALUES (%(id)s, 'Box/forbidden', 'Box refused (invite the app)', %(at)s)",
            {"id": campaign, "at": NOW - days * DAY},
        )
    for campaign, days in (("later", 9), ("sooner", 2), ("left", 3)):
        add(database, campaign)
        with database.transaction():
            database.act_as("ann", "a1_retry.py", f"files come in {days} days")
            database.execute(
                "UPDATE campaign_status SET a1_snoozed_until = %(at)s WHERE campaign_id = %(id)s",
                {"id": campaign, "at": NOW + days * DAY},
            )
    database.execute("UPDATE campaign_status SET status = 'B1' WHERE campaign_id = 'left'")
    found = report(database)
    assert ids(found.erring.rows) == ["old", "middle"]
    assert found.erring.rows[0].system == "Box"
    assert ids(found.snoozed.rows) == ["sooner", "later"]
    assert found.snoozed.rows[0].reason == "files come in 2 days"
    assert found.stuck == 4
    text = COMPOSER.weekly_digest(found, notice_id="x", now=NOW).text
    assert "- C-old n: Box, for 30 d 0 h, since " in text
    assert "; Box refused (invite the app)" in text
    assert ", by ann; files come in 9 days" in text


def test_untold__what_has_reached_nobody(database: Database) -> None:
    def queue(number: int, days: float) -> str:
        notice = COMPOSER.error(
            Campaign(f"c{number}", f"C-{number}", f"n{number}", "A1"), message="m", hint="", kind="Box/x",
            began_at=NOW, is_reminder=False, retry=RetryStatus("c"),
            next_run_at=NOW, now=NOW - days * DAY,
        )  # fmt: skip
        Outbox(database).queue(notice)
        return notice.id

    def mark(notice: str, column: str, recipients: list[str], days: float = 1) -> None:
        database.execute(
            f"UPDATE notice_deliveries SET {column} = %(at)s, last_error = '550 no'"  # noqa: S608
            " WHERE notice_id = %(id)s AND recipient = ANY(%(to)s)",
            {"id": notice, "to": recipients, "at": NOW - days * DAY},
        )

    both = list(COMPOSER.error_recipients)
    mark(queue(1, 8), "gave_up_at", both)
    mark(queue(2, 40), "gave_up_at", both, days=30)
    one = queue(3, 6)
    mark(one, "gave_up_at", both[:1])
    mark(one, "sent_at", both[1:])
    queue(4, 2)
    queue(5, 0.5)
    mark(queue(6, 3), "gave_up_at", both[:1])
    found = report(database)
    shown = [(row.subject[-2:], row.is_waiting) for row in found.untold.rows]
    assert shown == [("n1", False), ("n6", True), ("n4", True)]
    text = COMPOSER.weekly_digest(found, notice_id="x", now=NOW).text
    assert "- 🛑 A1→A2 Error - Campaign n1: given up, from " in text
    assert "; 550 no" in text


def test_ten_thousand__are_told_in_two_seconds_and_two_hundred_lines(database: Database) -> None:
    for statement in (
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_last_retry_at, a1_permanently_failed, a1_failure_reason)"
        " SELECT lpad(n::text, 40, '0'), 'C-' || n, repeat('Ä', 120) || n, 'A1', 3,"
        " now() - n * interval '1 hour', n <= 6000, repeat('x', 200) FROM generate_series(1, 10000) n",
        "UPDATE campaign_status SET a1_snoozed_until = now() + interval '2 days'"
        " WHERE NOT a1_permanently_failed AND right(campaign_id, 1) < '5'",
        "INSERT INTO campaign_errors (campaign_id, kind, message, began_at)"
        " SELECT campaign_id, 'Box/x', repeat('y', 300), now() - interval '3 days' FROM campaign_status"
        " WHERE NOT a1_permanently_failed AND right(campaign_id, 1) >= '5'",
        "ANALYZE",
    ):
        database.execute(statement)
    began = time.perf_counter()
    found = report(database)
    assert time.perf_counter() - began < 2
    began = time.process_time()  # what it costs itself, however busy the machine is
    notice = COMPOSER.weekly_digest(found, notice_id="x", now=NOW)
    assert time.process_time() - began < 1.5
    tracemalloc.start()  # which makes all of it several times slower
    COMPOSER.weekly_digest(report(database), notice_id="x", now=NOW)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert len(notice.html.encode()) < 250_000
    assert found.stuck == 10_000
    lines = [line for line in notice.text.splitlines() if line.startswith("- ")]
    told = [line for line in lines if not line.startswith("- and ")]
    assert len(told) == MOST_ROWS
    more = [int(line.split()[2]) for line in lines if line.startswith("- and ")]
    assert sum(more) + len(told) == 10_000
    assert f"- C-{6000} " in told[0]


def test_digest_id__is_one_for_each_week_of_an_installation(database: Database) -> None:
    figures = WeekFigures(database)
    monday = date(2026, 12, 28)
    week = {figures.digest_id(monday + n * DAY) for n in range(7)}
    assert len(week) == 1, "over the turn of the year"
    assert figures.digest_id(monday - DAY) not in week
    assert figures.digest_id(monday + 7 * DAY) not in week
    before = figures.digest_id(monday)
    database.execute("UPDATE schema_migrations SET applied_at = applied_at - interval '1 second'")
    assert figures.digest_id(monday) != before, "another installation may write to the same people"


def test_queue__a_second_time_does_nothing(database: Database) -> None:
    digest = COMPOSER.weekly_digest(report(database), notice_id="0" * 32, now=NOW)
    outbox = Outbox(database)
    assert not outbox.is_known(digest.id)
    assert [outbox.queue(digest), outbox.queue(digest)] == [True, False]
    assert outbox.is_known(digest.id)
    kinds = database.rows(
        "SELECT kind, count(*) FROM notices JOIN notice_deliveries ON notice_id = id GROUP BY 1"
    )
    assert kinds == [(NoticeKind.WEEKLY_DIGEST.value, 1)]
