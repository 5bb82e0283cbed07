"""Faults of the systems around, through the script: nothing counted that should not be, nothing lost or
doubled, no A2 without the bytes, and no other campaign left undone."""

from __future__ import annotations

import hashlib
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sessions import end_sessions
from simulators.dam import GeneratedContent
from world import SCRIPTS, World, wait_for

UPLOADER = "a1_to_a2_box_uploader.py"
ERROR = "🛑 A1→A2 Error - Campaign Broken"
LISTING = r"GET /otmmapi/v6/folders/{broken_folder}/children"
BLOCKED = {"status": 409, "code": "operation_blocked_temporary"}
CAMPAIGN_LISTING = r"GET /otmmapi/v6/folders/{broken}/children"


@dataclass(frozen=True)
class Pair:
    """A campaign that a fault is aimed at, and one beside it that must not suffer."""

    broken: str
    broken_folder: str
    healthy: str
    assets: tuple[str, ...]


def add_pair(world: World, *, empty: bool = False) -> Pair:
    """The broken one comes first in the search, so that it could take the other one with it."""
    files = () if empty else (("a.jpg", b"a" * 100), ("b.pdf", b"b" * 200))
    broken = world.dam.add_campaign("Broken", "C-1", campaign_id="0" * 39 + "1")
    folder = world.dam.master_assets_folder(broken)
    assets = tuple(world.dam.add_asset(folder, name, content) for name, content in files)
    healthy = world.add_full_campaign("Healthy", "C-2")
    return Pair(broken, folder, healthy, assets)


def assert_uploaded_whole(world: World, pair: Pair) -> None:
    """The broken campaign has arrived: A2, its bytes in Box once, no lock, counter at zero."""
    assert world.dam.status(pair.broken) == "A2"
    assert world.dam.lock_state(pair.broken) is None
    assert {path: size for path, (size, _) in world.box_files().items() if path.startswith("C-1 ")} == {
        "C-1 - Broken/a.jpg": 100,
        "C-1 - Broken/b.pdf": 200,
    }
    assert world.box_files()["C-1 - Broken/a.jpg"][1] == hashlib.sha1(b"a" * 100).hexdigest()
    assert not world.box.open_sessions()
    row = world.row(pair.broken)
    assert (row["status"], row["a1_retry_count"]) == ("A2", 0)
    assert world.subjects.count("✅ Uploaded to Box - Campaign Broken (2 assets)") == 1


# ---------------------------------------------------------------------------------------------------------
# The DAM


