"""Delivers the outbox: sends every due notice to each recipient until the mail server has accepted it.

The steps are claim, commit, send, record: no transaction is open while we talk to the mail server. An
advisory lock protects the e-mail, and the try is counted before it is sent. So two processes never send the
same e-mail; after a kill it is sent again at once, with the same Message-ID; and when the result can never be
recorded, it is sent a few times, with growing pauses, and is then given up. Many notices of a kind for one
recipient are sent as a digest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from shared.base.commands import Commands
from shared.base.errors import AppError, DbError, ExitCode, NotifyError
from shared.base.links import NO_LINKS, Links
from shared.base.values import MOST_DOUBTS, NO_ORIGIN, DeliveryCounts, DeliveryResult, Origin
from shared.database import Database
from shared.notices.digest import digest
from shared.notices.mailer import Mailer
from shared.notices.outbox import DueMail, Outbox
from shared.rules.alerts import LATE_NOTICE

logger = logging.getLogger(__name__)

GIVE_UP_AFTER: Final = timedelta(days=5)
"""How long a recipient may be refused with a 4xx (full mailbox, greylisting) before it is given up.

Counted from the notice's creation, or from when somebody resent it; the five days are the customary life of
a mail in a server's queue.
"""
CROWD = 20
"""Up to this many notices of a kind go to a recipient one by one in a round; more are sent as one e-mail."""
PAUSES = tuple(timedelta(minutes=minutes) for minutes in (0, 0, 0, 2, 4, 8, 16, 32, 60))
"""The pause before the next try, after one, two, … tries; the last one repeats."""
DOUBT_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (0, 0, 15, 60, 360))
"""The same after tries with an unknown result: a repeat may be a second copy."""
LOOK_SECONDS = 60.0
"""How often the thread checks, during the transfers, whether something is due again; and the longest that a
notice waits for others.
"""
QUIET_SECONDS = 3.0
"""How long no new notice must come before notices are sent during the transfers, so that many become one."""


def deliver_due_notices(
    database: Database,
    mailer: Mailer,
    now: datetime,
    timezone: ZoneInfo,
    commands: Commands,
    links: Links = NO_LINKS,
    *,
    origin: Origin = NO_ORIGIN,
    is_stopping: Callable[[], bool] = lambda: False,
) -> DeliveryCounts:
    """Send what is due, oldest first. A mail server in trouble ends the round; nothing is lost by it.

    Each e-mail goes out at most once a round: what is refused is not due again before the next one, and what
    cannot be claimed, or whose end cannot be noted, is passed by. timezone: the one in which people read
    times. commands, links: of this installation, for people to paste and to open. origin: of the e-mails that
    this round composes. is_stopping: asked before each e-mail.
    """
    outbox = Outbox(database)
    if not outbox.is_due(now):
        return DeliveryCounts()
    for notice_id, recipient, why in outbox.give_up_doubtful(now, MOST_DOUBTS):
        logger.error("notice %s to %s is given up: it %s", notice_id, recipient, why)
    with mailer as sender:
        delivering = _Round(database, outbox, sender, now, timezone, commands, links, origin)
        try:
            sender.connect()
        except NotifyError as exc:
            pauses = PAUSES[:1] if _is_fault(exc) else PAUSES
            delivering.tell_trouble(exc, outbox.postpone_due(now, str(exc), pauses=pauses))
        else:
            while not is_stopping() and delivering.deliver_next():
                pass
    return delivering.counts


@dataclass
class _Round:
    """One e-mail after the other, through a mail server that is connected."""

    database: Database
    outbox: Outbox
    sender: Mailer
    now: datetime
    timezone: ZoneInfo
    commands: Commands
    links: Links
    origin: Origin
    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
    passed: set[str] = field(default_factory=set)
    """E-mails that are skipped for the rest of this round."""

    def deliver_next(self) -> bool:
        """Send the next e-mail; False when none is due, or the mail server accepts no more now."""
        mail_id = self._next_mail()
        if mail_id is None:
            return False
        with self.outbox.mail_lock(mail_id) as is_ours:
            pauses = {"pauses": PAUSES, "doubt_pauses": DOUBT_PAUSES}
            due = self.outbox.claim_mail(mail_id, self.now, **pauses) if is_ours else None
            if due is not None:
                return self._deliver(due)
        self.passed.add(mail_id)
        return True

    def _next_mail(self) -> str | None:
        """The e-mail that goes out next; many notices of a kind for one recipient become a digest first."""
        found = self.outbox.next_mail(self.now, self.passed)
        if found is None:
            return None
        mail_id, is_begun = found
        crowd = None if is_begun else self.outbox.crowd(self.now, more_than=CROWD)
        if crowd is None:
            return mail_id
        with self.database.transaction():
            lines = self.outbox.crowd_lines(*crowd)
            if not lines:  # another process is about to send them
                return mail_id
            made = digest(
                *crowd, list(lines.values()), self.timezone, self.commands, self.links, self.now, self.origin
            )
            self.outbox.supersede(lines, made, self.now)
        return made.id

    def _deliver(self, due: DueMail) -> bool:
        """Send a claimed e-mail and record the result; False: the mail server accepts no more now."""
        trouble: NotifyError | None = None
        try:
            result = self.sender.send(due.notice, before_handover=self.database.ensure_alive)
        except NotifyError as exc:
            trouble = exc
            self.tell_trouble(exc, due.count)
        try:
            if trouble is None:
                self._settle(due, result)
            else:
                self.outbox.record_refused(
                    due.notice.id, due.notice.recipients, str(trouble), self.now,
                    may_have_arrived=trouble.may_have_arrived,
                    next_try_at=self.now if _is_fault(trouble) else None,
                )  # fmt: skip
        except DbError as exc:
            if exc.ends_run:
                raise
            self.passed.add(due.notice.id)
            self.counts.failed += due.count
            logger.warning(
                "the result of e-mail %s could not be recorded, so it may be sent again: %s",
                due.notice.id,
                exc,
            )
        return trouble is None

    def _settle(self, due: DueMail, result: DeliveryResult) -> None:
        mail_id = due.notice.id
        if result.accepted:
            self.outbox.record_sent(mail_id, result.accepted, self.now)
        for recipient, (code, text) in result.refused.items():
            # A 5xx is not final at once: a wrongly configured relay refuses everybody like this.
            error, too_old = f"{code} {text}".strip(), self.now - GIVE_UP_AFTER
            is_final = self.outbox.record_refused(
                mail_id, [recipient], error, self.now, give_up_before=too_old
            )
            logger.log(
                logging.ERROR if is_final else logging.WARNING,
                "the mail server refused %s for %d notices in e-mail %s: %s %s; %s",
                recipient, due.count, mail_id, code, text,
                "given up" if is_final else f"tried again until they are {GIVE_UP_AFTER.days} days old",
                extra={"action": "recipient_refused"},
            )  # fmt: skip
        if result.refused:
            self.counts.failed += due.count
        else:
            self.counts.sent += self.outbox.digest_done(mail_id) if due.is_digest else 1

    def tell_trouble(self, trouble: NotifyError, notices: int) -> None:
        """Log the mail server's problem, and count the notices that stay in the outbox because of it."""
        self.counts.failed += notices
        if _is_fault(trouble):
            self.counts.faults.append(str(trouble))
        logger.log(
            logging.ERROR if _is_fault(trouble) else logging.WARNING,
            "%d notices stay in the outbox: %s", notices, trouble, extra={"action": "mail_trouble"},
        )  # fmt: skip


