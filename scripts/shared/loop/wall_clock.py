"""Waiting for an instant of the wall clock, and for files, without polling.

A Linux timer on the real-time clock fires when its instant comes, after a suspend too, and tells when
somebody sets the clock. Where there is none (macOS, an old kernel), the wait is cut into pieces shorter than
a minute.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import selectors
import sys
import time
from collections.abc import Hashable
from datetime import UTC, datetime

LONGEST_BLIND_WAIT_SECONDS = 30.0

_CLOCK_REALTIME = 0
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class WallClock:
    """The time, and waiting: for an instant, for a while, or for the files that are watched."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._timer = self._make_timer()
        if self._timer is not None:
            self._selector.register(self._timer, selectors.EVENT_READ, None)

    def _make_timer(self) -> int | None:
        # os.timerfd_create comes with Python 3.13; the C library has had it since 2008.
        if self._libc is None or not hasattr(self._libc, "timerfd_create"):
            return None
        number: int = self._libc.timerfd_create(_CLOCK_REALTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        return None if number < 0 else number

    def close(self) -> None:
        self._selector.close()
        if self._timer is not None:
            os.close(self._timer)
            self._timer = None

    def now(self) -> datetime:
        """The wall clock's instant, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of a clock that nobody sets; for time limits."""
        return time.monotonic()

    def watch(self, file: int, key: Hashable) -> None:
        """Let `wait` end when this file can be read."""
        self._selector.register(file, selectors.EVENT_READ, key)

    def forget(self, file: int) -> None:
        """Undo `watch`."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    def wait(self, until: datetime | None, seconds: float | None) -> list[Hashable]:
        """Wait for the instant, the while or a file, whichever comes first; the keys of the readable files.

        Also ends, with nothing, when the clock was set: the caller looks at `now` again.
        """
        if until is not None and not self._set_timer(until):
            left = max(0.0, (until - self.now()).total_seconds())
            seconds = min(left, LONGEST_BLIND_WAIT_SECONDS, math.inf if seconds is None else seconds)
        ready = self._selector.select(None if seconds is None else max(0.0, seconds))
        keys: list[Hashable] = []
        for key, _ in ready:
            if key.fd == self._timer:
                with contextlib.suppress(OSError):  # ECANCELED: the clock was set
                    os.read(key.fd, 8)
            else:
                keys.append(key.data)
        return keys

    def _set_timer(self, until: datetime) -> bool:
        if self._timer is None or self._libc is None:
            return False
        # One microsecond up: the instant must have come when the timer says so.
        whole, micro = divmod(int(until.timestamp() * 1_000_000) + 1, 1_000_000)
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(max(whole, 0), micro * 1000))
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        return bool(self._libc.timerfd_settime(self._timer, flags, ctypes.byref(spec), None) == 0)
