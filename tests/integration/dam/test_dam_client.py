"""The DAM client against the simulator: certificates, logins, sessions."""

from __future__ import annotations

import logging
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raw_server import read_head, serving
from shared.base.errors import AppError, ConfigError, DamError, ExitCode
from shared.dam.client import DamClient
from shared.settings import load_settings
from simulators.dam import DamSimulator
from world import wait_for

if TYPE_CHECKING:
    from conftest import Tls


def client_for(dam: DamSimulator, pfx: Path | None = None, **changes: str) -> DamClient:
    """A client with complete settings; changes are variables, "" unsets one."""
    env = {
        "DATABASE_URL": "postgresql://u:p@localhost/d",
        "DAM_BASE_URL": dam.url,
        "DAM_CLIENT_ID": dam.client_id,
        "DAM_CLIENT_SECRET": dam.client_secret,
        "DAM_USERNAME": dam.username,
        "DAM_PASSWORD": dam.password,
        "DAM_PFX_PATH": str(pfx or ""),
        "DAM_PFX_PASSWORD": "pfx-password",
        "DAM_CAMPAIGNS_FOLDER_ID": dam.root_id,
        "DAM_STATUS_FIELD_ID": dam.STATUS_FIELD,
        "DAM_NUMBER_FIELD_ID": dam.NUMBER_FIELD,
        "BOX_CLIENT_ID": "b",
        "BOX_CLIENT_SECRET": "b",
        "BOX_ENTERPRISE_ID": "1",
        "BOX_ROOT_FOLDER_ID": "0",
        "SMTP_HOST": "localhost",
        "MAIL_FROM": "a@example.com",
        "ERROR_NOTIFICATION_EMAILS": "b@example.com",
        "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
    } | changes
    settings = load_settings(env, "pfx-v2" if pfx else "password")
    return DamClient(settings.dam, now=datetime.now(UTC))


@pytest.fixture
def tls_dam(tls: Tls) -> Iterator[DamSimulator]:
    """A DAM behind TLS that asks for a client certificate."""
    with DamSimulator(ssl_context=tls.mutual_server_context, require_client_certificate=True) as simulator:
        yield simulator


@pytest.mark.parametrize("password", [b"pfx-password", None])
def test_certificate__opens_the_door(tls: Tls, tls_dam: DamSimulator, password: bytes | None) -> None:
    campaign = tls_dam.add_campaign("Summer", "C-1")
    secret = "pfx-password" if password else ""
    client = client_for(
        tls_dam, tls.pfx(password, cn="robot"), DAM_CA_BUNDLE=str(tls.ca_path), DAM_PFX_PASSWORD=secret
    )
    assert [hit.id for hit in client.find_campaigns()] == [campaign]
    assert {call.client_certificate for call in tls_dam.requests} == {"robot"}
    client.close()


def test_certificate__wrong_password_or_file_before_any_call(tls: Tls, tls_dam: DamSimulator) -> None:
    ca = str(tls.ca_path)
    with pytest.raises(ConfigError, match=r"DAM_PFX_PASSWORD: cannot open .*wrong password"):
        client_for(tls_dam, tls.pfx(b"another"), DAM_CA_BUNDLE=ca)
    with pytest.raises(ConfigError, match="not a PKCS#12 file"):
        client_for(tls_dam, tls.ca_path, DAM_CA_BUNDLE=ca)
    assert not tls_dam.requests


def test_certificate__expired_is_told_with_its_date(tls: Tls, tls_dam: DamSimulator) -> None:
    with pytest.raises(ConfigError, match=r"expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC"):
        client_for(tls_dam, tls.pfx(expired=True), DAM_CA_BUNDLE=str(tls.ca_path))
    assert not tls_dam.requests


