"""Decides how many calls to Box we may make now, so that no minute ever has more calls than the limit.

Pure; time is an argument. Calls are counted by the second. A minute touches 61 such seconds, and one more
covers a call that is made a little after it was allowed; the limit is for all 62 together. Half of the limit
may be used at once, so that an ordinary campaign does not wait at all. After that each second allows a
sixtieth. After a clock ran ahead and was corrected (see `clocks`), no call waits for longer than a minute:
calls that were counted in the future count as made now.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

WINDOW_SECONDS = 62
USE_WITHIN_SECONDS = 0.5
"""How long a permission to make a call is valid."""
LONGEST_PAUSE_SECONDS = 300.0
"""The longest pause. When its end is further away, a clock that ran ahead wrote it, and the pause is over."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The calls that were allowed in the last seconds. counts[0] belongs to `second`, counts[1] to the one
    before.

    second, paused_until: seconds since the epoch, by one clock for all runs.
    """

    second: int = 0
    counts: tuple[int, ...] = ()
    paused_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """`count` calls are allowed within USE_WITHIN_SECONDS. wait_seconds: before asking again when none is."""

    count: int
    wait_seconds: float


def take(bucket: Bucket, wanted: int, limit: int, now: float) -> tuple[Bucket, Grant]:
    """Allow up to `wanted` calls; the bucket then counts them. limit: calls per minute, above 0."""
    current = _aged(bucket, floor(now))
    if now < current.paused_until <= now + LONGEST_PAUSE_SECONDS:
        return current, Grant(0, current.paused_until - now)
    used = sum(current.counts)
    at_once = limit // 2 - used
    room = at_once if at_once > 0 else ceil(limit / 60) - current.counts[0]
    count = max(0, min(wanted, limit - used, room))
    counts = (current.counts[0] + count, *current.counts[1:])
    wait = 0.0 if count else current.second + 1 - now
    return Bucket(current.second, counts, bucket.paused_until), Grant(count, wait)


def pause(bucket: Bucket, seconds: float, now: float) -> Bucket:
    """Allow no calls for this long. A longer pause that has begun stays."""
    latest = now + LONGEST_PAUSE_SECONDS
    standing = bucket.paused_until if bucket.paused_until <= latest else 0.0
    return Bucket(bucket.second, bucket.counts, max(standing, min(now + seconds, latest)))


def _aged(bucket: Bucket, second: int) -> Bucket:
    """The bucket at another second. When the clock was set back a little, the bucket keeps its own second, so
    that no minute sees too many calls. When it was set back by more than a window, the bucket starts at the
    present second.
    """
    if bucket.second > second + WINDOW_SECONDS:
        return Bucket(second, bucket.counts, bucket.paused_until)
    passed = max(0, second - bucket.second)
    kept = (0,) * min(passed, WINDOW_SECONDS) + bucket.counts
    counts = (kept + (0,) * WINDOW_SECONDS)[:WINDOW_SECONDS]
    return Bucket(bucket.second + passed, counts, bucket.paused_until)
