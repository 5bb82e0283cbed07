"""The orchestrator's command line: the loop, one round of it, and the commands that change nothing."""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from shared.base.env_file import read_env_file
from shared.base.errors import AppError, ConfigError, ExitCode, gravest
from shared.base.logs import configure_logging
from shared.base.script import exit_code_of, prepare_streams, say, say_table, shown
from shared.database import ORCHESTRATOR_LOCK, Database, readiness
from shared.loop.orchestrator import Orchestrator
from shared.loop.signals import STOPS
from shared.loop.tasks import Task, tasks_with
from shared.rules.cadence import Daily, Schedule, Weekly, timeline, whole_minute
from shared.settings import (
    DAY_NAMES,
    CadenceSettings,
    OrchestratorSettings,
    PolicySettings,
    Settings,
    load_cadence_settings,
    load_digest,
    load_operator_settings,
    load_orchestrator_settings,
    load_policy_settings,
    load_settings,
    read_environment,
    source_of,
)
from shared.upkeep.engine import engine_differences

logger = logging.getLogger("script")

LONGEST_EXPLANATION_HOURS = 20 * 366 * 24
USUAL_FORECAST_DAYS = 30
LONGEST_FORECAST_DAYS = 366
MOST_STUCK = 100_000
FORECAST_YEARS = (1970, 9000)
COMPANIONS = (
    (("at", "hours"), ("explain",), "--at and --hours need --explain"),
    (
        ("days", "start", "stuck", "diff"),
        ("simulate",),
        "--days, --from, --stuck and --diff need --simulate",
    ),
    (("json",), ("explain", "simulate"), "--json needs --explain or --simulate"),
    (("online",), ("check",), "--online needs --check"),
)
"""(options, the actions that they need, the message when none of these is given)."""


def explain(cadence: CadenceSettings, at: str | None, hours: float, *, as_json: bool) -> None:
    """Print the runs of the given number of hours after `at`. Raises ConfigError for a faulty `at`."""
    zone = cadence.timezone
    start = _beginning("--at", at, zone)
    schedules = {task.name: task.schedule for task in tasks_with(cadence.digest)}
    try:
        until = (start.astimezone(UTC) + timedelta(hours=hours)).astimezone(zone)
        runs = list(timeline(schedules, start, until, zone, cadence.off_hours))
    except (OverflowError, ValueError) as exc:
        raise ConfigError(f"--at: {at!r} is too far away") from exc
    if as_json:
        document = {
            "timezone": str(zone),
            "from": start.isoformat(timespec="seconds"),
            "until": until.isoformat(timespec="seconds"),
            "off_hours_enabled": cadence.off_hours.enabled,
            "runs": [
                {"task": name, "at": run.at.isoformat(timespec="seconds"), "rule": run.rule}
                for name, run in runs
            ],
        }
        say(json.dumps(document) + "\n")
        return
    state = "on" if cadence.off_hours.enabled else "off"
    say(f"{zone}, after {shown(start)} until {shown(until)}, off-hours rule {state}: {len(runs)} runs\n")
    width = max(len(name) for name in schedules)
    for name, run in runs:
        say(f"{shown(run.at)}  {name:<{width}}  {run.rule}\n")


def _beginning(option: str, text: str | None, zone: ZoneInfo) -> datetime:
    """The minute that an option names; now without the option. Raises ConfigError for a faulty text."""
    if text is None:
        return whole_minute(datetime.now(UTC).astimezone(zone))
    try:
        instant = datetime.fromisoformat(text)
        instant = (instant if instant.tzinfo else instant.replace(tzinfo=zone)).astimezone(UTC)
        return whole_minute(instant.astimezone(zone))
    except (ValueError, OverflowError) as exc:
        raise ConfigError(
            f"{option}: expected a date and time such as 2026-01-30T21:54, got {text!r}"
        ) from exc