def test_certificate__warns_in_its_last_month(
    tls: Tls, tls_dam: DamSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client_for(tls_dam, tls.pfx(expires_in_days=40), DAM_CA_BUNDLE=str(tls.ca_path)).close()
        assert not caplog.records
        client_for(tls_dam, tls.pfx(expires_in_days=10.5), DAM_CA_BUNDLE=str(tls.ca_path)).close()
    assert "in 10 days" in caplog.text


def test_certificate__refused_by_the_dam_is_told(tls: Tls, tls_dam: DamSimulator) -> None:
    client = client_for(tls_dam, tls.pfx(other_ca=True), DAM_CA_BUNDLE=str(tls.ca_path))
    with pytest.raises(AppError) as caught:
        client.find_campaigns()
    # Some servers send an alert that says why, others just hang up.
    assert "refused the client certificate" in str(caught.value) or caught.value.is_out_of_reach
    client.close()


def test_certificate__of_the_dam_by_an_unknown_ca(tls: Tls, tls_dam: DamSimulator) -> None:
    client = client_for(tls_dam, tls.pfx())
    with pytest.raises(ConfigError, match=r"DAM_CA_BUNDLE: .* not signed by a known CA"):
        client.find_campaigns()
    client.close()


def test_certificate__of_the_dam_for_another_name(tls: Tls) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.ca.issue_cert("elsewhere.example.com").configure_cert(context)
    with DamSimulator(ssl_context=context) as dam:
        client = client_for(dam, tls.pfx(), DAM_CA_BUNDLE=str(tls.ca_path))
        with pytest.raises(ConfigError, match=r"DAM_BASE_URL: .* another name"):
            client.find_campaigns()
        client.close()


@pytest.mark.parametrize("username", [True, False], ids=["grant password", "grant client_credentials"])
def test_token__by_either_grant(tls: Tls, tls_dam: DamSimulator, username: bool) -> None:
    unset = {} if username else {"DAM_USERNAME": "", "DAM_PASSWORD": ""}
    client = client_for(tls_dam, tls.pfx(), DAM_CA_BUNDLE=str(tls.ca_path), **unset)
    assert client.find_campaigns() == []
    token_call, search = tls_dam.requests
    assert token_call.form["grant_type"] == ("password" if username else "client_credentials")
    assert search.headers["Authorization"].startswith("Bearer ")
    assert len(tls_dam.requests) == 2, "an idle run: one login, one search"
    client.close()


def test_session_login__sends_its_id_and_logs_out(dam: DamSimulator) -> None:
    campaign = dam.add_campaign("Summer", "C-1")
    client = client_for(dam)
    after = client.change_status(campaign, expected="A1", new="A2")
    assert after is not None
    assert after.status == "A2"
    client.close()
    assert dam.calls("DELETE", "/sessions")


def test_session_login__ended_session_is_renewed_once(dam: DamSimulator) -> None:
    campaign = dam.add_campaign("Summer", "C-1")
    client = client_for(dam)
    client.find_campaigns()
    dam.expire_tokens()
    assert client.read_campaign(campaign) is not None
    assert len(dam.calls("POST", "/sessions")) == 2
    client.close()


def test_login_refused__names_the_variables_and_no_secret(dam: DamSimulator) -> None:
    client = client_for(dam, DAM_PASSWORD="not-the-password")
    with pytest.raises(DamError) as caught:
        client.find_campaigns()
    assert caught.value.kind == "login_refused"
    assert caught.value.exit_code is ExitCode.BAD_CONFIG
    assert "DAM_PASSWORD" in str(caught.value)
    assert "not-the-password" not in str(caught.value)
    client.close()


def test_netrc__does_not_replace_the_token(
    dam: DamSimulator, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    client = client_for(dam, tls.pfx())
    client.find_campaigns()
    assert {call.headers.get("Authorization", "none")[:6] for call in dam.requests} == {"none", "Bearer"}
    client.close()


def test_search__unknown_folder_is_told(dam: DamSimulator) -> None:
    client = client_for(dam, DAM_CAMPAIGNS_FOLDER_ID="0" * 40)
    with pytest.raises(DamError, match="check DAM_STATUS_FIELD_ID"):
        client.find_campaigns()
    client.close()


@pytest.mark.parametrize(("offset", "pages"), [(0, 6), (3, 7), (-3, 7)])
def test_search__finds_folders_once_over_all_pages(dam: DamSimulator, offset: int, pages: int) -> None:
    dam.options.max_page_size = 7
    dam.options.hit_count_offset = offset  # a count that cannot be right is not gone by
    wanted = {dam.add_campaign(f"Campaign {number}", f"C-{number}") for number in range(30)}
    for number in range(10):
        dam.add_campaign(f"Ten {number}", f"T-{number}", status="A10")
    client = client_for(dam)
    found = [hit.id for hit in client.find_campaigns()]
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert len(dam.calls("POST", "/search/text")) == pages
    client.close()


def test_listing__live_files_of_all_sub_folders_once(dam: DamSimulator) -> None:
    campaign = dam.add_campaign("Summer", "C-1")
    root = dam.master_assets_folder(campaign)
    assert root is not None
    nested = dam.add_folder(dam.add_folder(root, "Print"), "A4")
    wanted = {dam.add_asset(root, "zero", b""), dam.add_asset(nested, "deep.pdf", b"1")}
    dam.add_asset(root, "deleted.jpg", b"1", deleted=True)
    dam.add_asset(nested, "expired.jpg", b"1", expired=True)
    linked = dam.add_asset(root, "linked.jpg", b"1")
    dam.link(nested, linked)
    dam.link(nested, root)  # a circle
    client = client_for(dam)
    assets = client.list_master_assets(campaign).assets
    assert {asset.id for asset in assets} == wanted | {linked}
    deep = next(asset for asset in assets if asset.name == "deep.pdf")
    assert deep.folder.parent is not None
    assert (deep.folder.name, deep.folder.parent.name) == ("A4", "Print")
    client.close()


@pytest.mark.parametrize("is_gone", [True, False])
def test_listing__no_short_page_hides_what_is_there(dam: DamSimulator, is_gone: bool) -> None:
    """Neither a page of expired files alone, nor one of folders with nothing in them, proves anything."""
    campaign = dam.add_campaign("Summer", "C-1")
    root = dam.master_assets_folder(campaign)
    assert root is not None
    for number in range(3):
        if is_gone:
            dam.add_asset(root, f"{number}.jpg", b"1", expired=True)
        else:
            dam.add_folder(root, f"{number}")
    wanted = dam.add_asset(root, "last.jpg", b"1")
    dam.options.max_page_size = 3
    with closing(client_for(dam)) as client:
        found = client.list_master_assets(campaign)
    assert [asset.id for asset in found.assets] == [wanted]


def test_listing__of_many_folders_is_in_order_whichever_is_answered_first(dam: DamSimulator) -> None:
    campaign = dam.add_campaign("Summer", "C-1")
    top = dam.master_assets_folder(campaign)
    assert top is not None
    folders = [dam.add_folder(top, f"{number}") for number in range(7)]
    wanted = [dam.add_asset(folder, "a.jpg", b"a") for folder in folders]
    wanted += [dam.add_asset(dam.add_folder(folder, "below"), "b.jpg", b"b") for folder in folders]
    dam.fail(rf"GET .*/folders/{folders[0]}/children", delay=0.3)
    client = client_for(dam)
    assert [asset.id for asset in client.list_master_assets(campaign).assets] == wanted
    assert len(dam.calls("GET", f"/folders/{folders[3]}/children")) == 2, "a page, and the empty one after it"
    later = [call.at for call in dam.calls("GET", f"/folders/{folders[1]}/children")]
    assert min(later) < max(call.at for call in dam.calls("GET", f"/folders/{folders[0]}/children"))

    dam.fail(rf"GET .*/folders/{folders[5]}/children", status=403)
    with pytest.raises(DamError, match="403"):
        client.list_master_assets(campaign)
    client.close()


def test_calls__at_once_are_bounded(dam: DamSimulator) -> None:
    campaigns = [dam.add_campaign(f"Campaign {number}", f"C-{number}") for number in range(10)]
    with closing(client_for(dam)) as client, ThreadPoolExecutor(len(campaigns)) as threads:
        client.read_campaign(campaigns[0])
        dam.clear_requests()
        dam.fail(r"GET .*/folders/", delay=1.5)
        found = threads.map(client.read_campaign, campaigns)
        wait_for(lambda: len(dam.requests) >= 8)
        time.sleep(0.3)
        assert len(dam.requests) == 8, "nothing was answered yet"
        assert [campaign and campaign.id for campaign in found] == campaigns


def test_listing__of_deleted_files_alone_is_empty(dam: DamSimulator) -> None:
    campaign = dam.add_campaign("Summer", "C-1")
    dam.add_asset(dam.master_assets_folder(campaign), "gone.jpg", b"1", deleted=True)
    client = client_for(dam)
    found = client.list_master_assets(campaign)
    assert found.folder_id is not None
    assert found.assets == ()
    client.close()


def test_content__redirected_elsewhere_is_not_shown_the_token(dam: DamSimulator, tls: Tls) -> None:
    """An object store gets the request, neither the token nor the cookies."""
    heads: list[bytes] = []

    def store(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes")

    def redirect(connection: socket.socket) -> None:
        while True:
            head = read_head(connection)
            if b"/oauth2/token" in head:
                answer = b'{"access_token": "the-token"}'
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nSet-Cookie: node=7; Path=/\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer)
                )
                continue
            heads.append(head)
            location = f"Location: http://{elsewhere}/key\r\n".encode()
            connection.sendall(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + location + b"\r\n")

    with serving(store) as elsewhere, serving(redirect) as address:
        client = client_for(dam, tls.pfx(), DAM_BASE_URL=f"http://{address}", DAM_TOKEN_URL="")
        view = memoryview(bytearray(10))
        with client.open_asset("a" * 40) as stream:
            assert stream.readinto(view) == 5
        client.close()
    assert b"Authorization: Bearer the-token" in heads[0]
    assert b"Cookie: node=7" in heads[0]
    assert heads[1].startswith(b"GET /key HTTP/1.1")
    assert b"Authorization" not in heads[1]
    assert b"Cookie" not in heads[1]


def test_listing__holds_values_and_not_the_dams_json(dam: DamSimulator) -> None:
    """Some 9 KB an asset were held while a folder was listed: 100,000 assets took 0.9 GB."""
    count = 3000
    campaign = dam.add_campaign("Summer", "C-1")
    folder = dam.master_assets_folder(campaign)
    assert folder is not None
    for number in range(count):
        dam.add_asset(folder, f"a picture of the summer, number {number}.jpg", b"")
    client = client_for(dam, DAM_PAGE_SIZE="50")
    client.list_master_assets(dam.add_campaign("Other", "C-2"))  # what is made once does not count
    tracemalloc.start()
    try:
        found = client.list_master_assets(campaign)
        _held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.assets) == count
    assert peak / count < 4000, f"{peak / count:.0f} bytes an asset"
    client.close()


