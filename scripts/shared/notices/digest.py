"""Combines many notices of a kind for one recipient into one e-mail with a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from shared.base.commands import Commands
from shared.base.links import Links
from shared.base.values import DIGEST_KINDS, NO_ORIGIN, Notice, NoticeKind, NoticeLine, Origin
from shared.notices.wording import one_line, rendered, reset_digest_sql, small_print

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DIGEST_LINES: Final = 200
"""The most lines in a table of many notices; it tells how the rest is listed. No e-mail is megabytes."""

_STATES: Final = {
    NoticeKind.RETRY: "in_retry",
    NoticeKind.PERMANENT: "failed",
    NoticeKind.SUCCESS: "uploaded",
    NoticeKind.RECOVERED: "uploaded",
    NoticeKind.ERROR: "erring",
}
"""Of which campaigns the page's list tells more."""


def digest(
    kind: NoticeKind,
    recipient: str,
    lines: Sequence[NoticeLine],
    timezone: ZoneInfo,
    commands: Commands,
    links: Links,
    now: datetime,
    origin: Origin = NO_ORIGIN,
) -> Notice:
    """Many notices of a kind as one. kind: one of DIGEST_KINDS. lines: each notice, in order of time.

    origin: for the small print.
    """
    from uuid import uuid4  # an idle run does not need it

    digest_id, shown = str(uuid4()), lines[:DIGEST_LINES]
    details = {_detail(line) for line in lines}
    is_said_once = len(details) == 1 and kind not in (NoticeKind.SUCCESS, NoticeKind.RECOVERED)
    same_detail = details.pop() if is_said_once else ""
    limits = [line.max_attempts for line in lines]
    least, most = min(limits), max(limits)
    values: dict[str, Any] = {
        "about": DIGEST_KINDS[kind],
        "campaigns": len({line.campaign_id for line in lines}),
        "notices": len(lines),
        "limits": str(least) if least == most else f"{least} to {most}",
        "is_one_limit": least == most,
        "rows": [_row(kind, line, commands, links) for line in shown],
        "list_url": links.campaigns(_STATES[kind]),
        "more": len(lines) - len(shown),
        "same_detail": same_detail.rstrip("."),
        "reset_all_command": commands.run("a1_retry.py", "reset", "--digest", digest_id),
        "where": commands.where,
        "reset_all_sql": reset_digest_sql(digest_id),
        "list_command": commands.run("a1_retry.py", "told", digest_id),
        **small_print(origin, timezone, now),
    }
    return rendered(kind, "", (recipient,), values, now, digest_id, "notice_digest")


def _row(kind: NoticeKind, line: NoticeLine, commands: Commands, links: Links) -> dict[str, Any]:
    """A notice as a row of the table."""
    is_in_box = kind in (NoticeKind.SUCCESS, NoticeKind.RECOVERED)
    return {
        "page_url": links.campaign(line.campaign_id),
        "dam_url": "" if is_in_box else links.dam_folder(line.campaign_id),
        "box_url": links.box_folder(line.box_folder_id) if is_in_box or kind is NoticeKind.ERROR else "",
        "number": one_line(line.number, limit=60) or "(none)",
        "name": one_line(line.name, limit=120) or one_line(line.number) or one_line(line.campaign_id),
        "attempt": line.attempt,
        "max_attempts": line.max_attempts,
        "detail": _detail(line),
        "reset_command": commands.reset(line.campaign_id) if kind is NoticeKind.PERMANENT else "",
    }


def _detail(line: NoticeLine) -> str:
    detail = one_line(line.detail, limit=300)
    if not line.folded:
        return detail
    mails = "1 earlier e-mail" if line.folded == 1 else f"{line.folded} earlier e-mails"
    return f"{detail.rstrip('.')}; {mails} had not gone out"
