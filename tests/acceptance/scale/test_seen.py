"""What people see of real workers: who has a campaign, who stops, who is lost, and what waits for nobody."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

from fleet import Fleet
from world import wait_for

TOOL = "a1_retry.py"
HOST = socket.gethostname()
IN_HAND = "SELECT worker FROM worker_campaigns JOIN campaign_status USING (campaign_id)"
WARNING = "warning  no worker is running: with ENGINE=procrastinate, campaigns wait until one starts; cure:"


def workers(fleet: Fleet) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(fleet.world.run(TOOL, "workers", "--json").stdout)
    return listed


def metrics(fleet: Fleet, folder: Path) -> dict[str, str]:
    """{metric: value} of what a run writes about workers."""
    path = folder / "a1_to_a2.prom"
    fleet.tick(METRICS_FILE=str(path))
    lines = [line.rsplit(" ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: value for name, value in lines if "worker" in name or "queued" in name}


def test_campaign__is_seen_in_the_hand_of_a_worker_until_it_has_drained(fleet: Fleet, tmp_path: Path) -> None:
    world = fleet.world
    none = world.run(TOOL, "workers").stdout
    assert none.startswith("No worker is running: campaigns wait in the queue until one starts. On any host:")
    assert "a1_worker.py" in none
    assert WARNING in world.run("orchestrator-prod.py", "--check").stdout
    campaigns = [world.add_full_campaign(f"Summer {n}", f"C-{n}") for n in range(3)]
    found = metrics(fleet, tmp_path)
    assert found["a1_to_a2_queued_campaigns"] == "3.0"
    assert found['a1_to_a2_workers{state="working"}'] == "0.0"

    world.box.fail(r"POST .*/files/content", delay=5, times=2)
    worker = fleet.worker(WORKER_CAMPAIGNS_AT_ONCE="1")
    wait_for(lambda: world.sql(IN_HAND))
    worker.freeze()  # so that it has the campaign as long as we look
    (one,) = workers(fleet)
    (held,) = one["campaigns"]
    assert (one["worker"], one["host"], one["state"]) == (fleet.names[0], HOST, "working")
    assert held["campaign_id"] in campaigns
    has = f"worker {one['worker']} on host {HOST} has had it since"
    for command in ("status", "explain"):
        assert has in " ".join(world.run(TOOL, command, held["campaign_id"]).stdout.split()), command
    assert max(map(len, world.run(TOOL, "workers").stdout.splitlines())) <= 100
    assert "ok  1 worker running" in world.run("orchestrator-prod.py", "--check").stdout
    found = metrics(fleet, tmp_path)
    assert found['a1_to_a2_workers{state="working"}'] == "1.0"
    assert (found["a1_to_a2_worker_campaigns"], found["a1_to_a2_queued_campaigns"]) == ("1.0", "2.0")

    asked = world.run(TOOL, "drain", HOST, "--by", "olga")
    assert asked.exit_code == 0, asked.stderr
    assert f"asked {one['worker']} on host {HOST} to stop: it has 1 campaign in hand" in asked.stdout
    (draining,) = workers(fleet)
    assert (draining["state"], draining["drain_asked_by"]) == ("draining", "olga")
    worker.thaw()
    assert worker.process.wait(60) == 0, worker.text
    assert workers(fleet) == []
    assert world.run(TOOL, "drain", HOST).exit_code == 2
    assert has not in " ".join(world.run(TOOL, "explain", held["campaign_id"]).stdout.split())


def test_worker__that_was_killed_is_called_lost(fleet: Fleet, tmp_path: Path) -> None:
    world = fleet.world
    campaign = world.add_full_campaign("Summer", "C-1")
    world.box.fail(r"POST .*/files/content", delay=30, times=2)
    worker = fleet.worker()
    fleet.tick()
    wait_for(lambda: world.sql(IN_HAND))
    worker.stop(signal.SIGKILL)
    assert workers(fleet)[0]["state"] == "working", "it was seen a moment ago"
    world.sql("UPDATE workers SET seen_at = now() - interval '121 seconds'")  # as after two minutes
    (lost,) = workers(fleet)
    assert lost["state"] == "lost"
    said = " ".join(world.run(TOOL, "explain", campaign).stdout.split())
    assert f"worker {lost['worker']} on host {HOST} has had it since" in said
    assert "but is lost: it was last seen" in said
    assert "the next run queues it, which waits until another worker starts" in said
    told = json.loads(world.run(TOOL, "explain", campaign, "--json").stdout)
    assert told["worker"]["state"] == "lost"
    assert WARNING in world.run("orchestrator-prod.py", "--check").stdout
    assert metrics(fleet, tmp_path)['a1_to_a2_workers{state="lost"}'] == "1.0"
