"""HTTP itself: proxies, connections that end, answers that come early, bodies that stop short."""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3

from conftest import Tls
from raw_server import read_head, serving
from shared.http import connections
from shared.http.client import Http
from shared.http.guards import NoAnswerError, Reply, UnfitError
from shared.http.patience import retry_after_seconds
from shared.http.proxies import ProxyError
from shared.http.trust import default_context
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
        http = Http(default_context(str(tls.ca_path)), 5)
        http.connect(box.url)
        for _ in range(2):
            with http.call("GET", f"{box.url}/2.0/users/me", {}) as reply:
                assert reply.status == 401
        assert len(heads) == 1, "one tunnel, opened ahead"
        assert [call.headers.get("proxy-authorization") for call in box.requests] == [None, None]
        with http.call("GET", "http://plain.example.com/x", {}) as reply:
            assert reply.read() == b"proxy"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        before = len(heads)
        http.close()
        straight = Http(default_context(str(tls.ca_path)), 5)
        with straight.call("GET", box.url, {}) as reply:
            assert reply.status == 401
        straight.close()
    assert len(heads) == before
    assert heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert heads[-1].startswith(b"GET http://plain.example.com/x HTTP/1.1")
    assert all(b"Basic dXNlcjpwYXNzIHdvcmQ=" in head for head in heads)


# What `requests` and urllib3 do unless they are kept from it


ASKING = pytest.mark.parametrize("way", ["call", "transfer"])


def ask(http: Http, way: str, url: str) -> Reply:
    return (http.call if way == "call" else http.transfer)("GET", url, {})


@pytest.mark.parametrize("is_tls", [False, True])
def test_time_out__for_connecting_does_not_limit_sending(
    tls: Tls, monkeypatch: pytest.MonkeyPatch, is_tls: bool
) -> None:
    """Neither on a new connection nor on a kept one: a part of a large file may take half a minute."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_SECONDS", 1)
    body = memoryview(bytes(32 << 20))  # more than the system takes in while nobody reads

    def take_slowly(raw: socket.socket) -> None:
        connection = tls.server_context.wrap_socket(raw, server_side=True) if is_tls else raw
        with connection:
            serve(connection)

    def serve(connection: socket.socket) -> None:
        for _ in range(2):
            arrived = len(read_head(connection).partition(b"\r\n\r\n")[2])
            time.sleep(1.5)
            while arrived < len(body):
                arrived += len(connection.recv(1 << 20))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with serving(take_slowly) as address, closing(Http(default_context(str(tls.ca_path)), 30)) as http:
        for _ in range(2):
            url = f"{'https' if is_tls else 'http'}://{address}/"
            with http.transfer("PUT", url, {}, (body,)) as reply:
                assert reply.status == 204


@ASKING
def test_redirection__is_neither_followed_nor_read(way: str) -> None:
    """`requests` reads all of it, also when it is told not to follow."""
    heads: list[bytes] = []

    def redirect(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 300000000\r\n\r\nmore")
        connection.recv(1)

    with (
        serving(redirect) as address,
        closing(Http(None, 5)) as http,
        ask(http, way, f"http://{address}/") as reply,
    ):
        assert (reply.status, reply.headers["Location"]) == (302, "/x")
    assert len(heads) == 1


@ASKING
def test_trust__is_the_contexts_alone(
    tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """`requests` adds certifi's authorities, or those of its own variables."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "there is none"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "there is none"))
    context = default_context(str(tls.ca_path))
    with BoxSimulator(ssl_context=tls.server_context) as box, closing(Http(context, 5)) as http:
        assert ask(http, way, box.url).read()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@ASKING
