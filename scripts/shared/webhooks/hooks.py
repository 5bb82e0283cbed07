"""Queues messages for the targets, each in the transaction of what it reports.

People can also reset, snooze or undo by plain SQL, which our programs do not see. The triggers write an event
of each act, and `owe_acts` finds the events without a message. The id of a message comes from the id of its
event, so that no event gets two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from shared.base.clocks import is_waiting
from shared.base.links import Links
from shared.base.values import Campaign, UploadTotals
from shared.base.webhooks import EventType, WebhookSettings
from shared.database import Database
from shared.rules.alerts import REMINDER_INTERVAL, AlertNews
from shared.webhooks.outbox import LOOK_BACK, Act, WebhookOutbox
from shared.webhooks.payloads import (
    MOST_ATTEMPTS,
    About,
    Message,
    campaign_event,
    dedup_key,
    instant,
    task_event,
    trial_event,
)

MAILS = "e-mails"
"""The name under which `task.failing` says that no e-mail goes out."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Queues messages for the targets of these settings. Every method raises DbError.

    links: addresses on this installation's page.
    """

    settings: WebhookSettings
    links: Links

    def permanently_failed(
        self,
        database: Database,
        campaign: Campaign,
        *,
        attempt: int,
        max_attempts: int,
        cycle: int,
        reason: str,
        now: datetime,
    ) -> bool:
        """This transaction has counted the last attempt of a cycle. Returns whether a message was queued, as
        the methods below do.
        """
        about = About(campaign.id, campaign.number, campaign.name, cycle, attempt)
        return self._queue(
            database, EventType.PERMANENTLY_FAILED, about, reason, now, max_attempts=max_attempts
        )

    def erring(
        self,
        database: Database,
        campaign: Campaign,
        *,
        cycle: int,
        attempt: int,
        kind: str,
        message: str,
        hint: str,
        began_at: datetime,
        is_reminder: bool,
        now: datetime,
    ) -> bool:
        """A campaign fails with an error, and its error notice is due."""
        about = About(campaign.id, campaign.number, campaign.name, cycle, attempt)
        return self._queue(
            database,
            EventType.ERRING,
            about,
            message,
            now,
            kind=kind,
            hint=hint,
            since=instant(began_at),
            is_reminder=is_reminder,
        )

    def recovered(self, database: Database, campaign: Campaign, totals: UploadTotals, now: datetime) -> bool:
        """A campaign was set to A2. Queues nothing unless a failure of it was reported and is not over."""
        return self._over(
            database, campaign, "it is in A2", now, assets=totals.assets, bytes=totals.size_bytes
        )

    def left(self, database: Database, campaign: Campaign, status: str, now: datetime) -> bool:
        """Somebody else set another status of a campaign that failed with an error, which ends the error."""
        return self._over(database, campaign, f"it has left A1 and is in {status}", now)

    def _over(self, database: Database, campaign: Campaign, reason: str, now: datetime, **facts: int) -> bool:
        found = WebhookOutbox(database).open_of_campaign(campaign.id)
        if found is None:
            return False
        cycle, since = found
        about = About(campaign.id, campaign.number, campaign.name, cycle)
        return self._queue(database, EventType.RECOVERED, about, reason, now, since=instant(since), **facts)

    def task_news(self, database: Database, news: AlertNews, now: datetime) -> bool:
        """Queue what the loop also reports about a task by e-mail."""
        return WebhookOutbox(database).queue(self.message_of(news, now), self.settings.targets)

    def message_of(self, news: AlertNews, now: datetime) -> Message:
        """The message about a task. Needs no database."""
        event = EventType.TASK_RECOVERED if news.kind == "over" else EventType.TASK_FAILING
        return task_event(
            event,
            news.task,
            message_id=str(uuid4()),
            installation=self.settings.installation,
            reason=", ".join(news.endings),
            link=self.links.on_page("/runs"),
            now=now,
            failures=news.failures,
            since=instant(news.began_at),
            is_reminder=news.kind == "reminder",
        )

    def mail_faults(self, database: Database, faults: Sequence[str], now: datetime) -> bool:
        """Queue a message when e-mails begin to fail for these reasons, once a day while they fail, and when
        they go out again. faults: empty when all e-mails go out.
        """
        outbox = WebhookOutbox(database)
        key = dedup_key(self.settings.installation, "task", MAILS)
        since = outbox.open_since(key)
        if faults and (since is None or not is_waiting(since, REMINDER_INTERVAL, now)):
            event, reason = EventType.TASK_FAILING, "; ".join(faults)
        elif not faults and since is not None:
            event, reason = EventType.TASK_RECOVERED, "e-mails go out again"
        else:
            return False
        message = task_event(
            event,
            MAILS,
            message_id=str(uuid4()),
            installation=self.settings.installation,
            reason=reason,
            link=self.links.on_page("/notices?state=waiting"),
            now=now,
        )
        with database.transaction():
            return outbox.queue(message, self.settings.targets)

    def owe_acts(self, database: Database, now: datetime) -> int:
        """Queue a message for each act that has none, and return how many. A target gets the acts since a run
        first saw it in the settings.
        """
        outbox = WebhookOutbox(database)
        known = outbox.known_targets([target.name for target in self.settings.targets], now)
        acts = outbox.untold_acts(max(now - LOOK_BACK, min(one.begun_at for one in known.values())))
        if not acts:
            return 0
        with database.transaction():
            queued = [
                outbox.queue(
                    self._message_of_act(act, now),
                    [one for one in self.settings.targets if known[one.name].begun_at <= act.at],
                )
                for act in acts
            ]
        return sum(queued)

    def trial(self, target: str, now: datetime) -> Message:
        """The message that tests a target."""
        return trial_event(target, message_id=str(uuid4()), installation=self.settings.installation, now=now)

    def _message_of_act(self, act: Act, now: datetime) -> Message:
        facts: dict[str, Any] = {"by": act.actor, "source": act.source, "at": instant(act.at)}
        if until := act.detail.get("until"):
            facts["until"] = instant(datetime.fromisoformat(str(until)))
        return campaign_event(
            _EVENT_OF_ACT[act.kind],
            act.about,
            message_id=act.message_id,
            installation=self.settings.installation,
            reason=act.reason or ("a reset was undone" if act.kind == "undo" else ""),
            link=self.links.campaign(act.about.id),
            now=now,
            **facts,
        )

    def _queue(
        self,
        database: Database,
        event: EventType,
        about: About,
        reason: str,
        now: datetime,
        **facts: str | int | bool,
    ) -> bool:
        outbox = WebhookOutbox(database)
        is_last = event is EventType.PERMANENTLY_FAILED
        message = campaign_event(
            event,
            about,
            message_id=str(uuid4()),
            installation=self.settings.installation,
            reason=reason,
            link=self.links.campaign(about.id),
            now=now,
            attempts=outbox.attempts(about.id, about.cycle, MOST_ATTEMPTS) if is_last else (),
            **facts,
        )
        return outbox.queue(message, self.settings.targets)


_EVENT_OF_ACT = {
    "reset": EventType.RESET,
    "snooze": EventType.SNOOZED,
    "undo": EventType.PERMANENTLY_FAILED,
}
"""Undoing a reset makes the campaign permanently failed again, in the cycle before the reset."""
