"""Guards against hostile answers: limits their bytes and time, unpacks nothing, checks the declared length.

http.client itself limits the headers: 100 lines of 64 KiB.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from urllib3 import BaseHTTPResponse

from shared.base.variables import HOST_AND_PORT

ANSWER_LIMIT = 16 * 1024 * 1024
"""The most bytes of an answer that are read into memory as a whole, unless the caller allows more."""
MOST_VALUES = 1_000_000
"""How many values a JSON answer may contain: each needs about 80 bytes of memory, however short it is."""
DRAIN_LIMIT = 256 * 1024
"""The most bytes of an unused answer that are read to keep its connection; for a longer one it is closed."""
BUFFER = 64 * 1024

_UNFIT_FOR_A_LINE = re.compile(r"[\x00-\x20\x7f]")


class NoAnswerError(Exception):
    """The other side cannot be reached, hangs up, or is too slow. reason: Python's or OpenSSL's exception."""

    def __init__(self, reason: BaseException | str) -> None:
        super().__init__(str(reason))
        self.reason = reason if isinstance(reason, BaseException) else self


class UnfitError(NoAnswerError):
    """An address that cannot be sent, or an answer that we do not read: too large, or encoded.

    Catch it before NoAnswerError where it matters that repeating does not help.
    """


class Incoming(io.RawIOBase):
    """The bytes of one answer from a socket. The socket's time-out ends a silence; twice that ends a very
    slow sender: for the headers, and then for each read; end_at, a monotonic second, ends both.
    """

    def __init__(self, sock: socket.socket, end_at: float = math.inf) -> None:
        self._file = sock.makefile("rb", buffering=0)  # keeps the socket open when its connection is released
        self._receive = sock.recv_into
        self._patience = 2 * (sock.gettimeout() or 0.0)
        self._end_at = end_at
        self.begin()

    def begin(self) -> None:
        """Start the time limit of the next read."""
        self._give_up_at = min(time.monotonic() + self._patience, self._end_at)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The method by which http.client gets the stream."""
        return io.BufferedReader(self, BUFFER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a large view as a whole: TLS delivers 16 KiB at a time, and using the buffered reader for each
        costs a quarter more processor time.
        """
        view = memoryview(buffer)
        wanted = len(view) if len(view) > BUFFER else 1
        at = 0
        while at < wanted and (count := self._receive(view[at:])):
            at += count
            if time.monotonic() > self._give_up_at:
                raise TimeoutError(f"not complete after {self._patience:.0f} s")
        return at

    def close(self) -> None:
        self._file.close()
        super().close()


class Answer(http.client.HTTPResponse):
    """http.client's response, read from a guarded stream."""

    def __init__(self, sock: socket.socket, end_at: float = math.inf, **options: Any) -> None:
        self.incoming = Incoming(sock, end_at)
        super().__init__(self.incoming, **options)  # type: ignore[arg-type] # it only calls makefile


class Reply:
    """An answer whose body has not been read yet. Close it, or read it to the end.

    The body is read from http.client's response: urllib3's own would copy the bytes once more.
    """

    def __init__(self, raw: BaseHTTPResponse) -> None:
        connection: Any = raw.connection
        answer: Answer = connection.answer
        self._raw, self._answer = raw, answer
        self.status, self.headers = answer.status, answer.headers

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def read(self, limit: int = ANSWER_LIMIT) -> bytes:
        """The rest of the body. Raises UnfitError for a success of more than `limit` bytes; a failure of that
        size is read as empty, because its status is enough.
        """
        answer, whole = self._answer, bytearray()
        try:
            with self._reading():
                if (answer.length or 0) > limit:
                    raise UnfitError(f"an answer of {answer.length} bytes, which is more than {limit}")
                while piece := answer.read(BUFFER):  # in pieces, whatever the declared length
                    whole += piece
                    if len(whole) > limit:
                        raise UnfitError(f"an answer of more than {limit} bytes")
                self._refuse_early_end()
        except UnfitError:
            if self.is_success:
                raise
            return b""
        self.close()
        return bytes(whole)

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as possible; 0 at the end of the body. Raises NoAnswerError when the
        connection ended too early.
        """
        with self._reading():
            count = self._answer.readinto(view)
            if not count:
                self._refuse_early_end()
        return count

    @contextmanager
    def _reading(self) -> Iterator[None]:
        encoding = self.headers.get("Content-Encoding") or "identity"
        try:
            if encoding.strip().lower() != "identity":  # never unpack a compression bomb
                raise UnfitError(f"an answer packed as {encoding!r:.40}, which was not asked for")
            self._answer.incoming.begin()
            yield
        except BaseException as exc:
            self._raw.close()
            if isinstance(exc, OSError | http.client.HTTPException):
                raise NoAnswerError(exc) from exc
            raise

    def _refuse_early_end(self) -> None:
        if self._answer.length:
            raise http.client.IncompleteRead(b"", self._answer.length)

    def close(self) -> None:
        """Release the connection; close it unless only a little of the body is left."""
        answer = self._answer
        if not answer.isclosed() and answer.length is not None and answer.length <= DRAIN_LIMIT:
            with suppress(OSError, http.client.HTTPException):
                answer.incoming.begin()
                while answer.read(BUFFER):
                    pass
        if not answer.isclosed():
            self._raw.close()
        self._raw.release_conn()


def root_of(exc: BaseException) -> BaseException:
    """The exception that `requests` and urllib3 wrapped: Python's own, or the innermost of theirs."""
    while True:
        inner = exc.__cause__ or next((arg for arg in exc.args if isinstance(arg, BaseException)), None)
        if inner is None:
            return exc
        exc = inner


def checked(url: str) -> SplitResult:
    """The parts of a valid address. Raises UnfitError."""
    try:
        parts = urlsplit(url)
        is_fit = parts.port != 0
    except ValueError as exc:
        raise UnfitError(f"the address {url!r:.200} cannot be read") from exc
    is_fit = is_fit and parts.scheme in ("http", "https") and bool(HOST_AND_PORT.fullmatch(parts.netloc))
    if not is_fit or _UNFIT_FOR_A_LINE.search(url):
        raise UnfitError(f"the address {url!r:.200} cannot be sent")
    return parts


def target_of(parts: SplitResult) -> str:
    """The path and the query of an address, as they stand in a request."""
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def origin_of(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an address. Raises UnfitError when it has no host."""
    parts = checked(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object of an answer; None when it is not one, is nested too deep, or has too many values."""
    if content.count(b",") >= MOST_VALUES:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def within(found: object, *names: str) -> Any:
    """The value at this path of names in a JSON answer; None when one is missing."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
