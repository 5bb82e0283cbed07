"""Real uploaders that want to be the one run: started together, frozen in the middle, cut off by the server.

Whatever a run that lost its lock does afterwards would show in the simulators' request logs.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from sessions import end_sessions
from world import Run, World, wait_for

UPLOADER = "a1_to_a2_box_uploader.py"
READS = ("GET", "HEAD", "OPTIONS")


def effects(world: World) -> list[str]:
    """Every request that changes something, in both systems; logging in and searching do not."""
    calls = [f"DAM {call.method} {call.path}" for call in world.dam.requests if call.method not in READS]
    calls += [f"Box {call.method} {call.path}" for call in world.box.requests if call.method not in READS]
    return [call for call in calls if not call.endswith(("/token", "/search/text", "/sessions"))]


def cut(world: World, pid: int) -> None:
    """Let the server end a process's connection, and the lock with it."""
    end_sessions(world.database_url, f"a1_to_a2 %:{pid} run %")


def finish_all(world: World, processes: list[subprocess.Popen[str]]) -> dict[int, Run]:
    return {process.pid: world.finish(process) for process in processes}


def start(world: World, count: int, **changes: str) -> list[subprocess.Popen[str]]:
    return [world.start(UPLOADER, "--auth-pfx-v2", "--json", **changes) for _ in range(count)]


def holder(world: World) -> int:
    """The process id of whoever has the lock."""
    found: list[int] = []

    def look() -> bool:
        rows = world.sql(
            "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND l.classid = 41378 AND l.objid = 1 AND l.granted"
            " AND a.datname = current_database()"
        )
        found.extend(int(row["application_name"].split(":")[1].split()[0]) for row in rows)
        return bool(found)

    wait_for(look)
    return found[0]


def assert_done_once(world: World, campaigns: dict[str, str], empty: list[str]) -> None:
    """Everything is in Box once, A2, told once; the empty ones counted once a run that counted."""
    for campaign, name in campaigns.items():
        assert world.dam.status(campaign) == "A2"
        assert world.dam.lock_state(campaign) is None
        assert world.subjects.count(f"✅ Uploaded to Box - Campaign {name} (3 assets)") == 1
    names = Counter(path for path in world.box_files())
    assert sorted(names) == sorted(
        f"{name} - {name}/{n}.bin" for name in campaigns.values() for n in range(3)
    )
    assert len([file for file in world.box.files() if file.name.endswith(".bin")]) == len(names)
    assert not world.box.open_sessions()
    for campaign in empty:
        counted = world.row(campaign)["a1_retry_count"]
        notices = world.sql("SELECT count(*) FROM notices WHERE campaign_id = %s", campaign)[0]["count"]
        assert counted == notices
    sent = [received.message["Message-ID"] for received in world.mail.messages]
    assert len(set(sent)) == len(sent)


def add_work(world: World, round_number: int = 0, *, letters: str = "ab") -> tuple[dict[str, str], list[str]]:
    files = [(f"{n}.bin", bytes([n]) * 2000) for n in range(3)]
    names = [f"R{round_number}-{letter}" for letter in letters]
    campaigns = {world.add_full_campaign(name, name, files): name for name in names}
    return campaigns, [world.dam.add_campaign(f"R{round_number}-empty", f"R{round_number}-e")]


AT = [
    pytest.param("dam", r"POST .*/search/text", id="searching"),
    pytest.param("dam", r"GET .*/contents", id="downloading"),
    pytest.param("box", r"POST .*/files/content", id="uploading"),
    pytest.param("dam", r"PUT .*/state", id="locking"),
    pytest.param("dam", r"PATCH ", id="setting A2"),
]


@pytest.mark.parametrize(("system", "match"), AT)
def test_frozen_and_cut__continued_has_no_further_effect(world: World, system: str, match: str) -> None:
    """One worker and one campaign, so that nothing is on its way but the call at which the run is frozen."""
    campaigns, empty = add_work(world, letters="a")
    simulator = getattr(world, system)
    fault = simulator.fail(match, delay=2, times=1)
    # Without limits nothing but the question itself is asked before a call to Box.
    alone = {"BOX_UPLOADS_PER_MINUTE": "0", "BOX_CALLS_PER_MINUTE": "0", "TRANSFER_WORKERS": "1"}
    frozen = start(world, 1, **alone)[0]
    wait_for(lambda: fault.hits == 1)
    time.sleep(0.5)  # the simulator has seen the head; the body must be on its way, too
    frozen.send_signal(signal.SIGSTOP)
    # What is on its way cannot be called back: it is carried out before the next run begins.
    wait_for(lambda: any(re.search(match, f"{call.method} {call.path}") and call.status
                         for call in simulator.requests))  # fmt: skip
    cut(world, frozen.pid)
    second = world.upload()
    assert second.exit_code == 0, second.stderr
    before, mails = Counter(effects(world)), len(world.mail.messages)
    frozen.send_signal(signal.SIGCONT)
    run = world.finish(frozen)
    assert run.exit_code == 75, run.stderr
    assert Counter(effects(world)) - before == Counter(), "a run that lost its lock went on"
    assert len(world.mail.messages) == mails
    assert_done_once(world, campaigns, empty)


