"""Settings files, and the files that they name: only the owner may be able to change them, as with ssh."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Collection
from pathlib import Path


def open_guarded(path: Path, trusted: Collection[int] | None = None) -> int:
    """Open a file for reading and return its descriptor, once it is known that nobody else can change it.

    trusted: who may own it beside root; None: this user, or anybody when this user is root. We need not look
    at the folder: a file that others put into the place of this one is their own.
    Raises OSError when it cannot be opened, UnsafeFileError when others can change it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if trusted is None and os.geteuid() != 0:
        trusted = (os.geteuid(),)
    fault = fault_of(path, found, trusted) if stat.S_ISREG(found.st_mode) else ""
    if fault:
        os.close(descriptor)
        raise UnsafeFileError(fault)
    return descriptor


class UnsafeFileError(Exception):
    """Somebody else can change the file; the text has its name, owner, mode and the cure."""


def fault_of(path: Path, found: os.stat_result, trusted: Collection[int] | None) -> str:
    """What is wrong with a file's rights, and the cure; "" when nothing is. trusted: None for anybody."""
    mode, shown = stat.S_IMODE(found.st_mode), shlex.quote(str(path))
    owner = f"owner {user_name(found.st_uid)}, mode {mode:04o}"
    if trusted is not None and found.st_uid not in (0, *trusted):
        mine = user_name(os.geteuid())
        return f"{path} belongs to another user ({owner}), who can change it: chown {mine} {shown}"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be changed by others than its owner ({owner}): chmod go-w {shown}"
    return ""


def user_name(uid: int) -> str:
    """The name of a user; the number, as chown and `sudo -u` take it, when there is no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
