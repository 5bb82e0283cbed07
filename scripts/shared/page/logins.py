"""Limits the guessing of passwords: tries for a name and from an address, and computations at once."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

FREE_TRIES_OF_NAME = 5
FREE_TRIES_OF_PEER = 20
"""Higher, because all people behind one proxy have the same address."""
FIRST_DELAY = timedelta(seconds=5)
"""How long the first try beyond them must wait; doubled with each failure."""
LONGEST_DELAY = timedelta(minutes=5)
MEMORY = timedelta(hours=1)
"""After this long without a failure, the count starts again."""
MOST_ENTRIES = 4096
AT_ONCE = 2
"""Passwords whose hash is computed at the same time."""
MOST_IN_LINE = 4
"""Requests that compute or wait for their turn; with more of them, other requests would get no answer."""


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: datetime


def _key_of(peer: str) -> str:
    """An address; for IPv6 its network, since one customer has any number of addresses."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return peer


class _Counts:
    """Failures in a row by a key; when there are too many keys, the oldest is dropped."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._of: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def wait(self, key: str, now: datetime) -> timedelta:
        """How long the next try must wait; zero for none."""
        found = self._of.get(key)
        if found is None or found.count < self._free or now - found.last_at >= MEMORY:
            return timedelta(0)
        doubled = 1 << min(found.count - self._free, 10)
        delay = min(FIRST_DELAY * doubled, LONGEST_DELAY)
        return max(found.last_at + delay - now, timedelta(0))

    def add(self, key: str, now: datetime) -> None:
        found = self._of.pop(key, None)
        is_fresh = found is not None and now - found.last_at < MEMORY
        self._of[key] = _Failures((found.count if found is not None and is_fresh else 0) + 1, now)
        if len(self._of) > MOST_ENTRIES:
            self._of.popitem(last=False)

    def take_back(self, key: str) -> None:
        found = self._of.get(key)
        if found is not None:
            found.count = max(found.count - 1, 0)

    def forget(self, key: str) -> None:
        self._of.pop(key, None)


class Tries:
    """Counts tries to log in, by name and by address, in memory only. Any thread may call it.

    A try counts as failed from its start, so that many tries at once do not get around the limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names = _Counts(FREE_TRIES_OF_NAME)
        self._peers = _Counts(FREE_TRIES_OF_PEER)

    def __len__(self) -> int:
        return len(self._names) + len(self._peers)

    def begin(self, name: str, peer: str, now: datetime) -> timedelta:
        """Count a try that may be made now, and return zero; else return how long it must wait, without
        counting it.
        """
        peer = _key_of(peer)
        with self._lock:
            wait = max(self._names.wait(name, now), self._peers.wait(peer, now))
            if not wait:
                self._names.add(name, now)
                self._peers.add(peer, now)
            return wait

    def succeeded(self, name: str, peer: str) -> None:
        """Take back a try that had the right password. Other failures from the address stay counted: one
        right password does not excuse guesses at others.
        """
        with self._lock:
            self._names.forget(name)
            self._peers.take_back(_key_of(peer))


class Gate:
    """Limits how many passwords are checked at once, so that a flood of them leaves processor and threads
    free.
    """

    def __init__(self) -> None:
        self._in_line = threading.BoundedSemaphore(MOST_IN_LINE)
        self._at_once = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Wait for a turn; False at once when too many are waiting."""
        if not self._in_line.acquire(blocking=False):
            yield False
            return
        try:
            with self._at_once:
                yield True
        finally:
            self._in_line.release()