@pytest.mark.parametrize(
    ("match", "fault", "wanted_kind"),
    [
        pytest.param(LISTING, {"status": 401}, "DAM/not_logged_in", id="401 for ever"),
        pytest.param(LISTING, {"status": 403}, "DAM/forbidden", id="403"),
        pytest.param(LISTING, {"status": 404}, "DAM/not_found", id="404"),
        pytest.param(CAMPAIGN_LISTING, {"status": 404}, "DAM/not_found", id="404 on the campaign"),
        pytest.param(LISTING, {"status": 500}, "DAM/dam_error", id="500"),
        pytest.param(LISTING, {"status": 502, "html": True}, "DAM/out_of_reach", id="HTML 502"),
        pytest.param(LISTING, {"status": 200, "html": True}, "DAM/not_logged_in", id="HTML 200"),
        pytest.param(LISTING, {"drop": "before"}, "DAM/out_of_reach", id="dropped connection"),
        pytest.param(LISTING, {"truncate": 10}, "DAM/out_of_reach", id="answer cut short"),
        pytest.param(LISTING, {"body": {}}, "DAM/bad_answer", id="JSON without a listing"),
        pytest.param(LISTING, {"body": b"{not json"}, "DAM/bad_answer", id="no JSON at all"),
        pytest.param(
            LISTING,
            {"body": {"exception_body": {"http_response_code": 500, "message": "index"}}},
            "DAM/dam_error",
            id="200 carrying an error",
        ),
    ],
)
def test_empty_folder__is_not_counted_when_listing_failed(
    world: World, match: str, fault: dict[str, object], wanted_kind: str
) -> None:
    pair = add_pair(world, empty=True)
    injected = world.dam.fail(match.format(broken=pair.broken, broken_folder=pair.broken_folder), **fault)
    for _ in range(2):
        run = world.upload()
        assert run.exit_code == 4, run.stderr
        assert run.outcomes[pair.broken] == "failed"
    assert injected.hits >= 2
    assert run.report["campaigns"][0]["error"]
    assert world.dam.status(pair.healthy) == "A2", "the next campaign is done all the same"
    assert world.row(pair.broken)["a1_retry_count"] == 0
    assert world.subjects.count(ERROR) == 1, "one error notice when it begins, none for the second run"
    assert world.sql("SELECT kind FROM campaign_errors") == [{"kind": wanted_kind}]

    world.dam.clear_faults()
    assert world.upload().outcomes[pair.broken] == "empty"
    assert world.row(pair.broken)["a1_retry_count"] == 1
    assert world.sql("SELECT kind FROM campaign_errors") == [], "what failed is over"


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        pytest.param(r"GET .*/children", {"status": 401, "times": 1}, id="token ends in mid-run"),
        pytest.param(r"GET .*/children", {"status": 503, "times": 2, "retry_after": 0}, id="503 twice"),
        pytest.param(r"GET .*/children", {"drop": "before", "times": 2}, id="dropped twice"),
        pytest.param(r"POST .*/search/text", {"status": 502, "html": True, "times": 1}, id="search 502"),
        pytest.param(r"POST .*/oauth2/token", {"status": 500, "times": 1}, id="login 500"),
        pytest.param(r"GET .*/contents", {"truncate": 50, "times": 2}, id="download cut short twice"),
        pytest.param(r"GET .*/contents", {"status": 401, "times": 1}, id="download 401"),
        pytest.param(r"GET .*/contents", {"drop": "before", "times": 1}, id="download dropped"),
        pytest.param(r"PATCH ", {"drop": "after", "times": 1}, id="PATCH answer lost"),
        pytest.param(r"PATCH ", {"status": 401, "times": 1}, id="PATCH 401"),
        pytest.param(r"PUT .*/state", {"drop": "after", "times": 1}, id="lock answer lost"),
    ],
)
def test_dam_fault__passing_ones_are_survived(world: World, match: str, fault: dict[str, object]) -> None:
    pair = add_pair(world)
    injected = world.dam.fail(match, **fault)
    run = world.upload()
    assert injected.hits >= 1
    assert run.exit_code == 0, run.stderr
    assert_uploaded_whole(world, pair)


@pytest.mark.parametrize(
    "option",
    [
        pytest.param({"max_page_size": 1}, id="pages of one"),
        pytest.param({"child_count_offset": 7}, id="wrong child count"),
        pytest.param({"child_count_offset": -2}, id="child count says nothing is there"),
        pytest.param({"single_object_lists": True}, id="a list of one is an object"),
        pytest.param({"omit_empty_lists": True}, id="empty lists left out"),
        pytest.param({"patch_404_after_save": True}, id="404 after a save"),
        pytest.param({"status_is_lookup": True}, id="status is a lookup"),
        pytest.param({"flat_metadata": True}, id="flat metadata"),
        pytest.param({"html_login_on_expired": True}, id="login page instead of 401"),
        pytest.param({"lock_refusal": "error"}, id="locks refused by status"),
    ],
)
def test_dam_variants__all_lead_to_a2(world: World, option: dict[str, object]) -> None:
    for name, value in option.items():
        setattr(world.dam.options, name, value)
    pair = add_pair(world)
    empty = world.dam.add_campaign("Empty", "C-3")
    ten = world.dam.add_campaign("Ten", "C-10", status="A10")
    if "html_login_on_expired" in option:
        world.dam.fail(r"GET .*/children", status=401, times=1)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert_uploaded_whole(world, pair)
    assert run.outcomes == {pair.broken: "uploaded", pair.healthy: "uploaded", empty: "empty"}
    assert world.dam.status(ten) == "A10"


