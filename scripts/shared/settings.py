"""Settings: read once, from the environment over `.env`, into frozen values. Every fault is told at once.

A secret may also come from a file named by `NAME_FILE`; secrets never show in a repr, and a fault never
quotes one.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import shlex
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote, unquote, urlencode, urlsplit
from zoneinfo import ZoneInfo

from shared.base.commands import Commands, here
from shared.base.errors import ConfigError
from shared.base.file_rights import UnsafeFileError, open_guarded, user_name
from shared.base.logs import RUN_ID_VARIABLE
from shared.base.values import BoxSettings, DamSettings, MailServer, TransferSettings
from shared.rules.cadence import OffHours
from shared.rules.retry import DEFAULT_MAX_RETRIES

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
FOUND_HERE = Path(".env")
"""The settings in the working folder, for which nobody has to name a file."""
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
LOOP_VARIABLES = ("ALERT_AFTER_FAILURES", "HEARTBEAT_URL", "ORCHESTRATOR_STOP_SECONDS")
"""What the orchestrator alone reads; none of its tasks is shown them."""
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's, from nothing to everything. `default`: verify-full for another host, prefer on this one."""

ENV_FILE_VARIABLE = "A1_TO_A2_ENV_FILE"
"""The path of the file that holds the settings, for the commands that messages show; "" where it does not
hold all of them. Set by `read_environment`, and by the loop for its tasks, not by people; it is never opened.
"""
DATABASE_VARIABLES = ("DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD")
OUR_PREFIXES = ("DB_", "DAM_", "BOX_", "SMTP_", "A1_", "ORCHESTRATOR_", "OFF_HOURS_", "TRANSFER_")
DEFAULT_SMTP_PORTS = {"starttls": 587, "tls": 465, "none": 25}

DamAuth = Literal["pfx-v2", "password"]
LockStyle = Literal["bulk", "single", "none"]
SmtpSecurity = Literal["starttls", "tls", "none"]

# Whom shared.http.wire can call; not imported from there, because the loop itself needs no HTTP.
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_ADDRESS = re.compile(r"[!-?A-~]+@[A-Za-z0-9.-]+")
# As libpq splits it, and stricter where people forget to escape: one @, no #, each % with two digits.
_DATABASE_URL = r"""postgres(?:ql)?://
    (?:(?P<login> (?:[^@/?\#%\s] | %[0-9A-Fa-f]{2})* )@)?
    (?P<hosts> (?:\[[0-9A-Fa-f:.%]+\] | (?:[\w.~-] | %[0-9A-Fa-f]{2})+ )? (?::[0-9]*)?
       (?:,(?:\[[0-9A-Fa-f:.%]+\] | (?:[\w.~-] | %[0-9A-Fa-f]{2})+ )? (?::[0-9]*)?)* )
    (?:/ (?:[^@/?\#%\s] | %[0-9A-Fa-f]{2})* )?
    (?:\? (?P<query> (?:[^@?\#%\s] | %[0-9A-Fa-f]{2})* ))?"""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """How to reach PostgreSQL, as one libpq connection string."""

    dsn: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The mail server and who gets which notice."""

    server: MailServer
    error_recipients: tuple[str, ...]
    success_recipients: tuple[str, ...]
    report_recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Format and level of the log on standard error."""

    format: Literal["text", "json"]
    level: str


@dataclass(frozen=True, slots=True)
class CadenceSettings:
    """When tasks run, by whose clock."""

    timezone: ZoneInfo
    off_hours: OffHours


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything one run of the uploader needs."""

    database: DatabaseSettings
    dam: DamSettings
    box: BoxSettings
    transfer: TransferSettings
    mail: MailSettings
    log: LogSettings
    max_retries: int
    timezone: ZoneInfo
    off_hours: OffHours
    commands: Commands
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the daily report needs: the database, the mail, and the words of the uploader it tells of."""

    database: DatabaseSettings
    mail: MailSettings
    log: LogSettings
    max_retries: int
    timezone: ZoneInfo
    off_hours: OffHours
    status_a1: str
    master_assets_folder: str
    commands: Commands
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the database tools need: no DAM, no Box, no mail. cadence: None when no time zone is set."""

    database: DatabaseSettings
    log: LogSettings
    max_retries: int
    status_a1: str
    cadence: CadenceSettings | None
    commands: Commands
    status_a2: str
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OrchestratorSettings:
    """What the loop itself needs; its tasks read their own settings.

    alert_after_failures: runs that fail in the same way before a notice tells of it. heartbeat_url: "" for
    none. stop_seconds: how long running tasks get to finish when the loop is told to stop. secrets: also
    those of the tasks, whose output passes through the loop's log.
    """

    database: DatabaseSettings
    mail: MailSettings
    log: LogSettings
    cadence: CadenceSettings
    alert_after_failures: int
    heartbeat_url: str = field(repr=False)
    stop_seconds: float
    commands: Commands
    secrets: tuple[str, ...] = field(repr=False)


def read_environment(env_file: Path | None, process: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The process environment over an env file (given, else the one that is found).

    Warns of names that look like misspelt ones of ours. Raises what `read_env_file` raises.
    """
    env_file = find_env_file(env_file, process)
    from_file = read_env_file(env_file)
    found = {**from_file, **process}
    if _is_task(process):  # the loop has looked at the names
        return found
    for text in _misspelt(from_file, process):
        logger.warning("%s", text, extra={"action": "unknown_variable"})
    found.pop(ENV_FILE_VARIABLE, None)
    if env_file is not None:
        found[ENV_FILE_VARIABLE] = _shown_file(env_file, process)
    return found


