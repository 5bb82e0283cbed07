"""Runs procrastinate: takes jobs from its queue, and ends the jobs of workers that show no sign of life.

The engine only says which campaign is next. It never repeats a job: the next run queues the campaign again,
and `rules/retry.py` alone decides what counts. Three things are ours, because the engine's own do not fit:

- The sign of life. The engine's ends when a worker is asked to stop, although files in hand may take
  minutes; and when it fails once, nobody learns it.
- The recovery. As a job of the engine, it would wait behind long uploads. A job that is lost ends as failed:
  put back into the queue, it would collide with the next run's job, and block the campaign for ever.
- The stop: what is in hand is finished, and what waits stays in the queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.job_context import JobContext
from procrastinate.jobs import DeleteJobCondition, Status
from procrastinate.worker import Worker

from shared.base.errors import DbError, out_of_reach
from shared.scale.jobs import QUEUE, TASK
from shared.settings import EngineSettings

logger = logging.getLogger("worker")

SIGN_SECONDS = 5.0
"""How often a worker writes a sign of life, and reads whether it was asked to drain."""
STALLED_SECONDS = 15.0
"""A worker without a sign of life for this long has lost its campaigns."""
RECOVERY_SECONDS = 10.0
"""How often each worker ends the jobs of such workers. A campaign is free again after at most 30 seconds."""
POLL_SECONDS = 2.0
"""How often a worker asks for a job when PostgreSQL does not notify it."""
SAFETY_POLL_SECONDS = 5.0
"""The same when it does: a notification may be lost."""
LOOK_SECONDS = 0.5
"""How soon a stop is seen."""
ANSWER_SECONDS = 10.0
"""How long the server may take for a sign of life."""
KEPT_HOURS = 7 * 24
"""How long jobs that were ended by a recovery, or by a bug, are kept; all others are removed at once."""
NEVER = 1e9

# libpq's own options: a server or a network that is gone is noticed within a minute.
_LINK: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
    "prepare_threshold": None,  # a pooler in transaction mode knows no prepared statements
}

# Both signs of life: the engine's, and the row that people see. No engine_is_alive: another worker took us
# for dead.
SIGN = """
WITH alive AS (
    UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %(engine_id)s RETURNING id
), seen AS (
    INSERT INTO workers AS w (worker, host, started_at, seen_at, campaigns_at_once)
    VALUES (%(worker)s, %(host)s, %(started_at)s, now(), %(campaigns_at_once)s)
    ON CONFLICT (worker) DO UPDATE SET seen_at = now()
    RETURNING w.drain_asked_at
)
SELECT EXISTS (SELECT FROM alive) AS engine_is_alive, seen.drain_asked_at IS NOT NULL AS is_drain FROM seen
"""

FORGET_LOST = """
DELETE FROM worker_campaigns c
WHERE NOT EXISTS (SELECT FROM workers w WHERE w.worker = c.worker
                    AND w.seen_at > now() - make_interval(secs => %(stalled)s))
"""


class _Worker(Worker):
    """Also shows what only the engine knows: why it stopped fetching jobs, and which it has in hand."""

    failure: DbError | None = None

    async def _fetch_and_process_jobs(self) -> None:
        try:
            await super()._fetch_and_process_jobs()  # type: ignore[no-untyped-call]
        except ConnectorException as exc:
            self.failure = out_of_reach(f"the engine could not fetch a job: {exc.__cause__ or exc}")
            self.stop()  # type: ignore[no-untyped-call]

    async def _process_job(self, context: JobContext) -> None:
        """The end of a job cannot be written when another worker has ended it, or the database is away."""
        try:
            await super()._process_job(context)
        except ConnectorException as exc:
            logger.info("the end of job %s was not written: %s", context.job.id, exc.__cause__ or exc)

    @property
    def in_hand(self) -> set[int | None]:
        """The ids of the jobs that it fetched, until their end is written or failed to be."""
        return {context.job.id for context in self._running_jobs.values()}


@dataclass(frozen=True, slots=True)
class Identity:
    """name: the application_name of the worker's connections."""

    name: str
    host: str
    started_at: datetime


