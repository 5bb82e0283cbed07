"""Makes calls before they are needed: the pages of a long listing, the folders of a tree.

This saves waiting for one round trip after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

logger = logging.getLogger(__name__)

MOST_AHEAD = 4

Key = TypeVar("Key")
Value = TypeVar("Value")
Item = TypeVar("Item")


def quietly(work: Callable[[], object]) -> None:
    """Do something that will be needed later; a failure is ignored here, because its later use reports it."""
    try:
        work()
    except Exception as exc:  # noqa: BLE001 - see above
        logger.debug("%s: %s", type(exc).__name__, exc)


class Ahead(Generic[Key, Value]):
    """`fetch(key)`, started early for expected keys; must be closed.

    A call's result, or its exception, is only delivered when the caller wants it.
    """

    def __init__(self, fetch: Callable[[Key], Value]) -> None:
        self._fetch = fetch
        self._expected: dict[Key, Future[Value]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, key: Key) -> Value:
        """The result of `fetch` for the key."""
        expected = self._expected.pop(key, None)
        return self._fetch(key) if expected is None else expected.result()

    def expect(self, key: Key) -> None:
        """Start the call for a key that will probably be needed. At most MOST_AHEAD calls at once."""
        if key not in self._expected:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = self._pool or ThreadPoolExecutor(MOST_AHEAD, thread_name_prefix="ahead")
            self._expected[key] = self._pool.submit(self._fetch, key)

    def close(self) -> None:
        """Drop the results that nobody asked for; waits for running calls."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class PagesAhead(Generic[Item]):
    """`fetch(after)` for a listing with pages of page_size items; must be closed.

    Each full page in a row allows one more page ahead, up to MOST_AHEAD; so a listing of one page costs no
    extra call, and a long one at most three. After a page that is shorter than expected, all later pages
    begin elsewhere, and the calls made ahead are not used.
    """

    def __init__(self, fetch: Callable[[int], list[Item]], page_size: int) -> None:
        self._ahead = Ahead(fetch)
        self._page_size = page_size
        self._full_in_a_row = 0

    def __call__(self, after: int) -> list[Item]:
        """The page that begins after this many items."""
        page = self._ahead(after)
        self._full_in_a_row = self._full_in_a_row + 1 if len(page) == self._page_size else 0
        for number in range(1, min(self._full_in_a_row, MOST_AHEAD) + 1):
            self._ahead.expect(after + number * self._page_size)
        return page

    def close(self) -> None:
        """Drop the results that nobody asked for; waits for running calls."""
        self._ahead.close()
