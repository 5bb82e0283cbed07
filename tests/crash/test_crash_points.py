"""Killed at every step that has an effect, and run again: the outcome is the same as without the kill."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from crash.checker import Checker
from crash.director import Phase, Point
from crash.plan import Scene, Tally, every_point, first_of_each, has_effect, record
from crash.stage import LOOP, ONCE, UPLOADER, KillStage, Victim
from world import zone_at

POINTS_PER_SCENE = 10
FURTHER_KILLS = 4
VICTIMS: tuple[Victim, ...] = ("all", "parent", "child")
LIMITS = {"BOX_UPLOADS_PER_MINUTE": "240", "BOX_CALLS_PER_MINUTE": "1000"}
PHASES: tuple[Phase, ...] = ("before", "after")
ATTEMPT_KINDS = (
    "SQL row update",
    "SQL begin",
    "SQL outbox write",
    "SQL commit",
    "SQL mail marked",
    "mail sent",
)
FILM_KINDS = ("Box part", "Box open session", "Box commit", "SQL session noted")


def batches(items: Sequence[Point], size: int) -> Iterator[Sequence[Point]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def orchestrator_settings() -> dict[str, str]:
    """A time zone where it is time for the daily report now, and no alerts for the runs that we kill."""
    return {"ORCHESTRATOR_TIMEZONE": zone_at(20), "ALERT_AFTER_FAILURES": "1000"}


def assert_all_passed(tally: Tally, least_kills: int) -> None:
    assert not tally.failures, "\n\n".join(tally.failures)
    assert tally.total >= least_kills, "the points were not come to"


# ---------------------------------------------------------------------------------------------------------
# In `make test`: the first request of each kind


def test_uploader__killed_at_each_kind_of_step(stage: KillStage) -> None:
    tally, rng = Tally(), random.Random(5)
    for points in batches(first_of_each(record(stage, has_film=False)), POINTS_PER_SCENE):
        Scene(stage, tally, rng).play(points)
    assert_all_passed(tally, 50)


def test_attempt_and_notice__are_one_at_every_statement(stage: KillStage) -> None:
    """Each statement and each mail of a run that counts one attempt, on a scene of its own."""
    with stage.cleared():
        stage.add("Empty", {})
        stage.play(UPLOADER)
        seen = stage.director.seen.copy()
    points = [point for point in every_point(seen) if point.kind in ATTEMPT_KINDS]
    assert len(points) >= 12
    for point in points:
        with stage.cleared():
            stage.add("Empty", {})
            checker = Checker(stage)
            killed = stage.play(UPLOADER, point)
            assert (killed.hit, checker.after(killed)) == (point, [])
            again = stage.play(UPLOADER)
            assert [*checker.after(again), *checker.settled()] == [], point


def test_large_file__killed_at_each_kind_of_step(stage: KillStage) -> None:
    tally, rng = Tally(), random.Random(5)
    points = [point for point in first_of_each(record(stage, has_film=True)) if point.kind in FILM_KINDS]
    Scene(stage, tally, rng, has_film=True).play(points)
    assert_all_passed(tally, len(points) - 2)


@pytest.mark.parametrize(
    ("victim", "kind"),
    [
        ("parent", "orchestrator SQL task run"),
        ("all", "DAM PATCH"),
        ("child", "mail sent"),
        ("all", "SQL daily report"),
    ],
)
def test_orchestrator__killed_with_and_without_its_child(stage: KillStage, victim: Victim, kind: str) -> None:
    tally = Tally()
    for phase in PHASES:
        scene = Scene(stage, tally, random.Random(5), ONCE, victims=(victim,), env=orchestrator_settings())
        scene.play([Point(kind, 1, phase)])
    assert_all_passed(tally, 2)


# ---------------------------------------------------------------------------------------------------------
# Single points that once left something behind


def test_lock__left_by_one_kill_is_not_left_by_a_second(stage: KillStage) -> None:
    """Killed before the unlock; the next run, which completes the campaign, right after its commit."""
    with stage.cleared():
        stage.add("Spring", {"a.jpg": b"a"})
        checker = Checker(stage)
        for point in (Point("DAM unlock", 1, "before"), Point("SQL commit", 1, "after")):
            run = stage.play(UPLOADER, point)
            assert (run.hit, checker.after(run)) == (point, [])
        run = stage.play(UPLOADER)
        assert [*checker.after(run), *checker.settled()] == []


def test_lock__is_released_on_a_campaign_that_was_moved_on_meanwhile(stage: KillStage) -> None:
    with stage.cleared():
        stage.add("Spring", {"a.jpg": b"a"})
        (campaign,) = stage.wanted
        stage.play(UPLOADER, Point("DAM PATCH", 1, "before"))
        assert stage.dam.lock_state(campaign) == stage.dam.username
        stage.dam.set_status(campaign, "B1")
        assert stage.play(UPLOADER).exit_code == 0
        assert stage.dam.lock_state(campaign) is None


def test_lock__that_the_dam_takes_after_our_time_out_is_not_left(stage: KillStage) -> None:
    """Asked again at once, it would be taken, given back, and taken once more by the first request."""
    with stage.cleared(DAM_TIMEOUT_SECONDS="0.5"):
        stage.add("Spring", {"a.jpg": b"a"})
        stage.add("Summer", {"a.jpg": b"a"})
        stage.dam.fail(r"PUT .*/state", delay=1.5, times=1)
        stage.box.fail(
            r"POST .*/files/content", delay=2.5, skip=2, times=1
        )  # one receipt: the run lasts longer
        stage.play(UPLOADER)
        assert [lock for one in stage.wanted if (lock := stage.dam.lock_state(one))] == [stage.dam.username]
        run = stage.play(UPLOADER)
        checker = Checker(stage, may_fail=True)
        assert [*checker.after(run), *checker.settled()] == []


# ---------------------------------------------------------------------------------------------------------
# `make test-crash`: every request of every kind, and random places and instants


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_every_point(stage: KillStage, seed: int, request: pytest.FixtureRequest) -> None:
    """Each point, followed by kills of the runs after it at random places; --kills bounds them all."""
    tally, rng = Tally(), random.Random(seed)
    wanted = int(request.config.getoption("--kills"))
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    orchestrator = orchestrator_settings()
    effects: list[tuple[Scene, list[Point | int | float]]] = []
    reads: list[tuple[Scene, list[Point | int | float]]] = []

    def add(scene: Scene, points: Sequence[Point], total: int, further: int = FURTHER_KILLS) -> None:
        for point in points:
            later: list[Point | int | float] = [rng.randint(1, total // 2) for _ in range(further)]
            (effects if has_effect(point) else reads).append((scene, [point, *later]))

    small = record(stage, has_film=False)
    add(Scene(stage, tally, rng), every_point(small), small.total())
    film = record(stage, has_film=True)
    film_points = [point for point in every_point(film) if point.kind in FILM_KINDS]
    add(Scene(stage, tally, rng, has_film=True, label="film: "), film_points, film.total())
    limited = record(stage, has_film=False, **LIMITS)
    limit_points = [point for point in every_point(limited) if point.kind == "SQL rate limit"]
    add(Scene(stage, tally, rng, env=LIMITS, label="limits: "), limit_points, limited.total())
    once = record(stage, ONCE, has_film=False, **orchestrator)
    own = [point for point in every_point(once) if point.kind.startswith("orchestrator") or point.number == 1]
    both = Scene(stage, tally, rng, ONCE, victims=VICTIMS, env=orchestrator, label="once: ")
    add(both, own, once.total(), further=1)
    loop = Scene(stage, tally, rng, LOOP, victims=("all", "parent"), env=orchestrator, label="loop: ")
    add(loop, [point for point in own if point.kind.startswith("orchestrator")], once.total(), further=0)
    for some in (effects, reads):
        rng.shuffle(some)
    film_scene = Scene(stage, tally, rng, has_film=True, label="film: ")
    instant_scene = Scene(stage, tally, rng, has_film=True, label="instant: ")

    def all_scenes() -> Iterator[tuple[Scene, list[Point | int | float]]]:
        """The planned ones, each fourth followed by random instants; then random places without end.

        Those that change something come first, for when the kills run out before all have had their turn.
        """
        for number, planned in enumerate([*effects, *reads]):
            yield planned
            if number % 4 == 3:
                yield instant_scene, [rng.uniform(0.1, 0.5) for _ in range(FURTHER_KILLS)]
        while True:
            yield film_scene, [rng.randint(1, film.total()) for _ in range(FURTHER_KILLS)]

    try:
        for scene, points in all_scenes():
            if tally.total >= wanted:
                break
            known = len(tally.failures)
            scene.play(points)
            reporter.write("".join(f"\n{failure}\n" for failure in tally.failures[known:]))
            reporter.write(f"\r{tally.total} kills, {len(tally.failures)} scenes failed ")
    finally:  # also when somebody has seen enough
        reporter.write_line("\n" + "\n".join([*tally.lines("crash"), f"seed {seed}"]))
    assert_all_passed(tally, wanted)
