"""Reads variables: each kind of value, and the message for a wrong one.

A secret may also come from a file that `NAME_FILE` names; a message never quotes a secret.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import time
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from shared.base import env_file
from shared.base.errors import ConfigError
from shared.base.file_rights import UnsafeFileError, open_guarded

logger = logging.getLogger(__name__)

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
"""What may be between the slashes of an address. shared.http calls nothing else."""
_MAIL_ADDRESS = re.compile(r"[!-?A-~]+@[A-Za-z0-9.-]+")

Option = TypeVar("Option", bound=str)


class Reader:
    """Typed reads from a mapping; it collects all faults, so that the caller sees them together.

    names: of all variables that were read. secret_names: of those that are secrets. secrets: the values of
    those that are set.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._faults: dict[str, str] = {}
        self._warnings: list[str] = []
        self.names: set[str] = set()
        self.secret_names: set[str] = set()
        self.secrets: list[str] = []
        self.env_file = env.get(env_file.ENV_FILE_VARIABLE)

    def fault(self, name: str, text: str) -> None:
        """Note what is wrong with a variable; the first fault counts."""
        if text.startswith("missing") and self.is_faulty(f"{name}_FILE"):
            return  # the reason has already been reported
        self._faults.setdefault(name, f"{name}: {text}")

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def is_faulty(self, name: str) -> bool:
        return name in self._faults

    def require(self, because: str, **values: object) -> None:
        for name, value in values.items():
            if not value:
                self.fault(name, f"missing; it is needed because {because}")

    def finish(self) -> None:
        """Raise ConfigError with every fault; a missing settings file comes first."""
        faults = list(self._faults.values())
        if self.env_file is None and any(": missing" in fault for fault in faults):
            faults.insert(0, env_file.none_found())
        if faults:
            raise ConfigError(faults)
        for text in self._warnings:
            logger.warning("%s", text, extra={"action": "risky_setting"})

    def names_set(self) -> list[str]:
        """The names of all variables that are set and not empty."""
        return [name for name, value in self._env.items() if value.strip()]

    def text(self, name: str, default: str = "") -> str:
        """The value without outer spaces; the default when unset or empty."""
        self.names.add(name)
        return self._env.get(name, "").strip() or default

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.fault(name, "missing")
        return value

    def foreign(self, name: str) -> str:
        """A variable of another program, which is not listed among ours."""
        return self._env.get(name, "")

    def choice(self, name: str, default: Option, allowed: tuple[Option, ...]) -> Option:
        """One of the allowed words, in upper or lower case."""
        value = self.text(name, default)
        by_folded = {option.casefold(): option for option in allowed}
        if value.casefold() not in by_folded:
            self.fault(name, f"expected one of {', '.join(allowed)}, got {value!r}")
        return by_folded.get(value.casefold(), default)

    def items(self, name: str, default: str) -> tuple[str, ...]:
        """A comma-separated list; an empty value is an empty list, an unset one is the default."""
        self.names.add(name)
        value = self._env.get(name, default)
        return tuple(item.strip() for item in value.split(",") if item.strip())

    def addresses(self, name: str, *, default: str | None = None) -> tuple[str, ...]:
        """E-mail addresses. default: the word for nobody, as an empty value; None: not empty."""
        found = tuple(dict.fromkeys(self.items(name, "")))
        if default is not None and [one.casefold() for one in found] == [default.casefold()]:
            return ()
        if default is None and not found:
            self.fault(name, "missing, expected e-mail addresses separated by commas")
        for address in found:
            if not _MAIL_ADDRESS.fullmatch(address):
                self.fault(name, f"expected e-mail addresses separated by commas, got {address!r}")
        return found

    def whole_number(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name, str(default))
        if not re.fullmatch(r"-?[0-9]{1,9}", value) or not low <= int(value) <= high:
            self.fault(name, f"expected a whole number from {low} to {high}, got {value!r}")
            return default
        return int(value)

    def minutes(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """Whole minutes, separated by commas; none when unset or empty."""
        found = self.items(name, "")
        for item in found:
            if not re.fullmatch(r"[0-9]{1,9}", item) or not low <= int(item) <= high:
                self.fault(name, f"expected whole minutes from {low} to {high} such as 3,10, got {item!r}")
                return ()
        return tuple(map(int, found))

    def seconds(self, name: str, default: float) -> float:
        more_than_0 = r"(?=.*[1-9])[0-9]{1,6}(\.[0-9]+)?"
        return float(self._matched(name, str(default), more_than_0, "seconds greater than 0"))

    def boolean(self, name: str, *, default: bool) -> bool:
        return self._matched(name, str(default), "(?i:true|false)", "true or false").lower() == "true"

    def clock(self, name: str, default: str) -> time:
        pattern = "([01]?[0-9]|2[0-3]):[0-5][0-9]"
        value = self._matched(name, default, pattern, "a time of day such as 22:00")
        return time.fromisoformat(value.zfill(5))

    def _matched(self, name: str, default: str, pattern: str, expected: str) -> str:
        """The value if the pattern matches all of it; else the default."""
        value = self.text(name, default)
        if re.fullmatch(pattern, value):
            return value
        self.fault(name, f"expected {expected}, got {value!r}")
        return default

    def zone(self, name: str) -> ZoneInfo:
        value = self.required(name)
        try:
            return ZoneInfo(value or "UTC")
        except (KeyError, ValueError, OSError):
            self.fault(name, f"expected an IANA time zone such as Europe/Rome, got {value!r}")
            return ZoneInfo("UTC")

    def url(self, name: str, *, default: str = "", hint: str = "an https address") -> str:
        """An https address without a trailing slash; plain http is only allowed for loopback."""
        return self.checked_url(name, self.text(name, default), hint)

    def checked_url(self, name: str, text: str, hint: str, *, is_secret: bool = False) -> str:
        """The same for a given text; the message does not quote a secret one."""
        value = text.rstrip("/")
        if fault := _address_fault(value, hint, is_secret=is_secret):
            self.fault(name, fault)
        return value

    def secret(self, name: str, *, absent: str | None = None) -> str | None:
        """The variable, or the content of the file that NAME_FILE names, without its last line break.

        absent: the word for no secret.
        """
        self.names.add(name)
        self.secret_names.add(name)
        value = self._env.get(name) or None
        path = self._env.get(f"{name}_FILE", "").strip()
        if value is not None and path:
            self.fault(name, f"set twice, by {name} and {name}_FILE; keep one")
        elif path:
            value = self._secret_in_file(f"{name}_FILE", path)
        if value is not None and value.strip().casefold() == absent:
            return None
        self.remember_secret(value)
        return value

    def _secret_in_file(self, name: str, path: str) -> str | None:
        value = None
        with self._file_faults(name, path), open(open_guarded(_at_home(path)), "rb") as stream:  # noqa: PTH123
            value = env_file.decoded(stream.read()).rstrip("\r\n") or None
            if value is None:
                self.fault(name, f"{path} is empty")
        return value

    def remember_secret(self, value: str | None) -> None:
        if value:
            self.secrets.append(value)

    def ca_bundle(self, name: str) -> str | None:
        """The path of a file of certificates; None for the system's."""
        path = self.readable_file(name, default="system")
        return str(path) if path else None

    def readable_file(self, name: str, default: str = "") -> Path | None:
        """The path of a file that can be read. None when unset, or set to the word for the default."""
        value = self.text(name)
        if not value or value.casefold() == default:
            return None
        path = _at_home(value)
        with self._file_faults(name, path):
            os.close(open_guarded(path))
        return None if self.is_faulty(name) else path

    def file_to_write(self, name: str) -> Path | None:
        """The path of a file to write, in an existing folder; None when unset."""
        value = self.text(name)
        if not value:
            return None
        path = _at_home(value)
        with self._file_faults(name, path):
            if not path.is_absolute():
                self.fault(name, f"expected a path that begins with /, got {value!r}")
            elif not path.parent.is_dir():
                self.fault(name, f"there is no folder {str(path.parent)!r}")
            elif path.is_dir():
                self.fault(name, f"expected a file, but {value!r} is a folder")
        return None if self.is_faulty(name) else path

    @contextmanager
    def _file_faults(self, name: str, path: Path | str) -> Iterator[None]:
        """Record why a file cannot be read, instead of raising the error."""
        try:
            yield
        except UnsafeFileError as exc:
            self.fault(name, str(exc))
        except (OSError, ValueError) as exc:
            self.fault(name, f"cannot read {path}: {exc.strerror if isinstance(exc, OSError) else exc}")


def _at_home(text: str) -> Path:
    """A path with `~`. pathlib's own expanduser raises for a user that does not exist."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


def _address_fault(value: str, hint: str, *, is_secret: bool) -> str:
    """What is wrong with the address of a server; "" for nothing."""
    if not value:
        return f"missing, expected {hint}"
    parts = _parts_of_address(value)
    if parts is None:
        may_hold_password = is_secret or "@" in value or "?" in value
        return f"expected {hint}" + ("" if may_hold_password else f", got {value!r}")
    if parts.username or parts.password:
        return "must not contain a user name or password"
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        return f"http would send secrets unencrypted to {parts.hostname}; use https"
    return ""


def _parts_of_address(value: str) -> SplitResult | None:
    """The parts of an http or https address that our HTTP client can call; None for everything else.

    A host with letters beyond ASCII needs its xn-- form.
    """
    try:
        parts = urlsplit(value)
        is_host = parts.port != 0 and HOST_AND_PORT.fullmatch(parts.netloc.rpartition("@")[2])
    except ValueError:
        return None
    is_address = is_host and value.isascii() and not re.search(r"[?#\s]", value)
    return parts if is_address and parts.scheme in ("http", "https") else None
