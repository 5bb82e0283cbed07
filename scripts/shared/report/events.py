"""Puts the events of a campaign's history into words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Any

from shared.base.values import NoticeKind, UploadTotals
from shared.base.webhooks import EventType
from shared.notices.wording import assets_and_size, moment

NOTICES: Mapping[str, str] = {
    NoticeKind.RETRY: "retry notice",
    NoticeKind.PERMANENT: "permanent-failure notice",
    NoticeKind.SUCCESS: "success notice",
    NoticeKind.ERROR: "error notice",
    "a1_to_a2_recovered": "recovery notice",
    **{event: f"webhook {event}" for event in EventType},
}
"""What e-mails and webhooks about a campaign are called."""


@dataclass(frozen=True, slots=True)
class Event:
    """One row of history.sql: what happened (kind, with facts in detail), and who did it, with what and why.

    limit: how many attempts the cycle had at that time. detail["act"]: the act of the operator's page that
    caused it, if one did.
    """

    at: datetime
    kind: str
    cycle: int | None
    actor: str
    source: str
    reason: str
    detail: Mapping[str, Any]
    limit: int = 0


def events_of(rows: Iterable[tuple[Any, ...]], usual_limit: int) -> list[Event]:
    """The events, oldest first, each with the limit of its time.

    A campaign's own limit is an event too. The limit for all campaigns has no history: for a past cycle we
    take the number of its last attempt, if it had one, and otherwise the present limit.
    """
    rows = list(rows)
    ends = {row[2]: row[6].get("attempt") for row in rows if row[1] == "attempt" and _is_last(row[6])}
    own: int | None = None
    events = []
    for row in rows:
        if row[1] == "limit" or (row[1] == "undo" and "limit_before" in row[6]):
            own = row[6].get("max_retries")
        events.append(replace(Event(*row), limit=own or ends.get(row[2]) or usual_limit))
    return events


def without_undone(events: Iterable[Event]) -> list[Event]:
    """The events without the resets, snoozes, wakes and limits that somebody has undone."""
    events = list(events)
    undone = {event.detail.get("undoes") for event in events if event.kind == "undo"} - {None}
    return [one for one in events if one.kind not in _CAN_BE_UNDONE or one.detail.get("act") not in undone]


_CAN_BE_UNDONE = ("reset", "snooze", "wake", "limit")


def _is_last(detail: Mapping[str, Any]) -> bool:
    return bool(detail.get("permanently_failed"))


def in_words(event: Event, zone: tzinfo, gone: str) -> str:
    """What happened, in words. gone: the status of a campaign that the DAM no longer shows."""
    if event.kind == "status":
        return _status(event.detail, gone)
    words = _WORDS.get(event.kind)
    if words is not None:
        return words(event, zone)
    facts = (f"{name}={value}" for name, value in event.detail.items())
    return _because(" ".join((event.kind, *facts)), event.reason)


def _status(detail: Mapping[str, Any], gone: str) -> str:
    status, before = detail.get("status"), detail.get("before")
    if status == gone:
        return "the DAM no longer shows it"
    now = f"now in {status}" if status else "its status field is now empty"
    return f"{now}, before in {before}" if before and before != gone else now


def _attempt(event: Event, zone: tzinfo) -> str:
    number = event.detail.get("attempt", 0)
    if _is_last(event.detail):
        said = f"attempt {number} of {number}, the last one" if number else "marked by hand"
        return _because(f"{said}, permanently failed", event.reason)
    return _because(f"attempt {number} of {max(number, event.limit)}", event.reason)


def _reset(event: Event, zone: tzinfo) -> str:
    if event.source == "auto":
        return _because("reset by itself", event.reason)
    if event.source == "upload":
        return _because("attempts back to 0", event.reason)
    return _by("reset", event)


def _snooze(event: Event, zone: tzinfo) -> str:
    return _by(f"snoozed until {_instant(event.detail.get('until'), zone)}", event)


def _wake(event: Event, zone: tzinfo) -> str:
    return _by("snooze ended", event)


def _correction(event: Event, zone: tzinfo) -> str:
    attempts, before = event.detail.get("attempts"), event.detail.get("before")

    return _by(f"attempts changed from {before} to {attempts}", event)


def _limit(event: Event, zone: tzinfo) -> str:
    own = event.detail.get("max_retries")
    return _by(f"limit set to {own}" if own else "limit set back to the one for all campaigns", event)


def _undo(event: Event, zone: tzinfo) -> str:
    """The state that the undo brought back."""
    attempts, until = event.detail.get("attempts", 0), event.detail.get("until")
    state = "permanently failed" if event.detail.get("permanently_failed") else f"attempts back to {attempts}"
    snoozed = f", snoozed until {_instant(until, zone)}" if until else ""
    return _by(f"undone; the campaign is as before ({state}{snoozed})", event)


def _resend(event: Event, zone: tzinfo) -> str:
    return _by(f"{_notice(event)} to {event.detail.get('recipient', '')} will be sent again", event)


def _upload(event: Event, zone: tzinfo) -> str:
    totals = UploadTotals(event.detail.get("assets", 0), event.detail.get("bytes", 0))
    return f"uploaded to Box: {assets_and_size(totals)}"


def _error(event: Event, zone: tzinfo) -> str:
    return _because(f"error {event.detail.get('kind', '')}", event.reason)


def _error_over(event: Event, zone: tzinfo) -> str:
    began = _instant(event.detail.get("began_at"), zone)
    return f"error {event.detail.get('kind', '')} is over; it began {began}"


def _queued(event: Event, zone: tzinfo) -> str:
    channel = "webhook" if event.detail.get("kind") in _WEBHOOKS else "e-mail"
    return f"{channel} queued: {event.detail.get('subject', '')}"


def _delivered(event: Event, zone: tzinfo) -> str:
    return f"{_notice(event)} delivered to {event.detail.get('recipient', '')}"


def _given_up(event: Event, zone: tzinfo) -> str:
    return _because(f"{_notice(event)} to {event.detail.get('recipient', '')} given up", event.reason)


def _folded(event: Event, zone: tzinfo) -> str:
    return f"{_notice(event)} to {event.detail.get('recipient', '')} is covered by a later one"


_WORDS: Mapping[str, Callable[[Event, tzinfo], str]] = {
    "attempt": _attempt,
    "reset": _reset,
    "snooze": _snooze,
    "wake": _wake,
    "limit": _limit,
    "correction": _correction,
    "undo": _undo,
    "upload": _upload,
    "error": _error,
    "error_over": _error_over,
    "notice": _queued,
    "notice_sent": _delivered,
    "notice_given_up": _given_up,
    "notice_folded": _folded,
    "resend": _resend,
}


_WEBHOOKS = frozenset(EventType)


def _notice(event: Event) -> str:
    """`e-mail (retry notice)`, `webhook campaign.reset`."""
    kind: str = event.detail.get("kind", "")
    return NOTICES[kind] if kind in _WEBHOOKS else f"e-mail ({NOTICES.get(kind, kind)})"


def _by(what: str, event: Event) -> str:
    return _because(f"{what} by {event.actor} ({event.source})", event.reason)


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _instant(text: object, zone: tzinfo) -> str:
    """A time out of an event's facts, where JSON keeps it as text."""
    try:
        return moment(datetime.fromisoformat(str(text)), zone)
    except (ValueError, OverflowError):
        return str(text)
