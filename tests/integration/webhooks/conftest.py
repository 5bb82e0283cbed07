"""An outbox with webhook receivers behind it, for each test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from webhook_stage import Stage


@pytest.fixture
def stage(database_url: str) -> Iterator[Stage]:
    made = Stage(database_url)
    with made.resources:
        yield made
    made.database.close()
