"""Every page in a real Chromium: WCAG 2.2 AA in both themes at every width; hostile texts do nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from hostile import ATTACKS
from page import OPERATOR, READER
from page_sample import Sample, fill
from real_browser import People, Site, open_people, open_site, violations

pytestmark = pytest.mark.timeout(300)

WIDTHS = (390, 768, 1280, 1600)
ZOOMED = (640, 320)
"""A window of 1280 pixels at a zoom of 200 and of 400 %."""
HEIGHT = 900

SCRIPTS = (
    "<script>alert(1)</script>",
    "\"'><img src=http://evil.example.com/a.png onerror=alert(1)>",
    "</textarea></title></style><svg onload=alert(1)>",
    "' autofocus onfocus=alert(1) x='",
    '" autofocus onfocus="alert(1)" x="',
    "javascript:alert(1)",
    "<iframe src=http://evil.example.com/></iframe><base href=http://evil.example.com/>",
    "<form action=http://evil.example.com/><button autofocus>Reset</button>",
)
"""Texts that would run, or fetch something, if they were taken for markup."""
TEXTS = {
    "campaign_status": ("campaign_number", "campaign_name", "a1_failure_reason"),
    "campaign_errors": ("message",),
    "campaign_assets": ("asset_name", "box_name"),
    "notices": ("subject", "body_text", "body_html", "campaign_number", "campaign_name"),
    "notice_deliveries": ("last_error",),
    "campaign_events": ("actor", "source", "reason"),
    "page_acts": ("person", "peer", "reason"),
    "orchestrator_task_runs": ("ending", "host"),
    "workers": ("host", "drain_asked_by", "trouble"),
}
"""{table: its columns with texts from outside}"""

Way = str | Callable[[Page], object]


@pytest.fixture(scope="module")
def sample(site: Site) -> Sample:
    """What is in the database of `site`."""
    return fill(site.database_url, datetime.now(UTC))


def pages_of(sample: Sample) -> dict[str, Way]:
    """{name: path, or how to come there} of every kind of page, for an operator."""
    rows = sample.rows["campaign_status"]
    failed = next(row["campaign_id"] for row in rows if row.get("a1_permanently_failed"))
    snoozed = next(row["campaign_id"] for row in rows if row.get("a1_snoozed_until"))
    waiting = next(row["campaign_id"] for row in rows if row.get("a1_retry_count") == 2)
    erring = sample.rows["campaign_errors"][0]["campaign_id"]
    uploaded = max(sample.rows["campaign_uploads"], key=lambda row: int(row["assets"]))["campaign_id"]
    mail = next(row["id"] for row in sample.rows["notices"] if row["campaign_id"] == failed)
    owed = next(row["notice_id"] for row in sample.rows["notice_deliveries"] if row["sent_at"] is None)
    act = next(
        row["id"] for row in sample.rows["page_acts"] if row["act"] == "reset" and row["skipped"] != "{}"
    )
    undone = next(row["id"] for row in sample.rows["page_acts"] if row.get("undone_at"))
    return {
        "start": "/",
        **{
            f"campaigns {state}": f"/campaigns?state={state}"
            for state in (
                "stuck",
                "failed",
                "erring",
                "snoozed",
                "near_failure",
                "in_retry",
                "in_a1",
                "uploaded",
                "gone",
            )
        },
        "campaigns": "/campaigns",
        "campaigns, none": "/campaigns?q=nothing+has+this+name",
        "campaigns, after an act": f"/campaigns?state=failed&done={act}",
        "campaigns, after an undo": f"/campaigns?state=failed&done={undone}",
        "campaign, failed": f"/campaigns/{failed}",
        "campaign, erring": f"/campaigns/{erring}",
        "campaign, snoozed": f"/campaigns/{snoozed}",
        "campaign, in retry": f"/campaigns/{waiting}",
        "campaign, uploaded": f"/campaigns/{uploaded}",
        "act on two": f"/act?id={failed}&id={snoozed}&back=/campaigns",
        "act on a filter": "/act?scope=all&state=stuck&back=/campaigns",
        "act on none": "/act?back=/campaigns",
        "act that was refused": lambda page: refuse_snooze(page, f"/act?id={failed}"),
        "notices": "/notices",
        "notices, given up": "/notices?state=given_up",
        "notice": f"/notices/{mail}",
        "notice, owed": f"/notices/{owed}",
        "runs": "/runs",
        "runs, failed": "/runs?task=a1_to_a2&only=failed",
        "audit": "/audit",
        "not found": "/campaigns/no-such-campaign",
    }


def refuse_snooze(page: Page, path: str) -> None:
    """Send a snooze whose end has passed, past the checks of the browser."""
    page.goto(path)
    page.locator("#snooze-until").fill("2020-01-01T10:00")
    page.evaluate("for (const form of document.forms) form.noValidate = true")
    page.get_by_role("button", name="Snooze", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done")


def forge_act(page: Page) -> None:
    """Send an act as a reader, by the form that logs out."""
    page.goto("/")
    page.evaluate("document.querySelector('form.log-out').action = '/act'")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("You can read, but not act")


def guess(page: Page) -> None:
    """Log in with a wrong password."""
    page.goto("/login")
    page.fill("#name", OPERATOR)
    page.fill("#password", "wrong")
    page.click("main button")
    expect(page.get_by_role("alert")).to_be_visible()


def judge(
    people: People, person: str, ways: dict[str, Way], theme: str, widths: Sequence[int]
) -> Iterator[str]:
    """What is wrong with these pages, a line each: axe's verdict at one of the widths in turn, and pages that
    are wider than their window at any width.
    """
    window = people.window(person, color_scheme=theme, base_url=people.site.address)
    page = window.new_page()
    for number, (name, way) in enumerate(ways.items()):
        width = widths[number % len(widths)]
        page.set_viewport_size({"width": width, "height": HEIGHT})
        if callable(way):
            way(page)
        else:
            page.goto(way)
        for found in violations(page):
            yield f"{name}, {theme}, {width}: {found}"
        for width in (*WIDTHS, *ZOOMED):
            page.set_viewport_size({"width": width, "height": HEIGHT})
            wide = page.evaluate(
                "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
            )
            if wide > 0:
                yield f"{name}: {wide} pixels too wide at {width}"
    window.close()


# How pages look


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("theme", "widths"), [("light", (1280, 1600)), ("dark", (390, 768))])
def test_page__is_accessible_in_every_theme_and_width(
    people: People, sample: Sample, theme: str, widths: tuple[int, ...]
) -> None:
    """Tables at the wide ones, cards at the narrow ones: each page is judged as both."""
    faults = list(judge(people, OPERATOR, pages_of(sample), theme, widths))
    faults += judge(people, READER, {"as a reader": "/campaigns", "forbidden": forge_act}, theme, widths)
    faults += judge(people, "", {"log in": "/login", "log in, refused": guess}, theme, widths)
    assert faults == []


def test_start__when_nothing_is_stuck_is_accessible(
    chromium: Browser, database_url: str, tmp_path: Path
) -> None:
    fill(database_url, datetime.now(UTC), is_calm=True)
    with open_site(database_url, tmp_path) as site, open_people(chromium, site) as people:
        for theme, width in (("light", 390), ("dark", 1280)):
            assert list(judge(people, OPERATOR, {"start": "/"}, theme, (width,))) == []
            page = people.page(OPERATOR)
            expect(page.get_by_role("heading", level=1)).to_contain_text("Nothing is stuck")


def test_motion__stops_for_those_who_ask(people: People, sample: Sample) -> None:
    moving = """[...document.querySelectorAll("*")].filter((element) => {
        const style = getComputedStyle(element);
        return style.animationName !== "none" || parseFloat(style.transitionDuration) > 0;
    }).length"""
    assert sample.rows
    assert people.page(OPERATOR, reduced_motion="no-preference").evaluate(moving) == 1
    assert people.page(OPERATOR, reduced_motion="reduce").evaluate(moving) == 0


# What pages hold


def poison(site: Site) -> None:
    """Put a hostile text into everything that comes from outside, and add campaigns with hostile ids."""
    texts = [text.replace("\0", "").replace("\ud800", "") for text in (*SCRIPTS * 4, *ATTACKS)]
    for table, columns in TEXTS.items():
        values = ", ".join(
            f"{column} = (%s::text[])[1 + (hashtext(ctid::text || '{column}') & 65535) %% {len(texts)}]"
            for column in columns
        )
        site.sql(f"UPDATE {table} SET {values}", *[texts] * len(columns))  # noqa: S608 - of this file
    site.sql("UPDATE notice_deliveries SET recipient = %s || ctid::text", SCRIPTS[1])
    site.sql("UPDATE notices SET body_html = %s || body_html", "".join(SCRIPTS))
    site.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_permanently_failed, a1_last_retry_at, a1_failure_reason, updated_at)"
        " SELECT text, text, text, 'A1', 3, TRUE, now(), text, now() FROM unnest(%s::text[]) AS text",
        list(dict.fromkeys(texts)),
    )


def test_hostile_texts__run_nowhere(chromium: Browser, database_url: str, tmp_path: Path) -> None:
    sample = fill(database_url, datetime.now(UTC))
    with open_site(database_url, tmp_path) as site, open_people(chromium, site) as people:
        poison(site)
        people.expected = ("/html",)  # what the browser blocks in the frame of an e-mail
        page = people.window(OPERATOR, base_url=site.address).new_page()
        page.goto("/campaigns?state=failed")
        links = page.locator("tbody a.name")
        hrefs = links.evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
        hostile = {f"hostile id {href}": href for href in hrefs if "alert" in href or "evil.example" in href}
        assert len(hostile) >= len(SCRIPTS)
        without = []  # pages that show no such text
        for name, way in {**pages_of(sample), **hostile}.items():
            if callable(way):
                way(page)
            else:
                page.goto(way)
            if not re.search(r"alert\(1\)|evil\.example", page.locator("main").inner_text()):
                without.append(name)
            foreign = "main script, main img, main base, main [onerror], main [onload], main [onfocus]"
            assert page.locator(foreign).count() == 0, name
        assert without == ["campaigns, none", "act on none", "not found"]
