"""The stage on which processes are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.stage import KillStage


@pytest.fixture
def stage(database_url: str, tmp_path: Path) -> Iterator[KillStage]:
    """The systems behind their gates, without a scene."""
    opened = KillStage(database_url, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What everything random is drawn from; --seed."""
    return int(request.config.getoption("--seed"))
