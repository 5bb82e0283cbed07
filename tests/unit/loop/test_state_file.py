"""What --once remembers without a database, in folders where others may have been before."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.loop.state_file import state_file
from shared.rules.alerts import Alerts, TaskAlert

NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
ALERT = TaskAlert("round", "exit code 75", 3, NOW - timedelta(hours=2), True, NOW - timedelta(hours=2))
ALERTS: Alerts = {ALERT.ending: ALERT}
NAME = "once.json"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder such as /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir(mode=0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(environment: Mapping[str, str], alerts: Alerts = ALERTS) -> bool:
    with state_file(environment, NAME, is_made=True) as memory:
        return memory is not None and memory.write(alerts)


def read(environment: Mapping[str, str]) -> Alerts | None:
    with state_file(environment, NAME, is_made=False) as memory:
        return None if memory is None else memory.read(NOW)


@pytest.mark.parametrize("variable", ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME", ""])
def test_place__is_the_first_that_can_be_had(tmp_path: Path, temporary: Path, variable: str) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o755)
    environment = {variable: str(own)} if variable else {}
    assert not read(environment)
    assert list(own.iterdir()) == [], "a look makes nothing"
    assert write(environment)
    assert read(environment) == ALERTS
    (file,) = (own if variable else temporary).rglob(NAME)
    assert file.stat().st_mode & 0o777 == 0o600
    assert write(environment, {})
    assert read(environment) == {}


@pytest.mark.parametrize("content", ["", "x", "[]]", '{"a": 1}', "[1]", '[{"task": "t"}]', "[" * 70_000])
def test_content__that_makes_no_sense_is_nothing(tmp_path: Path, content: str) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / NAME).write_text(content)
    assert read({"STATE_DIRECTORY": str(tmp_path)}) == {}
    assert write({"STATE_DIRECTORY": str(tmp_path)})
    assert read({"STATE_DIRECTORY": str(tmp_path)}) == ALERTS


def test_content__of_a_fifo_is_nothing_and_not_waited_for(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.mkfifo(tmp_path / NAME)
    assert read({"STATE_DIRECTORY": str(tmp_path)}) == {}
    assert write({"STATE_DIRECTORY": str(tmp_path)})
    assert read({"STATE_DIRECTORY": str(tmp_path)}) == ALERTS


def test_content__from_a_clock_that_ran_ahead_is_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    environment = {"STATE_DIRECTORY": str(tmp_path)}
    assert write(environment)
    rows = json.loads((tmp_path / NAME).read_text())
    rows[0]["last_notice_at"] = (NOW + timedelta(days=400)).isoformat()
    (tmp_path / NAME).write_text(json.dumps(rows))
    assert read(environment) == {}


def test_hostile__links_and_open_folders_are_not_used(tmp_path: Path, temporary: Path) -> None:
    """What lies in /tmp under our name, or in a folder that others may write into, is left as it is."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "precious").write_text("as it was")
    (temporary / f"a1-to-a2-{os.geteuid()}-link").symlink_to(victim)
    shared = temporary / f"a1-to-a2-{os.geteuid()}-open"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / NAME).symlink_to(victim / "precious")
    assert read({}) is None
    assert write({})
    assert read({}) == ALERTS
    assert [path.name for path in victim.iterdir()] == ["precious"]
    assert (victim / "precious").read_text() == "as it was"
    assert (shared / NAME).is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_hostile__a_folder_of_somebody_else_is_not_used(temporary: Path) -> None:
    strange = temporary / f"a1-to-a2-{os.geteuid()}-strange"
    strange.mkdir(mode=0o700)
    os.chown(strange, 12345, 12345)
    (strange / NAME).write_text(json.dumps([]))
    assert read({}) is None
    assert write({})
    assert read({}) == ALERTS


def test_file__that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    target = tmp_path / "target"
    target.write_text("[]")
    for name in (NAME, f"{NAME}.part"):
        (own / name).symlink_to(target)
    environment = {"STATE_DIRECTORY": str(own)}
    assert read(environment) == {}
    assert write(environment)
    assert (target.read_text(), (own / NAME).is_symlink()) == ("[]", False)


def test_two_rounds__only_one_tells(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    environment = {"STATE_DIRECTORY": str(tmp_path)}
    with state_file(environment, NAME, is_made=True) as first:
        assert first is not None
        assert read(environment) is None
