"""Checks the tables of the engine (ENGINE=procrastinate), which `database/engine/` makes, not a migration."""

from __future__ import annotations

from shared.base.errors import ConfigError
from shared.database import DATABASE_FOLDER, Database, Difference

SCHEMA_FILE = DATABASE_FOLDER / "engine" / "001_procrastinate_3_10_0.sql"
ROLES_FILE = DATABASE_FOLDER / "roles.sql"

# One row for each table or function that is missing, or that this role may not use.
MISSING = """
SELECT 'table ' || needed.name, to_regclass(needed.name) IS NOT NULL
FROM unnest(ARRAY['procrastinate_jobs', 'procrastinate_events', 'procrastinate_workers',
                  'procrastinate_periodic_defers']) AS needed (name)
WHERE to_regclass(needed.name) IS NULL
   OR NOT (has_table_privilege(to_regclass(needed.name), 'SELECT')
           AND has_table_privilege(to_regclass(needed.name), 'INSERT')
           AND has_table_privilege(to_regclass(needed.name), 'UPDATE')
           AND has_table_privilege(to_regclass(needed.name), 'DELETE'))
UNION ALL
SELECT 'function ' || needed.name, found.oid IS NOT NULL
FROM unnest(ARRAY['procrastinate_fetch_job_v2', 'procrastinate_finish_job_v1',
                  'procrastinate_register_worker_v1', 'procrastinate_unregister_worker_v1',
                  'procrastinate_prune_stalled_workers_v1'])
     AS needed (name)
LEFT JOIN pg_proc found ON found.proname = needed.name AND pg_function_is_visible(found.oid)
WHERE found.oid IS NULL OR NOT has_function_privilege(found.oid, 'EXECUTE')
"""


def engine_differences(database: Database) -> list[Difference]:
    """What the engine lacks in this database, as one fault; none: nothing. Raises DbError."""
    rows = database.rows(MISSING)
    absent = [name for name, is_there in rows if not is_there]
    refused = [name for name, is_there in rows if is_there]
    found = []
    if absent:
        cure = (
            f"as the owner of the tables: psql -v ON_ERROR_STOP=1 -f {SCHEMA_FILE}, then {ROLES_FILE} again"
        )
        found.append(Difference("fault", f"ENGINE=procrastinate: it lacks the {', '.join(absent)}", cure))
    if refused:
        what = f"ENGINE=procrastinate: this role may not use the {', '.join(refused)}"
        found.append(Difference("fault", what, f"as the owner of the tables, run {ROLES_FILE} again"))
    return found


def ensure_engine(database: Database) -> None:
    """Raise ConfigError, with the command to run, when the engine lacks something in this database."""
    found = engine_differences(database)
    if found:
        raise ConfigError([f"the database: {one.what}; {one.cure}" for one in found])
