"""Computes what `--simulate` prints: what the runs of the coming days will do, and what other settings would
change. It applies the rules of the runs, and changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from shared.base.redaction import escape_line
from shared.base.script import say, shown
from shared.base.values import NoticeKind, RetryStatus
from shared.database import Database
from shared.loop.tasks import TASKS, tasks_with
from shared.notices.delivery import CROWD
from shared.rules.cadence import timeline
from shared.rules.retry import RetryPolicy
from shared.rules.simulation import Event, Kind, Stuck, simulate
from shared.settings import DAY_NAMES, OperatorSettings, PolicySettings
from shared.upkeep.schema import Schema

UPLOADER = TASKS[0].name

A1_CAMPAIGNS = """
SELECT campaign_id FROM campaign_status WHERE status = %(status_a1)s ORDER BY campaign_number, campaign_id
"""

FIGURES = {
    "runs_in_hours": "runs in office hours",
    "runs_off_hours": "runs outside office hours",
    "attempts": "attempts",
    "permanent_failures": "permanent failures",
    "auto_resets": "automatic resets",
    "emails_retry": "e-mails: retry",
    "emails_permanent": "e-mails: permanent failure",
}
"""{figure: what it counts, in words}; e-mails per recipient. The reports are added to these."""
COLUMNS = ("IN HOURS", "OFF HOURS", "ATTEMPTS", "GIVEN UP", "RESETS", "RETRY", "PERMANENT", "REPORTS")
"""The titles of the table's columns, in the order of the figures; all reports are one column."""
DAY_WIDTH = 14
ABSENT = "-"
EMPTY = "(empty)"
OF_EVENT = {
    Kind.ATTEMPT: "attempts",
    Kind.PERMANENT_FAILURE: "permanent_failures",
    Kind.AUTO_RESET: "auto_resets",
}
OF_NOTICE = {NoticeKind.RETRY: "emails_retry", NoticeKind.PERMANENT: "emails_permanent"}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the runs after `start` until `until` do. reports: the tasks whose runs are an e-mail each.
    by_day: by local date. first: what happens to the first of the campaigns.
    """

    policy: PolicySettings
    start: datetime
    until: datetime
    campaigns: tuple[Stuck, ...]
    reports: tuple[str, ...]
    by_day: dict[date, Counter[str]]
    first: tuple[Event, ...]

    @property
    def figures(self) -> dict[str, str]:
        """{figure: what it counts, in words}."""
        return FIGURES | {f"emails_{name}": f"e-mails: {name}" for name in self.reports}

    @property
    def totals(self) -> Counter[str]:
        return sum(self.by_day.values(), Counter())


def answer(
    policy: PolicySettings,
    start: datetime,
    days: int,
    campaigns: Sequence[Stuck],
    other: tuple[Path, PolicySettings] | None,
    *,
    as_json: bool,
) -> None:
    """Print the forecast; with another env file, only what differs."""
    here = foretell(policy, start, days, campaigns)
    if other is None:
        if as_json:
            say(json.dumps(document(here)) + "\n")
        else:
            say_forecast(here)
        return
    env_file, others = other
    found = differences(here, foretell(others, start, days, campaigns))
    if as_json:
        say(json.dumps(difference_document(here, found, env_file)) + "\n")
    else:
        say_differences(found, env_file)


def stuck_campaigns(count: int, since: datetime) -> tuple[Stuck, ...]:
    """This many campaigns that are set to A1 at the same time and stay empty."""
    return tuple(Stuck(RetryStatus(f"stuck-{number}"), since) for number in range(1, count + 1))


def campaigns_in_a1(settings: OperatorSettings, since: datetime) -> tuple[Stuck, ...]:
    """The campaigns in A1 in the database, with their present state; the forecast assumes that they stay
    empty.

    Raises ConfigError when migrations are pending.
    """
    with Database(settings.database.dsn, application_name="a1_to_a2 simulate") as database:
        Schema(database).ensure_migrated(settings.commands)
        ids = [row[0] for row in database.rows(A1_CAMPAIGNS, {"status_a1": settings.status_a1})]
        states = database.get_a1_retry_states(ids)
    return tuple(Stuck(states[one], since) for one in ids if one in states)


def foretell(policy: PolicySettings, start: datetime, days: int, campaigns: Sequence[Stuck]) -> Forecast:
    """The forecast for this many days of 24 hours. start: counts as every interval task's last planned
    minute.
    """
    zone, window = policy.cadence.timezone, policy.cadence.off_hours
    until = (start.astimezone(UTC) + timedelta(days=days)).astimezone(zone)
    schedules = {task.name: task.schedule for task in tasks_with(policy.cadence.digest)}
    reports = tuple(name for name in schedules if name != UPLOADER)
    planned = list(timeline(schedules, start, until, zone, window))
    runs = [run for name, run in planned if name == UPLOADER]
    by_day: defaultdict[date, Counter[str]] = defaultdict(Counter)
    for name, run in planned:
        if name in reports:
            by_day[run.at.date()][f"emails_{name}"] += 1
    for at, events in groupby(simulate(runs, campaigns, policy.retry), attrgetter("at")):
        by_day[at.astimezone(zone).date()].update(_figures(events))
    first = tuple(filter(_is_step, simulate(runs, campaigns[:1], policy.retry)))
    return Forecast(policy, start, until, tuple(campaigns), reports, dict(sorted(by_day.items())), first)


def _figures(events: Iterable[Event]) -> Counter[str]:
    """The figures of one run's events. Many notices of a kind are one e-mail."""
    figures = Counter(map(_figure, events))
    for mails in OF_NOTICE.values():
        if figures[mails] > CROWD:
            figures[mails] = 1
    return figures


