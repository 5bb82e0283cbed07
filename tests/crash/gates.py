"""Gates before the systems: every request passes one, and can be held before its effect or after it.

DAM and Box are the simulators themselves, with a gate around their answer; PostgreSQL and the mail server
have a small proxy in front. What passes is told to a `Watch`, under the name of its kind.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol, Self, TypeVar
from urllib.parse import unquote, urlsplit

from shared.database import MAIL_LOCK_CLASS, WEBHOOK_LOCK_CLASS
from simulators.box import BoxSimulator
from simulators.box_gate import TOKEN_PATH
from simulators.box_wire import Answer, Call
from simulators.dam import DamSimulator, Request
from simulators.dam_http import Response

T = TypeVar("T")

BLOCK = 1 << 16


class Watch(Protocol):
    """Is told of each request: `before` it takes effect, and `after`, before its answer goes out.

    False: the request is dropped, or its answer; its connection breaks.
    """

    def before(self, kind: str) -> bool: ...
    def after(self, kind: str) -> bool: ...


class DroppedError(ConnectionAbortedError):
    """The watch would not have it."""


def pass_through(watch: Watch, kind: str, effect: Callable[[], T]) -> T:
    """The effect's answer. Raises DroppedError, and what the effect raises."""
    if not watch.before(kind):
        raise DroppedError
    try:
        answer = effect()
    except BaseException:
        if not watch.after(kind):
            raise DroppedError from None
        raise
    if not watch.after(kind):
        raise DroppedError
    return answer


# ---------------------------------------------------------------------------------------------------------
# DAM and Box


DAM_KINDS = (
    (r"POST /sessions", "DAM login"),
    (r"DELETE /sessions", "DAM logout"),
    (r"POST /search", "DAM search"),
    (r"GET /folders/\w+/children", "DAM list"),
    (r"GET /folders/", "DAM read campaign"),
    (r"GET /assets/\w+/contents", "DAM download"),
    (r"PATCH ", "DAM PATCH"),
)

BOX_KINDS = (
    (r"POST \S*/oauth2/token", "Box login"),
    (r"POST \S*/folders\b", "Box make folder"),
    (r"GET \S*/folders/\d+/items", "Box list folder"),
    (r"GET \S*/folders/", "Box read folder"),
    (r"POST \S*/files/\d+/content", "Box new version"),
    (r"POST \S*/files/content", "Box upload"),
    (r"POST \S*/upload_sessions/\w+/commit", "Box commit"),
    (r"POST \S*/upload_sessions", "Box open session"),
    (r"PUT \S*/upload_sessions/", "Box part"),
    (r"GET \S*/upload_sessions/\w+/parts", "Box list parts"),
    (r"GET \S*/upload_sessions/", "Box read session"),
    (r"DELETE \S*/upload_sessions/", "Box abort"),
    (r"GET \S*/files/", "Box read file"),
)


def _kind_of(text: str, kinds: tuple[tuple[str, str], ...], otherwise: str) -> str:
    return next((kind for pattern, kind in kinds if re.match(pattern, text)), otherwise)


class GatedDam(DamSimulator):
    """The DAM behind a gate."""

    watch: Watch

    def answer(self, request: Request) -> Response:
        if request.path.endswith("/state"):
            kind = f"DAM {request.params.get('action', 'state')}"
        else:
            kind = _kind_of(f"{request.method} {request.route}", DAM_KINDS, "DAM other")
        return pass_through(self.watch, kind, lambda: super(GatedDam, self).answer(request))


class GatedBox(BoxSimulator):
    """Box behind a gate."""

    watch: Watch

    def _answer_truly(self, call: Call) -> Answer:
        kind = "Box login" if call.path == TOKEN_PATH else _kind_of(call.target, BOX_KINDS, "Box other")
        return pass_through(self.watch, kind, lambda: super(GatedBox, self)._answer_truly(call))


# ---------------------------------------------------------------------------------------------------------
# Proxies


