"""Reads the settings once, from the environment and `.env`, into frozen values. Reports all faults together.

Secrets never show in a repr. `base/variables` reads one variable, `base/env_file` reads the file.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from binascii import a2b_base64
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from zoneinfo import ZoneInfo

from shared.base.commands import Commands, here
from shared.base.env_file import ENV_FILE_VARIABLE, NAMED_BY, find_env_file, is_task, read_env_file
from shared.base.file_rights import user_name
from shared.base.links import CAMPAIGN_ID, FOLDER_ID, Links
from shared.base.logs import RUN_ID_VARIABLE
from shared.base.values import BoxSettings, DamSettings, MailServer, TransferSettings
from shared.base.variables import HOST_AND_PORT, LOOPBACK_HOSTS, Reader
from shared.base.webhooks import KINDS as WEBHOOK_KINDS
from shared.base.webhooks import EventType, WebhookKind, WebhookSettings, WebhookTarget
from shared.rules.cadence import OffHours, Weekly
from shared.rules.retry import RetryPolicy

logger = logging.getLogger(__name__)

T = TypeVar("T")
DamAuth = Literal["pfx-v2", "password"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_DELAY_MINUTES = 7 * 24 * 60
MOST_BOX_USERS = 50
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's modes, from weak to strong. `default`: verify-full for another host, prefer on this one."""
DATABASE_VARIABLES = ("DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD")
OUR_PREFIXES = (
    *("DB_", "DAM_", "BOX_", "SMTP_", "A1_", "ORCHESTRATOR_", "OFF_HOURS_", "TRANSFER_", "ADMIN_"),
    *("WEBHOOK_", "ENGINE_", "WORKER_"),
)
WEBHOOK_VARIABLES = ("WEBHOOK_NAME_URL", "WEBHOOK_NAME_SECRET", "WEBHOOK_NAME_KIND", "WEBHOOK_NAME_EVENTS")
"""Of each webhook target, whose name is in the place of NAME."""
_OF_WEBHOOK = re.compile(r"WEBHOOK_([A-Z0-9_]{1,40})_(?:(URL|SECRET)(?:_FILE)?|(KIND|EVENTS))")
SMTP_PORTS: dict[Literal["starttls", "tls", "none"], int] = {"starttls": 587, "tls": 465, "none": 25}

# Like libpq, but stricter where people forget to escape: one @, no #, each % with two digits.
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
    """The mail server and who gets which notice. alert_recipients: of the loop's alerts about its tasks."""

    server: MailServer
    error_recipients: tuple[str, ...]
    success_recipients: tuple[str, ...]
    report_recipients: tuple[str, ...]
    alert_recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Format and level of the log on standard error."""

    format: Literal["text", "json"]
    level: str


@dataclass(frozen=True, slots=True)
class CadenceSettings:
    """When tasks run, and in which time zone. digest: of stuck campaigns; None: not sent."""

    timezone: ZoneInfo
    off_hours: OffHours
    digest: Weekly | None = None


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Who works on the campaigns: the run itself (`local`), or workers on any number of hosts, to which an
    engine gives them (MARKDOWN_DOCS/SCALE_OUT.md).

    dsn: the engine's own way to the same database, for example through a pooler; "": as all others.
    listens: whether PostgreSQL notifies the workers of a new job; else they ask every few seconds.
    campaigns_at_once: of one worker. stop_seconds: how long a worker may take to stop; after that, what it
    still does is given up, and the next run starts it again.
    """

    name: Literal["local", "procrastinate"] = "local"
    dsn: str = field(default="", repr=False)
    listens: bool = True
    campaigns_at_once: int = 16
    stop_seconds: float = 300

    @property
    def is_local(self) -> bool:
        return self.name == "local"


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """When runs happen and how they count: everything that a forecast needs."""

    cadence: CadenceSettings
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything one run of the uploader needs. metrics_file: where it writes its metrics; None: nowhere."""

    database: DatabaseSettings
    dam: DamSettings
    box: BoxSettings
    transfer: TransferSettings
    mail: MailSettings
    webhooks: WebhookSettings
    log: LogSettings
    retry: RetryPolicy
    timezone: ZoneInfo
    off_hours: OffHours
    engine: EngineSettings
    metrics_file: Path | None
    commands: Commands
    links: Links
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the daily report needs: the database, e-mail, and some settings of the uploader."""

    database: DatabaseSettings
    mail: MailSettings
    log: LogSettings
    retry: RetryPolicy
    timezone: ZoneInfo
    off_hours: OffHours
    status_a1: str
    master_assets_folder: str
    commands: Commands
    links: Links
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the database tools need: no DAM, no Box, no e-mail. cadence: None when no time zone is set."""

    database: DatabaseSettings
    log: LogSettings
    retry: RetryPolicy
    status_a1: str
    cadence: CadenceSettings | None
    commands: Commands
    links: Links
    master_assets_folder: str
    status_a2: str
    engine: EngineSettings
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may use the operator's page, and how they log in.

    users_file: names and password hashes; None: nobody can log in by a password. proxy_header: the header in
    which a proxy names the person, accepted only from proxy_peers; "": there is no such proxy. proxy_peers
    may also give the browser's address. operators: who may act; all others may only read.
    """

    listen_host: str
    listen_port: int
    users_file: Path | None
    proxy_header: str
    proxy_peers: tuple[Network, ...]
    operators: frozenset[str]


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the operator's page needs: neither DAM nor Box nor e-mail."""

    database: DatabaseSettings
    log: LogSettings
    retry: RetryPolicy
    status_a1: str
    status_a2: str
    cadence: CadenceSettings
    commands: Commands
    master_assets_folder: str
    links: Links
    access: AccessSettings
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OrchestratorSettings:
    """What the loop itself needs; its tasks read their own settings.

    alert_after_failures: runs that fail in the same way before a notice goes out. heartbeat_url: "" for none.
    stop_seconds: how long running tasks may take to finish when the loop is asked to stop. secrets: also
    those of the tasks, whose output goes through the loop's log.
    """

    database: DatabaseSettings
    mail: MailSettings
    webhooks: WebhookSettings
    log: LogSettings
    cadence: CadenceSettings
    alert_after_failures: int
    heartbeat_url: str = field(repr=False)
    stop_seconds: float
    commands: Commands
    links: Links
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WebhookToolSettings:
    """What `a1_retry.py webhook` needs."""

    database: DatabaseSettings
    webhooks: WebhookSettings
    log: LogSettings
    retry: RetryPolicy
    commands: Commands
    links: Links
    secrets: tuple[str, ...] = field(repr=False)


