"""A run on a terminal: one line that says how far it is, below the log, and what Ctrl-C does.

The figures are those that `Progress` keeps anyway. A thread of its own reads and draws them, so that a slow
terminal, or one that was stopped by Ctrl-S, never holds up a transfer.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

from shared.base.errors import ExitCode
from shared.base.redaction import escape_line
from shared.upload.download import DIRECT_UPLOAD_LIMIT
from shared.upload.progress import FileInHand, Progress, View

REDRAW_SECONDS = 0.2
RATE_SECONDS = 15.0
"""The rate shown is that of the last so many seconds."""
SHOWN_FILES = 3
NAME_WIDTH = 24
USUAL_COLUMNS = 80
"""Of a terminal that does not say how wide it is."""
ERASED = "\r\x1b[K"
OVER = 0
"""What tells the thread to end: no signal has this number."""


def live_line(view: View, bytes_per_second: float, columns: int) -> str:
    """`3/12 campaigns  12/40 files  310.2/1,024.0 MB  48.1 MB/s  0:15 left  film.mp4 31 %, +6`.

    What matters least is left out until the line is shorter than the terminal is wide. "" when nothing is
    known yet. Names are made harmless.
    """
    parts: list[tuple[int, str]] = []  # (how little it matters, text), in the order shown
    if view.of_campaigns:
        parts.append((2, f"{view.campaigns}/{view.of_campaigns} campaigns"))
    if view.of_files:
        parts.append((0, f"{view.files}/{view.of_files} files"))
        parts.append((4, f"{view.moved_bytes / 1e6:,.1f}/{view.of_bytes / 1e6:,.1f} MB"))
    if 0 < view.of_campaigns == view.campaigns:
        parts.append((1, "finishing"))
    elif view.of_files:
        left = max(0, view.of_bytes - view.moved_bytes)
        parts.append((3, f"{bytes_per_second / 1e6:,.1f} MB/s"))
        if bytes_per_second:
            parts.append((1, f"{_clock_time(left / bytes_per_second)} left"))
    if view.in_hand:
        parts.append((5, _files(view.in_hand, is_moving=True)))
    while len(parts) > 1 and _width("  ".join(text for _, text in parts)) >= columns:
        parts.remove(max(parts))
    return _cut("  ".join(text for _, text in parts), columns - 1)


def stopping_line(view: View, columns: int) -> str:
    """`stopping: film.mp4 31 %, +6`: what is being finished after a stop."""
    return _cut(f"stopping: {_files(view.in_hand, is_moving=True) or 'open calls end'}", columns - 1)


def stop_text(view: View, bytes_per_second: float) -> str:
    """What a run says at once when it is stopped: what it finishes, for how long, and how to stop it now."""
    if not view.in_hand:
        what = "the calls that are open now; usually a few seconds"
    else:
        what = _files(view.in_hand, is_moving=False)
        open_bytes = sum(map(_bytes_to_finish, view.in_hand))
        if bytes_per_second:
            what += f"; {_about(open_bytes / bytes_per_second)}"
    return (
        f"Stopping. Finishing first: {what}.\n"
        "To stop now, press Ctrl-C again. Nothing is lost either way: the next run continues.\n"
    )


STOPPED_TEXT = f"Stopped now. Nothing is lost: the next run continues. Exit code {ExitCode.TRY_LATER:d}.\n"


def _bytes_to_finish(file: FileInHand) -> int:
    """A small file is finished. Of a large one only the parts on their way are: Box keeps those it has, and
    the next run sends the others.
    """
    if file.size_bytes <= DIRECT_UPLOAD_LIMIT:
        return file.size_bytes
    return max(0, file.read_bytes - file.bytes_in_parts)


def _files(files: Sequence[FileInHand], *, is_moving: bool) -> str:
    """The largest files by name. is_moving: with how far each is; else with its campaign."""
    shown = []
    for file in sorted(files, key=lambda file: -file.size_bytes)[:SHOWN_FILES]:
        name = _cut(escape_line(file.name), NAME_WIDTH)
        if is_moving:
            shown.append(f"{name} {100 * file.read_bytes // max(file.size_bytes, 1)} %")
        elif file.size_bytes <= DIRECT_UPLOAD_LIMIT:
            shown.append(f"{name} ({escape_line(file.campaign)})")
        else:
            shown.append(f"the current parts of {name} ({escape_line(file.campaign)})")
    if len(files) > SHOWN_FILES:
        rest = len(files) - SHOWN_FILES
        shown.append(f"+{rest}" if is_moving else f"{rest} more file{'' if rest == 1 else 's'}")
    return ", ".join(shown)


def _about(seconds: float) -> str:
    """How long something takes, as people say it."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} seconds"
    return f"about {round(seconds / 60)} minutes"


