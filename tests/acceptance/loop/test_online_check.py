"""`--check --online`: looks at what a run would need, tells every fault in one go, writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hostile import answers, relaying
from simulators.mail import MailSink
from world import Run, World

if TYPE_CHECKING:
    from conftest import Tls

UNKNOWN_HOST = "no-such-host.invalid"


def look(world: World, *arguments: str, **changes: str) -> Run:
    return world.run("orchestrator-prod.py", "--check", "--online", *arguments, **changes)


def test_online_check__is_content_and_writes_nothing(world: World) -> None:
    world.add_full_campaign("Summer", "C-1")
    tables = "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS writes FROM pg_stat_user_tables"
    before = world.sql(tables)
    done = look(world)
    assert done.exit_code == 0, done.stderr
    for subject in ("login to the DAM", "campaigns folder", "search for campaigns in A1", "login to Box",
                    "Box folder", "mail server", world.dam.STATUS_FIELD, world.dam.NUMBER_FIELD):  # fmt: skip
        assert any(line.startswith("ok") and subject in line for line in done.stdout.splitlines()), subject
    assert {call.method for call in world.dam.requests} <= {"GET", "POST"}
    assert {c.path.rpartition("/")[2] for c in world.dam.calls("POST")} <= {"token", "text"}
    assert {(call.method, call.path) for call in world.box.requests if call.method != "GET"} == {
        ("POST", "/oauth2/token")
    }
    assert not world.mail.messages
    assert world.sql(tables) == before


FAULTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "DAM password": ({"DAM_PASSWORD": "wrong"}, ["DAM_PASSWORD"]),
    "DAM client": ({"DAM_CLIENT_SECRET": "wrong"}, ["DAM_CLIENT_SECRET"]),
    "campaigns folder": ({"DAM_CAMPAIGNS_FOLDER_ID": "f" * 40}, ["DAM_CAMPAIGNS_FOLDER_ID"]),
    "status field": ({"DAM_STATUS_FIELD_ID": "NO.SUCH.FIELD"}, ["DAM_STATUS_FIELD_ID", "NO.SUCH.FIELD"]),
    "number field": ({"DAM_NUMBER_FIELD_ID": "NO.SUCH.FIELD"}, ["DAM_NUMBER_FIELD_ID", "NO.SUCH.FIELD"]),
    "operator": ({"DAM_SEARCH_OPERATOR_ID": "NO.SUCH.OPERATOR"}, ["DAM_SEARCH_OPERATOR_ID"]),
    "DAM host": ({"DAM_BASE_URL": f"https://{UNKNOWN_HOST}"}, ["DAM_BASE_URL", UNKNOWN_HOST]),
    "Box secret": ({"BOX_CLIENT_SECRET": "wrong"}, ["BOX_CLIENT_SECRET"]),
    "Box root": ({"BOX_ROOT_FOLDER_ID": "987654321"}, ["BOX_ROOT_FOLDER_ID", "987654321"]),
    "Box host": ({"BOX_API_URL": f"https://{UNKNOWN_HOST}"}, ["BOX_API_URL", UNKNOWN_HOST]),
    "upload host": ({"BOX_UPLOAD_URL": f"https://{UNKNOWN_HOST}"}, ["BOX_UPLOAD_URL", UNKNOWN_HOST]),
    "mail host": ({"SMTP_HOST": UNKNOWN_HOST}, ["SMTP_HOST", UNKNOWN_HOST]),
    "STARTTLS": ({"SMTP_SECURITY": "starttls"}, ["STARTTLS", "SMTP_SECURITY"]),
    "everything": (
        {
            "DAM_CAMPAIGNS_FOLDER_ID": "f" * 40,
            "DAM_NUMBER_FIELD_ID": "NO.SUCH.FIELD",
            "BOX_ROOT_FOLDER_ID": "987654321",
            "SMTP_HOST": UNKNOWN_HOST,
        },
        ["DAM_CAMPAIGNS_FOLDER_ID", "DAM_NUMBER_FIELD_ID", "BOX_ROOT_FOLDER_ID", "SMTP_HOST"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_online_check__finds_the_fault(world: World, name: str) -> None:
    changes, words = FAULTS[name]
    world.add_full_campaign("Summer", "C-1")
    done = look(world, **changes)
    assert done.exit_code == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    # What the fault does not touch is looked at all the same, and nothing is told twice.
    for system in ("DAM", "BOX", "SMTP"):
        is_meant = any(word.startswith(system) for word in words)
        assert is_meant == any(f" {system}_" in line for line in done.stderr.splitlines()), (
            system,
            done.stderr,
        )
    lines = done.stderr.splitlines()
    assert len(lines) == len(set(lines))
    if name == "DAM password":
        assert "DAM_BASE_URL" not in done.stderr, "only what is wrong is named"


@pytest.mark.parametrize("name", ["status field", "number field"])
def test_online_check__finds_a_wrong_field_without_a_campaign_in_a1(world: World, name: str) -> None:
    """Campaigns of other states, in a folder of their year, show what fields there are."""
    year = world.dam.add_folder(world.dam.root_id, "2026")
    world.dam.add_campaign("Old", "C-1", status="A7", parent_id=year)
    assert look(world).exit_code == 0
    changes, words = FAULTS[name]
    done = look(world, **changes)
    assert done.exit_code == 2
    assert all(word in done.stderr for word in words)


def test_online_check__cannot_see_the_fields_of_an_empty_installation(world: World) -> None:
    done = look(world)
    assert done.exit_code == 0, done.stderr
    assert "unclear  DAM_NUMBER_FIELD_ID" in done.stdout


def test_online_check__a_root_folder_that_may_not_be_written(world: World) -> None:
    world.box.options.can_upload = False
    done = look(world)
    assert done.exit_code == 2
    assert "BOX_ROOT_FOLDER_ID: the service account may not write" in done.stderr


def test_online_check__looks_at_each_user_of_box(world: World) -> None:
    users = [world.box.add_user() for _ in range(2)]
    done = look(world, BOX_USERS=",".join(users))
    assert done.exit_code == 0, done.stderr
    for user in users:
        assert f"Box folder {world.box_root}, as Box user {user}" in done.stdout
    assert {call.method for call in world.box.requests if call.path != "/oauth2/token"} == {"GET"}

    viewer, stranger = world.box.add_user("viewer"), world.box.add_user("none")
    done = look(world, BOX_USERS=",".join([users[0], viewer, stranger, "27999999999", world.box.user_id]))
    assert done.exit_code == 2
    for wanted in (
        f"BOX_USERS: Box user {viewer} may not write to Box folder {world.box_root}; make it an editor",
        f"BOX_USERS: Box user {stranger} cannot see a folder {world.box_root} in Box; check the id, and"
        f" invite Box user {stranger} there as an editor",
        "BOX_USERS: Box does not let our app act for user 27999999999; check the id",
        f"BOX_USERS: Box does not let our app act for user {world.box.user_id}; check the id",
    ):
        assert wanted in done.stderr
    assert users[0] not in done.stderr

    world.box.options.may_act_as_users = False
    done = look(world, BOX_USERS=users[0])
    assert done.exit_code == 2
    assert "'Make API calls using the as-user header'" in done.stderr


def test_online_check__finds_a_gateway_that_drops_the_user(world: World) -> None:
    """All calls would be made, and counted, as one user."""
    world.box.fail("GET .*/users/me", status=200, body={"type": "user", "id": world.box.user_id})
    user = world.box.add_user()
    done = look(world, BOX_USERS=user)
    assert done.exit_code == 2
    assert f"a call for user {user} was made as user {world.box.user_id}; let the gateway" in done.stderr


def test_online_check__out_of_reach_alone_is_75(world: World) -> None:
    world.box.stop()
    world.mail.stop()
    done = look(world)
    assert done.exit_code == 75
    assert "BOX_API_URL" in done.stderr
    assert "SMTP_HOST" in done.stderr
    done = look(world, DAM_PASSWORD="wrong")
    assert done.exit_code == 2, "a fault outweighs it"
    assert "SMTP_HOST" in done.stderr


def test_online_check__mail_login(world: World, tls: Tls) -> None:
    with MailSink(
        security="starttls", ssl_context=tls.server_context, username="robot", password="mail-secret"
    ) as sink:
        server = {**sink.settings, "SMTP_CA_BUNDLE": str(tls.ca_path)}
        good = look(world, **server)
        assert good.exit_code == 0, good.stderr
        bad = look(world, **{**server, "SMTP_PASSWORD": "wrong-secret"})
        assert bad.exit_code == 2
        assert "SMTP_PASSWORD" in bad.stderr
        assert "wrong-secret" not in bad.stderr
        assert not sink.messages


@pytest.mark.parametrize("status", ["404 Not Found", "200 OK"])
def test_online_check__a_base_url_that_is_no_dam(world: World, tls: Tls, status: str) -> None:
    page = answers(b"<html>Intranet</html>", status)
    with relaying(ssl_context=tls.server_context) as front:
        front.attacks.append(("", page))
        done = look(world, DAM_BASE_URL=front.address)
    assert done.exit_code == 2
    assert "DAM_BASE_URL" in done.stderr
    assert "BOX_" not in done.stderr


def test_online_check__a_proxy_that_cannot_be_used(world: World) -> None:
    done = look(world, ALL_PROXY="socks5://proxy.example.com:1080")
    assert done.exit_code == 2
    faults = [line.partition(" script: ")[2] for line in done.stderr.splitlines() if " ERROR " in line]
    assert all(fault.startswith("ALL_PROXY: ") for fault in faults), faults


def test_online_check__uploads_behind_a_certificate_that_is_not_trusted(world: World, tls: Tls) -> None:
    with relaying(ssl_context=tls.server_context) as uploads:
        done = look(world, BOX_UPLOAD_URL=uploads.address)
    assert done.exit_code == 2, done.stderr
    assert "BOX_CA_BUNDLE: the certificate of" in done.stderr


def test_online__goes_with_check(world: World) -> None:
    assert world.run("orchestrator-prod.py", "--online").exit_code == 2
    assert world.run("orchestrator-prod.py", "--once", "--online").exit_code == 2
