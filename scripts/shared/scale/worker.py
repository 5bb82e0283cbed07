"""Runs one worker: works on the campaigns that the engine gives it, until it is asked to stop or to drain.

Each campaign goes the same road as in a run (`upload/road.py`), at one `Workplace`. What a run does at its
end, a worker does several times a minute (`_Shift.settle`): it decides which failures are a whole system's,
and adds to the totals of the metrics.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime

from shared.base.errors import AppError, DbError, ExitCode, gravest
from shared.base.values import CampaignResult, Outcome
from shared.dam.client import DamClient
from shared.database import Database
from shared.loop.service_manager import ServiceManager
from shared.scale.engine import Engine, Identity
from shared.settings import Settings
from shared.upkeep.engine import ensure_engine
from shared.upkeep.schema import Schema
from shared.upload.outgoing import Outgoing
from shared.upload.progress import Figures, Progress
from shared.upload.run_report import Report
from shared.upload.workplace import Workplace

logger = logging.getLogger("worker")

SETTLE_SECONDS = 15.0
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Before the database is tried again, after one failure, two, …; the last one repeats."""
GOOD_SECONDS = 120.0
"""After this long without a failure, the pauses begin again with the first."""
IDLE_SECONDS = 10.0
"""How long a transaction may stay open without a statement. A worker that was frozen in one must not keep a
campaign's row locked for the worker that replaces it.
"""

BEGIN = """
INSERT INTO worker_campaigns (campaign_id, worker, since) VALUES (%(campaign_id)s, %(worker)s, now())
ON CONFLICT (campaign_id) DO UPDATE SET worker = EXCLUDED.worker, since = EXCLUDED.since
"""

END = "DELETE FROM worker_campaigns WHERE campaign_id = %(campaign_id)s AND worker = %(worker)s"

LEAVE = """
WITH given_up AS (DELETE FROM worker_campaigns WHERE worker = %(worker)s)
DELETE FROM workers WHERE worker = %(worker)s
"""

SET_TROUBLE = """
UPDATE workers SET trouble = %(text)s, trouble_code = %(code)s, trouble_seen_at = NULL,
                   trouble_at = CASE WHEN %(text)s IS NULL THEN NULL ELSE now() END
WHERE worker = %(worker)s AND (trouble IS NOT NULL OR %(text)s IS NOT NULL)
"""


