"""Makes the metrics for Prometheus: one collector, for METRICS_FILE and for the page's /metrics.

No label names a campaign, and no sample has a time. Totals over all time come from metric_totals; all other
values are read from the rows, as of now (MARKDOWN_DOCS/METRICS.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from shared.database import Database
from shared.report.state import State
from shared.report.workers import WorkerState, workers_of
from shared.rules.retry import RetryPolicy
from shared.upkeep.totals import (
    ATTEMPTS,
    BOX_THROTTLED,
    TASK_OUTCOMES,
    TASK_RUNS,
    TRANSFERRED_BYTES,
    Total,
    Totals,
)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
FILE_MODE = 0o644
"""The mode of METRICS_FILE, whatever the umask: node_exporter reads it as another user."""
GIVEN_UP_WITHIN = timedelta(days=1)
EMAIL, WEBHOOK = "email", "webhook"
"""The channels of notices."""

STATES = (
    State.DUE,
    State.EMPTY,
    State.WAITING,
    State.SNOOZED,
    State.PERMANENTLY_FAILED,
    State.ERRING,
)
"""The states that are counted. A campaign that has left A1 is history, and a scrape does not read history."""

# `report/states.Rules.standing` is the same rule, in the same order. The index over the status finds the rows
# in A1 and those without a status: campaigns that have left A1 cost nothing. An error without a row belongs
# to a campaign that no run has been able to read.
CAMPAIGNS = """
SELECT state, count(*), count(*) FILTER (WHERE is_near_failure)
FROM (
    SELECT CASE WHEN s.a1_permanently_failed THEN 'permanently_failed'
                WHEN s.campaign_id IN (SELECT campaign_id FROM campaign_errors) THEN 'erring'
                WHEN s.a1_snoozed_until > %(now)s THEN 'snoozed'
                WHEN coalesce(s.a1_retry_count, 0) = 0 THEN 'due'
                WHEN last_minute <= this_minute AND this_minute < last_minute + make_interval(mins =>
                     (%(delays)s::integer[])[least(s.a1_retry_count, cardinality(%(delays)s::integer[]))])
                THEN 'waiting' ELSE 'empty' END AS state,
           s.status = %(status_a1)s AND s.a1_permanently_failed IS NOT TRUE AND s.a1_retry_count > 0
               AND s.a1_retry_count >= coalesce(s.a1_max_retries, %(max_retries)s) - 1 AS is_near_failure
    FROM campaign_status s
    CROSS JOIN LATERAL (
        SELECT date_trunc('minute', (s.a1_last_retry_at + interval '30 seconds') AT TIME ZONE 'UTC'),
               date_trunc('minute', (%(now)s::timestamptz + interval '30 seconds') AT TIME ZONE 'UTC')
        ) AS planned (last_minute, this_minute)
    WHERE (s.status = %(status_a1)s OR s.status IS NULL) AND s.campaign_id IS NOT NULL
    UNION ALL
    SELECT 'erring', FALSE
    FROM (SELECT DISTINCT campaign_id FROM campaign_errors) e
    WHERE NOT EXISTS (SELECT FROM campaign_status s WHERE s.campaign_id = e.campaign_id OFFSET 0)) counted
GROUP BY state
"""

# One index lookup per task and column. A run in the future is ignored: its time was written before the clock
# was set back.
TASKS = """
SELECT t.task,
       (SELECT extract(epoch FROM r.started_at)::double precision FROM orchestrator_task_runs r
        WHERE r.task = t.task AND r.started_at <= %(now)s ORDER BY r.started_at DESC LIMIT 1),
       (SELECT extract(epoch FROM r.finished_at)::double precision FROM orchestrator_task_runs r
        WHERE r.task = t.task AND r.started_at <= %(now)s AND r.exit_code IN (0, 4)
        ORDER BY r.started_at DESC LIMIT 1)
FROM (WITH RECURSIVE known (task) AS (
          (SELECT task FROM orchestrator_task_runs ORDER BY task LIMIT 1)
          UNION ALL
          SELECT (SELECT r.task FROM orchestrator_task_runs r WHERE r.task > k.task ORDER BY r.task LIMIT 1)
          FROM known k WHERE k.task IS NOT NULL)
      SELECT task FROM known WHERE task IS NOT NULL) t
