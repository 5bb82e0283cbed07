"""What a terminal shows of a run, as text: the live line, and the answer to Ctrl-C."""

from __future__ import annotations

import pytest

from shared.upload.progress import FileInHand, View
from shared.upload.screen import live_line, stop_text

MB = 1_000_000
FILM = FileInHand("C-1 Spring", "film\x1b[2J.mp4", 1000 * MB, 400 * MB, 310 * MB)
SMALL = tuple(FileInHand("C-2 冬\n", f"{name}.jpg", 2 * MB, MB, 0) for name in ("a", "b", "冬のキャンペーン"))
VIEW = View(3, 12, 12, 40, 300 * MB, 1200 * MB, (*SMALL, FILM))


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            140,
            "3/12 campaigns  12/40 files  300.0/1,200.0 MB  50.0 MB/s  0:18 left"
            r"  film\x1b[2J.mp4 40 %, a.jpg 50 %, b.jpg 50 %, +1",
        ),
        (80, "3/12 campaigns  12/40 files  300.0/1,200.0 MB  50.0 MB/s  0:18 left"),
        (67, "3/12 campaigns  12/40 files  50.0 MB/s  0:18 left"),
        (40, "3/12 campaigns  12/40 files  0:18 left"),
        (30, "12/40 files  0:18 left"),
        (12, "12/40 files"),
        (8, "12/40 f"),
    ],
)
def test_live_line__fits_and_leaves_out_what_matters_least(columns: int, line: str) -> None:
    assert live_line(VIEW, 50 * MB, columns) == line


def test_live_line__wide_characters_take_two_columns() -> None:
    view = View(0, 1, 0, 1, 0, 2 * MB, SMALL[2:])
    line = "0/1 campaigns  0/1 files  0.0/2.0 MB  0.0 MB/s  冬のキャンペーン.jpg 50 %"
    assert live_line(view, 0, len(line) + 8 + 1) == line
    assert "冬" not in live_line(view, 0, len(line) + 8)


def test_live_line__before_and_after_the_files() -> None:
    assert live_line(View(), 0, 80) == ""
    assert live_line(View(0, 3), 0, 80) == "0/3 campaigns"
    assert live_line(View(3, 3, 40, 40, 5 * MB, 5 * MB), 0, 80) == (
        "3/3 campaigns  40/40 files  5.0/5.0 MB  finishing"
    )


@pytest.mark.parametrize(
    ("in_hand", "rate", "what"),
    [
        ((), 0, "the calls that are open now; usually a few seconds"),
        ((SMALL[0],), 0, r"a.jpg (C-2 冬\n)"),
        ((SMALL[0],), MB, r"a.jpg (C-2 冬\n); a few seconds"),
        ((FILM,), 3 * MB, r"the current parts of film\x1b[2J.mp4 (C-1 Spring); about 30 seconds"),
        (
            (*SMALL, FILM), MB / 5,
            r"the current parts of film\x1b[2J.mp4 (C-1 Spring), a.jpg (C-2 冬\n), b.jpg (C-2 冬\n),"
            " 1 more file; about 8 minutes",
        ),
    ],
)  # fmt: skip
def test_stop_text__names_what_is_finished(in_hand: tuple[FileInHand, ...], rate: float, what: str) -> None:
    first, second = stop_text(View(in_hand=in_hand), rate).splitlines()
    assert first == f"Stopping. Finishing first: {what}."
    assert "press Ctrl-C again" in second
