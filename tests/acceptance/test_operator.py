"""What an operator types, reads and pastes: the tool, and the commands in mails and messages."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import a1_retry
from shared.base.prerequisites import PACKAGES, PAGE_PACKAGES, SCALE_PACKAGES
from shared.database import Database
from shared.rules.cadence import LastRun, OffHours
from shared.settings import CadenceSettings, load_operator_settings
from simulators.postgres import PostgresServer
from world import REPOSITORY, SCRIPTS, World

TOOL = "a1_retry.py"
UPLOADER = "a1_to_a2_box_uploader.py"
ROME = ZoneInfo("Europe/Rome")
FAILED = (
    "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
    " a1_last_retry_at, a1_permanently_failed) VALUES (%s, %s, 'Summer', 'A1', 3, now(), TRUE)"
)


# --- resets -------------------------------------------------------------------------------------------------


def test_reset_all__takes_what_was_shown_and_nothing_else(world: World) -> None:
    for number in (1, 2, 3):
        world.sql(FAILED, f"c{number}", f"C-{number}")
    environment = world.environment()
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / TOOL, "reset", "--all-failed", "--by", "me"],
        env=environment, cwd=world.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ""
    while "[y/N]" not in shown:
        shown += process.stdout.read(1)
    world.sql(FAILED, "c4", "C-4")
    world.sql("UPDATE campaign_status SET a1_retry_count = 0, a1_last_retry_at = NULL,"
              " a1_permanently_failed = FALSE WHERE campaign_id = 'c2'")  # fmt: skip
    world.sql("UPDATE campaign_status SET a1_last_retry_at = now() WHERE campaign_id = 'c3'")
    said, _ = process.communicate("y\n", timeout=60)
    assert process.returncode == 0
    failed = world.sql("SELECT campaign_id FROM campaign_status WHERE a1_permanently_failed ORDER BY 1")
    assert [row["campaign_id"] for row in failed] == ["c3", "c4"]
    noted = "SELECT campaign_id FROM campaign_events WHERE kind = 'reset' AND actor = 'me'"
    assert world.sql(noted) == [{"campaign_id": "c1"}]
    assert "reset c1 (C-1 Summer): it starts again at attempt 1" in said
    assert sorted(re.findall(r"skipped (\w+) .*changed it in the meantime", said)) == ["c2", "c3"]
    assert "c4" not in said


def test_reset_digest__takes_what_was_failed_when_it_looked(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    mail = "00000000-0000-0000-0000-00000000000a"
    for number in (1, 2):
        world.sql(FAILED, f"c{number}", f"C-{number}")
        world.sql(
            "WITH n AS (INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html,"
            " created_at) VALUES (%s, 'a1_to_a2_permanent_failure', %s, '', '', '', now()) RETURNING id)"
            " INSERT INTO notice_deliveries (notice_id, recipient, mail_id, next_try_at)"
            " SELECT id, 'a@example.com', %s, now() FROM n",
            f"00000000-0000-0000-0000-00000000000{number}", f"c{number}", mail,
        )  # fmt: skip
    world.sql("UPDATE campaign_status SET a1_permanently_failed = FALSE WHERE campaign_id = 'c2'")

    class Meanwhile(Database):
        """In which a campaign fails between the look and the reset."""

        def run_query(self, name: str, values: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
            if name == "reset_note":
                world.sql("UPDATE campaign_status SET a1_permanently_failed = TRUE WHERE campaign_id = 'c2'")
            return super().run_query(name, values)

    arguments = a1_retry.parse_arguments(["reset", "--digest", mail, "--by", "me"])
    with Meanwhile(world.database_url) as database:
        assert a1_retry.reset(database, arguments, load_operator_settings(world.env)) == 0
    noted = "SELECT campaign_id FROM campaign_events WHERE kind = 'reset' AND actor = 'me'"
    assert world.sql(noted) == [{"campaign_id": "c1"}]
    assert world.row("c2")["a1_permanently_failed"]
    assert "c2" not in capsys.readouterr().out


def test_env_file__stands_before_the_command_or_after_it() -> None:
    for words in (["--env-file", "x", "failed"], ["failed", "--env-file", "x"]):
        assert a1_retry.parse_arguments(words).env_file == Path("x")
    assert a1_retry.parse_arguments(["failed"]).env_file is None


def test_reset__by_psql_is_the_same_statement(world: World, postgres: PostgresServer) -> None:
    queries = REPOSITORY / "database" / "queries"
    statements = {
        path.name
        for path in queries.glob("*.sql")
        if re.search(r"^UPDATE[^;]* a1_retry_count = 0", path.read_text(), re.M)
    }
    assert statements == {"reset.sql"}
    for number in (1, 2, 3):
        world.sql(FAILED, f"c'{number}", f"C-{number}")
    name = world.database_url.rsplit("/", 1)[1]
    for file, resets in (("reset_one", 1), ("reset_all_failed", 3), ("reset_all_failed", 3)):
        done = postgres.psql("-v", "campaign_id=c'1", "-f", queries / f"{file}.sql", database=name)
        assert done.returncode == 0, done.stderr
        noted = "SELECT count(*) AS n FROM campaign_events WHERE kind = 'reset' AND source = 'psql'"
        assert world.sql(noted) == [{"n": resets}]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("A1", "it starts again at attempt 1 in"),
        ("A2", "it is in A2: nothing happens until it is set to A1 again"),
        ("B\u202e7", r"it is in B\u202e7: nothing happens until it is set to A1 again"),
        ("GONE", "the DAM does not show it: nothing happens until it is there again and set to A1"),
        (None, "no run has seen its status: if it is set to A1, it starts again at attempt 1 in"),
    ],
)
def test_reset__says_what_comes_of_it(world: World, status: str | None, said: str) -> None:
    world.sql(FAILED, "c1", "C-1")
    world.sql("UPDATE campaign_status SET status = %s", status)
    done = world.run(TOOL, "reset", "c1")
    assert done.exit_code == 0, done.stderr
    assert f"reset c1 (C-1 Summer): {said}" in done.stdout


def test_reset__of_one_that_needs_none_says_so(world: World) -> None:
    world.dam.fail(r"/children", status=403)
    campaign = world.dam.add_campaign("Summer", "C-1")
    assert world.upload().exit_code == 4
    done = world.run(TOOL, "reset", campaign, "unknown")
    assert (
        f"{campaign} (C-1 Summer): nothing to reset, no attempt is counted; it has failed with an error"
        in (done.stdout)
    )
    assert "HTTP 403" in done.stdout
    assert (done.exit_code, world.sql("SELECT * FROM campaign_events WHERE kind = 'reset'")) == (4, [])
    assert "no campaign unknown" in done.stderr


WINDOW = OffHours(True, datetime.min.time().replace(hour=22), datetime.min.time().replace(hour=5),
                  frozenset({5, 6}), 30, frozenset({0, 30}))  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ROME)


@pytest.mark.parametrize(
    ("last", "now", "wanted"),
    [
        pytest.param(None, "2026-01-30T09:01", "in the next run of the uploader", id="never ran"),
        pytest.param(
            ("2026-01-30T09:00", "2026-01-30T09:00"), "2026-01-30T09:01",
            "in the next run of the uploader, planned for 09:03 CET on Fri 2026-01-30", id="in hours",
        ),
        pytest.param(
            ("2026-01-30T21:58", "2026-01-30T21:58"), "2026-01-30T21:59",
            "in the next run of the uploader, planned for 23:00 CET on Fri 2026-01-30, off-hours",
            id="off-hours",
        ),
        pytest.param(
            ("2026-02-02T04:30", "2026-02-02T04:31"), "2026-02-02T04:40",
            "in the next run of the uploader, planned for 05:00 CET on Mon 2026-02-02", id="the window's end",
        ),
        pytest.param(
            ("2026-01-30T09:00", None), "2026-01-30T11:00",
            "in the run after the one that began at 09:00 CET on Fri 2026-01-30", id="under way",
        ),
        pytest.param(
            ("2026-01-30T09:00", "2026-01-30T11:00"), "2026-01-30T11:01",
            "in the next run of the uploader, planned for 11:01 CET on Fri 2026-01-30", id="after a long one",
        ),
        pytest.param(
            ("2026-01-30T09:00", "2026-01-30T09:00"), "2026-01-30T12:00",
            "in the next run of the uploader, overdue since 09:03 CET on Fri 2026-01-30: check that the"
            " orchestrator is running", id="nobody runs",
        ),
    ],
)  # fmt: skip
def test_next_look__follows_the_cadence_and_the_last_run(
    last: tuple[str, str | None] | None, now: str, wanted: str
) -> None:
    run = last and LastRun(at(last[0]), at(last[0]), at(last[1]) if last[1] else None, 0)
    assert a1_retry.next_look(CadenceSettings(ROME, WINDOW), run or None, at(now).astimezone(UTC)) == wanted


# --- status -------------------------------------------------------------------------------------------------


def test_status__shows_what_fails_with_an_error(world: World) -> None:
    listed, unread = world.dam.add_campaign("Summer", "C-1"), world.dam.add_campaign("Winter", "C-2")
    world.dam.fail(r"/children", status=403)
    world.dam.fail(rf"/{unread}\b", status=403)
    assert world.upload().exit_code == 4
    before = datetime.now(UTC)
    for campaign, status in ((listed, "A1"), (unread, None)):
        (row,) = json.loads(world.run(TOOL, "status", campaign, "--json").stdout)
        assert list(row)[:8] == [
            *("campaign_id", "campaign_number", "campaign_name", "status", "a1_retry_count"),
            *("a1_permanently_failed", "a1_last_retry_at", "a1_failure_reason"),
        ]
        assert row["status"] == status
        assert row["error_kind"] == "DAM/forbidden"
        assert "403" in row["error"]
        assert "permission" in row["error"], "the cure"
        since = datetime.fromisoformat(row["error_since"])
        assert before - timedelta(minutes=5) < since <= before
    rows = json.loads(world.run(TOOL, "status", "--json").stdout)
    assert {row["campaign_id"] for row in rows} == {listed, unread}
    assert "403" in world.run(TOOL, "status", listed).stdout

    world.dam.clear_faults()
    assert world.upload().exit_code == 0
    (row,) = json.loads(world.run(TOOL, "status", listed, "--json").stdout)
    assert (row["error"], row["a1_retry_count"]) == (None, 1)


def test_json__has_nothing_that_reorders_or_ends_a_line(world: World) -> None:
    name = "a\u202eb\u061c\u200f\x9bc\u2028d\u2066"
    world.sql(FAILED, "c1", name)
    for words in (("status",), ("failed",), ("status", "c1")):
        out = world.run(TOOL, *words, "--json").stdout
        assert json.loads(out)[0]["campaign_number"] == name
        assert out.isascii()


def test_arguments__that_are_no_text_name_no_campaign(world: World) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / TOOL, "status", b"\xff\xfe"], env=world.environment(), cwd=world.folder,
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, b"no campaign" in done.stderr) == (4, True)


# --- naming campaigns ---------------------------------------------------------------------------------------


def add(world: World, campaign_id: str, number: str, name: str, attempts: int = 2) -> None:
    world.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_last_retry_at, a1_permanently_failed) VALUES (%s, %s, %s, 'A1', %s, now(), %s)",
        campaign_id, number, name, attempts, attempts >= 3,
    )  # fmt: skip


def named(world: World, *words: str) -> list[str]:
    """The campaigns that `status` shows for these words."""
    return [row["campaign_id"] for row in json.loads(world.run(TOOL, "status", "--json", *words).stdout)]


def test_name__is_an_id_a_number_or_how_a_name_begins(world: World) -> None:
    add(world, "c1", "C-1", "Easter 2027")
    add(world, "c2", "C-10", "Summer")
    add(world, "c3", "c1", "Summer Sale")
    add(world, "C-1", "N-4", "100%_\\ ready")
    add(world, "c5", "", "")
    for word, wanted in (
        ("c1", ["c1"]),  # an id before the number that is the same
        ("C-1", ["C-1"]),
        ("c-10", ["c2"]),  # whatever its capitals
        ("C1", ["c3"]),
        ("summer", ["c2"]),  # the whole name before the beginning of another
        ("SUMMER s", ["c3"]),
        ("100%_\\", ["C-1"]),
        ("EASTER", ["c1"]),
    ):
        assert named(world, word) == wanted, word
    for word in ("%", "_", "sale", "", "C-1_", "100%%", "n-", "C-"):
        run = world.run(TOOL, "status", word)
        assert (run.exit_code, run.stdout) == (4, ""), word
        assert f"no campaign {word}" in run.stderr
    assert named(world, "easter", "c2", "c1", "C-10") == ["c1", "c2"], "each once"


def test_name__that_is_ambiguous_changes_nothing_and_lists_the_candidates(world: World) -> None:
    add(world, f"{1:040x}", "C-1", "Summer\x1b[31m one")
    add(world, f"{2:040x}", "C-2", "summer two", attempts=3)
    add(world, f"{3:040x}", "C-3", "Winter")
    for words in (
        ("reset", "C-3", "summer"),
        ("snooze", "C-3", "summer", "--until", f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d %H:%M}"),
        ("limit", "C-3", "summer", "5"),
        ("wake", "summer"),
        ("history", "summer"),
        ("status", "summer"),
    ):
        run = world.run(TOOL, *words)
        assert (run.exit_code, run.stdout) == (2, ""), words
        heads, *listed = [line for line in run.stderr.splitlines() if "ERROR" not in line]
        assert heads.split() == ["number", "name", "id", "state"]
        assert [line.split()[0] for line in listed] == ["C-1", "C-2"]
        assert f"{1:040x}" in listed[0]
        assert "empty 2 of 3" in listed[0]
        assert "permanently failed" in listed[1]
        assert "\x1b" not in run.stderr
        assert max(map(len, listed)) <= 100
    changed = "SELECT * FROM campaign_events WHERE kind IN ('reset', 'snooze', 'limit', 'wake')"
    assert world.sql(changed) == []
    for number in range(30):
        add(world, f"x{number}", f"X-{number}", "Crowd")
    run = world.run(TOOL, "reset", "crowd")
    assert run.exit_code == 2
    assert "crowd may mean any of 30 campaigns" in run.stderr
    assert "and 10 more" in run.stderr


# --- snooze, wake, limit ------------------------------------------------------------------------------------


EVENTS = (
    "SELECT kind, actor, source, reason, detail FROM campaign_events"
    " WHERE kind NOT IN ('status', 'attempt') ORDER BY id"
)


def test_snooze__holds_attempts_back_until_it_is_over_or_ended(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    assert world.upload().outcomes == {campaign: "empty"}
    zone = ZoneInfo(world.env["ORCHESTRATOR_TIMEZONE"])
    until = (datetime.now(zone) + timedelta(days=7)).replace(second=0, microsecond=0)
    done = world.run(
        TOOL, "snooze", "summ", "--until", f"{until:%Y-%m-%dT%H:%M}", "--by", "anna", "--reason", "promised"
    )
    assert done.exit_code == 0, done.stderr
    assert f"snoozed {campaign} (C-1 Summer) until {until:%H:%M}" in done.stdout
    assert world.row(campaign)["a1_snoozed_until"] == until
    (noted,) = [row for row in world.sql(EVENTS) if row["kind"] == "snooze"]
    assert (noted["actor"], noted["source"], noted["reason"]) == ("anna", TOOL, "promised")
    assert world.upload().outcomes == {campaign: "snoozed"}
    (row,) = json.loads(world.run(TOOL, "status", "--json").stdout)
    assert (row["state"], row["snoozed_by"], row["snooze_reason"]) == ("snoozed", "anna", "promised")

    done = world.run(TOOL, "reset", "C-1", "--json")
    (told,) = json.loads(done.stdout)
    assert (told["campaign_id"], told["outcome"]) == (campaign, "reset")
    assert f"it stays snoozed until {until:%H:%M}" in told["text"]
    woken = world.run(TOOL, "wake", "C-1", "--by", "ben")
    assert (woken.exit_code, woken.stdout) == (0, f"woke {campaign} (C-1 Summer): each run looks at it\n")
    assert "it is not snoozed" in world.run(TOOL, "wake", "C-1").stdout
    assert [row["kind"] for row in world.sql(EVENTS) if "notice" not in row["kind"]] == [
        "snooze",
        "reset",
        "wake",
    ]
    assert world.upload().outcomes == {campaign: "empty"}


def test_snooze__of_a_failed_one_resets_it_in_the_same_step(world: World) -> None:
    world.sql(FAILED, "c1", "C-1")
    world.sql(
        "INSERT INTO campaign_errors (campaign_id, kind, message) VALUES ('c2', 'DAM/forbidden', 'HTTP 403')"
    )
    done = world.run(
        TOOL, "snooze", "c1", "--until", f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H:%MZ}"
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("reset and snoozed c1 (C-1 Summer) until ")
    row = world.row("c1")
    assert (row["a1_permanently_failed"], row["a1_retry_count"], row["a1_cycle"]) == (False, 0, 2)
    reset, snoozed = world.sql("SELECT kind, xmin::text AS transaction FROM campaign_events"
                               " WHERE kind IN ('reset', 'snooze') ORDER BY id")  # fmt: skip
    assert (reset["kind"], snoozed["kind"]) == ("reset", "snooze")
    assert reset["transaction"] == snoozed["transaction"]
    (by,) = {row["actor"] for row in world.sql(EVENTS) if row["kind"] in ("reset", "snooze")}
    assert by == a1_retry.parse_arguments(["wake", "c1"]).by
    assert "@" in by
    unread = world.run(
        TOOL, "snooze", "c2", "--until", f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H:%MZ}"
    )
    assert unread.exit_code == 4
    assert "c2: no run has been able to read it yet, so nothing was changed" in unread.stdout


@pytest.mark.parametrize(
    ("until", "said"),
    [("2020-01-01T08:00", "is in the past"), ("2099-01-01T08:00", "90 days"), ("soon", "expected a time")],
)
def test_snooze__until_what_cannot_be_is_refused(world: World, until: str, said: str) -> None:
    world.sql(FAILED, "c1", "C-1")
    run = world.run(TOOL, "snooze", "c1", "--until", until)
    assert (run.exit_code, run.stdout) == (2, "")
    assert said in run.stderr
    assert world.row("c1")["a1_permanently_failed"]
    unset = world.run(TOOL, "snooze", "c1", "--until", "2027-01-01T08:00", ORCHESTRATOR_TIMEZONE="")
    assert unset.exit_code == 2
    assert "ORCHESTRATOR_TIMEZONE" in unset.stderr


def test_limit__is_the_campaign_s_own(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    world.upload()
    done = world.run(TOOL, "limit", "C-1", "2")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == (
        f"limited {campaign} (C-1 Summer) to 2 attempts per cycle: attempt 2 of 2 in the next run\n"
    )
    near = json.loads(world.run(TOOL, "near-failure", "--json").stdout)
    assert [row["campaign_id"] for row in near] == [campaign]
    assert "it already has 2 attempts per cycle" in world.run(TOOL, "limit", "C-1", "2").stdout
    assert world.upload().outcomes == {campaign: "permanently_failed"}
    back = world.run(TOOL, "limit", "C-1", "default")
    assert "to 3 attempts per cycle, the same as all campaigns: nothing until it is reset" in back.stdout
    assert world.row(campaign)["a1_max_retries"] is None
    details = [row["detail"] for row in world.sql(EVENTS) if row["kind"] == "limit"]
    assert details == [{"max_retries": 2}, {"before": 2}]
    for wrong in ("0", "1001", "-1", "1e2", "²", "many"):
        assert world.run(TOOL, "limit", "C-1", "--", wrong).exit_code == 2, wrong


def test_acts__by_psql_are_the_same_statements(world: World, postgres: PostgresServer) -> None:
    name, queries = world.database_url.rsplit("/", 1)[1], REPOSITORY / "database" / "queries"
    world.sql(FAILED, "c1", "C-1")
    until = f"{datetime.now(UTC) + timedelta(days=7):%Y-%m-%d %H:%M} UTC"
    ids = ("-v", "ids={c1}")
    for file, values in (
        ("snooze", ("-v", f"until={until}", "-v", "reason=files 'promised'")),
        ("limit", ("-v", "max_retries=5", "-v", "who=anna")),
        ("wake", ()),
        ("limit", ("-v", "max_retries=0")),
    ):
        done = postgres.psql(
            "-v", "ON_ERROR_STOP=1", *ids, *values, "-f", queries / f"{file}.sql", database=name
        )
        assert done.returncode == 0, done.stderr
    events = world.sql(EVENTS)
    assert [row["kind"] for row in events] == ["reset", "snooze", "limit", "wake", "limit"]
    assert {row["source"] for row in events} == {"psql"}
    assert [row["reason"] for row in events] == ["files 'promised'"] * 2 + [""] * 3
    assert events[2]["actor"] == "anna"
    assert events[0]["actor"] != ""
    for file, values in (("find", ("-v", "words={c-1,x}")), ("history", ("-v", "campaign_id=c1"))):
        shown = postgres.psql("-tA", *values, "-f", queries / f"{file}.sql", database=name)
        assert shown.returncode == 0, shown.stderr
        assert len(shown.stdout.splitlines()) == {"find": 1, "history": 7}[file], shown.stdout


# --- workers ------------------------------------------------------------------------------------------------


def add_worker(world: World, worker: str, host: str, *campaigns: str, unseen: int = 0) -> None:
    world.sql(
        "INSERT INTO workers VALUES (%s, %s, now() - interval '1 day', now() - %s * interval '1 second', 16)",
        worker, host, unseen,
    )  # fmt: skip
    for campaign in campaigns:
        world.sql("INSERT INTO worker_campaigns VALUES (%s, %s, now())", campaign, worker)


def test_workers__are_listed_with_what_they_have(world: World) -> None:
    add(world, "c1", "C-1", "Easter")
    add(world, "c2", "C-2", "Summer", attempts=0)
    add_worker(world, "a1_to_a2 worker loader-1:17", "loader-1", "c1")
    add_worker(world, "a1_to_a2 worker loader-2:18", "loader-2", "c2", unseen=300)
    shown = world.run(TOOL, "workers").stdout
    assert max(map(len, shown.splitlines())) <= 100
    assert re.search(r"loader-1:17 +loader-1 +working +\S+ \S+ \S+ +1 of 16\n", shown)
    assert re.search(r"loader-2:18 +loader-2 +lost, last seen", shown)
    assert re.search(r"C-1 +Easter +a1_to_a2 worker loader-1:17 +\S+", shown)
    first, second = json.loads(world.run(TOOL, "workers", "--json").stdout)
    assert [first["state"], second["state"]] == ["working", "lost"]
    assert (first["host"], first["campaigns_at_once"]) == ("loader-1", 16)
    (held,) = first["campaigns"]
    assert (held["campaign_id"], held["campaign_number"], held["campaign_name"]) == ("c1", "C-1", "Easter")
    datetime.fromisoformat(held["since"])


def test_status__names_the_worker_that_has_a_campaign(world: World) -> None:
    add(world, "c1", "C-1", "Easter")
    add(world, "c2", "C-2", "Summer", attempts=0)
    before = world.run(TOOL, "status").stdout
    assert "worker" not in before
    (alone,) = json.loads(world.run(TOOL, "status", "--json").stdout)
    assert alone["worker"] is None
    add_worker(world, "w1", "loader-1", "c1")
    add_worker(world, "w2", "loader-2", "c2", unseen=300)
    has = "worker w1 on host loader-1 has had it since"
    assert has in " ".join(world.run(TOOL, "status", "C-1").stdout.split())
    assert has in " ".join(world.run(TOOL, "explain", "C-1").stdout.split())
    lost = " ".join(world.run(TOOL, "explain", "C-2").stdout.split())
    assert "worker w2 on host loader-2 has had it since" in lost
    assert "but is lost: it was last seen" in lost
    assert "within 90 s it is free again, and the next run gives it to another worker" in lost
    listed = world.run(TOOL, "status").stdout
    assert re.search(r"Campaigns that workers have now:\nnumber.*\nC-1 +Easter +w1 .*\nC-2 +Summer", listed)
    (row,) = json.loads(world.run(TOOL, "status", "--json").stdout)
    assert (row["worker"]["worker"], row["worker"]["host"], row["worker"]["state"]) == (
        "w1", "loader-1", "working",
    )  # fmt: skip
    told = json.loads(world.run(TOOL, "explain", "C-2", "--json").stdout)
    assert (told["worker"]["worker"], told["worker"]["state"]) == ("w2", "lost")


def test_drain__asks_all_workers_of_a_host_and_says_who_asked(world: World) -> None:
    add_worker(world, "w1", "loader-1", "c1", "c2")
    add_worker(world, "w2", "loader-1")
    add_worker(world, "w3", "loader-2")
    add_worker(world, "w4", "loader-2", unseen=300)
    done = world.run(TOOL, "drain", "loader-1", "--by", "olga")
    assert done.exit_code == 0, done.stderr
    assert "asked w1 on host loader-1 to stop: it has 2 campaigns in hand" in done.stdout
    assert "asked w2 on host loader-1 to stop: it has 0 campaigns in hand" in done.stdout
    assert re.search(r"they have stopped when this no longer lists them: .*a1_retry.py workers", done.stdout)
    asked = "SELECT worker, drain_asked_by FROM workers WHERE drain_asked_at IS NOT NULL ORDER BY 1"
    assert [tuple(row.values()) for row in world.sql(asked)] == [("w1", "olga"), ("w2", "olga")]
    again = json.loads(world.run(TOOL, "drain", "w1", "--by", "ben", "--json").stdout)
    assert [(row["worker"], row["outcome"], row["drain_asked_by"]) for row in again] == [
        ("w1", "nothing_to_do", "olga")
    ]
    other = json.loads(world.run(TOOL, "drain", "loader-2", "--json").stdout)
    assert [(row["worker"], row["outcome"]) for row in other] == [("w3", "asked"), ("w4", "lost")]
    assert "@" in other[0]["drain_asked_by"]


def test_drain__of_nobody_lists_those_that_run(world: World) -> None:
    nobody = world.run(TOOL, "drain", "loader-9")
    assert (nobody.exit_code, nobody.stdout) == (2, "")
    assert "loader-9 is neither a worker nor a host with workers; known: none" in nobody.stderr
    add_worker(world, "w1", "loader-1")
    run = world.run(TOOL, "drain", "loader-9")
    assert "known: w1 on host loader-1" in run.stderr
    assert world.sql("SELECT worker FROM workers WHERE drain_asked_at IS NOT NULL") == []


def test_drain__by_psql_is_the_same_statement(world: World, postgres: PostgresServer) -> None:
    add_worker(world, "w1", "loader-1")
    name, queries = world.database_url.rsplit("/", 1)[1], REPOSITORY / "database" / "queries"
    for file, values in (("drain", ("-v", "name=loader-1", "-v", "who=anna")), ("workers", ())):
        done = postgres.psql(
            "-v", "ON_ERROR_STOP=1", "-tA", *values, "-f", queries / f"{file}.sql", database=name
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("w1|loader-1|draining|")
    assert "|anna|" in done.stdout


def test_no_worker__is_needed_with_the_local_engine(world: World) -> None:
    done = world.run(TOOL, "workers")
    said = "No worker is running. None is needed: with ENGINE=local, runs work by themselves.\n"
    assert (done.exit_code, done.stdout) == (0, said)
    assert json.loads(world.run(TOOL, "workers", "--json").stdout) == []
    assert "worker" not in world.run("orchestrator-prod.py", "--check").stdout


# --- history and tables -------------------------------------------------------------------------------------


def test_history__tells_what_happened_by_whom_and_why(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload()
    world.run(
        TOOL, "reset", "C-1", "--by", "anna@host", "--reason", "files promised for " + "very " * 20 + "soon"
    )
    world.run(TOOL, "limit", "C-1", "5", "--by", "anna@host")
    run = world.run(TOOL, "history", "summer")
    assert run.exit_code == 0, run.stderr
    title, heads, *lines = run.stdout.splitlines()
    assert title == f"{campaign} (C-1 Summer)"
    assert heads.split() == ["when", "cycle", "what", "happened"]
    assert max(map(len, lines)) <= 100
    text = re.sub(r"\n +", " ", "\n".join(lines))
    for words in (
        'attempt 2 of 3: the folder "Master Assets" contains no usable files',
        "attempt 3 of 3, the last one, permanently failed: the folder",
        "e-mail queued: ⚠️ No Assets Found (Attempt 2/3) - Campaign Summer",
        "e-mail (permanent-failure notice) delivered to support@example.com",
        f"reset by anna@host (a1_retry.py): files promised for {'very ' * 20}soon",
        "limit set to 5 by anna@host",
    ):
        assert words in text
    starts = [words for words in ("attempt 1", "attempt 2", "attempt 3", "reset by", "limit set to 5")]
    assert [text.index(words) for words in starts] == sorted(text.index(words) for words in starts)
    events = json.loads(world.run(TOOL, "history", campaign, "--json").stdout)
    assert list(events[0]) == ["at", "kind", "cycle", "actor", "source", "reason", "detail", "text"]
    assert events[-1]["detail"] == {"max_retries": 5}
    assert world.run(TOOL, "history", "unknown").exit_code == 4


def test_status__lists_all_that_is_not_at_rest(world: World) -> None:
    add(world, f"{1:040x}", "C-1", "In retry " + "long " * 30)
    add(world, f"{2:040x}", "C-2", "Failed", attempts=3)
    add(world, f"{3:040x}", "C-3", "Snoozed")
    add(world, f"{4:040x}", "C-4", "At rest", attempts=0)
    add(world, f"{5:040x}", "C-5", "A snooze that is over", attempts=0)
    world.sql(
        "UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day' WHERE campaign_number = 'C-3'"
    )
    world.sql(
        "UPDATE campaign_status SET a1_snoozed_until = now() - interval '1 day' WHERE campaign_number = 'C-5'"
    )
    error = (
        "INSERT INTO campaign_errors (campaign_id, kind, message) VALUES (%s, 'DAM/forbidden', 'HTTP 403')"
    )
    world.sql(error, f"{6:040x}")
    run = world.run(TOOL, "status")
    assert run.exit_code == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["number", "name", "state", "since", "next"]
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "The campaigns are looked at in the next run of the uploader."
    listed = {line.split()[0] for line in lines[1:-2] if not line.startswith(" ")}
    assert listed == {"C-1", "C-2", "C-3", f"{6:040x}"}, "an id only where there is no number"
    rows = {row["campaign_number"]: row for row in json.loads(world.run(TOOL, "status", "--json").stdout)}
    assert {number: row["state"] for number, row in rows.items()} == {
        "C-1": "empty", "C-2": "permanently_failed", "C-3": "snoozed", None: "erring",
    }  # fmt: skip
    waiting = json.loads(world.run(TOOL, "status", "C-1", "--json", A1_RETRY_DELAYS="3,30").stdout)
    assert waiting[0]["state"] == "waiting"
    one = world.run(TOOL, "status", "C-3").stdout
    for words in ("snoozed until", "attempt 3 of 3 after the snooze", "2 of 3", "(C-3 Snoozed)"):
        assert words in one
    failed = world.run(TOOL, "failed").stdout.splitlines()
    assert [line.split()[0] for line in failed] == ["number", "C-2"]
    assert world.run(TOOL, "reset", "--all-failed", "--json").exit_code == 2
    done = world.run(TOOL, "reset", "--all-failed", "--json", "--yes")
    assert [one["outcome"] for one in json.loads(done.stdout)] == ["reset"]
    assert world.run(TOOL, "failed").stdout == "none\n"


def test_crowd__of_stuck_campaigns_is_shown_at_once(world: World) -> None:
    world.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_last_retry_at, a1_permanently_failed, a1_failure_reason, a1_snoozed_until)"
        " SELECT lpad(n::text, 40, '0'), 'C-' || n, 'Été 2027, campaign ' || n, 'A1', 2 + n %% 2, now(),"
        " n %% 2 = 1, 'the folder \"Master Assets\" contains no usable files',"
        " CASE WHEN n %% 4 = 0 THEN now() + interval '1 day' END FROM generate_series(1, %s) n", 10_000,
    )  # fmt: skip
    world.sql(
        "UPDATE campaign_status SET a1_snoozed_until = now() + interval '2 days'"
        " WHERE a1_snoozed_until IS NOT NULL"
    )
    # What wait4 tells of memory counts the process that started this one.
    measured = (
        "import os, re, runpy, sys; del sys.argv[0]; sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    high = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "    print(sum(os.times()[:2]), high, file=sys.stderr)"
    )
    for words in (("status",), ("failed",), ("status", "--json")):
        done = subprocess.run(
            [sys.executable, "-c", measured, SCRIPTS / TOOL, *words],
            env=world.environment(), cwd=world.folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.count("C-") >= 5000
        seconds, kilobytes = done.stderr.split()[-2:]
        assert float(seconds) < 2, words
        assert int(kilobytes) < 150 * 1024, words


# --- a chosen campaign --------------------------------------------------------------------------------------


def test_chosen_campaign__that_is_permanently_failed_is_not_passed_over_in_silence(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload()
    run = world.upload("--campaign", campaign)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "skipped_permanently_failed"})
    (line,) = [line for line in run.stderr.splitlines() if " WARNING " in line]
    since = world.row(campaign)["a1_last_retry_at"].astimezone(ZoneInfo(world.env["ORCHESTRATOR_TIMEZONE"]))
    assert f"{campaign} (C-1 Summer): it is permanently failed since {since:%Y-%m-%d %H:%M}" in line
    assert "skipped campaign" in line
    assert f"{sys.executable} {SCRIPTS / TOOL} reset {campaign}" in line
    assert "WARNING" not in world.upload().stderr, "one that nobody asked for"


def test_chosen_campaign__that_is_elsewhere_or_nowhere_is_told_in_words(world: World) -> None:
    there = world.dam.add_campaign("Summer", "C-1", status="A2")
    for chosen, exit_code, said in (
        (there, 0, "not_a1; it is in A2, so there is nothing to do"),
        ("C-1", 4, "not_found; our DAM user sees no campaign with this id. Check it"),
    ):
        run = world.upload("--campaign", chosen)
        assert run.exit_code == exit_code
        (line,) = [line for line in run.stderr.splitlines() if " WARNING " in line]
        assert said in line
    assert world.subjects == []


@pytest.mark.parametrize("argument", ["", "..", "a b", "a/b", "x\u202e"])
def test_chosen_campaign__by_what_is_no_id_is_a_faulty_command(world: World, argument: str) -> None:
    for option in ("--campaign", "--verify"):
        run = world.upload(option, argument)
        assert run.exit_code == 2
        assert f"{option}: {argument!a} is not an id of the DAM" in run.stderr
    assert world.subjects == []
    assert world.sql("SELECT * FROM campaign_errors") == []


# --- commands in mails --------------------------------------------------------------------------------------


@pytest.fixture
def env_file(world: World) -> Path:
    """The settings in a file with a difficult name, and nowhere else."""
    folder = world.folder / "it's here"
    folder.mkdir()
    path = folder / "my settings"
    path.touch(0o600)
    settings = world.env | {"OFF_HOURS_ENABLED": "false"}
    path.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    return path


def paste(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as root or the user of the scripts would run it, with nothing in the environment."""
    command = re.sub(r"^sudo -u \S+ ", "", command) if os.geteuid() else command
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env={}, capture_output=True, text=True, check=False
    )


