"""A session that ends in the middle of downloads is renewed, in whatever way the DAM says so."""

from __future__ import annotations

import ssl
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trustme

from hostile import relaying, says
from shared.base.errors import DamError
from shared.dam.client import DamClient
from shared.settings import load_settings
from simulators import dam_rest
from simulators.dam import GeneratedContent
from world import Run, World, wait_for

if TYPE_CHECKING:
    from conftest import Tls

DISGUISES = {
    "401": {},
    "a login page with 200": {"login_page_on_expired": True},
    "a redirection to a login page": {"html_login_on_expired": True},
}
PAGE = b"<!DOCTYPE html><html><body>a real page</body></html>"
MEGABYTE = 1024 * 1024


def end_sessions_at(world: World, match: str) -> Run:
    """A run whose session is over when the DAM comes to answer these requests."""
    held = world.dam.fail(match, delay=0.5, times=6)
    process: subprocess.Popen[str] = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    try:
        wait_for(lambda: held.hits > 0)
    finally:
        world.dam.expire_tokens()
    return world.finish(process)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_lost_session__on_downloads_is_renewed_once(world: World, disguise: str) -> None:
    for option, value in DISGUISES[disguise].items():
        setattr(world.dam.options, option, value)
    files = [(f"{number}.jpg", bytes([number]) * 1000) for number in range(5)] + [("page.html", PAGE)]
    world.add_full_campaign("Summer", "C-1", files)
    done = end_sessions_at(world, r"GET .*/contents")
    assert done.exit_code == 0, done.stderr
    assert len(world.box_files()) == 6
    assert len(world.dam.calls("POST", "/sessions/oauth2/token")) == 2
    assert not [subject for subject in world.subjects if "Error" in subject]


@pytest.mark.parametrize("write", [r"PUT .*/state", r"PATCH .*/folders"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_lost_session__on_a_write_is_renewed(world: World, disguise: str, write: str) -> None:
    """A login page is no success of a write."""
    for option, value in DISGUISES[disguise].items():
        setattr(world.dam.options, option, value)
    campaign = world.add_full_campaign("Summer", "C-1")
    done = end_sessions_at(world, write)
    assert done.exit_code == 0, done.stderr
    assert done.outcomes == {campaign: "uploaded"}
    assert world.dam.lock_state(campaign) is None
    assert len(world.dam.calls("POST", "/sessions/oauth2/token")) == 2


@pytest.mark.parametrize("accepts_ranges", [True, False])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_lost_session__in_the_middle_of_a_file(world: World, disguise: str, accepts_ranges: bool) -> None:
    """The connection breaks, and what the rest is asked of has forgotten us."""
    for option, value in DISGUISES[disguise].items():
        setattr(world.dam.options, option, value)
    world.dam.options.accept_ranges = accepts_ranges
    content = GeneratedContent(30 * MEGABYTE, seed=3)
    campaign = world.dam.add_campaign("Summer", "C-1")
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.dam.add_asset(folder, "film.mp4", content)
    world.dam.fail(r"GET .*/contents", truncate=10 * MEGABYTE, times=1)
    done = end_sessions_at(world, r"GET .*/contents")
    assert done.exit_code == 0, done.stderr
    assert set(world.box_files().values()) == {(content.size, content.sha1())}


@pytest.mark.parametrize("way", ["403", "500", "page without a head", "loop", "unknown CA", "closed port"])
def test_lost_session__at_a_sign_in_host_that_is_not_for_us(
    world: World, tls: Tls, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Where a redirection ends says nothing of the asset, as long as the session may be over."""
    world.dam.options.html_login_on_expired = True
    campaign = world.add_full_campaign("Summer", "C-1", [(f"{name}.jpg", b"bytes") for name in "abc"])
    context = tls.server_context
    if way == "unknown CA":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with relaying(ssl_context=context) as sign_in:
        address = f"{sign_in.address}/sign-in" if way != "closed port" else "https://127.0.0.1:9/sign-in"
        said = {
            "page without a head": "200 OK",
            "loop": f"302 Found\r\nLocation: {address}\r\nContent-Length: 0",
        }.get(way, f"{way} No\r\nContent-Length: {len(PAGE)}")
        sign_in.attacks.append(("", says(said, b"" if way == "loop" else PAGE)))
        monkeypatch.setattr(dam_rest, "LOGIN_PAGE", address)
        done = end_sessions_at(world, r"GET .*/contents")
    assert (done.exit_code, done.outcomes) == (0, {campaign: "uploaded"}), done.stderr
    assert len(world.dam.calls("POST", "/sessions/oauth2/token")) == 2


def test_html_asset__is_copied_from_the_dam_and_from_an_object_store(world: World, tls: Tls) -> None:
    """Also one that looks like a login page; and a page in place of another file is none."""
    world.add_full_campaign("Summer", "C-1", [("login.html", PAGE), ("a.jpg", b"a")])
    assert world.upload().exit_code == 0
    assert {name.rpartition("/")[2] for name in world.box_files()} == {"login.html", "a.jpg"}
    head = f"200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}"
    with relaying(ssl_context=tls.server_context) as store:
        store.attacks.append(("/key", says(head, PAGE)))
        world.dam.options.contents_redirect = f"{store.address}/key"
        good = world.add_full_campaign("Autumn", "C-2", [("other.html", PAGE)])
        bad = world.add_full_campaign("Winter", "C-3", [("b.jpg", b"not a page")])
        done = world.upload()
    assert done.outcomes == {good: "uploaded", bad: "failed"}
    assert "declared 10 bytes" in done.stderr
    assert len(world.dam.calls("POST", "/sessions/oauth2/token")) == 2, "no login more: the session was valid"


def test_download__404_names_the_asset(world: World) -> None:
    """So that the folder can be listed again: it may have been deleted meanwhile."""
    campaign = world.add_full_campaign("Summer", "C-1")
    with closing(DamClient(load_settings(world.env).dam, now=datetime.now(UTC))) as client:
        asset = client.list_master_assets(campaign).assets[0]
        world.dam.remove(asset.id)
        with pytest.raises(DamError) as told, client.open_asset(asset.id, size_bytes=asset.size_bytes):
            pass
    assert (told.value.kind, told.value.item_id, told.value.status_code) == ("not_found", asset.id, 404)
