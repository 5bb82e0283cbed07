"""Serves the operator's page until it gets a signal to stop.

It also starts when the database is out of reach, and then tells people so. No run depends on the page.
"""

import shared.base.prerequisites as prerequisites  # first: it reports an old Python in one line

# isort: split
import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from shared.base.errors import ConfigError, ExitCode
from shared.base.logs import configure_logging
from shared.base.script import exit_code_of, prepare_streams, say
from shared.database import Database
from shared.loop.service_manager import ServiceManager
from shared.page.users import read_users
from shared.settings import PageSettings, load_page_settings, read_environment
from shared.upkeep.schema import Schema

logger = logging.getLogger("page")

LOOPBACK = ("127.", "::1")


def check(settings: PageSettings) -> int:
    """Check the settings, the users' file and the database, and print the result; changes nothing.

    Raises ConfigError when migrations are pending, DbError when the database is out of reach.
    """
    say("settings: ok\n")
    _check_users(settings)
    name = "a1_to_a2 page check"
    with Database(settings.database.dsn, application_name=name) as database:
        pending = Schema(database).pending()
    if pending:
        raise ConfigError(settings.commands.lacks(pending))
    say("database: ok\n")
    return ExitCode.OK


def _check_users(settings: PageSettings) -> None:
    """Print how many users there are. Raises ConfigError when the users' file has a fault."""
    path = settings.access.users_file
    if path is None:
        say("users: only those that the proxy names\n")
        return
    users = read_users(path)
    say(f"users: {len(users)} in {path}\n")


def _warn(settings: PageSettings) -> None:
    """Warn about settings that work but are probably not intended."""
    access = settings.access
    if not access.operators:
        logger.warning("ADMIN_OPERATORS is empty: everybody who logs in can read, and nobody can act")
    is_remote = not access.listen_host.startswith(LOOPBACK)
    if is_remote and access.users_file is not None:
        logger.warning(
            "ADMIN_LISTEN: browsers send passwords to %s without encryption; listen on 127.0.0.1, behind a"
            " proxy with TLS",
            access.listen_host,
        )


def serve(settings: PageSettings) -> int:
    """Answer until SIGTERM or SIGINT. Raises ConfigError for an address in use, or a faulty users' file."""
    from shared.page.app import create_app
    from shared.page.guards import site_of
    from shared.page.server import PageServer

    if settings.access.users_file is not None:
        read_users(settings.access.users_file)
    server = PageServer(create_app(settings), settings.access, site_of(settings).headers)
    _warn(settings)
    logger.info("the page listens on http://%s", server.address, extra={"action": "page_started"})
    server.run(ServiceManager(os.environ))
    logger.info("the page stopped", extra={"action": "page_stopped"})
    return ExitCode.OK


def run(arguments: argparse.Namespace) -> int:
    """Read the settings, and check them or serve the page."""
    settings = load_page_settings(read_environment(arguments.env_file))
    configure_logging(settings.log.format, settings.log.level, run_id="page", secrets=settings.secrets)
    return (check if arguments.check else serve)(settings)


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    parser = argparse.ArgumentParser(
        prog="admin_page.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--check", action="store_true", help="check settings, users' file and database, and exit"
    )
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read the settings from this file")
    arguments = parser.parse_args(argv)
    prerequisites.require(prerequisites.PAGE_PACKAGES, "requirements-page.txt")
    configure_logging("text", "INFO", run_id="page", secrets=())
    return exit_code_of(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
