"""Reads the end of a snooze that a person wrote. Pure; time and zone are arguments."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from shared.base.errors import ConfigError
from shared.rules.retry import LONGEST_SNOOZE


def snooze_end(text: str, zone: ZoneInfo | None, now: datetime) -> datetime:
    """The instant that a person wrote. zone: of a time without one; None when none is set.

    Raises ConfigError when it is not a time, in the past, or too far ahead.
    """
    try:
        written = datetime.fromisoformat(text)
        if written.tzinfo is None:
            if zone is None:
                raise ConfigError(
                    f"--until: {text} has no time zone: set ORCHESTRATOR_TIMEZONE, or write {text}+01:00"
                )
            written = written.replace(tzinfo=zone)
        end = written.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ConfigError(f"--until: expected a time such as 2026-12-07T08:00, got {text!r}") from exc
    if end <= now:
        raise ConfigError(f"--until: {text} is in the past")
    if end - now > LONGEST_SNOOZE:
        latest = (now + LONGEST_SNOOZE).astimezone(zone or UTC)
        raise ConfigError(
            f"--until: {text} is more than {LONGEST_SNOOZE.days} days ahead; {latest:%Y-%m-%dT%H:%M} is the"
            " latest; you can snooze it again later"
        )
    return end
