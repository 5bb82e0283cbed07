"""The outbox's way out: every notice that is due, to each recipient until the mail server has taken it.

Many notices of a kind for one recipient go as one e-mail with a table. Which e-mail carries a notice is
committed before the e-mail goes out, and taken back only when it surely did not arrive; so whatever is
repeated, after a kill or a lost answer, is the same e-mail under the same Message-ID.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from shared.commands import Commands
from shared.database import Database, DueMail
from shared.errors import NotifyError
from shared.models import DeliveryCounts, DeliveryResult, Notice
from shared.notifier import DIGEST_LINES, GIVE_UP_AFTER, digest, pause_after

logger = logging.getLogger(__name__)

CROWD = 20
"""So many notices of a kind still go to a recipient one by one in a round; more go as one e-mail."""
LEAST_PAUSE = timedelta(microseconds=1)
"""What was tried is not due again in the same round."""


class Sender(Protocol):
    """What sends one e-mail to all of its recipients, and tells who was refused. before_handover: called
    when the server is ready for it; what it raises keeps the e-mail from going out.
    """

    def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult: ...


def deliver_due_notices(
    database: Database,
    mailer: AbstractContextManager[Sender],
    now: datetime,
    timezone: ZoneInfo,
    commands: Commands,
) -> DeliveryCounts:
    """Send what is due, oldest first. A mail server in trouble ends the round; nothing is lost by it.

    An e-mail stays locked while it is sent and is marked in the same transaction: two processes never send
    the same one, and if this one is killed between the two, it goes out again under the same Message-ID.
    timezone: the one in which people read times. commands: those of this installation, for them to paste.
    """
    counts = DeliveryCounts()
    if not database.is_notice_due(now):
        return counts
    with mailer as sender:
        while (begun := _begin_mail(database, now, timezone, commands)) is not None:
            with database.transaction():
                due = database.lock_mail(begun.mail_id, now)
                if due is None:
                    continue
                try:
                    result = sender.send(due.notice, before_handover=database.ensure_alive)
                except NotifyError as exc:
                    logger.warning("notice %s stays in the outbox: %s", due.notice.id, exc)
                    counts.failed += due.count
                    may_have_arrived = begun.may_have_arrived or exc.may_have_arrived
                    _postpone(database, due, str(exc), now, may_have_arrived=may_have_arrived)
                    return counts
                _record(database, due, result, now, counts, may_have_arrived=begun.may_have_arrived)
    return counts


@dataclass(frozen=True, slots=True)
class _Begun:
    """An e-mail on its way. may_have_arrived: in an earlier round, whatever becomes of it in this one."""

    mail_id: str
    may_have_arrived: bool


def _begin_mail(database: Database, now: datetime, timezone: ZoneInfo, commands: Commands) -> _Begun | None:
    """Settle what goes out next; None when nothing is due."""
    from uuid import uuid4  # an idle run does without

    with database.transaction():
        left = database.begun_mail(now)
        if left is not None:
            return _Begun(left, may_have_arrived=True)
        bundle = database.begin_bundle(str(uuid4()), now, more_than=CROWD, most_lines=DIGEST_LINES)
        if bundle is not None:
            database.save_bundle(bundle, digest(bundle, timezone, commands))
            return _Begun(bundle.id, may_have_arrived=False)
        single = database.begin_single(now)
        return None if single is None else _Begun(single, may_have_arrived=False)


def _record(
    database: Database,
    due: DueMail,
    result: DeliveryResult,
    now: datetime,
    counts: DeliveryCounts,
    *,
    may_have_arrived: bool,
) -> None:
    if due.bundled is None:
        if result.refused:
            counts.failed += 1
        else:
            counts.sent += 1
        next_tries = _next_tries(due, result, now)
        database.record_delivery(due.notice.id, result, now, next_tries, may_have_arrived=may_have_arrived)
        return
    if not result.refused:
        counts.sent += database.record_bundle_sent(due.notice.id, now)
        return
    counts.failed += due.count
    ((recipient, (code, text)),) = result.refused.items()
    logger.warning(
        "the mail server refused %s for %d notices in one e-mail: %s %s; those of more than %d days are"
        " given up, the others will be tried again", recipient, due.count, code, text, GIVE_UP_AFTER.days,
        extra={"action": "recipient_refused"},
    )  # fmt: skip
    database.record_bundle_refused(
        due.notice.id,
        f"{code} {text}".strip(),
        now,
        {tries: _next_try(tries, now) for tries in due.bundled},
        give_up_before=now - GIVE_UP_AFTER,
        may_have_arrived=may_have_arrived,
    )


def _postpone(
    database: Database, due: DueMail, reason: str, now: datetime, *, may_have_arrived: bool
) -> None:
    if due.bundled is not None:
        database.record_bundle_refused(
            due.notice.id,
            reason,
            now,
            {tries: _next_try(tries, now) for tries in due.bundled},
            give_up_before=None,
            may_have_arrived=may_have_arrived,
        )
        return
    database.record_delivery(
        due.notice.id,
        DeliveryResult(refused={recipient: (0, reason) for recipient in due.tries}),
        now,
        {recipient: _next_try(tries, now) for recipient, tries in due.tries.items()},
        may_have_arrived=may_have_arrived,
    )


def _next_try(tries: int, now: datetime) -> datetime:
    """After this many tries before the one that has just failed."""
    return now + max(pause_after(tries + 1), LEAST_PAUSE)


def _next_tries(due: DueMail, result: DeliveryResult, now: datetime) -> dict[str, datetime | None]:
    """When each refused recipient is tried again; None when it has been refused for days.

    A 5xx is not final at once: a relay set up wrongly refuses everybody so, and must not cost a notice.
    """
    plan: dict[str, datetime | None] = {}
    for recipient, (code, text) in result.refused.items():
        is_final = now - due.notice.created_at > GIVE_UP_AFTER
        plan[recipient] = None if is_final else _next_try(due.tries[recipient], now)
        logger.log(
            logging.ERROR if is_final else logging.WARNING,
            "the mail server refused %s for notice %s: %s %s; %s",
            recipient, due.notice.id, code, text, "given up" if is_final else "will be tried again",
            extra={"action": "recipient_refused"},
        )  # fmt: skip
    return plan
