"""HTTP as the Box simulator needs it: streamed bodies, one write per answer, connections that can drop.

Bodies come with Content-Length or in chunks (rclone sends uploads so); multipart forms are read part by part
from the socket, so that a file of any size is never in memory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import selectors
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl

from simulators.box_store import MEBIBYTE, RefusedError

logger = logging.getLogger(__name__)

BLOCK_SIZE = MEBIBYTE
MAX_JSON_SIZE = 64 * MEBIBYTE
MAX_LINE = 64 * 1024


class TruncatedBodyError(Exception):
    """The connection ended before the body did."""


class Body:
    """A request's body, read once. `length` is None when it comes in chunks; `received` counts its bytes."""

    def __init__(self, stream: BinaryIO, length: int | None) -> None:
        self.length = length
        self.received = 0
        self._stream = stream
        self._left = length or 0  # of the body, or of the present chunk
        self._chunks_left = length is None

    def readinto(self, view: memoryview) -> int:
        """Fill as much of the view as there is at once; 0 at the end of the body."""
        if not self._left and self._chunks_left:
            self._next_chunk()
        if not self._left:
            return 0
        count = self._stream.readinto(view[: self._left])  # type: ignore[attr-defined]
        if not count:
            raise TruncatedBodyError
        self._left -= count
        self.received += count
        if self._chunks_left and not self._left:
            self._line()  # the line end behind a chunk
        return int(count)

    def read_all(self) -> bytes:
        """The whole body; 413 when it is too long to be JSON."""
        buffer, whole = memoryview(bytearray(64 * 1024)), bytearray()
        while count := self.readinto(buffer):
            whole += buffer[:count]
            if len(whole) > MAX_JSON_SIZE:
                raise RefusedError(413, "request_entity_too_large", "Request Entity too Large")
        return bytes(whole)

    def drain(self, buffer: memoryview) -> None:
        """Read what nobody wanted, so that the client can finish sending and read the answer."""
        while self.readinto(buffer):
            pass

    def _next_chunk(self) -> None:
        try:
            self._left = int(self._line().partition(b";")[0], 16)
        except ValueError:
            raise TruncatedBodyError from None
        if not self._left:
            self._chunks_left = False
            while self._line():
                pass

    def _line(self) -> bytes:
        line = self._stream.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise TruncatedBodyError
        return line.strip()


@dataclass
class Call:
    """One request as it stands on the wire. `path` is without the query, header names are in lower case.

    client: the address and port that it came from. user_id: who makes the call, once the gate has let it in.
    """

    method: str
    path: str
    query_string: str
    headers: dict[str, str]
    body: Body
    base_url: str
    buffer: memoryview
    client: tuple[str, int]
    notes: dict[str, bool] = field(default_factory=dict)
    user_id: str = ""

    @property
    def target(self) -> str:
        """`METHOD /path?query`, what faults are matched against."""
        return f"{self.method} {self.path}" + (f"?{self.query_string}" if self.query_string else "")

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; the last of several by one name."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, 400 `bad_request` when it is none. An empty body is an empty object."""
        raw = self.body.read_all()
        try:
            value = json.loads(raw or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RefusedError(400, "bad_request", "The request body is not a JSON object")
        return value


@dataclass
class Answer:
    """What is sent back. `close` ends the connection after it; `cut`: this much of the body, then the end."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False
    cut: int | None = None

    @classmethod
    def of_json(cls, status: int, value: object, headers: dict[str, str] | None = None) -> Answer:
        """An answer in JSON."""
        body = json.dumps(value, ensure_ascii=False).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})

    def to_bytes(self) -> bytes:
        """The answer on the wire, in one piece."""
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {reason}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {len(self.body)}")
        if self.close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body[: self.cut]


# Answers a call; None drops the connection without a word.
App = Callable[[Call], Answer | None]


class _Handler(BaseHTTPRequestHandler):
    """Reads requests from one connection and gives them to the server's app."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _buffer: memoryview | None = None

    def _serve(self) -> None:
        server = cast("Server", self.server)
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BLOCK_SIZE))
        headers = {name.lower(): value for name, value in self.headers.items()}
        path, _, query = self.path.partition("?")
        body = Body(cast("BinaryIO", self.rfile), _body_length(headers))
        host = headers.get("host") or server.address
        call = Call(
            self.command,
            path,
            query,
            headers,
            body,
            f"{server.scheme}://{host}",
            memoryview(self._buffer),
            self.client_address,
        )
        try:
            answer = server.app(call)
        except TruncatedBodyError:
            answer = None
        if answer is None:
            self.close_connection = True
            return
        self.wfile.write(answer.to_bytes())
        self.close_connection = self.close_connection or answer.close or answer.cut is not None

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _serve  # noqa: N815 -- http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded by the simulator."""


