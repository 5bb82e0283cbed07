"""Does one run over the campaigns in A1: searches, processes each in a thread, and decides the exit code.

With an engine, workers process them, and the run only queues them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from shared.base.errors import AppError, DamError, ExitCode, StoppedError
from shared.base.values import Campaign, Outcome, RetryStatus
from shared.database import Database
from shared.http.ahead import quietly
from shared.settings import Settings
from shared.upload.ledger import Ledger
from shared.upload.progress import Progress
from shared.upload.road import Arrival, Clock, Context, leave
from shared.upload.run_report import Report
from shared.upload.standing import LeftBehind, Standing
from shared.upload.workplace import Workplace, known

if TYPE_CHECKING:
    from shared.dam.client import DamClient
    from shared.webhooks.hooks import Hooks

logger = logging.getLogger("uploader")

CAMPAIGNS_AT_ONCE = 16
"""How many campaigns a run works on at once: enough to keep all workers busy, few enough for the memory."""


class Queue(Protocol):
    """The engine's queue, as a run uses it. Raises DbError."""

    def put(self, campaign_ids: Sequence[str]) -> None:
        """Queue each campaign, unless it waits already or a worker has it."""

    def take_back(self, campaign_ids: Sequence[str]) -> None:
        """Remove these campaigns from those that wait for a worker."""

    def live(self, campaign_ids: Sequence[str]) -> Collection[str]:
        """Those of these campaigns that wait, or that a worker has."""


