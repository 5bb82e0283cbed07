"""Who was told that something is wrong with a campaign is told when it has come right, and nobody else."""

from __future__ import annotations

from world import World

PERMANENT = "❌ PERMANENTLY FAILED - Campaign Summer (No Assets After 3 Attempts)"
ERROR = "🛑 A1→A2 Error - Campaign Summer"
SOLVED = "✅ Solved - Campaign Summer (less than a minute)"
UPLOADED = "✅ Uploaded to Box - Campaign Summer (1 asset)"


def text_of(world: World, subject: str) -> tuple[str, tuple[str, ...]]:
    """The one e-mail of this subject: what it says, and who got it."""
    (mail,) = [mail for mail in world.mail.messages if mail.message["Subject"] == subject]
    body = mail.message.get_body(("plain",))
    assert body is not None
    return body.get_content(), mail.envelope_to


def threads(world: World, campaign: str) -> dict[str, str]:
    """{subject: its thread} of what arrived about the campaign."""
    mails = [mail.message for mail in world.mail.messages if mail.message["X-Campaign-Id"] == campaign]
    return {str(mail["Subject"]): str(mail["References"]) for mail in mails}


def test_permanently_failed__reset_and_uploaded(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload()
    world.sql("UPDATE campaign_status SET a1_retry_count = 0, a1_permanently_failed = FALSE")
    world.dam.add_asset(world.dam.master_assets_folder(campaign), "late.jpg", b"late")
    two_more = "support@example.com,new@example.com"
    run = world.upload(ERROR_NOTIFICATION_EMAILS=two_more)
    assert run.report["notices"] == {"queued": 2, "sent": 2, "failed": 0}
    assert world.subjects[2] == PERMANENT
    assert sorted(world.subjects[3:]) == sorted([SOLVED, UPLOADED]), "two of one instant: in either order"
    text, to = text_of(world, SOLVED)
    assert to == ("support@example.com",), "those who were told, not those who are told now"
    assert 'permanently failed after 3 attempts: the folder "Master Assets" contains no usable files' in text
    assert text_of(world, UPLOADED)[1] == ("done@example.com",)
    thread = threads(world, campaign)
    assert thread[SOLVED] == thread[UPLOADED] != thread[PERMANENT], "it belongs to the cycle that it ends"

    world.dam.set_status(campaign, "A1")
    world.upload()
    assert world.subjects[5:] == [UPLOADED], "that trouble is over"


def test_error__uploaded(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("key.jpg", b"key")])
    world.dam.lock(campaign, by="colleague")
    assert world.upload().exit_code == 4
    world.sql("UPDATE campaign_errors SET began_at = began_at - interval '26 hours'")
    world.dam.unlock(campaign)
    assert world.upload().exit_code == 0
    solved = "✅ Solved - Campaign Summer (1 day 2 hours)"
    assert sorted(world.subjects) == sorted([ERROR, solved, UPLOADED])
    text, to = text_of(world, solved)
    assert to == ("support@example.com",)
    assert "colleague" in text
    assert "  Assets     1\n" in text
    assert len(set(threads(world, campaign).values())) == 1


def test_error_that_had_not_gone_out__is_folded_into_its_end(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("key.jpg", b"key")])
    world.dam.lock(campaign, by="colleague")
    assert world.upload(SMTP_PORT="1").exit_code == 4
    world.dam.unlock(campaign)
    assert world.upload().exit_code == 0
    assert sorted(world.subjects) == sorted([SOLVED, UPLOADED])
    text, _ = text_of(world, SOLVED)
    assert "The e-mail about the error had not gone out; this one takes its place." in text


def test_no_trouble__no_word_of_it(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    world.upload()
    world.dam.add_asset(world.dam.master_assets_folder(campaign), "late.jpg", b"late")
    world.upload()
    assert [subject[:2] for subject in world.subjects] == ["⚠️", "✅ "]
    assert world.subjects[1] == UPLOADED
