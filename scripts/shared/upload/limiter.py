"""Keeps Box's limits of calls per minute. Every thread of every run asks here before it calls Box.

The rule is `rate.take`. Its state is in PostgreSQL, so that the runs of all hosts share one limit. A run
takes permissions in small batches, to save statements.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.base.errors import StoppedError
from shared.rules.rate import USE_WITHIN_SECONDS, Grant

UPLOADS = "box_uploads"
CALLS = "box_calls"
BATCHES_PER_LIMIT = 60
"""A batch is at most a sixtieth of the limit: one second's calls. Unused permissions are lost."""


STOP_POLL_SECONDS = 0.2


def stoppable_sleep(is_stopping: Callable[[], bool]) -> Callable[[float], None]:
    """A `time.sleep` that raises StoppedError as soon as the run must stop."""

    def sleep(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if is_stopping():
                raise StoppedError
            time.sleep(min(left, STOP_POLL_SECONDS))

    return sleep


class RateLedger(Protocol):
    """Remembers the permissions of all runs. wait_seconds in the answer is by its own clock."""

    def take_calls(self, bucket: str, wanted: int, limit: int) -> Grant: ...
    def pause_calls(self, bucket: str, seconds: float) -> None: ...


@dataclass(slots=True)
class _Batch:
    """Permissions that were taken: how many calls, and until when they are valid (monotonic seconds).

    bucket: where the ledger counts them.
    """

    bucket: str
    limit: int
    count: int = 0
    good_until: float = 0.0


class BoxGate:
    """Keeps all calls of one user of Box within two limits per minute: uploads, and calls of every kind.
    0: no limit.
    """

    def __init__(
        self,
        ledger: RateLedger,
        *,
        uploads_per_minute: int,
        calls_per_minute: int,
        user: str = "",
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        on_pause: Callable[[], None] = lambda: None,
    ) -> None:
        """user: the id in Box of the user whose calls they are; "": the service account. on_pause: called
        each time Box asks for a pause.
        """
        self._ledger = ledger
        self._on_pause = on_pause
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._paused_until = 0.0
        self._batches = {
            name: _Batch(f"{name}:{user}" if user else name, limit)
            for name, limit in ((UPLOADS, uploads_per_minute), (CALLS, calls_per_minute))
            if limit
        }
        self._waiting = 0

    def wait(self, *, is_upload: bool) -> None:
        """Return when one call may go out. Raises DbError, and what `sleep` raises."""
        if CALLS in self._batches:
            self._wait_for(CALLS)
        if (
            is_upload and UPLOADS in self._batches
        ):  # last, so that the scarcer permission does not expire while we wait
            self._wait_for(UPLOADS)
        while True:
            with self._lock:
                pause = self._paused_until - self._clock()
            if pause <= 0:
                break
            self._sleep(pause)

    def pause(self, seconds: float) -> None:
        """Pause the user's calls in all runs, because Box asked for it. Raises DbError."""
        self._on_pause()
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)
        for batch in self._batches.values():
            self._ledger.pause_calls(batch.bucket, seconds)

    def _wait_for(self, name: str) -> None:
        """Use one permission of the batch, or get a new batch. Waiting threads share one queue."""
        batch = self._batches[name]
        with self._lock:
            self._waiting += 1
        try:
            while True:
                with self._lock:
                    if batch.count and self._clock() < batch.good_until:
                        batch.count -= 1
                        return
                    wanted = max(1, min(self._waiting, batch.limit // BATCHES_PER_LIMIT))
                    grant = self._ledger.take_calls(batch.bucket, wanted, batch.limit)
                    batch.count, batch.good_until = grant.count, self._clock() + USE_WITHIN_SECONDS
                if not grant.count:
                    # A little longer than necessary, so that the next second has begun.
                    self._sleep(min(grant.wait_seconds, 1.0) + 0.001)
        finally:
            with self._lock:
                self._waiting -= 1
