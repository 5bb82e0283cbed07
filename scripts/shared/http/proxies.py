"""Finds the proxy by http_proxy, https_proxy, all_proxy and no_proxy, and puts its faults into words."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from requests.utils import get_environ_proxies
from urllib3.util import Url, make_headers

from shared.http.guards import NoAnswerError, UnfitError

DEFAULT_PORT = 3128


class ProxyError(UnfitError):
    """The environment names a proxy that we cannot use, or that requires a login."""


class ProxyTroubleError(NoAnswerError):
    """The proxy cannot be reached, or does not reach the host; the text names the proxy."""


class Proxy(NamedTuple):
    """url: without its login, which is in the headers."""

    url: str
    headers: dict[str, str]


def proxy_for(url: str) -> Proxy | None:
    """The proxy for an address; None for a direct connection.

    Raises ProxyError for a proxy with another protocol: its login would be sent unencrypted.
    """
    target, proxies = urlsplit(url), get_environ_proxies(url)
    named = target.scheme if proxies.get(target.scheme) else "all"
    address = proxies.get(named)
    if not address:
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    where = proxy.netloc.rpartition("@")[2]
    if proxy.scheme != "http":
        raise ProxyError(
            f"{named.upper()}_PROXY: the proxy {proxy.scheme}://{where:.200} cannot be used:"
            f" only http:// proxies are supported; write http:// and the proxy's HTTP port, or name"
            f" {target.hostname} in NO_PROXY"
        )
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else None
    return Proxy(
        f"http://{where}" if proxy.port else f"http://{where}:{DEFAULT_PORT}",
        dict(make_headers(proxy_basic_auth=login)),
    )


def fault_of(proxy: Url, variable: str, reason: BaseException) -> NoAnswerError:
    """The error for a connection through the proxy that failed before TLS began. The text of Python's
    exception has the proxy's refusal: "Tunnel connection failed: 403 Forbidden".
    """
    said = str(getattr(reason, "strerror", None) or reason)[:100]
    named = f"{proxy.host}:{proxy.port}"
    if re.search(r"\b407\b", said):
        return ProxyError(
            f"{variable}: the proxy {named} requires a login ({said}); write it as http://user:password@host:port"
        )
    return ProxyTroubleError(f"the proxy {named} of {variable}: {said}")
