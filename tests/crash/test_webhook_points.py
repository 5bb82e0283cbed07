"""Killed at every step around webhooks: no message is lost, and a kill brings one repeat at most."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks import Webhook

from crash.director import Point
from crash.gates import Watch, pass_through
from crash.plan import Tally, every_point, first_of_each
from crash.stage import UPLOADER, KillStage, Played
from webhook_receivers import Call, Receiver, ServiceNow, receiving
from webhook_stage import KEY

KILLS = 500
WEBHOOK_KINDS = ("webhook ", "SQL webhook")
STEPS = (
    *("webhook to ops", "webhook to servicenow, POST", "webhook to servicenow, PATCH"),
    *("webhook SQL outbox write", "webhook SQL mail marked"),
)
"""Those that `make test` is killed at."""
INSTALLATION = "crash"


class Gate(Receiver):
    """Its calls pass the watch."""

    watch: Watch
    name = "webhook to ops"

    def answer(self, call: Call) -> tuple[int, dict[str, str], object]:
        return pass_through(self.watch, self.name, lambda: super(Gate, self).answer(call))


class GatedNow(ServiceNow):
    watch: Watch

    def answer(self, call: Call) -> tuple[int, dict[str, str], object]:
        kind = f"webhook to servicenow, {call.method}"
        return pass_through(self.watch, kind, lambda: super(GatedNow, self).answer(call))


@dataclass
class HookScene:
    """A campaign that is given up in this run, one that somebody has reset by SQL, and one that is solved."""

    stage: KillStage
    ops: Gate
    now: GatedNow
    kills: int = 0
    tried: list[str] = field(default_factory=list)

    @contextmanager
    def set_up(self) -> Iterator[None]:
        self.ops.calls.clear()
        self.now.incidents.clear()
        env = {
            "WEBHOOK_OPS_URL": self.ops.url, "WEBHOOK_OPS_SECRET": KEY, "WEBHOOK_ALLOW_PRIVATE": "true",
            "WEBHOOK_SN_URL": self.now.url, "WEBHOOK_SN_SECRET": self.now.login,
            "WEBHOOK_SN_KIND": "servicenow", "WEBHOOK_INSTALLATION": INSTALLATION,
        }  # fmt: skip
        with self.stage.cleared(**env):
            self.stage.add("Third Time", {}, attempts=2)
            self.stage.add("Reset", {}, attempts=3, is_failed=True)
            self.stage.add("Solved", {"a.jpg": b"a" * 100}, attempts=1)
            self.given_up, self.reset, self.solved = self.stage.wanted
            self.stage.rows(
                "INSERT INTO webhook_targets (name, begun_at) VALUES ('ops', now() - interval '1 hour'),"
                " ('sn', now() - interval '1 hour')"
            )
            self._report_earlier()
            self.stage.rows(
                "UPDATE campaign_status SET a1_permanently_failed = FALSE WHERE campaign_id = %s", self.reset
            )
            yield

    def _report_earlier(self) -> None:
        """The campaign that is solved in this run has an incident."""
        key, notice = f"{INSTALLATION}:{self.solved}:1", str(uuid4())
        self.now.incidents.append(
            {"sys_id": "f" * 32, "number": "INC0000001", "state": "1", "correlation_id": key}
        )
        self.stage.rows(
            "INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at, cycle,"
            " dedup_key) VALUES (%s, 'campaign.erring', %s, '', '{}', '', now() - interval '1 hour', 1, %s);"
            "INSERT INTO notice_deliveries (notice_id, recipient, channel, next_try_at, sent_at, ticket)"
            " VALUES (%s, 'sn', 'webhook', now(), now() - interval '1 hour', 'INC0000001')",
            notice, self.solved, key, notice,
        )  # fmt: skip

    def play(self, point: Point | int, tally: Tally, rng: random.Random) -> Played:
        if isinstance(point, Point):
            run = self.stage.play(UPLOADER, point)
        else:
            phase: Any = rng.choice(["before", "after"])
            run = self.stage.play(UPLOADER, place=point, phase=phase)
        tally.add(run, "")
        self.kills += run.hit is not None
        self.tried.append(str(run.hit and f"{run.hit.kind} #{run.hit.number} {run.hit.phase}"))
        self.stage.let_time_pass()
        return run

    def faults(self) -> Iterator[str]:
        """What is wrong once an ordinary run has come to its end."""
        wanted = {
            ("campaign.permanently_failed", self.given_up), ("campaign.reset", self.reset),
            ("campaign.recovered", self.solved),
        }  # fmt: skip
        ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        repeats: Counter[str] = Counter()
        for call in self.ops.calls:
            payload = Webhook(KEY).verify(call.body, dict(call.headers))
            message_id = call.headers["webhook-id"]
            ids[payload["type"], payload["data"]["campaign"]["id"]].add(message_id)
            repeats[message_id] += 1
        # A killed run may have come so far that the campaign which was reset is permanently failed again.
        lost = wanted - ids.keys()
        if lost:
            yield f"never arrived: {lost}"
        if strange := {one for one in ids if one not in wanted and one[1] != self.reset}:
            yield f"owed by nothing: {strange}"
        if doubled := [one for one, own in ids.items() if len(own) > 1]:
            yield f"under two ids: {doubled}"
        if sum(repeats.values()) - len(repeats) > self.kills:
            yield f"{repeats} for {self.kills} kills"
        incidents = Counter(one["correlation_id"] for one in self.now.incidents)
        if incidents[f"{INSTALLATION}:{self.given_up}:1"] != 1 or max(incidents.values()) > 1:
            yield f"incidents: {incidents}"
        still_open = {one["correlation_id"].split(":")[1] for one in self.now.open}
        if still_open - {self.reset} != {self.given_up}:
            yield f"open incidents: {self.now.open}"
        unsent = self.stage.rows(
            "SELECT n.kind, d.recipient, d.last_error FROM notice_deliveries d"
            " JOIN notices n ON n.id = d.notice_id WHERE d.channel = 'webhook' AND d.sent_at IS NULL"
        )
        if unsent:
            yield f"not sent: {unsent}"


@pytest.fixture
def hooked(stage: KillStage) -> Iterator[HookScene]:
    ops, now = Gate(), GatedNow()
    ops.watch = now.watch = stage.watch
    with receiving(ops), receiving(now):
        yield HookScene(stage, ops, now)


def play_scene(hooked: HookScene, points: Sequence[Point | int], tally: Tally, rng: random.Random) -> None:
    hooked.kills, hooked.tried = 0, []
    with hooked.set_up():
        for point in points:
            hooked.play(point, tally, rng)
        last = hooked.stage.play(UPLOADER)
        tally.runs += 1
        faults = list(hooked.faults())
        if last.exit_code != 0:
            faults += [f"exit code {last.exit_code}", last.log]
        if "a bug" in last.log:
            faults.append(last.log)
    tally.scenes += 1
    if faults:
        tally.failures.append(f"{' > '.join(hooked.tried)}: {'; '.join(faults)}")


def recorded(hooked: HookScene) -> Counter[str]:
    """The requests of a run that nobody disturbs."""
    tally, rng = Tally(), random.Random(1)
    play_scene(hooked, [], tally, rng)
    assert not tally.failures, tally.failures
    return Counter(hooked.stage.director.seen)


@pytest.mark.timeout(300)
def test_webhooks__killed_at_each_kind_of_their_steps(hooked: HookScene) -> None:
    points = [point for point in first_of_each(recorded(hooked)) if point.kind in STEPS]
    assert len(points) == 2 * len(STEPS)
    tally, rng = Tally(), random.Random(5)
    for point in points:
        play_scene(hooked, [point], tally, rng)
    assert not tally.failures, "\n\n".join(tally.failures)
    assert tally.total >= len(points) - 2


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_every_point_around_webhooks(hooked: HookScene, seed: int, request: pytest.FixtureRequest) -> None:
    """Each request of a run, before and after, and then random places in the runs that follow one another."""
    seen = recorded(hooked)
    tally, rng = Tally(), random.Random(seed)
    wanted = min(KILLS, int(request.config.getoption("--kills")))
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    points = [point for point in every_point(seen) if point.phase != "late"]  # test_crash_points has those
    points.sort(key=lambda point: (not point.kind.startswith(WEBHOOK_KINDS), rng.random()))
    try:
        while tally.total < wanted:
            first: list[Point | int] = [points.pop(0)] if points else [rng.randint(1, seen.total())]
            further = [rng.randint(1, seen.total()) for _ in range(rng.randint(0, 3))]
            play_scene(hooked, [*first, *further], tally, rng)
            reporter.write(f"\r{tally.total} kills, {len(tally.failures)} scenes failed ")
    finally:
        reporter.write_line("\n" + "\n".join([*tally.lines("webhooks"), f"seed {seed}"]))
    assert not tally.failures, "\n\n".join(tally.failures)
