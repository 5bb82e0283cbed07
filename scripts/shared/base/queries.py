"""Reads the files of `database/queries/`, which psql can run too."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[3] / "database" / "queries"
_PSQL_LINE = r"(?m)^(\\|--).*\n"
_PSQL_DEFAULT = r"(?m)^\\if .*\\set (\w+) (\S+)"


def query(name: str) -> str:
    """The SQL of NAME.sql, with %(value)s for psql's :'value', without comments and without psql's own
    commands, which begin with a backslash.
    """
    sql = re.sub(_PSQL_LINE, "", _text(name)).replace("%", "%%")
    return re.sub(r":'(\w+)'", r"%(\1)s", sql)


def defaults(name: str) -> dict[str, str]:
    """The defaults that NAME.sql sets by `\\set`."""
    return dict(re.findall(_PSQL_DEFAULT, _text(name)))


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