def _figure(event: Event) -> str:
    """The figure in which an event counts."""
    if event.status is None:
        return f"runs_{event.rule}"
    return OF_EVENT[event.kind] if event.notice is None else OF_NOTICE[event.notice]


def _is_step(event: Event) -> bool:
    """Whether an event changes a campaign's state: it is neither a run nor a notice."""
    return event.status is not None and event.notice is None


# As text


def say_forecast(forecast: Forecast) -> None:
    """Print a table by day, and what happens to the first campaign."""
    cadence = forecast.policy.cadence
    state = "on" if cadence.off_hours.enabled else "off"
    say(f"After {shown(forecast.start)} until {shown(forecast.until)}\n")
    say(f"{cadence.timezone}, off-hours rule {state}\n")
    say(f"{_cut(_in_words(forecast.policy.retry), 100)}\n")
    count = len(forecast.campaigns)
    say(f"{count} campaign{'s' * (count != 1)} in A1, if the folders stay empty\n\n")
    _say_days(forecast)
    say("\nRETRY, PERMANENT and REPORTS count the e-mails that each recipient gets; more than\n")
    say(f"{CROWD} notices of one kind in one run become one e-mail. REPORTS: {', '.join(forecast.reports)}\n")
    if forecast.campaigns:
        say(f"\nThe first campaign{_named(forecast.campaigns[0].status)}:\n")
        for event in forecast.first:
            say(f"  {shown(event.at.astimezone(cadence.timezone))}  {_step(event)}\n")
        if not forecast.first:
            say("  no attempt counts in this time\n")


def _say_days(forecast: Forecast) -> None:
    say(" " * DAY_WIDTH + "".join(f"  {title}" for title in COLUMNS) + "\n")
    days = [(f"{day:%a %Y-%m-%d}", figures) for day, figures in forecast.by_day.items()]
    for name, figures in [*days, ("total", forecast.totals)]:
        numbers = [figures[one] for one in FIGURES]
        numbers.append(sum(figures[f"emails_{report}"] for report in forecast.reports))
        cells = (f"  {number:>{len(title)}}" for title, number in zip(COLUMNS, numbers, strict=True))
        say(name.ljust(DAY_WIDTH) + "".join(cells) + "\n")


def _in_words(policy: RetryPolicy) -> str:
    waits = (
        f"waits of {', '.join(map(str, policy.delays))} min" if policy.delays else "each empty look counts"
    )
    resets = "no automatic reset"
    if policy.auto_reset_days:
        resets = f"automatic reset after {policy.auto_reset_days} d, at most {policy.auto_reset_cycles} times"
    return f"{policy.max_retries} attempts per cycle, {waits}, {resets}"


def _named(status: RetryStatus) -> str:
    name = f"{status.campaign_number} {status.campaign_name}".strip()
    return _cut(f", {escape_line(name)}", 80) if name else ""


def _step(event: Event) -> str:
    """An event of the first campaign, in words."""
    if event.kind is Kind.ATTEMPT and event.attempt is not None:
        return f"attempt {event.attempt.number}"
    return "permanently failed" if event.kind is Kind.PERMANENT_FAILURE else "reset by itself"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


# As JSON


