"""Progress: what the log, --json and a terminal show."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest

from shared.base.logs import configure_logging
from shared.base.values import Asset, DamFolder
from shared.upload.progress import FileInHand, Progress, View

ROOT = DamFolder("f", "Master Assets", None)


def asset(name: str, size: int) -> Asset:
    return Asset(name, name, ROOT, size, "1")


def test_view__shows_campaigns_and_the_files_in_hand() -> None:
    now = [0.0]
    progress = Progress(lambda: now[0])
    film = asset("film.mp4", 1000)
    progress.expect_campaigns(2)
    progress.campaign_ended()
    progress.expect([film, asset("a.jpg", 5)])
    with progress.in_hand(film, "C-1 Spring") as moving:
        now[0] = 1.0
        progress.resumed(moving, 300)
        progress.advance(moving, 600)
        progress.sent_part(moving, 100)
        film_in_hand = FileInHand("C-1 Spring", "film.mp4", 1000, 600, 400)
        assert progress.view() == View(1, 2, 0, 2, 600, 1005, (film_in_hand,))
        progress.rewind(moving, 600)
        assert progress.view().in_hand == (FileInHand("C-1 Spring", "film.mp4", 1000, 0, 0),)
        now[0] = 2.0
        progress.advance(moving, 1000)
    assert progress.view() == View(1, 2, 1, 2, 1000, 1005)
    assert progress.figures.to_json()["bytes_per_second"] == 500


def test_log__has_a_line_for_each_tenth_of_a_long_file(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(lambda: 0.0)
    long, short = asset("long.mov", 2_000_000_000), asset("short.mov", 900_000_000)
    with caplog.at_level(logging.INFO):
        for file in (long, short):
            with progress.in_hand(file, "C-1") as moving:
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
        progress = Progress(lambda: now[0])
        slow, there = asset("slow.mov", 900_000_000), asset("there.jpg", 5)
        progress.expect([slow, there])
        with progress.in_hand(slow, "C-1") as moving:
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
    progress = Progress(lambda: 1.0)
    broken = asset("a", 10)
    progress.expect([broken])
    with suppress(ConnectionError), progress.in_hand(broken, "C-1") as moving:
        progress.advance(moving, 7)
        raise ConnectionError
    assert (progress.figures.files, progress.figures.bytes) == (0, 0)