def test_number_taken__ends_the_run_before_its_next_effect(world: World) -> None:
    """The connection lives, but another run has taken the number: what a pooler that swaps sessions does."""
    add_work(world, letters="a")
    fault = world.box.fail(r"POST .*/files/content", delay=1.0, times=1)
    process = start(world, 1, TRANSFER_WORKERS="1")[0]
    wait_for(lambda: fault.hits == 1)
    world.sql("UPDATE run_epochs SET epoch = epoch + 1 WHERE lock = 1")
    ledger = world.sql("SELECT count(*) FROM campaign_assets")
    before = effects(world)
    run = world.finish(process)
    assert run.exit_code == 75
    assert "another run has taken the lock" in run.stderr
    assert effects(world) == before
    assert world.sql("SELECT count(*) FROM campaign_assets") == ledger
    assert not world.mail.messages
    assert world.upload().exit_code == 0


@pytest.mark.parametrize(("system", "match"), AT[1:])
def test_campaign_taken__ends_its_road_before_the_next_effect(world: World, system: str, match: str) -> None:
    """Another host works on the campaign now. This run still has its lock, and goes on with the others."""
    campaigns, empty = add_work(world, letters="a")
    (campaign,) = campaigns
    fault = getattr(world, system).fail(match, delay=1.0, times=1)
    process = start(world, 1, TRANSFER_WORKERS="1")[0]
    wait_for(lambda: fault.hits == 1 and world.row(empty[0])["a1_retry_count"] == 1)
    world.sql("UPDATE campaign_epochs SET epoch = epoch + 1 WHERE campaign_id = %s", campaign)
    ledger = world.sql("SELECT count(*) FROM campaign_assets")
    before = Counter(effects(world))
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (75, {campaign: "interrupted", empty[0]: "empty"}), run.stderr
    assert "another run works on the campaign now" in run.stderr
    assert Counter(effects(world)) - before == Counter(), "a run that lost the campaign went on with it"
    assert world.sql("SELECT count(*) FROM campaign_assets") == ledger
    assert world.row(campaign)["status"] == "A1"
    assert world.upload().exit_code == 0
    assert_done_once(world, campaigns, empty)


def play(world: World, number: int, chance: random.Random) -> int:
    """One round of real uploaders; how many requests a frozen one still had on their way when continued."""
    campaigns, empty = add_work(world, number)
    moment = chance.choice((r"GET .*/contents", r"GET .*/children", r"POST .*/folders"))
    system: Callable[..., object] = world.box.fail if "POST" in moment else world.dam.fail
    fault = system(moment, delay=0.8, times=2)  # longer than the pause below: the run is still at work then
    first = start(world, chance.randint(2, 4))
    wait_for(lambda: fault.hits >= 1)  # type: ignore[attr-defined]
    threading.Event().wait(chance.uniform(0, 0.5))
    worker = next((process for process in first if process.pid == holder(world)), None)
    assert worker is not None
    worker.send_signal(signal.SIGSTOP)
    is_cut = chance.random() < 0.75
    if is_cut:
        cut(world, worker.pid)
    # One that was started with the first may be slow enough to take over from it.
    others = finish_all(world, [*start(world, 3), *(process for process in first if process is not worker)])
    before, mails = Counter(effects(world)), len(world.mail.messages)
    codes = Counter(run.exit_code for run in others.values())
    assert set(codes) <= {0, 75}
    assert (codes[0] > 0) == is_cut, codes
    worker.send_signal(signal.SIGCONT)
    ended = finish_all(world, [worker])
    late = 0
    if is_cut:
        assert ended[worker.pid].exit_code == 75, ended[worker.pid].stderr
        late = sum((Counter(effects(world)) - before).values())
        assert late <= 4, "more than one request for each worker that was past its question"
        assert len(world.mail.messages) - mails == 0
    else:
        assert ended[worker.pid].exit_code == 0, ended[worker.pid].stderr
    assert_done_once(world, campaigns, empty) if number == 0 else None
    for campaign in campaigns:
        assert world.dam.status(campaign) == "A2"
    for campaign in empty:
        world.dam.set_status(campaign, "B1")
    world.dam.clear_faults()
    world.box.clear_faults()
    return late


@pytest.mark.single_run
@pytest.mark.timeout(3600)
def test_uploaders__many_rounds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(7)  # noqa: S311 - a seeded play
    late = [play(world, number, chance) for number in range(25)]
    with capsys.disabled():
        sys.stdout.write(f"requests on their way when frozen, by round: {late}\n")
    sent = [received.message["Message-ID"] for received in world.mail.messages]
    assert len(set(sent)) == len(sent)
