"""Gives handlers the application's context, this thread's connection, and the person who asks."""

from __future__ import annotations

from flask import current_app, g

from shared.database import Database
from shared.page.context import Context, Person

EXTENSION = "a1_to_a2"
"""The key of the Context in app.extensions."""


def here() -> Context:
    """The context of the application that answers this request."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Context)  # noqa: S101 - put there by create_app()
    return found


def database() -> Database:
    """This thread's connection, tested once per request. Raises DbError when PostgreSQL is out of reach."""
    if "database" not in g:
        g.database = here().connections.get()
    found = g.database
    assert isinstance(found, Database)  # noqa: S101 - put there above
    return found


def person() -> Person:
    """The person who asks. Call it only in handlers that need a log-in."""
    found = g.person
    assert isinstance(found, Person)  # noqa: S101 - nobody else gets to a handler
    return found
