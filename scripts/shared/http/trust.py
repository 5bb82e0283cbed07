"""Decides whom TLS trusts, and says what is wrong with an untrusted certificate."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import certifi

from shared.http.guards import NoAnswerError, origin_of

VALIDITY_TIMEOUT_SECONDS = 10.0

_UNKNOWN_CA = (2, 18, 19, 20, 21)
"""OpenSSL's X509_V_ERR codes for a certificate whose authority it does not have."""
_NOT_VALID_NOW = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAME_MISMATCHES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_INSTANT = "%Y-%m-%d %H:%M UTC"


def default_context(ca_bundle: str | None) -> ssl.SSLContext:
    """A context for TLS 1.2 or later that checks the host's name and trusts the bundle; without a bundle, it
    trusts the system's store, or certifi's when the system has none.

    Raises ValueError when the bundle contains no certificate, in PEM or in DER (as Windows exports it).
    """
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except ssl.SSLError:
        context = _der_context(Path(ca_bundle or ""))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_bundle is None:
        _load_certifi_if_alone(context)
    return context


def _der_context(ca_bundle: Path) -> ssl.SSLContext:
    content = ca_bundle.read_bytes()
    with suppress(ssl.SSLError):
        if content:  # without any, it would load the system's authorities
            return ssl.create_default_context(cadata=content)
    raise ValueError(f"{ca_bundle} contains no certificate in PEM or DER form")


def load_system_authorities(context: ssl.SSLContext) -> None:
    """Make a context also trust the authorities that `default_context(None)` trusts."""
    context.load_default_certs()
    _load_certifi_if_alone(context)


def _load_certifi_if_alone(context: ssl.SSLContext) -> None:
    """certifi's authorities, if the folders and files of OpenSSL, or of its variables, have none."""
    paths = ssl.get_default_verify_paths()
    with suppress(OSError):  # a folder that we may not list
        if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
            return
    context.load_verify_locations(certifi.where())


def shows_unknown_authority(reason: BaseException) -> bool:
    """Whether a host's certificate is signed by an authority that the context does not know."""
    return isinstance(reason, ssl.SSLCertVerificationError) and reason.verify_code in _UNKNOWN_CA


def certificate_fault(reason: ssl.SSLCertVerificationError) -> str:
    """Why a host's certificate is not trusted: "dates" (waiting, or a correct clock, may solve it), "name",
    or "authority".
    """
    if reason.verify_code in _NOT_VALID_NOW:
        return "dates"
    return "name" if reason.verify_code in _NAME_MISMATCHES else "authority"


def detail_of(exc: NoAnswerError, url: str) -> str:
    """Why there was no answer, in a few words."""
    reason = exc.reason
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"{reason.verify_message}{_validity(url)}"
    return str(exc) if reason is exc else type(reason).__name__


def _validity(url: str) -> str:
    """When a host's certificate is valid, trusted or not; "" when it cannot be read."""
    from cryptography.x509 import load_pem_x509_certificate

    _, host, port = origin_of(url)
    try:
        shown = ssl.get_server_certificate((host, port), timeout=VALIDITY_TIMEOUT_SECONDS)
        certificate = load_pem_x509_certificate(shown.encode())
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (OSError, ValueError):  # OpenSSL accepts more than cryptography
        return ""
    now = datetime.now(UTC)
    clock = ", or this host's clock is behind" if begins > now else ""
    return f": valid from {begins:{_INSTANT}} to {ends:{_INSTANT}}, and it is {now:{_INSTANT}} now{clock}"
