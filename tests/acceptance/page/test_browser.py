"""The operator's page in a real Chromium: the ways that people take through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page, expect

from conftest import MIGRATIONS
from conftest import PASSWORD as DATABASE_PASSWORD
from page import OPERATOR, READER
from real_browser import BANNER, SECOND, People, Site, open_people, open_site, violations
from simulators.postgres import EmbeddedPostgres

pytestmark = pytest.mark.timeout(300)

FOCUS = """() => {
    const element = document.activeElement, style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return {
        html: element.outerHTML.slice(0, 200), isBody: element === document.body,
        isOutlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        isInSight: box.width > 0 && box.bottom > 0 && box.top < innerHeight,
    };
}"""


# Many at once, and several people


def test_bulk_reset__tells_what_it_left_alone_and_is_undone_once(people: People) -> None:
    site = people.site
    ids = site.add_failed("Bulk", 60)
    page = people.page(OPERATOR)
    page.locator("#counter-failed").click()
    page.get_by_label("Number, name or id").fill("Bulk")
    page.get_by_role("button", name="Filter").click()
    listed = page.url.replace("&older=", "")
    assert "state=failed" in listed
    page.get_by_role("button", name="Act on all 60 that match").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Act on these 60 campaigns")
    expect(page.locator("main")).to_contain_text("Cut-off")
    site.sql(
        "UPDATE campaign_status SET a1_last_retry_at = now(), updated_at = now() WHERE campaign_id = %s",
        ids[0],
    )
    page.locator("#reset-reason").fill("files came by courier")
    page.get_by_role("button", name="Reset", exact=True).click()
    banner = page.locator(BANNER)
    expect(banner).to_contain_text("Reset: 59 campaigns.")
    expect(banner).to_contain_text("files came by courier")
    expect(banner).to_contain_text("1: changed since the page was drawn")
    assert page.url.startswith(f"{listed}&done=")
    expect(page.locator("#found")).to_have_text("1 campaign")
    assert violations(page) == []
    failed = (
        "SELECT count(*)::integer FROM campaign_status"
        " WHERE campaign_name LIKE 'Bulk%' AND a1_permanently_failed"
    )
    assert site.sql(failed) == [(1,)]

    other = page.context.new_page()
    other.goto(page.url)
    banner.get_by_role("button", name="Undo").click()
    expect(banner).to_contain_text("Undone for 59 campaigns.")
    expect(banner.get_by_role("button")).to_have_count(0)
    expect(page.locator("#found")).to_have_text("60 campaigns")
    assert "state=failed" in page.url
    assert site.sql(failed) == [(60,)]

    other.get_by_role("button", name="Undo").click()  # drawn before the undo
    expect(other.locator(BANNER)).to_contain_text("Undone for 59 campaigns.")
    assert site.events(ids[1], "undo") == 1
    page.goto(f"{site.address}/audit")
    expect(page.get_by_role("row").nth(1)).to_contain_text("undone for 59")


def test_two_operators__reset_the_same_campaign_once(people: People) -> None:
    (campaign,) = people.site.add_failed("Shared")
    first, second = (people.page(name, f"/campaigns/{campaign}") for name in (OPERATOR, SECOND))
    first.get_by_role("button", name="Reset", exact=True).click()
    expect(first.locator(BANNER)).to_contain_text("Reset: 1 campaign.")
    second.get_by_role("button", name="Reset", exact=True).click()
    expect(second.locator(BANNER)).to_contain_text("Reset: 0 campaigns.")
    expect(second.locator(BANNER)).to_contain_text("not permanently failed, and no attempt is counted")
    expect(second.locator(BANNER).get_by_role("button", name="Undo")).to_have_count(0)
    resets = second.get_by_role("row").filter(has_text=re.compile(r"\breset\b"))
    expect(resets).to_have_count(1)
    expect(resets).to_contain_text(OPERATOR)
    assert people.site.events(campaign, "reset") == 1


# Trouble


@pytest.fixture
def private_site(private_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Site]:
    """A page on a server of its own."""
    url = private_postgres.create_database("page_test")
    files = [f"--file={file}" for file in sorted(MIGRATIONS.glob("*.sql"))]
    private_postgres.psql("--quiet", *files, database="page_test").check_returncode()
    with open_site(url, tmp_path) as site:
        yield site


def test_outage__is_told_and_loses_no_act(
    private_site: Site, private_postgres: EmbeddedPostgres, chromium: Browser
) -> None:
    (campaign,) = private_site.add_failed("Outage")
    with open_people(chromium, private_site) as people:
        people.expected = ("503 for /counters", "503 from /counters")
        page = people.page(OPERATOR, f"/campaigns/{campaign}")
        reader, watcher = people.page(READER), people.window(READER).new_page()
        watcher.clock.install()
        watcher.goto(private_site.address)
        page.locator("#reset-reason").fill("sent in the outage")
        private_postgres.stop()
        with page.expect_request("**/act") as sent, page.expect_response("**/act") as answer:
            page.get_by_role("button", name="Reset", exact=True).click()
        form, answered = sent.value.post_data, answer.value
        assert (answered.status, answered.headers["retry-after"]) == (503, "10")
        expect(page.get_by_role("heading", level=1)).to_have_text("The database cannot be reached")
        expect(page.locator("main")).to_contain_text("Nothing was done.")
        expect(page.locator("main")).to_contain_text("the page never does the same form twice")
        assert violations(page) == []
        seen = reader.reload()
        assert seen is not None
        assert seen.status == 503
        fault = watcher.locator("#counters-fault")
        expect(fault).to_be_empty()
        watcher.clock.run_for(10_000)
        expect(fault).to_contain_text("These numbers are out of date")
        assert violations(watcher) == []
        expect(reader.get_by_role("heading", level=1)).to_have_text("The database cannot be reached")

        started_again = EmbeddedPostgres(
            private_postgres.data_dir, port=private_postgres.port, password=DATABASE_PASSWORD
        )
        with started_again:
            assert private_site.events(campaign, "reset") == 0
            watcher.clock.run_for(10_000)
            expect(fault).to_be_empty()
            expect(reader.get_by_role("heading", level=1)).to_have_text("The database cannot be reached")
            reader.reload()
            expect(reader.get_by_role("heading", level=1)).to_have_text("1 campaign is stuck")
            page.reload()  # sends the form again
            expect(page.locator(BANNER)).to_contain_text("Reset: 1 campaign.")
            expect(page.locator(BANNER)).to_contain_text("sent in the outage")
            again = page.request.post(
                f"{private_site.address}/act",
                data=form or "",
                headers={"Content-Type": "application/x-www-form-urlencoded", "Origin": private_site.address},
            )
            assert again.status == 200
            assert "Reset: 1 campaign." in again.text()
            assert private_site.events(campaign, "reset") == 1


# Without JavaScript, by keyboard, without rights


def test_without_javascript__everything_works(people: People) -> None:
    site = people.site
    site.add_failed("Plain", 55)
    page = people.page(OPERATOR, "/campaigns", java_script_enabled=False)
    page.get_by_label("Number, name or id").fill("Plain")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#found")).to_have_text("55 campaigns")
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("tbody tr")).to_have_count(5)
    boxes = page.get_by_role("checkbox")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.get_by_role("button", name="Act on the selected").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Act on these 2 campaigns")
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(page.locator(BANNER)).to_contain_text("Reset: 2 campaigns.")
    assert "q=Plain" in page.url
    page.locator(BANNER).get_by_role("button", name="Undo").click()
    expect(page.locator(BANNER)).to_contain_text("Undone for 2 campaigns.")

    page.locator("tbody th a").first.click()
    until = datetime.now(ZoneInfo("Europe/Rome")) + timedelta(days=2)
    page.locator("summary", has_text="Snooze").click()
    page.locator("#snooze-until").fill(f"{until:%Y-%m-%dT%H:%M}")
    page.locator("#snooze-reason").fill("promised for tomorrow")
    page.get_by_role("button", name="Snooze", exact=True).click()
    expect(page.locator(BANNER)).to_contain_text(f"Snoozed until {until:%a %Y-%m-%d %H:%M}")
    page.get_by_role("button", name="Wake").click()
    expect(page.locator(BANNER)).to_contain_text("Snooze ended: 1 campaign.")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus; each stop on the way shows where it is."""
    for _ in range(80):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        assert focus["isBody"] or (focus["isOutlined"] and focus["isInSight"]), focus
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_keyboard__is_enough_for_a_reset_and_its_undo(people: People) -> None:
    people.site.add_failed("Keyboard")
    page = people.page(OPERATOR, reduced_motion="reduce")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # past the head
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(page, "tbody th a.name")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Act", exact=True)).to_be_visible()
    tab_to(page, "#reset-reason")
    page.keyboard.type("by keyboard")
    tab_to(page, "form.act button")
    page.keyboard.press("Space")
    banner = page.locator(BANNER)
    expect(banner).to_contain_text("Reset: 1 campaign.")
    expect(banner).to_be_focused()
    tab_to(page, f"{BANNER} button")
    page.keyboard.press("Enter")
    expect(banner).to_contain_text("Undone for 1 campaign.")
    expect(banner).to_be_focused()