class Pass:
    """One run: search, process the campaigns, report. Its parts are arguments.

    Each campaign has a thread of its own.
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
        queue: Queue | None = None,
    ) -> None:
        """deliver_beside, hooks: see Workplace. queue: of the engine; None: without one."""
        self._settings = settings
        self._database = database
        self._dam = dam
        self._report = report
        self._is_dry_run = is_dry_run
        self._is_stopping = is_stopping
        self._progress = progress
        self._queue = queue
        self._workplace = Workplace(
            settings, database, dam, report, clock=clock, is_dry_run=is_dry_run, is_stopping=is_stopping,
            progress=progress, open_ledger=open_ledger, deliver_beside=deliver_beside, hooks=hooks,
        )  # fmt: skip

    def run(self, chosen: Sequence[str]) -> ExitCode:
        """Process the campaigns in A1, or only the chosen ids. Raises AppError when the run
        cannot continue.
        """
        place = self._workplace
        ids = list(dict.fromkeys(chosen)) or [hit.id for hit in self._dam.find_campaigns()]
        states = self._database.get_a1_retry_states(ids)
        logger.info(
            "%d campaigns in %s, %d of them permanently failed", len(ids), self._settings.dam.status_a1,
            sum(state.permanently_failed for state in states.values()), extra={"action": "search_done"},
        )  # fmt: skip
        place.entries.is_chosen = bool(chosen)
        with place:
            due = self._due([states.get(one, RetryStatus(one)) for one in ids])
            if self._queue is None:
                self._let_travel(due)
            elif chosen:
                self._let_travel(self._taken_back(self._queue, due))
            else:
                self._put(self._queue, due)
            if not self._is_dry_run and not place.is_interrupted:
                if not chosen:
                    self._follow_those_that_left(ids)
                self._abort_stale_uploads()
        self._report.sort(ids)
        if place.entries.has_mistyped:
            place.failures.has_failed = True  # a mistyped id must not look like a success
        answered = {"DAM", "Box"} if place.has_brought else {"DAM"}  # the DAM has answered the search
        return place.failures.conclude(is_interrupted=place.is_interrupted, answered=answered)

    def _due(self, states: Sequence[RetryStatus]) -> list[RetryStatus]:
        """The campaigns to look at; the others are recorded as skipped."""
        due = []
        for state in states:
            if self._workplace.is_due(state, self._report.started_at):
                due.append(state)
            else:
                self._workplace.skip(state)
        return due

    def _let_travel(self, travellers: Sequence[RetryStatus]) -> None:
        """Start each campaign in a thread of its own."""
        if not travellers:
            return
        self._progress.expect_campaigns(len(travellers))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(CAMPAIGNS_AT_ONCE, "campaign") as threads:
            if any(map(self._is_promising, travellers)):
                threads.submit(quietly, self._workplace.open_box)  # logs in to Box while the DAM answers
            list(threads.map(self._travel, travellers))
        if self._workplace.ending is not None:
            raise self._workplace.ending

    def _is_promising(self, retry: RetryStatus) -> bool:
        """Whether the campaign probably has something to upload: its folder was never seen empty. The search
        index lags, so the row counts too: by its row, a campaign that was just uploaded is not in A1.
        """
        is_in_a1 = retry.status in (None, self._settings.dam.status_a1)
        return is_in_a1 and not self._is_dry_run and not retry.retry_count

    def _travel(self, retry: RetryStatus) -> None:
        """In the thread of one campaign."""
        self._workplace.travel(retry, self._report.started_at)
        self._progress.campaign_ended()

    # With an engine

    def _put(self, queue: Queue, due: Sequence[RetryStatus]) -> None:
        """Leave the campaigns to the workers."""
        queue.put([state.campaign_id for state in due])
        for state in due:
            self._note_queued(state)

    def _taken_back(self, queue: Queue, chosen: Sequence[RetryStatus]) -> list[RetryStatus]:
        """Those of the chosen campaigns that no worker has: a person waits for their outcome here."""
        ids = [state.campaign_id for state in chosen]
        queue.take_back(ids)
        with_workers = queue.live(ids)
        for state in chosen:
            if state.campaign_id in with_workers:
                logger.warning("campaign %s: a worker has it now, and this run does not", state.campaign_id)
                self._note_queued(state)
        return [state for state in chosen if state.campaign_id not in with_workers]

    def _note_queued(self, state: RetryStatus) -> None:
        limit = self._settings.retry.limit(state)
        self._workplace.entries.note(Arrival(known(state), Outcome.QUEUED, state.retry_count, limit))

    def _left_to_workers(self, campaign_ids: Sequence[str]) -> Collection[str]:
        """Those of these campaigns that this run must leave to the workers."""
        return self._queue.live(campaign_ids) if self._queue is not None and campaign_ids else ()

    # After the campaigns in A1

    def _follow_those_that_left(self, seen: Sequence[str]) -> None:
        """Read the campaigns that the search no longer shows, and update their rows.

        A campaign that should be in A2 counts as gone only when the DAM still does not show it a day later:
        without its row the success notice would be lost.
        """
        left_behind = Standing(self._database).left_behind(self._settings.dam.status_a1, seen)
        ids = [left.campaign_id for left in left_behind]
        states = self._database.get_a1_retry_states(ids)
        with_workers = self._left_to_workers(ids)
        for left in left_behind:
            if left.campaign_id in with_workers:
                continue
            if self._is_stopping():
                self._workplace.is_interrupted = True
                return
            retry = states.get(left.campaign_id, RetryStatus(left.campaign_id))
            self._workplace.work_on(retry, self._report.started_at, partial(self._follow_patiently, left))
            if self._workplace.ending is not None:
                raise self._workplace.ending

    def _follow_patiently(self, left: LeftBehind, context: Context, of_row: Campaign) -> None:
        try:
            self._follow(left, context, of_row)
        except DamError as exc:
            logger.warning("could not read campaign %s again: %s", left.campaign_id, exc)

    def _follow(self, left: LeftBehind, context: Context, of_row: Campaign) -> None:
        """Update one campaign's row. of_row: the campaign with the values of the row."""
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
        self._workplace.entries.note(leave(context, campaign or of_row, is_gone=campaign is None))

    def _abort_stale_uploads(self) -> None:
        """End the upload sessions in Box that no run will continue."""
        stale = Ledger(self._database).stale_uploads(self._settings.dam.status_a1)
        with_workers = self._left_to_workers([upload.campaign_id for upload in stale])
        for upload in stale:
            if upload.campaign_id in with_workers:
                continue
            try:
                held = self._database.take_campaign(upload.campaign_id)
                self._workplace.copier(held).box.of(upload.asset_id).abort(upload.session_id)
                Ledger(held).forget_upload(upload.session_id)
            except StoppedError:
                return
            except AppError as exc:
                if exc.ends_run:
                    raise
                logger.warning("%s; the next run tries again", exc)