def test_request__carries_what_its_caller_says_and_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """No login of .netrc, no cookie of an answer before, no wish for a packed answer."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    heads: list[bytes] = []

    def bake(connection: socket.socket) -> None:
        while True:
            heads.append(read_head(connection))
            connection.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nContent-Length: 2\r\n\r\nok")

    with serving(bake) as address, closing(Http(None, 5)) as http:
        for _ in range(2):
            assert ask(http, way, f"http://{address}/x?a=%22b%22").read() == b"ok"
        expected = {f"Host: {address}", "Accept-Encoding: identity", "User-Agent: a1-to-a2"}
    for head in heads:
        line, *fields = head.decode().strip().split("\r\n")
        assert line == "GET /x?a=%22b%22 HTTP/1.1"
        assert set(fields) == expected


@ASKING
def test_log__shows_no_address(caplog: pytest.LogCaptureFixture, way: str) -> None:
    """urllib3 warns of an odd line in a head, with the whole address and a traceback."""
    caplog.set_level(logging.DEBUG)

    def answer_oddly(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nodd line\r\nX: y\r\n\r\nok")

    with serving(answer_oddly) as address, closing(Http(None, 5)) as http:
        ask(http, way, f"http://{address}/key?signature=secret").close()
    assert "secret" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("urllib3")]


@ASKING
def test_answer__that_drips_ends_although_every_byte_is_in_time(way: str) -> None:
    def drip(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.02)

    with serving(drip) as address, closing(Http(None, 0.2)) as http:
        reply = ask(http, way, f"http://{address}/")
        with pytest.raises(NoAnswerError, match=r"not complete after") as told:
            reply.readinto(memoryview(bytearray(500_000))) if way == "transfer" else reply.read()
        assert isinstance(told.value.reason, TimeoutError)


@pytest.mark.parametrize(
    "framing", [b"1;" + b"x" * 60_000 + b"\r\na\r\n", b"X: y\r\n"], ids=["chunks", "trailers"]
)
def test_framing__without_end_ends(framing: bytes) -> None:
    def frame(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"0\r\n" if framing.startswith(b"X") else b"")
        while True:
            connection.sendall(framing)

    with serving(frame) as address, closing(Http(None, 0.3)) as http, pytest.raises(NoAnswerError):
        http.call("GET", f"http://{address}/", {}).read()


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
    connect = urllib3.util.connection.create_connection

    def recorded(*arguments: Any, **options: Any) -> socket.socket:
        sockets.append(connect(*arguments, **options))
        return sockets[-1]

    def answer(connection: socket.socket) -> None:
        for size in (len(body), 0):
            arrived = len(read_head(connection).partition(b"\r\n\r\n")[2])
            if size and not arrived:  # the head goes out first, and by itself
                arrived = len(connection.recv(1))
            options.append(nodelay())
            while arrived < size:
                arrived += len(connection.recv(1 << 20))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def nodelay() -> int:
        return sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    body = bytes(64 << 20)  # more than the system takes in while nobody reads
    monkeypatch.setattr(urllib3.util.connection, "create_connection", recorded)
    http = Http(None, 20)
    with serving(answer) as address:
        http.transfer("PUT", f"http://{address}/parts", {}, (memoryview(body),)).read()
        http.call("GET", f"http://{address}/", {}).read()
        http.close()
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
        http = Http(None, 5)
        with http.transfer("PUT", f"http://{address}/", {}, (bytes(8_000_000),)) as reply:
            assert (reply.status, reply.headers.get("Retry-After")) == (429, "7")
        http.close()


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
        http = Http(default_context(str(tls.ca_path)), 5)
        for _ in range(2):
            whole, view = bytearray(), memoryview(bytearray(step))
            with http.transfer("GET", f"{'https' if is_tls else 'http'}://{address}/", {}) as reply:
                while count := reply.readinto(view):
                    whole += view[:count]
            assert whole == content
        http.close()


@pytest.mark.parametrize("is_tls", [False, True])
def test_connection__opened_ahead_is_the_one_that_is_used(tls: Tls, is_tls: bool) -> None:
    """Also after TLS has sent its tickets; one that the server has closed meanwhile is not."""
    connections: list[socket.socket] = []
    greeted, closed = threading.Event(), threading.Event()

    def serve(raw: socket.socket) -> None:
        connection = tls.server_context.wrap_socket(raw, server_side=True) if is_tls else raw
        connections.append(connection)
        greeted.set()  # TLS has sent its tickets by now
        with connection:
            while len(connections) != 2:
                read_head(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        closed.set()

    with serving(serve) as address:
        url = f"{'https' if is_tls else 'http'}://{address}/"
        http = Http(default_context(str(tls.ca_path)), 5)
        http.connect(url)
        assert greeted.wait(5)
        for _ in range(2):
            with http.call("GET", url, {}) as reply:
                assert reply.read() == b"ok"
        assert len(connections) == 1
        http.connect(url)  # the newest is taken first
        assert closed.wait(5)
        with http.call("GET", url, {}) as reply:
            assert reply.read() == b"ok"
        assert len(connections) == 3
        http.close()


def test_silence__ends_by_the_time_out() -> None:
    def say_nothing(connection: socket.socket) -> None:
        read_head(connection)
        connection.recv(1)

    with serving(say_nothing) as address:
        http = Http(None, 0.2)
        for ask in (http.call, http.transfer):
            with pytest.raises(NoAnswerError) as told:
                ask("GET", f"http://{address}/", {})
            assert isinstance(told.value.reason, TimeoutError)
        http.close()


def test_body__that_stops_short_is_told() -> None:
    def cut(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        connection.close()

    with serving(cut) as address:
        http = Http(None, 5)
        with pytest.raises(NoAnswerError):
            http.call("GET", f"http://{address}/", {}).read()
        view = memoryview(bytearray(10))
        reply = http.call("GET", f"http://{address}/", {})
        assert reply.readinto(view) == 5
        with pytest.raises(NoAnswerError):
            reply.readinto(view)
        reply.close()
        http.close()


@pytest.mark.parametrize("address", ["/a b", "/a\r\nX: y", "/a\x00"])
def test_address__that_would_forge_a_request_is_refused(box: BoxSimulator, address: str) -> None:
    http = Http(None, 5)
    for ask in (http.call, http.transfer):
        with pytest.raises(UnfitError):
            ask("GET", box.url + address, {})
        with pytest.raises(UnfitError):
            ask("GET", box.url, {"X-Name": "a\r\nX-Forged: 1"})
    assert not box.requests
    http.close()


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
        http = Http(None, 5)
        with pytest.raises(ProxyError, match=f"{name.upper()}: .*only http:// proxies") as told:
            http.call("GET", "https://dam.example.com/x", {})
        assert "proxy-secret" not in str(told.value)
        assert proxy in str(told.value)
        monkeypatch.setenv("no_proxy", "dam.example.com")
        with pytest.raises(NoAnswerError) as other:
            http.connect("https://dam.example.com/x")
        assert not isinstance(other.value, ProxyError)
        http.close()
    assert not heard


def test_trust__the_systems_authorities_are_loaded_when_a_host_needs_them(
    tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = trustme.CA()
    public.cert_pem.write_to_path(str(tmp_path / "public.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    context = default_context(str(tls.ca_path))
    http = Http(context, 5, trusts_system=True)
    with BoxSimulator(ssl_context=tls.server_context) as private:
        with http.call("GET", private.url, {}) as reply:
            assert reply.status == 401
        assert len(context.get_ca_certs()) == 1
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    public.issue_cert("127.0.0.1").configure_cert(theirs)
    with BoxSimulator(ssl_context=theirs) as known:
        with pytest.raises(NoAnswerError, match="certificate verify failed"):
            Http(default_context(str(tls.ca_path)), 5).call("GET", known.url, {})
        together = threading.Barrier(4, timeout=20)

        def ask(_: int) -> int:
            together.wait()
            with http.call("GET", known.url, {}) as reply:
                return reply.status

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == [401] * 4
        assert len(context.get_ca_certs()) == 2
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(theirs)
    with BoxSimulator(ssl_context=theirs) as stranger, pytest.raises(NoAnswerError, match="verify failed"):
        http.call("GET", stranger.url, {})
    http.close()
