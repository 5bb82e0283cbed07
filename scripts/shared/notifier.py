"""The messages: composing a notice from a fact, and handing it to the mail server.

Composing is pure (templates/ and the arguments); delivering is one SMTP connection a run. Whatever comes
from outside (a campaign's name, an error's text) passes `one_line` first. jinja2, smtplib, ssl and email are
imported where they are used, so that a run without news does not pay for them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from shared.base.commands import Commands
from shared.base.errors import NotifyError
from shared.base.redaction import redact, spellings
from shared.base.values import (
    Attempt,
    Bundle,
    Campaign,
    DeliveryResult,
    MailServer,
    Notice,
    NoticeKind,
    NoticeLine,
    UploadTotals,
)
from shared.rules.alerts import AlertNews

if TYPE_CHECKING:
    import smtplib
    import socket
    import ssl
    from email.message import EmailMessage
    from email.policy import EmailPolicy
    from types import TracebackType
    from zoneinfo import ZoneInfo

    from jinja2 import Environment

    from shared.report.day import DayReport, EmptyCampaign, LastingFailure, Section, TaskRuns, Upload

TEMPLATES: Final = Path(__file__).parent / "notices" / "templates"

GIVE_UP_AFTER: Final = timedelta(days=5)
"""How long a recipient may be refused with a 4xx (full mailbox, greylisting) before nobody tries any more.

