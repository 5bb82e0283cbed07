"""What a request of the operator's page works with: settings, a clock, a connection, and who asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.base.errors import DbError
from shared.database import Database
from shared.settings import PageSettings

APPLICATION_NAME = "a1_to_a2 page"
ANSWER_SECONDS = 10.0
"""How long PostgreSQL may work on a statement of the page."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks. came_by: a proxy's header, or a password. peer: the address of the browser, or its proxy."""

    name: str
    may_act: bool
    came_by: Literal["proxy", "password"]
    peer: str


class Connections:
    """A connection to PostgreSQL for each thread that answers requests; a new one when it was lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._of_thread = threading.local()

    def get(self) -> Database:
        """This thread's connection. Raises DbError when PostgreSQL is out of reach."""
        found: Database | None = getattr(self._of_thread, "database", None)
        if found is not None and not found.is_closed:
            try:
                found.ensure_alive()
                return found
            except DbError:
                found.close()
        made = Database(self._dsn, application_name=APPLICATION_NAME, answer_seconds=ANSWER_SECONDS)
        self._of_thread.database = made
        return made


@dataclass(frozen=True, slots=True)
class Context:
    """The application's own values, kept at app.extensions["a1_to_a2"]. now: the clock, an aware time."""

    settings: PageSettings
    connections: Connections
    now: Callable[[], datetime]