def _body_length(headers: dict[str, str]) -> int | None:
    """The body's length in bytes, None when it comes in chunks."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return None
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


class Server(ThreadingHTTPServer):
    """A server whose open connections end with it."""

    daemon_threads = True
    request_queue_size = 128
    timeout = 0  # handle_request() is called when there is one

    def __init__(self, host: str, port: int, app: App, ssl_context: ssl.SSLContext | None) -> None:
        self.app = app
        self._ssl_context = ssl_context
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._connections_lock = threading.Lock()
        self._is_stopping = False
        self._wake_up, self._woken = socket.socketpair()
        try:
            super().__init__((host, port), _Handler)
        except BaseException:  # the port is taken
            self._wake_up.close()
            self._woken.close()
            raise

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "http" if self._ssl_context is None else "https"

    @property
    def address(self) -> str:
        """HOST:PORT as bound."""
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection; TLS is agreed here, so that a slow client holds up nobody."""
        connection: socket.socket = request
        if self._ssl_context is not None:
            try:
                connection = self._ssl_context.wrap_socket(request, server_side=True)
            except OSError:
                self.shutdown_request(request)
                return
        with self._connections_lock:
            self._connections[threading.current_thread()] = connection
            if self._is_stopping:
                connection.close()
        try:
            super().process_request_thread(connection, client_address)
        finally:
            with self._connections_lock:
                del self._connections[threading.current_thread()]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a fault of the simulator."""
        error = sys.exception()
        if not isinstance(error, OSError | TruncatedBodyError):
            logger.error("the connection from %s failed: %r", client_address, error)

    def serve(self) -> None:
        """Take connections until stop(); unlike serve_forever() it need not look up again and again."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while self._woken not in [key.fileobj for key, _ in selector.select()]:
                self.handle_request()
            self._woken.close()
        self.server_close()

    def stop(self, serving: threading.Thread) -> None:
        """Take no more connections, then end those that are open. `serving` is the thread in serve()."""
        self._wake_up.close()
        serving.join()
        with self._connections_lock:
            self._is_stopping = True
            connections = dict(self._connections)
        for thread, connection in connections.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)


@dataclass(frozen=True)
class FormPart:
    """One part of a multipart form; `blocks` must be read before the next part."""

    name: str
    is_file: bool
    blocks: Iterator[memoryview]

    def read(self) -> bytes:
        """The part's whole value."""
        return b"".join(bytes(block) for block in self.blocks)


class MultipartReader:
    """Reads a multipart/form-data body (RFC 7578) in one pass, a block at a time."""

    def __init__(self, content_type: str, body: Body, buffer: memoryview) -> None:
        found = re.search(r'boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
        if "multipart/" not in content_type.lower() or found is None:
            raise RefusedError(400, "bad_request", "The request is not multipart/form-data")
        self._mark = b"\r\n--" + (found[1] or found[2]).encode()
        self._body = body
        self._buffer = buffer
        self._pending = bytearray(b"\r\n")  # so that the first boundary looks like every other

    def parts(self) -> Iterator[FormPart]:
        """The form's parts in their order; 400 when the form ends before its closing boundary."""
        for _ in self._until_mark():
            pass
        while not self._take(2).startswith(b"--"):
            head = self._head()
            name = re.search(r'\bname="((?:[^"\\]|\\.)*)"', head)
            is_file = re.search(r"\bfilename\*?=", head) is not None
            blocks = self._until_mark()
            yield FormPart(name[1] if name else "", is_file, blocks)
            for _ in blocks:
                pass

    def _fill(self) -> None:
        count = self._body.readinto(self._buffer)
        if not count:
            raise RefusedError(400, "bad_request", "The multipart body has no closing boundary")
        self._pending += self._buffer[:count]

    def _take(self, count: int) -> bytes:
        while len(self._pending) < count:
            self._fill()
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken

    def _head(self) -> str:
        """A part's header lines, beginning behind the boundary's line end."""
        while (end := self._pending.find(b"\r\n\r\n")) < 0:
            if len(self._pending) > MAX_LINE + BLOCK_SIZE:
                raise RefusedError(400, "bad_request", "The multipart headers are too long")
            self._fill()
        return self._take(end + 4).decode("utf-8", "replace")

    def _until_mark(self) -> Iterator[memoryview]:
        """The bytes up to the next boundary, which is consumed."""
        keep = len(self._mark) - 1
        while (at := self._pending.find(self._mark)) < 0:
            sure = len(self._pending) - keep
            if sure > 0:
                block, self._pending = self._pending, self._pending[sure:]
                yield memoryview(block)[:sure]
            self._fill()
        block, self._pending = self._pending, self._pending[at + len(self._mark) :]
        if at:
            yield memoryview(block)[:at]
