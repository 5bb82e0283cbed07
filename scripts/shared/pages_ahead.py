"""Pages of a long listing, asked for before it is their turn: a round trip less for each of most of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

MOST_AHEAD = 4

Item = TypeVar("Item")


class PagesAhead(Generic[Item]):
    """`fetch(after)` for a listing of pages of page_size items, the first of which is there; to be closed.

    Each full page in a row lets one page more be expected, up to MOST_AHEAD; so a listing of one page costs
    no call more, and a long one three at most. What a page brings, and what it raises, comes when it is asked
    for; a page that is shorter than expected moves all that follow, and what was expected is not used.
    """

    def __init__(self, fetch: Callable[[int], list[Item]], page_size: int, first: list[Item]) -> None:
        self._fetch = fetch
        self._page_size = page_size
        self._expected: dict[int, Future[list[Item]]] = {0: Future()}
        self._expected[0].set_result(first)
        self._full_in_a_row = 0
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, after: int) -> list[Item]:
        """The page that begins after so many items."""
        expected = self._expected.pop(after, None)
        page = self._fetch(after) if expected is None else expected.result()
        self._full_in_a_row = self._full_in_a_row + 1 if len(page) == self._page_size else 0
        for number in range(1, min(self._full_in_a_row, MOST_AHEAD) + 1):
            self._expect(after + number * self._page_size)
        return page

    def _expect(self, after: int) -> None:
        if after not in self._expected:
            self._pool = self._pool or ThreadPoolExecutor(MOST_AHEAD, thread_name_prefix="listing")
            self._expected[after] = self._pool.submit(self._fetch, after)

    def close(self) -> None:
        """Let go of what nobody asked for; waits for calls that are on their way."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
