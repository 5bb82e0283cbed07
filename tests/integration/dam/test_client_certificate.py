"""PKCS#12 files as people have them: which certificate is shown, with what chain, and how faults are told."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from shared.base.errors import AppError, ConfigError, ExitCode
from shared.base.values import DamSettings
from shared.dam.certificate import client_context
from shared.dam.client import DamClient
from shared.settings import load_settings
from simulators.dam import DamSimulator
from simulators.dam import environment as dam_environment

REQUIRED = {
    "DATABASE_URL": "postgresql://u:p@localhost/d",
    "DAM_BASE_URL": "https://dam.example.com",
    "DAM_CLIENT_ID": "c",
    "DAM_CLIENT_SECRET": "c-secret",
    "DAM_CAMPAIGNS_FOLDER_ID": "x",
    "DAM_STATUS_FIELD_ID": "y",
    "DAM_NUMBER_FIELD_ID": "z",
    "BOX_CLIENT_ID": "b",
    "BOX_CLIENT_SECRET": "b",
    "BOX_ENTERPRISE_ID": "1",
    "BOX_ROOT_FOLDER_ID": "0",
    "SMTP_HOST": "localhost",
    "MAIL_FROM": "a@example.com",
    "ERROR_NOTIFICATION_EMAILS": "b@example.com",
    "ORCHESTRATOR_TIMEZONE": "UTC",
}
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
PASSWORD = b"pfx-password"
SEALED = BestAvailableEncryption(PASSWORD)
OLD_WINDOWS = (
    PrivateFormat.PKCS12.encryption_builder()
    .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
    .hmac_hash(hashes.SHA1())  # noqa: S303 - what those files have
    .build(PASSWORD)
)


@dataclass(frozen=True)
class Entity:
    """A certificate with its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def made(
    name: str,
    issuer: Entity | None,
    *,
    begins: datetime = NOW - 30 * DAY,
    ends: datetime = NOW + 90 * DAY,
    key: ec.EllipticCurvePrivateKey | None = None,
    is_ca: bool = False,
) -> Entity:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    return Entity(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


ROOT = made("root", None, is_ca=True)
UPPER = made("upper", ROOT, is_ca=True)
LOWER = made("lower", UPPER, is_ca=True)
STRANGER = made("stranger", None, is_ca=True)
CLIENT = made("client", LOWER)
EXPIRED = made("expired", LOWER, ends=NOW - DAY)
RENEWED = made("renewed", LOWER, key=EXPIRED.key)
SOON = made("soon", LOWER, begins=NOW + timedelta(minutes=10))
LATER = made("later", LOWER, begins=NOW + 2 * DAY)


def pfx(entity: Entity | None, others: Sequence[Entity] = (), sealed: Any = SEALED) -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"client",
        entity.key if entity else None,
        entity.certificate if entity else None,
        [one.certificate for one in others],
        sealed,
    )


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8 or 1, "big")
    head = bytes([len(content)]) if len(content) < 0x80 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + head + content


def elements(content: bytes) -> list[bytes]:
    """The DER elements in a row, each whole."""
    found = []
    while content:
        size, start = content[1], 2
        if size > 0x80:
            start += size & 0x7F
            size = int.from_bytes(content[2:start], "big")
        found.append(content[: start + size])
        content = content[start + size :]
    return found


def inside(element: bytes) -> list[bytes]:
    return elements(element[2 + (element[1] & 0x7F if element[1] > 0x80 else 0) :])


def merged(*files: bytes) -> bytes:
    """One PKCS#12 file with all that is in several, as a key store has it that was renewed by importing."""
    safes = []
    for file in files:
        version, auth_safe, *_mac = inside(inside_file(file))
        kind, wrapped = inside(auth_safe)
        (octets,) = inside(wrapped)
        (sequence,) = inside(octets)
        safes += inside(sequence)
    return der(0x30, version, der(0x30, kind, der(0xA0, der(0x04, der(0x30, *safes)))))


