"""The page's server by a clock of the test's own: slow clients, and the watchdog."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from page import open_page
from shared.page.guards import HEADERS
from shared.page.server import CLIENT_SECONDS, STUCK_SECONDS, PageServer


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[PageServer]:
    with open_page(database_url, tmp_path, ADMIN_LISTEN="127.0.0.1:0") as page:
        made = PageServer(page.app, page.settings.access, HEADERS)
        yield made
        made._finish()
        made._server.task_dispatcher.shutdown()


def test_client__that_sends_a_byte_now_and_then_is_disconnected(server: PageServer) -> None:
    """Something moves on its connection all the time, which is all that waitress looks at."""
    now = time.time()
    with contextlib.ExitStack() as stack:
        host, port = server.address.split(":")
        slow, quick = (stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(2))
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for step in range(4):
            slow.sendall(b"a")
            quick.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            quick.settimeout(0.1)
            answered = b""
            while b"ok\n" not in answered:
                server._turn(0.1)
                with contextlib.suppress(TimeoutError):
                    answered += quick.recv(65536)
            server._turn(0.1)
            for channel in server._server.active_channels.values():
                channel.last_activity = now + step * CLIENT_SECONDS / 3
            server._server.maintenance(now + step * CLIENT_SECONDS / 3)
        server._turn(0.1)
        slow.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""
        quick.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert len(server._server.active_channels) == 1


def test_watchdog__is_not_fed_while_no_thread_takes_the_requests(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = SimpleNamespace(queue=["a request"])
    with monkeypatch.context() as patch:
        patch.setattr(server._server, "task_dispatcher", waiting)
        assert server._answers(0)
        assert server._answers(STUCK_SECONDS - 1)
        assert not server._answers(STUCK_SECONDS)
        waiting.queue.clear()
        assert server._answers(STUCK_SECONDS + 1)
        waiting.queue.append("a later one")
        assert server._answers(STUCK_SECONDS + 2)
