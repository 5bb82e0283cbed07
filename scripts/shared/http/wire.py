"""HTTP/1.1 for both clients: kept-alive connections that all threads share, and bodies without copies.

The standard library's http.client, and no more than these clients need on top of it: for each small file it
costs a quarter of the processor time of `requests`, and a part of a large file goes from the socket into the
buffer that is sent on (MARKDOWN_DOCS/TRANSFER.md has the figures).
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

CONNECT_TIMEOUT_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 60.0
BACKOFF_SECONDS = 0.5
SHARED_PACKET = 64 * 1024
"""A body up to here goes out in one piece with the head."""
DRAIN_LIMIT = 256 * 1024
"""An answer that nobody reads is read up to here to keep its connection; a longer one is cut off."""
ANSWER_LIMIT = 16 * 1024 * 1024
"""The longest answer that is read into memory as a whole, unless more is asked for."""
MOST_VALUES = 1_000_000
"""How many values a JSON answer may hold: each costs some 80 bytes, however few it took to send."""
HEAD_LIMIT = 256 * 1024
"""What the head of an answer may take, 1xx answers before it included."""
FRAMING_FACTOR = 8
"""How many bytes may come for each byte of a body: one byte a chunk takes six."""
SLOWEST_BYTES_PER_SECOND = 1000
"""What comes more slowly than this, over twice the longest silence, counts as no answer."""

NoAnswerError = (OSError, http.client.HTTPException)
"""What `Wire.send` and a reply's reading raise when the other side cannot be reached or hangs up."""


class UnfitError(http.client.HTTPException):
    """An address that cannot be sent, or an answer that is not read: too large, without end, encoded.

    Among NoAnswerError; to be caught before it where it matters that repetition does not help.
    """


class ProxyError(UnfitError):
    """The environment names a proxy that these clients cannot speak to, or that wants a login."""


class ProxyTroubleError(OSError):
    """The environment's proxy cannot be reached, or does not reach the host; the text names the proxy."""


Body = bytes | Sequence[bytes | memoryview]
"""What is sent: one piece, or several in a row."""


