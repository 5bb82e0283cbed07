"""Runs a task as a child process: its group, its output, its time limit, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta

LONGEST_LINE_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
TAIL_LINES = 12


class Child:
    """A process in a group of its own; standard output and standard error form one stream of lines.

    limit: how long it may take. kill_after: how long it may continue after it was asked to end. started: now,
    by the monotonic clock. Raises OSError when the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        limit: timedelta,
        kill_after: timedelta,
        started: float,
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the command comes from the table of tasks
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        assert self._process.stdout is not None  # noqa: S101 - Popen made a pipe
        self.output = self._process.stdout.fileno()
        """The file to watch; closed by `reap`."""
        os.set_blocking(self.output, False)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        """Its last lines."""
        self.heard_at = started
        """The monotonic second of its last line; set by the caller."""
        self.is_silence_told = False
        self.deadline = started + limit.total_seconds()
        """The monotonic second at which `enforce_limit` has something to do."""
        self._why = f"its time limit of {limit} is over"
        self._kill_after = kill_after.total_seconds()
        self._was_asked = False
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_lines(self) -> list[str] | None:
        """What it has written since the last call, as whole lines; None when it closed its output.

        A line longer than LONGEST_LINE_BYTES comes in pieces.
        """
        try:
            data = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LONGEST_LINE_BYTES:
            whole.append(self._rest[:LONGEST_LINE_BYTES])
            self._rest = self._rest[LONGEST_LINE_BYTES:]
        return self._decoded(whole)

    def _decoded(self, lines: Sequence[bytes]) -> list[str]:
        pieces = [
            line[start : start + LONGEST_LINE_BYTES].decode("utf-8", "backslashreplace").rstrip("\r")
            for line in lines
            for start in range(0, max(len(line), 1), LONGEST_LINE_BYTES)
        ]
        self.tail.extend(pieces)
        return pieces

    def shorten(self, until: float, why: str) -> None:
        """Set its time limit to this monotonic second, unless it is earlier already."""
        if not self._was_asked and until < self.deadline:
            self.deadline, self._why = until, why

    def enforce_limit(self, now: float) -> str | None:
        """End a child whose time is over; returns what was done, in words, or None.

        It sends SIGTERM to the whole group, and SIGKILL to what is still running after `kill_after`.
        """
        if now < self.deadline:
            return None
        self.deadline = now + self._kill_after
        if self._was_asked:
            self._signal_group(signal.SIGKILL)
            return "it did not end, so it was killed"
        self._was_asked = True
        self._signal_group(signal.SIGTERM)
        return f"{self._why}, so it was asked to end"

    def has_ended(self) -> bool:
        """Whether the process itself has ended; a zombie until `reap`, which keeps its group's id."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def reap(self) -> tuple[int, str, list[str]]:
        """Clean up after it has ended; returns (exit code, or minus the signal; in words; the last lines of
        output).

        Processes that it left running in its group are killed: a task ends as a whole.
        """
        self._signal_group(signal.SIGKILL)
        code = self._process.wait()
        lines: list[str] = []
        while more := self.read_lines():
            lines += more
        if self._rest:
            lines += self._decoded([self._rest])
        assert self._process.stdout is not None  # noqa: S101 - Popen made a pipe
        self._process.stdout.close()
        return code, self._why if self._was_asked else _ending_of(code), lines

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _ending_of(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