KINDS = (Settings, OrchestratorSettings, PageSettings)
"""Together they read every variable."""


# The environment


def read_environment(env_file: Path | None, process: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of an env file (the one given, or else the one found), overridden by the process
    environment.

    Warns about names that look like misspelt ones of ours. Raises what `read_env_file` raises.
    """
    env_file = find_env_file(env_file, process)
    from_file = read_env_file(env_file)
    found = {**from_file, **process}
    if is_task(process):  # the loop has checked the names
        return found
    for text in _misspelt(from_file, process):
        logger.warning("%s", text, extra={"action": "unknown_variable"})
    found.pop(ENV_FILE_VARIABLE, None)
    if env_file is not None:
        found[ENV_FILE_VARIABLE] = _shown_file(env_file, process)
    return found


def source_of(env_file: Path | None) -> str:
    """Where `read_environment` reads the settings, in words; the process environment wins over a file."""
    found = find_env_file(env_file)
    return "the process environment only" if found is None else str(found.absolute())


def _shown_file(env_file: Path, process: Mapping[str, str]) -> str:
    """The env file for the commands that messages show; "" if it is not enough, because the process
    environment names the database.
    """
    is_enough = not any(name.removesuffix("_FILE") in DATABASE_VARIABLES for name in process)
    return str(env_file.absolute()) if is_enough else ""


def _misspelt(from_file: Mapping[str, str], process: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that we do not read, but whose name looks like one of ours."""
    reader = _asked({}, *KINDS)
    secret_files = {f"{name}_FILE" for name in reader.secret_names}
    known = {*reader.names, *secret_files, ENV_FILE_VARIABLE, NAMED_BY, RUN_ID_VARIABLE}
    suspects = {*from_file, *(name for name in process if name.startswith(OUR_PREFIXES))} - known
    suspects = {name for name in suspects if not _OF_WEBHOOK.fullmatch(name)}
    found = (_likely_meant(name, known, is_ours=name in from_file) for name in sorted(suspects))
    return [text for text in found if text]


def _likely_meant(name: str, known: Collection[str], *, is_ours: bool) -> str:
    """What to say about an unknown name; "" when it belongs to another program. is_ours: it is in our own
    file.
    """
    from difflib import get_close_matches

    said, upper = f"the variable {name} is unknown and has no effect", name.upper()
    if upper.endswith("_FILE") and upper.removesuffix("_FILE") in known:
        return f"{said}: only a secret can come from a file; set {upper.removesuffix('_FILE')}"
    # Other programs also have names such as DB_PATH in the environment; in our file all names are ours.
    is_ours = is_ours and upper.startswith(OUR_PREFIXES)
    near = get_close_matches(upper, sorted(known), 3, 0.6 if is_ours else 0.75)
    if near:
        of_its_system = [one for one in near if one.split("_")[0] == upper.split("_")[0]]
        return f"{said}; did you mean {(of_its_system or near)[0]}?"
    return f"{said}; MARKDOWN_DOCS/CONFIGURATION.md lists all variables" if is_ours else ""


# The settings of each script


def load_settings(env: Mapping[str, str], dam_auth: DamAuth | None = None) -> Settings:
    """All settings of the uploader. dam_auth, from the command line, wins over DAM_AUTH.

    Raises ConfigError with every fault at once, each naming its variable, as do those that follow.
    """
    return _loaded(Settings, {**env, "DAM_AUTH": dam_auth} if dam_auth else env)


def load_report_settings(env: Mapping[str, str]) -> ReportSettings:
    return _loaded(ReportSettings, env)


def load_operator_settings(env: Mapping[str, str], *, needs_cadence: bool = False) -> OperatorSettings:
    has_cadence = needs_cadence or env.get("ORCHESTRATOR_TIMEZONE", "").strip()
    return _loaded(OperatorSettings, env, **({} if has_cadence else {"cadence": None}))


def load_webhook_settings(env: Mapping[str, str]) -> WebhookToolSettings:
    return _loaded(WebhookToolSettings, env)


def load_page_settings(env: Mapping[str, str]) -> PageSettings:
    return _loaded(PageSettings, env)


def load_policy_settings(env: Mapping[str, str]) -> PolicySettings:
    return _loaded(PolicySettings, env)


def load_cadence_settings(env: Mapping[str, str]) -> CadenceSettings:
    return _loaded(CadenceSettings, env)


def load_digest(env: Mapping[str, str]) -> Weekly | None:
    reader = Reader(env)
    digest = _digest(reader)
    reader.finish()
    return digest


def load_orchestrator_settings(env: Mapping[str, str]) -> OrchestratorSettings:
    # The secrets of all scripts; the scripts report faults of variables that the loop does not read.
    secrets = _asked(env, *KINDS).secrets
    return _loaded(OrchestratorSettings, env, secrets=tuple(secrets))


def _loaded(kind: type[T], env: Mapping[str, str], **given: object) -> T:
    reader = Reader(env)
    settings = _read(kind, reader, **given)
    reader.finish()
    return settings


def _read(kind: type[T], reader: Reader, **given: object) -> T:
    """Settings of this kind: for each field that is not given, the function of that name reads it."""
    read: dict[str, Callable[[Reader], object]] = {
        "database": _database,
        "dam": _dam,
        "box": _box,
        "transfer": _transfer,
        "mail": _mail,
        "webhooks": _webhooks,
        "log": _log,
        "retry": _retry,
        "cadence": lambda reader: _read(CadenceSettings, reader),
        "timezone": lambda reader: reader.zone("ORCHESTRATOR_TIMEZONE"),
        "off_hours": _off_hours,
        "digest": _digest,
        "status_a1": _status_a1,
        "status_a2": _status_a2,
        "master_assets_folder": _master_assets_folder,
        "alert_after_failures": lambda reader: reader.whole_number("ALERT_AFTER_FAILURES", 3, 1, 1000),
        "heartbeat_url": _heartbeat_url,
        "stop_seconds": lambda reader: reader.seconds("ORCHESTRATOR_STOP_SECONDS", 300),
        "engine": _engine,
        "metrics_file": _metrics_file,
        "commands": _commands,
        "links": _links,
        "access": _access,
        "secrets": lambda reader: tuple(reader.secrets),  # of the fields before it
    }
    names = (one.name for one in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: given[name] if name in given else read[name](reader) for name in names})


