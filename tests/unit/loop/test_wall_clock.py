"""Waiting for an instant of the wall clock, for a while, and for files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.loop import wall_clock
from shared.loop.wall_clock import LONGEST_WAIT_SECONDS, WallClock


@pytest.fixture
def clock() -> Iterator[WallClock]:
    clock = WallClock()
    yield clock
    clock.close()


def test_wait__ends_when_the_instant_has_come_and_not_before(clock: WallClock) -> None:
    for _ in range(20):
        until = clock.now() + timedelta(milliseconds=7)
        assert clock.wait(until, None) == []
        assert clock.now() >= until
    assert clock.wait(datetime(2001, 1, 1, tzinfo=UTC), None) == []  # long past: at once


def test_wait__ends_for_a_file_and_for_a_while(clock: WallClock) -> None:
    reader, writer = os.pipe()
    clock.watch(reader, clock.close)
    far = clock.now() + timedelta(days=400)
    assert clock.wait(far, 0.01) == []
    os.write(writer, b"x")
    assert clock.wait(far, None) == [clock.close]
    clock.forget(reader)
    clock.forget(reader)
    assert clock.wait(far, 0.01) == []
    os.close(reader)
    os.close(writer)


def test_wait__for_a_far_instant_looks_at_the_clock_within_a_minute(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a clock that was set, and a machine that slept, are seen in time."""
    assert LONGEST_WAIT_SECONDS < 60
    monkeypatch.setattr(wall_clock, "LONGEST_WAIT_SECONDS", 0.05)
    begun = time.monotonic()
    assert clock.wait(clock.now() + timedelta(hours=5), None) == []
    assert 0.04 < time.monotonic() - begun < 5
