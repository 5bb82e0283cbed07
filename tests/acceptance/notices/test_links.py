"""The settings' addresses reach what every script shows: its e-mails, its report, its explanation."""

from __future__ import annotations

import json

import pytest

from world import World, wait_for

PAGE = "https://page.example.com/a1"
ADDRESSES = {
    "ADMIN_URL": f"{PAGE}/",
    "DAM_WEB_URL": "https://dam.example.com/#/folder/{campaign_id}",
    "BOX_WEB_URL": "https://acme.app.box.com/folder/{folder_id}",
}


def links(world: World, number: int = -1) -> list[str]:
    """Of the last e-mail's text, or of another one's."""
    body = world.mail.messages[number].message.get_body(("plain",))
    assert body is not None
    return [line.strip() for line in body.get_content().splitlines() if line.strip().startswith("https://")]


def test_links__from_attempt_to_report(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    page, dam = f"{PAGE}/campaigns/{campaign}", f"https://dam.example.com/#/folder/{campaign}"
    assert world.upload(**ADDRESSES).exit_code == 0
    assert links(world) == [dam, page]
    assert world.upload(A1_MAX_RETRIES="2", **ADDRESSES).exit_code == 0
    assert links(world) == [dam, page]
    assert world.run("daily_report.py", **ADDRESSES).exit_code == 0
    assert links(world) == [page, f"{PAGE}/campaigns?state=failed"]
    assert world.run("daily_report.py", "--weekly", **ADDRESSES).exit_code == 0
    assert links(world) == [page, f"{PAGE}/campaigns?state=failed"]
    told = world.run("a1_retry.py", "explain", "C-1", **ADDRESSES).stdout
    assert f"\n  Page  {page}\n  DAM   {dam}\nAs of" in told
    found = json.loads(world.run("a1_retry.py", "explain", "C-1", "--json", **ADDRESSES).stdout)
    assert found["links"] == {"page": page, "dam": dam, "box": None}


def test_links__to_a_folder_in_box_that_an_error_leaves_behind(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    assert world.upload(SUCCESS_NOTIFICATION_EMAILS="campaigns@example.com", **ADDRESSES).exit_code == 0
    folder = world.row(campaign)["box_folder_id"]
    box = f"https://acme.app.box.com/folder/{folder}"
    page, dam = f"{PAGE}/campaigns/{campaign}", f"https://dam.example.com/#/folder/{campaign}"
    assert links(world) == [box, page]
    world.dam.fail(r"/children", status=403)
    world.dam.set_status(campaign, "A1")
    assert world.upload(**ADDRESSES).exit_code == 4
    assert links(world) == [page, dam, box]


@pytest.mark.timeout(240)
def test_links__of_a_task_that_the_loop_tells_of(world: World) -> None:
    process = world.start(
        "orchestrator-prod.py",
        OFF_HOURS_ENABLED="false",
        ALERT_AFTER_FAILURES="1",
        DAM_CLIENT_SECRET="wrong",
        **ADDRESSES,
    )
    wait_for(lambda: bool(world.mail.messages), 90)
    process.terminate()
    assert world.finish(process).exit_code == 0
    assert links(world, 0) == [f"{PAGE}/runs"]
