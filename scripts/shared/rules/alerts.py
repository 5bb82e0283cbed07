"""Decides when failures of a campaign or a task need an e-mail: once, then daily until they are over. Pure.

A task's way of failing (`ending`) is announced at most once a day, even with successful runs in between. So a
task that fails and recovers all day sends no more e-mails than one that keeps failing. One more e-mail says
that the failures are over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from shared.base.clocks import is_waiting

REMINDER_INTERVAL = timedelta(days=1)
"""How often people get a reminder of a continuing failure, of a task or of a campaign."""
SILENCE_LIMIT = timedelta(hours=1)
"""How long a run may write nothing: a long upload writes a line every ten minutes (`progress`)."""
SILENCE = "nothing written for an hour"
"""The `ending` of a run that continues but writes nothing: one more way of failing."""

LATE_NOTICE = timedelta(hours=1)
"""When a notice has waited for longer, the exit code and the heartbeat report it: an e-mail could not."""

HEALING_PATIENCE = timedelta(hours=1)
"""How old a failure that usually ends by itself may get before people get an e-mail about it."""


@dataclass(frozen=True, slots=True)
class TaskAlert:
    """One way in which a task fails.

    failures: runs that ended this way since the last success. is_announced: a notice of these failures has
    gone out, so another one must say when they are over. last_notice_at: of these or earlier failures.
    """

    task: str
    ending: str
    failures: int
    began_at: datetime
    is_announced: bool = False
    last_notice_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AlertNews:
    """What one notice is about: failures that begin or continue, a run that writes nothing, the end of all
    announced failures, or a webhook's target that accepts no more messages.
    """

    kind: Literal["began", "reminder", "silent", "over", "off"]
    task: str
    endings: tuple[str, ...]
    failures: int
    began_at: datetime


Alerts = Mapping[str, TaskAlert]
"""{ending: alert} of one task."""


def is_young(began_at: datetime, now: datetime, patience: timedelta) -> bool:
    """Whether a failure is younger than `patience`."""
    return now - began_at < patience


def is_notice_due(
    began_at: datetime, last_notice_at: datetime | None, now: datetime, patience: timedelta = timedelta()
) -> bool:
    """Whether people must get a notice of a failure now: when it is as old as `patience`, then once a day.

    last_notice_at: of the last notice about it; None: there was none.
    """
    return not (_was_told_lately(last_notice_at, now) or is_young(began_at, now, patience))


def _was_told_lately(last_notice_at: datetime | None, now: datetime) -> bool:
    return last_notice_at is not None and is_waiting(last_notice_at, REMINDER_INTERVAL, now)


def after_failure(
    alerts: Alerts, task: str, ending: str, now: datetime, *, threshold: int
) -> tuple[Alerts, AlertNews | None]:
    """The alerts after a failed run, and the news, if any. threshold: how many failures make news."""
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
    """The alerts after a run has written nothing for SILENCE_LIMIT, and the news, if any."""
    alerts, news = after_failure(alerts, task, SILENCE, now, threshold=1)
    return alerts, news and replace(news, kind="silent", began_at=silent_since)


def after_success(alerts: Alerts, now: datetime) -> tuple[Alerts, AlertNews | None]:
    """The alerts after a successful run: all counts are zero. One notice says that announced failures are
    over.
    """
    announced: Sequence[TaskAlert] = [alert for alert in alerts.values() if alert.is_announced]
    # Kept with zero failures, so that the same ending is not announced again within a day of its notice.
    remembered = {
        ending: replace(alert, failures=0, is_announced=False)
        for ending, alert in alerts.items()
        if _was_told_lately(alert.last_notice_at, now)
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
