"""The call to a receiver: where it goes, and what hostile answers cost."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import trustme

from conftest import Tls
from raw_server import read_head, serving
from shared.base.errors import WebhookError
from shared.webhooks import delivery, sending
from shared.webhooks.sending import Receiver, refusal_of
from webhook_receivers import Receiver as Taking
from webhook_receivers import receiving
from webhook_stage import Stage

OPEN = Receiver(allows_private=True, secrets=())
SHUT = Receiver(allows_private=False, secrets=())
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(sending, "DEADLINE_SECONDS", 0.6)


# --- where it goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [
    "169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254", "ff02::1",
    "2002:a9fe:a9fe::1", "100.100.100.200", "224.0.0.1", "::", "fd20:ce::254", "64:ff9b::a9fe:a9fe",
    "0.0.0.0",  # noqa: S104 - judged, not bound
])  # fmt: skip
def test_address__that_is_never_called(address: str) -> None:
    for allows_private in (True, False):
        assert refusal_of(ipaddress.ip_address(address), allows_private=allows_private), address


@pytest.mark.parametrize("address", [
    "127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1",
])  # fmt: skip
def test_address__that_is_called_where_private_ones_are_allowed(address: str) -> None:
    found = ipaddress.ip_address(address)
    assert "WEBHOOK_ALLOW_PRIVATE" in refusal_of(found, allows_private=False)
    assert not refusal_of(found, allows_private=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34"])
def test_address__that_is_public(address: str) -> None:
    assert not refusal_of(ipaddress.ip_address(address), allows_private=False)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these addresses, one answer after the other; the names that were asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *rest: object, **more: object) -> object:
        with suppress(ValueError):
            ipaddress.ip_address(host)
            return real(host, port, *rest, **more)  # type: ignore[arg-type]
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [entry for address in found for entry in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


def test_name__is_resolved_once_and_the_judged_address_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(Taking()) as receiver:
        port = receiver.url.rpartition(":")[2]
        asked = resolving(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
        OPEN.call("POST", f"http://hooks.example:{port}/x", {}, b"{}")
    assert asked == ["hooks.example"]
    assert receiver.calls[0].headers["host"] == f"hooks.example:{port}"


def test_name__of_a_private_or_a_metadata_address_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(Taking()) as receiver:
        port = receiver.url.rpartition(":")[2]
        resolving(monkeypatch, ["169.254.169.254"], ["127.0.0.1"])
        with pytest.raises(WebhookError, match="metadata"):
            OPEN.call("POST", f"http://hooks.example:{port}/x", {}, b"{}")
        with pytest.raises(WebhookError, match="it is private; WEBHOOK_ALLOW_PRIVATE"):
            SHUT.call("POST", f"https://hooks.example:{port}/x", {}, b"{}")
    assert receiver.calls == []


def test_http__goes_to_no_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["93.184.216.34"])
    with pytest.raises(WebhookError, match="use https"):
        OPEN.call("POST", "http://hooks.example/x", {}, b"{}")


def test_name__with_several_addresses_is_called_at_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiving(Taking()) as receiver:
        port = receiver.url.rpartition(":")[2]
        resolving(monkeypatch, ["169.254.1.1", "127.0.0.2", "127.0.0.1"])
        OPEN.call("POST", f"http://hooks.example:{port}/x", {}, b"{}")
    assert len(receiver.calls) == 1


def test_tls__checks_the_name_that_the_url_has(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(connection: socket.socket) -> None:
        with tls.server_context.wrap_socket(connection, server_side=True) as spoken:
            asked = b""
            while not asked.endswith(b"{}"):
                piece = spoken.recv(65536)
                asked += piece or b"{}"
            spoken.sendall(HEAD + b"Content-Length: 0\r\n\r\n")

    resolving(monkeypatch, ["127.0.0.1"])
    trusting = Receiver(allows_private=True, secrets=(), trust=tls.client_context)
    with serving(serve) as address:
        port = address.rpartition(":")[2]
        trusting.call("POST", f"https://localhost:{port}/x", {}, b"{}")
        with pytest.raises(WebhookError, match="certificate is not trusted"):
            trusting.call("POST", f"https://other.example:{port}/x", {}, b"{}")
        with pytest.raises(WebhookError, match="certificate is not trusted"):
            OPEN.call("POST", f"https://localhost:{port}/x", {}, b"{}")


# --- hostile answers ----------------------------------------------------------------------------------------


def says(*pieces: bytes, pause: float = 0.0, again: int = 1) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        for _ in range(again):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)

    return serve


def silent(connection: socket.socket) -> None:
    read_head(connection)
    time.sleep(3)


def resets(connection: socket.socket) -> None:
    read_head(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hangs_up(connection: socket.socket) -> None:
    read_head(connection)


def with_wrong_name(connection: socket.socket) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("somebody.else").configure_cert(context)
    context.wrap_socket(connection, server_side=True).close()


def plain_text(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example ESMTP\r\n")
    time.sleep(1)


BOMB = gzip.compress(b"0" * 50_000_000)
LINE = b"X: " + b"x" * 60_000 + b"\r\n"
HOSTILE: dict[str, tuple[str, Callable[[socket.socket], None], bool]] = {
    "silent": ("http", silent, False),
    "hangs up": ("http", hangs_up, False),
    "resets": ("http", resets, False),
    "head that drips": ("http", says(*(bytes([one]) for one in HEAD * 20), pause=0.05), False),
    "head without an end": ("http", says(HEAD, *[LINE] * 200), False),
    "line without an end": ("http", says(HEAD, b"X: " + b"x" * 5_000_000), False),
    "status that is none": ("http", says(b"HTTP/1.1 abc OK\r\n\r\n"), False),
    "not HTTP": ("http", says(b"\x16\x03\x01\x02\x00" * 100), False),
    "informational without end": ("http", says(b"HTTP/1.1 100 C\r\n\r\n", pause=0.01, again=500), False),
    "error with an endless body": ("http", says(b"HTTP/1.1 500 No\r\n\r\n", *[b"x" * 65536] * 400), False),
    "error with a packed bomb": (
        "http", says(b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\n\r\n", BOMB), False,
    ),
    "redirect to metadata": (
        "http", says(b"HTTP/1.1 307 No\r\nLocation: http://169.254.169.254/\r\n\r\n"), False,
    ),
    "lies about its length": ("http", says(b"HTTP/1.1 503 No\r\nContent-Length: -5\r\n\r\n", b"x"), False),
    "wrong TLS name": ("https", with_wrong_name, False),
    "no TLS": ("https", plain_text, False),
    "taken, with an endless body": ("http", says(HEAD + b"\r\n", *[b"x" * 65536] * 400), True),
    "taken, with a slow body": ("http", says(HEAD + b"\r\n", *[b"x"] * 40, pause=0.1), True),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_answer__costs_one_delivery_and_nothing_else(stage: Stage, what: str) -> None:
    scheme, serve, is_taken = HOSTILE[what]
    good = stage.add("good", Taking())
    with serving(serve, patience_seconds=0) as address:
        stage.add("bad", Taking(), url=f"{scheme}://{address}/s3cret-hook")
        stage.fail(1)
        began = time.monotonic()
        stage.deliver()
        assert time.monotonic() - began < 10
    assert len(good.calls) == 1
    rows = stage.rows("recipient, sent_at IS NOT NULL, tries, last_error")
    assert [(name, sent, tries) for name, sent, tries, _ in rows] == [("bad", is_taken, 1), ("good", True, 1)]
    assert "s3cret" not in (rows[0][3] or "")
    assert bool(rows[0][3]) is not is_taken
    stage.deliver()  # the process works on


def test_dead_target__delays_nobody_else(stage: Stage, database_url: str) -> None:
    """One of three says nothing; the others have their messages while it is waited for."""
    from shared.database import Database
    from shared.webhooks.delivery import WebhookDelivery

    is_over = threading.Event()

    def mute(connection: socket.socket) -> None:
        read_head(connection)
        is_over.wait(20)

    good, other = stage.add("good", Taking()), stage.add("other", Taking())
    with serving(mute) as address:
        stage.add("dead", Taking(), url=f"http://{address}/x")
        stage.fail(1)
        run = WebhookDelivery(
            lambda: Database(database_url), stage.settings, lambda: stage.now, stage.compose_off
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sending, "SILENCE_SECONDS", 15.0)
            patch.setattr(sending, "DEADLINE_SECONDS", 15.0)
            run.begin_due(stage.database)
            give_up_at = time.monotonic() + 15
            while not (good.calls and other.calls) and time.monotonic() < give_up_at:
                time.sleep(0.01)
            is_over.set()  # only now the dead one hangs up
            assert len(good.calls) == len(other.calls) == 1
        run.finish(stage.database)
    assert [row[:2] for row in stage.rows("recipient, sent_at IS NOT NULL")] == [
        ("dead", False), ("good", True), ("other", True),
    ]  # fmt: skip


def test_target__is_served_by_one_process_at_a_time(stage: Stage, database_url: str) -> None:
    from shared.database import Database
    from shared.webhooks.outbox import WebhookOutbox

    ops = stage.add("ops", Taking())
    stage.fail(1)
    with Database(database_url) as other, WebhookOutbox(other).lock("ops"):
        stage.deliver()
        assert ops.calls == []
    stage.deliver()
    assert len(ops.calls) == 1


def test_bug__in_an_adapter_costs_one_delivery(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.add("ops", Taking())
    stage.fail(1)
    monkeypatch.setattr(delivery, "send_message", lambda *_: 1 / 0)
    stage.deliver()
    assert stage.rows() == [("ops", 1, "a bug: ZeroDivisionError", False)]
