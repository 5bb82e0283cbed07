"""Waits, snoozes, limits and automatic resets, through the script as a user runs it; and the history."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest

from shared.upkeep.schema import migration_files
from world import World

EVENTS = """
SELECT kind, cycle, actor, source, reason, detail FROM campaign_events WHERE campaign_id = %s ORDER BY id
"""


def add_file(world: World, campaign: str) -> None:
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.dam.add_asset(folder, "film.jpg", b"film")


def kinds(world: World, campaign: str) -> list[str]:
    return [row["kind"] for row in world.sql(EVENTS, campaign)]


def test_delays__an_early_look_counts_nothing_and_uploads_what_came(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    first = world.upload(A1_RETRY_DELAYS="60,600")
    assert first.outcomes == {campaign: "empty"}
    (mail,) = world.mail.messages
    text = mail.message.get_body(("plain",)).get_content()
    assert "An empty look counts as attempt 2 from about" in text.replace("\n", " ")
    for _ in range(2):
        early = world.upload(A1_RETRY_DELAYS="60,600")
        assert (early.exit_code, early.outcomes) == (0, {campaign: "waiting"}), early.stderr
        assert early.report["campaigns"][0]["attempt"] == 1
        assert early.report["notices"]["queued"] == 0
    add_file(world, campaign)
    assert world.upload(A1_RETRY_DELAYS="60,600").outcomes == {campaign: "uploaded"}
    assert len(world.mail.messages) == 2


def test_delays__when_the_wait_is_over_the_look_counts(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for minutes, outcome in (
        (0, "empty"),
        (59, "waiting"),
        (60, "empty"),
        (599, "waiting"),
        (600, "permanently_failed"),
    ):
        world.sql("UPDATE campaign_status SET a1_last_retry_at = now() - %s * interval '1 minute'", minutes)
        assert world.upload(A1_RETRY_DELAYS="60,600").outcomes == {campaign: outcome}, minutes
    assert len(world.mail.messages) == 3


def test_snooze__counts_nothing_and_uploads_what_came(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    assert world.upload().outcomes == {campaign: "empty"}
    world.sql("UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day'")
    for _ in range(4):
        quiet = world.upload()
        assert (quiet.exit_code, quiet.outcomes) == (0, {campaign: "snoozed"}), quiet.stderr
    assert world.row(campaign)["a1_retry_count"] == 1
    world.sql("UPDATE campaign_status SET a1_snoozed_until = now() - interval '1 second'")
    assert world.upload().outcomes == {campaign: "empty"}, "its end brings nothing but the ordinary rule"
    world.sql("UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day'")
    add_file(world, campaign)
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert len(world.mail.messages) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "UPDATE campaign_status SET a1_snoozed_until = now() + interval '91 days'",
            "more than 90 days ahead",
        ),
        ("UPDATE campaign_status SET a1_max_retries = 0", "is not from 1 to 1000"),
        ("UPDATE campaign_status SET a1_max_retries = 1001", "is not from 1 to 1000"),
    ],
)
def test_plain_sql__that_cannot_be_is_refused_with_the_cure(world: World, change: str, told: str) -> None:
    world.sql("INSERT INTO campaign_status (campaign_id) VALUES ('c')")
    with pytest.raises(psycopg2.errors.CheckViolation, match=told) as refused:
        world.sql(change)
    assert refused.value.diag.message_hint


@pytest.mark.parametrize(
    ("limit", "outcomes", "last"),
    [
        (1, ["empty", "permanently_failed"], "(No Assets After 1 Attempts)"),
        (2, ["empty", "permanently_failed"], "(No Assets After 2 Attempts)"),
        (4, ["empty", "empty", "empty", "permanently_failed"], "(No Assets After 4 Attempts)"),
    ],
)
def test_limit__of_one_campaign_wins(world: World, limit: int, outcomes: list[str], last: str) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    other = world.dam.add_campaign("Winter", "C-2")
    seen = []
    for number in range(len(outcomes)):
        run = world.upload()
        seen.append(run.outcomes[campaign])
        if number:
            assert run.report["campaigns"][0]["max_attempts"] == limit
        world.sql("UPDATE campaign_status SET a1_max_retries = %s WHERE campaign_id = %s", limit, campaign)
    assert seen == outcomes
    assert f"❌ PERMANENTLY FAILED - Campaign Summer {last}" in world.subjects
    if limit == 4:
        assert "⚠️ No Assets Found (Attempt 3/4) - Campaign Summer" in world.subjects
        assert world.row(other)["a1_permanently_failed"]


def test_auto_reset__after_so_many_days_and_so_many_times(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    always = {"OFF_HOURS_ENABLED": "false", "A1_AUTO_RESET_DAYS": "2", "A1_AUTO_RESET_CYCLES": "1"}
    for _ in range(3):
        world.upload(**always)
    assert world.upload(**always).outcomes == {campaign: "skipped_permanently_failed"}
    world.sql("UPDATE campaign_status SET a1_last_retry_at = now() - interval '2 days'")
    assert world.upload("--dry-run", **always).outcomes == {campaign: "skipped_permanently_failed"}
    assert world.upload(**always).outcomes == {campaign: "empty"}
    row = world.row(campaign)
    assert (row["a1_cycle"], row["a1_auto_resets"], row["a1_retry_count"]) == (2, 1, 1)
    (event,) = [one for one in world.sql(EVENTS, campaign) if one["kind"] == "reset"]
    assert (event["actor"], event["source"], event["reason"]) == ("auto", "auto", "A1_AUTO_RESET_DAYS=2")
    for _ in range(2):
        world.upload(**always)
    world.sql("UPDATE campaign_status SET a1_last_retry_at = now() - interval '9 days'")
    assert world.upload(**always).outcomes == {campaign: "skipped_permanently_failed"}, "the cap"
    assert len(world.mail.messages) == 6
    # A person's reset begins the count anew.
    assert world.run("a1_retry.py", "reset", campaign).exit_code == 0
    assert world.row(campaign)["a1_auto_resets"] == 0


def test_auto_reset__waits_for_office_hours(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    never = {
        "OFF_HOURS_DAYS": "mon,tue,wed,thu,fri,sat,sun", "A1_AUTO_RESET_DAYS": "2", "A1_MAX_RETRIES": "1",
    }  # fmt: skip
    assert world.upload(**never).outcomes == {campaign: "permanently_failed"}
    world.sql("UPDATE campaign_status SET a1_last_retry_at = now() - interval '3 days'")
    assert world.upload(**never).outcomes == {campaign: "skipped_permanently_failed"}
    assert world.upload(**never, OFF_HOURS_ENABLED="false").outcomes == {campaign: "permanently_failed"}


def test_history__keeps_all_that_changes_a_campaign(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload()
    assert kinds(world, campaign) == ["status", *["attempt", "notice", "notice_sent"] * 3]
    last = world.sql(EVENTS, campaign)[-3]
    assert last["detail"] == {"attempt": 3, "permanently_failed": True}
    assert last["reason"] == 'the folder "Master Assets" contains no usable files'
    world.sql(
        "SET application_name = 'pgAdmin';"
        " UPDATE campaign_status SET a1_retry_count = 0, a1_permanently_failed = FALSE"
    )
    reset = world.sql(EVENTS, campaign)[-1]
    assert (reset["kind"], reset["cycle"], reset["source"]) == ("reset", 1, "pgAdmin")
    assert reset["actor"] == world.sql("SELECT session_user AS me")[0]["me"]
    assert reset["detail"] == {"attempts": 3, "permanently_failed": True, "next_cycle": 2}
    world.dam.fail(r"/children", status=403, times=1)
    assert world.upload().outcomes == {campaign: "failed"}
    add_file(world, campaign)
    assert world.upload().outcomes == {campaign: "uploaded"}
    after = kinds(world, campaign)[11:]
    assert after[:3] == ["error", "notice", "notice_sent"]
    assert sorted(after[3:]) == sorted(
        ["status", "error_over", "upload", *["notice", "notice_sent"] * 2]  # solved, and uploaded
    )
    assert world.row(campaign)["a1_cycle"] == 2


def test_history__an_old_tools_resets_move_into_it(world: World) -> None:
    """Applied twice it changes nothing."""
    (made,) = [path for path in migration_files() if path.name.startswith("007")]
    world.sql(made.read_text(encoding="utf-8"))
    world.sql(
        "INSERT INTO a1_resets (campaign_id, reset_by, reason, retry_count_before, was_permanently_failed)"
        " VALUES ('c', 'anna', 'files', 3, TRUE)"
    )
    (migration,) = [path for path in migration_files() if path.name.startswith("023")]
    for _ in range(2):
        world.sql(migration.read_text(encoding="utf-8"))
    (event,) = world.sql(EVENTS, "c")
    assert (event["kind"], event["actor"], event["reason"]) == ("reset", "anna", "files")
    assert event["detail"] == {"attempts": 3, "permanently_failed": True}


def test_auto_reset__of_a_row_that_somebody_holds_costs_that_campaign_alone(world: World) -> None:
    stuck, other = world.dam.add_campaign("Summer", "C-1"), world.dam.add_campaign("Winter", "C-2")
    always = {"OFF_HOURS_ENABLED": "false", "A1_AUTO_RESET_DAYS": "2", "A1_MAX_RETRIES": "1"}
    assert world.upload("--campaign", stuck, **always).outcomes == {stuck: "permanently_failed"}
    world.sql("UPDATE campaign_status SET a1_last_retry_at = now() - interval '2 days'")
    connection = psycopg2.connect(world.database_url)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("UPDATE campaign_status SET updated_at = now() WHERE campaign_id = %s", (stuck,))
        run = world.upload(**always)
    assert run.outcomes[other] == "permanently_failed", run.stderr
    assert run.outcomes[stuck] in ("failed", "postponed")
    assert world.upload(**always).outcomes[stuck] == "permanently_failed"
    assert world.row(stuck)["a1_cycle"] == 2


@pytest.mark.parametrize("statement", [
    "INSERT INTO campaign_status (status) VALUES ('A1')",
    "UPDATE campaign_status SET status = 'A1' WHERE campaign_id IS NULL",
])  # fmt: skip
def test_history__leaves_rows_alone_that_are_no_campaigns_yet(world: World, statement: str) -> None:
    """Another program's table: its drafts have no id."""
    world.sql("ALTER TABLE campaign_status DROP CONSTRAINT campaign_status_pkey CASCADE")
    world.sql("ALTER TABLE campaign_status ALTER COLUMN campaign_id DROP NOT NULL")
    world.sql("INSERT INTO campaign_status (status) VALUES ('draft')")
    world.sql(statement)
    assert world.sql("SELECT * FROM campaign_events") == []


def test_history__keeps_who_logged_in_whatever_they_say(world: World) -> None:
    world.sql("INSERT INTO campaign_status (campaign_id, a1_retry_count) VALUES ('c', 2)")
    world.sql("SET a1_to_a2.actor = 'boss@hq'; UPDATE campaign_status SET a1_retry_count = 1")
    (event,) = world.sql("SELECT kind, actor, db_user FROM campaign_events WHERE kind = 'correction'")
    assert event["actor"] == "boss@hq"
    assert event["db_user"] == world.sql("SELECT session_user AS me")[0]["me"]


def test_migration__keeps_a_view_of_the_old_resets_and_their_readers(world: World) -> None:
    by_number = {path.name[:3]: path.read_text(encoding="utf-8") for path in migration_files()}
    world.sql(by_number["007"])
    world.sql("CREATE VIEW who_reset AS SELECT reset_by FROM a1_resets")
    world.sql("GRANT SELECT ON a1_resets TO PUBLIC")
    for _ in range(2):
        world.sql(by_number["023"])
    assert world.sql("SELECT * FROM who_reset") == []
    assert world.sql("SELECT has_table_privilege('public', 'campaign_events', 'SELECT') AS may") == [
        {"may": True}
    ]
