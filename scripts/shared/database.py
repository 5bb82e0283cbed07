"""PostgreSQL: every statement of the product, by name, and the few transactions that must hold together."""

from __future__ import annotations

import logging
import re
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2.extensions import parse_dsn

from shared.alerts import REMINDER_INTERVAL, Alerts, TaskAlert
from shared.cadence import LastRun
from shared.errors import DbError, ExitCode, LockLostError
from shared.migrations import GIVE_UP_SECONDS, LOCK_PATIENCE, PAUSE_SECONDS, index_of, statements
from shared.models import (
    BUNDLED_KINDS,
    Asset,
    Attempt,
    BoxFile,
    Bundle,
    Campaign,
    DeliveryResult,
    LedgerEntry,
    Notice,
    NoticeKind,
    NoticeLine,
    OpenUpload,
    RetryStatus,
    UploadTotals,
)
from shared.rate import Bucket, Grant, pause, take
from shared.redaction import escape_line
from shared.report import (
    LATE_AFTER,
    LOST_AFTER,
    SHOWN_ROWS,
    Backlog,
    EmptyCampaign,
    LastingFailure,
    ReportDay,
    Row,
    Section,
    TaskRuns,
    Upload,
    UploadSection,
)
from shared.retry import DEFAULT_MAX_RETRIES

logger = logging.getLogger(__name__)

DATABASE_FOLDER = Path(__file__).resolve().parents[2] / "database"
CONNECT_TIMEOUT_SECONDS = 10
ANSWER_TIMEOUT_SECONDS = 30
"""How long sent bytes may stay unacknowledged before the connection counts as lost."""
STALE_ANSWER_SECONDS = 0.1
"""A word on who holds the run that took longer than this to come is asked for again, a few times."""
STALE_ANSWERS = 3
LOCK_CLASS = 0xA1A2
"""First key of our advisory locks; the second tells them apart."""
UPLOADER_LOCK = 1
MIGRATION_LOCK = 2
ORCHESTRATOR_LOCK = 3
TASK_LOCK_CLASS = 0xA1A3
"""First key of the locks of single tasks; the second is drawn from the task's name."""
KEPT_TASK_RUNS = timedelta(days=35)
GONE = "GONE"
"""The status of a campaign that the DAM no longer shows: deleted, or hidden from our user."""

# A host that vanishes with a lock in hand (power, network) is noticed by the server within a minute; its own
# default is hours.
_SERVER_OPTIONS = "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4"

_RUN_NOT_HELD = "A1001"
"""The SQLSTATE with which hold_run refuses."""
_WRITES = ("INSERT", "UPDATE", "DELETE")

_PSQL_LINE = re.compile(r"^\\.*$", re.MULTILINE)
_PSQL_DEFAULT = re.compile(r"^\\if .*\\set (\w+) (\S+)", re.MULTILINE)

_LOGIN_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "no pg_hba.conf entry")

TRY_LOCK = "SELECT pg_try_advisory_lock(%(lock_class)s, %(lock)s)"
TRY_SHARED_LOCK = "SELECT pg_try_advisory_lock_shared(%(lock_class)s, %(lock)s)"

# Take a lock and the next number of its holders, both or neither; no row when another session has the lock.
TAKE_RUN = """
WITH taken AS (SELECT pg_try_advisory_lock(%(lock_class)s, %(lock)s) AS is_ours)
INSERT INTO run_epochs AS r (lock, epoch, holder, taken_at)
SELECT %(lock)s, 1, left(current_setting('application_name'), 63), now() FROM taken WHERE is_ours
ON CONFLICT (lock) DO UPDATE SET epoch = r.epoch + 1, holder = EXCLUDED.holder, taken_at = now()
RETURNING epoch
"""

# Goes before every write of a run, in the write's own transaction (migration 015).
HOLD_RUN = "SELECT hold_run(%(held_lock)s, %(held_epoch)s);"

IS_RUN_HELD = "SELECT EXISTS (SELECT FROM run_epochs WHERE lock = %(held_lock)s AND epoch = %(held_epoch)s)"

# Who holds an advisory lock, by the application_name that every run sets.
LOCK_HOLDER = """
SELECT a.application_name, a.pid, coalesce(host(a.client_addr), 'local socket'), a.backend_start
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = %(lock_class)s AND l.objid = %(lock)s AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

APPLIED_MIGRATIONS = "SELECT name, sha256 FROM schema_migrations"

# Where the migrations are recorded when this session does not see them.
MIGRATIONS_ELSEWHERE = """
SELECT s.nspname, has_schema_privilege(s.oid, 'USAGE')
FROM pg_namespace s JOIN pg_class c ON c.relnamespace = s.oid
WHERE c.relname = 'schema_migrations' AND to_regclass('schema_migrations') IS NULL
  AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('name', 'sha256')) = 2
ORDER BY s.nspname LIMIT 1
"""

LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %(milliseconds)s::text, FALSE)"

ENCODING = "SELECT getdatabaseencoding()"

# What CREATE INDEX CONCURRENTLY leaves when it is stopped: there by name, and used by nobody.
UNUSABLE_INDEX = """
SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relname = %(name)s AND pg_table_is_visible(c.oid) AND NOT i.indisvalid
"""

RECORD_MIGRATION = """
INSERT INTO schema_migrations (name, sha256) VALUES (%(name)s, %(sha256)s)
ON CONFLICT (name) DO UPDATE SET sha256 = EXCLUDED.sha256
"""

# The retry state of many campaigns at once; the columns may hold NULLs from before 003.
RETRY_STATES = """
SELECT campaign_id, coalesce(a1_retry_count, 0), a1_last_retry_at, coalesce(a1_permanently_failed, FALSE),
       a1_failure_reason, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status
FROM campaign_status WHERE campaign_id = ANY(%(campaign_ids)s)
"""

# Count one attempt: never past the maximum, never on a campaign that is permanently failed.
INCREMENT_A1_RETRY = """
INSERT INTO campaign_status AS c (campaign_id, campaign_number, campaign_name, status, a1_retry_count,
                                  a1_last_retry_at, a1_permanently_failed, a1_failure_reason)
VALUES (%(campaign_id)s, %(campaign_number)s, %(campaign_name)s, %(status)s,
        1, now(), %(max)s <= 1, %(reason)s)
ON CONFLICT (campaign_id) DO UPDATE SET
    campaign_number = EXCLUDED.campaign_number,
    campaign_name = EXCLUDED.campaign_name,
    status = EXCLUDED.status,
    a1_retry_count = greatest(coalesce(c.a1_retry_count, 0),
                              least(coalesce(c.a1_retry_count, 0) + 1, %(max)s)),
    a1_last_retry_at = now(),
    a1_permanently_failed = coalesce(c.a1_retry_count, 0) + 1 >= %(max)s,
    a1_failure_reason = EXCLUDED.a1_failure_reason,
    updated_at = now()
WHERE NOT coalesce(c.a1_permanently_failed, FALSE)
RETURNING a1_retry_count, a1_permanently_failed
"""

RESET_A1_RETRY = """
UPDATE campaign_status
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
WHERE campaign_id = %(campaign_id)s
"""

# The campaign stands in A1, by the DAM's own word: make or refresh its row.
RECORD_IN_A1 = """
INSERT INTO campaign_status AS c (campaign_id, campaign_number, campaign_name, status)
VALUES (%(campaign_id)s, %(campaign_number)s, %(campaign_name)s, %(status)s)
ON CONFLICT (campaign_id) DO UPDATE SET
    campaign_number = EXCLUDED.campaign_number, campaign_name = EXCLUDED.campaign_name,
    status = EXCLUDED.status, left_search_at = NULL, updated_at = now()
WHERE (c.campaign_number, c.campaign_name, c.status, c.left_search_at)
      IS DISTINCT FROM (EXCLUDED.campaign_number, EXCLUDED.campaign_name, EXCLUDED.status, NULL)