def _asked(env: Mapping[str, str], *kinds: type) -> Reader:
    """A reader that has read all variables of these kinds of settings, faulty or not."""
    reader = Reader(env)
    for kind in kinds:
        _read(kind, reader)
    return reader


def variables_of(*kinds: type) -> frozenset[str]:
    """The variables of these kinds of settings."""
    return frozenset(_asked({}, *kinds).names)


def variable_names() -> frozenset[str]:
    """Every variable that we read: `.env.example` and the docs must list them."""
    return variables_of(*KINDS)


def environment_for(reads: Collection[str] | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without our variables that a task does not read; None: without those only for the loop.

    Other variables stay: a path, a proxy, a locale.
    """
    ours = variable_names()
    unread = ours - set(variables_of(Settings) if reads is None else reads)
    return {name: value for name, value in environment.items() if _variable(name, ours) not in unread}


def _variable(name: str, ours: Collection[str]) -> str:
    """The variable behind a name in the environment: itself, the secret whose file it names, or the one of
    WEBHOOK_VARIABLES.
    """
    if name in ours:
        return name
    of_webhook = _OF_WEBHOOK.fullmatch(name)
    if of_webhook:
        return f"WEBHOOK_NAME_{of_webhook[2] or of_webhook[3]}"
    return name.removesuffix("_FILE")


def task_environment(
    reads: Collection[str] | None, process: Mapping[str, str], env_file: Path | None
) -> dict[str, str]:
    """The environment of a task: only the variables that it reads, from the env file, read now, and the
    process.

    Raises ConfigError when the env file cannot be read.
    """
    ours = variable_names()
    from_file = read_env_file(env_file).items()
    of_ours = {name: value for name, value in from_file if _variable(name, ours) in ours}
    named = {ENV_FILE_VARIABLE: "" if env_file is None else _shown_file(env_file, process)}
    return {**environment_for(reads, {**of_ours, **process}), **named}


# Settings of all scripts


def _commands(reader: Reader) -> Commands:
    """The commands of this installation."""
    uid = os.geteuid()
    return here(reader.env_file or "", user_name(uid) if uid else "")


def _log(reader: Reader) -> LogSettings:
    return LogSettings(
        format=reader.choice("LOG_FORMAT", "text", ("text", "json")),
        level=reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
    )


def _metrics_file(reader: Reader) -> Path | None:
    path = reader.file_to_write("METRICS_FILE")
    if path is not None and path.suffix != ".prom":
        reader.warn(f"METRICS_FILE: node_exporter reads only files whose name ends in .prom, not {path.name}")
    return path


def _engine(reader: Reader) -> EngineSettings:
    usual = EngineSettings()
    return EngineSettings(
        name=reader.choice("ENGINE", usual.name, ("local", "procrastinate")),
        dsn=_database_url(reader, "ENGINE_DATABASE_URL") or "",
        listens=reader.boolean("ENGINE_LISTEN", default=usual.listens),
        campaigns_at_once=reader.whole_number("WORKER_CAMPAIGNS_AT_ONCE", usual.campaigns_at_once, 1, 64),
        stop_seconds=reader.seconds("WORKER_STOP_SECONDS", usual.stop_seconds),
    )


# The retry rule


def _retry(reader: Reader) -> RetryPolicy:
    usual = RetryPolicy()
    return RetryPolicy(
        max_retries=reader.whole_number("A1_MAX_RETRIES", usual.max_retries, 1, 1000),
        delays=reader.minutes("A1_RETRY_DELAYS", 1, MOST_DELAY_MINUTES),
        auto_reset_days=reader.whole_number("A1_AUTO_RESET_DAYS", usual.auto_reset_days, 0, 365),
        auto_reset_cycles=reader.whole_number("A1_AUTO_RESET_CYCLES", usual.auto_reset_cycles, 1, 1000),
    )


# The cadence


def _off_hours(reader: Reader) -> OffHours:
    start = reader.clock("OFF_HOURS_START", "22:00")
    end = reader.clock("OFF_HOURS_END", "05:00")
    if start == end:
        reader.fault(
            "OFF_HOURS_START and OFF_HOURS_END",
            f"are both {start:%H:%M}; use OFF_HOURS_ENABLED=false to have no off-hours",
        )
    return OffHours(
        enabled=reader.boolean("OFF_HOURS_ENABLED", default=True),
        start=start,
        end=end,
        days=_off_days(reader),
        extra_minutes=reader.whole_number("OFF_HOURS_EXTRA_MINUTES", 30, 0, 1440),
        run_minutes=_run_minutes(reader),
    )


def _off_days(reader: Reader) -> frozenset[int]:
    """Days of the week, 0 for Monday."""
    days = {day.lower(): day for day in reader.items("OFF_HOURS_DAYS", "sat,sun")}
    if list(days) == ["none"]:
        return frozenset()
    unknown = [day for lower, day in days.items() if lower not in DAY_NAMES]
    if unknown:
        expected = ",".join(DAY_NAMES)
        reader.fault("OFF_HOURS_DAYS", f"expected days from {expected}, got {', '.join(unknown)!r}")
    return frozenset(number for number, name in enumerate(DAY_NAMES) if name in days)


def _run_minutes(reader: Reader) -> frozenset[int]:
    """Minutes of the hour; there is at least one."""
    minutes = reader.items("OFF_HOURS_RUN_MINUTES", "0,30")
    wrong = [minute for minute in minutes if not (minute.isdecimal() and int(minute) <= 59)]
    if wrong or not minutes:
        got = ",".join(wrong)
        reader.fault("OFF_HOURS_RUN_MINUTES", f"expected minutes of the hour from 0 to 59, got {got!r}")
    return frozenset(int(minute) for minute in minutes if minute not in wrong)


def _digest(reader: Reader) -> Weekly | None:
    day = reader.choice("DIGEST_DAY", "mon", (*DAY_NAMES, "none"))
    at = reader.clock("DIGEST_TIME", "08:00")
    return None if day == "none" else Weekly(DAY_NAMES.index(day), at)


def _heartbeat_url(reader: Reader) -> str:
    """An https address whose path is a secret: anybody who knows it could send false signs of life."""
    url = (reader.secret("HEARTBEAT_URL", absent="none") or "").strip()
    return reader.checked_url("HEARTBEAT_URL", url, "an https address", is_secret=True) if url else ""


# PostgreSQL


def _database(reader: Reader) -> DatabaseSettings:
    url = _database_url(reader, "DATABASE_URL")
    words = {
        "host": reader.text("DB_HOST", "localhost"),
        "port": str(reader.whole_number("DB_PORT", 5437, 1, 65535)),
        "dbname": reader.text("DB_NAME", "ferrero_tracking"),
        "user": reader.text("DB_USER", "ferrero_user"),
        "password": reader.secret("DB_PASSWORD") or "",
    }
    if url is not None:
        return DatabaseSettings(url)
    if not words["password"]:
        reader.fault("DB_PASSWORD", "missing (or give DATABASE_URL)")
    words |= _checks_of_server(reader, words["host"].split(","), {})
    return DatabaseSettings(" ".join(f"{key}={_quote_libpq(value)}" for key, value in words.items()))


def _database_url(reader: Reader, name: str) -> str | None:
    """The URL in this variable, with the options for verifying the server; None when it is not set."""
    url = reader.secret(name)
    if url is None:
        return None
    hosts, options = _read_database_url(reader, name, url)
    query = urlencode(_checks_of_server(reader, hosts, options), quote_via=quote)
    joint = "&" if "?" in url else "?"
    return url.strip() + (joint + query if query else "")


def _checks_of_server(reader: Reader, hosts: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    """libpq's options for verifying the server, in addition to those in the URL."""
    is_remote = not all(map(_is_this_host, hosts))
    mode = options.get("sslmode", _ssl_mode(reader, is_remote=is_remote))
    bundle = reader.ca_bundle("DB_CA_BUNDLE") or options.get("sslrootcert")
    wanted = {"sslmode": mode}
    if bundle or mode.startswith("verify-"):
        wanted["sslrootcert"] = bundle or _system_bundle()
    if is_remote and mode != "verify-full":
        wanted["require_auth"] = "!password"  # no unencrypted password to an unverified server
        reader.warn(
            f"DB_SSLMODE: {mode} does not check that the database server is the right one; use verify-full,"
            " with DB_CA_BUNDLE for a private CA"
        )
    return {option: value for option, value in wanted.items() if option not in options}


def _ssl_mode(reader: Reader, *, is_remote: bool) -> str:
    """The value of DB_SSLMODE, or the meaning of `default`."""
    mode = reader.choice("DB_SSLMODE", "default", ("default", *SSL_MODES))
    if mode != "default":
        return mode
    return "verify-full" if is_remote else "prefer"


def _is_this_host(host: str) -> bool:
    """Whether libpq connects to this machine, by loopback or by a Unix socket (a path, or @ and a name)."""
    return host in ("", *LOOPBACK_HOSTS) or host.startswith(("/", "@"))


def _read_database_url(reader: Reader, name: str, url: str) -> tuple[list[str], dict[str, str]]:
    """The hosts and the options of a URL, as libpq reads them; refuses a URL that libpq would read in an
    unexpected way. The message quotes nothing of it: what looks like a host may be a piece of the password.
    """
    found = re.fullmatch(_DATABASE_URL, url.strip(), re.VERBOSE)
    if found is None:
        reader.fault(
            name,
            "expected postgresql://user:password@host:port/name; a password's @ / ? # % are written"
            " %40 %2F %3F %23 %25",
        )
        return [], {}
    pairs = [pair.partition("=")[::2] for pair in (found["query"] or "").split("&") if pair]
    given = [value for key, value in pairs if key in ("password", "sslpassword")]
    for secret in ((found["login"] or "").partition(":")[2], *given):
        reader.remember_secret(secret)
        reader.remember_secret(unquote(secret))
    options = {unquote(key): unquote(value) for key, value in pairs}
    return _hosts_of_url(reader, found["hosts"], options), options


def _hosts_of_url(reader: Reader, text: str, options: Mapping[str, str]) -> list[str]:
    """The hosts that libpq will connect to: from an option, else from the URL, else from its own
    variables.
    """
    if "service" in options:
        return ["somewhere else"]  # a file of libpq says where
    hosts = [re.sub(r":[0-9]*$", "", one).strip("[]") for one in text.split(",")]
    named = options.get("hostaddr") or options.get("host") or ",".join(map(unquote, hosts))
    elsewhere = reader.foreign("PGHOSTADDR") or reader.foreign("PGHOST")
    return (named if named.strip(",") else elsewhere).split(",")


def _system_bundle() -> str:
    """The file of CAs that the system trusts. libpq's own `system` uses the path of its OpenSSL build."""
    import ssl

    found = ssl.get_default_verify_paths().cafile
    if found is None:
        import certifi

        found = certifi.where()
    return found


def _quote_libpq(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


# The DAM


def _dam(reader: Reader) -> DamSettings:
    base_url = reader.url("DAM_BASE_URL", hint="https://dam.example.com, the part before /otmmapi/v6")
    base_url = re.sub(r"(/+otmmapi(/+v6)?)?/*$", "", base_url, flags=re.IGNORECASE)
    if "/otmmapi" in base_url.lower():
        reader.fault("DAM_BASE_URL", f"expected the part before /otmmapi/v6, got {base_url!r}")
    token_url = reader.text("DAM_TOKEN_URL", "{base}/otmmapi/v6/sessions/oauth2/token")
    if "{base}" not in token_url or not reader.is_faulty("DAM_BASE_URL"):
        token_url = token_url.replace("{base}", base_url)
        token_url = reader.checked_url("DAM_TOKEN_URL", token_url, "an https address")
    settings = DamSettings(
        base_url=base_url,
        auth=reader.choice("DAM_AUTH", "pfx-v2", ("pfx-v2", "password")),
        pfx_path=reader.readable_file("DAM_PFX_PATH"),
        pfx_password=reader.secret("DAM_PFX_PASSWORD"),
        client_id=reader.text("DAM_CLIENT_ID"),
        client_secret=reader.secret("DAM_CLIENT_SECRET"),
        username=reader.text("DAM_USERNAME"),
        password=reader.secret("DAM_PASSWORD"),
        token_url=token_url,
        ca_bundle=reader.ca_bundle("DAM_CA_BUNDLE"),
        campaigns_folder_id=reader.required("DAM_CAMPAIGNS_FOLDER_ID"),
        status_field_id=reader.required("DAM_STATUS_FIELD_ID"),
        number_field_id=reader.required("DAM_NUMBER_FIELD_ID"),
        search_operator_id=reader.text("DAM_SEARCH_OPERATOR_ID", "ARTESIA.OPERATOR.CHAR.CONTAINS"),
        search_config_id=reader.text("DAM_SEARCH_CONFIG_ID", "3"),
        master_assets_folder=_master_assets_folder(reader),
        status_a1=_status_a1(reader),
        status_a2=_status_a2(reader),
        lock_style=reader.choice("DAM_LOCK_STYLE", "bulk", ("bulk", "single", "none")),
        patch_resource=reader.choice("DAM_PATCH_RESOURCE", "folders", ("folders", "assets")),
        compares_checksums=reader.boolean("DAM_COMPARE_CHECKSUMS", default=True),
        page_size=reader.whole_number("DAM_PAGE_SIZE", 200, 1, 10_000),
        timeout_seconds=reader.seconds("DAM_TIMEOUT_SECONDS", 60),
    )
    _require_credentials(reader, settings)
    return settings


def _require_credentials(reader: Reader, dam: DamSettings) -> None:
    """Check the variables that each way of logging in to the DAM needs."""
    login = {"DAM_USERNAME": dam.username, "DAM_PASSWORD": dam.password}
    if dam.auth == "password":
        reader.require("DAM_AUTH=password", **login)
        return
    reader.require(
        "DAM_AUTH=pfx-v2",
        DAM_PFX_PATH=dam.pfx_path,
        DAM_CLIENT_ID=dam.client_id,
        DAM_CLIENT_SECRET=dam.client_secret,
    )
    if dam.username:
        reader.require("DAM_USERNAME is set", **login)


def _master_assets_folder(reader: Reader) -> str:
    return reader.text("DAM_MASTER_ASSETS_FOLDER", "Master Assets")


def _status_a1(reader: Reader) -> str:
    return reader.text("DAM_STATUS_A1", "A1")


def _status_a2(reader: Reader) -> str:
    status = reader.text("DAM_STATUS_A2", "A2")
    if status == _status_a1(reader):
        reader.fault(
            "DAM_STATUS_A2",
            f"{status!a} is also DAM_STATUS_A1, so a campaign would stay there after its upload; set the"
            " next status",
        )
    return status


# Box


def _box(reader: Reader) -> BoxSettings:
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
    if re.fullmatch("https?://[^/]+", upload_url):
        upload_url += "/api"  # Box accepts uploads below /api, but people only know the host
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
        users=_box_users(reader, root_folder_id),
    )


def _box_users(reader: Reader, root_folder_id: str) -> tuple[str, ...]:
    """The ids in Box of the users who share the work."""
    users = reader.items("BOX_USERS", "")
    for user in users:
        if not re.fullmatch("[1-9][0-9]{0,19}", user):
            reader.fault(
                "BOX_USERS",
                f"expected the ids of users in Box (digits, not names or logins), separated by commas,"
                f" got {user!a:.80}",
            )
        elif users.count(user) > 1:
            reader.fault("BOX_USERS", f"{user} is listed {users.count(user)} times; list each user once")
    if len(users) > MOST_BOX_USERS:
        reader.fault("BOX_USERS", f"at most {MOST_BOX_USERS} users, got {len(users)}")
    if users and root_folder_id == "0":
        reader.fault(
            "BOX_ROOT_FOLDER_ID",
            "0 is each user's own root folder, so the users of BOX_USERS would not see one another's folders;"
            " set the id of a folder in which all of them are editors",
        )
    return users


def _transfer(reader: Reader) -> TransferSettings:
    return TransferSettings(
        workers=reader.whole_number("TRANSFER_WORKERS", 8, 1, 64),
        memory_bytes=reader.whole_number("TRANSFER_MEMORY_MB", 96, 64, 65_536) * 1024 * 1024,
        uploads_per_minute=reader.whole_number("BOX_UPLOADS_PER_MINUTE", 240, 0, 100_000),
        calls_per_minute=reader.whole_number("BOX_CALLS_PER_MINUTE", 1000, 0, 100_000),
    )


# E-mail


def _mail(reader: Reader) -> MailSettings:
    host = reader.required("SMTP_HOST")
    security = reader.choice("SMTP_SECURITY", "starttls", tuple(SMTP_PORTS))
    port = reader.whole_number("SMTP_PORT", SMTP_PORTS[security], 1, 65535)
    username = reader.text("SMTP_USERNAME")
    password = reader.secret("SMTP_PASSWORD")
    if username:
        reader.require("SMTP_USERNAME is set", SMTP_PASSWORD=password)
        if security == "none" and host not in LOOPBACK_HOSTS:
            reader.fault("SMTP_SECURITY", "none would send SMTP_PASSWORD unencrypted; use starttls or tls")
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
        alert_recipients=reader.addresses("ALERT_EMAILS", default="ERROR_NOTIFICATION_EMAILS")
        or error_recipients,
    )


