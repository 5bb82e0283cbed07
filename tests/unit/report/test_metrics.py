"""The metrics by name, the file, and what watches them: the alerts and the dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.base.errors import ExitCode
from shared.report.metrics import (
    STATES,
    TASKS,
    MetricsCollector,
    Standings,
    TaskTimes,
    write_metrics_file,
)
from shared.report.state import State
from shared.report.workers import WorkerState
from shared.upkeep.totals import ATTEMPTS, BOX_THROTTLED, TRANSFERRED_BYTES, Total, task_run
from world import REPOSITORY, SCRIPTS

DEPLOYED = SCRIPTS / "deployment" / "prometheus"
FOREIGN = {"node_textfile_mtime_seconds"}
"""What node_exporter tells of METRICS_FILE."""


def standings(**changes: Any) -> Standings:
    values: dict[str, Any] = {
        "campaigns": dict.fromkeys(STATES, 0), "near_failure": 0, "tasks": (),
        "oldest_pending_seconds": {"email": 0.0, "webhook": 0.0}, "webhooks_dead": 0,
        "given_up": 0, "totals": {}, "workers": dict.fromkeys(WorkerState, 0), "in_hand": 0, "queued": 0,
    }  # fmt: skip
    return Standings(**{**values, **changes})


FULL = standings(
    campaigns={state: number for number, state in enumerate(STATES)},
    near_failure=7,
    tasks=(TaskTimes("a1_to_a2", 1000.0, 900.5), TaskTimes('odd "task"\n', 5.0, None)),
    oldest_pending_seconds={"email": 61.5, "webhook": 5.0},
    webhooks_dead=2,
    given_up=2,
    workers={WorkerState.WORKING: 3, WorkerState.DRAINING: 1, WorkerState.LOST: 2},
    in_hand=17,
    queued=40,
    totals={
        ATTEMPTS: 12, TRANSFERRED_BYTES: 10**13, BOX_THROTTLED: 3, task_run("a1_to_a2", 0): 40,
        task_run("gone/task", 4): 1,
    },
)  # fmt: skip


def text_of(told: Standings) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(told))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """{(name, labels): value} as Prometheus reads the text. A sample with a time is refused."""
    found = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert not [one for one in found if one.timestamp is not None]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}


def test_text__has_the_names_that_alerts_and_dashboards_count_on() -> None:
    text = text_of(FULL)
    found = samples(text)
    assert {name: labels for name, labels in sorted((name, tuple(dict(pairs))) for name, pairs in found)} == {
        "a1_to_a2_attempts_total": (),
        "a1_to_a2_box_throttled_total": (),
        "a1_to_a2_campaigns": ("state",),
        "a1_to_a2_campaigns_near_failure": (),
        "a1_to_a2_notices_given_up": ("channel",),
        "a1_to_a2_notices_oldest_pending_seconds": ("channel",),
        "a1_to_a2_queued_campaigns": (),
        "a1_to_a2_webhooks_dead": (),
        "a1_to_a2_worker_campaigns": (),
        "a1_to_a2_workers": ("state",),
        "a1_to_a2_task_last_run_timestamp_seconds": ("task",),
        "a1_to_a2_task_last_success_timestamp_seconds": ("task",),
        "a1_to_a2_task_runs_total": ("outcome", "task"),
        "a1_to_a2_transferred_bytes_total": (),
    }
    assert "_created" not in text
    assert text.count("# TYPE a1_to_a2_task_runs_total counter") == 1
    assert found["a1_to_a2_workers", (("state", "lost"),)] == 2
    assert found["a1_to_a2_worker_campaigns", ()] == 17
    assert found["a1_to_a2_queued_campaigns", ()] == 40
    assert found["a1_to_a2_transferred_bytes_total", ()] == 10**13
    assert found["a1_to_a2_task_runs_total", (("outcome", "done"), ("task", "a1_to_a2"))] == 40
    assert found["a1_to_a2_task_runs_total", (("outcome", "some_failed"), ("task", "gone/task"))] == 1
    assert found["a1_to_a2_task_last_run_timestamp_seconds", (("task", 'odd "task"\n'),)] == 5
    assert ("a1_to_a2_task_last_success_timestamp_seconds", (("task", 'odd "task"\n'),)) not in found


def test_text__of_an_empty_installation_says_0_and_not_nothing() -> None:
    found = samples(text_of(standings(tasks=(TaskTimes("a1_to_a2", 1.0, None),))))
    assert found["a1_to_a2_attempts_total", ()] == 0
    assert [found["a1_to_a2_workers", (("state", state),)] for state in WorkerState] == [0, 0, 0]
    assert found["a1_to_a2_notices_oldest_pending_seconds", (("channel", "email"),)] == 0
    outcomes = {dict(labels)["outcome"] for name, labels in found if name == "a1_to_a2_task_runs_total"}
    assert outcomes == {"done", "some_failed", "try_later", "bad_config", "bug", "killed"}


def test_states__are_codes_that_people_see_elsewhere() -> None:
    assert set(STATES) <= set(State)
    named = {dict(labels)["state"] for name, labels in samples(text_of(FULL)) if name == "a1_to_a2_campaigns"}
    assert named == {state.value for state in STATES}


@pytest.mark.parametrize(
    ("exit_code", "outcome"),
    [(0, "done"), (4, "some_failed"), (75, "try_later"), (2, "bad_config"), (3, "bug"), (1, "bug"),
     (137, "bug"), (-9, "killed"), (-15, "killed"), (None, "bug")],
)  # fmt: skip
def test_run__counts_by_how_it_ended(exit_code: int | None, outcome: str) -> None:
    assert task_run("a1_to_a2", exit_code) == Total("task_runs", f"a1_to_a2/{outcome}")


def test_success__is_what_the_report_calls_done() -> None:
    migration = REPOSITORY / "database" / "migrations" / "025_create_metric_totals.sql"
    done = f"exit_code IN ({ExitCode.OK:d}, {ExitCode.SOME_FAILED:d})"
    assert done in TASKS
    assert f"WHERE {done};" in migration.read_text(), "else no index has the runs that the query looks for"


# --- the file -----------------------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_file__is_readable_for_all_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a1_to_a2.prom"
    left = tmp_path / ".a1_to_a2.prom.part"
    left.write_bytes(b"of a run that was killed, and longer than what comes now")
    with umask(0o077):
        write_metrics_file(path, b"first\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with path.open("rb") as reading:
        write_metrics_file(path, b"second\n")
        assert reading.read() == b"first\n", "a reader has the old file or the new one, never a piece"
    assert path.read_bytes() == b"second\n"
    assert list(tmp_path.iterdir()) == [path]


def test_file__follows_no_link_that_somebody_has_laid(tmp_path: Path) -> None:
    path, victim = tmp_path / "a1_to_a2.prom", tmp_path / "victim"
    victim.write_bytes(b"mine")
    for link in (path, tmp_path / ".a1_to_a2.prom.part"):
        link.symlink_to(victim)
    write_metrics_file(path, b"metrics\n")
    assert (victim.read_bytes(), path.is_symlink(), path.read_bytes()) == (b"mine", False, b"metrics\n")


def test_file__that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a1_to_a2.prom"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_metrics_file(path, b"metrics\n")
    assert list(tmp_path.iterdir()) == [path]


# --- alerts and dashboard -----------------------------------------------------------------------------------


def exported() -> set[str]:
    return {name for name, _ in samples(text_of(FULL))} | FOREIGN


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in PromQL, those in quotes left out."""
    return set(re.findall(r"\b(?:a1_to_a2|node)_\w+", re.sub(r'"[^"]*"', '""', expression)))


