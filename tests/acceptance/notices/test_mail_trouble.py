"""A mail server in trouble, as somebody outside sees it: by exit codes, heartbeats and the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from heartbeat_server import kinds, watchman
from simulators.mail import MailSink
from world import World, wait_for

LOG_IN = {"SMTP_USERNAME": "robot", "SMTP_PASSWORD": "wrong-password"}


@pytest.fixture
def refusing(world: World) -> Iterator[MailSink]:
    """A mail server that refuses the login, in the place of the world's own."""
    with MailSink(username="robot", password="right-password") as sink:
        world.env |= sink.settings | LOG_IN
        yield sink


def make_old(world: World, minutes: int) -> None:
    """As if so long had passed for the outbox and the cadence."""
    world.sql(f"UPDATE notices SET created_at = created_at - interval '{minutes} min'")  # noqa: S608
    world.sql("UPDATE notice_deliveries SET next_try_at = now() WHERE sent_at IS NULL")
    world.sql(
        f"UPDATE orchestrator_task_runs SET planned_at = planned_at - interval '{minutes} min',"  # noqa: S608
        f" started_at = started_at - interval '{minutes} min'"
    )


@pytest.mark.timeout(240)
def test_login_refused__is_said_by_every_channel_that_is_left(world: World, refusing: MailSink) -> None:
    world.dam.add_campaign("Empty", "C-1")
    for attempt in range(1, 4):
        run = world.upload()
        assert run.exit_code == 2, run.stderr
        assert run.outcomes.popitem()[1] == ("permanently_failed" if attempt == 3 else "empty")
        assert "refused the login of robot: 535" in run.report["error"]
        assert "check SMTP_USERNAME and SMTP_PASSWORD" in run.stderr
        assert "wrong-password" not in run.stdout + run.stderr
    report = world.run("daily_report.py")
    assert report.exit_code == 2
    assert "0 notices sent, 2 not sent" in report.stderr
    with watchman() as (url, pings):
        once = world.run("orchestrator-prod.py", "--once", OFF_HOURS_ENABLED="false", HEARTBEAT_URL=url)
    assert once.exit_code == 2
    assert kinds(pings) == ["start", "fail"]
    world.env |= {"SMTP_PASSWORD": "right-password"}
    assert world.upload().exit_code == 0
    subjects = [str(mail.message["Subject"])[:8] for mail in refusing.messages]
    assert subjects == ["❌ PERMAN", "📊 Daily "], "all that is still worth telling comes at once"


@pytest.mark.timeout(240)
def test_login_refused__is_not_tried_at_each_notice(world: World, refusing: MailSink) -> None:
    world.add_full_campaign("Film", "C-1", [("film.mov", b"f" * 1000)])
    for number in range(20):
        world.dam.add_campaign("Empty", f"C-{2 + number}")
    world.dam.fail(r"GET .*/contents", delay=4.0, times=1)
    run = world.upload()
    assert run.report["notices"] == {"queued": 21, "sent": 0, "failed": 21}
    assert run.stderr.count("refused the login") <= 6, "beside the campaigns, and at the end"


@pytest.mark.timeout(240)
def test_login_refused__is_said_by_the_loop(world: World, refusing: MailSink) -> None:
    world.dam.add_campaign("Empty", "C-1")
    with watchman() as (url, pings):
        process = world.start("orchestrator-prod.py", OFF_HOURS_ENABLED="false", HEARTBEAT_URL=url)
        wait_for(lambda: len(pings) >= 2, 60)
        process.terminate()
        run = world.finish(process)
    assert run.exit_code == 0
    assert kinds(pings[:2]) == ["start", "fail"]
    assert not refusing.messages
    codes = world.sql("SELECT exit_code FROM orchestrator_task_runs WHERE task = 'a1_to_a2'")
    assert {row["exit_code"] for row in codes} == {2}


@pytest.mark.timeout(240)
def test_mail_late__fails_one_run_and_withholds_the_success(world: World) -> None:
    world.dam.add_campaign("Empty", "C-1")
    world.mail.refuse("support@example.com", 451, "greylisted")
    assert world.upload().exit_code == 0, "a passing refusal is no fault"
    make_old(world, 61)
    assert world.run("daily_report.py").exit_code == 0, "the heartbeat sees the uploader's runs alone"
    late = world.upload()
    assert late.exit_code == 2
    (line,) = [line for line in late.stderr.splitlines() if " ERROR " in line]
    for words in ("1 notices have waited for more than an hour", "since 20", "451 greylisted", "fix"):
        assert words in line
    with watchman() as (url, pings):
        variables = {"OFF_HOURS_ENABLED": "false", "HEARTBEAT_URL": url}
        assert world.run("orchestrator-prod.py", "--once", **variables).exit_code == 0, "told once"
        assert kinds(pings) == ["start", "log"]
        world.mail.relent()
        make_old(world, 4)
        assert world.run("orchestrator-prod.py", "--once", **variables).exit_code == 0
        assert kinds(pings[2:]) == ["start", "success"]
    assert sorted(subject[:8] for subject in world.subjects) == ["❌ PERMAN", "📊 Daily "]


