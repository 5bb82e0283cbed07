"""What is measured, and the bar that each figure has to pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.contenders import Task
from bench.sets import MEDIUM, MIXED, NOTHING, ONE_GB, SMALL, TWENTY_GB, TWO_GB, FileSet
from bench.stage import Cost

BOX_UPLOADS_PER_MINUTE = 240
BOX_CALLS_PER_MINUTE = 1000
DELAY_MS = 40
FAST_WORKERS = 16
LIMITED_COUNT = 480
SCALE_CAMPAIGNS = 240
SCALE_FILES = FileSet("10 × 20 KB", ((10, 20_000),))
IDLE_WORKERS = 3
USER_UPLOADS_PER_MINUTE = 600
USER_FILES = 1200
OPENSSL_DECIDES = ("big-tls-40ms", "big-tls-0ms")


@dataclass(frozen=True)
class Entry:
    """One column of a case: a contender at a task. `label` tells entries of one contender apart."""

    label: str
    contender: str
    task: Task


Costs = Mapping[str, Sequence[Cost]]
"""By label, one per round."""


@dataclass(frozen=True)
class Bar:
    """A figure to reach: `measure` yields it from all rounds, or from any one of them."""

    text: str
    limit: float
    measure: Callable[[Costs], float]
    is_minimum: bool = False

    def is_met(self, value: float) -> bool:
        """Whether the value is on the right side."""
        return value >= self.limit if self.is_minimum else value <= self.limit


@dataclass(frozen=True)
class Case:
    """Contenders run in turn under the same conditions. Without bars the case only shows."""

    key: str
    title: str
    entries: tuple[Entry, ...]
    bars: tuple[Bar, ...]
    rounds: int
    is_default: bool = True
    note: str = ""


def _median(costs: Costs, label: str, field: str) -> float:
    return float(median(getattr(cost, field) for cost in costs[label]))


def ratio(field: str, ours: str, peer: str) -> Callable[[Costs], float]:
    """Median ÷ median."""
    return lambda costs: _median(costs, ours, field) / _median(costs, peer, field)


def rate_share(files: FileSet, per_second: float, field: str = "wall_s") -> Callable[[Costs], float]:
    """Files a second ÷ a rate: of the whole run, from its start to its end, unless `field` says otherwise."""
    return lambda costs: files.count / _median(costs, "ours", field) / per_second


def rate_ratio(more: Entry, fewer: Entry) -> Callable[[Costs], float]:
    """Files a second ÷ files a second, from the first upload to the last."""

    def rate(costs: Costs, entry: Entry) -> float:
        return entry.task.file_count / _median(costs, entry.label, "upload_span_s")

    return lambda costs: rate(costs, more) / rate(costs, fewer)


def _scale_cases(divisor: int) -> tuple[Case, ...]:
    """Campaigns among 1, 2 and 4 workers; with a user of Box for each; and workers without work."""
    campaigns = max(8, SCALE_CAMPAIGNS // divisor)
    task = Task(SCALE_FILES, campaigns=campaigns, campaigns_at_once=16, delay_ms=DELAY_MS)
    light = replace(task, campaigns_at_once=4)  # so little that four of them leave two cores some time
    tiny = FileSet("10 × 2 KB", ((10, 2_000),))
    limited = Task(tiny, uploads_per_minute=USER_UPLOADS_PER_MINUTE, delay_ms=DELAY_MS)

    def entry(of: Task, workers: int) -> Entry:
        return Entry(
            f"{workers} worker{'s' if workers > 1 else ''}", "workers", replace(of, engine_workers=workers)
        )

    def with_users(workers: int) -> Entry:
        return entry(replace(limited, users=workers, campaigns=workers * USER_FILES // tiny.count), workers)

    def of_idle(field: str, divided_by: float = 1.0) -> Callable[[Costs], float]:
        return lambda costs: _median(costs, idle.label, field) / divided_by

    one, two, four = (entry(light, workers) for workers in (1, 2, 4))
    one_user, four_users = with_users(1), with_users(4)
    idle = Entry("idle", "idle workers", Task(NOTHING, engine_workers=IDLE_WORKERS))
    title = f"{campaigns} campaigns × {SCALE_FILES.name}, 40 ms"
    return (
        Case(
            "scale",
            f"{title}, 4 at once",
            (one, two, four),
            (
                Bar("files/s of 2 workers ÷ 1", 1.8, rate_ratio(two, one), is_minimum=True),
                Bar("files/s of 4 workers ÷ 1", 3.4, rate_ratio(four, one), is_minimum=True),
            ),
            rounds=3,
            note="six times the files/s is campaigns a minute; peak memory is of the largest worker",
        ),
        Case(
            "scale-full",
            f"{title}, 16 at once",
            tuple(entry(task, workers) for workers in (1, 2, 4)),
            (),
            rounds=3,
            is_default=False,
            note="shown only: workers as they are by default; four of them keep two cores busy",
        ),
        Case(
            "scale-users",
            f"{USER_FILES:,} × 2 KB and {USER_UPLOADS_PER_MINUTE} uploads a minute for each worker and user",
            (one_user, four_users),
            (
                Bar("files/s of 4 workers ÷ 1", 3.4, rate_ratio(four_users, one_user), is_minimum=True),
                Bar("share of 429s", 0.01, share_of_429),
            ),
            rounds=1,
            is_default=False,
            note="one round, which takes 3 minutes",
        ),
        Case(
            "scale-idle",
            f"{IDLE_WORKERS} workers without work for 60 s",
            (idle,),
            (
                Bar("CPU of a worker, share of a core", 0.02, of_idle("cpu_s", 60)),
                Bar("CPU of PostgreSQL, s", 1.0, of_idle("postgres_cpu_s")),
                Bar("connections of a worker", 5, of_idle("connections")),
                Bar("peak memory of a worker, MB", 100, of_idle("peak_bytes", 1e6)),
            ),
            rounds=1,
        ),
    )


def share_of_429(costs: Costs) -> float:
    """The worst run's share of answers that were 429."""
    return max(
        cost.box_statuses.get("429", 0) / max(1, sum(cost.box_statuses.values()))
        for rounds in costs.values()
        for cost in rounds
    )


