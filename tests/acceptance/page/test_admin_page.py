"""scripts/admin_page.py as a process: how it starts, answers, is attacked, and stops."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from page import OPERATOR, PASSWORD, READER
from page_process import Launcher, Served
from shared.page.guards import HEADERS
from world import REPOSITORY, SCRIPTS, wait_for

DEPLOYMENT = REPOSITORY / "scripts" / "deployment"
UNIT = DEPLOYMENT / "a1-to-a2-page.service"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def launcher(database_url: str, tmp_path: Path) -> Launcher:
    return Launcher(database_url, tmp_path)


# Serving


def test_page__serves_logs_and_stops(launcher: Launcher) -> None:
    with launcher.serve() as served:
        answer, text = served.ask("GET", "/?secret=1", Cookie=served.log_in(READER))
        assert (answer.status, answer.headers["Server"]) == (200, None)
        assert READER in text
        assert served.stop() == 0
        assert re.search(rf"INFO run=page page: {READER} GET / 200, \d+ ms", served.log)
        assert "secret" not in served.log
        assert PASSWORD not in served.log
    with launcher.serve() as served:
        assert served.stop(signal.SIGINT) == 0


def test_page__starts_without_the_database_and_says_so(launcher: Launcher) -> None:
    with launcher.serve(DATABASE_URL=NOWHERE) as served:
        assert served.ask("GET", "/healthz")[0].status == 200
        answer, text = served.ask("GET", "/", Cookie=f"a1_to_a2={'A' * 43}")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert "The database cannot be reached" in text
        assert "Traceback" not in served.log


def test_stop__lets_a_request_in_flight_finish(launcher: Launcher, database_url: str) -> None:
    with launcher.serve() as served, contextlib.closing(psycopg2.connect(database_url)) as blocker:
        cookie = served.log_in(READER)
        with blocker.cursor() as cursor:
            cursor.execute("LOCK TABLE page_sessions IN ACCESS EXCLUSIVE MODE")
        connection = HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("GET", "/", headers={"Cookie": cookie})
        with contextlib.closing(psycopg2.connect(database_url)) as watcher, watcher.cursor() as look:
            watcher.autocommit = True

            def waits() -> bool:
                look.execute(
                    "SELECT FROM pg_locks WHERE NOT granted AND relation = 'page_sessions'::regclass"
                )
                return bool(look.rowcount)

            wait_for(waits)
        port = served.port
        served.process.send_signal(signal.SIGTERM)

        def is_closed() -> bool:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                return False
            return True

        wait_for(is_closed)
        assert served.process.poll() is None
        blocker.rollback()
        answer = connection.getresponse()
        assert answer.status == 200
        assert "</html>" in answer.read().decode()
        connection.close()
        assert served.process.wait(timeout=30) == 0
        assert "stopped before every request" not in served.log


def test_manager__is_told_of_start_life_and_stop(launcher: Launcher, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with launcher.serve(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as served:
            told = [manager.recv(4096).decode()]
            while told[-1] != "WATCHDOG=1":
                told.append(manager.recv(4096).decode())
            served.stop()
            while told[-1] != "STOPPING=1":
                told.append(manager.recv(4096).decode())
        assert told[0] == "READY=1"


# Attacks on the server itself


def test_slow_clients__hold_up_nobody_else(launcher: Launcher) -> None:
    """Each has begun a request and goes on a byte at a time; some have a body that never comes."""
    with launcher.serve() as served, contextlib.ExitStack() as stack:
        slow = []
        for number in range(40):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            body = b"Content-Length: 1000\r\n\r\nx" if number % 2 else b""
            connection.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\n" + body)
            slow.append(connection)
        cookie = served.log_in(READER)
        for letter in b"X-Slow: a":
            for connection in slow:
                connection.sendall(bytes([letter]))
            begun = time.monotonic()
            assert served.ask("GET", "/", Cookie=cookie)[0].status == 200
            assert time.monotonic() - begun < 5


def test_request__that_is_none_gets_an_answer_with_the_headers(launcher: Launcher) -> None:
    line = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with launcher.serve() as served:
        for status, blocks in (
            (b"400", (b"GET / nonsense\r\n\r\n",)),
            (b"400", (line + b"no header\r\n\r\n",)),
            (b"400", (line + b"Content-Length: -1\r\n\r\n",)),
            (b"501", (line + b"Transfer-Encoding: gzip\r\n\r\n",)),
            (b"431", (line, *(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(40)))),
            (b"413", (line + b"Content-Length: 99999999999\r\n\r\n",)),
            (b"413", (line + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 9)),
        ):  # fmt: skip
            answer = served.raw(*blocks)
            assert answer.split(b" ", 2)[1] == status, (blocks[0], answer)
            for name, value in HEADERS.items():
                assert f"\r\n{name}: {value}\r\n".lower().encode() in answer.lower(), (status, name)
            assert b"waitress" not in answer.lower()
        assert served.ask("GET", "/healthz")[0].status == 200


def test_path__leads_out_of_no_folder(launcher: Launcher) -> None:
    with launcher.serve() as served:
        for path in (
            b"/static/../app.py", b"/static/..%2fapp.py", b"/static/%2e%2e/app.py", b"//static/../app.py",
            b"http://localhost/static/../app.py", b"/static/..\\app.py", b"/static/%00app.py",
        ):  # fmt: skip
            answer = served.raw(b"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % path)
            assert answer.split(b" ", 2)[1] in (b"303", b"404"), (path, answer)


def test_proxy_header__comes_once_and_from_the_proxy(launcher: Launcher) -> None:
    by_proxy = {"ADMIN_PROXY_HEADER": "X-Remote-User"}

    def status(served: Served, *headers: bytes) -> bytes:
        lines = b"".join(b"%s\r\n" % header for header in headers)
        return served.raw(b"GET / HTTP/1.0\r\nHost: localhost\r\n%s\r\n" % lines).split(b" ", 2)[1]

    with launcher.serve(**by_proxy, ADMIN_PROXY_PEERS="127.0.0.1") as served:
        assert status(served, b"X-Remote-User: olga") == b"200"
        assert status(served, b"X-Remote-User: olga", b"X-Remote-User: ruth") == b"403"
        assert status(served, b"X-Remote-User:") == b"403"
        assert status(served, b"X_Remote_User: olga") == b"303"
    with launcher.serve(**by_proxy, ADMIN_PROXY_PEERS="10.0.0.7") as served:
        assert status(served, b"X-Remote-User: olga") == b"403"
        assert status(served, b"X-Remote-User: olga", b"X-Forwarded-For: 10.0.0.7") == b"403"


# Faults


def test_port__that_is_taken_is_told_by_its_variable(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = launcher.run(ADMIN_LISTEN=address)
    assert done.exit_code == 2
    assert f"ADMIN_LISTEN: another program listens on {address}" in done.stderr
    assert "Traceback" not in done.stderr
    elsewhere = launcher.run(ADMIN_LISTEN="192.0.2.1:8080")
    assert elsewhere.exit_code == 2
    assert "192.0.2.1:8080 is not an address of this machine" in elsewhere.stderr


def test_check__says_what_is_wrong(launcher: Launcher, empty_database_url: str) -> None:
    done = launcher.run("--check")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"settings: ok\nusers: 2 in {launcher.users_file}\ndatabase: ok\n"
    pending = launcher.run("--check", DATABASE_URL=empty_database_url)
    assert pending.exit_code == 2
    assert "the database lacks " in pending.stderr
    assert launcher.run("--check", DATABASE_URL=NOWHERE).exit_code == 75
    assert launcher.run("--check", ADMIN_USERS_FILE="").exit_code == 2
    launcher.users_file.write_text("anna:secret\n", encoding="utf-8")
    for arguments in (["--check"], []):
        faulty = launcher.run(*arguments)
        assert faulty.exit_code == 2
        assert f"{launcher.users_file}: line 1: the hash of anna is not one that" in faulty.stderr
        assert "secret" not in faulty.stderr


def test_packages__that_are_missing_are_told_with_the_cure(launcher: Launcher) -> None:
    code = (
        "import runpy, sys; path = sys.argv[1]; sys.argv = [path]\n"
        "class Less:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def find_spec(self, name, *more):\n"
        "        return None if name in ('flask', 'waitress') else self.finder.find_spec(name, *more)\n"
        "sys.meta_path[:] = [Less(finder) for finder in sys.meta_path]\n"
        "sys.path.insert(0, path.rpartition('/')[0]); runpy.run_path(path, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPTS / "admin_page.py"],
        env=launcher.env, cwd=launcher.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        f"admin_page.py: {sys.executable} lacks these packages: flask, waitress; install them:"
        f" {sys.executable} -m pip install --require-hashes -r {REPOSITORY}/requirements-page.txt\n"
    )


# The unit


def needed(tool: str) -> str:
    """A tool of a server; .ci/run installs them, a developer's machine may have none."""
    found = shutil.which(tool)
    assert found or "CI" not in os.environ, f"CI must bring {tool}"
    return found or pytest.skip(f"{tool} is missing (Debian: apt-get install systemd)")


