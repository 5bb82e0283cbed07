"""The outbox's way out: every notice that is due, to each recipient until the mail server has taken it."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.database import Database, DueNotice
from shared.errors import NotifyError
from shared.models import DeliveryResult, Notice
from shared.notifier import GIVE_UP_AFTER, pause_after

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """What sends one notice to all of its recipients, and tells who was refused."""

    def send(self, notice: Notice) -> DeliveryResult: ...


@dataclass(slots=True)
class DeliveryCounts:
    """Notices handed over whole, and notices that somebody still has not got after this round."""

    sent: int = 0
    failed: int = 0


def deliver_due_notices(
    database: Database, mailer: AbstractContextManager[Sender], now: datetime
) -> DeliveryCounts:
    """Send what is due, oldest first. A mail server in trouble ends the round; nothing is lost by it.

    A notice stays locked while it is sent and is marked in the same transaction: two processes never send
    the same one, and if this one is killed between the two, it goes out again under the same Message-ID.
    """
    counts = DeliveryCounts()
    tried: list[str] = []
    if not database.is_notice_due(now):
        return counts
    with mailer as sender:
        while True:
            with database.transaction():
                due = database.lock_due_notice(now, tried)
                if due is None:
                    return counts
                tried.append(due.notice.id)
                try:
                    result = sender.send(due.notice)
                except NotifyError as exc:
                    logger.warning("notice %s stays in the outbox: %s", due.notice.id, exc)
                    counts.failed += 1
                    _postpone(database, due, str(exc), now)
                    return counts
                if result.refused:
                    counts.failed += 1
                else:
                    counts.sent += 1
                database.record_delivery(due.notice.id, result, now, _next_tries(due, result, now))


def _postpone(database: Database, due: DueNotice, reason: str, now: datetime) -> None:
    refused = {recipient: (0, reason) for recipient in due.tries}
    next_tries = {recipient: now + pause_after(tries + 1) for recipient, tries in due.tries.items()}
    database.record_delivery(due.notice.id, DeliveryResult(refused=refused), now, dict(next_tries))


def _next_tries(due: DueNotice, result: DeliveryResult, now: datetime) -> dict[str, datetime | None]:
    """When each refused recipient is tried again; None when it has been refused for days.

    A 5xx is not final at once: a relay set up wrongly refuses everybody so, and must not cost a notice.
    """
    plan: dict[str, datetime | None] = {}
    for recipient, (code, text) in result.refused.items():
        is_final = now - due.notice.created_at > GIVE_UP_AFTER
        plan[recipient] = None if is_final else now + pause_after(due.tries[recipient] + 1)
        logger.log(
            logging.ERROR if is_final else logging.WARNING,
            "the mail server refused %s for notice %s: %s %s; %s",
            recipient, due.notice.id, code, text, "given up" if is_final else "will be tried again",
            extra={"action": "recipient_refused"},
        )  # fmt: skip
    return plan
