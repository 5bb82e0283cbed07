"""Reads the values of the weekly digest: campaigns and notices that are stuck until a person acts. Each query
is next to its value.

Each section shows the oldest rows; of the history it reads only their last reset or snooze.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID, uuid5

from shared.base.values import Campaign
from shared.database import Database
from shared.report.figures import SNOOZED, Section, SnoozedCampaign

MOST_ROWS: Final = 200
"""Most lines of the digest, all sections together."""
LASTING: Final = timedelta(days=1)
"""An error that is older, and a notice that waits longer, is stuck."""
LOOK_BACK: Final = timedelta(days=8)
"""How far back notices count that were given up: a week, plus the time that a digest may be late."""
DIGESTS: Final = UUID("6f1d1f5a-4c0e-5b0a-9d52-0a1d64a2c7e1")
"""The namespace of the digests' ids."""

Row = TypeVar("Row")

# Two installations may send to the same people: their digests must have different ids.
FOUNDED_AT = "SELECT min(applied_at) FROM schema_migrations"

# At most as many rows as the digest has lines, oldest first; the count is of all.
STUCK_FAILED = """
SELECT shown.*, e.actor, e.at
FROM (SELECT count(*) OVER () AS total, campaign_id, coalesce(campaign_number, ''),
             coalesce(campaign_name, ''), status, a1_last_retry_at, a1_cycle, coalesce(a1_failure_reason, '')
      FROM campaign_status WHERE a1_permanently_failed
      ORDER BY a1_last_retry_at NULLS FIRST, campaign_id LIMIT %(limit)s) shown
LEFT JOIN LATERAL (SELECT actor, at FROM campaign_events e
                   WHERE e.campaign_id = shown.campaign_id AND e.kind = 'reset'
                     AND NOT EXISTS (SELECT FROM campaign_events u
                                     WHERE u.campaign_id = e.campaign_id AND u.kind = 'undo'
                                       AND u.detail ->> 'undoes' = e.detail ->> 'act')
                   ORDER BY e.id DESC LIMIT 1) e ON TRUE
ORDER BY a1_last_retry_at NULLS FIRST, campaign_id
"""


@dataclass(frozen=True, slots=True)
class FailedCampaign:
    """A campaign that is permanently failed. failed_at None: the row was changed by hand. reset_by, reset_at:
    its last reset; None: never, as far as the history goes.
    """

    campaign: Campaign
    failed_at: datetime | None
    cycle: int
    reason: str
    reset_by: str | None
    reset_at: datetime | None


# message: with the remedy, if one is known.
STUCK_ERRORS = """
SELECT count(*) OVER (), campaign_id, coalesce(campaign_number, ''), coalesce(campaign_name, ''), status,
       kind, message, began_at
FROM campaign_errors LEFT JOIN campaign_status USING (campaign_id)
WHERE began_at < %(now)s::timestamptz - %(lasting)s
ORDER BY began_at, campaign_id, kind LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class ErringCampaign:
    """A campaign that has failed for over a day. kind: system and kind of failure."""

    campaign: Campaign
    kind: str
    message: str
    began_at: datetime

    @property
    def system(self) -> str:
        return self.kind.partition("/")[0]


# Notices that have reached nobody: for every recipient, the notice was given up recently or is still waiting.
TOLD_TO_NOBODY = """
SELECT count(*) OVER (), n.subject, min(coalesce(d.owed_since, n.created_at)) AS since,
       bool_or(d.gave_up_at IS NULL),
       coalesce((array_agg(d.last_error) FILTER (WHERE d.last_error IS NOT NULL))[1], '')
FROM (SELECT notice_id FROM notice_deliveries
      WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL
      UNION
      SELECT notice_id FROM notice_deliveries
      WHERE channel = 'email' AND gave_up_at > %(now)s::timestamptz - %(look_back)s) looked_at
