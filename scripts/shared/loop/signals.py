"""Receives the loop's signals as bytes in a pipe that the loop watches."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

STOPS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Catches the signals while it is entered.

    is_stop: whether one of them asks to stop. It is set before the loop reads the pipe, so the loop starts
    nothing after a slow call (to the database, for example).
    """

    NUMBERS = (*STOPS, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self) -> None:
        self.is_stop = False

    def __enter__(self) -> Signals:
        self.file, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        """file: readable when a signal came."""
        # Python writes the number of each signal into the pipe, which ends the loop's wait.
        self._previous_file = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note) for number in self.NUMBERS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # those that came while the process began
        return self

    def _note(self, number: int, _: object) -> None:
        self.is_stop |= number in STOPS

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_file)
        os.close(self.file)
        os.close(self._writer)

    def take(self) -> bytes:
        """The numbers of the signals that came."""
        with suppress(BlockingIOError):
            return os.read(self.file, 512)
        return b""
