"""One pass over the campaigns in A1: search, decide, transfer, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from shared.base.errors import AppError, DamError, DbError, ExitCode, StoppedError
from shared.base.values import Campaign, CampaignResult, MasterAssets, Outcome, RetryStatus
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.rules.alerts import HEALING_PATIENCE
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, next_run
from shared.rules.retry import Action, decide, notice_for, reason_for
from shared.settings import Settings
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.progress import Progress
from shared.upload.run_report import Report
from shared.upload.standing import GONE, LeftBehind, Standing

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from shared.dam.client import DamClient
    from shared.upload.courier import Courier, Errand
    from shared.upload.transfer import CampaignTransfer, Delivered

logger = logging.getLogger("uploader")

Clock = Callable[[], datetime]
T = TypeVar("T")

LISTING_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""When a listing shows other assets than were copied: seconds until the next look, and then that is copied.
After that many changes the campaign is left for the next run.
"""
CAMPAIGNS_PER_WORKER = 2
"""How many campaigns may be under way, for each worker: enough to keep all busy, few enough to be held."""
CAMPAIGNS_ASKED_ABOUT = 4
"""How many campaigns the DAM is asked about at once."""
STOP_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Failure:
    """A campaign that failed in this pass, kept until it is known whether its system was down altogether."""

    campaign: Campaign
    error: AppError
    retry: RetryStatus


@dataclass(slots=True)
class Work:
    """A campaign that is being worked on; transfer and started_at: from when its assets are on their way.

    is_listing: its folder is being listed again, perhaps while the last files are on their way.
    pauses: how many pauses it has had. missing: what was answered with 404 in this run, by id.
    """

    campaign: Campaign
    retry: RetryStatus
    transfer: CampaignTransfer | None = None
    started_at: datetime | None = None
    is_listing: bool = False
    pauses: int = 0
    missing: frozenset[str] = frozenset()