def test_proxy__of_another_language_is_a_faulty_setting(
    dam: DamSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "https://user:proxy-secret@proxy.example.com:8443")
    client = client_for(dam, DAM_BASE_URL="https://dam.example.com")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY: .* https://proxy\.example\.com:8443") as told:
        client.find_campaigns()
    assert "proxy-secret" not in str(told.value)
    client.close()


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (
            None,
            DamError,
            r"is out of reach \(the proxy 127\.0\.0\.1:\d+ of HTTPS_PROXY: Connection refused\)",
        ),
        (b"502 Bad Gateway", DamError, r"the proxy .* of HTTPS_PROXY: Tunnel connection failed: 502"),
        (b"407 Proxy Authentication Required", ConfigError, r"HTTPS_PROXY: the proxy .* requires a login"),
    ],
)
def test_proxy__that_does_not_connect_us_is_named(
    dam: DamSimulator,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    error: type[Exception],
    said: str,
) -> None:
    def refuse(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 " + (answer or b"") + b"\r\nContent-Length: 0\r\n\r\n")

    with serving(refuse) as proxy:
        address = proxy
    client = client_for(dam, DAM_BASE_URL="https://dam.example.com")
    with ExitStack() as stack:
        if answer is not None:
            address = stack.enter_context(serving(refuse))
        monkeypatch.setenv("https_proxy", f"http://user:proxy-secret@{address}")
        with pytest.raises(error, match=said) as told:
            client.find_campaigns()
    assert "proxy-secret" not in str(told.value)
    client.close()
