"""Writes campaigns, their histories and their e-mails as text for a terminal. Pure.

Rows come from database/queries/, as {column: value}. Names come from outside; `table` escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared.base.redaction import escape_line
from shared.base.tables import Column, table
from shared.report.events import Event, in_words
from shared.report.states import Rules, retry_status
from shared.report.workers import Worker, WorkerState

Row = Mapping[str, Any]

_NUMBER, _NAME = Column("number", most=16), Column("name", "cut")
_STANDINGS = (_NUMBER, _NAME, Column("state", "wrap"), Column("since"), Column("next", "wrap"))
_FAILED = (_NUMBER, _NAME, Column("since"), Column("why", "wrap"), Column("next", "wrap"))
_CANDIDATES = (_NUMBER, _NAME, Column("id"), Column("state", "wrap"))
_HISTORY = (Column("when"), Column("cycle"), Column("what happened", "wrap"))
_UNSENT = (
    *(Column("since"), Column("to", "cut"), Column("what", "cut"), Column("tries"), Column("next try")),
    Column("why", "wrap"),
)
_WORKERS = (
    *(Column("worker", most=48), Column("host", "cut"), Column("state", "wrap"), Column("since")),
    Column("in hand"),
)
_IN_HAND = (_NUMBER, _NAME, Column("worker", most=48), Column("since"))
_TOLD = (_NUMBER, _NAME, Column("attempt"), Column("what", "wrap"), Column("to", "cut"), Column("sent"))


def named(row: Row) -> str:
    """A campaign by its id, with its number and name, for a sentence."""
    label = f"{row['campaign_number'] or ''} {row['campaign_name'] or ''}".strip()
    return escape_line(f"{row['campaign_id']} ({label})" if label else row["campaign_id"])


def _names(row: Row) -> tuple[str, str]:
    """A campaign's number, or else its id, and its name, for two cells."""
    return row["campaign_number"] or row["campaign_id"], row["campaign_name"] or ""


def standings(rows: Sequence[Row], rules: Rules) -> str:
    """The states of campaigns, one line each."""
    cells = []
    for row in rows:
        one = rules.standing(row)
        cells.append((*_names(row), one.words, rules.at(one.since), one.coming))
    return _table(_STANDINGS, cells)


def failed(rows: Sequence[Row], rules: Rules) -> str:
    """Permanently failed campaigns, and why they failed."""
    cells = []
    for row in rows:
        one = rules.standing(row)
        cells.append((*_names(row), rules.at(one.since), row["a1_failure_reason"] or "", one.coming))
    return _table(_FAILED, cells)


def candidates(rows: Sequence[Row], rules: Rules) -> str:
    """The campaigns that a word may mean, to choose from."""
    return _table(
        _CANDIDATES, [(*_names(row), row["campaign_id"], rules.standing(row).words) for row in rows]
    )


def facts(row: Row, rules: Rules) -> str:
    """Everything known about one campaign. row: of status_all.sql, and `worker`: the Holder, or None."""
    known = [fact for fact in _facts(row, rules) if fact[1]]
    return table((Column("campaign"), Column(named(row), "wrap")), known)


def _facts(row: Row, rules: Rules) -> Iterator[tuple[str, str]]:
    standing, retry = rules.standing(row), retry_status(row)
    yield "state", standing.words
    yield "since", rules.at(standing.since)
    yield "next", standing.coming
    yield "worker", row["worker"].words(rules.zone) if row["worker"] else ""
    yield "in the DAM", retry.status or "not seen yet"
    yield "attempts", f"{retry.retry_count} of {rules.policy.limit(retry)}" if row["a1_cycle"] else ""
    yield "why", retry.failure_reason or ""
    yield "error", f"since {rules.at(row['error_since'])}: {row['error']}" if row["error"] else ""
    until = retry.running_snooze(rules.now)
    if until is not None:
        reason = f": {row['snooze_reason']}" if row["snooze_reason"] else ""
        yield "snoozed", f"until {rules.at(until)} by {row['snoozed_by'] or '?'}{reason}"
    yield "cycle", str(row["a1_cycle"] or "")


def workers(rows: Sequence[Worker], rules: Rules) -> str:
    """The workers, and the campaigns that they have."""
    cells = [
        (
            one.worker,
            one.host,
            one.words(rules.zone),
            rules.at(one.started_at),
            f"{one.in_hand} of {one.at_once}",
        )
        for one in rows
    ]
    return "\n".join(filter(None, (table(_WORKERS, cells), in_hand(rows, rules))))


def in_hand(rows: Sequence[Worker], rules: Rules) -> str:
    """The campaigns that workers have, since when; "" for none."""
    cells = [
        (
            one.campaign_number or one.campaign_id,
            one.campaign_name or "",
            f"{worker.worker}, lost" if worker.state is WorkerState.LOST else worker.worker,
            rules.at(one.since),
        )
        for worker in rows
        for one in worker.campaigns
    ]
    return table(_IN_HAND, cells) if cells else ""


def history(events: Sequence[Event], rules: Rules) -> str:
    """What happened to a campaign, oldest first."""
    return _table(
        _HISTORY,
        [
            (
                rules.at(event.at),
                "" if event.cycle is None else str(event.cycle),
                in_words(event, rules.zone, rules.gone),
            )
            for event in events
        ],
    )


def unsent(rows: Sequence[Row], rules: Rules) -> str:
    """E-mails and webhooks that someone has not received, and why. A webhook shows its id."""
    return _table(
        _UNSENT,
        [
            (
                *(rules.at(row["created_at"]), *_what(row), str(row["tries"])),
                "given up" if row["gave_up_at"] else rules.soon(row["next_try_at"]),
                row["last_error"] or "",
            )
            for row in rows
        ],
    )


def _what(row: Row) -> tuple[str, str]:
    """To whom, and the subject."""
    if row["channel"] == "webhook":
        return f"webhook {row['recipient']}", f"{row['subject']} [{row['notice_id']}]"
    return row["recipient"], row["subject"]


def told(rows: Sequence[Row], rules: Rules) -> str:
    """The notices that one digest contained."""
    return _table(
        _TOLD,
        [
            (
                *_names(row),
                "" if row["attempt"] is None else f"{row['attempt']} of {row['max_attempts']}",
                *(row["detail"] or "", row["recipient"], rules.at(row["sent_at"])),
            )
            for row in rows
        ],
    )


def _table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    return table(columns, cells) if cells else "none\n"
