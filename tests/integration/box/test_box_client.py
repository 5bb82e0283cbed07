"""Our Box client against the simulator: logins, repetition, and what it makes of Box's answers."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal

import pytest

from shared.base.errors import BoxError, ConfigError
from shared.base.values import BoxSettings
from shared.box.client import BoxClient
from shared.box.refusals import NameTakenError
from simulators.box import BoxSimulator
from simulators.box_gate import Access

if TYPE_CHECKING:
    from conftest import Tls

CONTENT = b"0123456789" * 100
SHA1 = hashlib.sha1(CONTENT).hexdigest()


class OpenGate:
    """No limits; remembers the pauses."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def wait(self, *, is_upload: bool) -> None:
        """At once."""

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def settings_for(
    box: BoxSimulator, jwt_config: Path | None = None, ca_bundle: str | None = None
) -> BoxSettings:
    return BoxSettings(
        client_id=box.client_id,
        client_secret=box.client_secret,
        enterprise_id=box.enterprise_id,
        jwt_config=jwt_config,
        root_folder_id=box.root_id,
        api_url=box.url,
        upload_url=box.upload_url,
        ca_bundle=ca_bundle,
        parts_count_as_uploads=False,
        timeout_seconds=5,
    )


@pytest.fixture
def client(box: BoxSimulator) -> Iterator[BoxClient]:
    made = BoxClient(settings_for(box), OpenGate())
    yield made
    made.close()


def test_jwt__logs_in_and_never_sends_an_assertion_twice(box: BoxSimulator, tmp_path: Path) -> None:
    """The simulator counts an assertion as used even when it answers 429, as live Box does."""
    config = tmp_path / "jwt.json"
    config.write_text(json.dumps(box.jwt_config()))
    refused = box.fail(r"POST /oauth2/token", status=429, retry_after=0, times=2)
    client = BoxClient(settings_for(box, config), OpenGate())
    assert client.create_folder(box.root_id, "Summer")
    assert refused.hits == 2
    client.close()


@pytest.mark.parametrize("off_seconds", [-3600, -50, 50, 86400])
def test_jwt__goes_by_boxs_clock_when_ours_is_off(
    box: BoxSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off_seconds: int
) -> None:
    config = tmp_path / "jwt.json"
    config.write_text(json.dumps(box.jwt_config()))
    ours = SimpleNamespace(time=lambda: time.time() + off_seconds, sleep=time.sleep)
    monkeypatch.setattr("shared.box.login.time", ours)
    client = BoxClient(settings_for(box, config), OpenGate())
    assert client.create_folder(box.root_id, "Summer")
    assert [call.status for call in box.calls("POST", "/oauth2/token")] == [400, 200]
    client.close()

    wrong = json.loads(config.read_text())
    wrong["boxAppSettings"]["clientSecret"] = "another-secret"
    config.write_text(json.dumps(wrong))
    refused = BoxClient(settings_for(box, config), OpenGate())
    with pytest.raises(BoxError, match="refused the credentials"):
        refused.create_folder(box.root_id, "Autumn")
    refused.close()


@pytest.mark.parametrize("content", ["{}", "no json", '{"boxAppSettings": {"appAuth": {"privateKey": "x"}}}'])
def test_jwt__another_file_is_told(box: BoxSimulator, tmp_path: Path, content: str) -> None:
    config = tmp_path / "jwt.json"
    config.write_text(content)
    with pytest.raises(ConfigError, match="BOX_JWT_CONFIG"):
        BoxClient(settings_for(box, config), OpenGate())