def test_listing__that_repeats_a_page_counts_nothing(world: World) -> None:
    pair = add_pair(world)
    world.dam.options.ignore_after = True
    world.dam.options.max_page_size = 1
    run = world.upload("--campaign", pair.broken)
    assert run.exit_code == 4
    assert "repeats a page" in run.report["campaigns"][0]["error"]
    assert world.row(pair.broken)["a1_retry_count"] == 0
    assert world.dam.status(pair.broken) == "A1"


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        pytest.param(
            lambda world, pair: world.dam.add_folder(pair.broken, "Master Assets"),
            "2 folders named",
            id="two folders of that name",
        ),
        pytest.param(
            lambda world, pair: setattr(world.dam.options, "lock_answer", "error"), "lock", id="lock refused"
        ),
        pytest.param(
            lambda world, pair: setattr(world.dam.options, "lock_answer", "bulk_failed_list"),
            "lock",
            id="lock refused in a 200",
        ),
        pytest.param(
            lambda world, pair: world.dam.lock(pair.broken, by="colleague"),
            "colleague",
            id="locked by another",
        ),
        pytest.param(
            lambda world, pair: setattr(world.dam.options, "status_does_not_stick", True),
            "still 'A1'",
            id="A2 does not stick",
        ),
        pytest.param(
            lambda world, pair: world.dam.fail(f"GET .*/assets/{pair.assets[0]}/contents", truncate=50),
            "HTTP|broke|declared",
            id="truncated for ever",
        ),
    ],
)
def test_upload__that_cannot_finish_stays_a1(
    world: World, spoil: Callable[[World, Pair], object], wanted: str
) -> None:
    pair = add_pair(world)
    spoil(world, pair)
    for _ in range(2):
        run = world.upload("--campaign", pair.broken)
        assert run.exit_code == 4, run.stderr
    error = run.report["campaigns"][0]["error"]
    assert any(word in error for word in wanted.split("|")), error
    assert world.dam.status(pair.broken) == "A1"
    assert world.row(pair.broken)["a1_retry_count"] == 0
    assert world.subjects == [ERROR]


@pytest.mark.parametrize("declared", [11, 9, 0])
def test_declared_size__that_lies_is_no_success(world: World, declared: int) -> None:
    campaign = world.dam.add_campaign("Broken", "C-1")
    world.dam.add_asset(world.dam.master_assets_folder(campaign), "a.jpg", b"a" * 10, declared_size=declared)
    run = world.upload()
    assert run.exit_code == 4
    assert f"declared {declared} bytes and sent 10" in run.report["campaigns"][0]["error"]
    assert world.box_files() == {}


def test_dam_down__exits_75_without_mail(world: World) -> None:
    pair = add_pair(world)
    world.dam.stop()
    run = world.upload()
    assert (run.exit_code, world.subjects) == (75, [])
    assert "out of reach" in run.stderr
    world.dam.start()
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)


def test_dam_silence__ends_by_a_time_out(world: World) -> None:
    add_pair(world)
    world.dam.fail(r"POST .*/search/text", delay=30, times=3)
    run = world.upload(DAM_TIMEOUT_SECONDS="0.5")
    assert run.exit_code == 75
    assert "no answer within 0.5 s" in run.stderr


def test_index_lag__a_campaign_just_done_is_recognised(world: World) -> None:
    pair = add_pair(world)
    world.dam.options.index_lag = True
    assert world.upload().outcomes[pair.broken] == "uploaded"
    world.box.clear_requests()
    again = world.upload()
    assert again.outcomes == {pair.broken: "not_a1", pair.healthy: "not_a1"}
    assert not world.box.requests
    assert_uploaded_whole(world, pair)


def test_leftover_lock__of_a_killed_run_is_ours(world: World) -> None:
    pair = add_pair(world)
    world.dam.lock(pair.broken, by=world.dam.username)
    assert world.upload("--campaign", pair.broken).exit_code == 0
    assert world.dam.status(pair.broken) == "A2"
    assert world.dam.lock_state(pair.broken) is None


def test_lock__taken_without_an_answer_is_ours(world: World) -> None:
    pair = add_pair(world)
    lost = world.dam.fail(r"PUT .*/state", drop="after", times=3)
    assert world.upload("--campaign", pair.broken).exit_code == 0
    assert lost.hits == 3
    assert world.dam.status(pair.broken) == "A2"
    assert world.dam.lock_state(pair.broken) is None


