"""Splits migrations into the statements that the runner applies, so that none blocks others for long. Pure.

A file is plain SQL that `psql -f` applies too. The runner does the same with more care, because a table may
be full of rows and in use:

- Each statement is a transaction of its own, as in psql, so that its lock ends with it. A file may be
  interrupted between any two and applied again: no statement changes anything the second time.
- An index is built CONCURRENTLY. When that is interrupted, an unusable index remains, and is built again.
- The runner waits for a lock for at most LOCK_PATIENCE, then lets others proceed and tries again: while a
  statement waits for a lock, everybody else waits behind it. The lock_timeout in a file is for psql.
"""

from __future__ import annotations

import re
from datetime import timedelta

LOCK_PATIENCE = timedelta(milliseconds=100)
"""How long a statement may wait for its lock; everybody else waits behind it."""
PAUSE_SECONDS = 0.4
"""The pause between two tries; others have four fifths of the time for themselves."""
GIVE_UP_SECONDS = 900.0

_PIECES = re.compile(
    r"""--[^\n]*            # a comment to the end of the line
    | /\*.*?\*/             # a comment in the text
    | [eE]'(?:[^'\\]|''|\\.)*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (\$\w*\$).*?\1        # dollar quotes
    | ;
    """,
    re.VERBOSE | re.DOTALL,
)
_INDEX = re.compile(
    r"CREATE\s+(UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?IF\s+NOT\s+EXISTS\s+(\w+)\s+ON\s+", re.I
)
_LOCK_TIMEOUT = re.compile(r"(SET|RESET)\s+lock_timeout\b", re.IGNORECASE)


def statements(sql: str) -> list[str]:
    """The statements of a file, without comments and lock_timeouts, with indexes built concurrently."""
    found: list[str] = []
    current: list[str] = []
    at = 0
    for piece in _PIECES.finditer(sql):
        current.append(sql[at : piece.start()])
        at = piece.end()
        if piece[0] == ";":
            found.append("".join(current).strip())
            current = []
        elif not piece[0].startswith(("--", "/*")):
            current.append(piece[0])
    found.append("".join([*current, sql[at:]]).strip())
    return [
        _INDEX.sub(
            lambda match: f"CREATE {match[1] or ''}INDEX CONCURRENTLY IF NOT EXISTS {match[2]} ON ", one
        )
        for one in found
        if one and not _LOCK_TIMEOUT.match(one)
    ]


def index_of(statement: str) -> str | None:
    """The index that a statement of `statements` builds, or None."""
    match = _INDEX.match(statement)
    return match[2].lower() if match else None
