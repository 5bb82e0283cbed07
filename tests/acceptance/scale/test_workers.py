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
    assert "6 campaigns are queued, and no worker has been seen for a minute" in run.report["error"]
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


def test_two_workers__work_at_the_same_time(fleet: Fleet) -> None:
    """While one has the first campaign in hand, only the other can take the second."""
    world = fleet.world
    for name in "ab":
        world.add_full_campaign(name, name)
    fault = world.box.fail(r"POST .*/files/content", delay=20, times=1)
    for _ in range(2):
        fleet.worker(WORKER_CAMPAIGNS_AT_ONCE="1", TRANSFER_WORKERS="1")
    fleet.tick()
    wait_for(lambda: fault.hits == 1)
    wait_for(lambda: fleet.live == 1, 60)
    fleet.wait_until_idle()
    holders = {row["holder"] for row in world.sql("SELECT holder FROM campaign_epochs")}
    assert holders == set(fleet.names)


def test_empty__three_ticks_send_two_retries_and_one_permanent(fleet: Fleet) -> None:
    world = fleet.world
    campaign = world.dam.add_campaign("Summer Launch", "C-1001")
    fleet.worker()
    for attempt in (1, 2, 3):
        assert fleet.tick().exit_code == 0
        fleet.wait_until_idle()
        assert world.row(campaign)["a1_retry_count"] == attempt
        wait_for(lambda: len(world.subjects) == attempt, 90)  # noqa: B023 - called here and now
    last = fleet.tick()
    assert last.outcomes == {campaign: "skipped_permanently_failed"}
    assert fleet.jobs == []
    assert world.subjects == [RETRY_1, RETRY_2, PERMANENT]


def test_live_campaign__is_not_queued_again(fleet: Fleet) -> None:
    world = fleet.world
    campaign = world.add_full_campaign("Summer", "C-1")
    for _ in range(2):
        assert fleet.tick().outcomes == {campaign: "queued"}
    assert fleet.jobs == [(f"campaign:{campaign}", "todo")]
    world.sql("UPDATE procrastinate_jobs SET status = 'doing'")
    assert fleet.tick().outcomes == {campaign: "queued"}
    assert fleet.jobs == [(f"campaign:{campaign}", "doing")]
    world.sql("UPDATE procrastinate_jobs SET status = 'failed'")
    fleet.tick()
    assert fleet.jobs == [(f"campaign:{campaign}", "failed"), (f"campaign:{campaign}", "todo")]


def test_run__asks_once_however_many_campaigns(fleet: Fleet) -> None:
    for number in range(3):
        fleet.world.dam.add_campaign(f"Summer {number}", f"C-{number}")
    fleet.world.sql(
        "CREATE TABLE counted (n INTEGER); CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO counted VALUES (1); RETURN NULL; END';"
        " CREATE TRIGGER counting AFTER INSERT ON procrastinate_jobs FOR EACH STATEMENT"
        " EXECUTE FUNCTION count_it()"
    )
    fleet.tick()
    assert len(fleet.jobs) == 3
    assert fleet.world.sql("SELECT count(*) FROM counted")[0]["count"] == 1


def test_by_hand__works_here_unless_a_worker_has_it(fleet: Fleet) -> None:
    world = fleet.world
    campaign = world.add_full_campaign("Summer", "C-1")
    fleet.tick()
    assert fleet.tick("--dry-run").outcomes == {campaign: "would_upload"}
    world.sql("UPDATE procrastinate_jobs SET status = 'doing'")
    run = fleet.tick("--campaign", campaign)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "queued"})
    assert "a worker has it now, and this run does not" in run.stderr
    world.sql("UPDATE procrastinate_jobs SET status = 'todo'")
    run = fleet.tick("--campaign", campaign)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"})
    assert fleet.jobs == [], "and no worker does it again"
    assert fleet.tick("--verify", campaign).exit_code == 0


