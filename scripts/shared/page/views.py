"""Answers requests for the start page, the lists of records and the counters. Campaigns: campaign_views."""

from __future__ import annotations

from uuid import UUID

from flask import Response, make_response, request

from shared.loop.tasks import tasks_with
from shared.page import campaign_views
from shared.page.app_context import database
from shared.page.audit import AuditRecords
from shared.page.drawing import blueprint, cadence, counters_html, desk, draw, etag, nothing_here
from shared.page.overview import first_of_days
from shared.page.pictures import DAYS_SHOWN, monday_of, strip, week_of
from shared.page.records import NOTICE_STATES, SEARCHED, NoticeRecords, page_number
from shared.page.records import runs as runs_of
from shared.report.workers import workers_of

__all__ = ["blueprint", "campaign_views"]

MAIL_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self';"
    " base-uri 'none'; form-action 'none'"
)
"""A notice's HTML can be seen, but do nothing."""
MOST_LETTERS = 200


@blueprint.get("/")
def start() -> str:
    """The start page: stuck campaigns, the loop, e-mails, today's uploads."""
    by = desk()
    zone, window, overview = cadence().timezone, cadence().off_hours, by.overview
    sections = {
        state: (section.total, [(row, by.rules.standing(row)) for row in section.rows])
        for state, section in overview.stuck().items()
    }
    schedules = {task.name: task.schedule for task in tasks_with(cadence().digest)}
    days = overview.days(first_of_days(by.now, zone, DAYS_SHOWN), zone)
    today = by.now.astimezone(zone).date()
    return draw(
        "start.html.j2",
        by,
        now_counters=by.counters,
        sections=sections,
        tasks=overview.tasks(schedules, zone, window),
        window=window,
        workers=workers_of(database()),
        mails=overview.mails(),
        days=days,
        today=today,
        bars=strip(days.uploaded, days.failed, today),
        week=week_of(monday_of(by.now, zone), zone, window),
        local=by.now.astimezone(zone),
    )


@blueprint.get("/counters")
def counters() -> Response:
    """The counters alone, for a page that is open: 304 when nothing has changed."""
    html = counters_html(desk())
    response = make_response(html)
    response.headers["ETag"] = etag(html)
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request)
    return response


@blueprint.get("/runs")
def runs() -> str:
    """The workers, if there are any, and the runs that the loop started."""
    by, only_failed = desk(), request.args.get("only") == "failed"
    names = [task.name for task in tasks_with(cadence().digest)]
    task = request.args.get("task", "")
    if task and task not in names:
        raise nothing_here("There is no task with this name.")
    number = page_number(request.args.get("page", ""))
    listed = runs_of(database(), task, number, by.now, only_failed=only_failed)
    return draw(
        "runs.html.j2",
        by,
        workers=workers_of(database()),
        listed=listed,
        task=task,
        tasks=names,
        only_failed=only_failed,
    )


@blueprint.get("/notices")
def notices() -> str:
    """Notices, by what became of them."""
    by, state, q = desk(), request.args.get("state", ""), request.args.get("q", "").strip()
    if state not in NOTICE_STATES:
        raise nothing_here(f"A notice's state is one of {', '.join(filter(None, NOTICE_STATES))}.")
    records = NoticeRecords(database())
    q = q.replace("\0", "\ufffd")[:MOST_LETTERS]
    listed = records.page(state, q, page_number(request.args.get("page", "")))
    return draw(
        "notices.html.j2",
        by,
        listed=listed,
        state=state,
        q=q,
        states=NOTICE_STATES,
        counts=records.counts(),
        searched=SEARCHED,
    )


@blueprint.get("/notices/<uuid:notice_id>")
def notice(notice_id: UUID) -> str:
    """One notice as it was sent, and what became of it for each recipient."""
    by, found = desk(), NoticeRecords(database()).one(notice_id)
    if found is None:
        raise nothing_here("There is no notice with this id. Notices are kept for half a year.")
    return draw("notice.html.j2", by, notice=found)


@blueprint.get("/notices/<uuid:notice_id>/html")
def notice_html(notice_id: UUID) -> Response:
    """A notice's HTML, for the frame on its page; names in it come from outside, so it may do nothing."""
    html = NoticeRecords(database()).html(notice_id)
    if html is None:
        raise nothing_here("There is no notice with this id.")
    response = make_response(html)
    response.headers["Content-Security-Policy"] = MAIL_POLICY
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    return response


@blueprint.get("/audit")
def audit() -> str:
    """Who did what, when, why and from where."""
    by = desk()
    listed = AuditRecords(database()).page(page_number(request.args.get("page", "")))
    return draw("audit.html.j2", by, listed=listed)
