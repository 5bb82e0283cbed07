"""The operator's tool: shows campaigns in retry or stuck and their history; resets, snoozes, wakes, limits
them.

Each command runs a file of database/queries/, so psql gives the same answers and makes the same changes. Only
page-user needs no database.
"""

import shared.base.prerequisites  # noqa: F401 - first: it reports an old Python in one line

# isort: split
import argparse
import getpass
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from shared.base.errors import ConfigError, DamError, ExitCode
from shared.base.logs import configure_logging
from shared.base.redaction import escape_json, escape_line
from shared.base.script import exit_code_of, prepare_streams, say
from shared.base.tables import WIDTH, wrapped
from shared.base.text import replace_unstorable
from shared.base.values import GONE
from shared.database import Database
from shared.report import listing
from shared.report.events import events_of, in_words
from shared.report.explain import Installation, Live, explain
from shared.report.explain_text import as_json, as_object, as_text
from shared.report.facts import facts_of
from shared.report.find import Meant, find
from shared.report.listing import named
from shared.report.states import Rules, retry_status
from shared.report.workers import Holder, Worker, WorkerState, holders_of, workers_of
from shared.rules.cadence import LastRun, is_off_hours
from shared.rules.outlook import coming_run
from shared.rules.snooze import snooze_end
from shared.settings import (
    CadenceSettings,
    OperatorSettings,
    load_operator_settings,
    load_settings,
    load_webhook_settings,
    read_environment,
)

logger = logging.getLogger("a1_retry")

Answer = tuple[list[str], list[tuple[Any, ...]]]
Row = dict[str, Any]
Action = Callable[[Database, argparse.Namespace, OperatorSettings], int]

TOOL = "a1_retry.py"
MOST_RETRIES = 1000
LEFT_OUT = ("skipped", "unread")
"""Outcomes of a campaign that a command could not change."""


# Which campaigns


@dataclass(frozen=True, slots=True)
class Chosen:
    """The campaigns that the words of a command mean.

    exit_code: how the command ends if everything it does with them succeeds.
    """

    rows: list[Row]
    exit_code: ExitCode


def choose(database: Database, words: Sequence[str], rules: Rules) -> Chosen:
    """The campaigns that the words mean; none when a word may mean several, which are then listed.

    A word that means no campaign is reported, and the command continues with the others.
    """
    meant = find(database, words)
    rows = _rows_of(database, meant)
    ambiguous = [word for word in meant if word.is_ambiguous]
    if ambiguous:
        for word in ambiguous:
            _list_candidates(word, rows, rules)
        return Chosen([], ExitCode.BAD_CONFIG)
    unknown = [word.word for word in meant if not word.ids]
    for name in unknown:
        logger.error(
            "no campaign %s in campaign_status: it is not an id, number or name, nor the beginning of a name",
            name,
        )
    return Chosen(list(rows.values()), ExitCode.SOME_FAILED if unknown else ExitCode.OK)


def _rows_of(database: Database, meant: Iterable[Meant]) -> dict[str, Row]:
    """{id: its row} of all campaigns that the words mean, in their order."""
    ids = list(dict.fromkeys(one for word in meant for one in word.ids))
    if not ids:
        return {}
    rows = _by_id(database.run_query("status_all", {"ids": ids}))
    return {one: rows[one] for one in ids if one in rows}


def _list_candidates(word: Meant, rows: Mapping[str, Row], rules: Rules) -> None:
    shown = [rows[one] for one in word.ids if one in rows]
    logger.error(
        "%s may mean any of %d campaigns; nothing was done. Name one by its id:", word.word, word.total
    )
    rest = f"and {word.total - len(shown)} more\n" if word.total > len(shown) else ""
    say(listing.candidates(shown, rules) + rest, to=sys.stderr)


def _rules(settings: OperatorSettings) -> Rules:
    zone = settings.cadence.timezone if settings.cadence else UTC
    return Rules(settings.retry, settings.status_a1, GONE, zone, datetime.now(UTC))


# Showing


