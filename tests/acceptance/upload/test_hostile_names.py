"""Names, numbers and status codes that attack, through the whole uploader."""

from __future__ import annotations

import json
import re

import pytest

from hostile import ATTACKS
from shared.rules.names import MAX_UNITS
from world import World


@pytest.mark.parametrize(
    ("attacks", "mails"),
    [
        pytest.param(ATTACKS[0::2], 3 * len(ATTACKS[0::2]), id="an e-mail each"),
        pytest.param(ATTACKS[1::2], 3 * len(ATTACKS[1::2]), id="an e-mail each, the others"),
        pytest.param(ATTACKS, 3, id="a table each"),
    ],
)
def test_hostile_names__are_copied_and_told_like_any_other(
    world: World, attacks: list[str], mails: int
) -> None:
    full = [world.add_full_campaign(text, text, [(text, b"x")]) for text in attacks]
    empty = [world.dam.add_campaign(text, text, master_assets=False) for text in attacks]
    for log_format in ("text", "json"):
        run = world.upload("-v", LOG_FORMAT=log_format)
        assert run.exit_code == 0, run.stderr
        for line in run.stderr.splitlines():
            if log_format == "json":
                assert json.loads(line)["run_id"] == run.report["run_id"]
            else:
                assert re.match(r"\S+Z (DEBUG|INFO|WARNING) run=[0-9a-f]{12} \S+: ", line), line
    assert [world.dam.status(campaign) for campaign in full] == ["A2"] * len(attacks)
    files = world.box_files()
    assert len(files) == len(attacks)
    assert all(len(part) <= MAX_UNITS for path in files for part in path.split("/"))
    assert len(world.mail.messages) == mails
    ordinary = set(world.mail.messages[0].message.keys())
    for received in world.mail.messages:
        assert set(received.message.keys()) == ordinary
        assert received.envelope_to in (("support@example.com",), ("done@example.com",))
        assert not received.message.defects
    assert world.sql("SELECT count(*) AS n FROM campaign_status WHERE a1_retry_count = 2") == [
        {"n": len(empty)}
    ]


def test_hostile_status__of_a_campaign_that_left_ends_no_run(world: World) -> None:
    """A status with a NUL in it could not be stored, and took the rest of the run with it."""
    campaigns = [world.dam.add_campaign(f"Campaign {number}", "C") for number in range(len(ATTACKS))]
    assert world.upload().exit_code == 0
    for campaign, text in zip(campaigns, ATTACKS, strict=True):
        world.dam.set_status(campaign, text or "B")
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    left = world.sql("SELECT count(*) AS n FROM campaign_status WHERE status = 'A1'")
    assert left == [{"n": 0}]
