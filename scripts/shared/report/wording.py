"""Prepares the values of the daily report and the weekly digest for their templates."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from shared.base.commands import Commands
from shared.base.links import Links
from shared.base.values import Campaign
from shared.notices.wording import (
    abbreviation,
    age,
    duration,
    human_size,
    one_line,
    rounded_size,
    short_time,
)
from shared.report.figures import DayReport, Section
from shared.report.week import WeekReport

LONGEST_TEXT = 300
LINKED_ROWS = 30
"""Most rows of a section where each has a link: the report stays below the size at which mail clients cut it
off, and the page has the whole list.
"""


def report_values(
    report: DayReport, zone: ZoneInfo, commands: Commands, links: Links, now: datetime
) -> dict[str, Any]:
    """The values for the templates of a report: its fields, and what belongs to none of them."""
    if links.page:
        report = _shortened(report)
    day, until, words = (
        report.day,
        report.day.until.astimezone(zone),
        _Words(zone, commands, links, report.day.since, now),
    )
    return {
        **{one.name: words.of(getattr(report, one.name)) for one in fields(report)},
        "all_runs": report.all_runs,
        "date": day.date.isoformat(),
        "weekday": f"{day.date:%A} {day.date.day} {day.date:%B} {day.date.year}",
        "zone": str(zone),
        "until": "" if day.is_over else f"{until:%H:%M} {abbreviation(until)}",
        "since": short_time(day.since, zone) if day.since < day.start else "",
        "is_quiet": report.is_quiet,
        "for_support": _for_support(report),
        "for_engineer": _for_engineer(report),
        "tone": "red" if report.needs_somebody else "amber" if report.has_trouble else "green",
        "reset_all_command": commands.run("a1_retry.py", "reset", "--all-failed"),
        "unsent_command": commands.run("a1_retry.py", "unsent"),
        "where": commands.where,
        "lists": _lists(links, are_given_up=bool(report.backlog.given_up or report.backlog.doubtful)),
        "rounded_size": rounded_size,
        "human_size": human_size,
    }


def _for_support(report: DayReport) -> str:
    """What the support team has to do, in one sentence; "" for nothing."""
    todo = []
    if failed := report.failed.total:
        words = "permanently failed campaign needs" if failed == 1 else "permanently failed campaigns need"
        todo.append(f"{failed} {words} files and a reset")
    if failing := report.failures.total:
        words = "error of a campaign" if failing == 1 else "errors of campaigns"
        todo.append(f"{failing} {words} must be solved")
    return "; ".join(todo)


def _for_engineer(report: DayReport) -> str:
    """What the engineer has to do, in one sentence; "" for nothing."""
    todo = []
    if tasks := len({alert.task for alert in report.alerts}):
        todo.append(f"{tasks} {'task keeps' if tasks == 1 else 'tasks keep'} failing")
    if given_up := report.backlog.given_up + report.backlog.doubtful:
        todo.append(f"{given_up} {'e-mail was' if given_up == 1 else 'e-mails were'} given up")
    if dead := report.backlog.webhooks_dead:
        todo.append(f"{dead} {'webhook was' if dead == 1 else 'webhooks were'} given up")
    return "; ".join(todo)


def _shortened(report: DayReport) -> DayReport:
    """The report with at most LINKED_ROWS in each section."""
    values = {one.name: getattr(report, one.name) for one in fields(report)}
    shortened: dict[str, Any] = {
        name: replace(value, rows=value.rows[:LINKED_ROWS])
        for name, value in values.items()
        if isinstance(value, Section)
    }
    return replace(report, **shortened)


def digest_values(
    report: WeekReport, zone: ZoneInfo, commands: Commands, links: Links, now: datetime
) -> dict[str, Any]:
    """The values for the templates of a weekly digest."""
    words = _Words(zone, commands, links, now, now)
    return {
        **{one.name: words.of(getattr(report, one.name)) for one in fields(report)},
        "date": report.date.isoformat(),
        "is_quiet": report.is_quiet,
        "tone": "red" if report.needs_somebody else "green" if report.is_quiet else "amber",
        "unsent_command": commands.run("a1_retry.py", "unsent"),
        "failed_command": commands.run("a1_retry.py", "failed"),
        "where": commands.where,
        "lists": _lists(links, are_given_up=not all(one.is_waiting for one in report.untold.rows)),
    }


def _lists(links: Links, *, are_given_up: bool) -> dict[str, str]:
    """{list: its address on the operator's page}. are_given_up: whether some notices are."""
    states = ("failed", "snoozed", "erring", "in_retry", "uploaded")
    return {state: links.campaigns(state) for state in states} | {
        "notices": links.on_page("/notices?state=given_up" if are_given_up else "/notices"),
        "runs": links.on_page("/runs"),
    }


@dataclass(frozen=True, slots=True)
class _Words:
    """Puts values into words for a line of the e-mail. news_since: what happened later is new."""

    zone: ZoneInfo
    commands: Commands
    links: Links
    news_since: datetime
    now: datetime

    def of(self, value: Any) -> Any:
        """The value for a template, by its type; numbers and None stay."""
        if isinstance(value, str):
            return one_line(value, LONGEST_TEXT)
        if isinstance(value, datetime):
            ago = age(self.now - value)
            return _Moment(short_time(value, self.zone), ago, value >= self.news_since)
        if isinstance(value, timedelta):
            return duration(value)
        if isinstance(value, tuple):
            return [self.of(one) for one in value]
        if isinstance(value, Campaign):
            return self._campaign(value)
        return _InWords(value, self) if is_dataclass(value) else value

    def _campaign(self, campaign: Campaign) -> dict[str, str]:
        return {
            "label": one_line(campaign.label, limit=120) or one_line(campaign.id),
            "status": one_line(campaign.status or "", limit=40),
            "reset_command": self.commands.reset(campaign.id),
            "page_url": self.links.campaign(campaign.id),
        }


@dataclass(frozen=True, slots=True)
class _Moment:
    """A time in words. age: how long ago. is_new: since the report before this one."""

    text: str
    age: str
    is_new: bool

    def __str__(self) -> str:
        return self.text


class _InWords:
    """One of the report's values; its fields are read as words."""

    def __init__(self, value: object, words: _Words) -> None:
        self._value = value
        self._words = words

    def __getattr__(self, name: str) -> Any:
        return self._words.of(getattr(self._value, name))