# Webhooks


def _webhooks(reader: Reader) -> WebhookSettings:
    reader.names.update(WEBHOOK_VARIABLES)
    installation = reader.text("WEBHOOK_INSTALLATION", "a1-to-a2")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", installation):
        reader.fault(
            "WEBHOOK_INSTALLATION", f"expected up to 40 letters, digits, . _ or -, got {installation!r}"
        )
    allows_private = reader.boolean("WEBHOOK_ALLOW_PRIVATE", default=False)
    found = (_OF_WEBHOOK.fullmatch(name) for name in reader.names_set())
    names = sorted({one[1] for one in found if one})
    targets = tuple(_webhook(reader, name, allows_private=allows_private) for name in names)
    return WebhookSettings(targets, installation, allows_private)


def _webhook(reader: Reader, name: str, *, allows_private: bool) -> WebhookTarget:
    prefix = f"WEBHOOK_{name}"
    kind = reader.choice(f"{prefix}_KIND", "standard", WEBHOOK_KINDS)
    events = reader.items(f"{prefix}_EVENTS", "") or ("campaign.*",)
    for pattern in events:
        if not any(fnmatchcase(event, pattern) for event in EventType):
            known = ", ".join(event for event in EventType if event is not EventType.TEST)
            reader.fault(f"{prefix}_EVENTS", f"{pattern!r} matches no event; expected some of {known}")
    url = (reader.secret(f"{prefix}_URL") or "").strip()
    _check_webhook_url(reader, f"{prefix}_URL", url, kind, allows_private=allows_private)
    text = reader.secret(f"{prefix}_SECRET") or ""
    secrets = tuple(text.split()) if kind == "standard" else (text.strip(),) if text.strip() else ()
    if fault := _fault_of_webhook_secret(kind, secrets):
        reader.fault(f"{prefix}_SECRET", fault)
    target = WebhookTarget(name.lower(), kind, url, secrets, events)
    for secret in target.hidden:
        reader.remember_secret(secret)
    return target


