"""The rate rule: how many calls may go to Box now, so that no sliding minute ever sees more than its limit.

Pure; time is an argument. Calls are counted by the second. A minute touches 61 such seconds, and one more
covers a call that goes out a little after it was allowed; the limit holds for all 62 together. The first
half of it may be used at once, so that an ordinary campaign does not wait at all; from then on it is spread
evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

WINDOW_SECONDS = 62
USE_WITHIN_SECONDS = 0.5
"""How long after being allowed a call may still go out."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was allowed in the last seconds. counts[0] belongs to `second`, counts[1] to the one before.

    second, paused_until: seconds since the epoch, on one clock for everybody.
    """

    second: int = 0
    counts: tuple[int, ...] = ()
    paused_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave for `count` calls within USE_WITHIN_SECONDS; when there is none, when to ask again."""

    count: int
    wait_seconds: float


def take(bucket: Bucket, wanted: int, limit: int, now: float) -> tuple[Bucket, Grant]:
    """Leave for up to `wanted` calls, and the bucket that remembers it. limit: calls a minute, above 0."""
    current = _aged(bucket, floor(now))
    if now < bucket.paused_until:
        return current, Grant(0, bucket.paused_until - now)
    used = sum(current.counts)
    at_once = limit // 2 - used
    room = at_once if at_once > 0 else ceil(limit / 60) - current.counts[0]
    count = max(0, min(wanted, limit - used, room))
    counts = (current.counts[0] + count, *current.counts[1:])
    wait = 0.0 if count else current.second + 1 - now
    return Bucket(current.second, counts, bucket.paused_until), Grant(count, wait)


def pause(bucket: Bucket, seconds: float, now: float) -> Bucket:
    """Nobody calls for so long; a longer pause that is on stays."""
    return Bucket(bucket.second, bucket.counts, max(bucket.paused_until, now + seconds))


def _aged(bucket: Bucket, second: int) -> Bucket:
    """The bucket at a later second. A clock that was set back goes on from where it stood."""
    passed = max(0, second - bucket.second)
    kept = (0,) * min(passed, WINDOW_SECONDS) + bucket.counts
    counts = (kept + (0,) * WINDOW_SECONDS)[:WINDOW_SECONDS]
    return Bucket(bucket.second + passed, counts, bucket.paused_until)