def test_lock__asked_for_by_an_earlier_run_and_set_after_everything(world: World) -> None:
    pair = add_pair(world)
    world.dam.fail(r"PUT .*/state", drop="before", times=3)
    assert world.upload("--campaign", pair.broken).exit_code == 4
    assert world.upload().outcomes[pair.broken] == "uploaded"
    world.dam.lock(pair.broken, by=world.dam.username)  # the DAM gets round to the first request only now
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)
    reads = len(world.dam.calls("GET", f"/folders/{pair.broken}"))
    world.sql("UPDATE campaign_status SET lock_doubted_at = lock_doubted_at - interval '1 hour'")
    assert world.upload().exit_code == 0
    assert len(world.dam.calls("GET", f"/folders/{pair.broken}")) == reads, "looked at for ever"


def test_a2__not_to_be_seen_for_a_moment_loses_no_notice(world: World) -> None:
    """A run that ended between A2 and its notice, and a DAM that then denies the campaign once."""
    pair = add_pair(world)
    read = rf"GET .*/folders/{pair.broken}\?"
    lost = world.dam.fail(read, drop="before", skip=2)
    assert world.upload("--campaign", pair.broken).exit_code == 4
    assert world.dam.status(pair.broken) == "A2"
    assert lost.hits
    world.dam.clear_faults()
    # A lock in doubt must not shorten the day.
    world.sql("UPDATE campaign_status SET lock_doubted_at = now()")
    world.dam.fail(read, status=404, times=2)
    for _ in range(2):
        world.upload()
        assert world.row(pair.broken)["status"] == "A1"
    world.dam.clear_faults()
    world.sql("UPDATE campaign_status SET left_search_at = left_search_at - interval '1 day'")
    assert world.upload().outcomes[pair.broken] == "uploaded"
    assert_uploaded_whole(world, pair)


# ---------------------------------------------------------------------------------------------------------
# Box


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        pytest.param(r"POST .*/files/content", {"status": 401, "times": 1}, id="401"),
        pytest.param(r"POST .*/files/content", {"status": 429, "retry_after": 1, "times": 1}, id="429"),
        pytest.param(
            r"POST .*/files/content",
            {"status": 429, "retry_after": "Tue, 24 Nov 2020 00:00:00 GMT", "times": 1},
            id="429 with a date",
        ),
        pytest.param(r"POST .*/files/content", {"status": 500, "times": 1}, id="500"),
        pytest.param(r"POST .*/files/content", {"drop": "before", "times": 1}, id="dropped before"),
        pytest.param(r"POST .*/files/content", {"drop": "after", "times": 1}, id="dropped after"),
        pytest.param(r"POST /2.0/folders", {"drop": "after", "times": 1}, id="folder dropped after"),
        pytest.param(
            r"POST /2.0/folders", {"status": 500, "effect": True, "times": 1}, id="folder 500 after"
        ),
        pytest.param(r"POST /oauth2/token", {"status": 429, "times": 1}, id="login 429"),
        pytest.param(r"POST /2.0/folders", {**BLOCKED, "times": 2}, id="folder blocked for a moment"),
        pytest.param(r"POST .*/files/content", {**BLOCKED, "times": 3}, id="file blocked for a moment"),
        pytest.param(
            r"POST .*/files/content",
            {"status": 409, "code": "name_temporarily_reserved", "effect": True, "times": 1},
            id="name reserved for a moment",
        ),
        pytest.param(r"POST .*/files/content", {"status": 408, "times": 1}, id="408"),
    ],
)
def test_box_fault__passing_ones_are_survived(world: World, match: str, fault: dict[str, object]) -> None:
    pair = add_pair(world)
    injected = world.box.fail(match, **fault)
    run = world.upload()
    assert injected.hits >= 1
    assert run.exit_code == 0, run.stderr
    assert_uploaded_whole(world, pair)


@pytest.mark.parametrize(
    "match", [r"POST .*/upload_sessions$", r"PUT .*/upload_sessions/", r"POST .*/commit"]
)
def test_box_blocked__for_a_moment_in_a_large_file(world: World, match: str) -> None:
    content = GeneratedContent(21 * 1024 * 1024, seed=7)
    campaign = world.dam.add_campaign("Film", "C-1")
    world.dam.add_asset(world.dam.master_assets_folder(campaign), "film.mp4", content)
    blocked = world.box.fail(match, **BLOCKED, times=2)
    run = world.upload()
    assert blocked.hits == 2
    assert run.outcomes == {campaign: "uploaded"}, run.stderr
    assert world.box_files() == {"C-1 - Film/film.mp4": (content.size, content.sha1())}


