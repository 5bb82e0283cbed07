"""The world that acceptance tests run the scripts in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Tls
from world import World, open_world


@pytest.fixture
def world(database_url: str, tls: Tls, tmp_path: Path) -> Iterator[World]:
    with open_world(
        database_url,
        tmp_path,
        pfx=tls.pfx(),
        ca_path=tls.ca_path,
        server_context=tls.mutual_server_context,
    ) as opened:
        yield opened