def _check_webhook_url(
    reader: Reader, name: str, url: str, kind: WebhookKind, *, allows_private: bool
) -> None:
    """Note what is wrong with an address; none of it is quoted, for it may be a secret."""
    expected = "expected the https address that the receiver names"
    try:
        parts = urlsplit(url)
        is_address = parts.port != 0 and HOST_AND_PORT.fullmatch(parts.netloc.rpartition("@")[2])
    except ValueError:
        reader.fault(name, f"{expected}; this one cannot be read")
        return
    if not url:
        reader.fault(name, f"missing, {expected}")
    elif not is_address or parts.scheme not in ("http", "https") or not re.fullmatch(r"[!-~]+", url):
        reader.fault(name, f"{expected}, such as https://example.com/hook, in plain ASCII and without blanks")
    elif "@" in parts.netloc:
        reader.fault(name, "must not carry a user name or password; give them in the variable _SECRET")
    elif parts.fragment:
        reader.fault(name, "has a part behind #, which no server gets; remove it")
    elif parts.scheme == "http" and not allows_private:
        reader.fault(
            name,
            "http would send it without encryption; use https, or in a private network set"
            " WEBHOOK_ALLOW_PRIVATE=true",
        )
    elif kind == "jira" and not parse_qs(parts.query).get("project"):
        reader.fault(name, "names no project; write https://SITE.atlassian.net/?project=KEY&issuetype=NAME")


