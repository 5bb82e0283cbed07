"""The daily report as strings and numbers that are safe to stand in a line: what its templates are given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared.base.commands import Commands
from shared.base.values import Campaign
from shared.notices.wording import abbreviation, duration, human_size, one_line, rounded_size, short_time
from shared.report.day import DayReport, EmptyCampaign, LastingFailure, Section, TaskRuns, Upload

# What the templates are given of a report: strings and numbers that are safe to stand in a line.
_Row = dict[str, Any]


def report_values(report: DayReport, zone: ZoneInfo, commands: Commands, now: datetime) -> _Row:
    day = report.day
    since, until = short_time(day.since, zone), day.until.astimezone(zone)
    return {
        "date": day.date.isoformat(),
        "weekday": f"{day.date:%A} {day.date.day} {day.date:%B} {day.date.year}",
        "zone": str(zone),
        "until": "" if day.is_over else f"{until:%H:%M} {abbreviation(until)}",
        "since": since if day.since < day.start else "",
        "is_quiet": report.is_quiet,
        "tone": "red" if report.needs_somebody else "amber" if report.has_trouble else "green",
        "uploads": _section(report.uploads, [_upload_row(row, zone) for row in report.uploads.rows]),
        "uploads_before": _section(
            report.uploads_before, [_upload_row(row, zone) for row in report.uploads_before.rows]
        ),
        "uploaded_assets": report.uploads.assets,
        "uploaded_size": human_size(report.uploads.size_bytes),
        "in_retry": _section(
            report.in_retry, [_empty_row(row, report, zone, now) for row in report.in_retry.rows]
        ),
        "next_run": short_time(report.next_run_at, zone),
        "failed": _section(
            report.failed,
            [
                _empty_row(row, report, zone, now) | {"command": commands.reset(row.campaign.id)}
                for row in report.failed.rows
            ],
        ),
        "reset_all_command": commands.run("a1_retry.py", "reset", "--all-failed"),
        "where": commands.where,
        "unsent_command": commands.run("a1_retry.py", "unsent"),
        "failures": _section(
            report.failures, [_failure_row(row, report, zone, now) for row in report.failures.rows]
        ),
        "failures_over": _section(
            report.failures_over, [{"label": _label(campaign)} for campaign in report.failures_over.rows]
        ),
        "alerts": [
            {
                "task": one_line(alert.task),
                "ending": one_line(alert.ending),
                "failures": alert.failures,
                "since": short_time(alert.began_at, zone),
                "age": duration(now - alert.began_at),
            }
            for alert in report.alerts
        ],
        "runs": [_runs_row(task) for task in report.runs],
        "runs_before": [_runs_row(task) for task in report.runs_before],
        "runs_total": sum(task.total for task in report.runs),
        "runs_failing": sum(task.failing for task in report.runs),
        "campaigns_failing": report.campaigns_failing + report.failures_over.total,
        "runs_in_trouble": sum(task.total - task.done for task in report.runs),
        "runs_late": sum(task.late for task in report.runs),
        "waiting": report.backlog.waiting,
        "waiting_since": short_time(report.backlog.oldest_at, zone) if report.backlog.oldest_at else "",
        "given_up": report.backlog.given_up,
        "doubtful": report.backlog.doubtful,
    }


def _section(section: Section[Any], rows: Sequence[_Row]) -> _Row:
    return {"rows": rows, "total": section.total, "more": section.more}


def _label(campaign: Campaign) -> str:
    """Number and name; the id when there is neither."""
    return one_line(campaign.label, limit=120) or one_line(campaign.id)


def _upload_row(upload: Upload, zone: ZoneInfo) -> _Row:
    return {
        "label": _label(upload.campaign),
        "assets": upload.assets,
        "size": rounded_size(upload.size_bytes),
        "duration": duration(upload.completed_at - upload.started_at),
        "at": short_time(upload.completed_at, zone),
    }


def _empty_row(row: EmptyCampaign, report: DayReport, zone: ZoneInfo, now: datetime) -> _Row:
    last = row.last_attempt_at
    return {
        "label": _label(row.campaign),
        "attempt": row.attempts,
        "status": one_line(row.campaign.status or "", limit=40),
        "at": short_time(last, zone) if last else "",
        "age": duration(now - last) if last else "",
        "is_new": last is not None and last >= report.day.since,
        "reason": one_line(row.reason, limit=200),
    }


def _failure_row(row: LastingFailure, report: DayReport, zone: ZoneInfo, now: datetime) -> _Row:
    return {
        "label": _label(row.campaign),
        "kind": one_line(row.kind, limit=80),
        "message": one_line(row.message, limit=300),
        "since": short_time(row.began_at, zone),
        "age": duration(now - row.began_at),
        "is_new": row.began_at >= report.day.since,
    }


def _runs_row(runs: TaskRuns) -> _Row:
    return {
        "task": one_line(runs.task, limit=60),
        "done": runs.done,
        "failing": runs.failing,
        "late": runs.late,
        "failed": runs.failed,
        "again": runs.again,
        "lost": runs.lost,
    }