def test_threads__share_one_token_and_renew_it_once(box: BoxSimulator, client: BoxClient) -> None:
    names = [f"{number}.bin" for number in range(24)]

    def upload(part: list[str]) -> None:
        for name in part:
            client.upload_file(box.root_id, name, CONTENT, SHA1, replaces=None)

    upload(names[:8])
    box.expire_tokens()
    threads = [threading.Thread(target=upload, args=(names[8 + place :: 4],)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {file.sha1 for file in box.files()} == {SHA1}
    assert len(box.files()) == 24
    assert len(box.calls("POST", "/oauth2/token")) == 2


def test_429__pauses_by_seconds_and_by_date(box: BoxSimulator) -> None:
    gate = OpenGate()
    client = BoxClient(settings_for(box), gate)
    box.fail(r"POST /2.0/folders", status=429, retry_after=0, times=1)
    box.fail(r"POST /2.0/folders", status=429, retry_after="Tue, 24 Nov 2020 00:00:00 GMT", times=1)
    client.create_folder(box.root_id, "Summer")
    assert gate.pauses == [0.0, 0.0]
    client.close()


def test_kept_connection__closed_by_box_is_no_failure(box: BoxSimulator, client: BoxClient) -> None:
    client.create_folder(box.root_id, "One")
    box.stop()
    box.start()
    box.clear_requests()
    client.create_folder(box.root_id, "Two")
    assert [call.status for call in box.requests] == [201], "found out before use: nothing is sent twice"


def test_damaged_upload__is_refused_by_box_itself(box: BoxSimulator, client: BoxClient) -> None:
    with pytest.raises(BoxError) as caught:
        client.upload_file(box.root_id, "a.bin", CONTENT, "0" * 40, replaces=None)
    assert caught.value.kind == "bad_digest"
    assert box.files() == []


def test_name_taken__says_by_what(box: BoxSimulator, client: BoxClient) -> None:
    existing = box.add_file(box.root_id, "A.BIN", b"x")
    with pytest.raises(NameTakenError) as caught:
        client.upload_file(box.root_id, "a.bin", CONTENT, SHA1, replaces=None)
    assert (caught.value.file_id, caught.value.folder_id) == (existing, None)


def test_content__is_read_where_box_points_to_without_our_token(box: BoxSimulator, client: BoxClient) -> None:
    file = box.add_file(box.root_id, "a.bin", CONTENT)
    assert client.read_content(file) == CONTENT
    (download,) = box.calls("GET", "/download/")
    assert "authorization" not in download.headers


def test_bad_copy__of_a_new_version_leaves_the_old_bytes(box: BoxSimulator, client: BoxClient) -> None:
    file_id = box.add_file(box.root_id, "a.bin", b"old")
    before = client.read_file(file_id)
    assert before is not None
    after = client.upload_file(box.root_id, "a.bin", CONTENT, SHA1, replaces=file_id)
    client.remove_bad_copy(after, before)
    assert box.content(file_id) == b"old"


def test_listing__is_read_to_its_last_page(box: BoxSimulator, client: BoxClient) -> None:
    box.options.page_limit_cap = 3
    names = {f"{number}.bin" for number in range(10)}
    for name in names:
        box.add_file(box.root_id, name, b"x")
    folder = box.add_folder(box.root_id, "Below")
    listing = client.list_folder(box.root_id)
    assert {file.name for file in listing.files} == names
    assert listing.folders == {folder: "Below"}


def test_part__whose_answer_was_lost_is_taken_as_box_has_it(box: BoxSimulator, client: BoxClient) -> None:
    box.options.min_session_size, box.options.part_size = 1, 600
    session = client.open_session(box.root_id, "a.bin", len(CONTENT), replaces=None)
    box.fail(r"PUT .*/upload_sessions/", drop="after", times=1)
    view = memoryview(CONTENT)
    parts = [
        client.send_part(
            session, at, view[at : at + 600], hashlib.sha1(view[at : at + 600]).digest(), len(view)
        )
        for at in (0, 600)
    ]
    file = client.commit(session, parts, bytes.fromhex(SHA1), "a.bin")
    assert (file.size_bytes, file.sha1) == (len(CONTENT), SHA1)


def test_abort__of_a_session_that_is_over_is_no_error(box: BoxSimulator, client: BoxClient) -> None:
    box.options.min_session_size = 1
    session = client.open_session(box.root_id, "a.bin", len(CONTENT), replaces=None)
    client.abort(session.id)
    client.abort(session.id)
    assert client.read_session(session.id) is None


def test_unknown_ca__names_the_variable(tls: Tls) -> None:
    with BoxSimulator(ssl_context=tls.server_context) as box:
        client = BoxClient(settings_for(box), OpenGate())
        with pytest.raises(ConfigError, match="BOX_CA_BUNDLE"):
            client.create_folder(box.root_id, "Summer")
        client.close()
        trusting = BoxClient(settings_for(box, ca_bundle=str(tls.ca_path)), OpenGate())
        assert trusting.create_folder(box.root_id, "Summer")
        trusting.close()


def test_certificate__of_another_name_or_time_is_told_as_what_it_is(tls: Tls) -> None:
    """A name or an authority is a setting's fault. Dates may be our own clock's: that waits."""
    now = datetime.now(UTC)
    soon = {"not_before": now + timedelta(minutes=10)}
    for identity, dates, error, said in (
        ("other.example", {}, ConfigError, "BOX_API_URL, BOX_UPLOAD_URL: .* a certificate for another name"),
        ("127.0.0.1", soon, BoxError, "not yet valid: valid from .* now, or this host's clock is behind"),
    ):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.ca.issue_cert(identity, **dates).configure_cert(context)
        with BoxSimulator(ssl_context=context) as box:
            client = BoxClient(settings_for(box, ca_bundle=str(tls.ca_path)), OpenGate())
            with pytest.raises(error, match=said):
                client.log_in()
            client.close()


# ---------------------------------------------------------------------------------------------------------
# Several users


def test_as_user__only_the_header_differs(box: BoxSimulator, client: BoxClient) -> None:
    """One login for all; Box's own host for downloads learns nothing."""
    user = box.add_user()
    acting = client.as_user(user, OpenGate())
    assert (client.read_user(), acting.read_user()) == (box.user_id, user)
    folder = client.create_folder(box.root_id, "Summer")
    file = acting.upload_file(folder, "a.bin", CONTENT, SHA1, replaces=None)
    assert acting.read_content(file.id) == CONTENT
    assert client.list_folder(folder).files == (file,)
    sent = [(f"{call.method} {call.path}", call.headers.get("as-user")) for call in box.requests]
    assert sent == [
        ("POST /oauth2/token", None),
        ("GET /2.0/users/me", None),
        ("GET /2.0/users/me", user),
        ("POST /2.0/folders", None),
        ("POST /api/2.0/files/content", user),
        (f"GET /2.0/files/{file.id}/content", user),
        (f"GET /download/{file.id}", None),
        (f"GET /2.0/folders/{folder}/items", None),
    ]


def test_as_user__a_429_pauses_that_user_only(box: BoxSimulator) -> None:
    gates = [OpenGate(), OpenGate(), OpenGate()]
    client = BoxClient(settings_for(box), gates[0])
    acting = [client.as_user(box.add_user(), gate) for gate in gates[1:]]
    box.fail("GET .*/users/me", status=429, retry_after=0, times=1)
    for one in (*acting, client):
        one.read_user()
    assert [gate.pauses for gate in gates] == [[], [0], []]
    client.close()


@pytest.mark.parametrize("access", ["none", "viewer"])
def test_as_user__a_refusal_names_the_user(box: BoxSimulator, client: BoxClient, access: Access) -> None:
    user = box.add_user(access)
    with pytest.raises(BoxError, match=f"Box user {user} may not") as caught:
        client.as_user(user, OpenGate()).upload_file(box.root_id, "a.bin", CONTENT, SHA1, replaces=None)
    assert f"make Box user {user} an editor" in caught.value.hint
    assert "service account" not in str(caught.value)
    box.fail("POST .*/files/content", status=403, times=1)
    with pytest.raises(BoxError, match="our service account may not do that"):
        client.upload_file(box.root_id, "a.bin", CONTENT, SHA1, replaces=None)


@pytest.mark.parametrize("status", [403, 404])
def test_upload_session__of_another_user_counts_as_ended(
    box: BoxSimulator, client: BoxClient, status: Literal[403, 404]
) -> None:
    box.options.foreign_session_status = status
    owner, other = (client.as_user(box.add_user(), OpenGate()) for _ in range(2))
    session = owner.open_session(box.root_id, "film.mp4", 24_000_000, replaces=None)
    for stranger in (other, client):
        assert stranger.read_session(session.id) is None
        stranger.abort(session.id)
    assert [left.id for left in box.open_sessions()] == [session.id]
    assert owner.read_session(session.id) == session
    box.fail("(GET|DELETE) .*/upload_sessions/", status=403, code="operation_blocked_temporary")
    with pytest.raises(BoxError, match="busy"):
        owner.read_session(session.id)
    with pytest.raises(BoxError, match="busy"):
        owner.abort(session.id)
    box.clear_faults()
    owner.abort(session.id)
    assert not box.open_sessions()
