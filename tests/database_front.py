"""Stand-ins between the product and PostgreSQL: a line that falls silent, a pooler, a server that refuses.

They speak as much of PostgreSQL's protocol as they need, without TLS.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import LifoQueue
from urllib.parse import urlsplit, urlunsplit

from raw_server import serving

READY = b"Z"


def beside(url: str, address: str) -> str:
    """The same URL, at another host and port."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@{address}"))


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = sock.recv(count - len(data))
        if not block:
            raise ConnectionError
        data += block
    return data


def message(sock: socket.socket) -> tuple[bytes, bytes]:
    """One message: its kind, and all of its bytes."""
    head = receive(sock, 5)
    return head[:1], head + receive(sock, struct.unpack("!I", head[1:])[0] - 4)


def start_up(client: socket.socket) -> tuple[bytes, dict[str, str]]:
    """The client's first message, as it came and as {name: value}; TLS is refused."""
    while True:
        length, code = struct.unpack("!II", receive(client, 8))
        rest = receive(client, length - 8)
        if code not in (80877103, 80877104):
            fields = rest.rstrip(b"\0").decode().split("\0")
            return struct.pack("!II", length, code) + rest, dict(zip(fields[::2], fields[1::2], strict=True))
        client.sendall(b"N")


def refusal(code: str, text: str, severity: str = "FATAL") -> bytes:
    """An error that ends a connection, in any language."""
    body = b"".join(
        kind + value.encode() + b"\0"
        for kind, value in ((b"S", severity), (b"V", "FATAL"), (b"C", code), (b"M", text))
    )
    return b"E" + struct.pack("!I", len(body) + 5) + body + b"\0"


@contextmanager
def refusing(code: str, text: str, severity: str = "FATAL") -> Iterator[str]:
    """A server that lets nobody in; its address."""

    def serve(client: socket.socket) -> None:
        start_up(client)
        client.sendall(refusal(code, text, severity))

    with serving(serve) as address:
        yield address


@dataclass
class Line:
    """A line to the server. Once it has seen the word, no byte passes any more and nothing is closed."""

    address: str = ""
    word: bytes | None = None
    is_silent: threading.Event = field(default_factory=threading.Event)


@contextmanager
def line_to(url: str, word: bytes | None = None) -> Iterator[Line]:
    """A line to the server of the URL."""
    parts = urlsplit(url)
    line = Line(word=word)
    end = threading.Event()

    def serve(client: socket.socket) -> None:
        with socket.create_connection((parts.hostname, parts.port)) as server:
            other = {client: server, server: client}
            while not end.is_set():
                for sock in select.select([client, server], [], [], 0.05)[0]:
                    if line.is_silent.is_set():
                        end.wait(0.05)
                        continue
                    block = sock.recv(65536)
                    if not block:
                        return
                    if line.word is not None and line.word in block:
                        line.is_silent.set()
                        continue
                    other[sock].sendall(block)

    with serving(serve) as line.address:
        try:
            yield line
        finally:
            end.set()


class Pooler:
    """Refuses `options`, and tells clients a process number of its own. In the mode "transaction" it gives a
    client, for one transaction, the server's connection that was free last; the first login is good for all.
    """

    def __init__(self, url: str, mode: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._is_shared = mode == "transaction"
        self._free: LifoQueue[socket.socket] = LifoQueue()
        self._greeting = b""
        self.opened: list[socket.socket] = []

    def serve(self, client: socket.socket) -> None:
        first, settings = start_up(client)
        if "options" in settings:
            client.sendall(refusal("08P01", "unsupported startup parameter: options"))
        elif not self._is_shared:
            server = self._log_in(client, first)
            while (text := message(client))[0] != b"X":
                self._answer(client, server, text[1])
        else:
            if self._greeting:
                client.sendall(b"R\0\0\0\10\0\0\0\0" + self._greeting)
            else:
                self._free.put(self._log_in(client, first))
            while (text := message(client))[0] != b"X":
                server = self._free.get()
                while self._answer(client, server, text[1]) != b"I":
                    text = message(client)
                self._free.put(server)

    def _log_in(self, client: socket.socket, first: bytes) -> socket.socket:
        server = socket.create_connection(self._server)
        self.opened.append(server)
        server.sendall(first)
        while True:
            kind, text = message(server)
            if kind == b"K":
                text = text[:5] + b"\0\0\0\7" + text[9:]
            if kind in (b"S", b"K", READY):
                self._greeting += text
            client.sendall(text)
            if kind == READY:
                return server
            if kind == b"R" and struct.unpack("!I", text[5:9])[0] not in (0, 12):
                server.sendall(message(client)[1])

    @staticmethod
    def _answer(client: socket.socket, server: socket.socket, text: bytes) -> bytes:
        """Hand a statement over and its answer back; in which state that leaves the transaction."""
        server.sendall(text)
        kind = b""
        while kind != READY:
            kind, text = message(server)
            client.sendall(text)
        return text[5:]


@contextmanager
def pooler_to(url: str, mode: str) -> Iterator[str]:
    """A pooler in front of the server of the URL; its address."""
    pooler = Pooler(url, mode)
    try:
        with serving(pooler.serve) as address:
            yield address
    finally:
        for server in pooler.opened:
            server.close()


@contextmanager
def encrypted(url: str, context: ssl.SSLContext) -> Iterator[str]:
    """TLS in front of the server of the URL, whose own build may lack it; its address."""
    parts = urlsplit(url)

    def serve(plain: socket.socket) -> None:
        receive(plain, 8)
        plain.sendall(b"S")
        with (
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection((parts.hostname, parts.port)) as server,
        ):
            server.sendall(start_up(client)[0])
            while True:
                for sock, other in ((client, server), (server, client)):
                    sock.settimeout(0.01)
                    with suppress(TimeoutError):
                        block = sock.recv(65536)
                        if not block:
                            return
                        other.sendall(block)

    with serving(serve) as address:
        yield address
