"""Workers that are killed, frozen or asked to end: nothing is lost, nothing is done twice."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter

import pytest

from fleet import Fleet
from world import World, wait_for

FILES = [(f"{n}.bin", bytes([n]) * 2000) for n in range(3)]
ALONE = {"BOX_UPLOADS_PER_MINUTE": "0", "BOX_CALLS_PER_MINUTE": "0", "TRANSFER_WORKERS": "1"}
"""Without limits nothing but the question itself is asked before a call to Box."""
READS = ("GET", "HEAD", "OPTIONS")


def effects(world: World) -> Counter[str]:
    """Every request that changes something, in both systems; logging in and searching do not."""
    calls = [f"DAM {call.method} {call.path}" for call in world.dam.requests if call.method not in READS]
    calls += [f"Box {call.method} {call.path}" for call in world.box.requests if call.method not in READS]
    return Counter(call for call in calls if not call.endswith(("/token", "/search/text", "/sessions")))


def assert_done_once(world: World, campaign: str, name: str) -> None:
    assert world.dam.status(campaign) == "A2"
    assert world.dam.lock_state(campaign) is None
    assert sorted(path for path in world.box_files()) == [f"{name} - {name}/{n}.bin" for n in range(3)]
    assert len([file for file in world.box.files() if file.name.endswith(".bin")]) == 3
    assert world.subjects.count(f"✅ Uploaded to Box - Campaign {name} (3 assets)") == 1
    assert world.subjects == [f"✅ Uploaded to Box - Campaign {name} (3 assets)"]


def tick_until_done(fleet: Fleet, campaign: str) -> None:
    """Runs, one after the other, until the campaign's upload is on record."""

    def is_done() -> bool:
        fleet.tick()
        return bool(fleet.world.sql("SELECT 1 FROM campaign_uploads WHERE campaign_id = %s", campaign))

    wait_for(is_done, 90)
    fleet.wait_until_idle()


def test_killed__another_worker_takes_over_within_90_seconds(fleet: Fleet) -> None:
    """Nothing is hurried here: the times are the product's own."""
    world = fleet.world
    campaign = world.add_full_campaign("K", "K", FILES)
    fault = world.box.fail(r"POST .*/files/content", delay=1, times=1)
    killed = fleet.worker(**ALONE)
    fleet.tick()
    wait_for(lambda: fault.hits == 1)
    killed.stop(signal.SIGKILL)
    other = fleet.worker(**ALONE)
    tick_until_done(fleet, campaign)
    assert "no worker has it any more" in other.text
    assert [status for _, status in fleet.jobs] == ["failed"]
    assert other.stop() == 0
    assert_done_once(world, campaign, "K")
    assert world.sql("SELECT * FROM worker_campaigns") == []


LARGE = [("0.bin", bytes(25 * 1024 * 1024)), *FILES[1:]]
"""The first one is uploaded in parts."""
FURTHER = pytest.mark.scale  # `make test-scale` only
AT = [
    pytest.param("dam", r"GET .*/contents", FILES, id="downloading"),
    pytest.param("box", r"POST .*/folders", FILES, id="making the folder", marks=FURTHER),
    pytest.param("box", r"POST .*/files/content", FILES, id="uploading"),
    pytest.param("box", r"POST .*/upload_sessions$", LARGE, id="opening an upload session", marks=FURTHER),
    pytest.param("box", r"POST .*/commit$", LARGE, id="committing", marks=FURTHER),
    pytest.param("dam", r"PUT .*/state", FILES, id="locking"),
    pytest.param("dam", r"PATCH ", FILES, id="setting A2"),
]


