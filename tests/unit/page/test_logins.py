"""How often somebody may try a password."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.page.logins import (
    FREE_TRIES_OF_NAME,
    FREE_TRIES_OF_PEER,
    LONGEST_DELAY,
    MEMORY,
    MOST_ENTRIES,
    Tries,
)

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
NOTHING = timedelta(0)


def failures(tries: Tries, name: str, count: int, now: datetime = NOW) -> None:
    """So many tries, each from another address."""
    for number in range(count):
        assert tries.begin(name, f"10.0.{number}.1", now) == NOTHING


def test_name__waits_twice_as_long_after_each_failure() -> None:
    tries, now, waits = Tries(), NOW, []
    failures(tries, "anna", FREE_TRIES_OF_NAME)
    for _ in range(8):
        wait = tries.begin("anna", "10.1.0.1", now)
        waits.append(wait.total_seconds())
        assert tries.begin("anna", "10.1.0.1", now + wait - timedelta(seconds=1)) == timedelta(seconds=1)
        now += wait
        assert tries.begin("anna", "10.1.0.1", now) == NOTHING
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert timedelta(seconds=waits[-1]) == LONGEST_DELAY
    assert tries.begin("otto", "10.1.0.2", now) == NOTHING, "others do not wait"
    assert tries.begin("anna", "10.1.0.1", now + MEMORY) == NOTHING


def test_peer__is_bounded_over_all_names() -> None:
    tries = Tries()
    for number in range(FREE_TRIES_OF_PEER):
        assert tries.begin(f"name {number}", f"2001:db8::{number:x}", NOW) == NOTHING
    assert tries.begin("anna", "2001:db8::ffff", NOW) == timedelta(seconds=5), "one network, one customer"
    assert tries.begin("anna", "2001:db8:0:1::1", NOW) == NOTHING


def test_success__clears_the_name_and_not_the_guesses_at_others() -> None:
    tries = Tries()
    failures(tries, "anna", FREE_TRIES_OF_NAME)
    tries.succeeded("anna", "10.0.4.1")
    failures(tries, "anna", FREE_TRIES_OF_NAME)
    tries = Tries()
    for number in range(FREE_TRIES_OF_PEER - 1):
        tries.begin(f"name {number}", "10.0.0.1", NOW)
    for _ in range(3):
        assert tries.begin("mallory", "10.0.0.1", NOW) == NOTHING
        tries.succeeded("mallory", "10.0.0.1")
    tries.begin("one more", "10.0.0.1", NOW)
    assert tries.begin("mallory", "10.0.0.1", NOW) > NOTHING


def test_memory__is_bounded() -> None:
    tries = Tries()
    for number in range(MOST_ENTRIES + 500):
        tries.begin(f"name {number}", f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", NOW)
    assert len(tries) == 2 * MOST_ENTRIES
