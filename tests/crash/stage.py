"""A small installation behind gates, and the runs that are played on it, killed or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from crash.director import Director, Point
from crash.gates import GatedBox, GatedDam, MailProxy, PostgresProxy, Watch, address_of, through
from crash.systems import MEBIBYTE, Systems
from simulators.box import BoxSimulator
from simulators.dam import DamSimulator, GeneratedContent
from world import SCRIPTS, wait_for

UPLOADER = ("a1_to_a2_box_uploader.py", "--auth-password", "--json")
ONCE = ("orchestrator-prod.py", "--once")
LOOP = ("orchestrator-prod.py",)
RUN_SECONDS = 100.0
LOOP_SECONDS = 5.0
"""A loop that has not come to the point by then has no more to do."""

Victim = Literal["all", "parent", "child"]
"""Who dies: the process that was started and its children, or one of the two alone."""


@dataclass
class Played:
    """One run: where it was killed (None: it was not), how it ended, and what it is known to have proven.

    proven: empty campaigns whose listing was answered whole. owed: those that it must therefore have counted.
    """

    hit: Point | None
    exit_code: int | None
    proven: set[str]
    owed: set[str]
    log: str = ""


class Process:
    """A process that the launcher started: `wait` for it, ask for its exit code by `poll`."""

    def __init__(self, pid: int, answers: IO[str]) -> None:
        self.pid = pid
        self._ended = threading.Event()
        self._code: int | None = None
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()

    def _read(self, answers: IO[str]) -> None:
        self._code = int(answers.readline())
        self._ended.set()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, None when it takes longer."""
        self._ended.wait(seconds)
        return self._code

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._code


class Launcher:
    """The process that starts all others (launcher.py)."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("launcher.py"), SCRIPTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._answers = self._process.stdin, self._process.stdout
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.close()
        self._process.wait()
        self._answers.close()

    def start(self, job: dict[str, object]) -> Process:
        """One process at a time."""
        self._jobs.write(json.dumps(job) + "\n")
        self._jobs.flush()
        return Process(int(self._answers.readline()), self._answers)


class Stage(Systems):
    """The systems behind gates, and the product's processes, one at a time."""

    def __init__(self, database_url: str, folder: Path, watch: Watch) -> None:
        super().__init__(database_url)
        self.watch = watch
        self.folder = folder
        self._stack = ExitStack()
        self._stack.callback(super().close)
        self._launcher = self._stack.enter_context(Launcher())
        self.database_proxy = self._stack.enter_context(PostgresProxy(*address_of(database_url), watch))
        self.mail_proxy = self._stack.enter_context(MailProxy("127.0.0.1", self.mail.port, watch))
        self.clock_off_seconds = 0
        """How far the clock of the processes is ahead of PostgreSQL's and everybody else's."""

    def close(self) -> None:
        self._stack.close()

    def new_dam(self) -> DamSimulator:
        dam = GatedDam()
        dam.watch = self.watch
        return dam

    def new_box(self) -> BoxSimulator:
        box = GatedBox()
        box.watch = self.watch
        return box

    def environment(self) -> dict[str, str]:
        """By way of the proxies."""
        return super().environment() | {
            "DATABASE_URL": through(self._database_url, self.database_proxy),
            "SMTP_PORT": str(self.mail_proxy.port),
        }

    # Runs

    def start(self, command: Sequence[str]) -> Process:
        """A process of the product; what it says goes into files, of which `log` reads one."""
        self.dam.clear_requests()
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        job = {
            "argv": [str(SCRIPTS / command[0]), *command[1:]],
            "env": {**inherited, **self.env},
            "cwd": str(self.folder),
            "stdout": str(self._output_path),
            "stderr": str(self._log_path),
            "clock_off_seconds": self.clock_off_seconds,
        }
        return self._launcher.start(job)

    @property
    def _log_path(self) -> Path:
        return self.folder / "run.log"

    @property
    def _output_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def log(self) -> str:
        """What the last run wrote to standard error."""
        return self._log_path.read_text()

    @property
    def proven(self) -> set[str]:
        """Empty campaigns whose listing was answered whole in this run."""
        listed = {
            call.path.split("/")[-2]
            for call in self.dam.requests
            if call.path.endswith("/children") and call.status == 200
        }
        return {one.id for one in self.wanted.values() if not one.files and one.listed_folder in listed}

    def let_time_pass(self) -> None:
        """Five minutes for the cadence, and whatever a mail server's refusal asked for."""
        self.rows(
            "UPDATE orchestrator_task_runs SET planned_at = planned_at - interval '5 minutes',"
            " started_at = started_at - interval '5 minutes',"
            " finished_at = finished_at - interval '5 minutes';"
            "UPDATE notice_deliveries SET next_try_at = now() - interval '1 minute'"
            " WHERE sent_at IS NULL AND gave_up_at IS NULL"
        )


