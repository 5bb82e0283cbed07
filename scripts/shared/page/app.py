"""Builds the operator's page: its parts, the limits of a request, and the headers of every answer."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, request
from jinja2 import StrictUndefined

from shared.page import access, faults, health, views
from shared.page.app_context import EXTENSION
from shared.page.context import Connections, Context
from shared.settings import PageSettings

logger = logging.getLogger("page")

MOST_BODY_BYTES = 256 * 1024
"""Of a request: enough for 5,000 campaigns selected at once."""
MOST_MULTIPART = 20
"""Parts of a multipart form: none of our forms is one."""
STATIC_CACHE = "public, max-age=31536000, immutable"


def create_app(settings: PageSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Flask:
    """The page as a WSGI application. now: the clock, an aware time.

    Raises ConfigError when the settings cannot work together.
    """
    app = Flask(__name__)
    app.jinja_options = {
        **app.jinja_options, "autoescape": True, "undefined": StrictUndefined,
        "trim_blocks": True, "lstrip_blocks": True,
    }  # fmt: skip
    app.config.update(
        MAX_CONTENT_LENGTH=MOST_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MOST_BODY_BYTES,
        MAX_FORM_PARTS=MOST_MULTIPART,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.extensions[EXTENSION] = Context(settings, Connections(settings.database.dsn), now)
    app.before_request(_begin)
    access.guard(app, settings)
    app.after_request(_finish)
    faults.answer_faults(app)
    app.url_defaults(_static_version(Path(app.static_folder or "")))
    for blueprint in (access.blueprint, views.blueprint, health.blueprint):
        app.register_blueprint(blueprint)
    return app


def _begin() -> None:
    g.began_at = time.monotonic()
    g.person = None


def _finish(response: Response) -> Response:
    """Set the headers of every answer, and log it: without the query, which may contain names."""
    if request.endpoint == "static" and response.status_code == 200 and "v" in request.args:
        response.headers["Cache-Control"] = STATIC_CACHE
    for name, value in access.site().headers.items():
        response.headers.setdefault(name, value)
    took = (time.monotonic() - g.began_at) * 1000
    logger.info(
        "%s %s %s %d, %.0f ms",
        g.person.name if g.person else "-", request.method, request.path, response.status_code, took,
        extra={"action": "page_request", "peer": access.peer()},
    )  # fmt: skip
    return response


def _static_version(folder: Path) -> Callable[[str, dict[str, Any]], None]:
    """Add a value to a static file's address that changes with its content: so browsers may keep
    it for ever.
    """
    versions: dict[str, str] = {}

    def add(endpoint: str, values: dict[str, Any]) -> None:
        name = values.get("filename")
        if endpoint != "static" or not isinstance(name, str):
            return
        if name not in versions:
            versions[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12]
        values["v"] = versions[name]

    return add
