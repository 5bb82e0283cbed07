"""The client certificate: a PKCS#12 file turned into a TLS context, its key never on a disk."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from shared.errors import ConfigError
from shared.models import DamSettings
from shared.wire import default_context

logger = logging.getLogger(__name__)

CERTIFICATE_WARNING = timedelta(days=30)


def client_context(settings: DamSettings, now: datetime) -> ssl.SSLContext:
    """A TLS context that shows the certificate of a PKCS#12 file; its key never touches a disk.

    Raises ConfigError when the file cannot be opened or its certificate is not valid now.
    """
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        pkcs12,
    )

    path = settings.pfx_path
    if path is None:
        raise ConfigError("DAM_PFX_PATH: missing, needed because DAM_AUTH=pfx-v2")
    password = (settings.pfx_password or "").encode() or None
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(path.read_bytes(), password)
    except OSError as exc:
        raise ConfigError(f"DAM_PFX_PATH: cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(
            f"DAM_PFX_PASSWORD: cannot open {path}: wrong password, or not a PKCS#12 file"
        ) from exc
    if key is None or certificate is None:
        raise ConfigError(f"DAM_PFX_PATH: {path} holds no private key with its certificate")
    expires_at = certificate.not_valid_after_utc
    if expires_at <= now:
        raise ConfigError(
            f"DAM_PFX_PATH: the certificate in {path} expired on {expires_at:%Y-%m-%d %H:%M} UTC"
        )
    if certificate.not_valid_before_utc > now:
        valid_from = certificate.not_valid_before_utc
        raise ConfigError(f"DAM_PFX_PATH: the certificate in {path} is valid from {valid_from:%Y-%m-%d} on")
    if expires_at - now <= CERTIFICATE_WARNING:
        days = (expires_at - now).days
        logger.warning(
            "the client certificate %s expires on %s, in %d days", path, expires_at.date(), days,
            extra={"action": "certificate_expires_soon"},
        )  # fmt: skip
    context = default_context(settings.ca_bundle)
    passphrase = os.urandom(32).hex().encode()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    chain = [certificate, *others]
    pem += b"".join(entry.public_bytes(Encoding.PEM) for entry in chain)
    with _memory_file(pem) as name:
        context.load_cert_chain(name, password=passphrase)
    return context


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A path that OpenSSL can read and no disk holds (Linux). Elsewhere a private file, gone right after.

    The content is encrypted in either case.
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
