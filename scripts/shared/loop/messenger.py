"""Sends the loop's e-mails and heartbeats in a thread of its own: they may be slow or fail."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.base.errors import AppError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class _Errand:
    act: Callable[[], object]
    key: str | None


class Messenger:
    """Runs errands in order in a thread of its own; a failed one is tried again every minute."""

    def __init__(self) -> None:
        self._errands: queue.Queue[_Errand | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._waiting: set[str] = set()

    def send(self, act: Callable[[], object], *, key: str | None = None) -> None:
        """Add an errand; never waits. act: when it returns False or raises AppError, it is tried again.

        key: while an errand with this key waits, a second one is not added. None: always add it.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="messenger", daemon=True)
            self._thread.start()
        errand = _Errand(act, key)
        if not self._is_needed(errand):
            return
        try:
            self._errands.put_nowait(errand)
        except queue.Full:
            logger.error("%d messages are already waiting; dropped one more", MOST_WAITING)

    def close(self, seconds: float) -> None:
        """Try the waiting errands once more, for at most this long."""
        if self._thread is not None:
            try:
                self._errands.put_nowait(None)
            except queue.Full:
                return
            self.join(seconds)

    def join(self, seconds: float) -> None:
        """Wait for the end after `close`, for so long at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self) -> None:
        failed: list[_Errand] = []
        retry_at = 0.0
        while True:
            try:
                seconds = max(0.0, retry_at - time.monotonic()) if failed else None
                errand = self._errands.get(timeout=seconds)
            except queue.Empty:
                failed = [errand for errand in failed if not self._is_over(errand)]
                retry_at = time.monotonic() + RETRY_SECONDS
                continue
            if errand is None:
                for waiting in failed:
                    self._is_over(waiting)
                return
            if not self._is_over(errand):
                failed.append(errand)
                retry_at = time.monotonic() + RETRY_SECONDS

    def _is_needed(self, errand: _Errand) -> bool:
        with self._guard:
            if errand.key is None:
                return True
            is_new = errand.key not in self._waiting
            self._waiting.add(errand.key)
            return is_new

    def _is_over(self, errand: _Errand) -> bool:
        """Run it; returns whether it is done. From now on, its key can be added again."""
        with self._guard:
            self._waiting.discard(errand.key or "")
        try:
            is_done = errand.act() is not False
        except AppError as exc:
            logger.warning("a message could not be sent yet: %s", exc)
            is_done = False
        except Exception:  # a bug in one message must not stop the others
            logger.exception("a bug in a message, which is dropped")
            is_done = True
        return is_done or not self._is_needed(errand)
