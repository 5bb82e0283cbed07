"""The HTTP client: `requests` for calls, urllib3 for bytes, over the same pools of connections.

Neither library follows a redirection, repeats a call, unpacks a body, keeps a cookie or trusts more
authorities than the context.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError

from shared.http.connections import LARGE_PIECE, OPTIONS, GuardedHttp, GuardedHttps, ask
from shared.http.guards import NoAnswerError, Reply, UnfitError, checked, root_of, target_of
from shared.http.proxies import proxy_for
from shared.http.trust import default_context, load_system_authorities, shows_unknown_authority

AGENT = {"User-Agent": "a1-to-a2"}

T = TypeVar("T")
Pieces = Sequence[bytes | memoryview]
"""Pieces that are sent one after another as one body."""


class Http:
    """Calls to any host, over connections that stay open. Every method may be called by any thread.

    context: for TLS; None: `default_context`, with the system's authorities. trusts_system: also trust the
    system's authorities. They are only loaded when the context's authorities did not sign a host's
    certificate: that takes a fifth of the time of an idle run. timeout_seconds: the longest silence while we
    send or wait.
    """

    def __init__(
        self, context: ssl.SSLContext | None, timeout_seconds: float, *, trusts_system: bool = False
    ) -> None:
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings contain whole addresses
        self._context = context
        self._lacks_system = trusts_system and context is not None
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str], HTTPConnectionPool] = {}
        self._session = _Session(_Adapter(self._open))

    def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """Make a call by `requests`; the reply's body is not read yet. Raises NoAnswerError, including
        UnfitError for an invalid address.
        """
        checked(url)  # `requests` would correct it
        headers = {**AGENT, **headers}
        answer = self._trusting(
            lambda: self._session.request(method, url, headers=headers, data=body, stream=True)
        )
        return Reply(answer.raw)

    def transfer(self, method: str, url: str, headers: Mapping[str, str], pieces: Pieces = ()) -> Reply:
        """The same by urllib3 only, for bytes: `requests` needs several times the processor time."""
        size = sum(map(len, pieces))
        headers = {**AGENT, **headers}
        body: Any = None
        if pieces:
            headers["Content-Length"] = str(size)
            body = pieces if size > LARGE_PIECE else b"".join(pieces)
        return Reply(self._trusting(lambda: self._open(method, url, headers, body)))

    def _open(self, method: str, url: str, headers: Any, body: Any) -> BaseHTTPResponse:
        pool, target = self._way(url)
        return ask(pool, method, target, headers, body)

    def connect(self, url: str) -> None:
        """Open a connection before the request needs it. Raises what `call` raises."""
        pool, _ = self._way(url)
        to: Any = pool.proxy or pool

        def connected() -> Any:
            connection = pool.ConnectionCls(
                to.host, to.port, timeout=pool.timeout.connect_timeout, **pool.conn_kw
            )
            if pool.proxy and pool.scheme == "https":
                connection.set_tunnel(pool.host, pool.port, pool.proxy_headers)
            connection.connect()
            return connection

        connection = self._trusting(connected)
        if pool.pool is not None:
            pool.pool.put_nowait(connection)

    def close(self) -> None:
        """Drop the connections, and those in use as soon as they are free."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()

    def _way(self, url: str) -> tuple[HTTPConnectionPool, str]:
        """The connections to an address, and the path there."""
        parts = checked(url)
        with self._lock:
            origin = (parts.scheme, parts.netloc)
            pool = self._pools.get(origin)
            if pool is None:
                pool = self._pools[origin] = self._pool(url, is_tls=parts.scheme == "https")
        if pool.proxy and pool.scheme == "http":
            return pool, url
        return pool, target_of(parts)

    def _pool(self, url: str, *, is_tls: bool) -> HTTPConnectionPool:
        options: dict[str, Any] = {**OPTIONS, "timeout": self._timeout_seconds}
        if is_tls:
            self._context = options["ssl_context"] = self._context or default_context(None)
        proxy = proxy_for(url)
        if proxy is None:
            pool = PoolManager(**options).connection_from_url(url)
        else:
            through = ProxyManager(proxy.url, proxy_headers=proxy.headers, **options)
            pool = through.connection_from_url(url)
        pool.ConnectionCls = GuardedHttps if is_tls else GuardedHttp
        while (
            pool.pool and not pool.pool.empty()
        ):  # urllib3 fills it with placeholders; `connect` needs the space
            pool.pool.get_nowait()
        return pool

    def _trusting(self, ask: Callable[[], T]) -> T:
        """Make the call; again when the system's authorities had to be loaded to trust the host."""
        lacked_system = self._lacks_system
        try:
            return ask()
        except (OSError, HTTPError, HTTPException, ValueError) as exc:
            reason = root_of(exc)
            if not (lacked_system and shows_unknown_authority(reason)):
                if isinstance(reason, ValueError) and not isinstance(reason, ssl.SSLError):
                    raise UnfitError("the address or a header cannot be sent") from exc
                raise NoAnswerError(reason) from exc
        with self._lock:
            if self._lacks_system and self._context is not None:
                load_system_authorities(self._context)
                self._lacks_system = False
        return self._trusting(ask)


class _Session(requests.Session):
    """A session that ignores the environment (proxies, .netrc, CA variables) and keeps no cookies."""

    def __init__(self, adapter: HTTPAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.clear()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: otherwise `requests` reads the whole body of a redirection, even one that it does
        not follow.
        """
        return None


class _Adapter(HTTPAdapter):
    """Sends prepared requests over our connections: the adapter of `requests` would also trust certifi's
    authorities.
    """

    def __init__(self, send: Callable[[str, str, Any, Any], BaseHTTPResponse]) -> None:
        super().__init__()
        self._send = send

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        method, url = request.method or "", request.url or ""
        return self.build_response(request, self._send(method, url, request.headers, request.body))