class Engine:
    """One worker of the engine, until it is asked to stop or loses the database.

    work: gets a campaign's id, in a thread. on_sign: called after each sign of life, and while we wait for
    the last campaigns. on_end: called once, when the work must end: with the error, or None for a drain or a
    stop.
    """

    def __init__(
        self,
        settings: EngineSettings,
        dsn: str,
        identity: Identity,
        *,
        work: Callable[[str], None],
        is_stopping: Callable[[], bool],
        on_sign: Callable[[], None],
        on_end: Callable[[DbError | None], None],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._work = work
        self._is_stopping = is_stopping
        self._on_sign = on_sign
        self._on_end = on_end
        self._orphans: set[int | None] = set()
        """Our jobs of which the engine knew nothing at the last look."""
        for name in ("procrastinate", "psycopg.pool"):
            logging.getLogger(name).setLevel(logging.ERROR)  # each job has its line in our own log
        self._app = App(
            connector=PsycopgConnector(
                conninfo=settings.dsn or dsn,
                kwargs={**_LINK, "application_name": identity.name},
                min_size=1,
                max_size=4,
                timeout=ANSWER_SECONDS,
                configure=_without_transactions,
            )
        )
        self._app.task(name=TASK, queue=QUEUE)(self._campaign)

    def _campaign(self, campaign_id: str) -> None:
        self._work(campaign_id)

    async def serve(self) -> None:
        """Take jobs until the worker is asked to stop or to drain; returns when the last one is over.

        Raises DbError, when the database is out of reach, or another worker took this one for dead.
        """
        async with _told(), self._app.open_async():
            worker = _Worker(
                self._app,
                queues=[QUEUE],
                name=self._identity.name,
                concurrency=self._settings.campaigns_at_once,
                fetch_job_polling_interval=SAFETY_POLL_SECONDS if self._settings.listens else POLL_SECONDS,
                listen_notify=self._settings.listens,
                delete_jobs=DeleteJobCondition.SUCCESSFUL,
                install_signal_handlers=False,
                update_heartbeat_interval=NEVER,
                stalled_worker_timeout=STALLED_SECONDS,
            )
            self._orphans = set()
            working = asyncio.create_task(worker.run())  # type: ignore[no-untyped-call]
            await asyncio.sleep(0)  # it has begun: a stop before that would be lost
            lost = await self._attend(worker, working)
            await working
            lost = lost or worker.failure
            if lost is not None:
                raise lost
            if not self._is_stopping():
                raise out_of_reach("the engine ended by itself; its lines in the log say why")

    async def _attend(self, worker: _Worker, working: asyncio.Task[None]) -> DbError | None:
        """Write signs of life and recover jobs until the worker has ended; returns why the database was
        lost.
        """
        sign_at = recovery_at = removal_at = 0.0
        is_ending, lost = False, None
        while not working.done():
            now = time.monotonic()
            if now >= sign_at:
                sign_at = now + SIGN_SECONDS
                is_drain = False
                if lost is None:
                    try:
                        async with asyncio.timeout(ANSWER_SECONDS), _told():
                            is_drain = await self._sign(worker)
                            if now >= recovery_at and not is_ending:
                                recovery_at = now + RECOVERY_SECONDS
                                await self._recover(worker)
                            if now >= removal_at and not is_ending:
                                removal_at = now + 3600
                                await self._remove_old()
                    except (DbError, TimeoutError) as exc:
                        lost = (
                            exc if isinstance(exc, DbError) else out_of_reach("no answer to the sign of life")
                        )
                self._on_sign()
            lost = lost or worker.failure
            if not is_ending and (lost is not None or is_drain or self._is_stopping()):
                is_ending = True
                worker.stop()  # type: ignore[no-untyped-call]
                self._on_end(lost)
            await asyncio.wait({working}, timeout=LOOK_SECONDS)
        return lost

    async def _sign(self, worker: Worker) -> bool:
        """Write a sign of life; returns whether somebody asked this worker to drain."""
        engine_id = worker.worker_id
        row = await self._app.connector.execute_query_one_async(
            SIGN,
            engine_id=engine_id,
            worker=self._identity.name,
            host=self._identity.host,
            started_at=self._identity.started_at,
            campaigns_at_once=self._settings.campaigns_at_once,
        )
        if engine_id is not None and engine_id == worker.worker_id and not row["engine_is_alive"]:
            raise out_of_reach("another worker took this one for dead: it gave no sign of life")
        return bool(row["is_drain"])

    async def _recover(self, worker: _Worker) -> None:
        """End the jobs of workers without a sign of life; the next run queues their campaigns again.

        Also our own whose end could not be written: the engine forgets them.
        """
        manager = self._app.job_manager
        lost = list(await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=STALLED_SECONDS))
        if worker.worker_id is not None:
            ours = await manager.list_jobs_async(queue=QUEUE, status="doing", worker_id=worker.worker_id)
            orphans = {job.id: job for job in ours if job.id not in worker.in_hand}
            # Twice: between two looks, a job that is being fetched is in hand.
            lost += [job for job_id, job in orphans.items() if job_id in self._orphans]
            self._orphans = set(orphans)
        for job in lost:
            try:
                await manager.finish_job(job, status=Status.FAILED, delete_job=False)
            except ConnectorException as exc:  # another worker was first, or the job has just ended
                logger.debug("job %s was not ended: %s", job.id, exc)
                continue
            logger.warning(
                "ended the job of campaign %s: no worker has it any more; the next run queues it again",
                job.task_kwargs.get("campaign_id"), extra={"action": "job_recovered"},
            )  # fmt: skip
        await self._app.connector.execute_query_async(FORGET_LOST, stalled=STALLED_SECONDS)

    async def _remove_old(self) -> None:
        await self._app.job_manager.delete_old_jobs(
            nb_hours=KEPT_HOURS,
            queue=QUEUE,
            include_failed=True,
            include_cancelled=True,
            include_aborted=True,
        )


async def _without_transactions(connection: psycopg.AsyncConnection[Any]) -> None:
    """Commit each statement at once: a worker that is frozen between two must not keep rows locked."""
    await connection.set_autocommit(True)


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Translate the errors of the engine's connections."""
    try:
        yield
    except (ConnectorException, psycopg.Error) as exc:
        raise out_of_reach(f"the engine lost the database: {exc.__cause__ or exc}") from exc
