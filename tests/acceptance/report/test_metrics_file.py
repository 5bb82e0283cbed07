"""METRICS_FILE after whole runs: what it says, who can read it, and that it never changes an exit code."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from simulators.mail import MailSink
from world import SCRIPTS, World

UPLOADER = "a1_to_a2_box_uploader.py"


@pytest.fixture
def file(world: World) -> Path:
    """Where the runs leave their metrics."""
    folder = world.folder / "textfiles"
    folder.mkdir(mode=0o755)
    path = folder / "a1_to_a2.prom"
    world.env["METRICS_FILE"] = str(path)
    return path


def told(file: Path) -> dict[str, float]:
    """{name and labels: value}."""
    families = text_string_to_metric_families(file.read_text(encoding="utf-8"))
    return {
        one.name + "".join(f" {value}" for _, value in sorted(one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_runs__leave_a_file_that_others_can_read_and_totals_that_grow(world: World, file: Path) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"12345"), ("b.jpg", b"678")])
    world.dam.add_campaign("Empty", "C-2")
    world.box.fail(r"POST .*/files/content", status=429, retry_after=1, times=1)
    with umask(0o077):
        run = world.finish(world.start(UPLOADER, "--auth-pfx-v2", "--json"))
    assert run.exit_code == 0, run.stderr
    assert run.outcomes[campaign] == "uploaded"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(file.parent.iterdir()) == [file]
    found = told(file)
    assert found["a1_to_a2_transferred_bytes_total"] == 8
    assert found["a1_to_a2_attempts_total"] == 1
    assert found["a1_to_a2_box_throttled_total"] == 1
    assert found["a1_to_a2_campaigns empty"] == 1
    assert world.upload("--dry-run").exit_code == 0
    assert world.upload().exit_code == 0
    found = told(file)
    assert (found["a1_to_a2_attempts_total"], found["a1_to_a2_campaigns_near_failure"]) == (2, 1)
    assert world.upload().exit_code == 0
    found = told(file)
    assert found["a1_to_a2_attempts_total"] == 3, "the attempt that gives up counts too"
    assert found["a1_to_a2_campaigns permanently_failed"] == 1
    assert world.upload().exit_code == 0
    assert told(file)["a1_to_a2_attempts_total"] == 3


def test_loop__hands_the_variable_of_the_env_file_to_the_run(world: World, file: Path) -> None:
    env_file = world.folder / "env"
    settings = {**world.env, "OFF_HOURS_ENABLED": "false"}
    env_file.write_text("".join(f"{name}={value!r}\n" for name, value in settings.items()), encoding="utf-8")
    env_file.chmod(0o600)
    world.env = {}
    for _ in range(2):
        once = world.run("orchestrator-prod.py", "--once", "--env-file", str(env_file))
        assert once.exit_code == 0, once.stderr
        world.sql(
            "UPDATE orchestrator_task_runs SET planned_at = planned_at - interval '1 hour',"
            " started_at = started_at - interval '1 hour', finished_at = finished_at - interval '1 hour'"
        )
    found = told(file)
    assert found["a1_to_a2_task_runs_total done a1_to_a2"] == 1, "the run that wrote the file has not ended"
    last_success = found["a1_to_a2_task_last_success_timestamp_seconds a1_to_a2"]
    assert 3500 < found["a1_to_a2_task_last_run_timestamp_seconds a1_to_a2"] - last_success < 3700
    (row,) = world.sql("SELECT value FROM metric_totals WHERE name = 'task_runs'")
    assert row["value"] == 2


def test_mail_server_down__is_told_although_no_mail_goes(world: World, file: Path) -> None:
    world.dam.add_campaign("Empty", "C-1")
    with MailSink(username="robot", password="right-password") as refusing:
        world.env |= refusing.settings | {"SMTP_USERNAME": "robot", "SMTP_PASSWORD": "wrong-password"}
        assert world.upload().exit_code == 2
        world.sql("UPDATE notices SET created_at = created_at - interval '50 min'")
        assert world.upload().exit_code == 2
        assert 3000 <= told(file)["a1_to_a2_notices_oldest_pending_seconds email"] < 3100
        world.env["SMTP_PASSWORD"] = "right-password"
        assert world.upload().exit_code == 0
    assert told(file)["a1_to_a2_notices_oldest_pending_seconds email"] == 0


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_file_that_cannot_be_written__is_a_warning_and_no_more(world: World, file: Path) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    (file.parent / f".{file.name}.part").mkdir()
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"})
    assert re.search(r"WARNING .*METRICS_FILE could not be written: ", run.stderr), run.stderr
    assert not file.exists()


def test_totals_that_cannot_be_counted__are_a_warning_and_no_more(world: World, file: Path) -> None:
    world.dam.add_campaign("Empty", "C-1")
    world.sql("ALTER TABLE metric_totals RENAME TO elsewhere")
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert "WARNING" in run.stderr
    assert "this run is missing in the totals of the metrics" in run.stderr
    assert "METRICS_FILE could not be written" in run.stderr
    assert len(world.subjects) == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a1_to_a2.prom", "METRICS_FILE: expected a path that begins with /, got 'a1_to_a2.prom'"),
        ("/nowhere/at/all/a1.prom", "METRICS_FILE: there is no folder '/nowhere/at/all'"),
        ("/tmp", "METRICS_FILE: expected a file, but '/tmp' is a folder"),  # noqa: S108
    ],
)
def test_wrong_path__is_found_at_the_start(world: World, value: str, said: str) -> None:
    run = world.upload(METRICS_FILE=value)
    assert run.exit_code == 2
    assert said in run.stderr
    assert not world.dam.requests


def test_name_that_node_exporter_does_not_read__is_warned_of(world: World, file: Path) -> None:
    run = world.upload(METRICS_FILE=str(file.with_suffix(".txt")))
    assert run.exit_code == 0
    assert "METRICS_FILE: node_exporter reads only files whose name ends in .prom" in run.stderr


# --- what an idle run costs ---------------------------------------------------------------------------------

LOADED = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, {scripts!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    among = ("prometheus_client", "shared.report.metrics", "shared.upkeep.totals")
    print("loaded:", *(name for name in among if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("is_set", "loaded"), [(False, ""), (True, " prometheus_client shared.report.metrics")]
)
def test_idle_run__loads_nothing_of_it_unless_a_file_is_wanted(
    world: World, file: Path, is_set: bool, loaded: str
) -> None:
    if not is_set:
        del world.env["METRICS_FILE"]
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(scripts=str(SCRIPTS)), SCRIPTS / UPLOADER, "--auth-pfx-v2"],
        cwd=world.folder, env=world.environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "loaded:" + loaded if not is_set else last.startswith("loaded:" + loaded)
    assert file.exists() == is_set
    assert world.sql("SELECT * FROM metric_totals") == []
