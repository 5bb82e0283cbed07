"""The three scenarios, through the script as a user runs it."""

import hashlib

import pytest

from world import World

RETRY_1 = "⚠️ No Assets Found (Attempt 1/3) - Campaign Summer Launch"
RETRY_2 = "⚠️ No Assets Found (Attempt 2/3) - Campaign Summer Launch"
PERMANENT = "❌ PERMANENTLY FAILED - Campaign Summer Launch (No Assets After 3 Attempts)"


def test_temporary__assets_arrive_after_attempt_1(world: World) -> None:
    campaign = world.dam.add_campaign("Summer Launch", "C-1001")
    first = world.upload()
    assert first.exit_code == 0, first.stderr
    assert first.outcomes == {campaign: "empty"}
    assert world.subjects == [RETRY_1]
    assert world.row(campaign)["a1_retry_count"] == 1

    folder = world.dam.master_assets_folder(campaign)
    world.dam.add_asset(folder, "key visual.jpg", b"pixels" * 1000)
    nested = world.dam.add_folder(folder, "Print")
    world.dam.add_asset(nested, "poster – größe.pdf", b"%PDF")
    second = world.upload()
    assert second.exit_code == 0, second.stderr
    assert second.outcomes == {campaign: "uploaded"}
    assert second.report["campaigns"][0] == {
        "campaign_id": campaign,
        "campaign_number": "C-1001",
        "campaign_name": "Summer Launch",
        "outcome": "uploaded",
        "attempt": 0,
        "max_attempts": 3,
        "assets": 2,
        "bytes": 6004,
        "error": None,
    }
    assert world.dam.status(campaign) == "A2"
    assert world.dam.lock_state(campaign) is None
    assert world.box_files() == {
        "C-1001 - Summer Launch/key visual.jpg": (6000, hashlib.sha1(b"pixels" * 1000).hexdigest()),
        "C-1001 - Summer Launch/Print/poster – größe.pdf": (4, hashlib.sha1(b"%PDF").hexdigest()),
    }
    row = world.row(campaign)
    assert (row["status"], row["a1_retry_count"], row["a1_permanently_failed"]) == ("A2", 0, False)
    assert world.subjects == [RETRY_1, "✅ Uploaded to Box - Campaign Summer Launch (2 assets)"]


@pytest.mark.parametrize("way", ["sql", "tool"])
def test_persistent__three_attempts_then_peace_until_reset(world: World, way: str) -> None:
    campaign = world.dam.add_campaign("Summer Launch", "C-1001", master_assets=(way == "sql"))
    runs = [world.upload() for _ in range(3)]
    assert [run.exit_code for run in runs] == [0, 0, 0]
    found = "empty" if way == "sql" else "folder_missing"
    assert [run.outcomes[campaign] for run in runs] == [found, found, "permanently_failed"]
    assert world.subjects == [RETRY_1, RETRY_2, PERMANENT]
    assert world.row(campaign)["a1_permanently_failed"] is True

    if way == "sql":
        world.dam.add_asset(world.dam.master_assets_folder(campaign), "late.jpg", b"late")
    world.dam.clear_requests()
    for _ in range(2):
        quiet = world.upload()
        assert (quiet.exit_code, quiet.outcomes[campaign]) == (0, "skipped_permanently_failed")
        assert quiet.report["notices"] == {"queued": 0, "sent": 0, "failed": 0}
    assert len(world.mail.messages) == 3
    assert not [call for call in world.dam.requests if campaign in call.path]

    if way == "sql":
        world.sql(
            "UPDATE campaign_status SET a1_retry_count = 0, a1_last_retry_at = NULL,"
            " a1_permanently_failed = FALSE, a1_failure_reason = NULL WHERE campaign_id = %s",
            campaign,
        )
    else:
        reset = world.run("a1_retry.py", "reset", campaign, "--by", "support", "--reason", "files promised")
        assert reset.exit_code == 0, reset.stderr
        noted = world.sql("SELECT actor, reason, detail FROM campaign_events WHERE kind = 'reset'")
        detail = {"attempts": 3, "permanently_failed": True, "next_cycle": 2}
        assert noted == [{"actor": "support", "reason": "files promised", "detail": detail}]
    again = world.upload()
    assert again.outcomes[campaign] == ("uploaded" if way == "sql" else "folder_missing")
    if way == "tool":
        assert world.subjects[3:] == [RETRY_1]
    else:
        assert world.dam.status(campaign) == "A2"


def test_wrong_status__leaves_the_runs_without_a_reset(world: World) -> None:
    campaign = world.dam.add_campaign("Summer Launch", "C-1001")
    world.upload()
    world.dam.set_status(campaign, "B1")
    for _ in range(2):
        run = world.upload()
        assert run.exit_code == 0, run.stderr
    assert world.subjects == [RETRY_1]
    row = world.row(campaign)
    assert (row["status"], row["a1_retry_count"]) == ("B1", 1)
    world.dam.clear_requests()
    world.upload()
    assert not [call for call in world.dam.requests if campaign in call.path], "re-read once, not for ever"
