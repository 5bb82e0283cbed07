"""Many notices of a kind for one recipient as one e-mail, with a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shared.base.commands import Commands
from shared.base.values import Bundle, Notice, NoticeKind
from shared.notices.wording import local_time, one_line, rendered, reset_digest_sql

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DIGEST_LINES: Final = 200
"""The most lines in a table of many notices; it tells how the rest is listed. No e-mail is megabytes."""

_ABOUT: Final = {
    NoticeKind.RETRY: "retry",
    NoticeKind.PERMANENT: "permanent",
    NoticeKind.SUCCESS: "success",
    NoticeKind.ERROR: "error",
}


def digest(bundle: Bundle, timezone: ZoneInfo, commands: Commands) -> Notice:
    """Many notices of a kind as one e-mail, under the bundle's id. bundle.kind: one of BUNDLED_KINDS."""
    details = {one_line(line.detail, limit=300) for line in bundle.lines}
    is_said_once = len(details) == 1 and not bundle.more and bundle.kind is not NoticeKind.SUCCESS
    same_detail = details.pop() if is_said_once else ""
    is_permanent = bundle.kind is NoticeKind.PERMANENT
    rows = [
        {
            "number": one_line(line.number, limit=60) or "(none)",
            "name": one_line(line.name, limit=120) or one_line(line.number) or one_line(line.campaign_id),
            "attempt": line.attempt,
            "max_attempts": line.max_attempts,
            "detail": one_line(line.detail, limit=300),
            "reset_command": commands.reset(line.campaign_id) if is_permanent else "",
        }
        for line in bundle.lines
    ]
    values: dict[str, Any] = {
        "about": _ABOUT[bundle.kind],
        "campaigns": bundle.campaigns,
        "notices": bundle.notices,
        "max_attempts": bundle.max_attempts,
        "rows": rows,
        "more": bundle.more,
        "same_detail": same_detail.rstrip("."),
        "reset_all_command": commands.run("a1_retry.py", "reset", "--digest", bundle.id),
        "where": commands.where,
        "reset_all_sql": reset_digest_sql(bundle.id),
        "list_command": commands.run("a1_retry.py", "told", bundle.id),
        "sent": local_time(bundle.created_at, timezone),
    }
    recipients = (bundle.recipient,)
    return rendered(bundle.kind, "", recipients, values, bundle.created_at, bundle.id, "notice_digest")
