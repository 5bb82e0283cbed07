"""The daily report, through the script as cron or the orchestrator runs it."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from world import SCRIPTS, Run, World

TABLES = ("campaign_status", "campaign_uploads", "notices", "notice_deliveries", "daily_reports")


@pytest.fixture
def zone(world: World) -> ZoneInfo:
    """The time zone of the world's reports."""
    world.changes |= {"REPORT_EMAILS": "managers@example.com"}
    return ZoneInfo(world.env["ORCHESTRATOR_TIMEZONE"])


def report(world: World, *arguments: str, **changes: str) -> Run:
    return world.run("daily_report.py", *arguments, **changes)


def state(world: World) -> list[object]:
    return [world.sql(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]  # noqa: S608 - our own names


def body(world: World, part: str) -> str:
    found = world.mail.messages[-1].message.get_body((part,))
    assert found is not None
    return str(found.get_content())


def fill(world: World) -> dict[str, str]:
    """A campaign in every state, brought there by the uploader; and the orchestrator's own records."""
    ids = {"failed": world.dam.add_campaign("Never <b>Filled</b>", "C-3")}
    for _ in range(2):
        assert world.upload().exit_code == 0
    ids["broken"] = world.add_full_campaign("Locked", "C-4")
    world.dam.lock(ids["broken"], by="colleague")
    ids["uploaded"] = world.add_full_campaign(
        "Summer", "C-1", [("a.jpg", b"a" * 1000), ("b.pdf", b"b" * 500)]
    )
    ids["retry"] = world.dam.add_campaign("Easter", "C-2")
    ids["mended"] = world.add_full_campaign("Mended", "C-5", [("c.jpg", b"c" * 20)])
    world.dam.lock(ids["mended"], by="colleague")
    world.mail.refuse("support@example.com", 450, "mailbox full")
    assert world.upload().exit_code == 4
    world.dam.unlock(ids["mended"])
    assert world.upload("--campaign", ids["mended"]).exit_code == 0
    world.sql("""
        INSERT INTO orchestrator_task_runs
            (run_id, task, planned_at, started_at, finished_at, exit_code, host)
        VALUES ('1', 'a1_to_a2', now(), now() - interval '20 min', now() - interval '19 min', 0, 'h'),
               ('2', 'a1_to_a2', now() - interval '20 min', now() - interval '10 min', now(), 75, 'h'),
               ('3', 'daily_report', now(), now(), NULL, NULL, 'h')""")
    world.sql("""
        INSERT INTO orchestrator_task_alerts
        VALUES ('a1_to_a2', 'exit code 4', 5, now() - interval '25 hours', TRUE, now()),
               ('a1_to_a2', 'exit code 3', 1, now(), FALSE, NULL)""")
    return ids


@pytest.mark.timeout(120)
def test_report__tells_of_every_state_once(world: World, zone: ZoneInfo) -> None:
    ids = fill(world)
    today = datetime.now(zone).date()
    before = len(world.mail.messages)

    preview = report(world, "--dry-run")
    assert preview.exit_code == 0, preview.stderr
    assert len(world.mail.messages) == before
    assert world.sql("SELECT * FROM daily_reports") == []

    first = report(world)
    assert first.exit_code == 0, first.stderr
    assert first.stdout == ""
    assert f"the report of {today} is queued" in first.stderr
    assert world.subjects[before:] == [f"📊 Daily Report - {today}"]
    (received,) = world.mail.messages[before:]
    assert received.envelope_to == ("managers@example.com",)
    assert received.message["X-Campaign-Id"] is None
    text, html = body(world, "plain"), body(world, "html")
    for must in (
        "  Uploaded            2 campaigns, 3 assets, 1.5 kB (1,520 bytes)\n",
        "  In retry            1\n",
        "  Permanently failed  1 now; 1 given up since the last report\n",
        "  Current errors      2, in 1 campaign\n",
        "  Runs                2\n    done                            1\n",
        "    to be tried again               1\n",
        "- C-1 Summer: 2 assets, 1.5 kB, in ",
        "- C-5 Mended: 1 asset, 20 bytes, in ",
        "- C-2 Easter: attempt 1 of 3, the last one ",
        "- C-3 Never <b>Filled</b>: for ",
        f"  {sys.executable} {SCRIPTS / 'a1_retry.py'} reset {ids['failed']}\n",
        "- C-4 Locked: ",
        "- Task a1_to_a2: exit code 4, 5 times since ",
        "- C-5 Mended\n",
        "not accepted by the mail server so far",
        "- a1_to_a2: 1 done, 0 done with failing campaigns, 0 failed, 1 to be tried again, 0 lost;"
        " 1 started late\n",
    ):
        assert must in text, must
    assert "Never &lt;b&gt;Filled&lt;/b&gt;" in html
    assert "<b>Filled" not in html
    told = [line for line in preview.stdout.splitlines() if line.startswith(("  ", "- C-1", "- C-4"))]
    assert [line for line in told if line.partition(", since")[0] not in text] == []

    kept = state(world)
    again = report(world)
    assert again.exit_code == 0
    assert f"the report of {today} was already queued at {today}" in again.stderr
    assert report(world, "--date", today.isoformat()).exit_code == 0
    assert world.subjects[before + 1 :] == []
    assert state(world)[-1] == kept[-1]
    assert world.sql("SELECT count(*) AS n FROM notices WHERE kind = 'daily_report'") == [{"n": 1}]


def test_report__of_a_day_without_news_is_one_line(world: World, zone: ZoneInfo) -> None:
    assert report(world).exit_code == 0
    today = datetime.now(zone).date()
    assert world.subjects == [f"📊 Daily Report - {today}"]
    lines = [line for line in body(world, "plain").splitlines() if line]
    assert lines[0] == f"DAILY REPORT - {today}"
    assert lines[1].startswith(f"Nothing happened on {today:%A} {today.day} ")
    assert lines[2] == "--"


def test_report__goes_to_those_who_get_errors_when_nobody_is_named(world: World, zone: ZoneInfo) -> None:
    assert report(world, REPORT_EMAILS="").exit_code == 0
    assert world.mail.messages[-1].envelope_to == ("support@example.com",)


def test_report__of_an_evening_is_in_the_next_one(world: World, zone: ZoneInfo) -> None:
    """What was uploaded after yesterday's report, and what yesterday's report told."""
    today = datetime.now(zone).date()
    evening = datetime.combine(today, datetime.min.time(), zone) - timedelta(hours=2)
    world.sql(
        "INSERT INTO daily_reports VALUES (%s, gen_random_uuid(), %s)",
        today - timedelta(days=1), evening - timedelta(hours=3),
    )  # fmt: skip
    for number, told_on in (("told", today - timedelta(days=1)), ("evening", None)):
        world.sql(
            "INSERT INTO campaign_uploads VALUES (%s, %s, %s, 1, 5, 'r', %s)",
            number, evening, evening - timedelta(minutes=7), told_on,
        )  # fmt: skip
    assert report(world).exit_code == 0
    _, _, earlier = body(world, "plain").partition("UPLOADED EARLIER, SINCE THE REPORT OF ")
    assert "- evening: 1 asset, 5 bytes, in 7 min 0 s, done " in earlier
    assert "- told" not in earlier


def test_dry_run__writes_nothing(world: World, zone: ZoneInfo) -> None:
    world.add_full_campaign("Summer", "C-1")
    world.dam.add_campaign("Easter", "C-2")
    world.upload()
    kept = state(world)
    before = world.subjects
    for arguments in ((), ("--date", "2026-01-31"), ("-v",)):
        run = report(world, "--dry-run", *arguments)
        assert run.exit_code == 0, run.stderr
        assert run.stdout.startswith("DAILY REPORT - ")
    assert state(world) == kept
    assert world.subjects == before


@pytest.mark.parametrize("text", ["2026-02-30", "20260131", "31.01.2026", "yesterday", "", "2026-W05-6"])
def test_date__malformed_is_refused(world: World, zone: ZoneInfo, text: str) -> None:
    run = report(world, "--date", text)
    assert run.exit_code == 2
    assert f"expected a date such as 2026-01-31, got {text!r}" in run.stderr
    assert "Traceback" not in run.stderr


def test_date__future_is_refused_and_past_is_sent_once(world: World, zone: ZoneInfo) -> None:
    today = datetime.now(zone).date()
    run = report(world, "--date", str(today + timedelta(days=1)))
    assert run.exit_code == 2
    assert f"--date: {today + timedelta(days=1)} is in the future; today is {today}" in run.stderr
    assert world.subjects == []

    past = today - timedelta(days=3)
    for _ in range(2):
        assert report(world, "--date", str(past)).exit_code == 0
    assert world.subjects == [f"📊 Daily Report - {past}"]
    assert world.sql("SELECT report_date FROM daily_reports") == [{"report_date": past}]


@pytest.mark.timeout(60)
def test_two_at_once__send_one(world: World, zone: ZoneInfo) -> None:
    runs = [world.finish(process) for process in [world.start("daily_report.py") for _ in range(3)]]
    assert [run.exit_code for run in runs] == [0, 0, 0]
    assert len(world.subjects) == 1
    assert sum("is queued" in run.stderr for run in runs) == 1
    assert sum("not sent again" in run.stderr for run in runs) == 2


def test_mail_server_down__delays_the_report(world: World, zone: ZoneInfo) -> None:
    world.mail.refuse_all(451, "later")
    assert report(world).exit_code == 0
    assert world.subjects == []
    world.mail.reset()
    assert report(world).exit_code == 0
    assert len(world.subjects) == 1


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        pytest.param({"ORCHESTRATOR_TIMEZONE": "Mars/Base"}, 2, "ORCHESTRATOR_TIMEZONE", id="zone"),
        pytest.param({"REPORT_EMAILS": "nobody"}, 2, "REPORT_EMAILS", id="recipient"),
        pytest.param({"DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}, 75, "PostgreSQL", id="database away"),
        pytest.param({"DAM_BASE_URL": "", "BOX_CLIENT_ID": ""}, 0, "is queued", id="no DAM, no Box needed"),
    ],
)
def test_exit_codes__as_everywhere(
    world: World, zone: ZoneInfo, changes: dict[str, str], code: int, told: str
) -> None:
    run = report(world, **changes)
    assert run.exit_code == code
    assert told in run.stderr
    assert "Traceback" not in run.stderr


def test_pending_migrations__stop_it(world: World, zone: ZoneInfo) -> None:
    world.sql("DELETE FROM schema_migrations WHERE name LIKE '014%%' AND %s", True)
    run = report(world)
    assert run.exit_code == 2
    cure = f"apply as the owner of its tables: {sys.executable} {SCRIPTS / 'migrate.py'}"
    assert f"014_create_campaign_uploads.sql; {cure}" in run.stderr


def test_refusal__of_the_database_leaves_nothing_behind(world: World, zone: ZoneInfo) -> None:
    world.sql("DROP TABLE orchestrator_task_alerts")
    run = report(world)
    assert run.exit_code == 2
    assert "orchestrator_task_alerts" in run.stderr
    assert world.sql("SELECT * FROM daily_reports") == []


def test_upload__is_recorded_with_its_duration(world: World, zone: ZoneInfo) -> None:
    campaign = world.add_full_campaign("Summer", "C-1")
    begun_at = datetime.now(UTC)
    run = world.upload()
    (row,) = world.sql("SELECT * FROM campaign_uploads")
    assert (row["campaign_id"], row["assets"], row["bytes"]) == (campaign, 2, 3)
    assert row["run_id"] == run.report["run_id"]
    assert row["report_date"] is None
    (first,) = world.sql("SELECT min(verified_at) AS at FROM campaign_assets")
    assert begun_at < row["started_at"] < first["at"] < row["completed_at"] < datetime.now(UTC)


def test_snoozed_campaign__is_named_until_its_snooze_is_over(world: World) -> None:
    world.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status)"
        " VALUES ('c', 'C-1', 'Summer', 'A1')"
    )
    world.sql(
        "SET a1_to_a2.actor = 'anna@host'; SET a1_to_a2.reason = 'files on Monday';"
        " UPDATE campaign_status SET a1_snoozed_until = now() + interval '80 days'"
    )
    told = report(world, "--dry-run")
    assert "Nothing happened" not in told.stdout
    assert re.search(r"^- C-1 Summer: until .*, by anna@host; files on Monday$", told.stdout, re.MULTILINE)
    world.sql("UPDATE campaign_status SET a1_snoozed_until = now() - interval '1 minute'")
    assert "SNOOZED" not in report(world, "--dry-run").stdout
