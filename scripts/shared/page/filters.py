"""Which campaigns a page shows and an act concerns: the filter, in the address and in SQL.

What a state means is said by `report.states.Rules`; the conditions here say the same in SQL, so that
PostgreSQL filters and counts (a test compares both).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from shared.base.values import GONE
from shared.report.week import LASTING
from shared.rules.retry import RetryPolicy

MOST_LETTERS = 200
"""Longer texts are not looked for."""
MOST_DAYS = 3650

STATES: Mapping[str, str] = MappingProxyType(
    {
        "stuck": "needs somebody",
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
"""{state of a filter: what people call it}, in the order in which they are offered."""

# Every campaign that we know, with its failure: of several, the kind that was seen last. first_error_at:
# since when it fails, in any way. One that no run could read yet has failures only, and no a1_cycle.
CAMPAIGNS = """
SELECT c.campaign_id, c.campaign_number, c.campaign_name, c.status, c.a1_retry_count, c.a1_permanently_failed,
       c.a1_last_retry_at, c.a1_failure_reason, c.a1_max_retries, c.a1_cycle, c.a1_auto_resets,
       c.a1_snoozed_until, c.box_folder_id, c.created_at::timestamptz AS created_at,
       c.updated_at::timestamptz AS updated_at, e.kind AS error_kind, e.message AS error,
       e.began_at AS error_since, e.last_seen_at AS error_seen_at, e.first_at AS first_error_at
FROM campaign_status c LEFT JOIN errors e ON e.campaign_id = c.campaign_id
WHERE c.campaign_id IS NOT NULL
UNION ALL
SELECT e.campaign_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       e.last_seen_at, e.kind, e.message, e.began_at, e.last_seen_at, e.first_at
FROM errors e WHERE NOT EXISTS (SELECT FROM campaign_status c WHERE c.campaign_id = e.campaign_id)
"""

# What goes before a statement that reads CAMPAIGNS.
WITH_CAMPAIGNS = f"""
WITH errors AS NOT MATERIALIZED (
    SELECT DISTINCT ON (campaign_id) campaign_id, kind, message, began_at, last_seen_at,
           min(began_at) OVER (PARTITION BY campaign_id) AS first_at
    FROM campaign_errors ORDER BY campaign_id, last_seen_at DESC
), campaigns AS NOT MATERIALIZED ({CAMPAIGNS})
"""  # noqa: S608 - our own text

_IS_TRIED = "(s.status = %(status_a1)s OR s.status IS NULL)"
_IS_SNOOZED = f"s.a1_snoozed_until > %(now)s AND {_IS_TRIED}"
_IS_CALM = "s.a1_permanently_failed IS NOT TRUE AND s.error_kind IS NULL"

_CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "stuck": f"(s.a1_permanently_failed OR s.first_error_at < %(lasting_before)s OR {_IS_SNOOZED})",
        "failed": "s.a1_permanently_failed",
        "erring": "s.error_kind IS NOT NULL AND s.a1_permanently_failed IS NOT TRUE",
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
    "(s.campaign_id = %(q)s OR s.campaign_number ILIKE %(like)s OR s.campaign_name ILIKE %(like)s)"
)
_IS_OLDER = (
    "least(s.updated_at, s.first_error_at, CASE WHEN s.a1_permanently_failed THEN s.a1_last_retry_at END)"
    " < %(older_than)s"
)


@dataclass(frozen=True, slots=True)
class Filter:
    """state: of STATES. q: an id, or a part of a number or name; "": any. older: only campaigns that have
    been so for more than so many days; None: all.
    """

    state: str = ""
    q: str = ""
    older: int | None = None

    @classmethod
    def read(cls, args: Mapping[str, str]) -> Filter:
        """The filter of an address. Raises ValueError, a sentence for people."""
        state = args.get("state", "")
        if state not in STATES:
            raise ValueError(f"state must be one of {', '.join(filter(None, STATES))}, or left out for all")
        q = re.sub("[\0\ud800-\udfff]", "\ufffd", args.get("q", "").strip())
        if len(q) > MOST_LETTERS:
            raise ValueError(f"q must have at most {MOST_LETTERS} letters")
        return cls(state, q, _days(args.get("older", "").strip()))

    def query(self) -> dict[str, str]:
        """What of it is set, for an address: `read` reads it."""
        older = "" if self.older is None else str(self.older)
        return {
            name: value for name, value in (("state", self.state), ("q", self.q), ("older", older)) if value
        }

    def sql(self) -> str:
        """A condition over the alias s of `campaigns` (WITH_CAMPAIGNS), with the names of `values`."""
        conditions = [_CONDITIONS[self.state]]
        if self.q:
            conditions.append(_MATCHES_TEXT)
        if self.older is not None:
            conditions.append(_IS_OLDER)
        return " AND ".join(conditions)

    def values(self, now: datetime, policy: RetryPolicy, status_a1: str) -> dict[str, object]:
        """What the names in `sql` stand for."""
        escaped = re.sub(r"([\\%_])", r"\\\1", self.q)
        return {
            "now": now,
            "lasting_before": now - LASTING,
            "older_than": now - timedelta(days=self.older or 0),
            "status_a1": status_a1,
            "gone": GONE,
            "max_retries": policy.max_retries,
            "q": self.q,
            "like": f"%{escaped}%",
        }


def _days(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) > MOST_DAYS:
        raise ValueError(f"older must be a number of days from 0 to {MOST_DAYS}")
    return int(text)
