"""Applies the pending migrations in order, as `psql -f` would, and records them; one process at a time."""

import shared.base.prerequisites  # noqa: F401 - first: it reports an old Python in one line

# isort: split
import argparse
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.base.errors import ConfigError, DbError, ExitCode
from shared.base.logs import configure_logging
from shared.base.script import exit_code_of, prepare_streams, say
from shared.database import MIGRATION_LOCK, Database, Difference, migration_files, readiness
from shared.settings import OperatorSettings, load_operator_settings, read_environment
from shared.upkeep.engine import engine_differences
from shared.upkeep.migrator import Migrator

logger = logging.getLogger("migrate")

PENDING_EXIT_CODE = 1
"""The exit code of `--status` when migrations are pending, for pipelines. Otherwise: see `readiness`."""


def show_status(database: Database, settings: OperatorSettings) -> int:
    """Print what differs from what the product needs, then each migration and whether it is applied."""
    found = _differences(database, settings)
    for difference in found:
        say(f"{difference}\n")
    pending = database.pending_migrations()
    for path in migration_files():
        say(f"{'pending' if path in pending else 'applied'}  {path.name}\n")
    say(f"{len(pending)} pending\n")
    if pending:
        return PENDING_EXIT_CODE
    return readiness(found)


def _differences(database: Database, settings: OperatorSettings) -> list[Difference]:
    found = database.differences(status_a1=settings.status_a1, status_a2=settings.status_a2)
    return found if settings.engine.is_local else [*found, *engine_differences(database)]


def apply_pending(database: Database, settings: OperatorSettings) -> int:
    """Apply the pending migrations, and name what they could not repair. Raises ConfigError when an applied
    file has been edited since, or when the database is new and its encoding cannot store every text; DbError
    when a statement fails.
    """
    holder = database.lock_or_holder(MIGRATION_LOCK)
    if holder is not None:
        logger.warning("another process is applying migrations: %s", holder)
        return ExitCode.TRY_LATER
    applied, migrator = database.applied_migrations(), Migrator(database)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in migration_files()}
    _refuse_edited(digests, applied)
    if not applied and migrator.encoding != "UTF8":
        raise ConfigError(
            f"the database has the encoding {migrator.encoding}, which cannot store every name and e-mail;"
            " create another one WITH ENCODING 'UTF8' TEMPLATE template0"
        )
    for path, digest in digests.items():
        if path.stem in applied:
            continue
        logger.info("applying %s", path.name)  # it can be interrupted and started again at any point
        try:
            migrator.apply(path.read_text(encoding="utf-8"), path.stem, digest)
        except DbError as exc:
            if exc.kind == "schema_differs":  # for example, another product's table has our name
                _warn_of_differences(database, settings)
            raise
        logger.info("applied %s", path.name)
    logger.info("the database is up to date")
    _warn_of_differences(database, settings)
    return ExitCode.OK


def _refuse_edited(digests: Mapping[Path, str], applied: Mapping[str, str | None]) -> None:
    """Raise ConfigError for edited files. digests: of the files now; applied: as recorded, None
    if unknown.
    """
    edited = [path.name for path, digest in digests.items() if (applied.get(path.stem) or digest) != digest]
    if edited:
        raise ConfigError(
            f"{', '.join(edited)}: changed since it was applied; restore it, and put the change into a new"
            " migration"
        )


def _warn_of_differences(database: Database, settings: OperatorSettings) -> None:
    for difference in _differences(database, settings):
        logger.warning("%s", difference, extra={"action": "database_differs"})


def run(arguments: argparse.Namespace) -> int:
    """Read the settings, and show or apply the migrations."""
    settings = load_operator_settings(read_environment(arguments.env_file))
    configure_logging(settings.log.format, settings.log.level, run_id="migrate", secrets=settings.secrets)
    name = "a1_to_a2 migrate"
    with Database(
        settings.database.dsn, settings.retry.max_retries, application_name=name, answer_seconds=None
    ) as database:
        return (show_status if arguments.status else apply_pending)(database, settings)


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    parser = argparse.ArgumentParser(prog="migrate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--status", action="store_true", help="list the migrations, and what else the database lacks"
    )
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read the settings from this file")
    arguments = parser.parse_args(argv)
    configure_logging("text", "INFO", run_id="migrate", secrets=())
    return exit_code_of(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