Counted from the notice's creation; the five days are the customary life of a mail in a server's queue.
"""


# --- text from outside --------------------------------------------------------------------------------------

# Bidi embeddings, overrides and isolates reorder what follows them; a BOM is no text. Joiners, marks and
# variation selectors stay: emoji, Arabic and Indic names need them.
_INVISIBLE: Final = re.compile("[\u202a-\u202e\u2066-\u2069\ufeff]")
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def one_line(text: str, limit: int = 500) -> str:
    """Make text from outside safe to stand in a header or a line: it can neither end it nor reorder it.

    Control characters and line ends become one space, bidi controls and BOMs vanish, lone surrogates become
    U+FFFD; more than `limit` characters are cut with an ellipsis. Ordinary text stays as it is.
    """
    pieces = _CONTROLS.split(_INVISIBLE.sub("", text))
    line = _LONE_SURROGATES.sub("\ufffd", " ".join(piece.strip() for piece in pieces if piece.strip()))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def reset_sql(campaign_id: str) -> str:
    """The statement that resets this campaign, on one line, for people to paste into psql."""
    return (
        "UPDATE campaign_status SET a1_retry_count = 0, a1_last_retry_at = NULL,"  # noqa: S608  # nosec B608 - quoted below
        " a1_permanently_failed = FALSE, a1_failure_reason = NULL"
        f" WHERE campaign_id = {_sql_literal(campaign_id)};"
    )


def reset_digest_sql(mail_id: str) -> str:
    """The statement that resets the failed campaigns of one table, on one line."""
    return (
        "UPDATE campaign_status SET a1_retry_count = 0, a1_last_retry_at = NULL,"  # noqa: S608  # nosec B608 - quoted below
        " a1_permanently_failed = FALSE, a1_failure_reason = NULL"
        " WHERE a1_permanently_failed AND campaign_id IN (SELECT n.campaign_id FROM notice_deliveries d"
        f" JOIN notices n ON n.id = d.notice_id WHERE d.mail_id = {_sql_literal(mail_id)});"
    )


def _sql_literal(value: str) -> str:
    """Quote for PostgreSQL, whatever standard_conforming_strings says.

    A backslash or something unprintable brings the E'' form, which means the same in both settings. NUL and
    lone surrogates become escapes that PostgreSQL refuses: no campaign can have such an id.
    """
    quoted = value.replace("'", "''")
    if value.isprintable() and "\\" not in value:
        return f"'{quoted}'"
    return "E'" + "".join(map(_sql_escape, quoted)) + "'"


def _sql_escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"


# --- composing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Turns facts into notices. Holds what all of them share; time is an argument.

    timezone: the zone people read times in. max_attempts: attempts a cycle. folder_name: the folder that
    must hold the files. commands: those of this installation, for people to paste.
    """

    timezone: ZoneInfo
    max_attempts: int
    folder_name: str
    commands: Commands
    error_recipients: tuple[str, ...]
    success_recipients: tuple[str, ...]
    report_recipients: tuple[str, ...] = ()

    def retry(
        self, campaign: Campaign, attempt: Attempt, *, reason: str, next_run_at: datetime, now: datetime
    ) -> Notice:
        """An empty folder that will be looked at again. next_run_at: when, as far as the cadence knows."""
        return self._notice(
            NoticeKind.RETRY,
            campaign,
            self.error_recipients,
            now,
            attempt=attempt.number,
            remaining=max(0, self.max_attempts - attempt.number),
            reason=one_line(reason),
            detail=one_line(reason),
            next_run=_local_time(next_run_at, self.timezone),
        )

    def permanent(self, campaign: Campaign, attempt: Attempt, *, reason: str, now: datetime) -> Notice:
        """An empty folder that used up the last attempt: the last e-mail until somebody resets."""
        return self._notice(
            NoticeKind.PERMANENT,
            campaign,
            self.error_recipients,
            now,
            attempt=attempt.number,
            reason=one_line(reason),
            detail=one_line(reason),
            reset_sql=reset_sql(campaign.id),
            reset_command=self.commands.reset(campaign.id),
            where=self.commands.where,
        )

    def success(
        self, campaign: Campaign, totals: UploadTotals, *, box_folder_id: str, now: datetime
    ) -> Notice | None:
        """A campaign that reached A2. None when nobody asked for success notices. No folder id, no link."""
        if not self.success_recipients:
            return None
        from urllib.parse import quote

        folder = quote(one_line(box_folder_id), safe="")
        return self._notice(
            NoticeKind.SUCCESS,
            campaign,
            self.success_recipients,
            now,
            assets=totals.assets,
            size=_human_size(totals.size_bytes),
            attempt=0,
            detail=_assets_and_size(totals),
            box_url=f"https://app.box.com/folder/{folder}" if folder else "",
        )

    def error(
        self,
        campaign: Campaign,
        *,
        message: str,
        hint: str,
        kind: str,
        began_at: datetime,
        is_reminder: bool,
        counted_attempts: int,
        now: datetime,
    ) -> Notice:
        """A failure that a person must look at. hint: the cure, "" when none is known.

        began_at: when this kind of failure began. counted_attempts: spent so far; this failure spent none.
        """
        return self._notice(
            NoticeKind.ERROR,
            campaign,
            self.error_recipients,
            now,
            message=one_line(message),
            hint=one_line(hint),
            error_kind=one_line(kind),
            began=_local_time(began_at, self.timezone),
            is_reminder=is_reminder,
            attempt=counted_attempts,
            detail=("still: " if is_reminder else "") + one_line(f"{message} ({hint})" if hint else message),
        )

    def daily_report(self, report: DayReport, *, notice_id: str, now: datetime) -> Notice:
        """What happened in a local day. notice_id: the id under which the day is already marked as told."""
        values = _report_values(report, self.timezone, self.commands, now) | {
            "folder": one_line(self.folder_name),
            "max_attempts": self.max_attempts,
            "sent": _local_time(now, self.timezone),
        }
        return _rendered(NoticeKind.DAILY_REPORT, "", self.report_recipients, values, now, notice_id)

    def _notice(
        self,
        kind: NoticeKind,
        campaign: Campaign,
        recipients: tuple[str, ...],
        now: datetime,
        *,
        attempt: int,
        detail: str,
        **facts: str | int,
    ) -> Notice:
        number, campaign_id = one_line(campaign.number), one_line(campaign.id)
        values: dict[str, Any] = {
            "name": one_line(campaign.name) or number or campaign_id,
            "number": number or "(none)",
            "campaign_id": campaign_id,
            "folder": one_line(self.folder_name),
            "attempt": attempt,
            "max_attempts": self.max_attempts,
            "sent": _local_time(now, self.timezone),
            **facts,
        }
        line = NoticeLine(campaign.id, number, values["name"], attempt, self.max_attempts, detail)
        return replace(_rendered(kind, campaign.id, recipients, values, now), line=line)


DIGEST_LINES: Final = 200
"""The most lines in a table of many notices; it tells how the rest is listed. No e-mail is megabytes."""
_ABOUT: Final = {
    NoticeKind.RETRY: "retry",
    NoticeKind.PERMANENT: "permanent",
    NoticeKind.SUCCESS: "success",
    NoticeKind.ERROR: "error",
}


