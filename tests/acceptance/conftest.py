"""The world that acceptance tests run the scripts in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from world import World, open_world

if TYPE_CHECKING:
    from conftest import Tls


@pytest.fixture
def world(database_url: str, tls: Tls, tmp_path: Path) -> Iterator[World]:
    """A whole installation, empty."""
    with open_world(
        database_url,
        tmp_path,
        pfx=tls.pfx(),
        ca_path=tls.ca_path,
        server_context=tls.mutual_server_context,
    ) as opened:
        yield opened
