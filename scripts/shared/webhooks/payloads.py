"""Writes the messages of webhooks: the `standard` payload, from which each kind of target gets its own. Pure.

MARKDOWN_DOCS/WEBHOOKS.md is the contract. Text from outside is cut to one short line, so that each payload
stays below MOST_BYTES.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from shared.base.webhooks import EventType
from shared.notices.wording import one_line

MOST_BYTES: Final = 20_000
"""A payload is shorter than this."""
MOST_ATTEMPTS: Final = 20
"""A payload lists the latest attempts, this many."""
_LONGEST_TEXT: Final = 500
_LONGEST_NAME: Final = 200

_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")

TITLES: Final = {
    EventType.PERMANENTLY_FAILED: "Permanently failed: {}",
    EventType.RECOVERED: "Solved: {}",
    EventType.RESET: "Reset: {}",
    EventType.SNOOZED: "Snoozed: {}",
    EventType.ERRING: "Error: {}",
    EventType.TASK_FAILING: "Task keeps failing: {}",
    EventType.TASK_RECOVERED: "Task works again: {}",
    EventType.TEST: "Test of the webhook {}",
}


@dataclass(frozen=True, slots=True)
class About:
    """The campaign that a message is about. attempt: how many attempts are spent."""

    id: str
    number: str
    name: str
    cycle: int
    attempt: int = 0

    @property
    def label(self) -> str:
        return one_line(f"{self.number} {self.name}".strip(), _LONGEST_NAME) or one_line(self.id, 100)


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it is stored and sent. body: the payload as JSON, below MOST_BYTES. about: None for a
    message that is not about a single campaign.
    """

    id: str
    event: EventType
    title: str
    body: str
    dedup_key: str
    created_at: datetime
    about: About | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One attempt of the cycle."""

    number: int
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class CrowdLine:
    """One of many events of a type. notice_id: of its own message, which goes out within the common one."""

    notice_id: str
    about: About
    dedup_key: str
    reason: str


def dedup_key(installation: str, *parts: str | int) -> str:
    """`installation:campaign_id:cycle` or `installation:task:NAME`: short, and of safe characters only."""
    texts = (str(part) for part in parts)
    safe = (text if _SAFE_ID.fullmatch(text) else sha256(text.encode("utf-8", "replace")).hexdigest()[:40]
            for text in texts)  # fmt: skip
    return ":".join((installation, *safe))


def instant(at: datetime) -> str:
    """A time as payloads write it: `2026-11-30T09:15:00Z`."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def campaign_event(
    event: EventType,
    about: About,
    *,
    message_id: str,
    installation: str,
    reason: str,
    link: str,
    now: datetime,
    attempts: Sequence[AttemptLine] = (),
    **facts: str | int | bool | None,
) -> Message:
    """A message about a campaign. facts: further members of `data`, for this type of event."""
    key, reason = dedup_key(installation, about.id, about.cycle), one_line(reason, _LONGEST_TEXT)
    data = {
        "installation": installation,
        "dedup_key": key,
        "reason": reason,
        "campaign": _campaign(about),
        "cycle": about.cycle,
        "attempts": [
            {"number": one.number, "at": instant(one.at), "reason": one_line(one.reason, _LONGEST_TEXT)}
            for one in attempts[-MOST_ATTEMPTS:]
        ],
        "link": link,
        **_plain(facts),
    }
    title = TITLES[event].format(about.label)
    return Message(message_id, event, title, _body(event, data, now), key, now, about, reason)


def task_event(
    event: EventType,
    task: str,
    *,
    message_id: str,
    installation: str,
    reason: str,
    link: str,
    now: datetime,
    **facts: str | int | bool | None,
) -> Message:
    """A message about a task of the loop, which keeps failing or works again. facts: as for a campaign."""
    key, reason = dedup_key(installation, "task", task), one_line(reason, _LONGEST_TEXT)
    data = {
        "installation": installation,
        "dedup_key": key,
        "reason": reason,
        "task": one_line(task, 100),
        "link": link,
        **_plain(facts),
    }
    title = TITLES[event].format(one_line(task, 100))
    return Message(message_id, event, title, _body(event, data, now), key, now, reason=reason)


def trial_event(target: str, *, message_id: str, installation: str, now: datetime) -> Message:
    """The message that `a1_retry.py webhook test NAME` sends."""
    key, reason = dedup_key(installation, "test", target, message_id), "somebody is testing this webhook"
    data = {"installation": installation, "dedup_key": key, "reason": reason, "target": target}
    title = TITLES[EventType.TEST].format(target)
    return Message(
        message_id, EventType.TEST, title, _body(EventType.TEST, data, now), key, now, reason=reason
    )


def crowd_event(
    event: EventType,
    lines: Sequence[CrowdLine],
    *,
    message_id: str,
    installation: str,
    reason: str,
    link: str,
    now: datetime,
    most_bytes: int | None,
) -> tuple[Message, int]:
    """One message about many events of a type, and how many of the lines it contains: as many as fit into
    most_bytes, at least one, from the first.
    """
    key = dedup_key(installation, "many", message_id)
    count = len(lines)
    while True:
        data = {
            "installation": installation,
            "dedup_key": key,
            "reason": one_line(reason, _LONGEST_TEXT),
            "count": count,
            "campaigns": [
                {**_campaign(line.about, 60), "cycle": line.about.cycle, "dedup_key": line.dedup_key}
                for line in lines[:count]
            ],
            "link": link,
        }
        body = _body(event, data, now, most_bytes=None)
        size = len(body.encode())
        if most_bytes is None or size < most_bytes or count == 1:
            title = TITLES[event].format(f"{count:,} campaigns")
            return Message(message_id, event, title, body, key, now, reason=reason), count
        count = max(1, min(count - 1, int(count * most_bytes / size)))


def campaigns_of(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """The campaigns that a payload is about."""
    data = payload["data"]
    return data.get("campaigns") or ([data["campaign"]] if "campaign" in data else [])


def _campaign(about: About, longest: int = _LONGEST_NAME) -> dict[str, str]:
    return {
        "id": one_line(about.id, 250),
        "number": one_line(about.number, 100),
        "name": one_line(about.name, longest),
    }


def _plain(facts: dict[str, str | int | bool | None]) -> dict[str, str | int | bool | None]:
    return {
        name: one_line(value, _LONGEST_TEXT) if isinstance(value, str) else value
        for name, value in facts.items()
    }


def _body(
    event: EventType, data: dict[str, Any], now: datetime, *, most_bytes: int | None = MOST_BYTES
) -> str:
    """The payload, without the oldest attempts if it would be too long."""
    while True:
        body = json.dumps(
            {"type": event.value, "timestamp": instant(now), "data": data},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        if most_bytes is None or len(body.encode()) < most_bytes or not data.get("attempts"):
            return body
        data = {**data, "attempts": data["attempts"][1:]}
