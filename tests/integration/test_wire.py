"""HTTP itself: proxies, connections that end, answers that come early, bodies that stop short."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import trustme

from conftest import Tls
from raw_server import read_head, serving
from shared.http.wire import NoAnswerError, ProxyError, Wire, default_context, retry_after_seconds
from simulators.box import BoxSimulator


def test_proxy__is_taken_from_the_environment(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS goes through a tunnel, plain HTTP by the full address; the proxy's login to the proxy alone."""
    heads: list[bytes] = []

    def relay(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        if not heads[-1].startswith(b"CONNECT"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy")
            return
        host, _, port = heads[-1].split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(onward, connection))
            back.start()
            pump(connection, onward)
            back.join()

    with BoxSimulator(ssl_context=tls.server_context) as box, serving(relay) as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:pass%20word@{proxy}")
        monkeypatch.setenv("http_proxy", f"http://user:pass%20word@{proxy}")
        wire = Wire(default_context(str(tls.ca_path)), 5)
        for _ in range(2):
            with wire.send("GET", f"{box.url}/2.0/users/me", {}) as reply:
                assert reply.status == 401
        assert [call.headers.get("proxy-authorization") for call in box.requests] == [None, None]
        with wire.send("GET", "http://plain.example.com/x", {}) as reply:
            assert reply.read() == b"proxy"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        before = len(heads)
        wire.close()
        straight = Wire(default_context(str(tls.ca_path)), 5)
        with straight.send("GET", box.url, {}) as reply:
            assert reply.status == 401
        straight.close()
    assert len(heads) == before
    assert heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert heads[-1].startswith(b"GET http://plain.example.com/x HTTP/1.1")
    assert all(b"Basic dXNlcjpwYXNzIHdvcmQ=" in head for head in heads)


def test_trust__is_the_systems_and_certifis_only_where_the_system_has_none(
    tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an administrator took out of the system's store is not trusted by another way."""

    def trusted() -> list[str]:
        return [str(dict(pair for line in ca["subject"] for pair in line)) for ca in context.get_ca_certs()]

    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_path))
    context = default_context(None)
    assert len(trusted()) == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "there is none"))
    context = default_context(None)
    assert any("DigiCert" in subject for subject in trusted())
    context = default_context(str(tls.ca_path))
    assert len(trusted()) == 1


