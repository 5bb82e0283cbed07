"""Does one run over the campaigns in A1: copies their master assets to Box and moves them to A2.

When a campaign's Master Assets folder is proven empty, the run counts an attempt and sends one e-mail. After
the last attempt, runs skip the campaign until somebody resets it.
"""

import shared.base.prerequisites  # noqa: F401 - first: it reports an old Python in one line

# isort: split
import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from shared.base.errors import AppError, ConfigError, ExitCode, gravest
from shared.base.logs import configure_logging, new_run_id
from shared.base.script import prepare_streams, say
from shared.http.ahead import quietly
from shared.settings import Settings, load_settings, read_environment, source_of
from shared.upload.progress import Progress
from shared.upload.run_report import Report

if TYPE_CHECKING:
    from shared.base.commands import Commands
    from shared.dam.client import DamClient
    from shared.database import Database
    from shared.scale.jobs import Jobs
    from shared.upload.road import Clock

logger = logging.getLogger("uploader")


class RunLockedError(Exception):
    """Another run has the lock; the message says which."""


def _stop_event() -> threading.Event:
    """Set by the first signal that asks to stop."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_pass(arguments: argparse.Namespace, report: Report, clock: "Clock") -> ExitCode:
    """Read the settings, take the lock, work, and deliver the notices in the outbox."""
    settings = load_settings(read_environment(arguments.env_file), arguments.dam_auth)
    report.secrets = settings.secrets
    configure_logging(
        settings.log.format,
        "DEBUG" if arguments.verbose else settings.log.level,
        run_id=report.run_id,
        secrets=settings.secrets,
    )
    logger.debug(
        "read the settings from %s", source_of(arguments.env_file), extra={"action": "settings_read"}
    )
    stop = _stop_event()
    progress = Progress(time.monotonic)
    # PostgreSQL keeps only 63 bytes.
    name = f"a1_to_a2 {socket.gethostname()}:{os.getpid()} run {report.run_id}"[:63]

    from shared.dam.client import DamClient

    with ExitStack() as resources:
        if sys.stderr.isatty():
            from shared.upload.screen import Screen

            can_redraw = os.environ.get("TERM", "") not in ("", "dumb")
            resources.enter_context(Screen(sys.stderr, progress, can_redraw=can_redraw))
        # A faulty certificate is reported before any network call.
        dam = DamClient(settings.dam, now=clock(), wait=stop.wait)
        resources.callback(dam.close)
        connecting = threading.Thread(target=quietly, args=(dam.connect,), daemon=True)
        connecting.start()  # it takes round trips; we import and read the database at the same time

        from shared.database import Database
        from shared.upload.outgoing import Outgoing
        from shared.upload.uploader import Pass

        database = resources.enter_context(
            Database(
                settings.database.dsn,
                settings.retry.max_retries,
                application_name=name,
                is_stopping=stop.is_set,
            )
        )
        database.ensure_migrated(settings.commands)
        if arguments.verify is None and not arguments.dry_run:
            take_lock(database)
        works_itself = settings.engine.is_local or arguments.dry_run or arguments.verify is not None
        jobs = None if works_itself else queue_of(database)
        connecting.join()
        if arguments.verify is not None:
            return verify(arguments.verify, settings, database, dam, report, progress)

        def connect_beside() -> Database:
            return Database(settings.database.dsn, settings.retry.max_retries, application_name=name).holding(
                database
            )

        outgoing = Outgoing(settings, connect_beside, clock, report.run_id)
        report.delivered = outgoing.counts
        single = Pass(
            settings, database, dam, report, clock=clock, is_dry_run=arguments.dry_run,
            is_stopping=stop.is_set, progress=progress,
            open_ledger=lambda: Database(
                settings.database.dsn, application_name=name, waits_for_disk=False, is_stopping=stop.is_set
            ),
            deliver_beside=outgoing.begin, hooks=outgoing.hooks, queue=jobs,
        )  # fmt: skip
        try:
            exit_code = single.run(arguments.campaign)
            if jobs is None or arguments.campaign:
                return exit_code
            return with_concerns(exit_code, jobs, report, settings.commands)
        finally:
            report.transfer = progress.figures
            outgoing.stop()
            if not arguments.dry_run and not database.is_closed:
                outgoing.finish(database)
                keep_metrics(settings, database, report, clock())


def queue_of(database: "Database") -> "Jobs":
    """The engine's queue. Raises ConfigError when the engine's tables are missing."""
    from shared.scale.jobs import Jobs
    from shared.upkeep.engine import ensure_engine

    ensure_engine(database)
    return Jobs(database)


def with_concerns(exit_code: ExitCode, jobs: "Jobs", report: Report, commands: "Commands") -> ExitCode:
    """The exit code of a run whose campaigns are with the workers: theirs counts too. Raises DbError."""
    concerns = jobs.concerns(commands)
    for concern in concerns:
        logger.error("%s", concern.text, extra={"action": "workers_troubled"})
        report.error = report.error or concern.text
    return ExitCode(gravest((exit_code, *(concern.exit_code for concern in concerns))))


def keep_metrics(settings: Settings, database: "Database", report: Report, now: datetime) -> None:
    """Add what this run did to the totals, and write METRICS_FILE. A failure is only logged."""
    with only_logged("this run is missing in the totals of the metrics"):
        report.add_totals(database)
    if settings.metrics_file is not None:
        with only_logged("METRICS_FILE could not be written"):
            from shared.report.metrics import exposition, write_metrics_file

            content = exposition(database, settings.retry, settings.dam.status_a1, now)
            write_metrics_file(settings.metrics_file, content)


@contextmanager
def only_logged(what: str) -> Iterator[None]:
    """Turn every failure inside into a warning: metrics never change how a run ends."""
    try:
        yield
    except (AppError, OSError) as exc:
        logger.warning("%s: %s", what, exc, extra={"action": "metrics_failed"})
    except Exception:
        logger.exception("%s: a bug", what, extra={"action": "metrics_failed"})


def take_lock(database: "Database") -> None:
    """Take the lock, so that no other run works. Raises RunLockedError when another run has it."""
    from shared.database import UPLOADER_LOCK

    holder = database.take_run(UPLOADER_LOCK)
    if holder is not None:
        raise RunLockedError(f"another run holds the lock: {holder}")


def verify(
    campaign_id: str,
    settings: Settings,
    database: "Database",
    dam: "DamClient",
    report: Report,
    progress: Progress,
) -> ExitCode:
    """Read a campaign's assets in the DAM and in Box again and report each difference; writes nothing."""
    from shared.upload.box_users import open_box
    from shared.upload.buckets import Buckets
    from shared.upload.ledger import Ledger
    from shared.upload.receipt import Sides, compare

    ledger = Ledger(database)
    folder_id = ledger.box_folder_of(campaign_id)
    if dam.read_campaign(campaign_id) is None:
        report.differences = [f"campaign {campaign_id} is not visible in the DAM"]
    elif folder_id is None:
        report.differences = [f"campaign {campaign_id} has no folder in Box on record"]
    else:
        found = dam.list_master_assets(campaign_id)
        sides = Sides(campaign_id, found, folder_id, ledger.uploaded_assets(campaign_id))
        limits = settings.transfer
        with closing(open_box(settings.box, limits, Buckets(database))) as box:
            report.differences = compare(dam, box.of(campaign_id), sides, progress, workers=limits.workers)
        logger.info("campaign %s: read %d assets in the DAM and in Box", campaign_id, len(found.assets))
    for text in report.differences:
        logger.error("%s", text, extra={"action": "difference", "campaign_id": campaign_id})
    if not report.differences:
        logger.info(
            "campaign %s: the DAM and Box have the same assets", campaign_id, extra={"action": "verified"}
        )
    return ExitCode.SOME_FAILED if report.differences else ExitCode.OK


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="a1_to_a2_box_uploader.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    way_in = parser.add_mutually_exclusive_group()
    way_in.add_argument(
        "--auth-pfx-v2", dest="dam_auth", action="store_const", const="pfx-v2",
        help="client certificate and OAuth token (overrides DAM_AUTH)",
    )  # fmt: skip
    way_in.add_argument(
        "--auth-password", dest="dam_auth", action="store_const", const="password",
        help="session login (overrides DAM_AUTH)",
    )  # fmt: skip
    parser.add_argument(
        "--campaign", action="append", default=[], type=_campaign_id, metavar="ID",
        help="only this campaign; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--verify", type=_campaign_id, metavar="ID",
        help="read this campaign's assets in the DAM and in Box again, and compare them",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what a run would do; write nothing anywhere"
    )
    parser.add_argument("--json", action="store_true", help="print the run's report as one JSON object")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read the settings from this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="log at level DEBUG")
    return parser.parse_args(argv)


