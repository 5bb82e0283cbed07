"""Checks that only the owner can change a settings file, or a file that it names, as ssh does."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Collection
from pathlib import Path


def open_guarded(path: Path, trusted: Collection[int] | None = None) -> int:
    """Open a file for reading and return its descriptor, after checking that nobody else can change it.

    trusted: who may own it in addition to root; None: this user, or anybody when this user is root. The
    folder does not matter: a file that others put in its place belongs to them. Raises OSError when it cannot
    be opened, UnsafeFileError when others can change it.
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
    """Somebody else can change the file; the text has its name, owner, mode and the remedy."""


def fault_of(path: Path, found: os.stat_result, trusted: Collection[int] | None) -> str:
    """What is wrong with a file's rights, and the remedy; "" for nothing. trusted: None for anybody."""
    mode, shown = stat.S_IMODE(found.st_mode), shlex.quote(str(path))
    owner = f"owner {user_name(found.st_uid)}, mode {mode:04o}"
    if trusted is not None and found.st_uid not in (0, *trusted):
        mine = user_name(os.geteuid())
        return f"{path} belongs to another user ({owner}), who can change it: chown {mine} {shown}"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"users other than its owner can change {path} ({owner}): chmod go-w {shown}"
    return ""


def user_name(uid: int) -> str:
    """The name of a user; if there is none, the number in the form of chown and `sudo -u`."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