def _fault_of_webhook_secret(kind: WebhookKind, secrets: tuple[str, ...]) -> str:
    """What is wrong with the secrets of a target; "" when nothing is. Quotes none."""
    if kind in ("slack", "teams"):
        return f"must be empty: the address is the secret of {kind}" if secrets else ""
    if not secrets:
        what = {
            "standard": "the key that signs; make one:  echo whsec_$(openssl rand -base64 32)",
            "pagerduty": "the integration key of the service (Events API v2)",
        }.get(kind, "user:password; for Jira the e-mail address and an API token")
        return f"missing, expected {what}"
    if kind == "pagerduty" and not re.fullmatch("[0-9A-Za-z]{32}", secrets[0]):
        return "expected an integration key of 32 letters and digits (Events API v2)"
    if kind in ("jira", "servicenow") and not re.fullmatch("[^:]+:.+", secrets[0]):
        return "expected user:password; for Jira the e-mail address and an API token"
    if kind == "standard" and (len(secrets) > 2 or not all(map(_is_signing_key, secrets))):
        return (
            "expected whsec_ and 24 to 64 bytes in base64, or two of them with a blank between, the new one"
            " first; make one:  echo whsec_$(openssl rand -base64 32)"
        )
    return ""


def _is_signing_key(text: str) -> bool:
    try:
        return 24 <= len(a2b_base64(text.removeprefix("whsec_"), strict_mode=True)) <= 64
    except ValueError:
        return False


