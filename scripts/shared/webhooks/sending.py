"""Calls a webhook's receiver: only at an address that may be called, within limits, and without redirects.

This module resolves the host's name, checks each address, and connects to a checked address. So it does not
matter if the name shows another address a moment later (DNS rebinding). TLS still verifies the name.

Where HTTPS_PROXY names a proxy, the proxy resolves the name and connects. Then this module can only check an
address that the URL itself contains.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import SplitResult

from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as SlowError

from shared.base.errors import WebhookError
from shared.base.redaction import redact, spellings
from shared.http.client import AGENT, Http
from shared.http.connections import OPTIONS, GuardedHttp, GuardedHttps, ask
from shared.http.guards import NoAnswerError, Reply, UnfitError, checked, json_object, root_of, target_of
from shared.http.patience import retry_after_seconds
from shared.http.proxies import proxy_for
from shared.http.trust import default_context
from shared.notices.wording import one_line

SILENCE_SECONDS: Final = 10.0
"""The longest time without a byte, also while connecting."""
DEADLINE_SECONDS: Final = 20.0
"""The whole answer must be here within this time."""
ANSWER_LIMIT: Final = 256 * 1024
"""The longest answer that is read, in bytes."""
EXCERPT_LIMIT: Final = 4096
MOST_ADDRESSES: Final = 3
"""This many addresses of a host are tried."""

_METADATA = tuple(
    map(
        ipaddress.ip_network,
        ("fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32"),
    )
)
"""Here clouds give a machine its credentials, in addition to 169.254.0.0/16: AWS, Google, Alibaba, Oracle."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Receiver:
    """Calls a target. allows_private: whether private addresses, and http to them, are allowed. secrets:
    texts that no error may show. trust: the context for TLS; None: the system's authorities.
    """

    allows_private: bool
    secrets: tuple[str, ...]
    trust: ssl.SSLContext | None = None

    def call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"", *, is_read: bool = False
    ) -> dict[str, Any]:
        """Send a request. Returns the JSON object of the answer if is_read, else {}. Raises WebhookError
        unless the answer is a 2xx.
        """
        try:
            with self._reply(method, url, headers, body) as reply:
                if not reply.is_success:
                    raise self._refusal(reply)
                return (json_object(reply.read(ANSWER_LIMIT)) or {}) if is_read else {}
        except NoAnswerError as exc:
            raise self._no_answer(exc) from None  # its text may hold the address

    def _reply(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        parts = checked(url)
        sent = {**AGENT, "Host": parts.netloc, **headers}
        if proxy_for(url) is not None:
            for address in _literal(parts.hostname or ""):
                self._judge(address, parts.scheme)
            return Http(self.trust, SILENCE_SECONDS).call(method, url, headers, body)
        return _first_answer(
            parts,
            self._addresses(parts),
            lambda pool: Reply(ask(pool, method, target_of(parts), sent, body)),
            self.trust,
        )

    def _addresses(self, parts: SplitResult) -> list[str]:
        """The addresses of the host that may be called. Raises WebhookError when none may."""
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            raise WebhookError(
                "the name of its host cannot be resolved", kind="out_of_reach", retryable=True
            ) from exc
        allowed: list[str] = []
        refusal: WebhookError | None = None
        for text in dict.fromkeys(str(entry[4][0]) for entry in found):
            try:
                self._judge(ipaddress.ip_address(text), parts.scheme)
                allowed.append(text)
            except WebhookError as exc:
                refusal = exc
        if not allowed and refusal is not None:
            raise refusal
        return allowed[:MOST_ADDRESSES]

    def _judge(self, address: Address, scheme: str) -> None:
        reason = refusal_of(address, allows_private=self.allows_private)
        if not reason and scheme == "http" and _inner(address).is_global:
            reason = "http to a public address would not be encrypted; use https"
        if reason:
            raise WebhookError(
                f"the address of its host is not allowed: {reason}", kind="address_refused", retryable=True
            )

    def _refusal(self, reply: Reply) -> WebhookError:
        """The error for an answer that is not 2xx, with the beginning of the answer's text."""
        status = reply.status
        try:
            text = reply.read(EXCERPT_LIMIT).decode("utf-8", "replace")
        except NoAnswerError:
            text = ""
        said = one_line(redact(text, spellings(self.secrets)), 200)
        is_final = 400 <= status < 500 and status not in (408, 429)
        error = WebhookError(
            f"HTTP {status}" + (f": {said}" if said else ""),
            kind="gone" if status == 410 else "refused",
            retryable=not is_final,
            status_code=status,
        )
        error.retry_after = retry_after_seconds(reply.headers, datetime.now(UTC))
        return error

    def _no_answer(self, exc: NoAnswerError) -> WebhookError:
        reason = exc.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            text = f"its certificate is not trusted: {one_line(reason.verify_message, 150)}"
        elif isinstance(exc, UnfitError):
            text = "the answer cannot be read: it is too long, or compressed"
        elif isinstance(reason, TimeoutError):
            text = "it did not answer in time"
        else:
            said = getattr(reason, "strerror", None) or type(reason).__name__
            text = f"no answer: {one_line(redact(str(said), spellings(self.secrets)), 150)}"
        error = WebhookError(text, kind="out_of_reach", retryable=True)
        error.may_have_arrived = not isinstance(reason, ssl.SSLError | ConnectionRefusedError)
        return error


def _first_answer(
    parts: SplitResult,
    addresses: list[str],
    ask: Callable[[HTTPConnectionPool], Reply],
    trust: ssl.SSLContext | None,
) -> Reply:
    """The answer from the first of these addresses that accepts a connection. Raises NoAnswerError."""
    end_at = time.monotonic() + DEADLINE_SECONDS
    for number, address in enumerate(addresses, 1):
        try:
            return ask(_pool(parts, address, end_at, trust))
        except (OSError, HTTPError, ValueError) as exc:
            is_unconnected = isinstance(exc, NewConnectionError) or (
                isinstance(exc, SlowError) and "onnect" in type(exc).__name__
            )
            reason = root_of(exc)
            if not is_unconnected or number == len(addresses) or time.monotonic() > end_at:
                raise NoAnswerError(TimeoutError() if isinstance(exc, SlowError) else reason) from exc
    raise NoAnswerError("the host has no address")


def _pool(
    parts: SplitResult, address: str, end_at: float, trust: ssl.SSLContext | None
) -> HTTPConnectionPool:
    """Connects to one address, which must show a certificate for the host's name."""
    options: dict[str, Any] = {**OPTIONS, "timeout": SILENCE_SECONDS, "maxsize": 1}
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    if is_tls:
        context = trust or default_context(None)
        pool: HTTPConnectionPool = HTTPSConnectionPool(
            address,
            parts.port or 443,
            ssl_context=context,
            server_hostname=host,
            **options,
        )
    else:
        pool = HTTPConnectionPool(address, parts.port or 80, **options)

    def connection(**given: Any) -> GuardedHttp:
        made = (GuardedHttps if is_tls else GuardedHttp)(**given)
        made.end_at = end_at
        return made

    pool.ConnectionCls = connection  # type: ignore[assignment] # all that urllib3 does is call it
    return pool


def refusal_of(address: Address, *, allows_private: bool) -> str:
    """Why no webhook may go to this address; "" when one may."""
    inner = _inner(address)
    if inner.is_link_local or any(
        inner in network for network in _METADATA if network.version == inner.version
    ):
        return "it is link-local, or the metadata service of a cloud"
    if inner.is_multicast or inner.is_unspecified or (inner.is_reserved and not inner.is_private):
        return "it is not the address of a host"
    if not inner.is_global and not allows_private:
        return "it is private; WEBHOOK_ALLOW_PRIVATE=true allows that"
    return ""


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address contains (mapped, NAT64, 6to4), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _literal(host: str) -> list[Address]:
    """The address, if the URL's host is one; an empty list for a name."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        return []
