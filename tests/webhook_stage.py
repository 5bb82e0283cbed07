"""An outbox with webhook receivers behind it, and a clock that stands."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.base.links import Links
from shared.base.values import Campaign, Notice, NoticeKind
from shared.base.webhooks import WebhookSettings, WebhookTarget
from shared.database import Database
from shared.webhooks.delivery import TargetDelivery
from shared.webhooks.hooks import Hooks
from webhook_receivers import receiving

KEY = "whsec_dGhlIG5ldyBrZXksIG9mIDI1IGJ5dGVzISE="
OLD = "whsec_dGhlIG9sZCBrZXksIG9mIDI1IGJ5dGVzISE="
NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
EMPTY = 'the folder "Master Assets" contains no usable files'


def campaign(number: int) -> Campaign:
    return Campaign(f"{number:040x}", f"C-{number}", f"Easter {number}", "A1")


class Stage:
    """An outbox with receivers behind it, and a clock that stands."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, 3)
        self.targets: list[WebhookTarget] = []
        self.now = datetime.now(UTC)
        self.mails: list[str] = []
        self.resources = ExitStack()

    @property
    def settings(self) -> WebhookSettings:
        return WebhookSettings(tuple(self.targets), "prod", allows_private=True)

    @property
    def hooks(self) -> Hooks:
        return Hooks(self.settings, Links(page="https://page.example.com"))

    def add(self, name: str, receiver: Any, kind: str = "standard", **changes: Any) -> Any:
        self.resources.enter_context(receiving(receiver))
        values: dict[str, Any] = {
            "secrets": (KEY,),
            "events": ("*",),
            "url": f"{receiver.url}/hook",
            **changes,
        }
        self.targets.append(WebhookTarget(name, kind, values["url"], values["secrets"], values["events"]))  # type: ignore[arg-type]
        self.now = datetime.now(UTC)
        self.hooks.owe_acts(self.database, self.now)
        return receiver

    def fail(self, number: int, attempts: int = 3) -> None:
        """Count the attempts of a campaign, the last of which queues its message."""
        one = campaign(number)
        for attempt in range(1, attempts + 1):
            with self.database.transaction():
                counted = self.database.increment_a1_retry(one.id, one.number, one.name, EMPTY, status="A1")
                if counted.permanently_failed:
                    self.hooks.permanently_failed(
                        self.database, one, attempt=attempt, max_attempts=3, cycle=counted.cycle,
                        reason=EMPTY, now=self.now,
                    )  # fmt: skip

    def deliver(self, name: str | None = None) -> None:
        for target in self.targets:
            if name in (None, target.name):
                self.delivery(target).deliver()

    def delivery(self, target: WebhookTarget) -> TargetDelivery:
        return TargetDelivery(
            self.database, target, self.settings, lambda: self.now, self.compose_off, "https://x"
        )

    def compose_off(self, name: str, now: datetime) -> Notice:
        return Notice(
            "00000000-0000-0000-0000-000000000001", NoticeKind.TASK_ALERT, "", f"{name} off", "", "",
            ("a@example.com",), now,
        )  # fmt: skip

    def rows(
        self, columns: str = "recipient, tries, last_error, gave_up_at IS NOT NULL"
    ) -> list[tuple[Any, ...]]:
        return self.database.rows(
            f"SELECT {columns} FROM notice_deliveries WHERE channel = 'webhook' ORDER BY 1, 2"  # noqa: S608
        )