def _is_task(process: Mapping[str, str]) -> bool:
    """Whether the loop started this process, and handed it what it reads."""
    return RUN_ID_VARIABLE in process and ENV_FILE_VARIABLE in process


def _shown_file(env_file: Path, process: Mapping[str, str]) -> str:
    """The env file for the commands that messages show; "" where it alone is not enough, because the process
    knows the database.
    """
    is_enough = not any(name.removesuffix("_FILE") in DATABASE_VARIABLES for name in process)
    return str(env_file.absolute()) if is_enough else ""


def find_env_file(given: Path | None, process: Mapping[str, str] = os.environ) -> Path | None:
    """The file that settings are read from: the one given, else `.env` here, else in the repository.

    A task of the loop reads none: it has been handed what it reads.
    """
    if given is not None:
        return given
    if _is_task(process):
        return None
    return next((path for path in (FOUND_HERE, REPOSITORY / ".env") if path.is_file()), None)


def read_env_file(env_file: Path | None) -> dict[str, str]:
    """The variables of an env file; none without a file. Warns when others than its owner may open it.

    Raises ConfigError when it is missing, when somebody else can change it, or when a line cannot be read.
    """
    if env_file is None:
        return {}
    # Root may stand in anybody's folder, and must not take their settings for its own.
    is_foreign_ground = os.geteuid() == 0 and env_file == FOUND_HERE
    trusted = (REPOSITORY.stat().st_uid,) if is_foreign_ground else None
    from dotenv.parser import parse_stream

    try:
        with open(open_guarded(env_file, trusted), "rb") as stream:  # noqa: PTH123 - a descriptor
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            bindings = list(parse_stream(io.StringIO(_decoded(stream.read()), newline=None)))
    except UnsafeFileError as exc:
        raise ConfigError(f"the env file {exc}, or name another one with --env-file") from exc
    except (OSError, ValueError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"{env_file.absolute()}: the env file cannot be read: {said}") from exc
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning(
            "%s holds secrets, and others than its owner may open it (mode %04o): chmod 600 %s",
            env_file, mode, shlex.quote(str(env_file)), extra={"action": "env_file_is_open"},
        )  # fmt: skip
    unreadable = [one.original.line for one in bindings if one.error or (one.key and one.value is None)]
    if unreadable:
        raise ConfigError([f"{env_file}: line {line} is not NAME=value" for line in unreadable])
    found: dict[str, str] = {}
    for binding in bindings:
        if binding.key:
            value = binding.value or ""
            if found.get(binding.key, value) != value:
                logger.warning(
                    "%s: %s is set more than once, and to different values; the last one counts, on line %d",
                    env_file, binding.key, binding.original.line, extra={"action": "set_twice"},
                )  # fmt: skip
            found[binding.key] = value
    return found


def _decoded(data: bytes) -> str:
    """UTF-8 text, less the mark that Windows editors put in front. Raises ValueError with the cure."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise ValueError("it is UTF-16 text, or no text; save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as exc:
        raise ValueError("it is not UTF-8 text; save it as UTF-8") from exc


def _misspelt(from_file: Mapping[str, str], process: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that nobody reads, and whose name looks like one that is meant for us."""
    reader = _Reader({})
    _ask_everything(reader)
    secret_files = (f"{name}_FILE" for name in reader.secret_names)
    known = {*reader.names_asked, *secret_files, ENV_FILE_VARIABLE, RUN_ID_VARIABLE}
    suspects = {*from_file, *(name for name in process if name.startswith(OUR_PREFIXES))} - known
    return [
        text for name in sorted(suspects) if (text := _likely_meant(name, known, is_ours=name in from_file))
    ]


