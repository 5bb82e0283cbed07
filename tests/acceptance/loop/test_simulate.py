"""orchestrator-prod.py --simulate: what an operator asks it, and what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from world import SCRIPTS, World

ZONE = {"ORCHESTRATOR_TIMEZONE": "Europe/Rome"}
CALM = {**ZONE, "A1_RETRY_DELAYS": "3,10", "A1_AUTO_RESET_DAYS": "5", "A1_AUTO_RESET_CYCLES": "2"}
MONDAY = ("--from", "2026-11-30T09:57")


def simulated(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One answer, with these variables alone: no database, no file."""
    return subprocess.run(
        [sys.executable, SCRIPTS / "orchestrator-prod.py", "--simulate", *arguments],
        cwd="/", env=variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def env_file(folder: Path, **variables: str) -> str:
    path = folder / "other.env"
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()), encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def test_text__a_table_by_day_and_the_first_campaigns_own_days() -> None:
    done = simulated("--stuck", "1000", "--days", "7", *MONDAY, **CALM)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[:4] == [
        "After Mon 2026-11-30 09:57 +01:00 until Mon 2026-12-07 09:57 +01:00",
        "Europe/Rome, off-hours rule on",
        "3 attempts per cycle, waits of 3, 10 min, automatic reset after 5 d, at most 2 times",
        "1000 campaigns in A1, if the folders stay empty",
    ]
    table = [line.split() for line in lines]
    assert ["Mon", "2026-11-30", "240", "2", "3000", "1000", "0", "2", "1", "1"] in table
    assert ["Sat", "2026-12-05", "0", "24", "0", "0", "0", "0", "0", "1"] in table, "due, but out of hours"
    assert ["Mon", "2026-12-07", "100", "5", "3000", "1000", "1000", "2", "1", "1"] in table
    assert ["total", "1700", "83", "6000", "2000", "1000", "4", "2", "8"] in table
    own = lines[lines.index("The first campaign:") + 1 :]
    assert own == [
        "  Mon 2026-11-30 10:00 +01:00  attempt 1",
        "  Mon 2026-11-30 10:03 +01:00  attempt 2",
        "  Mon 2026-11-30 10:15 +01:00  attempt 3",
        "  Mon 2026-11-30 10:15 +01:00  permanently failed",
        "  Mon 2026-12-07 05:00 +01:00  reset by itself",
        "  Mon 2026-12-07 05:00 +01:00  attempt 1",
        "  Mon 2026-12-07 05:03 +01:00  attempt 2",
        "  Mon 2026-12-07 05:15 +01:00  attempt 3",
        "  Mon 2026-12-07 05:15 +01:00  permanently failed",
    ]


def test_json__one_object_whose_days_add_up() -> None:
    done = simulated("--stuck", "20", *MONDAY, "--json", **ZONE)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    totals = document["totals"]
    assert document["until"] == "2026-12-30T09:57:00+01:00", "30 days, if nobody says otherwise"
    assert len(document["days"]) == 31
    assert totals == {name: sum(day[name] for day in document["days"]) for name in totals}
    assert totals["attempts"] == 60
    assert (totals["emails_retry"], totals["emails_permanent"], totals["emails_daily_report"]) == (40, 20, 30)
    events = [(event["event"], event["attempt"]) for event in document["first_campaign"]["events"]]
    assert events == [("attempt", 1), ("attempt", 2), ("attempt", 3), ("permanent_failure", 3)]


