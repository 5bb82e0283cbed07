"""Delivers the notices of a run or a worker: e-mails, and webhooks where the settings name a target."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from shared.base.values import DeliveryCounts, Origin
from shared.database import Database
from shared.notices.delivery import Delivery
from shared.notifier import Mailer
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.upload.webhook_side import WebhookSide
    from shared.webhooks.hooks import Hooks


class Outgoing:
    """open_database: a connection of the threads' own. hooks: None, and nothing is loaded, without a
    target.
    """

    def __init__(
        self,
        settings: Settings,
        open_database: Callable[[], Database],
        clock: Callable[[], datetime],
        run_id: str,
    ) -> None:
        self._delivery = Delivery(
            open_database,
            lambda: Mailer(settings.mail.server),
            clock,
            settings.timezone,
            settings.commands,
            settings.links,
            Origin(socket.gethostname(), run_id),
        )
        self._webhooks: WebhookSide | None = None
        self.hooks: Hooks | None = None
        if settings.webhooks.targets:
            from shared.upload.webhook_side import WebhookSide

            self._webhooks = WebhookSide(settings, open_database, clock, run_id)
            self.hooks = self._webhooks.hooks

    @property
    def counts(self) -> DeliveryCounts:
        """The e-mails so far."""
        return self._delivery.counts

    def begin(self) -> None:
        """Deliver during the work. Never waits."""
        self._delivery.begin()
        if self._webhooks is not None:
            self._webhooks.begin()

    def stop(self) -> None:
        """End the delivery of e-mails; the current one is finished."""
        self._delivery.stop()

    def finish(self, database: Database, *, is_run: bool = True) -> None:
        """Deliver what is left. Webhooks and e-mails go out at the same time; neither waits for the other.

        is_run: see Delivery.finish.
        """
        if self._webhooks is not None:
            self._webhooks.owe_acts(database)
        self._delivery.finish(database, is_run=is_run)
        if self._webhooks is not None:
            self._webhooks.finish(database, self._delivery.counts.faults)