def _likely_meant(name: str, known: Collection[str], *, is_ours: bool) -> str:
    """What to say of an unknown name; "" when it is somebody else's. is_ours: it stands in our own file."""
    from difflib import get_close_matches

    said = f"nobody reads the variable {name}"
    if name.upper().removesuffix("_FILE") in known and name.upper().endswith("_FILE"):
        return f"{said}: only a secret can come from a file; set {name.upper().removesuffix('_FILE')}"
    # Other programs have names such as DB_PATH in the environment, too; a file of ours has ours.
    strict = 0.75
    is_ours = is_ours and name.upper().startswith(OUR_PREFIXES)
    near = get_close_matches(name.upper(), sorted(known), 3, 0.6 if is_ours else strict)
    if near:
        of_its_system = [one for one in near if one.split("_")[0] == name.upper().split("_")[0]]
        return f"{said}; is {(of_its_system or near)[0]} meant?"
    return f"{said}; MARKDOWN_DOCS/CONFIGURATION.md lists those that are read" if is_ours else ""


def load_settings(env: Mapping[str, str], dam_auth: DamAuth | None = None) -> Settings:
    """All settings of the uploader. dam_auth, from the command line, wins over DAM_AUTH.

    Raises ConfigError with every fault at once, each naming its variable.
    """
    reader = _Reader(env)
    settings = _uploader(reader, dam_auth)
    reader.finish()
    return settings


def _uploader(reader: _Reader, dam_auth: DamAuth | None) -> Settings:
    return Settings(
        database=_database(reader),
        dam=_dam(reader, dam_auth),
        box=_box(reader),
        transfer=_transfer(reader),
        mail=_mail(reader),
        log=_log(reader),
        max_retries=reader.whole_number("A1_MAX_RETRIES", DEFAULT_MAX_RETRIES, 1, 1000),
        timezone=reader.zone("ORCHESTRATOR_TIMEZONE"),
        off_hours=_off_hours(reader),
        commands=_commands(reader),
        secrets=tuple(reader.secrets_seen),
    )


def load_report_settings(env: Mapping[str, str]) -> ReportSettings:
    """The settings of the daily report. Raises ConfigError with every fault at once."""
    reader = _Reader(env)
    settings = _report(reader)
    reader.finish()
    return settings


def _report(reader: _Reader) -> ReportSettings:
    return ReportSettings(
        database=_database(reader),
        mail=_mail(reader),
        log=_log(reader),
        max_retries=reader.whole_number("A1_MAX_RETRIES", DEFAULT_MAX_RETRIES, 1, 1000),
        timezone=reader.zone("ORCHESTRATOR_TIMEZONE"),
        off_hours=_off_hours(reader),
        status_a1=_status_a1(reader),
        master_assets_folder=_master_assets_folder(reader),
        commands=_commands(reader),
        secrets=tuple(reader.secrets_seen),
    )


def load_operator_settings(env: Mapping[str, str]) -> OperatorSettings:
    """The settings of the database tools. Raises ConfigError with every fault at once."""
    reader = _Reader(env)
    settings = OperatorSettings(
        database=_database(reader),
        log=_log(reader),
        max_retries=reader.whole_number("A1_MAX_RETRIES", DEFAULT_MAX_RETRIES, 1, 1000),
        status_a1=_status_a1(reader),
        cadence=_cadence(reader) if reader.text("ORCHESTRATOR_TIMEZONE") else None,
        commands=_commands(reader),
        status_a2=_status_a2(reader),
        secrets=tuple(reader.secrets_seen),
    )
    reader.finish()
    return settings


def load_cadence_settings(env: Mapping[str, str]) -> CadenceSettings:
    """When tasks run: no credentials needed. Raises ConfigError with every fault at once."""
    reader = _Reader(env)
    settings = _cadence(reader)
    reader.finish()
    return settings


def load_orchestrator_settings(env: Mapping[str, str]) -> OrchestratorSettings:
    """The settings of the loop. Raises ConfigError with every fault at once."""
    reader = _Reader(env)
    settings = OrchestratorSettings(
        database=_database(reader),
        mail=_mail(reader),
        log=_log(reader),
        cadence=_cadence(reader),
        alert_after_failures=reader.whole_number("ALERT_AFTER_FAILURES", 3, 1, 1000),
        heartbeat_url=_heartbeat_url(reader),
        stop_seconds=reader.seconds("ORCHESTRATOR_STOP_SECONDS", 300),
        commands=_commands(reader),
        secrets=_every_secret(env),
    )
    reader.finish()
    return settings


def _every_secret(env: Mapping[str, str]) -> tuple[str, ...]:
    """Whatever any script would keep secret, as far as it can be read; faults are somebody else's to tell."""
    reader = _Reader(env)
    _ask_everything(reader)
    return tuple(reader.secrets_seen)


