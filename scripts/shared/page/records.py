"""Reads records from the database: runs, notices, a campaign's history. Newest first, page by page.

No query reads the whole of a growing table: each walks an index from its newest end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.database import Database
from shared.rules.outlook import LONGEST_RUN

PER_PAGE = 50
MOST_PAGES = 2000
"""A list has at most this many pages."""
SEARCHED = 2000
"""A search reads only this many notices: the latest."""
HISTORY_SHOWN = 200
FILES_SHOWN = 200
MAILS_SHOWN = 50

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of a list. number: which, from 1. has_next: whether older ones follow."""

    rows: list[dict[str, Any]]
    number: int = 1
    has_next: bool = False


def page_number(text: str) -> int:
    """The page that an address asks for: 1 for a text that is not a number, MOST_PAGES at most."""
    return max(1, min(int(text), MOST_PAGES)) if text.isdecimal() and len(text) < 10 else 1


NOTICE_STATES: Mapping[str, str] = {
    "waiting": "waiting",
    "given_up": "given up",
    "webhooks_waiting": "webhooks waiting",
    "webhooks_dead": "webhooks given up",
    "sent": "sent",
    "folded": "covered by a later one",
    "": "all",
}
"""The states of notices, and what they are called."""

_STATE_SQL: Mapping[str, str] = {
    "waiting": """n.id IN (SELECT notice_id FROM notice_deliveries
                           WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL)""",
    "given_up": """n.id IN (SELECT notice_id FROM notice_deliveries
                            WHERE channel = 'email' AND gave_up_at IS NOT NULL)""",
    "webhooks_waiting": """n.id IN (SELECT notice_id FROM notice_deliveries
                                    WHERE channel = 'webhook' AND sent_at IS NULL AND gave_up_at IS NULL)""",
    "webhooks_dead": """n.id IN (SELECT notice_id FROM notice_deliveries
                                 WHERE channel = 'webhook' AND gave_up_at IS NOT NULL)""",
    # A subquery for each notice, so that reading the newest ones is enough.
    "sent": """(SELECT TRUE FROM notice_deliveries x
                WHERE x.notice_id = n.id AND x.sent_at IS NOT NULL LIMIT 1)""",
    "folded": "n.folded_into IS NOT NULL",
    "": "TRUE",
}

# The page's rows first, then what became of each.
_NOTICES = """
SELECT n.id::text, n.kind, n.campaign_id, n.subject, n.created_at, n.folded_into::text,
       c.campaign_number, c.campaign_name, d.recipients, d.sent, d.given_up, d.sent_at, d.next_try_at,
       d.last_error, d.names
FROM (SELECT * FROM (SELECT id, kind, campaign_id, subject, created_at, folded_into, campaign_number,
                            campaign_name
                     FROM notices n WHERE {state} ORDER BY created_at DESC, id DESC LIMIT %(searched)s) n
      WHERE {text} ORDER BY created_at DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s) n
LEFT JOIN campaign_status c ON c.campaign_id = n.campaign_id AND n.campaign_id <> ''
CROSS JOIN LATERAL (SELECT count(*) AS recipients, count(sent_at) AS sent, count(gave_up_at) AS given_up,
                           max(sent_at) AS sent_at,
                           min(next_try_at) FILTER (WHERE sent_at IS NULL AND gave_up_at IS NULL)
                               AS next_try_at,
                           (array_agg(last_error ORDER BY next_try_at DESC)
                            FILTER (WHERE sent_at IS NULL AND last_error IS NOT NULL))[1] AS last_error,
                           (array_agg(recipient ORDER BY recipient))[:3] AS names
                    FROM notice_deliveries WHERE notice_id = n.id) d
ORDER BY n.created_at DESC, n.id DESC
"""
_NOTICE_COLUMNS = (
    *("id", "kind", "campaign_id", "subject", "created_at", "folded_into", "number", "name", "recipients"),
    *("sent", "given_up", "sent_at", "next_try_at", "last_error", "names"),
)
_TEXT = """(n.subject ILIKE %(q)s OR n.campaign_id = %(exact)s OR n.campaign_number ILIKE %(q)s
            OR n.campaign_name ILIKE %(q)s
            OR EXISTS (SELECT FROM notice_deliveries x
                       WHERE x.notice_id = n.id AND x.recipient ILIKE %(q)s))"""