def inside_file(file: bytes) -> bytes:
    (whole,) = elements(file)
    return whole


def openssl_legacy(folder: Path) -> bytes:
    """RC2 with 40 bits for the certificates, as old versions of Windows export them."""
    source, target = folder / "plain.pem", folder / "legacy.pfx"
    source.write_bytes(
        CLIENT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + CLIENT.certificate.public_bytes(Encoding.PEM)
    )
    command = ["openssl", "pkcs12", "-export", "-legacy", "-in", source, "-out", target]
    subprocess.run([*command, "-passout", f"pass:{PASSWORD.decode()}"], check=True, capture_output=True)
    return target.read_bytes()


def settings_for(folder: Path, content: bytes, password: str = PASSWORD.decode()) -> DamSettings:
    path = folder / "client.pfx"
    path.write_bytes(content)
    env = REQUIRED | {"DAM_PFX_PATH": str(path), "DAM_PFX_PASSWORD": password}
    return load_settings(env).dam


def sent(settings: DamSettings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the certificates that OpenSSL is given to send, in order."""
    names: list[str] = []

    def load(_: object, path: str, password: object = None) -> None:
        certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
        names.extend(one.subject.rfc4514_string().removeprefix("CN=") for one in certificates)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    client_context(settings, NOW)
    return names


GOOD: dict[str, tuple[Callable[[Path], bytes], str, list[str]]] = {
    "alone": (lambda _: pfx(CLIENT), "pfx-password", ["client"]),
    "the chain in disorder": (
        lambda _: pfx(CLIENT, [ROOT, UPPER, LOWER]), "pfx-password", ["client", "lower", "upper"]
    ),
    "strangers": (
        lambda _: pfx(CLIENT, [STRANGER, LOWER, EXPIRED]), "pfx-password", ["client", "lower"]
    ),
    "renewed for the same key": (
        lambda _: pfx(EXPIRED, [LOWER, RENEWED]), "pfx-password", ["renewed", "lower"]
    ),
    "two pairs, the first expired": (
        lambda _: merged(pfx(EXPIRED, [LOWER]), pfx(CLIENT, [UPPER])),
        "pfx-password",
        ["client", "lower", "upper"],
    ),
    "two pairs, the second expired": (
        lambda _: merged(pfx(CLIENT, [LOWER]), pfx(EXPIRED)), "pfx-password", ["client", "lower"]
    ),
    "two pairs, the second to begin": (
        lambda _: merged(pfx(CLIENT), pfx(LATER)), "pfx-password", ["client"]
    ),
    "three pairs, two expired": (
        lambda _: merged(pfx(EXPIRED), pfx(CLIENT), pfx(EXPIRED)), "pfx-password", ["client"]
    ),
    "two pairs, not sealed": (
        lambda _: merged(pfx(EXPIRED, (), NoEncryption()), pfx(CLIENT, (), NoEncryption())), "", ["client"]
    ),
    "two pairs of an old Windows": (
        lambda _: merged(pfx(EXPIRED, (), OLD_WINDOWS), pfx(CLIENT, (), OLD_WINDOWS)),
        "pfx-password",
        ["client"],
    ),
    "3DES of an old Windows": (
        lambda _: pfx(CLIENT, [LOWER], OLD_WINDOWS), "pfx-password", ["client", "lower"]
    ),
    "RC2 of an old Windows": (openssl_legacy, "pfx-password", ["client"]),
    "no password": (lambda _: pfx(CLIENT, (), NoEncryption()), "", ["client"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_pfx__shows_the_valid_certificate_and_its_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, password, chain = GOOD[name]
    assert sent(settings_for(tmp_path, make(tmp_path), password), monkeypatch) == chain


BAD: dict[str, tuple[bytes, str, list[str], ExitCode]] = {
    "wrong password": (pfx(CLIENT), "wrong", ["DAM_PFX_PASSWORD", "wrong password"], ExitCode.BAD_CONFIG),
    "no password given": (pfx(CLIENT), "", ["DAM_PFX_PASSWORD"], ExitCode.BAD_CONFIG),
    "no PKCS#12": (b"-----BEGIN CERTIFICATE-----", "", ["not a PKCS#12 file"], ExitCode.BAD_CONFIG),
    "no certificate": (
        pkcs12.serialize_key_and_certificates(None, CLIENT.key, None, None, SEALED),
        "pfx-password", ["no certificate", "export both"], ExitCode.BAD_CONFIG,
    ),
    "no key": (pfx(None, [CLIENT]), "pfx-password", ["no private key"], ExitCode.BAD_CONFIG),
    "another's key": (
        pkcs12.serialize_key_and_certificates(None, CLIENT.key, None, [SOON.certificate], SEALED),
        "pfx-password", ["no certificate in", "belongs to its private key"], ExitCode.BAD_CONFIG,
    ),
    "expired": (
        pfx(EXPIRED), "pfx-password",
        [f"expired on {EXPIRED.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"], ExitCode.BAD_CONFIG,
    ),
    "begins in ten minutes": (
        pfx(SOON), "pfx-password",
        [f"is valid from {SOON.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", "clock is behind",
         f"it is {NOW:%Y-%m-%d %H:%M} UTC now"],
        ExitCode.TRY_LATER,
    ),
    "begins in two days": (
        pfx(LATER), "pfx-password",
        [f"is valid from {LATER.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", "clock is behind"],
        ExitCode.BAD_CONFIG,
    ),
    "one expired, one begins soon": (
        merged(pfx(EXPIRED), pfx(SOON)), "pfx-password", ["is valid from"], ExitCode.TRY_LATER
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_pfx__that_cannot_be_used_is_told_with_its_cure(tmp_path: Path, name: str) -> None:
    content, password, words, exit_code = BAD[name]
    with pytest.raises(AppError) as told:
        client_context(settings_for(tmp_path, content, password), NOW)
    assert told.value.exit_code == exit_code, told.value
    for word in (*words, str(tmp_path)):
        assert word in str(told.value)
    assert PASSWORD.decode() not in str(told.value)


def test_pfx__cut_off_is_no_crash(tmp_path: Path) -> None:
    whole = pfx(CLIENT, [LOWER])
    for size in range(0, len(whole), 37):
        with pytest.raises(ConfigError):
            client_context(settings_for(tmp_path, whole[:size]), NOW)


def test_pfx__the_pair_of_a_renewed_store_opens_the_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a real handshake: the key, too, is the second pair's."""
    (tmp_path / "ca.pem").write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))
    server = made("127.0.0.1", ROOT)
    named = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(server.certificate.subject).issuer_name(ROOT.certificate.subject)
        .public_key(server.key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY).not_valid_after(NOW + DAY).add_extension(named, critical=False)
    )  # fmt: skip
    chain = tmp_path / "server.pem"
    chain.write_bytes(
        server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + builder.sign(ROOT.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(chain)
    (tmp_path / "store.pfx").write_bytes(merged(pfx(EXPIRED), pfx(CLIENT, [UPPER, LOWER])))
    with DamSimulator(ssl_context=context, require_client_certificate=True) as dam:
        env = {
            **REQUIRED, **dam_environment(dam), "DAM_AUTH": "pfx-v2",
            "DAM_BASE_URL": dam.url.replace("127.0.0.1", "localhost"),
            "DAM_CA_BUNDLE": str(tmp_path / "ca.pem"),
            "DAM_PFX_PATH": str(tmp_path / "store.pfx"), "DAM_PFX_PASSWORD": "pfx-password",
        }  # fmt: skip
        client = DamClient(load_settings(env).dam, now=NOW)
        assert client.find_campaigns() == []
        assert {call.client_certificate for call in dam.requests} == {"client"}
        client.close()
