"""The figures of the daily report: its SQL, and the mark that a date has its report.

Each section of the report is one statement; of its rows SHOWN_ROWS at most are read, with the count of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared.base.errors import ExitCode
from shared.base.values import MOST_DOUBTS, Campaign, NoticeKind
from shared.database import Database
from shared.report.day import (
    LATE_AFTER,
    LOST_AFTER,
    SHOWN_ROWS,
    Backlog,
    EmptyCampaign,
    LastingFailure,
    ReportDay,
    Row,
    Section,
    TaskRuns,
    Upload,
    UploadSection,
)

DAILY_REPORT_QUEUED_AT = "SELECT queued_at FROM daily_reports WHERE report_date = %(report_date)s"

PREVIOUS_DAILY_REPORT = """
SELECT report_date, queued_at FROM daily_reports WHERE report_date < %(report_date)s
ORDER BY report_date DESC LIMIT 1
"""

# Of two processes with the same date, the second waits here for the first and then inserts nothing.
CLAIM_DAILY_REPORT = """
INSERT INTO daily_reports (report_date, notice_id, queued_at)
VALUES (%(report_date)s, %(notice_id)s, %(queued_at)s)
ON CONFLICT (report_date) DO NOTHING
"""

# A report lists an upload from the future at once: a clock that ran ahead wrote its date.
ASSIGN_UPLOADS = """
UPDATE campaign_uploads SET report_date = %(report_date)s
WHERE report_date IS NULL AND (completed_at < %(until)s OR completed_at > now() + interval '5 minutes')
"""

LATEST_REPORT = "SELECT now(), max(report_date) FROM daily_reports"

# Reports of dates that have not begun: a clock that ran ahead made them. Those dates are still owed theirs,
# and the uploads that they told of are today's.
FORGET_LATER_REPORTS = """
DELETE FROM daily_reports WHERE report_date > %(today)s;
UPDATE campaign_uploads SET report_date = %(today)s WHERE report_date > %(today)s
"""

# The uploads of a report: those it claimed, and of its own day those that a later report told of. A preview
# also shows those that the report would claim.
REPORTED_UPLOADS = """
SELECT is_before, total, total_assets, total_bytes, campaign_id, coalesce(campaign_number, ''),
       coalesce(campaign_name, ''), c.status, assets, bytes, started_at, completed_at
FROM (SELECT u.*, u.completed_at < %(start)s AS is_before, count(*) OVER section AS total,
             sum(u.assets) OVER section AS total_assets, sum(u.bytes) OVER section::bigint AS total_bytes,
             row_number() OVER (PARTITION BY u.completed_at < %(start)s
                                ORDER BY u.completed_at, u.campaign_id) AS place
      FROM campaign_uploads u
      WHERE u.report_date = %(report_date)s
         OR (u.report_date IS NOT NULL AND u.completed_at >= %(start)s AND u.completed_at < %(until)s)
         OR (%(is_preview)s AND u.report_date IS NULL
             AND (u.completed_at < %(until)s OR u.completed_at > now() + interval '5 minutes'))
      WINDOW section AS (PARTITION BY u.completed_at < %(start)s)) numbered
LEFT JOIN campaign_status c USING (campaign_id)
WHERE place <= %(limit)s
ORDER BY is_before, place
"""

CAMPAIGNS_IN_RETRY = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       a1_retry_count, a1_last_retry_at, coalesce(a1_failure_reason, '')
FROM campaign_status
WHERE status = %(status)s AND a1_retry_count > 0 AND NOT coalesce(a1_permanently_failed, FALSE)
ORDER BY a1_retry_count DESC, a1_last_retry_at, campaign_id LIMIT %(limit)s
"""

FAILED_CAMPAIGNS = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       coalesce(a1_retry_count, 0), a1_last_retry_at, coalesce(a1_failure_reason, '')
FROM campaign_status
WHERE a1_permanently_failed
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id LIMIT %(limit)s
"""

# Those that a notice told of: what is still expected to heal by itself is none of them.
LASTING_FAILURES = """
SELECT total, campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status, kind, message,
       began_at
