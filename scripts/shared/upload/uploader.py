"""Does one run over the campaigns in A1: searches, processes each in a thread, and decides the exit code."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from shared.base.errors import AppError, CampaignLostError, DamError, ExitCode, StoppedError
from shared.base.values import Campaign, Origin, Outcome, RetryStatus
from shared.database import Database
from shared.http.ahead import quietly
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.rules.cadence import is_off_hours
from shared.rules.retry import is_auto_reset_due
from shared.settings import Settings
from shared.upload.entries import Entries
from shared.upload.failures import Failure, Failures
from shared.upload.ledger import Ledger
from shared.upload.progress import Progress
from shared.upload.road import Arrival, Clock, Context, leave, travel
from shared.upload.run_report import Report
from shared.upload.standing import LeftBehind, Standing

if TYPE_CHECKING:
    from shared.dam.client import DamClient
    from shared.upload.box_side import BoxSide
    from shared.upload.copier import Copier
    from shared.webhooks.hooks import Hooks

logger = logging.getLogger("uploader")

CAMPAIGNS_AT_ONCE = 16
"""How many campaigns a run works on at once: enough to keep all workers busy, few enough for the memory."""
CAMPAIGNS_ASKED_ABOUT = 4
"""How many of them ask the DAM at the same time."""


class Pass:
    """One run: search, process the campaigns, report. Its parts are arguments.

    Each campaign has a thread of its own. `_lock` guards what they share.
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
        deliver_beside: Callable[[], None] = lambda: None,
        hooks: Hooks | None = None,
    ) -> None:
        """deliver_beside: delivers notices while files are copied; never waits. hooks: None when the settings
        have no webhook.
        """
        self._settings = settings
        self._open_ledger = open_ledger
        self._deliver_beside = deliver_beside
        self._database = database
        self._dam = dam
        self._report = report
        self._is_dry_run = is_dry_run
        self._is_stopping = is_stopping
        self._progress = progress
        self._entries = Entries(settings, report)
        self._resources = ExitStack()
        self._lock = threading.Lock()
        self._asking_about = threading.Semaphore(CAMPAIGNS_ASKED_ABOUT)
        self._box_side: BoxSide | None = None
        self._transfers = 0
        self._has_transfers = False
        self._failures = Failures()
        self._is_interrupted = False
        self._ending: AppError | None = None
        """The error that ended the run early."""
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
            copier=self._copier_for,
            on_notice=self._on_notice,
            hooks=hooks,
        )

    def run(self, chosen: Sequence[str]) -> ExitCode:
        """Process the campaigns in A1, or only the chosen ids. Raises AppError when the run
        cannot continue.
        """
        ids = list(dict.fromkeys(chosen)) or [hit.id for hit in self._dam.find_campaigns()]
        states = self._database.get_a1_retry_states(ids)
        logger.info(
            "%d campaigns in %s, %d of them permanently failed", len(ids), self._settings.dam.status_a1,
            sum(state.permanently_failed for state in states.values()), extra={"action": "search_done"},
        )  # fmt: skip
        self._entries.is_chosen = bool(chosen)
        with self._resources:
            self._let_travel([states.get(one, RetryStatus(one)) for one in ids])
            if not self._is_dry_run and not self._is_interrupted:
                if not chosen:
                    self._follow_those_that_left(ids)
                self._abort_stale_uploads()
        self._report.sort(ids)
        if self._entries.has_mistyped:
            self._failures.has_failed = True  # a mistyped id must not look like a success
        return self._failures.conclude(is_interrupted=self._is_interrupted, has_brought=self._has_brought)

    def _let_travel(self, states: Sequence[RetryStatus]) -> None:
        """Start each campaign in a thread of its own, except for the permanently failed ones, unless their
        time for a new cycle has come.
        """
        settings, began = self._settings, self._context.began
        is_off = self._is_dry_run or is_off_hours(began.astimezone(settings.timezone), settings.off_hours)
        travellers = []
        for state in states:
            if not state.permanently_failed or is_auto_reset_due(
                state, settings.retry, began, is_off_hours=is_off
            ):
                travellers.append(state)
            else:
                self._entries.skip(_known(state), state)
        if not travellers:
            return
        self._progress.expect_campaigns(len(travellers))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(CAMPAIGNS_AT_ONCE, "campaign") as threads:
            if any(map(self._is_promising, travellers)):
                threads.submit(quietly, self._made_box_side)  # logs in to Box while the DAM answers
            list(threads.map(self._travel, travellers))
        if self._ending is not None:
            raise self._ending

    def _is_promising(self, retry: RetryStatus) -> bool:
        """Whether the campaign probably has something to upload: its folder was never seen empty. The search
        index lags, so the row counts too: by its row, a campaign that was just uploaded is not in A1.
        """
        is_in_a1 = retry.status in (None, self._settings.dam.status_a1)
        return is_in_a1 and not self._is_dry_run and not retry.retry_count

    # In the thread of one campaign

    def _travel(self, retry: RetryStatus) -> None:
        def work(context: Context, known: Campaign) -> None:
            arrival = travel(context, known, retry)
            self._is_interrupted |= arrival.outcome is Outcome.INTERRUPTED
            self._entries.note(arrival)

        self._work_on(retry, work)
        self._progress.campaign_ended()

    def _work_on(self, retry: RetryStatus, work: Callable[[Context, Campaign], None]) -> None:
        """Claim the campaign, so that no other run works on it, and process it. A failure never stops the
        others.

        work: gets the campaign from its row, and a context in which each write, and each effect outside the
        database, checks that we still hold the campaign.
        """
        context, known = self._context, _known(retry)
        try:
            if not self._is_dry_run:
                held = self._database.take_campaign(known.id)
                context = replace(context, database=held, dam=self._dam.guarded(held.ensure_held))
            work(context, known)
        except StoppedError:
            self._is_interrupted = True
        except CampaignLostError as exc:
            logger.warning("campaign %s is left to another run: %s", known.id, exc)
            self._is_interrupted = True
            self._entries.note(Arrival(known, Outcome.INTERRUPTED, retry.retry_count))
        except AppError as exc:
            if exc.ends_run:
                self._ending = self._ending or exc
            else:
                self._fail(Failure(context, exc.campaign or known, exc, retry))
        except Exception:  # a bug in one campaign must not stop the others
            logger.exception("campaign %s: a bug", known.id)
            self._failures.has_bug = True
            self._entries.note(Arrival(known, Outcome.FAILED, retry.retry_count), error="a bug, see the log")

    def _fail(self, failure: Failure) -> None:
        try:
            outcome = self._failures.note(failure)
        except AppError as exc:  # the database is no longer usable
            self._ending = self._ending or exc
            return
        campaign, retry = failure.campaign, failure.retry
        self._entries.note(Arrival(campaign, outcome, retry.retry_count), error=str(failure.error))

    def _is_to_end(self) -> bool:
        """Whether the run must end: somebody stopped it, or it cannot continue."""
        return self._ending is not None or self._is_stopping()

    def _check(self) -> None:
        if self._is_to_end():
            raise StoppedError

    def _wait(self, seconds: float) -> None:
        from shared.upload.limiter import stoppable_sleep

        stoppable_sleep(self._is_to_end)(seconds)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._asking_about:
            if self._ending is not None:
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
        """Send a notice from the outbox at once while files are copied, instead of at the end."""
        with self._lock:
            self._report.queued += 1
            is_urgent = self._transfers > 0
        if is_urgent:
            self._deliver_beside()

    def _made_box_side(self) -> BoxSide:
        """Give the campaign its copier. Raises AppError, also when Box has answered no campaign
        in this run.
        """
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
                        run_id=self._report.run_id,
                        is_stopping=self._is_to_end,
                    )
                )
            self._failures.raise_if_box_is_down(has_brought=self._has_brought)
            return self._box_side

    def _copier_for(self, held: Database) -> Copier:
        return self._made_box_side().copier(self._dam, held)

    @property
    def _has_brought(self) -> bool:
        """Whether Box has accepted a file in this run."""
        return self._progress.figures.files > 0

    # In the main thread

    def _follow_those_that_left(self, seen: Sequence[str]) -> None:
        """Read the campaigns that the search no longer shows, and update their rows.

        A campaign that should be in A2 counts as gone only when the DAM still does not show it a day later:
        without its row the success notice would be lost.
        """
        left_behind = Standing(self._database).left_behind(self._settings.dam.status_a1, seen)
        states = self._database.get_a1_retry_states([left.campaign_id for left in left_behind])
        for left in left_behind:
            if self._is_stopping():
                self._is_interrupted = True
                return
            retry = states.get(left.campaign_id, RetryStatus(left.campaign_id))
            self._work_on(retry, partial(self._follow_patiently, left))
            if self._ending is not None:
                raise self._ending

    def _follow_patiently(self, left: LeftBehind, context: Context, known: Campaign) -> None:
        try:
            self._follow(left, context, known)
        except DamError as exc:
            logger.warning("could not read campaign %s again: %s", left.campaign_id, exc)

    def _follow(self, left: LeftBehind, context: Context, known: Campaign) -> None:
        """Update one campaign's row. known: from its row."""
        status_a1 = self._settings.dam.status_a1
        campaign = context.dam.read_campaign(left.campaign_id)
        if not left.is_in_a1:
            if campaign is not None:
                context.dam.release_lock(campaign)
            return
        is_waited_for = left.is_a2_expected if campaign is None else campaign.status == status_a1
        if is_waited_for:
            Standing(context.database).mark_left_search(left.campaign_id)
            return
        self._entries.note(leave(context, campaign or known, is_gone=campaign is None))

    def _abort_stale_uploads(self) -> None:
        """End the upload sessions in Box that no run will continue."""
        for upload in Ledger(self._database).stale_uploads(self._settings.dam.status_a1):
            try:
                held = self._database.take_campaign(upload.campaign_id)
                self._copier_for(held).box.of(upload.asset_id).abort(upload.session_id)
                Ledger(held).forget_upload(upload.session_id)
            except StoppedError:
                return
            except AppError as exc:
                if exc.ends_run:
                    raise
                logger.warning("%s; the next run tries again", exc)


def _known(retry: RetryStatus) -> Campaign:
    """A campaign with the values of its row."""
    return Campaign(retry.campaign_id, retry.campaign_number, retry.campaign_name or retry.campaign_id, None)
