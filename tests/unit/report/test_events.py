"""A campaign's history in plain words: a table of events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.report.events import Event, events_of, in_words

ROME = ZoneInfo("Europe/Rome")
AT = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
EMPTY = 'the folder "Master Assets" contains no usable files'


def event(kind: str, reason: str = "", source: str = "a1_retry.py", /, **detail: Any) -> Event:
    return Event(AT, kind, 1, "anna@host", source, reason, detail, limit=3)


@pytest.mark.parametrize(
    ("happened", "wanted"),
    [
        (event("attempt", EMPTY, attempt=2), f"attempt 2 of 3: {EMPTY}"),
        (
            event("attempt", EMPTY, attempt=3, permanently_failed=True),
            f"attempt 3 of 3, the last one, permanently failed: {EMPTY}",
        ),
        (event("attempt", EMPTY, attempt=4), f"attempt 4 of 4: {EMPTY}"),
        (event("attempt", permanently_failed=True, attempt=0), "marked by hand, permanently failed"),
        (event("reset", "files promised"), "reset by anna@host (a1_retry.py): files promised"),
        (event("reset", "", "psql"), "reset by anna@host (psql)"),
        (event("reset", "A1_AUTO_RESET_DAYS=30", "auto"), "reset by itself: A1_AUTO_RESET_DAYS=30"),
        (event("reset", "its assets are in Box", "upload"), "attempts back to 0: its assets are in Box"),
        (
            event("snooze", "files promised", until="2026-12-07T07:00:00+00:00"),
            "snoozed until Mon 2026-12-07 08:00 CET by anna@host (a1_retry.py): files promised",
        ),
        (event("snooze", until="infinity"), "snoozed until infinity by anna@host (a1_retry.py)"),
        (
            event("undo", "wrong ones", "page", undoes="x", attempts=3, permanently_failed=True),
            "undone; the campaign is as before (permanently failed) by anna@host (page): wrong ones",
        ),
        (
            event("undo", "", "page", undoes="x", attempts=0, until="2026-12-07T07:00:00+00:00"),
            "undone; the campaign is as before (attempts back to 0, snoozed until Mon 2026-12-07 08:00 CET)"
            " by anna@host (page)",
        ),
        (
            event("resend", "mailbox is empty", "page", kind="a1_to_a2_error", recipient="a@example.com"),
            "e-mail (error notice) to a@example.com will be sent again by anna@host (page): mailbox is empty",
        ),
        (event("wake"), "snooze ended by anna@host (a1_retry.py)"),
        (event("limit", "large", max_retries=5), "limit set to 5 by anna@host (a1_retry.py): large"),
        (event("limit", before=5), "limit set back to the one for all campaigns by anna@host (a1_retry.py)"),
        (event("upload", assets=14, bytes=73_400_320), "uploaded to Box: 14 assets, 73.4 MB"),
        (event("error", "HTTP 403", kind="DAM/forbidden"), "error DAM/forbidden: HTTP 403"),
        (
            event("error_over", "HTTP 403", kind="DAM/forbidden", began_at="2026-11-29T09:00:00.5+00:00"),
            "error DAM/forbidden is over; it began Sun 2026-11-29 10:00 CET",
        ),
        (event("status", status="A1"), "now in A1"),
        (event("status", status="A2", before="A1"), "now in A2, before in A1"),
        (event("status", before="A1"), "its status field is now empty, before in A1"),
        (event("status", status="GONE", before="A1"), "the DAM no longer shows it"),
        (event("status", status="A1", before="GONE"), "now in A1"),
        (event("notice", kind="x", subject="⚠️ No Assets"), "e-mail queued: ⚠️ No Assets"),
        (
            event("notice_sent", kind="a1_to_a2_no_assets_retry", recipient="a@example.com"),
            "e-mail (retry notice) delivered to a@example.com",
        ),
        (
            event("notice_given_up", "550 no", kind="a1_to_a2_error", recipient="a@example.com"),
            "e-mail (error notice) to a@example.com given up: 550 no",
        ),
        (
            event("notice_folded", kind="a1_to_a2_error", recipient="a@example.com", into="x"),
            "e-mail (error notice) to a@example.com is covered by a later one",
        ),
        (event("notice_sent", kind="new", recipient="a@b.c"), "e-mail (new) delivered to a@b.c"),
        (
            event("correction", attempts=1, before=2),
            "attempts changed from 2 to 1 by anna@host (a1_retry.py)",
        ),
        (event("something_new", "why", fact=1), "something_new fact=1: why"),
    ],
)
def test_event__in_words(happened: Event, wanted: str) -> None:
    assert in_words(happened, ROME, "GONE") == wanted


def test_limits__are_those_of_their_time() -> None:
    def row(kind: str, cycle: int | None, **detail: Any) -> tuple[Any, ...]:
        return (AT, kind, cycle, "", "", "", detail)

    rows = [
        row("reset", None, attempts=3),
        row("attempt", 1, attempt=1),
        row("attempt", 1, attempt=4, permanently_failed=True),
        row("attempt", 2, attempt=1),
        row("limit", 2, max_retries=7),
        row("attempt", 2, attempt=2),
        row("limit", 2, before=7),
        row("attempt", 2, attempt=3),
    ]
    limits = [one.limit for one in events_of(rows, 5) if one.kind == "attempt"]
    assert limits == [4, 4, 5, 7, 5]
