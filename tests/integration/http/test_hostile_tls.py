"""TLS as the clients speak it, and that nobody leads them out of it."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime

import pytest

from conftest import Tls
from hostile import relaying, says
from shared.base.errors import BoxError, ConfigError, DamError
from shared.base.values import BoxSettings
from shared.box.calls import BoxCalls
from shared.box.session import BoxSession
from shared.dam.certificate import client_context
from shared.dam.client import DamClient
from shared.http.client import Http
from shared.http.guards import NoAnswerError
from shared.http.trust import default_context
from shared.settings import load_settings
from simulators.dam import DamSimulator

REQUIRED = {
    "DATABASE_URL": "postgresql://u:p@localhost/d",
    "DAM_STATUS_FIELD_ID": DamSimulator.STATUS_FIELD,
    "DAM_NUMBER_FIELD_ID": DamSimulator.NUMBER_FIELD,
    "BOX_CLIENT_ID": "a",
    "BOX_CLIENT_SECRET": "b-secret",
    "BOX_ENTERPRISE_ID": "1",
    "BOX_ROOT_FOLDER_ID": "1",
    "SMTP_HOST": "localhost",
    "MAIL_FROM": "a@example.com",
    "ERROR_NOTIFICATION_EMAILS": "b@example.com",
    "ORCHESTRATOR_TIMEZONE": "UTC",
}


class OpenGate:
    def wait(self, *, is_upload: bool) -> None:
        pass

    def pause(self, seconds: float) -> None:
        pass


def box_settings(api_url: str, upload_url: str) -> BoxSettings:
    return load_settings(
        {
            **REQUIRED,
            **{"DAM_BASE_URL": "https://dam.example.com", "DAM_USERNAME": "u", "DAM_PASSWORD": "p-secret"},
            **{"DAM_AUTH": "password", "DAM_CAMPAIGNS_FOLDER_ID": "x"},
            **{"BOX_API_URL": api_url, "BOX_UPLOAD_URL": upload_url},
        }
    ).box


def test_tls__is_1_2_or_later_and_checks_the_name(tls: Tls, dam: DamSimulator) -> None:
    settings = load_settings(
        {
            **REQUIRED,
            **{"DAM_BASE_URL": dam.url, "DAM_CLIENT_ID": "c", "DAM_CLIENT_SECRET": "c-secret"},
            **{"DAM_PFX_PATH": str(tls.pfx()), "DAM_PFX_PASSWORD": "pfx-password"},
            "DAM_CAMPAIGNS_FOLDER_ID": "x",
        }
    )
    contexts = [default_context(None), default_context(str(tls.ca_path))]
    contexts.append(client_context(settings.dam, datetime.now(UTC)))
    for context in contexts:
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
    with relaying(ssl_context=tls.server_context) as server:
        server.attacks.append(("", says("200 OK\r\nContent-Length: 2", b"ok")))
        known = Http(default_context(str(tls.ca_path)), 5)
        with known.call("GET", server.address, {}) as reply:
            assert reply.read() == b"ok"
        with pytest.raises(NoAnswerError, match="certificate verify failed"):
            Http(default_context(None), 5).call("GET", server.address, {})
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.ca.issue_cert("other.example").configure_cert(other)
    with (
        relaying(ssl_context=other) as server,
        pytest.raises(NoAnswerError, match="IP address mismatch"),
    ):
        known.call("GET", server.address, {})
    known.close()


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/x", "//127.0.0.1:{port}/x", "file:///etc/passwd"]
)
def test_redirection__never_leaves_tls(tls: Tls, dam: DamSimulator, location: str) -> None:
    """What lies in plain sight on the network (169.254.169.254, say) must not become somebody's asset."""
    with relaying(dam.url, tls.server_context) as front, relaying() as plain:
        moved = location.format(port=plain.address.rpartition(":")[2])
        front.attacks.append(
            (r"/contents", says(f"302 Found\r\nLocation: {moved}\r\nContent-Length: 0", b""))
        )
        env = {
            **REQUIRED,
            **{"DAM_BASE_URL": front.address, "DAM_AUTH": "password", "DAM_CA_BUNDLE": str(tls.ca_path)},
            **{"DAM_USERNAME": dam.username, "DAM_PASSWORD": dam.password},
            "DAM_CAMPAIGNS_FOLDER_ID": dam.root_id,
        }
        client = DamClient(load_settings(env).dam, now=datetime.now(UTC))
        folder = dam.master_assets_folder(dam.add_campaign("Summer", "C-1"))
        assert folder is not None
        asset = dam.add_asset(folder, "a.jpg", b"a")
        with pytest.raises(DamError) as told, client.open_asset(asset):
            pass
        client.close()
        # `//` brings a TLS greeting here, whose random bytes may look like lines: what counts is a request.
        assert not any(heard.method == "GET" or heard.shows_credentials for heard in plain.heard)
        if not location.startswith("//"):
            assert "a redirection" in str(told.value)


