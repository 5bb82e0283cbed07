"""The world that acceptance tests run the scripts in."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from warm_python import WarmPython
from world import World, open_world

if TYPE_CHECKING:
    from conftest import Tls


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    """Runs the scripts of all tests of this process."""
    with closing(WarmPython()) as python:
        yield python


@pytest.fixture
def world(database_url: str, tls: Tls, tmp_path: Path, warm_python: WarmPython) -> Iterator[World]:
    """A whole installation, empty."""
    with open_world(
        database_url,
        tmp_path,
        pfx=tls.pfx(),
        ca_path=tls.ca_path,
        server_context=tls.mutual_server_context,
        python=warm_python,
    ) as opened:
        yield opened


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A Python whose environments have pip and packages in name only: PyPI is not asked."""
    path = tmp_path / "python3"
    path.write_text(
        f"""#!/bin/sh
case "$*" in
    *"-m pip"*|*compileall*) exit 0 ;;
    "-m venv "*) mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
    *) exec {shlex.quote(sys.executable)} "$@" ;;
esac
"""
    )
    path.chmod(0o755)
    return str(path)
