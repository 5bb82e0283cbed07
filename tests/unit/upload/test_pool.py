"""The pool: the budget is kept, somebody can always go on, and nobody is forgotten."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.upload.workers import Budget, Job, Pool, Ticket

TOTAL, RESERVE = 64, 20


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["small", "first", "more", "end"]), st.integers(1, 100)), max_size=80
    )
)
@settings(max_examples=300)
def test_budget__is_never_exceeded_and_never_stuck(steps: list[tuple[str, int]]) -> None:
    """A model of the pool: whoever is admitted holds memory, and gives it back when its turn comes."""
    budget = Budget(TOTAL, RESERVE)
    held: list[tuple[str, int]] = []
    for kind, size in steps:
        if kind == "small" and budget.admits_small(min(size, RESERVE)):
            budget.small += min(size, RESERVE)
            held.append(("small", min(size, RESERVE)))
        elif kind == "first":
            budget.waiting.append(Ticket(size))
        elif kind == "more" and budget.admits_more(size):
            budget.large += size
            held.append(("large", size))
        elif kind == "end" and held:
            whose, freed = held.pop(size % len(held))
            setattr(budget, whose, getattr(budget, whose) - freed)
        while budget.waiting and budget.admits_first(budget.waiting[0]):
            ticket = budget.waiting.popleft()
            budget.large += ticket.size
            held.append(("large", ticket.size))
        assert (budget.small, budget.large) == tuple(
            sum(amount for owner, amount in held if owner == whose) for whose in ("small", "large")
        )
        assert budget.small + budget.large <= TOTAL or len(held) == 1
    while budget.waiting:  # those who hold something come to their end, and then it is the others' turn
        if budget.admits_first(budget.waiting[0]):
            budget.waiting.popleft()
        else:
            whose, freed = held.pop()
            setattr(budget, whose, getattr(budget, whose) - freed)


def test_budget__a_waiting_large_file_is_not_overtaken() -> None:
    budget = Budget(TOTAL, RESERVE, small=60)
    ticket = Ticket(32)
    budget.waiting.append(ticket)
    assert not budget.admits_first(ticket)
    assert not budget.admits_small(4), "it would take what the large file waits for"
    budget.small = 32
    assert budget.admits_first(ticket)


def test_budget__large_files_leave_the_reserve() -> None:
    budget = Budget(TOTAL, RESERVE, large=40)
    assert not budget.admits_more(8)
    assert budget.admits_small(RESERVE)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_pool__many_large_and_small_files_all_come_to_their_end(workers: int) -> None:
    """Parts as large as most of the budget, files of all sizes, several campaigns."""
    dice = random.Random(workers)  # noqa: S311 - a test's dice
    done: Counter[str] = Counter()
    lock = threading.Lock()
    in_use = 0
    most = 0

    def hold(change: int) -> None:
        nonlocal in_use, most
        with lock:
            in_use += change
            most = max(most, in_use)

    with Pool(workers, TOTAL, reserve_bytes=RESERVE) as pool:
        finished = threading.Semaphore(0)

        def small(size: int) -> None:
            hold(size)
            threading.Event().wait(0.001)
            hold(-size)
            done["small"] += 1
            finished.release()

        def large(part_size: int, parts: int) -> None:
            with pool.lane(part_size) as lane:
                for _ in range(parts):
                    buffer = lane.buffer()
                    hold(part_size)

                    def send() -> None:
                        threading.Event().wait(0.002)
                        hold(-part_size)
                        with lock:
                            done["parts"] += 1

                    lane.send(buffer, send)
                lane.finish()
            finished.release()

        count, parts_expected = 0, 0
        for number in range(120):
            campaign = f"c{number % 5}"
            if number % 6:
                size = dice.randrange(1, RESERVE)
                pool.submit(campaign, Job(size, lambda size=size: small(size)))  # type: ignore[misc]
            else:
                part_size, parts = dice.choice([1, 8, 32, 44]), dice.randrange(1, 12)
                parts_expected += parts
                pool.submit(campaign, Job(None, lambda p=part_size, n=parts: large(p, n)))  # type: ignore[misc]
            count += 1
        for _ in range(count):
            assert finished.acquire(timeout=60), "somebody waits for ever"
    assert done == {"small": 100, "parts": parts_expected}
    assert most <= TOTAL
    assert in_use == 0


def test_pool__error_of_a_part_reaches_its_file_and_frees_the_memory() -> None:
    with Pool(4, TOTAL, reserve_bytes=RESERVE) as pool:
        told: list[BaseException] = []
        finished = threading.Event()

        def fail() -> None:
            raise ConnectionError("the line is cut")

        def large() -> None:
            try:
                with pool.lane(8) as lane:
                    for _ in range(50):
                        lane.send(lane.buffer(), fail)
                    lane.finish()
            except ConnectionError as exc:
                told.append(exc)
            finished.set()

        pool.submit("c", Job(None, large))
        assert finished.wait(10)
        assert [str(exc) for exc in told] == ["the line is cut"]
        after = threading.Event()
        pool.submit("c", Job(TOTAL, after.set))
        assert after.wait(10), "the memory was given back"


def test_pool__campaigns_take_turns() -> None:
    order: list[str] = []
    gate, finished = threading.Event(), threading.Semaphore(0)

    def note(name: str) -> None:
        order.append(name)
        finished.release()

    with Pool(1, TOTAL, reserve_bytes=RESERVE) as pool:
        pool.submit("first", Job(1, gate.wait))  # type: ignore[arg-type]
        for _ in range(50):
            pool.submit("big", Job(1, lambda: note("big")))
        pool.submit("small", Job(1, lambda: note("small")))
        gate.set()
        for _ in range(51):
            assert finished.acquire(timeout=10)
    assert order.index("small") <= 2


def test_pool__cancel_drops_only_what_nobody_began() -> None:
    begun, gate = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        gate.wait(10)

    with Pool(1, TOTAL, reserve_bytes=RESERVE) as pool:
        pool.submit("c", Job(1, first))
        for _ in range(9):
            pool.submit("c", Job(1, lambda: pytest.fail("was cancelled")))
        assert begun.wait(10)
        assert pool.cancel("c") == 9
        assert pool.cancel("c") == 0
        gate.set()
