"""The daily report's questions, on a real PostgreSQL: days, what each report tells once, two at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from daily_report import queue_report
from shared.base.commands import Commands
from shared.base.errors import DbError
from shared.base.values import (
    Asset,
    BoxFile,
    Campaign,
    DamFolder,
    Notice,
    NoticeKind,
    UploadTotals,
)
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.report import figures as report_figures
from shared.report.day import ReportDay, report_day
from shared.report.figures import SHOWN_ROWS, Backlog, Figures, TaskRuns
from shared.settings import load_report_settings
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.standing import Standing

ROME = ZoneInfo("Europe/Rome")
COMMANDS = Commands("python", "scripts")
TODAY = date(2026, 11, 23)
NOW = datetime(2026, 11, 23, 18, 0, 4, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
ASSET = Asset("a1", "a.jpg", DamFolder("f", "Master Assets", None), 5, "1")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


def day_of(database: Database, day: date, now: datetime) -> ReportDay:
    return report_day(day, now, ROME, Figures(database).previous(day))


def add_upload(database: Database, campaign_id: str, completed_at: datetime, assets: int = 1) -> None:
    database.execute(
        "INSERT INTO campaign_uploads (campaign_id, completed_at, started_at, assets, bytes, run_id)"
        " VALUES (%(id)s, %(at)s, %(at)s, %(assets)s, 10 * %(assets)s, 'r')",
        {"id": campaign_id, "at": completed_at, "assets": assets},
    )


def add_run(
    database: Database,
    started_at: datetime,
    *,
    minutes: float | None = 1,
    exit_code: int | None = 0,
    late: timedelta = timedelta(),
    task: str = "a1_to_a2",
) -> None:
    database.execute(
        "INSERT INTO orchestrator_task_runs"
        " (run_id, task, planned_at, started_at, finished_at, exit_code, host)"
        " VALUES (%(id)s, %(task)s, %(planned)s, %(started)s, %(finished)s, %(code)s, 'h')",
        {
            "id": uuid4().hex,
            "task": task,
            "planned": started_at - late,
            "started": started_at,
            "finished": None if minutes is None else started_at + timedelta(minutes=minutes),
            "code": exit_code,
        },
    )


def notice(kind: NoticeKind, campaign_id: str, at: datetime) -> Notice:
    return Notice(str(uuid4()), kind, campaign_id, "s", "t", "h", ("support@example.com",), at)


def claim(database: Database, day: date, now: datetime) -> tuple[list[str], list[str]]:
    """Make the report of a date; the campaigns it tells of: of its day, and earlier."""
    with database.transaction():
        wanted = day_of(database, day, now)
        assert Figures(database).claim(wanted, str(uuid4()), now)
        on_the_day, before = Figures(database).uploads(wanted, is_preview=False)
    return [row.campaign.id for row in on_the_day.rows], [row.campaign.id for row in before.rows]


# --- uploads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        pytest.param(date(2026, 3, 29), 23, id="spring"),
        pytest.param(date(2026, 10, 25), 25, id="autumn"),
        pytest.param(date(2026, 11, 23), 24, id="ordinary"),
    ],
)
def test_uploads__borders_of_the_day(database: Database, day: date, hours: int) -> None:
    midnight = datetime.combine(day, datetime.min.time(), ROME).astimezone(UTC)
    add_upload(database, "23:59:59 before", midnight - SECOND)
    add_upload(database, "00:00:00", midnight)
    add_upload(database, "23:59:59", midnight + hours * HOUR - SECOND)
    add_upload(database, "24:00:00", midnight + hours * HOUR)
    told = claim(database, day, midnight + 40 * HOUR)
    assert told == (["00:00:00", "23:59:59"], ["23:59:59 before"])
    assert claim(database, day + timedelta(days=1), midnight + 40 * HOUR) == (["24:00:00"], [])


def test_uploads__each_is_told_once_whenever_reports_are_made(database: Database) -> None:
    for hour in range(-60, 40, 2):
        add_upload(database, f"{hour}", NOW + hour * HOUR)
    told: list[str] = []
    for day, now in ((21, NOW - 50 * HOUR), (22, NOW - 20 * HOUR), (23, NOW), (25, NOW + 40 * HOUR)):
        for section in claim(database, date(2026, 11, day), now):
            told += section
    assert sorted(told, key=int) == [f"{hour}" for hour in range(-60, 40, 2)]


def test_uploads__one_that_commits_late_is_not_lost(database_url: str, database: Database) -> None:
    with Database(database_url) as uploader:
        uploader.execute("BEGIN")
        add_upload(uploader, "slow", NOW - SECOND)
        assert claim(database, TODAY, NOW) == ([], [])
        uploader.execute("COMMIT")
    assert claim(database, TODAY + timedelta(days=1), NOW + 24 * HOUR) == ([], ["slow"])


def test_uploads__preview_shows_what_would_be_told_and_changes_nothing(database: Database) -> None:
    add_upload(database, "yesterday evening", NOW - 20 * HOUR)
    add_upload(database, "today", NOW - HOUR)
    day = day_of(database, TODAY, NOW)
    for _ in range(2):
        on_the_day, before = Figures(database).uploads(day, is_preview=True)
        assert [row.campaign.id for row in on_the_day.rows] == ["today"]
        assert [row.campaign.id for row in before.rows] == ["yesterday evening"]
    assert claim(database, TODAY, NOW) == (["today"], ["yesterday evening"])


def test_uploads__preview_of_a_reported_day_is_the_whole_day(database: Database) -> None:
    add_upload(database, "afternoon", NOW - HOUR)
    claim(database, TODAY, NOW)
    add_upload(database, "evening", NOW + HOUR)
    claim(database, TODAY + timedelta(days=1), NOW + 24 * HOUR)
    again = day_of(database, TODAY, NOW + 30 * HOUR)
    on_the_day, before = Figures(database).uploads(again, is_preview=True)
    assert [row.campaign.id for row in on_the_day.rows] == ["afternoon", "evening"]
    assert before.total == 0


def test_uploads__totals_count_the_rows_not_shown(database: Database) -> None:
    for number in range(SHOWN_ROWS + 5):
        add_upload(database, f"c{number}", NOW - HOUR - number * SECOND, assets=2)
    section, _ = Figures(database).uploads(day_of(database, TODAY, NOW), is_preview=True)
    assert len(section.rows) == SHOWN_ROWS
    assert (section.total, section.more, section.assets, section.size_bytes) == (
        SHOWN_ROWS + 5, 5, 2 * (SHOWN_ROWS + 5), 20 * (SHOWN_ROWS + 5),
    )  # fmt: skip


def test_record__began_with_the_first_file_since_the_last_upload(database: Database) -> None:
    def times() -> dict[str, Any]:
        row = database.row(
            "SELECT now() - started_at, completed_at, assets, bytes FROM campaign_uploads"
            " ORDER BY completed_at DESC LIMIT 1"
        )
        return dict(zip(("ago", "completed_at", "assets", "bytes"), row, strict=True))

    Ledger(database).record_upload("c", ASSET, BoxFile("1", "a.jpg", 5, "sha"), "r1")
    database.execute("UPDATE campaign_assets SET verified_at = now() - interval '3 hours'")
    Ledger(database).record_campaign_upload("c", UploadTotals(1, 5), "r2", None)
    first = times()
    assert 3 * HOUR <= first["ago"] < 3 * HOUR + 30 * SECOND
    assert (first["assets"], first["bytes"]) == (1, 5)

    Ledger(database).record_campaign_upload("c", UploadTotals(1, 5), "r3", datetime.now(UTC) - 60 * SECOND)
    assert 60 * SECOND <= times()["ago"] < 90 * SECOND, "the files of the upload before do not count"
    Ledger(database).record_campaign_upload("c", UploadTotals(1, 5), "r4", datetime.now(UTC) + HOUR)
    assert timedelta() <= times()["ago"] < 30 * SECOND, "never begun after its end"


# --- runs ---------------------------------------------------------------------------------------------------


def test_runs__are_counted_by_how_they_ended(database: Database) -> None:
    for code in (0, 0, 2, 3, 4, -9, 75, None):
        add_run(database, NOW - 3 * HOUR, exit_code=code)
    add_run(database, NOW - 2 * HOUR, late=timedelta(seconds=61))
    add_run(database, NOW - 2 * HOUR, late=timedelta(seconds=60))
    add_run(database, NOW - 2 * HOUR, task="daily_report")
    day = day_of(database, TODAY, NOW)
    assert Figures(database).runs(day) == (
        (
            TaskRuns("a1_to_a2", done=5, failing=1, late=1, failed=4, again=1),
            TaskRuns("daily_report", done=1),
        ),
        (),
    )


def test_runs__each_is_counted_in_one_report(database: Database) -> None:
    midnight = datetime(2026, 11, 22, 23, tzinfo=UTC)
    database.execute(
        "INSERT INTO daily_reports VALUES ('2026-11-22', gen_random_uuid(), '2026-11-22 18:00:03+00')"
    )
    add_run(database, midnight - 6 * HOUR, minutes=30)  # ended at 18:30 local: the report before told of it
    add_run(database, midnight - 5 * HOUR, minutes=30, exit_code=4)  # ran while that report was made
    add_run(database, midnight - SECOND, minutes=1, exit_code=75)  # ended after midnight
    add_run(database, NOW - SECOND, minutes=1)  # has not ended
    day = day_of(database, TODAY, NOW)
    assert Figures(database).runs(day) == (
        (TaskRuns("a1_to_a2", again=1),),
        (TaskRuns("a1_to_a2", done=1, failing=1),),
    )


def test_runs__without_an_end_are_lost_when_the_next_one_has_started(database: Database) -> None:
    add_run(database, NOW - 3 * HOUR, minutes=None, exit_code=None)
    add_run(database, NOW - 2 * HOUR)
    add_run(database, NOW - HOUR, minutes=None, exit_code=None)  # may run still
    add_run(database, NOW - 30 * HOUR, minutes=None, exit_code=None, task="gone")  # for more than a day
    on_the_day, before = Figures(database).runs(day_of(database, TODAY, NOW))
    assert on_the_day == (TaskRuns("a1_to_a2", done=1, lost=1), TaskRuns("gone", lost=1))
    assert before == ()


# --- what stands --------------------------------------------------------------------------------------------


def test_standing__retry_failed_errors_and_backlog(database: Database) -> None:
    for campaign_id, status, attempts, failed in (
        ("retry", "A1", 2, False), ("fresh", "A1", 0, False), ("left", "B1", 1, False),
        ("unknown", "A1", 1, None), ("failed", "A1", 3, True), ("failed elsewhere", "B1", 3, True),
    ):  # fmt: skip
        database.execute(
            "ALTER TABLE campaign_status ALTER a1_permanently_failed DROP NOT NULL;"
            "INSERT INTO campaign_status (campaign_id, campaign_number, status, a1_retry_count,"
            " a1_permanently_failed, a1_last_retry_at)"
            " VALUES (%(id)s, 'C-1', %(status)s, %(n)s, %(failed)s, %(at)s)",
            {"id": campaign_id, "status": status, "n": attempts, "failed": failed, "at": NOW - HOUR},
        )
    database.execute(
        "UPDATE campaign_status SET a1_last_retry_at = NULL WHERE campaign_id = 'failed elsewhere'"
    )
    retry = Figures(database).in_retry("A1")
    assert [(row.campaign.id, row.attempts) for row in retry.rows] == [("retry", 2), ("unknown", 1)]
    failed_ones = Figures(database).failed()
    assert [(row.campaign, row.last_attempt_at) for row in failed_ones.rows] == [
        (Campaign("failed", "C-1", "", "A1"), NOW - HOUR),
        (Campaign("failed elsewhere", "C-1", "", "B1"), None),
    ]

    LastingErrors(database).note("retry", "Box/locked", "still locked")
    (failure,) = Figures(database).failures().rows
    assert (failure.campaign.number, failure.kind, failure.message) == ("C-1", "Box/locked", "still locked")
    for campaign_id, kind, at in (
        ("retry", NoticeKind.ERROR, NOW - HOUR), ("over", NoticeKind.ERROR, NOW - HOUR),
        ("over", NoticeKind.ERROR, NOW - 2 * HOUR), ("long over", NoticeKind.ERROR, NOW - 30 * HOUR),
        ("", NoticeKind.ERROR, NOW - HOUR), ("other", NoticeKind.RETRY, NOW - HOUR),
    ):  # fmt: skip
        Outbox(database).queue(notice(kind, campaign_id, at))
    day = day_of(database, TODAY, NOW)
    assert [campaign.id for campaign in Figures(database).failures_over(day).rows] == ["over"]

    assert Figures(database).backlog(day) == Backlog()
    for age in (5, 120):
        one = notice(NoticeKind.RETRY, "c", NOW - age * HOUR)
        Outbox(database).queue(one)
        assert Outbox(database).claim_mail(one.id, NOW - HOUR, pauses=[HOUR], doubt_pauses=[HOUR]) is not None
        Outbox(database).record_refused(
            one.id, one.recipients, "450 later", NOW - HOUR, give_up_before=NOW - 99 * HOUR
        )
    assert Figures(database).backlog(day) == Backlog(1, NOW - 5 * HOUR, 1)
    database.execute("UPDATE notice_deliveries SET doubts = 10 WHERE gave_up_at IS NOT NULL")
    assert Figures(database).backlog(day) == Backlog(1, NOW - 5 * HOUR, 0, 1)
    assert Figures(database).backlog(day_of(database, TODAY, NOW - 2 * HOUR)).given_up == 0


def test_names__come_back_as_they_are(database: Database) -> None:
    name = 'Robert\'); DROP TABLE campaign_status;-- %s 100% "<b>" 🎉\n'
    Standing(database).record_in_a1(Campaign("c", "C-1", name, "A1"))
    add_upload(database, "c", NOW - HOUR)
    section, _ = Figures(database).uploads(day_of(database, TODAY, NOW), is_preview=True)
    assert section.rows[0].campaign == Campaign("c", "C-1", name, "A1")


# --- once a date --------------------------------------------------------------------------------------------


def test_claim__of_two_at_once_one_wins(database_url: str) -> None:
    won: list[bool] = []
    start = threading.Barrier(6)

    def report() -> None:
        with Database(database_url) as own:
            day = day_of(own, TODAY, NOW)
            start.wait(10)
            with own.transaction():
                notice_id = str(uuid4())
                is_ours = Figures(own).claim(day, notice_id, NOW)
                if is_ours:
                    Outbox(own).queue(notice(NoticeKind.DAILY_REPORT, "", NOW))
            won.append(is_ours)

    threads = [threading.Thread(target=report) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    with Database(database_url) as database:
        assert database.rows("SELECT kind FROM notices") == [("daily_report",)]
        assert Figures(database).queued_at(TODAY) == NOW


def test_claim__that_is_rolled_back_leaves_the_date_and_the_uploads(database: Database) -> None:
    add_upload(database, "c", NOW - HOUR)

    def claim_and_fail() -> None:
        with database.transaction():
            assert Figures(database).claim(day_of(database, TODAY, NOW), str(uuid4()), NOW)
            database.execute("SELECT 1/0")

    with pytest.raises(DbError):
        claim_and_fail()
    assert Figures(database).queued_at(TODAY) is None
    assert claim(database, TODAY, NOW) == (["c"], [])


def test_claim__again_after_its_row_was_deleted_tells_the_same(database: Database) -> None:
    add_upload(database, "evening", NOW - 20 * HOUR)
    add_upload(database, "today", NOW - HOUR)
    told = claim(database, TODAY, NOW)
    assert told == (["today"], ["evening"])
    database.execute("DELETE FROM daily_reports")
    assert claim(database, TODAY, NOW + HOUR) == told


def test_queue__an_upload_that_commits_meanwhile_is_left_to_the_next_report(database_url: str) -> None:
    class Interrupted(Database):
        """An upload is completed when the report's date has been taken."""

        def execute(self, sql: str, values: Mapping[str, object] | None = None) -> int:
            count = super().execute(sql, values)
            if sql is report_figures.ASSIGN_UPLOADS:
                with Database(database_url) as uploader:
                    add_upload(uploader, "meanwhile", NOW - SECOND)
            return count

    settings = load_report_settings(
        {
            "DATABASE_URL": database_url,
            "SMTP_HOST": "h",
            "MAIL_FROM": "a@example.com",
            "ERROR_NOTIFICATION_EMAILS": "b@example.com",
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
        }
    )
    composer = Composer(
        timezone=ROME,
        max_attempts=3,
        folder_name="Master Assets",
        commands=COMMANDS,
        error_recipients=(),
        success_recipients=(),
        report_recipients=settings.mail.report_recipients,
    )
    with Interrupted(database_url) as database:
        queue_report(database, settings, composer, day_of(database, TODAY, NOW), NOW)
        ((text,),) = database.rows("SELECT body_text FROM notices")
    assert "Nothing happened" in text
    with Database(database_url) as database:
        assert claim(database, TODAY + timedelta(days=1), NOW + 24 * HOUR) == ([], ["meanwhile"])