JOIN notices n ON n.id = looked_at.notice_id
JOIN notice_deliveries d ON d.notice_id = n.id
GROUP BY n.id
HAVING bool_and(d.sent_at IS NULL)
   AND (bool_and(d.gave_up_at IS NOT NULL)
        OR min(coalesce(d.owed_since, n.created_at)) < %(now)s::timestamptz - %(lasting)s)
ORDER BY since, n.id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class UntoldNotice:
    """A notice that nobody has received. is_waiting: it may still go out; else it was given up."""

    subject: str
    since: datetime
    is_waiting: bool
    last_error: str


# A campaign that is stuck in two ways counts once.
STUCK_CAMPAIGNS = """
SELECT count(*) FROM (
    SELECT campaign_id FROM campaign_status
    WHERE a1_permanently_failed OR (a1_snoozed_until > %(now)s AND status = %(status)s)
    UNION
    SELECT campaign_id FROM campaign_errors WHERE began_at < %(now)s::timestamptz - %(lasting)s) stuck
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekReport:
    """What is stuck now. stuck: how many campaigns."""

    date: date
    stuck: int = 0
    failed: Section[FailedCampaign] = field(default_factory=Section)
    erring: Section[ErringCampaign] = field(default_factory=Section)
    snoozed: Section[SnoozedCampaign] = field(default_factory=Section)
    untold: Section[UntoldNotice] = field(default_factory=Section)

    @property
    def needs_somebody(self) -> bool:
        return bool(self.failed.total or self.erring.total or self.untold.total)

    @property
    def is_quiet(self) -> bool:
        """Nothing is stuck: the digest is one line."""
        return not (self.needs_somebody or self.snoozed.total)


def shares(totals: list[int], most: int = MOST_ROWS) -> list[int]:
    """How many rows each section shows: an equal share of the lines, and unused lines go to the first
    sections that need more.
    """
    fair = most // len(totals)
    found = [min(total, fair) for total in totals]
    left = most - sum(found)
    for place, total in enumerate(totals):
        more = min(total - found[place], left)
        found[place] += more
        left -= more
    return found


class WeekFigures:
    """Reads the database for the digest. Every method raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def digest_id(self, day: date) -> str:
        """The id of the digest for the date's local week: always the same for the same week."""
        (founded_at,) = self._database.row(FOUNDED_AT)
        year, week, _ = day.isocalendar()
        return str(uuid5(DIGESTS, f"{founded_at.astimezone(UTC).isoformat()} {year}-W{week:02d}"))

    def report(self, day: date, now: datetime, *, status_a1: str) -> WeekReport:
        """All values of the digest of this date."""
        values = {
            "now": now, "lasting": LASTING, "look_back": LOOK_BACK, "status": status_a1, "limit": MOST_ROWS,
        }  # fmt: skip
        failed = self._section(FailedCampaign, STUCK_FAILED, values)
        erring = self._section(ErringCampaign, STUCK_ERRORS, values)
        snoozed = self._section(SnoozedCampaign, SNOOZED, values)
        rows = self._database.rows(TOLD_TO_NOBODY, values)
        untold = Section(tuple(UntoldNotice(*row[1:]) for row in rows), rows[0][0] if rows else 0)
        shown = shares([failed.total, erring.total, snoozed.total, untold.total])
        return WeekReport(
            date=day,
            stuck=self._database.row(STUCK_CAMPAIGNS, values)[0],
            failed=Section(failed.rows[: shown[0]], failed.total),
            erring=Section(erring.rows[: shown[1]], erring.total),
            snoozed=Section(snoozed.rows[: shown[2]], snoozed.total),
            untold=Section(untold.rows[: shown[3]], untold.total),
        )

    def _section(self, made: Callable[..., Row], question: str, values: Mapping[str, object]) -> Section[Row]:
        """Each row begins with the count of all, and the campaign's id, number, name and status."""
        rows: list[tuple[Any, ...]] = self._database.rows(question, values)
        return Section(tuple(made(Campaign(*row[1:5]), *row[5:]) for row in rows), rows[0][0] if rows else 0)
