"""Finds and reads the settings file, and checks whether we can trust it."""

from __future__ import annotations

import codecs
import io
import logging
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shared.base.errors import ConfigError
from shared.base.file_rights import UnsafeFileError, open_guarded, user_name
from shared.base.logs import RUN_ID_VARIABLE

if TYPE_CHECKING:
    from dotenv.parser import Binding

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[3]
FOUND_HERE = Path(".env")
"""The settings file in the working folder, which is found by default."""
INSTALLED = Path("/etc/a1-to-a2/env")
"""The settings file that `make install` makes."""
NAMED_BY = "A1_TO_A2_ENV"
"""The variable that names the settings file, instead of `--env-file`."""
ENV_FILE_VARIABLE = "A1_TO_A2_ENV_FILE"
"""The path of the settings file, for the commands that messages show; "" if the file does not have all
settings. `settings.read_environment` sets it, and the loop sets it for its tasks; people do not. It is never
opened.
"""


def is_task(process: Mapping[str, str]) -> bool:
    """Whether the loop started this process, and gave it its variables."""
    return RUN_ID_VARIABLE in process and ENV_FILE_VARIABLE in process


def find_env_file(given: Path | None, process: Mapping[str, str] = os.environ) -> Path | None:
    """The settings file: the one given, else the one that A1_TO_A2_ENV names, else the first of `places` that
    exists and is readable.

    A task of the loop reads no file: the loop gave it its variables.
    """
    if given is not None:
        return given
    if is_task(process):
        return None
    if named := process.get(NAMED_BY, "").strip():
        return Path(named)
    # A file that this user may not open is mentioned in the message about missing settings.
    return next((path for path in places() if os.path.isfile(path) and os.access(path, os.R_OK)), None)  # noqa: PTH113


def places() -> tuple[Path, ...]:
    """Where we look for a settings file that was not named, in this order."""
    return FOUND_HERE, REPOSITORY / ".env", INSTALLED


def none_found() -> str:
    """A sentence about what to do when no settings file was found."""
    denied = [path for path in places() if os.path.exists(path) and not os.access(path, os.R_OK)]  # noqa: PTH110
    if denied:
        told = " and ".join(map(str, denied))
        return (
            f"there is no settings file that {user_name(os.geteuid())} may read: cannot open {told}; run"
            " this as its owner (the command a1-to-a2 does so), or name a file with --env-file"
        )
    looked = f"neither .env in the working folder nor {REPOSITORY / '.env'} nor {INSTALLED}"
    cure = f"copy .env.example to .env and fill it in, or name a file with --env-file or {NAMED_BY}"
    return f"there is no settings file: {looked}; {cure}"


def read_env_file(env_file: Path | None) -> dict[str, str]:
    """The variables of an env file; none without a file. Warns about names that are set to two values.

    Raises ConfigError when it is missing, when somebody else can change it, or when a line is not valid.
    """
    if env_file is None:
        return {}
    bindings = _bindings(env_file)
    unreadable = [one.original.line for one in bindings if one.value is None]
    if unreadable:
        raise ConfigError([f"{env_file}: line {line} is not NAME=value" for line in unreadable])
    found: dict[str, str] = {}
    for one in bindings:
        name, value = one.key or "", one.value or ""
        if found.setdefault(name, value) != value:
            logger.warning(
                "%s: %s is set several times, to different values; the last one, on line %d, is used",
                env_file, name, one.original.line, extra={"action": "set_twice"},
            )  # fmt: skip
            found[name] = value
    return found


def _bindings(env_file: Path) -> list[Binding]:
    """The lines that are not comments, as python-dotenv reads them; an invalid line has no value.

    Warns when anybody but the file's owner may open it.
    """
    from dotenv.parser import parse_stream

    # Root may be working in somebody's folder, and must not use that person's settings.
    is_foreign_ground = os.geteuid() == 0 and env_file == FOUND_HERE
    trusted = (REPOSITORY.stat().st_uid,) if is_foreign_ground else None
    try:
        with open(open_guarded(env_file, trusted), "rb") as stream:  # noqa: PTH123 - a descriptor
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            lines = list(parse_stream(io.StringIO(decoded(stream.read()), newline=None)))
    except UnsafeFileError as exc:
        raise ConfigError(f"the env file {exc}, or name another one with --env-file") from exc
    except (OSError, ValueError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"cannot read the env file {env_file.absolute()}: {said}") from exc
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning(
            "%s contains secrets, and users other than its owner may open it (mode %04o): chmod 600 %s",
            env_file, mode, shlex.quote(str(env_file)), extra={"action": "env_file_is_open"},
        )  # fmt: skip
    return [one for one in lines if one.key or one.error]


def decoded(data: bytes) -> str:
    """UTF-8 text without the mark that Windows editors put at the start. Raises ValueError with
    the remedy.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise ValueError("it is UTF-16 text, or not text at all; save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as exc:
        raise ValueError("it is not UTF-8 text; save it as UTF-8") from exc
