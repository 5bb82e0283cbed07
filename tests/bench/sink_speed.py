"""How much the Box stand-in takes by itself: `python -m bench.sink_speed`.

The senders do next to nothing (one digest, the same bytes again), so the figures are the stand-in's;
but they share its cores. It has to be well above what the contenders ask of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.box_sink import Behaviour
from bench.sets import SourceFile
from bench.stage import BoxSink
from bench.tls import make_certificates

PART = bytes(8 * 1024 * 1024)
PARTS = 128
SMALL = bytes(20_000)
FILES = 2000
FORM = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@dataclass(frozen=True)
class Target:
    """Where to send to."""

    port: int
    ca: Path | None

    def connect(self) -> socket.socket:
        """A connection, in TLS when there is an authority to trust."""
        plain = socket.create_connection(("127.0.0.1", self.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ca is None:
            return plain
        return ssl.create_default_context(cafile=str(self.ca)).wrap_socket(plain, server_hostname="127.0.0.1")


def call(connection: socket.socket, method: str, path: str, body: bytes, **headers: str) -> dict[str, Any]:
    """One request; the answer's JSON."""
    lines = [f"{method} /api/2.0/{path} HTTP/1.1", "Host: box", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    connection.sendall(body)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
        answer += connection.recv(65536)
    content: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return content


def make_original(path: Path, size: int) -> SourceFile:
    """What the parts add up to."""
    whole = hashlib.sha1()
    with path.open("wb") as file:
        file.truncate(size)
    for _ in range(size // len(PART)):
        whole.update(PART)
    return SourceFile(path, size, whole.hexdigest())


def send_parts(target: Target, session_id: str, worker: int, workers: int) -> None:
    """This worker's share of a session's parts."""
    connection = target.connect()
    digest = "sha=" + base64.b64encode(hashlib.sha1(PART).digest()).decode()
    for number in range(worker, PARTS, workers):
        start = number * len(PART)
        content_range = f"bytes {start}-{start + len(PART) - 1}/{PARTS * len(PART)}"
        call(connection, "PUT", f"files/upload_sessions/{session_id}", PART,
             digest=digest, content_range=content_range)  # fmt: skip


def send_files(target: Target, folder_id: str, worker: int, workers: int) -> None:
    """This worker's share of the small files."""
    connection = target.connect()
    for number in range(worker, FILES, workers):
        attributes = json.dumps({"name": f"file-{number}", "parent": {"id": folder_id}}).encode()
        body = FORM % (b"attributes", attributes) + FORM % (b"file", SMALL) + b"--B--\r\n"
        call(connection, "POST", "files/content", body, content_type="multipart/form-data; boundary=B")


def time_workers(sink: BoxSink, work: Callable[..., None], target: Target, what: str, workers: int) -> Any:
    """Wall seconds, and the stand-in's CPU seconds."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(target, what, n, workers)) for n in range(workers)]
    cpu_before, started = cpu_seconds(sink.pid), time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.monotonic() - started, cpu_seconds(sink.pid) - cpu_before


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print a line for each way of sending."""
    with tempfile.TemporaryDirectory() as folder:
        certificates = make_certificates(Path(folder))
        sink = BoxSink(certificates)
        size = PARTS * len(PART)
        large = make_original(Path(folder) / "large", size)
        for name, target in (
            ("plain", Target(sink.plain_port, None)),
            ("TLS", Target(sink.tls_port, certificates.ca)),
        ):
            for workers in (1, 2, 4):
                sink.reset(Behaviour(), [large])
                with target.connect() as connection:
                    given = {"folder_id": sink.root_id, "file_name": "large", "file_size": size}
                    session = call(connection, "POST", "files/upload_sessions", json.dumps(given).encode())
                wall, cpu = time_workers(sink, send_parts, target, session["id"], workers)
                print(f"parts, {name}, {workers} at once: {size / 1e6 / wall:.0f} MB/s,"
                      f" {cpu / size * 1e9:.2f} CPU s/GB")  # fmt: skip
            for workers in (1, 4, 16):
                sink.reset(Behaviour())
                wall, cpu = time_workers(sink, send_files, target, sink.root_id, workers)
                print(f"20 KB files, {name}, {workers} at once: {FILES / wall:.0f}/s,"
                      f" {cpu / FILES * 1000:.2f} CPU s/1,000")  # fmt: skip
        sink.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