_UNKNOWN_CA = (2, 18, 19, 20, 21)
"""OpenSSL's X509_V_ERR codes for a certificate whose authority it has not got."""
_NOT_VALID_NOW = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAME_MISMATCHES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_INSTANT = "%Y-%m-%d %H:%M UTC"
_UNFIT_FOR_A_LINE = re.compile(r"[\x00-\x20\x7f]")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Reply:
    """An answer whose body is still on its way. To be closed, or read to the end."""

    def __init__(
        self, wire: Wire, connection: _Connection, response: http.client.HTTPResponse, incoming: _Incoming
    ) -> None:
        self._wire = wire
        self._connection: _Connection | None = connection
        self._response = response
        self._incoming = incoming
        self.status = response.status
        self.headers = response.headers
        self._straight = connection.speaks_tls and not response.chunked and response.length is not None
        self._is_buffered = True

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, limit: int = ANSWER_LIMIT) -> bytes:
        """All that is left of the body. Raises UnfitError when that is more than `limit` bytes."""
        try:
            self._incoming.allow(limit)
            content = self._read_whole(limit)
        except BaseException:
            self._drop()
            raise
        self.close()
        return content

    def _read_whole(self, limit: int) -> bytes:
        response = self._response
        self._refuse_encoding()
        declared = response.length
        if declared is not None and declared > limit:
            raise UnfitError(f"an answer of {declared} bytes, which is more than {limit}")
        pieces: list[bytes] = []
        size = 0
        while piece := response.read(SHARED_PACKET):  # never as much at once as a length promises
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UnfitError(f"an answer of more than {limit} bytes")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(pieces)

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as the body goes; 0 at its end. Raises NoAnswerError when the connection ended
        sooner than that.
        """
        try:
            self._refuse_encoding()
            self._incoming.allow(len(view))
            is_straight = self._straight and not self._response.isclosed()
            count = self._read_straight(view) if is_straight else self._response.readinto(view)
            if not count and self._response.length:
                raise http.client.IncompleteRead(b"", self._response.length)
            return count
        except BaseException:
            self._drop()
            raise

    def _read_straight(self, view: memoryview) -> int:
        """From TLS into the view. http.client's buffer would cost a quarter more processor time, because TLS
        brings 16 KiB at a time; what it took in with the head is used up first.
        """
        response = self._response
        left = response.length or 0
        if not left:
            response.close()
            return 0
        if self._is_buffered:
            got = len(response.fp.peek(1))
            self._is_buffered = got > len(view)
            return response.readinto(view[: max(1, got)])
        end = min(left, len(view))
        got = self._incoming.fill(view[:end])
        response.length = left - got
        if got == left or got < end:
            response.close()
        return got

    def _refuse_encoding(self) -> None:
        """Nothing is unpacked: what we ask for is the bytes themselves, and a bomb stays packed."""
        encoding = self.headers.get("Content-Encoding") or "identity"
        if encoding.strip().lower() != "identity":
            raise UnfitError(f"an answer packed as {encoding!r:.40}, which was not asked for")

    def close(self) -> None:
        """Give the connection back, when little enough of the body is left."""
        connection = self._connection
        if connection is None:
            return
        left = self._response.length
        if not self._response.isclosed():
            if left is None or left > DRAIN_LIMIT:
                self._drop()
                return
            try:
                self._incoming.allow(left)
                while self._response.read(SHARED_PACKET):
                    pass
            except NoAnswerError:
                self._drop()
                return
        self._connection = None
        if self._response.will_close:
            connection.close()
        else:
            self._wire.keep(connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._response.close()
            self._connection.close()
            self._connection = None


class Wire:
    """Connections to any host, kept alive between requests. Every method may be called by any thread.

    context: how TLS is spoken; None: as `default_context` has it, with the system's authorities.
    trusts_system: the system's authorities are trusted beside those of the context. They are loaded when a
    host shows a certificate that the context's did not sign: that takes as long as a fifth of an idle run.
    timeout_seconds: the longest silence while waiting for an answer.
    """

    def __init__(
        self, context: ssl.SSLContext | None, timeout_seconds: float, *, trusts_system: bool = False
    ) -> None:
        self._context = context
        self._lacks_system = trusts_system and context is not None
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[_Connection]] = {}
        self._is_closed = False

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body = b"") -> Reply:
        """Send a request; the reply's body is not read yet. Raises OSError or HTTPException, among them
        UnfitError for an address that is none.

        A kept connection that the other side has closed meanwhile is found out before it is used.
        """
        parts = _checked(url)
        connection = self._take((parts.scheme, parts.netloc)) or self._opened(parts)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            response, incoming = connection.exchange(method, target, headers, body)
        except BaseException:
            connection.close()
            raise
        return Reply(self, connection, response, incoming)

    def connect(self, url: str) -> None:
        """Open a connection ahead of the request that it is for. Raises what `send` raises."""
        self.keep(self._opened(_checked(url)))

    def validity(self, url: str) -> str:
        """When the certificate that a host shows is valid, in words; "" when it cannot be had."""
        from cryptography.x509 import load_der_x509_certificate

        shown = self._shown_certificate(url)
        if shown is None:
            return ""
        try:
            certificate = load_der_x509_certificate(shown)
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except ValueError:  # OpenSSL can read more than this
            return ""
        now = datetime.now(UTC)
        clock = ", or this host's clock is behind" if begins > now else ""
        return f": valid from {begins:{_INSTANT}} to {ends:{_INSTANT}}, and it is {now:{_INSTANT}} now{clock}"

    def _shown_certificate(self, url: str) -> bytes | None:
        """The certificate (DER) that a host shows, trusted or not."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        parts = _checked(url)
        connection = _Connection((parts.scheme, parts.netloc), context, self._timeout_seconds)
        try:
            sock = connection.open()
            return sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
        except NoAnswerError:
            return None
        finally:
            connection.close()

    def keep(self, connection: _Connection) -> None:
        """Take a connection back for the next request (called by replies)."""
        with self._lock:
            if not self._is_closed:
                self._idle.setdefault(connection.origin, []).append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Drop the idle connections, and those in use when they come back."""
        with self._lock:
            self._is_closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _take(self, origin: tuple[str, str]) -> _Connection | None:
        while True:
            with self._lock:
                kept = self._idle.get(origin)
                if not kept:
                    return None
                connection = kept.pop()
            if connection.is_usable():
                return connection
            connection.close()

    def _opened(self, parts: SplitResult) -> _Connection:
        """A new connection, open."""
        origin = (parts.scheme, parts.netloc)
        context = None
        if parts.scheme == "https":
            if self._context is None:
                with self._lock:
                    self._context = self._context or default_context(None)
            context = self._context
        lacked_system = self._lacks_system
        connection = _Connection(origin, context, self._timeout_seconds)
        try:
            connection.open()
        except BaseException as exc:
            connection.close()
            is_unknown = isinstance(exc, ssl.SSLCertVerificationError) and exc.verify_code in _UNKNOWN_CA
            if not (is_unknown and lacked_system and context is not None):
                raise
            with self._lock:
                if self._lacks_system:
                    load_system_authorities(context)
                    self._lacks_system = False
            return self._opened(parts)
        return connection


class _Connection:
    """One connection to an origin, straight or through the environment's proxy."""

    def __init__(self, origin: tuple[str, str], context: ssl.SSLContext | None, timeout: float) -> None:
        self.origin = origin
        self._timeout_seconds = timeout
        scheme, netloc = origin
        host = urlsplit(f"//{netloc}")
        proxy = _proxy_for(scheme, host.hostname or "")
        self._prefix = f"{scheme}://{netloc}" if proxy and scheme == "http" else ""
        to = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else host
        login = _proxy_login(to) if proxy else {}
        self._proxy_headers = login if self._prefix else {}
        self._proxy = f"{to.hostname}:{to.port or 3128}" if proxy else ""
        self._http: http.client.HTTPConnection
        wait = min(timeout, CONNECT_TIMEOUT_SECONDS)
        if context is not None:
            self._http = http.client.HTTPSConnection(
                to.hostname or "", to.port or (3128 if proxy else 443), timeout=wait, context=context
            )
            if proxy:
                self._http.set_tunnel(host.hostname or "", host.port or 443, headers=login)
        else:
            self._http = http.client.HTTPConnection(
                to.hostname or "", to.port or (3128 if proxy else 80), timeout=wait
            )

    def open(self) -> socket.socket:
        """The socket, connected."""
        connected: socket.socket | None = self._http.sock
        if connected is None:
            try:
                self._http.connect()
            except OSError as exc:
                if self._proxy and not isinstance(exc, ssl.SSLError):
                    raise self._proxy_trouble(exc) from exc
                raise
            connected = self._http.sock
            connected.settimeout(self._timeout_seconds)
        return connected

    def _proxy_trouble(self, exc: OSError) -> Exception:
        """What it means that a connection through the proxy failed before TLS began."""
        said = exc.strerror or str(
            exc
        )  # http.client has the proxy's refusal in its text: "... failed: 403 ..."
        variable = f"{self.origin[0].upper()}_PROXY"
        if re.search(r"\b407\b", said):
            return ProxyError(
                f"{variable}: the proxy {self._proxy} wants a login ({said:.100}); write it as"
                " http://user:password@host:port"
            )
        return ProxyTroubleError(f"the proxy {self._proxy} of {variable}: {said:.100}")

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: Body
    ) -> tuple[http.client.HTTPResponse, _Incoming]:
        """One request and the head of its answer."""
        sock = self.open()
        pieces: Sequence[bytes | memoryview] = (body,) if isinstance(body, bytes) else body
        size = sum(len(piece) for piece in pieces)
        lines = [f"{method} {self._prefix}{target} HTTP/1.1", f"Host: {self.origin[1]}"]
        lines.append("Accept-Encoding: identity")
        lines += [f"{name}: {value}" for name, value in {**headers, **self._proxy_headers}.items()]
        if size or method not in ("GET", "HEAD", "DELETE"):
            lines.append(f"Content-Length: {size}")
        if any("\r" in line or "\n" in line or "\0" in line for line in lines):
            raise UnfitError("a header holds a line break")
        try:
            head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        except UnicodeEncodeError as exc:
            raise UnfitError("the address or a header holds letters that HTTP cannot carry") from exc
        try:
            if size <= SHARED_PACKET:
                sock.sendall(b"".join((head, *pieces)))
            else:
                # Full packets, not one for the end of each of TLS's records; what is left goes out at once.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
                sock.sendall(head)
                for piece in pieces:
                    sock.sendall(piece)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered before it had read everything, with 401 or 429, and then hung up.
            with suppress(OSError, http.client.HTTPException):
                return self._answer_on(sock, method)
            raise
        return self._answer_on(sock, method)

    def _answer_on(self, sock: socket.socket, method: str) -> tuple[http.client.HTTPResponse, _Incoming]:
        """The head of the answer that comes on a socket."""
        incoming = _Incoming(sock, self._timeout_seconds)
        response = http.client.HTTPResponse(incoming, method=method)  # type: ignore[arg-type] # makefile is all it asks for
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response, incoming

    @property
    def speaks_tls(self) -> bool:
        return isinstance(self._http.sock, ssl.SSLSocket)

    def is_usable(self) -> bool:
        """Whether the other side has neither closed nor sent anything since the last answer.

        What TLS 1.3 sends of its own accord, tickets above all, is taken in and does not count.
        """
        sock = self._http.sock
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(0):
            return True
        if not self.speaks_tls:
            return False
        sock.settimeout(0)
        try:
            sock.recv(1)
        except ssl.SSLWantReadError:
            sock.settimeout(self._timeout_seconds)
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        self._http.close()


