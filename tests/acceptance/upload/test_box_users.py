"""Several users of Box share the work: each within its own limits, and each continues what it began."""

from __future__ import annotations

import signal
import time
from collections import Counter
from hashlib import sha1
from typing import Any

import pytest

from shared.rules.users import user_for
from simulators.dam import GeneratedContent
from world import World, wait_for

MEBIBYTE = 1024 * 1024
UPLOADER = "a1_to_a2_box_uploader.py"
FILM = GeneratedContent(24 * MEBIBYTE + 17, seed=7)
SESSIONS = "/api/2.0/files/upload_sessions"


@pytest.fixture
def users(world: World) -> tuple[str, str]:
    """Two users, in BOX_USERS."""
    pair = (world.box.add_user(), world.box.add_user())
    world.changes["BOX_USERS"] = ",".join(pair)
    return pair


def ids_of(user: str, users: tuple[str, str], count: int) -> list[str]:
    """Ids, as of assets and campaigns, that belong to a user."""
    ids = (sha1(f"{user} {number}".encode()).hexdigest() for number in range(10_000))
    return [one for one in ids if user_for(one, users) == user][:count]


def add_film(world: World, campaign_id: str, asset_id: str) -> None:
    """A campaign with one large file, which goes up in parts of 1 MiB."""
    world.box.options.part_size = MEBIBYTE
    world.dam.add_campaign("Film", "C-1", campaign_id=campaign_id)
    folder = world.dam.master_assets_folder(campaign_id)
    assert folder is not None
    world.dam.add_asset(folder, "film.mp4", FILM, asset_id=asset_id)


def kill_after_parts(world: World, count: int) -> None:
    """Start a run, and kill it when Box has received this many parts."""
    world.box.options.upload_delay = 0.02
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json")
    wait_for(lambda: len([call for call in world.box.calls("PUT", SESSIONS) if call.status == 200]) >= count)
    process.send_signal(signal.SIGKILL)
    world.finish(process)
    world.box.options.upload_delay = 0.0
    time.sleep(0.2)  # a part that was being sent when the process died may still arrive
    world.box.clear_requests()


def callers(world: World, method: str | None = None, path: str | None = None) -> Counter[str]:
    """How many calls each user made; "": the service account."""
    calls = world.box.calls(method, path)
    return Counter(call.headers.get("as-user", "") for call in calls if call.path != "/oauth2/token")


def test_two_users__share_a_campaign_within_the_limits_of_each(world: World, users: tuple[str, str]) -> None:
    """101 uploads in less than a minute are more than one user may make."""
    limit = {"BOX_UPLOADS_PER_MINUTE": "80", "BOX_CALLS_PER_MINUTE": "160"}
    world.box.options.uploads_per_minute, world.box.options.calls_per_minute = 80, 160
    files = [(f"{number}.jpg", bytes([number]) * 500) for number in range(100)]
    campaign = world.add_full_campaign("Summer", "C-1", files)
    run = world.upload(**limit)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert {call.status for call in world.box.requests} <= {200, 201}, "no 429, and no conflict"
    uploads = callers(world, "POST", "/api/2.0/files/content")
    assert sum(uploads.values()) == 101, "the files and the receipt"
    assert uploads.keys() == set(users)
    assert max(uploads.values()) <= 80
    assert callers(world)[""] == 0, "the service account only logs in"
    assert len(world.box.calls("POST", "/oauth2/token")) == 1

    made_by = {file.name: file.created_by for file in world.box.files()}
    (receipt,) = world.receipts().values()
    for entry in receipt["assets"]:
        assert made_by[entry["name"]] == user_for(entry["dam_id"], users)
    owner = user_for(campaign, users)
    assert made_by["_manifest.json"] == owner
    assert callers(world, "POST", "/2.0/folders") == {owner: 1}
    counts = world.sql("SELECT bucket, counts FROM rate_buckets")
    assert {row["bucket"] for row in counts} == {
        f"{name}:{user}" for name in ("box_uploads", "box_calls") for user in users
    }


