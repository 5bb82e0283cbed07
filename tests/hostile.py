"""A server between the product and a simulator that passes everything on, except what it answers itself."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from raw_server import serving
from world import TIMEOUT_SECONDS, World

ATTACKS = [
    "'; DROP TABLE campaign_status; --",
    "\\'; DROP TABLE campaign_status; --",
    "$$; DROP TABLE campaign_status; $$",
    "' OR '1'='1",
    "%(campaign_id)s %s %%",
    ":'campaign_id' :role \\! touch canary",
    "$(touch canary) `touch canary` ; touch canary #",
    "'\"; touch canary; \"'",
    "!! !$ ~ * ? [a-z] {a,b}",
    "a\r\nBcc: evil@example.com\r\n\r\n<script>alert(1)</script>",
    "=?utf-8?q?a=0D=0ABcc:_evil=40example.com?=",
    "</title><script>alert(1)</script>",
    "{{ 7*7 }} {% raw %} ${jndi:ldap://x}",
    "\n2026-11-23T13:00:00.000Z ERROR run=x uploader: forged",
    '", "level": "ERROR", "message": "forged',
    "\x1b]0;owned\x07\x1b[2J",
    "\u202etxt.exe",
    "\u2028forged\u2029\x85forged",
    "../../../etc/passwd",
    "..",
    ".",
    "-rf",
    "--all-failed",
    "NUL\0byte",
    "half \ud800 letter",
    "é" * 300,
    "👩‍👩‍👧" * 60,
    "x" * 5000,
    ".jpg",
    "con.jpg ",
    "",
    " ",
]
"""Texts that would do harm somewhere: in SQL, a shell, HTML, a header, a log, a path, a terminal."""

Attack = Callable[[socket.socket], None]


@dataclass
class Heard:
    """One request as it came in."""

    method: str
    target: str
    head: bytes

    @property
    def shows_credentials(self) -> bool:
        """Whether it carried a token, a session or a cookie."""
        return re.search(rb"(?im)^(authorization|cookie|x-requested-by):", self.head) is not None


@dataclass
class Relay:
    """address: its own, http://HOST:PORT. attacks: (a pattern for `METHOD target`, what answers instead)."""

    upstream: str
    address: str = ""
    heard: list[Heard] = field(default_factory=list)
    attacks: list[tuple[str, Attack]] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        while line := stream.readline():
            method, target, _ = line.decode("latin-1").split(" ", 2)
            fields: list[bytes] = []
            while (entry := stream.readline()) not in (b"\r\n", b""):
                fields.append(entry)
            self.heard.append(Heard(method, target, b"".join(fields)))
            headers = {
                name.strip(): value.strip()
                for name, _, value in (entry.decode("latin-1").partition(":") for entry in fields)
            }
            body = stream.read(int(headers.get("Content-Length", 0)))
            for pattern, attack in self.attacks:
                if re.search(pattern, f"{method} {target}"):
                    attack(connection)
                    return
            upstream = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=30)
            upstream.request(method, target, body, headers)
            with upstream.getresponse() as answer:
                content = answer.read()
                kept = [
                    (name, value)
                    for name, value in answer.getheaders()
                    if name.lower() not in ("content-length", "transfer-encoding", "connection")
                ]
                head = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{n}: {v}" for n, v in kept)]
            upstream.close()
            head.append(f"Content-Length: {len(content)}")
            connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + content)


@contextmanager
def relaying(upstream: str = "", ssl_context: ssl.SSLContext | None = None) -> Iterator[Relay]:
    """A started relay; without an upstream it only answers by its attacks. ssl_context: to speak TLS."""
    relay = Relay(upstream)

    def serve(connection: socket.socket) -> None:
        with suppress(ValueError):
            if ssl_context is None:
                relay.serve(connection)
                return
            with ssl_context.wrap_socket(connection, server_side=True) as encrypted:
                relay.serve(encrypted)

    with serving(serve, patience_seconds=0) as address:
        relay.address = f"http{'' if ssl_context is None else 's'}://{address}"
        yield relay


# What a hostile server says. Whatever is endless ends when the client hangs up.


def says(head: str, *pieces: bytes, repeat: int = 0) -> Attack:
    """Send the head, the pieces, and the last piece again so many times (-1: for ever)."""

    def attack(connection: socket.socket) -> None:
        connection.sendall("\r\n".join(["HTTP/1.1 " + head, "", ""]).encode() if head else b"")
        for piece in pieces:
            connection.sendall(piece)
        count = 0
        while count != repeat:
            connection.sendall(pieces[-1])
            count += 1

    return attack


def answers(body: bytes, status: str = "200 OK", *fields: str) -> Attack:
    """A whole answer."""
    kind = "Content-Type: application/json"
    return says("\r\n".join([status, kind, *fields, f"Content-Length: {len(body)}"]), body)


def drips(head: bytes, seconds: float) -> Attack:
    """A byte at a time."""

    def attack(connection: socket.socket) -> None:
        pause = threading.Event()
        for byte in head + b" " * 100_000:
            connection.sendall(bytes([byte]))
            pause.wait(seconds)

    return attack


@dataclass
class Measured:
    """A finished run and the most memory it ever held."""

    exit_code: int
    stdout: str
    stderr: str
    peak_mb: float


def run_measured(world: World, *arguments: str, **changes: str) -> Measured:
    """The uploader as a process of its own, and the most memory that the kernel ever saw it hold.

    Looked at while it runs: what wait4 tells afterwards counts the memory of whoever started it.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = world.start(
            *("a1_to_a2_box_uploader.py", "--auth-password", "--json", *arguments),
            stdout=out,
            stderr=err,
            **changes,
        )
        peak_kb = 0
        give_up_at = time.monotonic() + TIMEOUT_SECONDS
        while process.poll() is None:
            with suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
                peak_kb = max(peak_kb, int(found[1]) if found else 0)
            if time.monotonic() > give_up_at:
                process.kill()
            time.sleep(0.02)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    return Measured(process.returncode, texts[0], texts[1], peak_kb / 1024)
