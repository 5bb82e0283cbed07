"""Answers machines, without a log-in: the metrics, whether the process answers, whether it can do its work.

An answer names no host, user or table; the log has the rest.
"""

from __future__ import annotations

import logging

from flask import Blueprint, Response

from shared.base.errors import DbError
from shared.page.app_context import database, here
from shared.page.faults import DATABASE_RETRY_SECONDS
from shared.report.metrics import CONTENT_TYPE, exposition
from shared.upkeep.schema import Schema

logger = logging.getLogger("page")

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Say that the process answers. This checks nothing else."""
    return _plain("ok", 200)


@blueprint.get("/readyz")
def readyz() -> Response:
    """200 when the database answers and all migrations are applied; else 503, with a line for each fault."""
    try:
        missing = [f"the migration {path.stem} is not applied" for path in Schema(database()).pending()]
    except DbError as exc:
        missing = [_words(exc)]
    return _plain("\n".join(missing), 503) if missing else _plain("ready", 200)


@blueprint.get("/metrics")
def metrics() -> Response:
    """The metrics, as in METRICS_FILE, as of now; 503 when the database does not answer."""
    context = here()
    settings = context.settings
    try:
        content = exposition(database(), settings.retry, settings.status_a1, context.now())
    except DbError as exc:
        return _plain(_words(exc), 503)
    return _uncached(Response(content, content_type=CONTENT_TYPE))


def _words(exc: DbError) -> str:
    """What is wrong with the database, for those who have not logged in."""
    logger.warning("%s", exc, extra={"action": "not_ready", "kind": exc.kind})
    if exc.is_out_of_reach:
        return "the database cannot be reached"
    return f"the database refused the query ({exc.kind}); the page's log says why"


def _plain(text: str, status: int) -> Response:
    response = Response(f"{text}\n", status, content_type="text/plain; charset=utf-8")
    if status == 503:
        response.headers["Retry-After"] = str(DATABASE_RETRY_SECONDS)
    return _uncached(response)


def _uncached(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
