"""The operator's tool: who is in retry, who is permanently failed, and putting campaigns back to attempt 1.

Each command runs a file of database/queries/, so psql gives the same answers and the same resets.
"""

import shared.base.prerequisites  # noqa: F401 - first: it tells of an old Python in one line

# isort: split
import argparse
import getpass
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from shared.base.errors import DamError, ExitCode
from shared.base.logs import configure_logging
from shared.base.redaction import escape_json, escape_line
from shared.base.script import exit_code_of, prepare_streams, say, say_table
from shared.base.values import GONE
from shared.database import Database
from shared.loop.memory import Memory
from shared.report.explain import Installation, Live, explain
from shared.report.explain_text import as_json, as_text
from shared.report.facts import facts_of, ids_of
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, Interval, LastRun, next_run, plan
from shared.settings import (
    CadenceSettings,
    OperatorSettings,
    load_operator_settings,
    load_settings,
    read_environment,
)

logger = logging.getLogger("a1_retry")

Table = tuple[list[str], list[tuple[Any, ...]]]
Row = dict[str, Any]

OVERDUE_AFTER = timedelta(minutes=10)
"""How late a run may be before it is said that there was none."""


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
    values = {"max_retries": str(settings.retry.max_retries), "status_a1": settings.status_a1}
    return _print(arguments, database.run_query("near_failure", values))


