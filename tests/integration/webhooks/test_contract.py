"""What WEBHOOKS.md promises to those who receive webhooks, against what is sent."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import fastjsonschema
import pytest

from shared.base.values import UploadTotals
from shared.base.webhooks import EventType
from shared.rules.alerts import AlertNews
from shared.webhooks.delivery import hand_over
from webhook_receivers import Receiver
from webhook_stage import KEY, MINUTE, OLD, SECOND, Stage, campaign
from world import wait_for

TEXT = (Path(__file__).resolve().parents[3] / "MARKDOWN_DOCS" / "WEBHOOKS.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def tell_everything(stage: Stage) -> None:
    """One event of each type, and many at once."""
    one = campaign(1)
    stage.fail(1)
    stage.database.execute("UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day'")
    stage.database.reset_a1_retry(one.id)
    stage.hooks.owe_acts(stage.database, stage.now + SECOND)
    stage.hooks.erring(
        stage.database, one, cycle=2, attempt=0, kind="Box/forbidden", message="no", hint="ask",
        began_at=stage.now, is_reminder=False, now=stage.now + 2 * SECOND,
    )  # fmt: skip
    stage.hooks.recovered(stage.database, one, UploadTotals(2, 10), stage.now + 3 * SECOND)
    for kind in ("began", "over"):
        news = AlertNews(kind, "a1_to_a2", ("exit code 75",), 3, stage.now)  # type: ignore[arg-type]
        stage.hooks.task_news(stage.database, news, stage.now + 4 * SECOND)
    stage.hooks.mail_faults(stage.database, ["535"], stage.now + 5 * SECOND)
    stage.now += MINUTE
    stage.deliver()
    for number in range(100, 125):
        stage.fail(number)
    stage.deliver()
    hand_over(stage.hooks.trial("ops", stage.now), stage.targets[0], stage.settings, stage.now)


def test_schema__fits_what_is_sent_and_names_every_type(stage: Stage) -> None:
    (schema,) = blocks("json")
    check = fastjsonschema.compile(json.loads(schema))
    ops = stage.add("ops", Receiver())
    tell_everything(stage)
    assert set(ops.types) == {event.value for event in EventType}
    for call in ops.calls:
        check(call.json)
    assert any("campaigns" in call.json["data"] for call in ops.calls)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        check({**ops.calls[0].json, "type": "campaign.lost"})
    assert set(re.findall(r"`((?:campaign|task|webhook)\.\w+)`", TEXT)) == {
        event.value for event in EventType
    }


def test_receiver__of_the_document_takes_what_is_signed_and_nothing_else(stage: Stage) -> None:
    (source,) = blocks("python")
    assert len(source.strip().splitlines()) <= 25
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "WEBHOOK_SECRET": KEY, "PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as receiver:
        try:
            wait_for(lambda: _answers(port))
            stage.add("ops", Receiver(), url=f"http://127.0.0.1:{port}/", secrets=(OLD, KEY))
            stage.add("forged", Receiver(), url=f"http://127.0.0.1:{port}/", secrets=(OLD,))
            stage.fail(1)
            stage.deliver()
            assert receiver.stdout
            assert receiver.stdout.readline() == b"campaign.permanently_failed\n"
        finally:
            receiver.kill()
    assert stage.rows("recipient, sent_at IS NOT NULL") == [("forged", False), ("ops", True)]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_openssl__of_the_document_gives_the_signature(stage: Stage, tmp_path: Path) -> None:
    ops = stage.add("ops", Receiver())
    stage.fail(1)
    stage.deliver()
    (call,) = ops.calls
    (tmp_path / "body").write_bytes(call.body)
    (script,) = blocks("sh")
    printed = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "WEBHOOK_SECRET": KEY, "WEBHOOK_ID": call.headers["webhook-id"],
             "WEBHOOK_TIMESTAMP": call.headers["webhook-timestamp"]},
    ).stdout  # fmt: skip
    assert printed.strip() == call.headers["webhook-signature"]
