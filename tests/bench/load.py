"""What else decides the figures: who else was at work (the machine's CPU time less our own, from /proc), and
whether memory is at hand.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
READY_BYTES = 512 * 1024 * 1024
"""More than any contender takes."""


@dataclass(frozen=True)
class Load:
    """A moment: seconds on the clock, CPU seconds of the whole machine and of ourselves."""

    at: float
    machine: float
    ours: float

    @classmethod
    def now(cls) -> Load:
        """Interrupts are left out: they are nobody's, and many of them are our own network traffic."""
        first = (PROC / "stat").read_text(encoding="ascii").partition("\n")[0].split()[1:]
        user, nice, system, _, _, _, _, steal, *_ = map(int, first)
        return cls(time.monotonic(), (user + nice + system + steal) / TICK, seconds_below(os.getpid()))

    def foreign_since(self, before: Load) -> float:
        """The share of all cores that others had since then; steal counts as others'."""
        foreign = (self.machine - before.machine) - (self.ours - before.ours)
        return max(0.0, foreign / ((self.at - before.at) * (os.cpu_count() or 1)))


def ready_memory() -> None:
    """See to it that the memory which the next process gets is there: a virtual machine's host may still have
    to find it when it is first touched, and whoever comes first would pay for that.
    """
    with mmap.mmap(-1, READY_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for at in range(0, READY_BYTES, mmap.PAGESIZE):
            memory[at] = 1


def wait_for_quiet(most_foreign: float, patience_s: float) -> bool:
    """Wait for two seconds in which others have no more than that; False when there were none in time."""
    if most_foreign >= 1:
        return True
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = Load.now()
        time.sleep(2)
        if Load.now().foreign_since(before) <= most_foreign:
            return True
    return False


def seconds_below(pid: int) -> float:
    """CPU seconds of this process, all that live below it, and all of them that have ended and were waited
    for.
    """
    seconds: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        fields = text.rpartition(")")[2].split()
        child, parent = int(folder.name), int(fields[1])
        seconds[child] = sum(map(int, fields[11:15])) / TICK
        children.setdefault(parent, []).append(child)
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        total += seconds.get(one, 0.0)
        waiting += children.get(one, [])
    return total