def commands_in(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if TOOL in line]


def texts(world: World) -> list[str]:
    return [mail.message.get_body(("plain",)).get_content() for mail in world.mail.messages]


@pytest.mark.parametrize("way", ["uploader", "orchestrator"])
def test_command__of_a_mail_works_from_anywhere(
    world: World, env_file: Path, tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    campaign = world.dam.add_campaign("Summer", "C-1")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    words = {
        "uploader": (UPLOADER, "--auth-pfx-v2"),
        "orchestrator": ("orchestrator-prod.py", "--once"),
    }[way]
    for _ in range(3):
        world.sql("DELETE FROM orchestrator_task_runs")
        done = subprocess.run(
            [sys.executable, SCRIPTS / words[0], *words[1:], "--env-file", env_file.name],
            cwd=env_file.parent, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(texts(world)) == 3, done.stderr
    command, why = commands_in(texts(world)[-1])
    done = paste(why, elsewhere)
    assert done.returncode == 0, why + done.stderr
    assert "permanently_failed" in done.stdout
    done = paste(command, elsewhere)
    assert done.returncode == 0, command + done.stderr
    assert "starts again at attempt 1" in done.stdout
    assert not world.row(campaign)["a1_permanently_failed"]


def test_commands__of_table_and_report_work_from_anywhere(
    world: World, env_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for number in range(25):
        world.sql(FAILED, f"c{number}", f"C-{number}")
    for number in range(25):
        campaign = world.dam.add_campaign(f"Summer {number}", f"D-{number}")
        world.sql(
            "INSERT INTO campaign_status (campaign_id, status, a1_retry_count) VALUES (%s, 'A1', 2)", campaign
        )
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    for script in (UPLOADER, "daily_report.py"):
        done = subprocess.run(
            [sys.executable, SCRIPTS / script, "--env-file", env_file], cwd=env_file.parent, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    table, report = texts(world)[-2:]
    digest = next(command for command in commands_in(table) if "--digest" in command)
    done = paste(digest, elsewhere)
    assert done.stdout.count("starts again at attempt 1") == 25, done.stderr
    everybody = next(command for command in commands_in(report) if "--all-failed" in command)
    done = paste(f"{everybody} --yes", elsewhere)
    assert done.stdout.count("reset c") == 25, done.stderr


def test_command__without_a_settings_file_needs_the_environment(world: World) -> None:
    world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        assert world.upload().exit_code == 0
    text = texts(world)[-1]
    command, why = commands_in(text)
    assert command.startswith(f"{sys.executable} {SCRIPTS / TOOL} reset ")
    assert why.startswith(f"{sys.executable} {SCRIPTS / TOOL} explain ")
    assert "--env-file" not in command + why
    assert "in the environment of the service" in text
    done = subprocess.run(["sh", "-c", command], cwd="/", env=world.environment(), check=False)
    assert done.returncode == 0


# --- streams that are closed --------------------------------------------------------------------------------


CALLS = (
    (UPLOADER, "--json"),
    (TOOL, "status"),
    (TOOL, "reset", "c1", "c2", "unknown"),
    ("migrate.py", "--status"),
    ("daily_report.py", "--dry-run"),
    ("orchestrator-prod.py", "--list"),
    ("orchestrator-prod.py", "--check"),
)


@pytest.mark.parametrize("closing", ["2>&-", ">&-", "<&-", ">&- 2>&- <&-", "| true"])
def test_streams__closed_change_nothing_but_what_is_seen(world: World, closing: str) -> None:
    is_one_stream = closing in ("2>&-", ">&-", "<&-")
    for words in CALLS:
        if is_one_stream and "reset" not in words:
            continue  # what only reads meets all of them at once, and a reader that has gone
        for campaign in ("c1", "c2"):
            world.sql("DELETE FROM campaign_status WHERE campaign_id = %s", campaign)
            world.sql(FAILED, campaign, "C-1")
        wanted = world.run(*words).exit_code
        if "reset" in words:
            assert not world.row("c2")["a1_permanently_failed"]
            world.sql("UPDATE campaign_status SET a1_permanently_failed = TRUE, a1_retry_count = 3")
        command = f'"$@" {closing}'
        if closing.startswith("|"):
            command = f'{{ sleep 0.2; "$@"; echo $? >code; }} {closing}'
        done = subprocess.run(
            ["sh", "-c", command, "sh", sys.executable, SCRIPTS / words[0], *words[1:]],
            cwd=world.folder, env=world.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        code = done.returncode if "|" not in closing else int((world.folder / "code").read_text())
        assert code == wanted, (words, done.stderr)
        assert "Traceback" not in done.stderr
        if "reset" in words:
            assert not world.row("c2")["a1_permanently_failed"], "the second one as well"


# --- the Python that runs it --------------------------------------------------------------------------------


SCRIPT_NAMES = (
    UPLOADER,
    TOOL,
    "migrate.py",
    "daily_report.py",
    "orchestrator-prod.py",
    "demo.py",
    "admin_page.py",
)


def old_pythons() -> list[str]:
    """Those of this machine, by the usual names and in pyenv's folder."""
    versions = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser()), "versions")
    found = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    found += [str(path) for minor in range(6, 11) for path in versions.glob(f"3.{minor}.*/bin/python")]
    return [
        python
        for python in dict.fromkeys(filter(None, found))
        if subprocess.run([python, "-V"], capture_output=True, check=False).returncode == 0
    ]


def one_line(python: str, script: str, folder: Path) -> str:
    done = subprocess.run(
        [python, SCRIPTS / script], cwd=folder, env={"PATH": os.defpath}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_python__without_our_packages_is_told_in_one_line(tmp_path: Path, script: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    said = one_line(python, script, tmp_path)
    assert said.startswith(f"{script}: {python} lacks these packages: ")
    assert "psycopg2" in said
    assert ".venv" in said


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_python__too_old_is_told_in_one_line(tmp_path: Path, script: str) -> None:
    for python in old_pythons():
        said = one_line(python, script, tmp_path)
        assert said.startswith(f"{script}: Python 3.11 or newer is needed, but {python} is 3.")
    # On a machine without an old one: what it would be able to read, and a new one that says it is old.
    ast.parse((SCRIPTS / script).read_text(encoding="utf-8"), feature_version=(3, 6))
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 18); sys.argv = [sys.argv[1]];"
        " sys.path.insert(0, sys.argv[0].rpartition('/')[0]);"
        " runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPTS / script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: Python 3.11 or newer is needed, but {sys.executable} is 3.9.18")
    assert done.stderr.count("\n") == 1


def test_python__packages_that_are_looked_for_are_those_that_are_imported() -> None:
    ours = {path.stem for path in SCRIPTS.glob("*.py")} | {"shared", "simulators", "demo_parts"}
    imported = set()
    for path in [*SCRIPTS.glob("*.py"), *(SCRIPTS / "shared").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            imported |= {name.split(".")[0] for name in names}
    needed_by_workers = {*SCALE_PACKAGES} - {"psycopg_pool"}  # the engine imports it, through psycopg
    assert imported - ours - sys.stdlib_module_names == {*PACKAGES, *PAGE_PACKAGES, *needed_by_workers}
