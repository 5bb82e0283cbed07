"""Until when somebody may snooze: what is accepted, and what the refusal says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.base.errors import ConfigError
from shared.rules.retry import LONGEST_SNOOZE
from shared.rules.snooze import snooze_end

ROME = ZoneInfo("Europe/Rome")
NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "wanted"),
    [
        pytest.param("2026-12-07T08:00", ROME, "2026-12-07T07:00+00:00", id="in the configured zone"),
        pytest.param("2026-12-07 08:00", ROME, "2026-12-07T07:00+00:00", id="with a blank"),
        pytest.param("2026-12-07", ROME, "2026-12-06T23:00+00:00", id="a date is its midnight"),
        pytest.param("2026-12-07T08:00+05:00", ROME, "2026-12-07T03:00+00:00", id="its own offset"),
        pytest.param("2026-12-07T08:00Z", None, "2026-12-07T08:00+00:00", id="no zone is needed then"),
        pytest.param("2026-11-30T10:01", ROME, "2026-11-30T09:01+00:00", id="a minute ahead"),
    ],
)
def test_end__is_the_instant_that_was_written(text: str, zone: ZoneInfo | None, wanted: str) -> None:
    assert snooze_end(text, zone, NOW) == datetime.fromisoformat(wanted)


@pytest.mark.parametrize(
    ("text", "zone", "said"),
    [
        pytest.param("2026-11-30T10:00", ROME, "is in the past", id="now"),
        pytest.param("2025-12-07T08:00", ROME, "is in the past", id="past"),
        pytest.param(
            "2027-12-07T08:00", ROME, "more than 90 days ahead; 2027-02-28T10:00 is the latest", id="far"
        ),
        pytest.param("2026-12-07T08:00", None, "set ORCHESTRATOR_TIMEZONE", id="no zone"),
        pytest.param("tomorrow", ROME, "expected a time such as", id="words"),
        pytest.param("", ROME, "expected a time such as", id="nothing"),
        pytest.param("9999-12-31T23:59-14:00", ROME, "expected a time such as", id="beyond the calendar"),
    ],
)
def test_end__that_cannot_be_is_refused(text: str, zone: ZoneInfo | None, said: str) -> None:
    with pytest.raises(ConfigError, match="--until: ") as refused:
        snooze_end(text, zone, NOW)
    assert said in str(refused.value)


def test_longest_snooze__is_accepted() -> None:
    longest = NOW + LONGEST_SNOOZE
    assert snooze_end(longest.isoformat(), None, NOW) == longest
    with pytest.raises(ConfigError):
        snooze_end((longest + timedelta(seconds=1)).isoformat(), None, NOW)
