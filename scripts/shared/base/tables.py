"""Writes tables for a terminal, with no line wider than a usual terminal. Pure.

Cells may be any text. A wide letter counts as the columns that a terminal gives it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from shared.base.redaction import escape_line

WIDTH = 100
_NARROWEST = 8
_GAP = "  "
_TWO_COLUMNS = ("W", "F")
_NO_COLUMN = ("Mn", "Me", "Cf")


@dataclass(frozen=True, slots=True)
class Column:
    """fit: what happens to a cell that is too wide. `cut` shows its beginning, `wrap` continues below it.
    `whole` shows a cell up to `most`; a wider one gets a line of its own above its row.
    """

    head: str
    fit: Literal["whole", "cut", "wrap"] = "whole"
    most: int = 40


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """The rows below their headers, in lines of at most this width."""
    cells = [[escape_line(cell) for cell in row] for row in rows]
    heads = [column.head for column in columns]
    widths = _widths(columns, [heads, *cells], width - len(_GAP) * (len(columns) - 1))
    lines = (line for row in [heads, *cells] for line in _lines(columns, row, widths, width))
    return "".join(line.rstrip() + "\n" for line in lines)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """The width of each column: that of its widest cell; the widest flexible columns are made narrower."""
    widths = []
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        if column.fit == "whole":
            widths.append(max(width for width in map(columns_of, cells) if width <= column.most))
        else:
            widths.append(min(max(map(columns_of, cells)), room))
    yielding = [number for number, column in enumerate(columns) if column.fit != "whole"]
    while sum(widths) > room:
        widest = max(yielding, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _lines(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], width: int) -> Iterator[str]:
    """The lines of one row."""
    pieces = []
    for column, cell, room in zip(columns, row, widths, strict=True):
        if column.fit == "whole" and columns_of(cell) > room:
            yield cut(cell, width)
            pieces.append([""])
        else:
            pieces.append(list(wrapped(cell, room)) if column.fit == "wrap" else [cut(cell, room)])
    for number in range(max(map(len, pieces))):
        cells = (lines[number] if number < len(lines) else "" for lines in pieces)
        yield _GAP.join(map(_padded, cells, widths))


def columns_of(text: str) -> int:
    """How many columns of a terminal a text needs."""
    return len(text) if text.isascii() else sum(map(_columns_of_letter, text))


@cache
def _columns_of_letter(letter: str) -> int:
    if unicodedata.category(letter) in _NO_COLUMN:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in _TWO_COLUMNS else 1


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))


def cut(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    return text if columns_of(text) <= width else _beginning(text, width - 1).rstrip() + "…"


def wrapped(text: str, width: int) -> Iterator[str]:
    """The text in lines of this width, broken between words if possible."""
    rest = text
    while columns_of(rest) > width:
        line = _beginning(rest, width) or rest[0]
        if rest[len(line) : len(line) + 1] != " " and " " in line.strip():
            line = line[: line.rindex(" ")]
        yield line.rstrip()
        rest = rest[len(line) :].lstrip(" ")
    yield rest


def _beginning(text: str, width: int) -> str:
    """As many of the first letters as fit into this width."""
    if text.isascii():
        return text[:width]
    taken = 0
    for number, letter in enumerate(text):
        taken += _columns_of_letter(letter)
        if taken > width:
            return text[:number]
    return text