@pytest.mark.parametrize("match", [r"POST /2.0/folders", r"POST .*/files/content"])
def test_box_blocked__for_long_is_left_for_the_next_run(world: World, match: str) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    blocked = world.box.fail(match, **BLOCKED)
    run = world.upload()
    assert blocked.hits == 4, "repeated with pauses, and not for ever"
    assert (run.exit_code, run.outcomes, world.subjects) == (0, {campaign: "postponed"}, [])
    world.sql("UPDATE campaign_errors SET began_at = began_at - interval '61 minutes'")
    assert (world.upload().exit_code, world.subjects) == (4, ["🛑 A1→A2 Error - Campaign Summer"])
    world.box.clear_faults()
    assert world.upload().outcomes == {campaign: "uploaded"}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 429, "retry_after": 60}, id="429"),
        pytest.param({"status": 503, "retry_after": 60}, id="503"),
    ],
)
@pytest.mark.parametrize("match", [r"POST /2.0/folders", r"POST .*/files/content"])
def test_sigterm__ends_a_pause_that_box_asked_for(world: World, match: str, fault: dict[str, int]) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    silenced = world.box.fail(match, **fault)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: silenced.hits == 1)
    process.send_signal(signal.SIGTERM)
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (75, {campaign: "interrupted"}), run.stderr
    assert silenced.hits == 1
    assert "a bug" not in run.stderr


def test_sigterm__ends_a_silence_that_is_to_last_until_tomorrow(world: World) -> None:
    """A row that a clock which was ahead has left behind."""
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    world.sql(
        "INSERT INTO rate_buckets (bucket, paused_until)"
        " SELECT b, extract(epoch FROM now()) + 86400 FROM unnest(ARRAY['box_calls', 'box_uploads']) b"
    )
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: bool(world.dam.calls("GET", "/folders/")))
    process.send_signal(signal.SIGTERM)
    run = world.finish(process)
    assert run.exit_code in (0, 75), run.stderr
    assert "a bug" not in run.stderr
    assert world.dam.status(campaign) in ("A1", "A2")


def test_box_wrong_sha1__once_in_an_answer_is_asked_again(world: World) -> None:
    pair = add_pair(world)
    world.box.options.wrong_sha1 = True
    world.box.options.wrong_sha1_times = 1
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)


def test_box_wrong_sha1__that_stays_is_no_success(world: World) -> None:
    pair = add_pair(world)
    world.box.options.wrong_sha1 = True
    run = world.upload("--campaign", pair.broken)
    assert run.exit_code == 4
    assert "Box has" in run.report["campaigns"][0]["error"]
    assert world.dam.status(pair.broken) == "A1"
    world.box.options.wrong_sha1 = False
    assert world.upload("--campaign", pair.broken).exit_code == 0
    assert_uploaded_whole(world, pair)


def test_box_login__made_ahead_and_in_vain_costs_an_empty_campaign_nothing(world: World) -> None:
    empty = world.dam.add_campaign("Empty", "C-1")
    refused = world.box.fail(r"POST /oauth2/token", status=500)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {empty: "empty"})
    assert refused.hits == 1, "patience is for those who need it"
    world.box.clear_requests()
    assert world.upload().outcomes == {empty: "empty"}
    assert not world.box.requests, "what was empty before is no reason to log in"


def test_box_down__is_no_campaigns_fault(world: World) -> None:
    pair = add_pair(world)
    empty = world.dam.add_campaign("Empty", "C-3")
    world.box.stop()
    run = world.upload()
    assert run.exit_code == 75, run.stderr
    assert run.outcomes == {pair.broken: "failed", pair.healthy: "failed", empty: "empty"}
    assert world.subjects == ["⚠️ No Assets Found (Attempt 1/3) - Campaign Empty"]
    world.box.start()
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)


def test_box_500__of_one_campaign_leaves_the_next(world: World) -> None:
    pair = add_pair(world)
    folder = world.box.add_folder(world.box_root, "C-1 - Broken")
    world.box.fail(rf"GET /2.0/folders/{folder}/items", status=500, times=4)
    run = world.upload()
    assert run.exit_code == 4, run.stderr
    assert world.dam.status(pair.broken) == "A1"
    assert world.dam.status(pair.healthy) == "A2"
    assert ERROR in world.subjects
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)


