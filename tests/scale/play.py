"""Workers on several hosts, killed, frozen, cut off and left without a database, until all work is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from crash.systems import MEBIBYTE, figures_of
from scale.checker import ScaleChecker
from scale.hosts import Cut, Host
from scale.systems import HostedSystems
from simulators.dam import GeneratedContent
from simulators.postgres import EmbeddedPostgres
from world import SCRIPTS

RUN = ("a1_to_a2_box_uploader.py", "--auth-password", "--json")
WORKER = ("a1_worker.py", "--auth-password")
TICK_SECONDS = 4.0
"""How often a run starts. In life it is every 3 minutes."""
RESTART_SECONDS = 3.0
"""What a service manager waits before it starts a worker again."""
LOOK_SECONDS = 5.0
SHORT_SECONDS = (1.0, 8.0)
"""A disturbance that nobody notices, or hardly."""
PAUSE_SECONDS = (1.0, 6.0)
MOST_SECONDS = 300.0
"""A campaign that nobody has taken over by then never will be."""
CALM_TICKS = 4
"""Runs after the last campaign: the last one must find nothing left to do."""
DELAY_SECONDS = 0.03
"""What each call to the DAM and Box takes."""
TRANSFER_WORKERS = 2
BOX_USERS = 2
UPLOADS_PER_MINUTE = 400
"""Of each user of Box, over all hosts."""
NOT_YET = "A0"

KINDS = (
    *("killed", "frozen", "cut off", "PostgreSQL restarted", "killed and down", "briefly frozen"),
    *("briefly cut off", "run killed"),
)


@dataclass
class Worker:
    """A host's worker, as a service manager keeps it running."""

    host: Host
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    start_at: float = 0.0
    """Not before; by the monotonic clock."""

    @property
    def log(self) -> Path:
        """Of the newest process."""
        return self.folder / f"{self.host.name}-{self.starts}.log"

    def start(self, env: dict[str, str]) -> None:
        self.starts += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.host.command([sys.executable, str(SCRIPTS / WORKER[0]), *WORKER[1:]]),
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def send(self, what: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(what)


@dataclass
class Disturbance:
    """What happens to one host. held: the campaigns that its worker has, and that somebody must take over."""

    kind: str
    worker: Worker
    began: float
    """By the wall clock, as PostgreSQL's."""
    held: set[str]
    until: float = 0.0
    """By the monotonic clock; 0: until everything is taken over."""
    cut: Cut = "unplugged"


@dataclass
class Tally:
    """What was done, and what came of it."""

    disturbances: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    taken_over: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from a disturbance to the next worker's start with a campaign, by the kind of disturbance."""
    failures: list[str] = field(default_factory=list)
    looks: int = 0
    seconds: float = 0.0


class Play:
    """One scene, from the first campaign to the last. Use it in the thread that started the server."""

    def __init__(
        self,
        systems: HostedSystems,
        server: EmbeddedPostgres,
        hosts: Sequence[Host],
        folder: Path,
        seed: int,
    ) -> None:
        self.systems = systems
        self.tally = Tally()
        self._server = server
        self._rng = random.Random(seed)
        self._folder = folder
        self._workers = [Worker(host, folder) for host in hosts]
        self._run: subprocess.Popen[bytes] | None = None
        self._runs = 0
        self._run_at = 0.0
        self._is_run_killed = False
        self._going_on: list[Disturbance] = []
        self._released = 0
        self._look_at = 0.0

    def play(self, campaigns: int, assets: int, disturbances: int) -> None:
        """What is wrong is in tally.failures."""
        started = time.monotonic()
        plan = list(islice(cycle(KINDS), disturbances))
        self._rng.shuffle(plan)
        with self.systems.cleared(**self._settings()):
            self.systems.box.options.uploads_per_minute = UPLOADS_PER_MINUTE
            users = [self.systems.box.add_user() for _ in range(BOX_USERS)]
            self.systems.env["BOX_USERS"] = ",".join(users)
            self._fill(campaigns, assets)
            self.checker = ScaleChecker(self.systems, on_their_way=TRANSFER_WORKERS + 1)
            try:
                self._disturb(plan)
                self._calm_down()
                self._stop()
            finally:
                self._kill_all()
            self._allow()
            self.tally.failures += self.checker.at_the_end()
            self.assets = sum(len(one.files) for one in self.systems.wanted.values())
            self.refused = Counter(call.status for call in self.systems.box.requests)[429]
            self.by_host = Counter(effect.host for effect in self.systems.effects())
        self.tally.seconds = time.monotonic() - started

    def _settings(self) -> dict[str, str]:
        return {
            "ENGINE": "procrastinate",
            "WORKER_CAMPAIGNS_AT_ONCE": "6",
            "WORKER_STOP_SECONDS": "60",
            "TRANSFER_WORKERS": str(TRANSFER_WORKERS),
            "BOX_UPLOADS_PER_MINUTE": str(UPLOADS_PER_MINUTE),
            "DAM_TIMEOUT_SECONDS": "10",
            "BOX_TIMEOUT_SECONDS": "10",
        }

    # The campaigns

    def _fill(self, campaigns: int, assets: int) -> None:
        """A sixth of the campaigns is empty; the files are shared out among the others, some are large."""
        systems, rng = self.systems, self._rng
        systems.slow_dam.delay_seconds = systems.recording_box.delay_seconds = DELAY_SECONDS
        is_empty = [number % 6 == 5 for number in range(campaigns)]
        full = [number for number in range(campaigns) if not is_empty[number]]
        counts = Counter(full)
        counts.update(rng.choices(full, k=max(0, assets - len(full))))
        for number in range(campaigns):
            files: dict[str, bytes | GeneratedContent] = {}
            for place in range(counts[number]):
                folder = "" if rng.random() < 0.7 else f"sub {rng.randrange(3)}/"
                files[f"{folder}{place:03}.jpg"] = rng.randbytes(rng.randrange(1, 3000))
            if files and number % 20 == 0:
                files["film.mov"] = GeneratedContent(20 * MEBIBYTE + 1 + number, seed=number)
            systems.add(
                f"Scale {number}", files, has_folder=bool(files) or rng.random() < 0.8, status=NOT_YET
            )
        self._order = list(systems.wanted)
        rng.shuffle(self._order)

    def _release(self, share: float) -> None:
        """Set this share of the campaigns to A1, so that there is work at every disturbance."""
        wanted = min(len(self._order), round(share * len(self._order)) + 1)
        for campaign in self._order[self._released : wanted]:
            self.systems.dam.set_status(campaign, "A1")
        self._released = max(self._released, wanted)

    def _fill_one(self) -> None:
        """Somebody puts a file into a folder that was empty until now."""
        rows = self.systems.rows("SELECT campaign_id FROM campaign_status WHERE a1_retry_count = 1")
        empty = [
            one
            for one in (self.systems.wanted[row[0]] for row in rows)
            if not one.files and one.listed_folder != one.id
        ]
        if empty:
            one = self._rng.choice(empty)
            content = self._rng.randbytes(500)
            self.checker.filled_at[one.id] = time.time()
            one.files["late.jpg"] = figures_of(content)
            self.systems.dam.add_asset(one.listed_folder, "late.jpg", content)

    def _left(self) -> set[str]:
        """The campaigns that are not where they belong yet."""
        rows = self.systems.rows("SELECT campaign_id FROM campaign_status WHERE a1_permanently_failed")
        failed = {row[0] for row in rows}
        wanted = self.systems.wanted.values()
        return {
            one.id
            for one in wanted
            if (self.systems.dam.status(one.id) != "A2" if one.files else one.id not in failed)
        }

    # Disturbances

    def _disturb(self, plan: list[str]) -> None:
        for number, kind in enumerate(plan):
            self._release((number + 1) / len(plan))
            if number % 3 == 1:
                self._fill_one()
            begin_at = time.monotonic() + self._rng.uniform(*PAUSE_SECONDS)
            while time.monotonic() < begin_at or not self._begin(kind):
                self._step()
        while self._going_on:
            self._step()

    def _begin(self, kind: str) -> bool:
        """Do it; False when it must wait."""
        rng = self._rng
        if kind == "PostgreSQL restarted":
            self._server.restart(rng.choice(("fast", "immediate")))
            self.systems.forget_connection()
        elif kind == "run killed":
            if self._run is None or self._run.poll() is not None:
                return False
            self._run.kill()
            self._is_run_killed = True
        else:
            disturbed = [one.worker for one in self._going_on]
            if len(disturbed) >= len(self._workers) - 1:
                return False
            well = [
                (one, self.systems.held_by(one.host.address)) for one in self._workers if one not in disturbed
            ]
            busy = [(worker, held) for worker, held in well if held and worker.process is not None]
            if not busy:
                return False
            self._strike(kind, *rng.choice(busy))
        self.tally.disturbances[kind] += 1
        return True

    def _strike(self, kind: str, worker: Worker, held: set[str]) -> None:
        rng = self._rng
        one = Disturbance(kind, worker, time.time(), held, cut=rng.choice(("unplugged", "down")))
        if kind.startswith("briefly"):
            one.until = time.monotonic() + rng.uniform(*SHORT_SECONDS)
        if "killed" in kind:
            worker.send(signal.SIGKILL)
            worker.start_at = time.monotonic() + (MOST_SECONDS if "down" in kind else RESTART_SECONDS)
        elif "frozen" in kind:
            worker.send(signal.SIGSTOP)
        else:
            worker.host.cut(one.cut)
        self._going_on.append(one)

    def _end(self, one: Disturbance) -> None:
        if "frozen" in one.kind:
            one.worker.send(signal.SIGCONT)
        elif "cut" in one.kind:
            one.worker.host.connect(one.cut)
        else:
            one.worker.start_at = 0.0
        self._going_on.remove(one)

    def _step(self) -> None:
        """Whatever is due, and a short wait."""
        self._keep_running()
        for one in list(self._going_on):
            if one.until:
                if time.monotonic() > one.until:
                    self._end(one)
            elif self._is_taken_over(one):
                self._end(one)
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self.tally.looks += 1
            self.tally.failures += [f"look {self.tally.looks}: {text}" for text in self.checker.look()]
        time.sleep(0.1)

    def _is_taken_over(self, one: Disturbance) -> bool:
        """Whether somebody else has each campaign, or it is where it belongs; notes how long that took."""
        takes = self.systems.rows(
            "SELECT campaign_id, extract(epoch FROM min(at))::float FROM proof_takes"
            " WHERE campaign_id = ANY(%s) AND at > to_timestamp(%s) GROUP BY 1",
            list(one.held), one.began,
        )  # fmt: skip
        since = dict(takes)
        waiting = {campaign for campaign in one.held - since.keys() if campaign in self._left()}
        is_too_late = time.time() > one.began + MOST_SECONDS
        if waiting and not is_too_late:
            return False
        self.tally.failures += [
            f"{self.systems.wanted[campaign].folder}: not taken over in {MOST_SECONDS:.0f} s ({one.kind})"
            for campaign in waiting
        ]
        self.tally.taken_over.setdefault(one.kind, []).extend(at - one.began for at in since.values())
        return True

    # The processes

    @property
    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**inherited, **self.systems.env}

    def _keep_running(self) -> None:
        """Start what has ended: each worker, and the next run."""
        now = time.monotonic()
        if self._run is not None and (code := self._run.poll()) is not None:
            self._run = None
            if not self._is_run_killed:
                self.tally.exits[f"run: {code}"] += 1
                if code not in (0, 75):
                    self.tally.failures.append(f"run {self._runs} ended with {code}: {self._run_log}")
            self._is_run_killed = False
        if self._run is None and now >= self._run_at:
            self._runs += 1
            self._run_at = now + TICK_SECONDS
            self._run = self._started(RUN)
        for worker in self._workers:
            if worker.process is not None and (code := worker.process.poll()) is not None:
                worker.process = None
                worker.start_at = max(worker.start_at, now + RESTART_SECONDS)
                if code != -signal.SIGKILL:
                    self.tally.exits[f"worker: {code}"] += 1
                    if code != 75:
                        self.tally.failures.append(f"a worker ended with {code}: {worker.log}")
            if worker.process is None and now >= worker.start_at:
                worker.start(self._environment)

    @property
    def _run_log(self) -> Path:
        return self._folder / f"run-{self._runs}.log"

    def _started(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._run_log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, str(SCRIPTS / command[0]), *command[1:]],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def _calm_down(self) -> None:
        """Until nothing is left to do, and some runs more."""
        self._release(1.0)
        give_up_at = time.monotonic() + MOST_SECONDS
        left = self._left()
        while left or self._is_busy():
            self._step()
            before, left = left, self._left()
            if left != before:
                give_up_at = time.monotonic() + MOST_SECONDS
            elif time.monotonic() > give_up_at:
                folders = sorted(self.systems.wanted[campaign].folder for campaign in left)
                self.tally.failures.append(f"{len(left)} campaigns do not get done: {folders[:5]}")
                return
        last = self._runs + CALM_TICKS
        while self._runs < last or self._is_busy() or self._is_mail_waiting():
            self._step()
            if time.monotonic() > give_up_at + MOST_SECONDS:
                self.tally.failures.append("e-mails or campaigns are still waiting")
                return

    def _is_busy(self) -> bool:
        return bool(self.systems.rows("SELECT FROM worker_campaigns"))

    def _is_mail_waiting(self) -> bool:
        """Whether an e-mail is to go out; those that wait for a later try are to go now."""
        self.systems.rows(
            "UPDATE notice_deliveries SET next_try_at = now() WHERE sent_at IS NULL AND gave_up_at IS NULL"
            " AND next_try_at > now()"
        )
        return bool(
            self.systems.rows(
                "SELECT FROM notice_deliveries WHERE sent_at IS NULL AND gave_up_at IS NULL LIMIT 1"
            )
        )

    def _stop(self) -> None:
        """As a service manager stops them: each ends by itself, with 0."""
        if self._run is not None:
            self._run.wait(MOST_SECONDS)
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        for worker in self._workers:
            if worker.process is not None:
                code = worker.process.wait(MOST_SECONDS)
                self.tally.exits[f"worker, asked to stop: {code}"] += 1
                if code != 0:
                    self.tally.failures.append(
                        f"a worker that was asked to stop ended with {code}: {worker.log}"
                    )

    def _kill_all(self) -> None:
        for process in (self._run, *(worker.process for worker in self._workers)):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def _allow(self) -> None:
        """What disturbances may leave behind: for each process that was sending one, an e-mail that went out
        and was not noted; and an upload session that Box opened and nobody knows.
        """
        count = self.tally.disturbances
        restarts = count["PostgreSQL restarted"] * (len(self._workers) + 1)
        total = count.total() + restarts
        self.checker.repeats_allowed = total
        self.checker.orphans_allowed = total

    def lines(self) -> Iterator[str]:
        """The figures."""
        tally = self.tally
        for name, count in sorted(tally.disturbances.items()):
            yield f"{name:<32}{count:>6}"
        yield f"{'taken over after (s)':<32}{'median':>8}{'worst':>8}{'campaigns':>11}"
        for name, seconds in sorted(tally.taken_over.items()):
            if seconds:
                yield f"{name:<32}{median(seconds):>8.1f}{max(seconds):>8.1f}{len(seconds):>11}"
        for name, count in sorted(tally.exits.items()):
            yield f"{name:<32}{count:>6}"
        for name, count in sorted(self.checker.late.items()):
            yield f"on its way when it was lost: {name:<32}{count:>6}"
        yield f"{'Box answered 429':<32}{self.refused:>6}"
        for host, count in sorted(self.by_host.items()):
            yield f"effects by {host:<21}{count:>6}"
        yield (
            f"scale: {len(self.systems.wanted)} campaigns, {self.assets} files, {len(self._workers)} hosts,"
            f" {tally.disturbances.total()} disturbances, {self._runs} runs, {tally.looks} looks,"
            f" {tally.seconds:.0f} s"
        )
