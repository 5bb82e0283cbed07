"""PostgreSQL's refusals as DbError. They are told apart by SQLSTATE: the server may speak any language."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg2

from shared.base.commands import here
from shared.base.errors import DbError, out_of_reach
from shared.postgres.fence import campaign_lost, run_lost

_NUMBER_TAKEN: Mapping[str, Callable[[], DbError]] = {"A1001": run_lost, "A1002": campaign_lost}
"""The SQLSTATEs with which hold_run and hold_campaign refuse."""
_LOGIN = (
    "check the user and the password in DATABASE_URL, or DB_USER and DB_PASSWORD;"
    " the server's pg_hba.conf says who may log in, from where and how"
)
_TLS = (
    "DB_CA_BUNDLE names the file with the CA that signed the server's certificate; the certificate must hold"
    " the name in DB_HOST or DATABASE_URL; DB_SSLMODE says how much is checked"
)
READ_ONLY = (
    "the server is read-only (a standby, or default_transaction_read_only);"
    " target_session_attrs=read-write in the DSN finds the primary"
)

# libpq puts two blanks behind the severity of what a server says, in any language, and nowhere else.
_SEVERITY = r"(?m)(?:^|: )[^:\n]+:  "

_POOLERS_CODE = "08P01"
"""With which PgBouncer refuses, whatever the reason; its words are English."""

# What libpq itself says is English: its translations need setlocale(LC_MESSAGES), which Python never calls.
# Where no code can be had (see connection), the English words of a server are told apart as well.
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refused statement was about. definition, value: of the column or constraint, and what it met."""

    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    definition: str | None = None
    value: str | None = None
    blocker: str | None = None


def is_said_by_server(text: str) -> bool:
    """Whether libpq tells what a server said, and not what it found out itself."""
    return re.search(_SEVERITY + r"\S", text) is not None


def is_repeatable(exc: psycopg2.Error) -> bool:
    """PostgreSQL gave the transaction up for the sake of another one: the same again will do."""
    return exc.pgcode in ("40001", "40P01")


def connection_error(text: str, words: Mapping[str, str]) -> DbError:
    """Why a connection could not be made. Its text names no host, user or database: a password that was put
    into a URL without escaping may be a part of any of them.
    """
    coded = re.search(_SEVERITY + r"([0-9A-Z]{5}): (.*)", text)
    if coded is not None and coded[1] != _POOLERS_CODE:
        return _login_error(coded[1], _without_names(coded[2], words))
    kind = next((kind for pattern, kind in _CLIENT_SIDE if re.search(pattern, text)), "out_of_reach")
    said = _without_names(_first_line(text), words)
    if kind == "login_refused":
        return _refused(f"the login was refused: {said}", kind, _LOGIN)
    if kind == "faulty_option":
        return _refused(f"no connection: {said}", kind, "check DATABASE_URL, or DB_HOST and DB_PORT")
    if kind == "no_database":
        return _login_error("3D000", "")
    if kind == "tls":
        return _refused(f"no TLS as asked for: {said}", kind, _TLS)
    if kind == "clear_text":
        return _refused(
            "the server asks for the password in clear text and is not verified",
            "tls",
            "DB_SSLMODE=verify-full, or scram-sha-256 in the server's pg_hba.conf",
        )
    if kind == "not_postgresql":
        return _refused("what answers there does not speak PostgreSQL's protocol", kind, "check the port")
    if kind == "read_only":
        return out_of_reach(READ_ONLY)
    return _away(f"no connection: {said}")


def _away(said: str) -> DbError:
    """PgBouncer lets a client in before it has a connection for it, and says later that it has none."""
    has_none_free = re.search("query_wait_timeout|max_client_conn", said)
    return out_of_reach(
        said,
        "the pooler has no connection free for us: raise its default_pool_size or max_client_conn"
        if has_none_free
        else "",
    )


