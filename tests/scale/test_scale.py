"""Workers on several hosts, disturbed in every way: nothing lost, nothing twice, one at a time."""

from __future__ import annotations

import pytest

from scale.play import Play


@pytest.mark.scale
@pytest.mark.timeout(0)
def test_hosts__killed_frozen_and_cut_off(play: Play, request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    play.play(option("--campaigns") or 300, option("--assets") or 3000, option("--disturbances"))
    lines = "\n".join([*play.tally.failures, *play.lines()])
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{lines}\nseed {option('--seed')}")
    assert not play.tally.failures