@pytest.mark.parametrize(("system", "match", "files"), AT)
def test_frozen__woken_does_nothing_more(
    fleet: Fleet, system: str, match: str, files: list[tuple[str, bytes]]
) -> None:
    """One campaign and one thread: nothing is on its way but the call at which the worker is frozen."""
    world = fleet.world
    campaign = world.add_full_campaign("F", "F", files)
    simulator = getattr(world, system)
    fault = simulator.fail(match, delay=2, times=1)
    frozen = fleet.worker(**ALONE)
    fleet.tick()
    wait_for(lambda: fault.hits == 1)
    time.sleep(0.5)  # the simulator has seen the head; the body must be on its way, too
    frozen.freeze()
    # What is on its way cannot be called back: it is carried out before the next worker begins.
    wait_for(lambda: any(re.search(match, f"{call.method} {call.path}") and call.status
                         for call in simulator.requests))  # fmt: skip
    other = fleet.worker(**ALONE)
    fleet.hurry_recovery(frozen)
    tick_until_done(fleet, campaign)
    assert other.stop() == 0
    before, mails = effects(world), len(world.mail.messages)
    frozen.thaw()
    wait_for(lambda: "is left to another run" in frozen.text or "begins again" in frozen.text)
    assert frozen.stop() == 0
    assert "Traceback" not in frozen.text, "that its jobs are over is no bug"
    assert effects(world) - before == Counter(), "a worker that was replaced went on"
    assert len(world.mail.messages) == mails
    assert_done_once(world, campaign, "F")


def test_stopped__finishes_the_file_in_hand_and_leaves_the_rest(fleet: Fleet) -> None:
    """The file takes longer than a worker without a sign of life may: nobody else may take the campaign."""
    world = fleet.world
    campaign = world.add_full_campaign("S", "S", FILES)
    fault = world.box.fail(r"POST .*/files/content", delay=22, times=1)
    stopped = fleet.worker(**ALONE)
    other = fleet.worker(**ALONE)
    loser = [other, stopped]
    fleet.tick()
    wait_for(lambda: fault.hits == 1)
    holder = world.sql("SELECT worker FROM worker_campaigns")[0]["worker"]
    if not holder.endswith(f":{stopped.process.pid}"):
        stopped, other = loser
    stopped.process.send_signal(signal.SIGTERM)
    for _ in range(4):
        assert fleet.tick().outcomes == {campaign: "queued"}
    assert stopped.process.wait(60) == 0
    assert len(world.box_files()) == 1, "the file in hand, and no other"
    assert "no worker has it any more" not in other.text
    assert [name.rsplit(":", 1)[1] for name in fleet.names] == [str(other.process.pid)]
    tick_until_done(fleet, campaign)
    assert other.stop() == 0
    assert_done_once(world, campaign, "S")


def test_drained__ends_with_0_by_itself(fleet: Fleet) -> None:
    worker = fleet.worker()
    fleet.world.sql("UPDATE workers SET drain_asked_at = now(), drain_asked_by = 'me'")
    assert worker.process.wait(60) == 0
    assert fleet.names == []


def test_database_restarted__the_worker_begins_again(fleet: Fleet) -> None:
    world = fleet.world
    worker = fleet.worker()
    world.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'a1_to_a2 worker %%'"
    )
    wait_for(lambda: "the worker begins again" in worker.text)
    campaign = world.add_full_campaign("D", "D", FILES)
    tick_until_done(fleet, campaign)
    assert worker.stop() == 0
    assert_done_once(world, campaign, "D")


def test_end_that_could_not_be_written__does_not_block_the_campaign(fleet: Fleet) -> None:
    """The engine forgets a job whose end it could not write, and its worker lives on."""
    world = fleet.world
    campaign = world.add_full_campaign("E", "E", FILES)
    fleet.tick()
    worker = fleet.worker()
    fleet.wait_until_idle()
    world.dam.set_status(campaign, "A1")
    world.sql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args, status, worker_id)"
        " SELECT 'a1_to_a2', 'a1_to_a2.campaign', 'campaign:' || %s, NULL, '{}', 'doing', max(id)"
        " FROM procrastinate_workers",
        campaign,
    )  # fmt: skip
    wait_for(lambda: [status for _, status in fleet.jobs] == ["failed"], 60)
    assert "no worker has it any more" in worker.text
    assert worker.stop() == 0


def test_engine_that_fails__is_not_left_without_work_in_silence(fleet: Fleet) -> None:
    worker = fleet.worker()
    fleet.world.sql("ALTER FUNCTION procrastinate_fetch_job_v2 RENAME TO gone")
    assert worker.process.wait(60) == 2
    assert "the engine could not fetch a job" in worker.text
    assert "function procrastinate_fetch_job_v2" in worker.text
