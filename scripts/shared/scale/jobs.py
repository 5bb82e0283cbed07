"""Puts campaigns into the engine's queue, by SQL: a run needs none of the engine's packages.

A job is one campaign. Its `lock` and `queueing_lock` are the same text, so at most one job of a campaign
waits, and at most one is in work. Also says what the workers report about themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.base.commands import Commands
from shared.base.errors import ExitCode
from shared.database import Database

QUEUE = "a1_to_a2"
TASK = "a1_to_a2.campaign"
LOCK = "campaign:"
"""A job's lock is this and the campaign's id."""

# One job for each campaign that has none in 'todo' or 'doing'.
PUT = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args)
SELECT %(queue)s, %(task)s, 0, asked.lock, asked.lock, jsonb_build_object('campaign_id', asked.campaign_id)
FROM (SELECT id AS campaign_id, %(prefix)s || id AS lock, place
      FROM unnest(%(campaign_ids)s::text[]) WITH ORDINALITY AS ids (id, place)) asked
WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j
                  WHERE j.lock = asked.lock AND j.status IN ('todo', 'doing'))
ORDER BY asked.place
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""

TAKE_BACK = """
DELETE FROM procrastinate_jobs WHERE status = 'todo' AND lock = ANY(%(locks)s)
"""

LIVE = """
SELECT lock FROM procrastinate_jobs WHERE status IN ('todo', 'doing') AND lock = ANY(%(locks)s)
"""

# How many campaigns are in the queue while no worker has been seen for a minute: not even one that would free
# those of a killed worker.
UNATTENDED = """
SELECT count(*) FROM procrastinate_jobs
WHERE status IN ('todo', 'doing') AND queue_name = %(queue)s
  AND NOT EXISTS (SELECT FROM workers WHERE seen_at > now() - interval '1 minute')
"""

# Each trouble once; again while its worker has a campaign in hand. A worker that has had nothing to do since
# cannot show that the trouble is over.
TROUBLES = """
UPDATE workers w SET trouble_seen_at = now()
WHERE trouble IS NOT NULL AND seen_at > now() - interval '1 minute'
  AND trouble_at > now() - interval '2 hours'
  AND (trouble_seen_at IS NULL OR EXISTS (SELECT FROM worker_campaigns c WHERE c.worker = w.worker))
RETURNING worker, trouble, trouble_code
"""


@dataclass(frozen=True, slots=True)
class Concern:
    """Why workers do not work on the campaigns. exit_code: of the run that finds it."""

    text: str
    exit_code: ExitCode


class Jobs:
    """The engine's queue, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, campaign_ids: Sequence[str]) -> None:
        """Queue each campaign, unless it waits already or a worker has it."""
        if campaign_ids:
            self._database.execute(
                PUT, {"queue": QUEUE, "task": TASK, "prefix": LOCK, "campaign_ids": list(campaign_ids)}
            )

    def take_back(self, campaign_ids: Sequence[str]) -> None:
        """Remove these campaigns from those that wait for a worker."""
        self._database.execute(TAKE_BACK, {"locks": _locks(campaign_ids)})

    def live(self, campaign_ids: Sequence[str]) -> Collection[str]:
        """Those of these campaigns that wait, or that a worker has."""
        rows = self._database.rows(LIVE, {"locks": _locks(campaign_ids)})
        return {row[0].removeprefix(LOCK) for row in rows}

    def concerns(self, commands: Commands) -> list[Concern]:
        """What keeps workers from the campaigns: that none runs, or what each of them reports. A report is
        noted as seen.
        """
        waiting = self._database.row(UNATTENDED, {"queue": QUEUE})[0]
        found = [
            Concern(f"{worker}: {trouble}", ExitCode(code))
            for worker, trouble, code in sorted(self._database.rows(TROUBLES))
        ]
        if waiting:
            text = (
                f"{waiting} campaigns are queued, and no worker has been seen for a minute; start one:"
                f" systemctl start a1-to-a2-worker@1, or {commands.run('a1_worker.py')}"
            )
            found.append(Concern(text, ExitCode.TRY_LATER))
        return found


def _locks(campaign_ids: Sequence[str]) -> list[str]:
    return [LOCK + campaign_id for campaign_id in campaign_ids]
