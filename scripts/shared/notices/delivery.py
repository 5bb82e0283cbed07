"""The outbox's way out: every notice that is due, to each recipient until the mail server has taken it.

Claim, commit, send, settle: no transaction is open while the mail server is spoken to. An e-mail is held by
an advisory lock, and counted as tried before it goes out. So two processes never send the same one; a killed
process's e-mail goes out again at once, under the same Message-ID; and one whose end can never be noted goes
out a few times, with growing pauses, and is then given up. Many notices of a kind for one recipient go as one
e-mail with a table.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from shared.base.commands import Commands
from shared.base.errors import AppError, DbError, ExitCode, NotifyError
from shared.base.values import MOST_DOUBTS, DeliveryCounts, DeliveryResult, Notice
from shared.database import Database
from shared.notices.digest import DIGEST_LINES, digest
from shared.notices.outbox import DueMail, Outbox
from shared.rules.alerts import LATE_NOTICE

logger = logging.getLogger(__name__)

GIVE_UP_AFTER: Final = timedelta(days=5)
"""How long a recipient may be refused with a 4xx (full mailbox, greylisting) before nobody tries any more.

Counted from the notice's creation; the five days are the customary life of a mail in a server's queue.
"""


def pause_after(tries: int) -> timedelta:
    """How long to wait after this many failed tries of one delivery.

    Nothing after each of the first three, so that the next run tries again; then 2, 4, 8, … minutes, at
    most an hour.
    """
    if tries <= 3:
        return timedelta()
    return min(timedelta(minutes=2 ** min(tries - 3, 6)), timedelta(hours=1))


CROWD = 20
"""So many notices of a kind still go to a recipient one by one in a round; more go as one e-mail."""
PAUSES = tuple(pause_after(tries) for tries in range(1, 10))
"""Until the next try, after one, two, … tries; the last one repeats."""
DOUBT_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (0, 0, 15, 60, 360))
"""The same, after tries of which nobody knows the end: a repeat may be a second copy."""
LOOK_SECONDS = 60.0
"""How often it is looked, beside the transfers, whether something is due again; and the longest that a notice
waits for others.
"""
QUIET_SECONDS = 3.0
"""Nothing new must come for so long before notices go out beside the transfers: many go as one e-mail."""


class Sender(Protocol):
    """What sends one e-mail to all of its recipients, and tells who was refused. before_handover: called
    when the server is ready for it; what it raises keeps the e-mail from going out.
    """

    def connect(self) -> None:
        """Be ready to send. Raises NotifyError when the mail server takes nothing at all."""

    def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult: ...


Mailers = AbstractContextManager[Sender]


def deliver_due_notices(
    database: Database,
    mailer: Mailers,
    now: datetime,
    timezone: ZoneInfo,
    commands: Commands,
    *,
    is_stopping: Callable[[], bool] = lambda: False,
) -> DeliveryCounts:
    """Send what is due, oldest first. A mail server in trouble ends the round; nothing is lost by it.

    Each e-mail goes out at most once a round: what is refused is not due again before the next one, and what
    cannot be claimed, or whose end cannot be noted, is passed by. timezone: the one in which people read
    times. commands: those of this installation, for people to paste. is_stopping: asked before each e-mail.
    """
    counts, outbox = DeliveryCounts(), Outbox(database)
    if not outbox.is_due(now):
        return counts
    for notice_id, recipient, why in outbox.give_up_doubtful(now, MOST_DOUBTS):
        logger.error("notice %s to %s is given up: it %s", notice_id, recipient, why)
    with mailer as sender:
        try:
            sender.connect()
        except NotifyError as exc:
            pauses = PAUSES[:1] if _is_fault(exc) else PAUSES
            _tell_trouble(exc, outbox.postpone_due(now, str(exc), pauses=pauses), counts)
            return counts
        passed: set[str] = set()
        while not is_stopping():
            mail_id = _next_mail(database, now, timezone, commands, passed)
            if mail_id is None:
                break
            with outbox.mail_lock(mail_id) as is_ours:
                due = _claim(database, mail_id, now) if is_ours else None
                if due is None:
                    passed.add(mail_id)
                elif not _deliver(database, sender, due, now, counts, passed):
                    break
    return counts


def _next_mail(
    database: Database, now: datetime, timezone: ZoneInfo, commands: Commands, passed: set[str]
) -> str | None:
    """Settle what goes out next, and commit it; None when nothing is due."""
    from uuid import uuid4  # an idle run does without

    outbox = Outbox(database)
    with database.transaction():
        left = outbox.begun_mail(now, passed)
        if left is not None:
            return left
        bundle = outbox.begin_bundle(str(uuid4()), now, more_than=CROWD, most_lines=DIGEST_LINES)
        if bundle is not None:
            outbox.save_bundle(bundle, digest(bundle, timezone, commands))
            return bundle.id
        return outbox.begin_single(now)


def _claim(database: Database, mail_id: str, now: datetime) -> DueMail | None:
    with database.transaction():
        return Outbox(database).claim_mail(mail_id, now, pauses=PAUSES, doubt_pauses=DOUBT_PAUSES)


def _deliver(
    database: Database,
    sender: Sender,
    due: DueMail,
    now: datetime,
    counts: DeliveryCounts,
    passed: set[str],
) -> bool:
    """Hand over a claimed e-mail and note what became of it; False: the mail server takes no more now."""
    trouble: NotifyError | None = None
    try:
        result = sender.send(due.notice, before_handover=database.ensure_alive)
    except NotifyError as exc:
        trouble = exc
        _tell_trouble(exc, due.count, counts)
    try:
        if trouble is None:
            _settle(database, due, result, now, counts)
        else:
            _postpone(database, due, trouble, now)
    except DbError as exc:
        if exc.ends_run:
            raise
        passed.add(due.notice.id)
        counts.failed += due.count
        logger.warning(
            "the end of e-mail %s could not be noted, it may come once more: %s", due.notice.id, exc
        )
    return trouble is None


def _postpone(database: Database, due: DueMail, trouble: NotifyError, now: datetime) -> None:
    for recipient in due.notice.recipients:
        Outbox(database).record_refused(
            due.notice.id, recipient, str(trouble), now, may_have_arrived=trouble.may_have_arrived,
            next_try_at=now if _is_fault(trouble) else None,
        )  # fmt: skip


def _is_fault(trouble: NotifyError) -> bool:
    """Whether the mail server will take nothing until somebody changes something: each run says so."""
    return trouble.exit_code is ExitCode.BAD_CONFIG


def _tell_trouble(trouble: NotifyError, notices: int, counts: DeliveryCounts) -> None:
    counts.failed += notices
    if _is_fault(trouble):
        counts.faults.append(str(trouble))
    logger.log(
        logging.ERROR if _is_fault(trouble) else logging.WARNING,
        "%d notices stay in the outbox: %s", notices, trouble, extra={"action": "mail_trouble"},
    )  # fmt: skip


def _settle(
    database: Database, due: DueMail, result: DeliveryResult, now: datetime, counts: DeliveryCounts
) -> None:
    notice, outbox = due.notice, Outbox(database)
    if result.accepted:
        outbox.record_sent(notice.id, result.accepted, now)
    # A 5xx is not final at once: a relay set up wrongly refuses everybody so, and must not cost a notice.
    give_up_before = now - GIVE_UP_AFTER
    is_final = not due.is_bundle and notice.created_at < give_up_before
    for recipient, (code, text) in result.refused.items():
        logger.log(
            logging.ERROR if is_final else logging.WARNING,
            "the mail server refused %s for %d notices in e-mail %s: %s %s; %s",
            recipient, due.count, notice.id, code, text,
            "given up" if is_final else f"tried again until they are {GIVE_UP_AFTER.days} days old",
            extra={"action": "recipient_refused"},
        )  # fmt: skip
        error = f"{code} {text}".strip()
        outbox.record_refused(notice.id, recipient, error, now, give_up_before=give_up_before)
    if result.refused:
        counts.failed += due.count
    else:
        counts.sent += outbox.bundle_done(notice.id) if due.is_bundle else 1


def late_notices(database: Database, now: datetime, timezone: ZoneInfo, commands: Commands) -> list[str]:
    """What has waited for too long, as a fault of this run: once for each notice, whichever run finds it."""
    late = Outbox(database).tell_late(now - LATE_NOTICE, now)
    if late is None:
        return []
    fault = (
        f"{late.count} notices have waited for more than an hour, the oldest since"
        f" {late.oldest_at.astimezone(timezone):%Y-%m-%d %H:%M %Z}: {late.last_error or 'no try was made'};"
        " mend what the mail server names, they then go out by themselves"
        f" (which and to whom: {commands.run('a1_retry.py', 'unsent')})"
    )
    logger.error("%s", fault, extra={"action": "notices_late"})
    return [fault]


class Delivery:
    """A run's deliveries: beside its transfers from `begin` on, and at its end.

    open_database: a connection of the thread's own. mailer: a new one for each round.
    """

    def __init__(
        self,
        open_database: Callable[[], Database],
        mailer: Callable[[], Mailers],
        clock: Callable[[], datetime],
        timezone: ZoneInfo,
        commands: Commands,
    ) -> None:
        self._open_database = open_database
        self._mailer = mailer
        self._clock = clock
        self._timezone = timezone
        self._commands = commands
        self.counts = DeliveryCounts()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._is_over = False

    def begin(self) -> None:
        """Deliver what is due, in a thread, soon and from then on whatever becomes due. Never waits.

        A mail server that takes nothing until somebody acts is not asked at each notice: many refused logins
        lock an account.
        """
        if not self.counts.faults:
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Let the thread come to its end; an e-mail that it has in hand is finished."""
        self._is_over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def finish(self, database: Database) -> None:
        """Deliver the remainder, by the run's own connection, and tell what is late."""
        self.stop()
        is_due = Outbox(database).is_due(self._clock())
        if is_due:
            self._deliver(database, is_stopping=lambda: False)
        if is_due is not None:
            self.counts.faults += late_notices(database, self._clock(), self._timezone, self._commands)

    def _deliver(self, database: Database, *, is_stopping: Callable[[], bool]) -> None:
        later = deliver_due_notices(
            database, self._mailer(), self._clock(), self._timezone, self._commands, is_stopping=is_stopping
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
            with self._open_database() as database:
                while not self._is_over:
                    self._wait_for_quiet()
                    self._deliver(database, is_stopping=lambda: self._is_over)
                    self._wake.wait(LOOK_SECONDS)
        except AppError as exc:  # the transfers go on
            logger.warning("notices wait for the end of the run: %s", exc)
        except Exception:
            logger.exception("a bug in delivering; notices wait for the end of the run")
