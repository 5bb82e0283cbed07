"""Applies migrations, one statement at a time (see `statements`), so that none blocks others for long."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from shared.base.errors import DbError
from shared.database import Database, sqlstate
from shared.upkeep.statements import GIVE_UP_SECONDS, LOCK_PATIENCE, PAUSE_SECONDS, index_of, statements

logger = logging.getLogger(__name__)

ENCODING = "SELECT getdatabaseencoding()"

LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %(milliseconds)s::text, FALSE)"

# The index that an interrupted CREATE INDEX CONCURRENTLY leaves behind. It has the name, but no query uses
# it.
UNUSABLE_INDEX = """
SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relname = %(name)s AND pg_table_is_visible(c.oid) AND NOT i.indisvalid
"""

RECORD_MIGRATION = """
INSERT INTO schema_migrations (name, sha256) VALUES (%(name)s, %(sha256)s)
ON CONFLICT (name) DO UPDATE SET sha256 = EXCLUDED.sha256
"""


class Migrator:
    """Applies migrations to a `Database`, file by file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def encoding(self) -> str:
        """The encoding of the database; only UTF8 holds every name and e-mail."""
        return str(self._database.row(ENCODING)[0])

    def apply(self, sql: str, name: str, sha256: str) -> None:
        """Run one file, statement by statement (see `statements`), and record it.

        After an interruption at any point, the next call starts again with the first statement. Raises
        DbError, a retryable one when others held a lock for GIVE_UP_SECONDS.
        """
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        patience = {"milliseconds": LOCK_PATIENCE // timedelta(milliseconds=1)}
        for statement in statements(sql):
            index = index_of(statement)
            while True:
                try:
                    if index is not None:
                        self._build_index(index, statement)
                    else:
                        self._database.execute(LOCK_TIMEOUT, patience)
                        self._database.execute(statement)
                    break
                except DbError as exc:
                    if sqlstate(exc) != "55P03":  # lock_not_available: LOCK_PATIENCE is over
                        raise
                    if time.monotonic() > give_up_at:
                        raise DbError(
                            f"{name}: other sessions kept the table locked for {GIVE_UP_SECONDS:.0f} s",
                            kind="locked",
                            hint="end their long transactions, then start the migration again",
                            retryable=True,
                        ) from exc
                    logger.info("%s waits for a lock that other sessions hold", name)
                    time.sleep(PAUSE_SECONDS)
        self._database.execute(RECORD_MIGRATION, {"name": name, "sha256": sha256})

    def _build_index(self, name: str, statement: str) -> None:
        """Build an index while others write. It waits for them, but they do not wait for it."""
        # So it may wait for any time; an interruption would leave the index unusable.
        self._database.execute(LOCK_TIMEOUT, {"milliseconds": 0})
        if self._database.rows(UNUSABLE_INDEX, {"name": name}):
            logger.info("the index %s was left half built; building it again", name)
            self._database.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"')
        self._database.execute(statement)
