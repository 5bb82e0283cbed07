"""The simulated DAM's wire: requests, answers, injected faults and the threaded server that joins them.

HTTP/1.1 with keep-alive; the head and the body of a small answer leave in one write, so that a loopback call
takes about a millisecond.
"""

import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from simulators.dam_shapes import API_ROOT, exception_body

JSON_TYPE = "application/json;charset=UTF-8"
HTML_TYPE = "text/html;charset=UTF-8"
HANDSHAKE_SECONDS = 10.0
CONTROL_ROOT = "/_sim"
_RAW_REFUSED = frozenset('[]{}"<>|^`\\')  # Tomcat refuses these in a request line unless percent-encoded


class Headers(Mapping[str, str]):
    """A request's headers, looked up without regard to case."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        """Keeps the names as they were sent."""
        self._pairs = {name.lower(): (name, value) for name, value in pairs.items()}

    def __getitem__(self, name: str) -> str:
        return self._pairs[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return str(name).lower() in self._pairs

    def __iter__(self) -> Iterator[str]:
        return iter(name for name, _ in self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)


@dataclass
class Request:
    """One request as it arrived. `path` is decoded, `target` raw; `status` 0 means no answer was sent."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    json: Any
    headers: Headers
    status: int
    at: float  # seconds since the epoch
    target: str = ""
    client_host: str = ""
    client_port: int = 0
    client_certificate: str | None = None  # common name of the certificate the client showed

    @property
    def params(self) -> dict[str, str]:
        """Query and form together: the DAM takes most parameters from either."""
        return {**self.query, **self.form}

    @property
    def route(self) -> str:
        """The path below /otmmapi/v6, without a slash at the end; empty when it lies elsewhere."""
        path = self.path.rstrip("/")
        return path.removeprefix(API_ROOT) if path.startswith(f"{API_ROOT}/") else ""


@dataclass
class Response:
    """An answer: either `body`, or `blocks` of `length` bytes together."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    blocks: Iterator[bytes] | None = None
    length: int = 0


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(status, json.dumps(value).encode(), headers=headers or {})


def html_response(status: int, title: str, headers: dict[str, str] | None = None) -> Response:
    """An answer such as proxies and log-in pages give."""
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Response(status, page.encode(), HTML_TYPE, headers or {})


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


Drop = Literal["before", "after"]


@dataclass
class Fault:
    """One injected fault; `hits` counts the requests it has spoilt, `skip` those it still lets through."""

    match: str
    status: int | None = None
    times: int | None = None
    body: Any = None
    html: bool = False
    drop: Drop | None = None
    delay: float | None = None
    truncate: int | None = None
    retry_after: int | None = None
    skip: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what could never work."""
        try:
            self._pattern = re.compile(self.match)
        except re.error as exc:
            raise ValueError(f"match is no regular expression: {exc}") from exc
        if self.drop not in (None, "before", "after"):
            raise ValueError("drop is 'before', 'after' or None")

    def matches(self, request: Request) -> bool:
        """Searched in `METHOD /path?query`, as sent and decoded."""
        raw = f"{request.method} {request.target}"
        return bool(self._pattern.search(raw) or self._pattern.search(unquote(raw)))

    def answer(self) -> Response | None:
        """The answer in the DAM's stead, or None when the DAM itself answers."""
        if self.status is None and self.body is None and not self.html and self.retry_after is None:
            return None
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        status = self.status or (502 if self.html else 503 if self.retry_after is not None else 200)
        phrase = _phrase(status)
        if self.body is None:
            if self.html:
                return html_response(status, f"{status} {phrase}", headers)
            return json_response(exception_body(status, phrase), status, headers)
        if isinstance(self.body, str | bytes):
            raw = self.body.encode() if isinstance(self.body, str) else self.body
            return Response(status, raw, HTML_TYPE if self.html else JSON_TYPE, headers)
        return json_response(self.body, status, headers)


class FaultBook:
    """The faults in force, first come, first served."""

    def __init__(self) -> None:
        """Empty."""
        self._guard = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Takes effect with the next request."""
        with self._guard:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """No fault is left."""
        with self._guard:
            self._faults.clear()

    def claim(self, request: Request) -> Fault | None:
        """The fault that spoils this request, counted as a hit."""
        with self._guard:
            for fault in self._faults:
                if (fault.times is not None and fault.hits >= fault.times) or not fault.matches(request):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                return fault
        return None


class Application(Protocol):
    """What the server asks of the simulator."""

    faults: FaultBook
    stopping: threading.Event

    def log(self, request: Request) -> None:
        """Remember the request."""

    def answer(self, request: Request) -> Response:
        """The DAM's own answer."""

    def control(self, request: Request) -> Response:
        """The answer of the control surface."""