"""

# Rows in A1 that the search no longer shows; each is asked for once, and again after a day if it stays. And
# rows whose lock may still come: a run before the one that brought them to A2 asked for it without an answer.
LEFT_BEHIND = """
SELECT campaign_id, status = %(status)s, a2_requested_at IS NOT NULL AND left_search_at IS NULL
FROM campaign_status
WHERE campaign_id <> ALL(%(seen)s)
  AND (status = %(status)s AND (left_search_at IS NULL OR left_search_at < now() - interval '1 day')
       OR status IS DISTINCT FROM %(status)s AND lock_doubted_at > now() - interval '1 hour')
ORDER BY campaign_id
"""

MARK_LEFT_SEARCH = "UPDATE campaign_status SET left_search_at = now() WHERE campaign_id = %(campaign_id)s"

# The campaign left A1: the row follows, and tells what had been begun.
FOLLOW_STATUS = """
UPDATE campaign_status c
SET status = %(status)s, a2_requested_at = NULL, left_search_at = NULL, updated_at = now()
FROM (SELECT campaign_id, a2_requested_at FROM campaign_status
      WHERE campaign_id = %(campaign_id)s FOR UPDATE) before
WHERE c.campaign_id = before.campaign_id
RETURNING before.a2_requested_at, c.box_folder_id
"""

REQUEST_A2 = """
UPDATE campaign_status
SET a2_requested_at = now(), updated_at = now(),
    lock_doubted_at = CASE WHEN a2_requested_at IS NOT NULL THEN now() ELSE lock_doubted_at END
WHERE campaign_id = %(campaign_id)s
"""

BOX_FOLDER_OF = "SELECT box_folder_id FROM campaign_status WHERE campaign_id = %(campaign_id)s"

CLAIM_BOX_FOLDER = """
UPDATE campaign_status SET box_folder_id = %(folder_id)s, updated_at = now()
WHERE campaign_id = %(campaign_id)s
  AND NOT EXISTS (SELECT FROM campaign_status o
                  WHERE o.box_folder_id = %(folder_id)s AND o.campaign_id <> %(campaign_id)s)
"""

UPLOADED_ASSETS = """
SELECT asset_id, revision, box_file_id, box_name, size_bytes, sha1
FROM campaign_assets WHERE campaign_id = %(campaign_id)s
"""

RECORD_UPLOAD = """
INSERT INTO campaign_assets (campaign_id, asset_id, asset_name, revision, size_bytes, sha1, box_file_id,
                             box_name, run_id)
VALUES (%(campaign_id)s, %(asset_id)s, %(asset_name)s, %(revision)s, %(size_bytes)s, %(sha1)s,
        %(box_file_id)s, %(box_name)s, %(run_id)s)
ON CONFLICT (campaign_id, asset_id) DO UPDATE SET
    asset_name = EXCLUDED.asset_name, revision = EXCLUDED.revision, size_bytes = EXCLUDED.size_bytes,
    sha1 = EXCLUDED.sha1, box_file_id = EXCLUDED.box_file_id, box_name = EXCLUDED.box_name,
    verified_at = now(), run_id = EXCLUDED.run_id
"""

OPEN_UPLOAD = """
SELECT campaign_id, asset_id, session_id, revision, size_bytes, folder_id, replaces
FROM upload_sessions WHERE campaign_id = %(campaign_id)s AND asset_id = %(asset_id)s
"""

WAIT_FOR_DISK = "SET LOCAL synchronous_commit TO on"

REMEMBER_UPLOAD = """
INSERT INTO upload_sessions (campaign_id, asset_id, session_id, revision, size_bytes, folder_id, replaces,
                             part_size, run_id)
VALUES (%(campaign_id)s, %(asset_id)s, %(session_id)s, %(revision)s, %(size_bytes)s, %(folder_id)s,
        %(replaces)s, %(part_size)s, %(run_id)s)
ON CONFLICT (campaign_id, asset_id) DO UPDATE SET
    session_id = EXCLUDED.session_id, revision = EXCLUDED.revision, size_bytes = EXCLUDED.size_bytes,
    folder_id = EXCLUDED.folder_id, replaces = EXCLUDED.replaces, part_size = EXCLUDED.part_size,
    run_id = EXCLUDED.run_id, created_at = now()
"""

FORGET_UPLOAD = "DELETE FROM upload_sessions WHERE session_id = %(session_id)s"

# Sessions that nobody will go on with: the campaign is no longer in A1 (or this one has just been completed),
# or Box, which keeps a session for 7 days, is about to end it.
STALE_UPLOADS = """
SELECT u.campaign_id, u.asset_id, u.session_id, u.revision, u.size_bytes, u.folder_id, u.replaces
FROM upload_sessions u LEFT JOIN campaign_status c USING (campaign_id)
WHERE c.status IS DISTINCT FROM %(status)s OR u.created_at < now() - interval '6 days'
ORDER BY u.created_at
"""

READ_BUCKET = """
SELECT second, counts, paused_until, extract(epoch FROM clock_timestamp())::double precision
FROM rate_buckets WHERE bucket = %(bucket)s FOR UPDATE
"""

MAKE_BUCKET = "INSERT INTO rate_buckets (bucket) VALUES (%(bucket)s) ON CONFLICT DO NOTHING"

SAVE_BUCKET = """
UPDATE rate_buckets SET second = %(second)s, counts = %(counts)s, paused_until = %(paused_until)s
WHERE bucket = %(bucket)s
"""

UPLOAD_TOTALS = """
SELECT count(*), coalesce(sum(size_bytes), 0)::bigint
FROM campaign_assets WHERE campaign_id = %(campaign_id)s
"""

# A failure of a campaign: RETURNING tells since when, and whether a notice is owed now.
NOTE_ERROR = """
INSERT INTO campaign_errors AS e (campaign_id, kind, message) VALUES (%(campaign_id)s, %(kind)s, %(message)s)
ON CONFLICT (campaign_id, kind) DO UPDATE SET
    message = EXCLUDED.message, last_seen_at = now(),
    last_notice_at = CASE WHEN e.last_notice_at <= now() - %(reminder_interval)s THEN now()
                          ELSE e.last_notice_at END
RETURNING began_at, last_notice_at = now(), began_at < now()
"""

CLEAR_ERRORS = "DELETE FROM campaign_errors WHERE campaign_id = %(campaign_id)s"

QUEUE_NOTICE = """
INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at, campaign_number,
                     campaign_name, attempt, max_attempts, detail)
VALUES (%(id)s, %(kind)s, %(campaign_id)s, %(subject)s, %(body_text)s, %(body_html)s, %(created_at)s,
        %(campaign_number)s, %(campaign_name)s, %(attempt)s, %(max_attempts)s, %(detail)s)
"""

QUEUE_DELIVERIES = """
INSERT INTO notice_deliveries (notice_id, recipient, next_try_at)
SELECT %(id)s, recipient, %(created_at)s FROM unnest(%(recipients)s) AS recipient
"""

IS_NOTICE_DUE = """
SELECT EXISTS (SELECT FROM notice_deliveries
               WHERE sent_at IS NULL AND gave_up_at IS NULL AND next_try_at <= %(now)s)
"""

# An e-mail that was begun and not brought to its end: it is the first to be sent again.
BEGUN_MAIL = """
SELECT mail_id FROM notice_deliveries
WHERE mail_id IS NOT NULL AND sent_at IS NULL AND gave_up_at IS NULL AND next_try_at <= %(now)s
ORDER BY next_try_at, mail_id FOR UPDATE SKIP LOCKED LIMIT 1
"""

# A kind and recipient of which more than so many notices are owed, and one at least is due; the oldest first.
# What an outage put off counts too: it would otherwise come one by one within the hour.
CROWD = """
SELECT n.kind, d.recipient
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.mail_id IS NULL AND d.sent_at IS NULL AND d.gave_up_at IS NULL AND n.kind = ANY(%(kinds)s)
GROUP BY n.kind, d.recipient HAVING count(*) > %(more_than)s AND bool_or(d.next_try_at <= %(now)s)
ORDER BY min(n.created_at), n.kind, d.recipient LIMIT 1
"""

BEGIN_BUNDLE = """
WITH chosen AS (
    SELECT d.notice_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
    WHERE d.mail_id IS NULL AND d.sent_at IS NULL AND d.gave_up_at IS NULL
      AND n.kind = %(kind)s AND d.recipient = %(recipient)s
    FOR UPDATE OF d SKIP LOCKED)
