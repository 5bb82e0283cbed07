"""The pure rules: retry, cadence, names; and the settings with their sample file."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.base.errors import ConfigError
from shared.base.values import Asset, DamFolder, MasterAssets
from shared.rules.cadence import OffHours, next_run
from shared.rules.names import MAX_UNITS, legal_name, name_key, plan_names
from shared.settings import load_settings, read_environment, variable_names

ROME = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
REPOSITORY = Path(__file__).resolve().parents[3]
ROOT = DamFolder("f", "Master Assets", None)
FULL = MasterAssets("f", (Asset("a", "a.jpg", ROOT, 1, "1"),))


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        pytest.param("2026-01-30T21:54", "2026-01-30T21:57", id="in hours"),
        pytest.param("2026-01-30T21:57", "2026-01-30T22:30", id="Friday 21:57"),
        pytest.param("2026-01-30T21:58", "2026-01-30T23:00", id="Friday 21:58"),
        pytest.param("2026-02-02T04:30", "2026-02-02T05:00", id="Monday 04:30"),
        pytest.param("2026-03-29T01:30", "2026-03-29T03:30", id="spring: an hour that is not there"),
        pytest.param("2026-10-25T01:30", "2026-10-25T02:30", id="autumn, before the change"),
    ],
)
def test_next_run__timelines(last: str, wanted: str) -> None:
    planned = next_run(3, datetime.fromisoformat(last).replace(tzinfo=ROME), ROME, WINDOW)
    assert planned.at.replace(tzinfo=None) == datetime.fromisoformat(wanted)


@pytest.mark.parametrize(("extra", "off_hours"), [(30, 83), (27, 161), (0, 166)])
def test_next_run__an_ordinary_week(extra: int, off_hours: int) -> None:
    window = OffHours(True, time(22), time(5), frozenset({5, 6}), extra, frozenset({0, 30}))
    start = datetime(2026, 1, 26, 5, 0, tzinfo=ROME)
    at, rules = start - timedelta(minutes=3), []
    while (planned := next_run(3, at, ROME, window)).at < start + timedelta(days=7):
        rules.append(planned.rule)
        at = planned.at
    assert rules.count("in_hours") == 1700
    assert rules.count("off_hours") == off_hours


def test_next_run__refuses_a_naive_time() -> None:
    with pytest.raises(ValueError, match="aware"):
        next_run(3, datetime.now(UTC).replace(tzinfo=None), ROME, WINDOW)


TEXT = st.text(max_size=320)


@given(st.lists(TEXT, max_size=8))
def test_plan_names__legal_and_unique(names: list[str]) -> None:
    items = [(f"{index:040x}"[::-1], name) for index, name in enumerate(names)]
    planned = plan_names(items, {})
    assert planned == plan_names(items, {})
    keys = [name_key(name) for name in planned.values()]
    assert len(set(keys)) == len(items)
    for name in planned.values():
        assert name == name.strip()
        assert name.strip(".")
        assert not re.search(r"[/\\\x00-\x1f]", name)
        assert 1 <= len(name.encode("utf-16-le")) // 2 <= MAX_UNITS


def test_plan_names__pinned_and_twins() -> None:
    planned = plan_names([("a" * 40, "Logo.png"), ("b" * 40, "LOGO.PNG")], {"b" * 40: "logo.png"})
    assert planned == {"a" * 40: "Logo (aaaaaaaa).png", "b" * 40: "logo.png"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a/b\\c", "a_b_c"), ("..", "__"), (" x ", "x"), ("", "_"), ("شعار 🎉.png", "شعار 🎉.png")],
)
def test_legal_name__table(name: str, wanted: str) -> None:
    assert legal_name(name) == wanted


def test_settings__all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"DB_PORT": "abc", "ORCHESTRATOR_TIMEZONE": "Mars/Base", "OFF_HOURS_RUN_MINUTES": ""})
    told = " | ".join(caught.value.faults)
    for name in ("DB_PASSWORD", "DB_PORT", "DAM_BASE_URL", "DAM_PFX_PATH", "BOX_CLIENT_ID", "SMTP_HOST",
                 "ERROR_NOTIFICATION_EMAILS", "ORCHESTRATOR_TIMEZONE", "OFF_HOURS_RUN_MINUTES"):  # fmt: skip
        assert name in told


def test_settings__the_sample_file_lists_every_variable() -> None:
    text = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    listed = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE)
    assert sorted(listed) == sorted(variable_names())
    documented = (REPOSITORY / "MARKDOWN_DOCS" / "CONFIGURATION.md").read_text(encoding="utf-8")
    assert [name for name in listed if f"`{name}`" not in documented] == []


def test_settings__secrets_from_files_and_never_shown(tmp_path: Path) -> None:
    for name in ("pw", "pfx"):
        (tmp_path / name).write_text("s3cret-value\n")
    (tmp_path / ".env").write_text("DB_PASSWORD_FILE=unused\nDAM_CLIENT_SECRET='with $dollar'\n")
    env = read_environment(tmp_path / ".env", {"DB_PASSWORD_FILE": str(tmp_path / "pw")})
    env |= {
        "DAM_BASE_URL": "https://dam.example.com", "DAM_PFX_PATH": str(tmp_path / "pfx"),
        "DAM_CLIENT_ID": "c",
        "DAM_CAMPAIGNS_FOLDER_ID": "1", "DAM_STATUS_FIELD_ID": "s", "DAM_NUMBER_FIELD_ID": "n",
        "BOX_CLIENT_ID": "b", "BOX_CLIENT_SECRET": "b0x-secret", "BOX_ENTERPRISE_ID": "1",
        "BOX_ROOT_FOLDER_ID": "0", "SMTP_HOST": "h", "MAIL_FROM": "a@b.c",
        "ERROR_NOTIFICATION_EMAILS": "a@b.c", "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
    }  # fmt: skip
    settings = load_settings(env)
    assert settings.dam.client_secret == "with $dollar"
    assert "s3cret-value" in settings.database.dsn
    shown = repr(settings)
    assert not [secret for secret in settings.secrets if len(secret) > 4 and secret in shown]
