"""Queues and delivers a run's webhooks. A run loads this only if a target is in the settings.

An error here is only logged: webhooks change neither how a run ends nor what its e-mails do.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from shared.base.errors import AppError
from shared.base.values import Notice, Origin
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notifier import webhook_off
from shared.rules.alerts import LATE_NOTICE
from shared.settings import Settings
from shared.webhooks.delivery import WebhookDelivery
from shared.webhooks.hooks import Hooks

logger = logging.getLogger("uploader")


class WebhookSide:
    """hooks: queues what the run reports. open_database: opens a connection for the delivery's threads."""

    def __init__(
        self,
        settings: Settings,
        open_database: Callable[[], Database],
        clock: Callable[[], datetime],
        run_id: str,
    ) -> None:
        self.hooks = Hooks(settings.webhooks, settings.links)
        self._clock = clock

        def compose_off(target: str, now: datetime) -> Notice:
            return webhook_off(
                target,
                origin=Origin(socket.gethostname(), run_id),
                commands=settings.commands,
                recipients=settings.mail.alert_recipients,
                timezone=settings.timezone,
                links=settings.links,
                now=now,
            )

        self._delivery = WebhookDelivery(
            open_database, settings.webhooks, clock, compose_off, settings.links.campaigns("stuck")
        )

    def begin(self) -> None:
        """Start to deliver what is due, during the transfers. Never waits."""
        self._delivery.begin()

    def owe_acts(self, database: Database) -> None:
        """Queue what people did to campaigns since the last run, and start to deliver it at once."""
        with _only_logged():
            self.hooks.owe_acts(database, self._clock())
            self._delivery.begin_due(database)

    def finish(self, database: Database, mail_faults: Sequence[str]) -> None:
        """Report e-mails that do not go out, deliver the rest, and wait for that."""
        with _only_logged():
            now = self._clock()
            if mail_faults or not Outbox(database).is_late(now - LATE_NOTICE):
                self.hooks.mail_faults(database, mail_faults, now)
            self._delivery.finish(database)


@contextmanager
def _only_logged() -> Iterator[None]:
    try:
        yield
    except AppError as exc:
        logger.warning("webhooks wait for the next run: %s", exc, extra={"action": "webhooks_wait"})
    except Exception:
        logger.exception("webhooks wait for the next run: a bug", extra={"action": "webhooks_wait"})
