"""Reads which workers run, and which campaigns each of them has. Only ENGINE=procrastinate has workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import StrEnum
from itertools import groupby
from typing import Any

from shared.database import Database
from shared.notices.wording import moment, one_line

LONGEST_NAME = 80
LONGEST_TROUBLE = 300


class WorkerState(StrEnum):
    """A worker's state, by codes that are the same in text, JSON, page and metrics.

    DRAINING: somebody has asked it to stop. LOST: nobody has seen it for 2 minutes.
    """

    WORKING = "working"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class InHand:
    """A campaign that a worker has, and since when."""

    campaign_id: str
    campaign_number: str | None
    campaign_name: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker. worker: the name of its connections. at_once: how many campaigns it works on at once.
    trouble: why it could work on no campaign lately.
    """

    worker: str
    host: str
    state: WorkerState
    started_at: datetime
    seen_at: datetime
    at_once: int
    drain_asked_at: datetime | None
    drain_asked_by: str | None
    trouble: str | None = None
    trouble_at: datetime | None = None
    campaigns: tuple[InHand, ...] = ()

    @property
    def in_hand(self) -> int:
        """How many campaigns it has."""
        return len(self.campaigns)

    def words(self, zone: tzinfo) -> str:
        """Its state in words, and its trouble."""
        said = self.state.value
        if self.state is WorkerState.LOST:
            said = f"lost, last seen {moment(self.seen_at, zone)}"
        elif self.drain_asked_at is not None:
            by = one_line(self.drain_asked_by or "?", LONGEST_NAME)
            said = f"draining, asked by {by} {moment(self.drain_asked_at, zone)}"
        if self.trouble is None or self.trouble_at is None:
            return said
        trouble = one_line(self.trouble, LONGEST_TROUBLE)
        return f"{said}; no campaign could be worked on {moment(self.trouble_at, zone)}: {trouble}"


@dataclass(frozen=True, slots=True)
class Holder:
    """The worker that has a campaign, and since when. has_others: whether others accept campaigns."""

    worker: Worker
    since: datetime
    has_others: bool

    def words(self, zone: tzinfo) -> str:
        """Who has the campaign, since when, and what happens next if that worker does not finish it."""
        worker, host = (one_line(text, LONGEST_NAME) for text in (self.worker.worker, self.worker.host))
        said = f"worker {worker} on host {host} has had it since {moment(self.since, zone)}"
        if self.worker.state is WorkerState.WORKING:
            return said
        if self.worker.state is WorkerState.DRAINING:
            who = one_line(self.worker.drain_asked_by or "?", LONGEST_NAME)
            rest = self._then("the rest")
            return f"{said}; {who} asked it to stop: it finishes the files in hand, {rest}"
        seen = moment(self.worker.seen_at, zone)
        return (
            f"{said}, but is lost: it was last seen {seen}; within 90 s it is free again, and"
            f" {self._then('it')}"
        )

    def _then(self, what: str) -> str:
        """What becomes of a campaign that the worker does not finish."""
        if self.has_others:
            return f"the next run gives {what} to another worker"
        return f"the next run queues {what}, which waits until another worker starts"


def workers_of(database: Database) -> list[Worker]:
    """Every worker with its campaigns, by host. Raises DbError."""
    columns, rows = database.run_query("workers", {})
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return [_worker(list(of_one)) for _, of_one in groupby(named, key=lambda row: row["worker"])]


def _worker(rows: Sequence[dict[str, Any]]) -> Worker:
    """A worker from its rows of workers.sql."""
    one = rows[0]
    names = ("campaign_id", "campaign_number", "campaign_name", "since")
    return Worker(
        one["worker"],
        one["host"],
        WorkerState(one["state"]),
        one["started_at"],
        one["seen_at"],
        one["campaigns_at_once"],
        one["drain_asked_at"],
        one["drain_asked_by"],
        one["trouble"],
        one["trouble_at"],
        tuple(InHand(*(row[name] for name in names)) for row in rows if row["campaign_id"] is not None),
    )


def holders_of(workers: Iterable[Worker]) -> dict[str, Holder]:
    """{campaign id: the worker that has it}."""
    workers = list(workers)
    at_work = {one.worker for one in workers if one.state is WorkerState.WORKING}
    return {
        campaign.campaign_id: Holder(worker, campaign.since, bool(at_work - {worker.worker}))
        for worker in workers
        for campaign in worker.campaigns
    }
