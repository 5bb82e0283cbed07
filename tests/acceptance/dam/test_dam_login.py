"""What the DAM says to a wrong password, in both ways of logging in: one line with the cure, and exit 2."""

from __future__ import annotations

from typing import Any

import pytest

from world import Run, World

PFX = ("--auth-pfx-v2", r"POST .*/oauth2/token")
PASSWORD = ("--auth-password", r"POST .*/sessions$")
WAYS = [pytest.param(PFX, id="pfx-v2"), pytest.param(PASSWORD, id="password")]


def failure(message: str, status: int) -> dict[str, Any]:
    return {"exception_body": {"http_response_code": status, "error_code": 1, "message": message}}


ANSWERS: dict[str, dict[str, Any]] = {
    "401": {"status": 401},
    "403": {"status": 403},
    "500 for wrong credentials": {"status": 500, "body": failure("Invalid user name or password", 500)},
    "200 with an error of its own": {"status": 200, "body": failure("Authentication failed", 401)},
    "200 with its login page": {"status": 200, "html": True},
    "200 with a page called JSON": {"status": 200, "body": "<html>Sign in</html>"},
    "404, no DAM there": {"status": 404, "html": True},
}


def run(world: World, flag: str, **changes: str) -> Run:
    return world.run("a1_to_a2_box_uploader.py", flag, "--json", **changes)


@pytest.fixture
def open_world(world: World, tls: Any) -> World:
    """Its DAM asks for no client certificate, so that either way of logging in gets through."""
    world.dam.restart(tls.server_context)
    return world


@pytest.mark.parametrize("way", WAYS)
def test_wrong_password__is_one_line_with_its_cure(open_world: World, way: tuple[str, ...]) -> None:
    done = run(open_world, way[0], DAM_PASSWORD="a-wrong-one")
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if " ERROR " in line]
    assert "DAM_USERNAME and DAM_PASSWORD" in line
    assert "a-wrong-one" not in done.stderr
    assert not open_world.mail.messages


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ANSWERS)
def test_login_answer__of_any_kind_is_a_faulty_setting(
    open_world: World, way: tuple[str, ...], name: str
) -> None:
    open_world.dam.fail(way[1], **ANSWERS[name])
    done = run(open_world, way[0])
    assert done.exit_code == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if " ERROR " in line]
    wanted = ["DAM_BASE_URL"] if "no DAM" in name else ["DAM_USERNAME and DAM_PASSWORD"]
    if "page" in name:
        wanted.append("DAM_BASE_URL")
    assert all(word in line for word in wanted), line


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "body": failure("The database is not available", 500)},
        {"status": 503, "html": True},
        {"status": 502, "html": True},
    ],
    ids=["500", "503", "502"],
)
def test_login_answer__that_passes_is_75(
    open_world: World, way: tuple[str, ...], fault: dict[str, Any]
) -> None:
    open_world.dam.fail(way[1], **fault)
    assert run(open_world, way[0]).exit_code == 75


def test_wrong_client__names_the_client_alone(world: World) -> None:
    done = world.upload(DAM_CLIENT_SECRET="a-wrong-one")
    assert done.exit_code == 2
    assert "DAM_CLIENT_ID and DAM_CLIENT_SECRET" in done.stderr
    assert "DAM_PASSWORD" not in done.stderr