UPDATE notice_deliveries d SET mail_id = %(id)s
FROM chosen WHERE d.notice_id = chosen.notice_id AND d.recipient = %(recipient)s
"""

BUNDLE_TOTALS = """
SELECT count(*), count(DISTINCT n.campaign_id), coalesce(max(n.max_attempts), %(max)s)
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id WHERE d.mail_id = %(id)s
"""

# Notices from before 016 do not know their campaign's name; its row does.
BUNDLE_LINES = """
SELECT n.campaign_id, coalesce(n.campaign_number, c.campaign_number, ''),
       coalesce(n.campaign_name, c.campaign_name, ''), coalesce(n.attempt, c.a1_retry_count, 0),
       coalesce(n.max_attempts, %(max)s), coalesce(n.detail, '')
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
LEFT JOIN campaign_status c ON c.campaign_id = n.campaign_id
WHERE d.mail_id = %(id)s ORDER BY n.created_at, n.campaign_id, n.id LIMIT %(limit)s
"""

SAVE_BUNDLE = """
INSERT INTO notice_bundles (id, kind, recipient, notices, subject, body_text, body_html, created_at)
VALUES (%(id)s, %(kind)s, %(recipient)s, %(notices)s, %(subject)s, %(body_text)s, %(body_html)s,
        %(created_at)s)
"""

# The oldest notice that is due goes as an e-mail of its own, to everybody to whom it is due.
BEGIN_SINGLE = """
UPDATE notice_deliveries SET mail_id = notice_id
WHERE mail_id IS NULL AND sent_at IS NULL AND gave_up_at IS NULL AND next_try_at <= %(now)s
  AND notice_id = (SELECT d.notice_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
                   WHERE d.mail_id IS NULL AND d.sent_at IS NULL AND d.gave_up_at IS NULL
                     AND d.next_try_at <= %(now)s
                   ORDER BY n.created_at, n.id FOR UPDATE OF d SKIP LOCKED LIMIT 1)
RETURNING notice_id
"""

# Locked until the transaction ends, so that two processes never send the same e-mail, and a process that is
# killed leaves it to the next.
LOCK_BUNDLE = """
SELECT kind, recipient, subject, body_text, body_html, created_at
FROM notice_bundles WHERE id = %(id)s FOR UPDATE SKIP LOCKED
"""

LOCK_BUNDLED = """
SELECT tries, count(*)
FROM (SELECT tries FROM notice_deliveries
      WHERE mail_id = %(id)s AND sent_at IS NULL AND gave_up_at IS NULL FOR UPDATE) held
GROUP BY tries
"""

LOCK_SINGLE = """
SELECT recipient, tries FROM notice_deliveries
WHERE notice_id = %(id)s AND mail_id = %(id)s AND sent_at IS NULL AND gave_up_at IS NULL
  AND next_try_at <= %(now)s
FOR UPDATE SKIP LOCKED
"""

READ_NOTICE = """
SELECT id, kind, campaign_id, subject, body_text, body_html, created_at FROM notices WHERE id = %(id)s
"""

MARK_SENT = """
UPDATE notice_deliveries SET sent_at = %(now)s, tries = tries + 1, last_error = NULL
WHERE notice_id = %(id)s AND recipient = ANY(%(recipients)s)
"""

MARK_REFUSED = """
UPDATE notice_deliveries
SET tries = tries + 1, next_try_at = %(next_try_at)s, gave_up_at = %(gave_up_at)s, last_error = %(error)s,
    mail_id = CASE WHEN %(may_have_arrived)s THEN mail_id END
WHERE notice_id = %(id)s AND recipient = %(recipient)s
"""

MARK_BUNDLE_SENT = """
UPDATE notice_deliveries SET sent_at = %(now)s, tries = tries + 1, last_error = NULL
WHERE mail_id = %(id)s AND sent_at IS NULL AND gave_up_at IS NULL
"""

# The notices of a bundle that nobody owes to anybody any more.
BUNDLE_DONE = """
SELECT count(*) FROM notice_deliveries d
WHERE d.mail_id = %(id)s
  AND NOT EXISTS (SELECT FROM notice_deliveries o
                  WHERE o.notice_id = d.notice_id AND o.sent_at IS NULL AND o.gave_up_at IS NULL)
"""

# What is too old is given up, with give_up_before NULL nothing is.
MARK_BUNDLE_REFUSED = """
UPDATE notice_deliveries d
SET tries = tries + 1, next_try_at = %(next_try_at)s, last_error = %(error)s,
    gave_up_at = CASE WHEN n.created_at < %(give_up_before)s THEN %(now)s END,
    mail_id = CASE WHEN %(may_have_arrived)s THEN mail_id END
FROM notices n
WHERE n.id = d.notice_id AND d.mail_id = %(id)s AND d.sent_at IS NULL AND d.gave_up_at IS NULL
  AND d.tries = %(tries)s
"""

FORGET_BUNDLE = "DELETE FROM notice_bundles WHERE id = %(id)s"

RECORD_RESET = """
INSERT INTO a1_resets (campaign_id, reset_by, reason, retry_count_before, was_permanently_failed)
SELECT campaign_id, %(reset_by)s, %(reason)s,
       coalesce(a1_retry_count, 0), coalesce(a1_permanently_failed, FALSE)
FROM campaign_status WHERE campaign_id = ANY(%(campaign_ids)s)
RETURNING campaign_id
"""

# The last run of each task: one look into the index a task, whatever the history.
LAST_TASK_RUNS = """
SELECT t.task, r.planned_at, r.started_at, r.finished_at, r.exit_code
FROM unnest(%(tasks)s) AS t (task) CROSS JOIN LATERAL (
    SELECT planned_at, started_at, finished_at, exit_code FROM orchestrator_task_runs
    WHERE task = t.task AND started_at <= %(now)s ORDER BY started_at DESC LIMIT 1) r
"""

RECORD_TASK_RUN = """
INSERT INTO orchestrator_task_runs (run_id, task, planned_at, started_at, finished_at, exit_code, ending,
                                    host)
VALUES (%(run_id)s, %(task)s, %(planned_at)s, %(started_at)s, %(finished_at)s, %(exit_code)s, %(ending)s,
        %(host)s)
ON CONFLICT (run_id) DO UPDATE SET
    finished_at = EXCLUDED.finished_at, exit_code = EXCLUDED.exit_code, ending = EXCLUDED.ending
"""

PRUNE_TASK_RUNS = "DELETE FROM orchestrator_task_runs WHERE started_at < %(before)s"

TASK_ALERTS = """
SELECT task, ending, failures, began_at, last_failed_at, is_announced, last_notice_at
FROM orchestrator_task_alerts
"""

DELETE_TASK_ALERTS = "DELETE FROM orchestrator_task_alerts WHERE task = %(task)s"

INSERT_TASK_ALERT = """
INSERT INTO orchestrator_task_alerts (task, ending, failures, began_at, last_failed_at, is_announced,
                                      last_notice_at)
VALUES (%(task)s, %(ending)s, %(failures)s, %(began_at)s, %(last_failed_at)s, %(is_announced)s,
        %(last_notice_at)s)
"""


# An upload is completed. It began when this run began it (started_at, NULL when it did not), or with the
# first file that an earlier run brought over since the campaign's last completed upload.
RECORD_CAMPAIGN_UPLOAD = """
INSERT INTO campaign_uploads (campaign_id, started_at, assets, bytes, run_id)
SELECT %(campaign_id)s, least(%(started_at)s::timestamptz, min(verified_at), now()),
       %(assets)s, %(bytes)s, %(run_id)s
