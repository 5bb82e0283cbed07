"""Migrations as the runner applies them: one statement at a time, so that none blocks others for long. Pure.

A file is plain SQL that `psql -f` applies too. The runner does the same with more care, because a table may
be full of rows and in use:

- Each statement stands alone, as in psql, so that a lock goes with the statement that needed it. A file may
  be stopped between any two and applied again: every statement changes nothing the second time.
- An index is built CONCURRENTLY. When that is stopped half-way, an unusable index stays, and is made anew.
- The runner waits for a lock for LOCK_PATIENCE at most, then lets everybody pass and tries again: a statement
  that waits for a lock keeps everybody else waiting behind it. The lock_timeout in a file is for psql.
"""

from __future__ import annotations

import re
from datetime import timedelta

LOCK_PATIENCE = timedelta(milliseconds=100)
"""How long a statement may queue for its lock; everybody else queues behind it meanwhile."""
PAUSE_SECONDS = 0.4
"""Between two tries; others have four fifths of the time for themselves."""
GIVE_UP_SECONDS = 900.0

_PIECES = re.compile(
    r"""--[^\n]*            # a comment to the end of the line
    | /\*.*?\*/             # one in the text
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
