"""Campaigns' failures that last, in PostgreSQL: when each began, and when its notice is due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.database import Database
from shared.rules.alerts import REMINDER_INTERVAL

# A failure of a campaign: RETURNING tells since when, whether a notice is owed now and whether it is a later
# one, and whether the failure is too young for one. Until the first notice last_notice_at is -infinity. What
# RETURNING selects is the row as it was before.
NOTE_ERROR = """
INSERT INTO campaign_errors AS e (campaign_id, kind, message, last_notice_at)
VALUES (%(campaign_id)s, %(kind)s, %(message)s,
        CASE WHEN %(patience)s > interval '0' THEN '-infinity' ELSE now() END)
ON CONFLICT (campaign_id, kind) DO UPDATE SET
    message = EXCLUDED.message, began_at = least(e.began_at, now()), last_seen_at = now(),
    last_notice_at = CASE WHEN e.last_notice_at > now() - %(reminder_interval)s
                               AND e.last_notice_at <= now() + interval '5 minutes' THEN e.last_notice_at
                          WHEN least(e.began_at, now()) > now() - %(patience)s THEN e.last_notice_at
                          ELSE now() END
RETURNING began_at, last_notice_at = now(),
          EXISTS (SELECT FROM campaign_errors before
                  WHERE before.campaign_id = e.campaign_id AND before.kind = e.kind
                    AND before.last_notice_at > '-infinity'),
          began_at > now() - %(patience)s
"""

CLEAR_ERRORS = "DELETE FROM campaign_errors WHERE campaign_id = %(campaign_id)s"


@dataclass(frozen=True, slots=True)
class LastingError:
    """A failure that has been seen before, or begins now.

    is_notice_due: when it begins, or has outlasted its patience, then once a day. is_young: it has not
    outlasted its patience.
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
        """Record a failure of a campaign; tells whether an error notice is owed for it now.

        patience: how long the failure may last before the first notice.
        """
        values = {
            "campaign_id": campaign_id,
            "kind": kind,
            "message": message,
            "reminder_interval": REMINDER_INTERVAL,
            "patience": patience,
        }
        return LastingError(*self._database.row(NOTE_ERROR, values))

    def clear(self, campaign_id: str) -> None:
        """The campaign's failures are over."""
        self._database.execute(CLEAR_ERRORS, {"campaign_id": campaign_id})
