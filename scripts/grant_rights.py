"""Applies database/roles.sql with psql, as the owner of the tables, so that the roles get their rights."""

import shared.base.prerequisites  # noqa: F401 - first: it reports an old Python in one line

# isort: split
import argparse
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from psycopg2.extensions import make_dsn, parse_dsn

from shared.base.env_file import REPOSITORY, find_env_file, read_env_file
from shared.base.errors import ConfigError, ExitCode
from shared.base.logs import configure_logging
from shared.base.script import exit_code_of, prepare_streams, say
from shared.settings import load_operator_settings, read_environment

logger = logging.getLogger("grant_rights")

ROLES = REPOSITORY / "database" / "roles.sql"
USUAL_USER = "ferrero_user"
"""The default of DB_USER."""


def role_of(env_file: Path) -> str:
    """The database user that a settings file names. Raises ConfigError when the file cannot be read."""
    found = read_env_file(env_file)
    url = found.get("DATABASE_URL", "").strip()
    named = unquote(urlsplit(url).username or "") if url else found.get("DB_USER", "").strip()
    return named or USUAL_USER


def run(arguments: argparse.Namespace) -> int:
    """Read both logins and grant the rights. Raises ConfigError without psql, or when the login
    cannot grant.
    """
    env_file = find_env_file(arguments.env_file)
    if env_file is None:
        raise ConfigError("which role do the scripts use? Name their settings file with --env-file")
    settings = load_operator_settings(read_environment(env_file))
    configure_logging(settings.log.format, settings.log.level, run_id="grant", secrets=settings.secrets)
    login, role = parse_dsn(settings.database.dsn), role_of(env_file)
    if login.get("user") == role:
        say(f"nothing to grant: the scripts log in as {role}, and DB_USER names no other role\n")
        return ExitCode.OK
    psql = shutil.which("psql")
    if psql is None:
        raise ConfigError("psql is missing (Debian: apt-get install postgresql-client)")
    words = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"role={role}"]
    granted = [role]
    if arguments.page_env_file is not None:
        granted.append(role_of(arguments.page_env_file))
        words += ["-v", f"page_role={granted[-1]}"]
    # A password on the command line would be visible in the process list.
    environment = {**os.environ, "PGPASSWORD": str(login.pop("password", ""))}
    done = subprocess.run(  # noqa: S603 - our own file
        [psql, *words, "-f", str(ROLES), "-d", make_dsn(**login)], env=environment, check=False
    )
    if done.returncode:
        raise ConfigError(f"{login.get('user')} could not apply {ROLES.name}; psql printed the reason")
    say(f"granted the rights of {' and '.join(granted)}\n")
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    parser = argparse.ArgumentParser(prog="grant_rights.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--env-file", type=Path, metavar="FILE", help="the scripts' settings, with their role"
    )
    parser.add_argument(
        "--page-env-file", type=Path, metavar="FILE", help="the page's settings, with its role"
    )
    arguments = parser.parse_args(argv)
    configure_logging("text", "INFO", run_id="grant", secrets=())
    return exit_code_of(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
