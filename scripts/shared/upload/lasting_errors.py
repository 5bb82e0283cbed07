"""Keeps campaigns' current failures in PostgreSQL: when each began, and when its notice is due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.database import Database
from shared.rules.alerts import is_notice_due, is_young

# A failure of a campaign: when it began, when its last notice was made (-infinity: none yet), and the time by
# the server's clock, which writes both.
NOTE_ERROR = """
INSERT INTO campaign_errors AS e (campaign_id, kind, message, last_notice_at)
VALUES (%(campaign_id)s, %(kind)s, %(message)s, '-infinity')
ON CONFLICT (campaign_id, kind) DO UPDATE SET
    message = EXCLUDED.message, began_at = least(e.began_at, now()), last_seen_at = now()
RETURNING began_at, nullif(last_notice_at, '-infinity'), now()
"""

MARK_TOLD = """
UPDATE campaign_errors SET last_notice_at = now() WHERE campaign_id = %(campaign_id)s AND kind = %(kind)s
"""

CLEAR_ERRORS = "DELETE FROM campaign_errors WHERE campaign_id = %(campaign_id)s RETURNING began_at"


@dataclass(frozen=True, slots=True)
class LastingError:
    """A failure that has been seen before, or that begins now.

    is_notice_due: when it begins, or when it is older than its patience, then once a day.
    is_young: it is not that old yet.
    """

    began_at: datetime
    is_notice_due: bool
    is_reminder: bool
    is_young: bool


class LastingErrors:
    """Failures by campaign and kind, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(
        self, campaign_id: str, kind: str, message: str, patience: timedelta = timedelta(0)
    ) -> LastingError:
        """Record a failure of a campaign, and decide whether its error notice is due now.

        patience: how old the failure may get before the first notice.
        """
        values = {"campaign_id": campaign_id, "kind": kind, "message": message}
        began_at, last_notice_at, now = self._database.row(NOTE_ERROR, values)
        is_due = is_notice_due(began_at, last_notice_at, now, patience)
        if is_due:
            self._database.execute(MARK_TOLD, values)
        return LastingError(began_at, is_due, last_notice_at is not None, is_young(began_at, now, patience))

    def clear(self, campaign_id: str) -> datetime | None:
        """Delete the campaign's failures; returns when the first of them began, None if there were none."""
        rows = self._database.rows(CLEAR_ERRORS, {"campaign_id": campaign_id})
        return min((row[0] for row in rows), default=None)
