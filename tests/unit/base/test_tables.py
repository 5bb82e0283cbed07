"""Tables: as wide as a terminal, whatever the cells hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.base.tables import WIDTH, Column, columns_of, cut, table, wrapped

COLUMNS = (Column("number"), Column("name", "cut"), Column("why", "wrap"), Column("what", "wrap"))


def test_table__that_fits_stays_as_it_is() -> None:
    shown = table((Column("a"), Column("name", "cut")), [("1", "Easter"), ("22", "")])
    assert shown == "a   name\n1   Easter\n22\n"


def test_table__cuts_wraps_and_keeps_whole() -> None:
    number, why = "0123456789abcdef" * 2 + "01234567", "one two three four five six seven eight nine ten"
    lines = table(COLUMNS, [(number, "x" * 200, why, "short")], 80).splitlines()
    assert all(line[:40] in (number, " " * 40, "number".ljust(40)) for line in lines)
    assert "x…  " in lines[1]
    assert lines[1].endswith("short")
    assert len(lines) > 3
    words = " ".join(line[40:].split("x…")[-1].replace("short", "") for line in lines[1:]).split()
    assert " ".join(words) == why


def test_table__puts_a_whole_cell_that_is_too_wide_above_its_row() -> None:
    shown = table((Column("no", most=4), Column("name", "cut")), [("123456789", "Easter"), ("12", "Summer")])
    assert shown == "no  name\n123456789\n    Easter\n12  Summer\n"


def test_table__escapes_what_would_end_or_turn_a_line() -> None:
    assert table((Column("a"),), [("x\ny\x1b[31m\u202e",)]) == "a\nx\\ny\\x1b[31m\\u202e\n"


def test_letters__count_as_a_terminal_shows_them() -> None:
    assert [columns_of(text) for text in ("abc", "é", "e\u0301", "漢字", "📊")] == [3, 1, 1, 4, 2]
    assert cut("漢字漢字", 5) == "漢字…"
    assert list(wrapped("漢字 漢字", 5)) == ["漢字", "漢字"]
    assert list(wrapped("a" * 12 + " b", 5)) == ["aaaaa", "aaaaa", "aa b"]
    assert list(wrapped("", 5)) == [""]


@given(st.lists(st.tuples(*[st.text(max_size=150)] * 4), min_size=1, max_size=5))
def test_table__never_is_wider_and_loses_nothing_that_is_wrapped(rows: list[tuple[str, ...]]) -> None:
    lines = table(COLUMNS, rows).splitlines()
    assert max(map(columns_of, lines)) <= WIDTH


@given(st.text(st.sampled_from("ab 漢é"), max_size=60), st.integers(2, 20))
def test_wrapped__has_all_letters_in_their_order(text: str, width: int) -> None:
    lines = list(wrapped(text, width))
    assert max(map(columns_of, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
