"""Turns PostgreSQL's refusals into DbError, by their SQLSTATE: the server may use any language."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2

from shared.base.commands import here
from shared.base.errors import DbError, out_of_reach
from shared.postgres.fence import campaign_lost, run_lost

_LOGIN = (
    "check the user and the password in DATABASE_URL, or DB_USER and DB_PASSWORD;"
    " the server's pg_hba.conf says who may log in, from where and how"
)
_TLS = (
    "DB_CA_BUNDLE names the file with the CA that signed the server's certificate; the certificate must"
    " contain the name in DB_HOST or DATABASE_URL; DB_SSLMODE says how much is checked"
)

_REPEATABLE = ("40001", "40P01")
_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError)
_CONNECTION_FAILURE = "08006"
"""The standard's code for a lost connection, which libpq reports without a code."""

# libpq puts two spaces after the severity of a server's message, in any language, and nowhere else.
_SEVERITY = r"(?m)(?:^|: )[^:\n]+:  "

_POOLERS_CODE = "08P01"
"""PgBouncer refuses with this code for every reason; its words are English."""

# libpq's own messages are English: its translations need setlocale(LC_MESSAGES), which Python never calls. If
# there is no code (see connection), the English words of a server are used too.
_CLIENT_SIDE = (
    (r"^invalid [\w ]*(value|number)\b|^could not match \d+", "faulty_option"),
    (r"authentication method requirement|cleartext password", "clear_text"),
    (r"SSL SYSCALL|SSL connection has been closed", "out_of_reach"),
    (r"received invalid response|expected authentication request", "not_postgresql"),
    (r"SSL|certificate|private key|TLS", "tls"),
    (r"no password supplied|SCRAM|SASL|GSS|password is empty", "login_refused"),
    (r"authentication failed|role .* does not exist|no pg_hba\.conf entry|no such user", "login_refused"),
    (r"database .* does not exist|no such database", "no_database"),
    (r"session is (not )?read-only|hot standby", "read_only"),
)


# The limits of a table's columns and constraints, for a refusal that does not name them.
_COLUMN_LIMITS = """
SELECT attname, atttypmod - 4, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped AND atttypmod > 4
  AND atttypid IN ('varchar'::regtype, 'bpchar'::regtype)
ORDER BY attnum
"""
_CONSTRAINT = """
SELECT pg_get_constraintdef(c.oid),
       ARRAY(SELECT attname::text FROM pg_attribute a
             WHERE a.attrelid = c.conrelid AND attnum = ANY(c.conkey))
FROM pg_constraint c WHERE conrelid = to_regclass(%(table)s) AND conname = %(constraint)s
"""

# The table that a statement writes to, or else the first one that it reads.
_TABLES = (
    r"(?i)\b(?:INSERT\s+INTO|(?<!FOR )UPDATE|DELETE\s+FROM)\s+([a-z_]\w*)",
    r"(?i)\bFROM\s+([a-z_]\w*)\b(?!\s*\()",
)

Look = Callable[[str, Mapping[str, object]], Sequence[tuple[Any, ...]]]
"""Queries the server by another connection; no rows when it does not answer."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known about a refused statement. said: the server's own words. blocker: who blocked it.

    definition, value: of the column or constraint that refused it, and the refused value.
    """

    code: str
    said: str
    table: str | None
    column: str | None
    constraint: str | None
    blocker: str
    definition: str = ""
    value: str = ""

    @property
    def place(self) -> str:
        return f"{self.table or 'the table'}{f'.{self.column}' if self.column else ''}"


def is_said_by_server(text: str) -> bool:
    """Whether libpq repeats the server's words; else the words are its own."""
    return re.search(_SEVERITY + r"\S", text) is not None


def is_repeatable(exc: psycopg2.Error) -> bool:
    """Whether PostgreSQL cancelled the transaction in favour of another one, so that repeating it helps."""
    return exc.pgcode in _REPEATABLE


_NO_CONNECTION = {
    "login_refused": ("login_refused", "the login was refused: {said}", _LOGIN),
    "faulty_option": ("faulty_option", "no connection: {said}", "check DATABASE_URL, or DB_HOST and DB_PORT"),
    "tls": ("tls", "no TLS as configured: {said}", _TLS),
    "clear_text": (
        "tls",
        "the server asks for the unencrypted password, and its certificate is not verified",
        "set DB_SSLMODE=verify-full, or scram-sha-256 in the server's pg_hba.conf",
    ),
    "not_postgresql": (
        "not_postgresql",
        "the server at this address is not PostgreSQL",
        "check the port",
    ),
}
"""libpq's own findings: the error's kind, its text and its hint."""