FROM (SELECT count(*) OVER () AS total, campaign_id, kind, message, began_at FROM campaign_errors
      WHERE last_notice_at > '-infinity' ORDER BY began_at DESC, campaign_id, kind LIMIT %(limit)s) shown
LEFT JOIN campaign_status c USING (campaign_id)
ORDER BY began_at DESC, campaign_id, kind
"""

FAILING_CAMPAIGNS = (
    "SELECT count(DISTINCT campaign_id) FROM campaign_errors WHERE last_notice_at > '-infinity'"
)

# Campaigns that an error notice was about and that fail no more.
FAILURES_OVER = """
SELECT total, campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status
FROM (SELECT count(*) OVER () AS total, campaign_id
      FROM (SELECT DISTINCT campaign_id FROM notices
            WHERE kind = %(kind)s AND created_at >= %(since)s AND created_at < %(until)s
              AND campaign_id <> '') n
      WHERE NOT EXISTS (SELECT FROM campaign_errors e WHERE e.campaign_id = n.campaign_id)
      ORDER BY campaign_id LIMIT %(limit)s) shown
LEFT JOIN campaign_status c USING (campaign_id)
ORDER BY campaign_id
"""

# Runs by the moment they ended, so that each is counted in one report. One without an end has been lost since
# the next run of its task started, at the latest a day after its own start.
ENDED_RUNS = """
SELECT ended_at < %(start)s, task,
       count(*) FILTER (WHERE NOT is_lost AND exit_code IN (0, %(some_failed)s)),
       count(*) FILTER (WHERE NOT is_lost AND exit_code = %(some_failed)s),
       count(*) FILTER (WHERE started_at > planned_at + %(late_after)s),
       count(*) FILTER (WHERE NOT is_lost
                          AND coalesce(exit_code, -1) NOT IN (0, %(some_failed)s, %(try_later)s)),
       count(*) FILTER (WHERE NOT is_lost AND exit_code = %(try_later)s),
       count(*) FILTER (WHERE is_lost)
FROM (SELECT task, planned_at, started_at, exit_code, finished_at IS NULL AS is_lost,
             coalesce(finished_at, least(lead(started_at) OVER (PARTITION BY task ORDER BY started_at),
                                         started_at + %(lost_after)s)) AS ended_at
      FROM orchestrator_task_runs
      WHERE started_at >= %(since)s - %(lost_after)s AND started_at < %(until)s) runs