class DamServer(ThreadingHTTPServer):
    """A thread per connection; stopping it ends the open ones too, so that no socket is left behind."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: Application, tls: ssl.SSLContext | None) -> None:
        """Binds and listens at once. Raises OSError when the address is taken."""
        self.app = app
        self._tls = tls
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        super().__init__(address, DamHandler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts; the connection's thread does the TLS handshake, so a silent client holds up nobody."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """One daemon thread for the connection."""
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._guard:
            self._connections[request] = thread
        thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handshake, then requests until one side closes."""
        if isinstance(request, ssl.SSLSocket):
            request.settimeout(HANDSHAKE_SECONDS)
            request.do_handshake()
            request.settimeout(None)
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes, and forgets the connection."""
        super().shutdown_request(request)
        with self._guard:
            self._connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a bug of ours and shows its traceback."""
        if not isinstance(
            sys.exception(), OSError
        ):  # ConnectionError, TimeoutError and ssl.SSLError are OSErrors
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stops listening and ends every connection."""
        self.shutdown()
        self.server_close()
        with self._guard:
            open_now = dict(self._connections)
        for connection, thread in open_now.items():
            try:
                # Not SSLSocket.shutdown: it would pull the TLS state from under the other thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:
                continue
            thread.join(timeout=2)


class DamHandler(BaseHTTPRequestHandler):
    """Reads a request, lets a fault have its way with it, and sends what is left."""

    protocol_version = "HTTP/1.1"
    server_version = "Apache-Coyote/1.1"
    disable_nagle_algorithm = True
    server: DamServer

    def _serve(self) -> None:
        if _RAW_REFUSED.intersection(self.path):
            self.close_connection = True
            self._send(html_response(400, "HTTP Status 400: Invalid character found in the request target"))
            return
        request = self._read()
        app = self.server.app
        if request.path == CONTROL_ROOT or request.path.startswith(f"{CONTROL_ROOT}/"):
            self._send(app.control(request))
            return
        app.log(request)
        fault = app.faults.claim(request)
        if fault is None:
            self._reply(request, app.answer(request))
        else:
            self._spoil(request, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names the base class calls

    def _spoil(self, request: Request, fault: Fault) -> None:
        if fault.delay:
            self.server.app.stopping.wait(fault.delay)
        response = None
        if fault.drop != "before":
            response = fault.answer() or self.server.app.answer(request)
        if fault.drop is not None or response is None:
            self.close_connection = True
            return
        self._reply(request, response, fault.truncate)

    def _reply(self, request: Request, response: Response, truncate: int | None = None) -> None:
        request.status = response.status
        self._send(response, truncate)

    def _read(self) -> Request:
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        parsed: Any = None
        if kind == "application/json" and body:
            try:
                parsed = json.loads(body)
            except ValueError:
                parsed = None
        is_form = kind == "application/x-www-form-urlencoded"
        return Request(
            method=self.command,
            path=unquote(address.path),
            query=dict(parse_qsl(address.query, keep_blank_values=True)),
            form=dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True)) if is_form else {},
            json=parsed,
            headers=Headers(dict(self.headers.items())),
            status=0,
            at=time.time(),
            target=self.path,
            client_host=str(self.client_address[0]),
            client_port=int(self.client_address[1]),
            client_certificate=self._certificate_name(),
        )

    def _certificate_name(self) -> str | None:
        connection: object = self.connection
        certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
        for pairs in (certificate or {}).get("subject", ()):
            for pair in pairs:
                if isinstance(pair, tuple) and pair[0] == "commonName":
                    return str(pair[1])
        return None

    def _send(self, response: Response, truncate: int | None = None) -> None:
        blocks = iter([response.body]) if response.blocks is None else response.blocks
        length = len(response.body) if response.blocks is None else response.length
        left = length if truncate is None else min(truncate, length)
        if left < length:
            self.close_connection = True
        pending = self._head(response, length)
        for block in blocks:
            part = block[:left]
            left -= len(part)
            self.wfile.write(pending + part if pending else part)
            pending = b""
            if left <= 0:
                break
        if pending:
            self.wfile.write(pending)

    def _head(self, response: Response, length: int) -> bytes:
        headers = {
            "Server": self.server_version,
            "Date": self.date_time_string(),
            "Content-Type": response.content_type,
            "Content-Length": str(length),
            **response.headers,
        }
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error: `DamSimulator.requests` is the log."""
