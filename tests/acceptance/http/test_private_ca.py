"""A private CA counts for every host of the DAM's, in both ways of logging in; errors name the right one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from hostile import Relay, answers, relaying, says
from world import World

if TYPE_CHECKING:
    from conftest import Tls

CONTENT = b"the bytes of a picture"
LOGINS = [pytest.param("--auth-pfx-v2", id="pfx-v2"), pytest.param("--auth-password", id="password")]


@contextmanager
def object_store(context: ssl.SSLContext) -> Iterator[Relay]:
    with relaying(ssl_context=context) as store:
        store.attacks.append(("/key", says(f"200 OK\r\nContent-Length: {len(CONTENT)}", CONTENT)))
        yield store


def full_campaign(world: World, store: Relay | None = None) -> str:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", CONTENT)])
    if store is not None:
        world.dam.options.contents_redirect = f"{store.address}/key"
    return campaign


def uploaded(world: World, login: str, **changes: str) -> str:
    """One run; what it said."""
    done = world.run("a1_to_a2_box_uploader.py", login, "--json", **changes)
    assert done.exit_code == 0, done.stderr
    assert set(done.outcomes.values()) == {"uploaded"}
    return done.stderr


@pytest.mark.parametrize("login", LOGINS)
def test_private_ca__counts_for_the_tokens_host_and_an_object_store(
    world: World, tls: Tls, login: str
) -> None:
    """The certificate and the token are shown to the DAM alone."""
    if login == "--auth-password":  # that DAM asks for no client certificate
        world.dam.restart(tls.server_context)
    with object_store(tls.server_context) as store, relaying(ssl_context=tls.server_context) as otds:
        token = answers(b'{"access_token": "%s"}' % world.dam.issue_token("robot").encode())
        otds.attacks.append(("/otds", token))
        full_campaign(world, store)
        uploaded(world, login, DAM_TOKEN_URL=f"{otds.address}/otds/oauth2/token")
        assert len(otds.heard) == (1 if login == "--auth-pfx-v2" else 0)
        assert store.heard
        assert not any(heard.shows_credentials for heard in store.heard)


def test_private_ca__stands_beside_the_public_ones(world: World, tls: Tls, tmp_path: Path) -> None:
    """A DAM behind a private CA whose files lie in a public cloud, and a public DAM beside private hosts."""
    public = trustme.CA()
    public.cert_pem.write_to_path(str(tmp_path / "public.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    public.issue_cert("127.0.0.1").configure_cert(context)
    system = {"SSL_CERT_FILE": str(tmp_path / "public.pem"), "SSL_CERT_DIR": str(tmp_path)}
    with object_store(context) as store:
        full_campaign(world, store)
        uploaded(world, "--auth-pfx-v2", **system)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.ca_path))
    public.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    world.dam.restart(context)
    with object_store(tls.server_context) as store:
        full_campaign(world, store)
        uploaded(world, "--auth-pfx-v2", **system)


@pytest.mark.parametrize("form", ["DER", "BOM", "CRLF"])
def test_private_ca__in_the_forms_that_windows_writes(
    world: World, tls: Tls, tmp_path: Path, form: str
) -> None:
    pem = tls.ca_path.read_text()
    path = tmp_path / "ca.cer"
    forms = {
        "DER": ssl.PEM_cert_to_DER_cert(pem),
        "BOM": b"\xef\xbb\xbf" + pem.encode(),
        "CRLF": pem.replace("\n", "\r\n").encode(),
    }
    path.write_bytes(forms[form])
    full_campaign(world)
    uploaded(world, "--auth-pfx-v2", DAM_CA_BUNDLE=str(path))


@pytest.mark.parametrize("content", [b"", b"no certificate"])
@pytest.mark.parametrize("variable", ["DAM_CA_BUNDLE", "BOX_CA_BUNDLE"])
def test_private_ca__that_is_none_is_told(
    world: World, tmp_path: Path, variable: str, content: bytes
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    full_campaign(world)
    done = world.upload(**{variable: str(path)})
    assert done.exit_code == 2, done.stderr
    assert f"{variable}: {path} contains no certificate in PEM or DER form" in done.stderr


def test_unknown_ca__names_the_host_that_was_called(world: World, tls: Tls, tmp_path: Path) -> None:
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(other)
    full_campaign(world)
    with relaying(ssl_context=other) as otds:
        host = otds.address.removeprefix("https://")
        done = world.upload(DAM_TOKEN_URL=f"{otds.address}/otds/oauth2/token")
        assert done.exit_code == 2
        known = f"a CA in DAM_CA_BUNDLE ({tls.ca_path}) or of the system"
        told = f"the certificate of {host} is not signed by {known}"
        assert told in done.stderr
    done = world.upload(DAM_CA_BUNDLE="")
    assert done.exit_code == 2
    assert f"{world.dam.url.removeprefix('https://')} is not signed by a known CA" in done.stderr
    named = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.ca.issue_cert("otds.example.com").configure_cert(named)
    with relaying(ssl_context=named) as otds:
        done = world.upload(DAM_TOKEN_URL=f"{otds.address}/otds/oauth2/token")
        host = otds.address.removeprefix("https://")
        assert f"DAM_TOKEN_URL: {host} presents a certificate for another name" in done.stderr
        assert done.exit_code == 2


def test_tokens_host__that_asks_for_a_client_certificate_is_told(world: World, tls: Tls) -> None:
    full_campaign(world)
    context = tls.mutual_server_context
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its refusal comes in the handshake
    with relaying(ssl_context=context) as otds:
        done = world.upload(DAM_TOKEN_URL=f"{otds.address}/otds/oauth2/token")
        host = otds.address.removeprefix("https://")
    assert done.exit_code == 2, done.stderr
    assert f"{host} seems to ask for a client certificate" in done.stderr
    assert "only sent to the host of DAM_BASE_URL" in done.stderr


@pytest.mark.parametrize(("begins", "ends"), [(10, 600), (-600, -10)], ids=["to begin", "expired"])
def test_server_certificate__not_valid_now_is_told_with_its_times(
    world: World, tls: Tls, begins: int, ends: int
) -> None:
    now = datetime.now(UTC)
    first, last = (now + timedelta(minutes=minutes) for minutes in (begins, ends))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.ca.issue_cert("127.0.0.1", not_before=first, not_after=last).configure_cert(context)
    world.dam.restart(context)
    done = world.upload()
    assert done.exit_code == 75
    assert f"{world.dam.url.removeprefix('https://')} is out of reach" in done.stderr
    assert f"valid from {first:%Y-%m-%d %H:%M} UTC to {last:%Y-%m-%d %H:%M} UTC" in done.stderr
    assert ("this host's clock is behind" in done.stderr) is (begins > 0)
