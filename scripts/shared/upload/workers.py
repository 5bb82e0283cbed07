"""The workers of a run: one pool for all campaigns, and one memory budget for all files being copied.

The pool takes small files from the campaigns in turn, so that a campaign with one file does not wait for one
with five hundred. One worker reads a large file, and others send its parts through the file's lane.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

MAX_SENDERS = 4
"""Parts of one file that are sent at the same time."""
MAX_BUFFERS = MAX_SENDERS + 2
"""Parts of one file in memory: those being sent, the next one, and one being filled."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A large file's place in the queue for its first buffer, and the buffer's size."""

    size: int


@dataclass(slots=True)
class Budget:
    """Decides which files may use how much memory. Pure; the pool's lock guards it.

    Large files together leave `reserve` bytes to the small ones. Small files do not overtake a large one that
    waits for its first buffer. A file larger than the whole budget is copied alone. A waiting thread only
    keeps the memory of parts being sent, so one thread can always continue.
    """

    total: int
    reserve: int
    small: int = 0
    large: int = 0
    waiting: deque[Ticket] = field(default_factory=deque)
    """The files that wait for a first buffer, oldest first."""

    def admits_small(self, size: int) -> bool:
        used = self.small + self.large
        kept = self.waiting[0].size if self.waiting and self._is_entitled(self.waiting[0].size) else 0
        return used == 0 or used + size + kept <= self.total

    def admits_first(self, ticket: Ticket) -> bool:
        """The first buffer of a large file, without which it cannot continue: first come, first served."""
        used = self.small + self.large
        fits = self._is_entitled(ticket.size) and used + ticket.size <= self.total
        return self.waiting[0] is ticket and (used == 0 or fits)

    def admits_more(self, size: int) -> bool:
        """A further buffer, which makes it faster: never while another file waits."""
        used = self.small + self.large
        return not self.waiting and self._is_entitled(size) and used + size <= self.total

    def _is_entitled(self, size: int) -> bool:
        return self.large == 0 or self.large + size <= self.total - self.reserve


@dataclass(frozen=True, slots=True)
class Job:
    """One file. size: bytes it needs in memory; None for a large file, which takes its buffers itself."""

    size: int | None
    work: Callable[[], None]