class Pass:
    """One pass: search, decide, transfer, report. Its parts are handed in.

    The main thread alone decides, and it alone writes about campaigns into the database. Others move files,
    and ask the DAM and Box what takes a while, so that no campaign waits for another one's answer; they leave
    word in `_events`: things for the main thread to do, one after the other.
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
    ) -> None:
        """deliver_beside: has notices delivered while files are on their way; never waits."""
        self._settings = settings
        self._open_ledger = open_ledger
        self._deliver_beside = deliver_beside
        self._has_transfers = False
        self._database = database
        self._dam = dam
        self._report = report
        self._clock = clock
        self._is_dry_run = is_dry_run
        self._is_stopping = is_stopping
        self._progress = progress
        self._resources = ExitStack()
        self._courier: Courier | None = None
        self._askers: ThreadPoolExecutor | None = None
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._under_way: dict[str, Work] = {}
        self._pausing: dict[str, tuple[float, Work]] = {}
        self._is_chosen = False
        self._waiting: list[Failure] = []
        self._systems_that_answered: set[str] = set()
        self._has_failed = False
        self._has_bug = False
        self._is_interrupted = False
        self._has_stopped = False
        self._is_over = False
        self._composer = Composer(
            timezone=settings.timezone,
            max_attempts=settings.max_retries,
            folder_name=settings.dam.master_assets_folder,
            commands=settings.commands,
            error_recipients=settings.mail.error_recipients,
            success_recipients=settings.mail.success_recipients,
        )

    def run(self, chosen: Sequence[str]) -> ExitCode:
        """Work through the A1 campaigns, or the chosen ids alone. Raises AppError when nothing can go on."""
        ids = list(dict.fromkeys(chosen)) or [hit.id for hit in self._dam.find_campaigns()]
        self._systems_that_answered.add("DAM")
        states = self._database.get_a1_retry_states(ids)
        logger.info(
            "%d campaigns in %s, %d of them permanently failed", len(ids), self._settings.dam.status_a1,
            sum(state.permanently_failed for state in states.values()), extra={"action": "search_done"},
        )  # fmt: skip
        self._is_chosen = bool(chosen)
        with self._resources:
            for campaign_id in ids:
                self._react(at_most=CAMPAIGNS_PER_WORKER * self._settings.transfer.workers - 1)
                if self._is_stopping():
                    self._is_interrupted = True
                    break
                self._look_at(campaign_id, states.get(campaign_id, RetryStatus(campaign_id)))
            self._react(at_most=0)
            if not self._is_dry_run and not self._is_interrupted:
                if not chosen:
                    self._follow_those_that_left(ids)
                self._abort_stale_uploads()
        places = {campaign_id: place for place, campaign_id in enumerate(ids)}
        self._report.campaigns.sort(key=lambda result: places.get(result.campaign_id, len(places)))
        return self._conclude()

    def _react(self, *, at_most: int) -> None:
        """Do what the workers left word of, until at most so many campaigns are under way."""
        while True:
            if self._is_stopping() and not self._has_stopped:
                self._has_stopped = True
                for work in list(self._under_way.values()):
                    self._stop(work)
            self._end_pauses()
            is_full = len(self._under_way) > at_most
            try:
                event = self._events.get(block=is_full, timeout=STOP_POLL_SECONDS)
            except Empty:
                if is_full:
                    continue
                return
            event()

    def _end_pauses(self) -> None:
        """Look again at the campaigns whose pause is over; a stop ends them all."""
        now = time.monotonic()
        over = [work for until, work in self._pausing.values() if until <= now or self._is_stopping()]
        for work in over:
            del self._pausing[work.campaign.id]
            transfer = self._transfer_of(work)
            if transfer is not None:
                transfer.is_stopped = self._is_stopping()
                with self._isolated(work):
                    self._on_all_delivered(work)

    # One campaign

    def _look_at(self, campaign_id: str, retry: RetryStatus) -> None:
        campaign = Campaign(campaign_id, retry.campaign_number, retry.campaign_name or campaign_id, None)
        work = Work(campaign, retry)
        with self._isolated(work):
            if decide(retry, None) is Action.SKIP and retry.permanently_failed:
                self._note(campaign, Outcome.SKIPPED_PERMANENTLY_FAILED, attempt=retry.retry_count)
                if self._is_chosen:
                    self._tell_of_skipped(campaign, retry)
                return
            self._under_way[campaign_id] = work
            self._ask(work, partial(self._dam.read_campaign, campaign_id), self._on_read)
            if self._is_promising(retry) and retry.status in (None, self._settings.dam.status_a1):
                self._made_courier()  # while the DAM answers; the search may show what was just done, too

    def _tell_of_skipped(self, campaign: Campaign, retry: RetryStatus) -> None:
        """Somebody asked for this campaign by name and must not take silence for success."""
        since = retry.last_retry_at
        logger.warning(
            "campaign %s (%s) is permanently failed since %s (%s): it was skipped; reset it with: %s",
            campaign.id, campaign.label,
            f"{since.astimezone(self._settings.timezone):%Y-%m-%d %H:%M %Z}" if since else "an unknown time",
            retry.failure_reason or "no reason on record", self._settings.commands.reset(campaign.id),
            extra={"action": "campaign_skipped", "campaign_id": campaign.id},
        )  # fmt: skip

    def _is_promising(self, retry: RetryStatus) -> bool:
        """Whether there will be something to upload, or so it seems: the campaign was never seen empty."""
        return not self._is_dry_run and not retry.retry_count

    def _ask(self, work: Work, question: Callable[[], T], then: Callable[[Work, T], None]) -> None:
        """Have others find the answer; the main thread goes on with it, or with what was raised. A campaign
        of which nothing is on its way yet is not asked about any more when the run is to stop.
        """
        if self._askers is None:
            from concurrent.futures import ThreadPoolExecutor

            self._askers = ThreadPoolExecutor(CAMPAIGNS_ASKED_ABOUT, thread_name_prefix="asker")
            self._resources.callback(self._askers.shutdown, cancel_futures=True)

        def ask() -> T:
            if self._is_over or (work.transfer is None and self._is_stopping()):
                raise StoppedError
            return question()

        def leave_word(answer: Future[T]) -> None:
            self._events.put(lambda: self._go_on(work, answer, then))

        self._askers.submit(ask).add_done_callback(leave_word)

    def _go_on(self, work: Work, answer: Future[T], then: Callable[[Work, T], None]) -> None:
        if not self._is_under_way(work):
            return
        with self._isolated(work):
            try:
                found = answer.result()
            except StoppedError:
                self._interrupt(work)
                return
            then(work, found)

    def _is_under_way(self, work: Work) -> bool:
        """Whether the campaign is not done with in this run."""
        return self._under_way.get(work.campaign.id) is work

    @contextmanager
    def _isolated(self, work: Work) -> Iterator[None]:
        """One campaign's failure never stops the next one."""
        try:
            yield
        except AppError as exc:
            if exc.ends_run:
                raise
            if self._looks_again(work, exc):
                return
            self._abandon(work)
            self._fail(Failure(work.campaign, exc, work.retry))
        except Exception:  # a bug met in one campaign must not take the others with it
            logger.exception("campaign %s: a bug", work.campaign.id)
            self._abandon(work)
            self._note_bug(work)

    def _looks_again(self, work: Work, error: AppError) -> bool:
        """Whether the campaign is begun anew, as the next run would: something may have been deleted.

        What is still listed and answers 404 again is a failure.
        """
        if not _is_missing(error) or self._is_stopping():
            return False
        transfer = work.transfer
        if transfer is not None and transfer.pending:
            transfer.failures.append(error)  # what is on its way ends first
            work.is_listing = False  # the answer was this error: another listing follows
            return True
        failures = transfer.failures if transfer is not None and transfer.failures else [error]
        missing = frozenset(failure.item_id or failure.system for failure in failures)
        if missing & work.missing:
            return False
        logger.info("campaign %s is looked at again: %s", work.campaign.id, error)
        again = Work(work.campaign, work.retry, started_at=work.started_at, missing=work.missing | missing)
        self._under_way[work.campaign.id] = again
        self._ask(again, partial(self._dam.read_campaign, work.campaign.id), self._on_read)
        return True

    def _note_bug(self, work: Work) -> None:
        self._has_bug = True
        attempt = work.retry.retry_count
        self._note(work.campaign, Outcome.FAILED, attempt=attempt, error="a bug, see the log")

    def _interrupt(self, work: Work) -> None:
        """The run is to stop: the next one goes on with the campaign."""
        self._abandon(work)
        self._is_interrupted = True
        if work.transfer is not None:
            self._note(work.campaign, Outcome.INTERRUPTED, attempt=work.retry.retry_count)

    def _abandon(self, work: Work) -> None:
        """The campaign is done with in this run; what of it is in hand still comes to its end."""
        if self._under_way.pop(work.campaign.id, None) is not None and work.transfer is not None:
            work.transfer.drop()

    def _on_read(self, work: Work, read: Campaign | None) -> None:
        """The DAM has shown the campaign, or nothing."""
        if read is None:  # whether it is gone for good is settled where the search does not show it either
            self._note(work.campaign, Outcome.NOT_FOUND)
            self._abandon(work)
            return
        work.campaign = read
        if read.status != self._settings.dam.status_a1:
            self._leave(read, read.status, found=True)
            self._abandon(work)
            return
        if not self._is_dry_run:
            Standing(self._database).record_in_a1(read)
        look = partial(self._list, read, is_first_look=self._is_promising(work.retry))
        self._ask(work, look, self._on_listed)

    def _list(self, campaign: Campaign, *, is_first_look: bool) -> MasterAssets:
        if not self._is_dry_run:
            self._dam.release_lock(campaign)
        return self._dam.list_master_assets(campaign.id, is_first_look=is_first_look)

    def _on_listed(self, work: Work, found: MasterAssets) -> None:
        """The DAM has shown what the campaign's folder holds."""
        campaign, retry = work.campaign, work.retry
        if decide(retry, found) is Action.COUNT_ATTEMPT:
            self._count_attempt(campaign, found, retry)
        elif self._is_dry_run:
            self._note(
                campaign, Outcome.WOULD_UPLOAD, attempt=retry.retry_count, assets=len(found.assets),
                size_bytes=found.size_bytes,
            )  # fmt: skip
        else:
            self._begin_transfer(work, found)
            return
        self._abandon(work)

    def _count_attempt(self, campaign: Campaign, found: MasterAssets, retry: RetryStatus) -> None:
        """Count the attempt and queue its one notice, in one transaction."""
        outcome = Outcome.FOLDER_MISSING if found.folder_id is None else Outcome.EMPTY
        if self._is_dry_run:
            self._note(campaign, outcome, attempt=min(retry.retry_count + 1, self._settings.max_retries))
            return
        reason = reason_for(found, self._settings.dam.master_assets_folder)
        now = self._clock()
        with self._database.transaction():
            attempt = self._database.increment_a1_retry(
                campaign.id, campaign.number, campaign.name, reason, status=campaign.status or ""
            )
            # The folder could be listed: what failed before is over.
            LastingErrors(self._database).clear(campaign.id)
            kind = notice_for(attempt)
            if kind is not None:
                if attempt.permanently_failed:
                    notice = self._composer.permanent(campaign, attempt, reason=reason, now=now)
                else:
                    planned = next_run(
                        A1_TO_A2_INTERVAL_MINUTES, now, self._settings.timezone, self._settings.off_hours
                    )
                    notice = self._composer.retry(
                        campaign, attempt, reason=reason, next_run_at=planned.at, now=now
                    )
                Outbox(self._database).queue(notice)
        if kind is None:
            self._note(campaign, Outcome.SKIPPED_PERMANENTLY_FAILED, attempt=attempt.number)
            return
        self._count_queued(1)
        if attempt.permanently_failed:
            outcome = Outcome.PERMANENTLY_FAILED
        self._note(campaign, outcome, attempt=attempt.number)

    # Transfers

    def _begin_transfer(self, work: Work, found: MasterAssets) -> None:
        from shared.upload.transfer import CampaignTransfer

        if "Box" not in self._systems_that_answered:
            for failure in self._waiting:
                if failure.error.system == "Box":
                    raise failure.error  # the next campaign would wait as long to learn the same
        work.transfer = CampaignTransfer(
            self._made_courier(),
            work.campaign,
            self._settings.box.root_folder_id,
            deliver=lambda delivered: self._events.put(lambda: self._on_delivered(work, delivered)),
            on_all_read=lambda: self._events.put(lambda: self._on_all_read(work)),
        )
        work.started_at = work.started_at or self._clock()
        if not self._has_transfers:
            self._has_transfers = True
            if Outbox(self._database).is_due(work.started_at):
                self._deliver_beside()
        self._ask(work, partial(work.transfer.plan, found), self._on_planned)

    def _on_planned(self, work: Work, errands: Sequence[Errand]) -> None:
        """Its folders in Box are there; the files may go."""
        transfer = self._transfer_of(work)
        if transfer is None:
            return
        if not self._is_stopping():
            transfer.start(errands)
        elif errands:
            transfer.is_stopped = True
        if not transfer.pending:
            self._on_all_delivered(work)

    def _on_delivered(self, work: Work, delivered: Delivered) -> None:
        """A worker has brought a file, or tells why not."""
        error = delivered.error
        if isinstance(error, AppError) and error.ends_run:
            raise error
        if delivered.file is not None:
            self._systems_that_answered.add("Box")
        transfer = self._transfer_of(work)
        if transfer is None:
            return
        with self._isolated(work):
            if isinstance(error, Exception) and not isinstance(error, AppError | StoppedError):
                raise error
            transfer.settle(delivered)
            if not transfer.pending:
                self._on_all_delivered(work)

    def _on_all_read(self, work: Work) -> None:
        """List the folder again while what was read last is still on its way to Box."""
        transfer = self._transfer_of(work)
        if transfer is None or not transfer.pending or transfer.failures or self._is_stopping():
            return
        self._list_again(work, transfer)

    def _list_again(self, work: Work, transfer: CampaignTransfer) -> None:
        def list_now() -> tuple[float, MasterAssets]:
            began = time.monotonic()
            return began, self._dam.list_master_assets(work.campaign.id, transfer.found.folder_id)

        work.is_listing = True
        self._ask(work, list_now, self._on_listed_again)

    def _on_listed_again(self, work: Work, listing: tuple[float, MasterAssets]) -> None:
        work.is_listing = False
        transfer = self._transfer_of(work)
        if transfer is None:
            return
        transfer.keep_listing(*listing)
        if not transfer.pending:
            self._on_all_delivered(work)

    def _on_all_delivered(self, work: Work) -> None:
        """Nothing is on its way any more: see whether the folder shows what was copied."""
        transfer = self._transfer_of(work)
        if transfer is None:
            return
        if any(not _may_be_outdated(error) for error in transfer.failures):
            raise transfer.failure()
        if transfer.is_stopped:
            self._interrupt(work)
        elif not work.is_listing:
            again = transfer.later_listing()
            if again is None:
                self._list_again(work, transfer)
            else:
                self._compare(work, transfer, again)

    def _compare(self, work: Work, transfer: CampaignTransfer, again: MasterAssets) -> None:
        """Copy what is new or changed; when there is nothing, write the receipt, the last thing."""
        if not transfer.are_failures_outdated_by(again):
            raise transfer.failure()
        transfer.failures.clear()
        if decide(work.retry, again) is Action.COUNT_ATTEMPT:
            self._abandon(work)
            self._count_attempt(work.campaign, again, work.retry)
        elif transfer.is_settled_by(again):
            self._begin_receipt(work, transfer)
        elif transfer.listings > len(LISTING_PAUSES):
            raise DamError(
                f"the assets of campaign {work.campaign.id} changed over {transfer.listings} listings,"
                f" the last one that changed: {transfer.first_difference(again)}",
                kind="keeps_changing",
                hint="it goes to A2 when two listings in a row agree",
                retryable=True,
                item_id=work.campaign.id,
            )
        elif work.pauses < transfer.listings and LISTING_PAUSES[work.pauses]:
            pause = LISTING_PAUSES[work.pauses]
            logger.info("campaign %s keeps changing; it is listed again in %g s", work.campaign.id, pause)
            work.pauses += 1
            self._pausing[work.campaign.id] = (time.monotonic() + pause, work)
        else:
            work.pauses = transfer.listings
            logger.info("campaign %s shows other assets than were copied", work.campaign.id)
            self._ask(work, partial(transfer.plan, again), self._on_planned)

    def _begin_receipt(self, work: Work, transfer: CampaignTransfer) -> None:
        from shared.upload.receipt import receipt, write_receipt
        from shared.upload.workers import Job

        courier, campaign, place = self._made_courier(), work.campaign, transfer.root
        if place is None:
            raise RuntimeError("a transfer that was begun has a folder")
        entries = transfer.entries()
        content = receipt(campaign, entries, run_id=self._report.run_id, now=self._clock())

        def write() -> None:
            error: Exception | None = None
            try:
                write_receipt(courier.box, place, campaign.id, content, {entry.box_id for entry in entries})
            except Exception as exc:  # noqa: BLE001 - carried to the main thread, which raises it
                error = exc
            self._events.put(lambda: self._on_receipt(work, error))

        # Not in the campaign's own queue: once all files are there, a stop waits for the receipt and A2.
        courier.pool.submit(f"receipt of {campaign.id}", Job(len(content), write))

    def _on_receipt(self, work: Work, error: Exception | None) -> None:
        """Everything of the campaign is in Box, the receipt too: the DAM may say A2."""
        if self._transfer_of(work) is None:
            return
        if isinstance(error, StoppedError):
            self._interrupt(work)
            return
        with self._isolated(work):
            if error is not None:
                raise error
            dam = self._settings.dam
            Standing(self._database).request_a2(work.campaign.id)
            change = partial(self._dam.change_status, expected=dam.status_a1, new=dam.status_a2)
            self._ask(work, partial(change, work.campaign.id), self._on_a2)

    def _on_a2(self, work: Work, after: Campaign | None) -> None:
        """The DAM has changed the status, or shows that somebody else has."""
        campaign, dam = work.campaign, self._settings.dam
        if after is None or after.status != dam.status_a2:
            logger.warning("campaign %s left %s while its assets were copied", campaign.id, dam.status_a1)
        status = after.status if after else None
        self._leave(after or campaign, status, found=after is not None, started_at=work.started_at)
        self._abandon(work)

    def _stop(self, work: Work) -> None:
        """Begin nothing more of a campaign; what is in hand is finished, large files at their next part."""
        transfer = self._transfer_of(work)
        if transfer is None or not transfer.drop():
            return
        transfer.is_stopped = True
        if not transfer.pending:
            with self._isolated(work):
                self._on_all_delivered(work)

    def _transfer_of(self, work: Work) -> CampaignTransfer | None:
        """The campaign's transfer, unless the campaign is done with in this run."""
        return work.transfer if self._is_under_way(work) else None

    def _abort_stale_uploads(self) -> None:
        """Give back to Box the upload sessions that nobody will go on with."""
        for upload in Ledger(self._database).stale_uploads(self._settings.dam.status_a1):
            try:
                self._made_courier().box.abort(upload.session_id)
                Ledger(self._database).forget_upload(upload.session_id)
            except StoppedError:
                return
            except AppError as exc:
                if exc.ends_run:
                    raise
                logger.warning("%s; it is tried again in the next run", exc)

    def _made_courier(self) -> Courier:
        """Made when there is something to upload: workers and connections cost more than an idle run."""
        if self._courier is None:
            from shared.box.client import BoxClient
            from shared.upload.buckets import Buckets
            from shared.upload.courier import DIRECT_UPLOAD_LIMIT, Courier
            from shared.upload.limiter import BoxGate, stoppable_sleep
            from shared.upload.workers import Pool

            # A connection of the workers' own: they wait neither for our transactions nor for the disk.
            ledger = self._resources.enter_context(self._open_ledger())
            ledger.share_run(self._database)
            limits = self._settings.transfer
            sleep = stoppable_sleep(self._is_to_end)
            gate = BoxGate(
                Buckets(ledger),
                uploads_per_minute=limits.uploads_per_minute,
                calls_per_minute=limits.calls_per_minute,
                ensure_held=self._database.ensure_held,
                sleep=sleep,
            )
            box = self._resources.enter_context(closing(BoxClient(self._settings.box, gate, sleep)))
            pool = Pool(limits.workers, limits.memory_bytes, reserve_bytes=DIRECT_UPLOAD_LIMIT)
            self._resources.enter_context(pool)
            self._resources.push(self._on_the_way_out)
            self._courier = Courier(
                self._dam,
                box,
                Ledger(ledger),
                pool,
                self._progress,
                run_id=self._report.run_id,
                is_stopping=self._is_to_end,
            )
            self._courier.log_in_ahead()
        return self._courier

    def _is_to_end(self) -> bool:
        """Whether workers are to come to their end: the run was told to stop, or has ended."""
        return self._is_over or self._is_stopping()

    def _on_the_way_out(self, *_: object) -> None:
        """Let large files that are in hand stop at their next part, when the run ends before they do."""
        self._is_over = True

    def _leave(
        self, campaign: Campaign, status: str | None, *, found: bool, started_at: datetime | None = None
    ) -> None:
        """The campaign is not in A1: the row follows, and an upload that had got this far is completed.

        An upload asks the DAM to say A2 only after noting that it does, so a run killed in between is
        completed here by the next one. started_at: when this run began to upload, None when it did not.
        """
        if self._is_dry_run:
            self._note(campaign, Outcome.NOT_A1 if found else Outcome.NOT_FOUND)
            return
        # Before the row follows: once it does, nobody looks at the campaign again.
        self._dam.release_lock(campaign)
        is_completed = False
        with self._database.transaction():
            followed = Standing(self._database).follow_status(campaign.id, status if found else GONE)
            if followed is not None:
                LastingErrors(self._database).clear(campaign.id)
                if followed.a2_requested_at is not None and status == self._settings.dam.status_a2:
                    is_completed = True
                    self._database.reset_a1_retry(campaign.id)
                    totals = Ledger(self._database).upload_totals(campaign.id)
                    Ledger(self._database).record_campaign_upload(
                        campaign.id, totals, self._report.run_id, started_at
                    )
                    notice = self._composer.success(
                        campaign, totals, box_folder_id=followed.box_folder_id or "", now=self._clock()
                    )
                    if notice is not None:
                        Outbox(self._database).queue(notice)
        if not is_completed:
            self._note(campaign, Outcome.NOT_A1 if found else Outcome.NOT_FOUND)
            return
        self._count_queued(int(notice is not None))
        self._note(campaign, Outcome.UPLOADED, attempt=0, assets=totals.assets, size_bytes=totals.size_bytes)

    def _follow_those_that_left(self, seen: Sequence[str]) -> None:
        """Re-read the campaigns that the search shows no longer, and let their rows say where they are.

        One that is to be seen in A2 is believed to be gone only when it is out of sight a day later as well:
        with its row its success notice would be lost.
        """
        left_behind = Standing(self._database).left_behind(self._settings.dam.status_a1, seen)
        states = self._database.get_a1_retry_states([left.campaign_id for left in left_behind])
        for left in left_behind:
            if self._is_stopping():
                self._is_interrupted = True
                return
            retry = states.get(left.campaign_id, RetryStatus(left.campaign_id))
            name = retry.campaign_name or left.campaign_id
            known = Campaign(left.campaign_id, retry.campaign_number, name, None)
            with self._isolated(Work(known, retry)):
                self._follow(left, known)

    def _follow(self, left: LeftBehind, known: Campaign) -> None:
        """Let one campaign's row say where it is. known: by its row."""
        status_a1 = self._settings.dam.status_a1
        try:
            campaign = self._dam.read_campaign(left.campaign_id)
            if not left.is_in_a1:
                if campaign is not None:
                    self._dam.release_lock(campaign)
                return
            is_waited_for = left.is_a2_expected if campaign is None else campaign.status == status_a1
            if is_waited_for:
                Standing(self._database).mark_left_search(left.campaign_id)
                return
            shown = campaign or known
            self._leave(shown, shown.status, found=campaign is not None)
        except DamError as exc:
            logger.warning("campaign %s could not be re-read: %s", left.campaign_id, exc)

    # Failures

    def _fail(self, failure: Failure) -> None:
        campaign, error = failure.campaign, failure.error
        logger.warning(
            "campaign %s (%s) %s: %s", campaign.id, campaign.label,
            "is left for the next run" if error.heals_by_itself else "failed", error,
            extra={"action": "campaign_failed", "campaign_id": campaign.id, "kind": error.kind},
        )  # fmt: skip
        outcome = Outcome.FAILED
        if error.is_system_wide:
            self._waiting.append(failure)
        else:
            outcome = self._report_failure(failure)
        self._note(campaign, outcome, attempt=failure.retry.retry_count, error=str(error))

    def _report_failure(self, failure: Failure) -> Outcome:
        """An error notice when this kind of failure begins, and at most once a day while it lasts.

        One that heals by itself postpones the campaign to the next run: it counts as a failure, and makes a
        notice, when it has lasted for longer than HEALING_PATIENCE.
        """
        is_young = failure.error.heals_by_itself
        if not self._is_dry_run:
            try:
                is_young = self._note_failure(failure)
            except DbError as exc:
                if exc.ends_run:
                    raise
                logger.error(
                    "campaign %s: no error notice can be stored; this line is the only notice: %s",
                    failure.campaign.id, exc,
                    extra={"action": "notice_not_stored", "campaign_id": failure.campaign.id},
                )  # fmt: skip
        if is_young:
            return Outcome.POSTPONED
        self._has_failed = True
        return Outcome.FAILED

    def _note_failure(self, failure: Failure) -> bool:
        """Note a failure, and queue the notice that is owed for it; whether it may still heal by itself."""
        campaign, error = failure.campaign, failure.error
        kind = f"{error.system}/{error.kind}"
        patience = HEALING_PATIENCE if error.heals_by_itself else timedelta(0)
        with self._database.transaction():
            lasting = LastingErrors(self._database).note(campaign.id, kind, str(error), patience)
            if lasting.is_notice_due:
                notice = self._composer.error(
                    campaign,
                    message=error.message,
                    hint=error.hint,
                    kind=kind,
                    began_at=lasting.began_at,
                    is_reminder=lasting.is_reminder,
                    counted_attempts=failure.retry.retry_count,
                    now=self._clock(),
                )
                Outbox(self._database).queue(notice)
        self._count_queued(int(lasting.is_notice_due))
        return lasting.is_young

    def _count_queued(self, count: int) -> None:
        """Notices wait in the outbox: for the run's end, or not even for that when files are on their way."""
        self._report.queued += count
        if count and any(work.transfer is not None for work in self._under_way.values()):
            self._deliver_beside()

    def _conclude(self) -> ExitCode:
        """Tell a system that failed everybody from a failure of one campaign, and say how the run ends.

        A DAM or Box that nobody could use is no campaign's fault and makes no campaign's e-mail: the exit
        code says so, and whoever starts the runs tells a person when it lasts.
        """
        systemic: list[AppError] = []
        for failure in self._waiting:
            error = failure.error
            if error.is_out_of_reach and error.system in self._systems_that_answered:
                self._report_failure(failure)
            else:
                systemic.append(error)
        if self._has_bug:
            return ExitCode.BUG
        if self._has_failed:
            return ExitCode.SOME_FAILED
        if systemic:
            return max((error.exit_code for error in systemic), key=lambda code: code is ExitCode.BAD_CONFIG)
        return ExitCode.TRY_LATER if self._is_interrupted else ExitCode.OK

    def _note(
        self,
        campaign: Campaign,
        outcome: Outcome,
        *,
        attempt: int = 0,
        assets: int = 0,
        size_bytes: int = 0,
        error: str | None = None,
    ) -> None:
        result = CampaignResult(
            campaign_id=campaign.id,
            campaign_number=campaign.number,
            campaign_name=campaign.name,
            outcome=outcome,
            attempt=attempt,
            max_attempts=self._settings.max_retries,
            assets=assets,
            bytes=size_bytes,
            error=error,
        )
        self._report.campaigns.append(result)
        cure = ""
        if self._is_chosen and outcome is Outcome.NOT_FOUND:
            self._has_failed = True  # a mistyped id must not pass for a success
            cure = (
                "; the DAM shows our user no such campaign. Is the id right? It is not the campaign's number"
            )
        elif self._is_chosen and outcome is Outcome.NOT_A1:
            cure = f"; it is at {campaign.status}, so there is nothing to do"
        of_attempts = f", attempt {attempt} of {self._settings.max_retries}" if attempt else ""
        of_assets = f", {assets} assets, {size_bytes} bytes" if assets else ""
        is_news = outcome is not Outcome.SKIPPED_PERMANENTLY_FAILED
        logger.log(
            logging.WARNING if cure else logging.INFO if is_news else logging.DEBUG,
            "campaign %s (%s): %s%s%s%s",
            campaign.id, campaign.label, outcome, of_attempts, of_assets, cure,
            extra={"action": "campaign_done", "campaign_id": campaign.id, "outcome": outcome.value},
        )  # fmt: skip


def _is_missing(error: AppError) -> bool:
    """Whether the DAM or Box says that what was asked for is not there, or not any more."""
    return error.status_code in (404, 410) and not error.is_system_wide


def _may_be_outdated(error: AppError) -> bool:
    """Whether an asset may have been deleted or replaced since it was listed: a later listing tells."""
    is_other = error.kind in ("size_mismatch", "checksum_mismatch")
    return isinstance(error, DamError) and (is_other or _is_missing(error))
