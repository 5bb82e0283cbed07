"""The transfer at work: many at once, killed and gone on with, verified, and told about in a receipt."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from simulators.dam import GeneratedContent
from world import World, wait_for

MEBIBYTE = 1024 * 1024
UPLOADER = "a1_to_a2_box_uploader.py"
PARTS = r"PUT .*/upload_sessions/"
FILM = GeneratedContent(24 * MEBIBYTE + 17, seed=7)


def add_film(world: World, content: GeneratedContent = FILM) -> tuple[str, str]:
    """A campaign with one large file, which goes up in parts of 1 MiB."""
    world.box.options.part_size = MEBIBYTE
    campaign = world.dam.add_campaign("Film", "C-1")
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    return campaign, world.dam.add_asset(folder, "film.mp4", content)


def campaign_reads(world: World) -> list[str]:
    """Which campaigns the DAM was asked to show, one after the other."""
    paths = [call.path for call in world.dam.calls("GET", "/folders/")]
    return [path for path in paths if re.fullmatch(".*/folders/[0-9a-f]{40}", path)]


def sent_parts(world: World) -> list[str]:
    """The ranges of the parts that Box took, in order of arrival."""
    return [
        call.headers["content-range"]
        for call in world.box.calls("PUT", "/api/2.0/files/upload_sessions/")
        if call.status == 200
    ]


def kill_after_parts(world: World, count: int) -> None:
    """Start a run and kill it when Box has received so many parts."""
    world.box.options.upload_delay = 0.02
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: len(sent_parts(world)) >= count)
    process.send_signal(signal.SIGKILL)
    world.finish(process)
    world.box.options.upload_delay = 0.0
    time.sleep(0.2)  # what was on its way when the process died may still be taken
    assert len(world.box.open_sessions()) == 1


def assert_film_is_whole(world: World, campaign: str, content: GeneratedContent = FILM) -> None:
    assert world.dam.status(campaign) == "A2"
    assert world.box_files() == {"C-1 - Film/film.mp4": (content.size, content.sha1())}
    assert not world.box.open_sessions()
    assert world.sql("SELECT * FROM upload_sessions") == []


# ---------------------------------------------------------------------------------------------------------
# Many at once


def test_small_files__cost_one_call_on_each_side(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [(f"{n}.jpg", bytes([n]) * 500) for n in range(40)])
    run = world.upload()
    assert run.outcomes == {campaign: "uploaded"}
    assert len([call for call in world.dam.requests if call.path.endswith("/contents")]) == 40
    assert len(world.dam.calls("POST", "/sessions/oauth2/token")) == 1
    calls = [f"{call.method} {call.path}" for call in world.box.requests]
    assert calls.count("POST /api/2.0/files/content") == 41, "40 files and the receipt"
    assert calls.count("POST /oauth2/token") == 1, "one token for all workers"
    assert len(calls) == 43, "besides: the campaign's folder"
    moved = run.report["transfer"]
    assert (moved["files"], moved["bytes"]) == (40, 20_000)
    assert moved["bytes_per_second"] > 0


def test_token_that_ends__is_renewed_once_for_all(world: World) -> None:
    files = [(f"{n}.jpg", bytes([n]) * 500) for n in range(30)]
    campaign = world.add_full_campaign("Summer", "C-1", files)
    world.box.fail(r"POST .*/files/content", delay=0.1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: len(world.box.files()) >= 4)
    world.box.expire_tokens()
    world.dam.expire_tokens()
    run = world.finish(process)
    assert run.outcomes == {campaign: "uploaded"}
    assert len(world.box.calls("POST", "/oauth2/token")) == 2
    assert len(world.dam.calls("POST", "/sessions/oauth2/token")) == 2


def test_small_campaign__does_not_wait_for_a_big_one(world: World) -> None:
    """The big one is looked at first, and has 60 files in the queue."""
    big = world.dam.add_campaign("Big", "C-1", campaign_id="0" * 39 + "1")
    folder = world.dam.master_assets_folder(big)
    for number in range(60):
        world.dam.add_asset(folder, f"{number}.jpg", bytes([number]) * 100)
    small = world.add_full_campaign("Small", "C-2", [("one.jpg", b"1")])
    world.dam.fail(r"GET .*/contents", delay=0.05)
    run = world.upload(TRANSFER_WORKERS="2")
    assert run.outcomes == {big: "uploaded", small: "uploaded"}
    lines = [call.path for call in world.dam.requests if call.method == "PATCH" or "contents" in call.path]
    small_is_done = next(number for number, path in enumerate(lines) if path.endswith(small))
    assert small_is_done < len(lines) - 20, "A2 comes with a campaign's own last file"


def test_slow_file__holds_up_nobody(world: World) -> None:
    slow = world.add_full_campaign("Slow", "C-1", [("quick.jpg", b"quick")])
    folder = world.dam.master_assets_folder(slow)
    assert folder is not None
    asset = world.dam.add_asset(folder, "slow.jpg", b"slow")
    others = [world.add_full_campaign(f"Quick {n}", f"Q-{n}", [("a.jpg", bytes([n]))]) for n in range(5)]
    fault = world.dam.fail(f"GET .*/assets/{asset}/contents", delay=5.0, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: all(world.dam.status(campaign) == "A2" for campaign in others))
    assert fault.hits == 1
    assert world.dam.status(slow) == "A1"
    run = world.finish(process)
    assert set(run.outcomes.values()) == {"uploaded"}


def test_large_file__has_four_parts_on_their_way_at_most(world: World) -> None:
    campaign, _ = add_film(world)
    fault = world.box.fail(PARTS, delay=2.5)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: fault.hits == 4)
    time.sleep(0.4)
    assert fault.hits == 4, "none of the four was answered yet"
    world.box.clear_faults()
    assert world.finish(process).outcomes == {campaign: "uploaded"}
    assert_film_is_whole(world, campaign)


@pytest.mark.parametrize("call", [r"GET .*/folders/{}\?", "GET .*/folders/{}/children", "PATCH .*/{}"])
def test_slow_answer_about_one_campaign__holds_up_no_other(world: World, call: str) -> None:
    slow = world.dam.add_campaign("Slow", "C-1", campaign_id="0" * 39 + "1")  # the first to be looked at
    folder = world.dam.master_assets_folder(slow)
    assert folder is not None
    world.dam.add_asset(folder, "a.jpg", b"a")
    others = [world.add_full_campaign(f"Quick {n}", f"Q-{n}", [("a.jpg", bytes([n]))]) for n in range(8)]
    fault = world.dam.fail(call.format(slow), delay=5.0, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: all(world.dam.status(campaign) == "A2" for campaign in others))
    assert fault.hits == 1
    assert world.dam.status(slow) == "A1"
    run = world.finish(process)
    assert run.outcomes == dict.fromkeys([slow, *others], "uploaded")


def test_sigterm__asks_about_no_further_campaign(world: World) -> None:
    campaigns = [world.add_full_campaign(f"Summer {n}", f"C-{n}", [("a.jpg", b"a")]) for n in range(30)]
    world.dam.fail(r"GET .*/folders/[0-9a-f]{40}\?", delay=1.0)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: bool(campaign_reads(world)))
    process.send_signal(signal.SIGTERM)
    run = world.finish(process)
    assert run.exit_code == 75, run.stderr
    assert run.outcomes == {}
    assert len(campaign_reads(world)) <= 8, "those that were asked about then"
    assert {world.dam.status(campaign) for campaign in campaigns} == {"A1"}


def test_sigterm__while_the_folder_is_made_begins_no_file(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    making = world.box.fail(r"POST /2.0/folders", delay=1.0, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: making.hits == 1)
    process.send_signal(signal.SIGTERM)
    run = world.finish(process)
    assert run.exit_code == 75, run.stderr
    assert run.outcomes == {campaign: "interrupted"}
    assert world.box_files() == {}
    assert world.upload().outcomes == {campaign: "uploaded"}


def test_many_campaigns__large_and_small_in_little_memory(world: World) -> None:
    """Three films and thirty small campaigns with two workers and the smallest budget: all arrive."""
    world.box.options.part_size = 8 * MEBIBYTE
    ids = []
    for number in range(3):
        campaign = world.dam.add_campaign(f"Film {number}", f"F-{number}")
        folder = world.dam.master_assets_folder(campaign)
        world.dam.add_asset(folder, "film.mp4", GeneratedContent(21 * MEBIBYTE, seed=number))
        world.dam.add_asset(folder, "large.tif", GeneratedContent(19 * MEBIBYTE, seed=number + 10))
        ids.append(campaign)
    ids += [world.add_full_campaign(f"Small {n}", f"S-{n}", [("a.jpg", bytes([n]))]) for n in range(30)]
    run = world.upload(TRANSFER_WORKERS="2", TRANSFER_MEMORY_MB="64")
    assert run.exit_code == 0, run.stderr
    assert run.outcomes == dict.fromkeys(ids, "uploaded")


def test_memory__does_not_grow_with_the_file(world: World) -> None:
    """Of 64 MB as of 400 MB no more is in memory than the five buffers of 8 MiB that a file may have."""
    world.box.options.upload_delay = 0.15  # so that all of them are in use
    peaks = []
    for number, size in enumerate((64, 400)):
        campaign = world.dam.add_campaign(f"Film {number}", f"F-{number}")
        folder = world.dam.master_assets_folder(campaign)
        world.dam.add_asset(folder, "film.mp4", GeneratedContent(size * MEBIBYTE, seed=number))
        process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
        peak = 0
        while process.poll() is None:
            with suppress(OSError, StopIteration):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
            time.sleep(0.01)
        assert world.finish(process).outcomes == {campaign: "uploaded"}
        peaks.append(peak)
    assert max(peaks) <= 110_000, f"kB, of which about 40,000 are the program itself: {peaks}"


# ---------------------------------------------------------------------------------------------------------
# Killed and gone on with


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed__sends_only_what_box_lacks(world: World, seed: int) -> None:
    campaign, _ = add_film(world)
    kill_after_parts(world, random.Random(seed).randrange(1, 24))  # noqa: S311 - a place, not a secret
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert_film_is_whole(world, campaign)
    parts = sent_parts(world)
    assert len(parts) == len(set(parts)) == 25, "no part was taken twice"
    resumed = run.report["transfer"]["parts_resumed"]
    assert resumed == 25 - run.report["transfer"]["parts_sent"] > 0
    assert len(world.box.calls("POST", "/api/2.0/files/upload_sessions")) == 2, "one session, one commit"


def test_killed__while_committing_makes_no_second_file(world: World) -> None:
    campaign, _ = add_film(world)
    fault = world.box.fail(r"POST .*/commit", delay=4.0, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: fault.hits == 1)
    process.send_signal(signal.SIGKILL)
    world.finish(process)
    wait_for(lambda: len(world.box_files()) == 1)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert_film_is_whole(world, campaign)
    assert len(sent_parts(world)) == 25


def test_killed__session_that_ended_meanwhile_is_given_up(world: World) -> None:
    campaign, _ = add_film(world)
    kill_after_parts(world, 5)
    world.box.expire_sessions()
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert run.report["transfer"]["parts_resumed"] == 0
    assert world.dam.status(campaign) == "A2"
    assert [session.expired for session in world.box.open_sessions()] == [True]
    assert world.sql("SELECT * FROM upload_sessions") == []


def test_session__that_ends_in_the_middle_is_begun_anew(world: World) -> None:
    campaign, _ = add_film(world)
    world.box.fail(PARTS, status=410, code="session_expired", skip=7, times=1)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert_film_is_whole(world, campaign)


def test_killed__source_changed_meanwhile(world: World) -> None:
    campaign, asset = add_film(world)
    kill_after_parts(world, 5)
    changed = GeneratedContent(FILM.size, seed=8)
    world.dam.replace_content(asset, changed)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert run.report["transfer"]["parts_resumed"] == 0
    assert_film_is_whole(world, campaign, changed)


def test_killed__campaign_left_a1_and_its_session_is_given_back(world: World) -> None:
    campaign, _ = add_film(world)
    kill_after_parts(world, 5)
    world.dam.set_status(campaign, "B1")
    assert world.upload().outcomes == {campaign: "not_a1"}
    assert not world.box.open_sessions()
    assert world.sql("SELECT * FROM upload_sessions") == []


def test_sigterm__stops_a_large_file_at_its_next_part(world: World) -> None:
    campaign, _ = add_film(world)
    world.box.options.upload_delay = 0.2
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json", TRANSFER_WORKERS="2")
    wait_for(lambda: len(sent_parts(world)) >= 3)
    process.send_signal(signal.SIGTERM)
    stopped = world.finish(process)
    assert (stopped.exit_code, stopped.outcomes) == (75, {campaign: "interrupted"})
    assert len(sent_parts(world)) < 15
    world.box.options.upload_delay = 0.0
    run = world.upload()
    assert run.report["transfer"]["parts_resumed"] >= 3
    assert_film_is_whole(world, campaign)


def test_sigterm__with_nothing_left_to_do_is_no_interruption(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    receipt = world.box.fail(r"POST .*/files/content", delay=1.0, skip=1, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: receipt.hits == 1)
    process.send_signal(signal.SIGTERM)
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"})
    assert len(world.receipts()) == 1


def test_killed__while_the_receipt_is_written(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    receipt = world.box.fail(r"POST .*/files/content", delay=3.0, skip=1, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: receipt.hits == 1)
    process.send_signal(signal.SIGKILL)
    world.finish(process)
    assert world.dam.status(campaign) == "A1"
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert [document["run_id"] for document in world.receipts().values()] == [run.report["run_id"]]


@pytest.mark.parametrize("has_ranges", [True, False])
def test_download__that_breaks_goes_on_where_it_broke(world: World, has_ranges: bool) -> None:
    campaign, _ = add_film(world)
    world.dam.options.accept_ranges = has_ranges
    world.dam.fail(r"GET .*/contents", truncate=9_999_999, times=2)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert_film_is_whole(world, campaign)
    assert len(sent_parts(world)) == 25, "what had been sent is not sent again"
    downloads = [call for call in world.dam.requests if call.path.endswith("/contents")]
    assert [call.headers.get("Range") is not None for call in downloads] == [False, True, True][
        : len(downloads)
    ]
    assert {call.status for call in downloads[1:]} == ({206} if has_ranges else {200})


# ---------------------------------------------------------------------------------------------------------
# Verified


@pytest.mark.parametrize("content", [pytest.param(b"small", id="small"), pytest.param(FILM, id="large")])
def test_checksum__other_than_declared_is_no_success(world: World, content: bytes | GeneratedContent) -> None:
    campaign = world.dam.add_campaign("Broken", "C-1")
    folder = world.dam.master_assets_folder(campaign)
    wrong = "0123456789abcdef" * 2
    world.dam.add_asset(folder, "a.bin", content, checksum=wrong)
    run = world.upload()
    assert run.exit_code == 4
    true = hashlib.md5(content).hexdigest() if isinstance(content, bytes) else content.md5()
    error = run.report["campaigns"][0]["error"]
    assert wrong in error
    assert true in error
    assert len([call for call in world.dam.requests if call.path.endswith("/contents")]) == 2
    assert world.box_files() == {}
    assert not world.box.open_sessions()
    assert world.dam.status(campaign) == "A1"
    assert world.upload(DAM_COMPARE_CHECKSUMS="false").outcomes == {campaign: "uploaded"}


def test_bad_copy__is_taken_back_and_the_older_version_stays(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("old.jpg", b"older")])
    assert world.upload().outcomes == {campaign: "uploaded"}
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    (old,) = [file for file in world.box.files() if file.name == "old.jpg"]
    (asset,) = [entry["dam_id"] for entry in next(iter(world.receipts().values()))["assets"]]
    world.dam.replace_content(asset, b"newer")
    world.dam.add_asset(folder, "new.jpg", b"new")
    world.dam.set_status(campaign, "A1")
    world.box.options.wrong_sha1 = True
    run = world.upload()
    assert run.exit_code == 4, run.stderr
    assert world.box_files() == {"C-1 - Summer/old.jpg": (5, hashlib.sha1(b"older").hexdigest())}
    assert world.box.content(old.id) == b"older"
    assert world.dam.status(campaign) == "A1"


def test_pages_shorter_than_asked_for__are_no_end(world: World) -> None:
    """Only an empty page is the last one."""
    world.dam.options.max_page_size = 7
    names = [f"{number:02}.jpg" for number in range(30)]
    campaign = world.add_full_campaign("Summer", "C-1", [(name, name.encode()) for name in names])
    run = world.upload()
    assert run.outcomes == {campaign: "uploaded"}
    assert world.dam.status(campaign) == "A2"
    assert world.box_files() == {
        f"C-1 - Summer/{name}": (len(name), hashlib.sha1(name.encode()).hexdigest()) for name in names
    }
    assert run.report["campaigns"][0]["assets"] == len(names)


def test_changed_while_copied__is_copied_too(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"first")])
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    late = world.dam.add_asset(folder, "b.jpg", b"old")
    world.dam.fail(r"GET .*/contents", delay=0.7, times=3)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: any(call.path.endswith("/contents") for call in world.dam.requests))
    time.sleep(0.3)
    world.dam.add_asset(world.dam.add_folder(folder, "Late"), "c.jpg", b"late")
    wait_for(lambda: len(world.box_files()) >= 1)
    world.dam.replace_content(late, b"changed")
    run = world.finish(process)
    assert run.exit_code == 0, run.stderr
    assert run.report["campaigns"][0]["assets"] == 3
    sizes = {path: size for path, (size, _) in world.box_files().items()}
    assert sizes == {"C-1 - Summer/a.jpg": 5, "C-1 - Summer/b.jpg": 7, "C-1 - Summer/Late/c.jpg": 4}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"body": "{not json"}, id="another answer"),
        pytest.param({"html": True}, id="a page"),
        pytest.param({"html": True, "truncate": 6}, id="a page, cut off"),
    ],
)
@pytest.mark.parametrize("skip", [0, 1], ids=["at once", "where a download is gone on with"])
def test_download__of_something_else_with_status_200_is_not_made_part_of_the_file(
    world: World, fault: dict[str, object], skip: int
) -> None:
    """What follows it, by a Range request, would make up the right number of bytes."""
    campaign, _ = add_film(world)
    world.dam.options.accept_ranges = True
    if skip:
        world.dam.fail(r"GET .*/contents", truncate=5_000_000, times=1)
    wrong = world.dam.fail(r"GET .*/contents", status=200, times=1, **fault)
    run = world.upload()
    assert wrong.hits == 1
    assert run.outcomes == {campaign: "uploaded"}, run.stderr
    assert_film_is_whole(world, campaign)


def test_session__denied_once_is_given_back_all_the_same(world: World) -> None:
    """Box says 404 to the session that a killed run left; forgotten now, it would be open for days."""
    campaign, _ = add_film(world)
    kill_after_parts(world, 2)
    denied = world.box.fail(r"GET .*/upload_sessions/", status=404, times=1)
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert denied.hits == 1
    assert_film_is_whole(world, campaign)


def test_listing__taken_before_a_copy_was_read_again_does_not_count(world: World) -> None:
    """The folder is listed while the last file is on its way; when that is copied anew, so is it listed."""
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"first")])
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.box.options.wrong_sha1 = True
    world.box.options.wrong_sha1_times = 2
    world.box.fail(r"POST .*/files/content", delay=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: sum(call.path.endswith("/contents") for call in world.dam.requests) == 2)
    world.dam.add_asset(folder, "late.jpg", b"late")
    run = world.finish(process)
    assert run.exit_code == 0, run.stderr
    assert run.report["campaigns"][0]["assets"] == 2
    assert world.box_files().keys() == {"C-1 - Summer/a.jpg", "C-1 - Summer/late.jpg"}


# ---------------------------------------------------------------------------------------------------------
# The receipt, and reading both sides again


def test_receipt__lists_everything_and_is_renewed(world: World) -> None:
    files = [("a.jpg", b"a"), ("_manifest.json", b"an asset of that name")]
    campaign = world.add_full_campaign("Summer", "C-1", files)
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    nested = world.dam.add_asset(world.dam.add_folder(folder, "Print"), "p.pdf", b"pdf")
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    (receipt,) = world.receipts().values()
    assert receipt["campaign"] == {"id": campaign, "number": "C-1", "name": "Summer"}
    assert (receipt["run_id"], receipt["files"], receipt["bytes"]) == (run.report["run_id"], 3, 25)
    in_box = {file.path.split("/", 2)[2]: file for file in world.box.files()}
    assert {entry["path"] for entry in receipt["assets"]} == in_box.keys() - {"_manifest.json"}
    for entry in receipt["assets"]:
        file = in_box[entry["path"]]
        assert (entry["size"], entry["sha1"], entry["box_id"]) == (file.size, file.sha1, file.id)
    assert [entry["name"] for entry in receipt["assets"] if entry["dam_id"] == nested] == ["p.pdf"]
    assert max(file.id for file in world.box.files()) == in_box["_manifest.json"].id, "written last"

    world.dam.add_asset(folder, "late.jpg", b"late")
    world.dam.set_status(campaign, "A1")
    assert world.upload().exit_code == 0
    (renewed,) = world.receipts().values()
    assert renewed["files"] == 4
    (file,) = [file for file in world.box.files() if file.name == "_manifest.json"]
    assert file.versions == 2


def test_verify__reads_both_sides_and_writes_nothing(world: World, tmp_path: Path) -> None:
    files = [("a.jpg", b"aaa"), ("b.jpg", b"bbb"), ("c.jpg", b"ccc")]
    campaign = world.add_full_campaign("Summer", "C-1", files)
    folder = world.dam.master_assets_folder(campaign)
    assert world.upload().exit_code == 0
    world.box.clear_requests()
    world.dam.clear_requests()
    before = world.sql("SELECT * FROM campaign_status"), world.box.files()
    good = world.run(UPLOADER, "--verify", campaign, "--json")
    assert (good.exit_code, good.report["differences"]) == (0, []), good.stderr
    assert {call.method for call in world.box.requests if "token" not in call.path} == {"GET"}
    assert {call.method for call in world.dam.requests if "token" not in call.path} == {"GET"}
    assert (world.sql("SELECT * FROM campaign_status"), world.box.files()) == before

    by_name = {file.name: file for file in world.box.files()}
    world.box.delete(by_name["a.jpg"].id, "file")
    world.box.add_file(by_name["a.jpg"].parent_id, "stranger.txt", b"?")
    assets = {entry["name"]: entry["dam_id"] for entry in next(iter(world.receipts().values()))["assets"]}
    world.dam.replace_content(assets["b.jpg"], b"BBB")
    world.dam.add_asset(folder, "d.jpg", b"d")
    bad = world.run(UPLOADER, "--verify", campaign, "--json")
    assert bad.exit_code == 4
    told = "\n".join(bad.report["differences"])
    for wanted in ("is gone", "stranger.txt", hashlib.sha1(b"BBB").hexdigest(), "d.jpg) was never copied"):
        assert wanted in told
        assert wanted in bad.stderr
    assert len(bad.report["differences"]) == 5, json.dumps(bad.report["differences"], indent=1)
    assert world.run(UPLOADER, "--verify", "f" * 40, "--json").exit_code == 4


# ---------------------------------------------------------------------------------------------------------
# Box's limits


@pytest.mark.parametrize("as_date", [False, True])
def test_429__holds_up_everybody(world: World, as_date: bool) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [(f"{n}.jpg", bytes([n])) for n in range(40)])
    world.box.options.uploads_per_minute = 12
    run_at = time.time()
    world.box.options.retry_after_as_date = as_date
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: any(call.status == 429 for call in world.box.requests))
    time.sleep(1.5)
    world.box.clear_requests()
    time.sleep(2)
    assert not world.box.requests, "all workers keep the silence that Box asked one of them for"
    world.box.options.uploads_per_minute = None
    process.send_signal(signal.SIGKILL)
    world.finish(process)
    assert world.dam.status(campaign) == "A1"
    assert time.time() - run_at < 30


@pytest.mark.parametrize(("setting", "counted"), [("false", 2), ("true", 27)])
def test_parts__count_as_uploads_when_told_so(world: World, setting: str, counted: int) -> None:
    """The session and the receipt do in any case."""
    campaign, _ = add_film(world)
    assert world.upload(BOX_PARTS_COUNT_AS_UPLOADS=setting).outcomes == {campaign: "uploaded"}
    (bucket,) = world.sql("SELECT counts FROM rate_buckets WHERE bucket = 'box_uploads'")
    assert counted <= sum(bucket["counts"]) <= counted + 8, "leave is taken in batches of four at most"


def test_limits__are_kept_over_consecutive_runs(world: World) -> None:
    world.box.options.uploads_per_minute = 40
    world.box.options.calls_per_minute = 400
    limits = {"BOX_UPLOADS_PER_MINUTE": "40", "BOX_CALLS_PER_MINUTE": "400"}
    for number in range(3):
        files = [(f"{n}.jpg", bytes([n, number])) for n in range(5)]
        world.add_full_campaign(f"Summer {number}", f"C-{number}", files)
        assert world.upload(**limits).exit_code == 0
    assert not [call for call in world.box.requests if call.status == 429]
    counted = world.sql("SELECT counts FROM rate_buckets WHERE bucket = 'box_uploads'")[0]["counts"]
    assert sum(counted) >= 18


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("loss", ["drop", "no JSON"])
def test_upload_whose_answer_is_lost__is_known_again_in_spite_of_a_wrong_answer(
    world: World, loss: str, times: int
) -> None:
    """Box's answer about what has the name may be wrong, too: one more file is not the way out."""
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    fault: dict[str, Any] = {"drop": "after"} if loss == "drop" else {"status": 200, "body": b"{not"}
    world.box.fail(r"POST .*/files/content", times=1, effect=loss != "drop", **fault)
    world.box.options.wrong_sha1, world.box.options.wrong_sha1_times = True, times
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert world.box_files().keys() == {"C-1 - Summer/a.jpg"}


def test_bad_copy__that_cannot_be_taken_back_gets_a_new_version(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    world.box.options.wrong_sha1, world.box.options.wrong_sha1_times = True, 4
    kept = world.box.fail(r"DELETE .*/files", status=403)
    run = world.upload()
    assert (run.exit_code, run.outcomes, kept.hits) == (0, {campaign: "uploaded"}, 1), run.stderr
    assert world.box_files().keys() == {"C-1 - Summer/a.jpg"}