def _campaign_id(argument: str) -> str:
    """A campaign's id. An impossible id is refused: in a run it would cause an error e-mail."""
    from shared.dam.answers import is_safe_id

    if not is_safe_id(argument):
        raise argparse.ArgumentTypeError(
            f"{argument!a:.80} is not an id of the DAM (an id has 40 hex digits)"
        )
    return argument


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    arguments = parse_arguments(argv)
    started = time.monotonic()
    report = Report(run_id=new_run_id(), started_at=datetime.now(UTC))
    configure_logging("text", "INFO", run_id=report.run_id, secrets=())
    try:
        exit_code = run_pass(arguments, report, lambda: datetime.now(UTC))
    except RunLockedError as exc:
        logger.warning("%s", exc, extra={"action": "run_locked"})
        exit_code, report.error = ExitCode.TRY_LATER, str(exc)
    except ConfigError as exc:
        for fault in exc.faults:
            logger.error("%s", fault, extra={"action": "bad_configuration"})
        exit_code, report.error = ExitCode.BAD_CONFIG, str(exc)
    except AppError as exc:
        logger.error("%s", exc, extra={"action": "run_failed", "kind": exc.kind})
        exit_code, report.error = exc.exit_code, str(exc)
    except Exception as exc:  # a bug: logged with its traceback, and shown by the exit code
        logger.exception("a bug ended the run")
        exit_code, report.error = ExitCode.BUG, type(exc).__name__
    if report.delivered.faults:
        exit_code = ExitCode(gravest((exit_code, ExitCode.BAD_CONFIG)))
        report.error = report.error or "; ".join(report.delivered.faults)
    duration = time.monotonic() - started
    logger.info(
        "done in %.2f s: %d campaigns, %d notices queued, %d sent, %d not sent, exit code %d",
        duration, len(report.campaigns), report.queued, report.delivered.sent, report.delivered.failed,
        exit_code, extra={"action": "run_done", "exit_code": int(exit_code)},
    )  # fmt: skip
    if arguments.json:
        say(report.to_json(exit_code, duration) + "\n")
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
