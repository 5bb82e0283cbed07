"""ENGINE=procrastinate: runs queue campaigns, and real workers take them the same road."""

from __future__ import annotations

from fleet import Fleet
from world import wait_for

RETRY_1 = "⚠️ No Assets Found (Attempt 1/3) - Campaign Summer Launch"
RETRY_2 = "⚠️ No Assets Found (Attempt 2/3) - Campaign Summer Launch"
PERMANENT = "❌ PERMANENTLY FAILED - Campaign Summer Launch (No Assets After 3 Attempts)"


def test_run__queues_and_two_workers_upload(fleet: Fleet) -> None:
    world = fleet.world
    campaigns = [world.add_full_campaign(f"Summer {n}", f"C-{n}") for n in range(6)]
    run = fleet.tick()
    assert run.exit_code == 75
    assert "6 campaigns wait, and no worker has been seen for a minute" in run.report["error"]
    assert run.outcomes == dict.fromkeys(campaigns, "queued")
    assert fleet.jobs == [(f"campaign:{campaign}", "todo") for campaign in campaigns]
    for _ in range(2):
        fleet.worker(WORKER_CAMPAIGNS_AT_ONCE="2")
    fleet.wait_until_idle()
    assert {world.dam.status(campaign) for campaign in campaigns} == {"A2"}
    assert len(world.box_files()) == 12
    assert fleet.jobs == [], "a job that ended well leaves no row"
    holders = {row["holder"] for row in world.sql("SELECT holder FROM campaign_epochs")}
    assert holders <= set(fleet.names)
    assert world.sql("SELECT * FROM worker_campaigns") == []
    assert [worker.stop() for worker in fleet.workers] == [0, 0]
    assert fleet.names == []
    assert sorted(world.subjects) == [
        f"✅ Uploaded to Box - Campaign Summer {n} (2 assets)" for n in range(6)
    ]


def test_empty__three_ticks_send_two_retries_and_one_permanent(fleet: Fleet) -> None:
    world = fleet.world
    campaign = world.dam.add_campaign("Summer Launch", "C-1001")
    fleet.worker()
    for attempt in (1, 2, 3):
        assert fleet.tick().exit_code == 0
        fleet.wait_until_idle()
        assert world.row(campaign)["a1_retry_count"] == attempt
    last = fleet.tick()
    assert last.outcomes == {campaign: "skipped_permanently_failed"}
    assert fleet.jobs == []
    wait_for(lambda: len(world.subjects) == 3)
    assert world.subjects == [RETRY_1, RETRY_2, PERMANENT]
