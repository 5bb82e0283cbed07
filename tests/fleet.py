"""Workers of ENGINE=procrastinate over a `World`, and the ways in which they end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from simulators.postgres import PostgresServer
from world import REPOSITORY, SCRIPTS, Run, World, wait_for

SCHEMA = REPOSITORY / "database" / "engine" / "001_procrastinate_3_10_0.sql"


@dataclass
class Worker:
    """A worker's process. log: the file of its standard error."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Fleet:
    """An installation whose runs leave their campaigns to workers."""

    world: World
    workers: list[Worker] = field(default_factory=list)

    def worker(self, *, before: Sequence[str] = (), **changes: str) -> Worker:
        """A new worker, which has given its first sign of life. before: the words of a program that starts
        it.
        """
        log = self.world.folder / f"worker-{len(self.workers)}.log"
        seen = len(self.names)
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                [*before, sys.executable, SCRIPTS / "a1_worker.py", "--auth-pfx-v2"],
                cwd=self.world.folder,
                env=self.world.environment(**changes),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                text=True,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        wait_for(lambda: len(self.names) > seen or process.poll() is not None)
        assert process.poll() is None, worker.text
        return worker

    def end(self) -> None:
        """Kill the workers that are left."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()

    @property
    def names(self) -> list[str]:
        """The workers with a row, in the order of their start."""
        return [row["worker"] for row in self.world.sql("SELECT worker FROM workers ORDER BY started_at")]

    def tick(self, *arguments: str, **changes: str) -> Run:
        """One run, as the loop starts it."""
        return self.world.upload(*arguments, **changes)

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """(lock, status) of every job in the engine's table."""
        rows = self.world.sql("SELECT lock, status::text FROM procrastinate_jobs ORDER BY id")
        return [(row["lock"], row["status"]) for row in rows]

    @property
    def live(self) -> int:
        """How many jobs wait or are in work."""
        return sum(status in ("todo", "doing") for _, status in self.jobs)

    def hurry_recovery(self, worker: Worker) -> None:
        """Let a worker's last sign of life be a minute old, as if we had waited."""
        self.world.sql(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute' WHERE id IN"
            " (SELECT worker_id FROM procrastinate_jobs WHERE status = 'doing');"
            " UPDATE workers SET seen_at = now() - interval '1 minute' WHERE worker LIKE %s",
            f"%:{worker.process.pid}",
        )

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Until no job waits or is in work."""
        wait_for(lambda: not self.live, seconds)


def add_engine(postgres: PostgresServer, database_url: str) -> None:
    """Make the engine's tables, as an operator does."""
    name = urlsplit(database_url).path.removeprefix("/")
    done = postgres.psql("--quiet", "-v", "ON_ERROR_STOP=1", "-f", SCHEMA, database=name)
    assert done.returncode == 0, done.stderr


@contextmanager
def open_fleet(world: World, postgres: PostgresServer) -> Iterator[Fleet]:
    """Workers end with it, however they are."""
    add_engine(postgres, world.database_url)
    world.changes["ENGINE"] = "procrastinate"
    fleet = Fleet(world)
    try:
        yield fleet
    finally:
        fleet.end()