_NOTICE_COUNTS = """
SELECT count(DISTINCT notice_id) FILTER (WHERE channel = 'email' AND gave_up_at IS NULL),
       count(DISTINCT notice_id) FILTER (WHERE channel = 'email' AND gave_up_at IS NOT NULL),
       count(DISTINCT notice_id) FILTER (WHERE channel = 'webhook' AND gave_up_at IS NULL),
       count(DISTINCT notice_id) FILTER (WHERE channel = 'webhook' AND gave_up_at IS NOT NULL)
FROM (SELECT notice_id, channel, gave_up_at FROM notice_deliveries
      WHERE sent_at IS NULL AND gave_up_at IS NULL
      UNION ALL
      SELECT notice_id, channel, gave_up_at FROM notice_deliveries WHERE gave_up_at IS NOT NULL) d
"""

_NOTICE = """
SELECT n.id::text, n.kind, n.campaign_id, n.subject, n.body_text, n.created_at, n.folded_into::text, n.cycle,
       n.attempt, coalesce(c.campaign_number, n.campaign_number), coalesce(c.campaign_name, n.campaign_name),
       n.body_html <> ''
FROM notices n LEFT JOIN campaign_status c ON c.campaign_id = n.campaign_id AND n.campaign_id <> ''
WHERE n.id = %(id)s
"""
_ONE_NOTICE_COLUMNS = (
    *("id", "kind", "campaign_id", "subject", "body_text", "created_at", "folded_into", "cycle", "attempt"),
    *("number", "name", "has_html"),
)

# A digest goes to the recipients of the deliveries that name it.
_DELIVERIES = """
SELECT recipient, max(tries), max(sent_at), max(gave_up_at), min(next_try_at),
       (array_agg(last_error ORDER BY next_try_at DESC) FILTER (WHERE last_error IS NOT NULL))[1],
       count(*), min(nullif(mail_id, notice_id)::text), max(channel), max(ticket)
FROM notice_deliveries WHERE notice_id = %(id)s OR mail_id = %(id)s
GROUP BY recipient ORDER BY recipient LIMIT 200
"""
_DELIVERY_COLUMNS = (
    *("recipient", "tries", "sent_at", "gave_up_at", "next_try_at", "last_error", "carried", "mail_id"),
    *("channel", "ticket"),
)

_NOTICE_HTML = "SELECT body_html FROM notices WHERE id = %(id)s"


class NoticeRecords:
    """Notices, given a `Database`. Every method raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, state: str, q: str, number: int) -> Rows:
        """Notices of a state (a key of NOTICE_STATES). q: a part of subject, number, name or recipient."""
        sql = _NOTICES.format(state=_STATE_SQL[state], text=_TEXT if q else "TRUE")
        values = {**_limits(number), "searched": SEARCHED if q else None, "q": f"%{_like(q)}%", "exact": q}
        return _rows(self._database, sql, values, _NOTICE_COLUMNS, number)

    def counts(self) -> dict[str, int]:
        """How many are waiting, and how many were given up for at least one recipient: e-mails, then
        webhooks.
        """
        names = ("waiting", "given_up", "webhooks_waiting", "webhooks_dead")
        return dict(zip(names, self._database.row(_NOTICE_COUNTS), strict=True))

    def one(self, notice_id: UUID) -> dict[str, Any] | None:
        """A notice with its text, and `deliveries`: what became of it for each recipient."""
        asked = {"id": str(notice_id)}
        found = self._database.rows(_NOTICE, asked)
        if not found:
            return None
        rows = self._database.rows(_DELIVERIES, asked)
        deliveries = [dict(zip(_DELIVERY_COLUMNS, row, strict=True)) for row in rows]
        return {**dict(zip(_ONE_NOTICE_COLUMNS, found[0], strict=True)), "deliveries": deliveries}

    def html(self, notice_id: UUID) -> str | None:
        """The notice's HTML as it was sent."""
        found = self._database.rows(_NOTICE_HTML, {"id": str(notice_id)})
        return found[0][0] if found else None