def show_unsent(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    return _print(arguments, database.run_query("outbox", {}))


def show_told(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    return _print(arguments, database.run_query("digest", {"mail": str(arguments.mail)}))


def show_explanation(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Why a campaign is where it is; exit code 4 when nobody knows it."""
    ids = ids_of(database, arguments.campaign) or [arguments.campaign]
    if len(ids) > 1:
        logger.error("%d campaigns have this number; name one by its id: %s", len(ids), ", ".join(ids))
        return ExitCode.SOME_FAILED
    now, cadence = datetime.now(UTC), settings.cadence
    zone, window = (cadence.timezone, cadence.off_hours) if cadence else (ZoneInfo("UTC"), None)
    by = Installation(
        settings.retry, zone, window, settings.status_a1, settings.master_assets_folder, settings.commands
    )
    facts = facts_of(database, ids[0], now, status_a1=settings.status_a1)
    live, exit_code = None, ExitCode.OK
    if arguments.live:
        from shared.upload.look import look  # what it takes to call the DAM is loaded for this alone

        whole = load_settings(read_environment(arguments.env_file))
        configure_logging(whole.log.format, whole.log.level, run_id="operator", secrets=whole.secrets)
        try:
            live = Live(*look(whole.dam, ids[0], now))
        except DamError as exc:  # what the database knows is shown all the same
            logger.error(
                "the DAM could not be asked: %s", exc, extra={"action": "run_failed", "kind": exc.kind}
            )
            exit_code = exc.exit_code
    told = explain(facts, by, now, live)
    say(f"{as_json(told, by)}\n" if arguments.json else as_text(told, by))
    return exit_code or (ExitCode.OK if told.is_known else ExitCode.SOME_FAILED)


def reset(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Reset the named campaigns, or all that are failed; each with a note of who did it and why."""
    if (bool(arguments.campaign_ids), arguments.all_failed, arguments.digest is not None).count(True) != 1:
        logger.error("reset: name campaign ids, or give --all-failed, or --digest")
        return ExitCode.BAD_CONFIG
    if arguments.digest is not None:
        return _reset_digest(database, arguments, settings)
    if arguments.all_failed:
        return _reset_all_failed(database, arguments, settings)
    return _reset_named(database, arguments, settings)


def _reset_named(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> ExitCode:
    ids = list(dict.fromkeys(arguments.campaign_ids))
    tables = {one: database.run_query("status_one", {"campaign_id": one}) for one in ids}
    for campaign_id in (one for one, table in tables.items() if not table[1]):
        logger.error("no campaign %s in campaign_status; is the id right?", campaign_id)
    shown = [row for table in tables.values() for row in _objects(table)]
    skipped = _reset_shown(database, arguments, settings, shown)
    return ExitCode.SOME_FAILED if skipped or len(shown) < len(ids) else ExitCode.OK


def _reset_all_failed(
    database: Database, arguments: argparse.Namespace, settings: OperatorSettings
) -> ExitCode:
    table = database.run_query("failed", {})
    if not table[1]:
        say("no campaign is permanently failed\n")
        return ExitCode.OK
    if not arguments.yes:
        _print(argparse.Namespace(json=False), table)
        count = len(table[1])
        say(f"Reset {'this campaign' if count == 1 else f'these {count} campaigns'} to attempt 1? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was changed\n")
            return ExitCode.OK
    _reset_shown(database, arguments, settings, _objects(table))
    return ExitCode.OK


def _reset_digest(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> ExitCode:
    """The failed campaigns of one e-mail with a table."""
    told = _objects(database.run_query("digest", {"mail": str(arguments.digest)}))
    if not told:
        logger.error("no e-mail %s was sent; is the id right?", arguments.digest)
        return ExitCode.SOME_FAILED
    told_of = {row["campaign_id"] for row in told}
    shown = [row for row in _objects(database.run_query("failed", {})) if row["campaign_id"] in told_of]
    if not shown:
        say("none of its campaigns is permanently failed\n")
    _reset_shown(database, arguments, settings, shown)
    return ExitCode.OK


def _reset_shown(
    database: Database, arguments: argparse.Namespace, settings: OperatorSettings, shown: Sequence[Row]
) -> list[Row]:
    """Reset just these, as they were when they were read, and say of each what comes of it; those that were
    changed in between are skipped and returned.
    """
    worth_it = [row for row in shown if row["a1_retry_count"] or row["a1_permanently_failed"]]
    values = {
        "ids": [row["campaign_id"] for row in worth_it],
        "seen": [row["a1_last_retry_at"] for row in worth_it],
        "who": arguments.by,
        "source": "a1_retry.py",
        "reason": arguments.reason,
    }
    with database.transaction():
        ((ids,),) = database.run_query("reset_note", values)[1]
        done = {row["campaign_id"]: row for row in _objects(database.run_query("reset", {"ids": ids}))}
    now = datetime.now(UTC)
    last = Memory(database).last_task_runs(["a1_to_a2"], now).get("a1_to_a2")
    when = next_look(settings.cadence, last, now)
    skipped = [row for row in worth_it if row["campaign_id"] not in done]
    for row in shown:
        if row["campaign_id"] in done:
            status = done[row["campaign_id"]]["status"]
            said = f"reset {_named(row)}: {outlook(status, settings.status_a1, when)}"
        elif row in skipped:
            said = (
                f"skipped {_named(row)}: it was changed meanwhile; look at it and reset it again if need be"
            )
        else:
            said = f"{_named(row)}: nothing to reset, no attempt is spent"
        say(f"{said}{_error_beside(row)}\n")
    return skipped


def _error_beside(row: Row) -> str:
    """An error of the campaign that a reset does not cure, for the end of a sentence; "" for none."""
    if not row.get("error"):
        return ""
    return (
        f"; it has failed with an error since {_plain(row['error_since'])}, which a reset does not"
        f" cure: {escape_line(row['error'])}"
    )


def _named(row: Row) -> str:
    label = f"{row['campaign_number'] or ''} {row['campaign_name'] or ''}".strip()
    return escape_line(f"{row['campaign_id']} ({label})")


def outlook(status: str | None, status_a1: str, when: str) -> str:
    """What will be done with a campaign that was reset. status: where its row says that it is."""
    if status == status_a1:
        return f"will be tried again from attempt 1 {when}"
    if status == GONE:
        return (
            f"the DAM does not show it: nothing will be done until it is there again and set to {status_a1}"
        )
    if status is None:
        return (
            f"no run has seen its status: if it is set to {status_a1}, it will be tried again from attempt 1"
            f" {when}"
        )
    return f"it is at {escape_line(status)}: nothing will be done until it is set to {status_a1} again"


def next_look(cadence: CadenceSettings | None, last: LastRun | None, now: datetime) -> str:
    """When the uploader runs next, for a sentence. last: its last run that the orchestrator started."""
    if cadence is None or last is None:
        return "by the next run of the uploader"
    zone, window = cadence.timezone, cadence.off_hours
    if last.finished_at is None and now - last.started_at < timedelta(hours=12):
        return f"by the run after the one that began at {_clock(last.started_at.astimezone(zone))}"
    due = next_run(A1_TO_A2_INTERVAL_MINUTES, last.planned_at, zone, window).at
    overdue_since = max(due.astimezone(UTC), (last.finished_at or last.started_at).astimezone(UTC))
    if now - overdue_since > OVERDUE_AFTER:
        return (
            f"by the next run of the uploader; it was due at {_clock(overdue_since.astimezone(zone))} and has"
            " not come: is the orchestrator running?"
        )
    planned = plan(Interval(A1_TO_A2_INTERVAL_MINUTES), last, now, zone, window)
    rule = ", off-hours" if planned.rule == "off_hours" else ""
    return f"by the next run of the uploader, planned for {_clock(planned.at)}{rule}"


def _clock(local: datetime) -> str:
    return f"{local:%H:%M %Z on %a %Y-%m-%d}"


def _print(arguments: argparse.Namespace, table: Table) -> int:
    """Rows as aligned text, or as JSON."""
    columns, rows = table
    if arguments.json:
        objects = [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]
        say(escape_json(json.dumps(objects, ensure_ascii=False)) + "\n")
        return ExitCode.OK
    if not rows:
        say("none\n")
        return ExitCode.OK
    cells = [
        columns,
        *([escape_line("" if cell is None else str(_plain(cell))) for cell in row] for row in rows),
    ]
    say_table(cells)
    return ExitCode.OK


def _objects(table: Table) -> list[Row]:
    columns, rows = table
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _plain(cell: object) -> object:
    return cell.isoformat(timespec="seconds") if isinstance(cell, datetime) else cell


def _user_name() -> str:
    """Who runs this; a container's user may have a number and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _text(argument: str) -> str:
    """An argument as PostgreSQL takes it: bytes that are no UTF-8 become U+FFFD, which names nothing."""
    return re.sub("[\ud800-\udfff]", "\ufffd", argument)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="a1_retry.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    env_file: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "settings; default: .env"}
    parser.add_argument("--env-file", **env_file)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--env-file", default=argparse.SUPPRESS, **env_file)  # before the command or after it
    tables = argparse.ArgumentParser(add_help=False)
    tables.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser(
        "status", parents=[common, tables], help="campaigns in retry or with an error, or one campaign"
    )
    status.add_argument("campaign_id", type=_text, nargs="?", metavar="ID")
    status.set_defaults(action=show_status)
    failed = commands.add_parser("failed", parents=[common, tables], help="permanently failed campaigns")
    failed.set_defaults(action=show_failed)
    near = commands.add_parser(
        "near-failure", parents=[common, tables], help="campaigns with one attempt left"
    )
    near.set_defaults(action=show_near_failure)
    unsent = commands.add_parser(
        "unsent", parents=[common, tables], help="e-mails that somebody has not got yet, and why"
    )
    unsent.set_defaults(action=show_unsent)
    told = commands.add_parser(
        "told", parents=[common, tables], help="every notice that one e-mail with a table carried"
    )
    told.add_argument("mail", type=UUID, metavar="ID")
    told.set_defaults(action=show_told)
    why = commands.add_parser(
        "explain", parents=[common], help="why a campaign is where it is, and what is next"
    )
    why.add_argument("campaign", type=_text, metavar="C", help="its id or its number")
    why.add_argument("--json", action="store_true", help="one JSON object instead of a text")
    why.add_argument("--live", action="store_true", help="ask the DAM, too")
    why.set_defaults(action=show_explanation)
    again = commands.add_parser("reset", parents=[common], help="try campaigns again from attempt 1")
    again.add_argument("campaign_ids", type=_text, nargs="*", metavar="ID")
    again.add_argument("--all-failed", action="store_true", help="every permanently failed campaign")
    again.add_argument(
        "--digest", type=UUID, metavar="ID", help="the failed campaigns that one e-mail with a table named"
    )
    again.add_argument("--yes", action="store_true", help="do not ask")
    again.add_argument(
        "--by", type=_text, default=_user_name(), metavar="NAME", help="who resets; default: you"
    )
    again.add_argument(
        "--reason", type=_text, default="", metavar="TEXT", help="why, for those who look later"
    )
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
    prepare_streams()
    arguments = parse_arguments(argv)
    configure_logging("text", "INFO", run_id="operator", secrets=())
    return exit_code_of(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
