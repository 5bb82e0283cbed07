"""What the courier does ahead of its turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shared.base.errors import BoxError
from shared.upload.courier import Courier
from shared.upload.workers import Job


def test_log_in_ahead__keeps_its_failure_to_itself() -> None:
    calls: list[str] = []

    def refuse() -> None:
        calls.append("login")
        raise BoxError("refused", kind="login_refused")

    def submit(_campaign_id: str, job: Job) -> None:
        job.work()

    unused: Any = None
    pool: Any = SimpleNamespace(submit=submit)
    box: Any = SimpleNamespace(log_in=refuse)
    Courier(unused, box, unused, pool, unused, run_id="r", is_stopping=lambda: False).log_in_ahead()
    assert calls == ["login"]
