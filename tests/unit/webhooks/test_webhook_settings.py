"""What a person writes about webhooks: what is accepted, what is said of the rest, what is kept secret."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shared.base.errors import ConfigError
from shared.base.webhooks import EventType, WebhookTarget
from shared.settings import (
    ReportSettings,
    Settings,
    environment_for,
    load_webhook_settings,
    read_environment,
    variables_of,
)

KEY = "whsec_" + "dGhlIG5ldyBrZXksIG9mIDI1IGJ5dGVzISE="
OLD = "whsec_" + "dGhlIG9sZCBrZXksIG9mIDI1IGJ5dGVzISE="
URL = "https://hooks.example.com/services/T0/B0/s3cret"
DATABASE = {"DB_PASSWORD": "secret-of-db"}


def targets(**variables: str) -> dict[str, WebhookTarget]:
    loaded = load_webhook_settings(DATABASE | variables)
    return {one.name: one for one in loaded.webhooks.targets}


def test_targets__several_with_their_defaults() -> None:
    found = targets(
        WEBHOOK_OPS_URL=URL, WEBHOOK_OPS_SECRET=f"{KEY} {OLD}",
        WEBHOOK_TEAM_2_URL=URL, WEBHOOK_TEAM_2_KIND="Slack", WEBHOOK_TEAM_2_EVENTS="*",
    )  # fmt: skip
    assert found["ops"] == WebhookTarget("ops", "standard", URL, (KEY, OLD))
    assert found["team_2"] == WebhookTarget("team_2", "slack", URL, (), ("*",))
    assert [event for event in EventType if found["ops"].wants(event)] == [
        *(event for event in EventType if event.startswith("campaign.")), EventType.TEST,
    ]  # fmt: skip
    assert not WebhookTarget("pd", "pagerduty", URL, ("x",), ("*",)).wants(EventType.SNOOZED)
    assert targets() == {}


FAULTS = [
    ({"WEBHOOK_X_KIND": "slack"}, "WEBHOOK_X_URL: missing"),
    ({"WEBHOOK_X_URL": URL}, "WEBHOOK_X_SECRET: missing, expected the key that signs; make one:  echo"),
    ({"WEBHOOK_X_URL": "http://h.example/x", "WEBHOOK_X_SECRET": KEY}, "WEBHOOK_X_URL: http would send"),
    ({"WEBHOOK_X_URL": "https://u:pw@h.example/x", "WEBHOOK_X_SECRET": KEY}, "must not contain a user name"),
    ({"WEBHOOK_X_URL": "https://h.example/x#s3cret", "WEBHOOK_X_SECRET": KEY}, "a part after #"),
    ({"WEBHOOK_X_URL": "https://[::1/s3cret", "WEBHOOK_X_SECRET": KEY}, "cannot be read"),
    ({"WEBHOOK_X_URL": "https://h.example/s3cret x", "WEBHOOK_X_SECRET": KEY}, "without spaces"),
    ({"WEBHOOK_X_URL": "ftp://h.example/s3cret", "WEBHOOK_X_SECRET": KEY}, "expected the https address"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_SECRET": "whsec_c2hvcnQ="}, "_SECRET: expected whsec_ and 24"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_SECRET": " ".join([KEY] * 3)}, "WEBHOOK_X_SECRET: expected whsec_"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_SECRET": "whsec_!!!"}, "WEBHOOK_X_SECRET: expected whsec_"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_KIND": "slack", "WEBHOOK_X_SECRET": KEY}, "must be empty"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_KIND": "pagerduty", "WEBHOOK_X_SECRET": "s3cret"}, "32 letters"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_KIND": "servicenow", "WEBHOOK_X_SECRET": "s3cret"}, "user:password"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_KIND": "jira", "WEBHOOK_X_SECRET": "a:s3cret"}, "names no project"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_KIND": "email"}, "WEBHOOK_X_KIND: expected one of standard"),
    ({"WEBHOOK_X_URL": URL, "WEBHOOK_X_SECRET": KEY, "WEBHOOK_X_EVENTS": "campaign.rest"}, "matches no"),
    ({"WEBHOOK_INSTALLATION": "a b"}, "WEBHOOK_INSTALLATION: expected up to 40"),
    ({"WEBHOOK_ALLOW_PRIVATE": "yes"}, "WEBHOOK_ALLOW_PRIVATE: expected true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "said"), FAULTS)
def test_fault__names_variable_and_cure_and_quotes_no_secret(variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        targets(**variables)
    text = " | ".join(caught.value.faults)
    assert said in text
    assert not any(secret in text for secret in ("s3cret", "c2hvcnQ", "u:pw", KEY[6:]))


def test_http__goes_where_private_addresses_are_allowed() -> None:
    found = targets(
        WEBHOOK_X_URL="http://ops.local:8080/x", WEBHOOK_X_SECRET=KEY, WEBHOOK_ALLOW_PRIVATE="true"
    )
    assert found["x"].url == "http://ops.local:8080/x"


def test_secrets__are_known_for_redaction_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "key").chmod(0o600)
    loaded = load_webhook_settings(
        DATABASE
        | {"WEBHOOK_A_URL": URL, "WEBHOOK_A_SECRET_FILE": str(tmp_path / "key")}
        | {
            "WEBHOOK_B_URL": "https://x.example",
            "WEBHOOK_B_KIND": "servicenow",
            "WEBHOOK_B_SECRET": "me:pass",
        }
    )
    assert {URL, "/services/T0/B0/s3cret", KEY, KEY[6:], "me:pass", "pass"} <= set(loaded.secrets)
    assert not any(secret in repr(loaded) for secret in ("s3cret", KEY[6:], "pass'"))


def test_task__gets_them_when_it_reads_them() -> None:
    env = {
        "WEBHOOK_OPS_URL": "x",
        "WEBHOOK_OPS_SECRET_FILE": "x",
        "WEBHOOK_OPS_KIND": "x",
        "WEBHOOK_ZONE": "x",
    }
    assert environment_for(variables_of(Settings), env) == env
    assert environment_for(variables_of(ReportSettings), env) == {"WEBHOOK_ZONE": "x"}


def test_names__are_known_however_the_target_is_called(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "env"
    path.touch(0o600)
    path.write_text("WEBHOOK_OPS_URL=a\nWEBHOOK_OPS_SECRET_FILE=b\nWEBHOOK_OPS_EVENT=c\n")
    with caplog.at_level(logging.WARNING):
        read_environment(path, {})
    (said,) = [record.getMessage() for record in caplog.records]
    assert "WEBHOOK_OPS_EVENT" in said
