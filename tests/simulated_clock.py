"""A clock for the orchestrator's loop that jumps from one event to the next, and does what a script says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from shared.loop.wall_clock import Action, WallClock

Event = Callable[[], None]


class SimulatedClock(WallClock):
    """Time passes by itself only while a child runs; otherwise the next thing to do is now.

    events: (instant, what happens then), in the order in which they come. At `end` the process gets SIGTERM,
    which ends the loop.
    """

    def __init__(self, start: datetime, end: datetime, events: list[tuple[datetime, Event]]) -> None:
        super().__init__()
        self._offset = timedelta()
        self._real_start = time.monotonic()
        self._start = start
        self._skipped = 0.0
        self._end = end
        self._events = list(events)
        self.is_busy: Callable[[], bool] = lambda: False
        """Whether a child runs: then the time is the real one."""

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic()) + self._offset

    def monotonic(self) -> float:
        return time.monotonic() - self._real_start + self._skipped

    def set_clock(self, by: timedelta) -> None:
        """What an administrator does; the monotonic clock does not notice."""
        self._offset += by

    def sleep_machine(self, seconds: float) -> None:
        """What a closed lid does."""
        self._offset += timedelta(seconds=seconds)

    def wait(self, until: datetime | None, seconds: float | None) -> list[Action]:
        actions = super().wait(None, 0.05 if self.is_busy() else 0)
        if actions or self.is_busy():
            return actions
        now = self.now()
        targets = [now + timedelta(seconds=seconds)] if seconds is not None else []
        targets += [instant for instant in (until, self._end) if instant is not None]
        if self._events:
            targets.append(self._events[0][0])
        self._skipped += max(0.0, (min(targets) - now).total_seconds())
        while self._events and self._events[0][0] <= self.now():
            self._events.pop(0)[1]()
        if self.now() >= self._end:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(None, 0)
