"""urllib3's connections, with what it has no options for: patience while sending, full packets, tickets."""

from __future__ import annotations

import math
import socket
import ssl
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from shared.http.guards import Answer, root_of
from shared.http.proxies import fault_of

CONNECT_TIMEOUT_SECONDS = 10.0
LARGE_PIECE = 64 * 1024
"""Bytes; a body up to here goes out in one piece, a piece above in full packets."""
OPTIONS = {
    "maxsize": 64,  # connections to one host that wait for the next call
    "socket_options": HTTPConnection.default_socket_options,  # urllib3 takes none with a proxy: 40 ms a call
}


class GuardedHttp(HTTPConnection):
    """answer: the newest one that has come; urllib3's own copies what is read from it once more. end_at: the
    monotonic second at which an answer must be there.
    """

    answer: Answer
    end_at: float = math.inf
    proxy_variable = "HTTP_PROXY"

    def response_class(self, sock: socket.socket, **options: Any) -> Answer:  # type: ignore[override]
        """http.client's hook for what reads an answer."""
        self.answer = Answer(sock, self.end_at, **options)
        return self.answer

    def connect(self) -> None:
        """Connect within CONNECT_TIMEOUT_SECONDS, which after that no longer limits sending."""
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
        """Large pieces go out in full packets, not one for the end of each of TLS's records; what is left of
        a piece goes out at once.
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
        sends of its own accord, tickets above all, is taken in and does not count.
        """
        sock = self.sock
        if super().is_connected:  # asked once: a ticket may come between two looks
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
    """The same by TLS."""

    proxy_variable = "HTTPS_PROXY"