# Addresses to open, and the operator's page


def _links(reader: Reader) -> Links:
    return Links(
        dam=_template(reader, "DAM_WEB_URL", CAMPAIGN_ID),
        box=_template(reader, "BOX_WEB_URL", FOLDER_ID),
        page=_optional_url(reader, "ADMIN_URL", reader.text("ADMIN_URL")),
    )


def _template(reader: Reader, name: str, place: str) -> str:
    """An address with a place for an id; "" when unset."""
    template = reader.text(name)
    # The inserted id must not change the host.
    is_fixed = re.match("[^/]+//[^/?#]+[/?#]", template.partition(place)[0])
    if template and (template.count(place) != 1 or not is_fixed):
        got = "" if "@" in template else f", got {template!r}"  # it may hold a password
        reader.fault(name, f"expected an https address with one {place} after its host{got}")
        return ""
    # A page of the DAM may be after a # in its address, which browsers do not send to the server.
    _optional_url(reader, name, re.sub("[?#]", "/", template).replace(place, "1"))
    return template


def _optional_url(reader: Reader, name: str, text: str) -> str:
    return reader.checked_url(name, text, "an https address") if text else ""


def _access(reader: Reader) -> AccessSettings:
    host, port = _listen(reader)
    users_file = reader.readable_file("ADMIN_USERS_FILE")
    header = reader.text("ADMIN_PROXY_HEADER")
    peers = _peers(reader)
    if header and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", header):
        reader.fault("ADMIN_PROXY_HEADER", f"expected a header's name such as X-Remote-User, got {header!r}")
    if header and not peers and not reader.is_faulty("ADMIN_PROXY_PEERS"):
        reader.fault("ADMIN_PROXY_PEERS", "missing: the addresses of the proxies that set ADMIN_PROXY_HEADER")
    if users_file is None and not header and not reader.is_faulty("ADMIN_USERS_FILE"):
        reader.fault(
            "ADMIN_USERS_FILE",
            "missing: nobody could log in; make the file with a1_retry.py page-user, or use a proxy that"
            " names the person (ADMIN_PROXY_HEADER, ADMIN_PROXY_PEERS)",
        )
    return AccessSettings(
        listen_host=host,
        listen_port=port,
        users_file=users_file,
        proxy_header=header,
        proxy_peers=peers,
        operators=frozenset(reader.items("ADMIN_OPERATORS", "")),
    )


def _listen(reader: Reader) -> tuple[str, int]:
    """Address and port to listen on."""
    text = reader.text("ADMIN_LISTEN", "127.0.0.1:8080")
    host, _, port = text.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]") if host.startswith("[") else host))
    except ValueError:
        address = ""
    if not address or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        hint = "an IP address and a port such as 127.0.0.1:8080"
        reader.fault("ADMIN_LISTEN", f"expected {hint}, got {text!r}")
        return "127.0.0.1", 8080
    return address, int(port)


def _peers(reader: Reader) -> tuple[Network, ...]:
    """The networks in ADMIN_PROXY_PEERS."""
    found = []
    for item in reader.items("ADMIN_PROXY_PEERS", ""):
        try:
            found.append(ipaddress.ip_network(item))
        except ValueError:
            reader.fault(
                "ADMIN_PROXY_PEERS", f"expected IP addresses or networks such as 10.0.0.0/24, got {item!r}"
            )
    return tuple(found)
