"""Sends the daily report: what happened in a local day, by e-mail, once per date. Or the weekly digest.

One transaction queues the report and marks its date as done; a second start finds the mark and only delivers
what is still in the outbox. The weekly digest works the same way: its id belongs to its week.
"""

import shared.base.prerequisites  # noqa: F401 - first: it reports an old Python in one line

# isort: split
import argparse
import logging
import socket
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import uuid4

from shared.base.errors import ConfigError, DbError, ExitCode
from shared.base.logs import configure_logging, new_run_id
from shared.base.script import exit_code_of, prepare_streams, say
from shared.base.values import Notice, Origin
from shared.database import Database
from shared.loop.memory import Memory
from shared.notices.delivery import deliver_due_notices
from shared.notices.outbox import Outbox
from shared.notifier import Composer, Mailer
from shared.report.day import ReportDay, report_day
from shared.report.figures import DayReport, Figures
from shared.report.week import WeekFigures
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, next_run
from shared.settings import ReportSettings, load_report_settings, read_environment, source_of
from shared.upkeep.retention import prune
from shared.upkeep.schema import Schema

logger = logging.getLogger("report")


def read_report(
    database: Database, settings: ReportSettings, day: ReportDay, now: datetime, *, is_preview: bool
) -> DayReport:
    """All values of the report of this day."""
    alerts = [alert for of_task in Memory(database).task_alerts().values() for alert in of_task.values()]
    planned = next_run(A1_TO_A2_INTERVAL_MINUTES, now, settings.timezone, settings.off_hours)
    return Figures(database).report(
        day,
        status_a1=settings.status_a1,
        next_run_at=planned.at,
        alerts=alerts,
        now=now,
        is_preview=is_preview,
    )


def queue_report(
    database: Database, settings: ReportSettings, composer: Composer, day: ReportDay, now: datetime
) -> None:
    """Queue the report of this day and mark its date as done, in one transaction, unless it is
    done already.
    """
    notice_id, figures = str(uuid4()), Figures(database)
    with database.transaction():
        is_ours = figures.claim(day, notice_id, now)
        if is_ours:
            report = read_report(database, settings, day, now, is_preview=False)
            Outbox(database).queue(composer.daily_report(report, notice_id=notice_id, now=now))
    if is_ours:
        logger.info("the report of %s is queued", day.date, extra={"action": "report_queued"})
    else:
        queued_at = figures.queued_at(day.date)
        logger.info(
            "the report of %s was already queued at %s, so it is not sent again",
            day.date, f"{queued_at.astimezone(settings.timezone):%Y-%m-%d %H:%M:%S %Z}" if queued_at else "?",
            extra={"action": "report_exists"},
        )  # fmt: skip


def preview(
    database: Database,
    settings: ReportSettings,
    composer: Composer,
    arguments: argparse.Namespace,
    chosen: date,
    now: datetime,
) -> Notice:
    """Print the report or the digest as it would be now."""
    notice_id = str(uuid4())
    if arguments.weekly:
        stuck = WeekFigures(database).report(chosen, now, status_a1=settings.status_a1)
        return composer.weekly_digest(stuck, notice_id=notice_id, now=now)
    day = report_day(chosen, now, settings.timezone, Figures(database).previous(chosen))
    report = read_report(database, settings, day, now, is_preview=True)
    return composer.daily_report(report, notice_id=notice_id, now=now)


def queue_digest(
    database: Database, settings: ReportSettings, composer: Composer, today: date, now: datetime
) -> None:
    """Queue the digest of this week, unless that has been done."""
    figures, outbox = WeekFigures(database), Outbox(database)
    digest_id = figures.digest_id(today)
    is_ours = False
    if not outbox.is_known(digest_id):
        report = figures.report(today, now, status_a1=settings.status_a1)
        with database.transaction():
            is_ours = outbox.queue(composer.weekly_digest(report, notice_id=digest_id, now=now))
    year, week, _ = today.isocalendar()
    logger.info(
        "the digest of week %d of %d %s", week, year,
        "is queued" if is_ours else "was already queued, so it is not sent again",
        extra={"action": "digest_queued" if is_ours else "digest_exists"},
    )  # fmt: skip


def run(arguments: argparse.Namespace, run_id: str, now: datetime) -> int:
    """Print the report; or queue it, deliver the notices that are due, and remove old rows."""
    settings = load_report_settings(read_environment(arguments.env_file))
    configure_logging(
        settings.log.format,
        "DEBUG" if arguments.verbose else settings.log.level,
        run_id=run_id,
        secrets=settings.secrets,
    )
    logger.debug(
        "read the settings from %s", source_of(arguments.env_file), extra={"action": "settings_read"}
    )
    today = now.astimezone(settings.timezone).date()
    chosen: date = arguments.date or today
    if chosen > today:
        raise ConfigError(f"--date: {chosen} is in the future; today is {today} in {settings.timezone}")
    origin = Origin(socket.gethostname(), run_id)
    composer = Composer(
        timezone=settings.timezone,
        max_attempts=settings.retry.max_retries,
        folder_name=settings.master_assets_folder,
        commands=settings.commands,
        links=settings.links,
        origin=origin,
        error_recipients=settings.mail.error_recipients,
        success_recipients=settings.mail.success_recipients,
        report_recipients=settings.mail.report_recipients,
    )
    name = f"a1_to_a2 daily report {run_id}"
    with Database(settings.database.dsn, settings.retry.max_retries, application_name=name) as database:
        Schema(database).ensure_migrated(settings.commands)
        if arguments.dry_run:
            say(preview(database, settings, composer, arguments, chosen, now).text)
            return ExitCode.OK
        database.ensure_own_session()  # each e-mail is sent under a lock
        if arguments.weekly:
            queue_digest(database, settings, composer, today, now)
        else:
            figures = Figures(database)
            day = report_day(chosen, now, settings.timezone, figures.previous(chosen))
            figures.forget_later(now, settings.timezone)
            queue_report(database, settings, composer, day, now)
        mailer = Mailer(settings.mail.server)
        delivered = deliver_due_notices(
            database, mailer, now, settings.timezone, settings.commands, settings.links, origin=origin
        )
        logger.info("%d notices sent, %d not sent", delivered.sent, delivered.failed)
        try:
            if not arguments.weekly:
                prune(database, now)
        except DbError as exc:  # the report is sent; old rows can wait
            logger.warning(
                "old rows could not be removed; the next report tries again: %s", exc,
                extra={"action": "rows_kept"},
            )  # fmt: skip
    # The uploader reports late notices: its runs send the heartbeat.
    return ExitCode.BAD_CONFIG if delivered.faults else ExitCode.OK


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="daily_report.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--date", type=_date, metavar="YYYY-MM-DD", help="a local date; default: today, up to now"
    )
    parser.add_argument(
        "--weekly", action="store_true", help="send the digest of stuck campaigns instead, once per week"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the report; write and send nothing"
    )
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read the settings from this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="log at level DEBUG")
    arguments = parser.parse_args(argv)
    if arguments.weekly and arguments.date is not None:
        parser.error("--weekly shows the present state, so it cannot be used with --date")
    return arguments


def _date(text: str) -> date:
    """A date in the usual ISO form; Python would also accept `20260131` and `2026-W05-6`."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise argparse.ArgumentTypeError(f"expected a date such as 2026-01-31, got {text!r}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    arguments = parse_arguments(argv)
    run_id = new_run_id()
    configure_logging("text", "INFO", run_id=run_id, secrets=())
    return exit_code_of(lambda: run(arguments, run_id, datetime.now(UTC)))


if __name__ == "__main__":
    raise SystemExit(main())
