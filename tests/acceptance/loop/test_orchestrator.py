"""orchestrator-prod.py as it is run: by hand, by cron, by systemd."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from world import REPOSITORY, SCRIPTS, World, wait_for, zone_at

DEPLOYMENT = SCRIPTS / "deployment"
ZONE = {"ORCHESTRATOR_TIMEZONE": "Europe/Rome"}


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One run of the script with these variables alone."""
    return subprocess.run(
        [sys.executable, SCRIPTS / "orchestrator-prod.py", *arguments],
        cwd="/", env=variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def explained(at: str, hours: str, **variables: str) -> dict[str, Any]:
    done = command("--explain", "--at", at, "--hours", hours, "--json", **ZONE, **variables)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


# Questions that touch nothing


def test_explain__as_the_contract_says() -> None:
    document = explained("2026-01-30T21:54:40", "1")
    assert document == {
        "timezone": "Europe/Rome",
        "from": "2026-01-30T21:54:00+01:00",
        "until": "2026-01-30T22:54:00+01:00",
        "off_hours_enabled": True,
        "runs": [
            {"task": "a1_to_a2", "at": "2026-01-30T21:57:00+01:00", "rule": "in_hours"},
            {"task": "a1_to_a2", "at": "2026-01-30T22:30:00+01:00", "rule": "off_hours"},
        ],
    }


def test_explain__an_ordinary_week() -> None:
    rules = [run["rule"] for run in explained("2026-01-26T04:57:00+01:00", "168")["runs"]]
    assert {rule: rules.count(rule) for rule in set(rules)} == {
        "in_hours": 1700, "off_hours": 83, "daily": 7, "weekly": 1,
    }  # fmt: skip
    assert explained("2026-01-31T12:00", "24", OFF_HOURS_ENABLED="false")["off_hours_enabled"] is False


def test_explain__the_end_is_included_and_hours_are_elapsed() -> None:
    spring = explained("2026-03-29T00:30", "2.5")
    assert spring["until"] == "2026-03-29T04:00:00+02:00"
    assert [run["at"][11:16] for run in spring["runs"]] == ["01:30", "03:30"]
    assert explained("2026-01-30T18:00", "1")["runs"][-1]["rule"] == "daily"


def test_explain__the_weekly_digest() -> None:
    def digests(**variables: str) -> list[tuple[str, str]]:
        runs = explained("2026-10-19T08:00", "336", OFF_HOURS_ENABLED="true", **variables)["runs"]
        return [(run["at"], run["rule"]) for run in runs if run["task"] == "weekly_digest"]

    assert digests() == [("2026-10-26T08:00:00+01:00", "weekly")]
    assert digests(DIGEST_DAY="Wed", DIGEST_TIME="23:30") == [
        ("2026-10-21T23:30:00+02:00", "weekly"), ("2026-10-28T23:30:00+01:00", "weekly"),
    ]  # fmt: skip
    assert digests(DIGEST_DAY="none") == []


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (("--explain", "--at", "yesterday"), ZONE, "--at"),
        (("--explain", "--at", "2026-02-30T10:00"), ZONE, "--at"),
        (("--explain", "--at", "9999-12-31T23:59"), ZONE, "--at"),
        (("--explain", "--at", "0001-01-01T00:00"), ZONE, "--at"),
        (("--explain", "--hours", "-1"), ZONE, "--hours"),
        (("--explain", "--hours", "nan"), ZONE, "--hours"),
        (("--explain", "--hours", "many"), ZONE, "--hours"),
        (("--explain",), {}, "ORCHESTRATOR_TIMEZONE"),
        (("--explain",), {"ORCHESTRATOR_TIMEZONE": ""}, "ORCHESTRATOR_TIMEZONE"),
        (("--explain",), {"ORCHESTRATOR_TIMEZONE": "Europe"}, "ORCHESTRATOR_TIMEZONE"),
        (("--explain",), {"ORCHESTRATOR_TIMEZONE": "../etc/passwd"}, "ORCHESTRATOR_TIMEZONE"),
        (("--explain",), {**ZONE, "OFF_HOURS_START": "05:00"}, "OFF_HOURS_START and OFF_HOURS_END"),
        (("--explain",), {**ZONE, "OFF_HOURS_END": "24:00"}, "OFF_HOURS_END"),
        (("--explain",), {**ZONE, "OFF_HOURS_RUN_MINUTES": "0,60"}, "OFF_HOURS_RUN_MINUTES"),
        (("--explain",), {**ZONE, "OFF_HOURS_RUN_MINUTES": ""}, "OFF_HOURS_RUN_MINUTES"),
        (("--explain",), {**ZONE, "OFF_HOURS_EXTRA_MINUTES": "-30"}, "OFF_HOURS_EXTRA_MINUTES"),
        (("--explain",), {**ZONE, "OFF_HOURS_DAYS": "sat,caturday"}, "OFF_HOURS_DAYS"),
        (("--explain",), {**ZONE, "OFF_HOURS_ENABLED": "perhaps"}, "OFF_HOURS_ENABLED"),
        (("--at", "2026-01-30T10:00"), ZONE, "--explain"),
        (("--explain", "--once"), ZONE, "--once"),
        ((), ZONE, "DB_PASSWORD"),
        (("--once",), {**ZONE, "ALERT_AFTER_FAILURES": "0"}, "ALERT_AFTER_FAILURES"),
        (("--check",), {**ZONE, "HEARTBEAT_URL": "http://example.com/x"}, "HEARTBEAT_URL"),
    ],
)
def test_faults__are_named_and_end_with_2(
    arguments: tuple[str, ...], variables: dict[str, str], named: str
) -> None:
    done = command(*arguments, **variables)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_list__needs_nothing() -> None:
    done = command("--list")
    assert done.returncode == 0, done.stderr
    assert re.search(r"a1_to_a2 +every 3 min +slower", done.stdout)
    assert re.search(r"daily_report +daily at 19:00 +unchanged", done.stdout)
    assert re.search(r"weekly_digest +mon at 08:00 +unchanged .* daily_report.py --weekly", done.stdout)
    assert "weekly_digest" not in command("--list", DIGEST_DAY="none").stdout
    refused = command("--list", DIGEST_DAY="monday", DIGEST_TIME="8")
    assert refused.returncode == 2
    assert "DIGEST_DAY: expected one of mon, tue, wed, thu, fri, sat, sun, none" in refused.stderr
    assert "DIGEST_TIME" in refused.stderr