def states_in(expression: str) -> set[str]:
    return set(re.findall(r'state="(\w+)"', expression))


def expressions_of_rules() -> list[str]:
    text = (DEPLOYED / "a1_to_a2.rules.yml").read_text(encoding="utf-8")
    return re.findall(r"\n +expr: (?:>-\n)?(.*?)\n +(?:for|labels):", text, re.DOTALL)


def test_rules__ask_for_what_is_exported_and_say_what_to_do() -> None:
    text = (DEPLOYED / "a1_to_a2.rules.yml").read_text(encoding="utf-8")
    names = re.findall(r"- alert: (\w+)", text)
    expressions = expressions_of_rules()
    assert len(names) == len(expressions) == len(set(names)) > 8
    for name, expression in zip(names, expressions, strict=True):
        assert metrics_in(expression), name
        assert metrics_in(expression) <= exported(), name
        assert states_in(expression) <= {*STATES, *WorkerState}, name
    described = re.findall(r"description: >-\n(.*?)(?=\n\n|\Z)", text, re.DOTALL)
    assert len(described) == len(names)
    command = re.compile(r"journalctl|systemctl|a1_retry\.py|orchestrator-prod\.py|BOX_CALLS_PER_MINUTE")
    assert [words for words in described if not command.search(words)] == []
    tested = (DEPLOYED / "a1_to_a2.rules_test.yml").read_text(encoding="utf-8")
    assert [name for name in names if name not in tested] == [], "each alert is proved by promtool"


def test_rules__are_silent_at_60_minutes_and_fire_past_140() -> None:
    tool = shutil.which("promtool")
    assert tool, (
        "promtool is missing: apt-get download prometheus && dpkg -x prometheus_*.deb . && install -m 755"
        " usr/bin/promtool /usr/local/bin/ (as .ci/run does; it starts no service)"
    )
    for arguments in (["check", "rules", "a1_to_a2.rules.yml"], ["test", "rules", "a1_to_a2.rules_test.yml"]):
        done = subprocess.run([tool, *arguments], cwd=DEPLOYED, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_dashboard__asks_for_what_is_exported_of_the_chosen_instances() -> None:
    board = json.loads((DEPLOYED / "dashboard.json").read_text(encoding="utf-8"))
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["instance"]["definition"] == "label_values(a1_to_a2_campaigns, instance)"
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        assert metrics_in(expression), expression
        assert metrics_in(expression) <= exported(), expression
        assert states_in(expression) <= {*STATES, *WorkerState}, expression
        assert 'instance=~"$instance"' in expression, expression
        assert "now()" not in expression, "PromQL has no now()"
    shown = set().union(*map(metrics_in, expressions))
    assert shown == exported(), "what is exported and on no panel helps nobody"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
