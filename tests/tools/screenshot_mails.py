"""Render the e-mails with sample data into MARKDOWN_DOCS/images/. Run by hand:

    pip install playwright; apt-get install chromium fonts-liberation fonts-noto-color-emoji
    PYTHONPATH=scripts python tests/tools/screenshot_mails.py

Takes each mail at desktop (680 px) and phone (360 px) width. `--look DIR` writes into DIR instead, for the
eye only: both widths in the dark theme, both without any style, and the text part at 72 columns, as a mail
client shows it.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from textwrap import wrap
from typing import Literal
from zoneinfo import ZoneInfo

from playwright.sync_api import sync_playwright

from shared.base.commands import Commands
from shared.base.links import Links
from shared.base.values import (
    DIGEST_KINDS,
    Attempt,
    Campaign,
    Notice,
    NoticeKind,
    NoticeLine,
    Origin,
    RetryStatus,
    Trouble,
    UploadTotals,
)
from shared.notices.digest import digest
from shared.notifier import Composer, task_alert
from shared.report.day import report_day
from shared.report.figures import (
    Backlog,
    DayReport,
    EmptyCampaign,
    LastingFailure,
    Reset,
    Section,
    TaskRuns,
    Upload,
    UploadSection,
)
from shared.report.week import (
    ErringCampaign,
    FailedCampaign,
    SnoozedCampaign,
    UntoldNotice,
    WeekReport,
)
from shared.rules.alerts import SILENCE, AlertNews, TaskAlert

IMAGES = Path(__file__).parents[2] / "MARKDOWN_DOCS" / "images"
WIDTHS = {"desktop": 680, "phone": 360}
NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
REPORT_AT = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EMPTY = 'the folder "Master Assets" contains no usable files'


ROME = ZoneInfo("Europe/Rome")
COMMANDS = Commands(
    "/opt/a1-to-a2/.venv/bin/python", "/opt/a1-to-a2/scripts", "/etc/a1-to-a2/env", "a1-to-a2"
)
ORIGIN = Origin("dam-upload-1", "5b0c9f3a7d21")
LINKS = Links(
    dam="https://dam.example.com/teams/#/folder/{campaign_id}",
    box="https://app.box.com/folder/{folder_id}",
    page="https://a1-to-a2.example.com",
)


def sample_notices() -> dict[str, Notice]:
    """One notice of each kind, by the name of its picture; two daily reports."""
    composer = Composer(
        timezone=ROME,
        max_attempts=3,
        folder_name="Master Assets",
        commands=COMMANDS,
        links=LINKS,
        origin=ORIGIN,
        error_recipients=("support@example.com",),
        success_recipients=("campaigns@example.com",),
        report_recipients=("managers@example.com",),
    )
    campaign = Campaign("5f3c9a1e7b2d4c6f8a0b1c2d3e4f5a6b7c8d9e0f", "C-1001", "Summer Launch", "A1")
    reason = 'the folder "Master Assets" contains no usable files'
    success = composer.success(campaign, UploadTotals(14, 73_400_320), box_folder_id="312345678901", now=NOW)
    assert success is not None
    notices = [
        composer.retry(
            campaign,
            Attempt(1, counted=True, permanently_failed=False),
            reason=reason,
            next_run_at=NOW + timedelta(minutes=3),
            ahead=(NOW + timedelta(minutes=3), NOW + timedelta(minutes=6)),
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
            retry=RetryStatus("c", retry_count=1),
            next_run_at=NOW + timedelta(minutes=3),
            box_folder_id="312345678901",
            now=NOW,
        ),
        composer.recovered(
            campaign,
            UploadTotals(14, 73_400_320),
            [Trouble(NoticeKind.PERMANENT, NOW - 3 * DAY, EMPTY, 3, ("support@example.com",))],
            recipients=("support@example.com",),
            since=NOW - 3 * DAY,
            box_folder_id="312345678901",
            cycle=2,
            now=NOW,
        ),
        composer.daily_report(busy_day(), notice_id="busy", now=REPORT_AT),
        composer.weekly_digest(stuck(), notice_id="week", now=REPORT_AT),
    ]
    quiet = composer.daily_report(quiet_day(), notice_id="quiet", now=REPORT_AT)
    tables = {
        f"digest_{DIGEST_KINDS[kind]}": digest(
            kind, "support@example.com", lines_of(kind), ROME, COMMANDS, LINKS, NOW, ORIGIN
        )
        for kind in DIGEST_KINDS
    }
    alerts = {f"task_alert_{kind}": alert(kind) for kind in ("began", "silent", "over")}
    named = {notice.kind.value: notice for notice in notices}
    return named | {"daily_report_quiet": quiet} | alerts | tables


def alert(kind: Literal["began", "silent", "over"]) -> Notice:
    """Of a task at each point of its trouble."""
    ending = SILENCE if kind == "silent" else "exit code 75"
    said = (
        "2026-11-23T12:59:57.001Z INFO run=5b0c9f3a7d21 uploader: 14 campaigns in A1, 2 of them"
        " permanently failed",
        "2026-11-23T12:59:58.123Z ERROR run=5b0c9f3a7d21 uploader: search: dam.example.com is out of reach"
        " (no answer within 60 s): the DAM did not answer",
    )
    return task_alert(
        AlertNews(kind, "a1_to_a2", (ending,), 3, NOW - HOUR),
        tail=said[:1] if kind == "silent" else said,
        origin=ORIGIN,
        commands=COMMANDS,
        recipients=("engineer@example.com",),
        timezone=ROME,
        links=LINKS,
        now=NOW,
    )


def lines_of(kind: NoticeKind) -> list[NoticeLine]:
    """Six campaigns."""
    names = ("Summer Launch", "Größe & Übergröße", "Café Crème", "Back to School", "Easter", "Winter Magic")
    details = {
        NoticeKind.ERROR: "Box refused to create the campaign's folder: 403 (invite the service account)",
        NoticeKind.SUCCESS: "14 assets, 73.4 MB",
        NoticeKind.RECOVERED: "14 assets, 73.4 MB; solved after 3 days. Was: permanently failed",
    }
    return [
        NoticeLine(
            sample(f"C-{1001 + n}", name).id, f"C-{1001 + n}", name,
            3 if kind is NoticeKind.PERMANENT else 1, 3,
            details.get(kind, EMPTY) if n % 2 else details.get(kind, EMPTY).replace("403", "404"),
            box_folder_id=f"3123456789{n:02d}" if n else None,
        )
        for n, name in enumerate(names)
    ]  # fmt: skip


def quiet_day() -> DayReport:
    """A day without anything to tell."""
    day = report_day(date(2026, 11, 23), REPORT_AT, ROME, (date(2026, 11, 22), REPORT_AT - DAY))
    runs = (TaskRuns("a1_to_a2", done=281), TaskRuns("daily_report", done=1))
    return DayReport(day=day, next_run_at=REPORT_AT + timedelta(minutes=3), runs=runs)


def busy_day() -> DayReport:
    """A day with something in every section."""
    return replace(
        quiet_day(),
        uploads=UploadSection(
            (
                upload("C-1001", "Summer Launch", 14, 73_400_320, minutes=12, hours_ago=6),
                upload("C-1007", "Größe & Übergröße", 3, 1_290_000_000, minutes=38, hours_ago=2),
            ),
            total=2,
            assets=17,
            size_bytes=1_363_400_320,
        ),
        uploads_before=UploadSection(
            (upload("C-0998", "Autumn Outlet", 1, 48_000, minutes=0.1, hours_ago=22),), 1, 1, 48_000
        ),
        in_retry=Section((EmptyCampaign(sample("C-1012", "Easter"), 2, REPORT_AT - HOUR / 20, EMPTY),), 1),
        failed=Section(
            (
                EmptyCampaign(sample("C-1010", "Café Crème"), 3, REPORT_AT - 3 * HOUR, EMPTY),
                EmptyCampaign(sample("C-0911", "Winter Magic", "B1"), 3, REPORT_AT - 9 * DAY, EMPTY),
            ),
            2,
        ),
        failures=Section(
            (
                LastingFailure(
                    sample("C-1013", "Spring"),
                    "Box/forbidden",
                    "Box refused to create the campaign's folder: 403 access_denied_insufficient_permissions",
                    REPORT_AT - 25 * HOUR,
                ),
            ),
            1,
        ),
        failures_over=Section((sample("C-1001", "Summer Launch"),), 1),
        campaigns_failing=1,
        newly_failed=1,
        resets=Section(
            (
                Reset(
                    sample("C-1001", "Summer Launch"),
                    "ann",
                    "page",
                    REPORT_AT - 7 * HOUR,
                    "files are in",
                    False,
                ),
                Reset(
                    sample("C-0870", "Back to School"),
                    "a1_to_a2",
                    "auto",
                    REPORT_AT - 2 * HOUR,
                    "30 days have passed",
                    False,
                ),
            ),
            2,
        ),
        alerts=(TaskAlert("a1_to_a2", "exit code 75", 4, REPORT_AT - HOUR / 5),),
        runs=(
            TaskRuns("a1_to_a2", done=270, failing=12, late=2, failed=1, again=9, lost=1),
            TaskRuns("daily_report", done=1),
        ),
        runs_before=(TaskRuns("a1_to_a2", done=61),),
        backlog=Backlog(waiting=2, oldest_at=REPORT_AT - HOUR / 2, given_up=1),
    )


def stuck() -> WeekReport:
    """A week with something in every section."""
    reset_at, trouble = REPORT_AT - 12 * DAY, "Box refused: 403 (invite the service account)"
    failed = FailedCampaign(sample("C-0911", "Winter Magic"), REPORT_AT - 9 * DAY, 2, EMPTY, "ann", reset_at)
    snoozed = SnoozedCampaign(sample("C-1012", "Easter"), REPORT_AT + DAY, "bob", "films come on Tuesday")
    return WeekReport(
        date=date(2026, 11, 23),
        stuck=3,
        failed=Section((failed,), 1),
        erring=Section(
            (ErringCampaign(sample("C-1013", "Spring"), "Box/x", trouble, REPORT_AT - 2 * DAY),), 1
        ),
        snoozed=Section((snoozed,), 1),
        untold=Section((UntoldNotice("🛑 A1→A2 Error - Campaign Spring", reset_at, True, "451 later"),), 1),
    )


def sample(number: str, name: str, status: str = "A1") -> Campaign:
    return Campaign(f"{sum(map(ord, number + name)):040x}", number, name, status)


def upload(number: str, name: str, assets: int, size_bytes: int, *, minutes: float, hours_ago: int) -> Upload:
    done_at = REPORT_AT - hours_ago * HOUR
    begun_at = done_at - timedelta(minutes=minutes)
    return Upload(sample(number, name, "A2"), assets, size_bytes, begun_at, done_at)


def plain(html: str) -> str:
    """The HTML as a client shows it that drops every style."""
    return re.sub(r' (?:style|width|height|bgcolor)="[^"]*"', "", re.sub(r"(?s)<style>.*?</style>", "", html))


def at_72_columns(text: str) -> str:
    """The text part as a client of 72 columns shows it: it wraps between words. A command, SQL or an address
    is one line, to be copied whole.
    """
    lines = []
    for line in text.splitlines():
        is_whole = len(line) <= 72 or line.lstrip().startswith(("sudo ", "UPDATE ", "https://"))
        lines += [line] if is_whole else wrap(line, 72, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--look", metavar="DIR", type=Path, help="all other looks, into this folder")
    options = parser.parse_args()
    folder: Path = options.look or IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    looks = ("dark", "plain") if options.look else ("light",)
    notices = sample_notices()
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as which containers run.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        for look in looks:
            for device, width in WIDTHS.items():
                page = browser.new_page(
                    viewport={"width": width, "height": 400},
                    color_scheme="dark" if look == "dark" else "light",
                )
                for name, notice in notices.items():
                    page.set_content(plain(notice.html) if look == "plain" else notice.html)
                    stem = f"mail_{name}_{device}" if look == "light" else f"{look}_{name}_{device}"
                    page.screenshot(path=folder / f"{stem}.png", full_page=True)
                page.close()
        browser.close()
    if options.look:
        for name, notice in notices.items():
            (folder / f"text_{name}.txt").write_text(at_72_columns(notice.text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
