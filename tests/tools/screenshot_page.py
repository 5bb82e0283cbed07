"""Take pictures of the operator's page with sample data into MARKDOWN_DOCS/images/. Run by hand:

    apt-get install chromium fonts-liberation fonts-noto-color-emoji
    PYTHONPATH=scripts:tests python tests/tools/screenshot_page.py

`--all DIR` takes every page at 390, 1024 and 1600 pixels in both colour schemes into DIR instead, and asks
axe-core about each: WCAG 2.0 to 2.2, A and AA.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import waitress
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from page import OPERATOR, PASSWORD, open_page
from page_sample import COMMANDS, HOSTILE, ZONE, Sample, fill
from shared.page.app_context import EXTENSION
from simulators.postgres import EmbeddedPostgres

IMAGES = Path(__file__).parents[2] / "MARKDOWN_DOCS" / "images"
MIGRATIONS = Path(__file__).parents[2] / "database" / "migrations"
NOW = datetime(2026, 11, 24, 14, 7, 20, tzinfo=ZONE)
CHROMIUM = {"executable_path": "/usr/bin/chromium", "args": ["--no-sandbox", "--disable-gpu"]}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
DESKTOP, TABLET, PHONE = 1280, 1024, 390
IN_DOCS = {"start": True, "campaigns": False, "campaign": True, "notices": False, "audit": False}
"""{page: whether there is a picture of it on a phone too}"""


@contextmanager
def installation(folder: Path) -> Iterator[tuple[str, Sample]]:
    """A page on the sample: its address, and the sample."""
    with EmbeddedPostgres(folder / "postgres", password="only-for-pictures") as server:
        url = server.create_database("page_test")
        for file in sorted(MIGRATIONS.glob("*.sql")):
            server.psql("--quiet", "-f", file, database="page_test").check_returncode()
        sample = fill(url, NOW, has_workers=False)
        links = {
            "DAM_WEB_URL": "https://dam.example.com/folders/{campaign_id}",
            "BOX_WEB_URL": "https://app.box.com/folder/{folder_id}",
        }
        with open_page(url, folder, **links) as page:
            page.clock.at = NOW
            context = page.app.extensions[EXTENSION]
            page.app.extensions[EXTENSION] = replace(
                context, settings=replace(context.settings, commands=COMMANDS)
            )
            web = waitress.create_server(page.app, host="127.0.0.1", port=0, threads=2)
            threading.Thread(target=web.run, daemon=True).start()
            yield f"http://127.0.0.1:{web.effective_port}", sample
            web.close()


def pages_of(sample: Sample) -> dict[str, str]:
    """{name: path} of every kind of page."""
    rows = sample.rows["campaign_status"]
    failed = [row for row in rows if row.get("a1_permanently_failed")]
    erring = sample.rows["campaign_errors"][0]
    snoozed = next(row for row in rows if row.get("a1_snoozed_until"))
    hostile = next(row for row in rows if row["campaign_number"] == HOSTILE[0])
    notice = next(
        row
        for row in sample.rows["notices"]
        if row["campaign_id"] == failed[0]["campaign_id"] and row["attempt"] == 3
    )
    big = max(sample.rows["campaign_uploads"], key=lambda row: int(row["assets"]))
    return {
        "start": "/",
        "campaigns": "/campaigns?state=stuck",
        "campaigns_all": "/campaigns",
        "campaign": f"/campaigns/{failed[0]['campaign_id']}",
        "campaign_hostile": f"/campaigns/{hostile['campaign_id']}",
        "campaign_erring": f"/campaigns/{erring['campaign_id']}",
        "campaign_snoozed": f"/campaigns/{snoozed['campaign_id']}",
        "campaign_uploaded": f"/campaigns/{big['campaign_id']}",
        "act_chosen": f"/act?id={failed[0]['campaign_id']}&id={snoozed['campaign_id']}&back=/campaigns",
        "act_all": "/act?scope=all&state=failed&back=/campaigns",
        "act_none": "/act?back=/campaigns",
        "runs": "/runs?task=a1_to_a2",
        "notices": "/notices",
        "notices_given_up": "/notices?state=given_up",
        "notice": f"/notices/{notice['id']}",
        "audit": "/audit",
        "not_found": "/campaigns/no-such-campaign",
    }


def take_for_docs(browser: Browser, address: str, sample: Sample) -> None:
    """The pictures that the documents show: light, at a desktop's width, some on a phone."""
    paths = pages_of(sample)
    for name, has_phone in IN_DOCS.items():
        for kind, width, height in (("desktop", DESKTOP, 900), ("phone", PHONE, 844)):
            if kind == "phone" and not has_phone:
                continue
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
            page = _logged_in(context.new_page(), address)
            page.goto(address + paths[name])
            page.screenshot(
                path=IMAGES / f"page_{name}_{kind}.png", full_page=kind == "phone" or name == "start"
            )
            context.close()


def take_all(browser: Browser, address: str, sample: Sample, folder: Path) -> int:
    """Every page, width and theme; how many violations axe found, which are printed."""
    violations = 0
    for scheme in ("light", "dark"):
        for width in (PHONE, TABLET, 1600):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme="dark" if scheme == "dark" else "light",
                bypass_csp=True,  # axe is put into the page as a script
            )
            page = context.new_page()
            page.goto(f"{address}/login")
            violations += _judged(page, f"login {scheme} {width}")
            page.screenshot(path=folder / f"login_{scheme}_{width}.png", full_page=True)
            _logged_in(page, address)
            for name, path in pages_of(sample).items():
                page.goto(address + path)
                page.screenshot(path=folder / f"{name}_{scheme}_{width}.png", full_page=True)
                violations += _judged(page, f"{name} {scheme} {width}")
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    print(f"{name} {scheme} {width}: {wide} pixels wide")
            context.close()
    return violations


def _logged_in(page, address):  # type: ignore[no-untyped-def]
    page.goto(f"{address}/login")
    page.fill("#name", OPERATOR)
    page.fill("#password", PASSWORD)
    page.click("main button")
    return page


def _judged(page, what: str) -> int:  # type: ignore[no-untyped-def]
    found = Axe().run(page, options=RULES).response["violations"]
    for violation in found:
        print(f"{what}: {violation['id']}: {violation['help']}")
        for node in violation["nodes"][:3]:
            print(f"    {node['html'][:160]}\n    {node['failureSummary'][:300]}")
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--all", type=Path, metavar="DIR", help="every page, width and theme, judged by axe-core"
    )
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-pictures-"))
    folder.chmod(0o711)
    try:
        with installation(folder) as (address, sample), sync_playwright() as playwright:
            browser = playwright.chromium.launch(**CHROMIUM)  # type: ignore[arg-type]
            if arguments.all:
                arguments.all.mkdir(parents=True, exist_ok=True)
                print(f"{take_all(browser, address, sample, arguments.all)} violations")
            else:
                take_for_docs(browser, address, sample)
            browser.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