def show_status(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    rules, workers = _rules(settings), workers_of(database)
    if arguments.campaign_ids:
        chosen = choose(database, arguments.campaign_ids, rules)
        _say_states(arguments, _with_holders(chosen.rows, workers), rules, _facts)
        return chosen.exit_code
    rows = _objects(database.run_query("status_all", {}))
    _say_states(arguments, _with_holders(rows, workers), rules, listing.standings)
    held = "" if arguments.json else listing.in_hand(workers, rules)
    if held:
        say(f"\nCampaigns that workers have now:\n{held}")
    if rows and not arguments.json:
        say(
            "\n"
            + "\n".join(wrapped(f"The campaigns are looked at {_when(database, settings)}.", WIDTH))
            + "\n"
        )
    return ExitCode.OK


def _with_holders(rows: Iterable[Row], workers: Iterable[Worker]) -> list[Row]:
    """The rows, each with the worker that has its campaign."""
    holders = holders_of(workers)
    return [{**row, "worker": holders.get(row["campaign_id"])} for row in rows]


def _facts(rows: Sequence[Row], rules: Rules) -> str:
    return "\n".join(listing.facts(row, rules) for row in rows)


def show_failed(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    rows, rules = _objects(database.run_query("failed", {})), _rules(settings)
    _say_states(arguments, rows, rules, listing.failed)
    return ExitCode.OK


def show_near_failure(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    values = {"max_retries": str(settings.retry.max_retries), "status_a1": settings.status_a1}
    rows, rules = _objects(database.run_query("near_failure", values)), _rules(settings)
    _say_states(arguments, rows, rules, listing.standings)
    return ExitCode.OK


def show_history(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    rules = _rules(settings)
    chosen = choose(database, [arguments.campaign_id], rules)
    for row in chosen.rows:
        answer = database.run_query("history", {"campaign_id": row["campaign_id"]})
        events = events_of(answer[1], settings.retry.max_retries)
        if arguments.json:
            texts = (in_words(event, rules.zone, GONE) for event in events)
            _say_json({**one, "text": text} for one, text in zip(_objects(answer), texts, strict=True))
        else:
            say(f"{named(row)}\n{listing.history(events, rules)}")
    return chosen.exit_code


def show_unsent(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    rows = _objects(database.run_query("outbox", {}))
    if arguments.json:
        _say_json(rows)
    else:
        say(listing.unsent(rows, _rules(settings)))
    return ExitCode.OK


def show_told(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    rows = _objects(database.run_query("digest", {"mail": arguments.mail}))
    if arguments.json:
        _say_json(rows)
    else:
        say(listing.told(rows, _rules(settings)))
    return ExitCode.OK


# The workers


def show_workers(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    workers = workers_of(database)
    if arguments.json:
        _say_json(map(_worker, workers))
    else:
        say(listing.workers(workers, _rules(settings)) if workers else _no_worker(settings))
    return ExitCode.OK


def _no_worker(settings: OperatorSettings) -> str:
    """What to say, and what to do, when no worker runs."""
    if settings.engine.is_local:
        return "No worker is running. None is needed: with ENGINE=local, runs work by themselves.\n"
    start = settings.commands.run("a1_worker.py")
    return (
        "No worker is running: campaigns wait in the queue until one starts. On any host:\n"
        f"systemctl start a1-to-a2-worker@1\nor: {start}\n"
    )


def _worker(one: Worker) -> Row:
    """A worker for JSON."""
    return {
        "worker": one.worker,
        "host": one.host,
        "state": one.state,
        "started_at": one.started_at,
        "seen_at": one.seen_at,
        "campaigns_at_once": one.at_once,
        "drain_asked_at": one.drain_asked_at,
        "drain_asked_by": one.drain_asked_by,
        "trouble": one.trouble,
        "trouble_at": one.trouble_at,
        "campaigns": [
            {
                "campaign_id": held.campaign_id,
                "campaign_number": held.campaign_number,
                "campaign_name": held.campaign_name,
                "since": _plain(held.since),
            }
            for held in one.campaigns
        ],
    }


def drain(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Ask a worker, or all workers of a host, to stop; exit code 2 when there is none by this name."""
    values = {"name": arguments.host, "who": arguments.by}
    with database.transaction():  # no worker's row goes away in between
        asked = {row["worker"] for row in _objects(database.run_query("drain", values))}
        workers = workers_of(database)
    meant = [one for one in workers if arguments.host in (one.worker, one.host)]
    if not meant:
        known = "; ".join(escape_line(f"{one.worker} on host {one.host}") for one in workers)
        logger.error(
            "%s is neither a worker nor a host with workers; known: %s", arguments.host, known or "none"
        )
        return ExitCode.BAD_CONFIG
    done = [_drained(one, is_new=one.worker in asked, rules=_rules(settings)) for one in meant]
    if arguments.json:
        _say_json(
            {**_worker(one), "outcome": outcome, "text": said}
            for one, (outcome, said) in zip(meant, done, strict=True)
        )
    else:
        say("".join(f"{escape_line(said)}\n" for _, said in done))
        say(f"they have stopped when this no longer lists them: {settings.commands.run(TOOL, 'workers')}\n")
    return ExitCode.OK


def _drained(one: Worker, *, is_new: bool, rules: Rules) -> tuple[str, str]:
    """The outcome for `--json`, and a sentence that names the worker."""
    name = f"{one.worker} on host {one.host}"
    if one.state is WorkerState.LOST:
        return "lost", f"{name} is {one.words(rules.zone)}: it cannot be asked"
    has = f"it has {one.in_hand} campaign{'' if one.in_hand == 1 else 's'} in hand"
    if is_new:
        return "asked", f"asked {name} to stop: {has}, finishes the files in hand and gives the rest back"
    return "nothing_to_do", f"{name} was asked before: {one.words(rules.zone)}; {has}"


# Acting


@dataclass(frozen=True, slots=True)
class Done:
    """What happened to one campaign. outcome: the word of `--json`; said: a sentence that names
    the campaign.
    """

    row: Row
    outcome: str
    said: str


def _tell(arguments: argparse.Namespace, done: Sequence[Done]) -> None:
    if not arguments.json:
        say("".join(f"{one.said}\n" for one in done))
        return
    names = ("campaign_id", "campaign_number", "campaign_name")
    _say_json(
        [
            {**{name: one.row[name] for name in names}, "outcome": one.outcome, "text": one.said}
            for one in done
        ]
    )


def _actor(arguments: argparse.Namespace) -> dict[str, str]:
    """Who acts, with what and why, for the history (migration 023)."""
    return {"who": arguments.by, "source": TOOL, "reason": arguments.reason}


def _act(
    database: Database, arguments: argparse.Namespace, query: str, chosen: Chosen, **values: object
) -> dict[str, Row]:
    """Run the query on the chosen campaigns; returns {id: its answer} of those that it changed."""
    ids = [row["campaign_id"] for row in chosen.rows]
    return _by_id(database.run_query(query, {"ids": ids, **values, **_actor(arguments)}))


def _exit_code_of(chosen: Chosen, done: Iterable[Done]) -> ExitCode:
    """The exit code of a command that did this to the chosen campaigns."""
    has_left_out = any(one.outcome in LEFT_OUT for one in done)
    return ExitCode.SOME_FAILED if has_left_out else chosen.exit_code


def show_explanation(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Explain why a campaign is where it is; exit code 4 when it is unknown."""
    (meant,) = find(database, [arguments.campaign_id])
    if meant.is_ambiguous:
        return choose(database, [arguments.campaign_id], _rules(settings)).exit_code
    campaign_id = meant.ids[0] if meant.ids else arguments.campaign_id
    now, cadence = datetime.now(UTC), settings.cadence
    zone, window = (cadence.timezone, cadence.off_hours) if cadence else (ZoneInfo("UTC"), None)
    by = Installation(
        settings.retry,
        zone,
        window,
        settings.status_a1,
        settings.master_assets_folder,
        settings.commands,
        settings.links,
    )
    facts = facts_of(database, campaign_id, now, status_a1=settings.status_a1)
    live, exit_code = None, ExitCode.OK
    if arguments.live:
        from shared.upload.look import look  # only this needs the DAM's client

        whole = load_settings(read_environment(arguments.env_file))
        configure_logging(whole.log.format, whole.log.level, run_id="operator", secrets=whole.secrets)
        try:
            live = Live(*look(whole.dam, campaign_id, now))
        except DamError as exc:  # what the database knows is still shown
            logger.error("cannot ask the DAM: %s", exc, extra={"action": "run_failed", "kind": exc.kind})
            exit_code = exc.exit_code
    told = explain(facts, by, now, live)
    say(f"{as_json(told, by)}\n" if arguments.json else as_text(told, by))
    return exit_code or (ExitCode.OK if told.is_known else ExitCode.SOME_FAILED)


def reset(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Reset the named campaigns, or all that are permanently failed; the history says who did it and why."""
    if (bool(arguments.campaign_ids), arguments.all_failed, arguments.digest is not None).count(True) != 1:
        logger.error("reset: name campaigns, or give --all-failed, or --digest")
        return ExitCode.BAD_CONFIG
    if arguments.digest is not None:
        return _reset_digest(database, arguments, settings)
    if arguments.all_failed:
        return _reset_all_failed(database, arguments, settings)
    return _resetnamed(database, arguments, settings)


def _resetnamed(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> ExitCode:
    chosen = choose(database, arguments.campaign_ids, _rules(settings))
    done = _reset_shown(database, arguments, settings, chosen.rows)
    return _exit_code_of(chosen, done)


def _reset_all_failed(
    database: Database, arguments: argparse.Namespace, settings: OperatorSettings
) -> ExitCode:
    if arguments.json and not arguments.yes:
        logger.error("reset: --json cannot ask; add --yes")
        return ExitCode.BAD_CONFIG
    rows = _objects(database.run_query("failed", {}))
    if not rows and not arguments.json:
        say("no campaign is permanently failed\n")
        return ExitCode.OK
    if not arguments.yes:
        say(listing.failed(rows, _rules(settings)))
        them = "this campaign" if len(rows) == 1 else f"these {len(rows)} campaigns"
        say(f"Reset {them} to attempt 1? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was changed\n")
            return ExitCode.OK
    _reset_shown(database, arguments, settings, rows)
    return ExitCode.OK


def _reset_digest(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> ExitCode:
    """Reset the failed campaigns of one digest."""
    told = _objects(database.run_query("digest", {"mail": arguments.digest}))
    if not told:
        logger.error("no e-mail with the id %s was sent; check the id", arguments.digest)
        return ExitCode.SOME_FAILED
    told_of = {row["campaign_id"] for row in told}
    shown = [row for row in _objects(database.run_query("failed", {})) if row["campaign_id"] in told_of]
    if not shown and not arguments.json:
        say("none of its campaigns is permanently failed\n")
    _reset_shown(database, arguments, settings, shown)
    return ExitCode.OK


def _reset_shown(
    database: Database, arguments: argparse.Namespace, settings: OperatorSettings, shown: Sequence[Row]
) -> list[Done]:
    """Reset these campaigns and say what happens next to each. A campaign that was changed after we read it
    is skipped.
    """
    worth_it = list(filter(_is_to_reset, shown))
    values = {
        "ids": [row["campaign_id"] for row in worth_it],
        "seen": [row["a1_last_retry_at"] for row in worth_it],
        **_actor(arguments),
    }
    with database.transaction():
        ((ids,),) = database.run_query("reset_note", values)[1]
        changed = _by_id(database.run_query("reset", {"ids": ids}))
    when, rules = _when(database, settings), _rules(settings)
    done = []
    for row in shown:
        outcome, said = "nothing_to_do", f"{named(row)}: nothing to reset, no attempt is counted"
        if row["campaign_id"] in changed:
            comes = outlook(changed[row["campaign_id"]]["status"], settings.status_a1, when)
            outcome, said = "reset", f"reset {named(row)}: {comes}"
        elif _is_to_reset(row):
            comes = (
                "somebody or a run changed it in the meantime; look at it, and reset it again if necessary"
            )
            outcome, said = "skipped", f"skipped {named(row)}: {comes}"
        done.append(Done(row, outcome, said + _snooze_beside(row, rules) + _error_beside(row, "a reset")))
    _tell(arguments, done)
    return done


def _is_to_reset(row: Row) -> bool:
    return bool(row["a1_retry_count"] or row["a1_permanently_failed"])


def snooze(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Snooze the named campaigns: files are promised, and no attempt counts before the given time."""
    rules = _rules(settings)
    zone = settings.cadence.timezone if settings.cadence else None
    end = snooze_end(arguments.until, zone, rules.now)
    chosen = choose(database, arguments.campaign_ids, rules)
    changed = _act(database, arguments, "snooze", chosen, until=end)
    done = []
    for row in chosen.rows:
        after = changed.get(row["campaign_id"])
        if after is None:
            done.append(_without_row(row))
            continue
        verb = "reset and snoozed" if after["is_reset"] else "snoozed"
        comes = "runs upload files that come, and count no attempt before then"
        if after["status"] not in (None, settings.status_a1):
            comes = outlook(after["status"], settings.status_a1, "")
        until = _clock(end.astimezone(rules.zone))
        said = f"{verb} {named(row)} until {until}: {comes}{_error_beside(row, 'a snooze')}"
        done.append(Done(row, "snoozed", said))
    _tell(arguments, done)
    return _exit_code_of(chosen, done)


def wake(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """End the snooze of the named campaigns."""
    rules = _rules(settings)
    chosen = choose(database, arguments.campaign_ids, rules)
    changed = _act(database, arguments, "wake", chosen)
    done = []
    for row in chosen.rows:
        if row["campaign_id"] in changed:
            comes = rules.standing({**row, "a1_snoozed_until": None}).coming
            done.append(Done(row, "woken", f"woke {named(row)}: {escape_line(comes)}"))
        else:
            done.append(Done(row, "nothing_to_do", f"{named(row)}: it is not snoozed"))
    _tell(arguments, done)
    return chosen.exit_code


def limit(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Set how many attempts a cycle of the named campaigns has, or give them the limit of all campaigns
    again.
    """
    rules = _rules(settings)
    chosen = choose(database, arguments.campaign_ids, rules)
    changed = _act(database, arguments, "limit", chosen, max_retries=str(arguments.attempts))
    most = arguments.attempts or settings.retry.max_retries
    attempts = f"{most} attempt{'' if most == 1 else 's'} per cycle"
    if not arguments.attempts:
        attempts += ", the same as all campaigns"
    done = []
    for row in chosen.rows:
        if row["campaign_id"] in changed:
            comes = rules.standing({**row, "a1_max_retries": arguments.attempts or None}).coming
            done.append(Done(row, "limited", f"limited {named(row)} to {attempts}: {escape_line(comes)}"))
        elif row["a1_cycle"] is None:
            done.append(_without_row(row))
        else:
            done.append(Done(row, "nothing_to_do", f"{named(row)}: it already has {attempts}"))
    _tell(arguments, done)
    return _exit_code_of(chosen, done)


def _without_row(row: Row) -> Done:
    """The answer for a campaign that a run has found in the DAM but not been able to read yet."""
    return Done(row, "unread", f"{named(row)}: no run has been able to read it yet, so nothing was changed")


# The users of the operator's page


def page_user(arguments: argparse.Namespace) -> int:
    """Add, change or remove a user of the operator's page. Asks for the password; needs no database."""
    from shared.page.users import remove_user, set_user  # only this command needs them

    file = arguments.file or read_environment(arguments.env_file).get("ADMIN_USERS_FILE", "").strip()
    if not file:
        raise ConfigError("page-user: no file given: set ADMIN_USERS_FILE, or use --file")
    path, name, shown = Path(file).expanduser(), arguments.name, escape_line(arguments.name)
    if arguments.remove:
        if not remove_user(path, name):
            logger.error("%s has no user %s", path, name)
            return ExitCode.SOME_FAILED
        say(f"removed {shown} from {path}; this also ends their sessions\n")
        return ExitCode.OK
    if set_user(path, name, _new_password(shown)):
        say(f"added {shown} to {path}; add the name to ADMIN_OPERATORS if they may act\n")
    else:
        say(f"changed the password of {shown} in {path}; this ends their sessions\n")
    return ExitCode.OK


def _new_password(shown: str) -> str:
    """A password that a person types twice, or the first line of a pipe. Raises ConfigError for an unsuitable
    one.
    """
    from shared.page.users import password_fault

    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass(f"Password for {shown}: ")
        if not password_fault(password) and getpass.getpass("Password again: ") != password:
            raise ConfigError("page-user: the two passwords differ; nothing was changed")
    fault = password_fault(password)
    if fault:
        raise ConfigError(f"page-user: {fault}; nothing was changed")
    return password


# In words


def _snooze_beside(row: Row, rules: Rules) -> str:
    """A snooze that continues after a reset, for the end of a sentence; "" for none."""
    until = retry_status(row).running_snooze(rules.now)
    if until is None:
        return ""
    return f"; it stays snoozed until {_clock(until.astimezone(rules.zone))}: no attempt counts before then"


def _error_beside(row: Row, act: str) -> str:
    """An error of the campaign that the act does not solve, for the end of a sentence; "" for none."""
    if not row.get("error"):
        return ""
    return (
        f"; it has failed with an error since {_plain(row['error_since'])}, which {act} does not"
        f" solve: {escape_line(row['error'])}"
    )


def _when(database: Database, settings: OperatorSettings) -> str:
    """When the uploader looks next, for a sentence."""
    from shared.loop.memory import Memory  # most commands do not need it

    now = datetime.now(UTC)
    last = Memory(database).last_task_runs(["a1_to_a2"], now).get("a1_to_a2")
    return next_look(settings.cadence, last, now)


def outlook(status: str | None, status_a1: str, when: str) -> str:
    """What happens next to a campaign that was reset. status: the one in its row."""
    if status == status_a1:
        return f"it starts again at attempt 1 {when}"
    if status == GONE:
        return f"the DAM does not show it: nothing happens until it is there again and set to {status_a1}"
    if status is None:
        return f"no run has seen its status: if it is set to {status_a1}, it starts again at attempt 1 {when}"
    return f"it is in {escape_line(status)}: nothing happens until it is set to {status_a1} again"


def next_look(cadence: CadenceSettings | None, last: LastRun | None, now: datetime) -> str:
    """When the uploader runs next, for a sentence. last: its last run that the orchestrator started."""
    if cadence is None or last is None:
        return "in the next run of the uploader"
    zone, window = cadence.timezone, cadence.off_hours
    coming = coming_run(last, now, zone, window)
    if coming.under_way_since is not None:
        return f"in the run after the one that began at {_clock(coming.under_way_since.astimezone(zone))}"
    if coming.overdue_since is not None:
        return (
            "in the next run of the uploader, overdue since"
            f" {_clock(coming.overdue_since.astimezone(zone))}: check that the orchestrator is running"
        )
    rule = ", off-hours" if is_off_hours(coming.at, window) else ""
    return f"in the next run of the uploader, planned for {_clock(coming.at)}{rule}"


def _clock(local: datetime) -> str:
    return f"{local:%H:%M %Z on %a %Y-%m-%d}"


def _say_states(
    arguments: argparse.Namespace,
    rows: Sequence[Row],
    rules: Rules,
    as_text: Callable[[Sequence[Row], Rules], str],
) -> None:
    """Print the rows with their states, as JSON or as text."""
    if not arguments.json:
        say(as_text(rows, rules))
        return
    standings = map(rules.standing, rows)
    _say_json(
        {**row, "state": one.state, "next": one.coming} for row, one in zip(rows, standings, strict=True)
    )


def _say_json(objects: Iterable[Mapping[str, object]]) -> None:
    plain = [{name: _plain(value) for name, value in one.items()} for one in objects]
    say(escape_json(json.dumps(plain, ensure_ascii=False)) + "\n")


def _objects(answer: Answer) -> list[Row]:
    columns, rows = answer
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _by_id(answer: Answer) -> dict[str, Row]:
    return {row["campaign_id"]: row for row in _objects(answer)}


def _plain(cell: object) -> object:
    if isinstance(cell, Holder):
        return as_object(cell)
    return cell.isoformat(timespec="seconds") if isinstance(cell, datetime) else cell


# The command line


def _user_name() -> str:
    """Who runs this, and where, also with sudo. In a container the user may have a number but no name."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _message_id(argument: str) -> str:
    """The id of an e-mail or a webhook, as PostgreSQL writes it."""
    if not re.fullmatch("[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", argument.lower()):
        raise argparse.ArgumentTypeError(
            f'"{argument}" is not the id of a message; copy it from the e-mail, or from a1_retry.py unsent'
        )
    return argument


def _attempts(argument: str) -> int:
    """A limit; 0 for the limit of all campaigns."""
    if argument == "default":
        return 0
    if not re.fullmatch("[0-9]{1,4}", argument) or not 1 <= int(argument) <= MOST_RETRIES:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST_RETRIES}, or default")
    return int(argument)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=TOOL, description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    env_file: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "read the settings from this file"}
    parser.add_argument("--env-file", **env_file)
    by_file = argparse.ArgumentParser(add_help=False)
    by_file.add_argument(
        "--env-file", default=argparse.SUPPRESS, **env_file
    )  # before the command or after it
    common = argparse.ArgumentParser(add_help=False, parents=[by_file])
    common.add_argument("--json", action="store_true", help="print a JSON list instead of text")
    by: dict[str, Any] = {
        "type": replace_unstorable, "default": _user_name(), "metavar": "NAME",
        "help": "who acts; default: you",
    }  # fmt: skip
    acting = argparse.ArgumentParser(add_help=False)
    acting.add_argument("--by", **by)
    acting.add_argument(
        "--reason", type=replace_unstorable, default="", metavar="TEXT", help="why; shown in the history"
    )
    parser.set_defaults(alone=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, action: Action, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common, *parents], help=text)
        command.set_defaults(action=action)
        return command

    a_campaign: dict[str, Any] = {
        "type": replace_unstorable, "metavar": "C", "help": "an id, a number, or the beginning of a name",
    }  # fmt: skip
    status = add("status", show_status, "campaigns that are in retry or stuck, or the ones you name")
    status.add_argument("campaign_ids", nargs="*", **a_campaign)
    add("failed", show_failed, "permanently failed campaigns")
    add("near-failure", show_near_failure, "campaigns with one attempt left")
    history = add("history", show_history, "what happened to a campaign, who did it and why")
    history.add_argument("campaign_id", **a_campaign)
    why = add("explain", show_explanation, "why a campaign is where it is, and what happens next")
    why.add_argument("campaign_id", **a_campaign)
    why.add_argument("--live", action="store_true", help="also ask the DAM")
    add("unsent", show_unsent, "e-mails and webhooks that someone has not received, and why")
    told = add("told", show_told, "all notices that one e-mail contained")
    told.add_argument("mail", type=_message_id, metavar="ID")

    again = add("reset", reset, "let campaigns start again at attempt 1", acting)
    again.add_argument("campaign_ids", nargs="*", **a_campaign)
    again.add_argument("--all-failed", action="store_true", help="every permanently failed campaign")
    again.add_argument(
        "--digest", type=_message_id, metavar="ID", help="the failed campaigns that one digest e-mail lists"
    )
    again.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    later = add("snooze", snooze, "files are promised: count no attempt until a given time", acting)
    later.add_argument("campaign_ids", nargs="+", **a_campaign)
    later.add_argument(
        "--until",
        type=replace_unstorable,
        required=True,
        metavar="TIME",
        help="such as 2026-12-07T08:00, at most 90 days ahead",
    )
    now = add("wake", wake, "end a snooze", acting)
    now.add_argument("campaign_ids", nargs="+", **a_campaign)
    most = add("limit", limit, "set how many attempts a cycle of these campaigns has", acting)
    most.add_argument("campaign_ids", nargs="+", **a_campaign)
    most.add_argument(
        "attempts",
        type=_attempts,
        metavar="N",
        help=f"1 to {MOST_RETRIES}, or default: the same as all campaigns",
    )
    add("workers", show_workers, "the workers of all hosts, and the campaigns that each has, since when")
    stop = add("drain", drain, "ask the workers of a host to finish the files in hand and to stop")
    stop.add_argument(
        "host", type=replace_unstorable, metavar="HOST", help="a host, or the name of one worker"
    )
    stop.add_argument("--by", **by)
    hook = commands.add_parser("webhook", help="test a webhook's target, or send a message again")
    hooks = hook.add_subparsers(required=True, metavar="COMMAND")
    test = hooks.add_parser("test", parents=[common], help="send a test to a target, which turns it on again")
    test.add_argument("name", type=replace_unstorable, metavar="NAME")
    test.set_defaults(alone=test_webhook)
    resend = hooks.add_parser("redeliver", parents=[common], help="let a message go out again, by its id")
    resend.add_argument("id", type=_message_id, metavar="ID")
    resend.set_defaults(action=redeliver)
    user = commands.add_parser(
        "page-user", parents=[by_file], help="add, change or remove a user of the operator's page"
    )
    user.set_defaults(alone=page_user)
    user.add_argument("name", type=replace_unstorable, metavar="NAME")
    user.add_argument("--file", metavar="FILE", help="default: ADMIN_USERS_FILE")
    user.add_argument("--remove", action="store_true", help="remove the user")
    return parser.parse_args(argv)


# Webhooks


def test_webhook(arguments: argparse.Namespace) -> int:
    """Send a test without the outbox. If it arrives, it turns on a target that had answered 410."""
    from shared.webhooks.delivery import hand_over
    from shared.webhooks.hooks import Hooks
    from shared.webhooks.outbox import WebhookOutbox

    settings = load_webhook_settings(read_environment(arguments.env_file))
    configure_logging(settings.log.format, settings.log.level, run_id="operator", secrets=settings.secrets)
    targets = {target.name: target for target in settings.webhooks.targets}
    target = targets.get(arguments.name.lower())
    if target is None:
        known = ", ".join(sorted(targets)) or "none"
        raise ConfigError(f"no webhook {arguments.name!r} is in the settings; they name: {known}")
    now = datetime.now(UTC)
    message = Hooks(settings.webhooks, settings.links).trial(target.name, now)
    ticket = hand_over(message, target, settings.webhooks, now)
    with Database(settings.database.dsn, application_name="a1_to_a2 operator") as database:
        WebhookOutbox(database).turn_on(target.name)
    if arguments.json:
        _say_json([{"target": target.name, "id": message.id, "ticket": ticket}])
    else:
        incident = f", incident {ticket} opened and closed" if ticket else ""
        say(f"{target.name} accepted the test {message.id}{incident}\n")
    return ExitCode.OK


def redeliver(database: Database, arguments: argparse.Namespace, settings: OperatorSettings) -> int:
    """Let the next run send a webhook's message again, under its id."""
    from shared.webhooks.outbox import WebhookOutbox

    count = WebhookOutbox(database).redeliver(arguments.id)
    if not count:
        logger.error(
            "no webhook message %s was sent or given up; to list those given up: a1_retry.py unsent",
            arguments.id,
        )
    if arguments.json:
        _say_json([{"id": arguments.id, "deliveries": count}])
    elif count:
        due = "1 delivery is" if count == 1 else f"{count} deliveries are"
        say(f"{due} due again; the next run sends {arguments.id}\n")
    return ExitCode.OK if count else ExitCode.SOME_FAILED


def run(arguments: argparse.Namespace) -> int:
    """Read the settings and run the command. alone: a command that needs no settings and no database."""
    if arguments.alone:
        alone: int = arguments.alone(arguments)
        return alone
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
