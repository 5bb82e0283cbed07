"""`a1_retry.py explain`, on the way of a campaign from A1 to A2."""

from __future__ import annotations

import json
from typing import Any

from world import Run, World

TOOL = "a1_retry.py"


def explained(run: Run) -> tuple[int, str]:
    """The exit code, and the text on one line."""
    return run.exit_code, " ".join(run.stdout.split())


def document(run: Run) -> dict[str, Any]:
    found = json.loads(run.stdout)
    assert isinstance(found, dict)
    return found


def test_explain__follows_a_campaign_to_a2(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    code, text = explained(world.run(TOOL, "explain", campaign))
    assert code == 4
    assert "UNKNOWN: never_seen" in text
    assert f"explain --live {campaign}" in text

    code, text = explained(world.run(TOOL, "explain", "--live", campaign))
    assert code == 0
    assert 'now: C-1 Summer is in A1, and "Master Assets" is empty: the next run counts attempt 1' in text

    assert world.upload().exit_code == 0
    code, text = explained(world.run(TOOL, "explain", "C-1"))
    assert code == 0
    assert f'C-1 "Summer" {campaign} IN RETRY: empty, since' in text
    assert "to 1, delivered" in text
    assert "The DAM was not asked; --live asks it now." in text

    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.dam.add_asset(folder, "a.jpg", b"abc")
    before = counted(world)
    live = document(world.run(TOOL, "explain", "C-1", "--json", "--live"))
    assert live["state"] == "empty"
    assert live["live"] == {
        "status": "A1", "is_shown": True, "has_folder": True, "assets": 1, "bytes": 3,
        "outcome": "the next run uploads them",
    }  # fmt: skip
    assert counted(world) == before, "nothing is written"

    assert world.upload().outcomes == {campaign: "uploaded"}
    code, text = explained(world.run(TOOL, "explain", "C-1"))
    assert code == 0
    assert "DONE: uploaded, since" in text
    assert "1 asset, 3 bytes are in Box" in text
    assert "Note e-mail" in text


def counted(world: World) -> list[dict[str, Any]]:
    return world.sql(
        "SELECT (SELECT count(*) FROM campaign_events) AS events, (SELECT sum(epoch) FROM campaign_epochs) AS"
        " taken, (SELECT max(updated_at) FROM campaign_status) AS updated_at"
    )


def test_explain__of_an_error_names_it(world: World) -> None:
    world.dam.fail(r"/children", status=403)
    campaign = world.dam.add_campaign("Summer", "C-1")
    assert world.upload().exit_code == 4
    told = world.run(TOOL, "explain", "C-1", "--live")
    assert told.exit_code == 2, "as the error that it met says"
    assert "cannot ask the DAM" in told.stderr
    _code, text = explained(told)
    assert "FAILING: erring, since" in text
    assert "403" in text
    assert "an e-mail went out about the error" in text
    found = document(world.run(TOOL, "explain", campaign, "--json"))
    assert (found["state"], found["attempt"], len(found["errors"])) == ("erring", 0, 1)


def test_explain__of_a_number_that_two_have_names_both(world: World) -> None:
    for name in ("a", "b"):
        world.sql("INSERT INTO campaign_status (campaign_id, campaign_number) VALUES (%s, 'C-1')", name)
    told = world.run(TOOL, "explain", "C-1")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "C-1 may mean any of 2 campaigns; nothing was done. Name one by its id:" in told.stderr


def test_explain__without_the_database_is_to_be_tried_later(world: World) -> None:
    told = world.run(TOOL, "explain", "C-1", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (told.exit_code, told.stdout) == (75, "")