ORDER BY t.task
"""

NOTICES = """
SELECT coalesce(extract(epoch FROM %(now)s - owed.mail)::double precision, 0),
       coalesce(extract(epoch FROM %(now)s - owed.webhook)::double precision, 0),
       (SELECT count(*) FROM notice_deliveries
        WHERE channel = 'email' AND gave_up_at >= %(now)s - %(within)s),
       (SELECT count(*) FROM notice_deliveries WHERE channel = 'webhook' AND gave_up_at IS NOT NULL)
FROM (SELECT min(coalesce(d.owed_since, n.created_at)) FILTER (WHERE d.channel = 'email') AS mail,
             min(coalesce(d.owed_since, n.created_at)) FILTER (WHERE d.channel = 'webhook') AS webhook
      FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
      WHERE d.sent_at IS NULL AND d.gave_up_at IS NULL) owed
"""

# The engine's table exists only where ENGINE=procrastinate was set up.
HAS_QUEUE = """
SELECT coalesce(has_table_privilege(to_regclass('procrastinate_jobs'), 'SELECT'), FALSE)
"""
QUEUED = """
SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock LIKE 'campaign:%%'
"""


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """The runs of one task, in seconds since 1970: when the last one began, and when the last one that did
    its work ended (exit code 0, or 4: some campaigns failed); None when there is none.
    """

    task: str
    last_run: float | None
    last_success: float | None


@dataclass(frozen=True, slots=True)
class Standings:
    """The values of the metrics. campaigns: {state: how many}. oldest_pending_seconds: {channel: seconds}.
    given_up: e-mails, within GIVEN_UP_WITHIN. webhooks_dead: those given up, as long as they are kept.
    workers: {state: how many}. in_hand: campaigns that workers have. queued: those that wait for a worker.
    """

    campaigns: Mapping[State, int]
    near_failure: int
    tasks: tuple[TaskTimes, ...]
    oldest_pending_seconds: Mapping[str, float]
    given_up: int
    webhooks_dead: int
    totals: Mapping[Total, int]
    workers: Mapping[WorkerState, int]
    in_hand: int
    queued: int


def read_standings(database: Database, policy: RetryPolicy, status_a1: str, now: datetime) -> Standings:
    """Read the values from the database. Raises DbError."""
    values = {
        "now": now,
        "status_a1": status_a1,
        "delays": list(policy.delays),
        "max_retries": policy.max_retries,
        "within": GIVEN_UP_WITHIN,
    }
    counted = database.rows(CAMPAIGNS, values)
    counts = {state: count for state, count, _ in counted}
    workers = workers_of(database)
    (has_queue,) = database.row(HAS_QUEUE)
    mail_seconds, webhook_seconds, given_up, webhooks_dead = database.row(NOTICES, values)
    return Standings(
        campaigns={state: counts.get(state.value, 0) for state in STATES},
        near_failure=sum(near_failure for *_, near_failure in counted),
        tasks=tuple(TaskTimes(*row) for row in database.rows(TASKS, values)),
        oldest_pending_seconds={EMAIL: max(mail_seconds, 0.0), WEBHOOK: max(webhook_seconds, 0.0)},
        given_up=given_up,
        webhooks_dead=webhooks_dead,
        totals=Totals(database).read(),
        workers={state: sum(worker.state is state for worker in workers) for state in WorkerState},
        in_hand=sum(len(worker.campaigns) for worker in workers),
        queued=database.row(QUEUED)[0] if has_queue else 0,
    )


class MetricsCollector(Collector):
    """The metrics for these values, by the names that rules and dashboards use."""

    def __init__(self, standings: Standings) -> None:
        self._standings = standings

    def collect(self) -> Iterable[Metric]:
        now = self._standings
        campaigns = GaugeMetricFamily("a1_to_a2_campaigns", "Campaigns in A1, by state.", labels=["state"])
        for state, count in now.campaigns.items():
            campaigns.add_metric([state.value], count)
        yield campaigns
        yield GaugeMetricFamily(
            "a1_to_a2_campaigns_near_failure",
            "Campaigns in A1 with one attempt left; they also count in their state.",
            now.near_failure,
        )
        yield from self._tasks()
        for total, words in (
            (ATTEMPTS, "Attempts counted on empty or missing folders."),
            (TRANSFERRED_BYTES, "Bytes of the files that arrived in Box."),
            (BOX_THROTTLED, "Times that Box asked for a pause (HTTP 429)."),
        ):
            yield CounterMetricFamily(f"a1_to_a2_{total.name}", words, now.totals.get(total, 0))
        pending = GaugeMetricFamily(
            "a1_to_a2_notices_oldest_pending_seconds",
            "How long the oldest undelivered notice has waited; 0 when there is none.",
            labels=["channel"],
        )
        for channel, seconds in now.oldest_pending_seconds.items():
            pending.add_metric([channel], seconds)
        yield pending
        given_up = GaugeMetricFamily(
            "a1_to_a2_notices_given_up",
            "Notices that were given up within the last 24 hours, one for each recipient.",
            labels=["channel"],
        )
        given_up.add_metric([EMAIL], now.given_up)
        yield given_up
        yield GaugeMetricFamily(
            "a1_to_a2_webhooks_dead",
            "Webhooks that were given up and have not been sent again, one for each target.",
            now.webhooks_dead,
        )
        yield from self._workers()

    def _workers(self) -> Iterable[Metric]:
        now = self._standings
        workers = GaugeMetricFamily(
            "a1_to_a2_workers", "Workers of ENGINE=procrastinate, by state.", labels=["state"]
        )
        for state, count in now.workers.items():
            workers.add_metric([state.value], count)
        yield workers
        yield GaugeMetricFamily(
            "a1_to_a2_worker_campaigns", "Campaigns that workers have in hand.", now.in_hand
        )
        yield GaugeMetricFamily(
            "a1_to_a2_queued_campaigns", "Campaigns that wait in the queue for a worker.", now.queued
        )

    def _tasks(self) -> Iterable[Metric]:
        success = GaugeMetricFamily(
            "a1_to_a2_task_last_success_timestamp_seconds",
            "When the task's last successful run ended (exit code 0 or 4).",
            labels=["task"],
        )
        last_run = GaugeMetricFamily(
            "a1_to_a2_task_last_run_timestamp_seconds",
            "When the task's last run began.",
            labels=["task"],
        )
        for times in self._standings.tasks:
            if times.last_success is not None:
                success.add_metric([times.task], times.last_success)
            if times.last_run is not None:
                last_run.add_metric([times.task], times.last_run)
        yield success
        yield last_run
        runs = CounterMetricFamily(
            "a1_to_a2_task_runs", "Runs of the task that have ended, by outcome.", labels=["task", "outcome"]
        )
        for (task, outcome), count in self._runs().items():
            runs.add_metric([task, outcome], count)
        yield runs

    def _runs(self) -> dict[tuple[str, str], int]:
        """{(task, outcome): runs}; 0 for an outcome that a task never had, so that its first one shows."""
        counted = {
            (task, outcome): count
            for total, count in self._standings.totals.items()
            if total.name == TASK_RUNS
            for task, _, outcome in [total.label.rpartition("/")]
        }
        tasks = sorted({task for task, _ in counted} | {times.task for times in self._standings.tasks})
        return {(task, outcome): 0 for task in tasks for outcome in TASK_OUTCOMES} | counted


def exposition(database: Database, policy: RetryPolicy, status_a1: str, now: datetime) -> bytes:
    """The metrics in Prometheus' text format. Raises DbError."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(read_standings(database, policy, status_a1, now)))
    return generate_latest(registry)


def write_metrics_file(path: Path, content: bytes) -> None:
    """Replace the file with this content, whole or not at all. Raises OSError.

    The temporary file has a name that node_exporter does not read.
    """
    part = path.with_name(f".{path.name}.part")
    with suppress(FileNotFoundError):
        part.unlink()  # left by a run that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(part, flags, FILE_MODE), "wb") as stream:
            os.fchmod(stream.fileno(), FILE_MODE)
            stream.write(content)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
