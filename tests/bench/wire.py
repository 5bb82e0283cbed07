"""HTTP/1.1 off a socket with as little Python per byte as can be: for the bench's Box stand-in.

The standard library's handlers parse each head with the e-mail package, which costs more than all else that a
small request needs.
"""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass, field

HEAD_LIMIT = 64 * 1024


class ClosedError(Exception):
    """The other side went away in the middle of a request."""


class Wire:
    """One connection, and the bytes read off it that nobody has asked for yet."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray(HEAD_LIMIT)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self.is_tls = False

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on in TLS, as the server. Nothing may have been read ahead."""
        self._socket = context.wrap_socket(self._socket, server_side=True)
        self.is_tls = True

    def read_until(self, mark: bytes) -> bytes | None:
        """The bytes before the mark, which is taken off too; None when the connection ends first."""
        while (at := self._buffer.find(mark, self._start, self._end)) < 0:
            if self._start:
                rest = bytes(self._view[self._start : self._end])
                self._view[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            if self._end == HEAD_LIMIT:
                raise ClosedError
            count = self._socket.recv_into(self._view[self._end :])
            if not count:
                return None
            self._end += count
        found = bytes(self._view[self._start : at])
        self._start = at + len(mark)
        return found

    def read_into(self, view: memoryview) -> None:
        """Fill the view. Raises ClosedError when the connection ends first."""
        at = min(self._end - self._start, len(view))
        if at:
            view[:at] = self._view[self._start : self._start + at]
            self._start += at
        while at < len(view):
            count = self._socket.recv_into(view[at:])
            if not count:
                raise ClosedError
            at += count

    def send(self, data: bytes) -> None:
        """All of it."""
        self._socket.sendall(data)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@dataclass(slots=True)
class Request:
    """One request; its body is still on the wire. Header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    wire: Wire
    left: int = 0
    is_chunked: bool = False

    @classmethod
    def read(cls, wire: Wire) -> Request | None:
        """The next request of a connection; None when there is none."""
        head = wire.read_until(b"\r\n\r\n")
        if not head:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        request = cls(method, path, query, headers, wire)
        request.is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        request.left = 0 if request.is_chunked else int(headers.get("content-length", 0))
        if headers.get("expect", "").lower() == "100-continue":
            wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return request

    def read_block(self, view: memoryview) -> int:
        """Fill the view, or as much of it as the body has left (of the present chunk); 0 at the end."""
        if not self.left and self.is_chunked:
            self._next_chunk()
        count = min(self.left, len(view))
        if count:
            self.wire.read_into(view[:count])
            self.left -= count
            if self.is_chunked and not self.left:
                self.wire.read_until(b"\r\n")
        return count

    def read_body(self) -> bytearray:
        """The rest of the body, in memory."""
        if not self.is_chunked:
            whole = bytearray(self.left)
            self.wire.read_into(memoryview(whole))
            self.left = 0
            return whole
        whole, block = bytearray(), memoryview(bytearray(HEAD_LIMIT))
        while count := self.read_block(block):
            whole += block[:count]
        return whole

    def drain(self) -> None:
        """Read what nobody wanted, so that the connection can be used on."""
        if self.left or self.is_chunked:
            block = memoryview(bytearray(HEAD_LIMIT))
            while self.read_block(block):
                pass

    def _next_chunk(self) -> None:
        line = self.wire.read_until(b"\r\n")
        if line is None:
            raise ClosedError
        self.left = int(line.partition(b";")[0], 16)
        if not self.left:
            self.is_chunked = False
            while self.wire.read_until(b"\r\n"):
                pass


@dataclass(slots=True)
class Answer:
    """What goes back."""

    status: int
    content: object = None
    headers: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Head and body in one piece."""
        body = b"" if self.content is None else json.dumps(self.content).encode()
        lines = [f"HTTP/1.1 {self.status} {'OK' if self.status < 400 else 'Refused'}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != 204:
            lines.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