def digest(bundle: Bundle, timezone: ZoneInfo, commands: Commands) -> Notice:
    """Many notices of a kind as one e-mail, under the bundle's id. bundle.kind: one of BUNDLED_KINDS."""
    details = {one_line(line.detail, limit=300) for line in bundle.lines}
    is_said_once = len(details) == 1 and not bundle.more and bundle.kind is not NoticeKind.SUCCESS
    same_detail = details.pop() if is_said_once else ""
    is_permanent = bundle.kind is NoticeKind.PERMANENT
    rows = [
        {
            "number": one_line(line.number, limit=60) or "(none)",
            "name": one_line(line.name, limit=120) or one_line(line.number) or one_line(line.campaign_id),
            "attempt": line.attempt,
            "max_attempts": line.max_attempts,
            "detail": one_line(line.detail, limit=300),
            "reset_command": commands.reset(line.campaign_id) if is_permanent else "",
        }
        for line in bundle.lines
    ]
    values: dict[str, Any] = {
        "about": _ABOUT[bundle.kind],
        "campaigns": bundle.campaigns,
        "notices": bundle.notices,
        "max_attempts": bundle.max_attempts,
        "rows": rows,
        "more": bundle.more,
        "same_detail": same_detail.rstrip("."),
        "reset_all_command": commands.run("a1_retry.py", "reset", "--digest", bundle.id),
        "where": commands.where,
        "reset_all_sql": reset_digest_sql(bundle.id),
        "list_command": commands.run("a1_retry.py", "told", bundle.id),
        "sent": _local_time(bundle.created_at, timezone),
    }
    recipients = (bundle.recipient,)
    return _rendered(bundle.kind, "", recipients, values, bundle.created_at, bundle.id, "notice_digest")


EXIT_CODE_MEANINGS: Final = {
    "exit code 2": "its settings or credentials are faulty; the lines below name them",
    "exit code 3": "a bug; the traceback is in the log",
    "exit code 4": "a part of its work failed",
    "exit code 75": "it could not work: a system is out of reach, or another run holds the lock",
}


def task_alert(
    news: AlertNews,
    *,
    tail: Sequence[str],
    host: str,
    recipients: tuple[str, ...],
    timezone: ZoneInfo,
    now: datetime,
) -> Notice:
    """A task of the orchestrator that fails again and again, or does so no more.

    tail: the last lines it wrote, secrets already taken out.
    """
    meanings = [EXIT_CODE_MEANINGS[ending] for ending in news.endings if ending in EXIT_CODE_MEANINGS]
    values: dict[str, Any] = {
        "news": news.kind,
        "task": one_line(news.task),
        "endings": one_line(", ".join(news.endings)),
        "meaning": "; ".join(meanings) or "it was ended from outside; see the log",
        "failures": news.failures,
        "began": _local_time(news.began_at, timezone),
        "host": one_line(host),
        "tail": [one_line(line, 300) for line in tail],
        "sent": _local_time(now, timezone),
    }
    return _rendered(NoticeKind.TASK_ALERT, "", recipients, values, now)


def _rendered(
    kind: NoticeKind,
    campaign_id: str,
    recipients: tuple[str, ...],
    values: dict[str, Any],
    now: datetime,
    notice_id: str | None = None,
    template: str | None = None,
) -> Notice:
    """The notice of these values. notice_id: None for a new one. template: None for the kind's own."""
    from uuid import uuid4

    template = template or kind.value
    subject = _render(f"{template}.subject.txt.j2", values)
    return Notice(
        id=notice_id or str(uuid4()),
        kind=kind,
        campaign_id=campaign_id,
        subject=subject,
        text=_render(f"{template}.txt.j2", values) + "\n",
        html=_render(f"{template}.html.j2", values | {"subject": subject}) + "\n",
        recipients=recipients,
        created_at=now,
    )


