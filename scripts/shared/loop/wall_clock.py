"""Waits for an instant of the wall clock, and for readable files.

`select` counts its seconds by a clock that stops while the machine sleeps, and that nobody sets. So a long
wait is cut into pieces, and the loop looks at the wall clock after each.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from datetime import UTC, datetime

LONGEST_WAIT_SECONDS = 30.0
"""How late a start may be when the clock was set forward or the machine slept; less than a minute."""

Action = Callable[[], None]


class WallClock:
    """The time, and waiting: for an instant, for a duration, or for the watched files."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        self._selector.close()

    def now(self) -> datetime:
        """The wall clock's instant, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of a clock that nobody sets; for time limits."""
        return time.monotonic()

    def watch(self, file: int, action: Action) -> None:
        """Make `wait` end, and return this action, when the file is readable."""
        self._selector.register(file, selectors.EVENT_READ, action)

    def forget(self, file: int) -> None:
        """Undo `watch`."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    def wait(self, until: datetime | None, seconds: float | None) -> list[Action]:
        """Wait for the instant, the duration or a file, whichever comes first; returns the actions of
        readable files.

        seconds: None for no limit. It may end before the instant: the caller looks at `now` again.
        """
        limits = [] if seconds is None else [seconds]
        if until is not None:
            limits += [(until - self.now()).total_seconds(), LONGEST_WAIT_SECONDS]
        timeout = max(0.0, min(limits)) if limits else None
        return [key.data for key, _ in self._selector.select(timeout)]
