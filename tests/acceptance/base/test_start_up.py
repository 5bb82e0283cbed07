"""How every run begins, 480 times a day: little is loaded, and what takes round trips is begun first."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

from raw_server import serving
from world import REPOSITORY, World

UPLOADER = "a1_to_a2_box_uploader.py"
TIMEOUT_SECONDS = 60


def loaded(modules: str, among: str) -> list[str]:
    """Which of the second ones are in memory after importing the first ones; both separated by blanks."""
    code = (
        f"import sys; sys.path.insert(0, 'scripts'); [__import__(name) for name in '{modules}'.split()];"
        f"print(*[name for name in '{among}'.split() if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_idle_run__loads_only_what_it_needs() -> None:
    idle = (
        "shared.dam.client shared.database shared.notices.delivery shared.upload.uploader shared.loop.teller"
    )
    late = "box_sdk_gen jinja2 smtplib cryptography shared.box shared.report shared.upload.copier"
    late += " shared.webhooks shared.upload.webhook_side shared.scale procrastinate psycopg"
    assert loaded(idle, late) == []


def test_script__loads_what_the_database_needs_after_it_has_called_the_dam() -> None:
    later = "http psycopg2 shared.dam.client shared.database shared.notifier shared.upload.uploader"
    assert loaded("a1_to_a2_box_uploader", later) == []


def test_dam__is_reached_for_while_the_database_is_asked(world: World) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as dam,
        socket.create_server(("127.0.0.1", 0)) as database,
    ):
        dam_port, database_port = (server.getsockname()[1] for server in (dam, database))
        process = world.start(
            UPLOADER, "--auth-password",
            DAM_BASE_URL=f"http://127.0.0.1:{dam_port}",
            DATABASE_URL=f"postgresql://somebody@127.0.0.1:{database_port}/a1_to_a2",
        )  # fmt: skip
        for server in (dam, database):
            server.settimeout(TIMEOUT_SECONDS)
        asked, _ = database.accept()
        reached, _ = dam.accept()  # the database is silent as yet
    asked.close()
    run = world.finish(process)
    assert run.exit_code == 75, run.stderr
    reached.settimeout(TIMEOUT_SECONDS)
    assert reached.recv(1) == b"", "and nothing was asked of it"
    reached.close()


def test_dam__that_is_slow_to_connect_has_one_connection_all_the_same(world: World) -> None:
    host, port = urlsplit(world.dam.url).hostname, urlsplit(world.dam.url).port
    connections: list[socket.socket] = []

    def carry(near: socket.socket) -> None:
        connections.append(near)
        time.sleep(0.5)
        with socket.create_connection((host, port)) as far:
            other = {near: far, far: near}
            while True:
                for end in select.select([near, far], [], [])[0]:
                    piece = end.recv(65536)
                    if not piece:
                        return
                    other[end].sendall(piece)

    with serving(carry) as address:
        run = world.upload(DAM_BASE_URL=f"https://{address}")
    assert run.exit_code == 0, run.stderr
    assert run.outcomes == {}
    assert len(connections) == 1
