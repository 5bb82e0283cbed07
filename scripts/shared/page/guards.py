"""Checks each request's Host, Origin and CSRF token; and the headers of every answer.

The page works at the root of its host, with or without a proxy: it has no path prefix.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.base.errors import ConfigError
from shared.settings import PageSettings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_PORTS: Mapping[str, int] = {"https": 443, "http": 80}
COOKIE = "a1_to_a2"
"""The browser's secret: the session's token after a log-in by password, else a random one for CSRF only."""

_HOST = r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?"
_VALUE = r"[A-Za-z0-9_-]{43}"

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}
TRANSPORT_SECURITY = "max-age=31536000"


@dataclass(frozen=True, slots=True)
class Site:
    """The addresses of this page.

    origin: of ADMIN_URL, such as https://a1.example.com; "" when it is not set. hosts: the names and
    addresses that a Host header may have. takes_addresses: the page listens on every address of the machine,
    so any IP address may be its own. That is not true of names: DNS can point any name here.
    """

    origin: str
    hosts: frozenset[str]
    takes_addresses: bool

    @property
    def is_https(self) -> bool:
        return self.origin.startswith("https:")

    @property
    def cookie_name(self) -> str:
        """With https the browser itself makes sure that no other host and no plain http sets it."""
        return f"__Host-{COOKIE}" if self.is_https else COOKIE

    def is_host(self, header: str) -> bool:
        """Whether a Host header names this page, on any port."""
        found = re.fullmatch(_HOST, header)
        if found is None:
            return False
        host = (found["address"] or found["name"]).lower()
        return host in self.hosts or (self.takes_addresses and _is_address(host))

    def is_origin(self, origin: str | None, fetch_site: str | None, asked: str) -> bool:
        """Whether a POST comes from a page of ours. asked: scheme://Host of the request.

        A browser that sends no Origin must say so by Sec-Fetch-Site, which no page can set.
        """
        if origin is None:
            return fetch_site == "same-origin"
        return origin.lower() == (self.origin or asked.lower())

    @property
    def headers(self) -> Mapping[str, str]:
        """Set the headers of every answer, also of an error, except those that its handler has set."""
        return {**HEADERS, "Strict-Transport-Security": TRANSPORT_SECURITY} if self.is_https else HEADERS


def site_of(settings: PageSettings) -> Site:
    """The addresses of this page. Raises ConfigError when ADMIN_URL has a path: the page works at a host's
    root.
    """
    url = urlsplit(settings.links.page)
    if url.path.strip("/") or url.query or url.fragment:
        raise ConfigError(
            "ADMIN_URL: expected an address without a path, such as https://a1-to-a2.example.com: the page"
            " works only at the root of its host"
        )
    origin, host = "", (url.hostname or "").lower()
    if host:
        port = "" if url.port in (None, DEFAULT_PORTS.get(url.scheme)) else f":{url.port}"
        origin = f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}".lower()
    listens = settings.access.listen_host
    return Site(
        origin=origin,
        hosts=frozenset({*LOOPBACK, listens, *([host] if host else [])}),
        takes_addresses=ipaddress.ip_address(listens).is_unspecified,
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# The browser's secret, and the token of its forms


def new_secret() -> str:
    """256 bits for a cookie."""
    return secrets.token_urlsafe(32)


def is_secret(text: str) -> bool:
    """Whether a cookie's value may be one of ours."""
    return re.fullmatch(_VALUE, text) is not None


def csrf_token(secret: str, purpose: str) -> str:
    """The token for the forms that this browser gets. purpose: who uses them."""
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def is_csrf_token(given: str, secret: str, purpose: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token(secret, purpose).encode())


def is_local_path(target: str) -> bool:
    """Whether a redirect to this stays on the page's host, in every browser."""
    return re.fullmatch(r"/(?:[^/\\\x00-\x20\x7f][^\\\x00-\x20\x7f]*)?", target) is not None
