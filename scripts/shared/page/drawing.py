"""Draws a page, and has what the handlers of all pages share: the blueprint and the rules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from flask import Blueprint, render_template, request
from markupsafe import Markup

from shared.base.values import GONE
from shared.page.acts import Acts, Outcome
from shared.page.app_context import database, here
from shared.page.faults import PageError
from shared.page.overview import COUNTED, Counters, Overview
from shared.page.shown import Shown, identifier
from shared.report.states import Rules
from shared.settings import CadenceSettings

LONGEST_WAY_BACK = 2000

blueprint = Blueprint("views", __name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a handler works with, made once per request. counters: read first, so that its drawn_at is the
    cut-off of every act that the page offers.
    """

    now: datetime
    rules: Rules
    counters: Counters

    @property
    def show(self) -> Shown:
        return Shown(cadence().timezone, self.now)

    @property
    def overview(self) -> Overview:
        return Overview(database(), self.rules.policy, self.rules.status_a1, self.now)


def cadence() -> CadenceSettings:
    return here().settings.cadence


def desk(states: Sequence[str] = COUNTED) -> Desk:
    """The Desk of this request. states: what its counters count. Raises DbError."""
    settings, now = here().settings, here().now()
    overview = Overview(database(), settings.retry, settings.status_a1, now)
    counters = overview.counters(cadence().timezone, cadence().off_hours, states)
    return Desk(now, Rules(settings.retry, settings.status_a1, GONE, cadence().timezone, now), counters)


def draw(template: str, by: Desk, **values: object) -> str:
    """A page, with the counters at its top, and the banner when an act has just been done."""
    counters = counters_html(by)
    return render_template(
        template,
        show=by.show,
        page_link=_page_link,
        drawn=by.counters.drawn_at,
        drawn_at=by.counters.drawn_at.astimezone(UTC).isoformat(),
        zone_name=str(cadence().timezone),
        counters=counters,
        counters_etag=etag(counters),
        banner=_banner(),
        here_now=way_back(request.full_path),
        **values,
    )


def _page_link(number: int) -> str:
    """The address of another page of the same list, with its filter."""
    query = [pair for pair in request.args.items(multi=True) if pair[0] not in ("page", "done")]
    return f"{quote(request.path)}?{urlencode([*query, ('page', str(number))], errors='replace')}"


def counters_html(by: Desk) -> Markup:
    """The counters, drawn by their own template, which escapes what it is given."""
    html = render_template("counters.html.j2", now_counters=by.counters, show=by.show)
    return Markup(html)  # noqa: S704  # nosec B704 - a drawn template


def etag(text: str) -> str:
    """What If-None-Match is compared with, in its quotes."""
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'


def _banner() -> Outcome | None:
    """The outcome of the act that sent the browser here; None when no act did."""
    act_id = identifier(request.args.get("done", ""))
    return acts(here().now()).outcome(str(act_id)) if act_id else None


def way_back(address: str, done: str = "") -> str:
    """The address of this page to which an act returns, with its filter. address: from a form, so anything
    but a path of ours becomes the start page. done: the act that the banner shows.
    """
    is_ours = re.fullmatch(r"/(?![/\\])[^\\\0-\x1f\x7f]*", address) and len(address) <= LONGEST_WAY_BACK
    parts = urlsplit(address if is_ours else "/")
    query = [pair for pair in parse_qsl(parts.query) if pair[0] != "done"]
    text = urlencode([*query, *([("done", done)] if done else [])], errors="replace")
    return f"{parts.path}?{text}" if text else parts.path


def nothing_here(what: str) -> PageError:
    """The answer to an address that does not exist."""
    return PageError(404, "Not found", what, "Check the address, or search the list of campaigns.")


def acts(now: datetime) -> Acts:
    """The acts, by the rules of this installation."""
    settings = here().settings
    return Acts(database(), settings.retry, settings.status_a1, cadence().timezone, now)