def _login_error(code: str, said: str) -> DbError:
    """By what the server said to somebody who wants to come in."""
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
            "as its owner: GRANT CONNECT ON DATABASE … TO …",
        )
    if code in ("53300", "53400"):
        return out_of_reach(f"the server has too many clients (SQLSTATE {code})", "see its max_connections")
    if _is_passing(code):
        return out_of_reach(f"the server lets nobody in at present (SQLSTATE {code}): {said}")
    return _refused(f"the connection was refused (SQLSTATE {code}): {said}", "database_error", "")


def statement_error(exc: psycopg2.Error, refusal: Refusal, *, is_lost: bool) -> DbError:
    """Why a statement was refused, in words for the person who can mend it."""
    code = exc.pgcode or ""
    said = exc.diag.message_primary or _first_line(str(exc))
    if code in _NUMBER_TAKEN:
        return _NUMBER_TAKEN[code]()
    if code == "25006":
        return out_of_reach(READ_ONLY)
    if code == "55P03":
        held = f"is locked by {refusal.blocker}" if refusal.blocker else "is locked by somebody"
        return DbError(
            f"PostgreSQL: a row or table that is needed ({refusal.table or 'unknown'}) {held}",
            kind="row_locked",
            hint="it is tried again in the next run; SELECT pg_terminate_backend(…) ends a forgotten session",
            retryable=True,
        )
    if is_repeatable(exc):
        return DbError(
            f"PostgreSQL gave our transaction up for the sake of another one ({said})",
            kind="row_locked",
            hint="it is tried again in the next run",
            retryable=True,
        )
    if code == "57014":
        return DbError(
            f"PostgreSQL: {said}",
            kind="cancelled",
            hint="the statement took too long, or somebody cancelled it",
            retryable=True,
        )
    if is_lost or _is_passing(code) or (not code and isinstance(exc, _LOST)):
        return _away(said)
    if code == "42501":
        return _refused(said, "no_right", "migrations run as the owner; for all else: database/roles.sql")
    if code.startswith(("42", "3F")):
        cure = f"apply the migrations: {here().run('migrate.py')}; then {_look()}"
        return _refused(said, "schema_differs", cure)
    if code.startswith(("22", "23", "54", "P0", "44")):
        return _value_refused(code, said, refusal)
    return _refused(said, "database_error", "")


def _look() -> str:
    return f"see what differs: {here().run('orchestrator-prod.py', '--check')}"


def _is_passing(code: str) -> bool:
    """No connection, no memory, no disk, being shut down or started: others than we put that right."""
    return code.startswith(("08", "53", "57P", "58")) or code == "25P03"


_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError)


def _value_refused(code: str, said: str, about: Refusal) -> DbError:
    where = f"{about.table or 'the table'}{f'.{about.column}' if about.column else ''}"
    alter = f"ALTER TABLE {about.table}"
    if code == "22001" and about.column:
        what = f"{where} is {about.definition}, and the value has {about.value}"
        hint = f"widen the column: {alter} ALTER COLUMN {about.column} TYPE text"
    elif code == "23502":
        what = f"{where} must not be empty, and we do not fill it"
        hint = f"{alter} ALTER COLUMN {about.column} DROP NOT NULL, or give it a default"
    elif code == "23514" and about.constraint:
        rule = f"{about.constraint} {about.definition or ''}".strip()
        what = f"{where}: {rule} does not allow {about.value or 'the value'}"
        hint = f"let it allow that, or {alter} DROP CONSTRAINT {about.constraint}"
    elif code.startswith("23") and about.constraint:
        what = (
            f"{where}: {about.constraint} {about.definition or ''} refuses {about.value or 'the row'}: {said}"
        )
        hint = f"see whether the table needs it; else {alter} DROP CONSTRAINT {about.constraint}"
    elif code in ("22P05", "22021"):
        what = f"{where} cannot hold the text: {said}"
        hint = (
            "the database must have the encoding UTF8: create it anew with ENCODING 'UTF8' and move the data"
        )
    else:
        what, hint = f"{where}: {said}", _look()
    return _refused(what, "value_refused", hint)


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
