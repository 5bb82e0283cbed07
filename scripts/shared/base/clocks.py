"""Judges stored times, also after a clock ran ahead and was corrected. One rule for all of them; pure.

A stored time delays nothing for longer than the intended wait. A time in the future was written by a clock
that ran ahead, so it delays nothing: the work happens now, and stores the correct time. In SQL: `NOT (at >
now() - length AND at <= now() + interval '5 minutes')`.

A time is compared by the clock that wrote it: by the server's `now()` if the server wrote it, by the caller's
clock if the caller did. So it does not matter when a host's clock differs from the server's.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TOLERANCE = timedelta(minutes=5)
"""How much the clocks of two hosts, or of a server and its standby, may differ."""


def is_waiting(begun_at: datetime, length: timedelta, now: datetime) -> bool:
    """Whether a wait that began then is still going on."""
    return -TOLERANCE <= now - begun_at < length
