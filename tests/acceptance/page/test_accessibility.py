"""Every page in a real Chromium, in both themes and at every width: WCAG 2.2 AA, and hostile names that do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from hostile import ATTACKS
from page import OPERATOR, READER
from page_sample import Sample, fill
from real_browser import People, Site, open_people, open_site, violations
from simulators.postgres import PostgresServer

WIDTHS = (390, 768, 1280, 1600)
ZOOMED = (640, 320)
"""A window of 1280 pixels at a zoom of 200 and of 400 %."""
HEIGHT = 900

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
    act = next(row["id"] for row in sample.rows["page_acts"] if row["act"] == "reset" and row["skipped"] != "{}")
    undone = next(row["id"] for row in sample.rows["page_acts"] if row.get("undone_at"))
    return {
        "start": "/",
        **{
            f"campaigns {state}": f"/campaigns?state={state}"
            for state in ("stuck", "failed", "erring", "snoozed", "near_failure", "in_retry", "in_a1", "uploaded", "gone")
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
    expect(page.get_by_role("heading", level=1)).to_have_text("You may read, and not act")


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
            wide = page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth")
            if wide > 0:
                yield f"{name}: {wide} pixels too wide at {width}"
    window.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("theme", "widths"), [("light", (1280, 1600)), ("dark", (390, 768))])
def test_page__is_accessible_in_every_theme_and_width(
    people: People, sample: Sample, theme: str, widths: tuple[int, ...]
) -> None:
    """Tables at the wide ones, cards at the narrow ones: each page is judged as both."""
    people.expected = ("sandboxed",)  # the frame of an e-mail
    faults = list(judge(people, OPERATOR, pages_of(sample), theme, widths))
    faults += judge(people, READER, {"as a reader": "/campaigns", "forbidden": forge_act}, theme, widths)
    faults += judge(people, "", {"log in": "/login", "log in, refused": guess}, theme, widths)
    assert faults == []