def test_box_folder__renamed_and_moved_is_found_again(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    world.upload()
    folder = next(folder for folder in world.box.folders() if folder.name == "C-1 - Summer")
    world.box.rename("folder", folder.id, "Summer (agency's name)")
    world.dam.set_status(campaign, "A1")
    world.dam.add_asset(world.dam.master_assets_folder(campaign), "new.jpg", b"new")
    assert world.upload().exit_code == 0
    assert sorted(world.box_files()) == [
        "Summer (agency's name)/a.jpg",
        "Summer (agency's name)/b.pdf",
        "Summer (agency's name)/new.jpg",
    ]


def test_same_number_and_name__never_share_a_folder(world: World) -> None:
    first = world.add_full_campaign("Twin", "C-1", [("a.jpg", b"first")])
    second = world.add_full_campaign("Twin", "C-1", [("a.jpg", b"second")])
    assert world.upload().exit_code == 0
    assert world.row(first)["box_folder_id"] != world.row(second)["box_folder_id"]
    assert sorted(size for size, _ in world.box_files().values()) == [5, 6]


def test_large_file__goes_up_in_parts_and_survives(world: World) -> None:
    content = GeneratedContent(25 * 1024 * 1024 + 17, seed=7)
    campaign = world.dam.add_campaign("Film", "C-1")
    world.dam.add_asset(world.dam.master_assets_folder(campaign), "film.mp4", content)
    world.box.options.commit_202 = 2
    world.box.options.parts_mismatch_once = True
    world.box.fail(r"PUT .*/upload_sessions/", status=503, times=1, skip=1, retry_after=0)
    world.box.fail(r"PUT .*/upload_sessions/", drop="after", times=1, skip=1)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert world.box_files() == {"C-1 - Film/film.mp4": (content.size, content.sha1())}
    assert not world.box.open_sessions()


def test_large_file__failed_upload_leaves_no_session_unknown(world: World) -> None:
    campaign = world.dam.add_campaign("Film", "C-1")
    folder = world.dam.master_assets_folder(campaign)
    world.dam.add_asset(folder, "film.mp4", GeneratedContent(25 * 1024 * 1024, seed=7))
    world.dam.fail(r"GET .*/contents", truncate=10_000_000)
    run = world.upload()
    assert run.exit_code == 4
    assert world.box_files() == {}
    (left,) = world.box.open_sessions()
    assert world.sql("SELECT session_id FROM upload_sessions") == [{"session_id": left.id}]
    world.dam.clear_faults()
    assert world.upload().exit_code == 0
    assert not world.box.open_sessions()


# ---------------------------------------------------------------------------------------------------------
# Mail, database, processes


def test_smtp_down__delays_notices_and_loses_none(world: World) -> None:
    campaign = world.dam.add_campaign("Summer Launch", "C-1001")
    for _ in range(3):
        run = world.upload(SMTP_PORT="1")
        assert run.exit_code == 0, run.stderr
        assert run.report["notices"]["sent"] == 0
    assert world.row(campaign)["a1_permanently_failed"] is True
    assert world.upload().report["notices"] == {"queued": 0, "sent": 1, "failed": 0}
    assert [subject[:20] for subject in world.subjects] == ["❌ PERMANENTLY FAILED"[:20]]
    body = world.mail.messages[0].message.get_body(("plain",))
    assert body is not None
    assert "The e-mails about attempts 1 and 2 had not gone out; this one takes their place." in (
        body.get_content()
    )
    history = world.sql("SELECT kind, detail ->> 'kind' AS of FROM campaign_events ORDER BY id")
    assert [row["of"][-5:] for row in history if row["kind"] == "notice_folded"] == ["retry", "retry"]
    assert [row["of"][-7:] for row in history if row["kind"] == "notice_sent"] == ["failure"]
    assert world.upload().report["notices"]["sent"] == 0


def test_recipient_refused__others_get_it_once(world: World) -> None:
    campaign = world.dam.add_campaign("Summer Launch", "C-1001")
    world.mail.refuse("bad@example.com", 550, "no such user")
    two = {"ERROR_NOTIFICATION_EMAILS": "support@example.com,bad@example.com"}
    assert world.upload(**two).report["notices"] == {"queued": 1, "sent": 0, "failed": 1}
    world.dam.set_status(campaign, "B1")
    assert world.upload(**two).report["notices"] == {"queued": 0, "sent": 0, "failed": 1}
    assert [received.envelope_to for received in world.mail.messages] == [("support@example.com",)]
    owed = world.sql("SELECT recipient, tries, last_error FROM notice_deliveries WHERE sent_at IS NULL")
    assert [(row["recipient"], row["last_error"]) for row in owed] == [
        ("bad@example.com", "550 no such user")
    ]


def test_smtp_login_refused__says_so_and_the_next_notice_takes_over(world: World) -> None:
    world.dam.add_campaign("Summer Launch", "C-1001")
    world.mail.refuse_login = True
    run = world.upload(SMTP_USERNAME="robot", SMTP_PASSWORD="letmein-please")
    assert run.exit_code == 2
    assert run.report["notices"] == {"queued": 1, "sent": 0, "failed": 1}
    assert "letmein-please" not in run.stderr
    world.mail.refuse_login = False
    assert world.upload().report["notices"] == {"queued": 1, "sent": 1, "failed": 0}
    body = world.mail.messages[0].message.get_body(("plain",))
    assert body is not None
    assert "The e-mail about attempt 1 had not gone out; this one takes its place." in body.get_content()


def test_database_down__exits_75_before_any_other_call(world: World) -> None:
    add_pair(world)
    run = world.upload(DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:1/none")
    assert run.exit_code == 75
    assert "secret-word" not in run.stderr + run.stdout
    assert not world.dam.requests


def test_database_lost__in_the_middle_loses_nothing(world: World) -> None:
    pair = add_pair(world)
    world.dam.fail(r"GET .*/contents", delay=1.5, times=4)  # none of the four files is there too soon
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: any("contents" in call.path for call in world.dam.requests))
    assert end_sessions(world.database_url, "a1_to_a2 %")
    run = world.finish(process)
    assert run.exit_code == 75, run.stderr
    assert world.dam.status(pair.broken) == "A1"
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)


