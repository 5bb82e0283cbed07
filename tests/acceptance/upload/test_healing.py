"""What heals by itself makes no alarm: the next run sees to it, and a person is told after an hour."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from world import SCRIPTS, World, wait_for

ERROR = "🛑 A1→A2 Error - Campaign Summer"
UPLOADER = "a1_to_a2_box_uploader.py"


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    """The uploader with short pauses between the listings of a campaign that keeps changing."""
    script = tmp_path / "hasty.py"
    script.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "import shared.upload.road\n"
        "shared.upload.road.LISTING_PAUSES = (0.0, 0.01, 0.02, 0.04, 0.08)\n"
        f"runpy.run_path({str(SCRIPTS / UPLOADER)!r}, run_name='__main__')\n"
    )
    return script


@contextmanager
def touched_after_each_look(world: World, campaign: str, asset: str, *, looks: int) -> Iterator[None]:
    """A transcoder that touches the asset's record between each two of the first looks."""
    folder = world.dam.master_assets_folder(campaign)
    is_over = threading.Event()
    world.dam.fail(rf"GET .*/assets/{asset}/contents", delay=0.2)

    def touch() -> None:
        seen = 0
        while not is_over.wait(0.01):
            listings = len(world.dam.calls("GET", f"/folders/{folder}/children"))
            if seen < listings <= looks:
                seen = listings
                world.dam.replace_content(asset, b"the same bytes")

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        world.dam.clear_faults()


def add_summer(world: World) -> tuple[str, str]:
    campaign = world.add_full_campaign("Summer", "C-1", [("still.jpg", b"still")])
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    return campaign, world.dam.add_asset(folder, "film.mov", b"the same bytes")


def test_asset__touched_for_a_while_is_waited_for(world: World, hasty: Path) -> None:
    campaign, asset = add_summer(world)
    with touched_after_each_look(world, campaign, asset, looks=6):
        run = world.run(str(hasty), "--auth-pfx-v2", "--json")
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert "listing it again in" in run.stderr


def test_asset__touched_at_each_look_is_left_for_the_next_run(world: World, hasty: Path) -> None:
    campaign, asset = add_summer(world)
    other = world.add_full_campaign("Winter", "C-2")
    with touched_after_each_look(world, campaign, asset, looks=1000):
        for _ in range(2):
            run = world.run(str(hasty), "--auth-pfx-v2", "--json")
            assert run.exit_code == 0, run.stderr
            assert run.outcomes[campaign] == "postponed"
            (shown,) = [entry for entry in run.report["campaigns"] if entry["campaign_id"] == campaign]
            assert "film.mov" in shown["error"]
            assert "WARNING" in run.stderr
        assert world.dam.status(other) == "A2"
        assert world.sql("SELECT kind FROM campaign_errors") == [{"kind": "DAM/keeps_changing"}]
        assert ERROR not in world.subjects

        world.sql("UPDATE campaign_errors SET began_at = began_at - interval '61 minutes'")
        for _ in range(2):
            run = world.run(str(hasty), "--auth-pfx-v2", "--json")
            assert (run.exit_code, run.outcomes[campaign]) == (4, "failed")
        assert world.subjects.count(ERROR) == 1, "when it has lasted for an hour, then once a day"
        world.sql("UPDATE campaign_errors SET last_notice_at = last_notice_at - interval '25 hours'")
        world.run(str(hasty), "--auth-pfx-v2", "--json")
        assert world.subjects.count(ERROR) == 2
    assert world.upload().outcomes[campaign] == "uploaded"
    assert world.sql("SELECT kind FROM campaign_errors") == []


def test_assets__added_at_each_look_leave_it_in_a1(world: World, hasty: Path) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"first")])
    folder = world.dam.master_assets_folder(campaign)
    world.dam.fail(r"GET .*/contents", delay=0.2)
    is_over = threading.Event()

    def add_after_each_listing() -> None:
        seen = 0
        while not is_over.wait(0.01):
            listings = len(world.dam.calls("GET", f"/folders/{folder}/children"))
            if listings > seen:
                seen = listings
                world.dam.add_asset(folder, f"{seen}.jpg", bytes([seen]))

    adding = threading.Thread(target=add_after_each_listing)
    adding.start()
    run = world.run(str(hasty), "--auth-pfx-v2", "--json")
    is_over.set()
    adding.join()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "postponed"}), run.stderr
    assert "listings" in run.report["campaigns"][0]["error"]
    assert world.dam.status(campaign) == "A1"
    assert world.upload().outcomes == {campaign: "uploaded"}


def test_pause__holds_up_nobody_and_a_stop_ends_it(world: World) -> None:
    campaign, asset = add_summer(world)
    with touched_after_each_look(world, campaign, asset, looks=1000):
        process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
        folder = world.dam.master_assets_folder(campaign)
        wait_for(lambda: len(world.dam.calls("GET", f"/folders/{folder}/children")) >= 7)
        process.send_signal(signal.SIGTERM)
        run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (75, {campaign: "interrupted"}), run.stderr
    assert world.sql("SELECT * FROM campaign_errors") == []
    assert "listing it again in 8 s" not in run.stderr


