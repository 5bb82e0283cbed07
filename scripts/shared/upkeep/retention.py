"""Removes old rows: says how long each table keeps them, and deletes at most BITE rows in one statement.

A table that is not listed cannot grow without bound: it has one row for each campaign, lock, limit or running
upload (MARKDOWN_DOCS/RELIABILITY_AND_SECURITY.md lists them all). Undelivered notices, and facts that stay
true until a person acts, are kept however old they are.
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
"""The most rows that one statement removes, so that it holds its locks only briefly."""
MOST_SECONDS = 60.0
"""How long the removal may take per day. The following days remove the rest."""

# A row is old when both clocks say so, ours and the server's: a clock that runs ahead removes nothing. The
# oldest rows are found by an index; OFFSET 0 keeps the planner from joining whole tables instead.

# A notice's deliveries are removed with it. A notice stays while it is undelivered, and a digest while it
# contains other notices.
NOTICES = """
DELETE FROM notices WHERE ctid = ANY (ARRAY(
    SELECT n.ctid FROM notices n
    WHERE n.created_at < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM notice_deliveries d
                      WHERE d.notice_id = n.id AND d.sent_at IS NULL AND d.gave_up_at IS NULL OFFSET 0)
      AND NOT EXISTS (SELECT FROM notice_deliveries d WHERE d.mail_id = n.id AND d.notice_id <> n.id OFFSET 0)
    ORDER BY n.created_at LIMIT %(limit)s))
"""

# Of a target that is no longer in the settings, or has been off: nobody waits for it any more.
FORGOTTEN_WEBHOOKS = """
UPDATE notice_deliveries d
SET gave_up_at = %(now)s, last_error = coalesce(d.last_error, 'not tried: no run knew this target')
FROM notices n
WHERE n.id = d.notice_id AND d.channel = 'webhook' AND d.sent_at IS NULL AND d.gave_up_at IS NULL
  AND greatest(n.created_at, d.owed_since) < least(now(), %(now)s) - interval '5 days'
"""

TASK_RUNS = """
DELETE FROM orchestrator_task_runs WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM orchestrator_task_runs WHERE started_at < least(now(), %(now)s) - %(kept)s
    ORDER BY started_at LIMIT %(limit)s))
"""

# Alerts of tasks that no longer run. The table is small: one row for each task and way of failing.
TASK_ALERTS = """
DELETE FROM orchestrator_task_alerts WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM orchestrator_task_alerts
    WHERE greatest(began_at, last_notice_at) < least(now(), %(now)s) - %(kept)s LIMIT %(limit)s))
"""

# Each run updates the row of a current failure, so an old row is over. The table is small: a few rows for
# each failing campaign.
ERRORS = """
DELETE FROM campaign_errors WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM campaign_errors WHERE last_seen_at < least(now(), %(now)s) - %(kept)s LIMIT %(limit)s))
"""

# Assets of campaigns in which nothing has changed for that long. If one comes back to A1 after all, its
# assets are compared with the DAM and Box again.
LEDGER = """
DELETE FROM campaign_assets WHERE ctid = ANY (ARRAY(
    SELECT a.ctid FROM campaign_assets a
    WHERE a.verified_at < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = a.campaign_id
                        AND c.updated_at >= least(now(), %(now)s) - %(kept)s OFFSET 0)
    ORDER BY a.verified_at LIMIT %(limit)s))
"""

# Only after the campaign's assets: its next upload starts where this one ended (RECORD_CAMPAIGN_UPLOAD).
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

# A stuck campaign keeps its whole history, which says why it is stuck.
EVENTS = """
DELETE FROM campaign_events WHERE ctid = ANY (ARRAY(
    SELECT e.ctid FROM campaign_events e
    WHERE e.at < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = e.campaign_id
                        AND (c.a1_permanently_failed OR c.a1_snoozed_until > now()) OFFSET 0)
      AND NOT EXISTS (SELECT FROM campaign_errors f WHERE f.campaign_id = e.campaign_id OFFSET 0)
    ORDER BY e.at LIMIT %(limit)s))
"""

# What an undo needs.
PAGE_ACT_CAMPAIGNS = """
DELETE FROM page_act_campaigns WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM page_act_campaigns WHERE at < least(now(), %(now)s) - %(kept)s
    ORDER BY at LIMIT %(limit)s))
"""

# Kept as long as the events that refer to them.
PAGE_ACTS = """
DELETE FROM page_acts WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM page_acts WHERE at < least(now(), %(now)s) - %(kept)s ORDER BY at LIMIT %(limit)s))
"""

PAGE_SESSIONS = """
DELETE FROM page_sessions WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM page_sessions WHERE expires_at < least(now(), %(now)s) - %(kept)s
    ORDER BY expires_at LIMIT %(limit)s))
"""

# Of workers that were killed: a clean end removes the row, and each worker that runs updates its own every
# few seconds. Both tables are small.
WORKERS = """
DELETE FROM workers WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM workers WHERE seen_at < least(now(), %(now)s) - %(kept)s LIMIT %(limit)s))
"""

WORKER_CAMPAIGNS = """
DELETE FROM worker_campaigns WHERE ctid = ANY (ARRAY(
    SELECT c.ctid FROM worker_campaigns c
    WHERE c.since < least(now(), %(now)s) - %(kept)s
      AND NOT EXISTS (SELECT FROM workers w WHERE w.worker = c.worker OFFSET 0)
    LIMIT %(limit)s))
"""


@dataclass(frozen=True, slots=True)
class Life:
    """How long the rows of a table are kept. removal: the statement for up to `limit` rows that are older."""

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
        "page_act_campaigns": Life(timedelta(days=30), PAGE_ACT_CAMPAIGNS),
        "page_acts": Life(timedelta(days=730), PAGE_ACTS),
        "page_sessions": Life(timedelta(), PAGE_SESSIONS),
        "workers": Life(timedelta(days=1), WORKERS),
        "worker_campaigns": Life(timedelta(days=1), WORKER_CAMPAIGNS),
    }
)
"""{table: life}, in the order of removal: a table comes after the tables that refer to it."""


def prune(
    database: Database, now: datetime, *, clock: Callable[[], float] = time.monotonic
) -> dict[str, int]:
    """Remove the old rows; returns {table: how many}. First gives up webhooks that nobody sends. Raises
    DbError.

    Each statement is a transaction of its own: an interruption leaves nothing half done.
    """
    end = clock() + MOST_SECONDS
    database.execute(FORGOTTEN_WEBHOOKS, {"now": now})
    removed = dict.fromkeys(LIVES, 0)
    for table, life in LIVES.items():
        bite = BITE
        while bite == BITE and clock() < end:
            bite = database.execute(life.removal, {"now": now, "kept": life.kept, "limit": BITE})
            removed[table] += bite
        if removed[table]:
            logger.info(
                "removed %d rows of %s that were older than %d days", removed[table], table, life.kept.days,
                extra={"action": "rows_removed"},
            )  # fmt: skip
    return removed
