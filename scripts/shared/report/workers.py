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
    """One worker. worker: the name of its connections. at_once: how many campaigns it works on at once."""

    worker: str
    host: str
    state: WorkerState
    started_at: datetime
    seen_at: datetime
    at_once: int
    drain_asked_at: datetime | None
    drain_asked_by: str | None
    campaigns: tuple[InHand, ...] = ()

    @property
    def in_hand(self) -> int:
        """How many campaigns it has."""
        return len(self.campaigns)

    def words(self, zone: tzinfo) -> str:
        """Its state in words."""
        if self.state is WorkerState.LOST:
            return f"lost, last seen {moment(self.seen_at, zone)}"
        if self.drain_asked_at is not None:
            by = one_line(self.drain_asked_by or "?", LONGEST_NAME)
            return f"draining, asked by {by} {moment(self.drain_asked_at, zone)}"
        return "working"


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
            return f"{said}; {who} asked it to stop, so it finishes the files in hand{self._then()}"
        return f"{said}, but is lost: it was last seen {moment(self.worker.seen_at, zone)}{self._after()}"

    def _then(self) -> str:
        rest = "another worker does the rest" if self.has_others else "the rest waits for another worker"
        return f", and {rest}"

    def _after(self) -> str:
        if self.has_others:
            return "; another worker takes over within 90 s, or after the next run"
        return "; no other worker is running, so nothing happens until one starts"


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
