"""Hosts, and the systems that they use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import MIGRATIONS, PASSWORD, Tls
from fleet import SCHEMA
from scale.hosts import Network, NoHostsError
from scale.play import Play
from scale.systems import HostedSystems
from simulators.postgres import EmbeddedPostgres

DATABASE = "scale_test"


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """As many hosts as --hosts says. Fails where this machine cannot make them."""
    try:
        with Network(int(request.config.getoption("--hosts"))) as opened:
            yield opened
    except NoHostsError as exc:
        pytest.fail(f"make test-scale: {exc}", pytrace=False)


@pytest.fixture
def play(network: Network, tls: Tls, request: pytest.FixtureRequest) -> Iterator[Play]:
    """On a server of its own, which is restarted in the middle."""
    # Not pytest's tmp_path: as root, PostgreSQL runs as another user, who must get to its own folder.
    folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-scale-"))
    folder.chmod(0o711)
    with EmbeddedPostgres(folder / "postgres", password=PASSWORD, host=network.address) as server:
        url = server.create_database(DATABASE)
        for file in (*sorted(MIGRATIONS.glob("*.sql")), SCHEMA):
            done = server.psql("--quiet", "-f", file, database=DATABASE)
            assert done.returncode == 0, done.stderr
        systems = HostedSystems(url, network.address, tls.ca, folder)
        opened = Play(systems, server, network.hosts, folder, int(request.config.getoption("--seed")))
        yield opened
        systems.close()
    if opened.tally.failures:
        print(f"the logs are in {folder}")
    else:
        shutil.rmtree(folder)
