"""Answers requests for the list of campaigns, a campaign's page, and acts on campaigns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from shared.base.values import GONE
from shared.notices.wording import reset_sql
from shared.page.access import acting
from shared.page.acts import Act, Asked, RefusedError
from shared.page.app_context import database, here, person
from shared.page.campaigns import Campaigns, Row
from shared.page.drawing import Desk, acts, blueprint, cadence, desk, draw, nothing_here, way_back
from shared.page.faults import WORDS, PageError
from shared.page.filters import STATES, Filter
from shared.page.records import HISTORY_SHOWN, files, history, mails, page_number
from shared.page.shown import identifier, in_plain_words
from shared.report.events import events_of, in_words
from shared.report.explain import Installation, explain, found_of, mail_said
from shared.report.facts import facts_of
from shared.report.find import find
from shared.report.state import State
from shared.rules.retry import LONGEST_SNOOZE

NAMED = 20
"""The page before an act names at most this many campaigns."""
WHOLE_HISTORY = 100_000
CAMPAIGN_ACTS = (Act.RESET, Act.SNOOZE, Act.WAKE, Act.LIMIT)
_ALIKE = ("failed", "snoozed")
"""States of a filter in which all campaigns allow the same acts as the first ones."""


@blueprint.get("/campaigns")
def campaigns() -> str:
    """The campaigns that match the filter in the address, page by page."""
    by, chosen = desk(tuple(STATES)), _filter(request.args)
    number = page_number(request.args.get("page", ""))
    total = by.counters.counts[chosen.state] if chosen == Filter(chosen.state) else None
    listed = _campaigns().page(chosen, by.rules.policy, by.rules.status_a1, number, by.now, total)
    return draw(
        "campaigns.html.j2",
        by,
        chosen=chosen,
        listed=listed,
        lines=[(row, by.rules.standing(row)) for row in listed.rows],
        states=STATES,
        counts=by.counters.counts,
        words=in_plain_words(chosen),
    )


@blueprint.get("/campaigns/<path:campaign_id>")
def campaign(campaign_id: str) -> ResponseReturnValue:
    """One campaign: what `explain` says about it, and its records."""
    return _campaign(campaign_id)


@blueprint.get("/campaign")
def campaign_of() -> ResponseReturnValue:
    """The same for an id that cannot be part of a path."""
    return _campaign(request.args.get("id", ""))


def _campaign(campaign_id: str) -> ResponseReturnValue:
    if "\0" in campaign_id:  # PostgreSQL has no such text
        raise nothing_here("No run has seen a campaign with this id.")
    by, settings = desk(), here().settings
    row = _campaigns().one(campaign_id, by.now)
    facts = facts_of(database(), campaign_id, by.now, status_a1=settings.status_a1)
    installation = Installation(
        settings.retry,
        cadence().timezone,
        cadence().off_hours,
        settings.status_a1,
        settings.master_assets_folder,
        settings.commands,
    )
    told = explain(facts, installation, by.now)
    if not told.is_known:
        return _by_another_name(campaign_id)
    is_whole = request.args.get("history") == "all"
    most = WHOLE_HISTORY if is_whole else HISTORY_SHOWN
    rows = history(database(), campaign_id, most + 1)
    events = events_of(rows[-most:], settings.retry.max_retries)
    return draw(
        "campaign.html.j2",
        by,
        id=campaign_id,
        told=told,
        row=row,
        folder_name=settings.master_assets_folder,
        possible=acts(by.now).possible(row) if row else (),
        events=[(event, in_words(event, by.rules.zone, GONE)) for event in reversed(events)],
        has_more_events=len(rows) > most,
        is_whole=is_whole,
        mails=mails(database(), campaign_id),
        files=files(database(), campaign_id),
        dam_folder=settings.links.dam_folder(campaign_id),
        box_folder=settings.links.box_folder(facts.box_folder_id),
        latest_snooze=by.now + LONGEST_SNOOZE - timedelta(minutes=1),
        found_of=found_of,
        mail_said=mail_said,
        reset_sql=reset_sql,
        is_failed=told.state is State.PERMANENTLY_FAILED,
    )


def _by_another_name(word: str) -> ResponseReturnValue:
    """Find a campaign by its number or name: shows its page, or the list of those that may be meant."""
    (meant,) = find(database(), [word])
    if not meant.ids:
        raise nothing_here("No run has seen a campaign with this id, number or name.")
    if meant.is_ambiguous:
        return redirect(url_for("views.campaigns", q=word))
    return redirect(desk().show.campaign(meant.ids[0]))


# Acts


@dataclass(frozen=True, slots=True)
class Offer:
    """What the page before an act shows. targets: the selected ids, or a filter. total: how many campaigns.
    rows: of those that it looked at. possible: {act: how many of the rows allow it}.
    """

    targets: tuple[str, ...] | Filter
    rows: Sequence[Row]
    total: int
    possible: Mapping[Act, int]

    @property
    def is_filter(self) -> bool:
        return isinstance(self.targets, Filter)

    @property
    def is_complete(self) -> bool:
        """Whether the rows are all the campaigns that are meant."""
        return len(self.rows) == self.total


@blueprint.get("/act")
def act() -> ResponseReturnValue:
    """Show what can be done with the selected campaigns, or with all that match; nothing is done yet."""
    return _confirm(desk(), request.args)


def _confirm(
    by: Desk, fields: Any, fault: str = "", typed: Mapping[str, str] | None = None
) -> ResponseReturnValue:
    """The page before an act. fault: why the act was not done. typed: what the person entered."""
    offer = _offer(by, fields)
    page = draw(
        "act.html.j2",
        by,
        offer=offer,
        lines=[(row, by.rules.standing(row)) for row in offer.rows[:NAMED]],
        words=in_plain_words(offer.targets) if isinstance(offer.targets, Filter) else "",
        back=way_back(fields.get("back", "")),
        fault=fault,
        typed=typed or {},
        latest_snooze=by.now + LONGEST_SNOOZE - timedelta(minutes=1),
    )
    return (page, 400) if fault else page


def _offer(by: Desk, fields: Any) -> Offer:
    policy, status_a1 = by.rules.policy, by.rules.status_a1
    able = acts(by.now)
    if fields.get("scope") == "all":
        targets = _filter(fields)
        listed = _campaigns().page(targets, policy, status_a1, 1, by.now)
        counts = _counted(able.possible(row) for row in listed.rows)
        if listed.total > len(listed.rows) and targets.state not in _ALIKE:
            counts = {one: counts.get(one, 0) for one in CAMPAIGN_ACTS}
        return Offer(targets, listed.rows, listed.total, counts)
    ids = tuple(dict.fromkeys(one for one in fields.getlist("id") if "\0" not in one))
    columns, found = database().run_query("status_all", {"ids": list(ids)}) if ids else ([], [])
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    return Offer(ids, rows, len(ids), _counted(able.possible(row) for row in rows))


def _counted(possible: Iterable[tuple[Act, ...]]) -> dict[Act, int]:
    counts = dict.fromkeys(CAMPAIGN_ACTS, 0)
    for of_one in possible:
        for one in of_one:
            counts[one] += 1
    return {one: many for one, many in counts.items() if many}


@blueprint.post("/act")
@acting
def do_act() -> ResponseReturnValue:
    """Do the act, and go back to the page the person came from, with its filter."""
    form, by = request.form, desk()
    chosen = _one_of_acts(form.get("act", ""))
    targets = _filter(form) if form.get("scope") == "all" else form.getlist("id")
    limit = form.get("limit", "").strip()
    try:
        outcome = acts(by.now).do(
            chosen,
            targets,
            asked(),
            until=form.get("until", ""),
            limit=int(limit) if limit.isdecimal() and len(limit) < 6 else None,
        )
    except RefusedError as exc:
        return _confirm(by, form, str(exc), form.to_dict())
    return redirect(way_back(form.get("back", ""), outcome.act_id), 303)


@blueprint.post("/undo/<uuid:act_id>")
@acting
def undo(act_id: UUID) -> ResponseReturnValue:
    """Undo an act, except for campaigns that somebody or a run has changed since."""
    try:
        outcome = acts(here().now()).undo(str(act_id), asked())
    except RefusedError as exc:
        raise _refused(exc) from exc
    return redirect(way_back(request.form.get("back", ""), outcome.act_id), 303)


@blueprint.post("/resend")
@acting
def resend() -> ResponseReturnValue:
    """Send notices again: one, to all or one of those who did not receive it, or all that were given up."""
    form = request.form
    notice_id = identifier(form.get("notice", ""))
    if notice_id is None and form.get("notice") != "given_up":
        raise PageError(400, *WORDS[400])
    try:
        outcome = acts(here().now()).resend(notice_id, asked(), recipient=form.get("recipient") or None)
    except RefusedError as exc:
        raise _refused(exc) from exc
    return redirect(way_back(form.get("back", ""), outcome.act_id), 303)


@blueprint.post("/drain")
@acting
def drain() -> ResponseReturnValue:
    """Ask a worker to finish the files in hand and to stop."""
    try:
        outcome = acts(here().now()).drain(request.form.get("worker", ""), asked())
    except RefusedError as exc:
        raise _refused(exc) from exc
    return redirect(way_back(request.form.get("back", ""), outcome.act_id), 303)


def asked() -> Asked:
    """Who sent this form, and when it was drawn."""
    form = request.form
    request_id = identifier(form.get("request", ""))
    try:
        drawn_at = datetime.fromisoformat(form.get("drawn", ""))
    except ValueError:
        drawn_at = None
    if request_id is None or drawn_at is None or drawn_at.tzinfo is None:
        raise PageError(400, *WORDS[400])
    return Asked(request_id, drawn_at, person().name, person().peer, form.get("reason", ""))


def _one_of_acts(text: str) -> Act:
    if text not in CAMPAIGN_ACTS:
        raise PageError(400, *WORDS[400])
    return Act(text)


def _refused(exc: RefusedError) -> PageError:
    sentence = str(exc)
    return PageError(
        409, "Nothing was changed", f"{sentence[:1].upper()}{sentence[1:]}.", "Go back and reload the page."
    )


def _filter(fields: Mapping[str, str]) -> Filter:
    """The filter in an address or a form."""
    try:
        return Filter.read(fields)
    except ValueError as exc:
        sentence = str(exc)
        raise PageError(
            400,
            "This filter is not valid",
            f"{sentence[:1].upper()}{sentence[1:]}.",
            "Choose a filter on the list.",
        ) from exc


def _campaigns() -> Campaigns:
    return Campaigns(database())
