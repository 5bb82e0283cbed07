"""The workers' systemd unit, as far as it can be tried without systemd."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from fleet import Fleet
from world import REPOSITORY

UNIT = REPOSITORY / "scripts/deployment/a1-to-a2-worker@.service"


def needed(tool: str) -> str:
    found = shutil.which(tool)
    assert found, f"{tool} is missing (Debian: apt-get install systemd; .ci/run does it)"
    return found


def test_unit__is_what_systemd_understands_and_exposes_little(tmp_path: Path) -> None:
    unit = UNIT.read_text(encoding="utf-8")
    for setting in ("Type=notify", "WatchdogSec=120", "Restart=on-failure", "RestartPreventExitStatus=2"):
        assert f"\n{setting}\n" in unit
    patience = int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])  # type: ignore[index]
    assert patience > 300 + 60  # WORKER_STOP_SECONDS, and what is delivered after it
    here = unit.replace("/opt/a1-to-a2/.venv/bin/python", sys.executable)
    path = tmp_path / UNIT.name
    path.write_text(here.replace("=/opt/a1-to-a2\n", f"={REPOSITORY}\n").replace("=a1-to-a2\n", "=root\n"))
    tool: Any = {"capture_output": True, "text": True, "check": False, "timeout": 60}
    done = subprocess.run([needed("systemd-analyze"), "verify", path], **tool)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])
    done = subprocess.run([needed("systemd-analyze"), "security", "--offline=true", UNIT], **tool)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) < 1.2


def test_worker__works_under_its_filters(fleet: Fleet) -> None:
    needed("systemd-analyze")
    world = fleet.world
    campaign = world.add_full_campaign("Summer", "C-1")
    sandbox = (sys.executable, str(REPOSITORY / "tests/tools/sandbox.py"), str(UNIT))
    worker = fleet.worker(before=sandbox)
    fleet.tick()
    fleet.wait_until_idle()
    assert world.dam.status(campaign) == "A2"
    assert worker.stop() == 0
    assert "PermissionError" not in worker.text


def test_worker__tells_systemd_that_it_is_ready_alive_and_stopping(fleet: Fleet, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(60)
        told: list[str] = []

        def wait_for_word(word: str) -> None:
            while word not in told:
                told.append(manager.recv(4096).decode())

        worker = fleet.worker(NOTIFY_SOCKET=address, WATCHDOG_USEC="120000000")
        wait_for_word("READY=1")
        for _ in range(2):
            told.clear()
            wait_for_word("WATCHDOG=1")
        worker.process.terminate()
        wait_for_word("STOPPING=1")
        assert worker.process.wait(60) == 0
