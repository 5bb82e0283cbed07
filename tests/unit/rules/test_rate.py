"""Box's limits: whatever is asked and whenever, no sliding minute sees more; and little is left unused."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from shared.rules.rate import USE_WITHIN_SECONDS, Bucket, Grant, pause, take
from shared.upload.limiter import CALLS, UPLOADS, BoxGate

START = 1_764_000_000.0


def most_in_a_minute(times: list[float]) -> int:
    """The largest number of the (ascending) times that any 60 seconds hold."""
    return max((place + 1 - bisect_left(times, at - 60) for place, at in enumerate(times)), default=0)


@given(
    limit=st.integers(1, 300),
    asks=st.lists(
        st.tuples(st.floats(0, 90), st.integers(1, 50), st.floats(0, USE_WITHIN_SECONDS)), max_size=200
    ),
)
def test_take__no_sliding_minute_exceeds_the_limit(limit: int, asks: list[tuple[float, int, float]]) -> None:
    """Even when each call goes out as late as it may."""
    bucket, used = Bucket(), []
    for now, (_, wanted, late) in zip(
        accumulate((ask[0] for ask in asks), initial=START), asks, strict=False
    ):
        bucket, grant = take(bucket, wanted, limit, now)
        assert 0 <= grant.count <= wanted
        assert grant.count or grant.wait_seconds > 0
        used += [now + late] * grant.count
    assert most_in_a_minute(sorted(used)) <= limit


@given(limit=st.integers(1, 2000), now=st.floats(START, START + 10))
def test_take__somebody_who_waits_gets_leave(limit: int, now: float) -> None:
    bucket, end = Bucket(), now + 130
    granted = 0
    while now < end:
        bucket, grant = take(bucket, 10, limit, now)
        granted += grant.count
        now += grant.wait_seconds
    assert granted >= limit


def test_take__two_thousand_uploads_reach_the_legal_rate() -> None:
    bucket, now, done = Bucket(), START, []
    while len(done) < 2000:
        bucket, grant = take(bucket, 4, 240, now)
        done += [now] * grant.count
        now += grant.wait_seconds or 0.001
    assert 2000 / (done[-1] - done[0]) >= 0.95 * 4
    assert most_in_a_minute(done) <= 240


def test_take__half_may_go_at_once() -> None:
    bucket, grant = take(Bucket(), 1000, 240, START)
    assert grant == Grant(120, 0.0)
    assert take(bucket, 1000, 240, START)[1].count == 0


def test_pause__is_for_everybody_and_never_shortened() -> None:
    bucket = pause(pause(Bucket(), 30, START), 5, START)
    assert take(bucket, 1, 240, START + 29)[1] == Grant(0, 1.0)
    assert take(bucket, 1, 240, START + 30)[1].count == 1


def test_take__a_clock_set_back_allows_no_more() -> None:
    bucket, _ = take(Bucket(), 60, 240, START)
    used = 60
    for _ in range(500):
        bucket, grant = take(bucket, 60, 240, START - 3600)
        used += grant.count
    assert used <= 240


class PureLedger:
    """What PostgreSQL does, in memory."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.statements = 0

    def take_calls(self, bucket: str, wanted: int, limit: int) -> Grant:
        self.statements += 1
        self.buckets[bucket], grant = take(self.buckets.get(bucket, Bucket()), wanted, limit, time.time())
        return grant

    def pause_calls(self, bucket: str, seconds: float) -> None:
        self.buckets[bucket] = pause(self.buckets.get(bucket, Bucket()), seconds, time.time())


def test_gate__threads_share_batches() -> None:
    ledger = PureLedger()
    gate = BoxGate(ledger, uploads_per_minute=600, calls_per_minute=2400)
    threads = [
        threading.Thread(target=lambda: [gate.wait(is_upload=True) for _ in range(10)]) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ledger.buckets[UPLOADS].counts) >= 100
    assert sum(ledger.buckets[CALLS].counts) >= 100


def test_gate__no_limit_asks_nobody() -> None:
    ledger = PureLedger()
    gate = BoxGate(ledger, uploads_per_minute=0, calls_per_minute=0)
    gate.wait(is_upload=True)
    assert ledger.statements == 0


def test_gate__pause_holds_up_the_next_call() -> None:
    slept: list[float] = []
    now = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    gate = BoxGate(PureLedger(), uploads_per_minute=0, calls_per_minute=0, sleep=sleep, clock=lambda: now[0])
    gate.pause(7)
    gate.wait(is_upload=False)
    assert slept == [7]


def test_gate__each_user_has_limits_and_pauses_of_its_own() -> None:
    """Without a user the names are those of earlier versions: the runs of an upgrade share the counts."""
    ledger, slept = PureLedger(), []
    gates = {
        user: BoxGate(ledger, uploads_per_minute=240, calls_per_minute=1000, user=user, sleep=slept.append)
        for user in ("", "27000000002", "27000000003")
    }
    for _ in range(120):  # all that may go at once
        gates["27000000002"].wait(is_upload=True)
    gates["27000000003"].wait(is_upload=True)
    gates[""].wait(is_upload=True)
    assert not slept
    assert ledger.buckets.keys() == {
        *("box_uploads", "box_calls", "box_uploads:27000000002", "box_calls:27000000002"),
        *("box_uploads:27000000003", "box_calls:27000000003"),
    }
    gates["27000000002"].pause(7)
    paused = {bucket for bucket, state in ledger.buckets.items() if state.paused_until}
    assert paused == {"box_uploads:27000000002", "box_calls:27000000002"}
    gates["27000000003"].wait(is_upload=True)
    assert not slept
