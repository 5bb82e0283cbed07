"""Asks the database for the start page and the counters: stuck campaigns, the loop, e-mails, the last days.

Stuck campaigns are found by the filters of the list of campaigns, so that both agree. Each query reads only
rows that are stuck, due or recent, and none of the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from shared.base.values import NoticeKind
from shared.database import Database
from shared.page.campaigns import COLUMNS, DETAILS, count_of
from shared.page.filters import CAMPAIGNS, UNREAD, Filter
from shared.rules.cadence import LastRun, OffHours, Schedule, is_off_hours, plan
from shared.rules.outlook import coming_run
from shared.rules.retry import RetryPolicy

SHOWN = 5
"""Campaigns of each section that the start page shows."""
UPLOADER = "a1_to_a2"

_ORDERS: Mapping[str, str] = {
    "failed": "s.a1_last_retry_at NULLS FIRST",
    "erring": "(SELECT min(began_at) FROM campaign_errors e WHERE e.campaign_id = s.campaign_id)",
    "snoozed": "s.a1_snoozed_until",
    "near_failure": "s.a1_last_retry_at NULLS FIRST",
}
SECTIONS = tuple(_ORDERS)
"""The sections of stuck campaigns, by the states of filters."""


def _section(state: str) -> str:
    order = f"{_ORDERS[state]}, s.campaign_id"
    return (
        f"(SELECT '{state}' AS section, count(*) OVER () AS total,"  # noqa: S608  # nosec B608 - our own text
        f" row_number() OVER (ORDER BY {order}) AS place, s.campaign_id"
        f" FROM ({CAMPAIGNS}) s WHERE {Filter(state).sql()} ORDER BY {order} LIMIT %(shown)s)"
    )


# Which campaigns first, then what is shown of them, as in the list.
_STUCK = f"""
{UNREAD}, places AS MATERIALIZED ({" UNION ALL ".join(map(_section, SECTIONS))}
), shown AS MATERIALIZED (SELECT DISTINCT campaign_id FROM places)
SELECT p.section, p.total, d.* FROM places p JOIN ({DETAILS}) d ON d.campaign_id = p.campaign_id
ORDER BY p.section, p.place
"""  # noqa: S608  # nosec B608 - our own text


@dataclass(frozen=True, slots=True)
class Section:
    """One section: how many campaigns it has, and the oldest of them."""

    rows: tuple[Mapping[str, Any], ...] = ()
    total: int = 0


# The last run of each task: one index lookup per task.
_RUNS = """
SELECT t.task, r.planned_at, r.started_at, r.finished_at, r.exit_code, r.ending, r.host
FROM unnest(%(tasks)s::text[]) WITH ORDINALITY AS t (task, place)
LEFT JOIN LATERAL (SELECT * FROM orchestrator_task_runs
                   WHERE task = t.task AND started_at <= %(now)s ORDER BY started_at DESC LIMIT 1) r ON TRUE
ORDER BY t.place
"""


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task's last run, and its next one. rule: that plans the next one. overdue_since: since when a run of
    the uploader is missing; under_way_since: since when one has been running.
    """

    task: str
    last: LastRun | None
    ending: str
    host: str
    next_at: datetime | None
    rule: str
    overdue_since: datetime | None = None
    under_way_since: datetime | None = None


_MAILS = """
SELECT w.waiting, w.oldest, w.last_error, g.given_up, g.latest, h.waiting, g.dead, coalesce(o.names, '{}')
FROM (SELECT count(DISTINCT d.notice_id) AS waiting, min(coalesce(d.owed_since, n.created_at)) AS oldest,
             (array_agg(d.last_error ORDER BY d.next_try_at DESC)
              FILTER (WHERE d.last_error IS NOT NULL))[1] AS last_error
      FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
      WHERE d.channel = 'email' AND d.sent_at IS NULL AND d.gave_up_at IS NULL) w,
     (SELECT count(DISTINCT notice_id) FILTER (WHERE channel = 'email') AS given_up,
             max(gave_up_at) FILTER (WHERE channel = 'email') AS latest,
             count(DISTINCT notice_id) FILTER (WHERE channel = 'webhook') AS dead
      FROM notice_deliveries WHERE gave_up_at IS NOT NULL) g,
     (SELECT count(DISTINCT notice_id) AS waiting FROM notice_deliveries
      WHERE channel = 'webhook' AND sent_at IS NULL AND gave_up_at IS NULL AND tries > 0) h,
     (SELECT array_agg(name ORDER BY name) AS names FROM webhook_targets WHERE off_at IS NOT NULL) o
"""


@dataclass(frozen=True, slots=True)
class Mails:
    """Notices that someone has not received. oldest: since when the first one waits. last_error: why.

    webhooks_waiting: webhooks that a target has not accepted so far. webhooks_off: targets that answered 410.
    """

    waiting: int
    oldest: datetime | None
    last_error: str | None
    given_up: int
    latest: datetime | None
    webhooks_waiting: int
    webhooks_dead: int
    webhooks_off: Sequence[str]


# A permanent failure and its notice are one transaction, so counting the notices counts the failures.
_DAYS = """
SELECT (completed_at AT TIME ZONE %(zone)s)::date AS day, count(DISTINCT campaign_id), sum(assets)::bigint,
       sum(bytes)::bigint, 0
FROM campaign_uploads WHERE completed_at >= %(since)s GROUP BY 1
UNION ALL
SELECT (created_at AT TIME ZONE %(zone)s)::date, 0, 0, 0, count(DISTINCT campaign_id)
FROM notices WHERE kind = %(kind)s AND created_at >= %(since)s GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class Days:
    """Uploads and permanent failures of the last days. assets, size_bytes: of today's uploads."""

    uploaded: Mapping[date, int]
    failed: Mapping[date, int]
    assets: int
    size_bytes: int