def variable_names() -> tuple[str, ...]:
    """Every variable that is read, in the order of reading: what `.env.example` and the docs must list."""
    reader = _Reader({})
    _ask_everything(reader)
    return tuple(dict.fromkeys(reader.names_asked))


def uploader_variables() -> frozenset[str]:
    """What the uploader reads."""
    reader = _Reader({})
    _uploader(reader, None)
    return frozenset(reader.names_asked)


def report_variables() -> frozenset[str]:
    """What the daily report reads: neither the DAM's secrets nor Box's."""
    reader = _Reader({})
    _report(reader)
    return frozenset(reader.names_asked)


def environment_for(reads: Collection[str] | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment less our variables that a task does not read; None: less those of the loop alone.

    What is not ours stays: a path, a proxy, a locale.
    """
    unread = set(LOOP_VARIABLES) if reads is None else set(variable_names()) - set(reads)
    return {name: value for name, value in environment.items() if name.removesuffix("_FILE") not in unread}


def task_environment(
    reads: Collection[str] | None, process: Mapping[str, str], env_file: Path | None
) -> dict[str, str]:
    """What the loop hands to a task: of the env file, read now, and of the process only what it reads.

    Raises ConfigError when the env file cannot be read.
    """
    ours = variable_names()
    from_file = read_env_file(env_file).items()
    of_ours = {name: value for name, value in from_file if name.removesuffix("_FILE") in ours}
    named = {ENV_FILE_VARIABLE: "" if env_file is None else _shown_file(env_file, process)}
    return {**environment_for(reads, {**of_ours, **process}), **named}


def _ask_everything(reader: _Reader) -> None:
    _database(reader)
    _dam(reader, None)
    _box(reader)
    _transfer(reader)
    _mail(reader)
    _log(reader)
    reader.whole_number("A1_MAX_RETRIES", DEFAULT_MAX_RETRIES, 1, 1000)
    _cadence(reader)
    reader.whole_number("ALERT_AFTER_FAILURES", 3, 1, 1000)
    _heartbeat_url(reader)
    reader.seconds("ORCHESTRATOR_STOP_SECONDS", 300)


def _cadence(reader: _Reader) -> CadenceSettings:
    return CadenceSettings(reader.zone("ORCHESTRATOR_TIMEZONE"), _off_hours(reader))


def _commands(reader: _Reader) -> Commands:
    """This installation, as commands to paste need it."""
    uid = os.geteuid()
    return here(reader.env_file or "", user_name(uid) if uid else "")


def _heartbeat_url(reader: _Reader) -> str:
    """An https address whose path is a secret: who knows it can keep it from noticing that all is down."""
    url = reader.secret("HEARTBEAT_URL", absent="none")
    return reader.checked_url("HEARTBEAT_URL", url.strip(), "an https address", shown=False) if url else ""


def _database(reader: _Reader) -> DatabaseSettings:
    url = reader.secret("DATABASE_URL")
    host = reader.text("DB_HOST", "localhost")
    port = reader.whole_number("DB_PORT", 5437, 1, 65535)
    name = reader.text("DB_NAME", "ferrero_tracking")
    user = reader.text("DB_USER", "ferrero_user")
    password = reader.secret("DB_PASSWORD")
    mode = reader.choice("DB_SSLMODE", "default", ("default", *SSL_MODES))
    bundle = reader.ca_bundle("DB_CA_BUNDLE")
    if url is not None:
        hosts, options = _read_database_url(reader, url)
    else:
        hosts, options = host.split(","), {}
        if password is None:
            reader.fault("DB_PASSWORD", "missing (or give DATABASE_URL)")
    is_remote = any(one not in LOOPBACK_HOSTS and not one.startswith(("/", "@")) for one in hosts if one)
    if mode == "default":
        mode = "verify-full" if is_remote else "prefer"
    mode = options.get("sslmode", mode)
    wanted = {"sslmode": mode}
    if bundle or mode.startswith("verify-"):
        wanted["sslrootcert"] = bundle or options.get("sslrootcert") or _system_bundle()
    if is_remote and mode != "verify-full":
        wanted["require_auth"] = "!password"  # no clear text to a server that may be anybody
        reader.warn(
            f"DB_SSLMODE: {mode} does not check that the database server is the right one; use verify-full,"
            " with DB_CA_BUNDLE for a private CA"
        )
    added = {option: value for option, value in wanted.items() if option not in options}
    if url is not None:
        query = urlencode(added, quote_via=quote)
        return DatabaseSettings(f"{url.strip()}{'&' if '?' in url else '?'}{query}" if query else url.strip())
    words = {
        "host": host,
        "port": str(port),
        "dbname": name,
        "user": user,
        "password": password or "",
        **added,
    }
    return DatabaseSettings(" ".join(f"{key}={_quote_libpq(value)}" for key, value in words.items()))


def _read_database_url(reader: _Reader, url: str) -> tuple[list[str], dict[str, str]]:
    """The hosts and the options of a URL, as libpq reads them; what it would read otherwise than it was meant
    is refused. Nothing of it is quoted: what looks like a host may be a piece of the password.
    """
    found = re.fullmatch(_DATABASE_URL, url.strip(), re.VERBOSE)
    if found is None:
        reader.fault(
            "DATABASE_URL",
            "expected postgresql://user:password@host:port/name; a password's @ / ? # % are written"
            " %40 %2F %3F %23 %25",
        )
        return [], {}
    pairs = [pair.partition("=") for pair in (found["query"] or "").split("&") if pair]
    options = {unquote(name): unquote(value) for name, _, value in pairs}
    login = (found["login"] or "").partition(":")[2]
    for secret in (login, *(value for name, _, value in pairs if name in ("password", "sslpassword"))):
        reader.remember_secret(secret)
        reader.remember_secret(unquote(secret))
    hosts = [re.sub(r":[0-9]*$", "", one).strip("[]") for one in found["hosts"].split(",")]
    named = options.get("hostaddr") or options.get("host") or ",".join(map(unquote, hosts))
    if "service" in options:
        named = "somewhere else"
    elsewhere = reader.foreign("PGHOSTADDR") or reader.foreign("PGHOST")
    return (named if named.strip(",") else elsewhere).split(","), options


def _path(text: str) -> Path:
    """A path as people write it. pathlib's own expanduser raises for a user that does not exist."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


def _system_bundle() -> str:
    """The file of CAs that the system trusts. libpq's own `system` looks where its OpenSSL was built."""
    import ssl

    found = ssl.get_default_verify_paths().cafile
    if found is None:
        import certifi

        found = certifi.where()
    return found


def _quote_libpq(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _dam(reader: _Reader, auth_from_flag: DamAuth | None) -> DamSettings:
    base_url = reader.url("DAM_BASE_URL", hint="https://dam.example.com, the part before /otmmapi/v6")
    base_url = re.sub(r"(/+otmmapi(/+v6)?)?/*$", "", base_url, flags=re.IGNORECASE)
    if "/otmmapi" in base_url.lower():
        reader.fault("DAM_BASE_URL", f"expected the part before /otmmapi/v6, got {base_url!r}")
    auth = auth_from_flag or cast("DamAuth", reader.choice("DAM_AUTH", "pfx-v2", ("pfx-v2", "password")))
    pfx_path = reader.readable_file("DAM_PFX_PATH")
    client_id = reader.text("DAM_CLIENT_ID")
    client_secret = reader.secret("DAM_CLIENT_SECRET")
    username = reader.text("DAM_USERNAME")
    password = reader.secret("DAM_PASSWORD")
    if auth == "pfx-v2":
        reader.require("DAM_AUTH=pfx-v2", DAM_PFX_PATH=pfx_path, DAM_CLIENT_ID=client_id)
        reader.require("DAM_AUTH=pfx-v2", DAM_CLIENT_SECRET=client_secret)
        if username:
            reader.require("DAM_USERNAME is set", DAM_PASSWORD=password)
    else:
        reader.require("DAM_AUTH=password", DAM_USERNAME=username, DAM_PASSWORD=password)
    return DamSettings(
        base_url=base_url,
        auth=auth,
        pfx_path=pfx_path,
        pfx_password=reader.secret("DAM_PFX_PASSWORD"),
        client_id=client_id,
        client_secret=client_secret,
        username=username,
        password=password,
        token_url=reader.url(
            "DAM_TOKEN_URL", default="{base}/otmmapi/v6/sessions/oauth2/token", base=base_url
        ),
        ca_bundle=reader.ca_bundle("DAM_CA_BUNDLE"),
        campaigns_folder_id=reader.required("DAM_CAMPAIGNS_FOLDER_ID"),
        status_field_id=reader.required("DAM_STATUS_FIELD_ID"),
        number_field_id=reader.required("DAM_NUMBER_FIELD_ID"),
        search_operator_id=reader.text("DAM_SEARCH_OPERATOR_ID", "ARTESIA.OPERATOR.CHAR.CONTAINS"),
        search_config_id=reader.text("DAM_SEARCH_CONFIG_ID", "3"),
        master_assets_folder=_master_assets_folder(reader),
        status_a1=_status_a1(reader),
        status_a2=_status_a2(reader),
        lock_style=cast("LockStyle", reader.choice("DAM_LOCK_STYLE", "bulk", ("bulk", "single", "none"))),
        patch_resource=cast(
            'Literal["folders", "assets"]',
            reader.choice("DAM_PATCH_RESOURCE", "folders", ("folders", "assets")),
        ),
        compares_checksums=reader.boolean("DAM_COMPARE_CHECKSUMS", default=True),
        page_size=reader.whole_number("DAM_PAGE_SIZE", 200, 1, 10_000),
        timeout_seconds=reader.seconds("DAM_TIMEOUT_SECONDS", 60),
    )


def _master_assets_folder(reader: _Reader) -> str:
    return reader.text("DAM_MASTER_ASSETS_FOLDER", "Master Assets")


def _status_a1(reader: _Reader) -> str:
    return reader.text("DAM_STATUS_A1", "A1")


def _status_a2(reader: _Reader) -> str:
    status = reader.text("DAM_STATUS_A2", "A2")
    if status == _status_a1(reader):
        reader.fault(
            "DAM_STATUS_A2",
            f"{status!a} is DAM_STATUS_A1 too, and a campaign would stay there after its upload; write the"
            " status that follows",
        )
    return status


def _box(reader: _Reader) -> BoxSettings:
    client_id = reader.text("BOX_CLIENT_ID")
    client_secret = reader.secret("BOX_CLIENT_SECRET")
    enterprise_id = reader.text("BOX_ENTERPRISE_ID")
    jwt_config = reader.readable_file("BOX_JWT_CONFIG")
    if jwt_config is None and not reader.is_faulty("BOX_JWT_CONFIG"):
        reader.require(
            "BOX_JWT_CONFIG is not set",
            BOX_CLIENT_ID=client_id,
            BOX_CLIENT_SECRET=client_secret,
            BOX_ENTERPRISE_ID=enterprise_id,
        )
    root_folder_id = reader.required("BOX_ROOT_FOLDER_ID")
    if root_folder_id and not root_folder_id.isdecimal():
        reader.fault(
            "BOX_ROOT_FOLDER_ID", f"expected digits, as in the folder's address, got {root_folder_id!r}"
        )
    api_url = reader.url("BOX_API_URL", default="https://api.box.com").removesuffix("/2.0")
    upload_url = reader.url("BOX_UPLOAD_URL", default="https://upload.box.com/api").removesuffix("/2.0")
    if not urlsplit(upload_url).path:
        upload_url += "/api"  # Box serves uploads below /api; the bare host is how people know it
    return BoxSettings(
        client_id=client_id,
        client_secret=client_secret,
        enterprise_id=enterprise_id,
        jwt_config=jwt_config,
        root_folder_id=root_folder_id,
        api_url=api_url,
        upload_url=upload_url,
        ca_bundle=reader.ca_bundle("BOX_CA_BUNDLE"),
        parts_count_as_uploads=reader.boolean("BOX_PARTS_COUNT_AS_UPLOADS", default=False),
        timeout_seconds=reader.seconds("BOX_TIMEOUT_SECONDS", 120),
    )


def _transfer(reader: _Reader) -> TransferSettings:
    return TransferSettings(
        workers=reader.whole_number("TRANSFER_WORKERS", 8, 1, 64),
        memory_bytes=reader.whole_number("TRANSFER_MEMORY_MB", 96, 64, 65_536) * 1024 * 1024,
        uploads_per_minute=reader.whole_number("BOX_UPLOADS_PER_MINUTE", 240, 0, 100_000),
        calls_per_minute=reader.whole_number("BOX_CALLS_PER_MINUTE", 1000, 0, 100_000),
    )


def _mail(reader: _Reader) -> MailSettings:
    host = reader.required("SMTP_HOST")
    security = cast("SmtpSecurity", reader.choice("SMTP_SECURITY", "starttls", ("starttls", "tls", "none")))
    port = reader.whole_number("SMTP_PORT", DEFAULT_SMTP_PORTS.get(security, 587), 1, 65535)
    username = reader.text("SMTP_USERNAME")
    password = reader.secret("SMTP_PASSWORD")
    if username:
        reader.require("SMTP_USERNAME is set", SMTP_PASSWORD=password)
        if security == "none" and host not in LOOPBACK_HOSTS:
            reader.fault("SMTP_SECURITY", "none would send SMTP_PASSWORD in clear; use starttls or tls")
    sender = reader.addresses("MAIL_FROM")
    if len(sender) > 1:
        reader.fault("MAIL_FROM", "expected one address")
    error_recipients = reader.addresses("ERROR_NOTIFICATION_EMAILS")
    return MailSettings(
        server=MailServer(
            host=host,
            port=port,
            security=security,
            username=username or None,
            password=password,
            sender=sender[0] if sender else "",
            ca_bundle=reader.ca_bundle("SMTP_CA_BUNDLE"),
        ),
        error_recipients=error_recipients,
        success_recipients=reader.addresses("SUCCESS_NOTIFICATION_EMAILS", default="none"),
        report_recipients=reader.addresses("REPORT_EMAILS", default="ERROR_NOTIFICATION_EMAILS")
        or error_recipients,
    )


def _log(reader: _Reader) -> LogSettings:
    return LogSettings(
        format=cast('Literal["text", "json"]', reader.choice("LOG_FORMAT", "text", ("text", "json"))),
        level=reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
    )


def _off_hours(reader: _Reader) -> OffHours:
    start = reader.clock("OFF_HOURS_START", "22:00")
    end = reader.clock("OFF_HOURS_END", "05:00")
    if start == end:
        reader.fault(
            "OFF_HOURS_START and OFF_HOURS_END",
            f"are both {start:%H:%M}; use OFF_HOURS_ENABLED=false to have no off-hours",
        )
    days = reader.items("OFF_HOURS_DAYS", "sat,sun")
    if [day.lower() for day in days] == ["none"]:
        days = ()
    unknown = [day for day in days if day.lower() not in DAY_NAMES]
    if unknown:
        reader.fault(
            "OFF_HOURS_DAYS", f"expected days from {','.join(DAY_NAMES)}, got {', '.join(unknown)!r}"
        )
    minutes = reader.items("OFF_HOURS_RUN_MINUTES", "0,30")
    wrong = [minute for minute in minutes if not (minute.isdecimal() and int(minute) <= 59)]
    if wrong or not minutes:
        got = ",".join(wrong)
        reader.fault("OFF_HOURS_RUN_MINUTES", f"expected minutes of the hour from 0 to 59, got {got!r}")
    return OffHours(
        enabled=reader.boolean("OFF_HOURS_ENABLED", default=True),
        start=start,
        end=end,
        days=frozenset(DAY_NAMES.index(day.lower()) for day in days if day.lower() in DAY_NAMES),
        extra_minutes=reader.whole_number("OFF_HOURS_EXTRA_MINUTES", 30, 0, 1440),
        run_minutes=frozenset(int(minute) for minute in minutes if minute not in wrong),
    )


class _Reader:
    """Typed reads from a mapping; faults are collected, so that the caller sees them all."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._faults: dict[str, str] = {}
        self._warnings: list[str] = []
        self.names_asked: list[str] = []
        self.secret_names: list[str] = []
        self.secrets_seen: list[str] = []
        self.env_file = env.get(ENV_FILE_VARIABLE)

    def fault(self, name: str, text: str) -> None:
        if text.startswith("missing") and self.is_faulty(f"{name}_FILE"):
            return  # why it is missing has been said
        self._faults.setdefault(name, f"{name}: {text}")

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def is_faulty(self, name: str) -> bool:
        return name in self._faults

    def finish(self) -> None:
        """Raise ConfigError with every fault; that there is no settings file is said before what it lacks."""
        faults = list(self._faults.values())
        if self.env_file is None and any(": missing" in fault for fault in faults):
            faults.insert(
                0,
                f"there is no settings file: neither .env in the working folder nor {REPOSITORY / '.env'};"
                " copy .env.example to .env and fill it in, or name a file with --env-file",
            )
        if faults:
            raise ConfigError(faults)
        for text in self._warnings:
            logger.warning("%s", text, extra={"action": "risky_setting"})

    def text(self, name: str, default: str | None = None) -> str:
        """The value without outer blanks; the default, or "", when unset or empty."""
        self.names_asked.append(name)
        return self._env.get(name, "").strip() or default or ""

    def foreign(self, name: str) -> str:
        """A variable that is not ours, and is not listed as such."""
        return self._env.get(name, "")

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.fault(name, "missing")
        return value

    def require(self, because: str, **values: object) -> None:
        for name, value in values.items():
            if not value:
                self.fault(name, f"missing, needed because {because}")

    def remember_secret(self, value: str | None) -> None:
        if value:
            self.secrets_seen.append(value)

    def secret(self, name: str, *, absent: str | None = None) -> str | None:
        """The variable, or the content of the file that NAME_FILE names, less its last line break.

        absent: the word by which the variable says that there is none.
        """
        self.names_asked.append(name)
        self.secret_names.append(name)
        value = self._env.get(name) or None
        path = self._env.get(f"{name}_FILE", "").strip()
        if value is not None and path:
            self.fault(name, f"set twice, by {name} and {name}_FILE; keep one")
        elif path:
            try:
                with open(open_guarded(_path(path)), "rb") as stream:  # noqa: PTH123 - a descriptor
                    value = _decoded(stream.read()).rstrip("\r\n") or None
            except UnsafeFileError as exc:
                self.fault(f"{name}_FILE", str(exc))
            except (OSError, ValueError) as exc:
                reason = exc.strerror if isinstance(exc, OSError) else exc
                self.fault(f"{name}_FILE", f"cannot read {path}: {reason}")
            else:
                if value is None:
                    self.fault(f"{name}_FILE", f"{path} is empty")
        if value is not None and value.strip().casefold() == absent:
            return None
        self.remember_secret(value)
        return value

    def whole_number(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"-?[0-9]{1,9}", value) or not low <= int(value) <= high:
            self.fault(name, f"expected a whole number from {low} to {high}, got {value!r}")
            return default
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", value) or float(value) == 0:
            self.fault(name, f"expected seconds greater than 0, got {value!r}")
            return default
        return float(value)

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.text(name).lower()
        if not value:
            return default
        if value not in ("true", "false"):
            self.fault(name, f"expected true or false, got {value!r}")
        return value == "true"

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        by_folded = {option.casefold(): option for option in allowed}
        if value.casefold() not in by_folded:
            self.fault(name, f"expected one of {', '.join(allowed)}, got {value!r}")
            return default
        return by_folded[value.casefold()]

    def items(self, name: str, default: str) -> tuple[str, ...]:
        """A comma-separated list; set but empty is an empty list, unset is the default."""
        self.names_asked.append(name)
        value = self._env.get(name, default)
        return tuple(item.strip() for item in value.split(",") if item.strip())

    def addresses(self, name: str, *, default: str | None = None) -> tuple[str, ...]:
        """E-mail addresses. default: the word that says so when nobody is named; None: somebody must be."""
        found = tuple(dict.fromkeys(self.items(name, "")))
        if default is not None and len(found) == 1 and found[0].casefold() == default.casefold():
            return ()
        if default is None and not found:
            self.fault(name, "missing, expected e-mail addresses separated by commas")
        for address in found:
            if not _ADDRESS.fullmatch(address):
                self.fault(name, f"expected e-mail addresses separated by commas, got {address!r}")
        return found

    def clock(self, name: str, default: str) -> time:
        value = self.text(name, default)
        match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value)
        if match is None:
            self.fault(name, f"expected a time of day such as 22:00, got {value!r}")
            return time.fromisoformat(default)
        return time(int(match[1]), int(match[2]))

    def zone(self, name: str) -> ZoneInfo:
        value = self.required(name)
        try:
            return ZoneInfo(value or "UTC")
        except (KeyError, ValueError, OSError):
            self.fault(name, f"expected an IANA time zone such as Europe/Rome, got {value!r}")
            return ZoneInfo("UTC")

    def url(self, name: str, *, default: str = "", hint: str = "an https address", base: str = "") -> str:
        """An https address without a trailing slash; plain http is for loopback alone. base: for {base}."""
        return self.checked_url(name, self.text(name, default).replace("{base}", base), hint, shown=True)

    def checked_url(self, name: str, text: str, hint: str, *, shown: bool) -> str:
        """The same for a text at hand; shown: whether a fault may quote it."""
        value = text.rstrip("/")
        if not value:
            self.fault(name, f"missing, expected {hint}")
            return value
        try:
            parts = urlsplit(value)
            host, port_is_good = parts.hostname, parts.port != 0
        except ValueError:
            host, port_is_good = None, False
        if host and not (_HOST_AND_PORT.fullmatch(parts.netloc.rpartition("@")[2]) and value.isascii()):
            host = None  # letters beyond ASCII: their xn-- form works
        is_address = host and port_is_good and parts.scheme in ("http", "https")
        if not is_address or "?" in value or "#" in value or len(value.split()) > 1:
            if not self.is_faulty("DAM_BASE_URL") or name != "DAM_TOKEN_URL":
                is_open = shown and "@" not in value and "?" not in value  # a password may stand there
                self.fault(name, f"expected {hint}" + (f", got {value!r}" if is_open else ""))
        elif parts.username or parts.password:
            self.fault(name, "must not carry a user name or password")
        elif parts.scheme == "http" and host not in LOOPBACK_HOSTS:
            self.fault(name, f"http would send secrets in clear to {host}; use https")
        return value

    def ca_bundle(self, name: str) -> str | None:
        """The path of a file of certificates; None for the system's."""
        path = self.readable_file(name, default="system")
        return str(path) if path else None

    def readable_file(self, name: str, default: str = "") -> Path | None:
        """The path of a file that can be read. None when unset, or set to the word for the default."""
        value = self.text(name)
        if not value or value.casefold() == default:
            return None
        path = _path(value)
        try:
            os.close(open_guarded(path))
        except UnsafeFileError as exc:
            self.fault(name, str(exc))
        except OSError as exc:
            self.fault(name, f"cannot read {path}: {exc.strerror}")
        else:
            return path
        return None
