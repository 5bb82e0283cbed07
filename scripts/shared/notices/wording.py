"""What all messages are made of: text from outside made safe, the SQL they show, times, sizes, templates.

Whatever comes from outside (a campaign's name, an error's text) passes `one_line` first. jinja2 is imported
where it is used, so that a run without news does not pay for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.base.queries import query
from shared.base.text import replace_unstorable
from shared.base.values import Notice, NoticeKind, Origin, Overtaken, UploadTotals

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from jinja2 import Environment

TEMPLATES: Final = Path(__file__).with_name("templates")
# Bidi embeddings, overrides and isolates reorder what follows them; a BOM is not text. Joiners, marks and
# variation selectors stay: emoji, Arabic and Indic names need them.
_INVISIBLE: Final = re.compile("[\u202a-\u202e\u2066-\u2069\ufeff]")

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(text: str, limit: int = 500) -> str:
    """Make text from outside safe to stand in a header or a line: it can neither end it nor reorder it.

    Control characters and line ends become one space, bidi controls and BOMs vanish, lone surrogates become
    U+FFFD; more than `limit` characters are cut with an ellipsis. Ordinary text stays as it is.
    """
    pieces = _CONTROLS.split(_INVISIBLE.sub("", text))
    line = replace_unstorable(" ".join(piece.strip() for piece in pieces if piece.strip()))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def reset_sql(campaign_id: str) -> str:
    """The statement that resets this campaign, on one line, for people to paste into psql."""
    return f"{_reset()} WHERE campaign_id = {_sql_literal(campaign_id)};"


def reset_digest_sql(mail_id: str) -> str:
    """The statement that resets the failed campaigns of one digest, on one line."""
    return (
        f"{_reset()} WHERE a1_permanently_failed AND campaign_id IN"  # noqa: S608  # nosec B608 - quoted below
        " (SELECT n.campaign_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id"
        f" WHERE d.mail_id = {_sql_literal(mail_id)});"
    )


def _reset() -> str:
    """A reset, up to the campaigns that it is for."""
    return " ".join(query("reset").partition("WHERE")[0].split())


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


def rendered(
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


def takes_place_of(overtaken: Sequence[Overtaken]) -> str:
    """`The e-mail about attempt 2 had not gone out; this one takes its place.`; "" for none."""
    attempts = sorted({attempt for one in overtaken for attempt in one.attempts})
    kinds = [one.kind for one in overtaken]
    errors = kinds.count(NoticeKind.ERROR)
    parts = (
        _attempts_in_words(attempts),
        "the permanent failure" if NoticeKind.PERMANENT in kinds else "",
        {0: "", 1: "the error"}.get(errors, f"{errors} errors"),
    )
    about = list(filter(None, parts))
    if not about:
        return ""
    is_one = len(overtaken) == len(about) == 1 and len(attempts) <= 1
    mails, their = ("e-mail", "its place") if is_one else ("e-mails", "their place")
    reach = "reached everybody; where not," if any(one.is_partial for one in overtaken) else "gone out;"
    return f"The {mails} about {joined(about)} had not {reach} this one takes {their}."


def _attempts_in_words(attempts: Sequence[int]) -> str:
    """`attempt 2`, `attempts 1 and 2`, `39 attempts`; "" for none."""
    if not attempts:
        return ""
    if len(attempts) > 3:
        return f"{len(attempts)} attempts"
    return f"attempt{'' if len(attempts) == 1 else 's'} {joined(list(map(str, attempts)))}"


_COMMAND: Final = re.compile(r"\.py\b|\b(?:ALTER|CREATE|DROP|GRANT) [A-Z]")
_SETTING: Final = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|\.sql\b|\.conf\b")


def sentence(text: str) -> str:
    """`check the port` as `Check the port.`: a hint as people read it in an e-mail. A command at its end
    stays as it is: a stop behind it would be pasted too.
    """
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?", "…")) or _COMMAND.search(text) else f"{text}."


def is_for_engineer(hint: str) -> bool:
    """Whether a hint names a setting, a command or SQL, or says nothing: then it takes an engineer."""
    return not hint or bool(_COMMAND.search(hint) or _SETTING.search(hint))


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])


def local_time(instant: datetime, zone: ZoneInfo) -> str:
    """`14:03 CET on Monday 23 November 2026 (Europe/Rome)`: the abbreviation tells a repeated hour apart."""
    if instant.tzinfo is None:
        raise ValueError(f"expected an aware time, got {instant!r}")
    local = instant.astimezone(zone)
    return f"{local:%H:%M} {abbreviation(local)} on {local:%A} {local.day} {local:%B} {local.year} ({zone})"


def short_time(instant: datetime, zone: ZoneInfo) -> str:
    """`23 Nov 14:03 CET`, where other lines have the year and the zone."""
    local = instant.astimezone(zone)
    return f"{local.day} {local:%b} {local:%H:%M} {abbreviation(local)}"


def moment(instant: datetime, zone: tzinfo) -> str:
    """`Mon 2026-11-30 10:15 CET`."""
    local = instant.astimezone(zone)
    return f"{local:%a %Y-%m-%d %H:%M} {abbreviation(local)}"


def small_print(origin: Origin, zone: ZoneInfo, now: datetime) -> dict[str, str]:
    """The values of an e-mail's last lines: when it was written, on which host, by which run."""
    return {
        "sent": local_time(now, zone),
        "host": one_line(origin.host, limit=100),
        "run_id": one_line(origin.run_id, limit=40),
    }


