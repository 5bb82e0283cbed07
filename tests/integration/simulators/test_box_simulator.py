"""The Box simulator, judged by Box's own SDK and by raw requests where the SDK is too polite."""

import base64
import hashlib
import http.client
import io
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import trustme
from box_sdk_gen.box.ccg_auth import BoxCCGAuth, CCGConfig
from box_sdk_gen.box.errors import BoxAPIError, BoxSDKError
from box_sdk_gen.box.jwt_auth import BoxJWTAuth, JWTConfig
from box_sdk_gen.client import BoxClient
from box_sdk_gen.managers.folders import CreateFolderParent
from box_sdk_gen.managers.uploads import (
    PreflightFileUploadCheckParent,
    UploadFileAttributes,
    UploadFileAttributesParentField,
    UploadFileVersionAttributes,
)
from box_sdk_gen.networking.base_urls import BaseUrls
from box_sdk_gen.networking.box_network_client import BoxNetworkClient
from box_sdk_gen.networking.network import NetworkSession
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from simulators.box import BoxSimulator
from simulators.box_store import RefusedError

SCRIPT = Path(__file__).parents[3] / "scripts" / "simulators" / "box.py"
PART = 256 * 1024
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
BOUNDARY = "frontier"

Connect = Callable[..., BoxClient]


@pytest.fixture
def sim() -> Iterator[BoxSimulator]:
    """A simulator whose upload sessions are small: from 1 MiB, in parts of 256 KiB."""
    with BoxSimulator() as simulator:
        simulator.options.min_session_size = 1024 * 1024
        simulator.options.part_size = PART
        simulator.options.keep_content_below = 4 * 1024 * 1024
        yield simulator


@pytest.fixture
def connect(sim: BoxSimulator) -> Iterator[Connect]:
    """Makes Box's own client speak to the simulator, by client credentials unless told otherwise."""
    sessions: list[requests.Session] = []

    def build(auth: Any = None) -> BoxClient:
        session = requests.Session()
        sessions.append(session)
        credentials = CCGConfig(
            client_id=sim.client_id, client_secret=sim.client_secret, enterprise_id=sim.enterprise_id
        )
        return BoxClient(
            auth=auth or BoxCCGAuth(credentials),
            network_session=NetworkSession(
                base_urls=BaseUrls(base_url=sim.url, upload_url=sim.upload_url),
                network_client=BoxNetworkClient(requests_session=session),
            ),
        )

    yield build
    for session in sessions:
        session.close()


@pytest.fixture
def box(connect: Connect) -> BoxClient:
    return connect()