def test_unit__is_what_systemd_understands_and_exposes_little(tmp_path: Path) -> None:
    unit = UNIT.read_text(encoding="utf-8")
    for setting in ("Type=notify", "WatchdogSec=120", "NoNewPrivileges=yes", "RestartPreventExitStatus=2"):
        assert f"\n{setting}\n" in unit
    here = unit.replace("/opt/a1-to-a2/.venv/bin/python", sys.executable)
    path = tmp_path / UNIT.name
    path.write_text(
        here.replace("=/opt/a1-to-a2\n", f"={REPOSITORY}\n").replace("=a1-to-a2-page\n", "=root\n")
    )
    tool: Any = {"capture_output": True, "text": True, "check": False, "timeout": 60}
    done = subprocess.run([needed("systemd-analyze"), "verify", path], **tool)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])
    done = subprocess.run([needed("systemd-analyze"), "security", "--offline=true", UNIT], **tool)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure is not None
    assert float(exposure[1]) < 1.2


def test_unit__the_page_works_under_its_filters(launcher: Launcher) -> None:
    needed("systemd-analyze")
    sandbox = (sys.executable, REPOSITORY / "tests/tools/sandbox.py", UNIT)
    with launcher.serve(*sandbox) as served:
        assert served.ask("GET", "/", Cookie=served.log_in(OPERATOR))[0].status == 200
        assert served.stop() == 0
        assert "PermissionError" not in served.log