class Proxy:
    """Listens, and leads each connection to the real server in a thread of its own."""

    def __init__(self, host: str, port: int, watch: Watch) -> None:
        self._server = (host, port)
        self.watch = watch
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def wait_until_unused(self, seconds: float = 60.0) -> None:
        """Until the last connection is gone on both sides, and with it what the server held for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, seconds), "a connection stays open"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._open += 1
            threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        try:
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with socket.create_connection(self._server) as server:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with contextlib.suppress(OSError, EOFError):
                        self.talk(client, server)
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)
                    with contextlib.suppress(OSError):
                        server.shutdown(socket.SHUT_WR)
                        while server.recv(BLOCK):
                            pass
        except OSError:
            pass  # the server is down: so is its proxy
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def talk(self, client: socket.socket, server: socket.socket) -> None:
        """The conversation, until one side ends it."""
        raise NotImplementedError


STATEMENTS = (
    (r"BEGIN", "SQL begin"),
    (r"COMMIT", "SQL commit"),
    (r"ROLLBACK", "SQL rollback"),
    (rf".*advisory_(un)?lock\({MAIL_LOCK_CLASS},", "SQL mail lock"),
    (rf".*advisory_(un)?lock\({WEBHOOK_LOCK_CLASS},", "SQL webhook lock"),
    (r"(?s).*pg_try_advisory_lock", "SQL run lock"),
)
WRITES = {
    "INSERT INTO notices": "SQL outbox write",
    "INSERT INTO notice_deliveries": "SQL outbox write",
    "UPDATE notice_deliveries": "SQL mail marked",
    "DELETE FROM notices": "SQL digest dropped",
    "campaign_status": "SQL row update",
    "campaign_epochs": "SQL campaign taken",
    "campaign_assets": "SQL ledger write",
    "upload_sessions": "SQL session noted",
    "INSERT INTO campaign_uploads": "SQL upload recorded",
    "UPDATE campaign_uploads": "SQL daily report",
    "campaign_errors": "SQL errors",
    "rate_buckets": "SQL rate limit",
    "orchestrator_task_runs": "SQL task run",
    "orchestrator_task_alerts": "SQL task run",
    "daily_reports": "SQL daily report",
    "webhook_targets": "SQL targets",
}
"""{what is written, alone or with the way: kind of statement}."""

_OF_WEBHOOKS = re.compile(r"'webhook'|dedup_key|webhook_targets")
"""Only statements of webhooks have these words."""
_WRITE = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM) (\w+)")


def kind_of_statement(text: str) -> str:
    """What a statement does, whatever it looks like: the table that it writes, or the lock that it takes."""
    other = _kind_of(text, STATEMENTS, "")
    if other:
        return other
    for way, table in _WRITE.findall(text):
        kind = WRITES.get(f"{way} {table}") or WRITES.get(table)
        if kind:
            return f"webhook {kind}" if _OF_WEBHOOKS.search(text) else kind
    return "SQL read"


_HOLDING = re.compile(r"SELECT (hold_\w+\([^)]*\)[,;]\s*)+")
"""What goes before each write of a run, in the same message."""


class PostgresProxy(Proxy):
    """In front of PostgreSQL. A statement's effect is between the two calls of the watch."""

    def talk(self, client: socket.socket, server: socket.socket) -> None:
        application = self._log_in(client, server)
        whose = "orchestrator " if "orchestrator" in application or "messenger" in application else ""
        while True:
            readable, _, _ = select.select([client, server], [], [])
            if server in readable:  # nothing was asked: the server ends the connection
                client.sendall(_some(server))
                continue
            kind, message = _message(client)
            if kind == b"X":
                server.sendall(message)
                return
            text = message[5:].rstrip(b"\0").decode(errors="replace").strip()
            name = whose + kind_of_statement(_HOLDING.sub("", text))
            client.sendall(pass_through(self.watch, name, lambda sent=message: _executed(server, sent)))

    @staticmethod
    def _log_in(client: socket.socket, server: socket.socket) -> str:
        """Until the server is ready for statements; returns the application's name."""
        while True:
            head = _exactly(client, 8)
            length, code = struct.unpack("!II", head)
            rest = _exactly(client, length - 8)
            if code not in (80877103, 80877104):  # TLS and GSS are asked for first
                break
            client.sendall(b"N")
        server.sendall(head + rest)
        fields = rest.decode(errors="replace").split("\0")
        settings = dict(zip(fields[::2], fields[1::2], strict=False))
        while True:
            kind, message = _message(server)
            client.sendall(message)
            if kind == b"Z":
                return settings.get("application_name", "")
            if kind == b"E":
                raise EOFError
            asked = struct.unpack("!I", message[5:9])[0] if kind == b"R" else 0
            if asked not in (0, 12):  # the client has to say something
                server.sendall(_message(client)[1])


class MailProxy(Proxy):
    """In front of the mail server. The effect is between the mail's last line and its answer."""

    def talk(self, client: socket.socket, server: socket.socket) -> None:
        client.sendall(_line(server))
        while True:
            command = _line(client)
            word = command[:4].upper().decode(errors="replace")
            self._pass("mail " + word, client, server, command)
            if word == "QUIT":
                return
            if word == "DATA":
                mail = b""
                while not mail.endswith(b"\r\n.\r\n"):
                    mail += _some(client)
                self._pass("mail sent", client, server, mail)

    def _pass(self, kind: str, client: socket.socket, server: socket.socket, text: bytes) -> None:
        def effect() -> bytes:
            server.sendall(text)
            return _reply(server)

        client.sendall(pass_through(self.watch, kind, effect))


def _executed(server: socket.socket, statement: bytes) -> bytes:
    """The server's answer to a statement, whole."""
    server.sendall(statement)
    answer = b""
    while True:
        kind, message = _message(server)
        answer += message
        if kind == b"Z":
            return answer


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = sock.recv(count - len(data))
        if not block:
            raise EOFError
        data += block
    return data


def _some(sock: socket.socket) -> bytes:
    block = sock.recv(BLOCK)
    if not block:
        raise EOFError
    return block


def _message(sock: socket.socket) -> tuple[bytes, bytes]:
    """One message of PostgreSQL's protocol: its kind, and all of its bytes."""
    head = _exactly(sock, 5)
    return head[:1], head + _exactly(sock, struct.unpack("!I", head[1:])[0] - 4)


def _line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _exactly(sock, 1)
    return line


def _reply(sock: socket.socket) -> bytes:
    """One answer of SMTP, of several lines perhaps."""
    reply = b""
    while True:
        line = _line(sock)
        reply += line
        if line[3:4] != b"-":
            return reply


def through(url: str, proxy: Proxy) -> str:
    """A database's URL, by way of the proxy."""
    parts = urlsplit(url)
    login = (parts.netloc.rpartition("@")[0] + "@") if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}").geturl()


def address_of(url: str) -> tuple[str, int]:
    """The host and port of a database's URL."""
    parts = urlsplit(url)
    return unquote(parts.hostname or "127.0.0.1"), parts.port or 5432
