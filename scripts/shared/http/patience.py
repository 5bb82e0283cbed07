"""Decides how long to wait before a call is tried again."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

LONGEST_WAIT_SECONDS = 60.0
BACKOFF_SECONDS = 0.5


def wait_seconds(headers: Message | None, tries: int) -> float:
    """How long to wait after this many failed tries: what the last answer asks for, within limits.

    headers: of that answer; None when there was none.
    """
    asked = None if headers is None else retry_after_seconds(headers, datetime.now(UTC))
    return backoff_seconds(tries) if asked is None else min(asked, LONGEST_WAIT_SECONDS)


def backoff_seconds(tries: int) -> float:
    """How long to wait when the answer asks for no pause: doubling, with jitter."""
    return BACKOFF_SECONDS * 2.0**tries * random.uniform(0.5, 1.0)  # noqa: S311  # nosec B311 - jitter, no secret


def retry_after_seconds(headers: Message, now: datetime) -> float | None:
    """An answer's `Retry-After` in either form, as seconds from now; None when it is missing or not valid.

    A date counts from the answer's own `Date`, or from our clock if there is none: clocks differ.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until, sent = date_in(value), date_in(headers.get("Date")) or now
        return None if until is None else max(0.0, (until - sent).total_seconds())
    return max(0.0, seconds) if seconds < float("inf") else None


def date_in(value: str | None) -> datetime | None:
    """The time in a header such as Date; None when it is not valid."""
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
