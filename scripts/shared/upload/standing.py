"""Keeps the status of campaigns in PostgreSQL: updates their rows to what the DAM says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from shared.base.values import Campaign
from shared.database import Database

# The DAM itself says that the campaign is in A1: make or refresh its row.
RECORD_IN_A1 = """
INSERT INTO campaign_status AS c (campaign_id, campaign_number, campaign_name, status)
VALUES (%(campaign_id)s, %(campaign_number)s, %(campaign_name)s, %(status)s)
ON CONFLICT (campaign_id) DO UPDATE SET
    campaign_number = EXCLUDED.campaign_number, campaign_name = EXCLUDED.campaign_name,
    status = EXCLUDED.status, left_search_at = NULL, updated_at = now()
WHERE (c.campaign_number, c.campaign_name, c.status, c.left_search_at)
      IS DISTINCT FROM (EXCLUDED.campaign_number, EXCLUDED.campaign_name, EXCLUDED.status, NULL)
"""

# Rows in A1 that the search no longer shows; each is read once, and again after a day if it is still in A1.
# Also rows that the DAM may still lock: a run before the one that set them to A2 asked for the lock, without
# an answer.
LEFT_BEHIND = """
SELECT campaign_id, status = %(status)s, a2_requested_at IS NOT NULL AND left_search_at IS NULL,
       coalesce(lock_doubted_at > now() + interval '5 minutes', FALSE)
FROM campaign_status
WHERE campaign_id <> ALL(%(seen)s)
  AND (status = %(status)s AND (left_search_at IS NULL
                                OR NOT (left_search_at >= now() - interval '1 day'
                                        AND left_search_at <= now() + interval '5 minutes'))
       OR status IS DISTINCT FROM %(status)s AND lock_doubted_at > now() - interval '1 hour')
ORDER BY campaign_id
"""

# A doubt in the future would be checked until then; set to now, it ends after an hour.
RIGHT_LOCK_DOUBTS = """
UPDATE campaign_status SET lock_doubted_at = now() WHERE lock_doubted_at > now() + interval '5 minutes'
"""

MARK_LEFT_SEARCH = "UPDATE campaign_status SET left_search_at = now() WHERE campaign_id = %(campaign_id)s"

# The campaign left A1: update the row, and return what had been started.
FOLLOW_STATUS = """
UPDATE campaign_status c
SET status = %(status)s, a2_requested_at = NULL, left_search_at = NULL, updated_at = now()
FROM (SELECT campaign_id, a2_requested_at FROM campaign_status
      WHERE campaign_id = %(campaign_id)s FOR UPDATE) before
WHERE c.campaign_id = before.campaign_id
RETURNING before.a2_requested_at, c.box_folder_id, coalesce(c.a1_cycle, 1), coalesce(c.a1_retry_count, 0),
          coalesce(c.a1_permanently_failed, FALSE)
"""

REQUEST_A2 = """
UPDATE campaign_status
SET a2_requested_at = now(), updated_at = now(),
    lock_doubted_at = CASE WHEN a2_requested_at IS NOT NULL THEN now() ELSE lock_doubted_at END
WHERE campaign_id = %(campaign_id)s
"""


@dataclass(frozen=True, slots=True)
class Followed:
    """What the row said about a campaign that left A1. attempts: counted in its cycle."""

    a2_requested_at: datetime | None
    box_folder_id: str | None
    cycle: int
    attempts: int
    permanently_failed: bool


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A campaign to read although the search does not show it.

    is_in_a1: according to its row; otherwise its upload is complete, but the DAM may still lock it for us.
    is_a2_expected: a run asked for A2, and no run has read the result yet.
    """

    campaign_id: str
    is_in_a1: bool
    is_a2_expected: bool


class Standing:
    """The status of campaigns, and changes to it that have been started, given a `Database`.
    Raises DbError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_in_a1(self, campaign: Campaign) -> None:
        """Make or refresh the row of a campaign that the DAM itself shows in A1."""
        self._database.execute(
            RECORD_IN_A1,
            {
                "campaign_id": campaign.id,
                "campaign_number": campaign.number,
                "campaign_name": campaign.name,
                "status": campaign.status,
            },
        )

    def left_behind(self, status: str, seen: Collection[str]) -> list[LeftBehind]:
        """The campaigns that the DAM's search does not show but that still need work."""
        values = {"status": status, "seen": list(seen)}
        rows = self._database.rows(LEFT_BEHIND, values)
        if any(is_doubted_in_future for *_, is_doubted_in_future in rows):
            self._database.execute(RIGHT_LOCK_DOUBTS, values)
        return [LeftBehind(*row[:3]) for row in rows]

    def mark_left_search(self, campaign_id: str) -> None:
        """Keep the row unchanged, and do not read the campaign again for a day."""
        self._database.execute(MARK_LEFT_SEARCH, {"campaign_id": campaign_id})

    def follow_status(self, campaign_id: str, status: str | None) -> Followed | None:
        """Set the row to the DAM's status; None when there is no row. status None: the field is empty."""
        rows = self._database.rows(FOLLOW_STATUS, {"campaign_id": campaign_id, "status": status})
        return Followed(*rows[0]) if rows else None

    def request_a2(self, campaign_id: str) -> None:
        """Record that every asset is verified in Box and that we are about to ask the DAM for A2.

        If an earlier run asked without a result, its lock may still appear (`left_behind`).
        """
        self._database.execute(REQUEST_A2, {"campaign_id": campaign_id})
