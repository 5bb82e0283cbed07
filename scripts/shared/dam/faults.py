"""Puts the DAM's failures into words: which need a person, and which end by waiting."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.base.errors import ConfigError, DamError
from shared.base.values import DamSettings
from shared.http.guards import NoAnswerError, UnfitError, origin_of
from shared.http.proxies import ProxyError
from shared.http.trust import certificate_fault, detail_of

if TYPE_CHECKING:
    from shared.dam.calls import Call

_KINDS = {**dict.fromkeys((429, 502, 503, 504), "out_of_reach"), 403: "forbidden", 404: "not_found"}
_HINTS = {
    403: "the DAM user needs permission to see and edit it",
    404: "it does not exist, or the DAM user may not see it",
}

_REFUSED_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "ACCESS_DENIED",
    "HANDSHAKE_FAILURE",
)


def no_answer(settings: DamSettings, call: Call, exc: NoAnswerError) -> DamError | ConfigError:
    """The error for a call that got no answer; only some end by waiting."""
    if isinstance(exc, ProxyError):
        return ConfigError(str(exc))
    if isinstance(exc, UnfitError):
        return unfit(call.what, call.item_id, exc)
    reason = exc.reason
    fault = _tls_fault(settings, call.url, reason) if isinstance(reason, ssl.SSLError) else None
    if fault is not None:
        return ConfigError(fault)
    is_slow = isinstance(reason, TimeoutError)
    detail = f"no answer within {settings.timeout_seconds:g} s" if is_slow else detail_of(exc, call.url)
    return DamError(
        f"{call.what}: {urlsplit(call.url).netloc} is out of reach ({detail})",
        kind="out_of_reach",
        retryable=True,
        item_id=call.item_id,
    )


def _tls_fault(settings: DamSettings, url: str, reason: ssl.SSLError) -> str | None:
    """What a person must change before TLS with a host works; None for a fault that ends by waiting."""
    is_dam = origin_of(url) == origin_of(settings.base_url)
    is_token = origin_of(url) == origin_of(settings.token_url)
    named = "DAM_BASE_URL" if is_dam else "DAM_TOKEN_URL" if is_token else "a download from the DAM"
    host = urlsplit(url).netloc
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _distrust(settings.ca_bundle, named, host, reason)
    if not any(alert in str(reason) for alert in _REFUSED_CERTIFICATE_ALERTS):
        return None
    alert = reason.reason or reason
    if is_dam and settings.auth == "pfx-v2":
        return f"DAM_PFX_PATH: {host} refused the client certificate {settings.pfx_path} ({alert})"
    cure = "set DAM_AUTH=pfx-v2" if is_dam else "ours is only sent to the host of DAM_BASE_URL"
    return f"{named}: {host} seems to ask for a client certificate ({alert}); {cure}"


def _distrust(
    ca_bundle: str | None, named: str, host: str, reason: ssl.SSLCertVerificationError
) -> str | None:
    """Why we do not trust the certificate of a host; None for its dates, which may be solved by waiting."""
    why = certificate_fault(reason)
    if why == "dates":
        return None
    if why == "name":
        return f"{named}: {host} presents a certificate for another name"
    known, cure = "known CA", "name the file with your CA's certificate"
    if ca_bundle:
        known = f"CA in DAM_CA_BUNDLE ({ca_bundle}) or of the system"
        cure = "add your CA's certificate to it"
    said = reason.verify_message
    return f"DAM_CA_BUNDLE: the certificate of {host} is not signed by a {known} ({said}); {cure}"


def unfit(what: str, item_id: str | None, why: object) -> DamError:
    """An answer or address that we refuse, and that would be the same the next time."""
    return DamError(
        f"{what}: the DAM sent {why}",
        kind="bad_answer",
        hint="if it is a listing that is too large, lower DAM_PAGE_SIZE",
        retryable=True,
        item_id=item_id,
    )


def not_logged_in(call: Call, status: int) -> DamError:
    """A session that ended right after a login."""
    return DamError(
        f"{call.what}: the DAM asks for a login again right after one (HTTP {status})",
        kind="not_logged_in",
        retryable=True,
        item_id=call.item_id,
        status_code=status,
    )


def refused(call: Call, status: int, said: str) -> DamError:
    """An answer with a status that is not a success. said: the DAM's own words."""
    return DamError(
        f"{call.what}: HTTP {status}{f', {said}' if said else ''}",
        kind=_KINDS.get(status) or ("refused" if status < 500 else "dam_error"),
        hint=_HINTS.get(status, ""),
        retryable=status >= 500 or status == 429,
        item_id=call.item_id,
        status_code=status,
    )
