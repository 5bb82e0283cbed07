"""When failures of a campaign or a task are worth an e-mail: once, then daily while they last. Pure.

A task's way of failing (`ending`) is announced at most once a day, however often good runs come in between,
so that a task that flaps costs no more mail than one that is down. Its end is told as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from shared.base.clocks import is_waiting

REMINDER_INTERVAL = timedelta(days=1)
"""How often a failure that lasts is told again, of a task or of a campaign."""
SILENCE_LIMIT = timedelta(hours=1)
"""How long a run may write nothing: long work writes a line every ten minutes (`progress`)."""
SILENCE = "nothing written for an hour"
"""The `ending` of a run that goes on in silence: one more way of failing."""

LATE_NOTICE = timedelta(hours=1)
"""When a notice has waited for longer, the exit code and the heartbeat say so: no mail could."""

HEALING_PATIENCE = timedelta(hours=1)
"""How long a campaign's failure that heals by itself may last before a person is told."""


@dataclass(frozen=True, slots=True)
class TaskAlert:
    """One way in which a task fails.

    failures: runs that ended so since the last good one. is_announced: a notice of these failures has gone
    out, and its end is owed. last_notice_at: of these or earlier ones.
    """

    task: str
    ending: str
    failures: int
    began_at: datetime
    is_announced: bool = False
    last_notice_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AlertNews:
    """What one notice tells: failures that begin or last, a run that goes on in silence, or the end of all
    that was announced.
    """

    kind: Literal["began", "reminder", "silent", "over"]
    task: str
    endings: tuple[str, ...]
    failures: int
    began_at: datetime


Alerts = Mapping[str, TaskAlert]
"""{ending: alert} of one task."""


def is_young(began_at: datetime, now: datetime, patience: timedelta) -> bool:
    """Whether a failure has not outlasted the patience that one has with it."""
    return now - began_at < patience


def is_notice_due(
    began_at: datetime, last_notice_at: datetime | None, now: datetime, patience: timedelta = timedelta()
) -> bool:
    """Whether a failure is to be told now: when it has outlasted its patience, and then once a day.

    last_notice_at: when it was last told; None: not yet.
    """
    return not (_is_told(last_notice_at, now) or is_young(began_at, now, patience))


def _is_told(last_notice_at: datetime | None, now: datetime) -> bool:
    return last_notice_at is not None and is_waiting(last_notice_at, REMINDER_INTERVAL, now)


def after_failure(
    alerts: Alerts, task: str, ending: str, now: datetime, *, threshold: int
) -> tuple[Alerts, AlertNews | None]:
    """A run failed: the alerts from now on, and the notice owed. threshold: failures that make one."""
    known = alerts.get(ending)
    if known is None:
        alert = TaskAlert(task, ending, 1, began_at=now)
    else:
        began_at = min(known.began_at, now) if known.failures else now
        alert = replace(known, failures=known.failures + 1, began_at=began_at)
    if alert.failures < threshold or not is_notice_due(alert.began_at, alert.last_notice_at, now):
        return {**alerts, ending: alert}, None
    news = AlertNews(
        "reminder" if alert.is_announced else "began", task, (ending,), alert.failures, alert.began_at
    )
    return {**alerts, ending: replace(alert, is_announced=True, last_notice_at=now)}, news


def after_silence(
    alerts: Alerts, task: str, silent_since: datetime, now: datetime
) -> tuple[Alerts, AlertNews | None]:
    """A run goes on, and has written nothing for SILENCE_LIMIT: the alerts from now on, the notice owed."""
    alerts, news = after_failure(alerts, task, SILENCE, now, threshold=1)
    return alerts, news and replace(news, kind="silent", began_at=silent_since)


def after_success(alerts: Alerts, now: datetime) -> tuple[Alerts, AlertNews | None]:
    """A run went well: failures count from nought again, and the end of what was announced is told once."""
    announced: Sequence[TaskAlert] = [alert for alert in alerts.values() if alert.is_announced]
    remembered = {
        ending: replace(alert, failures=0, is_announced=False)
        for ending, alert in alerts.items()
        if _is_told(alert.last_notice_at, now)
    }
    if not announced:
        return remembered, None
    news = AlertNews(
        "over",
        announced[0].task,
        tuple(sorted(alert.ending for alert in announced)),
        sum(alert.failures for alert in announced),
        min(alert.began_at for alert in announced),
    )
    return remembered, news