# --- resets -------------------------------------------------------------------------------------------------


def test_resets__are_those_of_the_reports_time(database: Database) -> None:
    day = day_of(database, TODAY, NOW)
    database.execute(
        """
        INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status)
        VALUES ('c', 'C-1', 'Easter', 'A1');
        INSERT INTO campaign_events (campaign_id, at, kind, actor, source, reason, detail)
        SELECT campaign_id, %(at)s::timestamptz + minutes * interval '1 minute', kind, actor, source, reason,
               detail::jsonb
        FROM (VALUES
            ('c', -2, 'reset', 'ann', 'page', 'the day before', '{}'),
            ('c', 0, 'attempt', 'x', 'upload', '', '{"attempt": 3, "permanently_failed": true}'),
            ('c', 1, 'reset', 'ann', 'page', 'files are there', '{"act": 7}'),
            ('c', 2, 'undo', 'ann', 'page', '', '{"undoes": 7}'),
            ('c', 3, 'attempt', 'x', 'upload', '', '{"attempt": 3, "permanently_failed": true}'),
            ('c', 4, 'reset', 'bob', 'psql', '', '{}'),
            ('gone', 5, 'reset', 'a1_to_a2', 'auto', 'after 30 days', '{}'),
            ('c', 6, 'reset', 'a1_to_a2', 'upload', '', '{}'),
            ('c', 7, 'attempt', 'x', 'upload', '', '{"attempt": 1, "permanently_failed": false}'),
            ('gone', 2000, 'reset', 'ann', 'page', 'the day after', '{}')
        ) e(campaign_id, minutes, kind, actor, source, reason, detail)
        """,
        {"at": day.since},
    )
    figures = Figures(database)
    found = figures.resets(day)
    assert [
        (one.campaign.label or one.campaign.id, one.actor, one.reason, one.is_undone) for one in found.rows
    ] == [
        ("C-1 Easter", "ann", "files are there", True),
        ("C-1 Easter", "bob", "", False),
        ("gone", "a1_to_a2", "after 30 days", False),
    ]
    assert [one.is_automatic for one in found.rows] == [False, False, True]
    assert found.total == 3
    assert figures.newly_failed(day) == 1


