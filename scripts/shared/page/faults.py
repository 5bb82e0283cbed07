"""The page for each way in which a request can fail: what happened, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flask import Flask, Response, g, make_response, render_template, request
from werkzeug.exceptions import HTTPException, InternalServerError

from shared.base.errors import AppError, DbError

logger = logging.getLogger("page")

DATABASE_RETRY_SECONDS = 10
"""What Retry-After says while PostgreSQL is out of reach."""


class PageError(Exception):
    """A request that is refused or fails, with the words of the page that it gets instead.

    status: of HTTP. title, what, cure: plain text. headers: in addition to those of every answer.
    """

    def __init__(
        self, status: int, title: str, what: str, cure: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {title}")
        self.status = status
        self.title = title
        self.what = what
        self.cure = cure
        self.headers = dict(headers or {})


WORDS: Mapping[int, tuple[str, str, str]] = {
    400: (
        "The request cannot be read",
        "The browser sent something that this page does not understand.",
        "Go back, reload the page and try again.",
    ),
    404: (
        "Not found",
        "This page has no such address. Nothing was changed.",
        "Check the address, or search for the campaign in the list of campaigns.",
    ),
    405: (
        "This address does not accept that kind of request",
        "Pages are read with GET, and the buttons of forms send POST. Nothing was changed.",
        "Open the page again and use its buttons.",
    ),
    413: (
        "The form is too large",
        "The browser sent more than this page accepts at once. Nothing was changed.",
        "Select fewer campaigns at once, or act on all that match a filter.",
    ),
    500: (
        "The page has a fault",
        "The page itself failed to answer this request. The page's log has the details.",
        "Try again. If it fails again, tell the engineer who runs this installation.",
    ),
}
"""{status: (title, what happened, what to do)} for what Flask and the handlers refuse."""


def answer_faults(app: Flask) -> None:
    """Answer every failure of this application with a page of ours."""
    app.register_error_handler(PageError, _show)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(AppError, _of_product)
    app.register_error_handler(Exception, _of_bug)


def _show(fault: PageError) -> Response:
    page = render_template("error.html.j2", title=fault.title, what=fault.what, cure=fault.cure)
    response = make_response(page, fault.status)
    response.headers.update(fault.headers)
    return response


def _of_http(exc: HTTPException) -> Response:
    """Answer what Flask, or a handler by abort(), refused. A redirect of the router stays one."""
    status = exc.code or 500
    if status < 400:
        return make_response(exc.get_response())
    if isinstance(exc, InternalServerError):
        logger.error("%s", exc, exc_info=exc.original_exception or exc)
    title, what, cure = WORDS.get(status) or WORDS[400 if status < 500 else 500]
    allow = exc.get_response().headers.get("Allow")
    return _show(PageError(status, title, what, cure, {"Allow": allow} if allow else None))


def _of_product(exc: AppError) -> Response:
    """Answer an expected failure, mostly of the database. Its text goes to the log only: it may
    name hosts.
    """
    logger.error("%s", exc, extra={"action": "page_failed", "kind": exc.kind})
    if not isinstance(exc, DbError):
        return _show(
            PageError(
                500,
                "A setting of the page is wrong",
                "The page cannot work with its settings. The page's log says what is wrong.",
                "Tell the engineer who runs this installation.",
            )
        )
    if exc.is_out_of_reach:
        title, what = "The database cannot be reached", "PostgreSQL is not answering at the moment."
    elif exc.retryable:
        title, what = "The database is busy", "Another transaction is blocking this request."
    else:
        return _show(
            PageError(
                500,
                "The database refused the request",
                "PostgreSQL answered, but refused the page's statement. The page's log says why.",
                "Tell the engineer who runs this installation: migrations may be pending, or rights missing.",
            )
        )
    cure = "Reload the page in a moment."
    if request.method == "POST":
        what += (
            " Nothing was done, unless the connection broke at the very end: then all of it was done."
            if g.get("is_admitted")
            else " Nothing was done."
        )
        cure = "Send the form again in a moment: the page never does the same form twice."
    return _show(PageError(503, title, what, cure, {"Retry-After": str(DATABASE_RETRY_SECONDS)}))


def _of_bug(exc: Exception) -> Response:
    logger.error("a bug ended a request to %s", request.path, exc_info=exc)
    return _show(PageError(500, *WORDS[500]))
