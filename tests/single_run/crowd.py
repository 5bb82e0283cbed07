"""Rounds of 32 processes that all want to be the one run, by the product's own lock and outbox code.

    python tests/single_run/crowd.py URL --rounds 200 --seed 1

Each round forks 32 workers at once. Whoever gets the lock works through some campaigns: an effect outside the
database (a line in a file that all share, written right after the question whether the lock is still held),
and an attempt counted with its notice. By the seed, the worker is then frozen, or cut off by the server, or
both, and others are started while it is. Prints what it saw as JSON; `broken` lists each broken promise.

A program of its own, because only a process without threads can fork safely.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2

from sessions import end_sessions
from shared.base.errors import AppError, ExitCode, LockLostError
from shared.base.values import Notice, NoticeKind
from shared.database import UPLOADER_LOCK, Database
from shared.notices.outbox import Outbox

WORKERS = 32
FOLLOWERS = 6
CAMPAIGNS = 6
ATTEMPTS = 100
"""More than a round can count, so that each run counts each campaign once."""
PACE_SECONDS = 0.002
PATIENCE_SECONDS = 60.0
KINDS = ("undisturbed", "frozen", "cut", "frozen and cut")


@dataclass
class Tally:
    """What all rounds showed."""

    rounds: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    exit_codes: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    past_the_check: int = 0
    """Effects whose question was asked before another run took the lock, and that came after: the window."""
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Effect:
    """A line of the shared file. asked_at and at: CLOCK_MONOTONIC, which all processes share."""

    epoch: int
    pid: int
    campaign: str
    asked_at: float
    at: float


def work(url: str, name: str, campaigns: list[str], effects: int) -> int:
    """A worker's life; its exit code."""
    with closing(Database(url, ATTEMPTS, application_name=name)) as database:
        os.read(0, 1)  # everybody waits here, connected, until the round begins
        if database.take_run(UPLOADER_LOCK) is not None:
            return ExitCode.TRY_LATER
        epoch = database.epoch or 0
        database.execute("INSERT INTO crowd_runs (epoch, pid, taken_at) VALUES (%(epoch)s, %(pid)s, %(at)s)",
                      {"epoch": epoch, "pid": os.getpid(), "at": time.monotonic()})  # fmt: skip
        for campaign in campaigns:
            time.sleep(PACE_SECONDS)
            asked_at = time.monotonic()
            database.ensure_held()
            line = Effect(epoch, os.getpid(), campaign, asked_at, time.monotonic())
            os.write(effects, (json.dumps(asdict(line)) + "\n").encode())
            count(database, campaign, epoch)
    return ExitCode.OK


def count(database: Database, campaign: str, epoch: int) -> None:
    """One attempt with its one notice, as the uploader counts them; and, beside them, who did it."""
    now = datetime.now(UTC)
    notice_id = f"{random.getrandbits(128):032x}"
    notice = Notice(notice_id, NoticeKind.RETRY, campaign, "s", "t", "h", ("a@example.com",), now)
    with database.transaction():
        attempt = database.increment_a1_retry(campaign, "C", campaign, "empty")
        if attempt.counted:
            Outbox(database).queue(notice)
        database.execute("INSERT INTO crowd_counts (epoch, campaign, attempt) VALUES (%(e)s, %(c)s, %(a)s)",
                      {"e": epoch, "c": campaign, "a": attempt.number})  # fmt: skip