def test_job__whose_campaign_was_given_up_meanwhile_does_nothing(fleet: Fleet) -> None:
    world = fleet.world
    failed, left = (world.add_full_campaign(name, name) for name in ("F", "L"))
    fleet.tick()
    world.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_permanently_failed, a1_last_retry_at) VALUES (%s, 'F', 'F', 'A1', 3, TRUE, now())",
        failed,
    )
    world.dam.set_status(left, "A5")
    world.dam.requests.clear()
    fleet.worker()
    fleet.wait_until_idle()
    assert not [call for call in world.dam.requests if failed in call.path]
    assert (world.dam.status(failed), world.dam.status(left), world.box_files()) == ("A1", "A5", {})
    assert world.subjects == []


def test_stalled_job__with_one_that_waits_behind_it_is_freed(fleet: Fleet) -> None:
    """Put back into the queue it would collide with the one that waits, and block the campaign for ever."""
    world = fleet.world
    campaign = world.add_full_campaign("Summer", "C-1")
    fleet.tick()
    world.sql("UPDATE procrastinate_jobs SET status = 'doing'")
    world.sql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args)"
        " SELECT queue_name, task_name, lock, queueing_lock, args FROM procrastinate_jobs"
    )
    fleet.worker()
    fleet.wait_until_idle()
    assert world.dam.status(campaign) == "A2"
    assert [status for _, status in fleet.jobs] == ["failed"]


def test_old_jobs__are_removed(fleet: Fleet) -> None:
    world = fleet.world
    for days in (6, 8):
        world.sql(
            "WITH job AS (INSERT INTO procrastinate_jobs (queue_name, task_name, status)"
            " VALUES ('a1_to_a2', %s, 'failed') RETURNING id)"
            " INSERT INTO procrastinate_events (job_id, type, at)"
            " SELECT id, 'failed', now() - make_interval(days => %s) FROM job",
            f"{days} days", days,
        )  # fmt: skip
    fleet.worker()
    wait_for(lambda: len(fleet.jobs) == 1)
    assert world.sql("SELECT task_name FROM procrastinate_jobs") == [{"task_name": "6 days"}]


def test_trouble_of_a_whole_system__is_the_runs_exit_code(fleet: Fleet) -> None:
    """No campaign's fault, so no campaign gets an e-mail: the loop sends one about its task."""
    world = fleet.world
    campaign = world.add_full_campaign("Summer", "C-1")
    worker = fleet.worker(BOX_CLIENT_SECRET="wrong")
    assert fleet.tick().exit_code == 0
    wait_for(lambda: bool(world.sql("SELECT 1 FROM workers WHERE trouble IS NOT NULL")), 60)
    run = fleet.tick()
    assert run.exit_code == 2, run.stderr
    assert run.report["error"].startswith(f"{fleet.names[0]}: logging in to Box")
    assert world.subjects == []
    fleet.wait_until_idle()
    world.dam.set_status(campaign, "A2")
    wait_for(lambda: fleet.tick().exit_code == 0, 90)  # without work, it is not reported again and again
    assert world.sql("SELECT 1 FROM workers WHERE trouble IS NOT NULL"), "people still see it"
    world.dam.set_status(campaign, "A1")
    fleet.tick()
    worker.stop()
    assert fleet.tick().exit_code == 75, "it waits, and no worker runs"
    world.sql("UPDATE procrastinate_jobs SET status = 'doing'")
    assert fleet.tick().exit_code == 75, "nor does anything free it"
    fleet.worker()
    fleet.wait_until_idle()  # the worker frees it
    assert fleet.tick().exit_code == 0
    fleet.wait_until_idle()
    assert world.dam.status(campaign) == "A2"


def test_totals__have_what_workers_did(fleet: Fleet) -> None:
    world = fleet.world
    world.add_full_campaign("Summer", "C-1")
    world.dam.add_campaign("Winter", "C-2")
    worker = fleet.worker()
    fleet.tick()
    fleet.wait_until_idle()
    worker.stop()
    totals = {row["name"]: row["value"] for row in world.sql("SELECT name, value FROM metric_totals")}
    assert (totals["attempts"], totals["transferred_bytes"]) == (1, 3)
