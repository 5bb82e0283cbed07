"""Webhooks on a real PostgreSQL and real HTTP: what is queued, signed, sent, repeated, given up, resent."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from standardwebhooks import Webhook

from shared.base.values import Campaign, UploadTotals
from shared.base.webhooks import EventType, WebhookTarget
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.rules.alerts import AlertNews
from shared.webhooks.delivery import GIVE_UP_AFTER, PAUSES
from shared.webhooks.outbox import WebhookOutbox
from shared.webhooks.payloads import MOST_BYTES
from webhook_receivers import Receiver
from webhook_stage import EMPTY, HOUR, KEY, MINUTE, NOW, OLD, SECOND, Stage, campaign

# --- what is sent -------------------------------------------------------------------------------------------


def test_message__is_signed_so_that_the_public_library_verifies_it(stage: Stage) -> None:
    ops = stage.add("ops", Receiver(), secrets=(KEY, OLD))
    stage.fail(1)
    stage.deliver()
    (call,) = ops.calls
    for secret in (KEY, OLD):
        assert Webhook(secret).verify(call.body, dict(call.headers)) == call.json
    data = call.json["data"]
    assert call.json["type"] == "campaign.permanently_failed"
    assert data["dedup_key"] == f"prod:{campaign(1).id}:1"
    assert data["campaign"] == {"id": campaign(1).id, "number": "C-1", "name": "Easter 1"}
    assert [(one["number"], one["reason"]) for one in data["attempts"]] == [
        (1, EMPTY),
        (2, EMPTY),
        (3, EMPTY),
    ]
    assert data["link"] == f"https://page.example.com/campaigns/{campaign(1).id}"
    assert stage.rows() == [("ops", 1, None, False)]
    stage.deliver()
    assert len(ops.calls) == 1


@pytest.mark.parametrize("name", ["é" * 5000, "👩‍👩‍👧" * 3000, '"\\' * 5000, "\ud800<>\x00\n\u202e" * 900])
def test_payload__stays_small_and_whole_whatever_names_and_reasons_say(stage: Stage, name: str) -> None:
    ops = stage.add("ops", Receiver())
    one = Campaign("../" * 90, name, name, "A1")
    stage.hooks.erring(
        stage.database, one, cycle=1, attempt=2, kind=name, message=name, hint=name, began_at=NOW,
        is_reminder=False, now=stage.now,
    )  # fmt: skip
    stage.deliver()
    (call,) = ops.calls
    assert len(call.body) < MOST_BYTES
    assert len(call.json["data"]["dedup_key"]) < 100
    assert "\x00" not in call.json["data"]["reason"]


def test_attempts__that_would_be_too_long_are_left_out_from_the_oldest(stage: Stage) -> None:
    ops, one = stage.add("ops", Receiver()), campaign(1)
    stage.database.max_retries = 40
    for _ in range(40):
        with stage.database.transaction():
            counted = stage.database.increment_a1_retry(one.id, one.number, one.name, "é" * 900, status="A1")
            if counted.permanently_failed:
                stage.hooks.permanently_failed(
                    stage.database, one, attempt=40, max_attempts=40, cycle=1, reason=EMPTY, now=stage.now
                )
    stage.deliver()
    numbers = [one["number"] for one in ops.calls[0].json["data"]["attempts"]]
    assert numbers == list(range(41 - len(numbers), 41))
    assert 5 < len(numbers) <= 20
    assert len(ops.calls[0].body) < MOST_BYTES


def test_events__each_target_gets_what_it_wants(stage: Stage) -> None:
    every, few = stage.add("every", Receiver()), stage.add("few", Receiver(), events=("campaign.reset",))
    none = stage.add("tasks", Receiver(), events=("task.*",))
    stage.fail(1)
    stage.database.reset_a1_retry(campaign(1).id)
    stage.hooks.owe_acts(stage.database, stage.now + SECOND)
    news = AlertNews("began", "a1_to_a2", ("exit code 75",), 3, NOW)
    stage.hooks.task_news(stage.database, news, stage.now)
    stage.now += MINUTE
    stage.deliver()
    assert sorted(every.types) == ["campaign.permanently_failed", "campaign.reset", "task.failing"]
    assert few.types == ["campaign.reset"]
    assert none.types == ["task.failing"]


# --- what people do, also by plain SQL ----------------------------------------------------------------------


def test_acts__of_plain_sql_are_each_reported_once_and_none_is_lost(stage: Stage, database_url: str) -> None:
    ops = stage.add("ops", Receiver())
    stage.fail(1)
    stage.fail(2)
    slow = Database(database_url)
    with slow.transaction():  # commits after later events have been reported
        slow.execute("UPDATE campaign_status SET a1_permanently_failed = FALSE WHERE campaign_number = 'C-1'")
        stage.database.execute(
            "UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day'"
            " WHERE campaign_number = 'C-2'"
        )
        assert stage.hooks.owe_acts(stage.database, stage.now + SECOND) == 1
    slow.close()
    assert stage.hooks.owe_acts(stage.database, stage.now + SECOND) == 1
    assert stage.hooks.owe_acts(stage.database, stage.now + SECOND) == 0
    stage.now += MINUTE
    stage.deliver()
    acts = {call.json["type"]: call.json["data"] for call in ops.calls[2:]}
    assert acts.keys() == {"campaign.snoozed", "campaign.reset"}
    assert acts["campaign.reset"]["dedup_key"] == f"prod:{campaign(1).id}:1", "of the cycle that it ended"
    assert acts["campaign.reset"]["by"]
    assert acts["campaign.snoozed"]["until"].endswith("Z")


def test_acts__from_before_the_target_are_not_reported_and_an_upload_is_none(stage: Stage) -> None:
    stage.fail(1)
    stage.database.reset_a1_retry(campaign(1).id)
    ops = stage.add("ops", Receiver())
    stage.fail(2, attempts=1)
    with stage.database.transaction():
        stage.database.act_as("", "upload", "its assets are in Box")
        stage.database.reset_a1_retry(campaign(2).id)
    assert stage.hooks.owe_acts(stage.database, stage.now) == 0
    stage.deliver()
    assert ops.calls == []


def test_undone_reset__is_a_permanent_failure_again(stage: Stage) -> None:
    ops = stage.add("ops", Receiver())
    stage.fail(1)
    stage.database.reset_a1_retry(campaign(1).id)
    stage.hooks.owe_acts(stage.database, stage.now + SECOND)
    stage.database.execute(
        "SELECT set_config('a1_to_a2.undo', 'x', FALSE);"
        " UPDATE campaign_status SET a1_permanently_failed = TRUE, a1_retry_count = 3, a1_cycle = 1"
    )
    stage.hooks.owe_acts(stage.database, stage.now + 2 * SECOND)
    stage.now += MINUTE
    stage.deliver()
    assert ops.types == ["campaign.permanently_failed", "campaign.reset", "campaign.permanently_failed"]
    assert len({call.json["data"]["dedup_key"] for call in ops.calls}) == 1


def test_recovery__is_reported_when_trouble_was(stage: Stage) -> None:
    ops, totals = stage.add("ops", Receiver()), UploadTotals(3, 1000)
    stage.hooks.recovered(stage.database, campaign(1), totals, stage.now)
    stage.fail(1)
    for later in (1, 2):
        stage.hooks.recovered(stage.database, campaign(1), totals, stage.now + later * SECOND)
    stage.now += MINUTE
    stage.deliver()
    assert ops.types == ["campaign.permanently_failed", "campaign.recovered"]
    assert ops.calls[1].json["data"]["dedup_key"] == ops.calls[0].json["data"]["dedup_key"]


def test_mail_server__that_is_dead_is_reported_by_webhook_once_a_day_until_it_is_over(stage: Stage) -> None:
    ops = stage.add("ops", Receiver())
    for hours, faults in ((0, ["535"]), (1, ["535"]), (23, []), (23.1, []), (24, ["535"]), (49, ["535"])):
        stage.hooks.mail_faults(stage.database, faults, stage.now + hours * HOUR)
    stage.now += 50 * HOUR
    stage.deliver()
    assert ops.types == ["task.failing", "task.recovered", "task.failing", "task.failing"]
    assert ops.calls[0].json["data"]["dedup_key"] == "prod:task:e-mails"


# --- tries --------------------------------------------------------------------------------------------------


def test_retries__come_after_growing_pauses_under_the_same_id_for_72_hours(stage: Stage) -> None:
    ops = stage.add("ops", Receiver(refusing=(500, {})))
    stage.fail(1)
    began, tried = stage.now, []
    for _ in range(20):
        stage.deliver()
        tried.append(stage.now - began)
        at = WebhookOutbox(stage.database).next_time("ops", stage.now)
        if at is None:
            break
        stage.now = at
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses == [*PAUSES, PAUSES[-1]]
    assert tried[-1] < GIVE_UP_AFTER < tried[-1] + PAUSES[-1]
    assert len({call.headers["webhook-id"] for call in ops.calls}) == 1
    assert len({call.headers["webhook-timestamp"] for call in ops.calls}) == len(ops.calls)
    ((target, tries, error, is_dead),) = stage.rows()
    assert (target, tries, is_dead) == ("ops", len(tried), True)
    assert error.startswith("HTTP 500")


@pytest.mark.parametrize(("status", "is_dead"), [
    (400, True), (401, True), (404, True), (422, True), (408, False), (429, False), (500, False),
    (503, False), (302, False), (307, False),
])  # fmt: skip
def test_answer__that_is_final_or_not(stage: Stage, status: int, is_dead: bool) -> None:
    ops = stage.add("ops", Receiver(refusing=(status, {"Location": "http://127.0.0.1:1/elsewhere"})))
    stage.fail(1)
    stage.deliver()
    ((_, tries, error, dead),) = stage.rows()
    assert (tries, dead) == (1, is_dead)
    assert error.startswith(f"HTTP {status}")
    assert len(ops.calls) == 1, "no redirection is followed"


def test_final_refusal__keeps_nobody_else_waiting(stage: Stage) -> None:
    ops = stage.add("ops", Receiver(answers={1: (400, {})}))
    stage.fail(1)
    stage.fail(2)
    stage.deliver()
    assert len(ops.calls) == 2


def test_retry_after__is_obeyed_for_all_messages_of_the_target(stage: Stage) -> None:
    ops = stage.add("ops", Receiver(answers={1: (429, {"Retry-After": "600"})}))
    stage.fail(1)
    stage.fail(2)
    stage.deliver()
    stage.now += 599 * SECOND
    stage.deliver()
    assert len(ops.calls) == 1
    stage.now += 2 * SECOND
    stage.deliver()
    assert len(ops.calls) == 3


@pytest.mark.parametrize("asked", ["1e300", "99999999999999999999", "-5", "nan", "inf", "soon", "\x00"])
def test_retry_after__that_makes_no_sense_costs_nothing_else(stage: Stage, asked: str) -> None:
    ops = stage.add("ops", Receiver(answers={1: (503, {"Retry-After": asked})}))
    stage.fail(1)
    stage.deliver()
    stage.now += 24 * HOUR + SECOND
    stage.deliver()
    assert len(ops.calls) == 2


def test_410__turns_the_target_off_with_one_mail_until_somebody_turns_it_on(stage: Stage) -> None:
    ops, other = stage.add("ops", Receiver(answers={1: (410, {})})), stage.add("other", Receiver())
    for number in (1, 2, 3):
        stage.fail(number)
        stage.deliver()
    assert (len(ops.calls), len(other.calls)) == (1, 3)
    assert stage.database.rows("SELECT subject FROM notices WHERE kind = 'orchestrator_task_alert'") == [
        ("ops off",)
    ]
    assert WebhookOutbox(stage.database).turn_on("ops")
    stage.deliver()
    assert len(ops.calls) == 3, "what waited goes out; the first one is dead"


def test_off__for_long_its_messages_are_given_up(stage: Stage) -> None:
    stage.add("ops", Receiver(answers={1: (410, {})}))
    stage.fail(1)
    stage.fail(2)
    stage.deliver()
    stage.now += GIVE_UP_AFTER + 2 * HOUR
    stage.deliver()
    assert [row[3] for row in stage.rows()] == [True, True]


def test_redelivery__goes_out_under_the_same_id(stage: Stage) -> None:
    ops = stage.add("ops", Receiver(answers={1: (400, {})}))
    stage.fail(1)
    stage.deliver()
    message_id = ops.calls[0].headers["webhook-id"]
    assert WebhookOutbox(stage.database).redeliver(message_id) == 1
    stage.now = datetime.now(UTC) + SECOND
    stage.deliver()
    assert [call.headers["webhook-id"] for call in ops.calls] == [message_id] * 2
    assert stage.rows()[0][3] is False


def test_order__of_one_campaign_is_kept_while_others_go_on(stage: Stage) -> None:
    ops = stage.add("ops", Receiver(answers={1: (500, {})}))
    stage.fail(1)
    stage.deliver()
    stage.database.reset_a1_retry(campaign(1).id)
    stage.hooks.owe_acts(stage.database, stage.now + SECOND)
    stage.fail(2)
    stage.now += 2 * SECOND
    stage.deliver()
    assert ops.types == ["campaign.permanently_failed"] * 2, "the reset waits for what it ends"
    stage.now += 5 * SECOND
    stage.deliver()
    assert ops.types[2:] == ["campaign.permanently_failed", "campaign.reset"]


def test_channels__do_not_see_one_another(stage: Stage) -> None:
    stage.add("ops", Receiver(refusing=(500, {})))
    stage.fail(1)
    outbox, later = Outbox(stage.database), stage.now + 3 * HOUR
    assert outbox.is_due(later) is None
    assert not outbox.is_late(later)
    assert outbox.tell_late(later, later) is None
    assert outbox.next_mail(later, ()) is None
    assert outbox.postpone_due(later, "no", pauses=[HOUR]) == 0
    assert outbox.give_up_doubtful(later, 0) == []
    outbox.queue(stage.compose_off("x", stage.now))
    stage.deliver()
    assert outbox.is_due(stage.now)
    assert stage.rows() == [("ops", 1, 'HTTP 500: "no"', False)]


@pytest.mark.parametrize("ahead", [timedelta(hours=26), timedelta(days=3650)])
def test_clock__that_ran_ahead_holds_no_message_back(stage: Stage, ahead: timedelta) -> None:
    ops = stage.add("ops", Receiver())
    stage.fail(1)
    stage.database.execute("UPDATE notice_deliveries SET next_try_at = now() + %(ahead)s", {"ahead": ahead})
    stage.database.execute("UPDATE webhook_targets SET wait_until = now() + %(ahead)s", {"ahead": ahead})
    at = WebhookOutbox(stage.database).next_time("ops", stage.now)
    assert at is not None
    assert at <= stage.now
    stage.deliver()
    assert len(ops.calls) == 1


def test_row__that_somebody_holds_and_forgets_keeps_nobody_else_waiting(
    stage: Stage, database_url: str
) -> None:
    ops = stage.add("ops", Receiver())
    for number in (1, 2):
        stage.fail(number)
    with Database(database_url) as other, other.transaction():
        other.execute(
            "UPDATE notice_deliveries SET tries = tries WHERE notice_id ="
            " (SELECT id FROM notices WHERE campaign_number = 'C-1')"
        )
        stage.deliver()
        assert len(ops.calls) == 1
    stage.deliver()
    assert len(ops.calls) == 2


# --- many at once -------------------------------------------------------------------------------------------


def test_many__are_one_message_with_a_list_and_few_are_not(stage: Stage) -> None:
    ops = stage.add("ops", Receiver())
    for number in range(1, 21):
        stage.fail(number, attempts=3)
    stage.deliver()
    assert len(ops.calls) == 20
    for number in range(101, 131):
        stage.fail(number)
    stage.deliver()
    (common,) = ops.calls[20:]
    data = common.json["data"]
    assert (common.json["type"], data["count"]) == ("campaign.permanently_failed", 30)
    assert [one["number"] for one in data["campaigns"]] == [f"C-{number}" for number in range(101, 131)]
    assert {one["dedup_key"] for one in data["campaigns"]} == {
        f"prod:{campaign(n).id}:1" for n in range(101, 131)
    }
    assert {row[1] for row in stage.rows("recipient, sent_at IS NOT NULL")} == {True}


def test_many__that_do_not_fit_into_one_message_are_all_told(stage: Stage) -> None:
    ops = stage.add("ops", Receiver())
    with stage.database.transaction():
        for number in range(1, 301):
            one = Campaign(f"{number:040x}", f"C-{number}", "n" * 300, "A1")
            stage.hooks.permanently_failed(
                stage.database, one, attempt=3, max_attempts=3, cycle=1, reason=EMPTY, now=stage.now
            )
    stage.deliver()
    assert 1 < len(ops.calls) < 8
    assert all(len(call.body) < MOST_BYTES for call in ops.calls)
    told = [one["id"] for call in ops.calls for one in call.json["data"].get("campaigns", [])]
    told += [call.json["data"]["campaign"]["id"] for call in ops.calls if "campaign" in call.json["data"]]
    assert sorted(told) == [f"{number:040x}" for number in range(1, 301)]


def test_secrets__are_in_no_row(stage: Stage) -> None:
    class Echo(Receiver):
        def answer(self, call: Any) -> Any:
            self.calls.append(call)
            return 500, {}, f"{self.url}/hook {KEY} {call.path}"

    echo = stage.add("ops", Echo())
    target = stage.targets[0]
    address = f"{echo.url}/services/T0/s3cret"
    stage.targets[0] = WebhookTarget("ops", "standard", address, target.secrets, ("*",))
    stage.fail(1)
    stage.deliver()
    told = json.dumps(stage.database.rows("SELECT to_jsonb(d)::text, to_jsonb(n)::text FROM notices n"
                                          " JOIN notice_deliveries d ON n.id = d.notice_id"))  # fmt: skip
    assert KEY not in told
    assert KEY[6:] not in told
    assert "s3cret" not in told
    assert EventType.PERMANENTLY_FAILED.value in told
