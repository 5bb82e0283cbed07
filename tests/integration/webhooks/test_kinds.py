"""Each kind of target against a stand-in for the vendor's API: one incident a cycle, closed, opened again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.base.errors import WebhookError
from shared.base.values import Campaign, UploadTotals
from shared.base.webhooks import WebhookSettings
from shared.rules.alerts import AlertNews
from shared.webhooks.delivery import INCIDENTS_AN_HOUR, hand_over
from shared.webhooks.outbox import WebhookOutbox
from webhook_receivers import Jira, PagerDuty, Receiver, ServiceNow, Slack, Teams
from webhook_stage import MINUTE, SECOND, Stage, campaign

INCIDENT_KINDS = ("pagerduty", "jira", "servicenow")


def add(stage: Stage, kind: str) -> Any:
    if kind == "pagerduty":
        return stage.add("it", PagerDuty(), kind, secrets=("R" * 32,))
    receiver = Jira() if kind == "jira" else ServiceNow()
    stage.add("it", receiver, kind, secrets=(receiver.login,))
    options = "?project=OPS&issuetype=Incident" if kind == "jira" else "?assignment_group=dam"
    target = stage.targets[-1]
    stage.targets[-1] = type(target)(
        target.name, target.kind, f"{receiver.url}/{options}", target.secrets, target.events
    )
    return receiver


def opened(receiver: Any) -> tuple[int, int]:
    """(incidents that were ever opened, those that are open)."""
    if isinstance(receiver, PagerDuty):
        return len(receiver.incidents), sum(one["open"] for one in receiver.incidents)
    if isinstance(receiver, Jira):
        return len(receiver.issues), len(receiver.open)
    return len(receiver.incidents), len(receiver.open)


def reset(stage: Stage, *numbers: int) -> None:
    stage.database.execute(
        "UPDATE campaign_status SET a1_permanently_failed = FALSE, a1_retry_count = 0"
        " WHERE campaign_number = ANY(%(numbers)s)",
        {"numbers": [f"C-{number}" for number in numbers]},
    )
    step(stage)
    stage.hooks.owe_acts(stage.database, stage.now)


def step(stage: Stage, span: timedelta = SECOND) -> None:
    stage.now = max(stage.now + span, datetime.now(UTC) + SECOND)


def err(stage: Stage, one: Campaign, cycle: int, *, is_reminder: bool = False) -> None:
    stage.hooks.erring(
        stage.database, one, cycle=cycle, attempt=0, kind="Box/forbidden", message="Box says no", hint="ask",
        began_at=stage.now, is_reminder=is_reminder, now=stage.now,
    )  # fmt: skip


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_incident__one_a_cycle_whatever_is_repeated(stage: Stage, kind: str) -> None:
    receiver, one = add(stage, kind), campaign(1)
    err(stage, one, 1)
    stage.deliver()
    assert opened(receiver) == (1, 1)
    for _ in range(3):
        step(stage)
        err(stage, one, 1, is_reminder=True)
        stage.deliver()
    stage.fail(1)
    step(stage)
    stage.deliver()
    message_id = stage.database.row("SELECT id::text FROM notices WHERE kind LIKE 'campaign.perm%'")[0]
    WebhookOutbox(stage.database).redeliver(message_id)
    step(stage, MINUTE)
    stage.deliver()
    assert opened(receiver) == (1, 1)

    reset(stage, 1)
    stage.deliver()
    assert opened(receiver) == (1, 0)
    stage.hooks.recovered(stage.database, one, UploadTotals(1, 1), stage.now)
    calls = len(receiver.calls)
    stage.deliver()
    assert len(receiver.calls) == calls, "what is closed is not closed again"

    stage.fail(1)
    step(stage)
    stage.deliver()
    assert opened(receiver) == (2, 1)
    step(stage)
    stage.hooks.recovered(stage.database, one, UploadTotals(1, 1), stage.now)
    step(stage)
    stage.deliver()
    assert opened(receiver) == (2, 0)
    tickets = {row[0] for row in stage.rows("ticket, recipient")} - {None}
    assert (
        tickets
        == {
            "pagerduty": {f"prod:{one.id}:1", f"prod:{one.id}:2"},
            "jira": {"OPS-1", "OPS-2"},
            "servicenow": {"INC0000001", "INC0000002"},
        }[kind]
    )


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_incident__of_a_killed_process_is_found_and_not_opened_twice(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    stage.fail(1)

    class KilledError(BaseException):
        pass

    delivery = stage.delivery(stage.targets[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebhookOutbox, "record_sent", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            delivery.deliver()
    assert opened(receiver) == (1, 1)
    assert stage.rows("ticket, tries") == [(None, 1)]
    step(stage, MINUTE)
    stage.deliver()
    assert opened(receiver) == (1, 1)
    assert stage.rows("tries, ticket")[0][1]


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_incident__that_is_over_before_it_is_sent_is_never_opened(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    receiver.refusing = (503, {})
    stage.fail(1)
    stage.deliver()
    stage.fail(2)
    reset(stage, 1, 2)
    receiver.refusing = None
    step(stage, MINUTE)
    stage.deliver()
    ever, still = opened(receiver)
    assert (still, len(receiver.calls)) == (0, len(receiver.calls))
    assert ever <= 1, "only the one whose first try may have arrived"
    assert stage.rows("sent_at IS NULL, recipient") == [(False, "it")] * 4


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_many__are_one_incident_with_a_list_that_closes_with_the_last(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    for number in range(1, 31):
        stage.fail(number)
    stage.deliver()
    assert opened(receiver) == (1, 1)
    assert b"C-30" in receiver.calls[-1].body
    for number in range(1, 30):
        reset(stage, number)
    stage.deliver()
    assert opened(receiver) == (1, 1)
    reset(stage, 30)
    calls = len(receiver.calls)
    stage.deliver()
    assert opened(receiver) == (1, 0)
    assert len(receiver.calls) - calls <= 4


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_many__that_are_reminded_of_each_day_have_one_incident(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    for day in range(3):
        for number in range(1, 31):
            err(stage, campaign(number), 1, is_reminder=day > 0)
        stage.deliver()
        step(stage, timedelta(days=1))
    assert opened(receiver) == (1, 1)
    assert len(stage.rows("ticket, recipient")) == 90
    assert None not in {row[0] for row in stage.rows("ticket, recipient")}


def test_limit__holds_back_new_incidents_and_then_tells_of_them_in_one(stage: Stage) -> None:
    receiver = add(stage, "pagerduty")
    for number in range(1, INCIDENTS_AN_HOUR + 11):
        stage.fail(number)
        stage.deliver()
    assert opened(receiver) == (INCIDENTS_AN_HOUR, INCIDENTS_AN_HOUR)
    held = stage.database.rows("SELECT DISTINCT last_error FROM notice_deliveries WHERE sent_at IS NULL")
    assert held == [("held back: at most 20 new incidents per hour",)]
    step(stage, 61 * MINUTE)
    stage.deliver()
    assert len(receiver.incidents) == INCIDENTS_AN_HOUR + 1
    assert receiver.incidents[-1]["summary"] == "Permanently failed: 10 campaigns"
    assert b"held back by the limit" in receiver.calls[-1].body


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_task__has_one_incident_until_it_works_again(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    for news in ("began", "reminder", "reminder", "over", "began"):
        told = AlertNews(news, "a1_to_a2", ("exit code 75",), 3, stage.now)  # type: ignore[arg-type]
        stage.hooks.task_news(stage.database, told, stage.now)
        stage.deliver()
        step(stage)
    assert opened(receiver) == (2, 1)


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_trial__opens_an_incident_and_closes_it(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    message = stage.hooks.trial("it", stage.now)
    hand_over(message, stage.targets[0], stage.settings, stage.now)
    assert opened(receiver) == (1, 0)


def test_jira__says_which_transition_is_missing(stage: Stage) -> None:
    receiver = add(stage, "jira")
    stage.targets[0] = type(stage.targets[0])(
        "it", "jira", f"{receiver.url}/?project=OPS&close=Gone", (receiver.login,), ("*",)
    )
    stage.fail(1)
    stage.deliver()
    reset(stage, 1)
    stage.deliver()
    assert stage.rows("last_error, recipient")[0] == ("issue OPS-1 has no transition named 'Gone'", "it")


@pytest.mark.parametrize("kind", ["jira", "servicenow"])
def test_login__that_is_wrong_costs_its_messages_and_shows_no_secret(stage: Stage, kind: str) -> None:
    receiver = add(stage, kind)
    target = stage.targets[0]
    stage.targets[0] = type(target)("it", target.kind, target.url, ("robot:s3cret-one",), target.events)
    stage.fail(1)
    stage.deliver()
    ((error, is_dead),) = stage.rows("last_error, gave_up_at IS NOT NULL")
    assert error.startswith("HTTP 401")
    assert is_dead
    assert "s3cret" not in error
    assert opened(receiver) == (0, 0)


@pytest.mark.parametrize(
    "answer", [{}, {"issues": {}}, {"issues": [{"key": None}]}, {"issues": [{"key": 7}]}]
)
def test_jira__whose_answers_are_not_as_published_costs_one_delivery(stage: Stage, answer: object) -> None:
    class Odd(Jira):
        def accepted(self, call: Any) -> Any:
            return 200, {}, answer

    receiver = Odd()
    stage.add("it", receiver, "jira", secrets=(receiver.login,))
    target = stage.targets[0]
    stage.targets[0] = type(target)("it", "jira", f"{receiver.url}/?project=OPS", target.secrets, ("*",))
    stage.fail(1)
    stage.deliver()
    ((error, is_dead),) = stage.rows("last_error, gave_up_at IS NOT NULL")
    assert "the answer" in error
    assert not is_dead


@pytest.mark.parametrize(("kind", "receiver"), [("slack", Slack()), ("teams", Teams())])
def test_message__of_slack_and_teams_can_do_nothing_by_a_name(
    stage: Stage, kind: str, receiver: Receiver
) -> None:
    stage.add("chat", receiver, kind, secrets=())
    evil = Campaign("1" * 40, "C-1", "<!channel> *x* [a](http://evil) <http://evil|x> &lt;", "A1")
    err(stage, evil, 1)
    stage.deliver()
    (call,) = receiver.calls
    text = call.body.decode()
    assert "C-1" in text
    if kind == "slack":
        assert "<" not in call.json["text"]
    else:
        blocks = call.json["attachments"][0]["content"]["body"]
        assert {block["type"] for block in blocks} == {"RichTextBlock"}
    assert stage.rows("sent_at IS NOT NULL, recipient") == [(True, "chat")]


def test_snooze__changes_no_incident(stage: Stage) -> None:
    receiver = add(stage, "servicenow")
    stage.fail(1, attempts=1)
    stage.database.execute("UPDATE campaign_status SET a1_snoozed_until = now() + interval '1 day'")
    stage.hooks.owe_acts(stage.database, stage.now + SECOND)
    step(stage)
    stage.deliver()
    assert receiver.calls == []


def test_direct__without_a_database_opens_and_closes(stage: Stage) -> None:
    for kind in INCIDENT_KINDS:
        stage.targets.clear()
        receiver = add(stage, kind)
        settings = WebhookSettings(tuple(stage.targets), "prod", allows_private=True)
        for news in ("began", "reminder", "over"):
            told = AlertNews(news, "orchestrator --once", ("x",), 3, stage.now)  # type: ignore[arg-type]
            hand_over(stage.hooks.message_of(told, stage.now), stage.targets[0], settings, stage.now)
        assert opened(receiver) == (1, 0), kind
    receiver.refusing = (500, {})
    with pytest.raises(WebhookError):
        hand_over(stage.hooks.trial("it", stage.now), stage.targets[0], settings, stage.now)