# --- cost ---------------------------------------------------------------------------------------------------


def test_cost__no_statement_reads_the_history(database: Database) -> None:
    database.execute("""
        INSERT INTO campaign_status (campaign_id, status, a1_retry_count)
            SELECT 'c' || n, 'A2', 0 FROM generate_series(1, 20000) n;
        INSERT INTO campaign_uploads
            (campaign_id, completed_at, started_at, assets, bytes, run_id, report_date)
            SELECT 'c' || n, at, at, 1, 1, 'r', at::date FROM generate_series(1, 20000) n,
                LATERAL (SELECT '2026-11-20'::timestamptz - n * interval '1 hour') t(at);
        INSERT INTO orchestrator_task_runs
            (run_id, task, planned_at, started_at, finished_at, exit_code, host)
            SELECT n::text, 'a1_to_a2', at, at, at, 0, 'h' FROM generate_series(1, 20000) n,
                LATERAL (SELECT '2026-11-23'::timestamptz - n * interval '3 minutes') t(at);
        INSERT INTO notices
            SELECT gen_random_uuid(), 'a1_to_a2_error', 'c' || n, '', '', '',
                   '2026-11-20'::timestamptz - n * interval '1 hour' FROM generate_series(1, 20000) n;
        INSERT INTO notice_deliveries (notice_id, recipient, tries, next_try_at, sent_at)
            SELECT id, 'a', 1, created_at, created_at FROM notices;
        INSERT INTO campaign_events (campaign_id, at, kind, actor, source)
            SELECT 'c' || n, '2026-11-20'::timestamptz - n * interval '1 hour',
                   CASE n % 2 WHEN 0 THEN 'reset' ELSE 'attempt' END, 'a', 'page'
            FROM generate_series(1, 20000) n;
        INSERT INTO daily_reports
            SELECT '2026-11-20'::date - n, gen_random_uuid() FROM generate_series(1, 3000) n;
    """)
    database.execute("ANALYZE")
    day = report_day(TODAY, NOW, ROME, None)
    values = {
        "report_date": day.date, "start": day.start, "since": day.since, "until": day.until,
        "is_preview": True, "limit": SHOWN_ROWS, "status": "A1", "kind": "a1_to_a2_error",
        "late_after": SECOND, "lost_after": 24 * HOUR, "try_later": 75, "some_failed": 4,
        "doubts": 10,
    }  # fmt: skip
    for name in (
        "DAILY_REPORT_QUEUED_AT", "PREVIOUS_DAILY_REPORT", "ASSIGN_UPLOADS", "REPORTED_UPLOADS",
        "CAMPAIGNS_IN_RETRY", "FAILED_CAMPAIGNS", "LASTING_FAILURES", "FAILURES_OVER", "ENDED_RUNS",
        "OUTBOX_BACKLOG", "NEWLY_FAILED", "RESETS",
    ):  # fmt: skip
        plan = "\n".join(row[0] for row in database.rows(f"EXPLAIN {getattr(report_figures, name)}", values))
        for table in ("campaign_status", "campaign_uploads", "orchestrator_task_runs", "notices",
                      "notice_deliveries", "daily_reports", "campaign_events"):  # fmt: skip
            assert f"Seq Scan on {table}" not in plan, f"{name}\n{plan}"