COUNTED = ("stuck", *SECTIONS)
"""What the counters count, by the states of filters."""
_COUNTERS = """
{unread}
SELECT {counts},
       (SELECT count(DISTINCT notice_id) FROM notice_deliveries
        WHERE channel = 'email' AND sent_at IS NULL AND gave_up_at IS NULL),
       (SELECT count(DISTINCT notice_id) FROM notice_deliveries
        WHERE channel = 'email' AND gave_up_at IS NOT NULL),
       clock_timestamp(), r.planned_at, r.started_at, r.finished_at, r.exit_code
FROM (VALUES (1)) one (row)
LEFT JOIN LATERAL (SELECT * FROM orchestrator_task_runs WHERE task = %(task)s AND started_at <= %(now)s
                   ORDER BY started_at DESC LIMIT 1) r ON TRUE
"""


@dataclass(frozen=True, slots=True)
class Counters:
    """What each page shows at its top. counts: {state of a filter: how many campaigns}, of COUNTED at least.
    overdue_since: of the loop. has_run: whether the loop has a run on record. drawn_at: when it was read, by
    the database's clock.
    """

    counts: Mapping[str, int]
    waiting: int
    given_up: int
    drawn_at: datetime
    overdue_since: datetime | None
    has_run: bool


class Overview:
    """The queries of the start page, given a `Database`. Every method is one statement and raises DbError.

    now: an aware time. policy, status_a1: by which campaigns are judged.
    """

    def __init__(self, database: Database, policy: RetryPolicy, status_a1: str, now: datetime) -> None:
        self._database = database
        self._values = Filter().values(now, policy, status_a1)
        self._now = now

    def stuck(self) -> dict[str, Section]:
        """The sections of stuck campaigns, by state, each with its oldest campaigns."""
        rows = self._database.rows(_STUCK, {**self._values, "shown": SHOWN})
        sections = {}
        for state in SECTIONS:
            of_state = [row for row in rows if row[0] == state]
            named = (dict(zip(COLUMNS, row[2:], strict=True)) for row in of_state)
            sections[state] = Section(tuple(named), of_state[0][1] if of_state else 0)
        return sections

    def tasks(self, schedules: Mapping[str, Schedule], zone: ZoneInfo, window: OffHours) -> list[TaskLine]:
        """Each task's last and next run. schedules: {task: when it runs}."""
        rows = self._database.rows(_RUNS, {"tasks": list(schedules), "now": self._now})
        lines = []
        for task, planned_at, started_at, finished_at, exit_code, ending, host in rows:
            last = None if planned_at is None else LastRun(planned_at, started_at, finished_at, exit_code)
            following = plan(schedules[task], last, self._now, zone, window)
            line = TaskLine(task, last, ending or "", host or "", following.at, following.rule)
            lines.append(_of_uploader(line, self._now, zone, window) if task == UPLOADER else line)
        return lines

    def mails(self) -> Mails:
        return Mails(*self._database.row(_MAILS))

    def days(self, since: datetime, zone: ZoneInfo) -> Days:
        """Uploads and permanent failures of each local day. since: the beginning of a day."""
        today = self._now.astimezone(zone).date()
        values = {"since": since, "zone": str(zone), "kind": NoticeKind.PERMANENT.value}
        rows = self._database.rows(_DAYS, values)
        of_today = [row for row in rows if row[0] == today]
        return Days(
            {row[0]: row[1] for row in rows if row[1]},
            {row[0]: row[4] for row in rows if row[4]},
            sum(row[2] for row in of_today),
            sum(row[3] for row in of_today),
        )

    def counters(self, zone: ZoneInfo, window: OffHours, states: Sequence[str] = COUNTED) -> Counters:
        """The same as numbers only. states: of STATES, including those of COUNTED."""
        sql = _COUNTERS.format(unread=UNREAD, counts=", ".join(map(count_of, states)))
        row: Sequence[Any] = self._database.row(sql, {**self._values, "task": UPLOADER})
        waiting, given_up, drawn_at, *run = row[len(states) :]
        last = None if run[0] is None else LastRun(*run)
        overdue = None if last is None else coming_run(last, self._now, zone, window).overdue_since
        counts = dict(zip(states, row, strict=False))
        return Counters(counts, waiting, given_up, drawn_at, overdue, last is not None)


def _of_uploader(line: TaskLine, now: datetime, zone: ZoneInfo, window: OffHours) -> TaskLine:
    """The line with what is known of a missing or running run, in the words of `explain`."""
    if line.last is None:
        return TaskLine(line.task, None, "", "", None, line.rule)
    coming = coming_run(line.last, now, zone, window)
    rule = "off_hours" if is_off_hours(coming.at.astimezone(zone), window) else "in_hours"
    overdue, under_way = coming.overdue_since, coming.under_way_since
    return TaskLine(line.task, line.last, line.ending, line.host, coming.at, rule, overdue, under_way)


def first_of_days(now: datetime, zone: ZoneInfo, days: int) -> datetime:
    """The beginning of the local day that many days ago, counting today."""
    first = now.astimezone(zone).date() - timedelta(days=days - 1)
    return datetime(first.year, first.month, first.day, tzinfo=zone)
