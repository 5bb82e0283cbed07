"""What a person writes into the settings: what is accepted, and what is said of the rest."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest

from shared.base.env_file import ENV_FILE_VARIABLE
from shared.base.errors import ConfigError
from shared.base.file_rights import fault_of
from shared.base.links import NO_LINKS, Links
from shared.settings import (
    Settings,
    load_operator_settings,
    load_orchestrator_settings,
    load_report_settings,
    load_settings,
    read_environment,
)

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATION = (REPOSITORY / "MARKDOWN_DOCS" / "CONFIGURATION.md").read_text(encoding="utf-8")


@pytest.fixture
def least(tmp_path: Path) -> dict[str, str]:
    """The variables without a default."""
    pfx = tmp_path / "client.pfx"
    pfx.write_bytes(b"")
    return {
        "DB_PASSWORD": "secret-of-db",
        "DAM_BASE_URL": "https://dam.example.com",
        "DAM_PFX_PATH": str(pfx),
        "DAM_CLIENT_ID": "client",
        "DAM_CLIENT_SECRET": "secret-of-dam",
        "DAM_CAMPAIGNS_FOLDER_ID": "f",
        "DAM_STATUS_FIELD_ID": "s",
        "DAM_NUMBER_FIELD_ID": "n",
        "BOX_CLIENT_ID": "box",
        "BOX_CLIENT_SECRET": "secret-of-box",
        "BOX_ENTERPRISE_ID": "1",
        "BOX_ROOT_FOLDER_ID": "0",
        "SMTP_HOST": "mail.example.com",
        "MAIL_FROM": "robot@example.com",
        "ERROR_NOTIFICATION_EMAILS": "support@example.com",
        "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
    }


def both(env: dict[str, str]) -> tuple[Settings, object]:
    return load_settings(env), load_orchestrator_settings(env)


# --- what is accepted ---------------------------------------------------------------------------------------


def test_defaults__as_the_page_prints_them_may_be_written(least: dict[str, str]) -> None:
    printed = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| `?([^`|–]+?)`? \|", CONFIGURATION, re.MULTILINE))
    assert len(printed) > 35
    assert {"DAM_CA_BUNDLE", "SMTP_CA_BUNDLE", "SUCCESS_NOTIFICATION_EMAILS", "HEARTBEAT_URL"} <= set(printed)
    assert both({**printed, **least}) == both(least)


@pytest.mark.parametrize("tail", ["", "/", "//", "/otmmapi", "/otmmapi/", "/otmmapi/v6", "/otmmapi/v6//"])
def test_dam_base_url__with_what_the_documents_of_the_dam_show(least: dict[str, str], tail: str) -> None:
    dam = load_settings(least | {"DAM_BASE_URL": f"https://dam.example.com/x{tail}"}).dam
    assert dam.base_url == "https://dam.example.com/x"
    assert dam.token_url == "https://dam.example.com/x/otmmapi/v6/sessions/oauth2/token"


def test_both_statuses__must_differ(least: dict[str, str]) -> None:
    for same in ({"DAM_STATUS_A1": "A2"}, {"DAM_STATUS_A2": "A1"}):
        with pytest.raises(ConfigError, match=r"DAM_STATUS_A2: 'A[12]' is also DAM_STATUS_A1"):
            load_settings(least | same)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"\xef\xbb\xbfs3cret\r\n", "s3cret"),
        (b" s3cret ", " s3cret "),
        (
            "ß\n".encode("utf-16"),
            "SMTP_PASSWORD_FILE: cannot read {}: it is UTF-16 text, or not text at all; save it as",
        ),
        ("ß\n".encode("utf-16-le"), "it is UTF-16 text"),
        (
            "ß\n".encode("latin-1"),
            "SMTP_PASSWORD_FILE: cannot read {}: it is not UTF-8 text; save it as UTF-8",
        ),
        (b"\xef\xbb\xbf\n", "SMTP_PASSWORD_FILE: {} is empty"),
    ],
)
def test_secret_file__as_editors_write_it(
    least: dict[str, str], tmp_path: Path, data: bytes, wanted: str
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(data)
    try:
        found = load_settings(least | {"SMTP_PASSWORD_FILE": str(path)}).mail.server.password
    except ConfigError as exc:
        found = str(exc)
        assert "ß" not in found
    assert found is not None
    assert found == wanted or (wanted.format(path) in found and len(wanted) > 10)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_env_file__as_editors_write_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "env"
    path.write_bytes("SMTP_HOST=mail\r\nMAIL_FROM='a\r\nb'\r\n".encode(encoding))
    if encoding == "utf-8-sig":
        found = read_environment(path, {})
        assert (found["SMTP_HOST"], found["MAIL_FROM"]) == ("mail", "a\nb")
    else:
        with pytest.raises(ConfigError, match=r"UTF-16 text.*save it as UTF-8"):
            read_environment(path, {})


def test_env_file__that_sets_a_name_twice_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "env"
    path.touch(0o600)
    path.write_text("DB_PASSWORD=t0p-one\nDB_HOST=a\nDB_PASSWORD=t0p-two\nDB_HOST=a\n")
    assert read_environment(path, {})["DB_PASSWORD"] == "t0p-two"
    (said,) = caplog.messages
    assert "DB_PASSWORD is set several times" in said
    assert "on line 3" in said
    assert "t0p" not in said


@pytest.mark.parametrize(
    "line", ["A1_MAX_RETRIES", "export A1_MAX_RETRIES", "A1_MAX_RETRIES: 5", "hello you"]
)
def test_env_file__with_a_line_that_sets_nothing_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "env"
    path.touch(0o600)
    path.write_text(f"DB_HOST=a\n{line}\nDB_PORT=1\n")
    with pytest.raises(ConfigError, match="line 2 is not NAME=value"):
        read_environment(path, {})


@pytest.mark.parametrize(
    "url",
    [
        "https://dam.example.com#f",
        "https://dam.example.com/a b",
        "https://user:t0p-secret@däm.example.com",
        "ftp://user:t0p-secret@dam.example.com",
        "https://dam.example.com?token=t0p-secret",
    ],
)
def test_dam_base_url__that_cannot_work_is_refused_and_shows_no_secret(
    least: dict[str, str], url: str
) -> None:
    with pytest.raises(ConfigError, match=r"DAM_BASE_URL: expected https://dam\.example\.com") as caught:
        load_settings(least | {"DAM_BASE_URL": url})
    assert "t0p-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["DAM_BASE_URL", "DAM_TOKEN_URL", "BOX_API_URL", "BOX_UPLOAD_URL"])
def test_address__that_nobody_can_take_apart_is_a_fault_and_no_bug(least: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected .*https"):
        load_settings(least | {name: "https://[zz]/", "A1_TO_A2_ENV_FILE": ""})


@pytest.mark.parametrize(
    ("name", "address", "fault"),
    [
        (
            "DAM_WEB_URL",
            "https://dam.example.com/folders",
            "with one {campaign_id} after its host, got 'https:",
        ),
        ("DAM_WEB_URL", "https://d.example.com/{campaign_id}/{campaign_id}", "with one {campaign_id} after"),
        ("DAM_WEB_URL", "https://{campaign_id}.example.com/", "with one {campaign_id} after its host"),
        ("DAM_WEB_URL", "https://d.example.com{campaign_id}/", "with one {campaign_id} after its host"),
        ("DAM_WEB_URL", "http://dam.example.com/{campaign_id}", "http would send secrets unencrypted to dam"),
        ("DAM_WEB_URL", "https://u:t0p-secret@d.example.com/{campaign_id}", "must not contain a user name"),
        ("DAM_WEB_URL", "https://u:t0p-secret@d.example.com/", "with one {campaign_id} after its host"),
        ("DAM_WEB_URL", "javascript:alert('{campaign_id}')", "with one {campaign_id} after its host"),
        ("DAM_WEB_URL", "javascript://x/%0aalert('{campaign_id}')", "expected an https address"),
        ("DAM_WEB_URL", "https://dam.example.com/a b/{campaign_id}", "expected an https address"),
        ("BOX_WEB_URL", "https://app.box.com/folder/", "with one {folder_id} after its host"),
        ("BOX_WEB_URL", "https://app.box.com/folder/{campaign_id}", "with one {folder_id} after its host"),
        ("ADMIN_URL", "http://page.example.com", "http would send secrets unencrypted to page.example.com"),
        ("ADMIN_URL", "https://u:t0p-secret@page.example.com", "must not contain a user name"),
        ("ADMIN_URL", "https://page.example.com/#x", "expected an https address"),
        ("ADMIN_URL", "javascript:alert(1)", "expected an https address"),
    ],
)
def test_web_address__that_cannot_be_opened_is_refused(
    least: dict[str, str], name: str, address: str, fault: str
) -> None:
    for load in (load_settings, load_report_settings, load_operator_settings, load_orchestrator_settings):
        with pytest.raises(ConfigError, match=f"^{name}: .*{re.escape(fault)}") as caught:
            load(least | {name: address})
        assert "t0p-secret" not in str(caught.value)


def test_web_address__as_people_find_it_in_their_browser(least: dict[str, str]) -> None:
    given = {
        "DAM_WEB_URL": "https://dam.example.com/otmm/ux-html/index.html?view=grid#/folder/{campaign_id}?tab=1",
        "BOX_WEB_URL": "https://acme.app.box.com/folder/{folder_id}",
        "ADMIN_URL": "https://page.example.com/a1/",
    }
    links = load_settings(least | given).links
    assert links == Links(given["DAM_WEB_URL"], given["BOX_WEB_URL"], "https://page.example.com/a1")
    assert load_settings(least | {"ADMIN_URL": "http://127.0.0.1:8080"}).links.page == "http://127.0.0.1:8080"
    assert load_settings(least).links == NO_LINKS


def test_file_name__may_begin_at_home_and_its_fault_is_told_once(
    least: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "secret").chmod(0o600)
    without = {name: value for name, value in least.items() if name != "DAM_CLIENT_SECRET"}
    assert load_settings(without | {"DAM_CLIENT_SECRET_FILE": "~/secret"}).dam.client_secret == "s3cret"
    for name in ("DAM_CLIENT_SECRET_FILE", "DAM_PFX_PATH"):
        for value in ("~/none", "~nobody-of-this-name/x"):
            env = (without if name.endswith("_FILE") else least) | {name: value}
            with pytest.raises(ConfigError) as caught:
                load_settings(env | {"A1_TO_A2_ENV_FILE": ""})
            (fault,) = caught.value.faults
            assert fault.startswith(f"{name}: cannot read ")


def test_box_users__as_a_person_lists_them(least: dict[str, str]) -> None:
    shared = least | {"BOX_ROOT_FOLDER_ID": "123"}
    assert load_settings(shared).box.users == ()
    assert load_settings(shared | {"BOX_USERS": " 27000000002, 27000000003,"}).box.users == (
        *("27000000002", "27000000003"),
    )
    fifty = ",".join(str(27000000000 + number) for number in range(50))
    assert len(load_settings(shared | {"BOX_USERS": fifty}).box.users) == 50


@pytest.mark.parametrize(
    ("users", "fault"),
    [
        ("27000000002,robot@example.com", "separated by commas, got 'robot@example.com'"),
        ("27000000002 27000000003", "separated by commas, got '27000000002 27000000003'"),
        ("027000000002", "separated by commas, got '027000000002'"),
        ("٢٧٠٠٠", r"separated by commas, got '\u0662"),
        ("0", "separated by commas, got '0'"),
        ("27000000002,27000000003,27000000002", "27000000002 is listed 2 times; list each user once"),
        (",".join(map(str, range(1, 52))), "at most 50 users, got 51"),
    ],
)
def test_box_users__that_cannot_work_are_refused(least: dict[str, str], users: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"^BOX_USERS: .*{re.escape(fault)}"):
        load_settings(least | {"BOX_ROOT_FOLDER_ID": "123", "BOX_USERS": users})


def test_box_users__cannot_share_the_root_of_all(least: dict[str, str]) -> None:
    """Box shows each user another folder 0."""
    with pytest.raises(ConfigError, match=r"^BOX_ROOT_FOLDER_ID: 0 is each user's own root folder"):
        load_settings(least | {"BOX_USERS": "27000000002"})


# --- what is said of the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("A1_MAX_RETRY", "A1_MAX_RETRIES"),
        ("SMTP_PASS", "SMTP_PASSWORD"),
        ("DAM_PFX_PASS", "DAM_PFX_PASSWORD"),
        ("DAM_USER", "DAM_USERNAME"),
        ("DB_PASSWORDFILE", "DB_PASSWORD_FILE"),
        ("DAM_PFX_PASSWORD_FIL", "DAM_PFX_PASSWORD_FILE"),
        ("SMTP_HOST_FILE", "SMTP_HOST"),
        ("smtp_host", "SMTP_HOST"),
        ("ERROR_NOTIFICATION_EMAIL", "ERROR_NOTIFICATION_EMAILS"),
        ("OFFHOURS_ENABLED", "OFF_HOURS_ENABLED"),
        ("HEARTBEAT_URI", "HEARTBEAT_URL"),
        ("BOX_FROBNICATE", "CONFIGURATION.md"),
        ("SMTP_PASSWORD", None),
        ("SMTP_PASSWORD_FILE", None),
        ("PGSSLMODE", None),
        ("HTTPS_PROXY", None),
        ("TZ", None),
        ("PYTHONUNBUFFERED", None),
        ("MAILTO", None),
    ],
)
def test_unknown_name__is_told_with_the_nearest_and_without_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, nearest: str | None
) -> None:
    path = tmp_path / "env"
    path.touch(0o600)
    path.write_text(f"{name}=t0p-secret\n")
    read_environment(path, {})
    told = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    assert "t0p-secret" not in caplog.text
    if nearest is None:
        assert told == []
    else:
        assert name in told[0]
        assert nearest in told[0].replace(f"the variable {name}", "")


@pytest.mark.parametrize(
    ("name", "is_told"),
    [
        ("A1_MAX_RETRY", True),
        ("SMTP_PASS", True),
        ("DB_PATH", False),
        ("BOX_OFFICE", False),
        ("PATHS", False),
    ],
)
def test_unknown_name__of_the_process_must_look_like_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, is_told: bool
) -> None:
    path = tmp_path / "env"
    path.touch(0o600)
    read_environment(path, {name: "x"})
    assert (name in caplog.text) is is_told


def test_no_settings_file__is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shared.base.env_file.REPOSITORY", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_settings(read_environment(None, {}))
    first, *others = caught.value.faults
    assert first.startswith("there is no settings file: neither .env in the working folder nor ")
    assert "--env-file" in first
    assert len(others) >= 16

    (tmp_path / ".env").touch(0o600)
    with pytest.raises(ConfigError) as caught:
        load_settings(read_environment(None, {}))
    assert caught.value.faults == tuple(others)


# --- whose files they are -----------------------------------------------------------------------------------


def found(mode: int, uid: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, uid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "owner", "trusted", "wanted"),
    [
        pytest.param(0o600, 1000, (1000,), "", id="own"),
        pytest.param(0o644, 0, (1000,), "", id="root's"),
        pytest.param(0o644, 1000, None, "", id="root reads the service user's"),
        pytest.param(
            0o600, 1001, (1000,), "belongs to another user (owner #1001, mode 0600)", id="another's"
        ),
        pytest.param(0o666, 1000, (1000,), "mode 0666): chmod go-w '/x y'", id="everybody may write"),
        pytest.param(0o660, 0, (1000,), "mode 0660): chmod go-w '/x y'", id="the group may write"),
        pytest.param(0o602, 1000, None, "mode 0602): chmod go-w '/x y'", id="for root too"),
    ],
)
def test_file__that_others_can_change(
    mode: int, owner: int, trusted: tuple[int, ...] | None, wanted: str
) -> None:
    fault = fault_of(Path("/x y"), found(mode, owner), trusted)
    assert wanted in fault
    assert bool(wanted) is bool(fault)


@pytest.mark.parametrize(
    "name",
    [
        "DAM_PFX_PATH",
        "BOX_JWT_CONFIG",
        "DAM_CA_BUNDLE",
        "BOX_CA_BUNDLE",
        "SMTP_CA_BUNDLE",
        "SMTP_PASSWORD_FILE",
    ],
)
def test_file__that_settings_name_is_refused_when_others_can_change_it(
    least: dict[str, str], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    path.chmod(0o646)
    with pytest.raises(ConfigError) as caught:
        load_settings(least | {name: str(path)})
    (fault,) = caught.value.faults if len(caught.value.faults) == 1 else caught.value.faults[1:]
    assert fault.startswith(f"{name}: users other than its owner can change {path}")
    assert f"mode 0646): chmod go-w {path}" in fault


def test_env_file__that_others_can_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("DB_PASSWORD=t0p-secret\n")
    path.chmod(0o622)
    with pytest.raises(ConfigError, match=r"mode 0622\): chmod go-w .*--env-file") as caught:
        read_environment(path, {})
    assert "t0p-secret" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_env_file__of_somebody_else_in_the_working_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.touch(0o600)
    shutil.chown(path, 54321)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"\.env belongs to another user \(owner #54321, mode 0600\)"):
        read_environment(None, {})
    assert read_environment(path, {}) == {ENV_FILE_VARIABLE: str(path)}, "root may name the service's file"
    monkeypatch.setattr(os, "geteuid", lambda: 54322)
    with pytest.raises(ConfigError, match=r"\.env belongs to another user"):
        read_environment(path, {})


def test_env_file__through_a_pipe_has_no_owner_to_look_at(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"SMTP_HOST=mail\n")
    os.close(writing)
    assert read_environment(Path(f"/dev/fd/{reading}"), {})["SMTP_HOST"] == "mail"
    os.close(reading)


def test_env_file__is_remembered_for_the_commands_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.touch(0o600)
    assert read_environment(path, {})[ENV_FILE_VARIABLE] == str(path)
    assert read_environment(path, {"DB_PASSWORD_FILE": "/run/x"})[ENV_FILE_VARIABLE] == "", (
        "not enough by itself"
    )


def test_commands__name_the_user_that_the_scripts_run_as(
    least: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_file = least | {ENV_FILE_VARIABLE: "/etc/a1/env"}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load_settings(in_a_file).commands.reset("x").startswith(f"{sys.executable} ")
    assert "as root" in load_settings(in_a_file).commands.where
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    shutil.chown(least["DAM_PFX_PATH"], 54321)
    assert load_settings(in_a_file).commands.reset("x").startswith(f"sudo -u '#54321' {sys.executable} ")
    assert "sudo" not in load_settings(least).commands.reset("x"), "which would drop the environment"


@pytest.mark.parametrize("path", ["the.env", "/etc/a1-to-a2/env"])
def test_env_file_variable__means_something_in_a_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / ".env"
    own.touch(0o600)
    own.write_text("DB_PASSWORD=x\n")
    by_hand = read_environment(None, {"A1_TO_A2_ENV_FILE": path})
    assert by_hand == {"DB_PASSWORD": "x", "A1_TO_A2_ENV_FILE": str(own)}
    task = {"A1_TO_A2_ENV_FILE": "/etc/a1-to-a2/env", "A1_TO_A2_RUN_ID": "0123456789ab"}
    assert read_environment(None, task) == task
