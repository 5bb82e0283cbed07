"""Counts and shows a run's transfers: figures for `--json`, lines for the log, a live line for a terminal."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from shared.base.logs import SIGN_OF_LIFE
from shared.base.values import Asset

logger = logging.getLogger(__name__)

REDRAW_SECONDS = 0.2
SIGN_OF_LIFE_SECONDS = 600.0
"""How often the log shows progress, however large and slow the files are."""
LONG_FILE_BYTES = 1_000_000_000
"""For files above this size, the log has a line for every tenth of the file."""
SHOWN_FILES = 3
NAME_WIDTH = 24
WIDEST_LINE = 200


@dataclass(slots=True)
class Figures:
    """What was copied so far. seconds: from the start of the first file to the end of the last."""

    files: int = 0
    bytes: int = 0
    files_already_there: int = 0
    parts_sent: int = 0
    parts_resumed: int = 0
    bytes_resumed: int = 0
    times_throttled: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, float]:
        rate = self.bytes / self.seconds if self.seconds else 0.0
        return {
            "files": self.files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "bytes_per_second": round(rate),
            "files_already_there": self.files_already_there,
            "parts_sent": self.parts_sent,
            "parts_resumed": self.parts_resumed,
            "bytes_resumed": self.bytes_resumed,
            "times_throttled": self.times_throttled,
        }


@dataclass(slots=True, eq=False)
class Moving:
    """An asset being copied, and how many bytes were read. Two campaigns may copy the same asset at once."""

    asset: Asset
    count: int = 0


class Progress:
    """Counts what all threads copy. screen: where the live line goes; None for no live line."""

    def __init__(self, clock: Callable[[], float], screen: TextIO | None) -> None:
        self.figures = Figures()
        self._clock = clock
        self._screen = screen
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._expected_files = 0
        self._expected_bytes = 0
        self._finished_bytes = 0
        self._in_hand: dict[Moving, None] = {}
        self._drawn_at = 0.0
        self._life_shown_at = clock()

    def expect(self, assets: Sequence[Asset]) -> None:
        """Add this much to the total."""
        with self._lock:
            self._expected_files += len(assets)
            self._expected_bytes += sum(asset.size_bytes for asset in assets)

    def skip(self, asset: Asset) -> None:
        """Count an asset that was already in Box."""
        with self._lock:
            self.figures.files_already_there += 1
            self._expected_files -= 1
            self._expected_bytes -= asset.size_bytes
            self._show_life(self._clock())

    @contextmanager
    def in_hand(self, asset: Asset) -> Iterator[Moving]:
        """Inside this, an asset is being copied; afterwards it counts as done, unless an error was raised."""
        moving = Moving(asset)
        with self._lock:
            if self._began_at is None:
                self._began_at = self._clock()
            self._in_hand[moving] = None
        is_there = False
        try:
            yield moving
            is_there = True
        finally:
            with self._lock:
                del self._in_hand[moving]
                now = self._clock()
                self.figures.seconds = now - self._began_at
                if is_there:
                    self.figures.files += 1
                    self.figures.bytes += asset.size_bytes
                    self._finished_bytes += asset.size_bytes
                self._draw(now)

    def advance(self, moving: Moving, count: int) -> None:
        """Count more bytes read of an asset being copied."""
        asset = moving.asset
        with self._lock:
            before = moving.count
            moving.count = after = before + count
            now = self._clock()
            self._draw(now)
            self._show_life(now)
        if asset.size_bytes > LONG_FILE_BYTES:
            tenth = 10 * after // asset.size_bytes
            if tenth > 10 * before // asset.size_bytes and tenth < 10:
                logger.info(
                    "asset %s (%s): %d %% of %d bytes", asset.id, asset.name, 10 * tenth, asset.size_bytes,
                    extra={"action": "asset_progress", "asset_id": asset.id, "percent": 10 * tenth},
                )  # fmt: skip

    def rewind(self, moving: Moving, count: int) -> None:
        """Take back bytes of an asset that will be read again."""
        with self._lock:
            moving.count -= count

    def sent_part(self) -> None:
        """Count a part of a large file that has arrived in Box."""
        with self._lock:
            self.figures.parts_sent += 1

    def resumed(self, size: int) -> None:
        """Count a part of a large file that was in Box from an earlier try."""
        with self._lock:
            self.figures.parts_resumed += 1
            self.figures.bytes_resumed += size

    def throttled(self) -> None:
        """Count a pause that Box asked for."""
        with self._lock:
            self.figures.times_throttled += 1

    def erase(self) -> None:
        """Clear the live line, so that something else can be written."""
        if self._screen is not None:
            self._screen.write("\r\x1b[K")
            self._screen.flush()

    def make_room(self, _: logging.LogRecord) -> bool:
        """A log filter that passes every line, and clears the live line before it."""
        self.erase()
        return True

    @property
    def _moved_bytes(self) -> int:
        return self._finished_bytes + sum(moving.count for moving in self._in_hand)

    def _show_life(self, now: float) -> None:
        """Log a line now and then, at any LOG_LEVEL: the loop considers a long silence a hang."""
        if now - self._life_shown_at < SIGN_OF_LIFE_SECONDS:
            return
        self._life_shown_at = now
        logging.getLogger(SIGN_OF_LIFE).info(
            "working: %d of %d files and %d of %d bytes are done",
            self.figures.files, self._expected_files, self._moved_bytes, self._expected_bytes,
            extra={"action": "at_work"},
        )  # fmt: skip

    def _draw(self, now: float) -> None:
        if self._screen is None or now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        elapsed = now - (now if self._began_at is None else self._began_at)
        line = live_line(
            files=self.figures.files,
            of_files=self._expected_files,
            moved=self._moved_bytes,
            of_bytes=self._expected_bytes,
            elapsed_seconds=elapsed,
            in_flight=[
                (moving.asset.name, moving.count, moving.asset.size_bytes) for moving in self._in_hand
            ],
        )
        self._screen.write(f"\r\x1b[K{line[: _columns(self._screen) - 1]}")
        self._screen.flush()


def live_line(
    *,
    files: int,
    of_files: int,
    moved: int,
    of_bytes: int,
    elapsed_seconds: float,
    in_flight: Sequence[tuple[str, int, int]],
) -> str:
    """`12/40 files  310.2/1,024.0 MB  48.1 MB/s  0:15 left  film.mp4 31 %, +6`. Names are escaped."""
    rate = moved / elapsed_seconds if elapsed_seconds > 0 else 0.0
    left = "?" if not rate else _clock_time((of_bytes - moved) / rate)
    shown = [
        f"{ascii(name)[1:-1]:.{NAME_WIDTH}} {100 * count // max(size, 1)} %"
        for name, count, size in sorted(in_flight, key=lambda item: -item[2])[:SHOWN_FILES]
    ]
    if len(in_flight) > SHOWN_FILES:
        shown.append(f"+{len(in_flight) - SHOWN_FILES}")
    return (
        f"{files}/{of_files} files  {moved / 1e6:,.1f}/{of_bytes / 1e6:,.1f} MB  {rate / 1e6:,.1f} MB/s"
        f"  {left} left  {', '.join(shown)}"
    )


def _columns(screen: TextIO) -> int:
    """The terminal's width: a line that wraps could not be cleared."""
    try:
        return os.get_terminal_size(screen.fileno()).columns or WIDEST_LINE
    except OSError:
        return WIDEST_LINE


def _clock_time(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