def _render(template: str, values: dict[str, Any]) -> str:
    return _templates().get_template(template).render(values).strip()


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        # The default extensions would leave every x.html.j2 unescaped.
        autoescape=select_autoescape(enabled_extensions=("html.j2",), disabled_extensions=("txt.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _local_time(instant: datetime, zone: ZoneInfo) -> str:
    """`14:03 CET on Monday 23 November 2026 (Europe/Rome)`: the abbreviation tells a repeated hour apart."""
    if instant.tzinfo is None:
        raise ValueError(f"expected an aware time, got {instant!r}")
    local = instant.astimezone(zone)
    return f"{local:%H:%M} {_abbreviation(local)} on {local:%A} {local.day} {local:%B} {local.year} ({zone})"


def _short_time(instant: datetime, zone: ZoneInfo) -> str:
    """`23 Nov 14:03 CET`, where the year and the zone are told elsewhere."""
    local = instant.astimezone(zone)
    return f"{local.day} {local:%b} {local:%H:%M} {_abbreviation(local)}"


def _abbreviation(local: datetime) -> str:
    abbreviation = local.strftime("%Z")
    return abbreviation if abbreviation.isalpha() else f"UTC{abbreviation}"


def _duration(span: timedelta) -> str:
    """`3 d 4 h`, `2 h 5 min`, `12 min 3 s`, `8 s`: the two largest units; a negative span is none."""
    seconds = max(0, round(span.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _human_size(size_bytes: int) -> str:
    """`73.4 MB (73,400,320 bytes)`, in powers of 1000."""
    exact = f"{size_bytes:,} byte{'' if size_bytes == 1 else 's'}"
    return exact if size_bytes < 1000 else f"{_rounded_size(size_bytes)} ({exact})"


def _assets_and_size(totals: UploadTotals) -> str:
    """`14 assets, 73.4 MB`."""
    return f"{totals.assets} asset{'' if totals.assets == 1 else 's'}, {_rounded_size(totals.size_bytes)}"


def _rounded_size(size_bytes: int) -> str:
    """`73.4 MB`, in powers of 1000; below that, the exact number."""
    if size_bytes < 1000:
        return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"
    units = ["kB", "MB", "GB", "TB", "PB"]
    size = size_bytes / 1000
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:,.1f} {units[0]}"


# --- the daily report ---------------------------------------------------------------------------------------

# What the templates are given of a report: strings and numbers that are safe to stand in a line.
_Row = dict[str, Any]


def _report_values(report: DayReport, zone: ZoneInfo, commands: Commands, now: datetime) -> _Row:
    day = report.day
    since, until = _short_time(day.since, zone), day.until.astimezone(zone)
    return {
        "date": day.date.isoformat(),
        "weekday": f"{day.date:%A} {day.date.day} {day.date:%B} {day.date.year}",
        "zone": str(zone),
        "until": "" if day.is_over else f"{until:%H:%M} {_abbreviation(until)}",
        "since": since if day.since < day.start else "",
        "is_quiet": report.is_quiet,
        "tone": "red" if report.needs_somebody else "amber" if report.has_trouble else "green",
        "uploads": _section(report.uploads, [_upload_row(row, zone) for row in report.uploads.rows]),
        "uploads_before": _section(
            report.uploads_before, [_upload_row(row, zone) for row in report.uploads_before.rows]
        ),
        "uploaded_assets": report.uploads.assets,
        "uploaded_size": _human_size(report.uploads.size_bytes),
        "in_retry": _section(
            report.in_retry, [_empty_row(row, report, zone, now) for row in report.in_retry.rows]
        ),
        "next_run": _short_time(report.next_run_at, zone),
        "failed": _section(
            report.failed,
            [
                _empty_row(row, report, zone, now) | {"command": commands.reset(row.campaign.id)}
                for row in report.failed.rows
            ],
        ),
        "reset_all_command": commands.run("a1_retry.py", "reset", "--all-failed"),
        "where": commands.where,
        "unsent_command": commands.run("a1_retry.py", "unsent"),
        "failures": _section(
            report.failures, [_failure_row(row, report, zone, now) for row in report.failures.rows]
        ),
        "failures_over": _section(
            report.failures_over, [{"label": _label(campaign)} for campaign in report.failures_over.rows]
        ),
        "alerts": [
            {
                "task": one_line(alert.task),
                "ending": one_line(alert.ending),
                "failures": alert.failures,
                "since": _short_time(alert.began_at, zone),
                "age": _duration(now - alert.began_at),
            }
            for alert in report.alerts
        ],
        "runs": [_runs_row(task) for task in report.runs],
        "runs_before": [_runs_row(task) for task in report.runs_before],
        "runs_total": sum(task.total for task in report.runs),
        "runs_failing": sum(task.failing for task in report.runs),
        "campaigns_failing": report.campaigns_failing + report.failures_over.total,
        "runs_in_trouble": sum(task.total - task.done for task in report.runs),
        "runs_late": sum(task.late for task in report.runs),
        "waiting": report.backlog.waiting,
        "waiting_since": _short_time(report.backlog.oldest_at, zone) if report.backlog.oldest_at else "",
        "given_up": report.backlog.given_up,
        "doubtful": report.backlog.doubtful,
    }


def _section(section: Section[Any], rows: Sequence[_Row]) -> _Row:
    return {"rows": rows, "total": section.total, "more": section.more}


def _label(campaign: Campaign) -> str:
    """Number and name; the id when there is neither."""
    return one_line(campaign.label, limit=120) or one_line(campaign.id)


def _upload_row(upload: Upload, zone: ZoneInfo) -> _Row:
    return {
        "label": _label(upload.campaign),
        "assets": upload.assets,
        "size": _rounded_size(upload.size_bytes),
        "duration": _duration(upload.completed_at - upload.started_at),
        "at": _short_time(upload.completed_at, zone),
    }


def _empty_row(row: EmptyCampaign, report: DayReport, zone: ZoneInfo, now: datetime) -> _Row:
    last = row.last_attempt_at
    return {
        "label": _label(row.campaign),
        "attempt": row.attempts,
        "status": one_line(row.campaign.status or "", limit=40),
        "at": _short_time(last, zone) if last else "",
        "age": _duration(now - last) if last else "",
        "is_new": last is not None and last >= report.day.since,
        "reason": one_line(row.reason, limit=200),
    }


def _failure_row(row: LastingFailure, report: DayReport, zone: ZoneInfo, now: datetime) -> _Row:
    return {
        "label": _label(row.campaign),
        "kind": one_line(row.kind, limit=80),
        "message": one_line(row.message, limit=300),
        "since": _short_time(row.began_at, zone),
        "age": _duration(now - row.began_at),
        "is_new": row.began_at >= report.day.since,
    }


def _runs_row(runs: TaskRuns) -> _Row:
    return {
        "task": one_line(runs.task, limit=60),
        "done": runs.done,
        "failing": runs.failing,
        "late": runs.late,
        "failed": runs.failed,
        "again": runs.again,
        "lost": runs.lost,
    }


# --- delivering ---------------------------------------------------------------------------------------------


GOODBYE_SECONDS: Final = 5.0


def pause_after(tries: int) -> timedelta:
    """How long to wait after this many failed tries of one delivery.

    Nothing after each of the first three, so that the next run tries again; then 2, 4, 8, … minutes, at
    most an hour.
    """
    if tries <= 3:
        return timedelta()
    return min(timedelta(minutes=2 ** min(tries - 3, 6)), timedelta(hours=1))


def build_message(notice: Notice, sender: str) -> EmailMessage:
    """The notice as an e-mail.

    Message-ID and Date come from the notice, so that a repeated delivery is recognisably the same mail.
    """
    from email.header import Header
    from email.message import EmailMessage
    from email.utils import parseaddr

    message = EmailMessage(policy=_mail_policy())
    # Handed over encoded: the email package decodes encoded words in whatever it is given, so a campaign
    # named "=?utf-8?q?=0ABcc:…?=" would otherwise become a line end.
    message["Subject"] = Header(one_line(notice.subject, limit=1000), "utf-8").encode(linesep="")
    message["From"] = sender
    message["To"] = ", ".join(one_line(recipient) for recipient in notice.recipients)
    message["Date"] = notice.created_at
    message["Message-ID"] = f"<{notice.id}@{parseaddr(sender)[1].rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"  # Exchange's word for the line above
    if notice.campaign_id:
        message["X-Campaign-Id"] = Header(one_line(notice.campaign_id), "utf-8").encode(linesep="")
    # Quoted-printable keeps every line short, whatever the text.
    message.set_content(notice.text, charset="utf-8", cte="quoted-printable")
    message.add_alternative(notice.html, subtype="html", charset="utf-8", cte="quoted-printable")
    return message


@cache
def _mail_policy() -> EmailPolicy:
    from email.header import Header
    from email.policy import EmailPolicy

    class MailPolicy(EmailPolicy):
        """Folds headers that carry outside text itself.

        The email package writes ASCII words as they are, encoded-word look-alikes included, and its folding
        does not keep every space beside an encoded word.
        """

        def fold(self, name: str, value: str) -> str:
            text = str(value)
            is_plain = text.isascii() and "=?" not in text and len(text) <= 60 and "  " not in text
            if name.lower() not in {"subject", "x-campaign-id"} or is_plain:
                return str(super().fold(name, value))
            header = Header(text, "utf-8", maxlinelen=76, header_name=name)
            return f"{name}: {header.encode(linesep=self.linesep)}{self.linesep}"

        def fold_binary(self, name: str, value: str) -> bytes:
            return self.fold(name, value).encode("ascii", "surrogateescape")

    return MailPolicy(linesep="\r\n")


class Mailer:
    """One SMTP connection for all the notices of a run, opened at the first send.

    Raises NotifyError for trouble with the server itself, of kind `out_of_reach` (a later try may do),
    `login_refused`, `tls` or `rejected`. What the server says of this notice or its recipients is a result.
    """

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._smtp: smtplib.SMTP | None = None
        self._line: socket.socket | None = None
        self._is_late = False
        self._is_handed_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, if somebody is there, and hang up."""
        if self._smtp is None:
            return
        seconds = min(GOODBYE_SECONDS, self._server.timeout_seconds)
        try:
            with self._deadline(seconds):
                if self._smtp.sock is not None:
                    self._smtp.sock.settimeout(seconds)
                    self._smtp.quit()
        except OSError:  # smtplib's own errors are OSErrors; the mail is out already
            pass
        finally:
            self._hang_up()

    def connect(self) -> None:
        """Open the connection and log in, ahead of any notice. Raises NotifyError."""
        with self._deadline(self._server.deadline_seconds):
            self._connection()

    def send(self, notice: Notice, *, before_handover: Callable[[], None] = lambda: None) -> DeliveryResult:
        """Hand over one notice to all of its recipients in one transaction.

        before_handover: called when the server is ready for it, the last thing before; what it raises keeps
        the mail from going out.

        A refusal of the whole message (after DATA) is reported as a refusal of each recipient, so that one
        poisonous notice cannot stop the others. A connection lost after DATA raises and is never repeated
        here: the server may have taken the mail.
        """
        recipients = tuple(dict.fromkeys(notice.recipients))
        no_address = (553, "not an address a mail server can be given")
        refused = {one: no_address for one in recipients if not _is_sendable(one)}
        asked = [one for one in recipients if one not in refused]
        if asked:
            message = build_message(notice, self._server.sender).as_bytes()
            with self._deadline(self._server.deadline_seconds):
                refused |= self._transact(asked, message, before_handover)
        accepted = tuple(one for one in recipients if one not in refused)
        return DeliveryResult(accepted=accepted, refused=refused)

    def _transact(
        self, recipients: list[str], data: bytes, before_handover: Callable[[], None]
    ) -> dict[str, tuple[int, str]]:
        """Send to these; returns the refusals. Reconnects once, when a used connection takes no more mail."""
        import smtplib

        while True:
            smtp, is_reused = self._connection()
            before_handover()
            try:
                answers = smtp.sendmail(self._envelope_sender(), recipients, data)
            except smtplib.SMTPRecipientsRefused as exc:
                # After a 421 the rest was not asked, and those accepted before it got nothing either.
                unasked = (421, b"the server ended the connection")
                answers = {one: exc.recipients.get(one, unasked) for one in recipients}
            except smtplib.SMTPDataError as exc:
                answers = dict.fromkeys(recipients, (exc.smtp_code, _as_bytes(exc.smtp_error)))
            except smtplib.SMTPSenderRefused as exc:
                self._hang_up()
                if is_reused and exc.smtp_code == 421:  # a limit of mails per connection; nothing was sent
                    continue
                raise self._trouble(exc) from exc
            except (OSError, UnicodeError) as exc:
                self._hang_up()
                raise self._trouble(exc) from exc
            if answers and self._is_late:  # an answer that our own break cut short
                self._hang_up()
                raise self._trouble(OSError())
            return {one: (code, self._said(text)) for one, (code, text) in answers.items()}

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Break the connection when what happens inside has not come to its end by then: smtplib's time-out
        begins anew with each byte, so a server that sends one now and then would hold us for ever.
        """
        self._is_late = self._is_handed_over = False
        timer = threading.Timer(seconds, self._break)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _break(self) -> None:
        import socket

        self._is_late = True
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def _envelope_sender(self) -> str:
        from email.utils import parseaddr

        return parseaddr(self._server.sender)[1]

    def _connection(self) -> tuple[smtplib.SMTP, bool]:
        """A connection that answers, and whether it was used before.

        Servers drop idle clients: a used connection is asked first, while nothing can be sent twice.
        """
        if self._smtp is not None:
            try:
                if self._smtp.noop()[0] == 250:
                    return self._smtp, True
            except OSError:
                pass
            self._hang_up()
        try:
            self._connect()
        except (OSError, UnicodeError) as exc:
            self._hang_up()
            raise self._trouble(exc) from exc
        except NotifyError:
            self._hang_up()
            raise
        assert self._smtp is not None  # noqa: S101 - for the type checker: _connect sets it or raises
        return self._smtp, False

    def _connect(self) -> None:
        import smtplib

        watch, note_handover = self._watch, self._note_handover

        class Watched(smtplib.SMTP):
            """Shows its socket as soon as there is one: before the greeting, and before TLS."""

            def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
                found: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
                watch(found)
                return found

            def send(self, s: Any) -> None:
                if isinstance(s, bytes):  # the mail; commands are text
                    note_handover()
                super().send(s)

        class WatchedTls(smtplib.SMTP_SSL, Watched):
            pass

        server = self._server
        where, name, seconds = (server.host, server.port), _own_name(), server.timeout_seconds
        if server.security == "tls":
            context = self._tls_context()
            self._smtp = WatchedTls(*where, local_hostname=name, timeout=seconds, context=context)
        else:
            self._smtp = Watched(*where, local_hostname=name, timeout=seconds)
            if server.security == "starttls":
                self._start_tls(self._smtp)
        self._smtp.ehlo_or_helo_if_needed()
        if server.username is not None:
            self._log_in(self._smtp, server.username, server.password or "")

    def _watch(self, found: socket.socket) -> None:
        """Keep a second handle of the connection: the first one goes over to TLS."""
        self._line = found.dup()
        if self._is_late:
            self._break()

    def _note_handover(self) -> None:
        self._is_handed_over = True

    def _start_tls(self, smtp: smtplib.SMTP) -> None:
        from smtplib import SMTPNotSupportedError, SMTPResponseException

        try:
            smtp.starttls(context=self._tls_context())
        except SMTPNotSupportedError as exc:
            raise self._error(
                "tls",
                "offers no STARTTLS",
                "set SMTP_SECURITY to tls (usually port 465), or to none on a network you trust",
            ) from exc
        except SMTPResponseException as exc:
            raise self._error(
                "tls",
                f"refused STARTTLS: {exc.smtp_code} {self._said(exc.smtp_error)}",
                "check SMTP_SECURITY and the server's TLS set-up",
                exc.smtp_code,
            ) from exc

    def _log_in(self, smtp: smtplib.SMTP, username: str, password: str) -> None:
        from smtplib import (
            SMTPAuthenticationError,
            SMTPException,
            SMTPNotSupportedError,
            SMTPServerDisconnected,
        )

        cure = "check SMTP_USERNAME and SMTP_PASSWORD"
        if not (username + password).isascii():
            # smtplib would raise a UnicodeEncodeError, which carries the password.
            raise self._error("login_refused", "cannot be logged in to: only ASCII is possible", cure)
        try:
            smtp.login(username, password)
        except SMTPServerDisconnected:
            raise
        except SMTPAuthenticationError as exc:
            said = f"{exc.smtp_code} {self._said(exc.smtp_error)}"
            if 400 <= exc.smtp_code < 500:
                raise self._error(
                    "out_of_reach", f"cannot log anybody in now: {said}", cure, exc.smtp_code
                ) from exc
            raise self._error(
                "login_refused", f"refused the login of {one_line(username)}: {said}", cure, exc.smtp_code
            ) from exc
        except SMTPNotSupportedError as exc:
            raise self._error(
                "login_refused",
                "offers no login on this connection",
                "set SMTP_SECURITY to starttls or tls, or leave SMTP_USERNAME empty",
            ) from exc
        except SMTPException as exc:  # smtplib knows none of the ways that it offers
            ways = one_line(smtp.esmtp_features.get("auth", "").strip())
            raise self._error(
                "login_refused",
                f"takes no login by user name and password (it offers: {ways})",
                "ask its administrator for a relay that does, or for one that needs no login",
            ) from exc

    def _tls_context(self) -> ssl.SSLContext:
        import ssl

        try:
            return ssl.create_default_context(cafile=self._server.ca_bundle)
        except (OSError, ValueError) as exc:
            raise self._error(
                "tls",
                f"cannot be verified: the CA file {self._server.ca_bundle} cannot be read:"
                f" {self._said(str(exc))}",
                "SMTP_CA_BUNDLE must name a readable PEM file",
            ) from exc

    def _hang_up(self) -> None:
        """Drop the connection without a word, so that the next send opens a new one."""
        smtp, self._smtp = self._smtp, None
        line, self._line = self._line, None
        if smtp is not None:
            smtp.close()
        if line is not None:
            line.close()

    def _trouble(self, exc: OSError | UnicodeError) -> NotifyError:
        """Translate what smtplib, ssl and the socket raise."""
        import smtplib
        import ssl

        cure = "check SMTP_HOST, SMTP_PORT and SMTP_SECURITY, and that this machine may reach the server"
        if self._is_late:
            seconds = self._server.deadline_seconds
            return self._error("out_of_reach", f"took longer than {seconds:g} s over one e-mail", cure)
        if isinstance(exc, smtplib.SMTPSenderRefused):
            said = f"refused the sender {exc.sender}: {exc.smtp_code} {self._said(exc.smtp_error)}"
            cure = "check MAIL_FROM" if exc.smtp_code >= 500 else "it is tried again"
            if exc.smtp_code == 530:
                cure = "the server wants a login or TLS first: check SMTP_USERNAME and SMTP_SECURITY"
            return self._error(_kind_of(exc.smtp_code), said, cure, exc.smtp_code)
        if isinstance(exc, smtplib.SMTPResponseException):
            said = f"turned us away: {exc.smtp_code} {self._said(exc.smtp_error)}"
            return self._error(_kind_of(exc.smtp_code), said, cure, exc.smtp_code)
        if isinstance(exc, ssl.SSLCertVerificationError):
            return self._error(
                "tls",
                f"shows a certificate that cannot be verified: {self._said(exc.verify_message)}",
                "check SMTP_HOST, the certificate's dates, and SMTP_CA_BUNDLE for a private CA",
            )
        if isinstance(exc, ssl.SSLError):
            return self._error(
                "tls",
                f"does not speak TLS as expected: {self._said(exc.reason or str(exc))}",
                "check SMTP_PORT and SMTP_SECURITY (tls is usually port 465, starttls 587)",
            )
        if isinstance(exc, smtplib.SMTPServerDisconnected):
            return self._error("out_of_reach", f"ended the connection: {self._said(str(exc))}", cure)
        if isinstance(exc, UnicodeError):
            return self._error(
                "rejected", "cannot be used: only ASCII names are possible", f"{cure}; check MAIL_FROM"
            )
        return self._error("out_of_reach", f"cannot be reached: {self._said(exc.strerror or str(exc))}", cure)

    def _said(self, text: bytes | str) -> str:
        """What a server said, fit for a message, and less our password, should it have quoted that: taken out
        before the text is cut, so that no piece of it is left.
        """
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        username, password = self._server.username or "", self._server.password or ""
        secrets = (password, f"\0{username}\0{password}") if password else ()
        return one_line(redact(said, spellings(secrets)), limit=300)

    def _error(self, kind: str, said: str, hint: str, code: int | None = None) -> NotifyError:
        where = f"{one_line(self._server.host)}:{self._server.port}"
        is_temporary = kind == "out_of_reach" or (code is not None and 400 <= code < 500)
        error = NotifyError(
            f"mail server {where} {said}", kind=kind, hint=hint, retryable=is_temporary, status_code=code
        )
        error.may_have_arrived = self._is_handed_over
        return error


def _kind_of(code: int) -> str:
    """5xx is a refusal; a 4xx passes, and so may nonsense (smtplib's -1)."""
    return "rejected" if code >= 500 else "out_of_reach"


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _is_sendable(recipient: str) -> bool:
    """Exactly one address, which smtplib can put into a command (it would take the first of several)."""
    from email.utils import getaddresses

    addresses = [address for _, address in getaddresses([recipient])]
    return (
        recipient.isprintable()
        and len(addresses) == 1
        and "@" in addresses[0]
        and addresses[0].isascii()
        and " " not in addresses[0]
    )


def _own_name() -> str:
    """The name for EHLO, without asking the DNS: smtplib's own choice, socket.getfqdn, can hang."""
    import socket

    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"
