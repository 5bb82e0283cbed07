"""Makes a TLS context from a PKCS#12 file with the client certificate; the key is never written to disk."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.base.errors import ConfigError, DamError
from shared.base.values import DamSettings
from shared.http.trust import default_context

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12PrivateKeyTypes as PrivateKey
    from cryptography.x509 import Certificate

logger = logging.getLogger(__name__)

CERTIFICATE_WARNING = timedelta(days=30)
SOON = timedelta(days=1)

_PKCS7_DATA = bytes.fromhex("2a864886f70d010701")
_KEY_BAG = bytes.fromhex("2a864886f70d010c0a0101")
_SHROUDED_KEY_BAG = bytes.fromhex("2a864886f70d010c0a0102")


def dam_context(ca_bundle: str | None) -> ssl.SSLContext:
    """A TLS context that trusts the bundle, or the system's authorities. Raises ConfigError."""
    try:
        return default_context(ca_bundle)
    except ValueError as exc:
        raise ConfigError(f"DAM_CA_BUNDLE: {exc}") from exc


def client_context(settings: DamSettings, now: datetime) -> ssl.SSLContext:
    """A TLS context that presents the certificate of a PKCS#12 file; its key is never written to disk.

    Raises ConfigError when the file cannot be opened or has no valid certificate, DamError when one becomes
    valid within a day.
    """
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    path = settings.pfx_path
    if path is None:
        raise ConfigError("DAM_PFX_PATH: missing; DAM_AUTH=pfx-v2 needs it")
    keys, certificates = _content(path, (settings.pfx_password or "").encode())
    key, certificate = _valid_pair(_pairs(keys, certificates, path), path, now)
    expires_at = certificate.not_valid_after_utc
    if expires_at - now <= CERTIFICATE_WARNING:
        days = (expires_at - now).days
        logger.warning(
            "the client certificate %s expires on %s, in %d days", path, expires_at.date(), days,
            extra={"action": "certificate_expires_soon"},
        )  # fmt: skip
    context = dam_context(settings.ca_bundle)
    passphrase = os.urandom(32).hex().encode()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    pem += b"".join(entry.public_bytes(Encoding.PEM) for entry in _chain(certificate, certificates, now))
    with _memory_file(pem) as name:
        context.load_cert_chain(name, password=passphrase)
    return context