class _Incoming(io.RawIOBase):
    """What comes on a socket for one answer: never without bound, in bytes or in time."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._socket = sock
        self._patience = 2 * timeout
        self._waited = 0.0
        self._received = 0
        self._allowed = HEAD_LIMIT

    def makefile(self, _mode: str) -> io.BufferedReader:
        """How http.client asks for the stream."""
        return io.BufferedReader(self)

    def allow(self, size: int) -> None:
        """So many bytes of a body may come, with what frames them."""
        self._allowed = FRAMING_FACTOR * size + HEAD_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        began = time.monotonic()
        count = self._socket.recv_into(buffer)
        self._account(count, time.monotonic() - began)
        return count

    def fill(self, view: memoryview) -> int:
        """Fill the view, or what of it comes before the end, with less ado for each of TLS's records."""
        receive, clock, size = self._socket.recv_into, time.monotonic, len(view)
        at = accounted = 0
        began = clock()
        while at < size:
            count = receive(view[at:])
            at += count
            waited = clock() - began
            if not count:
                break
            if waited > self._patience:
                self._account(at - accounted, waited)
                accounted, began = at, clock()
        self._account(at - accounted, clock() - began)
        return at

    def _account(self, count: int, waited: float) -> None:
        self._waited += waited  # the time that we took ourselves does not count
        self._received += count
        self._allowed -= count
        if self._allowed < 0:
            raise UnfitError("an answer whose head or framing has no end")
        if self._waited > self._patience:
            if self._received < SLOWEST_BYTES_PER_SECOND * self._waited:
                raise TimeoutError(f"{self._received} bytes in {self._waited:.0f} s")
            self._waited, self._received = 0.0, 0