FROM campaign_assets
WHERE campaign_id = %(campaign_id)s
  AND verified_at > coalesce((SELECT max(completed_at) FROM campaign_uploads
                              WHERE campaign_id = %(campaign_id)s), '-infinity')
"""

DAILY_REPORT_QUEUED_AT = "SELECT queued_at FROM daily_reports WHERE report_date = %(report_date)s"

PREVIOUS_DAILY_REPORT = """
SELECT report_date, queued_at FROM daily_reports WHERE report_date < %(report_date)s
ORDER BY report_date DESC LIMIT 1
"""

# Of two processes with the same date, the second waits here for the first and then inserts nothing.
CLAIM_DAILY_REPORT = """
INSERT INTO daily_reports (report_date, notice_id, queued_at)
VALUES (%(report_date)s, %(notice_id)s, %(queued_at)s)
ON CONFLICT (report_date) DO NOTHING
"""

ASSIGN_UPLOADS = """
UPDATE campaign_uploads SET report_date = %(report_date)s
WHERE report_date IS NULL AND completed_at < %(until)s
"""

# The uploads of a report: those it claimed, and of its own day those that a later report told of. A preview
# also shows those that the report would claim.
REPORTED_UPLOADS = """
SELECT is_before, total, total_assets, total_bytes, campaign_id, coalesce(campaign_number, ''),
       coalesce(campaign_name, ''), c.status, assets, bytes, started_at, completed_at
FROM (SELECT u.*, u.completed_at < %(start)s AS is_before, count(*) OVER section AS total,
             sum(u.assets) OVER section AS total_assets, sum(u.bytes) OVER section::bigint AS total_bytes,
             row_number() OVER (PARTITION BY u.completed_at < %(start)s
                                ORDER BY u.completed_at, u.campaign_id) AS place
      FROM campaign_uploads u
      WHERE u.report_date = %(report_date)s
         OR (u.report_date IS NOT NULL AND u.completed_at >= %(start)s AND u.completed_at < %(until)s)
         OR (%(is_preview)s AND u.report_date IS NULL AND u.completed_at < %(until)s)
      WINDOW section AS (PARTITION BY u.completed_at < %(start)s)) numbered
LEFT JOIN campaign_status c USING (campaign_id)
WHERE place <= %(limit)s
ORDER BY is_before, place
"""

CAMPAIGNS_IN_RETRY = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       a1_retry_count, a1_last_retry_at, coalesce(a1_failure_reason, '')
FROM campaign_status
WHERE status = %(status)s AND a1_retry_count > 0 AND NOT coalesce(a1_permanently_failed, FALSE)
ORDER BY a1_retry_count DESC, a1_last_retry_at, campaign_id LIMIT %(limit)s
"""

FAILED_CAMPAIGNS = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       coalesce(a1_retry_count, 0), a1_last_retry_at, coalesce(a1_failure_reason, '')
FROM campaign_status
WHERE a1_permanently_failed
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id LIMIT %(limit)s
"""

LASTING_FAILURES = """
SELECT count(*) OVER (), e.campaign_id, coalesce(c.campaign_number, ''), coalesce(c.campaign_name, ''),
       c.status, e.kind, e.message, e.began_at
FROM campaign_errors e LEFT JOIN campaign_status c USING (campaign_id)
ORDER BY e.began_at DESC, e.campaign_id, e.kind LIMIT %(limit)s
"""

# Campaigns that an error notice was about and that fail no more.
FAILURES_OVER = """
SELECT count(*) OVER (), n.campaign_id, coalesce(c.campaign_number, ''), coalesce(c.campaign_name, ''),
       c.status
FROM (SELECT DISTINCT campaign_id FROM notices
      WHERE kind = %(kind)s AND created_at >= %(since)s AND created_at < %(until)s AND campaign_id <> '') n
LEFT JOIN campaign_status c USING (campaign_id)
WHERE NOT EXISTS (SELECT FROM campaign_errors e WHERE e.campaign_id = n.campaign_id)
ORDER BY n.campaign_id LIMIT %(limit)s
"""

# Runs by the moment they ended, so that each is counted in one report. One without an end has been lost since
# the next run of its task started, at the latest a day after its own start.
ENDED_RUNS = """
SELECT ended_at < %(start)s, task,
       count(*) FILTER (WHERE NOT is_lost AND exit_code = 0),
       count(*) FILTER (WHERE started_at > planned_at + %(late_after)s),
       count(*) FILTER (WHERE NOT is_lost AND exit_code IS DISTINCT FROM 0
                          AND exit_code IS DISTINCT FROM %(try_later)s),
       count(*) FILTER (WHERE NOT is_lost AND exit_code = %(try_later)s),
       count(*) FILTER (WHERE is_lost)
FROM (SELECT task, planned_at, started_at, exit_code, finished_at IS NULL AS is_lost,
             coalesce(finished_at, least(lead(started_at) OVER (PARTITION BY task ORDER BY started_at),
                                         started_at + %(lost_after)s)) AS ended_at
      FROM orchestrator_task_runs
      WHERE started_at >= %(since)s - %(lost_after)s AND started_at < %(until)s) runs
WHERE ended_at >= %(since)s AND ended_at < %(until)s
GROUP BY 1, 2 ORDER BY 1, 2
"""

OUTBOX_BACKLOG = """
SELECT count(*), min(n.created_at),
       (SELECT count(*) FROM notice_deliveries WHERE gave_up_at >= %(since)s AND gave_up_at < %(until)s)
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.sent_at IS NULL AND d.gave_up_at IS NULL AND d.tries > 0
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the database is not as the product needs it. severity: 'fault' or 'warning'."""

    severity: str
    what: str
    cure: str

    @property
    def is_fault(self) -> bool:
        """Whether a statement of the product fails by it."""
        return self.severity == "fault"

    def __str__(self) -> str:
        return escape_line(f"{self.severity}  {self.what}; cure: {self.cure}")


@dataclass(frozen=True, slots=True)
class LastingError:
    """A failure that has been seen before, or begins now. is_notice_due: when it begins, then once a day."""

    began_at: datetime
    is_notice_due: bool
    is_reminder: bool


@dataclass(frozen=True, slots=True)
class Followed:
    """What a row knew of a campaign that left A1."""

    a2_requested_at: datetime | None
    box_folder_id: str | None


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A campaign to look after although the search does not show it.

    is_in_a1: so says its row; otherwise all is done, and only a lock of ours may still come.
    is_a2_expected: A2 was asked for and nobody has seen yet what became of that.
    """

    campaign_id: str
    is_in_a1: bool
    is_a2_expected: bool


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One run of a task by the orchestrator. exit_code: minus the signal's number when a signal ended it."""

    run_id: str
    task: str
    planned_at: datetime
    started_at: datetime
    host: str
    finished_at: datetime | None = None
    exit_code: int | None = None
    ending: str | None = None


@dataclass(frozen=True, slots=True)
class DueMail:
    """An e-mail, and what of it is due now.

    tries: how often each recipient was tried. bundled: when it is a table, {tries so far: how many of its
    notices were tried so often}, else None.
    """

    notice: Notice
    tries: Mapping[str, int]
    bundled: Mapping[int, int] | None = None

    @property
    def count(self) -> int:
        """How many notices it carries."""
        return 1 if self.bundled is None else sum(self.bundled.values())


