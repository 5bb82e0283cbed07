"""When a kept connection counts as open, without a network."""

from __future__ import annotations

from unittest.mock import PropertyMock

import pytest
from urllib3.connection import HTTPConnection

from shared.http.connections import GuardedHttps


def test_kept_connection__is_open_although_a_ticket_comes_after_the_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second look would find something to read, and take the connection for a closed one."""
    monkeypatch.setattr(HTTPConnection, "is_connected", PropertyMock(side_effect=[True, False]))
    assert GuardedHttps("box.example.com").is_connected
