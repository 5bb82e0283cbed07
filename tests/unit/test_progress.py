"""Progress: what a terminal, the log and --json are told."""

from __future__ import annotations

import io
import logging
from contextlib import suppress

import pytest

from shared.models import Asset, DamFolder
from shared.progress import Progress, live_line

ROOT = DamFolder("f", "Master Assets", None)


def asset(name: str, size: int) -> Asset:
    return Asset(name, name, ROOT, size, "1")


def test_live_line__tells_what_is_moving_and_how_long_it_takes() -> None:
    line = live_line(
        files=12, of_files=40, moved=300_000_000, of_bytes=1_200_000_000, elapsed_seconds=6.0,
        in_flight=[("film\x1b[2J.mp4", 400, 1000), ("a.jpg", 1, 2), ("b.jpg", 0, 0), ("c.jpg", 0, 9)],
    )  # fmt: skip
    assert line == (
        "12/40 files  300.0/1,200.0 MB  50.0 MB/s  0:18 left"
        r"  film\x1b[2J.mp4 40 %, c.jpg 0 %, a.jpg 50 %, +1"
    )


def test_screen__is_drawn_at_most_five_times_a_second() -> None:
    screen, now = io.StringIO(), [0.0]
    progress = Progress(lambda: now[0], screen)
    film = asset("film.mp4", 1000)
    progress.expect([film])
    with progress.in_hand(film) as moving:
        for _ in range(1000):
            now[0] += 0.002
            progress.advance(moving, 1)
    assert 8 <= screen.getvalue().count("\r") <= 11
    assert progress.figures.to_json()["bytes_per_second"] == 500


def test_log__has_a_line_for_each_tenth_of_a_long_file(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(lambda: 0.0, None)
    long, short = asset("long.mov", 2_000_000_000), asset("short.mov", 900_000_000)
    with caplog.at_level(logging.INFO):
        for file in (long, short):
            with progress.in_hand(file) as moving:
                for _ in range(200):
                    progress.advance(moving, file.size_bytes // 200)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 9
    assert told[0] == "asset long.mov (long.mov): 10 % of 2000000000 bytes"


def test_failed_file__counts_nothing() -> None:
    progress = Progress(lambda: 1.0, None)
    broken = asset("a", 10)
    progress.expect([broken])
    with suppress(ConnectionError), progress.in_hand(broken) as moving:
        progress.advance(moving, 7)
        raise ConnectionError
    assert (progress.figures.files, progress.figures.bytes) == (0, 0)
