"""An installation with workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fleet import Fleet, open_fleet
from simulators.postgres import PostgresServer
from world import World


@pytest.fixture
def fleet(world: World, postgres: PostgresServer) -> Iterator[Fleet]:
    """No worker runs yet."""
    with open_fleet(world, postgres) as opened:
        yield opened