def _checked(url: str) -> SplitResult:
    """The parts of an address that these clients can call. Raises UnfitError."""
    try:
        parts = urlsplit(url)
        is_fit = parts.port != 0
    except ValueError as exc:
        raise UnfitError(f"the address {url!r:.200} cannot be read") from exc
    is_fit = is_fit and parts.scheme in ("http", "https") and bool(_HOST_AND_PORT.fullmatch(parts.netloc))
    if not is_fit or _UNFIT_FOR_A_LINE.search(url):
        raise UnfitError(f"the address {url!r:.200} cannot be sent")
    return parts


def certificate_fault(exc: ssl.SSLCertVerificationError) -> str:
    """Why a host's certificate is not trusted: "dates" (waiting, or a right clock, may heal it), "name", or
    "authority".
    """
    if exc.verify_code in _NOT_VALID_NOW:
        return "dates"
    return "name" if exc.verify_code in _NAME_MISMATCHES else "authority"


def origin_of(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an address: whom it would reach. Raises UnfitError when nobody."""
    parts = _checked(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that an answer is; None when it is none, is nested too deep, or has too many values."""
    if content.count(b",") >= MOST_VALUES:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def default_context(ca_bundle: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later that trusts the bundle, and checks the host's name; without a bundle, the system's
    store, and certifi's where the system is seen to have none.

    Raises ValueError when the bundle holds no certificate, in PEM or in DER (as Windows exports it).
    """
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except ssl.SSLError:
        context = _der_context(Path(ca_bundle or ""))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_bundle is None and not _has_system_store():
        _load_certifi(context)
    return context


def _der_context(ca_bundle: Path) -> ssl.SSLContext:
    content = ca_bundle.read_bytes()
    with suppress(ssl.SSLError):
        if content:  # without any it would be the system's authorities
            return ssl.create_default_context(cadata=content)
    raise ValueError(f"{ca_bundle} holds no certificate in PEM or DER form")


def load_system_authorities(context: ssl.SSLContext) -> None:
    """Have a context trust, beside its own authorities, those that `default_context(None)` trusts."""
    context.load_default_certs()
    if not _has_system_store():
        _load_certifi(context)


def _load_certifi(context: ssl.SSLContext) -> None:
    with suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())


def _has_system_store() -> bool:
    """Whether the system keeps certificates of authorities where OpenSSL, or its variables, look for them."""
    paths = ssl.get_default_verify_paths()
    with suppress(OSError):  # a folder that we may not list
        return bool(paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())))
    return False


def _proxy_for(scheme: str, host: str) -> str:
    """The proxy that the environment names for a host, by the rules of http_proxy, https_proxy, no_proxy.

    Raises ProxyError for one that wants another language: its login would go out in clear.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return ""  # spares an idle run the import
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    named = scheme if proxies.get(scheme) else "all"
    proxy = proxies.get(named) or ""
    if not proxy or proxy_bypass(host):
        return ""
    kind, separator, rest = proxy.partition("://")
    if separator and kind.lower() != "http":
        shown = rest.rpartition("@")[2]
        raise ProxyError(
            f"{named.upper()}_PROXY: the proxy {kind}://{shown:.200} cannot be used, because only http:// is"
            f" spoken to a proxy; write http:// and the proxy's HTTP port, or name {host} in NO_PROXY"
        )
    return proxy


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    """The header that logs in to a proxy whose address carries a user's name."""
    if not proxy.username:
        return {}
    import base64

    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login).decode()}


def retry_after_seconds(headers: Message, now: datetime) -> float | None:
    """An answer's `Retry-After` in either form, as seconds from now; None when it is missing or senseless.

    A date counts from the answer's own `Date`, for want of one from ours: clocks differ.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until, sent = date_in(value), date_in(headers.get("Date")) or now
        return None if until is None else max(0.0, (until - sent).total_seconds())
    return max(0.0, seconds) if seconds < float("inf") else None


def date_in(value: str | None) -> datetime | None:
    """The moment that a header such as Date tells; None when it tells none."""
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def backoff_seconds(tries: int) -> float:
    """How long to wait after so many failed tries: doubling, with jitter."""
    return BACKOFF_SECONDS * 2.0**tries * random.uniform(0.5, 1.0)  # noqa: S311  # nosec B311 - jitter, no secret
