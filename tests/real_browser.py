"""Debian's Chromium on the operator's page, driven by Playwright; what goes wrong in it is written down."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response, expect, sync_playwright

from page import CHEAP, LINES, OPERATOR, PASSWORD
from page_process import Launcher
from shared.page.users import line_of

SECOND = "otto"
"""Another operator."""
BANNER = "[data-banner]"
"""What an act did; a selector."""
ARGUMENTS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
PATIENCE_MS = 60_000
_TELL = """
document.addEventListener("securitypolicyviolation", (event) =>
    console.error("CSP", event.violatedDirective, event.blockedURI, event.sample, event.sourceFile));
"""


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A started browser. Without Chromium the test fails: the page is to be proven in a real one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.fail("chromium is missing (Debian: apt-get install chromium)", pytrace=False)
    expect.set_options(timeout=PATIENCE_MS / 2)
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=found, args=[*ARGUMENTS], chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        browser.close()


@dataclass
class Site:
    """A page that runs as a process. address: http://HOST:PORT. states: {person: the browser's cookies}."""

    address: str
    database_url: str
    states: dict[str, Any] = field(default_factory=dict)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement, by a connection of its own."""
        opened = closing(psycopg2.connect(self.database_url))
        with opened as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def add_failed(self, name: str, count: int = 1) -> list[str]:
        """Campaigns `NAME 1` and so on that failed permanently an hour ago; their ids."""
        rows = self.sql(
            "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status,"
            " a1_retry_count, a1_permanently_failed, a1_last_retry_at, a1_failure_reason, updated_at)"
            " SELECT md5(%s || n), 'C-' || n, %s || ' ' || n, 'A1', 3, TRUE, now() - interval '1 hour',"
            " 'the folder \"Master Assets\" contains no usable files', now() - interval '1 hour'"
            " FROM generate_series(1, %s) AS n RETURNING campaign_id",
            name, name, count,
        )  # fmt: skip
        return [campaign_id for (campaign_id,) in rows]

    def events(self, campaign_id: str, kind: str) -> int:
        """How many of this kind the campaign's history has."""
        found = self.sql(
            "SELECT count(*)::integer FROM campaign_events WHERE campaign_id = %s AND kind = %s",
            campaign_id,
            kind,
        )
        return int(found[0][0])


@contextmanager
def open_site(database_url: str, folder: Path, **changes: str) -> Iterator[Site]:
    """The page as a process, with the users of tests/page.py and SECOND."""
    launcher = Launcher(database_url, folder)
    users = [*LINES.values(), line_of(SECOND, PASSWORD, CHEAP)]
    launcher.users_file.write_text("\n".join(users), encoding="utf-8")
    with launcher.serve(ADMIN_OPERATORS=f"{OPERATOR},{SECOND}", **changes) as served:
        yield Site(f"http://127.0.0.1:{served.port}", database_url)


@dataclass
class People:
    """Who look at a site, each in a browser window of their own.

    faults: what must not happen anywhere: an error on the console, a violation of the content's policy, an
    exception, a dialog, a request to another site, a part of a page that failed. expected: pieces of those
    that a test brings about.
    """

    browser: Browser
    site: Site
    others: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    seen: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [fault for fault in self.seen if not any(piece in fault for piece in self.expected)]

    def window(self, person: str = "", **options: Any) -> BrowserContext:
        """A window in which somebody is logged in; "": nobody."""
        if person and person not in self.site.states:
            with contextlib.closing(self.window()) as context:
                log_in(context.new_page(), self.site.address, person)
                self.site.states[person] = context.storage_state()
        context = self.browser.new_context(
            storage_state=self.site.states.get(person), viewport={"width": 1280, "height": 900}, **options
        )
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(_TELL)
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.seen.append(f"exception: {error.error}"))
        context.on("requestfinished", self._check_request)
        context.on("requestfailed", self._check_request)
        context.on("response", self._check_response)
        context.on("page", lambda page: page.on("dialog", self._refuse))
        self.contexts.append(context)
        return context

    def page(self, person: str, path: str = "/", **options: Any) -> Page:
        """A page of the site, opened in a new window."""
        page = self.window(person, **options).new_page()
        page.goto(self.site.address + path)
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()

    def _hear(self, message: Any) -> None:
        # An answer's status is looked at where it comes in.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.seen.append(f"console: {message.text} {message.location.get('url', '')}")

    def _refuse(self, dialog: Any) -> None:
        self.seen.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _check_request(self, request: Request) -> None:
        is_ours = request.url.startswith((self.site.address + "/", "data:", *self.others))
        if not is_ours and request.failure != "csp":  # what the policy of the content held back
            self.seen.append(f"request to {request.url}")

    def _check_response(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.seen.append(f"{response.status} for {urlsplit(response.url).path}")


@contextmanager
def open_people(browser: Browser, site: Site, *others: str) -> Iterator[People]:
    """People at a site; at the end nothing may have gone wrong in their browsers. others: sites that they use
    besides.
    """
    people = People(browser, site, others)
    try:
        yield people
    finally:
        people.close()
    assert people.faults == [], "\n".join(people.faults)


def log_in(page: Page, address: str, person: str) -> None:
    """By the form, as a person does it."""
    page.goto(f"{address}/login")
    page.fill("#name", person)
    page.fill("#password", PASSWORD)
    page.click("main button")
    page.wait_for_url(f"{address}/")


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the page, a line each."""
    # What a frame shows is an e-mail in its sandbox, where no script may run: not axe's either.
    options = {
        "runOnly": STANDARDS,
        "rules": {"target-size": {"enabled": True}},
        "iframes": False,
        "resultTypes": ["violations"],
    }
    found = Axe().run(page, {"exclude": [["tbody tr:nth-child(n+9)"]]}, options)  # as the rows before them
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in found.response["violations"]
        for node in violation["nodes"][:3]
    ]