def test_listing__that_meets_a_404_while_files_are_on_their_way_is_done_again(world: World) -> None:
    """The answer was lost, and the run waited for it for ever."""
    campaign = world.add_full_campaign("Summer", "C-1")
    world.box.options.upload_delay = 1.0  # the folder is listed again meanwhile
    folder = world.dam.master_assets_folder(campaign)
    fault = world.dam.fail(rf"GET .*/folders/{folder}/children", status=404, skip=1, times=1)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert fault.hits == 1


# ---------------------------------------------------------------------------------------------------------
# Deleted while it is copied


def add_summer_of_one(world: World) -> tuple[str, str]:
    campaign = world.add_full_campaign("Summer", "C-1", [])
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    return campaign, world.dam.add_asset(folder, "film.mov", b"the same bytes")


@pytest.mark.parametrize(
    ("add", "remove", "outcome", "subject"),
    [
        pytest.param(
            add_summer,
            lambda world, campaign, asset: world.dam.remove(asset),
            "uploaded",
            "✅ Uploaded to Box - Campaign Summer (1 asset)",
            id="an asset",
        ),
        pytest.param(
            add_summer_of_one,
            lambda world, campaign, asset: world.dam.remove(asset),
            "empty",
            "⚠️ No Assets Found (Attempt 1/3) - Campaign Summer",
            id="the last asset",
        ),
        pytest.param(
            add_summer,
            lambda world, campaign, asset: world.dam.remove(world.dam.master_assets_folder(campaign)),
            "folder_missing",
            "⚠️ No Assets Found (Attempt 1/3) - Campaign Summer",
            id="the folder",
        ),
        pytest.param(
            add_summer,
            lambda world, campaign, asset: world.dam.remove(campaign),
            "not_found",
            None,
            id="the campaign",
        ),
        pytest.param(
            add_summer,
            lambda world, campaign, asset: (world.dam.remove(asset), world.dam.set_status(campaign, "B1")),
            "not_a1",
            None,
            id="an asset, and the campaign left A1",
        ),
    ],
)
@pytest.mark.parametrize("status", [404, 410])
def test_deleted__while_it_is_copied_is_no_error(
    world: World,
    add: Callable[[World], tuple[str, str]],
    remove: Callable[[World, str, str], object],
    outcome: str,
    subject: str | None,
    status: int,
) -> None:
    campaign, asset = add(world)
    answer = {"status": 410} if status == 410 else {}  # 404 is the simulator's own answer
    held = world.dam.fail(rf"GET .*/assets/{asset}/contents", delay=1, times=1, **answer)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: held.hits == 1)
    remove(world, campaign, asset)
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (0, {campaign: outcome}), run.stderr
    assert world.subjects == ([] if subject is None else [subject])
    assert world.sql("SELECT * FROM campaign_errors") == []


def test_deleted__sub_folder_while_the_tree_is_listed(world: World) -> None:
    campaign, _ = add_summer(world)
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    below = world.dam.add_folder(folder, "Print")
    world.dam.add_asset(below, "p.pdf", b"pdf")
    late = world.dam.fail(f"GET .*/folders/{below}/children", delay=1, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: late.hits == 1)
    world.dam.remove(below)
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert world.box_files().keys() == {"C-1 - Summer/still.jpg", "C-1 - Summer/film.mov"}


def test_asset__that_is_listed_and_missing_is_a_failure(world: World) -> None:
    campaign, asset = add_summer(world)
    denied = world.dam.fail(rf"GET .*/assets/{asset}/contents", status=404)
    for _ in range(2):
        run = world.upload()
        assert (run.exit_code, run.outcomes) == (4, {campaign: "failed"})
    assert denied.hits == 4, "asked twice in each run"
    assert world.subjects == [ERROR]
    assert world.sql("SELECT kind FROM campaign_errors") == [{"kind": "DAM/not_found"}]


@pytest.mark.parametrize(
    ("content", "has_checksums"),
    [(b"longer than before", False), (b"short", False), (b"THE SAME BYTES", True)],
)
def test_replaced__while_it_is_copied_is_no_error(world: World, content: bytes, has_checksums: bool) -> None:
    """Its bytes are other ones than were listed: the next listing shows why."""
    world.dam.options.generated_checksums = has_checksums
    campaign, asset = add_summer(world)
    held = world.dam.fail(rf"GET .*/assets/{asset}/contents", delay=1, times=1)
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: held.hits == 1)
    world.dam.replace_content(asset, content)
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert world.box_files()["C-1 - Summer/film.mov"][0] == len(content)
    assert ERROR not in world.subjects


def test_replaced__again_and_again_is_left_for_the_next_run(world: World, hasty: Path) -> None:
    campaign, asset = add_summer(world)
    is_over = threading.Event()

    def replace() -> None:
        size = 1000
        while not is_over.wait(0.01):
            size += 1
            world.dam.replace_content(asset, b"x" * size)

    world.dam.fail(rf"GET .*/assets/{asset}/contents", delay=0.2)
    replacing = threading.Thread(target=replace)
    replacing.start()
    run = world.run(str(hasty), "--auth-pfx-v2", "--json")
    is_over.set()
    replacing.join()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "postponed"}), run.stderr
    assert "film.mov" in run.report["campaigns"][0]["error"]
    assert world.upload().outcomes == {campaign: "uploaded"}
