"""Measures webhooks: what a dead target of three costs the others, and 1,000 permanent failures in one run.

Run as `PYTHONPATH=scripts:tests .venv/bin/python tests/tools/measure_webhooks.py`.
"""

from __future__ import annotations

import resource
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from raw_server import read_head, serving
from shared.database import Database
from shared.webhooks.delivery import WebhookDelivery
from simulators.postgres import EmbeddedPostgres
from webhook_receivers import PagerDuty, Receiver
from webhook_stage import Stage

MIGRATIONS = Path(__file__).resolve().parents[2] / "database" / "migrations"
MESSAGES = 20
FAILURES = 1000


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def delivered(stage: Stage, url: str, receivers: list[Receiver], count: int) -> tuple[float, float]:
    """Seconds until all these receivers have so many messages, and until the run's end."""
    stage.now = datetime.now(UTC)
    run = WebhookDelivery(lambda: Database(url), stage.settings, lambda: datetime.now(UTC), stage.compose_off)
    began = time.monotonic()
    run.begin_due(stage.database)
    while any(len(receiver.calls) < count for receiver in receivers):
        time.sleep(0.002)
    arrived = time.monotonic() - began
    run.finish(stage.database)
    return arrived, time.monotonic() - began


def measure_dead_target(url: str) -> None:
    for is_dead in (False, True):
        stage, is_over = Stage(url), threading.Event()

        def mute(connection: socket.socket, is_over: threading.Event = is_over) -> None:
            read_head(connection)
            is_over.wait(60)

        with ExitStack() as resources:
            resources.enter_context(stage.resources)
            good = [stage.add(f"good{number}", Receiver()) for number in (1, 2)]
            if is_dead:
                address = resources.enter_context(serving(mute, patience_seconds=0))
                stage.add("third", Receiver(), url=f"http://{address}/x")
            else:
                stage.add("third", Receiver())
            for number in range(MESSAGES):
                stage.fail(number + 1)
            arrived, ended = delivered(stage, url, good, MESSAGES)
            is_over.set()
            what = "the third is dead  " if is_dead else "all three answer   "
            print(f"{what} {MESSAGES} messages at both others after {arrived:.2f} s, end after {ended:.1f} s")
        for table in ("notices", "campaign_status", "webhook_targets"):
            stage.database.execute(f"DELETE FROM {table}")  # noqa: S608 - from the line above
        stage.database.close()


def measure_many(url: str) -> None:
    stage = Stage(url)
    with stage.resources:
        standard = stage.add("standard", Receiver())
        pager = stage.add("pager", PagerDuty(), "pagerduty", secrets=("R" * 32,))
        before = megabytes()
        began = time.monotonic()
        for number in range(FAILURES):
            stage.fail(number + 1)
        with_webhooks = time.monotonic() - began
        targets, stage.targets = stage.targets, []
        began = time.monotonic()
        for number in range(FAILURES):
            stage.fail(FAILURES + number + 1)
        without = time.monotonic() - began
        stage.targets = targets
        _, ended = delivered(stage, url, [standard], 1)
        sizes = [len(call.body) for call in standard.calls]
        told = sum(len(call.json["data"].get("campaigns", [0])) for call in standard.calls)
        print(
            f"{FAILURES} permanent failures: {len(standard.calls)} standard messages about {told} campaigns,"
            f" {max(sizes):,} bytes at most; {len(pager.incidents)} PagerDuty incident;"
            f" delivered in {ended:.1f} s"
        )
        print(
            f"queued: {(with_webhooks - without) / FAILURES * 1000:.2f} ms more for each campaign;"
            f" memory grew by {megabytes() - before:.0f} MB to {megabytes():.0f} MB"
        )
        began = time.monotonic()
        stage.database.execute("UPDATE campaign_status SET a1_permanently_failed = FALSE, a1_retry_count = 0")
        stage.now = datetime.now(UTC)
        stage.hooks.owe_acts(stage.database, stage.now)
        queued = time.monotonic() - began
        _, ended = delivered(stage, url, [standard], len(standard.calls) + 1)
        still = sum(one["open"] for one in pager.incidents)
        print(f"{2 * FAILURES} resets: queued in {queued:.1f} s, sent in {ended:.1f} s, {still} open")
    stage.database.close()


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="a1-to-a2-webhooks-") as folder,
        EmbeddedPostgres(Path(folder), password="only-for-tests") as server,
    ):
        for file in sorted(MIGRATIONS.glob("*.sql")):
            assert server.psql("--quiet", "-f", file).returncode == 0
        measure_dead_target(server.url)
        measure_many(server.url)


if __name__ == "__main__":
    main()