def abbreviation(local: datetime) -> str:
    abbreviation = local.strftime("%Z")
    return abbreviation if abbreviation.isalpha() else f"UTC{abbreviation}"


def duration(span: timedelta) -> str:
    """`3 d 4 h`, `2 h 5 min`, `12 min 3 s`, `8 s`: the two largest units; a negative span is none."""
    seconds = max(0, round(span.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def age(span: timedelta) -> str:
    """`3 d 4 h`, `2 h 5 min`, `12 min`, `less than a minute`: how long ago something was."""
    minutes = max(0, int(span.total_seconds() // 60))
    if minutes >= 60:
        return duration(timedelta(minutes=minutes))
    return f"{minutes} min" if minutes else "less than a minute"


def plain_duration(span: timedelta) -> str:
    """`3 days 4 hours`, `2 hours 5 minutes`, `12 minutes`, `less than a minute`: for a subject."""
    minutes = max(0, int(span.total_seconds() // 60))
    hours, days = minutes // 60, minutes // 1440
    pairs = [(days, "day"), (hours % 24, "hour")] if days else [(hours, "hour"), (minutes % 60, "minute")]
    words = [f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in pairs if count]
    return " ".join(words) or "less than a minute"


def human_size(size_bytes: int) -> str:
    """`73.4 MB (73,400,320 bytes)`, in powers of 1000."""
    exact = f"{size_bytes:,} byte{'' if size_bytes == 1 else 's'}"
    return exact if size_bytes < 1000 else f"{rounded_size(size_bytes)} ({exact})"


def assets_and_size(totals: UploadTotals) -> str:
    """`14 assets, 73.4 MB`."""
    return f"{totals.assets} asset{'' if totals.assets == 1 else 's'}, {rounded_size(totals.size_bytes)}"


def rounded_size(size_bytes: int) -> str:
    """`73.4 MB`, in powers of 1000; below that, the exact number."""
    if size_bytes < 1000:
        return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"
    units = ["kB", "MB", "GB", "TB", "PB"]
    size = size_bytes / 1000
    while size >= 999.95 and len(units) > 1:  # from there on it would be shown as 1,000.0
        size /= 1000
        units.pop(0)
    return f"{size:,.1f} {units[0]}"