def connection_error(text: str, words: Mapping[str, str]) -> DbError:
    """Why a connection failed. The text names no host, user or database: a password that was put into a URL
    without escaping may be part of any of them.
    """
    coded = re.search(_SEVERITY + r"([0-9A-Z]{5}): (.*)", text)
    if coded is not None and coded[1] != _POOLERS_CODE:
        return _login_error(coded[1], _without_names(coded[2], words))
    kind = next((kind for pattern, kind in _CLIENT_SIDE if re.search(pattern, text)), "out_of_reach")
    said = _without_names(_first_line(text), words)
    if kind in _NO_CONNECTION:
        kind, text, hint = _NO_CONNECTION[kind]
        return _refused(text.format(said=said), kind, hint)
    if kind == "no_database":
        return _login_error("3D000", "")
    return _read_only() if kind == "read_only" else _away(f"no connection: {said}")


def _read_only() -> DbError:
    return out_of_reach(
        "the server is read-only (a standby, or default_transaction_read_only);"
        " target_session_attrs=read-write in the DSN finds the primary"
    )


def _away(said: str) -> DbError:
    """PgBouncer accepts a client before it has a connection for it, and reports later that it has none."""
    has_none_free = re.search("query_wait_timeout|max_client_conn", said)
    return out_of_reach(
        said,
        "the pooler has no free connection for us: raise its default_pool_size or max_client_conn"
        if has_none_free
        else "",
    )


def _login_error(code: str, said: str) -> DbError:
    """Why the server refuses the connection, by its code."""
    if code.startswith("28"):
        return _refused(f"the login was refused (SQLSTATE {code})", "login_refused", _LOGIN)
    if code == "3D000":
        return _refused(
            "the database does not exist on this server (SQLSTATE 3D000)",
            "no_database",
            f"check DATABASE_URL or DB_NAME; for a new one: createdb, then {here().run('migrate.py')}",
        )
    if code == "42501":
        return _refused(
            "the role may not connect to this database (SQLSTATE 42501)",
            "no_right",
            "run as its owner: GRANT CONNECT ON DATABASE … TO …",
        )
    if code in ("53300", "53400"):
        return out_of_reach(f"the server has too many clients (SQLSTATE {code})", "raise its max_connections")
    if _is_passing(code):
        return out_of_reach(f"the server accepts no connections at the moment (SQLSTATE {code}): {said}")
    return _refused(f"the connection was refused (SQLSTATE {code}): {said}", "database_error", "")


_TELLING: Mapping[str, Callable[[], DbError]] = {
    "A1001": run_lost,
    "A1002": campaign_lost,
    "25006": _read_only,
}
"""SQLSTATEs that need no further text; A1001 and A1002 come from hold_run and hold_campaign."""

_GIVEN_UP = " cancelled our transaction in favour of another one ({said})"
_PASSING = {
    "55P03": (
        "row_locked",
        ": a row or table that we need ({table}) is locked by {blocker}",
        "the next run tries again; SELECT pg_terminate_backend(…) ends a forgotten session",
    ),
    **dict.fromkeys(_REPEATABLE, ("row_locked", _GIVEN_UP, "the next run tries again")),
    "57014": ("cancelled", ": {said}", "the statement took too long, or somebody cancelled it"),
}
"""Refusals because of another session: the error's kind, its text and its hint."""


def statement_error(refusal: Refusal, *, is_lost: bool) -> DbError:
    """Why a statement was refused, in words for the person who can fix it."""
    code, said = refusal.code, refusal.said
    if code in _TELLING:
        return _TELLING[code]()
    if code in _PASSING:
        kind, text, hint = _PASSING[code]
        told = text.format(said=said, table=refusal.table or "unknown", blocker=refusal.blocker)
        return DbError(f"PostgreSQL{told}", kind=kind, hint=hint, retryable=True)
    if is_lost or _is_passing(code):
        return _away(said)
    if code == "42501":
        return _refused(
            said, "no_right", "run migrations as the owner; for all else, apply database/roles.sql again"
        )
    if code.startswith(("42", "3F")):
        cure = f"apply the migrations: {here().run('migrate.py')}; then {_look()}"
        return _refused(said, "schema_differs", cure)
    if code.startswith(("22", "23", "54", "P0", "44")):
        return _value_refused(refusal)
    return _refused(said, "database_error", "")


