"""Listing ahead: the same pages in the same order as one after the other, whatever the server does."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.http.ahead import MOST_AHEAD, Ahead, PagesAhead


class Server:
    """A list in pages; `lengths` are the lengths of the pages it gives, by where they begin."""

    def __init__(self, total: int, size: int, lengths: dict[int, int]) -> None:
        self.items = list(range(total))
        self.size = size
        self.lengths = lengths
        self.asked: list[int] = []
        self._lock = threading.Lock()

    def fetch(self, after: int) -> list[int]:
        with self._lock:
            self.asked.append(after)
        return self.items[after : after + max(1, self.lengths.get(after, self.size))]


def read_all(server: Server) -> list[int]:
    found: list[int] = []
    with closing(PagesAhead(server.fetch, server.size)) as pages:
        while page := pages(len(found)):
            found += page
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 60),
    st.integers(1, 7),
    st.dictionaries(st.integers(0, 60), st.integers(1, 7), max_size=5),
)
def test_pages__as_one_after_the_other(total: int, size: int, lengths: dict[int, int]) -> None:
    server = Server(total, size, {after: min(length, size) for after, length in lengths.items()})
    assert read_all(server) == server.items


def test_pages__short_listings_cost_no_call_more_and_long_ones_three() -> None:
    for total, needed in ((0, 1), (9, 2), (10, 2), (15, 3), (20, 3), (1000, 101)):
        server = Server(total, 10, {})
        read_all(server)
        assert needed <= len(server.asked) <= needed + (0 if total < 20 else MOST_AHEAD - 1), total
        assert len(set(server.asked)) == len(server.asked)


def test_pages__several_are_asked_for_at_once() -> None:
    server = Server(1000, 10, {})
    together = threading.Barrier(MOST_AHEAD, timeout=20)
    plain = server.fetch

    def fetch(after: int) -> list[int]:
        if 300 <= after < 300 + 10 * MOST_AHEAD:
            together.wait()  # passes only when all of them are on their way
        return plain(after)

    server.fetch = fetch  # type: ignore[method-assign]
    assert read_all(server) == server.items


def test_pages__an_error_comes_when_its_page_is_asked_for() -> None:
    server = Server(50, 10, {})
    plain = server.fetch

    def fetch(after: int) -> list[int]:
        if after == 30:
            raise RuntimeError("page 4")
        return plain(after)

    with closing(PagesAhead(fetch, 10)) as pages:
        assert [len(pages(after)) for after in (0, 10, 20)] == [10, 10, 10]
        with pytest.raises(RuntimeError, match="page 4"):
            pages(30)


def test_ahead__expected_calls_are_made_at_once_and_only_once() -> None:
    together = threading.Barrier(MOST_AHEAD, timeout=20)
    asked: list[str] = []

    def fetch(key: str) -> str:
        asked.append(key)
        if key != "unexpected":
            together.wait()
        return key.upper()

    with closing(Ahead(fetch)) as ahead:
        keys = [f"k{number}" for number in range(MOST_AHEAD)]
        for key in (*keys, *keys):
            ahead.expect(key)
        assert ahead("unexpected") == "UNEXPECTED"
        assert [ahead(key) for key in keys] == [key.upper() for key in keys]
    assert sorted(asked) == sorted([*keys, "unexpected"])
