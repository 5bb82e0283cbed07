"""Keeps what `--once` must know from one round to the next while the database is away, in a small file.

The file is in the first folder that is available: systemd's STATE_DIRECTORY, the user's state folder, or one
below the temporary folder, where anybody can create files. A folder is used only when we own it and nobody
else can write into it, so its content is ours; links are not followed.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.base.clocks import TOLERANCE
from shared.rules.alerts import Alerts, TaskAlert

FOLDER_NAME = "a1-to-a2"
MOST_BYTES = 65536
_TIMES = ("began_at", "last_notice_at")


class StateFile:
    """The file, in an open folder that we own."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder = folder
        self._name = name

    def read(self, now: datetime) -> Alerts:
        """What was written last; empty when there is no file, or when it is not valid."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO does not block
            file = os.open(self._name, flags, dir_fd=self._folder)
            with os.fdopen(file, "rb") as stream:
                rows = json.loads(stream.read(MOST_BYTES))
            alerts = [_alert(row) for row in rows]
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return {}
        latest = now + TOLERANCE
        return {
            alert.ending: alert
            for alert in alerts
            if alert.began_at <= latest and (alert.last_notice_at or now) <= latest
        }

    def write(self, alerts: Alerts) -> bool:
        """Write these, whole or not at all; False when it fails."""
        rows = [asdict(alert) for alert in alerts.values()]
        part = f"{self._name}.part"
        try:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=self._folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(part, flags, 0o600, dir_fd=self._folder)
            with os.fdopen(file, "w", encoding="ascii") as stream:
                json.dump(rows, stream, default=lambda at: at.isoformat())
            os.replace(part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            return False
        return True


def _alert(row: dict[str, Any]) -> TaskAlert:
    times = {name: row[name] and datetime.fromisoformat(row[name]) for name in _TIMES}
    alert = TaskAlert(**{**row, **times})
    if not isinstance(alert.ending, str) or not isinstance(alert.failures, int):
        raise TypeError("not an alert")
    return alert


@contextmanager
def state_file(environment: Mapping[str, str], name: str, *, is_made: bool) -> Iterator[StateFile | None]:
    """The file of this name, locked until the end; None when there is neither a file nor a folder for it, or
    when another process has locked it. is_made: whether to make a missing folder.
    """
    folder = _folder(environment, name, is_made=is_made)
    if folder is None:
        yield None
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield None
    else:
        yield StateFile(folder, name)
    finally:
        os.close(folder)


def _folder(environment: Mapping[str, str], name: str, *, is_made: bool) -> int | None:
    """systemd's folder; else the first with the file; else, when one may be made, the first in which we can
    make it.
    """
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    if given and (found := _opened(Path(os.path.realpath(given)), takes_files=True)) is not None:
        return found
    places = _places(environment)
    for place in places:
        found = _opened(place)
        if found is None:
            continue
        if os.access(name, os.F_OK, dir_fd=found, follow_symlinks=False):
            return found
        os.close(found)
    if not is_made:
        return None
    for place in places:
        with suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (found := _opened(place, takes_files=True)) is not None:
            return found
    try:  # somebody else may have put anything there
        return _opened(Path(tempfile.mkdtemp(prefix=_temporary_prefix())))
    except OSError:
        return None


def _places(environment: Mapping[str, str]) -> list[Path]:
    places = []
    home = environment.get("HOME", "")
    state = environment.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    if state.startswith("/"):
        places.append(Path(state) / FOLDER_NAME)
    with suppress(OSError):
        places += sorted(Path(tempfile.gettempdir()).glob(f"{_temporary_prefix()}*"))
    return places


def _temporary_prefix() -> str:
    return f"{FOLDER_NAME}-{os.geteuid()}-"


def _opened(place: Path, *, takes_files: bool = False) -> int | None:
    """The folder, if only we can write into it. takes_files: and if a file can be made in it."""
    try:
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(folder)
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if is_ours and (not takes_files or os.access(place, os.W_OK)):
        return folder
    os.close(folder)
    return None
