"""Reports the loop's tasks to people: by e-mail when there is news, and by pings after each run.

`rules/alerts` decides what is news. The e-mails go through the outbox, or directly while the database is
away.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from shared.base.errors import AppError, ExitCode, NotifyError
from shared.base.logs import readable
from shared.base.redaction import redact, spellings
from shared.base.values import MailServer, Notice, Origin
from shared.database import Database
from shared.loop.context import Context
from shared.loop.heartbeat import Signal, ping
from shared.loop.messenger import Messenger
from shared.loop.state_file import StateFile, state_file
from shared.loop.tasks import SCRIPTS, Task
from shared.loop.webhooks import Webhooks
from shared.rules.alerts import LATE_NOTICE, AlertNews, Alerts, after_failure, after_silence, after_success

logger = logging.getLogger("orchestrator")

ROUND = "orchestrator --once"
"""The name of cron's round in the e-mail about it."""
LAST_WORDS_SECONDS = 20.0
"""How long the last messages may take when the loop ends."""


@dataclass(frozen=True, slots=True)
class Output:
    """The last lines of a run. run_id: "" for a round of cron."""

    run_id: str
    tail: Sequence[str]


class Teller:
    """Keeps the alerts of each task, and sends their e-mails. Only `round_began` waits for a server."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._alerts: dict[str, Alerts] = {}
        self._messenger = Messenger()
        self._webhooks = Webhooks(context)

    def close(self) -> None:
        self._messenger.close(LAST_WORDS_SECONDS)
        self._webhooks.close(LAST_WORDS_SECONDS)

    # E-mails about tasks

    def learn(self, alerts: dict[str, Alerts]) -> None:
        """Set {task: its alerts} from the database; what was noted here in the meantime wins."""
        self._alerts = alerts | {task: noted for task, noted in self._alerts.items() if noted}

    def forget(self) -> None:
        """Forget all alerts: another orchestrator is active, and counts the failures from now on."""
        self._alerts = {}

    def run_ended(self, task: Task, run_id: str, code: int, ending: str, tail: Sequence[str]) -> None:
        now, before = self._context.clock.now(), self._alerts.get(task.name, {})
        if code == 0 or code in task.own_failures:
            alerts, news = after_success(before, now)
        else:
            threshold = self._context.settings.alert_after_failures
            alerts, news = after_failure(before, task.name, ending, now, threshold=threshold)
        self._note(task, alerts, news, Output(run_id, tail), now)
        if code != 0:
            self._deliver_outbox()  # in case the run did not deliver them
        self._webhooks.deliver()

    def run_is_silent(self, task: Task, run_id: str, since: datetime, tail: Sequence[str]) -> None:
        now = self._context.clock.now()
        alerts, news = after_silence(self._alerts.get(task.name, {}), task.name, since, now)
        self._note(task, alerts, news, Output(run_id, tail), now)

    def _note(
        self, task: Task, alerts: Alerts, news: AlertNews | None, output: Output, now: datetime
    ) -> None:
        """Store the alerts of a task, and send an e-mail when there is news."""
        if self._context.is_stopping():
            return  # a run that a stop cut short says nothing about the task
        before, self._alerts[task.name] = self._alerts.get(task.name, {}), alerts
        if alerts == before or not self._context.still_acts():
            return
        if news is None:
            self._context.journal.save_alerts(task.name, alerts, None)
            return
        notice = self._compose(news, output, now)
        is_saved = self._context.journal.save_alerts(
            task.name, alerts, notice, self._webhooks.queueing(news, now)
        )
        logger.warning("notice: %s", notice.subject, extra={"action": "task_alert"})
        if is_saved:
            self._deliver_outbox()
            self._webhooks.deliver()
        elif self._context.still_acts():  # the database is away
            self._messenger.send(partial(_hand_over, self._context.settings.mail.server, notice))
            self._webhooks.send_directly(news, now)

    def _compose(self, news: AlertNews, output: Output, now: datetime) -> Notice:
        from shared.notifier import task_alert

        settings = self._context.settings
        secrets = spellings(settings.secrets)
        return task_alert(
            news,
            tail=[redact(line, secrets) for text in output.tail for line in readable(text).split("\n")],
            origin=Origin(self._context.host, output.run_id),
            commands=settings.commands,
            recipients=settings.mail.alert_recipients,
            timezone=settings.cadence.timezone,
            links=settings.links,
            now=now,
        )

    def _deliver_outbox(self) -> None:
        settings, clock, is_stopping = (
            self._context.settings, self._context.clock, self._context.is_stopping
        )  # fmt: skip
        origin = Origin(self._context.host)

        def deliver() -> bool:
            from shared.notices.delivery import deliver_due_notices
            from shared.notifier import Mailer

            name = "a1_to_a2 messenger"
            with Database(settings.database.dsn, application_name=name, is_stopping=is_stopping) as database:
                mailer, timezone = Mailer(settings.mail.server), settings.cadence.timezone
                counts = deliver_due_notices(
                    database, mailer, clock.now(), timezone, settings.commands, settings.links, origin=origin
                )
            # A refused login stays refused until somebody acts: the next run tries again, and reports it.
            return counts.failed == 0 or bool(counts.faults)

        self._messenger.send(deliver, key="outbox")

    # E-mails about rounds (`--once`)

    def round_began(self, code: int, trouble: str) -> None:
        """Send an e-mail when rounds cannot reach the database: when that begins, once a day, and when it is
        over. There is no outbox then, and the only memory is a file. code: 0 when the database answers.
        """
        now = self._context.clock.now()
        with self._memory_of_rounds(is_made=code != 0) as memory:
            before = {} if memory is None else memory.read(now)
            if code == 0:
                alerts, news = after_success(before, now)
            else:
                alerts, news = after_failure(before, ROUND, f"exit code {code}", now, threshold=1)
            if alerts == before:
                return
            # Stored before it is sent: a round that is killed in between loses one e-mail, instead of sending
            # many.
            is_kept = memory is not None and memory.write(alerts)
            # When it cannot be stored, an e-mail goes out once an hour: never silent, and never each minute.
            if news is None or (not is_kept and now.minute):
                return
            if not self._is_told(news, trouble, now) and memory is not None:
                memory.write(before)

    def _memory_of_rounds(self, *, is_made: bool) -> AbstractContextManager[StateFile | None]:
        """The file of this installation; another installation on this host has its own. is_made: see
        `state_file`.
        """
        place = repr((SCRIPTS, str(self._context.env_file or "")))
        name = f"once-{zlib.crc32(place.encode()):08x}.json"
        return state_file(self._context.environment, name, is_made=is_made)

    def _is_told(self, news: AlertNews, trouble: str, now: datetime) -> bool:
        """Send the news now; returns whether the mail server or a webhook's target accepted it."""
        is_told = self._webhooks.take_directly(news, now)
        try:
            _hand_over(self._context.settings.mail.server, self._compose(news, Output("", [trouble]), now))
        except AppError as exc:
            said = "no e-mail could be sent" if is_told else "the alert could not be sent to anybody"
            logger.error("%s: %s", said, exc, extra={"action": "alert_failed"})
            return is_told
        return True

    # Pings

    def ping(self, kind: Signal, heartbeat_id: str, text: str = "") -> None:
        """heartbeat_id: one for the start and the end of a run."""
        if url := self._context.settings.heartbeat_url:
            self._messenger.send(partial(ping, url, kind, heartbeat_id, text))

    def ping_end(self, heartbeat_id: str, code: int, ending: str) -> None:
        """Ping how a run ended. It is a success only while e-mails go out."""
        kind: Signal = "failure"
        if code in (ExitCode.SOME_FAILED, ExitCode.TRY_LATER):
            kind = "log"  # the run itself needs no action
        elif code == 0:
            kind = "success"
            late_before = self._context.clock.now() - LATE_NOTICE
            if self._context.settings.heartbeat_url and self._context.journal.has_late_mail(late_before):
                kind, ending = "log", f"{ending}; e-mails have waited for more than an hour"
        self.ping(kind, heartbeat_id, ending)


def _hand_over(server: MailServer, notice: Notice) -> None:
    """Send a notice directly, without the outbox. Raises NotifyError when the server refuses
    every recipient.
    """
    from shared.notifier import Mailer

    with Mailer(server) as mailer:
        refused = mailer.send(notice).refused
    if len(refused) == len(notice.recipients):
        raise NotifyError(f"the mail server refused every recipient: {refused}", kind="rejected")
