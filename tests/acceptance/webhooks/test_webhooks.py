"""Webhooks as they are deployed: the scripts, a DAM, Box, a mail server and receivers of several kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from webhook_receivers import Jira, Receiver, ServiceNow, receiving
from webhook_stage import KEY
from world import World

HOOK = "hook-path-s3cret"


@pytest.fixture
def ops(world: World) -> Iterator[Receiver]:
    with receiving(Receiver()) as receiver:
        world.changes |= {
            "WEBHOOK_OPS_URL": f"{receiver.url}/{HOOK}",
            "WEBHOOK_OPS_SECRET": KEY,
            "WEBHOOK_OPS_EVENTS": "*",
            "WEBHOOK_ALLOW_PRIVATE": "true",
            "WEBHOOK_INSTALLATION": "test",
            "ADMIN_URL": "https://page.example.com",
        }
        yield receiver


def test_campaign__that_is_given_up_reset_by_sql_and_uploaded(world: World, ops: Receiver) -> None:
    with ExitStack() as resources:
        jira, now = Jira(), ServiceNow()
        for receiver in (jira, now):
            resources.enter_context(receiving(receiver))
        world.changes |= {
            "WEBHOOK_JIRA_URL": f"{jira.url}/?project=OPS", "WEBHOOK_JIRA_KIND": "jira",
            "WEBHOOK_JIRA_SECRET": "robot@example.com:token",
            "WEBHOOK_SN_URL": now.url, "WEBHOOK_SN_KIND": "servicenow", "WEBHOOK_SN_SECRET": "robot:password",
        }  # fmt: skip
        campaign = world.dam.add_campaign("Easter", "C-1001")
        runs = [world.upload() for _ in range(3)]
        assert runs[-1].outcomes[campaign] == "permanently_failed"
        assert ops.types == ["campaign.permanently_failed"]
        assert Webhook(KEY).verify(ops.calls[0].body, dict(ops.calls[0].headers))
        assert len(ops.calls[0].json["data"]["attempts"]) == 3
        assert (jira.open, [one["number"] for one in now.open]) == (["OPS-1"], ["INC0000001"])

        explained = world.run("a1_retry.py", "explain", "C-1001")
        assert "jira: OPS-1" in explained.stdout
        assert "sn: INC0000001" in explained.stdout
        told = json.loads(world.run("a1_retry.py", "explain", "C-1001", "--json").stdout)
        assert {"target": "jira", "ticket": "OPS-1", "state": "delivered"} in told["webhooks"]

        world.sql("UPDATE campaign_status SET a1_permanently_failed = FALSE")
        runs.append(world.upload())
        assert ops.types[1:] == ["campaign.reset"]
        assert (jira.open, now.open) == ([], [])
        for _ in range(2):
            runs.append(world.upload())
        assert jira.open == ["OPS-2"]
        world.sql("UPDATE campaign_status SET a1_permanently_failed = FALSE")
        folder = world.dam.master_assets_folder(campaign) or world.dam.add_folder(campaign, "Master Assets")
        world.dam.add_asset(folder, "late.jpg", b"late")
        runs.append(world.upload())
        assert world.dam.status(campaign) == "A2"
        assert (jira.open, now.open) == ([], [])
        assert {run.exit_code for run in runs} == {0}, [run.stderr for run in runs]
        assert not [run for run in runs if HOOK in run.stderr or KEY[6:] in run.stderr]


def test_error__and_its_end(world: World, ops: Receiver) -> None:
    campaign = world.add_full_campaign("Easter", "C-1001")
    world.dam.fail(r"GET .*/contents", status=403)
    assert world.upload().outcomes[campaign] == "failed"
    assert ops.types == ["campaign.erring"]
    world.upload()
    assert len(ops.calls) == 1, "once a day, as the e-mail"
    world.dam.clear_faults()
    world.upload()
    assert world.dam.status(campaign) == "A2"
    assert ops.types[1:] == ["campaign.recovered"]
    assert ops.calls[1].json["data"]["dedup_key"] == ops.calls[0].json["data"]["dedup_key"]


def test_error__is_over_when_somebody_else_takes_the_campaign_out_of_a1(world: World, ops: Receiver) -> None:
    campaign = world.add_full_campaign("Easter", "C-1001")
    world.dam.fail(r"GET .*/contents", status=403)
    world.upload()
    world.dam.set_status(campaign, "B1")
    world.upload()
    assert ops.types == ["campaign.erring", "campaign.recovered"]
    assert "B1" in ops.calls[1].json["data"]["reason"]


def test_target__that_is_dead_changes_neither_exit_code_nor_mail(world: World, ops: Receiver) -> None:
    ops.refusing = (503, {})
    campaign = world.dam.add_campaign("Easter", "C-1001")
    for _ in range(3):
        run = world.upload()
        assert run.exit_code == 0, run.stderr
    assert len(world.subjects) == 3
    assert run.outcomes[campaign] == "permanently_failed"
    assert len(ops.calls) == 2, "the first repeat, after 5 s, is waited for"
    unsent = world.run("a1_retry.py", "unsent")
    assert "webhook ops" in unsent.stdout
    assert "HTTP 503" in unsent.stdout
    ops.refusing = (400, {})
    world.sql("UPDATE notice_deliveries SET next_try_at = now() WHERE channel = 'webhook'")
    world.upload()
    message_id = ops.calls[0].headers["webhook-id"]
    report = world.run("daily_report.py", "--dry-run").stdout
    assert "WEBHOOKS NOT DELIVERED" in report
    assert "1 given up" in report
    ops.refusing = None
    assert world.run("a1_retry.py", "webhook", "redeliver", message_id).exit_code == 0
    assert world.run("a1_retry.py", "webhook", "redeliver", message_id).exit_code == 4
    world.upload()
    assert ops.calls[-1].headers["webhook-id"] == message_id
    assert world.sql("SELECT count(*) AS n FROM notice_deliveries WHERE sent_at IS NULL") == [{"n": 0}]


def test_test_command__reaches_the_target_and_turns_it_on(world: World, ops: Receiver) -> None:
    ops.answers[1] = (410, {})
    world.dam.add_campaign("Easter", "C-1001")
    for _ in range(3):
        world.upload()
    off = [subject for subject in world.subjects if "Webhook Turned Off - ops" in subject]
    assert len(off) == 1 or world.upload().exit_code == 0
    assert len([subject for subject in world.subjects if "Webhook Turned Off - ops" in subject]) == 1
    mail = world.mail.messages[-1].message.as_string()
    assert HOOK not in mail
    done = world.run("a1_retry.py", "webhook", "test", "OPS")
    assert (done.exit_code, ops.types[-1]) == (0, "webhook.test"), done.stderr
    assert world.sql("SELECT off_at FROM webhook_targets") == [{"off_at": None}]
    ops.refusing = (403, {})
    refused = world.run("a1_retry.py", "webhook", "test", "ops")
    assert refused.exit_code == 2
    assert "HTTP 403" in refused.stderr
    unknown = world.run("a1_retry.py", "webhook", "test", "nobody")
    assert unknown.exit_code == 2
    assert "they name: ops" in unknown.stderr
    assert not [run for run in (done, refused, unknown) if HOOK in run.stderr + run.stdout]


def test_mail_server__that_is_dead_is_reported(world: World, ops: Receiver) -> None:
    world.dam.add_campaign("Easter", "C-1001")
    world.upload(SMTP_PORT="1")
    world.sql("UPDATE notices SET created_at = created_at - interval '2 hours'")
    world.upload(SMTP_PORT="1")
    assert ops.types == ["task.failing"]
    assert ops.calls[0].json["data"]["task"] == "e-mails"
    world.sql("UPDATE notice_deliveries SET next_try_at = now() WHERE channel = 'email'")
    for _ in range(2):
        world.upload()
    assert [one for one in ops.types if one.startswith("task.")] == ["task.failing", "task.recovered"]


def test_loop__reports_a_task_also_while_the_database_is_away(world: World, ops: Receiver) -> None:
    world.changes |= {"ALERT_AFTER_FAILURES": "1", "OFF_HOURS_ENABLED": "false"}
    once = world.run("orchestrator-prod.py", "--once", DAM_BASE_URL="http://127.0.0.1:9")
    assert once.exit_code != 0
    assert "task.failing" in ops.types
    failing = ops.calls[ops.types.index("task.failing")].json["data"]
    assert failing["dedup_key"] == "test:task:a1_to_a2"
    assert not re.search(HOOK, once.stderr)


def test_cron__without_database_and_mail_server_is_reported_by_webhook_once(
    world: World, ops: Receiver, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    broken = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x", "STATE_DIRECTORY": str(tmp_path)}
    for _ in range(2):
        once = world.run("orchestrator-prod.py", "--once", **broken, SMTP_PORT="1")
        assert once.exit_code == 75
    assert ops.types == ["task.failing"]
    assert HOOK not in once.stderr
