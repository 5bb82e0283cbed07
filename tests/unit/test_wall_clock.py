"""Waiting for an instant of the wall clock: with the kernel's timer, and without one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.loop.wall_clock import LONGEST_BLIND_WAIT_SECONDS, WallClock


@pytest.fixture
def clock() -> Iterator[WallClock]:
    clock = WallClock()
    yield clock
    clock.close()


def blind(clock: WallClock) -> WallClock:
    """Take the kernel's timer away, as on macOS."""
    if clock._timer is not None:
        clock._selector.unregister(clock._timer)
        os.close(clock._timer)
        clock._timer = None
    return clock


def test_timer__is_there_on_linux(clock: WallClock) -> None:
    assert (clock._timer is not None) == (sys.platform == "linux")


@pytest.mark.parametrize("is_blind", [False, True])
def test_wait__ends_when_the_instant_has_come_and_not_before(clock: WallClock, is_blind: bool) -> None:
    if is_blind:
        blind(clock)
    for _ in range(20):
        until = clock.now() + timedelta(milliseconds=7)
        assert clock.wait(until, None) == []
        assert clock.now() >= until
    assert clock.wait(datetime(2001, 1, 1, tzinfo=UTC), None) == []  # long past: at once


def test_wait__ends_for_a_file_and_for_a_while(clock: WallClock) -> None:
    reader, writer = os.pipe()
    clock.watch(reader, "pipe")
    far = clock.now() + timedelta(days=400)
    assert clock.wait(far, 0.01) == []
    os.write(writer, b"x")
    assert clock.wait(far, None) == ["pipe"]
    clock.forget(reader)
    clock.forget(reader)
    assert clock.wait(far, 0.01) == []
    os.close(reader)
    os.close(writer)


def test_wait__without_a_timer_looks_at_the_clock_within_a_minute(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(clock._selector, "select", lambda seconds: asked.append(seconds) or [])
    blind(clock).wait(clock.now() + timedelta(hours=5), None)
    clock.wait(clock.now() + timedelta(hours=5), 3.0)
    assert asked == [LONGEST_BLIND_WAIT_SECONDS, 3.0]
    assert LONGEST_BLIND_WAIT_SECONDS < 60
