"""Compares the database with what the product needs: migrations, columns, rights, encoding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.base.commands import Commands, here
from shared.base.errors import ConfigError, DbError, ExitCode
from shared.base.redaction import escape_line
from shared.database import Database, sqlstate

DATABASE_FOLDER = Path(__file__).resolve().parents[3] / "database"

APPLIED_MIGRATIONS = "SELECT name, sha256 FROM schema_migrations"

# Where the migrations are recorded when this session does not see them.
MIGRATIONS_ELSEWHERE = """
SELECT s.nspname, has_schema_privilege(s.oid, 'USAGE')
FROM pg_namespace s JOIN pg_class c ON c.relnamespace = s.oid
WHERE c.relname = 'schema_migrations' AND to_regclass('schema_migrations') IS NULL
  AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('name', 'sha256')) = 2
ORDER BY s.nspname LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between the database and what we need. severity: 'fault', 'passing' or 'warning'."""

    severity: str
    what: str
    cure: str

    def __str__(self) -> str:
        return escape_line(f"{self.severity}  {self.what}; cure: {self.cure}")


class Schema:
    """The schema of a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def applied(self) -> dict[str, str | None]:
        """{name: SHA-256, or None when psql applied it}; empty for a database without migrations."""
        try:
            return dict(self._database.rows(APPLIED_MIGRATIONS))
        except DbError as exc:
            if sqlstate(exc) == "42P01":
                return {}
            raise

    def pending(self) -> list[Path]:
        """The migration files that this database lacks, in order. Raises DbError when the record of
        migrations is in a schema that this session cannot see.
        """
        applied = self.applied()
        if not applied:
            for schema, is_usable in self._database.rows(MIGRATIONS_ELSEWHERE):
                raise DbError(
                    f"PostgreSQL: the product's tables are in the schema {schema}, "
                    + ("which is not on the search_path" if is_usable else "which this role may not use"),
                    kind="schema_differs" if is_usable else "no_right",
                    hint=f"see: {here().run('orchestrator-prod.py', '--check')}",
                )
        return [path for path in migration_files() if path.stem not in applied]

    def ensure_migrated(self, commands: Commands) -> None:
        """Raise ConfigError, with the command to run, when migrations are pending; otherwise as `pending`."""
        pending = self.pending()
        if pending:
            raise ConfigError(commands.lacks(pending))

    def differences(self, *, status_a1: str, status_a2: str) -> list[Difference]:
        """How this database differs from what the product needs, faults first."""
        values = {
            "status_a1": status_a1,
            "status_a2": status_a2,
            "max_retries": str(self._database.max_retries),
        }
        return [Difference(*row) for row in self._database.run_query("preflight", values)[1]]


def readiness(found: Iterable[Difference]) -> ExitCode:
    """The exit code for these findings: somebody must act, or wait, or all is well."""
    severities = {difference.severity for difference in found}
    if "fault" in severities:
        return ExitCode.BAD_CONFIG
    return ExitCode.TRY_LATER if "passing" in severities else ExitCode.OK


def migration_files() -> list[Path]:
    """The migrations in the order of their numbers."""
    return sorted((DATABASE_FOLDER / "migrations").glob("[0-9][0-9][0-9]_*.sql"))