def test_refresh__takes_neither_focus_nor_text(people: People) -> None:
    """The page's clock is moved on to each refresh."""
    site = people.site
    (campaign,) = site.add_failed("Refresh")
    page = people.window(OPERATOR).new_page()
    page.clock.install(time=datetime(2026, 11, 24, 9, 0, tzinfo=UTC))
    page.goto(f"{site.address}/campaigns/{campaign}")
    page.evaluate("""() => {
        document.body.dataset.refreshes = 0;
        document.addEventListener("htmx:afterRequest", () => { document.body.dataset.refreshes++; });
    }""")

    def expect_refresh(number: int) -> None:
        expect(page.locator("body")).to_have_attribute("data-refreshes", str(number))

    page.clock.pause_at(datetime(2026, 11, 24, 10, 0, tzinfo=UTC))
    expect_refresh(1)
    counter, field = page.locator("#counter-failed"), page.locator("#reset-reason")
    before = int(counter.locator("b").inner_text())
    field.press_sequentially("half a sen")
    page.evaluate("document.querySelector('#counter-failed').isTheSame = true")
    page.clock.run_for(10_000)
    expect_refresh(2)
    assert page.evaluate("document.querySelector('#counter-failed').isTheSame") is True
    site.add_failed("Refreshed")
    page.clock.run_for(10_000)
    expect_refresh(3)
    expect(counter.locator("b")).to_have_text(str(before + 1))
    expect(field).to_be_focused()
    field.press_sequentially("tence")
    expect(field).to_have_value("half a sentence")
    counter.focus()
    site.add_failed("Refreshed again")
    page.clock.run_for(10_000)
    expect_refresh(4)
    expect(counter.locator("b")).to_have_text(str(before + 2))
    expect(counter).to_be_focused()


def test_reader__is_offered_no_act(people: People) -> None:
    (campaign,) = people.site.add_failed("Read")
    page = people.window(READER).new_page()
    for path in ("/", "/campaigns", f"/campaigns/{campaign}", f"/act?id={campaign}", "/notices", "/audit"):
        page.goto(people.site.address + path)
        assert page.locator("form[method=post]").all_inner_texts() == ["Log out"], path
        assert page.locator("main").get_by_role("button").all_inner_texts() in (
            [],
            ["Filter"],
            ["Copy", "Copy"],
        ), path
        assert page.locator("main input[type=checkbox]").count() == 0, path
