"""Turns values into what the page shows: times in the configured zone, ages, sizes, names, addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from flask import url_for

from shared.base.values import GONE, UploadTotals
from shared.notices.wording import age, assets_and_size, duration, human_size, moment, one_line, rounded_size
from shared.page.filters import STATES, Filter
from shared.report.events import NOTICES, Event, in_words
from shared.report.explain_text import HEADS
from shared.report.state import State
from shared.report.workers import WorkerState

NAME_LIMIT = 120
TEXT_LIMIT = 500

_TONES: Mapping[State, str] = {
    State.PERMANENTLY_FAILED: "red",
    State.ERRING: "red",
    State.EMPTY: "amber",
    State.WAITING: "amber",
    State.UNSEEN: "amber",
    State.SNOOZED: "blue",
    State.UPLOADING: "blue",
    State.DUE: "blue",
    State.UPLOADED: "green",
    State.LOCK_DOUBTFUL: "green",
}
_DID: Mapping[str, str] = {
    "reset": "Reset",
    "wake": "Snooze ended",
    "resend": "To be sent again",
    "drain": "Asked to stop",
}
_WORKER_TONES: Mapping[WorkerState, str] = {
    WorkerState.WORKING: "green",
    WorkerState.DRAINING: "blue",
    WorkerState.LOST: "red",
}
# What a path cannot contain: a browser resolves "." and "..", and a router reads "//" as one slash.
_NO_PATH = re.compile(r"(^|/)\.{0,2}(/|$)")


@dataclass(frozen=True, slots=True)
class Shown:
    """The object that the templates call `show`. zone: of the times it shows."""

    zone: ZoneInfo
    now: datetime

    def when(self, at: datetime) -> str:
        """`Mon 2026-11-30 10:15 CET`."""
        return moment(at, self.zone)

    def clock(self, at: datetime) -> str:
        """`10:15`, with the day unless it is today."""
        local = at.astimezone(self.zone)
        is_today = local.date() == self.now.astimezone(self.zone).date()
        return f"{local:%H:%M}" if is_today else f"{local:%a} {local.day} {local:%b} {local:%H:%M}"

    def utc(self, at: datetime) -> str:
        """`2026-11-30 09:15:07 UTC`, for a title."""
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

    def iso(self, at: datetime) -> str:
        return at.astimezone(UTC).isoformat(timespec="seconds")

    def local_input(self, at: datetime) -> str:
        """A time for a field of the type datetime-local."""
        return f"{at.astimezone(self.zone):%Y-%m-%dT%H:%M}"

    def age(self, at: datetime) -> str:
        """`3 d 4 h`: how long ago."""
        return age(self.now - at)

    def span(self, began: datetime, ended: datetime) -> str:
        """`12 min 3 s`: how long something took."""
        return duration(ended - began)

    def is_id(self, text: object) -> bool:
        """Whether a notice can have this id."""
        return isinstance(text, str) and identifier(text) is not None

    def event(self, event: Event) -> str:
        """An event in the words of a campaign's history."""
        return one_line(in_words(event, self.zone, GONE), TEXT_LIMIT)

    def line(self, text: object, limit: int = TEXT_LIMIT) -> str:
        """Text from outside on one line."""
        return one_line("" if text is None else str(text), limit)

    def label(self, campaign_id: str, number: str | None, name: str | None) -> str:
        """The name of a campaign for people: its number and name, or else its id."""
        called = one_line(f"{number or ''} {name or ''}", NAME_LIMIT)
        return called or one_line(campaign_id, NAME_LIMIT) or "(a campaign without an id)"

    def campaign(self, campaign_id: str) -> str:
        """The address of a campaign's page, for any id."""
        if _NO_PATH.search(campaign_id) or not campaign_id.isprintable():
            return url_for("views.campaign_of", id=campaign_id)
        return url_for("views.campaign", campaign_id=campaign_id)

    def size(self, size_bytes: int) -> str:
        return rounded_size(size_bytes)

    def exact_size(self, size_bytes: int) -> str:
        return human_size(size_bytes)

    def totals(self, assets: int, size_bytes: int) -> str:
        return assets_and_size(UploadTotals(assets, size_bytes))

    def count(self, number: int, one: str, many: str = "") -> str:
        """`1 campaign`, `1,200 campaigns`."""
        return f"{number:,} {one if number == 1 else many or one + 's'}"

    def kind(self, kind: str) -> str:
        """The name of an e-mail of this kind."""
        return NOTICES.get(kind, one_line(kind.replace("_", " "), 60))

    def tone(self, state: State) -> str:
        """The colour of a state; "" for none."""
        return _TONES.get(state, "")

    def worker_tone(self, state: WorkerState) -> str:
        return _WORKER_TONES[state]

    def head(self, state: State) -> str:
        """The first words of an explanation."""
        return HEADS.get(state, "NOT TRIED")

    def request_id(self) -> str:
        """A new id for a form: the same form sent twice is done once."""
        return str(uuid4())

    # Acts

    def did(self, act: str, value: str) -> str:
        """What an act of the page did to a campaign: `Snoozed until …`. value: as page_acts keeps it."""
        if act == "snooze":
            return f"Snoozed until {self._instant(value)}"
        if act == "limit":
            return f"Limit {value}" if value not in ("", "0") else "Limit back to the one for all campaigns"
        return _DID.get(act, act)

    def thing(self, act: str) -> str:
        """What an act of the page changes."""
        return {"resend": "notice", "drain": "worker"}.get(act, "campaign")

    def targets(self, targets: Mapping[str, str]) -> str:
        """What an act changed, in words. targets: as page_acts keeps it."""
        if "chosen" in targets:
            return self.count(int(targets["chosen"]), "selected campaign")
        if "worker" in targets:
            return f"the worker {self.line(targets['worker'], NAME_LIMIT)}"
        if "notices" in targets:
            return "all notices that were given up"
        if "notice" in targets:
            return "a notice" + (f" to {self.line(targets['recipient'])}" if "recipient" in targets else "")
        return f"all that matched: {in_plain_words(Filter.read(targets))}"

    def _instant(self, text: str) -> str:
        try:
            return self.when(datetime.fromisoformat(text))
        except ValueError:
            return self.line(text)


def identifier(text: str) -> UUID | None:
    """A UUID as the page writes it; None for any other text."""
    return UUID(text) if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) else None


def in_plain_words(chosen: Filter) -> str:
    """The filter as part of a sentence: `permanently failed, with "Easter" as id, or in number or name`."""
    parts = [STATES[chosen.state] if chosen.state else ""]
    if chosen.q:
        parts.append(f'with "{one_line(chosen.q)}" as id, or in number or name')
    if chosen.older is not None:
        parts.append(f"unchanged for more than {chosen.older} day{'' if chosen.older == 1 else 's'}")
    return ", ".join(filter(None, parts)) or "all campaigns"
