"""Extends urllib3's connections where it has no options: time limits while sending, full packets, tickets."""

from __future__ import annotations

import math
import socket
import ssl
from typing import Any

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from shared.http.guards import Answer, root_of
from shared.http.proxies import fault_of

CONNECT_TIMEOUT_SECONDS = 10.0
LARGE_PIECE = 64 * 1024
"""Bytes; a body up to this size is sent in one piece, a larger piece in full packets."""
OPTIONS = {
    "maxsize": 64,  # idle connections per host
    # urllib3 sets none with a proxy, which costs 40 ms per call
    "socket_options": HTTPConnection.default_socket_options,
}

NO_RETRY = Retry(total=False, redirect=False)


def ask(pool: HTTPConnectionPool, method: str, target: str, headers: Any, body: Any) -> BaseHTTPResponse:
    """Send one request, and return its answer, whose body is not read yet. No redirection is followed,
    nothing is repeated, nothing unpacked.
    """
    return pool.urlopen(
        method,
        target,
        body=body,
        headers=headers,
        retries=NO_RETRY,
        redirect=False,
        assert_same_host=False,
        preload_content=False,
        decode_content=False,
    )


class GuardedHttp(HTTPConnection):
    """answer: the latest one; urllib3's own response would copy the bytes once more. end_at: the monotonic
    second by which an answer must be there.
    """

    answer: Answer
    end_at: float = math.inf
    proxy_variable = "HTTP_PROXY"

    def response_class(self, sock: socket.socket, **options: Any) -> Answer:  # type: ignore[override]
        """http.client's hook for the class that reads an answer."""
        self.answer = Answer(sock, self.end_at, **options)
        return self.answer

    def connect(self) -> None:
        """Connect within CONNECT_TIMEOUT_SECONDS; afterwards this does not limit sending."""
        patience, self.timeout = self.timeout, min(self.timeout or math.inf, CONNECT_TIMEOUT_SECONDS)
        try:
            super().connect()
        except (OSError, HTTPError) as exc:
            if self.proxy is None or isinstance(exc, ssl.SSLError):
                raise
            raise fault_of(self.proxy, self.proxy_variable, root_of(exc)) from exc
        finally:
            self.timeout = patience
        self.sock.settimeout(patience)

    def send(self, data: Any) -> None:
        """Send large pieces in full packets, instead of one short packet per TLS record; the rest of a piece
        is sent at once.
        """
        is_large = isinstance(data, bytes | memoryview) and len(data) > LARGE_PIECE
        if is_large:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        super().send(data)
        if is_large:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_connected(self) -> bool:
        """Whether the other side has neither closed nor sent anything since the last answer. What TLS 1.3
        sends by itself, mainly tickets, is read and does not count.
        """
        sock = self.sock
        if super().is_connected:  # checked once: a ticket may come between two checks
            return True
        if not isinstance(sock, ssl.SSLSocket):
            return False
        sock.settimeout(0)  # each request sets its own
        try:
            sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            pass
        return False


class GuardedHttps(GuardedHttp, HTTPSConnection):
    """The same with TLS."""

    proxy_variable = "HTTPS_PROXY"