def _clock_time(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _width(text: str) -> int:
    """The columns that a terminal takes for a text."""
    return sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, columns: int) -> str:
    """As much of a text as a terminal shows in so many columns."""
    used = 0
    for place, character in enumerate(text):
        used += _columns_of(character)
        if used > columns:
            return text[:place]
    return text


class Screen:
    """The terminal of a run, while it is entered: the live line, and the answer to SIGINT and SIGTERM.

    The log goes through it, so that no log line runs into the live line. Enter it in the main thread, when
    the signals have their handlers. The first signal is the handlers' to obey; it is only answered here. A
    SIGINT after it ends the process at once, whatever the other threads do: a run may be killed at any moment
    (MARKDOWN_DOCS/CRASH_PROOF.md).
    """

    def __init__(self, terminal: TextIO, progress: Progress, *, can_redraw: bool) -> None:
        """can_redraw: whether the terminal can take a line back; else there is no live line."""
        self._terminal = terminal
        self._progress = progress
        self._can_redraw = can_redraw
        self._lock = threading.Lock()
        self._line = ""
        self._is_stopping = False
        self._seen: deque[tuple[float, int]] = deque(maxlen=round(RATE_SECONDS / REDRAW_SECONDS))
        """(monotonic seconds, bytes moved by then)."""
        self._thread = threading.Thread(target=self._watch, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._signals, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Python writes the number of each signal into it at once, also while the main thread waits in C.
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._send_log_to(self)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        os.write(self._writer, bytes([OVER]))
        self._thread.join()
        self._send_log_to(self._terminal)
        os.close(self._signals)
        os.close(self._writer)

    def write(self, text: str) -> None:
        """Lines of the log: above the live line."""
        with self._lock:
            self._terminal.write(f"{ERASED}{text}{self._line}" if self._line else text)
            self._terminal.flush()

    def flush(self) -> None:
        """Nothing is held back."""

    def _send_log_to(self, stream: TextIO | Screen) -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(stream)

    # In the thread of its own

    def _watch(self) -> None:
        with suppress(OSError):  # the terminal is gone
            while True:
                ready, _, _ = select.select([self._signals], [], [], REDRAW_SECONDS)
                for number in os.read(self._signals, 512) if ready else b"":
                    if number == OVER:
                        self._draw("")
                        return
                    self._answer(number)
                self._draw(self._line_now())

    def _answer(self, number: int) -> None:
        after_echo = ERASED if self._can_redraw else "\n"  # the terminal has written ^C
        if not self._is_stopping:
            self._is_stopping = True
            self.write(after_echo + stop_text(self._progress.view(), self._rate()))
        elif number == signal.SIGINT:
            self._draw("")
            self.write(after_echo + STOPPED_TEXT)
            os._exit(ExitCode.TRY_LATER)

    def _line_now(self) -> str:
        view = self._progress.view()
        self._seen.append((time.monotonic(), view.moved_bytes))
        columns = self._columns()
        if self._is_stopping:
            return stopping_line(view, columns)
        return live_line(view, self._rate(), columns)

    def _rate(self) -> float:
        """Bytes a second, lately."""
        if len(self._seen) < 2:
            return 0.0
        (began, before), (now, after) = self._seen[0], self._seen[-1]
        return max(0.0, (after - before) / (now - began))

    def _draw(self, line: str) -> None:
        """Show this live line instead of the last one; "": none."""
        if not self._can_redraw or not self._is_in_front():
            line = ""
        with self._lock:
            if not line and not self._line:
                return
            # The terminal must not break a line that turns out wider, or that ^C follows: it could not be
            # taken back.
            self._line = f"\r\x1b[?7l{line}\x1b[K\x1b[?7h\r" if line else ""
            self._terminal.write(self._line or ERASED)
            self._terminal.flush()

    def _is_in_front(self) -> bool:
        """Whether the shell has given the terminal to us: not after `&`, or Ctrl-Z and bg."""
        try:
            return os.tcgetpgrp(self._terminal.fileno()) == os.getpgrp()
        except OSError:
            return True

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._terminal.fileno()).columns or USUAL_COLUMNS
        except OSError:
            return USUAL_COLUMNS