def _users_case() -> Case:
    """As many files for each user, so that each number of users takes as long, and half of each limit goes at
    once. The limit is low enough that two cores keep up with both users; calls have no limit.
    """

    def entry(users: int) -> Entry:
        count = users * USER_FILES
        files = FileSet(f"{count:,} × 2 KB", ((count, 2_000),))
        task = Task(
            files,
            workers=FAST_WORKERS,
            uploads_per_minute=USER_UPLOADS_PER_MINUTE,
            users=users,
            delay_ms=DELAY_MS,
        )
        return Entry(f"{users} user{'s' if users > 1 else ''}", "ours", task)

    one, two = entry(1), entry(2)
    return Case(
        "users",
        f"{USER_FILES:,} × 2 KB for each user of Box, {USER_UPLOADS_PER_MINUTE} uploads a minute each",
        (one, two),
        (
            Bar("files/s of 2 users ÷ files/s of 1", 1.9, rate_ratio(two, one), is_minimum=True),
            Bar("share of 429s", 0.01, share_of_429),
        ),
        rounds=1,
        is_default=False,
        note="one round, which takes 3 minutes",
    )


def _against(peer: str, task: Task, *, more: Sequence[str] = ()) -> tuple[Entry, ...]:
    return tuple(Entry(name, name, task) for name in ("ours", peer, *more))


def _with_openssl(case: Case, version: str) -> Case:
    """The case with another contender, the uploader on this OpenSSL, and the same bars for it."""
    label = f"ours, {version}"
    ours, *others = case.entries
    task = replace(ours.task, has_current_openssl=True)
    bars = tuple(
        replace(
            bar,
            text=f"{bar.text}, {version}",
            measure=lambda costs, measure=bar.measure: measure({**costs, "ours": costs[label]}),
        )
        for bar in case.bars
    )
    return replace(case, entries=(ours, Entry(label, ours.contender, task), *others), bars=case.bars + bars)


