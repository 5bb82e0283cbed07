"""Counts recent calls to Box in PostgreSQL: the runs of all hosts share one limit per minute."""

from __future__ import annotations

from shared.database import Database
from shared.rules.rate import Bucket, Grant, pause, take

READ_BUCKET = """
SELECT second, counts, paused_until, extract(epoch FROM clock_timestamp())::double precision
FROM rate_buckets WHERE bucket = %(bucket)s FOR UPDATE
"""

MAKE_BUCKET = "INSERT INTO rate_buckets (bucket) VALUES (%(bucket)s) ON CONFLICT DO NOTHING"

SAVE_BUCKET = """
UPDATE rate_buckets SET second = %(second)s, counts = %(counts)s, paused_until = %(paused_until)s
WHERE bucket = %(bucket)s
"""


class Buckets:
    """The buckets of `rules.rate`, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take_calls(self, bucket: str, wanted: int, limit: int) -> Grant:
        """Allow up to `wanted` calls, by the server's clock, which is the same for all runs. See
        rate.take.
        """
        with self._database.transaction():
            current, now = self._bucket(bucket)
            later, grant = take(current, wanted, limit, now)
            if grant.count or later.second < current.second:
                self._save_bucket(bucket, later)
        return grant

    def pause_calls(self, bucket: str, seconds: float) -> None:
        """Allow no calls for this long."""
        with self._database.transaction():
            current, now = self._bucket(bucket)
            self._save_bucket(bucket, pause(current, seconds, now))

    def _bucket(self, bucket: str) -> tuple[Bucket, float]:
        rows = self._database.rows(READ_BUCKET, {"bucket": bucket})
        if not rows:
            self._database.execute(MAKE_BUCKET, {"bucket": bucket})
            rows = self._database.rows(READ_BUCKET, {"bucket": bucket})
        second, counts, paused_until, now = rows[0]
        return Bucket(second, tuple(counts), paused_until), now

    def _save_bucket(self, bucket: str, state: Bucket) -> None:
        values = {
            "bucket": bucket,
            "second": state.second,
            "counts": list(state.counts),
            "paused_until": state.paused_until,
        }
        self._database.execute(SAVE_BUCKET, values)
