"""`make install` below another folder and as a dry run. The whole of it: `make test-install`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shared.base import commands, env_file
from shared.base.commands import Commands
from shared.settings import read_environment
from world import REPOSITORY

INSTALL = REPOSITORY / "scripts/deployment/install.sh"
COMMAND = REPOSITORY / "scripts/deployment/a1-to-a2"
PREFIX = "/srv/a1-to-a2"


def install(action: str, expected: int = 0, **variables: str) -> str:
    environment = {"PATH": os.environ["PATH"], "PREFIX": PREFIX, **variables}
    words = ["bash", INSTALL, *action.split()]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def state(folder: Path) -> dict[str, tuple[int, int, float]]:
    found = [(path, path.lstat()) for path in folder.rglob("*")]
    return {str(path): (one.st_mode, one.st_size, one.st_mtime) for path, one in found}


def test_install__puts_all_in_place_and_the_second_time_nothing(tmp_path: Path, python: str) -> None:
    root = tmp_path / "root"
    place = {"DESTDIR": str(root), "PYTHON": python}
    install("install", **place)
    found = state(root)
    files = {path.removeprefix(str(root)) for path in found}
    assert {
        *(f"{PREFIX}/scripts/migrate.py", f"{PREFIX}/.venv/bin/python", f"{PREFIX}/VERSION"),
        *("/etc/systemd/system/a1-to-a2.service", "/etc/logrotate.d/a1-to-a2"),
        *("/etc/tmpfiles.d/a1-to-a2.conf", "/var/log/a1-to-a2", "/var/lib/a1-to-a2"),
    } <= files
    assert not [path for path in files if "/tests" in path or "__pycache__" in path or ".git" in path]
    assert not {"/etc/systemd/system/a1-to-a2-page.service", "/etc/a1-to-a2/page.env"} & files
    assert (root / "etc/a1-to-a2/env").stat().st_mode & 0o777 == 0o600
    assert (root / "usr/local/bin/a1-to-a2").readlink() == Path(PREFIX, "scripts/deployment/a1-to-a2")
    unit = (root / "etc/systemd/system/a1-to-a2.service").read_text(encoding="utf-8")
    assert f"ExecStart={PREFIX}/.venv/bin/python" in unit
    assert "/opt/a1-to-a2" not in unit

    (root / "etc/a1-to-a2/env").write_text("DB_PASSWORD=mine\n")
    found = state(root)
    assert "nothing to do" in install("install", **place)
    assert state(root) == found
    (root / PREFIX[1:] / ".installed").write_text("another version\n")
    assert "make upgrade" in install("install", 2, **place)

    said = install("uninstall", **place)
    assert "kept: /etc/a1-to-a2\n" in said
    assert (root / "etc/a1-to-a2/env").read_text(encoding="utf-8") == "DB_PASSWORD=mine\n"
    install("uninstall", **place, PURGE="1")
    assert [path for path in state(root) if "a1-to-a2" in path.removeprefix(str(root))] == []


def test_install__with_the_page_has_its_settings_without_secrets(tmp_path: Path, python: str) -> None:
    root = tmp_path / "root"
    settings = root / "etc/a1-to-a2"
    settings.mkdir(parents=True)
    (settings / "env").write_text("DB_NAME=ours\nDB_PASSWORD=secret\nDAM_PASSWORD=secret\nA1_MAX_RETRIES=4\n")
    place = {"DESTDIR": str(root), "PYTHON": python, "PAGE": "1"}
    install("install", **place)
    text = (settings / "page.env").read_text(encoding="utf-8")
    assert text.startswith("DB_NAME=ours\nA1_MAX_RETRIES=4\nDB_USER=a1_to_a2_page\n")
    assert "secret" not in text
    assert (settings / "page.env").stat().st_mode & 0o777 == 0o600
    assert (root / "etc/systemd/system/a1-to-a2-page.service").exists()
    assert "nothing to do" in install("install", **place)


def test_install__with_workers_has_their_packages_and_unit(tmp_path: Path, python: str) -> None:
    root = tmp_path / "root"
    unit = root / "etc/systemd/system/a1-to-a2-worker@.service"
    place = {"DESTDIR": str(root), "PYTHON": python}
    install("install", **place)
    assert not unit.exists()
    said = install("install", **place, WORKERS="1")
    assert f"ExecStart={PREFIX}/.venv/bin/python" in unit.read_text(encoding="utf-8")
    assert "a1-to-a2-worker@1" in said
    assert "nothing to do" in install("install", **place), "and it remembers them"
    (root / PREFIX[1:]).rename(tmp_path / "gone")
    assert "requirements-scale.txt" in install("install", **place)
    install("uninstall", **place)
    assert not unit.exists()


def test_dry_run__prints_and_changes_nothing(tmp_path: Path, python: str) -> None:
    (tmp_path / "root").mkdir()
    said = install("install --dry-run", DESTDIR=str(tmp_path / "root"), PYTHON=python, PAGE="1")
    assert "--require-hashes" in said
    assert all(line.startswith("would: ") for line in said.splitlines())
    assert state(tmp_path / "root") == {}


@pytest.mark.parametrize("prefix", ["/", "/opt", "opt/a1", "/opt/a b", "/opt/a1/../.."])
def test_install__refuses_a_prefix_that_is_no_folder_of_its_own(prefix: str) -> None:
    assert "PREFIX" in install("uninstall --dry-run", 2, PREFIX=prefix)


def test_install__leaves_what_it_did_not_make(tmp_path: Path, python: str) -> None:
    place = {"DESTDIR": str(tmp_path), "PYTHON": python}
    (tmp_path / PREFIX[1:]).mkdir(parents=True)
    (tmp_path / PREFIX[1:] / "theirs").touch()
    assert "not ours" in install("install", 2, **place)
    assert f"kept: {PREFIX}," in install("uninstall", **place, PURGE="1")
    assert (tmp_path / PREFIX[1:] / "theirs").exists()


# The command


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """The command of an installation whose Python prints what it is given; its user is the test's."""
    script = tmp_path / "scripts/deployment/a1-to-a2"
    script.parent.mkdir(parents=True)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    script.write_text(COMMAND.read_text(encoding="utf-8").replace("user=a1-to-a2\n", f"user={user}\n"))
    script.chmod(0o755)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$A1_TO_A2_ENV" "$@"\n')
    python.chmod(0o755)
    link = tmp_path / "bin-a1-to-a2"
    link.symlink_to(script)
    return link


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["reset", "--", "-a b", "$HOME;*"], ["a1_retry.py", "reset", "--", "-a b", "$HOME;*"]),
        (["near-failure", "--json"], ["a1_retry.py", "near-failure", "--json"]),
        (["run", "--dry-run"], ["a1_to_a2_box_uploader.py", "--dry-run"]),
        (["check", "--online"], ["orchestrator-prod.py", "--check", "--online"]),
        (["simulate", "--days", "3"], ["orchestrator-prod.py", "--simulate", "--days", "3"]),
        (["migrate"], ["migrate.py"]),
        (["report", "--date", ""], ["daily_report.py", "--date", ""]),
    ],
)
def test_command__passes_words_on_untouched(command: Path, words: list[str], expected: list[str]) -> None:
    done = subprocess.run(
        [command, *words], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    settings, script, *passed = done.stdout.split("\n")[:-1]
    assert settings == "/etc/a1-to-a2/env"
    assert [script.removeprefix(f"{command.parent}/scripts/"), *passed] == expected


def test_command__takes_named_settings_and_refuses_what_it_does_not_know(command: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "A1_TO_A2_ENV": "/srv/other.env"}
    done = subprocess.run([command, "status"], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith("/srv/other.env\n")
    done = subprocess.run([command, "rest"], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no command rest" in done.stderr


def test_messages__show_the_command_where_it_leads_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "a1-to-a2"
    monkeypatch.setattr(commands, "COMMAND", link)
    installed = str(env_file.INSTALLED)
    assert "sudo" in commands.here(installed, "a1-to-a2").reset("C-1")
    link.symlink_to(COMMAND)
    ours = commands.here(installed, "a1-to-a2")
    assert ours.reset("-C 1") == "a1-to-a2 reset -- '-C 1'"
    assert ours.run("orchestrator-prod.py", "--check") == "a1-to-a2 check"
    assert ours.run("orchestrator-prod.py", "--list").startswith("sudo -u a1-to-a2 ")
    assert ours.run("a1_to_a2_box_uploader.py", "--verify=x") == "a1-to-a2 run --verify=x"
    assert ours.where == "on the server, as root or a1-to-a2, from any folder"
    assert commands.here().lacks([]).endswith(": a1-to-a2 migrate")
    assert "a1-to-a2 reset" not in commands.here("/srv/other.env").reset("C-1")
    assert "a1-to-a2 reset" not in commands.here("").reset("C-1"), "the settings are not in that file alone"
    link.unlink()
    link.write_text("#!/bin/sh\n")
    link.chmod(0o755)
    assert commands.here(installed).command == "", "another installation's"
    assert isinstance(ours, Commands)


# Where settings are looked for


def test_settings__are_looked_for_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkout").mkdir()
    monkeypatch.setattr(env_file, "REPOSITORY", tmp_path / "checkout")
    monkeypatch.setattr(env_file, "INSTALLED", tmp_path / "etc")
    for name in ("given", "named", ".env", "etc"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"SMTP_HOST={name}\n")
    named = {"A1_TO_A2_ENV": str(tmp_path / "named")}
    assert read_environment(tmp_path / "given", named)["SMTP_HOST"] == "given"
    assert read_environment(None, named)["SMTP_HOST"] == "named"
    assert read_environment(None, {})["SMTP_HOST"] == ".env"
    (tmp_path / ".env").unlink()
    assert read_environment(None, {})["SMTP_HOST"] == "etc"
    (tmp_path / "etc").unlink()
    assert env_file.find_env_file(None, {}) is None
    with pytest.raises(env_file.ConfigError, match=r"cannot read the env file .*: No such file"):
        read_environment(None, {"A1_TO_A2_ENV": str(tmp_path / "gone")})