def test_check__tells_what_is_there_and_what_is_not(world: World) -> None:
    done = world.run("orchestrator-prod.py", "--check")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("ok  ") == 3
    faulty = world.run("orchestrator-prod.py", "--check", DAM_PFX_PASSWORD="wrong", BOX_ROOT_FOLDER_ID="")
    assert faulty.exit_code == 2
    assert "BOX_ROOT_FOLDER_ID" in faulty.stderr
    away = world.run("orchestrator-prod.py", "--check", DATABASE_URL="postgresql://u:p@127.0.0.1:1/x")
    assert away.exit_code == 75


def test_explain__a_reader_that_leaves_is_no_bug() -> None:
    shell = f"{sys.executable} {SCRIPTS}/orchestrator-prod.py --explain --hours 9000 | head -2"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], env={**ZONE, "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


# Running


class Loop:
    """A started orchestrator-prod.py whose log is read along."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def wait_for(self, words: str, seconds: float = 60) -> str:
        """The first line of the log with these words."""
        end = time.monotonic() + seconds
        with self._news:
            while not (found := [line for line in self.lines if words in line]):
                left = end - time.monotonic()
                assert left > 0, f"no {words!r} in:\n" + "\n".join(self.lines)
                self._news.wait(left)
        return found[0]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self._reader.join()
        return code


@contextmanager
def loop(world: World, **changes: str) -> Iterator[Loop]:
    process = world.start("orchestrator-prod.py", OFF_HOURS_ENABLED="false", **changes)
    try:
        yield Loop(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_two_loops__one_acts_the_other_takes_over_from_the_killed(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    with loop(world) as first:
        first.wait_for("a1_to_a2 started: planned for")
        first.wait_for("exit code 0")
        assert world.row(campaign)["status"] == "A2"
        with loop(world) as second:
            second.wait_for("on standby, because another orchestrator is active")
            assert world.run("orchestrator-prod.py", "--once").exit_code == 75
            first.process.kill()
            first.process.wait()
            killed = time.monotonic()
            second.wait_for("this orchestrator is now the active one")
            assert time.monotonic() - killed < 60
            assert second.stop() == 0
    # The second knew what the first had run: nothing was started twice in one minute.
    planned = world.sql("SELECT planned_at FROM orchestrator_task_runs WHERE task = 'a1_to_a2'")
    assert len({row["planned_at"] for row in planned}) == len(planned)
    assert world.subjects == ["✅ Uploaded to Box - Campaign Summer (2 assets)"]


def test_loop__stopped_in_mid_run_lets_it_finish(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    world.dam.fail(r"GET .*/contents", delay=2.0, times=1)
    with loop(world) as running:
        running.wait_for("a1_to_a2 started: planned for")
        assert running.stop() == 0
    assert world.row(campaign)["status"] == "A2"
    assert world.sql("SELECT exit_code FROM orchestrator_task_runs WHERE task = 'a1_to_a2'") == [
        {"exit_code": 0}
    ]


def test_loop__wrong_password_of_the_database_ends_it_at_once(world: World) -> None:
    done = world.run(
        "orchestrator-prod.py", DATABASE_URL=world.database_url.replace("only-for-tests", "wrong-password")
    )
    assert done.exit_code == 2
    assert "wrong-password" not in done.stderr


def test_loop__a_database_without_migrations_is_named(world: World, empty_database_url: str) -> None:
    done = world.run("orchestrator-prod.py", DATABASE_URL=empty_database_url)
    assert done.exit_code == 2
    assert "migrate.py" in done.stderr


INTERRUPTED = """
import os, runpy, signal, sys
number, module, *sys.argv[:] = sys.argv[1:]
class Finder:
    def find_spec(self, name, path, target=None):
        if name == module:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Finder())
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script; when it first imports a module, a signal comes."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["shared.loop.command_line", "shared.rules.cadence", "psycopg2"])
@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_loop__a_stop_during_the_start_is_obeyed(
    world: World, number: signal.Signals, module: str, arguments: tuple[str, ...]
) -> None:
    script = str(SCRIPTS / "orchestrator-prod.py")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(int(number)), module, script, *arguments],
        env=world.environment(OFF_HOURS_ENABLED="false"), cwd=world.folder,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert world.sql("SELECT run_id FROM orchestrator_task_runs") == []


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--once",), 75)])
def test_loop__a_stop_while_the_database_does_not_answer(
    world: World, arguments: tuple[str, ...], code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"
        process = world.start("orchestrator-prod.py", *arguments, DATABASE_URL=url, OFF_HOURS_ENABLED="false")
        connection, _ = silent.accept()
        process.send_signal(signal.SIGTERM)
        connection.close()
    done = world.finish(process)
    assert done.exit_code == code, done.stderr
    assert "started: planned for" not in done.stderr


def test_log__one_time_one_run_id_and_the_level_of_each_line(world: World) -> None:
    full = world.add_full_campaign("Summer", "C-1")
    world.dam.fail(rf"PATCH .*{full}", status=403)
    done = world.run("orchestrator-prod.py", "--once", OFF_HOURS_ENABLED="false")
    assert done.exit_code == 4, done.stderr
    [run] = world.sql("SELECT run_id FROM orchestrator_task_runs")
    assert world.sql("SELECT DISTINCT run_id FROM campaign_assets") == [run]
    levels = set()
    of_run = 0
    for line in done.stderr.splitlines():
        match = re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ([A-Z]+) run=([0-9a-f]{12}) (\S+): (.*)", line
        )
        assert match, line
        assert not re.search(r"T\d\d:\d\d:\d\d\.\d{3}Z|run=", match[4]), line
        levels.add((match[1], match[3]))
        of_run += match[2] == run["run_id"]
    assert ("INFO", "orchestrator") in levels
    assert {level for level, origin in levels if origin.startswith("a1_to_a2.")} >= {"INFO", "WARNING"}
    assert of_run > 5


