"""A dead man's switch: the server behind HEARTBEAT_URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def watchman(delay: float = 0) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it is sent: "/start?rid=...", "/fail?rid=...", and "?rid=..." for a success.

    delay: after so many seconds it answers.
    """
    pings: list[str] = []
    patience = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pings.append(self.path.removeprefix("/ping"))
            patience.wait(delay)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ping", pings
    finally:
        patience.set()
        server.shutdown()
        server.server_close()


def kinds(pings: list[str]) -> list[str]:
    """What each ping was: "start", "success", "fail" or "log"."""
    return [ping.partition("?")[0].removeprefix("/") or "success" for ping in pings]
