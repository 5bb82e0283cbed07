"""Asks PostgreSQL for the list of campaigns, and how many there are in each state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.database import Database
from shared.page.filters import CAMPAIGNS, UNREAD, Filter
from shared.rules.retry import RetryPolicy

PAGE_SIZE = 50
_MOST_PAGES = 10_000_000

Row = Mapping[str, Any]

COLUMNS = (
    *("campaign_id", "campaign_number", "campaign_name", "status", "a1_retry_count", "a1_permanently_failed"),
    *("a1_last_retry_at", "a1_failure_reason", "a1_max_retries", "a1_cycle", "a1_auto_resets"),
    *("a1_snoozed_until", "box_folder_id", "created_at", "updated_at", "error_kind", "error", "error_since"),
    *("error_seen_at", "snoozed_at", "snoozed_by", "snooze_reason"),
)

# What the page shows of the campaigns whose ids are in `shown`. Of several failures the one seen last; of
# several snoozes the one in effect, which nobody has undone. LIMIT makes PostgreSQL look up each campaign by
# its id: a join of fifty rows with 10,000 would read them all.
DETAILS = """
SELECT shown.campaign_id, c.campaign_number, c.campaign_name, c.status, c.a1_retry_count,
       c.a1_permanently_failed, c.a1_last_retry_at, c.a1_failure_reason, c.a1_max_retries, c.a1_cycle,
       c.a1_auto_resets, c.a1_snoozed_until, c.box_folder_id, c.created_at,
       coalesce(c.updated_at, e.last_seen_at) AS updated_at, e.kind, e.message, e.began_at, e.last_seen_at,
       z.at, z.actor, z.reason
FROM shown
LEFT JOIN LATERAL (SELECT * FROM campaign_status WHERE campaign_id = shown.campaign_id LIMIT 1) c ON TRUE
LEFT JOIN LATERAL (SELECT kind, message, began_at, last_seen_at FROM campaign_errors
                   WHERE campaign_id = shown.campaign_id ORDER BY last_seen_at DESC LIMIT 1) e ON TRUE
LEFT JOIN LATERAL (SELECT v.at, v.actor, v.reason FROM campaign_events v
                   WHERE c.a1_snoozed_until > %(now)s AND v.campaign_id = shown.campaign_id
                     AND v.kind = 'snooze'
                     AND NOT EXISTS (SELECT FROM campaign_events u
                                     WHERE u.campaign_id = v.campaign_id AND u.kind = 'undo'
                                       AND u.detail ->> 'undoes' = v.detail ->> 'act')
                   ORDER BY v.id DESC LIMIT 1) z ON TRUE
"""

# Always at least one row. Without a condition an index counts and orders; with one, the matches are found
# once.
_PAGE = """
{unread}, matching AS {materialized} (
    SELECT s.campaign_id, s.updated_at FROM ({campaigns}) s WHERE {condition}
), counted AS MATERIALIZED (
    SELECT coalesce(%(total)s::integer, (SELECT count(*)::integer FROM matching)) AS total
), shown AS MATERIALIZED (
    SELECT campaign_id FROM matching ORDER BY updated_at DESC NULLS LAST, campaign_id
    LIMIT %(size)s
    OFFSET (SELECT greatest(least(%(number)s - 1, (total - 1) / %(size)s), 0) * %(size)s FROM counted)
)
SELECT counted.total, clock_timestamp(), found.*
FROM counted LEFT JOIN ({details}) found ON TRUE
ORDER BY found.updated_at DESC NULLS LAST, found.campaign_id
"""


_ONE = """
WITH shown AS (SELECT %(campaign_id)s::text AS campaign_id)
SELECT clock_timestamp(), found.* FROM ({details}) found
WHERE found.a1_cycle IS NOT NULL OR found.kind IS NOT NULL
"""


def count_of(state: str) -> str:
    """How many campaigns are in a state of STATES, as an expression; UNREAD goes before the statement."""
    return f"(SELECT count(*) FROM ({CAMPAIGNS}) s WHERE {Filter(state).sql()})"  # noqa: S608  # nosec B608


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list. rows: with what `report.states.Rules.standing` reads, `error`, `updated_at`,
    `box_folder_id`. total: of all pages. drawn_at: when it was read, by the database's clock. number: of this
    page.
    """

    rows: tuple[Row, ...]
    total: int
    drawn_at: datetime
    number: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE_SIZE))


class Campaigns:
    """Campaigns by filters, given a `Database`. now: decides which are still snoozed. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        chosen: Filter,
        policy: RetryPolicy,
        status_a1: str,
        number: int,
        now: datetime,
        total: int | None = None,
    ) -> Listed:
        """The page of this number, 1 for the first; the last one for a number beyond the end. total: how many
        match, if known; None: the query counts them.
        """
        number = max(1, min(number, _MOST_PAGES))
        sql = _PAGE.format(
            unread=UNREAD,
            materialized="MATERIALIZED" if chosen.query() else "NOT MATERIALIZED",
            campaigns=CAMPAIGNS,
            condition=chosen.sql(),
            details=DETAILS,
        )
        values = chosen.values(now, policy, status_a1)
        rows = self._database.rows(sql, {**values, "number": number, "size": PAGE_SIZE, "total": total})
        total, drawn_at = rows[0][:2]
        found = tuple(_row(row[2:]) for row in rows if row[2] is not None)
        return Listed(found, total, drawn_at, max(1, min(number, -(-total // PAGE_SIZE))))

    def one(self, campaign_id: str, now: datetime) -> Row | None:
        """One campaign's row as in a list, and when it was read, as `drawn_at`; None for an
        unknown campaign.
        """
        values = {"campaign_id": campaign_id, "now": now}
        rows = self._database.rows(_ONE.format(details=DETAILS), values)
        return {"drawn_at": rows[0][0], **_row(rows[0][1:])} if rows else None


def _row(values: Sequence[Any]) -> Row:
    return dict(zip(COLUMNS, values, strict=True))