def _is_fault(trouble: NotifyError) -> bool:
    """Whether the mail server will accept nothing until somebody changes something: each run says so."""
    return trouble.exit_code is ExitCode.BAD_CONFIG


def late_notices(database: Database, now: datetime, timezone: ZoneInfo, commands: Commands) -> list[str]:
    """What has waited for too long, as a fault of this run: once for each notice, whichever run finds it."""
    late = Outbox(database).tell_late(now - LATE_NOTICE, now)
    if late is None:
        return []
    fault = (
        f"{late.count} notices have waited for more than an hour, the oldest since"
        f" {late.oldest_at.astimezone(timezone):%Y-%m-%d %H:%M %Z}: {late.last_error or 'no try was made'};"
        " fix what the mail server names; they then go out by themselves"
        f" (which and to whom: {commands.run('a1_retry.py', 'unsent')})"
    )
    logger.error("%s", fault, extra={"action": "notices_late"})
    return [fault]


@dataclass
class Delivery:
    """A run's deliveries: during its transfers from `begin` on, and at its end.

    open_database: a connection of the thread's own. mailer: a new one for each round.
    """

    open_database: Callable[[], Database]
    mailer: Callable[[], Mailer]
    clock: Callable[[], datetime]
    timezone: ZoneInfo
    commands: Commands
    links: Links = NO_LINKS
    origin: Origin = NO_ORIGIN
    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
    _thread: threading.Thread | None = field(default=None, init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _is_over: bool = field(default=False, init=False)

    def begin(self) -> None:
        """Deliver what is due, in a thread, soon and from then on whatever becomes due. Never waits.

        While the mail server accepts nothing until somebody acts, it is not tried for each notice: many
        refused logins lock an account.
        """
        if not self.counts.faults:
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread; it finishes its current e-mail."""
        self._is_over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def finish(self, database: Database, *, is_run: bool = True) -> None:
        """Deliver the rest, by the run's own connection. A run also reports late notices, each one once: its
        exit code makes the loop tell people.
        """
        self.stop()
        is_due = Outbox(database).is_due(self.clock())
        if is_due:
            self._deliver(database, is_stopping=lambda: False)
        if is_due is not None and is_run:
            self.counts.faults += late_notices(database, self.clock(), self.timezone, self.commands)

    def _deliver(self, database: Database, *, is_stopping: Callable[[], bool]) -> None:
        later = deliver_due_notices(
            database,
            self.mailer(),
            self.clock(),
            self.timezone,
            self.commands,
            self.links,
            origin=self.origin,
            is_stopping=is_stopping,
        )
        counts = self.counts
        counts.sent += later.sent
        if later.sent or later.failed:
            counts.failed = later.failed
        counts.faults += [fault for fault in later.faults if fault not in counts.faults]

    def _wait_for_quiet(self) -> None:
        """Let notices that come one after the other gather."""
        give_up_at = time.monotonic() + LOOK_SECONDS
        while self._wake.is_set() and not self._is_over and time.monotonic() < give_up_at:
            self._wake.clear()
            self._wake.wait(QUIET_SECONDS)

    def _work(self) -> None:
        try:
            with self.open_database() as database:
                while not self._is_over:
                    self._wait_for_quiet()
                    self._deliver(database, is_stopping=lambda: self._is_over)
                    self._wake.wait(LOOK_SECONDS)
        except AppError as exc:  # the transfers continue
            logger.warning("notices wait for the end of the run: %s", exc)
        except Exception:
            logger.exception("a bug in delivering; notices wait for the end of the run")