def all_cases(limited_count: int = LIMITED_COUNT, divisor: int = 1, other_openssl: str = "") -> list[Case]:
    """In the order of the table. `limited_count`: files of the case under Box's limits.

    `divisor` makes all sets smaller, but for the limited one. other_openssl: the version with which the
    uploader is measured as well, where TLS is much of the work.
    """
    one_gb, two_gb, twenty_gb, small, medium, mixed = (
        files.scaled(divisor) for files in (ONE_GB, TWO_GB, TWENTY_GB, SMALL, MEDIUM, MIXED)
    )
    small_task = Task(small, workers=FAST_WORKERS, delay_ms=DELAY_MS)
    bound = FAST_WORKERS / (2 * small_task.delay_ms / 1000)
    limited = FileSet(f"{limited_count:,} × 20 KB", ((limited_count, 20_000),))
    limited_task = Task(
        limited,
        delay_ms=DELAY_MS,
        upload_s=1.0,
        uploads_per_minute=BOX_UPLOADS_PER_MINUTE,
        calls_per_minute=BOX_CALLS_PER_MINUTE,
    )
    cases = [
        Case(
            "session-40ms",
            "1 GB upload session, 40 ms",
            _against("sdk", Task(one_gb, delay_ms=DELAY_MS)),
            (Bar("wall ÷ Box SDK", 0.45, ratio("wall_s", "ours", "sdk")),),
            rounds=5,
        ),
        Case(
            "session-0ms",
            "1 GB upload session, 0 ms",
            _against("sdk", Task(one_gb)),
            (
                Bar("wall ÷ Box SDK", 0.85, ratio("wall_s", "ours", "sdk")),
                Bar("CPU ÷ Box SDK", 0.95, ratio("cpu_s", "ours", "sdk")),
            ),
            rounds=7,
        ),
        Case(
            "big-tls-40ms",
            "2 GB, TLS, 40 ms",
            _against("rclone", Task(two_gb, tls=True, delay_ms=DELAY_MS), more=("bare loop",)),
            (
                Bar("wall ÷ rclone", 0.95, ratio("wall_s", "ours", "rclone")),
                Bar("CPU ÷ rclone", 0.85, ratio("cpu_s", "ours", "rclone")),
                Bar("peak memory ÷ rclone", 0.5, ratio("peak_bytes", "ours", "rclone")),
            ),
            rounds=5,
        ),
        Case(
            "big-tls-0ms",
            "2 GB, TLS, 0 ms",
            _against("rclone", Task(two_gb, tls=True), more=("bare loop",)),
            (
                Bar("CPU ÷ rclone", 0.85, ratio("cpu_s", "ours", "rclone")),
                Bar("peak memory ÷ rclone", 0.5, ratio("peak_bytes", "ours", "rclone")),
            ),
            rounds=5,
        ),
        Case(
            "pipe-0ms",
            "2 GB, plain, 0 ms",
            _against("pipe", Task(two_gb)),
            (Bar("wall ÷ curl pipe", 0.9, ratio("wall_s", "ours", "pipe")),),
            rounds=7,
        ),
        Case(
            "small-40ms",
            "2,000 × 20 KB, 40 ms, 16 workers",
            _against("requests", small_task),
            (
                Bar(
                    "files/s ÷ workers/(2 × RTT), whole run", 0.80, rate_share(small, bound), is_minimum=True
                ),
                Bar(
                    "the same, first upload to last",
                    0.80,
                    rate_share(small, bound, "upload_span_s"),
                    is_minimum=True,
                ),
                Bar("CPU ÷ sequential requests", 1.1, ratio("cpu_s", "ours", "requests")),
            ),
            rounds=3,
            note="3 rounds: a sequential one takes 3 minutes",
        ),
        Case(
            "limits",
            f"{limited.name}, Box's limits on, 1 s an upload",
            (Entry("ours", "ours", limited_task),),
            (
                Bar("files/s ÷ legal rate", 0.95, rate_share(limited, BOX_UPLOADS_PER_MINUTE / 60), True),
                Bar("share of 429s", 0.01, share_of_429),
            ),
            rounds=1,
            is_default=False,
            note="one round; --limited-count 2000 for the count in the figures, which takes over 8 minutes",
        ),
        _users_case(),
        Case(
            "memory",
            "20 GB against 1 GB, plain, 40 ms",
            tuple(
                Entry(label, "ours", Task(files, delay_ms=DELAY_MS))
                for label, files in (("20 GB", twenty_gb), ("1 GB", one_gb))
            ),
            (Bar("peak memory 20 GB ÷ 1 GB", 1.1, ratio("peak_bytes", "20 GB", "1 GB")),),
            rounds=2,
            is_default=False,
            note="2 rounds: memory hardly differs from one to the next. With a delay, as in life: without one"
            " 1 GB gets by with fewer of the parts that may be in memory",
        ),
        Case(
            "idle",
            "idle run, TLS to the DAM",
            _against("imports", Task(NOTHING, tls=True)),
            (Bar("CPU ÷ import requests, psycopg2", 1.8, ratio("cpu_s", "ours", "imports")),),
            rounds=15,
        ),
        *_scale_cases(divisor),
        Case(
            "medium-40ms",
            "200 × 1 MB, TLS, 40 ms",
            _against("rclone", Task(medium, tls=True, delay_ms=DELAY_MS), more=("requests",)),
            (),
            rounds=5,
            note="shown only: rclone waits at least 10 ms between its calls",
        ),
        Case(
            "mixed-40ms",
            "mixed, TLS, 40 ms",
            _against("rclone", Task(mixed, tls=True, delay_ms=DELAY_MS)),
            (),
            rounds=5,
            note="shown only: rclone waits at least 10 ms between its calls",
        ),
    ]
    if not other_openssl:
        return cases
    return [_with_openssl(case, other_openssl) if case.key in OPENSSL_DECIDES else case for case in cases]