class Conductor:
    """Starts the workers of each round, disturbs the one that works, and looks at what came of it."""

    def __init__(self, url: str, seed: int, folder: Path) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._path = folder / "effects"
        self._effects = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        self._admin = psycopg2.connect(url)
        self._admin.autocommit = True
        self._sql("CREATE TABLE IF NOT EXISTS crowd_runs (epoch BIGINT PRIMARY KEY, pid INT, taken_at FLOAT)")
        self._sql(
            "CREATE TABLE IF NOT EXISTS crowd_counts (id BIGSERIAL, epoch BIGINT, campaign TEXT, attempt INT)"
        )
        self.tally = Tally()

    def round(self, number: int) -> None:
        kind = self._random.choice(KINDS)
        where = f"round {number} ({kind})"
        pause = self._random.uniform(0, CAMPAIGNS * PACE_SECONDS * 3)
        self.tally.rounds[kind] += 1
        campaigns = [f"{number}-{place}" for place in range(CAMPAIGNS)]
        os.ftruncate(self._effects, 0)
        first = self._start(WORKERS, campaigns)
        worker = self._wait(lambda: self._worker(first))
        if worker is None:
            self._break(f"{where}: nobody got the lock")
            self._collect(first)
            return
        time.sleep(pause)
        frozen = cut = False
        if "frozen" in kind:
            os.kill(worker, signal.SIGSTOP)
            # WNOWAIT: a worker that has ended already is collected with the others.
            seen = os.waitid(os.P_PID, worker, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            frozen = seen is not None and seen.si_code == os.CLD_STOPPED
        if "cut" in kind:
            cut = self._cut(worker)
        followers: dict[int, int] = {}
        if kind != "undisturbed":
            followers = self._collect(self._start(FOLLOWERS, campaigns))
        # It may have been frozen just after it gave the lock back.
        holds = frozen and self._holds_lock(worker)
        if frozen:
            os.kill(worker, signal.SIGCONT)
        if holds and not cut and ExitCode.OK in followers.values():
            self._break(f"{where}: a follower worked although the frozen one still held the lock")
        self._judge(where, self._collect(first) | followers, campaigns, worker)

    def _judge(self, where: str, codes: dict[int, int], campaigns: list[str], worker: int) -> None:
        """What must hold after every round, however it went."""
        self.tally.exit_codes.update(str(code) for code in codes.values())
        self._judge_effects(where)
        rows = self._sql(
            "SELECT c.epoch, c.campaign, c.attempt, r.pid FROM crowd_counts c JOIN crowd_runs r USING (epoch)"
            " WHERE c.campaign = ANY(%s) ORDER BY c.id", campaigns,
        )  # fmt: skip
        epochs = [row[0] for row in rows]
        if epochs != sorted(epochs):
            self._break(f"{where}: a run wrote after a later one")
        if len({row[:2] for row in rows}) != len(rows) or len({row[1:3] for row in rows}) != len(rows):
            self._break(f"{where}: something was counted twice: {rows}")
        for campaign in campaigns:
            ((attempts, notices),) = self._sql(
                "SELECT (SELECT coalesce(max(a1_retry_count), 0) FROM campaign_status"
                "        WHERE campaign_id = %s),"
                " (SELECT count(*) FROM notices WHERE campaign_id = %s)", campaign, campaign,
            )  # fmt: skip
            if not attempts == notices == sum(row[1] == campaign for row in rows):
                self._break(f"{where}: {campaign}: {attempts} attempts, {notices} notices")
        for pid, code in codes.items():
            if code not in (ExitCode.OK, ExitCode.TRY_LATER):
                self._break(f"{where}: process {pid} ended with {code}")
            elif code == ExitCode.OK and sum(row[3] == pid for row in rows) != len(campaigns):
                self._break(f"{where}: process {pid} said 0 without having done all")
        if ExitCode.OK not in codes.values():
            self._break(f"{where}: nobody finished the work; {worker} was the first")

    def _judge_effects(self, where: str) -> None:
        """No effect was asked for after another run had begun."""
        effects = [Effect(**json.loads(line)) for line in self._path.read_text().splitlines()]
        self.tally.effects += len(effects)
        taken = dict(self._sql("SELECT epoch, taken_at FROM crowd_runs"))
        for effect in effects:
            later = min((at for epoch, at in taken.items() if epoch > effect.epoch), default=effect.at)
            if effect.asked_at > later:
                self._break(f"{where}: {effect} was asked for after another run had begun, at {later}")
            self.tally.past_the_check += effect.at > later

    def _start(self, count: int, campaigns: list[str]) -> list[int]:
        """Fork workers that begin together, once all of them are connected."""
        reader, writer = os.pipe()
        pids = []
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                os.dup2(reader, 0)
                os.close(writer)
                os._exit(self._live(campaigns))
            pids.append(pid)
        os.close(reader)
        self.tally.processes += count
        names = [_name(pid) for pid in pids]
        self._wait(lambda: self._sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY(%s)",
                                     names)[0][0] == count or None)  # fmt: skip
        os.write(writer, b"x" * count)
        os.close(writer)
        return pids

    def _live(self, campaigns: list[str]) -> int:
        random.seed()
        try:
            return work(self._url, _name(os.getpid()), campaigns, self._effects)
        except LockLostError:
            return ExitCode.TRY_LATER
        except AppError as exc:
            return exc.exit_code
        except BaseException as exc:  # noqa: BLE001 - a forked child must not return into the conductor
            sys.stderr.write(f"{exc!r}\n")
            return ExitCode.BUG

    def _worker(self, pids: list[int]) -> int | None:
        """Who of these has the lock."""
        rows = self._sql("SELECT pid FROM crowd_runs WHERE pid = ANY(%s) ORDER BY epoch DESC LIMIT 1", pids)
        return rows[0][0] if rows else None

    def _cut(self, pid: int) -> bool:
        """Let the server end the worker's connection; False when it had ended by itself."""
        return bool(end_sessions(self._url, _name(pid)))

    def _holds_lock(self, pid: int) -> bool:
        return bool(
            self._sql(
                "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = %s", _name(pid),
            )
        )  # fmt: skip

    def _collect(self, pids: list[int]) -> dict[int, int]:
        return {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}

    def _break(self, what: str) -> None:
        self.tally.broken.append(what)

    def _sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._admin.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    @staticmethod
    def _wait(condition: Callable[[], int | None]) -> int | None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            found = condition()
            if found is not None:
                return found
            time.sleep(0.001)
        return None


def _name(pid: int) -> str:
    return f"a1_to_a2 crowd {pid}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", metavar="URL", help="a database with all migrations, for these rounds alone")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        conductor = Conductor(options.url, options.seed, Path(folder))
        for number in range(options.rounds):
            conductor.round(number)
    sys.stdout.write(json.dumps(vars(conductor.tally)) + "\n")
    return 1 if conductor.tally.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
