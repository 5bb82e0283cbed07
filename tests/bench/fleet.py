"""Workers of the engine (ENGINE=procrastinate): how they share campaigns, and what idle ones cost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from bench.box_sink import RECEIPT_NAME
from bench.load import Load, seconds_below
from bench.stage import Cost, Stage, WrongResultError

if TYPE_CHECKING:
    from bench.contenders import Task

LIMIT_SECONDS = 1800
READY_SECONDS = 60.0
SETTLED_SECONDS = 10.0
"""After this long a worker that has nothing to do is as idle as it gets."""
IDLE_SECONDS = 60.0
POLL_SECONDS = 0.05

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'a1_to_a2 worker %'"


def run_workers(stage: Stage, task: Task) -> Cost:
    """From the start of a run, which queues the campaigns, until the last one is in A2.

    cpu_s: of the run and of all workers; peak_bytes: of the largest worker.
    """
    campaigns = stage.campaigns(task.files, task.campaigns)
    dam = stage.front.dam
    environment = _environment(stage, task)
    try:
        with _workers(stage, task, environment) as workers:
            for campaign in campaigns:
                dam.set_status(campaign, "A1")
            load, before, began = Load.now(), _cpu_seconds(workers), time.monotonic()
            postgres = seconds_below(stage.postgres_pid)
            command = [sys.executable, stage.uploader, "--auth-password", "--json"]
            cost = stage.run(command, environment, LIMIT_SECONDS)
            _wait(lambda: all(dam.status(campaign) == "A2" for campaign in campaigns), workers)
            cost = replace(
                cost,
                wall_s=time.monotonic() - began,
                cpu_s=cost.cpu_s + _cpu_seconds(workers) - before,
                peak_bytes=max(_peak_bytes(worker.pid) for worker in workers),
                foreign=Load.now().foreign_since(load),
                postgres_cpu_s=seconds_below(stage.postgres_pid) - postgres,
            )
        _check(stage, task)
    finally:
        for campaign in campaigns:
            dam.set_status(campaign, "DRAFT")
    return cost


def run_idle_workers(stage: Stage, task: Task) -> Cost:
    """A minute without work. cpu_s, connections: of one worker; postgres_cpu_s: for all of them."""
    environment = _environment(stage, task)
    with _workers(stage, task, environment) as workers:
        time.sleep(SETTLED_SECONDS)
        load, before, postgres = Load.now(), _cpu_seconds(workers), seconds_below(stage.postgres_pid)
        time.sleep(IDLE_SECONDS)
        (connections,) = _row(environment, CONNECTIONS)
        return Cost(
            wall_s=IDLE_SECONDS,
            cpu_s=(_cpu_seconds(workers) - before) / len(workers),
            peak_bytes=max(_peak_bytes(worker.pid) for worker in workers),
            foreign=Load.now().foreign_since(load),
            postgres_cpu_s=seconds_below(stage.postgres_pid) - postgres,
            connections=connections / len(workers),
        )


def _environment(stage: Stage, task: Task) -> dict[str, str]:
    environment = stage.uploader_environment(tls=task.tls, delay_ms=task.delay_ms) | task.settings
    return environment | {
        "ENGINE": "procrastinate",
        "WORKER_CAMPAIGNS_AT_ONCE": str(task.campaigns_at_once),
    }


@contextmanager
def _workers(
    stage: Stage, task: Task, environment: Mapping[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """As many as the task wants; each has given a sign of life. They end by themselves when asked to."""
    command = [sys.executable, str(stage.uploader.with_name("a1_worker.py")), "--auth-password"]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(task.engine_workers):
            workers.append(stage.begin(command, environment, stage.folder / f"worker-{number}.log"))
        _wait(lambda: _row(environment, "SELECT count(*) FROM workers") == (task.engine_workers,), workers)
        yield workers
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait(READY_SECONDS) for worker in workers]
        if any(codes):
            raise WrongResultError(f"workers that were asked to stop ended with {codes}")
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


def _wait(condition: Callable[[], bool], workers: list[subprocess.Popen[bytes]]) -> None:
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if any(worker.poll() is not None for worker in workers):
            raise WrongResultError("a worker has ended")
        if time.monotonic() > give_up_at:
            raise WrongResultError(f"the workers took more than {LIMIT_SECONDS} s")
        time.sleep(POLL_SECONDS)


def _row(environment: Mapping[str, str], statement: str) -> tuple[int, ...]:
    with closing(psycopg2.connect(environment["DATABASE_URL"])) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row: tuple[int, ...] = cursor.fetchone()
        return row


def _cpu_seconds(workers: list[subprocess.Popen[bytes]]) -> float:
    return sum(seconds_below(worker.pid) for worker in workers)


def _peak_bytes(pid: int) -> int:
    """The most memory that it had at a time."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:")) * 1024


def _check(stage: Stage, task: Task) -> None:
    """Raises WrongResultError unless each campaign has a folder in Box, with exactly the files."""
    wanted = {source.path.name: [source.size, source.sha1] for source in stage.prepare(task.files)[1]}
    arrived: dict[str, dict[str, list[object]]] = {}
    for path, figures in stage.box.report()["files"].items():
        folder, _, name = path.rpartition("/")
        if name != RECEIPT_NAME:
            arrived.setdefault(folder, {})[name] = figures
    wrong = [folder for folder, files in arrived.items() if files != wanted]
    if wrong or len(arrived) != task.campaigns:
        raise WrongResultError(
            f"{len(arrived)} folders for {task.campaigns} campaigns, wrong ones: {wrong[:3]}"
        )
