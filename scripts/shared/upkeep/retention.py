"""How long rows are kept, in one place, and the removal of older ones, some rows a statement.

A table that is not listed is bounded by what it describes: one row a campaign, a lock, a limit, or an upload
that is under way (MARKDOWN_DOCS/RELIABILITY_AND_SECURITY.md has all of them). What is still owed, and what
stays true until a person acts, is kept however old it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from shared.database import Database

logger = logging.getLogger("retention")

BITE = 1000
"""Rows that one statement removes at most, so that it holds its locks for a moment only."""
MOST_SECONDS = 60.0
"""How long one day's removal may take; the rest is removed on the following days."""

# A row is old when both clocks say so, ours and the server's: one that runs ahead removes nothing. The oldest
# rows are found by an index; OFFSET 0 keeps the planner from joining whole tables instead.

# With the notice go its deliveries. What somebody is still to get stays, and a digest while it carries any.
NOTICES = """
DELETE FROM notices WHERE ctid = ANY (ARRAY(
    SELECT n.ctid FROM notices n
    WHERE n.created_at < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM notice_deliveries d
                      WHERE d.notice_id = n.id AND d.sent_at IS NULL AND d.gave_up_at IS NULL OFFSET 0)
      AND NOT EXISTS (SELECT FROM notice_deliveries d WHERE d.mail_id = n.id AND d.notice_id <> n.id OFFSET 0)
    ORDER BY n.created_at LIMIT %(limit)s))
"""

TASK_RUNS = """
DELETE FROM orchestrator_task_runs WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM orchestrator_task_runs WHERE started_at < least(now(), %(now)s) - %(kept)s
    ORDER BY started_at LIMIT %(limit)s))
"""

# Of a task that is no longer run. The table is small: a row a task and way of failing.
TASK_ALERTS = """
DELETE FROM orchestrator_task_alerts WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM orchestrator_task_alerts
    WHERE greatest(began_at, last_notice_at) < least(now(), %(now)s) - %(kept)s LIMIT %(limit)s))
"""

# A failure that lasts is seen by each run. The table is small: a row a campaign that fails.
ERRORS = """
DELETE FROM campaign_errors WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM campaign_errors WHERE last_seen_at < least(now(), %(now)s) - %(kept)s LIMIT %(limit)s))
"""

# Of campaigns of which nothing has changed for as long. If one comes back to A1 after all, its assets are
# compared with the DAM's and Box's anew.
LEDGER = """
DELETE FROM campaign_assets WHERE ctid = ANY (ARRAY(
    SELECT a.ctid FROM campaign_assets a
    WHERE a.verified_at < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = a.campaign_id
                        AND c.updated_at >= least(now(), %(now)s) - %(kept)s OFFSET 0)
    ORDER BY a.verified_at LIMIT %(limit)s))
"""

# After its ledger: the next upload of the campaign begins where this one ended (RECORD_CAMPAIGN_UPLOAD).
UPLOADS = """
DELETE FROM campaign_uploads WHERE ctid = ANY (ARRAY(
    SELECT u.ctid FROM campaign_uploads u
    WHERE u.completed_at < least(now(), %(now)s) - %(kept)s AND u.report_date IS NOT NULL
      AND NOT EXISTS (SELECT FROM campaign_assets a WHERE a.campaign_id = u.campaign_id OFFSET 0)
    ORDER BY u.completed_at LIMIT %(limit)s))
"""

REPORTS = """
DELETE FROM daily_reports WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM daily_reports WHERE report_date < (least(now(), %(now)s) - %(kept)s)::date
    ORDER BY report_date LIMIT %(limit)s))
"""

# A campaign that is stuck keeps its whole history: it says why.
EVENTS = """
DELETE FROM campaign_events WHERE ctid = ANY (ARRAY(
    SELECT e.ctid FROM campaign_events e
    WHERE e.at < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = e.campaign_id
                        AND (c.a1_permanently_failed OR c.a1_snoozed_until > now()) OFFSET 0)
      AND NOT EXISTS (SELECT FROM campaign_errors f WHERE f.campaign_id = e.campaign_id OFFSET 0)
    ORDER BY e.at LIMIT %(limit)s))
"""


@dataclass(frozen=True, slots=True)
class Life:
    """How long the rows of a table are kept. removal: of up to `limit` rows that are older."""

    kept: timedelta
    removal: str


LIVES: Mapping[str, Life] = MappingProxyType(
    {
        "notices": Life(timedelta(days=180), NOTICES),
        "orchestrator_task_runs": Life(timedelta(days=35), TASK_RUNS),
        "orchestrator_task_alerts": Life(timedelta(days=35), TASK_ALERTS),
        "campaign_errors": Life(timedelta(days=35), ERRORS),
        "campaign_assets": Life(timedelta(days=730), LEDGER),
        "campaign_uploads": Life(timedelta(days=730), UPLOADS),
        "daily_reports": Life(timedelta(days=730), REPORTS),
        "campaign_events": Life(timedelta(days=730), EVENTS),
    }
)
"""{table: life}, in the order in which they are pruned: what others refer to comes after them."""


def prune(
    database: Database, now: datetime, *, clock: Callable[[], float] = time.monotonic
) -> dict[str, int]:
    """Remove the rows that are too old; {table: how many}. Raises DbError.

    Each statement stands alone: a stop at any moment leaves nothing half done.
    """
    end = clock() + MOST_SECONDS
    removed = dict.fromkeys(LIVES, 0)
    for table, life in LIVES.items():
        bite = BITE
        while bite == BITE and clock() < end:
            bite = database.execute(life.removal, {"now": now, "kept": life.kept, "limit": BITE})
            removed[table] += bite
        if removed[table]:
            logger.info(
                "%d rows of %s, older than %d days, were removed", removed[table], table, life.kept.days,
                extra={"action": "rows_removed"},
            )  # fmt: skip
    return removed