WHERE ended_at >= %(since)s AND ended_at < %(until)s
GROUP BY 1, 2 ORDER BY 1, 2
"""

# doubts: at this many a mail is given up that may have arrived.
OUTBOX_BACKLOG = """
SELECT count(*), min(n.created_at),
       (SELECT count(*) FROM notice_deliveries
        WHERE gave_up_at >= %(since)s AND gave_up_at < %(until)s AND doubts < %(doubts)s),
       (SELECT count(*) FROM notice_deliveries
        WHERE gave_up_at >= %(since)s AND gave_up_at < %(until)s AND doubts >= %(doubts)s)
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.sent_at IS NULL AND d.gave_up_at IS NULL AND d.tries > 0
"""


class Figures:
    """What the database knows for the report. Every method raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def queued_at(self, report_date: date) -> datetime | None:
        """When the report of a local date was put into the outbox; None: not yet."""
        rows = self._database.rows(DAILY_REPORT_QUEUED_AT, {"report_date": report_date})
        return rows[0][0] if rows else None

    def previous(self, report_date: date) -> tuple[date, datetime] | None:
        """The latest report of an earlier date, as (its date, when it was made)."""
        rows = self._database.rows(PREVIOUS_DAILY_REPORT, {"report_date": report_date})
        return (rows[0][0], rows[0][1]) if rows else None

    def forget_later(self, now: datetime, zone: ZoneInfo) -> None:
        """Take back the reports of dates that have not begun, by our clock and by the server's: the one that
        made them ran ahead. A clock that was set back alone takes back none.
        """
        server_now, latest = self._database.row(LATEST_REPORT)
        today = max(now, server_now).astimezone(zone).date()
        if latest is not None and latest > today:
            self._database.execute(FORGET_LATER_REPORTS, {"today": today})

    def claim(self, day: ReportDay, notice_id: str, now: datetime) -> bool:
        """Take the report of a date, and the uploads that no report has told of, in the caller's transaction.

        False when the date is taken; then nothing has been changed.
        """
        values = {"report_date": day.date, "notice_id": notice_id, "queued_at": now, "until": day.until}
        if self._database.execute(CLAIM_DAILY_REPORT, values) == 0:
            return False
        self._database.execute(ASSIGN_UPLOADS, values)
        return True

    def uploads(self, day: ReportDay, *, is_preview: bool) -> tuple[UploadSection, UploadSection]:
        """The uploads of the day, and those before it that no earlier report told of.

        is_preview: with those that the report would claim, did it not only look.
        """
        rows = self._database.rows(
            REPORTED_UPLOADS,
            {
                "report_date": day.date,
                "start": day.start,
                "until": day.until,
                "is_preview": is_preview,
                "limit": SHOWN_ROWS,
            },
        )

        def section(wanted: bool) -> UploadSection:
            chosen = [row for row in rows if row[0] is wanted]
            if not chosen:
                return UploadSection()
            uploads = tuple(Upload(_campaign(row[3:]), *row[8:]) for row in chosen)
            return UploadSection(uploads, *chosen[0][1:4])

        return section(False), section(True)

    def in_retry(self, status: str) -> Section[EmptyCampaign]:
        """Campaigns in this status that have spent an attempt and will be looked at again."""
        rows = self._database.rows(CAMPAIGNS_IN_RETRY, {"status": status, "limit": SHOWN_ROWS})
        return _section(rows, [EmptyCampaign(_campaign(row), *row[5:]) for row in rows])

    def failed(self) -> Section[EmptyCampaign]:
        """Every permanently failed campaign, the latest first."""
        rows = self._database.rows(FAILED_CAMPAIGNS, {"limit": SHOWN_ROWS})
        return _section(rows, [EmptyCampaign(_campaign(row), *row[5:]) for row in rows])

    def failures(self) -> Section[LastingFailure]:
        """Failures of campaigns that are not over, the latest first."""
        rows = self._database.rows(LASTING_FAILURES, {"limit": SHOWN_ROWS})
        return _section(rows, [LastingFailure(_campaign(row), *row[5:]) for row in rows])

    def campaigns_failing(self) -> int:
        """How many campaigns fail at present, however many failures each has."""
        return int(self._database.row(FAILING_CAMPAIGNS)[0])

    def failures_over(self, day: ReportDay) -> Section[Campaign]:
        """Campaigns that an error notice was about in the report's time, and that fail no more."""
        values = {
            "kind": NoticeKind.ERROR.value,
            "since": day.since,
            "until": day.until,
            "limit": SHOWN_ROWS,
        }
        rows = self._database.rows(FAILURES_OVER, values)
        return _section(rows, [_campaign(row) for row in rows])

    def runs(self, day: ReportDay) -> tuple[tuple[TaskRuns, ...], tuple[TaskRuns, ...]]:
        """The runs that ended in the day, by task, and those that ended since the report before it."""
        values = {
            "start": day.start,
            "since": day.since,
            "until": day.until,
            "late_after": LATE_AFTER,
            "lost_after": LOST_AFTER,
            "some_failed": ExitCode.SOME_FAILED.value,
            "try_later": ExitCode.TRY_LATER.value,
        }
        rows = self._database.rows(ENDED_RUNS, values)
        on_the_day = tuple(TaskRuns(*row[1:]) for row in rows if not row[0])
        return on_the_day, tuple(TaskRuns(*row[1:]) for row in rows if row[0])

    def backlog(self, day: ReportDay) -> Backlog:
        """E-mails that the mail server has been given and did not take."""
        values = {"since": day.since, "until": day.until, "doubts": MOST_DOUBTS}
        return Backlog(*self._database.row(OUTBOX_BACKLOG, values))


def _campaign(row: tuple[Any, ...]) -> Campaign:
    """The campaign of a row that begins with a count and then has id, number, name and status."""
    return Campaign(*row[1:5])


def _section(rows: list[tuple[Any, ...]], parsed: Sequence[Row]) -> Section[Row]:
    """The parsed rows, with the count of all of them that each row begins with."""
    return Section(tuple(parsed), rows[0][0] if rows else 0)
