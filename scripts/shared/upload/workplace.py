"""Works on campaigns, each in the calling thread: claims it, sends it on its road, handles its failure.

A run uses it for the campaigns that its search found, a worker for those that the engine gives it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Self

from shared.base.errors import AppError, CampaignLostError, StoppedError
from shared.base.values import Campaign, Origin, Outcome, RetryStatus
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.rules.cadence import is_off_hours
from shared.rules.retry import is_auto_reset_due
from shared.settings import Settings
from shared.upload.entries import Entries
from shared.upload.failures import Failure, Failures
from shared.upload.progress import Progress
from shared.upload.road import Arrival, Clock, Context, travel
from shared.upload.run_report import Report

if TYPE_CHECKING:
    from shared.dam.client import DamClient
    from shared.upload.box_side import BoxSide
    from shared.upload.copier import Copier
    from shared.webhooks.hooks import Hooks

logger = logging.getLogger("uploader")

CAMPAIGNS_ASKED_ABOUT = 4
"""How many campaigns ask the DAM at the same time."""

Work = Callable[[Context, Campaign], None]


class Workplace:
    """What the work on campaigns shares: the DAM, Box and the database, what failed, and what was reported.

    Enter it before the first campaign; its end closes Box. `_lock` guards what the threads share.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        dam: DamClient,
        report: Report,
        *,
        clock: Clock,
        is_dry_run: bool,
        is_stopping: Callable[[], bool],
        progress: Progress,
        open_ledger: Callable[[], Database],
        deliver_beside: Callable[[], None],
        hooks: Hooks | None,
        has_end: bool = True,
    ) -> None:
        """deliver_beside: delivers notices while files are copied; never waits. hooks: None when the settings
        have no webhook. has_end: whether the rest is delivered at the end, as in a run; else each notice is
        delivered at once.
        """
        self._has_end = has_end
        self._settings = settings
        self._open_ledger = open_ledger
        self._deliver_beside = deliver_beside
        self._database = database
        self._dam = dam
        self._is_dry_run = is_dry_run
        self._is_stopping = is_stopping
        self._progress = progress
        self._resources = ExitStack()
        self._lock = threading.Lock()
        self._asking_about = threading.Semaphore(CAMPAIGNS_ASKED_ABOUT)
        self._box_side: BoxSide | None = None
        self._transfers = 0
        self._has_transfers = False
        self._run_id = report.run_id
        self.report = report
        self.entries = Entries(settings, report)
        self.failures = Failures()
        self.is_interrupted = False
        """Whether a campaign was left before its end."""
        self.ending: AppError | None = None
        """The error after which nothing more can be done here, for any campaign."""
        self._context = Context(
            settings=settings,
            database=database,
            dam=dam,
            composer=Composer(
                timezone=settings.timezone,
                max_attempts=settings.retry.max_retries,
                folder_name=settings.dam.master_assets_folder,
                commands=settings.commands,
                links=settings.links,
                origin=Origin(socket.gethostname(), report.run_id),
                error_recipients=settings.mail.error_recipients,
                success_recipients=settings.mail.success_recipients,
            ),
            clock=clock,
            began=report.started_at,
            run_id=report.run_id,
            is_dry_run=is_dry_run,
            check=self._check,
            wait=self._wait,
            asking=self._asking,
            transferring=self._transferring,
            copier=self.copier,
            on_notice=self._on_notice,
            hooks=hooks,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def is_due(self, retry: RetryStatus, began: datetime) -> bool:
        """Whether to look at a campaign in A1: unless it is permanently failed, and the time for its new
        cycle has not come.
        """
        if not retry.permanently_failed:
            return True
        settings = self._settings
        is_off = self._is_dry_run or is_off_hours(began.astimezone(settings.timezone), settings.off_hours)
        return is_auto_reset_due(retry, settings.retry, began, is_off_hours=is_off)

    def skip(self, retry: RetryStatus) -> None:
        """Record a permanently failed campaign."""
        self.entries.skip(known(retry), retry)

    def travel(self, retry: RetryStatus, began: datetime) -> None:
        """Send a campaign on its road, and record its outcome. began: the time of its attempt."""

        def work(context: Context, known: Campaign) -> None:
            arrival = travel(context, known, retry)
            self.is_interrupted |= arrival.outcome is Outcome.INTERRUPTED
            self.entries.note(arrival)

        self.work_on(retry, began, work)

    def work_on(self, retry: RetryStatus, began: datetime, work: Work) -> None:
        """Claim the campaign, so that nobody else works on it, and process it. A failure never stops the
        others.

        began: when its run, or its job, began. work: gets the campaign from its row, and a context in which
        each write, and each effect outside the database, checks that we still hold the campaign.
        """
        context, of_row = replace(self._context, began=began), known(retry)
        try:
            if not self._is_dry_run:
                held = self._database.take_campaign(of_row.id)
                context = replace(context, database=held, dam=self._dam.guarded(held.ensure_held))
            work(context, of_row)
        except StoppedError:
            self.is_interrupted = True
        except CampaignLostError as exc:
            logger.warning("campaign %s is left to another run: %s", of_row.id, exc)
            self.is_interrupted = True
            self.entries.note(Arrival(of_row, Outcome.INTERRUPTED, retry.retry_count))
        except AppError as exc:
            if exc.ends_run:
                self.ending = self.ending or exc
            else:
                self._fail(Failure(context, exc.campaign or of_row, exc, retry))
        except Exception:  # a bug in one campaign must not stop the others
            logger.exception("campaign %s: a bug", of_row.id)
            self.failures.has_bug = True
            self.entries.note(Arrival(of_row, Outcome.FAILED, retry.retry_count), error="a bug, see the log")

    def _fail(self, failure: Failure) -> None:
        try:
            outcome = self.failures.note(failure)
        except AppError as exc:  # the database is no longer usable
            self.ending = self.ending or exc
            return
        campaign, retry = failure.campaign, failure.retry
        self.entries.note(Arrival(campaign, outcome, retry.retry_count), error=str(failure.error))

    # What a campaign on its road asks for

    def _is_to_end(self) -> bool:
        """Whether the work must end: somebody stopped it, or it cannot continue."""
        return self.ending is not None or self._is_stopping()

    def _check(self) -> None:
        if self._is_to_end():
            raise StoppedError

    def _wait(self, seconds: float) -> None:
        from shared.upload.limiter import stoppable_sleep

        stoppable_sleep(self._is_to_end)(seconds)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._asking_about:
            if self.ending is not None:
                raise StoppedError
            yield

    @contextmanager
    def _transferring(self, now: datetime) -> Iterator[None]:
        with self._lock:
            is_first, self._has_transfers = not self._has_transfers, True
            self._transfers += 1
        try:
            if is_first and Outbox(self._database).is_due(now):
                self._deliver_beside()
            yield
        finally:
            with self._lock:
                self._transfers -= 1

    def _on_notice(self) -> None:
        """Send a notice from the outbox at once, instead of at the end, while files are copied or when there
        is no end.
        """
        with self._lock:
            self.report.queued += 1
            is_urgent = self._transfers > 0 or not self._has_end
        if is_urgent:
            self._deliver_beside()

    def open_box(self) -> BoxSide:
        """What gives a campaign its copier. Raises AppError, also when Box has answered no campaign yet."""
        with self._lock:
            if self._box_side is None:
                from shared.upload.box_side import BoxSide

                self._box_side = self._resources.enter_context(
                    BoxSide(
                        self._settings.box,
                        self._settings.transfer,
                        self._database,
                        self._open_ledger,
                        self._progress,
                        run_id=self._run_id,
                        is_stopping=self._is_to_end,
                    )
                )
            self.failures.raise_if_box_is_down(has_brought=self.has_brought)
            return self._box_side

    def copier(self, held: Database) -> Copier:
        """The copier of the campaign that this database claims."""
        return self.open_box().copier(self._dam, held)

    @property
    def has_brought(self) -> bool:
        """Whether Box has accepted a file."""
        return self._progress.figures.files > 0


def known(retry: RetryStatus) -> Campaign:
    """A campaign with the values of its row."""
    return Campaign(retry.campaign_id, retry.campaign_number, retry.campaign_name or retry.campaign_id, None)