@pytest.fixture
def raw(sim: BoxSimulator) -> Iterator[requests.Session]:
    """A plain client with a token."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token(sim)}"
        yield session


def token(sim: BoxSimulator, **changes: str) -> str:
    return str(ask_token(sim, **changes).json()["access_token"])


def ask_token(sim: BoxSimulator, **changes: str) -> requests.Response:
    form = {
        "grant_type": "client_credentials",
        "client_id": sim.client_id,
        "client_secret": sim.client_secret,
        "box_subject_type": "enterprise",
        "box_subject_id": sim.enterprise_id,
    }
    return requests.post(f"{sim.url}/oauth2/token", data=form | changes, timeout=5)


def assertion(sim: BoxSimulator, *, kid: str | None = None, **claims: object) -> str:
    config = sim.jwt_config()["boxAppSettings"]
    key = load_pem_private_key(
        config["appAuth"]["privateKey"].encode(), config["appAuth"]["passphrase"].encode()
    )
    said: dict[str, Any] = {
        "iss": config["clientID"],
        "sub": sim.enterprise_id,
        "box_sub_type": "enterprise",
        "aud": "https://api.box.com/oauth2/token",
        "jti": uuid.uuid4().hex,
        "exp": int(time.time()) + 45,
    }
    return jwt.encode(
        said | claims,
        key,
        algorithm="RS512",
        headers={"kid": kid or config["appAuth"]["publicKeyID"]},
    )


def data_of(size: int, seed: int = 7) -> bytes:
    """Bytes that differ from part to part."""
    return b"".join(hashlib.sha512(f"{seed} {n}".encode()).digest() for n in range(-(-size // 64)))[:size]


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def digest(data: bytes) -> str:
    return "sha=" + base64.b64encode(bytes.fromhex(sha1(data))).decode()


def form(*fields: tuple[str, bytes]) -> bytes:
    """A multipart form by hand, its fields in the order given."""
    lines = b""
    for name, value in fields:
        file_name = '; filename="x.bin"' if name != "attributes" else ""
        lines += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'.encode()
        lines += value + b"\r\n"
    return lines + f"--{BOUNDARY}--\r\n".encode()


def attributes(name: str, parent_id: str = "0") -> bytes:
    return json.dumps({"name": name, "parent": {"id": parent_id}}).encode()


FORM_TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def error(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def upload(box: BoxClient, data: bytes, name: str, parent_id: str = "0", **options: Any) -> Any:
    parent = UploadFileAttributesParentField(id=parent_id)
    files = box.uploads.upload_file(
        UploadFileAttributes(name=name, parent=parent), io.BytesIO(data), **options
    )
    return files.entries[0]


class Session:
    """An upload session driven part by part."""

    def __init__(self, http: requests.Session, sim: BoxSimulator, data: bytes, name: str = "big.bin") -> None:
        self.http = http
        self.data = data
        self.create = http.post(
            f"{sim.upload_url}/2.0/files/upload_sessions",
            json={"folder_id": "0", "file_size": len(data), "file_name": name},
        )
        self.urls = self.create.json()["session_endpoints"]
        self.parts: list[dict[str, Any]] = []

    def put(self, index: int, **headers: str) -> requests.Response:
        block = self.data[index * PART : (index + 1) * PART]
        last = index * PART + len(block) - 1
        said = {"digest": digest(block), "content-range": f"bytes {index * PART}-{last}/{len(self.data)}"}
        response = self.http.put(self.urls["upload_part"], data=block, headers=said | headers)
        if response.status_code == 200:
            self.parts.append(response.json()["part"])
        return response

    def commit(self, **changes: Any) -> requests.Response:
        body = {"parts": self.parts} | changes
        return self.http.post(self.urls["commit"], json=body, headers={"digest": digest(self.data)})


# --- who may enter


def test_ccg__lets_the_sdk_in(box: BoxClient, sim: BoxSimulator) -> None:
    me = box.users.get_user_me()
    assert (me.id, me.login) == (sim.user_id, "AutomationUser_box-client@boxdevedition.com")
    assert [call.path for call in sim.requests] == ["/oauth2/token", "/2.0/users/me"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"box_subject_id": "1"}, "invalid_grant"),
        ({"grant_type": "password"}, "invalid_request"),
    ],
)
def test_ccg__refuses_in_the_oauth_shape(sim: BoxSimulator, changes: dict[str, str], code: str) -> None:
    answer = ask_token(sim, **changes)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "error_description"}
    assert answer.json()["error"] == code


def test_jwt__lets_the_sdk_in(connect: Connect, sim: BoxSimulator) -> None:
    config = JWTConfig.from_config_json_string(json.dumps(sim.jwt_config()))
    assert "ENCRYPTED PRIVATE KEY" in sim.jwt_config()["boxAppSettings"]["appAuth"]["privateKey"]
    assert connect(BoxJWTAuth(config)).users.get_user_me().id == sim.user_id


def test_jwt__jti_serves_once(sim: BoxSimulator) -> None:
    form_data = {"grant_type": JWT_GRANT, "assertion": assertion(sim)}
    assert ask_token(sim, **form_data).status_code == 200
    again = ask_token(sim, **form_data)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert "jti" in again.json()["error_description"]


def test_jwt__jti_is_burnt_by_429(connect: Connect, sim: BoxSimulator) -> None:
    """The SDK sends the same assertion again after 429 and is refused, as by live Box."""
    sim.fail("POST /oauth2/token", status=429, retry_after=0, times=1)
    config = JWTConfig.from_config_json_string(json.dumps(sim.jwt_config()))
    with pytest.raises(BoxAPIError) as caught:
        connect(BoxJWTAuth(config)).users.get_user_me()
    assert "jti" in caught.value.response_info.body["error_description"]


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"exp": int(time.time()) + 600}, "exp"),
        ({"exp": int(time.time()) - 600}, "exp"),
        ({"aud": "https://example.com"}, "aud"),
        ({"iss": "somebody"}, "iss"),
        ({"sub": "1"}, "sub"),
        ({"jti": "short"}, "jti"),
        ({"kid": "other"}, "kid"),
    ],
)
def test_jwt__each_claim_is_checked(sim: BoxSimulator, claims: dict[str, Any], named: str) -> None:
    answer = ask_token(sim, grant_type=JWT_GRANT, assertion=assertion(sim, **claims))
    assert answer.status_code == 400
    assert named in answer.json()["error_description"]


def test_jwt__signature_is_checked(sim: BoxSimulator) -> None:
    with BoxSimulator() as other:
        foreign = assertion(other)
    sim.jwt_config()
    answer = ask_token(sim, grant_type=JWT_GRANT, assertion=foreign)
    assert answer.json()["error_description"].startswith("Signature verification error")


def test_token__none_or_expired_is_401(sim: BoxSimulator) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        answer = requests.get(f"{sim.url}/2.0/users/me", headers=headers, timeout=5)
        assert error(answer) == (401, "unauthorized")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_token__the_sdk_renews_an_expired_one(
    box: BoxClient, sim: BoxSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    sim.token_lifetime = 30
    box.users.get_user_me()
    sim.expire_tokens()
    box.users.get_user_me()
    assert [call.status for call in sim.calls(path_prefix="/2.0")] == [200, 401, 200]


def test_token__lives_as_long_as_told(sim: BoxSimulator) -> None:
    sim.token_lifetime = 0
    headers = {"Authorization": f"Bearer {token(sim)}"}
    assert requests.get(f"{sim.url}/2.0/users/me", headers=headers, timeout=5).status_code == 401


# --- folders


def test_folder__created_and_refused_when_the_name_is_taken(box: BoxClient, sim: BoxSimulator) -> None:
    folder = box.folders.create_folder("Café Ⅷ", CreateFolderParent(id="0"))
    assert folder.path_collection.entries[0].id == "0"
    with pytest.raises(BoxAPIError) as caught:
        box.folders.create_folder("CAFÉ viii", CreateFolderParent(id="0"))
    info = caught.value.response_info
    assert (info.status_code, info.code) == (409, "item_name_in_use")
    assert [item["id"] for item in info.context_info["conflicts"]] == [folder.id]
    assert info.request_id
    assert sim.folders()[0].path == "Café Ⅷ"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("x" * 256, "item_name_too_long"),
        ("a/b", "item_name_invalid"),
        ("a\\b", "item_name_invalid"),
        ("a\tb", "item_name_invalid"),
        (" a", "item_name_invalid"),
        ("a ", "item_name_invalid"),
        ("..", "item_name_invalid"),
        ("", "item_name_invalid"),
    ],
)
def test_folder__bad_names(raw: requests.Session, sim: BoxSimulator, name: str, code: str) -> None:
    body = {"name": name, "parent": {"id": "0"}}
    assert error(raw.post(f"{sim.url}/2.0/folders", json=body)) == (400, code)


def test_folder__strict_names(raw: requests.Session, sim: BoxSimulator) -> None:
    body = {"name": "a:b?", "parent": {"id": "0"}}
    sim.options.strict_names = True
    assert error(raw.post(f"{sim.url}/2.0/folders", json=body)) == (400, "item_name_invalid")
    sim.options.strict_names = False
    assert raw.post(f"{sim.url}/2.0/folders", json=body).status_code == 201


def test_folder__rename_delete_and_gone(box: BoxClient, sim: BoxSimulator) -> None:
    folder_id = sim.add_folder("0", "Spring")
    file_id = sim.add_file(folder_id, "a.txt", b"abc")
    assert box.folders.update_folder_by_id(folder_id, name="Summer", description="warm").name == "Summer"
    collection = box.folders.get_folder_by_id(folder_id).item_collection
    assert [entry.id for entry in collection.entries] == [file_id]
    with pytest.raises(BoxAPIError) as caught:
        box.folders.delete_folder_by_id(folder_id)
    assert caught.value.response_info.code == "folder_not_empty"
    box.folders.delete_folder_by_id(folder_id, recursive=True)
    for gone in (
        lambda: box.folders.get_folder_by_id(folder_id),
        lambda: box.folders.get_folder_items(folder_id),
        lambda: box.files.get_file_by_id(file_id),
    ):
        with pytest.raises(BoxAPIError) as caught:
            gone()
        assert (caught.value.response_info.status_code, caught.value.response_info.code) == (404, "not_found")


@pytest.mark.parametrize("style", ["missing", "null", "empty"])
def test_listing__by_marker_survives_inserts(box: BoxClient, sim: BoxSimulator, style: Any) -> None:
    sim.options.page_limit_cap = 3
    sim.options.next_marker_style = style
    names = {f"f{number}" for number in range(7)}
    for name in sorted(names):
        sim.add_file("0", name, name.encode())
    seen: list[str] = []
    marker: str | None = None
    while True:
        page = box.folders.get_folder_items(
            "0", usemarker=True, limit=1000, marker=marker, fields=["sha1", "size"]
        )
        seen += [entry.name for entry in page.entries]
        assert page.limit == 3
        assert all(entry.sha_1 == sha1(entry.name.encode()) for entry in page.entries)
        if marker is None:
            sim.add_folder("0", "inserted meanwhile")
        marker = page.next_marker
        if not marker:
            break
    assert sorted(seen) == sorted(names)
    assert sim.calls("GET", "/2.0/folders")[0].query["usemarker"] == "True"


def test_listing__by_offset_and_bad_numbers(raw: requests.Session, sim: BoxSimulator) -> None:
    for name in ("b", "a", "c"):
        sim.add_file("0", name, b"")
    sim.add_folder("0", "z")
    url = f"{sim.url}/2.0/folders/0/items"
    page = raw.get(url, params={"limit": "2", "offset": "1"}).json()
    assert [entry["name"] for entry in page["entries"]] == ["a", "b"]
    assert (page["total_count"], page["offset"], page["limit"]) == (4, 1, 2)
    assert error(raw.get(url, params={"limit": "x"})) == (400, "invalid_limit")
    assert error(raw.get(url, params={"offset": "10001"})) == (400, "invalid_offset")
    assert error(raw.get(url, params={"usemarker": "true", "marker": "?"})) == (400, "bad_request")


def test_fields__are_added_to_the_mini_set(raw: requests.Session, sim: BoxSimulator) -> None:
    file_id = sim.add_file("0", "a", b"abc")
    shown = raw.get(f"{sim.url}/2.0/files/{file_id}", params={"fields": "size,parent"}).json()
    mini = {"type", "id", "etag", "file_version", "sequence_id", "sha1", "name"}
    assert shown.keys() == mini | {"size", "parent"}
    assert shown["parent"]["id"] == "0"
    assert {"size", "parent", "created_at"} < raw.get(f"{sim.url}/2.0/files/{file_id}").json().keys()


# --- direct uploads


def test_upload__with_the_right_sha1_and_with_a_wrong_one(box: BoxClient, sim: BoxSimulator) -> None:
    data = data_of(70_000)
    file = upload(box, data, "ok.bin", content_md_5=sha1(data))
    assert (file.sha_1, file.size, file.parent.id) == (sha1(data), len(data), "0")
    assert sim.content(file.id) == data
    with pytest.raises(BoxAPIError) as caught:
        upload(box, data, "bad.bin", content_md_5="0" * 40)
    assert (caught.value.response_info.status_code, caught.value.response_info.code) == (400, "bad_digest")
    assert [stored.name for stored in sim.files()] == ["ok.bin"]


def test_upload__of_nothing_and_of_a_boundary_look_alike(box: BoxClient, sim: BoxSimulator) -> None:
    assert upload(box, b"", "empty").size == 0
    tricky = b"\r\n--" + b"\r\n" * 5000 + b"--\r\n\r\n-"
    assert sim.content(upload(box, tricky, "tricky").id) == tricky


def test_upload__name_taken_shows_the_file_in_the_way(box: BoxClient, sim: BoxSimulator) -> None:
    file_id = sim.add_file("0", "Straße.txt", b"abc")
    with pytest.raises(BoxAPIError) as caught:
        upload(box, b"xyz", "STRASSE.TXT")
    conflict = caught.value.response_info.context_info["conflicts"]
    assert (conflict["id"], conflict["sha1"]) == (file_id, sha1(b"abc"))


def test_upload__new_version_keeps_the_id(box: BoxClient, sim: BoxSimulator) -> None:
    file_id = sim.add_file("0", "a.txt", b"one")

    def add_version(if_match: str) -> Any:
        return box.uploads.upload_file_version(
            file_id, UploadFileVersionAttributes(name="b.txt"), io.BytesIO(b"two"), if_match=if_match
        )

    assert add_version("0").entries[0].id == file_id
    assert [(file.name, file.etag, file.versions) for file in sim.files()] == [("b.txt", "1", 2)]
    with pytest.raises(BoxAPIError) as caught:
        add_version("0")
    assert (caught.value.response_info.status_code, caught.value.response_info.code) == (
        412,
        "precondition_failed",
    )


def test_preflight__with_and_without_slash(box: BoxClient, raw: requests.Session, sim: BoxSimulator) -> None:
    parent = PreflightFileUploadCheckParent(id="0")
    answer = box.uploads.preflight_file_upload_check(name="a", size=3, parent=parent)
    assert answer.upload_token
    assert answer.upload_url == f"{sim.upload_url}/2.0/files/content"
    file_id = sim.add_file("0", "a", b"abc")
    body = {"name": "A", "size": 30_000_000_000, "parent": {"id": "0"}}
    for path in ("/2.0/files/content", "/2.0/files/content/"):
        taken = raw.options(sim.url + path, json=body)
        assert error(taken) == (409, "item_name_in_use")
        assert taken.json()["context_info"]["conflicts"]["sha1"] == sha1(b"abc")
    assert raw.options(f"{sim.url}/2.0/files/{file_id}/content/", json={"size": 1}).status_code == 200
    assert error(raw.options(f"{sim.url}/2.0/files/content", json=body | {"parent": {"id": "9"}})) == (
        404,
        "not_found",
    )


def test_upload__chunked_and_of_any_block_size(raw: requests.Session, sim: BoxSimulator) -> None:
    data = data_of(300_000)
    body = form(("attributes", attributes("chunked.bin")), ("contents", data))  # rclone's name for it
    for number, step in enumerate((7001, 65536, 300_000)):
        parts = (body[at : at + step] for at in range(0, len(body), step))
        name = f"chunked{number}.bin".encode()
        parts = (part.replace(b"chunked.bin", name) for part in parts)
        answer = raw.post(f"{sim.upload_url}/2.0/files/content", data=parts, headers=FORM_TYPE)
        assert answer.status_code == 201
        assert answer.json()["entries"][0]["sha1"] == sha1(data)
    assert sim.requests[-1].headers["transfer-encoding"] == "chunked"
    assert raw.get(f"{sim.url}/2.0/users/me").status_code == 200  # the connection is still in step


def test_upload__file_before_its_attributes(raw: requests.Session, sim: BoxSimulator) -> None:
    body = form(("file", b"abc"), ("attributes", attributes("a")))
    answer = raw.post(f"{sim.upload_url}/2.0/files/content", data=body, headers=FORM_TYPE)
    assert error(answer) == (400, "metadata_after_file_contents")
    assert sim.files() == []


@pytest.mark.parametrize("chunked", [False, True])
def test_upload__cut_off_stores_nothing(sim: BoxSimulator, tmp_path: Path, chunked: bool) -> None:
    sim.options.content_dir = tmp_path
    body = form(("attributes", attributes("cut.bin")), ("file", data_of(50_000)))
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = (
        f"POST /api/2.0/files/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token(sim)}\r\n"
        f"Content-Type: {FORM_TYPE['Content-Type']}\r\n{length}\r\n\r\n"
    )
    sent = body[:40_000]
    with socket.create_connection(("127.0.0.1", int(sim.url.rpartition(":")[2])), timeout=5) as wire:
        wire.sendall(head.encode() + (f"{len(sent):x}\r\n".encode() if chunked else b"") + sent)
        wire.shutdown(socket.SHUT_WR)
        assert wire.recv(100) == b""
    assert sim.files() == []
    assert list(tmp_path.iterdir()) == []
    assert (sim.requests[-1].status, sim.requests[-1].body_bytes) == (0, 40_000)


def test_upload__too_large_for_one_request(box: BoxClient, sim: BoxSimulator) -> None:
    sim.options.max_direct_size = 100_000
    upload(box, bytes(100_000), "fits")
    with pytest.raises(BoxAPIError) as caught:
        upload(box, bytes(100_001), "does not")
    assert caught.value.response_info.status_code == 413


# --- upload sessions


def test_session__by_the_sdk(box: BoxClient, sim: BoxSimulator) -> None:
    data = data_of(6 * PART + 1000)
    file = box.chunked_uploads.upload_big_file(io.BytesIO(data), "big.bin", len(data), "0")
    assert (file.sha_1, file.size) == (sha1(data), len(data))
    assert sim.content(file.id) == data
    assert sim.open_sessions() == []
    assert len(sim.calls("PUT", "/api/2.0/files/upload_sessions/")) == 7


def test_session__new_version_by_the_sdk_sends_what_changed(box: BoxClient, sim: BoxSimulator) -> None:
    old = data_of(6 * PART)
    new = old[: 2 * PART] + data_of(PART, seed=8) + old[3 * PART :] + b"more"
    file_id = sim.add_file("0", "big.bin", old)
    file = box.chunked_uploads.upload_big_file_version(file_id, io.BytesIO(new), len(new))
    assert (file.id, file.sha_1) == (file_id, sha1(new))
    assert sim.content(file_id) == new
    assert len(sim.calls("PUT", "/api/2.0/files/upload_sessions/")) == 2


def test_session__primitives_of_the_sdk_in_any_order(box: BoxClient, sim: BoxSimulator) -> None:
    data = data_of(5 * PART + 17)
    uploads = box.chunked_uploads
    session = uploads.create_file_upload_session("0", len(data), "big.bin")
    assert (session.part_size, session.total_parts) == (PART, 6)
    blocks = {at: data[at : at + PART] for at in range(0, len(data), PART)}

    def send(at: int) -> Any:
        block = blocks[at]
        return uploads.upload_file_part_by_url(
            session.session_endpoints.upload_part,
            io.BytesIO(block),
            digest(block),
            f"bytes {at}-{at + len(block) - 1}/{len(data)}",
        ).part

    parts = [send(at) for at in sorted(blocks, reverse=True)]
    assert {part.offset: part.sha_1 for part in parts} == {at: sha1(block) for at, block in blocks.items()}
    status = uploads.get_file_upload_session_by_id(session.id)
    assert status.num_parts_processed == 6
    page = uploads.get_file_upload_session_parts(session.id, offset=2, limit=3)
    assert (page.total_count, [part.offset for part in page.entries]) == (6, [2 * PART, 3 * PART, 4 * PART])
    with pytest.raises(BoxAPIError) as caught:
        send(PART)
    assert (caught.value.response_info.status_code, caught.value.response_info.code) == (
        409,
        "range_overlaps_existing_part",
    )
    committed = uploads.create_file_upload_session_commit(session.id, parts, digest(data))
    assert committed.entries[0].sha_1 == sha1(data)
    assert sim.content(committed.entries[0].id) == data


def test_session__parts_in_parallel(raw: requests.Session, sim: BoxSimulator) -> None:
    data = data_of(15 * PART + 5)
    session = Session(raw, sim, data)
    order = [15, *range(0, 15, 2), *range(1, 15, 2)]
    with ThreadPoolExecutor(4) as pool:
        assert {answer.status_code for answer in pool.map(session.put, order)} == {200}
    assert session.commit().status_code == 201
    assert sim.files()[0].sha1 == sha1(data)


def test_session__the_same_part_twice_at_once(raw: requests.Session, sim: BoxSimulator) -> None:
    data = data_of(4 * PART)
    session = Session(raw, sim, data)
    with ThreadPoolExecutor(4) as pool:
        statuses = [answer.status_code for answer in pool.map(session.put, [0, 0, 1, 1, 2, 2, 3, 3])]
    assert sorted(statuses) == [200] * 4 + [409] * 4
    assert session.commit().json()["entries"][0]["sha1"] == sha1(data)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"digest": digest(b"other")}, 412),
        ({"digest": "md5=abc"}, 400),
        ({"content-range": f"bytes 1-{PART}/{4 * PART}"}, 416),
        ({"content-range": f"bytes 0-{PART - 1}/{5 * PART}"}, 416),
        ({"content-range": f"bytes 0-{PART - 2}/{4 * PART}"}, 416),
        ({"content-range": f"bytes 0-{2 * PART - 1}/{4 * PART}"}, 416),
        ({"content-range": f"bytes {4 * PART}-{5 * PART - 1}/{4 * PART}"}, 416),
        ({"content-range": f"0-{PART - 1}"}, 416),
    ],
)
def test_session__a_refused_part_leaves_nothing(
    raw: requests.Session, sim: BoxSimulator, headers: dict[str, str], status: int
) -> None:
    session = Session(raw, sim, data_of(4 * PART))
    assert session.put(0, **headers).status_code == status
    for index in (0, 2, 1, 3):
        assert session.put(index).status_code == 200
    assert session.commit().status_code == 201


def test_session__a_part_cut_off_leaves_nothing(raw: requests.Session, sim: BoxSimulator) -> None:
    session = Session(raw, sim, data_of(4 * PART))
    host = sim.url.removeprefix("http://")
    wire = http.client.HTTPConnection(host, timeout=5)
    wire.putrequest("PUT", "/api/2.0/files/upload_sessions/" + session.create.json()["id"])
    for name, value in (
        ("Authorization", str(raw.headers["Authorization"])),
        ("digest", digest(session.data[:PART])),
        ("content-range", f"bytes 0-{PART - 1}/{4 * PART}"),
        ("content-length", str(PART)),
    ):
        wire.putheader(name, value)
    wire.endheaders(session.data[: PART // 2])
    wire.close()
    for index in range(4):
        assert session.put(index).status_code == 200
    assert session.commit().status_code == 201


def test_session__commit_is_checked(raw: requests.Session, sim: BoxSimulator) -> None:
    session = Session(raw, sim, data_of(4 * PART))
    for index in range(3):
        session.put(index)
    assert error(session.commit()) == (400, "parts_mismatch")
    session.put(3)
    assert error(session.commit(parts=session.parts[:3])) == (400, "parts_mismatch")
    assert error(session.commit(parts=[*session.parts[:3], session.parts[3] | {"part_id": "00000000"}])) == (
        400,
        "parts_mismatch",
    )
    wrong = raw.post(session.urls["commit"], json={"parts": session.parts}, headers={"digest": digest(b"x")})
    assert error(wrong) == (400, "digest_mismatch")
    times = {"content_modified_at": "2026-01-31T10:00:00Z"}
    done = session.commit(attributes=times)
    assert done.json()["entries"][0]["content_modified_at"] == "2026-01-31T10:00:00+00:00"
    assert error(session.commit()) == (404, "not_found")


def test_session__commit_when_the_name_is_taken_meanwhile(raw: requests.Session, sim: BoxSimulator) -> None:
    session = Session(raw, sim, data_of(4 * PART), "taken.bin")
    for index in range(4):
        session.put(index)
    in_the_way = sim.add_file("0", "TAKEN.bin", b"abc")
    refused = session.commit()
    assert error(refused) == (409, "item_name_in_use")
    assert refused.json()["context_info"]["conflicts"]["id"] == in_the_way
    sim.delete(in_the_way, "file")
    assert session.commit().status_code == 201


def test_session__commit_202_and_a_passing_mismatch(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.options.commit_202 = 2
    sim.options.parts_mismatch_once = True
    session = Session(raw, sim, data_of(4 * PART))
    for index in range(4):
        session.put(index)
    for _ in range(2):
        accepted = session.commit()
        assert (accepted.status_code, accepted.headers["Retry-After"], accepted.content) == (202, "0", b"")
    assert error(session.commit()) == (400, "parts_mismatch")
    assert session.commit().status_code == 201


def test_session__commit_202_is_waited_for_by_the_sdk(box: BoxClient, sim: BoxSimulator) -> None:
    sim.options.commit_202 = 3
    data = data_of(4 * PART)
    assert box.chunked_uploads.upload_big_file(io.BytesIO(data), "b", len(data), "0").sha_1 == sha1(data)
    assert [call.status for call in sim.requests if call.path.endswith("/commit")] == [202, 202, 202, 201]


def test_session__abort_and_expiry(box: BoxClient, raw: requests.Session, sim: BoxSimulator) -> None:
    session = Session(raw, sim, data_of(4 * PART))
    session.put(2)
    assert [(each.file_name, each.offsets) for each in sim.open_sessions()] == [("big.bin", (2 * PART,))]
    box.chunked_uploads.delete_file_upload_session_by_url(session.urls["abort"])
    assert sim.open_sessions() == []
    assert error(session.put(0)) == (404, "not_found")
    sim.options.session_lifetime = 0
    late = Session(raw, sim, data_of(4 * PART))
    assert error(late.put(0)) == (410, "session_expired")
    assert error(raw.get(late.urls["status"])) == (404, "not_found")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"file_size": 1024 * 1024 - 1}, (400, "file_size_too_small")),
        ({"folder_id": None}, (400, "missing_destination")),
        ({"folder_id": "x"}, (400, "invalid_folder_id")),
        ({"folder_id": "12"}, (404, "not_found")),
        ({"file_name": "a/b"}, (400, "item_name_invalid")),
        ({"file_name": "taken"}, (409, "item_name_in_use")),
    ],
)
def test_session__creation_is_checked(
    raw: requests.Session, sim: BoxSimulator, changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    sim.add_file("0", "taken", b"")
    body = {"folder_id": "0", "file_size": 4 * PART, "file_name": "new"} | changes
    assert error(raw.post(f"{sim.upload_url}/2.0/files/upload_sessions", json=body)) == expected


# --- what goes wrong


def test_fault__429_with_retry_after_is_repeated_by_the_sdk(box: BoxClient, sim: BoxSimulator) -> None:
    fault = sim.fail("PUT .*/upload_sessions/", status=429, retry_after=0, times=2, skip=1)
    data = data_of(4 * PART)
    assert box.chunked_uploads.upload_big_file(io.BytesIO(data), "b", len(data), "0").sha_1 == sha1(data)
    assert fault.hits == 2


def test_fault__retry_after_as_a_date_breaks_the_sdk(box: BoxClient, sim: BoxSimulator) -> None:
    sim.fail("GET /2.0/users/me", status=503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    with pytest.raises(ValueError, match="could not convert"):
        box.users.get_user_me()


def test_fault__dropped_before_and_after_the_effect(raw: requests.Session, sim: BoxSimulator) -> None:
    body = {"name": "Spring", "parent": {"id": "0"}}
    before = sim.fail("POST /2.0/folders", drop="before", times=1)
    with pytest.raises(requests.ConnectionError):
        raw.post(f"{sim.url}/2.0/folders", json=body)
    assert (before.hits, sim.folders()) == (1, [])
    sim.fail("POST /2.0/folders", drop="after", times=1)
    with pytest.raises(requests.ConnectionError):
        raw.post(f"{sim.url}/2.0/folders", json=body)
    assert [folder.name for folder in sim.folders()] == ["Spring"]
    assert error(raw.post(f"{sim.url}/2.0/folders", json=body)) == (409, "item_name_in_use")


def test_fault__answer_cut_short_after_the_effect(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.fail("POST /2.0/folders", truncate=10, times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        raw.post(f"{sim.url}/2.0/folders", json={"name": "Spring", "parent": {"id": "0"}})
    assert [folder.name for folder in sim.folders()] == ["Spring"]


def test_fault__a_refused_body_keeps_the_connection_in_step(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.fail("POST /api/2.0/files/content", status=403, code="storage_limit_exceeded", times=1)
    body = form(("attributes", attributes("a")), ("file", data_of(3_000_000)))
    answers = [
        raw.post(f"{sim.upload_url}/2.0/files/content", data=body, headers=FORM_TYPE) for _ in range(2)
    ]
    assert error(answers[0]) == (403, "storage_limit_exceeded")
    assert answers[1].status_code == 201


def test_fault__answers_of_its_own(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.fail("/users/me", status=502, body="<h1>Bad gateway</h1>", times=1)
    page = raw.get(f"{sim.url}/2.0/users/me")
    assert (page.status_code, page.text, page.headers["Content-Type"]) == (
        502,
        "<h1>Bad gateway</h1>",
        "text/html; charset=utf-8",
    )
    sim.fail("POST /2.0/folders", status=503, effect=True, times=1)
    late = raw.post(f"{sim.url}/2.0/folders", json={"name": "a", "parent": {"id": "0"}})
    assert error(late) == (503, "unavailable")
    assert [folder.name for folder in sim.folders()] == ["a"]
    sim.fail("/users/me", delay=30)
    with pytest.raises(requests.Timeout):
        raw.get(f"{sim.url}/2.0/users/me", timeout=0.1)
    sim.clear_faults()
    assert raw.get(f"{sim.url}/2.0/users/me").status_code == 200


def test_fault__a_non_seekable_upload_is_not_repeated_by_the_sdk(box: BoxClient, sim: BoxSimulator) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    sim.fail("POST .*/files/content", status=429, retry_after=0, times=1)
    parent = UploadFileAttributesParentField(id="0")
    with pytest.raises(BoxSDKError, match="non-seekable"):
        box.uploads.upload_file(UploadFileAttributes(name="a", parent=parent), Pipe(b"abc"))
    assert sim.files() == []


def test_limits__calls_and_uploads_per_minute(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.options.calls_per_minute = 2
    url = f"{sim.url}/2.0/users/me"
    answers = [raw.get(url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    assert error(answers[2]) == (429, "rate_limit_exceeded")


def test_wrong_sha1__for_so_many_answers(raw: requests.Session, sim: BoxSimulator) -> None:
    file_id = sim.add_file("0", "a", b"abc")
    sim.options.wrong_sha1, sim.options.wrong_sha1_times = True, 1
    shown = [raw.get(f"{sim.url}/2.0/files/{file_id}").json() for _ in range(2)]
    assert [item["sha1"] == sha1(b"abc") for item in shown] == [False, True]
    assert shown[0]["sha1"] == shown[0]["file_version"]["sha1"]


# --- the world, the record, by hand


def test_world__as_a_test_sees_it(sim: BoxSimulator, tmp_path: Path) -> None:
    sim.options.content_dir = tmp_path
    spring = sim.add_folder("0", "Spring")
    masters = sim.add_folder(spring, "Masters")
    file_id = sim.add_file(masters, "a.txt", b"abc")
    sim.rename("folder", masters, "Originals")
    assert [file.path for file in sim.files()] == ["Spring/Originals/a.txt"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "Spring/Originals/a.txt"]
    sim.move("file", file_id, "0")
    assert (tmp_path / "a.txt").read_bytes() == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert re.search(r"^  a\.txt  3 bytes  a9993e36$", sim.tree(), re.MULTILINE)
    with pytest.raises(RefusedError):
        sim.move("folder", spring, masters)
    sim.delete(file_id, "file")
    sim.options.keep_content_below = 2
    sim.options.content_dir = None
    with pytest.raises(LookupError):
        sim.content(sim.add_file("0", "b", b"abc"))


def test_requests__are_recorded_before_the_answer(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.clear_requests()
    raw.get(f"{sim.url}/2.0/folders/0/items", params={"limit": "5"})
    raw.get(f"{sim.url}/api/2.0/folders/0")  # no such thing on the upload host
    assert [(call.method, call.path, call.status) for call in sim.requests] == [
        ("GET", "/2.0/folders/0/items", 200),
        ("GET", "/api/2.0/folders/0", 404),
    ]
    assert sim.requests[0].query == {"limit": "5"}
    assert sim.requests[0].headers["authorization"].startswith("Bearer ")
    assert raw.patch(f"{sim.url}/2.0/users/me").status_code == 405


def test_control__over_http(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.add_file("0", "a.txt", b"abc")
    fault = {"match": "/users/me", "status": 500, "times": 1}
    assert requests.post(f"{sim.url}/_sim/faults", json=fault, timeout=5).status_code == 201
    assert requests.post(f"{sim.url}/_sim/faults", json={"match": "("}, timeout=5).status_code == 400
    assert raw.get(f"{sim.url}/2.0/users/me").status_code == 500
    assert requests.delete(f"{sim.url}/_sim/faults", timeout=5).status_code == 204
    assert "a.txt  3 bytes" in requests.get(f"{sim.url}/_sim/tree", timeout=5).text
    assert requests.get(f"{sim.url}/_sim/files", timeout=5).json()[0]["sha1"] == sha1(b"abc")
    told = requests.get(f"{sim.url}/_sim/requests", timeout=5).json()
    assert (told[-1]["path"], told[-1]["headers"]["authorization"]) == ("/2.0/users/me", "Bearer ...")


def test_tls__and_a_second_start(sim: BoxSimulator) -> None:
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    with authority.cert_pem.tempfile() as bundle, BoxSimulator(ssl_context=server_side) as secure:
        answer = requests.get(f"{secure.url}/_sim/files", verify=bundle, timeout=5)
        assert (answer.status_code, secure.url[:5]) == (200, "https")
    url = sim.url
    sim.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/_sim/files", timeout=5)
    sim.start()
    assert requests.get(f"{url}/_sim/files", timeout=5).status_code == 200


def test_by_hand__runs_until_told_to_stop(tmp_path: Path) -> None:
    config = tmp_path / "jwt.json"
    command = [sys.executable, str(SCRIPT), "--port", "0", "--jwt-config-out", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3]
        told = [process.stdout.readline().strip() for _ in range(12)]
        assert {f"BOX_API_URL={url}", f"BOX_UPLOAD_URL={url}/api", f"BOX_JWT_CONFIG={config}"} < set(told)
        assert requests.get(f"{url}/_sim/tree", timeout=5).text == "All Files/\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert json.loads(config.read_text())["enterpriseID"] == "900001"
    assert config.stat().st_mode & 0o077 == 0


# --- versions, downloads, limits, the end of sessions


def test_versions__promoting_copies_on_top(sim: BoxSimulator, box: BoxClient) -> None:
    file_id = sim.add_file(sim.root_id, "a.txt", b"old")
    old = box.files.get_file_by_id(file_id).file_version
    assert old is not None
    box.uploads.upload_file_version(file_id, UploadFileVersionAttributes(name="a.txt"), io.BytesIO(b"bad"))
    bad = box.files.get_file_by_id(file_id).file_version
    assert bad is not None
    box.file_versions.promote_file_version(file_id, id=old.id, type="file_version")
    box.file_versions.delete_file_version_by_id(file_id, bad.id)
    assert sim.content(file_id) == b"old"
    now = box.files.get_file_by_id(file_id).file_version
    assert now is not None
    assert now.id not in (old.id, bad.id)
    assert sim.files()[0].versions == 2
    with pytest.raises(BoxAPIError):
        box.file_versions.delete_file_version_by_id(file_id, bad.id)


def test_download__is_somewhere_else_and_wants_no_token(sim: BoxSimulator, raw: requests.Session) -> None:
    file_id = sim.add_file(sim.root_id, "a.txt", b"content")
    answer = raw.get(f"{sim.url}/2.0/files/{file_id}/content", allow_redirects=False, timeout=5)
    assert answer.status_code == 302
    assert requests.get(answer.headers["Location"], timeout=5).content == b"content"
    assert raw.get(answer.headers["Location"], timeout=5).status_code == 400


@pytest.mark.parametrize("as_date", [False, True])
def test_limits__tell_when_to_come_again(sim: BoxSimulator, raw: requests.Session, as_date: bool) -> None:
    sim.options.calls_per_minute, sim.options.retry_after_as_date = 1, as_date
    assert raw.get(f"{sim.url}/2.0/users/me", timeout=5).status_code == 200
    refused = raw.get(f"{sim.url}/2.0/users/me", timeout=5)
    assert refused.status_code == 429
    asked = refused.headers["Retry-After"]
    assert asked.endswith(" GMT") if as_date else 58 <= int(asked) <= 60


def test_sessions__can_be_brought_to_their_end(sim: BoxSimulator, box: BoxClient) -> None:
    session = box.chunked_uploads.create_file_upload_session(sim.root_id, 2 * 1024 * 1024, "a.bin")
    assert session.id is not None
    sim.expire_sessions()
    with pytest.raises(BoxAPIError) as caught:
        box.chunked_uploads.get_file_upload_session_by_id(session.id)
    assert caught.value.response_info.status_code == 404
    assert [left.expired for left in sim.open_sessions()] == [True]


# --- users


def test_as_user__the_sdk_acts_for_a_user(box: BoxClient, sim: BoxSimulator) -> None:
    user_id = sim.add_user()
    acting = box.with_as_user_header(user_id)
    assert [client.users.get_user_me().id for client in (box, acting)] == [sim.user_id, user_id]
    folder = box.folders.create_folder("Summer", CreateFolderParent(id=sim.root_id))
    parent = UploadFileAttributesParentField(id=folder.id)
    made = acting.uploads.upload_file(UploadFileAttributes(name="a", parent=parent), io.BytesIO(b"abc"))
    assert made.entries is not None
    shown = box.files.get_file_by_id(made.entries[0].id)
    assert shown.created_by is not None
    assert shown.modified_by is not None
    assert (shown.created_by.id, shown.modified_by.id) == (user_id, user_id)
    changes = UploadFileVersionAttributes(name="a")
    box.uploads.upload_file_version(shown.id, changes, io.BytesIO(b"abcd"))
    shown = box.files.get_file_by_id(shown.id)
    assert shown.created_by is not None
    assert shown.modified_by is not None
    assert (shown.created_by.id, shown.modified_by.id) == (user_id, sim.user_id)
    assert [file.created_by for file in sim.files()] == [user_id]


def test_as_user__who_is_refused(raw: requests.Session, sim: BoxSimulator) -> None:
    user_id = sim.add_user()
    url = f"{sim.url}/2.0/users/me"
    for stranger in ("27999999999", sim.user_id, "robot@example.com"):
        answer = raw.get(url, headers={"As-User": stranger})
        assert error(answer) == (403, "access_denied_insufficient_permissions"), stranger
    assert raw.get(url, headers={"As-User": user_id}).json()["id"] == user_id
    sim.options.may_act_as_users = False
    answer = raw.get(url, headers={"As-User": user_id})
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert raw.get(url).status_code == 200


def test_as_user__rights_are_those_of_the_user(box: BoxClient, sim: BoxSimulator) -> None:
    folder_id = sim.add_folder("0", "Summer")
    shown: list[tuple[int, bool | None]] = []
    for access in ("editor", "viewer", "none"):
        acting = box.with_as_user_header(sim.add_user(access))
        try:
            found = acting.folders.get_folder_by_id(folder_id, fields=["permissions"])
            assert found.permissions is not None
            shown.append((200, found.permissions.can_upload))
        except BoxAPIError as exc:
            shown.append((exc.response_info.status_code, None))
        if access != "editor":
            with pytest.raises(BoxAPIError):
                acting.folders.create_folder(access, CreateFolderParent(id=folder_id))
    assert shown == [(200, True), (200, False), (404, None)]
    assert [folder.name for folder in sim.folders()] == ["Summer"]


def test_as_user__each_has_limits_of_its_own(raw: requests.Session, sim: BoxSimulator) -> None:
    sim.options.calls_per_minute = 1
    url = f"{sim.url}/2.0/users/me"
    for headers in ({}, {"As-User": sim.add_user()}, {"As-User": sim.add_user()}):
        assert [raw.get(url, headers=headers).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("status", [403, 404])
def test_as_user__sessions_belong_to_the_one_who_opened_them(
    box: BoxClient, sim: BoxSimulator, status: Any
) -> None:
    sim.options.foreign_session_status = status
    user_id, other_id = sim.add_user(), sim.add_user()
    owner, other = box.with_as_user_header(user_id), box.with_as_user_header(other_id)
    session = owner.chunked_uploads.create_file_upload_session(sim.root_id, 2 * 1024 * 1024, "a.bin")
    assert session.id is not None
    for stranger in (box, other):
        chunks = stranger.chunked_uploads
        for use in (chunks.get_file_upload_session_by_id, chunks.delete_file_upload_session_by_id):
            with pytest.raises(BoxAPIError) as caught:
                use(session.id)
            assert caught.value.response_info.status_code == status
    assert [left.owner for left in sim.open_sessions()] == [user_id]
    owner.chunked_uploads.delete_file_upload_session_by_id(session.id)
    assert not sim.open_sessions()