@pytest.mark.parametrize(
    ("url", "is_trusted"),
    [
        ("https://upload.box.com/api/2.0/files/upload_sessions/A", True),
        ("https://upload-las.app.box.com/api/2.0/files/upload_sessions/A", True),
        ("https://api.box.com:443/2.0/users/me", True),
        ("http://upload.box.com/api/2.0", False),
        ("https://upload.box.com:8443/api/2.0", False),
        ("https://upload.box.com.evil.example/api", False),
        ("https://evilbox.com/api", False),
        ("https://upload.box.com@evil.example/api", False),
        ("https://evil.example\\@upload.box.com/api", False),
        ("https://upload.box.com\r\n.evil.example/", False),
        ("https://UPLOAD.BOX.COM/api", True),
        ("//upload.box.com/x", False),
        ("https://[::1/x", False),
        ("https://upload.box.com:99999/x", False),
        ("", False),
    ],
)
def test_box_token__is_shown_to_box_alone(url: str, is_trusted: bool) -> None:
    settings = box_settings("https://api.box.com", "https://upload.box.com/api")
    session = BoxSession(BoxCalls(settings, OpenGate(), time.sleep))
    assert session.trusts(url) is is_trusted
    if not is_trusted:
        with pytest.raises(BoxError, match="no token is sent"):
            session.call("GET", url, what="asking")
    gateway = box_settings("https://gateway.example", "https://gateway.example/api")
    assert not BoxSession(BoxCalls(gateway, OpenGate(), time.sleep)).trusts(url), (
        "a gateway's installation knows no other"
    )


def test_cookies__that_would_break_requests_are_dropped(dam: DamSimulator) -> None:
    """One that went into every later request as a line break, or as too much, ended the session for good."""
    odd = ["bad=a\r\n b", "=nameless", "long=" + "x" * 20_000, "caf\xe9=1", "good=1, 2; Path=/"]
    with relaying(dam.url) as front:
        fields = "".join(f"Set-Cookie: {cookie}\r\n" for cookie in odd)
        body = b'{"search_result_resource": {"search_result": {}}}'
        answer = f"200 OK\r\n{fields}Content-Length: {len(body)}"
        front.attacks.append((r"/search/text", says(answer, body)))
        env = {
            **REQUIRED,
            **{"DAM_BASE_URL": front.address, "DAM_AUTH": "password", "DAM_CAMPAIGNS_FOLDER_ID": dam.root_id},
            **{"DAM_USERNAME": dam.username, "DAM_PASSWORD": dam.password},
        }
        client = DamClient(load_settings(env).dam, now=datetime.now(UTC))
        for _ in range(2):
            assert client.find_campaigns() == []
        client.close()
        assert b"good=1, 2" in front.heard[-1].head
        assert b"bad=a b;" in front.heard[-1].head, "unfolded into one line"
        assert b"long" not in front.heard[-1].head


@pytest.mark.parametrize("url", ["https://bücher.example", "https://a b.example", "https://a;b.example"])
def test_settings__take_no_address_that_cannot_be_called(url: str) -> None:
    with pytest.raises(ConfigError, match="BOX_API_URL: expected an https address"):
        box_settings(url, "https://upload.box.com/api")