def forecast(arguments: argparse.Namespace) -> None:
    """Print what the coming runs will do, or what other settings would change about that.

    Raises ConfigError for a faulty `--from`, and for an env file that cannot be read.
    """
    environment = read_environment(arguments.env_file)
    if arguments.stuck is None:
        settings = load_operator_settings(environment, needs_cadence=True)
        assert settings.cadence is not None  # noqa: S101 - the settings were read with it
        policy = PolicySettings(settings.cadence, settings.retry)
    else:
        policy = load_policy_settings(environment)
    other = None if arguments.diff is None else (arguments.diff, _policy_of(arguments.diff))
    start = _beginning("--from", arguments.start, policy.cadence.timezone)
    if not FORECAST_YEARS[0] <= start.year <= FORECAST_YEARS[1]:
        raise ConfigError(f"--from: {arguments.start!r} is too far away")
    from shared.loop.forecast import answer, campaigns_in_a1, stuck_campaigns  # the loop does not need them

    if arguments.stuck is None:
        configure_logging("text", "INFO", run_id="orchestrator", secrets=settings.secrets)
        campaigns = campaigns_in_a1(settings, start)
    else:
        campaigns = stuck_campaigns(arguments.stuck, start)
    days = USUAL_FORECAST_DAYS if arguments.days is None else arguments.days
    answer(policy, start, days, campaigns, other, as_json=arguments.json)


def _policy_of(env_file: Path) -> PolicySettings:
    """The policy in a file; a variable that it does not set has its default."""
    found = read_env_file(env_file)
    try:
        return load_policy_settings(found)
    except ConfigError as exc:
        raise ConfigError([f"{env_file}: {fault}" for fault in exc.faults]) from exc


def list_tasks(tasks: Sequence[Task]) -> None:
    """Print the table of tasks."""
    header = ("TASK", "RUNS", "OFF-HOURS", "LIMIT", "SCRIPT")
    rows = [
        (task.name, *_in_words(task.schedule), str(task.limit), " ".join((task.script, *task.arguments)))
        for task in tasks
    ]
    say_table([header, *rows])


def _in_words(schedule: Schedule) -> tuple[str, str]:
    if isinstance(schedule, Daily):
        return f"daily at {schedule.at:%H:%M}", "unchanged"
    if isinstance(schedule, Weekly):
        return f"{DAY_NAMES[schedule.day]} at {schedule.at:%H:%M}", "unchanged"
    return f"every {schedule.minutes} min", "slower"


def check_all(env_file: Path | None, *, is_online: bool) -> int:
    """Check settings and database, and with `online` the DAM, Box and the mail server.

    Every fault is printed or logged; the exit code is that of the most serious one.
    """
    errors: list[AppError] = []
    codes: set[ExitCode] = set()
    try:
        codes.add(check(env_file))
    except AppError as exc:
        errors.append(exc)
    if is_online:
        errors += _check_online(env_file)
    else:
        say("not checked: the DAM, Box, the mail server; add --online\n")
    faults = (
        fault for exc in errors for fault in (exc.faults if isinstance(exc, ConfigError) else [str(exc)])
    )
    for fault in dict.fromkeys(faults):
        logger.error("%s", fault, extra={"action": "check_failed"})
    return gravest(codes | {exc.exit_code for exc in errors})


def _check_online(env_file: Path | None) -> list[AppError]:
    """Check the other systems; with faulty settings, which `check` has reported, nothing is checked."""
    from shared.loop.online_check import look_online

    try:
        settings = load_settings(read_environment(env_file))
    except ConfigError:
        return []
    configure_logging("text", "INFO", run_id="check", secrets=settings.secrets)
    errors: list[AppError] = []
    for finding in look_online(settings, datetime.now(UTC)):
        if finding.error is None:
            say(f"{'unclear' if finding.is_open else 'ok'}  {finding.subject}\n")
        else:
            errors.append(finding.error)
    return errors


def check(env_file: Path | None) -> ExitCode:
    """Check everything that needs no call to the DAM, Box or the mail server."""
    faults: list[str] = []

    def loaded(load: Callable[[dict[str, str]], object]) -> object:
        try:
            return load(environment)
        except ConfigError as exc:
            faults.extend(fault for fault in exc.faults if fault not in faults)
            return None

    environment = read_environment(env_file)
    settings = loaded(load_settings)
    own = loaded(load_orchestrator_settings)
    if isinstance(settings, Settings) and settings.dam.auth == "pfx-v2":
        from shared.dam.certificate import client_context

        loaded(lambda _: client_context(settings.dam, datetime.now(UTC)))
    if faults:
        raise ConfigError(faults)
    assert isinstance(settings, Settings)  # noqa: S101 - no faults
    assert isinstance(own, OrchestratorSettings)  # noqa: S101 - no faults
    say(f"ok  settings of the loop and of the uploader, from {source_of(env_file)}\n")
    return _check_database(settings)