# The index finds the newest runs of a task; all tasks together have few.
_RUNS = """
SELECT run_id, task, planned_at, started_at, finished_at, exit_code, ending, host
FROM orchestrator_task_runs
WHERE (%(task)s = '' OR task = %(task)s) AND (NOT %(only_failed)s OR exit_code <> 0 OR ending <> 'exit code 0'
       OR finished_at IS NULL AND started_at < %(now)s::timestamptz - %(longest)s)
ORDER BY started_at DESC, run_id DESC LIMIT %(limit)s OFFSET %(offset)s
"""
_RUN_COLUMNS = ("run_id", "task", "planned_at", "started_at", "finished_at", "exit_code", "ending", "host")


def runs(database: Database, task: str, number: int, now: datetime, *, only_failed: bool) -> Rows:
    """Runs that the loop started. task: "" for all of them. only_failed: those that did not end well."""
    values = {
        **_limits(number), "task": task, "only_failed": only_failed, "now": now, "longest": LONGEST_RUN,
    }  # fmt: skip
    return _rows(database, _RUNS, values, _RUN_COLUMNS, number)


# A campaign's own records


_HISTORY = """
SELECT at, kind, cycle, actor, source, reason, detail FROM (
    SELECT * FROM campaign_events WHERE campaign_id = %(id)s ORDER BY id DESC LIMIT %(limit)s) e
ORDER BY id
"""

_FILES = """
SELECT asset_name, box_name, size_bytes, verified_at, count(*) OVER (), sum(size_bytes) OVER ()::bigint
FROM campaign_assets WHERE campaign_id = %(id)s ORDER BY box_name, asset_id LIMIT %(limit)s
"""

_MAILS = """
SELECT n.id::text, n.kind, n.subject, n.created_at, n.folded_into::text, count(d.recipient), count(d.sent_at),
       count(d.gave_up_at)
FROM (SELECT id, kind, subject, created_at, folded_into FROM notices WHERE campaign_id = %(id)s
      ORDER BY created_at DESC LIMIT %(limit)s) n
LEFT JOIN notice_deliveries d ON d.notice_id = n.id
GROUP BY n.id, n.kind, n.subject, n.created_at, n.folded_into ORDER BY n.created_at DESC, n.id DESC
"""
_MAIL_COLUMNS = ("id", "kind", "subject", "created_at", "folded_into", "recipients", "sent", "given_up")


@dataclass(frozen=True, slots=True)
class Files:
    """A campaign's files in Box: the first of them, and how many there are. size_bytes: of all."""

    rows: list[dict[str, Any]]
    total: int = 0
    size_bytes: int = 0


def history(database: Database, campaign_id: str, limit: int) -> list[tuple[Any, ...]]:
    """The latest events of a campaign, as rows of history.sql, oldest first."""
    return database.rows(_HISTORY, {"id": campaign_id, "limit": limit})


def files(database: Database, campaign_id: str) -> Files:
    rows = database.rows(_FILES, {"id": campaign_id, "limit": FILES_SHOWN})
    names = ("asset_name", "box_name", "size_bytes", "verified_at")
    shown = [dict(zip(names, row[:4], strict=True)) for row in rows]
    return Files(shown, *rows[0][4:]) if rows else Files(shown)


def mails(database: Database, campaign_id: str) -> list[dict[str, Any]]:
    """The campaign's latest notices."""
    rows = database.rows(_MAILS, {"id": campaign_id, "limit": MAILS_SHOWN})
    return [dict(zip(_MAIL_COLUMNS, row, strict=True)) for row in rows]


def _limits(number: int) -> dict[str, int]:
    """Make a page of the rows; one row more than a page has shows that there is a next one."""
    return {"limit": PER_PAGE + 1, "offset": (number - 1) * PER_PAGE}


def _rows(
    database: Database, sql: str, values: Mapping[str, object], names: tuple[str, ...], number: int
) -> Rows:
    found = [dict(zip(names, row, strict=True)) for row in database.rows(sql, values)]
    return Rows(found[:PER_PAGE], number, len(found) > PER_PAGE and number < MOST_PAGES)


def _like(text: str) -> str:
    """The text for ILIKE, with its special characters escaped."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