def refusal_of(
    exc: psycopg2.Error, sql: str, values: Mapping[str, object], blocker: str, look: Look
) -> Refusal:
    """The details of the error, and what the table's definition adds."""
    refusal = _told_by(exc, sql, blocker)
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    if refusal.code == "22001" and refusal.column is None:
        refusal = _with_column(refusal, texts, look)
    return refusal if refusal.constraint is None else _with_constraint(refusal, texts, look)


def _told_by(exc: psycopg2.Error, sql: str, blocker: str) -> Refusal:
    """The table from the statement, if the error names none."""
    found = next(filter(None, (re.search(pattern, sql) for pattern in _TABLES)), None)
    return Refusal(
        exc.pgcode or (_CONNECTION_FAILURE if isinstance(exc, _LOST) else ""),
        exc.diag.message_primary or _first_line(str(exc)),
        exc.diag.table_name or (found[1] if found else None),
        exc.diag.column_name,
        exc.diag.constraint_name,
        blocker,
    )


def _with_column(refusal: Refusal, texts: Mapping[str, str], look: Look) -> Refusal:
    """The column that is too short for a text, which PostgreSQL does not name: the one with the name of such
    a value, or else the first that is too short for the longest of them.
    """
    limits = look(_COLUMN_LIMITS, {"table": refusal.table})
    longest = max(map(len, texts.values()), default=0)
    too_short = [row for row in limits if len(texts.get(row[0], "")) > row[1]]
    for column, _, declared in too_short or [row for row in limits if longest > row[1]]:
        length = len(texts[column]) if column in texts else longest
        value = f"{length} characters"
        return replace(refusal, column=column, constraint=None, definition=declared, value=value)
    return refusal


def _with_constraint(refusal: Refusal, texts: Mapping[str, str], look: Look) -> Refusal:
    """The constraint's definition, and the values of its columns."""
    named = {"table": refusal.table, "constraint": refusal.constraint}
    for definition, columns in look(_CONSTRAINT, named):
        shown = ", ".join(f"{name} = {texts[name][:40]!r}" for name in columns if name in texts)
        return replace(refusal, column=", ".join(columns), definition=definition, value=shown)
    return refusal


def _look() -> str:
    return f"see what differs: {here().run('orchestrator-prod.py', '--check')}"


def _is_passing(code: str) -> bool:
    """No connection, no memory, no disk, shutting down or starting: it ends without our help."""
    return code.startswith(("08", "53", "57P", "58")) or code == "25P03"


def _value_refused(refusal: Refusal) -> DbError:
    code, said, place = refusal.code, refusal.said, refusal.place
    column = f"ALTER TABLE {refusal.table} ALTER COLUMN {refusal.column}"
    if code == "22001" and refusal.column:
        what = f"{place} is {refusal.definition}, and the value has {refusal.value}"
        hint = f"widen the column: {column} TYPE text"
    elif code == "23502":
        what = f"{place} must not be empty, but the product does not fill it"
        hint = f"{column} DROP NOT NULL, or give it a default"
    elif code.startswith("23") and refusal.constraint:
        what, hint = _constraint_refused(refusal)
    elif code in ("22P05", "22021"):
        what = f"{place} cannot store the text: {said}"
        hint = (
            "the database must have the encoding UTF8: create it again with ENCODING 'UTF8' and move the data"
        )
    else:
        what, hint = f"{place}: {said}", _look()
    return _refused(what, "value_refused", hint)


def _constraint_refused(refusal: Refusal) -> tuple[str, str]:
    rule = f"{refusal.place}: {refusal.constraint} {refusal.definition}"
    drop = f"ALTER TABLE {refusal.table} DROP CONSTRAINT {refusal.constraint}"
    if refusal.code == "23514":
        what = f"{rule.strip()} does not allow {refusal.value or 'the value'}"
        return what, f"change it so that it allows that, or {drop}"
    what = f"{rule} refuses {refusal.value or 'the row'}: {refusal.said}"
    return what, f"check whether the table needs it; if not, {drop}"


def _refused(what: str, kind: str, hint: str) -> DbError:
    return DbError(f"PostgreSQL: {what}", kind=kind, hint=hint)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[0]


def _without_names(text: str, words: Mapping[str, str]) -> str:
    for name in ("password", "user", "dbname", "host", "hostaddr", "port"):
        for value in (words.get(name) or "").split(","):
            if value:
                text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", text)
    return text
