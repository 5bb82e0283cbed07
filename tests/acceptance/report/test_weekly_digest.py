"""The weekly digest, by the script and by the loop: once for each week."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from world import World

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def test_script__once_for_each_week(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload()
    before = len(world.subjects)
    preview = world.run("daily_report.py", "--weekly", "--dry-run")
    assert preview.exit_code == 0, preview.stderr
    assert "- C-1 Summer: for " in preview.stdout
    today = datetime.now(ZoneInfo(world.env["ORCHESTRATOR_TIMEZONE"])).date()
    for _ in range(2):
        done = world.run("daily_report.py", "--weekly", REPORT_EMAILS="managers@example.com")
        assert done.exit_code == 0, done.stderr
    assert world.subjects[before:] == [f"🗓️ Stuck Campaigns - 1 ({today})"]
    assert "not sent again" in done.stderr
    assert world.mail.messages[-1].envelope_to == ("managers@example.com",)
    body = world.mail.messages[-1].message.get_body(("plain",))
    assert body is not None
    assert f"a1_retry.py reset {campaign}" in body.get_content()
    assert world.run("daily_report.py", "--weekly", "--date", "2026-01-01").exit_code == 2
    daily = world.run("daily_report.py")
    assert daily.exit_code == 0, daily.stderr
    assert world.subjects[-1] == f"📊 Daily Report - {today}", "both, on one day"


def test_loop__starts_it_on_its_day(world: World) -> None:
    now = datetime.now(ZoneInfo(world.env["ORCHESTRATOR_TIMEZONE"]))
    due = {"DIGEST_DAY": DAYS[now.weekday()], "DIGEST_TIME": f"{now - timedelta(hours=1):%H:%M}"}
    for _ in range(2):
        once = world.run("orchestrator-prod.py", "--once", OFF_HOURS_ENABLED="false", **due)
        assert once.exit_code == 0, once.stderr
    runs = world.sql("SELECT exit_code, planned_at FROM orchestrator_task_runs WHERE task = 'weekly_digest'")
    assert [run["exit_code"] for run in runs] == [0]
    assert runs[0]["planned_at"] < datetime.now(UTC) - timedelta(minutes=30)
    assert [subject[:22] for subject in world.subjects] == ["🗓️ Stuck Campaigns - 0"[:22]]
