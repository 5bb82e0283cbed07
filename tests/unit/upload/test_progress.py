"""Progress: what a terminal, the log and --json are told."""

from __future__ import annotations

import io
import logging
from contextlib import suppress

import pytest

from shared.base.logs import configure_logging
from shared.base.values import Asset, DamFolder
from shared.upload.progress import Progress, live_line

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


@pytest.mark.parametrize("level", ["DEBUG", "ERROR"])
def test_log__says_every_ten_minutes_that_bytes_move(capsys: pytest.CaptureFixture[str], level: str) -> None:
    """However quiet LOG_LEVEL is: the loop takes an hour of silence for a hang."""
    root = logging.getLogger()
    handlers, before, now = list(root.handlers), root.level, [0.0]
    try:
        configure_logging("text", level, run_id="r", secrets=())
        progress = Progress(lambda: now[0], None)
        slow, there = asset("slow.mov", 900_000_000), asset("there.jpg", 5)
        progress.expect([slow, there])
        with progress.in_hand(slow) as moving:
            for _ in range(125):
                now[0] += 60
                progress.advance(moving, 100_000)
        now[0] += 600
        progress.skip(there)
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        logging.captureWarnings(capture=False)
    told = [line.split("INFO run=r sign_of_life: ")[1] for line in capsys.readouterr().err.splitlines()]
    assert len(told) == 13
    assert told[0] == "working: 0 of 2 files and 1000000 of 900000005 bytes are done"


def test_failed_file__counts_nothing() -> None:
    progress = Progress(lambda: 1.0, None)
    broken = asset("a", 10)
    progress.expect([broken])
    with suppress(ConnectionError), progress.in_hand(broken) as moving:
        progress.advance(moving, 7)
        raise ConnectionError
    assert (progress.figures.files, progress.figures.bytes) == (0, 0)
