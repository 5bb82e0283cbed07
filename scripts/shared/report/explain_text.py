"""An explanation as text for people, and as JSON for programs. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from shared.base.redaction import escape_json, escape_line
from shared.notices.wording import one_line, rounded_size
from shared.report.explain import (
    Explanation,
    Installation,
    elapsed,
    found_of,
    mail_said,
    moment,
    outcome_of,
)
from shared.report.facts import SHOWN, AttemptFact, Mail
from shared.report.state import State

WIDTH = 100
"""Columns of the text. Only a command may be longer: it must stay one line to be pasted."""
INDENT = 8
HEADS = {
    State.NEVER_SEEN: "UNKNOWN",
    State.DUE: "TO BE TRIED",
    State.EMPTY: "TRIED AGAIN",
    State.WAITING: "TRIED AGAIN LATER",
    State.SNOOZED: "NOT COUNTED",
    State.ERRING: "FAILS",
    State.UPLOADING: "ON ITS WAY",
    State.UPLOADED: "DONE",
    State.LOCK_DOUBTFUL: "DONE",
}
"""A word for people before the code; for all others: not tried."""


def as_text(explanation: Explanation, by: Installation) -> str:
    """The explanation in lines that a terminal can show, whatever names and errors hold."""
    return "\n".join(_lines(explanation, by)) + "\n"


def _lines(explanation: Explanation, by: Installation) -> Iterator[str]:
    facts, zone = explanation.facts, by.zone
    row = facts.row
    name = f'"{one_line(row.campaign_name, 60)}"' if row and row.campaign_name else ""
    label = " ".join(part for part in (one_line(row.campaign_number, 40) if row else "", name) if part)
    yield from _wrapped("", "  ".join(part for part in (label, one_line(facts.campaign_id, 90)) if part), 2)
    since = f", since {moment(explanation.since, zone)}" if explanation.since else ""
    yield from _wrapped("", f"{HEADS.get(explanation.state, 'NOT TRIED')}: {explanation.state}{since}", 2)
    yield from _wrapped("  Why   ", explanation.why)
    yield from _attempts(explanation, by)
    yield from _wrapped("  Rule  ", "; ".join(explanation.rule))
    steps = explanation.next
    yield from _listed(
        "Next", [f"{moment(one.at, zone)}  {one.text}" if one.at else one.text for one in steps]
    )
    label = "  Do    "
    for deed in explanation.do:
        yield from _wrapped(label, deed.text)
        label = " " * INDENT
        if deed.command:
            yield f"{label}{escape_line(deed.command)}"
    yield from _listed("Note", explanation.notes)
    yield from _live(explanation, by)
    asked = "" if explanation.live else " The DAM was not asked; --live asks it now."
    yield f"As of {moment(explanation.now, zone)}.{asked}"


def _wrapped(head: str, text: str, indent: int = INDENT) -> list[str]:
    return textwrap.wrap(
        escape_line(text), WIDTH, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False
    ) or [head]


def _listed(label: str, texts: Iterable[str]) -> Iterator[str]:
    head = f"  {label}".ljust(INDENT)
    for text in texts:
        yield from _wrapped(head, text, INDENT + 2)
        head = " " * INDENT


def _attempts(explanation: Explanation, by: Installation) -> Iterator[str]:
    attempts = explanation.facts.attempts
    if len(attempts) == SHOWN:
        yield " " * INDENT + f"the latest {SHOWN}:"
    for before, attempt in zip([None, *attempts], attempts, strict=False):
        waited = f" (after {elapsed(before.at, attempt.at)})" if before else ""
        found = f"{found_of(attempt.reason, by.folder_name)}{waited}"
        mails = "; ".join(mail_said(mail) for mail in attempt.mails) or "no mail on record"
        line = f"{attempt.number:>2}  {moment(attempt.at, by.zone)}  {found:<22} {mails}"
        yield from _wrapped(" " * INDENT, line, INDENT + 4)


def _live(explanation: Explanation, by: Installation) -> Iterator[str]:
    live = explanation.live
    if live is None:
        return
    if live.campaign is None or live.found is None:
        yield from _wrapped("  DAM   ", "now: it does not show this campaign")
        return
    status = one_line(live.campaign.status or "no status", 40)
    folder = f'"{one_line(by.folder_name, 60)}"'
    if live.found.folder_id is None:
        holds = f"it has no folder {folder}"
    elif live.found.assets:
        count = len(live.found.assets)
        size = rounded_size(live.found.size_bytes)
        holds = f"{folder} holds {count} asset{'' if count == 1 else 's'} ({size})"
    else:
        holds = f"{folder} is empty"
    name = one_line(live.campaign.label, 120)
    yield from _wrapped("  DAM   ", f"now: {name} is at {status}, and {holds}: {outcome_of(explanation, by)}")


def as_json(explanation: Explanation, by: Installation) -> str:
    """The explanation as one JSON object on one line; times are in UTC."""
    facts, row, live = explanation.facts, explanation.facts.row, explanation.live
    run, policy = explanation.run, by.policy
    document: dict[str, Any] = {
        "campaign_id": facts.campaign_id,
        "campaign_number": row.campaign_number if row else "",
        "campaign_name": row.campaign_name if row else "",
        "status": row.status if row else None,
        "state": explanation.state,
        "since": _iso(explanation.since),
        "why": explanation.why,
        "cycle": row.cycle if row else 1,
        "attempt": explanation.counted,
        "max_attempts": explanation.limit,
        "attempts": [_attempt(one, by) for one in facts.attempts],
        "rule": {
            "text": explanation.rule,
            "max_retries": policy.max_retries,
            "own_limit": row.max_retries if row else None,
            "retry_delays": policy.delays,
            "auto_reset_days": policy.auto_reset_days,
            "auto_reset_cycles": policy.auto_reset_cycles,
            "auto_resets": row.auto_resets if row else 0,
        },
        "first_seen_at": _iso(facts.created_at),
        "box_folder_id": facts.box_folder_id,
        "snoozed_until": _iso(row.snoozed_until if row else None),
        "next": [{"what": step.what, "at": _iso(step.at), "text": step.text} for step in explanation.next],
        "do": [{"text": deed.text, "command": deed.command} for deed in explanation.do],
        "notes": explanation.notes,
        "errors": [
            {
                "kind": error.kind,
                "message": error.message,
                "began_at": _iso(error.began_at),
                "last_seen_at": _iso(error.last_seen_at),
                "told_at": _iso(error.told_at),
            }
            for error in facts.errors
        ],
        "last_reset": facts.last_reset
        and {
            "at": _iso(facts.last_reset.at),
            "by": facts.last_reset.actor,
            "source": facts.last_reset.source,
            "reason": facts.last_reset.reason,
        },
        "upload": facts.upload
        and {
            "completed_at": _iso(facts.upload.completed_at),
            "assets": facts.upload.assets,
            "bytes": facts.upload.size_bytes,
        },
        "next_run": run
        and {
            "at": _iso(run.at),
            "under_way_since": _iso(run.under_way_since),
            "overdue_since": _iso(run.overdue_since),
        },
        "as_of": _iso(explanation.now),
        "live": live
        and {
            "status": live.campaign.status if live.campaign else None,
            "is_shown": live.campaign is not None,
            "has_folder": live.found is not None and live.found.folder_id is not None,
            "assets": len(live.found.assets) if live.found else None,
            "bytes": live.found.size_bytes if live.found else None,
            "outcome": outcome_of(explanation, by),
        },
    }
    return escape_json(json.dumps(document, ensure_ascii=False))


def _attempt(attempt: AttemptFact, by: Installation) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "at": _iso(attempt.at),
        "found": found_of(attempt.reason, by.folder_name),
        "reason": attempt.reason,
        "mails": [_mail(mail) for mail in attempt.mails],
    }


def _mail(mail: Mail) -> dict[str, Any]:
    return {
        "id": mail.id,
        "kind": mail.kind,
        "recipients": mail.recipients,
        "sent": mail.sent,
        "waiting": mail.waiting,
        "given_up": mail.given_up,
        "last_error": mail.last_error,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds")
