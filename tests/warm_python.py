"""A Python that has loaded the product's modules, and forks for each script that a test runs to its end.

What a script does is the same; half of its processor time, the loading, is spent once for all. Tests of how a
script starts, or of what a signal does, start a process of their own: see `World.start`.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
OF_THE_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_")
"""Variables that count while Python starts begin so."""
PACKAGES = (
    "concurrent.futures.thread", "cryptography.hazmat.primitives.serialization.pkcs12", "cryptography.x509",
    "dotenv.parser", "email.policy", "jinja2", "jwt", "psycopg2.extras", "smtplib", "urllib.request",
)  # fmt: skip


class WarmPython:
    """Runs scripts; any thread may."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-python-")
        self._address = str(Path(self._folder.name, "socket"))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._address)
            listening.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listening.fileno())],
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def run(
        self, argv: list[str], *, cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` does it with the output captured. argv: a script and its arguments."""
        with (
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.connect(self._address)
            request = json.dumps({"argv": argv, "cwd": str(cwd), "env": env}).encode()
            socket.send_fds(connection, [b"."], [stdout.fileno(), stderr.fileno()])
            connection.sendall(len(request).to_bytes(4, "big") + request)
            pid = _number(connection)
            connection.settimeout(timeout)
            try:
                status = _number(connection)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(argv, timeout) from None
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(
                argv,
                os.waitstatus_to_exitcode(status),
                stdout.read().decode("utf-8"),
                stderr.read().decode("utf-8"),
            )


def is_of_the_start(name: str) -> bool:
    """Whether a variable is read while Python starts, so that a fork would not follow it."""
    return name.startswith(OF_THE_START)


def _number(connection: socket.socket) -> int:
    return int.from_bytes(_exactly(connection, 8), "big", signed=True)


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise EOFError("the warm Python has ended")
        received += piece
    return received


def _serve(listening: socket.socket) -> bool:
    """Fork for each request, and tell how each child ended. True: this is a child, with a script to run."""
    parent = os.getppid()
    with selectors.DefaultSelector() as waiting:
        waiting.register(listening, selectors.EVENT_READ)
        while os.getppid() == parent:
            for key, _ in waiting.select(timeout=5):
                if key.fileobj is listening:
                    connection, _address = listening.accept()
                    _, fds, _, _ = socket.recv_fds(connection, 1, 2)
                    request = json.loads(_exactly(connection, int.from_bytes(_exactly(connection, 4), "big")))
                    pid = os.fork()
                    if not pid:
                        connection.close()
                        _become(request, fds)
                        return True
                    for fd in fds:
                        os.close(fd)
                    connection.sendall(pid.to_bytes(8, "big", signed=True))
                    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                else:
                    pid, connection = key.data
                    waiting.unregister(key.fileobj)
                    os.close(key.fd)
                    with connection, suppress(OSError):
                        connection.sendall(os.waitpid(pid, 0)[1].to_bytes(8, "big", signed=True))
    return False


def _become(request: dict[str, object], fds: array.array[int] | list[int]) -> None:
    """What differs from one process to the next."""
    for target, fd in zip((1, 2), fds, strict=True):
        os.dup2(fd, target)
        os.close(fd)
    random.seed()
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.argv[:] = request["argv"]  # type: ignore[index]
    sys.path[0] = str(Path(sys.argv[0]).parent)


def main() -> None:
    sys.path.insert(0, str(SCRIPTS))
    modules = [
        path.relative_to(SCRIPTS).with_suffix("") for path in sorted((SCRIPTS / "shared").rglob("*.py"))
    ]
    for name in (*PACKAGES, *(".".join(module.parts) for module in modules)):
        importlib.import_module(name.removesuffix(".__init__"))
    gc.freeze()  # a child that collected what is here would copy all of it
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        is_child = _serve(listening)
    if is_child:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
