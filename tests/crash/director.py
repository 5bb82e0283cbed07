"""Who says where a process dies: holds one request before or after its effect, and lets the others pass."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Phase = Literal["before", "after", "late"]


@dataclass(frozen=True, order=True)
class Point:
    """A place to die at: the request of this kind with this number (from 1).

    before: it never takes effect. after: it did, and its answer never comes. late: the process is dead, and
    the request takes effect in the middle of the next run.
    """

    kind: str
    number: int
    phase: Phase


class Director:
    """A `Watch` for processes that are to be killed. Counts requests from nought with each `begin`.

    seen, total: the requests of this run, by kind and all. reached: the point was reached and its request is
    held (or whoever waits is called back). hit: where that was.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.total = 0
        self.reached = threading.Event()
        self.hit: Point | None = None
        self._changed = threading.Condition()
        self._point: Point | None = None
        self._place = 0
        self._under_way: dict[int, str] = {}
        """{thread: kind of its request}."""
        self._marked: int | None = None
        """The thread whose request is to be held after its effect."""
        self._late: int | None = None
        """The thread whose request waits for the next run."""
        self._late_at: int | None = None
        self._is_alive = False

    def begin(self, point: Point | None = None, *, place: int = 0, phase: Phase = "before") -> None:
        """A run begins. place: hold the request with this number among all, whatever its kind."""
        with self._changed:
            self.seen.clear()
            self.total = 0
            self.hit = None
            self._point = point or (Point("", 0, phase) if place else None)
            self._place = place
            self.reached.clear()

    def disarm(self, *, is_alive: bool = False) -> None:
        """Let go of what is held, unless it is to come late. is_alive: who asked for it was not killed."""
        with self._changed:
            self._point = None
            self._is_alive = is_alive
            self._marked = None
            self._changed.notify_all()

    def settle(self, seconds: float = 60.0) -> None:
        """Until all that was under way has come to its end, but for the late one."""
        with self._changed:
            is_quiet = self._changed.wait_for(
                lambda: len(self._under_way) <= (self._late is not None), seconds
            )
            assert is_quiet, f"requests do not come to their end: {sorted(self._under_way.values())}"

    @property
    def has_late_one(self) -> bool:
        """Whether a request waits for the next run."""
        return self._late is not None

    def release_late_one_at(self, place: int) -> None:
        """In the run that begins now, let it take effect just before the request with this number."""
        with self._changed:
            self._late_at = place

    def release_late_one(self) -> None:
        """Now, if it waits still."""
        with self._changed:
            self._late_at = self.total
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._late is None, 60), "the late request does not end"
            self._late_at = None

    # Watch

    def before(self, kind: str) -> bool:
        with self._changed:
            self._under_way[threading.get_ident()] = kind
            self.total += 1
            self.seen[kind] += 1
            number, place = self.seen[kind], self.total
            self._changed.notify_all()
            if self._is_late_due():
                self._changed.wait_for(lambda: self._late is None, 60)
            point = self._point
            if point is None or self.hit is not None:
                return True
            if (point.kind, point.number) != (kind, number) and place != self._place:
                return True
            self.hit = Point(kind, number, point.phase)
            if point.phase == "after":
                self._marked = threading.get_ident()
                return True
            self.reached.set()
            if point.phase == "late":
                self._late, self._late_at = threading.get_ident(), None
                self._changed.wait_for(self._is_late_due)
                return True
            self._changed.wait_for(lambda: self._point is None)
            if not self._is_alive:
                self._end()
            return self._is_alive

    def after(self, kind: str) -> bool:
        with self._changed:
            is_wanted = True
            if self._late == threading.get_ident():
                self._late = None
                is_wanted = False
            elif self._marked == threading.get_ident():
                self._marked = None
                self.reached.set()
                self._changed.wait_for(lambda: self._point is None)
                is_wanted = self._is_alive
            self._end()
            return is_wanted

    def _is_late_due(self) -> bool:
        return self._late is not None and self._late_at is not None and self.total >= self._late_at

    def _end(self) -> None:
        del self._under_way[threading.get_ident()]
        self._changed.notify_all()
