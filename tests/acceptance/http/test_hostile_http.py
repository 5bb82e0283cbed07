"""What a hostile or broken server can send over HTTP: bounded memory, a clear error, and no token abroad.

The uploader runs as a process of its own; a relay stands between it and the simulators and misbehaves.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from hostile import Attack, Measured, Relay, answers, drips, relaying, run_measured, says
from simulators.dam import DamSimulator
from world import World

MEGABYTE = 1024 * 1024
MOST_MEGABYTES = 220
"""An ordinary run takes 40 to 60 (what it may use for file contents comes on top, and is not needed here)."""
SEARCH = r"^POST .*/search/text"
LISTING = r"^GET .*/children"
CONTENT = r"^GET .*/contents"
LENGTH = "Content-Length: "
JSON = "200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = f"{JSON}Transfer-Encoding: chunked"
BOMB = gzip.compress(bytes(100 * MEGABYTE), 9)


@dataclass
class Exposed:
    """A world whose DAM and Box are reached through relays."""

    world: World
    dam: Relay
    box: Relay

    def run(self, *arguments: str, **changes: str) -> Measured:
        return run_measured(self.world, *arguments, **changes)


@pytest.fixture
def exposed(world: World, dam: DamSimulator) -> Iterator[Exposed]:
    with relaying(dam.url) as to_dam, relaying(world.box.url) as to_box:
        env = {
            **world.env,
            "DAM_BASE_URL": to_dam.address,
            "DAM_CAMPAIGNS_FOLDER_ID": dam.root_id,
            "BOX_API_URL": to_box.address,
            "BOX_UPLOAD_URL": f"{to_box.address}/api",
        }
        # TLS 1.2 and the certificate of the world's own DAM stay behind: the relays speak plain HTTP.
        yield Exposed(replace(world, dam=dam, env=env), to_dam, to_box)


def assert_survived(run: Measured, *words: str, exit_codes: tuple[int, ...] = (4, 75)) -> None:
    """No bug, no flood, and a sentence that tells."""
    assert run.exit_code in exit_codes, run.stderr
    assert "Traceback" not in run.stderr
    assert run.peak_mb < MOST_MEGABYTES, f"{run.peak_mb:.0f} MB"
    assert any(word in run.stderr for word in words), run.stderr
    assert len(run.stderr) < 100_000


ATTACKS = {
    "a length of 10 GB that lies": (says(f"{JSON}{LENGTH}10737418240", b"[" * 1000), "more than"),
    "a length of 15 MB that breaks off": (says(f"{JSON}{LENGTH}15000000", b"[" * 1000), "out of reach"),
    "a negative length, for ever": (says(f"{JSON}{LENGTH}-1", b" " * MEGABYTE, repeat=-1), "more than"),
    "no length, for ever": (says(JSON[:-2], b" " * MEGABYTE, repeat=-1), "more than"),
    "chunks for ever": (says(CHUNKED, b"100000\r\n" + b" " * MEGABYTE + b"\r\n", repeat=-1), "more than"),
    "a chunk of 10 GB": (says(CHUNKED, b"280000000\r\n", b" " * MEGABYTE, repeat=-1), "more than"),
    "a chunk size without end": (says(CHUNKED, b"1", b"0" * MEGABYTE, repeat=-1), "out of reach"),
    "trailers for ever": (
        says(CHUNKED, b"2\r\n{}\r\n0\r\n", b"X: y\r\n" * 10_000, repeat=-1),
        "no answer within",
    ),
    "headers for ever": (says("", b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000, repeat=-1), "out of reach"),
    "one header for ever": (
        says("", b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * MEGABYTE, repeat=-1),
        "out of reach",
    ),
    "1xx for ever": (
        says("", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n" * 1000, repeat=-1),
        "no answer within",
    ),
    "a status line for ever": (says("", b"HTTP/1.1 200 " + b"O" * MEGABYTE, repeat=-1), "out of reach"),
    "no HTTP at all": (says("", b"\x00\xff\xfe" * 1000), "out of reach"),
    "a gzip bomb": (answers(BOMB, "200 OK", "Content-Encoding: gzip"), "packed as 'gzip'"),
    "a brotli claim": (answers(b"x", "200 OK", "Content-Encoding: br, gzip"), "packed as"),
    "arrays in arrays": (answers(b"[" * 10 * MEGABYTE), "without usable JSON"),
    "objects in objects": (answers(b'{"a":' * MEGABYTE), "without usable JSON"),
    "five million lists": (answers(b'{"a":[' + b"[]," * 5 * MEGABYTE + b"[]]}"), "without usable JSON"),
    "a number of a million digits": (answers(b'{"a":' + b"9" * MEGABYTE + b"}"), "without usable JSON"),
    "half an object": (answers(b'{"search_result_resource": {"asset_list": ['), "without usable JSON"),
    "bytes that are no text": (answers(b'{"a": "\xff\xfe\xc3"}'), "without usable JSON"),
    "a list": (answers(b"[]"), "without usable JSON"),
    "a bare NaN": (answers(b"NaN"), "without usable JSON"),
    "an error page of 20 MB": (answers(b"x" * 20 * MEGABYTE, "500 Oops"), "HTTP 500"),
    "an error page, packed": (answers(BOMB, "403 No", "Content-Encoding: gzip"), "HTTP 403"),
    "a redirection for ever": (says(f"302 Found\r\nLocation: /x\r\n{LENGTH}0", b""), "asks for a login"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_dam_answer__of_any_kind_is_survived(exposed: Exposed, name: str) -> None:
    attack, words = ATTACKS[name]
    exposed.world.dam.add_campaign("Summer", "C-1")
    exposed.dam.attacks.append((LISTING, attack))
    run = exposed.run(DAM_TIMEOUT_SECONDS="2" if words == "no answer within" else "60")
    assert_survived(run, words)
    assert exposed.world.sql("SELECT a1_retry_count FROM campaign_status") == [{"a1_retry_count": 0}]


BODY_ATTACKS = {
    "more than declared, for ever": (says(JSON[:-2], bytes(MEGABYTE), repeat=-1), "declared"),
    "chunks, for ever": (says(CHUNKED, b"100000\r\n" + bytes(MEGABYTE) + b"\r\n", repeat=-1), "declared"),
    "one byte a chunk, with a tail": (
        says(CHUNKED, b"1;" + b"x" * 60_000 + b"\r\na\r\n", repeat=-1),
        "sent more than",
    ),
    "packed": (answers(BOMB, "200 OK", "Content-Encoding: gzip"), "packed as"),
    "a redirection nowhere": (
        says(f"302 Found\r\nLocation: gopher://x/y\r\n{LENGTH}0", b""),
        "redirection to",
    ),
    "a redirection to a broken address": (
        says(f"302 Found\r\nLocation: http://[::1/y\r\n{LENGTH}0", b""),
        "redirection to",
    ),
    "redirections in a ring": (says(f"302 Found\r\nLocation: ?again\r\n{LENGTH}0", b""), "HTTP 302"),
}


@pytest.mark.parametrize("name", BODY_ATTACKS)
def test_dam_file__of_any_kind_is_survived(exposed: Exposed, name: str) -> None:
    attack, words = BODY_ATTACKS[name]
    exposed.world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a" * 50_000)])
    exposed.dam.attacks.append((CONTENT, attack))
    assert_survived(exposed.run(), words, exit_codes=(4,))
    assert exposed.world.box_files() == {}


@pytest.mark.parametrize(
    ("head", "words"),
    [(b"HTTP/1.1 200 OK\r\nX: ", "no answer within"), (f"HTTP/1.1 {JSON}\r\n".encode(), "no answer within")],
    ids=["in the head", "in the body"],
)
def test_drip__ends_although_every_byte_is_in_time(exposed: Exposed, head: bytes, words: str) -> None:
    exposed.dam.attacks.append((SEARCH, drips(head, 0.02)))
    run = exposed.run(DAM_TIMEOUT_SECONDS="0.3")
    assert_survived(run, words, exit_codes=(75,))


BOX_ATTACKS = {
    "a length of 10 GB that lies": (says(f"{JSON}{LENGTH}10737418240", b"[" * 1000), "more than"),
    "chunks for ever": (says(CHUNKED, b"100000\r\n" + b" " * MEGABYTE + b"\r\n", repeat=-1), "more than"),
    "a gzip bomb": (answers(BOMB, "200 OK", "Content-Encoding: gzip"), "packed as"),
    "arrays in arrays": (answers(b"[" * 10 * MEGABYTE), "lacks"),
    "ids that lead elsewhere": (answers(b'{"id": "../../users/me"}'), "usable"),
    "an id of dots": (answers(b'{"id": ".."}'), "usable"),
    "a redirection": (says(f"302 Found\r\nLocation: http://127.0.0.1:9/\r\n{LENGTH}0", b""), "lacks"),
    "a code that is none": (
        answers(
            json.dumps({"code": "x\0\ud800\n" * 1000, "request_id": "a b\n"}).encode(), "400 Bad Request"
        ),
        "HTTP 400",
    ),
    "a conflict with nobody": (
        answers(
            json.dumps(
                {
                    "code": "item_name_in_use",
                    "context_info": {"conflicts": [{"id": "../x", "type": "folder"}]},
                }
            ).encode(),
            "409 Conflict",
        ),
        "no free folder name",
    ),
}


@pytest.mark.parametrize("name", BOX_ATTACKS)
def test_box_answer__of_any_kind_is_survived(exposed: Exposed, name: str) -> None:
    attack, words = BOX_ATTACKS[name]
    exposed.world.add_full_campaign("Summer", "C-1")
    exposed.box.attacks.append((r"^POST /2.0/folders", attack))
    assert_survived(exposed.run(), words)
    kinds = exposed.world.sql("SELECT kind FROM campaign_errors")
    assert all(len(row["kind"]) < 100 for row in kinds)


def session(**changes: object) -> Attack:
    """An upload session as Box would open it, with changes."""
    opened: dict[str, object] = {"id": "ABC123", "part_size": 8 * MEGABYTE, "total_parts": 4}
    return answers(json.dumps(opened | changes).encode(), "201 Created")


@pytest.mark.parametrize("part_size", [0, -1, 10 * 1024**3, "many", 1e999])
def test_box_session__with_senseless_parts_is_refused(exposed: Exposed, part_size: object) -> None:
    exposed.world.add_full_campaign("Film", "C-1", [("film.mp4", bytes(21 * MEGABYTE))])
    exposed.box.attacks.append((r"^POST .*/upload_sessions", session(part_size=part_size)))
    assert_survived(exposed.run(), "parts of", 'as "part_size"', exit_codes=(4,))


def test_token__goes_to_no_stranger(exposed: Exposed) -> None:
    """Not by a redirection of the DAM, nor back home from it; not where Box's upload session points."""
    world = exposed.world
    world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a")])
    world.add_full_campaign("Film", "C-2", [("film.mp4", bytes(21 * MEGABYTE))])
    with relaying() as stranger:
        back = f"{exposed.dam.address}/otmmapi/v6/whoami"
        stranger.attacks.append(("", says(f"302 Found\r\nLocation: {back}\r\n{LENGTH}0", b"")))
        moved = says(f"302 Found\r\nSet-Cookie: evil=1\r\nLocation: {stranger.address}/x\r\n{LENGTH}0", b"")
        exposed.dam.attacks.append((CONTENT, moved))
        run = exposed.run()
        assert run.exit_code == 4, run.stderr
        assert stranger.heard
        home = [heard for heard in exposed.dam.heard if "whoami" in heard.target]
        assert home
        assert not [heard for heard in (*stranger.heard, *home) if heard.shows_credentials]

        exposed.dam.attacks.clear()
        stranger.heard.clear()
        urls = {name: f"{stranger.address}/{name}" for name in ("upload_part", "list_parts", "commit")}
        exposed.box.attacks.append(
            (r"^(GET|POST) .*/upload_sessions(/\w+)?$", session(session_endpoints=urls))
        )
        run = exposed.run()
        assert run.exit_code == 4, run.stderr
        assert stranger.heard == []
        parts = [heard for heard in exposed.box.heard if "/upload_sessions/ABC123" in heard.target]
        assert parts, "the documented addresses stand in"


def test_listing__without_end_ends(exposed: Exposed) -> None:
    """Pages that are always new, and folders that always hold another one."""
    world = exposed.world
    campaign = world.dam.add_campaign("Deep", "C-1")
    folder = world.dam.master_assets_folder(campaign)
    for _ in range(80):
        folder = world.dam.add_folder(folder, "deeper")
    world.dam.add_asset(folder, "a.jpg", b"a")
    run = exposed.run("--campaign", campaign)
    assert_survived(run, "levels of folders", exit_codes=(4,))

    counted = iter(range(10**9))

    def next_page(connection: object) -> None:
        items = [{"asset_id": f"{next(counted):040x}", "type": "x"} for _ in range(10_000)]
        body = json.dumps({"folder_children": {"asset_list": items}}).encode()
        answers(body)(connection)  # type: ignore[arg-type]

    exposed.dam.attacks.append((LISTING, next_page))
    assert_survived(exposed.run("--campaign", campaign), "the list does not end", exit_codes=(4,))
