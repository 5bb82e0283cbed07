"""scripts/admin_page.py as a process of its own, for tests."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

from page import LINES, OPERATOR, PASSWORD
from world import SCRIPTS, Run, wait_for


@dataclass
class Served:
    """The page as a process. log: what it wrote to standard error."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        found = re.search(r"listens on http://\S+:(\d+)", self.log)
        assert found is not None, self.log
        return int(found[1])

    def ask(
        self, method: str, path: str, form: dict[str, str] | None = None, **headers: str
    ) -> tuple[HTTPResponse, str]:
        """An answer and its text, over a connection of its own."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            body = urlencode(form) if form is not None else None
            more = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {**more, **named})
            answer = connection.getresponse()
            return answer, answer.read().decode()

    def log_in(self, name: str) -> str:
        """The Cookie header of somebody who is logged in."""
        form, text = self.ask("GET", "/login")
        token = re.search('name="csrf" value="([^"]+)"', text)
        assert token is not None
        answer, _ = self.ask(
            "POST", "/login", {"name": name, "password": PASSWORD, "csrf": token[1]},
            Cookie=self.cookie_of(form), Origin=f"http://127.0.0.1:{self.port}",
        )  # fmt: skip
        assert answer.status == 303
        return self.cookie_of(answer)

    @staticmethod
    def cookie_of(answer: HTTPResponse) -> str:
        return str(answer.headers["Set-Cookie"]).split(";")[0]

    def raw(self, *blocks: bytes) -> bytes:
        """What comes back for these bytes, until the page ends the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for block in blocks:
                    connection.sendall(block)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while block := connection.recv(65536):
                    received += block
            return received

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


class Launcher:
    """Starts the page in a folder, on a database with the two users of tests/page.py."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.folder = folder
        self.users_file = folder / "page-users"
        self.users_file.touch(0o600)
        self.users_file.write_text("\n".join(LINES.values()), encoding="utf-8")
        self.env = {
            "DATABASE_URL": database_url,
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
            "ADMIN_LISTEN": "127.0.0.1:0",
            "ADMIN_USERS_FILE": str(self.users_file),
            "ADMIN_OPERATORS": OPERATOR,
            "PATH": "/usr/bin:/bin",
        }

    @contextlib.contextmanager
    def serve(self, *before: str | Path, **changes: str) -> Iterator[Served]:
        log_file = self.folder / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [*before, sys.executable, SCRIPTS / "admin_page.py"],
                cwd=self.folder, env={**self.env, **changes}, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        served = Served(process, log_file)
        try:
            wait_for(lambda: "listens on" in served.log or process.poll() is not None)
            yield served
        finally:
            process.kill()
            process.wait()

    def run(self, *arguments: str, **changes: str) -> Run:
        done = subprocess.run(
            [sys.executable, SCRIPTS / "admin_page.py", *arguments],
            cwd=self.folder, env={**self.env, **changes}, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        return Run(done.returncode, done.stdout, done.stderr)
