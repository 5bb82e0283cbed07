"""Which points are tried, in which order, and what came of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from crash.checker import Checker
from crash.director import Point
from crash.stage import UPLOADER, KillStage, Played, Victim

LATE_KINDS = (
    "Box make folder",
    "Box upload",
    "Box new version",
    "Box open session",
    "Box commit",
    "DAM PATCH",
)
"""What a system may still carry out long after the process that asked for it has died."""

READS = ("SQL read", "list", "read campaign", "search", "download", "list folder", "read folder")
"""How the kinds end that change nothing where they are asked."""


@dataclass
class Tally:
    """What was tried: kills by kind and phase, scenes, runs, and what the checker found."""

    kills: Counter[str] = field(default_factory=Counter)
    scenes: int = 0
    runs: int = 0
    missed: int = 0
    """Points that a run did not come to, because an earlier one had done the work."""
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        """Kills of all kinds."""
        return sum(self.kills.values())

    def add(self, run: Played, label: str) -> None:
        self.runs += 1
        if run.hit is not None:
            self.kills[f"{label}{run.hit.kind}, {run.hit.phase}"] += 1

    def lines(self, what: str) -> Iterator[str]:
        """The figures, a line for each kind."""
        kinds: dict[str, Counter[str]] = {}
        for name, count in self.kills.items():
            kind, _, phase = name.rpartition(", ")
            kinds.setdefault(kind, Counter())[phase] += count
        yield f"{'killed at':<32}{'before':>8}{'after':>8}{'late':>8}"
        for kind, counts in sorted(kinds.items()):
            yield f"{kind:<32}" + "".join(
                f"{counts[phase] or '':>8}" for phase in ("before", "after", "late")
            )
        seconds = time.monotonic() - self.started
        yield (
            f"{what}: {self.total} kill points in {self.scenes} scenes, {self.runs} runs, {seconds:.0f} s;"
            f" {self.missed} points not come to"
        )
        yield f"{self.scenes - len(self.failures)} passed, {len(self.failures)} failed"


def every_point(seen: Counter[str]) -> list[Point]:
    """Before and after each request of a recorded run, and late where that can be."""
    points = []
    for kind, count in seen.items():
        for number in range(1, count + 1):
            points += [Point(kind, number, "before"), Point(kind, number, "after")]
            if kind in LATE_KINDS:
                points.append(Point(kind, number, "late"))
    return points


def has_effect(point: Point) -> bool:
    """Whether a system holds something else afterwards."""
    return not point.kind.endswith(READS)


def first_of_each(seen: Counter[str]) -> list[Point]:
    """The first request of each kind, before and after (and late), in the order of a recorded run."""
    return [point for point in every_point(seen) if point.number == 1]


def record(
    stage: KillStage, command: Sequence[str] = UPLOADER, *, has_film: bool, **env: str
) -> Counter[str]:
    """The requests of an undisturbed run, which must leave everything as it should be."""
    with stage.scene(has_film=has_film, **env):
        checker = Checker(stage)
        run = stage.play(command)
        seen = Counter(stage.director.seen)
        assert run.exit_code == 0, run.log
        assert not (found := [*checker.after(run), *checker.settled()]), found
    return seen


@dataclass
class Scene:
    """One scene of a proof: the runs that are killed, one after the other, then an ordinary one."""

    stage: KillStage
    tally: Tally
    rng: random.Random
    command: Sequence[str] = UPLOADER
    has_film: bool = False
    victims: Sequence[Victim] = ("all",)
    env: dict[str, str] = field(default_factory=dict)
    label: str = ""

    def play(self, points: Iterable[Point | int | float]) -> None:
        """Kill a run at each of these: a point, a place among all requests (int), or seconds (float)."""
        tried: list[str] = []
        with self.stage.scene(has_film=self.has_film, **self.env):
            checker = Checker(self.stage)
            found = self._play(points, checker, tried)
        self.tally.scenes += 1
        if found:
            self.tally.failures.append(f"{self.label}{' > '.join(tried)}: {'; '.join(found)}")

    def _play(self, points: Iterable[Point | int | float], checker: Checker, tried: list[str]) -> list[str]:
        stage, total = self.stage, 100
        for point in points:
            if stage.director.has_late_one:
                stage.director.release_late_one_at(self.rng.randint(1, total))
            run = self._run(point)
            total = max(stage.director.total, 1)
            self.tally.add(run, self.label)
            self.tally.missed += run.hit is None
            tried.append(str(run.hit and f"{run.hit.kind} #{run.hit.number} {run.hit.phase}"))
            if stage.director.has_late_one and (run.hit is None or run.hit.phase != "late"):
                stage.director.release_late_one()
            if found := checker.after(run):
                return found
            stage.let_time_pass()
            if run.hit is None and not isinstance(point, Point):
                break  # it came to its end: there is little left to be killed at
        return self._end(checker, total)

    def _run(self, point: Point | int | float) -> Played:
        victim = self.rng.choice(self.victims)
        if isinstance(point, Point):
            if point.phase == "late":
                victim = "all"
            return self.stage.play(self.command, point, victim=victim)
        if isinstance(point, int):
            phase = "after" if self.rng.random() < 0.5 else "before"
            return self.stage.play(self.command, place=point, phase=phase, victim=victim)  # type: ignore[arg-type]
        return self.stage.play(self.command, after_seconds=point, victim=victim)

    def _end(self, checker: Checker, total: int) -> list[str]:
        """The next ordinary run, and one more when a late request came into it."""
        stage = self.stage
        was_late = stage.director.has_late_one
        if was_late:
            stage.director.release_late_one_at(self.rng.randint(1, total))
        for is_last in (not was_late, True):
            run = stage.play(self.command)
            self.tally.add(run, self.label)
            if was_late and stage.director.has_late_one:
                stage.director.release_late_one()
            if found := checker.after(run):
                return found
            if is_last:
                break
            stage.let_time_pass()
        if run.exit_code != 0:
            return [f"exit code {run.exit_code}", run.log]
        return checker.settled()
