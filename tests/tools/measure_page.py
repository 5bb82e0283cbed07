"""Measure the operator's page: its questions, a bulk act, each path over HTTP, and the process. Run by hand:

PYTHONPATH=scripts:tests python tests/tools/measure_page.py [--campaigns 100 200000] [--times 20] [--idle 60]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from datetime import time as wall_time
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

from page import OPERATOR
from page_process import Launcher, Served
from shared.database import Database
from shared.page.acts import Act, Acts, Asked
from shared.page.campaigns import Campaigns
from shared.page.filters import STATES, Filter
from shared.page.overview import Overview
from shared.rules.cadence import OffHours
from shared.rules.retry import RetryPolicy
from simulators.postgres import EmbeddedPostgres

MIGRATIONS = Path(__file__).resolve().parents[2] / "database" / "migrations"
POLICY = RetryPolicy()
WINDOW = OffHours(False, wall_time(22), wall_time(5), frozenset(), 30, frozenset({0, 30}))
WAY_BEYOND = 10_000_000

# One in ten is permanently failed (1,000 of 10,000); others are at A2, in retry, snoozed, gone or failing.
FILL = """
INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,
    a1_permanently_failed, a1_last_retry_at, a1_failure_reason, a1_snoozed_until, updated_at)
SELECT encode(sha256(n::text::bytea), 'hex')::varchar(40), 'C-' || n,
       'Campaign ' || n || ' spring collection',
       CASE WHEN k < 20 THEN 'A1' WHEN k = 20 THEN 'GONE' ELSE 'A2' END,
       CASE WHEN k < 10 THEN 3 WHEN k < 13 THEN 2 ELSE 0 END, k < 10,
       CASE WHEN k < 13 THEN at END,
       CASE WHEN k < 13 THEN 'the folder "Master Assets" contains no usable files' END,
       CASE WHEN k = 15 THEN now() + interval '7 days' END, at
FROM generate_series(1, {campaigns}) n, LATERAL (SELECT n %% 100, now() - n * interval '1 minute') t (k, at);
INSERT INTO campaign_uploads (campaign_id, completed_at, started_at, assets, bytes, run_id)
SELECT campaign_id, updated_at, updated_at, 10, 1000000, 'run' FROM campaign_status WHERE status = 'A2';
INSERT INTO campaign_errors (campaign_id, kind, message, began_at)
SELECT campaign_id, 'DAM/forbidden', 'HTTP 403', now() - interval '2 days'
FROM campaign_status WHERE status = 'A1' AND NOT a1_permanently_failed ORDER BY campaign_id LIMIT 200;
INSERT INTO campaign_events (campaign_id, kind, actor, source)
SELECT campaign_id, 'notice', 'run', 'run' FROM campaign_status, generate_series(1, 5);
"""


def measured(name: str, times: int, work: Callable[[], object]) -> None:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    p95 = taken[min(len(taken) - 1, int(len(taken) * 0.95))]
    print(f"  {name:<28} p50 {statistics.median(taken):8.1f} ms   p95 {p95:8.1f} ms")


def measure(database: Database, times: int) -> None:
    now = datetime.now(UTC)
    campaigns = Campaigns(database)

    def page(chosen: Filter, number: int = 1) -> Callable[[], object]:
        return lambda: campaigns.page(chosen, POLICY, "A1", number, now)

    measured("list, no filter", times, page(Filter()))
    measured("list, state=failed", times, page(Filter("failed")))
    measured("list, state=stuck", times, page(Filter("stuck")))
    measured("list, state=uploaded", times, page(Filter("uploaded")))
    measured("list, text", times, page(Filter(q="spring collection")))
    measured("list, text of one", times, page(Filter(q="C-77 ")))
    measured("list, older=30", times, page(Filter(older=30)))
    measured("list, last page", times, page(Filter(), WAY_BEYOND))
    overview = Overview(database, POLICY, "A1", now)
    measured("counts", times, lambda: overview.counters(ZoneInfo("UTC"), WINDOW, tuple(STATES)))


def act(database: Database) -> None:
    """Reset as many as are failed, 1,000 at most, and undo it."""
    now = datetime.now(UTC)
    acts = Acts(database, POLICY, "A1", None, now)
    drawn_at = database.row("SELECT clock_timestamp()")[0]
    ids = [row[0] for row in database.rows("SELECT campaign_id FROM campaign_status"
                                           " WHERE a1_permanently_failed LIMIT 1000")]  # fmt: skip
    asked = Asked(uuid4(), drawn_at, "anna", "127.0.0.1", "measured")
    began = time.perf_counter()
    done = acts.do(Act.RESET, ids, asked)
    reset_at = time.perf_counter()
    undone = acts.undo(done.act_id, asked)
    undone_at = time.perf_counter()
    print(f"  reset of {done.done}: {(reset_at - began) * 1000:.0f} ms; undo of {undone.undone}:"
          f" {(undone_at - reset_at) * 1000:.0f} ms")  # fmt: skip


def serve(database: Database, url: str, folder: Path, times: int, idle: float) -> None:
    """Each path as somebody who is logged in gets it, the bytes of its answer, and what the process takes."""
    ids = "SELECT campaign_id FROM campaign_status WHERE a1_permanently_failed LIMIT 1"
    paths = ["/", "/campaigns", "/campaigns?state=failed", "/campaigns?q=spring", "/campaigns?page=1000000"]
    paths += [
        f"/campaigns/{database.row(ids)[0]}",
        "/act?act=reset&scope=all&state=failed",
        "/runs",
        "/notices",
    ]
    paths += ["/audit", "/counters", "/metrics", "/healthz", "/readyz"]
    with Launcher(url, folder).serve() as served:
        cookie = served.log_in(OPERATOR)
        for path in paths:
            answer, text = served.ask("GET", path, Cookie=cookie)
            assert answer.status == 200, f"{path}: {answer.status}"
            shown = f"{path.split('/campaigns/')[0] or '/campaigns/ID'}, {len(text.encode()):,} bytes"
            measured(shown, times, lambda path=path: served.ask("GET", path, Cookie=cookie))
        before = _cpu_seconds(served)
        time.sleep(idle)
        print(
            f"  idle for {idle:.0f} s: {_cpu_seconds(served) - before:.2f} s CPU; {_memory(served)} of memory"
        )


def _cpu_seconds(served: Served) -> float:
    fields = Path(f"/proc/{served.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(served: Served) -> str:
    status = Path(f"/proc/{served.process.pid}/status").read_text(encoding="ascii")
    return next(line.split(":")[1].strip() for line in status.splitlines() if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--campaigns", type=int, nargs="+", default=[100, 10_000, 200_000])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--idle", type=float, default=10, metavar="SECONDS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="a1-to-a2-postgres-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder), password="only-for-tests") as server:
            for many in arguments.campaigns:
                name = f"measure_{many}_test"
                url = server.create_database(name)
                for path in sorted(MIGRATIONS.glob("*.sql")):
                    server.psql("--quiet", "-v", "ON_ERROR_STOP=1", "-f", path, database=name)
                with Database(url, answer_seconds=None) as database:
                    database.execute(FILL.format(campaigns=many).replace("%%", "%"))
                    database.execute("VACUUM ANALYZE")
                    print(f"{many} campaigns")
                    measure(database, arguments.times)
                    act(database)
                    logs = Path(folder) / name
                    logs.mkdir()
                    serve(database, url, logs, arguments.times, arguments.idle)


if __name__ == "__main__":
    main()
