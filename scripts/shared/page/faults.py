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
    """A request that is not answered as it asks: the words of the page that it gets instead.

    status: of HTTP. title, what, cure: plain text. headers: beside those of every answer.
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
        "There is nothing here",
        "This address is not one of this page. Nothing was changed.",
        "Look at the address again, or search for the campaign on the list of campaigns.",
    ),
    405: (
        "This address does not take that kind of request",
        "A page is read by GET, and an act is sent by the button of a form. Nothing was changed.",
        "Open the page again and use its buttons.",
    ),
    413: (
        "The form is too large",
        "More was sent than a form of this page can hold. Nothing was changed.",
        "Choose fewer campaigns at once, or act on all that match a filter.",
    ),
    500: (
        "The page has a fault",
        "This request failed within the page itself. The log of the page has the details.",
        "Try again; when it fails again, tell the one who looks after this installation.",
    ),
}
"""{status: title, what happened, what to do} of what Flask and the code behind the paths refuse."""


def answer_faults(app: Flask) -> None:
    """Let every failure of this application end in a page of ours."""
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
    """What Flask, or a handler by abort(), answers. A redirect of the router stays one."""
    status = exc.code or 500
    if status < 400:
        return make_response(exc.get_response())
    if isinstance(exc, InternalServerError):
        logger.error("%s", exc, exc_info=exc.original_exception or exc)
    title, what, cure = WORDS.get(status) or WORDS[400 if status < 500 else 500]
    allow = exc.get_response().headers.get("Allow")
    return _show(PageError(status, title, what, cure, {"Allow": allow} if allow else None))


def _of_product(exc: AppError) -> Response:
    """An expected failure: mostly of the database. Its text is for the log: it may name hosts and files."""
    logger.error("%s", exc, extra={"action": "page_failed", "kind": exc.kind})
    if not isinstance(exc, DbError):
        return _show(
            PageError(
                500,
                "A setting of the page has a fault",
                "The page cannot work as it is set up. The log of the page says what is wrong.",
                "Tell the one who looks after this installation.",
            )
        )
    if exc.is_out_of_reach:
        title, what = "The database cannot be reached", "PostgreSQL does not answer the page at present."
    elif exc.retryable:
        title, what = "The database is busy", "Another transaction is in the way of this request."
    else:
        return _show(
            PageError(
                500,
                "The database refused the request",
                "PostgreSQL answered, and refused what the page asked. The log of the page says why.",
                "Tell the one who looks after this installation: migrations may be pending, or rights"
                " missing.",
            )
        )
    cure = "Reload the page in a moment."
    if request.method == "POST":
        what += (
            " Nothing was done, unless the connection broke at the very end: then it was done as a whole."
            if g.get("is_admitted")
            else " Nothing was done."
        )
        cure = "Send the form again in a moment: the same form is never carried out twice."
    return _show(PageError(503, title, what, cure, {"Retry-After": str(DATABASE_RETRY_SECONDS)}))


def _of_bug(exc: Exception) -> Response:
    logger.error("a bug ended a request to %s", request.path, exc_info=exc)
    return _show(PageError(500, *WORDS[500]))