def cron_line(world: World, tmp_path: Path, **variables: str) -> tuple[str, Path]:
    """The crontab's command, and its log, with the paths of a server below a new folder."""
    line = (DEPLOYMENT / "a1-to-a2.crontab").read_text(encoding="utf-8").splitlines()[-1]
    schedule, user, shell = re.fullmatch(r"(\* \* \* \* \*) (\S+) (.*)", line).groups()  # type: ignore[union-attr]
    assert (schedule, user) == ("* * * * *", "a1-to-a2")
    assert "%" not in shell, "cron makes line breaks of them"
    env_file = tmp_path / "env"
    settings = {**world.env, "OFF_HOURS_ENABLED": "false", **variables}
    env_file.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    env_file.chmod(0o600)
    log = tmp_path / "var/log/a1-to-a2/orchestrator.log"
    shell = (
        shell.replace("/opt/a1-to-a2", str(REPOSITORY))
        .replace(".venv/bin/python", sys.executable)
        .replace("/etc/a1-to-a2/env", str(env_file))
        .replace("/var/log/a1-to-a2/orchestrator.log", str(log))
    )
    return shell, log


def by_cron(shell: str) -> subprocess.CompletedProcess[str]:
    """One round as cron starts it; its output is what cron would mail."""
    cron = {"SHELL": "/bin/sh", "HOME": "/", "PATH": "/usr/bin:/bin", "LOGNAME": "a1-to-a2"}
    return subprocess.run(
        ["/bin/sh", "-c", shell], env=cron, check=False, timeout=100, cwd="/", text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def for_this_user(name: str, folder: Path) -> Path:
    """A file for a server, written for the user who runs the tests and for folders below this one."""
    me, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    text = (DEPLOYMENT / name).read_text(encoding="utf-8").replace("a1-to-a2 a1-to-a2", f"{me} {group}")
    path = folder / name
    path.write_text(text.replace("/var/log", f"{folder}/var/log").replace("/var/lib", f"{folder}/var/lib"))
    path.chmod(0o644)
    return path


def needed(tool: str) -> str:
    """A tool of a server; .ci/run installs them, a developer's machine may have none."""
    found = shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert found or "CI" not in os.environ, f"CI must bring {tool}"
    return found or pytest.skip(f"{tool} is missing (Debian: apt-get install systemd logrotate)")


def test_once__by_the_cron_line_from_an_empty_environment(world: World, tmp_path: Path) -> None:
    world.dam.add_campaign("Empty", "C-1")
    shell, log = cron_line(world, tmp_path)
    log.parent.mkdir(parents=True)
    for _ in range(2):  # the second has nothing to do
        done = by_cron(shell)
        assert (done.returncode, done.stdout) == (0, "")
    text = log.read_text(encoding="utf-8")
    assert text.count("a1_to_a2 started: planned for") in (1, 2)  # two when the next time came in between
    assert world.subjects[0].startswith("⚠️ No Assets Found (Attempt 1/3)")


def test_cron__the_folders_are_made_and_the_log_is_rotated(tmp_path: Path) -> None:
    subprocess.run(
        [needed("systemd-tmpfiles"), "--create", for_this_user("a1-to-a2.tmpfiles", tmp_path)], check=True
    )
    folder = tmp_path / "var/log/a1-to-a2"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "var/lib/a1-to-a2").stat().st_mode) == 0o700
    log = folder / "orchestrator.log"
    log.write_text("a line\n", encoding="utf-8")
    for path in (folder.parent, folder):
        path.chmod(0o775)  # as Debian's /var/log is, and what logrotate refuses without `su`
    done = subprocess.run(
        [needed("logrotate"), "--force", "--verbose", "--state", tmp_path / "state",
         for_this_user("a1-to-a2.logrotate", tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert log.with_name("orchestrator.log.1").read_text(encoding="utf-8") == "a line\n"
    assert (log.stat().st_size, stat.S_IMODE(log.stat().st_mode)) == (0, 0o640)


def test_once__a_log_that_cannot_be_written_stops_no_round(world: World, tmp_path: Path) -> None:
    world.dam.add_campaign("Empty", "C-1")
    shell, log = cron_line(world, tmp_path)
    done = by_cron(shell)
    assert done.returncode == 0
    assert f"{log} cannot be written: systemd-tmpfiles --create" in done.stdout
    assert "a1_to_a2 started: planned for" in done.stdout
    assert world.subjects[0].startswith("⚠️ No Assets Found (Attempt 1/3)")


def test_once__leaves_a_task_alone_that_another_process_runs(world: World) -> None:
    world.add_full_campaign("Slow", "C-1")
    world.dam.fail(r"GET .*/contents", delay=4.0, times=1)
    first = world.start("orchestrator-prod.py", "--once", OFF_HOURS_ENABLED="false")
    running = Loop(first)
    running.wait_for("a1_to_a2 started: planned for")
    wait_for(lambda: bool(world.sql("SELECT run_id FROM orchestrator_task_runs WHERE task = 'a1_to_a2'")))
    world.sql("UPDATE orchestrator_task_runs SET planned_at = planned_at - interval '1 hour'")
    second = world.run("orchestrator-prod.py", "--once", OFF_HOURS_ENABLED="false")
    assert second.exit_code == 0
    assert "a1_to_a2 is still running" in second.stderr
    assert first.wait(timeout=60) == 0
    for stream in (first.stdout, first.stderr):
        assert stream is not None
        stream.close()


# Files for a server


def test_unit__is_what_systemd_understands(tmp_path: Path) -> None:
    unit = (DEPLOYMENT / "a1-to-a2.service").read_text(encoding="utf-8")
    for setting in ("Type=notify", "WatchdogSec=300", "KillMode=mixed", "NoNewPrivileges=yes"):
        assert f"\n{setting}\n" in unit
    here = unit.replace("/opt/a1-to-a2/.venv/bin/python", sys.executable)
    path = tmp_path / "a1-to-a2.service"
    path.write_text(here.replace("=/opt/a1-to-a2\n", f"={REPOSITORY}\n").replace("=a1-to-a2\n", "=root\n"))
    tool = needed("systemd-analyze")
    done = subprocess.run([tool, "verify", path], capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "a1-to-a2.service" in line]
    assert (done.returncode, complaints) == (0, [])


def test_unit__exposes_little() -> None:
    done = subprocess.run(
        [needed("systemd-analyze"), "security", "--offline=true", DEPLOYMENT / "a1-to-a2.service"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure is not None
    assert float(exposure[1]) < 1.2


def test_unit__the_real_scripts_work_under_its_filters(world: World) -> None:
    """Certificate, large file, report: under the unit's system call filter and without executable memory."""
    full = world.add_full_campaign("Summer", "C-1", [("film.mp4", bytes(21 * 1024 * 1024)), ("a.jpg", b"a")])
    world.dam.add_campaign("Empty", "C-2")
    needed("systemd-analyze")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests/tools/sandbox.py", DEPLOYMENT / "a1-to-a2.service",
         sys.executable, SCRIPTS / "orchestrator-prod.py", "--once"],
        env=world.environment(OFF_HOURS_ENABLED="false", ORCHESTRATOR_TIMEZONE=zone_at(20)),
        cwd=world.folder, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "PermissionError" not in done.stderr
    assert world.dam.status(full) == "A2"
    assert {"daily_report", "a1_to_a2"} == {
        row["task"] for row in world.sql("SELECT task FROM orchestrator_task_runs WHERE exit_code = 0")
    }
    assert any(subject.startswith("📊 Daily Report") for subject in world.subjects)


def test_unit__waits_longer_for_a_stop_than_the_loop_does() -> None:
    unit = (DEPLOYMENT / "a1-to-a2.service").read_text(encoding="utf-8")
    patience = int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])  # type: ignore[index]
    assert patience > 300 + 60  # ORCHESTRATOR_STOP_SECONDS, and a task's kill_after


# The operator's page


def test_page__timelines_are_what_explain_says() -> None:
    page = (REPOSITORY / "RUN_ORCHESTRATOR.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"```text\n\$ (python scripts/orchestrator-prod\.py --explain .*)\n((?:.*\n)*?)```", page
    )
    assert len(blocks) >= 4
    for line, shown in blocks:
        done = command(*line.split()[2:], **ZONE)
        assert done.returncode == 0
        assert done.stdout == shown


def test_page__names_every_task_and_variable_of_the_loop() -> None:
    page = (REPOSITORY / "RUN_ORCHESTRATOR.md").read_text(encoding="utf-8")
    for word in ("a1_to_a2", "daily_report", "ALERT_AFTER_FAILURES", "HEARTBEAT_URL", "OFF_HOURS_ENABLED",
                 "ORCHESTRATOR_STOP_SECONDS", "SIGHUP", "--once", "--check"):  # fmt: skip
        assert word in page, word


def test_explain__text_and_json_tell_the_same() -> None:
    text = command("--explain", "--at", "2026-01-30T21:50", "--hours", "3", **ZONE).stdout.splitlines()[1:]
    runs = explained("2026-01-30T21:50", "3")["runs"]
    assert len(text) == len(runs) > 0
    for line, run in zip(text, runs, strict=True):
        at = datetime.fromisoformat(run["at"])
        assert line.split() == [f"{at:%a}", f"{at:%Y-%m-%d}", f"{at:%H:%M}", run["at"][-6:], run["task"],
                                run["rule"]]  # fmt: skip
        assert at.utcoffset() == timedelta(hours=1)
