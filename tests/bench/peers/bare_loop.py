"""The least that Python with its own `ssl` and `hashlib` needs to move a large file, in parts, by threads.

Like the uploader in how the work is laid out: one thread reads and makes the file's SHA-1, four send, each
with a connection of its own, and make the SHA-1 of each part. Without all else: no DAM's API, no status, no
ledger, no memory of parts, nothing is ever tried again. What the uploader takes more is what its care costs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import os
import socket
import ssl
import sys
import threading
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

BLOCK = 1024 * 1024
SENDERS = 4
BUFFERS = SENDERS + 2


class Connection:
    """To one server, kept; just enough HTTP."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._socket: socket.socket = socket.create_connection((parts.hostname, parts.port), 60)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._socket = context.wrap_socket(self._socket, server_hostname=parts.hostname)

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes | memoryview = b"") -> bytes:
        """Send a request; what came with the head of the answer. Raises SystemExit unless it is 2xx."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        if body:
            self._socket.sendall(body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 2"):
            raise SystemExit(head.decode())
        lengths = [line for line in head.decode().lower().splitlines() if line.startswith("content-length:")]
        self.left = int(lengths[0].partition(":")[2]) - len(rest)
        return rest

    def json(self, method: str, path: str, headers: dict[str, str], body: bytes | memoryview) -> Any:
        """Send a request; returns the answer's JSON."""
        answer = self.ask(method, path, headers, body)
        while self.left:
            more = self._more()
            answer += more
            self.left -= len(more)
        return json.loads(answer)

    def fill(self, view: memoryview) -> None:
        """The next bytes of an answer."""
        at = 0
        while at < len(view):
            got = self._socket.recv_into(view[at:])
            if not got:
                raise SystemExit("the download broke off")
            at += got

    def _more(self) -> bytes:
        got = self._socket.recv(64 * 1024)
        if not got:
            raise SystemExit("the connection was closed")
        return got


def digest(sha1: bytes) -> str:
    """As Box wants it in a header."""
    return "sha=" + base64.b64encode(sha1).decode()


def move(name: str) -> None:
    """One file."""
    source, box_url = os.environ["FILES_URL"], os.environ["BOX_UPLOAD_URL"]
    box = Connection(box_url)
    dam = Connection(source)
    begun = dam.ask("GET", urlsplit(source).path + name, {})
    size = len(begun) + dam.left
    wanted = json.dumps({"folder_id": os.environ["BOX_ROOT_FOLDER_ID"], "file_name": name, "file_size": size})
    login = {"Authorization": "Bearer bench"}
    session = box.json("POST", "/api/2.0/files/upload_sessions", login, wanted.encode())
    part_size, path = session["part_size"], f"/api/2.0/files/upload_sessions/{session['id']}"
    free: SimpleQueue[mmap.mmap] = SimpleQueue()
    for _ in range(BUFFERS):
        free.put(mmap.mmap(-1, part_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    full: SimpleQueue[tuple[int, mmap.mmap] | None] = SimpleQueue()
    parts: list[dict[str, Any]] = []

    def send() -> None:
        connection = Connection(box_url)
        while (part := full.get()) is not None:
            offset, buffer = part
            view = memoryview(buffer)[: min(part_size, size - offset)]
            headers = {
                **login,
                "Digest": digest(hashlib.sha1(view).digest()),
                "Content-Range": f"bytes {offset}-{offset + len(view) - 1}/{size}",
            }
            parts.append(connection.json("PUT", path, headers, view)["part"])
            free.put(buffer)

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    whole = hashlib.sha1(begun)
    for offset in range(0, size, part_size):
        buffer = free.get()
        view = memoryview(buffer)[: min(part_size, size - offset)]
        at = 0
        if not offset:
            at = len(begun)
            view[:at] = begun
        while at < len(view):
            block = view[at : at + BLOCK]
            dam.fill(block)
            whole.update(block)
            at += len(block)
        full.put((offset, buffer))
    for _ in senders:
        full.put(None)
    for sender in senders:
        sender.join()
    parts.sort(key=lambda part: int(part["offset"]))
    box.json(
        "POST",
        f"{path}/commit",
        {**login, "Digest": digest(whole.digest())},
        json.dumps({"parts": parts}).encode(),
    )


if __name__ == "__main__":
    for each in sys.argv[1:]:
        move(each)