def test_two_runs__one_works_the_other_says_who(world: World) -> None:
    pair = add_pair(world)
    world.dam.fail(r"GET .*/contents", delay=2.0, times=1)
    first = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: any("contents" in call.path for call in world.dam.requests))
    second = world.upload()
    assert second.exit_code == 75
    assert f":{first.pid} run " in second.stderr
    assert world.finish(first).exit_code == 0
    assert_uploaded_whole(world, pair)


@pytest.mark.parametrize(
    ("system", "match"),
    [
        pytest.param("dam", r"POST .*/search/text", id="searching"),
        pytest.param("dam", r"GET .*/contents", id="downloading"),
        pytest.param("box", r"POST /2.0/folders", id="making the folder"),
        pytest.param("box", r"POST .*/files/content", id="uploading"),
        pytest.param("dam", r"PUT .*/state", id="locking"),
        pytest.param("dam", r"PATCH ", id="setting A2"),
        pytest.param("dam", r"GET .*/folders/0+1\?", id="re-reading"),
    ],
)
def test_killed__and_run_again_is_as_if_never_killed(world: World, system: str, match: str) -> None:
    pair = add_pair(world)
    simulator = getattr(world, system)
    # The effect takes place, the answer is late: the process dies between the two.
    fault = simulator.fail(match, delay=5.0, times=1, skip=1 if "folders/0" in match else 0)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: fault.hits == 1)
    kill(world, process)
    simulator.clear_faults()
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    world.upload()
    assert_uploaded_whole(world, pair)


def kill(world: World, process: subprocess.Popen[str]) -> None:
    """As the kernel does it; PostgreSQL ends the session, and its lock, a moment later."""
    process.send_signal(signal.SIGKILL)
    world.finish(process)
    own = "SELECT FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
    wait_for(lambda: not world.sql(own, f"a1_to_a2 %:{process.pid} %"))


def test_killed__between_a2_and_the_record_keeps_the_notice(world: World) -> None:
    pair = add_pair(world)
    fault = world.dam.fail(rf"GET .*/folders/{pair.broken}\?", delay=5.0, times=1, skip=2)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: fault.hits == 1)
    kill(world, process)
    world.dam.clear_faults()
    assert world.dam.status(pair.broken) == "A2"
    assert "✅ Uploaded to Box - Campaign Broken (2 assets)" not in world.subjects
    assert world.upload().outcomes[pair.broken] == "uploaded"
    assert_uploaded_whole(world, pair)


