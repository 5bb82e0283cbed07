"""Counts a run's transfers: figures for `--json`, lines for the log, a view for a terminal (`screen.py`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shared.base.logs import SIGN_OF_LIFE
from shared.base.values import Asset

logger = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 600.0
"""How often the log shows progress, however large and slow the files are."""
LONG_FILE_BYTES = 1_000_000_000
"""For files above this size, the log has a line for every tenth of the file."""


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
    """An asset being copied: how many of its bytes were read, and how many of them Box has in parts.

    campaign: its name for people. Two campaigns may copy the same asset at once.
    """

    asset: Asset
    campaign: str
    count: int = 0
    in_parts: int = 0


@dataclass(frozen=True, slots=True)
class FileInHand:
    """A `Moving` at one moment."""

    campaign: str
    name: str
    size_bytes: int
    read_bytes: int
    bytes_in_parts: int


@dataclass(frozen=True, slots=True)
class View:
    """How far the run is at one moment. of_…: of those that are known so far."""

    campaigns: int = 0
    of_campaigns: int = 0
    files: int = 0
    of_files: int = 0
    moved_bytes: int = 0
    of_bytes: int = 0
    in_hand: tuple[FileInHand, ...] = ()


class Progress:
    """Counts what all threads copy."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.figures = Figures()
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._campaigns = 0
        self._expected_campaigns = 0
        self._expected_files = 0
        self._expected_bytes = 0
        self._finished_bytes = 0
        self._in_hand: dict[Moving, None] = {}
        self._life_shown_at = clock()

    def expect_campaigns(self, count: int) -> None:
        """Add this many campaigns to the total."""
        with self._lock:
            self._expected_campaigns += count

    def campaign_ended(self) -> None:
        """Count a campaign whose work is over in this run."""
        with self._lock:
            self._campaigns += 1

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
    def in_hand(self, asset: Asset, campaign: str) -> Iterator[Moving]:
        """Inside this, an asset is being copied; afterwards it counts as done, unless an error was raised."""
        moving = Moving(asset, campaign)
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
                self.figures.seconds = self._clock() - self._began_at
                if is_there:
                    self.figures.files += 1
                    self.figures.bytes += asset.size_bytes
                    self._finished_bytes += asset.size_bytes

    def advance(self, moving: Moving, count: int) -> None:
        """Count more bytes read of an asset being copied."""
        asset = moving.asset
        with self._lock:
            before = moving.count
            moving.count = after = before + count
            self._show_life(self._clock())
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
            moving.in_parts = 0

    def sent_part(self, moving: Moving, size: int) -> None:
        """Count a part of a large file that has arrived in Box."""
        with self._lock:
            self.figures.parts_sent += 1
            moving.in_parts += size

    def resumed(self, moving: Moving, size: int) -> None:
        """Count a part of a large file that was in Box from an earlier try."""
        with self._lock:
            self.figures.parts_resumed += 1
            self.figures.bytes_resumed += size
            moving.in_parts += size

    def throttled(self) -> None:
        """Count a pause that Box asked for."""
        with self._lock:
            self.figures.times_throttled += 1

    def view(self) -> View:
        """How far the run is now."""
        with self._lock:
            return View(
                campaigns=self._campaigns,
                of_campaigns=self._expected_campaigns,
                files=self.figures.files,
                of_files=self._expected_files,
                moved_bytes=self._moved_bytes,
                of_bytes=self._expected_bytes,
                in_hand=tuple(
                    FileInHand(
                        moving.campaign,
                        moving.asset.name,
                        moving.asset.size_bytes,
                        moving.count,
                        moving.in_parts,
                    )
                    for moving in self._in_hand
                ),
            )

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
