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
from shared.base.prerequisites import PACKAGES
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
    assert "reset c1 (C-1 Summer): will be tried again from attempt 1" in said
    assert sorted(re.findall(r"skipped (\w+) .*changed meanwhile", said)) == ["c2", "c3"]
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
        path.name for path in queries.glob("*.sql") if re.search(r"^UPDATE", path.read_text(), re.M)
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
        ("A1", "will be tried again from attempt 1 by"),
        ("A2", "it is at A2: nothing will be done until it is set to A1 again"),
        ("B\u202e7", r"it is at B\u202e7: nothing will be done until it is set to A1 again"),
        ("GONE", "the DAM does not show it: nothing will be done until it is there again and set to A1"),
        (None, "no run has seen its status: if it is set to A1, it will be tried again from attempt 1 by"),
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
    assert f"{campaign} (C-1 Summer): nothing to reset, no attempt is spent; it has failed with an error" in (
        done.stdout
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
        pytest.param(None, "2026-01-30T09:01", "by the next run of the uploader", id="never ran"),
        pytest.param(
            ("2026-01-30T09:00", "2026-01-30T09:00"), "2026-01-30T09:01",
            "by the next run of the uploader, planned for 09:03 CET on Fri 2026-01-30", id="in hours",
        ),
        pytest.param(
            ("2026-01-30T21:58", "2026-01-30T21:58"), "2026-01-30T21:59",
            "by the next run of the uploader, planned for 23:00 CET on Fri 2026-01-30, off-hours",
            id="off-hours",
        ),
        pytest.param(
            ("2026-02-02T04:30", "2026-02-02T04:31"), "2026-02-02T04:40",
            "by the next run of the uploader, planned for 05:00 CET on Mon 2026-02-02", id="the window's end",
        ),
        pytest.param(
            ("2026-01-30T09:00", None), "2026-01-30T11:00",
            "by the run after the one that began at 09:00 CET on Fri 2026-01-30", id="under way",
        ),
        pytest.param(
            ("2026-01-30T09:00", "2026-01-30T11:00"), "2026-01-30T11:01",
            "by the next run of the uploader, planned for 11:01 CET on Fri 2026-01-30", id="after a long one",
        ),
        pytest.param(
            ("2026-01-30T09:00", "2026-01-30T09:00"), "2026-01-30T12:00",
            "by the next run of the uploader; it was due at 09:03 CET on Fri 2026-01-30 and has not come: is"
            " the orchestrator running?", id="nobody runs",
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


# --- a chosen campaign --------------------------------------------------------------------------------------


def test_chosen_campaign__that_is_permanently_failed_is_not_passed_over_in_silence(world: World) -> None:
    campaign = world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        world.upload()
    run = world.upload("--campaign", campaign)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "skipped_permanently_failed"})
    (line,) = [line for line in run.stderr.splitlines() if " WARNING " in line]
    since = world.row(campaign)["a1_last_retry_at"].astimezone(ZoneInfo(world.env["ORCHESTRATOR_TIMEZONE"]))
    assert f"{campaign} (C-1 Summer) is permanently failed since {since:%Y-%m-%d %H:%M}" in line
    assert "it was skipped" in line
    assert f"{sys.executable} {SCRIPTS / TOOL} reset {campaign}" in line
    assert "WARNING" not in world.upload().stderr, "one that nobody asked for"


def test_chosen_campaign__that_is_elsewhere_or_nowhere_is_told_in_words(world: World) -> None:
    there = world.dam.add_campaign("Summer", "C-1", status="A2")
    for chosen, exit_code, said in (
        (there, 0, "not_a1; it is at A2, so there is nothing to do"),
        ("C-1", 4, "not_found; the DAM shows our user no such campaign. Is the id right?"),
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
        assert f"{option}: {argument!a} is no id of the DAM" in run.stderr
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
    (command,) = commands_in(texts(world)[-1])
    done = paste(command, elsewhere)
    assert done.returncode == 0, command + done.stderr
    assert "tried again from attempt 1" in done.stdout
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
    assert done.stdout.count("tried again from attempt 1") == 25, done.stderr
    everybody = next(command for command in commands_in(report) if "--all-failed" in command)
    done = paste(f"{everybody} --yes", elsewhere)
    assert done.stdout.count("reset c") == 25, done.stderr


def test_command__without_a_settings_file_needs_the_environment(world: World) -> None:
    world.dam.add_campaign("Summer", "C-1")
    for _ in range(3):
        assert world.upload().exit_code == 0
    text = texts(world)[-1]
    (command,) = commands_in(text)
    assert command.startswith(f"{sys.executable} {SCRIPTS / TOOL} reset ")
    assert "--env-file" not in command
    assert "with the environment that the service has" in text
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


SCRIPT_NAMES = (UPLOADER, TOOL, "migrate.py", "daily_report.py", "orchestrator-prod.py", "demo.py")


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
        assert said.startswith(f"{script}: Python 3.11 or newer is needed, and {python} is 3.")
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
    assert done.stderr.startswith(f"{script}: Python 3.11 or newer is needed, and {sys.executable} is 3.9.18")
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
    assert imported - ours - sys.stdlib_module_names == set(PACKAGES)
