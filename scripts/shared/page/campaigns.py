"""The list of campaigns and how many there are in each state, asked of PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.database import Database
from shared.page.filters import STATES, WITH_CAMPAIGNS, Filter
from shared.rules.retry import RetryPolicy

PAGE_SIZE = 50
_MOST_PAGES = 10_000_000

Row = Mapping[str, Any]

_COLUMNS = (
    *("campaign_id", "campaign_number", "campaign_name", "status", "a1_retry_count", "a1_permanently_failed"),
    *("a1_last_retry_at", "a1_failure_reason", "a1_max_retries", "a1_cycle", "a1_auto_resets"),
    *("a1_snoozed_until", "box_folder_id", "created_at", "updated_at", "error_kind", "error", "error_since"),
    *("error_seen_at", "first_error_at"),
)
_SNOOZE_COLUMNS = ("snoozed_at", "snoozed_by", "snooze_reason")

# The places on the page first, with as little of each campaign as that takes; then what is shown of these.
_PAGE = """
{campaigns}, counted AS MATERIALIZED (
    SELECT count(*)::integer AS total FROM campaigns s WHERE {condition}
), shown AS MATERIALIZED (
    SELECT s.campaign_id, s.updated_at FROM campaigns s WHERE {condition}
    ORDER BY s.updated_at DESC NULLS LAST, s.campaign_id
    LIMIT %(size)s
    OFFSET (SELECT greatest(least(%(number)s - 1, (total - 1) / %(size)s), 0) * %(size)s FROM counted)
)
SELECT counted.total, clock_timestamp(), found.*
FROM counted LEFT JOIN (
    SELECT {columns}, z.at, z.actor, z.reason
    FROM shown JOIN campaigns s ON s.campaign_id = shown.campaign_id
    LEFT JOIN LATERAL ({snooze}) z ON TRUE
) found ON TRUE
ORDER BY found.updated_at DESC NULLS LAST, found.campaign_id
"""

# The snooze that holds: not one that somebody has undone.
_SNOOZE = """
SELECT e.at, e.actor, e.reason FROM campaign_events e
WHERE s.a1_snoozed_until > %(now)s AND e.campaign_id = s.campaign_id AND e.kind = 'snooze'
  AND NOT EXISTS (SELECT FROM campaign_events u
                  WHERE u.campaign_id = e.campaign_id AND u.kind = 'undo'
                    AND u.detail ->> 'undoes' = e.detail ->> 'act')
ORDER BY e.id DESC LIMIT 1
"""

_ONE = """
{campaigns}
SELECT clock_timestamp(), {columns}, z.at, z.actor, z.reason
FROM campaigns s LEFT JOIN LATERAL ({snooze}) z ON TRUE
WHERE s.campaign_id = %(campaign_id)s
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list. rows: with what `report.states.Rules.standing` reads, `error`, `first_error_at`,
    `updated_at`. total: of all pages. drawn_at: when this was so, by the database's clock. number: of the
    page that this is.
    """

    rows: tuple[Row, ...]
    total: int
    drawn_at: datetime
    number: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE_SIZE))


class Campaigns:
    """Campaigns by filters, given a `Database`. now: decides who is still snoozed. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, chosen: Filter, policy: RetryPolicy, status_a1: str, number: int, now: datetime) -> Listed:
        """The page of this number, 1 for the first; for one beyond the end the last one."""
        number = max(1, min(number, _MOST_PAGES))
        values = {**chosen.values(now, policy, status_a1), "number": number, "size": PAGE_SIZE}
        rows = self._database.rows(_sql(_PAGE, chosen.sql()), values)
        total, drawn_at = rows[0][:2]
        found = tuple(_row(row[2:]) for row in rows if row[2] is not None)
        return Listed(found, total, drawn_at, max(1, min(number, -(-total // PAGE_SIZE))))

    def counts(self, policy: RetryPolicy, status_a1: str, now: datetime) -> dict[str, int]:
        """{state of STATES: how many campaigns}, by one statement."""
        each = ", ".join(
            f"(SELECT count(*) FROM campaigns s WHERE {Filter(state).sql()})"  # noqa: S608 - our own text
            for state in STATES
        )
        values = Filter().values(now, policy, status_a1)
        return dict(zip(STATES, self._database.row(f"{WITH_CAMPAIGNS} SELECT {each}", values), strict=True))

    def one(self, campaign_id: str, now: datetime) -> Row | None:
        """One campaign's row as in a list, and when it was read, as `drawn_at`; None: nobody knows it."""
        rows = self._database.rows(_sql(_ONE), {"campaign_id": campaign_id, "now": now})
        return {"drawn_at": rows[0][0], **_row(rows[0][1:])} if rows else None


def _sql(text: str, condition: str = "") -> str:
    columns = ", ".join(f"s.{name}" for name in _COLUMNS)
    return text.format(campaigns=WITH_CAMPAIGNS, condition=condition, snooze=_SNOOZE, columns=columns)


def _row(values: Sequence[Any]) -> Row:
    return dict(zip((*_COLUMNS, *_SNOOZE_COLUMNS), values, strict=True))