def test_diff__only_what_differs(tmp_path: Path) -> None:
    other = env_file(tmp_path, **CALM, A1_MAX_RETRIES="3")
    question = ("--stuck", "1", "--days", "2", *MONDAY, "--diff", other)
    shown = simulated(*question, **ZONE).stdout.splitlines()
    assert max(map(len, shown)) <= 100
    assert shown[1].split() == ["A1_RETRY_DELAYS", "(empty)", "3,10"]
    assert [line.split("  ")[0] for line in shown[1:]] == [
        "A1_RETRY_DELAYS", "A1_AUTO_RESET_DAYS", "A1_AUTO_RESET_CYCLES",
        "first, cycle 1: attempt 3", "first, cycle 1: permanently failed",
    ]  # fmt: skip
    found = json.loads(simulated(*question, "--json", **ZONE).stdout)["differences"]
    assert found[0] == {"line": "A1_RETRY_DELAYS", "here": "", "there": "3,10"}
    assert len(found) == len(shown) - 1
    same = simulated(*question, **CALM)
    assert same.stdout.startswith("no difference between this environment and ")
    assert same.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (("--from", "yesterday"), ZONE, "--from"),
        (("--from", "9999-12-31T23:59"), ZONE, "--from"),
        (("--from", "0001-01-01T00:00"), ZONE, "--from"),
        (("--days", "-1"), ZONE, "--days"),
        (("--days", "367"), ZONE, "from 1 to 366"),
        (("--days", "many"), ZONE, "--days"),
        (("--stuck", "0"), ZONE, "--stuck"),
        (("--diff", "/nowhere/other.env"), ZONE, "/nowhere/other.env"),
        ((), {}, "ORCHESTRATOR_TIMEZONE"),
        ((), {**ZONE, "A1_RETRY_DELAYS": "soon"}, "A1_RETRY_DELAYS"),
        (("--at", "2026-01-30T10:00"), ZONE, "--explain"),
    ],
)
def test_faults__are_named_and_end_with_2(
    arguments: tuple[str, ...], variables: dict[str, str], named: str
) -> None:
    done = simulated("--stuck", "1", *arguments, **variables)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_faults__of_the_other_file_name_it_and_options_belong_to_simulate(tmp_path: Path) -> None:
    other = env_file(tmp_path, A1_MAX_RETRIES="no")
    done = simulated("--stuck", "1", "--diff", other, **ZONE)
    assert done.returncode == 2
    assert f"{other}: A1_MAX_RETRIES" in done.stderr
    assert f"{other}: ORCHESTRATOR_TIMEZONE" in done.stderr
    without_stuck = simulated(**ZONE)
    assert without_stuck.returncode == 2
    assert "DB_PASSWORD" in without_stuck.stderr


def campaigns(world: World) -> list[dict[str, Any]]:
    return world.sql(
        "SELECT (SELECT json_agg(c ORDER BY campaign_id) FROM campaign_status c) AS campaigns,"
        " (SELECT count(*) FROM campaign_events) AS events, (SELECT count(*) FROM notices) AS notices"
    )


def test_database__the_campaigns_in_a1_as_they_stand(world: World) -> None:
    begin = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    world.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_last_retry_at, a1_permanently_failed, a1_snoozed_until, a1_max_retries) VALUES"
        " ('c1', 'C-1', 'Tried twice', 'A1', 2, %(at)s, FALSE, NULL, NULL),"
        " ('c2', 'C-2', 'Failed', 'A1', 3, %(at)s, TRUE, NULL, NULL),"
        " ('c3', 'C-3', 'Snoozed', 'A1', 0, NULL, FALSE, %(at)s + interval '2 hours', 1),"
        " ('c4', 'C-4', 'Elsewhere', 'A2', 1, %(at)s, FALSE, NULL, NULL)".replace(
            "%(at)s", f"timestamptz '{begin}'"
        )
    )
    before = campaigns(world)
    done = world.run(
        "orchestrator-prod.py", "--simulate", "--days", "1", "--from", begin.isoformat(), "--json", **ZONE
    )
    assert done.exit_code == 0, done.stderr
    assert done.report["campaigns"] == 3
    assert done.report["totals"]["attempts"] == 2
    assert done.report["totals"]["permanent_failures"] == 2
    first = done.report["first_campaign"]
    assert (first["campaign_number"], first["events"][0]["attempt"]) == ("C-1", 3)
    assert campaigns(world) == before, "nothing was touched"
    shown = world.run("orchestrator-prod.py", "--simulate", "--days", "1", **ZONE).stdout
    assert "The first campaign, C-1 Tried twice:" in shown
    world.sql("DELETE FROM schema_migrations WHERE name LIKE '023%'")
    lacking = world.run("orchestrator-prod.py", "--simulate", **ZONE)
    assert lacking.exit_code == 2
    assert "023_create_campaign_events" in lacking.stderr
