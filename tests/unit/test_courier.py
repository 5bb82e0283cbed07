"""What the courier does ahead of its turn."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from shared.base.errors import BoxError
from shared.base.values import Asset, DamFolder
from shared.upload.courier import DIRECT_UPLOAD_LIMIT, Courier
from shared.upload.workers import Job

WORKERS = 8
SMALL, LARGE = 1, DIRECT_UPLOAD_LIMIT + 1


class Systems:
    """Both systems and the pool: who was called how often; jobs are done at once."""

    workers = WORKERS

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def submit(self, _campaign_id: str, job: Job) -> None:
        job.work()

    def courier(self) -> Courier:
        parts: Any = SimpleNamespace(
            dam=SimpleNamespace(connect=lambda: self.calls.update(["DAM"])),
            box=SimpleNamespace(connect=lambda: self.calls.update(["Box"]), log_in=self.refuse),
        )
        rest: Any = self
        return Courier(parts.dam, parts.box, rest, rest, rest, run_id="r", is_stopping=lambda: False)

    def refuse(self) -> None:
        self.calls["login"] += 1
        raise BoxError("refused", kind="login_refused")


def assets(*sizes: int) -> list[Asset]:
    return [Asset(str(n), f"{n}", DamFolder("f", "f", None), size, "1") for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        pytest.param([], {}, id="nothing new"),
        pytest.param([SMALL], {"DAM": 1, "Box": 1}, id="one small file"),
        pytest.param([LARGE], {"DAM": 1, "Box": 4}, id="one large file, sent by four"),
        pytest.param([LARGE, LARGE], {"DAM": 1, "Box": 5}, id="no more than idle workers"),
        pytest.param([SMALL] * WORKERS, {}, id="nobody is idle"),
        pytest.param([SMALL] * 500, {}, id="more files than workers"),
    ],
)
def test_connect_ahead__opens_what_idle_workers_can(sizes: list[int], wanted: dict[str, int]) -> None:
    systems = Systems()
    systems.courier().connect_ahead(assets(*sizes))
    assert systems.calls == wanted


def test_connect_ahead__does_not_grow_with_the_campaigns() -> None:
    systems = Systems()
    courier = systems.courier()
    for _ in range(1000):
        courier.connect_ahead(assets(SMALL))
    assert systems.calls == {"DAM": 1, "Box": 1}
    courier.connect_ahead(assets(LARGE))
    assert systems.calls == {"DAM": 1, "Box": 4}


def test_log_in_ahead__keeps_its_failure_to_itself() -> None:
    systems = Systems()
    systems.courier().log_in_ahead()
    assert systems.calls == {"login": 1}
