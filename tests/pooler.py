"""A real PgBouncer in transaction mode, in front of the tests' PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from simulators.postgres import free_port
from world import wait_for

USER = "nobody"
"""PgBouncer refuses to run as root."""


def find_pgbouncer() -> str:
    """The program; Debian keeps it where only root looks."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, "pgbouncer is missing (Debian: apt-get install pgbouncer; .ci/run does it)"
    return found


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """The URL of the same database, through the pooler."""
    parts = urlsplit(url)
    port = free_port()
    login = f"user={unquote(parts.username or '')} password='{unquote(parts.password or '')}'"
    folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-pooler-"))
    folder.chmod(0o755)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port or 5432} {login}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        "pool_mode = transaction\ndefault_pool_size = 5\n"
    )
    settings.chmod(0o644)
    words = [find_pgbouncer(), "-q", *(["-u", USER] if os.geteuid() == 0 else []), str(settings)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, "pgbouncer ended"
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers)
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)
