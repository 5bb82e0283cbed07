"""The OpenSSL by which Python speaks TLS: the one that it is linked to, and a current one beside it.

OpenSSL 3.0, Debian 12's, makes no use of a processor's vector AES; from 3.1 on AES-GCM is more than twice as
fast there. Go, and so rclone, brings its own cryptography wherever it runs.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg2

VECTOR_AES_SINCE = (3, 1)


@dataclass(frozen=True)
class OpenSsl:
    """A version, as `OpenSSL 3.5.8`, and the variables with which Python takes it in place of its own."""

    version: str
    environment: Mapping[str, str]


def own_version() -> str:
    """Of the one that Python is linked to."""
    return _without_date(ssl.OPENSSL_VERSION)


def current_openssl(folder: Path) -> OpenSsl | None:
    """The one that psycopg2's wheel brings along, made to be found in a new folder; None where Python's own
    is as good, or where this Python takes no other.
    """
    if ssl.OPENSSL_VERSION_INFO[:2] >= VECTOR_AES_SINCE:
        return None
    brought = Path(psycopg2.__file__).parents[1] / "psycopg2_binary.libs"
    folder.mkdir()
    for library in (*brought.glob("libssl-*.so.3"), *brought.glob("libcrypto-*.so.3")):
        for name in (library.name, library.name.partition("-")[0] + ".so.3"):
            (folder / name).symlink_to(library)
    environment = {"LD_LIBRARY_PATH": str(folder)}
    asked = subprocess.run(
        [sys.executable, "-c", "import ssl; print(ssl.OPENSSL_VERSION)"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    version = _without_date(asked.stdout)
    return OpenSsl(version, environment) if version not in ("", own_version()) else None


def _without_date(version: str) -> str:
    return " ".join(version.split()[:2])
