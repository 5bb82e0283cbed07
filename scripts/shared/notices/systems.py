"""Finds the system at which a task keeps failing, and what the engineer does about it. Pure.

It reads the last lines of the run: an error names its system. Campaigns' names are in lines of lower levels,
which are only read when there is no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_EVENT: Final = re.compile(r"\S+Z ([A-Z]+) (?:run=\S+ )?\S+: (.*)")


@dataclass(frozen=True, slots=True)
class System:
    """name: as in `the DAM is the problem`; "" for none that the lines name. todo: whole sentences for the
    engineer.
    """

    name: str
    todo: str


DISK: Final = System(
    "the disk",
    "Free space on the disk. The lines below say whether it is that of this host or of the database server.",
)
POSTGRESQL: Final = System(
    "PostgreSQL",
    "Check that the PostgreSQL server runs, and that the login and the database of the settings exist there"
    " (DATABASE_URL, or DB_HOST, DB_PORT, DB_NAME and DB_USER).",
)
MAIL: Final = System(
    "the mail server",
    "Check that the mail server answers and accepts the login of the settings (SMTP_HOST, SMTP_PORT,"
    " SMTP_USERNAME). E-mails wait until it does, and none is lost.",
)
BOX: Final = System(
    "Box",
    "Check on status.box.com that Box works, and in Box's admin console that the app is still authorised"
    " (BOX_CLIENT_ID or BOX_JWT_CONFIG).",
)
DAM: Final = System(
    "the DAM",
    "Check that the DAM answers at DAM_BASE_URL, and that the login or the client certificate of the settings"
    " is still valid.",
)
LOCK: Final = System(
    "another run",
    "Another run holds the lock, and the lines below name it. Find out whether it works. If it does not, end"
    " that process.",
)
SETTINGS: Final = System(
    "the settings", "Correct the settings that the lines below name. The next run reads them again."
)
PROGRAM: Final = System("the program itself", "This is a bug. Report it with the lines below.")
HOST: Final = System(
    "the host",
    "Something outside the task ended it, often because the memory was full. Look into the kernel's log, and"
    " compare MemoryMax in the unit with the memory of the host.",
)
UNKNOWN: Final = System("", "Read the lines below and the log of the run.")

# In the order that decides when two match at the same place of a line.
_NAMED: Final = (
    (r"holds the lock", LOCK),
    (r"PostgreSQL|\bthe database\b", POSTGRESQL),
    (r"\bmail server\b", MAIL),
    (r"\bBox\b", BOX),
    (r"\bDAM\b", DAM),
)
_FULL_DISK: Final = re.compile(
    r"No space left on device|Disk quota exceeded|\bdisk (?:is )?full\b|Read-only file", re.I
)
_BY_ENDING: Final = {"exit code 2": SETTINGS, "exit code 3": PROGRAM}


def system_of(endings: Iterable[str], tail: Sequence[str]) -> System:
    """The system that a task fails at. endings: how its runs ended. tail: the last lines that one wrote."""
    endings = list(endings)
    lines = _telling(tail)
    if any(_FULL_DISK.search(line) for line in lines):
        return DISK
    if "exit code 3" not in endings:
        for line in reversed(lines):
            places = ((re.search(pattern, line), system) for pattern, system in _NAMED)
            found = [(match.start(), system) for match, system in places if match]
            if found:
                return min(found, key=lambda pair: pair[0])[1]
    if any(ending.startswith("killed by") for ending in endings):
        return HOST
    return next((_BY_ENDING[ending] for ending in endings if ending in _BY_ENDING), UNKNOWN)


def _telling(tail: Sequence[str]) -> list[str]:
    """The texts of the errors; else those of the warnings; else the lines that are not events."""
    events = [(line, _EVENT.fullmatch(line)) for line in tail]
    for level in ("ERROR", "WARNING"):
        texts = [match[2] for _, match in events if match and match[1] == level]
        if texts:
            return texts
    return [line for line, match in events if not match]
