"""Reading the DAM's answers: when a list counts as finished."""

from __future__ import annotations

import pytest

from shared.base.errors import DamError
from shared.dam.answers import Page, all_pages


def pages(*ids_of_pages: str) -> list[str]:
    """The ids that a listing of these pages yields; a letter is an id."""
    waiting: list[Page[str]] = [[(letter, letter) for letter in ids] for ids in (*ids_of_pages, "")]
    return list(all_pages(lambda _: waiting.pop(0), "listing", None))


def test_all_pages__goes_on_over_short_and_overlapping_ones() -> None:
    assert "".join(pages("abc", "d", "de", "f")) == "abcdef"


@pytest.mark.parametrize("repeated", ["ab", "cd", "b", "db"])
def test_all_pages__a_page_without_news_is_no_end(repeated: str) -> None:
    """In place of a page with `e` on it, which would so be missing without anybody knowing."""
    with pytest.raises(DamError, match="repeats a page"):
        pages("ab", "cd", repeated, "f")