class KillStage(Stage):
    """With a director, who has processes killed."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.director = Director()
        super().__init__(database_url, folder, self.director)

    @contextmanager
    def scene(self, *, has_film: bool, **env: str) -> Iterator[None]:
        """Two or three campaigns with files, and one each that is empty in every way."""
        with self.cleared(**env):
            if has_film:
                film = GeneratedContent(20 * MEBIBYTE + 4321, seed=1)
                self.add("Film", {"film.mov": film, "poster.jpg": b"p" * 900})
            self.add("Spring", {"a.jpg": b"a" * 100, "b.pdf": b"b" * 2000, "web/a.jpg": b"w" * 300})
            self.add("Summer", {"hero.jpg": b"h" * 50})
            self.add("Empty", {})
            self.add("Missing", {}, has_folder=False)
            self.add("Third Time", {}, attempts=2)
            self.add("Failed", {}, attempts=3, is_failed=True)
            yield

    def play(
        self,
        command: Sequence[str],
        point: Point | None = None,
        *,
        place: int = 0,
        phase: Literal["before", "after"] = "before",
        after_seconds: float | None = None,
        victim: Victim = "all",
    ) -> Played:
        """One run; killed at the point, or at a place or an instant, when it gets there."""
        director = self.director
        director.begin(point, place=place, phase=phase)
        process = self.start(command)
        waiting = threading.Thread(target=lambda: (process.wait(), director.reached.set()), daemon=True)
        waiting.start()
        seconds = LOOP_SECONDS if tuple(command) == LOOP else RUN_SECONDS
        is_reached = director.reached.wait(seconds if after_seconds is None else after_seconds)
        assert is_reached or after_seconds is not None or command == LOOP, self.log
        children = _children_of(process.pid)
        is_killed = process.poll() is None and (is_reached or after_seconds is not None)
        if is_killed:
            self._kill(process, children, victim)
        hit = director.hit if is_killed else None
        if is_killed and hit is None:
            hit = Point("at an instant", director.total, "after")
        is_child_left = victim == "parent" and bool(children)
        director.disarm(is_alive=is_child_left and hit is not None and "orchestrator" not in hit.kind)
        if command == LOOP:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        waiting.join(RUN_SECONDS)
        assert not waiting.is_alive(), f"the run does not end: {self.log}"
        wait_for(lambda: not any(_is_alive(child) for child in children), RUN_SECONDS)
        self._wait_for_quiet()
        return Played(hit, process.poll(), self.proven, self.proven if hit is None else set(), self.log)

    @staticmethod
    def _kill(process: Process, children: Sequence[int], victim: Victim) -> None:
        doomed = {"all": [process.pid, *children], "parent": [process.pid], "child": children}[victim]
        for pid in doomed or [process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _wait_for_quiet(self) -> None:
        """Until the dead process's requests have ended and the server has let go of its locks.

        A child that outlives its parent comes to its own end here.
        """
        self.director.settle()
        self.database_proxy.wait_until_unused(RUN_SECONDS)
        self.mail_proxy.wait_until_unused(RUN_SECONDS)
        self.director.settle()


def _children_of(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