def test_mail_sent_but_answer_lost__comes_again_recognisably(world: World) -> None:
    world.dam.add_campaign("Summer Launch", "C-1001")
    world.mail.drop_after_data = True
    world.upload()
    world.mail.drop_after_data = False
    world.dam.set_status(world.sql("SELECT campaign_id FROM campaign_status")[0]["campaign_id"], "B1")
    world.upload()
    ids = [received.message["Message-ID"] for received in world.mail.messages]
    assert len(ids) == 2
    assert ids[0] == ids[1]


def test_sigterm__finishes_the_file_in_hand(world: World) -> None:
    pair = add_pair(world)
    world.dam.fail(r"GET .*/contents", delay=1.0, times=1)
    arguments = ("--auth-pfx-v2", "--json", "--campaign", pair.broken)
    process = world.start("a1_to_a2_box_uploader.py", *arguments, TRANSFER_WORKERS="1")
    wait_for(lambda: any("contents" in call.path for call in world.dam.requests))
    process.send_signal(signal.SIGTERM)
    run = world.finish(process)
    assert run.exit_code == 75, run.stderr
    assert run.outcomes[pair.broken] == "interrupted"
    assert len(world.box_files()) == 1
    assert world.upload().exit_code == 0
    assert_uploaded_whole(world, pair)


def test_sigterm__ends_the_wait_that_the_dam_asked_for(world: World) -> None:
    """Twice a minute: longer than the test's own patience."""
    asked = world.dam.fail(r"POST .*/search/text", retry_after=60)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: asked.hits > 0)
    process.send_signal(signal.SIGTERM)
    assert world.finish(process).exit_code == 75


def test_sigterm__ends_the_look_at_those_that_left(world: World) -> None:
    campaigns = [world.dam.add_campaign(f"Empty {number}", f"E-{number}") for number in range(12)]
    world.upload()
    for campaign in campaigns:
        world.dam.set_status(campaign, "A7")
    world.dam.clear_requests()
    world.dam.fail(r"GET .*/folders/[0-9a-f]{40}\?", delay=0.5)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: bool(world.dam.calls("GET", "/folders/")))
    process.send_signal(signal.SIGTERM)
    assert world.finish(process).exit_code in (0, 75)
    assert len(world.dam.calls("GET", "/folders/")) < 6
    world.dam.clear_faults()
    world.upload()
    assert {world.row(campaign)["status"] for campaign in campaigns} == {"A7"}


def test_bug__met_while_one_that_left_is_followed_leaves_the_others_alone(
    world: World, tmp_path: Path
) -> None:
    first = world.dam.add_campaign("Autumn", "C-7", campaign_id="0" * 40)
    second = world.dam.add_campaign("Winter", "C-8", campaign_id="f" * 40)
    assert world.upload().exit_code == 0
    for campaign in (first, second):
        world.dam.set_status(campaign, "A7")
    script = tmp_path / "faulty.py"
    script.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from shared.dam.client import DamClient\n"
        "read = DamClient.read_campaign\n"
        "def faulty(dam, campaign_id):\n"
        f"    return 1 / 0 if campaign_id == {first!r} else read(dam, campaign_id)\n"
        "DamClient.read_campaign = faulty\n"
        f"runpy.run_path({str(SCRIPTS / UPLOADER)!r}, run_name='__main__')\n"
    )
    run = world.run(str(script), "--auth-pfx-v2", "--json")
    assert (run.exit_code, run.outcomes[first]) == (3, "failed")
    assert "ZeroDivisionError" in run.stderr
    assert [world.row(campaign)["status"] for campaign in (first, second)] == ["A1", "A7"]


def test_error_notice__reminds_daily_while_it_lasts(world: World) -> None:
    pair = add_pair(world, empty=True)
    world.dam.fail(rf"GET .*/folders/{pair.broken_folder}/children", status=403)
    for _ in range(3):
        world.upload()
    assert world.subjects.count(ERROR) == 1
    world.sql("UPDATE campaign_errors SET began_at = began_at - interval '25 hours',"
              " last_notice_at = last_notice_at - interval '25 hours'")  # fmt: skip
    for _ in range(2):
        world.upload()
    assert world.subjects.count(ERROR) == 2
