"""Everything failing at random: nothing lost, nothing doubled, nothing counted that was not empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import MIGRATIONS
from crash.storm import StormStage, play_storm
from simulators.postgres import EmbeddedPostgres

DATABASE = "storm_test"


@pytest.fixture
def storm(private_postgres: EmbeddedPostgres, tmp_path: Path, seed: int) -> Iterator[StormStage]:
    """A stage on a server of its own, which is restarted in the middle of runs."""
    url = private_postgres.create_database(DATABASE)
    for file in sorted(MIGRATIONS.glob("*.sql")):
        done = private_postgres.psql("--quiet", "-f", file, database=DATABASE)
        assert done.returncode == 0, done.stderr
    stage = StormStage(private_postgres, url, tmp_path, seed)
    yield stage
    stage.close()


def test_storm__leaves_everything_as_it_should_be(storm: StormStage) -> None:
    play_storm(storm, 16, 80, stormy_runs=5, strength=0.1)
    assert not storm.failures, "\n".join(storm.failures)
    assert storm.matrix.cells[(False, True)] == storm.matrix.missed == 0
    assert sum(storm.weather.hits.values()) > 5, "the weather was too good"


@pytest.mark.storm
@pytest.mark.timeout(0)
def test_great_storm(storm: StormStage, seed: int, request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    campaigns, assets = option("--campaigns") or 1000, option("--assets") or 10_000
    storm.page_sizes = (20, 50, 200, None)  # with shorter ones a thousand campaigns take an hour
    play_storm(storm, campaigns, assets, stormy_runs=12, strength=0.025)
    lines = "\n".join([*storm.failures, *storm.lines()])
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{lines}\nseed {seed}")  # noqa: T201 - the figures are what the run is for
    assert not storm.failures
    assert storm.matrix.cells[(False, True)] == storm.matrix.missed == 0
