"""What a handler has at hand: the application's context, this thread's connection, and who asks."""

from __future__ import annotations

from flask import current_app, g

from shared.database import Database
from shared.page.context import Context, Person

EXTENSION = "a1_to_a2"
"""Where the application keeps its Context."""


def here() -> Context:
    """The context of the application that answers this request."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Context)  # noqa: S101 - put there by create_app()
    return found


def database() -> Database:
    """This thread's connection, looked at once a request. Raises DbError when PostgreSQL is out of reach."""
    if "database" not in g:
        g.database = here().connections.get()
    found = g.database
    assert isinstance(found, Database)  # noqa: S101 - put there above
    return found


def person() -> Person:
    """Who asks. To be called only where nobody gets in without a log-in."""
    found = g.person
    assert isinstance(found, Person)  # noqa: S101 - nobody else gets to a handler
    return found
