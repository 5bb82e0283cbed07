"""Keeps the sessions of people who logged in by a password, in page_sessions: only hashes of the tokens."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from shared.database import Database
from shared.page.guards import new_secret
from shared.page.users import User

LIFE = timedelta(hours=12)

REMOVE_OLD = "DELETE FROM page_sessions WHERE expires_at <= %(now)s OR token_hash = %(before)s"

ADD = """
INSERT INTO page_sessions (token_hash, person, fingerprint, created_at, expires_at)
VALUES (%(token_hash)s, %(person)s, %(fingerprint)s, %(now)s, %(expires_at)s)
"""

FIND = """
SELECT person, fingerprint FROM page_sessions WHERE token_hash = %(token_hash)s AND expires_at > %(now)s
"""

REMOVE = "DELETE FROM page_sessions WHERE token_hash = %(token_hash)s"


class Sessions:
    """The sessions, by their tokens. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, user: User, now: datetime, before: str) -> str:
        """Begin a session of this user, and return its token. before: the browser's last token, which becomes
        invalid.
        """
        token = new_secret()
        values = {
            "token_hash": _hash(token),
            "before": _hash(before),
            "person": user.name,
            "fingerprint": user.fingerprint,
            "now": now,
            "expires_at": now + LIFE,
        }
        with self._database.transaction():
            self._database.execute(REMOVE_OLD, values)
            self._database.execute(ADD, values)
        return token

    def find(self, token: str, now: datetime) -> tuple[str, str] | None:
        """(name, fingerprint of the user's line at the log-in) of a valid session."""
        rows = self._database.rows(FIND, {"token_hash": _hash(token), "now": now})
        return (rows[0][0], rows[0][1]) if rows else None

    def end(self, token: str) -> None:
        """End a session: its cookie, and any copy of it, is worthless from then on."""
        self._database.execute(REMOVE, {"token_hash": _hash(token)})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
