"""One run at a time, whatever happens to the processes: many at once, frozen, cut off, and both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def run_crowd(url: str, *, rounds: int, seed: int) -> dict[str, Any]:
    """What the rounds showed; see crowd.py."""
    path = os.pathsep.join([str(TESTS.parent / "scripts"), str(TESTS)])
    command = [sys.executable, str(TESTS / "single_run" / "crowd.py"), url]
    done = subprocess.run(
        [*command, "--rounds", str(rounds), "--seed", str(seed)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    tally: dict[str, Any] = json.loads(done.stdout)
    print(f"seed {seed}: {tally}")
    assert done.stderr == ""
    return tally


def assert_held(tally: dict[str, Any], rounds: int) -> None:
    assert tally["broken"] == []
    assert sum(tally["rounds"].values()) == rounds
    assert tally["past_the_check"] <= rounds, "more than the one effect that a frozen run may be in"


def test_crowd__never_two_at_work(database_url: str) -> None:
    assert_held(run_crowd(database_url, rounds=12, seed=5), 12)


@pytest.mark.single_run
@pytest.mark.timeout(3600)
def test_crowd__two_hundred_rounds(database_url: str) -> None:
    assert_held(run_crowd(database_url, rounds=200, seed=1), 200)
