"""What the loop tells the outside, beside the loop: e-mails and heartbeats may take their time or fail."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from shared.errors import AppError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
MOST_WAITING = 1000


class Messenger:
    """Runs errands in order in a thread of its own.

    An errand returns True when it is done; one that returns False, or raises AppError, is tried again.
    """

    def __init__(self) -> None:
        self._errands: queue.Queue[Callable[[], bool] | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._keys: set[str] = set()

    def send(self, errand: Callable[[], bool], *, key: str | None = None) -> None:
        """Hand over an errand; never waits. One of the same key that has not been done makes it needless."""
        if key is not None:
            with self._guard:
                if key in self._keys:
                    return
                self._keys.add(key)
            errand = self._releasing(key, errand)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="messenger", daemon=True)
            self._thread.start()
        try:
            self._errands.put_nowait(errand)
        except queue.Full:
            logger.error("%d messages wait already; one more is dropped", MOST_WAITING)

    def close(self, seconds: float) -> None:
        """Let what waits be tried once more, for so long at most."""
        if self._thread is not None:
            try:
                self._errands.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(seconds)

    def _work(self) -> None:
        failed: list[Callable[[], bool]] = []
        retry_at = 0.0
        while True:
            try:
                seconds = max(0.0, retry_at - time.monotonic()) if failed else None
                errand = self._errands.get(timeout=seconds)
            except queue.Empty:
                failed = [errand for errand in failed if not self._is_done(errand)]
                retry_at = time.monotonic() + RETRY_SECONDS
                continue
            if errand is None:
                for waiting in failed:
                    self._is_done(waiting)
                return
            if not self._is_done(errand):
                failed.append(errand)
                retry_at = time.monotonic() + RETRY_SECONDS

    def _releasing(self, key: str, errand: Callable[[], bool]) -> Callable[[], bool]:
        def wrapped() -> bool:
            is_done = errand()
            if is_done:
                with self._guard:
                    self._keys.discard(key)
            return is_done

        return wrapped

    @staticmethod
    def _is_done(errand: Callable[[], bool]) -> bool:
        try:
            return errand()
        except AppError as exc:
            logger.warning("a message waits: %s", exc)
            return False
        except Exception:  # a bug in one message must not silence the others
            logger.exception("a bug in a message; it is dropped")
            return True
