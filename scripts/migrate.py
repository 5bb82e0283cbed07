"""Apply the pending migrations, in order: what `psql -f` would do, recorded, by one process at a time."""

import shared.base.prerequisites  # noqa: F401 - first: it tells of an old Python in one line

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
from shared.upkeep.migrator import Migrator

logger = logging.getLogger("migrate")

PENDING_EXIT_CODE = 1
"""What `--status` exits with when migrations are pending; a pipeline's gate. Without any: see `readiness`."""


def show_status(database: Database, settings: OperatorSettings) -> int:
    """Print what is not as the product needs it, then each migration and whether it is applied."""
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
    return database.differences(status_a1=settings.status_a1, status_a2=settings.status_a2)


def apply_pending(database: Database, settings: OperatorSettings) -> int:
    """Apply what is pending, and name what they could not mend. Raises ConfigError when an applied file has
    been edited since, or when the database is new and of an encoding that cannot hold every text; DbError
    when a statement fails.
    """
    holder = database.lock_or_holder(MIGRATION_LOCK)
    if holder is not None:
        logger.warning("migrations are being applied by %s", holder)
        return ExitCode.TRY_LATER
    applied, migrator = database.applied_migrations(), Migrator(database)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in migration_files()}
    _refuse_edited(digests, applied)
    if not applied and migrator.encoding != "UTF8":
        raise ConfigError(
            f"the database has the encoding {migrator.encoding}, which cannot store every name and e-mail;"
            " make another one WITH ENCODING 'UTF8' TEMPLATE template0"
        )
    for path, digest in digests.items():
        if path.stem in applied:
            continue
        logger.info("applying %s", path.name)  # may be stopped and begun again at any point
        try:
            migrator.apply(path.read_text(encoding="utf-8"), path.stem, digest)
        except DbError as exc:
            if exc.kind == "schema_differs":  # a table of somebody else's has our name, say
                _warn_of_differences(database, settings)
            raise
        logger.info("applied %s", path.name)
    logger.info("the database is up to date")
    _warn_of_differences(database, settings)
    return ExitCode.OK


def _refuse_edited(digests: Mapping[Path, str], applied: Mapping[str, str | None]) -> None:
    """digests: of the files as they are; applied: as they were, by name, None where that is not known."""
    edited = [path.name for path, digest in digests.items() if (applied.get(path.stem) or digest) != digest]
    if edited:
        raise ConfigError(
            f"{', '.join(edited)}: changed since it was applied; put a new file behind it instead"
        )


def _warn_of_differences(database: Database, settings: OperatorSettings) -> None:
    for difference in _differences(database, settings):
        logger.warning("%s", difference, extra={"action": "database_differs"})


def run(arguments: argparse.Namespace) -> int:
    """Read the settings, and show or apply."""
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
    parser.add_argument("--status", action="store_true", help="list them, and what else the database lacks")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="settings; default: .env")
    arguments = parser.parse_args(argv)
    configure_logging("text", "INFO", run_id="migrate", secrets=())
    return exit_code_of(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