class Pool:
    """Threads that do jobs and send parts. `work` of a job must not raise."""

    def __init__(self, workers: int, memory_bytes: int, *, reserve_bytes: int) -> None:
        self.workers = workers
        self._readers_allowed = max(1, workers // 4)  # each of them keeps several others busy with its parts
        lock = threading.Lock()
        self._to_do = threading.Condition(lock)
        """Workers wait for it. A part or a file wakes one of them: if each part woke all of them, the reader
        would wait for the interpreter.
        """
        self._changed = threading.Condition(lock)
        """Workers that read large files wait for it."""
        self._budget = Budget(memory_bytes, reserve_bytes)
        self._queues: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()
        self._parts: deque[_PartJob] = deque()
        self._readers = 0
        self._sending = 0
        self._idle = 0
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}") for number in range(1, workers + 1)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, campaign_id: str, job: Job) -> None:
        """Queue one file of a campaign."""
        with self._to_do:
            if campaign_id not in self._queues:
                self._queues[campaign_id] = deque()
                self._turns.append(campaign_id)
            self._queues[campaign_id].append(job)
            self._to_do.notify()

    def cancel(self, campaign_id: str) -> int:
        """Drop a campaign's queued jobs that have not started; returns how many."""
        with self._to_do:
            dropped = self._queues.pop(campaign_id, None)
            if dropped is None:
                return 0
            self._turns.remove(campaign_id)
            return len(dropped)

    def close(self) -> None:
        """Drop the queued jobs, and wait for the running ones."""
        with self._to_do:
            self._is_closed = True
            self._queues.clear()
            self._turns.clear()
            self._to_do.notify_all()
        for thread in self._threads:
            thread.join()

    def lane(self, part_size: int) -> Lane:
        """For one large file: buffers of part_size bytes and workers to send them. A context manager."""
        return Lane(self, self._changed, self._budget, part_size)

    def queue_part(self, part: _PartJob) -> None:
        """Queue a part for a free worker. Call it with the lock held."""
        self._parts.append(part)
        self._to_do.notify()

    def take_back(self, lane: Lane) -> int:
        """Drop a lane's parts that are not being sent yet. Call it with the lock held."""
        dropped = [part for part in self._parts if part.lane is lane]
        for part in dropped:
            self._parts.remove(part)
        return len(dropped)

    def room_was_made(self) -> None:
        """Wake the threads that can continue now. Call it with the lock held."""
        self._changed.notify_all()
        if self._parts or self._turns:
            self._to_do.notify_all()

    # Workers

    def _run(self) -> None:
        while True:
            with self._to_do:
                job = self._next()
                while job is None:
                    if self._is_closed and not self._parts:
                        return
                    self._idle += 1
                    self._to_do.wait()
                    self._idle -= 1
                    job = self._next()
            if isinstance(job, _PartJob):
                self.send(job)
                continue
            job.work()
            with self._to_do:
                if job.size is None:
                    self._readers -= 1
                else:
                    self._budget.small -= job.size
                self.room_was_made()

    def _next(self) -> Job | _PartJob | None:
        """The next job: parts first, because they use memory, but not with all workers while files wait."""
        has_files = any(self._is_startable(key) for key in self._turns)
        if self._parts and not (has_files and self._sending >= max(1, self.workers // 2)):
            self._sending += 1
            return self._parts.popleft()
        for _ in range(len(self._turns)):
            key = self._turns[0]
            if self._is_startable(key):
                return self._start(key)
            if self._queues[key][0].size is not None:
                break  # it is its turn: the campaigns behind it also wait until there is memory
            self._turns.rotate(-1)  # a large file that must wait for a reader lets the others go first
        return None

    def _is_startable(self, key: str) -> bool:
        size = self._queues[key][0].size
        if size is None:
            return self._readers < self._readers_allowed
        return self._budget.admits_small(size)

    def _start(self, key: str) -> Job:
        queue = self._queues[key]
        job = queue.popleft()
        self._turns.popleft()
        if queue:
            self._turns.append(key)
        else:
            del self._queues[key]
        if job.size is None:
            self._readers += 1
        else:
            self._budget.small += job.size
        return job

    def send(self, part: _PartJob) -> None:
        """Send a part taken from the queue."""
        error: BaseException | None = None
        try:
            part.work()
        except BaseException as exc:  # noqa: BLE001 - passed to the file's own thread, which raises it
            error = exc
        with self._changed:
            self._sending -= 1
            part.lane.done(part, error)
            self.room_was_made()

    def help(self) -> bool:
        """Send a part if one is ready and no worker is free for it. Call it with the lock held."""
        if self._idle or not self._parts:
            return False
        part = self._parts.popleft()
        self._sending += 1
        self._changed.release()
        try:
            self.send(part)
        finally:
            self._changed.acquire()
        return True


@dataclass(slots=True, eq=False)
class _PartJob:
    lane: Lane
    buffer: mmap.mmap
    work: Callable[[], None]


class Lane:
    """One large file's buffers and parts. Used by one thread, except `senders`."""

    def __init__(
        self,
        pool: Pool,
        changed: threading.Condition,
        budget: Budget,
        part_size: int,
    ) -> None:
        self._pool = pool
        self._changed = changed
        self._budget = budget
        self._part_size = part_size
        self.senders = threading.Semaphore(MAX_SENDERS)
        """Held while a part is being sent."""
        self._held = 0
        self._free: list[mmap.mmap] = []
        self._in_flight = 0
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the queued parts, wait for those being sent, and release the memory."""
        with self._changed:
            self._in_flight -= self._pool.take_back(self)
            while self._in_flight:
                self._changed.wait()
            self._budget.large -= self._held * self._part_size
            self._held = 0
            self._free.clear()
            self._pool.room_was_made()

    def buffer(self) -> mmap.mmap:
        """A buffer of part_size bytes, as soon as there is one. Raises the error of a part that failed."""
        with self._changed:
            while True:
                self._raise_error()
                if self._free:
                    return self._free.pop()
                if not self._held:
                    self._take_first()
                    break
                if self._held < MAX_BUFFERS and self._budget.admits_more(self._part_size):
                    self._budget.large += self._part_size
                    break
                if not self._pool.help():
                    self._changed.wait()
            self._held += 1
        return mmap.mmap(-1, self._part_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def send(self, buffer: mmap.mmap, work: Callable[[], None]) -> None:
        """Let a free worker send the buffer's part by `work`. The buffer is then used again."""
        with self._changed:
            self._in_flight += 1
            self._pool.queue_part(_PartJob(self, buffer, work))

    def give_back(self, buffer: mmap.mmap) -> None:
        """Release a buffer whose part need not be sent."""
        with self._changed:
            self._free.append(buffer)

    def finish(self) -> None:
        """Wait until every part has been sent. Raises the error of a part that failed."""
        with self._changed:
            while self._in_flight:
                self._raise_error()
                if not self._pool.help():
                    self._changed.wait()
            self._raise_error()

    def done(self, part: _PartJob, error: BaseException | None) -> None:
        """Record that a part was sent, or failed. Called with the lock held."""
        self._in_flight -= 1
        self._error = self._error or error
        if self._budget.waiting and self._held > 1:
            self._held -= 1
            self._budget.large -= self._part_size
        else:
            self._free.append(part.buffer)

    def _take_first(self) -> None:
        ticket = Ticket(self._part_size)
        self._budget.waiting.append(ticket)
        try:
            while not self._budget.admits_first(ticket):
                if not self._pool.help():
                    self._changed.wait()
        finally:
            self._budget.waiting.remove(ticket)
        self._budget.large += self._part_size
        self._changed.notify_all()  # the next in the queue is now the oldest

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
