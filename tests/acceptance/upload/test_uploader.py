"""What the script promises besides the scenarios: names, dry runs, chosen campaigns, peace at scale."""

from __future__ import annotations

import hashlib
import sys

import pytest

from world import SCRIPTS, World

NAMES = (
    "plain.jpg",
    "Robert'); DROP TABLE campaign_status;--.jpg",
    "<script>alert(1)</script>.html",
    "break\r\nBcc: evil@example.com.txt",
    "a/b\\c.txt",
    "x" * 296 + ".png",
    "🎉 emoji.png",
    "شعار.png",
    "Twin.PNG",
    "twin.png",
    "..",
)


def test_names__hostile_ones_all_arrive(world: World) -> None:
    files = [(name, f"{index} {name}".encode()) for index, name in enumerate(NAMES)]
    campaign = world.add_full_campaign("<b>Bad\r\nBcc: x@example.com</b>'; --", "C-1", files)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert world.dam.status(campaign) == "A2"
    stored = sorted(sha1 for _, sha1 in world.box_files().values())
    assert stored == sorted(hashlib.sha1(content).hexdigest() for _, content in files)
    (received,) = world.mail.messages
    assert received.message["Bcc"] is None
    html = received.message.get_body(("html",))
    assert html is not None
    assert "<b>Bad" not in html.get_content()
    assert world.upload().report["campaigns"] == []


def test_zero_byte_asset__is_copied(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("empty.txt", b"")])
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert [size for size, _ in world.box_files().values()] == [0]


def test_dry_run__writes_nothing_anywhere(world: World) -> None:
    full = world.add_full_campaign("Full", "C-1")
    empty = world.dam.add_campaign("Empty", "C-2")
    run = world.upload("--dry-run")
    assert run.outcomes == {full: "would_upload", empty: "empty"}
    assert run.exit_code == 0
    assert {call.method for call in world.dam.requests} == {"GET", "POST"}
    assert not world.box.requests
    assert world.subjects == []
    for table in ("campaign_status", "campaign_assets", "notices", "campaign_errors"):
        assert world.sql(f"SELECT * FROM {table}") == []  # noqa: S608 - our own table names


def test_chosen__campaigns_alone_and_unknown_ones_are_told(world: World) -> None:
    chosen = world.add_full_campaign("Chosen", "C-1")
    other = world.add_full_campaign("Other", "C-2")
    assert world.upload("--campaign", chosen).outcomes == {chosen: "uploaded"}
    assert world.dam.status(other) == "A1"
    unknown = world.upload("--campaign", "f" * 40)
    assert (unknown.exit_code, unknown.outcomes) == (4, {"f" * 40: "not_found"})


def test_max_retries__every_text_follows_it(world: World) -> None:
    world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload(A1_MAX_RETRIES="2")
    assert world.subjects == [
        "⚠️ No Assets Found (Attempt 1/2) - Campaign Summer",
        "❌ PERMANENTLY FAILED - Campaign Summer (No Assets After 2 Attempts)",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"ORCHESTRATOR_TIMEZONE": "Mars/Base"}, "ORCHESTRATOR_TIMEZONE", id="zone"),
        pytest.param({"SMTP_PORT": "abc"}, "SMTP_PORT", id="number"),
        pytest.param({"DAM_PFX_PATH": "/no/such.pfx"}, "DAM_PFX_PATH", id="unreadable PFX"),
        pytest.param({"DAM_PFX_PASSWORD": "wrong-one"}, "DAM_PFX_PASSWORD", id="PFX password"),
        pytest.param({"ERROR_NOTIFICATION_EMAILS": ""}, "ERROR_NOTIFICATION_EMAILS", id="recipient"),
        pytest.param({"BOX_CLIENT_ID": ""}, "BOX_CLIENT_ID", id="Box"),
    ],
)
def test_bad_settings__exit_2_before_any_call(world: World, changes: dict[str, str], told: str) -> None:
    run = world.upload(**changes)
    assert run.exit_code == 2
    assert told in run.stderr
    assert "Traceback" not in run.stderr
    assert "wrong-one" not in run.stderr
    assert not world.dam.requests
    assert run.report["exit_code"] == 2


def test_pending_migrations__stop_the_run(world: World) -> None:
    world.sql("DELETE FROM schema_migrations WHERE name LIKE '006%%' AND %s", True)
    run = world.upload()
    assert run.exit_code == 2
    assert "006_add_transfer_tracking.sql" in run.stderr
    assert f"{sys.executable} {SCRIPTS / 'migrate.py'}" in run.stderr


def test_box_login_refused__is_no_campaigns_fault(world: World) -> None:
    world.add_full_campaign("Summer", "C-1")
    run = world.upload(BOX_CLIENT_SECRET="not-the-secret")
    assert (run.exit_code, world.subjects) == (2, [])
    assert "not-the-secret" not in run.stderr + run.stdout


def test_peace__permanently_failed_ones_cost_nothing(world: World) -> None:
    ids = [world.dam.add_campaign(f"Stuck {number}", f"S-{number}") for number in range(50)]
    world.sql(
        "INSERT INTO campaign_status (campaign_id, status, a1_retry_count, a1_permanently_failed)"
        " SELECT id, 'A1', 3, TRUE FROM unnest(%s::text[]) AS id",
        ids,
    )
    assert world.upload().exit_code == 0
    assert {call.path.rsplit("/", 1)[1] for call in world.dam.requests} == {"token", "text"}
    assert world.subjects == []
