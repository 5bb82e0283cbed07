"""Run a command under the system call filters of the systemd unit, without systemd:

python tests/tools/sandbox.py scripts/deployment/a1-to-a2.service COMMAND…

SystemCallFilter= and MemoryDenyWriteExecute= as systemd makes them, by libseccomp, which systemd brings.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38
ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
MASKED_EQUAL = 7


class Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )  # fmt: skip


def system_calls(group: str) -> set[str]:
    """The names in a group such as @system-service, groups in it resolved."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    names: set[str] = set()
    for word in re.findall(r"^    ([@\w-]+)$", done.stdout, re.MULTILINE):
        names |= system_calls(word) if word.startswith("@") else {word}
    return names


def allowed_by(unit: str) -> set[str]:
    """The system calls that the unit's lines leave."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        named = set().union(*(system_calls(group) for group in line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def load(seccomp: ctypes.CDLL, default: int, rules: list[tuple[int, str, Comparison | None]]) -> None:
    """One filter: an action for each system call named, and the default for the others."""
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(default)))
    for action, name, comparison in rules:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # others are of other machines
            given = (Comparison * 1)(comparison) if comparison else None
            count = 0 if comparison is None else 1
            failed = seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, count, given)
            assert failed == 0, (name, failed)
    assert seccomp.seccomp_load(context) == 0


def main(unit_path: str, *command: str) -> None:
    unit = Path(unit_path).read_text(encoding="utf-8")
    allowed = allowed_by(unit)
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if "\nMemoryDenyWriteExecute=yes\n" in unit:
        both, execute = mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_EXEC
        load(seccomp, ALLOW, [
            (DENY, "mmap", Comparison(2, MASKED_EQUAL, both, both)),
            (DENY, "mprotect", Comparison(2, MASKED_EQUAL, execute, execute)),
            (DENY, "pkey_mprotect", Comparison(2, MASKED_EQUAL, execute, execute)),
        ])  # fmt: skip
    load(seccomp, DENY, [(ALLOW, name, None) for name in sorted(allowed)])
    os.execv(command[0], command)  # noqa: S606 - what the caller named


if __name__ == "__main__":
    main(*sys.argv[1:])