def _content(path: Path, password: bytes) -> tuple[list[PrivateKey], list[Certificate]]:
    """The keys and certificates of a PKCS#12 file. Raises ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import pkcs12

    try:
        content = path.read_bytes()
        found = pkcs12.load_pkcs12(content, password)
        keys = _keys(content, password) or ([found.key] if found.key else [])
    except OSError as exc:
        raise ConfigError(f"DAM_PFX_PATH: cannot read {path}: {exc.strerror}") from exc
    except UnsupportedAlgorithm as exc:
        raise ConfigError(
            f"DAM_PFX_PATH: {path} is encrypted in a way that is no longer supported; convert it:"
            f" openssl pkcs12 -legacy -in {path} -nodes | openssl pkcs12 -export -out new.pfx"
        ) from exc
    except ValueError as exc:
        raise ConfigError(
            f"DAM_PFX_PASSWORD: cannot open {path}: wrong password, or not a PKCS#12 file"
        ) from exc
    entries = [found.cert, *found.additional_certs] if found.cert else found.additional_certs
    return keys, [entry.certificate for entry in entries]


def _keys(content: bytes, password: bytes) -> list[Any]:
    """All keys of a file that has several, such as a store that was renewed by importing. The library only
    returns the first one.
    """
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    bags = _key_bags(content)
    if len(bags) < 2:
        return []
    return [load_der_private_key(bag, password if is_sealed else None) for is_sealed, bag in bags]


def _pairs(
    keys: list[PrivateKey], certificates: list[Certificate], path: Path
) -> list[tuple[PrivateKey, Certificate]]:
    """Each certificate that belongs to one of the keys, with the key. Raises ConfigError when none does."""
    if not keys:
        raise ConfigError(
            f"DAM_PFX_PATH: {path} contains no private key; export the certificate with its private key"
        )
    if not certificates:
        raise ConfigError(f"DAM_PFX_PATH: {path} contains a private key but no certificate; export both")
    by_public_key = {_public(key.public_key()): key for key in keys}
    pairs = [
        (by_public_key[public], certificate)
        for certificate in certificates
        if (public := _public(certificate.public_key())) in by_public_key
    ]
    if not pairs:
        raise ConfigError(
            f"DAM_PFX_PATH: no certificate in {path} belongs to its private key; export the two together"
        )
    return pairs


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _valid_pair(
    pairs: list[tuple[PrivateKey, Certificate]], path: Path, now: datetime
) -> tuple[PrivateKey, Certificate]:
    """The pair that is valid now and stays valid for the longest. Raises ConfigError, or DamError when one
    will be valid within a day: this host's clock may be behind, so waiting helps.
    """
    begun = [pair for pair in pairs if pair[1].not_valid_before_utc <= now]
    if begun:
        best = max(begun, key=lambda pair: pair[1].not_valid_after_utc)
        if best[1].not_valid_after_utc > now:
            return best
    if len(begun) == len(pairs):
        expired_at = best[1].not_valid_after_utc
        raise ConfigError(
            f"DAM_PFX_PATH: the certificate in {path} expired on {_shown(expired_at)};"
            " replace the file with the renewed certificate"
        )
    begins_at = min(pair[1].not_valid_before_utc for pair in pairs if pair[1].not_valid_before_utc > now)
    told = (
        f"DAM_PFX_PATH: the certificate in {path} is valid from {_shown(begins_at)}, and it is {_shown(now)}"
        " now: it is not valid yet, or this host's clock is behind"
    )
    if begins_at - now <= SOON:
        raise DamError(told, kind="certificate_not_yet_valid", retryable=True)
    raise ConfigError(told)


def _shown(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _chain(leaf: Certificate, others: list[Certificate], now: datetime) -> list[Certificate]:
    """The certificates from the leaf on, each followed by its issuer (RFC 5246), without the root."""
    chain = [leaf]
    while len(chain) <= len(others):
        issuers = [one for one in others if one.subject != one.issuer and _has_issued(one, chain[-1])]
        issuers = [one for one in issuers if one not in chain]
        if not issuers:
            break
        # An authority's renewed certificate has the same name and key as the old one.
        chain.append(max(issuers, key=lambda one: (one.not_valid_before_utc <= now, one.not_valid_after_utc)))
    return chain


def _has_issued(issuer: Certificate, certificate: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key_bags(content: bytes) -> list[tuple[bool, bytes]]:
    """The private keys in a PKCS#12 file (RFC 7292), as PKCS#8, and whether each is encrypted by the
    password.

    Keys are in safes that are not encrypted as a whole. Other files are left to the library.
    """
    bags: list[tuple[bool, bytes]] = []
    try:
        (pfx,) = _der(content)
        _, auth_safe, *_ = _der(pfx)
        for safe in _der(_octets(auth_safe)):
            if _der(safe)[0] != _PKCS7_DATA:
                continue
            for bag in _der(_octets(safe)):
                kind, value, *_ = _der(bag)
                if kind in (_KEY_BAG, _SHROUDED_KEY_BAG):
                    bags.append((kind == _SHROUDED_KEY_BAG, value))
    except (ValueError, IndexError):
        return []
    return bags


def _octets(content_info: bytes) -> bytes:
    """The elements in a ContentInfo of type data: {type, [0] {OCTET STRING {SEQUENCE {...}}}}."""
    (octets,) = _der(_der(content_info)[1])
    (elements,) = _der(octets)
    return elements


def _der(data: bytes) -> list[bytes]:
    """The content of each element. Raises ValueError, IndexError for what is not DER."""
    elements = []
    at = 0
    while at < len(data):
        length = data[at + 1]
        at += 2
        if length > 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if length == 0x80 or at + length > len(data):
            raise ValueError("not DER")
        elements.append(data[at : at + length])
        at += length
    return elements


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A path that OpenSSL can read and that is only in memory (Linux). On other systems a private temporary
    file.

    The content is encrypted in both cases.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("client-certificate")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "client-certificate.pem")
            path.touch(mode=0o600)
            path.write_bytes(content)
            yield str(path)