class CampaignWorker:
    """A worker's process. stop: set when somebody asks it to stop."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        run_id: str,
        *,
        clock: Callable[[], datetime],
        service: ServiceManager,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._run_id = run_id
        self._clock = clock
        self._service = service
        self._stop = stop

    def run(self) -> ExitCode:
        """Work until a stop or a drain. While the database is out of reach, it is tried again and again.

        Raises AppError for what only a person can change.
        """
        self._service.ready()  # also while the database is away
        failures = 0
        while not self._stop.is_set():
            began_at = time.monotonic()
            try:
                self._work_one_shift()
                break
            except AppError as exc:
                if not exc.retryable or self._stop.is_set():
                    raise
                failures = 0 if time.monotonic() - began_at > GOOD_SECONDS else failures
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
                logger.warning(
                    "the worker begins again in %g s: %s", pause, exc, extra={"action": "worker_pauses"}
                )
                self._service.status(f"waiting: {exc}")
                self._wait(pause)
        return ExitCode.OK

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stop.wait(min(1.0, seconds)):
            self._service.feed_watchdog()

    def _work_one_shift(self) -> None:
        with ExitStack() as resources:
            dam = DamClient(self._settings.dam, now=self._clock(), wait=self._stop.wait)
            resources.callback(dam.close)
            database = resources.enter_context(self._opened())
            Schema(database).ensure_migrated(self._settings.commands)
            ensure_engine(database)
            database.ensure_own_session()
            shift = _Shift(
                self._settings, self._identity, database, dam, self._run_id,
                clock=self._clock, stop=self._stop, service=self._service, open_beside=self._opened,
            )  # fmt: skip
            resources.enter_context(shift.place)
            shift.work()

    def _opened(self) -> Database:
        return Database(
            self._settings.database.dsn,
            self._settings.retry.max_retries,
            application_name=self._identity.name,
            idle_seconds=IDLE_SECONDS,
            is_stopping=self._stop.is_set,
        )


class _Shift:
    """The work over one connection to the database: until it is lost, or the worker is asked to end."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        database: Database,
        dam: DamClient,
        run_id: str,
        *,
        clock: Callable[[], datetime],
        stop: threading.Event,
        service: ServiceManager,
        open_beside: Callable[[], Database],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._database = database
        self._clock = clock
        self._stop = stop
        self._service = service
        self._is_over = threading.Event()
        self._progress = Progress(time.monotonic)
        self._settled = Figures()
        self._report = Report(run_id, clock())
        self._outgoing = Outgoing(settings, open_beside, clock, run_id)
        self.place = Workplace(
            settings, database, dam, self._report, clock=clock, is_dry_run=False,
            is_stopping=stop.is_set, progress=self._progress,
            open_ledger=lambda: Database(
                settings.database.dsn, application_name=identity.name, waits_for_disk=False,
                idle_seconds=IDLE_SECONDS, is_stopping=stop.is_set,
            ),
            deliver_beside=self._outgoing.begin, hooks=self._outgoing.hooks, has_end=False,
        )  # fmt: skip

    def work(self) -> None:
        """Work on the engine's jobs. Raises AppError when this connection is of no more use."""
        engine = Engine(
            self._settings.engine,
            self._settings.database.dsn,
            self._identity,
            work=self._work_on,
            is_stopping=lambda: self._stop.is_set() or self.place.ending is not None,
            on_sign=self._on_sign,
            on_end=self._end,
        )
        settler = threading.Thread(target=self._settle_regularly, name="settle", daemon=True)
        settler.start()
        try:
            with asyncio.Runner() as runner:
                # One thread a campaign, and some for the engine itself.
                threads = ThreadPoolExecutor(self._settings.engine.campaigns_at_once + 4, "campaign")
                runner.get_loop().set_default_executor(threads)
                runner.run(engine.serve())
        finally:
            self._is_over.set()
            settler.join()
            self._outgoing.stop()
            self._finish()
        if self.place.ending is not None:
            raise self.place.ending

    def _finish(self) -> None:
        """Settle the rest, and leave. The next run does what cannot be done now."""
        if self._database.is_closed:
            return
        with suppress(DbError):
            self.settle()
            if self._stop.is_set():
                self._outgoing.finish(self._database, is_run=False)
                self._database.execute(LEAVE, {"worker": self._identity.name})

    def _on_sign(self) -> None:
        self._service.feed_watchdog()
        busy = self._progress.view().in_hand
        self._service.status(f"{len(busy)} files in hand" if busy else "waiting for campaigns")

    def _end(self, lost: DbError | None) -> None:
        """End the work: every campaign stops at its next step, and files in hand are finished."""
        if lost is not None:
            self.place.ending = self.place.ending or lost
            return
        if self.place.ending is not None:
            return
        self._stop.set()  # also for a drain
        self._service.stopping()
        seconds = self._settings.engine.stop_seconds
        logger.info("stopping: what is in hand is finished first, for %.0f s at most", seconds)
        timer = threading.Timer(seconds, _give_up)
        timer.daemon = True
        timer.start()

    # In the thread of one campaign

    def _work_on(self, campaign_id: str) -> None:
        """Work on a campaign as a run would. Its job ends in any case: the next run queues what is left."""
        if self._stop.is_set() or self.place.ending is not None:
            return
        began = self._clock()
        try:
            retry = self._database.get_a1_retry_status(campaign_id)
            if not self.place.is_due(retry, began):  # since it was queued
                self.place.skip(retry)
                return
            self._note(BEGIN, campaign_id)
        except AppError as exc:
            if exc.ends_run:
                self.place.ending = self.place.ending or exc
            logger.warning("campaign %s is left to the next run: %s", campaign_id, exc)
            return
        try:
            self.place.travel(retry, began)
        finally:
            with suppress(DbError):
                self._note(END, campaign_id)

    def _note(self, sql: str, campaign_id: str) -> None:
        self._database.execute(sql, {"campaign_id": campaign_id, "worker": self._identity.name})

    # In the thread that settles

    def _settle_regularly(self) -> None:
        while not self._is_over.wait(SETTLE_SECONDS):
            try:
                self._database.ensure_alive()  # before the next campaign finds out
                self.settle()
            except AppError as exc:
                if exc.ends_run:
                    self.place.ending = self.place.ending or exc
                logger.warning("not settled: %s", exc)

    def settle(self) -> None:
        """Do what a run does at its end, for the campaigns since the last time. Raises DbError."""
        report, failures = self._report, self.place.failures
        done = [report.campaigns.pop(0) for _ in range(len(report.campaigns))]
        figures = replace(self._progress.figures)
        brought = figures.files - self._settled.files
        if self._outgoing.counts.faults:  # many refused logins lock an account: the runs deliver, and say why
            self._outgoing.stop()
        if not done and not failures.has_bug:
            return
        failures.conclude(
            is_interrupted=False,
            answered=_answered(done, [one.error.system for one in failures.waiting], brought),
        )
        self._report_trouble()
        moved = Figures(
            bytes=figures.bytes - self._settled.bytes,
            times_throttled=figures.times_throttled - self._settled.times_throttled,
        )
        self._settled = figures
        Report(report.run_id, report.started_at, campaigns=done, transfer=moved).add_totals(self._database)

    def _report_trouble(self) -> None:
        """Let the next run report what no campaign is to blame for, or that this is over."""
        failures = self.place.failures
        troubles = [(str(error), int(error.exit_code)) for error in failures.systemic]
        if failures.has_bug:
            troubles.append((f"a bug; see the log of {self._identity.host}", int(ExitCode.BUG)))
        failures.systemic.clear()
        failures.has_bug = failures.has_failed = False
        code = gravest(code for _, code in troubles)
        text = next((text for text, of_text in troubles if of_text == code), None)
        if text:
            logger.error("%s", text, extra={"action": "worker_troubled"})
        self._database.execute(
            SET_TROUBLE, {"worker": self._identity.name, "text": text, "code": code if text else None}
        )


def _answered(done: list[CampaignResult], failing: list[str], brought: int) -> set[str]:
    """The systems that answered for some campaign: then one that failed for another campaign is no outage."""
    unclear = (Outcome.FAILED, Outcome.INTERRUPTED, Outcome.SKIPPED_PERMANENTLY_FAILED)
    has_dam = "Box" in failing or any(one.outcome not in unclear for one in done)
    return ({"DAM"} if has_dam else set()) | ({"Box"} if brought else set())


def _give_up() -> None:
    """End at once. Nothing is lost: other workers free the campaigns, and the next run queues them again."""
    logger.warning("the stop took too long; what is still in hand is cut off")
    os._exit(ExitCode.TRY_LATER)