def test_no_users__calls_and_buckets_are_those_of_the_service_account(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert all("as-user" not in call.headers for call in world.box.requests)
    buckets = {row["bucket"] for row in world.sql("SELECT bucket FROM rate_buckets")}
    assert buckets == {"box_uploads", "box_calls"}


def test_pause__of_one_user_does_not_stop_the_other(world: World, users: tuple[str, str]) -> None:
    paused, other = users
    campaign = ids_of(other, users, 7)[6]
    world.dam.add_campaign("Summer", "C-1", campaign_id=campaign)
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    for user in users:
        for asset_id in ids_of(user, users, 6):
            world.dam.add_asset(folder, f"{user} {asset_id[:8]}.jpg", b"x", asset_id=asset_id)
    world.sql(
        "INSERT INTO rate_buckets (bucket, paused_until) VALUES (%s, extract(epoch FROM now()) + 200)",
        f"box_uploads:{paused}",
    )
    process = world.start(UPLOADER, "--auth-pfx-v2", "--json", TRANSFER_WORKERS="16")
    wait_for(lambda: len(world.box.files()) == 6)
    time.sleep(1)
    assert {file.created_by for file in world.box.files()} == {other}
    process.send_signal(signal.SIGTERM)
    assert world.finish(process).outcomes == {campaign: "interrupted"}
    world.sql("UPDATE rate_buckets SET paused_until = 0")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert Counter(file.created_by for file in world.box.files()) == {other: 7, paused: 6}


# ---------------------------------------------------------------------------------------------------------
# Upload sessions


def test_killed__the_user_who_began_a_large_file_continues_it(world: World, users: tuple[str, str]) -> None:
    """The campaign belongs to the other user. The second run lists the users in another order."""
    (campaign,), (asset,) = ids_of(users[0], users, 1), ids_of(users[1], users, 1)
    add_film(world, campaign, asset)
    kill_after_parts(world, 5)
    assert [session.owner for session in world.box.open_sessions()] == [users[1]]
    run = world.upload(BOX_USERS=f"{users[1]},{users[0]}")
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert run.report["transfer"]["parts_resumed"] >= 5
    assert callers(world, None, SESSIONS).keys() == {users[1]}
    assert callers(world, "POST", SESSIONS) == {users[1]: 1}, "the commit, and no new session"
    made_by = {file.name: file.created_by for file in world.box.files()}
    assert made_by == {"film.mp4": users[1], "_manifest.json": users[0]}
    assert world.box_files() == {"C-1 - Film/film.mp4": (FILM.size, FILM.sha1())}
    assert not world.box.open_sessions()


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("left", ["the other", "nobody"])
def test_killed__a_file_of_a_user_who_was_removed_begins_again(
    world: World, users: tuple[str, str], left: str, status: Any
) -> None:
    """Nobody can abort the session either: Box ends it after 7 days."""
    world.box.options.foreign_session_status = status
    (campaign,), (asset,) = ids_of(users[0], users, 1), ids_of(users[1], users, 1)
    add_film(world, campaign, asset)
    kill_after_parts(world, 5)
    run = world.upload(BOX_USERS=users[0] if left == "the other" else "")
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert run.report["transfer"]["parts_resumed"] == 0
    assert world.dam.status(campaign) == "A2"
    assert world.box_files() == {"C-1 - Film/film.mp4": (FILM.size, FILM.sha1())}
    assert [session.owner for session in world.box.open_sessions()] == [users[1]]
    assert world.sql("SELECT * FROM upload_sessions") == []


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("is_known", [True, False])
def test_stale_session__is_ended_by_its_user_and_fails_no_run(
    world: World, users: tuple[str, str], is_known: bool, status: Any
) -> None:
    """The campaign left A1: with its user the session ends at once; without, it is forgotten."""
    world.box.options.foreign_session_status = status
    (campaign,), (asset,) = ids_of(users[0], users, 1), ids_of(users[1], users, 1)
    add_film(world, campaign, asset)
    kill_after_parts(world, 5)
    world.dam.set_status(campaign, "B1")
    run = world.upload(BOX_USERS=",".join(users) if is_known else users[0])
    assert (run.exit_code, run.outcomes) == (0, {campaign: "not_a1"}), run.stderr
    assert callers(world, "DELETE", SESSIONS) == {users[1] if is_known else users[0]: 1}
    assert len(world.box.open_sessions()) == (0 if is_known else 1)
    assert world.sql("SELECT * FROM upload_sessions") == []


# ---------------------------------------------------------------------------------------------------------
# What another user made


def test_new_user__replaces_a_file_and_the_receipt_that_others_made(
    world: World, users: tuple[str, str]
) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [(f"{n}.jpg", bytes([n])) for n in range(8)])
    assert world.upload().outcomes == {campaign: "uploaded"}
    before = {file.name: file for file in world.box.files()}
    (receipt,) = world.receipts().values()
    world.dam.replace_content(receipt["assets"][0]["dam_id"], b"changed")
    world.dam.set_status(campaign, "A1")
    third = world.box.add_user()
    run = world.upload(BOX_USERS=third)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    after = {file.name: file for file in world.box.files()}
    changed = {name for name in before if after[name].versions == 2}
    assert changed == {receipt["assets"][0]["name"], "_manifest.json"}
    assert {name: file.id for name, file in after.items()} == {name: file.id for name, file in before.items()}


def test_lost_answer__is_found_again_by_the_same_user(world: World, users: tuple[str, str]) -> None:
    """Box has the file, and answers the second try with 409."""
    campaign = world.add_full_campaign("Summer", "C-1", [(f"{n}.jpg", bytes([n])) for n in range(8)])
    world.box.fail(r"POST .*/files/content", drop="after", times=4)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert len(world.box_files()) == 8
    assert all(file.versions == 1 for file in world.box.files())


def test_verify__reads_as_the_user_of_the_campaign(world: World, users: tuple[str, str]) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    assert world.upload().outcomes == {campaign: "uploaded"}
    world.box.clear_requests()
    done = world.run(UPLOADER, "--verify", campaign, "--json")
    assert (done.exit_code, done.report["differences"]) == (0, []), done.stderr
    assert callers(world, "GET", "/2.0/").keys() == {user_for(campaign, users)}


def test_user_without_access__is_named_with_the_remedy(world: World, users: tuple[str, str]) -> None:
    (campaign,), (asset,) = ids_of(users[0], users, 1), ids_of(users[1], users, 1)
    world.dam.add_campaign("Summer", "C-1", campaign_id=campaign)
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.dam.add_asset(folder, "a.jpg", b"a", asset_id=asset)
    world.box.set_access(users[1], "viewer")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (4, {campaign: "failed"}), run.stderr
    error = run.report["campaigns"][0]["error"]
    assert f"Box user {users[1]} may not do that" in error
    assert f"make Box user {users[1]} an editor there" in error
    world.box.set_access(users[1], "editor")
    assert world.upload().outcomes == {campaign: "uploaded"}
