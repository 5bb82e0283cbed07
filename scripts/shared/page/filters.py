"""The filter: which campaigns a list shows and an act changes, in the address and in SQL.

`report.states.Rules` decides what a state means; the conditions here say the same in SQL, so that PostgreSQL
can filter and count (a test compares both).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from shared.base.text import replace_unstorable
from shared.base.values import GONE
from shared.report.week import LASTING
from shared.rules.retry import RetryPolicy

MOST_LETTERS = 200
"""Longer search texts are refused."""
MOST_DAYS = 3650

STATES: Mapping[str, str] = MappingProxyType(
    {
        "stuck": "stuck",
        "failed": "permanently failed",
        "erring": "failing with an error",
        "snoozed": "snoozed",
        "near_failure": "one attempt left",
        "in_retry": "empty, in retry",
        "in_a1": "in A1",
        "uploaded": "uploaded to Box",
        "gone": "no longer in the DAM",
        "": "all",
    }
)
"""{state of a filter: what people call it}, in the order of the page."""

# Every known campaign: its row, or its errors when it fails and no run has been able to read it yet.
CAMPAIGNS = """
SELECT campaign_id, campaign_number, campaign_name, status, a1_retry_count, a1_permanently_failed,
       a1_last_retry_at, a1_max_retries, a1_snoozed_until, updated_at
FROM campaign_status
UNION ALL
SELECT campaign_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, last_seen_at FROM unread
"""

# What goes before a statement that reads CAMPAIGNS.
UNREAD = """
WITH unread AS MATERIALIZED (
    SELECT e.campaign_id, max(e.last_seen_at) AS last_seen_at FROM campaign_errors e
    WHERE NOT EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = e.campaign_id)
    GROUP BY e.campaign_id)
"""

_IS_TRIED = "(s.status = %(status_a1)s OR s.status IS NULL)"
_IS_SNOOZED = f"s.a1_snoozed_until > %(now)s AND {_IS_TRIED}"
_FAILS = "s.campaign_id IN (SELECT campaign_id FROM campaign_errors)"
_FAILS_SINCE = "s.campaign_id IN (SELECT campaign_id FROM campaign_errors WHERE began_at < {since})"
_IS_CALM = f"s.a1_permanently_failed IS NOT TRUE AND NOT {_FAILS}"

_CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "stuck": f"(s.a1_permanently_failed OR {_IS_SNOOZED}"
        f" OR {_FAILS_SINCE.format(since='%(lasting_before)s')})",
        "failed": "s.a1_permanently_failed",
        "erring": f"s.a1_permanently_failed IS NOT TRUE AND {_FAILS}",
        "snoozed": f"{_IS_SNOOZED} AND {_IS_CALM}",
        "near_failure": "s.status = %(status_a1)s AND s.a1_permanently_failed IS NOT TRUE"
        " AND s.a1_retry_count > 0 AND s.a1_retry_count >= coalesce(s.a1_max_retries, %(max_retries)s) - 1",
        "in_retry": f"s.a1_retry_count > 0 AND {_IS_TRIED} AND {_IS_CALM}"
        " AND (s.a1_snoozed_until > %(now)s) IS NOT TRUE",
        "in_a1": "s.status = %(status_a1)s",
        "uploaded": "s.status NOT IN (%(status_a1)s, %(gone)s)"
        " AND EXISTS (SELECT FROM campaign_uploads u WHERE u.campaign_id = s.campaign_id)",
        "gone": "s.status = %(gone)s",
        "": "TRUE",
    }
)
_MATCHES_TEXT = (
    "(s.campaign_id = %(q)s OR strpos(lower(s.campaign_number), lower(%(q)s)) > 0"
    " OR strpos(lower(s.campaign_name), lower(%(q)s)) > 0)"
)
_IS_OLDER = (
    "(least(s.updated_at, CASE WHEN s.a1_permanently_failed THEN s.a1_last_retry_at END) < %(older_than)s"
    f" OR {_FAILS_SINCE.format(since='%(older_than)s')})"
)


@dataclass(frozen=True, slots=True)
class Filter:
    """state: of STATES. q: an id, or a part of a number or name; "": any. older: only campaigns unchanged for
    more than this many days; None: all.
    """

    state: str = ""
    q: str = ""
    older: int | None = None

    @classmethod
    def read(cls, args: Mapping[str, str]) -> Filter:
        """The filter in an address. Raises ValueError, whose text is a sentence for people."""
        state = args.get("state", "")
        if state not in STATES:
            raise ValueError(f"state must be one of {', '.join(filter(None, STATES))}, or empty for all")
        q = replace_unstorable(args.get("q", "").strip())
        if len(q) > MOST_LETTERS:
            raise ValueError(f"q must have at most {MOST_LETTERS} letters")
        return cls(state, q, _days(args.get("older", "").strip()))

    def query(self) -> dict[str, str]:
        """The fields that are set, for an address: `read` reads them."""
        older = "" if self.older is None else str(self.older)
        return {
            name: value for name, value in (("state", self.state), ("q", self.q), ("older", older)) if value
        }

    def sql(self) -> str:
        """A condition over the alias s of campaign_status, or of CAMPAIGNS, with the names of `values`."""
        conditions = ["s.campaign_id IS NOT NULL", _CONDITIONS[self.state]]
        if self.q:
            conditions.append(_MATCHES_TEXT)
        if self.older is not None:
            conditions.append(_IS_OLDER)
        return " AND ".join(conditions)

    def values(self, now: datetime, policy: RetryPolicy, status_a1: str) -> dict[str, object]:
        """The values of the names in `sql`."""
        return {
            "now": now,
            "lasting_before": now - LASTING,
            "older_than": now - timedelta(days=self.older or 0),
            "status_a1": status_a1,
            "gone": GONE,
            "max_retries": policy.max_retries,
            "q": self.q,
        }


def _days(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) > MOST_DAYS:
        raise ValueError(f"older must be a number of days from 0 to {MOST_DAYS}")
    return int(text)
