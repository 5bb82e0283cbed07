"""The operator's tool: who is in retry, who is permanently failed, and putting campaigns back to attempt 1.

Each command runs a file of database/queries/, so psql gives the same answers and the same resets.
"""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from shared.database import Database
from shared.errors import ExitCode
from shared.logs import configure_logging, use_utf8
from shared.redaction import escape_line
from shared.script import exit_code_of
from shared.settings import OperatorSettings, load_operator_settings, read_environment

logger = logging.getLogger("a1_retry")

Table = tuple[list[str], list[tuple[Any, ...]]]


def show_status(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    if arguments.campaign_id is None:
        return _print(arguments, database.run_query("status_all", {}))
    table = database.run_query("status_one", {"campaign_id": arguments.campaign_id})
    if not table[1]:
        logger.error("no campaign %s in campaign_status; is the id right?", arguments.campaign_id)
        return ExitCode.SOME_FAILED
    return _print(arguments, table)


def show_failed(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    return _print(arguments, database.run_query("failed", {}))


def show_near_failure(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    values = {"max_retries": str(settings.max_retries), "status_a1": settings.status_a1}
    return _print(arguments, database.run_query("near_failure", values))


def reset(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Reset the named campaigns, or all that are failed; each with a note of who did it and why."""
    if (bool(arguments.campaign_ids), arguments.all_failed, arguments.digest is not None).count(True) != 1:
        logger.error("reset: name campaign ids, or give --all-failed, or --digest")
        return ExitCode.BAD_CONFIG
    if arguments.digest is not None:
        return _reset_digest(database, arguments)
    if arguments.all_failed:
        return _reset_all_failed(database, arguments)
    missing = []
    for campaign_id in dict.fromkeys(arguments.campaign_ids):
        with database.transaction():
            database.record_resets([campaign_id], arguments.by, arguments.reason)
            table = database.run_query("reset_one", {"campaign_id": campaign_id})
        if table[1]:
            _say_reset(table)
        else:
            missing.append(campaign_id)
    for campaign_id in missing:
        logger.error("no campaign %s in campaign_status; is the id right?", campaign_id)
    return ExitCode.SOME_FAILED if missing else ExitCode.OK


def _reset_all_failed(database: Database, arguments: argparse.Namespace) -> int:
    columns, rows = database.run_query("failed", {})
    if not rows:
        sys.stdout.write("no campaign is permanently failed\n")
        return ExitCode.OK
    if not arguments.yes:
        _print(argparse.Namespace(json=False), (columns, rows))
        sys.stdout.write(f"Reset these {len(rows)} campaigns to attempt 1? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.stdout.write("nothing was changed\n")
            return ExitCode.OK
    with database.transaction():
        database.record_resets([row[0] for row in rows], arguments.by, arguments.reason)
        table = database.run_query("reset_all_failed", {})
    _say_reset(table)
    return ExitCode.OK


def _reset_digest(database: Database, arguments: argparse.Namespace) -> int:
    """The failed campaigns of one e-mail with a table."""
    values = {"mail": str(arguments.digest)}
    columns, told = database.run_query("digest", values)
    if not told:
        logger.error("no e-mail %s was sent; is the id right?", arguments.digest)
        return ExitCode.SOME_FAILED
    told_of = {row[columns.index("campaign_id")] for row in told}
    with database.transaction():
        failed = [row[0] for row in database.run_query("failed", {})[1]]
        ids = [campaign_id for campaign_id in failed if campaign_id in told_of]
        database.record_resets(ids, arguments.by, arguments.reason)
        table = database.run_query("reset_digest", values)
    _say_reset(table)
    if not table[1]:
        sys.stdout.write("none of its campaigns is permanently failed\n")
    return ExitCode.OK


def _say_reset(table: Table) -> None:
    for campaign_id, number, name in table[1]:
        label = escape_line(f"{number or ''} {name or ''}".strip())
        sys.stdout.write(f"reset {campaign_id} ({label}): tried again from attempt 1 at the next run\n")


def _print(arguments: argparse.Namespace, table: Table) -> int:
    """Rows as aligned text, or as JSON."""
    columns, rows = table
    if arguments.json:
        objects = [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]
        sys.stdout.write(json.dumps(objects, ensure_ascii=False) + "\n")
        return ExitCode.OK
    if not rows:
        sys.stdout.write("none\n")
        return ExitCode.OK
    cells = [
        columns,
        *([escape_line("" if cell is None else str(_plain(cell))) for cell in row] for row in rows),
    ]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    return ExitCode.OK


def _plain(cell: object) -> object:
    return cell.isoformat(timespec="seconds") if isinstance(cell, datetime) else cell


def _user_name() -> str:
    """Who runs this; a container's user may have a number and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="a1_retry.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--env-file", type=Path, metavar="FILE", help="settings; default: .env")
    tables = argparse.ArgumentParser(add_help=False)
    tables.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser(
        "status", parents=[common, tables], help="campaigns in retry, or one of them"
    )
    status.add_argument("campaign_id", nargs="?", metavar="ID")
    status.set_defaults(action=show_status)
    failed = commands.add_parser("failed", parents=[common, tables], help="permanently failed campaigns")
    failed.set_defaults(action=show_failed)
    near = commands.add_parser(
        "near-failure", parents=[common, tables], help="campaigns with one attempt left"
    )
    near.set_defaults(action=show_near_failure)
    again = commands.add_parser("reset", parents=[common], help="try campaigns again from attempt 1")
    again.add_argument("campaign_ids", nargs="*", metavar="ID")
    again.add_argument("--all-failed", action="store_true", help="every permanently failed campaign")
    again.add_argument(
        "--digest", type=UUID, metavar="ID", help="the failed campaigns that one e-mail with a table named"
    )
    again.add_argument("--yes", action="store_true", help="do not ask")
    again.add_argument("--by", default=_user_name(), metavar="NAME", help="who resets; default: you")
    again.add_argument("--reason", default="", metavar="TEXT", help="why, for those who look later")
    again.set_defaults(action=reset)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    """Read the settings and do what the command asks for."""
    settings = load_operator_settings(read_environment(arguments.env_file))
    configure_logging(settings.log.format, settings.log.level, run_id="operator", secrets=settings.secrets)
    with Database(settings.database.dsn, application_name="a1_to_a2 operator") as database:
        result: int = arguments.action(database, arguments, settings)
        return result


def main(argv: Sequence[str] | None = None) -> int:
    use_utf8()
    arguments = parse_arguments(argv)
    configure_logging("text", "INFO", run_id="operator", secrets=())
    return exit_code_of(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
