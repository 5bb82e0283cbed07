"""Sends the loop's webhooks: news about its tasks, and what is due in the outbox when a task has ended.

Each target has its own messenger, which tries again each minute while a message is due: a failing target
delays no other target, and no e-mail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from shared.base.errors import AppError
from shared.base.values import Notice, Origin
from shared.database import Database
from shared.loop.context import Context
from shared.loop.messenger import Messenger
from shared.rules.alerts import AlertNews

if TYPE_CHECKING:
    from shared.base.webhooks import WebhookTarget

logger = logging.getLogger("orchestrator")

SOON = timedelta(hours=1)
"""The messenger waits for messages that are due within this time, and asks each minute."""


class Webhooks:
    """Does nothing, and loads nothing, if no target is in the settings."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._messengers: dict[str, Messenger] = {}

    def close(self, seconds: float) -> None:
        """Try the waiting messages once more, for at most this long."""
        end_at = time.monotonic() + seconds
        for messenger in self._messengers.values():
            messenger.close(0)
        for messenger in self._messengers.values():
            messenger.join(max(0.0, end_at - time.monotonic()))

    def queueing(self, news: AlertNews, now: datetime) -> Callable[[Database], object]:
        """A function that queues news about a task, for the transaction that queues its e-mail."""
        settings = self._context.settings
        if not settings.webhooks.targets:
            return lambda _: None
        from shared.webhooks.hooks import Hooks

        return lambda database: Hooks(settings.webhooks, settings.links).task_news(database, news, now)

    def deliver(self) -> None:
        """Send each target what is due. Never waits."""
        for target in self._context.settings.webhooks.targets:
            self._messenger(target).send(partial(self._deliver_to, target), key="outbox")

    def send_directly(self, news: AlertNews, now: datetime) -> None:
        """Send news about a task without the outbox, while the database is out of reach. Never waits."""
        for target in self._context.settings.webhooks.targets:
            self._messenger(target).send(partial(self._hand_over, target, news, now))

    def take_directly(self, news: AlertNews, now: datetime) -> bool:
        """Send news about a task without the outbox, and wait. Returns whether a target accepted them."""
        is_taken = False
        for target in self._context.settings.webhooks.targets:
            try:
                self._hand_over(target, news, now)
            except AppError as exc:
                logger.warning("webhook %s: %s", target.name, exc)
            else:
                is_taken = True
        return is_taken

    def _messenger(self, target: WebhookTarget) -> Messenger:
        return self._messengers.setdefault(target.name, Messenger())

    def _deliver_to(self, target: WebhookTarget) -> bool:
        """Send the target what is due. Returns whether nothing more is due soon."""
        from shared.webhooks.delivery import TargetDelivery, deliver_patiently

        context = self._context
        settings, clock = context.settings, context.clock
        name = f"a1_to_a2 webhook {target.name}"
        with Database(
            settings.database.dsn, application_name=name[:63], is_stopping=context.is_stopping
        ) as database:
            delivery = TargetDelivery(
                database,
                target,
                settings.webhooks,
                clock.now,
                self._compose_off,
                settings.links.campaigns("stuck"),
            )
            if delivery.is_owed_within(timedelta()):
                deliver_patiently(delivery)
            return not delivery.is_owed_within(SOON)

    def _hand_over(self, target: WebhookTarget, news: AlertNews, now: datetime) -> None:
        from shared.webhooks.delivery import hand_over
        from shared.webhooks.hooks import Hooks

        settings = self._context.settings
        hand_over(
            Hooks(settings.webhooks, settings.links).message_of(news, now), target, settings.webhooks, now
        )

    def _compose_off(self, target: str, now: datetime) -> Notice:
        from shared.notifier import webhook_off

        settings = self._context.settings
        return webhook_off(
            target,
            origin=Origin(self._context.host),
            commands=settings.commands,
            recipients=settings.mail.alert_recipients,
            timezone=settings.cadence.timezone,
            links=settings.links,
            now=now,
        )
