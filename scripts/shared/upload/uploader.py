"""One pass over the campaigns in A1: search, send each on its road, and say how the run ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from shared.base.errors import AppError, DamError, DbError, ExitCode, StoppedError
from shared.base.values import Campaign, CampaignResult, Outcome, RetryStatus
from shared.database import Database
from shared.http.ahead import attempt
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.rules.alerts import HEALING_PATIENCE
from shared.settings import Settings
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.progress import Progress
from shared.upload.road import Arrival, Clock, Context, leave, travel
from shared.upload.run_report import Report
from shared.upload.standing import LeftBehind, Standing

if TYPE_CHECKING:
    from shared.dam.client import DamClient
    from shared.upload.courier import Courier

logger = logging.getLogger("uploader")

CAMPAIGNS_AT_ONCE = 16
"""How many campaigns are on their road at once: enough to keep all workers busy, few enough to be held."""
CAMPAIGNS_ASKED_ABOUT = 4
"""How many of them the DAM is asked about at once."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A campaign that failed in this pass, kept until it is known whether its system was down altogether."""

    campaign: Campaign
    error: AppError
    retry: RetryStatus


class Pass:
    """One pass: search, let campaigns travel, report. Its parts are handed in.

    Each campaign has a thread of its own. What they share is guarded by `_lock`.
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
        self._database = database
        self._dam = dam
        self._report = report
        self._is_dry_run = is_dry_run
        self._is_stopping = is_stopping
        self._progress = progress
        self._is_chosen = False
        self._resources = ExitStack()
        self._lock = threading.Lock()
        self._asking_about = threading.Semaphore(CAMPAIGNS_ASKED_ABOUT)
        self._courier: Courier | None = None
        self._transfers = 0
        self._has_transfers = False
        self._waiting: list[Failure] = []
        self._has_failed = False
        self._has_bug = False
        self._is_interrupted = False
        self._ending: AppError | None = None
        """What ended the run before its end."""
        self._context = Context(
            settings=settings,
            database=database,
            dam=dam,
            composer=Composer(
                timezone=settings.timezone,
                max_attempts=settings.max_retries,
                folder_name=settings.dam.master_assets_folder,
                commands=settings.commands,
                error_recipients=settings.mail.error_recipients,
                success_recipients=settings.mail.success_recipients,
            ),
            clock=clock,
            run_id=report.run_id,
            is_dry_run=is_dry_run,
            check=self._check,
            wait=self._wait,
            asking=self._asking,
            transferring=self._transferring,
            courier=self._made_courier,
            on_notice=self._on_notice,
        )

    def run(self, chosen: Sequence[str]) -> ExitCode:
        """Work through the A1 campaigns, or the chosen ids alone. Raises AppError when nothing can go on."""
        ids = list(dict.fromkeys(chosen)) or [hit.id for hit in self._dam.find_campaigns()]
        states = self._database.get_a1_retry_states(ids)
        logger.info(
            "%d campaigns in %s, %d of them permanently failed", len(ids), self._settings.dam.status_a1,
            sum(state.permanently_failed for state in states.values()), extra={"action": "search_done"},
        )  # fmt: skip
        self._is_chosen = bool(chosen)
        with self._resources:
            self._let_travel([states.get(one, RetryStatus(one)) for one in ids])
            if not self._is_dry_run and not self._is_interrupted:
                if not chosen:
                    self._follow_those_that_left(ids)
                self._abort_stale_uploads()
        places = {campaign_id: place for place, campaign_id in enumerate(ids)}
        self._report.campaigns.sort(key=lambda result: places.get(result.campaign_id, len(places)))
        return self._conclude()

    def _let_travel(self, states: Sequence[RetryStatus]) -> None:
        """Send each campaign on its road, but those that are permanently failed."""
        travellers = [state for state in states if not state.permanently_failed]
        for state in states:
            if state.permanently_failed:
                self._skip(state)
        if not travellers:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(CAMPAIGNS_AT_ONCE, "campaign") as threads:
            if any(map(self._is_promising, travellers)):
                threads.submit(attempt, self._made_courier)  # logs in to Box while the DAM answers
            list(threads.map(self._travel, travellers))
        if self._ending is not None:
            raise self._ending

    def _is_promising(self, retry: RetryStatus) -> bool:
        """Whether there will be something to upload, or so it seems: the campaign was never seen empty. The
        search may also show one that has just been uploaded.
        """
        is_in_a1 = retry.status in (None, self._settings.dam.status_a1)
        return is_in_a1 and not self._is_dry_run and not retry.retry_count

    # In the thread of one campaign

    def _travel(self, retry: RetryStatus) -> None:
        known = _known(retry)
        with self._isolated(known, retry):
            arrival = travel(self._context, known, retry)
            self._is_interrupted |= arrival.outcome is Outcome.INTERRUPTED
            self._note(arrival)

    @contextmanager
    def _isolated(self, known: Campaign, retry: RetryStatus) -> Iterator[None]:
        """One campaign's failure never stops the next one."""
        try:
            yield
        except StoppedError:
            self._is_interrupted = True
        except AppError as exc:
            if exc.ends_run:
                self._ending = self._ending or exc
            else:
                self._fail(Failure(exc.campaign or known, exc, retry))
        except Exception:  # a bug met in one campaign must not take the others with it
            logger.exception("campaign %s: a bug", known.id)
            self._has_bug = True
            self._note(Arrival(known, Outcome.FAILED, retry.retry_count), error="a bug, see the log")

    def _is_to_end(self) -> bool:
        """Whether everything is to come to its end: the run was told to stop, or cannot go on."""
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
        """A notice waits in the outbox. While files are on their way it does not wait for the run's end."""
        with self._lock:
            self._report.queued += 1
            is_urgent = self._transfers > 0
        if is_urgent:
            self._deliver_beside()

    def _made_courier(self) -> Courier:
        """Made when there is something to upload: workers and connections cost more than an idle run.

        Raises the error of a Box that has answered nobody in this run: the next campaign would wait as long
        to learn the same.
        """
        with self._lock:
            if self._courier is None:
                self._courier = self._new_courier()
            for failure in self._waiting:
                if failure.error.system == "Box" and not self._courier.has_brought:
                    raise failure.error
            return self._courier

    def _new_courier(self) -> Courier:
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
        courier = Courier(
            self._dam,
            box,
            Ledger(ledger),
            pool,
            self._progress,
            run_id=self._report.run_id,
            is_stopping=self._is_to_end,
        )
        courier.log_in_ahead()
        return courier

    # Failures, in any thread

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
            try:
                outcome = self._report_failure(failure)
            except AppError as exc:  # the database cannot be used any more
                self._ending = self._ending or exc
                return
        self._note(Arrival(campaign, outcome, failure.retry.retry_count), error=str(error))

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
                notice = self._context.composer.error(
                    campaign,
                    message=error.message,
                    hint=error.hint,
                    kind=kind,
                    began_at=lasting.began_at,
                    is_reminder=lasting.is_reminder,
                    counted_attempts=failure.retry.retry_count,
                    now=self._context.clock(),
                )
                Outbox(self._database).queue(notice)
        if lasting.is_notice_due:
            self._on_notice()
        return lasting.is_young

    # In the main thread

    def _skip(self, retry: RetryStatus) -> None:
        self._note(Arrival(_known(retry), Outcome.SKIPPED_PERMANENTLY_FAILED, retry.retry_count))
        if self._is_chosen:
            self._tell_of_skipped(_known(retry), retry)

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
            known = _known(retry)
            with self._isolated(known, retry):
                try:
                    self._follow(left, known)
                except DamError as exc:
                    logger.warning("campaign %s could not be re-read: %s", left.campaign_id, exc)
            if self._ending is not None:
                raise self._ending

    def _follow(self, left: LeftBehind, known: Campaign) -> None:
        """Let one campaign's row say where it is. known: by its row."""
        status_a1 = self._settings.dam.status_a1
        campaign = self._dam.read_campaign(left.campaign_id)
        if not left.is_in_a1:
            if campaign is not None:
                self._dam.release_lock(campaign)
            return
        is_waited_for = left.is_a2_expected if campaign is None else campaign.status == status_a1
        if is_waited_for:
            Standing(self._database).mark_left_search(left.campaign_id)
            return
        self._note(leave(self._context, campaign or known, is_gone=campaign is None))

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

    def _conclude(self) -> ExitCode:
        """Tell a system that failed everybody from a failure of one campaign, and say how the run ends.

        A DAM or Box that nobody could use is no campaign's fault and makes no campaign's e-mail: the exit
        code says so, and whoever starts the runs tells a person when it lasts.
        """
        answered = {"DAM", "Box"} if self._courier is not None and self._courier.has_brought else {"DAM"}
        systemic: list[AppError] = []
        for failure in self._waiting:
            error = failure.error
            if error.is_out_of_reach and error.system in answered:
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

    def _note(self, arrival: Arrival, *, error: str | None = None) -> None:
        """Enter a campaign's end into the report and the log."""
        campaign, outcome = arrival.campaign, arrival.outcome
        result = CampaignResult(
            campaign_id=campaign.id,
            campaign_number=campaign.number,
            campaign_name=campaign.name,
            outcome=outcome,
            attempt=arrival.attempt,
            max_attempts=self._settings.max_retries,
            assets=arrival.assets,
            bytes=arrival.size_bytes,
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
        of_attempts = (
            f", attempt {arrival.attempt} of {self._settings.max_retries}" if arrival.attempt else ""
        )
        of_assets = f", {arrival.assets} assets, {arrival.size_bytes} bytes" if arrival.assets else ""
        is_news = outcome is not Outcome.SKIPPED_PERMANENTLY_FAILED
        logger.log(
            logging.WARNING if cure else logging.INFO if is_news else logging.DEBUG,
            "campaign %s (%s): %s%s%s%s",
            campaign.id, campaign.label, outcome, of_attempts, of_assets, cure,
            extra={"action": "campaign_done", "campaign_id": campaign.id, "outcome": outcome.value},
        )  # fmt: skip


def _known(retry: RetryStatus) -> Campaign:
    """A campaign as its row knows it."""
    return Campaign(retry.campaign_id, retry.campaign_number, retry.campaign_name or retry.campaign_id, None)
