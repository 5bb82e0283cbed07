"""Writes an explanation as text for people, and as JSON for programs. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from shared.base.redaction import escape_json, escape_line
from shared.base.values import RetryStatus
from shared.notices.wording import moment, one_line, rounded_size
from shared.report.explain import (
    Explanation,
    Installation,
    Live,
    elapsed,
    found_of,
    mail_said,
    outcome_of,
)
from shared.report.facts import SHOWN, Act, AttemptFact, ErrorFact, Mail, UploadFact
from shared.report.state import State
from shared.report.workers import Holder
from shared.rules.outlook import ComingRun

WIDTH = 100
"""Columns of the text. Only a command or an address may be longer: it stays on one line, to be pasted."""
INDENT = 8
HEADS = {
    State.NEVER_SEEN: "UNKNOWN",
    State.DUE: "TO BE TRIED",
    State.EMPTY: "IN RETRY",
    State.WAITING: "IN RETRY",
    State.SNOOZED: "ATTEMPTS ON HOLD",
    State.PERMANENTLY_FAILED: "SKIPPED",
    State.ERRING: "FAILING",
    State.UPLOADING: "IN PROGRESS",
    State.UPLOADED: "DONE",
    State.LOCK_DOUBTFUL: "DONE",
}
"""The words before the code, which they never repeat; for all other states: not tried."""
PLACES = {"page": "Page", "dam": "DAM", "box": "Box"}
"""Where people can open a campaign, by the keys of the JSON."""


def as_text(explanation: Explanation, by: Installation) -> str:
    """The explanation in lines that a terminal can show safely, whatever names and errors contain."""
    return "\n".join(_lines(explanation, by)) + "\n"


def _lines(explanation: Explanation, by: Installation) -> Iterator[str]:
    zone = by.zone
    yield from _wrapped("", _label(explanation.facts.retry), 2)
    since = f", since {moment(explanation.since, zone)}" if explanation.since else ""
    yield from _wrapped("", f"{HEADS.get(explanation.state, 'NOT TRIED')}: {explanation.state}{since}", 2)
    yield from _wrapped("  Why   ", explanation.why)
    yield from _attempts(explanation, by)
    if explanation.facts.webhooks:
        told = "; ".join(map(str, explanation.facts.webhooks))
        yield from _wrapped("  Sent  ", f"webhooks: {told}")
    yield from _wrapped("  Rule  ", "; ".join(explanation.rule))
    steps = explanation.next
    yield from _listed(
        "Next", [f"{moment(one.at, zone)}  {one.text}" if one.at else one.text for one in steps]
    )
    yield from _deeds(explanation)
    yield from _listed("Note", explanation.notes)
    for place, address in _links(explanation, by).items():
        if address:
            yield f"  {PLACES[place]}".ljust(INDENT) + address
    yield from _live(explanation, by)
    asked = "" if explanation.live else " The DAM was not asked; --live asks it now."
    yield f"As of {moment(explanation.now, zone)}.{asked}"


def _label(row: RetryStatus) -> str:
    """`C-1001 "Easter 2027"  0b0d5568…`, without what is not known."""
    name = f'"{one_line(row.campaign_name, 60)}"' if row.campaign_name else ""
    called = " ".join(filter(None, (one_line(row.campaign_number, 40), name)))
    return "  ".join(filter(None, (called, one_line(row.campaign_id, 90))))


def _wrapped(head: str, text: str, indent: int = INDENT) -> list[str]:
    return textwrap.wrap(
        escape_line(text), WIDTH, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False
    ) or [head]


def _listed(label: str, texts: Iterable[str]) -> Iterator[str]:
    head = f"  {label}".ljust(INDENT)
    for text in texts:
        yield from _wrapped(head, text, INDENT + 2)
        head = " " * INDENT


def _deeds(explanation: Explanation) -> Iterator[str]:
    head = "  Do    "
    for deed in explanation.do:
        yield from _wrapped(head, deed.text)
        head = " " * INDENT
        if deed.command:
            yield f"{head}{escape_line(deed.command)}"


def _links(explanation: Explanation, by: Installation) -> dict[str, str]:
    """{place: the campaign's address there, "" if unknown}."""
    facts = explanation.facts
    return {
        "page": by.links.campaign(facts.campaign_id),
        "dam": by.links.dam_folder(facts.campaign_id),
        "box": by.links.box_folder(facts.box_folder_id),
    }


def _attempts(explanation: Explanation, by: Installation) -> Iterator[str]:
    attempts = explanation.facts.attempts
    if len(attempts) == SHOWN:
        yield " " * INDENT + f"the latest {SHOWN}:"
    for before, attempt in zip([None, *attempts], attempts, strict=False):
        waited = f" (after {elapsed(before.at, attempt.at)})" if before else ""
        found = f"{found_of(attempt.reason, by.folder_name)}{waited}"
        mails = "; ".join(mail_said(mail) for mail in attempt.mails) or "no e-mail on record"
        line = f"{attempt.number:>2}  {moment(attempt.at, by.zone)}  {found:<22} {mails}"
        yield from _wrapped(" " * INDENT, line, INDENT + 4)


def _live(explanation: Explanation, by: Installation) -> Iterator[str]:
    live = explanation.live
    if live is None:
        return
    if live.campaign is None or live.found is None:
        yield from _wrapped("  DAM   ", "now: the DAM does not show this campaign")
        return
    status = one_line(live.campaign.status or "no status", 40)
    if live.found.folder_id is None:
        holds = f"it has no folder {by.folder}"
    elif live.found.assets:
        count = len(live.found.assets)
        size = rounded_size(live.found.size_bytes)
        holds = f"{by.folder} contains {count} asset{'' if count == 1 else 's'} ({size})"
    else:
        holds = f"{by.folder} is empty"
    name = one_line(live.campaign.label, 120)
    yield from _wrapped("  DAM   ", f"now: {name} is in {status}, and {holds}: {outcome_of(explanation, by)}")


def as_json(explanation: Explanation, by: Installation) -> str:
    """The explanation as one JSON object on one line; times are in UTC."""
    facts, row, policy = explanation.facts, explanation.facts.retry, by.policy
    run, live = explanation.run, explanation.live
    document: dict[str, Any] = {
        "campaign_id": facts.campaign_id,
        "campaign_number": row.campaign_number,
        "campaign_name": row.campaign_name,
        "status": row.status,
        "state": explanation.state,
        "since": _iso(explanation.since),
        "why": explanation.why,
        "cycle": row.cycle,
        "attempt": explanation.counted,
        "max_attempts": explanation.limit,
        "attempts": [_attempt(one, by) for one in facts.attempts],
        "rule": {
            "text": explanation.rule,
            "max_retries": policy.max_retries,
            "own_limit": row.max_retries,
            "retry_delays": policy.delays,
            "auto_reset_days": policy.auto_reset_days,
            "auto_reset_cycles": policy.auto_reset_cycles,
            "auto_resets": row.auto_resets,
        },
        "first_seen_at": _iso(facts.created_at),
        "box_folder_id": facts.box_folder_id,
        "snoozed_until": _iso(row.snoozed_until),
        "next": [{"what": step.what, "at": _iso(step.at), "text": step.text} for step in explanation.next],
        "do": [{"text": deed.text, "command": deed.command} for deed in explanation.do],
        "notes": explanation.notes,
        "errors": [_error(error) for error in facts.errors],
        "webhooks": [
            {"target": one.target, "ticket": one.ticket, "state": one.state} for one in facts.webhooks
        ],
        "last_reset": facts.last_reset and _act(facts.last_reset),
        "worker": facts.worker and as_object(facts.worker),
        "upload": facts.upload and _upload(facts.upload),
        "next_run": run and _run(run),
        "as_of": _iso(explanation.now),
        "links": {place: address or None for place, address in _links(explanation, by).items()},
        "live": live and {**_seen(live), "outcome": outcome_of(explanation, by)},
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
        "folded_into": mail.folded_into,
    }


def _error(error: ErrorFact) -> dict[str, Any]:
    return {
        "kind": error.kind,
        "message": error.message,
        "began_at": _iso(error.began_at),
        "last_seen_at": _iso(error.last_seen_at),
        "told_at": _iso(error.told_at),
    }


def as_object(holder: Holder) -> dict[str, Any]:
    """The worker that has a campaign, for JSON."""
    worker = holder.worker
    return {
        "worker": worker.worker,
        "host": worker.host,
        "state": worker.state,
        "since": _iso(holder.since),
        "seen_at": _iso(worker.seen_at),
    }


def _act(act: Act) -> dict[str, Any]:
    return {"at": _iso(act.at), "by": act.actor, "source": act.source, "reason": act.reason}


def _upload(upload: UploadFact) -> dict[str, Any]:
    return {
        "completed_at": _iso(upload.completed_at),
        "assets": upload.assets,
        "bytes": upload.size_bytes,
    }


def _run(run: ComingRun) -> dict[str, Any]:
    return {
        "at": _iso(run.at),
        "under_way_since": _iso(run.under_way_since),
        "overdue_since": _iso(run.overdue_since),
    }


def _seen(live: Live) -> dict[str, Any]:
    """What the DAM showed."""
    campaign, found = live.campaign, live.found
    return {
        "status": campaign.status if campaign else None,
        "is_shown": campaign is not None,
        "has_folder": found is not None and found.folder_id is not None,
        "assets": len(found.assets) if found else None,
        "bytes": found.size_bytes if found else None,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds")
