"""Measure the orchestrator's loop: idle cost, memory over many runs, delay of a start. Run by hand:

PYTHONPATH=scripts:tests python tests/tools/measure_loop.py [--runs 10000] [--idle-seconds 120]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from shared.loop.orchestrator import Orchestrator
from shared.loop.task_process import Child
from shared.loop.tasks import Task
from shared.loop.wall_clock import WallClock
from shared.rules.cadence import Daily, Interval
from shared.settings import load_orchestrator_settings
from simulated_clock import SimulatedClock
from simulators.postgres import EmbeddedPostgres

MIGRATIONS = Path(__file__).resolve().parents[2] / "database" / "migrations"


def resident_mb() -> float:
    """Resident memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def idle(tasks: list[Task], env: dict[str, str], seconds: float) -> None:
    """The real loop on the real clock with nothing due."""
    import signal

    loop = Orchestrator(lambda _: tasks, lambda: load_orchestrator_settings(env))
    before: list[resource.struct_rusage] = []
    threading.Timer(1, lambda: before.append(resource.getrusage(resource.RUSAGE_SELF))).start()
    threading.Timer(1 + seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
    loop.run_forever()
    after = resource.getrusage(resource.RUSAGE_SELF)
    hour = 3600 / seconds
    cpu = after.ru_utime + after.ru_stime - before[0].ru_utime - before[0].ru_stime
    print(f"idle: {cpu * hour:.3f} CPU s and {(after.ru_nvcsw - before[0].ru_nvcsw) * hour:.0f} wake-ups"
          f" an hour, from {seconds:.0f} s that end with a stop and its log line")  # fmt: skip


def many_runs(task: Task, env: dict[str, str], runs: int) -> None:
    """Real children, simulated time: memory after some runs and after all."""
    start = datetime(2025, 1, 6, 5, 0, tzinfo=UTC)
    first = min(200, runs)
    figures: list[float] = []
    minutes = timedelta(minutes=1)
    clock = SimulatedClock(
        start, start + runs * minutes, [(start + first * minutes, lambda: figures.append(resident_mb()))]
    )
    loop = Orchestrator(lambda _: [task], lambda: load_orchestrator_settings(env), clock=clock)
    clock.is_busy = lambda: bool(loop.running)
    loop.run_forever()
    print(f"memory: {figures[0]:.1f} MB after {first} runs, {resident_mb():.1f} MB after {runs}")


def delays(script: Path, count: int) -> None:
    """From the planned instant to the child's existence, on the real clock."""
    clock, late = WallClock(), []
    for _ in range(count):
        until = clock.now() + timedelta(milliseconds=100)
        while clock.now() < until:
            clock.wait(until, None)
        limit = timedelta(seconds=10)
        child = Child(
            [sys.executable, str(script)], os.environ, limit=limit, kill_after=limit,
            started=clock.monotonic(),
        )  # fmt: skip
        late.append((clock.now() - until).total_seconds() * 1000)
        while not child.has_ended():
            threading.Event().wait(0.002)
        child.reap()
    print(f"delay of a start: median {statistics.median(late):.1f} ms, worst of {count} {max(late):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=120)
    arguments = parser.parse_args()
    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the loop's log, to the end
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "pg", password="only-for-tests") as server:
            for file in sorted(MIGRATIONS.glob("*.sql")):
                server.psql("--quiet", "-f", file)
            env = {
                "DATABASE_URL": server.url,
                "SMTP_HOST": "127.0.0.1",
                "SMTP_SECURITY": "none",
                "MAIL_FROM": "a@example.com",
                "ERROR_NOTIFICATION_EMAILS": "a@example.com",
                "ORCHESTRATOR_TIMEZONE": "UTC",
                "OFF_HOURS_ENABLED": "false",
                "LOG_LEVEL": "ERROR",
            }
            script = Path(folder) / "nothing.py"
            script.write_text("", encoding="utf-8")
            limit = timedelta(seconds=30)
            far = (datetime.now(UTC) + timedelta(hours=6)).time().replace(second=0, microsecond=0)
            idle([Task("report", str(script), Daily(time(far.hour, far.minute)), limit)], env,
                 arguments.idle_seconds)  # fmt: skip
            delays(script, 200)
            many_runs(Task("work", str(script), Interval(1), limit), env, arguments.runs)


if __name__ == "__main__":
    main()
