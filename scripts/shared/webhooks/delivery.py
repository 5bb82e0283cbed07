"""Delivers webhooks: to each target separately, in a thread of its own, and from one process at a time.

A message is claimed, committed, sent and settled, as e-mails are: after a kill it goes out again under the
same `webhook-id`. A failing target ends its own round and no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from shared.base.errors import AppError, WebhookError
from shared.base.redaction import redact, spellings
from shared.base.values import Notice
from shared.base.webhooks import OPENING, EventType, WebhookSettings, WebhookTarget
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notices.wording import one_line
from shared.webhooks.kinds import Incidents, incidents_of, opens, send_message
from shared.webhooks.outbox import DueMessage, WebhookOutbox
from shared.webhooks.payloads import MOST_BYTES, Message, crowd_event
from shared.webhooks.sending import Receiver

logger = logging.getLogger(__name__)

PAUSES: Final = (
    *(timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2)),
    *(timedelta(hours=5), timedelta(hours=10), timedelta(hours=24)),
)
"""How long the next try waits, after one, two, … tries; the last value repeats."""
GIVE_UP_AFTER: Final = timedelta(hours=72)
LONGEST_WAIT: Final = timedelta(hours=24)
"""The longest pause that a `Retry-After` can cause."""
CROWD: Final = 20
"""Up to this many messages of a type go to a target one by one; more go as one."""
INCIDENTS_AN_HOUR: Final = 20
"""A target gets this many new incidents per hour. Further ones are held back, and then go as one."""
SHORT_WAIT: Final = timedelta(seconds=6)
"""At its end, a round waits for messages that are due within this time: the first repeat."""
LOOK_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 3.0
"""During the transfers, messages go out when no new one has come for this long. Many can then go as one."""
END_SECONDS: Final = 60.0
"""The end of a run waits this long for its webhooks. The next run sends the rest."""
_OPENING_EVENTS = (EventType.PERMANENTLY_FAILED, EventType.ERRING)
_CAMPAIGN_EVENTS = (*_OPENING_EVENTS, EventType.RECOVERED, EventType.RESET, EventType.SNOOZED)

ComposeOff = Callable[[str, datetime], Notice]
"""Makes the e-mail that says that the target with this name is turned off."""


@dataclass
class TargetDelivery:
    """Delivers what is due to one target. Several threads may share the database.

    link: where people see the failed campaigns; for a message about many. compose_off: see ComposeOff.
    """

    database: Database
    target: WebhookTarget
    settings: WebhookSettings
    clock: Callable[[], datetime]
    compose_off: ComposeOff
    link: str = ""
    is_in_trouble: bool = False
    """Whether the target's failure ended the last round."""
    passed: set[str] = field(default_factory=set)
    """The ids of messages that this round does not try again."""

    def __post_init__(self) -> None:
        self._outbox = WebhookOutbox(self.database)
        self._receiver = Receiver(self.settings.allows_private, self.target.hidden)
        self._secrets = spellings(self._receiver.secrets)

    def deliver(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Send what is due, until the target fails. Raises DbError."""
        name, self.is_in_trouble = self.target.name, False
        with self._outbox.lock(name) as is_ours:
            if not is_ours:
                return
            now = self.clock()
            self._outbox.known_targets([name], now)
            self._outbox.expire(name, now - GIVE_UP_AFTER - timedelta(hours=1), now)
            if not self._outbox.is_ready(name, now):
                return
            if self.target.opens_incidents:
                self._outbox.skip_needless(name, now)
            while not is_stopping() and self._deliver_next():
                pass

    def seconds_to_repeat(self) -> float | None:
        """Seconds until a message is due; None when that is later than SHORT_WAIT, or no message waits."""
        now = self.clock()
        at = self._outbox.next_time(self.target.name, now)
        if at is None or at - now > SHORT_WAIT:
            return None
        return max(0.0, (at - now).total_seconds())

    def is_owed_within(self, span: timedelta) -> bool:
        """Whether a message is due within this time."""
        now = self.clock()
        at = self._outbox.next_time(self.target.name, now)
        return at is not None and at <= now + span

    def _deliver_next(self) -> bool:
        now, name = self.clock(), self.target.name
        found = self._outbox.next_message(name, now, self.passed)
        if found is None:
            return False
        message_id, event, is_begun = found
        if not is_begun:
            if self.target.opens_incidents and event in OPENING and self._is_held_back(now):
                self.passed.add(message_id)
                return True
            message_id = self._gathered(now) or message_id
        due = self._outbox.claim(name, message_id, now, PAUSES)
        if due is None:
            self.passed.add(message_id)
            return True
        return self._send(due)

    def _gathered(self, now: datetime) -> str | None:
        """The id of the common message for many of a type; of the first one, if they do not fit into one.
        None when there are too few.
        """
        name = self.target.name
        # Messages that close incidents go one by one: each closes its own.
        events = _OPENING_EVENTS if self.target.opens_incidents else _CAMPAIGN_EVENTS
        found = self._outbox.crowd(name, events, now, more_than=CROWD)
        if found is None:
            return None
        event, is_held = found
        reason = f"many at once: {event.value}"
        if is_held:
            reason += f"; they were held back by the limit of {INCIDENTS_AN_HOUR} new incidents per hour"
        with self.database.transaction():
            lines, made = self._outbox.crowd_lines(name, event), []
            while lines:
                common, count = crowd_event(
                    event,
                    lines,
                    message_id=str(uuid4()),
                    installation=self.settings.installation,
                    reason=reason,
                    link=self.link,
                    now=now,
                    most_bytes=None if self.target.opens_incidents else MOST_BYTES,
                )
                self._outbox.gather(name, common, lines[:count], now)
                lines = lines[count:]
                made.append(common.id)
        return made[0] if made else None

    def _is_held_back(self, now: datetime) -> bool:
        """Whether no incident may be opened now. If so, messages that would open one wait until then."""
        opened = self._outbox.opened_within_hour(self.target.name, now)
        if len(opened) < INCIDENTS_AN_HOUR:
            return False
        why = f"at most {INCIDENTS_AN_HOUR} new incidents per hour"
        self._outbox.hold_back(self.target.name, opened[-INCIDENTS_AN_HOUR] + timedelta(hours=1), why)
        logger.warning(
            "webhook %s: new incidents are held back: %s", self.target.name, why,
            extra={"action": "incidents_held_back"},
        )  # fmt: skip
        return True

    def _send(self, due: DueMessage) -> bool:
        """Send a claimed message and record the result; False: send nothing more to the target now."""
        self.database.ensure_alive()
        try:
            ticket = self._call(due)
        except WebhookError as exc:
            return self._fail(due, exc)
        except AppError:  # the database
            raise
        except Exception as exc:  # a hostile answer must cost only this delivery
            logger.exception("webhook %s: a bug in message %s", self.target.name, due.id)
            return self._fail(due, WebhookError(f"a bug: {type(exc).__name__}", kind="bug", retryable=True))
        self._outbox.record_sent(self.target.name, due, ticket, self.clock())
        return True

    def _call(self, due: DueMessage) -> str | None:
        """Call the target. Returns the key of the message's incident, None if it has none."""
        name, outbox = self.target.name, self._outbox
        if not self.target.opens_incidents:
            send_message(due, self.target, self._receiver, self.clock())
            return None
        ticket = outbox.ticket(name, due.dedup_key)
        is_open = ticket is not None and not outbox.is_closed(name, ticket)
        if ticket is not None and is_open and due.payload["data"].get("is_reminder"):
            return ticket.key  # also if somebody has closed it: a reminder opens no second incident
        if opens(due.event):
            return hand_over_incident(due, incidents_of(self.target, self._receiver))
        if ticket is None or (ticket.mail_id and outbox.has_open(name, ticket.mail_id)):
            return None
        if is_open:
            incidents_of(self.target, self._receiver).close(ticket.key, due, ticket.dedup_key)
        return ticket.key

    def _fail(self, due: DueMessage, exc: WebhookError) -> bool:
        """Record a failed try. Returns whether other messages may still be sent to the target."""
        now, name = self.clock(), self.target.name
        pause = PAUSES[min(due.tries, len(PAUSES)) - 1]
        if exc.retry_after is not None:
            asked = timedelta(seconds=min(exc.retry_after, LONGEST_WAIT.total_seconds()))
            self._outbox.wait(name, now + asked)
            pause = max(pause, asked)
        is_dead = not exc.retryable or now + pause - due.since > GIVE_UP_AFTER
        self._outbox.record_failed(
            name,
            due,
            one_line(redact(str(exc), self._secrets), 300),
            now,
            next_try_at=now + pause,
            is_dead=is_dead,
            may_have_arrived=exc.may_have_arrived,
        )
        self.passed.add(due.id)
        logger.log(
            logging.ERROR if is_dead else logging.WARNING,
            "webhook %s did not accept %s (%s): %s; %s",
            name, due.id, due.event.value, exc,
            "given up" if is_dead else f"the next try is in {pause}",
            extra={"action": "webhook_failed"},
        )  # fmt: skip
        if exc.kind == "gone":
            self._turn_off(str(exc), now)
            self.is_in_trouble = True
            return False
        self.is_in_trouble = exc.retryable
        return not exc.retryable

    def _turn_off(self, why: str, now: datetime) -> None:
        """Turn off the target, which answered 410: it gets no more messages, and one e-mail reports that."""
        name = self.target.name
        with self.database.transaction():
            if self._outbox.turn_off(name, one_line(redact(why, self._secrets), 200), now):
                Outbox(self.database).queue(self.compose_off(name, now))
        logger.error("webhook %s is turned off: %s", name, why, extra={"action": "webhook_off"})


@dataclass
class WebhookDelivery:
    """Delivers a run's webhooks, in one thread per target: from `begin` on, and at the end of the run.

    open_database: opens the connection that the threads share.
    """

    open_database: Callable[[], Database]
    settings: WebhookSettings
    clock: Callable[[], datetime]
    compose_off: ComposeOff
    link: str = ""
    _workers: dict[str, _Worker] = field(default_factory=dict, init=False)
    _database: Database | None = field(default=None, init=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False)

    def begin(self) -> None:
        """Start to deliver what is due now, and what becomes due later. Never waits."""
        self._start([target.name for target in self.settings.targets])

    def begin_due(self, database: Database) -> None:
        """Start to deliver to the targets for which a message is due. Raises DbError."""
        outbox, now = WebhookOutbox(database), self.clock()
        names = [target.name for target in self.settings.targets]
        times = {name: outbox.next_time(name, now) for name in names if name not in self._workers}
        self._start([name for name, at in times.items() if at is not None and at <= now])

    def finish(self, database: Database) -> None:
        """Deliver the rest, and wait for that for END_SECONDS at most. Raises DbError."""
        self.begin_due(database)
        end_at = time.monotonic() + END_SECONDS
        for worker in self._workers.values():
            worker.end()
        for worker in self._workers.values():
            worker.join(max(0.0, end_at - time.monotonic()))
        if self._database is not None and not any(one.is_alive for one in self._workers.values()):
            self._database.close()

    def _start(self, names: Sequence[str]) -> None:
        for target in self.settings.targets:
            if target.name not in names:
                continue
            if target.name not in self._workers:
                self._workers[target.name] = _Worker(self, target)
            self._workers[target.name].wake()

    def connected(self) -> Database:
        """The connection of all threads."""
        with self._opening:
            if self._database is None:
                self._database = self.open_database()
            return self._database


class _Worker:
    """The thread of one target."""

    def __init__(self, owner: WebhookDelivery, target: WebhookTarget) -> None:
        self._owner, self._target = owner, target
        self._wake, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name=f"webhook {target.name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        self._wake.set()

    def end(self) -> None:
        self._is_over = True
        self._wake.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            owner = self._owner
            delivery = TargetDelivery(
                owner.connected(), self._target, owner.settings, owner.clock, owner.compose_off, owner.link
            )
            while True:
                self._wait_for_quiet()
                is_last = self._is_over  # read before the round, which then sends everything
                deliver_patiently(delivery)
                if is_last or (self._is_over and delivery.is_in_trouble):
                    break
                if not self._is_over:
                    self._wake.wait(LOOK_SECONDS)
        except AppError as exc:
            logger.warning("webhook %s waits for the next run: %s", self._target.name, exc)
        except Exception:
            logger.exception("webhook %s: a bug; it waits for the next run", self._target.name)

    def _wait_for_quiet(self) -> None:
        """Wait until no new message has come for QUIET_SECONDS."""
        give_up_at = time.monotonic() + LOOK_SECONDS
        while self._wake.is_set() and not self._is_over and time.monotonic() < give_up_at:
            self._wake.clear()
            self._wake.wait(QUIET_SECONDS)


def deliver_patiently(delivery: TargetDelivery, pause: Callable[[float], None] = time.sleep) -> None:
    """Do a round, and repeat once what failed in it. Raises DbError."""
    delivery.passed.clear()
    delivery.deliver()
    if delivery.passed and (seconds := delivery.seconds_to_repeat()) is not None:
        pause(seconds)
        delivery.passed.clear()
        delivery.deliver()


def hand_over(
    message: Message, target: WebhookTarget, settings: WebhookSettings, now: datetime
) -> str | None:
    """Send a message without the outbox, if the target wants it. Returns the key of the incident that it
    opened. Raises WebhookError.
    """
    if not target.wants(message.event):
        return None
    receiver = Receiver(settings.allows_private, target.hidden)
    due = DueMessage(
        message.id, message.event, message.title, message.body, message.dedup_key, message.created_at, 1, now,
        (message.id,),
    )  # fmt: skip
    if not target.opens_incidents:
        send_message(due, target, receiver, now)
        return None
    return hand_over_incident(due, incidents_of(target, receiver))


def hand_over_incident(due: DueMessage, incidents: Incidents) -> str:
    """Open an incident, or close it; for a test, both. Returns its key, "" when it is not known."""
    ticket = incidents.open(due) if opens(due.event) else ""
    if not opens(due.event) or due.event is EventType.TEST:
        incidents.close(ticket, due, due.dedup_key)
    return ticket
