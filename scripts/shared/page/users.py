"""Reads and writes the users of the page: names and password hashes, in a file that only its owner can
change.

A line is `name:scrypt$n$r$p$salt$hash`, with salt and hash in base64; empty lines and lines that begin with #
are ignored. `a1_retry.py page-user` writes the file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from shared.base.env_file import decoded
from shared.base.errors import ConfigError
from shared.base.file_rights import UnsafeFileError, open_guarded
from shared.base.redaction import escape_line

LEAST_PASSWORD = 12
MOST_PASSWORD = 1000
MOST_NAME = 200
MOST_BYTES = 1_000_000
"""Of the file."""
MOST_MEMORY = 128 * 1024 * 1024
"""Bytes of memory that computing one hash may take."""

_HASH = (
    r"scrypt\$([0-9]{1,8})\$([0-9]{1,2})\$([0-9]{1,2})\$([A-Za-z0-9+/]{22,88}={0,2})\$([A-Za-z0-9+/]{43}=)"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a hash: n and r decide the memory (128 n r bytes), p the time."""

    n: int = 2**15
    r: int = 8
    p: int = 3

    @property
    def is_fair(self) -> bool:
        """Whether it is neither too cheap to resist guessing nor too expensive to compute at a log-in."""
        is_power = self.n & (self.n - 1) == 0
        is_dear_enough = self.n * self.p >= 2**14 and self.n >= 2**14 and self.r >= 8
        return is_power and is_dear_enough and self.p <= 16 and 128 * self.n * self.r <= MOST_MEMORY

    def hashed(self, password: str, salt: bytes) -> bytes:
        """32 bytes."""
        return hashlib.scrypt(
            password.encode("utf-8", "surrogatepass"), salt=salt, n=self.n, r=self.r, p=self.p,
            maxmem=128 * self.r * (self.n + self.p + 8) + 2**20, dklen=32,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file. fingerprint: changes with the line, and reveals nothing about the password."""

    name: str
    cost: Cost
    salt: bytes = field(repr=False)
    hash: bytes = field(repr=False)
    fingerprint: str = field(repr=False)

    def has(self, password: str) -> bool:
        """Whether this is the user's password. Takes the same time for every password."""
        return hmac.compare_digest(self.cost.hashed(password, self.salt), self.hash)


def line_of(name: str, password: str, cost: Cost | None = None) -> str:
    """A user's line, with a new random salt."""
    cost, salt = cost or Cost(), secrets.token_bytes(16)
    shown = (b64encode(part).decode() for part in (salt, cost.hashed(password, salt)))
    return f"{name}:scrypt${cost.n}${cost.r}${cost.p}${'$'.join(shown)}"


def name_fault(name: str) -> str:
    """Why this cannot be a user's name; "" when it can."""
    if not name or name != name.strip() or len(name) > MOST_NAME or escape_line(name) != name:
        return f"a name has 1 to {MOST_NAME} printable characters, and no space at either end"
    if ":" in name or name.startswith("#") or "," in name:
        return "a name has no colon and no comma, and does not begin with #"
    return ""


def password_fault(password: str) -> str:
    """Why this cannot be a password; "" when it can."""
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        return f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters"
    return ""


def parse(text: str, path: Path) -> dict[str, User]:
    """{name: user}. Raises ConfigError that names each invalid line; it shows no hash."""
    users: dict[str, User] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        user = _user_of(line)
        if isinstance(user, str):
            faults.append(f"{path}: line {number}: {user}")
        elif user.name in users:
            faults.append(f"{path}: line {number}: {escape_line(user.name)} appears twice")
        else:
            users[user.name] = user
    if faults:
        raise ConfigError(faults)
    return users


def _user_of(line: str) -> User | str:
    """The user of a line; or what is wrong with it."""
    name, colon, rest = line.partition(":")
    if not colon:
        return "expected name:scrypt$n$r$p$salt$hash, as a1_retry.py page-user writes it"
    if fault := name_fault(name):
        return fault
    found = re.fullmatch(_HASH, rest)
    if found is None:
        return f"the hash of {escape_line(name)} is not one that a1_retry.py page-user writes"
    cost = Cost(int(found[1]), int(found[2]), int(found[3]))
    if not cost.is_fair:
        return f"the hash of {escape_line(name)} is too easy to guess, or too expensive to compute"
    try:
        salt, hashed = b64decode(found[4], validate=True), b64decode(found[5], validate=True)
    except ValueError:
        return f"the hash of {escape_line(name)} is not one that a1_retry.py page-user writes"
    return User(name, cost, salt, hashed, hashlib.sha256(line.encode()).hexdigest())


def read_users(path: Path) -> dict[str, User]:
    """{name: user} of a file. Raises ConfigError when it cannot be read, or others can change it."""
    return parse(_text_of(path), path)


def _text_of(path: Path) -> str:
    try:
        with open(open_guarded(path), "rb") as stream:  # noqa: PTH123 - a descriptor
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        return decoded(data)
    except UnsafeFileError as exc:
        raise ConfigError(f"ADMIN_USERS_FILE: {exc}") from exc
    except (OSError, ValueError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"ADMIN_USERS_FILE: {path} cannot be read: {said}") from exc


class UsersFile:
    """The users as the file has them now: it is read again when it has changed. Any thread may ask."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read_as: tuple[int, ...] | None = None
        self._users: Mapping[str, User] = {}

    def users(self) -> Mapping[str, User]:
        """{name: user}. Raises ConfigError when the file cannot be read or has a fault."""
        with self._lock:
            try:
                found = self._path.stat()
            except OSError as exc:
                self._read_as = None
                raise ConfigError(f"ADMIN_USERS_FILE: {self._path} cannot be read: {exc.strerror}") from exc
            state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if state != self._read_as:
                self._read_as = None
                self._users = read_users(self._path)
                self._read_as = state
            return self._users

    def checked(self, name: str, password: str) -> User | None:
        """The user who has this name and password. An unknown name takes as long as a wrong password."""
        users = self.users()
        user = users.get(name)
        if user is None:
            cost = next((one.cost for one in users.values()), Cost())
            User("", cost, b"\0" * 16, b"\0" * 32, "").has(password)
            return None
        return user if user.has(password) else None


# Writing it


def set_user(path: Path, name: str, password: str) -> bool:
    """Add a user to the file, or change a user's password; returns whether the name is new.

    Raises ConfigError when the file cannot be read or written, or the name or password cannot be used.
    """
    if fault := name_fault(name) or password_fault(password):
        raise ConfigError(fault)
    line = line_of(name, password)
    lines, is_new = _lines_of(path), True
    for at, one in enumerate(lines):
        if _is_of(one, name):
            lines[at], is_new = line, False
    _write(path, [*lines, line] if is_new else lines)
    return is_new


def remove_user(path: Path, name: str) -> bool:
    """Remove a user from the file; False when the name is unknown. Raises ConfigError likewise."""
    lines = _lines_of(path)
    rest = [one for one in lines if not _is_of(one, name)]
    if len(rest) == len(lines):
        return False
    _write(path, rest)
    return True


def _is_of(line: str, name: str) -> bool:
    return line.strip().partition(":")[::2][0] == name and not line.strip().startswith("#")


def _lines_of(path: Path) -> list[str]:
    """The lines of the file, with comments; none when there is no file yet. Raises ConfigError for a faulty
    one.
    """
    if not path.exists():
        return []
    text = _text_of(path)
    parse(text, path)
    return text.splitlines()


def _write(path: Path, lines: list[str]) -> None:
    """Replace the file as a whole, so that no reader sees a part of it. It keeps its owner and mode."""
    path = path.resolve()
    made: Callable[[], None] = lambda: None  # noqa: E731
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        made = Path(name).unlink
        with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor
            stream.write("".join(f"{line}\n" for line in lines))
            if path.exists():
                before = path.stat()
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(stream.fileno(), before.st_uid, before.st_gid)
                os.fchmod(stream.fileno(), stat.S_IMODE(before.st_mode))
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except OSError as exc:
        with suppress(OSError):
            made()
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
