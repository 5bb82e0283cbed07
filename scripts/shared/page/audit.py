"""Who did what, when, why and from where: acts on the page, with the tools, with psql, and by the product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.database import Database
from shared.page.records import MOST_PAGES, PER_PAGE
from shared.report.events import Event

# Each side returns its newest rows, enough for this page and the pages before it. campaign_events_acts_idx
# has the same condition (migration 026).
_AUDIT = """
SELECT * FROM (
    (SELECT a.at, a.id::text AS id, a.person, a.peer, a.act, a.reason, a.value, a.filter, a.done, a.skipped,
            a.undone_at, a.undone_by, a.undo_reason, a.undo_done, a.undo_skipped, k.campaign_id,
            NULL::integer AS cycle, NULL::jsonb AS detail
     FROM page_acts a LEFT JOIN LATERAL (SELECT campaign_id FROM page_act_campaigns
                                         WHERE a.done = 1 AND act_id = a.id LIMIT 1) k ON TRUE
     ORDER BY a.at DESC, a.id DESC LIMIT %(most)s)
    UNION ALL
    (SELECT at, id::text, actor,
            CASE WHEN source = db_user THEN source ELSE source || ', role ' || db_user END,
            kind, reason, source, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, campaign_id, cycle, detail
     FROM campaign_events
     WHERE kind IN ('reset', 'snooze', 'wake', 'limit', 'correction', 'undo', 'resend')
       AND source NOT IN ('page', 'upload')
     ORDER BY at DESC, campaign_events.id DESC LIMIT %(most)s)
) acts
ORDER BY at DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s
"""

_NAMES = """
SELECT campaign_id, campaign_number, campaign_name FROM campaign_status WHERE campaign_id = ANY(%(ids)s)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. id: for an act of the page, the id of its outcome. who, origin: a person and the address of
    the browser; or the actor, the tool and the role.

    act, value, targets: for an act of the page: what, with which end or limit, on which filter. event: for an
    act from elsewhere. campaign_id: for an act on one campaign; name: its (number, name). done, skipped: how
    many campaigns or notices, and {why: how many were skipped}. The fields of undo: None until it is undone.
    """

    id: str
    at: datetime
    who: str
    origin: str
    act: str
    value: str
    reason: str
    targets: Mapping[str, str]
    campaign_id: str | None
    name: tuple[str | None, str | None]
    done: int | None
    skipped: Mapping[str, int]
    undone_at: datetime | None
    undone_by: str
    undo_reason: str
    undone: int
    left_alone: Mapping[str, int]
    event: Event | None


@dataclass(frozen=True, slots=True)
class Audit:
    """One page of acts."""

    entries: list[Entry]
    number: int
    has_next: bool


class AuditRecords:
    """Acts, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, number: int) -> Audit:
        """The acts of one page of the list, newest first."""
        offset = (number - 1) * PER_PAGE
        values = {"limit": PER_PAGE + 1, "offset": offset, "most": offset + PER_PAGE + 1}
        rows = self._database.rows(_AUDIT, values)
        ids = {row[15] for row in rows if row[15] is not None}
        named = self._database.rows(_NAMES, {"ids": list(ids)}) if ids else []
        names = {row[0]: (row[1], row[2]) for row in named}
        entries = [_entry(row, names.get(row[15], (None, None))) for row in rows[:PER_PAGE]]
        return Audit(entries, number, len(rows) > PER_PAGE and number < MOST_PAGES)


def _entry(row: tuple[Any, ...], name: tuple[str | None, str | None]) -> Entry:
    at, act_id, who, origin, act, reason, value, targets, done, skipped = row[:10]
    undone_at, undone_by, undo_reason, undone, left_alone, campaign_id, cycle, detail = row[10:]
    event = None if detail is None else Event(at, act, cycle, who, value, "", detail)
    return Entry(
        act_id, at, who, origin, act, value, reason, targets or {}, campaign_id, name, done, skipped or {},
        undone_at, undone_by or "", undo_reason or "", undone or 0, left_alone or {}, event,
    )  # fmt: skip