@pytest.mark.timeout(240)
def test_campaigns_failing__is_no_failed_run(world: World) -> None:
    broken = world.add_full_campaign("Locked", "C-4")
    world.dam.lock(broken, by="colleague")
    with watchman() as (url, pings):
        once = world.run("orchestrator-prod.py", "--once", OFF_HOURS_ENABLED="false", HEARTBEAT_URL=url)
    assert once.exit_code == 4
    assert kinds(pings) == ["start", "log"]
    assert world.run("daily_report.py").exit_code == 0
    body = world.mail.messages[-1].message.get_body(("plain",))
    assert body is not None
    assert (
        "  Runs                1\n"
        "    done                            0\n"
        "    done, with failing campaigns    1\n"
        "    failed                          0\n"
    ) in body.get_content()


@pytest.mark.timeout(240)
def test_slow_relay__three_mails_each_once(world: World) -> None:
    """Whatever the server's owner allows an open transaction to take."""
    name = urlsplit(world.database_url).path[1:]
    world.sql(f"ALTER DATABASE \"{name}\" SET idle_in_transaction_session_timeout = '2s'")
    world.dam.add_campaign("Empty", "C-1")
    world.mail.delay_seconds = 4.0
    for _ in range(4):
        assert world.upload().exit_code == 0
    assert [subject.split(" - ")[0] for subject in world.subjects] == [
        "⚠️ No Assets Found (Attempt 1/3)", "⚠️ No Assets Found (Attempt 2/3)", "❌ PERMANENTLY FAILED",
    ]  # fmt: skip


@pytest.mark.timeout(240)
def test_long_download__does_not_hold_up_the_mail(world: World) -> None:
    world.add_full_campaign("Film", "C-1", [("film.mov", b"f" * 1000)])
    world.dam.add_campaign("Empty", "C-2")
    world.dam.fail(r"GET .*/contents", delay=20.0, times=1)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: bool(world.subjects), 60)
    assert process.poll() is None, "the file is still on its way"
    assert world.subjects == ["⚠️ No Assets Found (Attempt 1/3) - Campaign Empty"]
    run = world.finish(process)
    assert run.exit_code == 0, run.stderr
    assert run.report["notices"] == {"queued": 2, "sent": 2, "failed": 0}
    assert len(world.subjects) == 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["away", "password"])
def test_cron__tells_without_the_database(world: World, tmp_path: Path, fault: str) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    url = {
        "away": "postgresql://u:hush-hush@127.0.0.1:1/x",
        "password": world.database_url.replace("only-for-tests", "hush-hush"),
    }[fault]
    broken = {"DATABASE_URL": url, "STATE_DIRECTORY": str(state)}
    code = {"away": 75, "password": 2}[fault]
    for _ in range(3):
        assert world.run("orchestrator-prod.py", "--once", **broken).exit_code == code
    assert [subject.split(" - ")[0] for subject in world.subjects] == ["🛑 Task Failing"]
    text = world.mail.messages[0].message.as_string()
    assert f"exit code {code}" in text
    assert "hush-hush" not in text
    well = {"STATE_DIRECTORY": str(state), "OFF_HOURS_ENABLED": "false"}
    for _ in range(2):
        assert world.run("orchestrator-prod.py", "--once", **well).exit_code == 0
    assert [subject.split(" - ")[0] for subject in world.subjects] == ["🛑 Task Failing", "✅ Task Recovered"]


@pytest.mark.timeout(240)
def test_cron__that_could_not_tell_tells_in_the_next_round(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    broken = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x", "STATE_DIRECTORY": str(tmp_path)}
    world.mail.refuse_all(451, "later")
    once = world.run("orchestrator-prod.py", "--once", **broken)
    assert "the alert could not be sent to anybody" in once.stderr
    (kept,) = tmp_path.glob("once-*")
    kept.write_text("}{")
    world.mail.relent()
    for _ in range(2):
        assert world.run("orchestrator-prod.py", "--once", **broken).exit_code == 75
    assert len(world.subjects) == 1
