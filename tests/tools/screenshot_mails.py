"""Render the four e-mails with sample data into MARKDOWN_DOCS/images/. Run by hand:

    pip install playwright; apt-get install chromium fonts-noto-color-emoji
    PYTHONPATH=scripts python tests/tools/screenshot_mails.py

Takes each mail at desktop (680 px) and phone (360 px) width. `--dark DIR` writes the dark-mode pictures
into DIR instead, for the eye only.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from playwright.sync_api import sync_playwright

from shared.models import Attempt, Campaign, Notice, UploadTotals
from shared.notifier import Composer

IMAGES = Path(__file__).parents[2] / "MARKDOWN_DOCS" / "images"
WIDTHS = {"desktop": 680, "phone": 360}
NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)


def sample_notices() -> list[Notice]:
    """One notice of each kind."""
    composer = Composer(
        timezone=ZoneInfo("Europe/Rome"),
        max_attempts=3,
        folder_name="Master Assets",
        error_recipients=("support@example.com",),
        success_recipients=("campaigns@example.com",),
    )
    campaign = Campaign("5f3c9a1e7b2d4c6f8a0b1c2d3e4f5a6b7c8d9e0f", "C-1001", "Summer Launch", "A1")
    reason = 'the folder "Master Assets" holds no live assets'
    success = composer.success(campaign, UploadTotals(14, 73_400_320), box_folder_id="312345678901", now=NOW)
    assert success is not None
    return [
        composer.retry(
            campaign,
            Attempt(1, counted=True, permanently_failed=False),
            reason=reason,
            next_run_at=NOW + timedelta(minutes=3),
            now=NOW,
        ),
        composer.permanent(
            campaign, Attempt(3, counted=True, permanently_failed=True), reason=reason, now=NOW
        ),
        success,
        composer.error(
            campaign,
            message="Box refused to create the campaign's folder: 403 access_denied_insufficient_permissions",
            hint="Invite the app's service account as an editor of the folder BOX_ROOT_FOLDER_ID points at.",
            kind="forbidden",
            began_at=NOW - timedelta(hours=25),
            is_reminder=True,
            counted_attempts=1,
            now=NOW,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dark", metavar="DIR", type=Path, help="dark mode, into this folder")
    options = parser.parse_args()
    folder: Path = options.dark or IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as which containers run.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        for device, width in WIDTHS.items():
            page = browser.new_page(
                viewport={"width": width, "height": 400}, color_scheme="dark" if options.dark else "light"
            )
            for notice in sample_notices():
                page.set_content(notice.html)
                page.screenshot(path=folder / f"mail_{notice.kind}_{device}.png", full_page=True)
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