class Database:
    """One connection, in autocommit: a statement outside `transaction()` stands alone.

    Any thread may call it: a transaction keeps the others waiting until it ends, a statement likewise.

    dsn: a libpq connection string or postgresql:// URL. max_retries: A1_MAX_RETRIES.
    waits_for_disk: False for what may be lost when the server itself crashes, because it would then be found
    out anew; a later commit that does wait takes it to the disk with it.
    Raises DbError for whatever PostgreSQL refuses; retryable when it was out of reach.
    """

    def __init__(
        self,
        dsn: str,
        max_retries: int = DEFAULT_MAX_RETRIES,
        *,
        application_name: str = "a1_to_a2",
        waits_for_disk: bool = True,
    ) -> None:
        self._max_retries = max_retries
        self._is_in_transaction = False
        self._held: dict[str, int] | None = None
        self._lock = threading.RLock()
        self.statements = 0
        """Statements sent so far, for the run's own accounting."""
        with _translated():
            options = [parse_dsn(dsn).get("options", ""), _SERVER_OPTIONS]
            if not waits_for_disk:
                options.append("-c synchronous_commit=off")
            self._connection = psycopg2.connect(
                dsn,
                options=" ".join(options).strip(),
                tcp_user_timeout=ANSWER_TIMEOUT_SECONDS * 1000,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                application_name=application_name,
                client_encoding="UTF8",
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
            )
            self._connection.autocommit = True

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back, and with it any advisory lock."""
        self._connection.close()

    @property
    def file(self) -> int:
        """The connection's socket: it can be read when the server ended the connection."""
        return int(self._connection.fileno())

    def ensure_alive(self) -> None:
        """Raise DbError when the connection is gone, LockLostError when a lock went with it or without it."""
        if self._held is None:
            self._run("SELECT 1")
        else:
            self.ensure_held()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone, given back or lost."""
        return bool(self._connection.closed)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What happens inside is committed together or not at all. Not to be nested."""
        with self._lock:
            if self._is_in_transaction:
                raise RuntimeError("a transaction is open already")
            self._is_in_transaction = True
            try:
                self._run("BEGIN" if self._held is None else f"BEGIN; {HOLD_RUN}", self._held)
                yield
            except BaseException:
                self._is_in_transaction = False
                if not self.is_closed:
                    try:
                        self._run("ROLLBACK")
                    except DbError as exc:
                        logger.debug("rollback failed, the server will do it: %s", exc)
                raise
            self._is_in_transaction = False
            self._run("COMMIT")

    # Single run, migrations

    def lock_or_holder(self, lock: int, *, is_shared: bool = False) -> str | None:
        """Take an advisory lock for as long as this connection lives. None: it is ours; else who holds it."""
        keys = {"lock_class": LOCK_CLASS, "lock": lock}
        if self._row(TRY_SHARED_LOCK if is_shared else TRY_LOCK, keys)[0]:
            return None
        return self._holder(keys)

    def take_run(self, lock: int) -> str | None:
        """Become the one run: take the lock, and hold it from now on in every write. None: it is ours; else
        who holds it.

        From then on a write raises LockLostError when another run has taken the lock since, whatever became
        of this connection's own.
        """
        keys = {"lock_class": LOCK_CLASS, "lock": lock}
        rows = self._rows(TAKE_RUN, keys)
        if not rows:
            return self._holder(keys)
        self._held = {"held_lock": lock, "held_epoch": rows[0][0]}
        return None

    def share_run(self, holder: Database) -> None:
        """Hold, in every write, the run that another connection of this process has taken."""
        self._held = holder._held

    @property
    def epoch(self) -> int | None:
        """The number under which this connection holds its run; None when it holds none."""
        return None if self._held is None else self._held["held_epoch"]

    def ensure_held(self) -> None:
        """To be called right before an effect outside the database. Raises LockLostError when another run may
        be at work: it has taken the lock, or our connection is gone, and the lock with it.
        """
        if self._held is None:
            return
        # A process that was frozen over the question finds an answer from before it was frozen.
        for _ in range(STALE_ANSWERS):
            asked_at = time.monotonic()
            self._ask_whether_held(self._held)
            if time.monotonic() - asked_at < STALE_ANSWER_SECONDS:
                return
        logger.debug("the database is slow to say who holds the run")

    def _ask_whether_held(self, held: Mapping[str, int]) -> None:
        try:
            is_held = self._row(IS_RUN_HELD, held)[0]
        except DbError as exc:
            if not exc.is_out_of_reach:
                raise
            raise LockLostError(f"the connection that holds the run's lock is gone: {exc.message}") from exc
        if not is_held:
            raise LockLostError("another run has taken the lock")

    def _holder(self, keys: Mapping[str, object]) -> str:
        holders = self._rows(LOCK_HOLDER, keys)
        if not holders:
            return "a run that has just ended"
        name, pid, address, since = holders[0]
        return f"{name} (server process {pid}, from {address}, since {since:%Y-%m-%d %H:%M:%S %Z})"

    def applied_migrations(self) -> dict[str, str | None]:
        """{name: SHA-256 or None when it was applied by psql}; empty on a database that never saw one."""
        try:
            return dict(self._rows(APPLIED_MIGRATIONS))
        except DbError as exc:
            if isinstance(exc.__cause__, psycopg2.errors.UndefinedTable):
                return {}
            raise

    def pending_migrations(self) -> list[Path]:
        """The migration files that this database lacks, in order. Raises DbError when they are recorded in a
        schema that this session does not see: then it cannot know.
        """
        applied = self.applied_migrations()
        if not applied:
            for schema, is_usable in self._rows(MIGRATIONS_ELSEWHERE):
                raise DbError(
                    f"PostgreSQL: the product's tables are in the schema {schema}, "
                    + ("which is not on the search_path" if is_usable else "which this role may not use"),
                    kind="schema_differs" if is_usable else "no_right",
                    hint="see: python scripts/orchestrator-prod.py --check",
                )
        return [path for path in migration_files() if path.stem not in applied]

    @property
    def encoding(self) -> str:
        """The encoding of the database; only UTF8 holds every name and e-mail."""
        return str(self._row(ENCODING)[0])

    def apply_migration(self, sql: str, name: str, sha256: str) -> None:
        """Run one file, statement by statement (see `migrations`), and record it.

        Stopped anywhere, it is begun again from the start the next time. Raises DbError, a retryable one
        when a lock could not be had in GIVE_UP_SECONDS.
        """
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        for statement in statements(sql):
            index = index_of(statement)
            while True:
                try:
                    if index is not None:
                        self._build_index(index, statement)
                    else:
                        self._run(LOCK_TIMEOUT, {"milliseconds": LOCK_PATIENCE // timedelta(milliseconds=1)})
                        self._run(statement)
                    break
                except DbError as exc:
                    if not isinstance(exc.__cause__, psycopg2.errors.LockNotAvailable):
                        raise
                    if time.monotonic() > give_up_at:
                        raise DbError(
                            f"{name}: others held the table for {GIVE_UP_SECONDS:.0f} s",
                            kind="locked",
                            hint="end their long transactions, then start again",
                            retryable=True,
                        ) from exc
                    logger.info("%s waits for others to let it have its lock", name)
                    time.sleep(PAUSE_SECONDS)
        self._run(RECORD_MIGRATION, {"name": name, "sha256": sha256})

    def _build_index(self, name: str, statement: str) -> None:
        """Build an index that others write past; it waits for them, they do not wait for it."""
        self._run(LOCK_TIMEOUT, {"milliseconds": 0})
        if self._rows(UNUSABLE_INDEX, {"name": name}):
            logger.info("the index %s was left half built; it is made anew", name)
            self._run(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"')
        self._run(statement)

    # Retry state

    def get_a1_retry_status(self, campaign_id: str) -> RetryStatus:
        """Where the campaign stands; zero when it has no row."""
        return self.get_a1_retry_states([campaign_id]).get(campaign_id, RetryStatus(campaign_id))

    def get_a1_retry_states(self, campaign_ids: Sequence[str]) -> dict[str, RetryStatus]:
        """The states of many campaigns with one statement; campaigns without a row are left out."""
        if not campaign_ids:
            return {}
        rows = self._rows(RETRY_STATES, {"campaign_ids": list(campaign_ids)})
        return {row[0]: RetryStatus(*row) for row in rows}

    def increment_a1_retry(
        self, campaign_id: str, campaign_number: str, campaign_name: str, reason: str, *, status: str = "A1"
    ) -> Attempt:
        """Count one attempt, atomically; the attempt that reaches the maximum marks the campaign as failed.

        A campaign that is permanently failed already is left as it is (counted is False).
        """
        rows = self._rows(
            INCREMENT_A1_RETRY,
            {
                "campaign_id": campaign_id,
                "campaign_number": campaign_number,
                "campaign_name": campaign_name,
                "status": status,
                "reason": reason,
                "max": self._max_retries,
            },
        )
        if rows:
            return Attempt(number=rows[0][0], counted=True, permanently_failed=rows[0][1])
        standing = self.get_a1_retry_status(campaign_id)
        return Attempt(standing.retry_count, counted=False, permanently_failed=True)

    def reset_a1_retry(self, campaign_id: str) -> bool:
        """Put the campaign back to attempt zero; False when it has no row."""
        return self._run(RESET_A1_RETRY, {"campaign_id": campaign_id}) == 1

    # Where campaigns stand

    def record_in_a1(self, campaign: Campaign) -> None:
        """Make or refresh the row of a campaign that the DAM itself shows in A1."""
        self._run(
            RECORD_IN_A1,
            {
                "campaign_id": campaign.id,
                "campaign_number": campaign.number,
                "campaign_name": campaign.name,
                "status": campaign.status,
            },
        )

    def left_behind(self, status: str, seen: Collection[str]) -> list[LeftBehind]:
        """The campaigns that the DAM's search does not show and that are not done with all the same."""
        rows = self._rows(LEFT_BEHIND, {"status": status, "seen": list(seen)})
        return [LeftBehind(*row) for row in rows]

    def mark_left_search(self, campaign_id: str) -> None:
        """Leave the row as it is, whatever the search says, and do not ask again for a day."""
        self._run(MARK_LEFT_SEARCH, {"campaign_id": campaign_id})

    def follow_status(self, campaign_id: str, status: str | None) -> Followed | None:
        """Let the row say what the DAM says; None when there is no row. status None: the field is empty."""
        rows = self._rows(FOLLOW_STATUS, {"campaign_id": campaign_id, "status": status})
        return Followed(*rows[0]) if rows else None

    def request_a2(self, campaign_id: str) -> None:
        """Remember that every asset is verified in Box and the DAM is about to be asked to say A2.

        Asked for before, and not seen through: that run's lock may still be on its way (`left_behind`).
        """
        self._run(REQUEST_A2, {"campaign_id": campaign_id})

    # Ledger

    def box_folder_of(self, campaign_id: str) -> str | None:
        """The id of the campaign's folder in Box, as far as it has one."""
        rows = self._rows(BOX_FOLDER_OF, {"campaign_id": campaign_id})
        return rows[0][0] if rows else None

    def claim_box_folder(self, campaign_id: str, folder_id: str) -> bool:
        """Remember the campaign's folder; False when it is another campaign's."""
        return self._run(CLAIM_BOX_FOLDER, {"campaign_id": campaign_id, "folder_id": folder_id}) == 1

    def uploaded_assets(self, campaign_id: str) -> dict[str, LedgerEntry]:
        """{asset id: entry} of everything verified in Box so far."""
        rows = self._rows(UPLOADED_ASSETS, {"campaign_id": campaign_id})
        return {row[0]: LedgerEntry(*row) for row in rows}

    def record_upload(self, campaign_id: str, asset: Asset, file: BoxFile, run_id: str) -> None:
        """Enter one verified asset in the ledger."""
        self._run(
            RECORD_UPLOAD,
            {
                "campaign_id": campaign_id,
                "asset_id": asset.id,
                "asset_name": asset.name,
                "revision": asset.revision,
                "size_bytes": file.size_bytes,
                "sha1": file.sha1,
                "box_file_id": file.id,
                "box_name": file.name,
                "run_id": run_id,
            },
        )

    def upload_totals(self, campaign_id: str) -> UploadTotals:
        """What the ledger holds of a campaign."""
        return UploadTotals(*self._row(UPLOAD_TOTALS, {"campaign_id": campaign_id}))

    def record_campaign_upload(
        self, campaign_id: str, totals: UploadTotals, run_id: str, started_at: datetime | None
    ) -> None:
        """Enter a completed upload, in the transaction that completes it, for the daily report.

        started_at: when this run began to upload; None when an earlier run had moved everything.
        """
        self._run(
            RECORD_CAMPAIGN_UPLOAD,
            {
                "campaign_id": campaign_id,
                "started_at": started_at,
                "assets": totals.assets,
                "bytes": totals.size_bytes,
                "run_id": run_id,
            },
        )

    # Upload sessions

    def open_upload(self, campaign_id: str, asset_id: str) -> OpenUpload | None:
        """The upload session that an earlier run left open for an asset."""
        rows = self._rows(OPEN_UPLOAD, {"campaign_id": campaign_id, "asset_id": asset_id})
        return OpenUpload(*rows[0]) if rows else None

    def remember_upload(self, upload: OpenUpload, part_size: int, run_id: str) -> None:
        """Enter a session before its first part, so that a run killed from then on can be continued. On the
        disk in any case: Box lists no sessions, so one that a crash of the server made us forget is lost.
        """
        with self.transaction():
            self._run(WAIT_FOR_DISK)
            self._run(REMEMBER_UPLOAD, asdict(upload) | {"part_size": part_size, "run_id": run_id})

    def forget_upload(self, session_id: str) -> None:
        """The session is over: committed, aborted or ended by Box."""
        self._run(FORGET_UPLOAD, {"session_id": session_id})

    def stale_uploads(self, status: str) -> list[OpenUpload]:
        """The sessions that nobody will go on with; status: the one whose campaigns are still worked on."""
        return [OpenUpload(*row) for row in self._rows(STALE_UPLOADS, {"status": status})]

    # Limits

    def take_calls(self, bucket: str, wanted: int, limit: int) -> Grant:
        """Leave for up to `wanted` calls, by the server's clock, which all runs share. See rate.take."""
        with self.transaction():
            current, now = self._bucket(bucket)
            later, grant = take(current, wanted, limit, now)
            if grant.count:
                self._save_bucket(bucket, later)
        return grant

    def pause_calls(self, bucket: str, seconds: float) -> None:
        """Nobody gets leave for so long."""
        with self.transaction():
            current, now = self._bucket(bucket)
            self._save_bucket(bucket, pause(current, seconds, now))

    def _bucket(self, bucket: str) -> tuple[Bucket, float]:
        rows = self._rows(READ_BUCKET, {"bucket": bucket})
        if not rows:
            self._run(MAKE_BUCKET, {"bucket": bucket})
            rows = self._rows(READ_BUCKET, {"bucket": bucket})
        second, counts, paused_until, now = rows[0]
        return Bucket(second, tuple(counts), paused_until), now

    def _save_bucket(self, bucket: str, state: Bucket) -> None:
        values = {
            "bucket": bucket,
            "second": state.second,
            "counts": list(state.counts),
            "paused_until": state.paused_until,
        }
        self._run(SAVE_BUCKET, values)

    # Errors

    def note_error(self, campaign_id: str, kind: str, message: str) -> LastingError:
        """Record a failure of a campaign; tells whether an error notice is owed for it now."""
        values = {
            "campaign_id": campaign_id,
            "kind": kind,
            "message": message,
            "reminder_interval": REMINDER_INTERVAL,
        }
        return LastingError(*self._row(NOTE_ERROR, values))

    def clear_errors(self, campaign_id: str) -> None:
        """The campaign's failures are over."""
        self._run(CLEAR_ERRORS, {"campaign_id": campaign_id})

    # Outbox

    def queue_notice(self, notice: Notice) -> None:
        """Put a notice into the outbox, in the transaction of what it reports."""
        values = {
            "id": notice.id,
            "kind": notice.kind.value,
            "campaign_id": notice.campaign_id,
            "subject": notice.subject,
            "body_text": notice.text,
            "body_html": notice.html,
            "created_at": notice.created_at,
            "recipients": list(notice.recipients),
            "campaign_number": notice.line and notice.line.number,
            "campaign_name": notice.line and notice.line.name,
            "attempt": notice.line and notice.line.attempt,
            "max_attempts": notice.line and notice.line.max_attempts,
            "detail": notice.line and notice.line.detail,
        }
        self._run(QUEUE_NOTICE, values)
        self._run(QUEUE_DELIVERIES, values)

    def is_notice_due(self, now: datetime) -> bool:
        """Whether there is anything to deliver: the one outbox query of an idle run."""
        return bool(self._row(IS_NOTICE_DUE, {"now": now})[0])

    # Which e-mail carries what is settled, and committed, before it goes out; so a process that is killed in
    # between leaves behind what may have arrived, under the Message-ID under which it may have arrived.

    def begun_mail(self, now: datetime) -> str | None:
        """The id of an e-mail that was begun, may have arrived, and is due to be sent again."""
        rows = self._rows(BEGUN_MAIL, {"now": now})
        return rows[0][0] if rows else None

    def begin_bundle(
        self, bundle_id: str, now: datetime, *, more_than: int, most_lines: int
    ) -> Bundle | None:
        """Settle that all a recipient is owed of a kind goes as one e-mail, where that is more than so many
        notices; None when there is no such crowd. To be saved in the same transaction (save_bundle).
        """
        crowd = self._rows(CROWD, {"now": now, "kinds": list(BUNDLED_KINDS), "more_than": more_than})
        if not crowd:
            return None
        kind, recipient = crowd[0]
        values = {
            "id": bundle_id,
            "kind": kind,
            "recipient": recipient,
            "max": self._max_retries,
            "limit": most_lines,
        }
        if self._run(BEGIN_BUNDLE, values) == 0:  # another process is about to send them
            return None
        notices, campaigns, max_attempts = self._row(BUNDLE_TOTALS, values)
        lines = tuple(NoticeLine(*row) for row in self._rows(BUNDLE_LINES, values))
        return Bundle(bundle_id, NoticeKind(kind), recipient, notices, campaigns, max_attempts, lines, now)

    def save_bundle(self, bundle: Bundle, mail: Notice) -> None:
        """Keep the bundle as the e-mail that it goes out as."""
        values = {
            "id": bundle.id,
            "kind": bundle.kind.value,
            "recipient": bundle.recipient,
            "notices": bundle.notices,
            "subject": mail.subject,
            "body_text": mail.text,
            "body_html": mail.html,
            "created_at": bundle.created_at,
        }
        self._run(SAVE_BUNDLE, values)

    def begin_single(self, now: datetime) -> str | None:
        """Settle that the oldest notice that is due goes as an e-mail of its own; its id, None: none is."""
        rows = self._rows(BEGIN_SINGLE, {"now": now})
        return rows[0][0] if rows else None

    def lock_mail(self, mail_id: str, now: datetime) -> DueMail | None:
        """The e-mail, locked until the transaction ends; None when another process has it in hand."""
        for kind, recipient, subject, text, html, created_at in self._rows(LOCK_BUNDLE, {"id": mail_id}):
            held = dict(self._rows(LOCK_BUNDLED, {"id": mail_id}))
            bundle = Notice(mail_id, NoticeKind(kind), "", subject, text, html, (recipient,), created_at)
            return DueMail(bundle, {}, bundled=held) if held else None
        due = dict(self._rows(LOCK_SINGLE, {"id": mail_id, "now": now}))
        if not due:
            return None
        row = self._row(READ_NOTICE, {"id": mail_id})
        notice = Notice(
            id=row[0],
            kind=NoticeKind(row[1]),
            campaign_id=row[2],
            subject=row[3],
            text=row[4],
            html=row[5],
            recipients=tuple(sorted(due)),
            created_at=row[6],
        )
        return DueMail(notice, due)

    def record_delivery(
        self,
        notice_id: str,
        result: DeliveryResult,
        now: datetime,
        next_tries: Mapping[str, datetime | None],
        *,
        may_have_arrived: bool = False,
    ) -> None:
        """Enter what the mail server said of a single notice. next_tries: when to try a refused recipient
        again, None: never. may_have_arrived: then only under the same Message-ID.
        """
        if result.accepted:
            self._run(MARK_SENT, {"id": notice_id, "recipients": list(result.accepted), "now": now})
        for recipient, (code, text) in result.refused.items():
            next_try_at = next_tries[recipient]
            values = {
                "id": notice_id,
                "recipient": recipient,
                "next_try_at": next_try_at or now,
                "gave_up_at": now if next_try_at is None else None,
                "error": f"{code} {text}".strip(),
                "may_have_arrived": may_have_arrived,
            }
            self._run(MARK_REFUSED, values)

    def record_bundle_sent(self, bundle_id: str, now: datetime) -> int:
        """The mail server took the bundle; returns how many of its notices nobody waits for any more."""
        self._run(MARK_BUNDLE_SENT, {"id": bundle_id, "now": now})
        return int(self._row(BUNDLE_DONE, {"id": bundle_id})[0])

    def record_bundle_refused(
        self,
        bundle_id: str,
        error: str,
        now: datetime,
        next_tries: Mapping[int, datetime],
        *,
        give_up_before: datetime | None,
        may_have_arrived: bool,
    ) -> None:
        """The mail server did not take the bundle: unless it may have arrived, its notices are free again, to
        be told with whatever comes until then. next_tries: {tries so far: when again}. give_up_before: what
        was created earlier is not tried again.
        """
        values = {
            "id": bundle_id,
            "error": error,
            "now": now,
            "give_up_before": give_up_before,
            "may_have_arrived": may_have_arrived,
        }
        for tries in sorted(next_tries, reverse=True):  # what is marked counts one try more
            self._run(MARK_BUNDLE_REFUSED, values | {"tries": tries, "next_try_at": next_tries[tries]})
        if not may_have_arrived:
            self._run(FORGET_BUNDLE, values)

    # The orchestrator

    def lock_task(self, task: str) -> bool:
        """Take the lock of one task for as long as this connection lives; False when another run has it."""
        keys = {"lock_class": TASK_LOCK_CLASS, "lock": zlib.crc32(task.encode()) >> 1}
        return bool(self._row(TRY_LOCK, keys)[0])

    def last_task_runs(self, tasks: Sequence[str], now: datetime) -> dict[str, LastRun]:
        """{task: its last run}; those that never ran are left out.

        A run that lies in the future, because the clock was set back, counts for nothing.
        """
        rows = self._rows(LAST_TASK_RUNS, {"tasks": list(tasks), "now": now})
        return {row[0]: LastRun(*row[1:]) for row in rows}

    def record_task_run(self, run: TaskRun) -> None:
        """Enter a run that begins, or the end of one."""
        self._run(RECORD_TASK_RUN, {name: getattr(run, name) for name in run.__slots__})

    def prune_task_runs(self, now: datetime) -> int:
        """Forget the runs of more than KEPT_TASK_RUNS ago; how many there were."""
        return self._run(PRUNE_TASK_RUNS, {"before": now - KEPT_TASK_RUNS})

    def task_alerts(self) -> dict[str, Alerts]:
        """{task: {ending: alert}} of everything that counts failures at present."""
        found: dict[str, dict[str, TaskAlert]] = {}
        for row in self._rows(TASK_ALERTS):
            alert = TaskAlert(*row)
            found.setdefault(alert.task, {})[alert.ending] = alert
        return dict(found)

    def replace_task_alerts(self, task: str, alerts: Alerts) -> None:
        """Let a task's alerts be these; inside a transaction, with the notice they brought."""
        self._run(DELETE_TASK_ALERTS, {"task": task})
        for alert in alerts.values():
            self._run(INSERT_TASK_ALERT, {name: getattr(alert, name) for name in alert.__slots__})

    # Daily report

    def daily_report_queued_at(self, report_date: date) -> datetime | None:
        """When the report of a local date was put into the outbox; None: not yet."""
        rows = self._rows(DAILY_REPORT_QUEUED_AT, {"report_date": report_date})
        return rows[0][0] if rows else None

    def previous_daily_report(self, report_date: date) -> tuple[date, datetime] | None:
        """The latest report of an earlier date, as (its date, when it was made)."""
        rows = self._rows(PREVIOUS_DAILY_REPORT, {"report_date": report_date})
        return (rows[0][0], rows[0][1]) if rows else None

    def claim_daily_report(self, day: ReportDay, notice_id: str, now: datetime) -> bool:
        """Take the report of a date, and the uploads that no report has told of, in the caller's transaction.

        False when the date is taken; then nothing has been changed.
        """
        values = {"report_date": day.date, "notice_id": notice_id, "queued_at": now, "until": day.until}
        if self._run(CLAIM_DAILY_REPORT, values) == 0:
            return False
        self._run(ASSIGN_UPLOADS, values)
        return True

    def reported_uploads(self, day: ReportDay, *, is_preview: bool) -> tuple[UploadSection, UploadSection]:
        """The uploads of the day, and those before it that no earlier report told of.

        is_preview: with those that the report would claim, did it not only look.
        """
        rows = self._rows(
            REPORTED_UPLOADS,
            {
                "report_date": day.date,
                "start": day.start,
                "until": day.until,
                "is_preview": is_preview,
                "limit": SHOWN_ROWS,
            },
        )

        def section(wanted: bool) -> UploadSection:
            chosen = [row for row in rows if row[0] is wanted]
            if not chosen:
                return UploadSection()
            uploads = tuple(Upload(_campaign(row[3:]), *row[8:]) for row in chosen)
            return UploadSection(uploads, *chosen[0][1:4])

        return section(False), section(True)

    def campaigns_in_retry(self, status: str) -> Section[EmptyCampaign]:
        """Campaigns in this status that have spent an attempt and will be looked at again."""
        rows = self._rows(CAMPAIGNS_IN_RETRY, {"status": status, "limit": SHOWN_ROWS})
        return _section(rows, [EmptyCampaign(_campaign(row), *row[5:]) for row in rows])

    def failed_campaigns(self) -> Section[EmptyCampaign]:
        """Every permanently failed campaign, the latest first."""
        rows = self._rows(FAILED_CAMPAIGNS, {"limit": SHOWN_ROWS})
        return _section(rows, [EmptyCampaign(_campaign(row), *row[5:]) for row in rows])

    def lasting_failures(self) -> Section[LastingFailure]:
        """Failures of campaigns that are not over, the latest first."""
        rows = self._rows(LASTING_FAILURES, {"limit": SHOWN_ROWS})
        return _section(rows, [LastingFailure(_campaign(row), *row[5:]) for row in rows])

    def failures_over(self, day: ReportDay) -> Section[Campaign]:
        """Campaigns that an error notice was about in the report's time, and that fail no more."""
        values = {
            "kind": NoticeKind.ERROR.value,
            "since": day.since,
            "until": day.until,
            "limit": SHOWN_ROWS,
        }
        rows = self._rows(FAILURES_OVER, values)
        return _section(rows, [_campaign(row) for row in rows])

    def ended_runs(self, day: ReportDay) -> tuple[tuple[TaskRuns, ...], tuple[TaskRuns, ...]]:
        """The runs that ended in the day, by task, and those that ended since the report before it."""
        values = {
            "start": day.start,
            "since": day.since,
            "until": day.until,
            "late_after": LATE_AFTER,
            "lost_after": LOST_AFTER,
            "try_later": ExitCode.TRY_LATER.value,
        }
        rows = self._rows(ENDED_RUNS, values)
        on_the_day = tuple(TaskRuns(*row[1:]) for row in rows if not row[0])
        return on_the_day, tuple(TaskRuns(*row[1:]) for row in rows if row[0])

    def outbox_backlog(self, day: ReportDay) -> Backlog:
        """E-mails that the mail server has been given and did not take."""
        return Backlog(*self._row(OUTBOX_BACKLOG, {"since": day.since, "until": day.until}))

    # Operators

    def differences(self, *, status_a1: str, status_a2: str) -> list[Difference]:
        """What of this database is not as the product needs it, faults first."""
        values = {"status_a1": status_a1, "status_a2": status_a2, "max_retries": str(self._max_retries)}
        return [Difference(*row) for row in self.run_query("preflight", values)[1]]

    def run_query(self, name: str, values: Mapping[str, object]) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run `database/queries/NAME.sql`, the file that psql runs too; returns column names and rows.

        Of psql's own lines, which begin with a backslash, a `\\set` gives the default of a value.
        """
        text = (DATABASE_FOLDER / "queries" / f"{name}.sql").read_text(encoding="utf-8")
        defaults = dict(_PSQL_DEFAULT.findall(text))
        sql = re.sub(r":'(\w+)'", r"%(\1)s", _PSQL_LINE.sub("", text).replace("%", "%%"))
        with self._lock, _translated(), self._connection.cursor() as cursor:
            self.statements += 1
            cursor.execute(sql, {**defaults, **values})
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()

    def record_resets(self, campaign_ids: Sequence[str], reset_by: str, reason: str) -> list[str]:
        """Note who resets which campaigns and why, before it happens; returns those that have a row."""
        values = {"campaign_ids": list(campaign_ids), "reset_by": reset_by, "reason": reason}
        return [row[0] for row in self._rows(RECORD_RESET, values)]

    def _row(self, sql: str, values: Mapping[str, object] | None = None) -> tuple[Any, ...]:
        return self._rows(sql, values)[0]

    def _rows(self, sql: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        with self._lock, _translated(), self._connection.cursor() as cursor:
            self.statements += 1
            cursor.execute(*self._held_in(sql, values))
            return cursor.fetchall()

    def _run(self, sql: str, values: Mapping[str, object] | None = None) -> int:
        with self._lock, _translated(), self._connection.cursor() as cursor:
            self.statements += 1
            cursor.execute(*self._held_in(sql, values))
            return cursor.rowcount

    def _held_in(
        self, sql: str, values: Mapping[str, object] | None
    ) -> tuple[str, Mapping[str, object] | None]:
        """A write that stands alone, with the proof before it that the run is still ours: PostgreSQL runs
        both as one transaction, and they travel together.
        """
        if self._held is None or self._is_in_transaction or not sql.lstrip().startswith(_WRITES):
            return sql, values
        return HOLD_RUN + sql, {**(values or {}), **self._held}


def _campaign(row: tuple[Any, ...]) -> Campaign:
    """The campaign of a row that begins with a count and then has id, number, name and status."""
    return Campaign(*row[1:5])


def _section(rows: list[tuple[Any, ...]], parsed: Sequence[Row]) -> Section[Row]:
    """The parsed rows, with the count of all of them that each row begins with."""
    return Section(tuple(parsed), rows[0][0] if rows else 0)


def migration_files() -> list[Path]:
    """The migrations in the order of their numbers."""
    return sorted((DATABASE_FOLDER / "migrations").glob("[0-9][0-9][0-9]_*.sql"))


@contextmanager
def _translated() -> Iterator[None]:
    """psycopg2's errors as DbError; the first line of the server's message is enough, and names no secret."""
    try:
        yield
    except psycopg2.Error as exc:
        if exc.pgcode == _RUN_NOT_HELD:
            raise LockLostError("another run has taken the lock") from exc
        lost = isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError) and not isinstance(
            exc, psycopg2.errors.LockNotAvailable | psycopg2.errors.QueryCanceled
        )
        text = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        if lost and any(refusal in text for refusal in _LOGIN_REFUSALS):
            raise DbError(
                f"PostgreSQL: {text}",
                kind="login_refused",
                hint="check DATABASE_URL or DB_USER and DB_PASSWORD",
            ) from exc
        raise DbError(
            f"PostgreSQL: {text}",
            kind="out_of_reach" if lost else "database_error",
            hint=_cure_of(exc),
            retryable=lost,
        ) from exc


def _cure_of(exc: psycopg2.Error) -> str:
    if isinstance(exc, psycopg2.errors.UndefinedTable | psycopg2.errors.UndefinedColumn):
        return "apply the migrations: python scripts/migrate.py"
    if isinstance(exc, psycopg2.errors.InsufficientPrivilege):
        return "migrations run as the owner; for every other script apply database/roles.sql"
    return ""