def test_body__goes_out_in_full_packets_and_its_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By TCP_NODELAY: off while a body is on its way, on for all else that is sent."""
    sockets: list[socket.socket] = []
    options: list[int] = []
    connect = socket.create_connection

    def recorded(*arguments: Any) -> socket.socket:
        sockets.append(connect(*arguments))
        return sockets[-1]

    def answer(connection: socket.socket) -> None:
        for size in (len(body), 0):
            arrived = len(read_head(connection).partition(b"\r\n\r\n")[2])
            options.append(nodelay())
            while arrived < size:
                arrived += len(connection.recv(1 << 20))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def nodelay() -> int:
        return sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    body = bytes(64 << 20)  # more than the system takes in while nobody reads
    monkeypatch.setattr(socket, "create_connection", recorded)
    wire = Wire(None, 20)
    with serving(answer) as address:
        wire.send("PUT", f"http://{address}/parts", {}, (memoryview(body),)).read()
        wire.send("GET", f"http://{address}/", {}).read()
        wire.close()
    assert len(sockets) == 1
    assert [bool(option) for option in options] == [False, True]


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


def test_early_answer__is_heard_although_the_body_was_cut_off() -> None:
    """A server may refuse by 401 or 429 and hang up before it has read a large body."""

    def refuse(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with serving(refuse) as address:
        wire = Wire(None, 5)
        with wire.send("PUT", f"http://{address}/", {}, (bytes(8_000_000),)) as reply:
            assert (reply.status, reply.headers.get("Retry-After")) == (429, "7")
        wire.close()


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("size", [0, 1, 5_000, 8_192, 100_000, 3_000_000])
@pytest.mark.parametrize("step", [1_000, 8_000, 300_000])
def test_body__is_the_same_however_it_is_read(tls: Tls, is_tls: bool, size: int, step: int) -> None:
    """In steps smaller and larger than what came with the head; the connection is then used again."""
    content = random.Random(size).randbytes(size)  # noqa: S311 - any bytes will do

    def serve(raw: socket.socket) -> None:
        connection = tls.server_context.wrap_socket(raw, server_side=True) if is_tls else raw
        for _ in range(2):
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + content)
        connection.close()

    with serving(serve) as address:
        wire = Wire(default_context(str(tls.ca_path)), 5)
        for _ in range(2):
            whole, view = bytearray(), memoryview(bytearray(step))
            with wire.send("GET", f"{'https' if is_tls else 'http'}://{address}/", {}) as reply:
                while count := reply.readinto(view):
                    whole += view[:count]
            assert whole == content
        wire.close()


@pytest.mark.parametrize("is_tls", [False, True])
def test_connection__opened_ahead_is_the_one_that_is_used(tls: Tls, is_tls: bool) -> None:
    """Also after TLS has sent its tickets; one that the server has closed meanwhile is not."""
    connections: list[socket.socket] = []
    greeted, closing = threading.Event(), threading.Event()

    def serve(raw: socket.socket) -> None:
        connection = tls.server_context.wrap_socket(raw, server_side=True) if is_tls else raw
        connections.append(connection)
        greeted.set()  # TLS has sent its tickets by now
        with connection:
            while len(connections) < 2:
                read_head(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        closing.set()

    with serving(serve) as address:
        url = f"{'https' if is_tls else 'http'}://{address}/"
        wire = Wire(default_context(str(tls.ca_path)), 5)
        wire.connect(url)
        assert greeted.wait(5)
        for _ in range(2):
            with wire.send("GET", url, {}) as reply:
                assert reply.read() == b"ok"
        assert len(connections) == 1
        wire.connect(url)  # the newest is taken first
        assert closing.wait(5)
        with wire.send("GET", url, {}) as reply:
            assert reply.read() == b"ok"
        assert len(connections) == 2
        wire.close()


def test_silence__ends_by_the_time_out() -> None:
    def say_nothing(connection: socket.socket) -> None:
        read_head(connection)
        connection.recv(1)

    with serving(say_nothing) as address:
        wire = Wire(None, 0.2)
        with pytest.raises(TimeoutError):
            wire.send("GET", f"http://{address}/", {})
        wire.close()


def test_body__that_stops_short_is_told() -> None:
    def cut(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        connection.close()

    with serving(cut) as address:
        wire = Wire(None, 5)
        with pytest.raises(NoAnswerError):
            wire.send("GET", f"http://{address}/", {}).read()
        view = memoryview(bytearray(10))
        reply = wire.send("GET", f"http://{address}/", {})
        assert reply.readinto(view) == 5
        with pytest.raises(NoAnswerError):
            reply.readinto(view)
        reply.close()
        wire.close()


@pytest.mark.parametrize("address", ["/a b", "/a\r\nX: y", "/a\x00"])
def test_address__that_would_forge_a_request_is_refused(box: BoxSimulator, address: str) -> None:
    wire = Wire(None, 5)
    with pytest.raises(NoAnswerError):
        wire.send("GET", box.url + address, {})
    with pytest.raises(NoAnswerError):
        wire.send("GET", box.url, {"X-Name": "a\r\nX-Forged: 1"})
    assert not box.requests
    wire.close()


@pytest.mark.parametrize(
    ("value", "sent", "wanted"),
    [
        (None, None, None),
        ("7", None, 7.0),
        ("-3", None, 0.0),
        ("soon", None, None),
        ("inf", None, None),
        ("nan", None, None),
        ("Tue, 24 Nov 2026 00:00:30 GMT", None, 30.0),
        ("Tue, 24 Nov 2026 00:00:30 GMT", "once", 30.0),
        ("Tue, 24 Nov 2020 00:00:00 GMT", None, 0.0),
        ("Tue, 24 Nov 2026 00:00:30 +99999999", None, None),
        pytest.param(
            "Tue, 24 Nov 2026 01:00:05 GMT", "Tue, 24 Nov 2026 01:00:00 GMT", 5.0, id="their clock is ahead"
        ),
    ],
)
def test_retry_after__seconds_dates_and_nonsense(
    value: str | None, sent: str | None, wanted: float | None
) -> None:
    headers = Message()
    for name, text in (("Retry-After", value), ("Date", sent)):
        if text is not None:
            headers[name] = text
    assert retry_after_seconds(headers, datetime(2026, 11, 24, tzinfo=UTC)) == wanted


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["https", "HTTPS", "socks5"])
def test_proxy__of_another_language_gets_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    """Its login went out in clear, to a proxy that waited for a TLS greeting."""
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        heard.append(connection.recv(100))

    with serving(listen) as proxy:
        monkeypatch.setenv(name, f"{scheme}://user:proxy-secret@{proxy}")
        wire = Wire(None, 5)
        with pytest.raises(ProxyError, match=f"{name.upper()}: .*only http:// is") as told:
            wire.send("GET", "https://dam.example.com/x", {})
        assert "proxy-secret" not in str(told.value)
        assert proxy in str(told.value)
        monkeypatch.setenv("no_proxy", "dam.example.com")
        with pytest.raises(NoAnswerError) as other:
            wire.connect("https://dam.example.com/x")
        assert not isinstance(other.value, ProxyError)
        wire.close()
    assert not heard


def test_trust__the_systems_authorities_are_loaded_when_a_host_needs_them(
    tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = trustme.CA()
    public.cert_pem.write_to_path(str(tmp_path / "public.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    context = default_context(str(tls.ca_path))
    wire = Wire(context, 5, trusts_system=True)
    with BoxSimulator(ssl_context=tls.server_context) as private:
        with wire.send("GET", private.url, {}) as reply:
            assert reply.status == 401
        assert len(context.get_ca_certs()) == 1
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    public.issue_cert("127.0.0.1").configure_cert(theirs)
    with BoxSimulator(ssl_context=theirs) as known:
        with pytest.raises(ssl.SSLCertVerificationError):
            Wire(default_context(str(tls.ca_path)), 5).send("GET", known.url, {})
        together = threading.Barrier(4, timeout=20)

        def ask(_: int) -> int:
            together.wait()
            with wire.send("GET", known.url, {}) as reply:
                return reply.status

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == [401] * 4
        assert len(context.get_ca_certs()) == 2
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(theirs)
    with BoxSimulator(ssl_context=theirs) as stranger, pytest.raises(ssl.SSLCertVerificationError):
        wire.send("GET", stranger.url, {})
    wire.close()