def document(forecast: Forecast) -> dict[str, Any]:
    """The forecast as one JSON object."""
    cadence, retry = forecast.policy.cadence, forecast.policy.retry

    def all_figures(counted: Counter[str]) -> dict[str, int]:
        return {name: counted[name] for name in forecast.figures}

    return {
        "timezone": str(cadence.timezone),
        "from": forecast.start.isoformat(timespec="seconds"),
        "until": forecast.until.isoformat(timespec="seconds"),
        "off_hours_enabled": cadence.off_hours.enabled,
        "policy": {
            "max_retries": retry.max_retries,
            "delays": retry.delays,
            "auto_reset_days": retry.auto_reset_days,
            "auto_reset_cycles": retry.auto_reset_cycles,
        },
        "campaigns": len(forecast.campaigns),
        "totals": all_figures(forecast.totals),
        "days": [{"day": f"{day}", **all_figures(one)} for day, one in forecast.by_day.items()],
        "first_campaign": _first_document(forecast) if forecast.campaigns else None,
    }


def _first_document(forecast: Forecast) -> dict[str, Any]:
    status, zone = forecast.campaigns[0].status, forecast.policy.cadence.timezone
    return {
        "campaign_id": status.campaign_id,
        "campaign_number": status.campaign_number,
        "campaign_name": status.campaign_name,
        "events": [
            {
                "at": event.at.astimezone(zone).isoformat(timespec="seconds"),
                "event": event.kind.value,
                "cycle": event.status.cycle,
                "attempt": event.attempt.number if event.attempt else None,
                "max_attempts": event.attempt.max_attempts if event.attempt else None,
            }
            for event in forecast.first
            if event.status is not None
        ],
    }


# Two policies


def differences(here: Forecast, there: Forecast) -> list[tuple[str, str, str]]:
    """(line, its value here, its value there) of each line that differs: first the settings, then their
    effects.
    """
    ours, others = _lines(here), _lines(there)
    return [
        (name, ours.get(name, ABSENT), others.get(name, ABSENT))
        for name in {**ours, **others}
        if ours.get(name) != others.get(name)
    ]


def say_differences(found: Sequence[tuple[str, str, str]], other: Path) -> None:
    """Print the lines that differ between this environment and the other file."""
    name = escape_line(str(other))
    if not found:
        say(f"no difference between this environment and {name[-50:]}\n")
        return
    for line, here, there in [("", "HERE", name[-28:]), *found]:
        say(f"{_cut(line, 38):<40}{_cut(here or EMPTY, 28):<30}{_cut(there or EMPTY, 28)}\n")


def _lines(forecast: Forecast) -> dict[str, str]:
    zone, totals = forecast.policy.cadence.timezone, forecast.totals
    return {
        **_settings(forecast.policy),
        **{words: str(totals[name]) for name, words in forecast.figures.items()},
        **{
            f"first, cycle {event.status.cycle}: {_step(event)}": shown(event.at.astimezone(zone))
            for event in forecast.first
            if event.status is not None
        },
    }


def _settings(policy: PolicySettings) -> dict[str, str]:
    """{variable: its value}, as in an env file."""
    retry, window = policy.retry, policy.cadence.off_hours
    return {
        "A1_MAX_RETRIES": str(retry.max_retries),
        "A1_RETRY_DELAYS": ",".join(map(str, retry.delays)),
        "A1_AUTO_RESET_DAYS": str(retry.auto_reset_days),
        "A1_AUTO_RESET_CYCLES": str(retry.auto_reset_cycles),
        "ORCHESTRATOR_TIMEZONE": str(policy.cadence.timezone),
        "OFF_HOURS_ENABLED": str(window.enabled).lower(),
        "OFF_HOURS_START": f"{window.start:%H:%M}",
        "OFF_HOURS_END": f"{window.end:%H:%M}",
        "OFF_HOURS_DAYS": ",".join(DAY_NAMES[day] for day in sorted(window.days)) or "none",
        "OFF_HOURS_EXTRA_MINUTES": str(window.extra_minutes),
        "OFF_HOURS_RUN_MINUTES": ",".join(map(str, sorted(window.run_minutes))),
    }


def difference_document(here: Forecast, found: Sequence[tuple[str, str, str]], other: Path) -> dict[str, Any]:
    """The differences as one JSON object."""
    return {
        "from": here.start.isoformat(timespec="seconds"),
        "until": here.until.isoformat(timespec="seconds"),
        "other": str(other),
        "differences": [{"line": line, "here": ours, "there": theirs} for line, ours, theirs in found],
    }
