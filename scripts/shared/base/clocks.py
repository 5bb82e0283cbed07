"""Stored times, and clocks that ran ahead and were put right. The one rule for all of them; pure.

A stored time makes nothing wait for longer than the wait itself lasts. A time in the future was written by a
clock that ran ahead: it holds nothing back. What it kept waiting happens now, and that writes a true time in
its place. SQL says it as `NOT (at > now() - length AND at <= now() + interval '5 minutes')`.

Times are compared by the clock that wrote them: by the server's `now()` where the server writes them, by the
caller's where the caller does. So a host whose clock differs from the server's does no harm.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TOLERANCE = timedelta(minutes=5)
"""How far apart the clocks of two hosts, or of a server and its standby, may be."""


def is_waiting(begun_at: datetime, length: timedelta, now: datetime) -> bool:
    """Whether a wait that began then is still on."""
    return -TOLERANCE <= now - begun_at < length
