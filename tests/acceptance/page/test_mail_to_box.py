"""The whole way in a real Chromium: from the link in a mail to "in Box"."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from page import OPERATOR, PASSWORD
from real_browser import BANNER, SECOND, People, open_chromium, open_people, open_site
from world import World


@contextmanager
def webmail(mails: Sequence[str]) -> Iterator[str]:
    """A site of another name that shows the HTML of e-mails, at /0 and so on; links open a new tab."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = self.path.lstrip("/")
            body = '<!DOCTYPE html><base target="_blank">' + mails[int(number)] if number.isdecimal() else ""
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Standard error is the test's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def html_of(world: World, word: str) -> str:
    """The HTML of the last e-mail with this word in its subject."""
    found = [mail.message for mail in world.mail.messages if word in str(mail.message["Subject"])]
    body = found[-1].get_body(("html",))
    assert body is not None
    return str(body.get_content())


@pytest.mark.timeout(300)
def test_way__from_the_mail_to_box(world: World, tmp_path: Path, record_property: Any) -> None:
    """One operator is logged in when the mail comes, the other one is not."""
    campaigns = {name: world.dam.add_campaign(name, f"C-{name}") for name in ("Summer", "Winter")}
    with open_site(world.database_url, tmp_path) as site:
        address = site.address
        world.changes["ADMIN_URL"] = address
        assert world.upload(A1_MAX_RETRIES="1").exit_code == 0
        for campaign in campaigns.values():
            folder = world.dam.master_assets_folder(campaign)
            assert folder is not None
            world.dam.add_asset(folder, "key.jpg", b"late")
        mails = [html_of(world, name) for name in campaigns]
        with (
            webmail(mails) as elsewhere,
            open_chromium() as browser,
            open_people(browser, site, elsewhere) as people,
        ):
            pages = []
            for number, person in enumerate((OPERATOR, "")):
                clicks, page, seconds = reset_from_mail(people, person, f"{elsewhere}/{number}")
                assert clicks == (2 if person else 3)
                who = "logged in" if person else "logged out"
                told = f"from the open mail to the reset, {who}: {clicks} clicks, {seconds:.1f} s"
                record_property(who, told)
                print(f"\n{told}")  # noqa: T201 - a figure, shown with -s
                pages.append(page)
            begun = time.monotonic()
            assert set(world.upload().outcomes.values()) == {"uploaded"}
            for page in pages:
                page.goto(page.url.partition("?")[0])
                expect(page.locator("main .code").first).to_have_text("uploaded")
                expect(page.get_by_role("row", name="key.jpg")).to_be_visible()
            told = f"the next run, until the page says uploaded: {time.monotonic() - begun:.1f} s"
            record_property("uploaded", told)
            print(told)  # noqa: T201 - a figure, shown with -s
    assert sorted(world.box_files()) == ["C-Summer_Summer/key.jpg", "C-Winter_Winter/key.jpg"]


def reset_from_mail(people: People, person: str, mail: str) -> tuple[int, Page, float]:
    """(clicks, the page after the reset, seconds) from the open e-mail; somebody who is not logged in does
    that on the way.
    """
    window = people.window(person)
    page = window.new_page()
    page.goto(mail)
    requests: list[Any] = []
    window.on("request", lambda request: requests.append(request))
    begun, clicks = time.monotonic(), 1
    with window.expect_page() as opened:
        page.locator(f"a[href^='{people.site.address}/campaigns/']").first.click()
    tab = opened.value
    if not person:
        tab.fill("#name", SECOND)
        tab.fill("#password", PASSWORD)
        tab.get_by_role("button", name="Log in").click()
        clicks += 1
    # Strict: the browser kept the cookie back at first, since another site led here.
    first = requests[0].all_headers()
    assert (first["sec-fetch-site"], "cookie" in first) == ("cross-site", False)
    tab.get_by_role("button", name="Reset", exact=True).click()
    clicks += 1
    expect(tab.locator(BANNER)).to_contain_text("Reset: 1 campaign.")
    return clicks, tab, time.monotonic() - begun