def _check_database(settings: Settings) -> ExitCode:
    """Print what differs from what the product needs. Raises ConfigError for pending migrations."""
    dsn = settings.database.dsn
    with Database(dsn, settings.retry.max_retries, application_name="a1_to_a2 check") as database:
        found = database.differences(status_a1=settings.dam.status_a1, status_a2=settings.dam.status_a2)
        if not settings.engine.is_local:
            found += engine_differences(database)
        for difference in found:
            say(f"{difference}\n")
        database.ensure_migrated(settings.commands)
        ready = readiness(found)
        if ready is not ExitCode.OK:
            return ready
        say("ok  database and its migrations\n")
        holder = database.lock_or_holder(ORCHESTRATOR_LOCK)
        say(f"ok  {'no orchestrator is running' if holder is None else f'orchestrator running: {holder}'}\n")
    return ExitCode.OK


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours <= LONGEST_EXPLANATION_HOURS:
        raise argparse.ArgumentTypeError(
            f"expected hours from 0 to {LONGEST_EXPLANATION_HOURS}, got {text!r}"
        )
    return hours


def _whole_number(what: str, most: int) -> Callable[[str], int]:
    """A parser of whole numbers, 1 or more."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected {what} from 1 to {most}, got {text!r}")
        return int(text)

    return read


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="orchestrator-prod.py",
        description="Start each task when it is due, until a signal stops it.",
        allow_abbrev=False,
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--once", action="store_true", help="run what is due now and exit; for cron")
    action.add_argument("--list", action="store_true", help="print the table of tasks")
    action.add_argument("--explain", action="store_true", help="print when tasks will run, and by which rule")
    action.add_argument(
        "--simulate", action="store_true", help="print what the runs of the coming days will do"
    )
    action.add_argument("--check", action="store_true", help="check settings and database")
    parser.add_argument(
        "--online", action="store_true", help="with --check: also log in to the DAM, Box and the mail server"
    )
    parser.add_argument("--at", metavar="ISO", help="with --explain: start; default: now")
    parser.add_argument(
        "--hours", type=_hours, metavar="N", help="with --explain: how many hours; default: 24"
    )
    parser.add_argument(
        "--days",
        type=_whole_number("days", LONGEST_FORECAST_DAYS),
        metavar="N",
        help=f"with --simulate: how many days; default: {USUAL_FORECAST_DAYS}",
    )
    parser.add_argument("--from", dest="start", metavar="ISO", help="with --simulate: start; default: now")
    parser.add_argument(
        "--stuck",
        type=_whole_number("campaigns", MOST_STUCK),
        metavar="K",
        help="with --simulate: this many campaigns that are set to A1 at the start and stay empty, without"
        " the database; default: the campaigns in A1 in the database",
    )
    parser.add_argument(
        "--diff",
        type=Path,
        metavar="FILE",
        help="with --simulate: only what would differ with the settings of another env file",
    )
    parser.add_argument(
        "--json", action="store_true", help="with --explain or --simulate: print one JSON object"
    )
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read the settings from this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="log at level DEBUG")
    arguments = parser.parse_args(argv)
    for options, actions, fault in COMPANIONS:
        is_given = any(getattr(arguments, option) != parser.get_default(option) for option in options)
        if is_given and not any(getattr(arguments, action) for action in actions):
            parser.error(fault)
    return arguments


def act(arguments: argparse.Namespace) -> int:
    """Run the action that the arguments name. Raises AppError."""
    if arguments.list or arguments.explain or arguments.simulate or arguments.check:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # only the loop needs time to finish
        return tell(arguments)
    env_file: Path | None = arguments.env_file
    orchestrator = Orchestrator(
        lambda settings: tasks_with(settings.cadence.digest),
        lambda: load_orchestrator_settings(read_environment(env_file)),
        env_file=env_file,
        is_verbose=arguments.verbose,
    )
    return orchestrator.run_once() if arguments.once else orchestrator.run_forever()


def tell(arguments: argparse.Namespace) -> int:
    """Run an action that only prints. Raises AppError."""
    env_file: Path | None = arguments.env_file
    if arguments.check:
        return check_all(env_file, is_online=arguments.online)
    if arguments.list:
        list_tasks(tasks_with(load_digest(read_environment(env_file))))
    elif arguments.explain:
        cadence = load_cadence_settings(read_environment(env_file))
        hours = 24.0 if arguments.hours is None else arguments.hours
        explain(cadence, arguments.at, hours, as_json=arguments.json)
    else:
        forecast(arguments)
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    arguments = parse_arguments(argv)
    configure_logging("text", "INFO", run_id="orchestrator", secrets=())
    return exit_code_of(lambda: act(arguments))
