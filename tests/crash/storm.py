"""Weather: every system failing at random, in every way that the simulators know, and calm when asked."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from crash.checker import Checker
from crash.stage import UPLOADER, Played, Stage
from crash.systems import MEBIBYTE, figures_of
from simulators.box_gate import Fault as BoxFault
from simulators.box_gate import Faults as BoxFaults
from simulators.dam import GeneratedContent
from simulators.dam_http import Fault as DamFault
from simulators.dam_http import FaultBook, Request
from simulators.postgres import EmbeddedPostgres

TIMEOUT_SECONDS = 2.0
SILENCE_SECONDS = 2.5
UNDOES_A_MARK = ("SQL mail marked", "SQL commit")
"""Statements at whose loss a mail is out and not marked as sent."""
CLOCKS_OFF = (-3600, -90, 90, 86400)
MAIL_RUNS = 10
"""With PostgreSQL and the mail server alone failing, because the first failure ends a round of mails."""
CALM_RUNS = 4
"""Three bring whatever is still empty to its last attempt, one must find nothing left to do."""

# What a request may meet: what it is called in the figures, how often, and the fault.
DAM_FAULTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("401", 4, {"status": 401}),
    ("403", 2, {"status": 403}),
    ("404", 2, {"status": 404}),
    ("429", 3, {"status": 429, "retry_after": 0}),
    ("500", 4, {"status": 500}),
    ("502 HTML", 3, {"status": 502, "html": True}),
    ("503", 4, {"status": 503, "retry_after": 0}),
    ("200 HTML", 3, {"status": 200, "html": True}),
    ("200 without JSON", 2, {"body": b"{not json"}),
    ("200 empty object", 2, {"body": {}}),
    ("200 carrying an error", 2, {"body": {"exception_body": {"message": "index"}}}),
    ("dropped before", 4, {"drop": "before"}),
    ("dropped after", 4, {"drop": "after"}),
    ("cut short", 6, {"truncate": -1}),
    ("slow", 6, {"delay": 0.05}),
    ("silent", 1, {"delay": SILENCE_SECONDS}),
)
BOX_FAULTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("401", 4, {"status": 401}),
    ("403", 2, {"status": 403}),
    ("404", 1, {"status": 404}),
    ("409", 1, {"status": 409, "code": "operation_blocked_temporary"}),
    ("429", 3, {"status": 429, "retry_after": 0}),
    ("429 with a date", 1, {"status": 429, "retry_after": "date"}),
    ("500", 4, {"status": 500}),
    ("500 after the effect", 4, {"status": 500, "effect": True}),
    ("502 HTML", 3, {"status": 502, "body": b"<html>bad gateway</html>", "body_type": "text/html"}),
    ("503", 4, {"status": 503, "retry_after": 0}),
    ("200 without JSON", 3, {"status": 200, "body": b"<html>proxy</html>", "body_type": "text/html"}),
    ("200 without JSON after the effect", 3, {"status": 200, "body": b"{not", "effect": True}),
    ("dropped before", 4, {"drop": "before"}),
    ("dropped after", 4, {"drop": "after"}),
    ("cut short", 6, {"truncate": -1}),
    ("slow", 6, {"delay": 0.05}),
    ("silent", 1, {"delay": SILENCE_SECONDS}),
)


class Weather:
    """Draws what happens to each request. Any thread may ask.

    With one seed the draws are the same, though not which request meets which.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self.rates = {"DAM": 0.0, "Box": 0.0, "SQL": 0.0, "mail": 0.0}
        self.struck: set[str] = set()
        """Ids that stand in the paths of struck requests."""
        self.unknown_sessions = 0
        """Upload sessions that Box may have opened while the answer was lost."""
        self.denied_sessions = 0
        """Upload sessions that Box denied having when it was asked to end them."""
        self.repeats = 0
        """Mails whose taking was not told."""
        self.restart_at: int | None = None
        """The statement at which the server is to be restarted."""
        self.restart_asked = threading.Event()
        self.restarted = threading.Event()
        self.statements = 0
        self._lock = threading.Lock()

    def calm(self) -> None:
        """Nothing fails from now on."""
        self.rates = dict.fromkeys(self.rates, 0.0)
        self.restart_at = None

    def strikes(self, system: str, what: str = "") -> bool:
        """Whether this one fails."""
        with self._lock:
            if self.rng.random() >= self.rates[system]:
                return False
            if what:
                self.hits[f"{system}: {what}"] += 1
            return True

    def draw(self, system: str, faults: tuple[tuple[str, int, dict[str, Any]], ...]) -> dict[str, Any]:
        """One of the faults."""
        with self._lock:
            name, _, fault = self.rng.choices(faults, [weight for _, weight, _ in faults])[0]
            self.hits[f"{system}: {name}"] += 1
            drawn = dict(fault)
            if drawn.get("truncate") == -1:
                drawn["truncate"] = self.rng.choice((0, 1, self.rng.randrange(400)))
            if drawn.get("retry_after") == "date":
                skew = timedelta(seconds=self.rng.choice((-3600, 0, 1)))
                drawn["retry_after"] = format_datetime(datetime.now(UTC) + skew, usegmt=True)
            return drawn

    # Watch, for PostgreSQL and the mail server

    def before(self, kind: str) -> bool:
        if kind.startswith(("DAM", "Box")):
            return True  # these have fault books
        if kind.startswith("mail"):
            return not self.strikes("mail", "connection cut before")
        with self._lock:
            self.statements += 1
            is_restart = self.restart_at is not None and self.statements >= self.restart_at
            if is_restart:
                self.restart_at = None
                self.hits["SQL: server restarted"] += 1
        if is_restart:
            self.restart_asked.set()
            self.restarted.wait()
        is_cut = is_restart or self.strikes("SQL", "connection cut before")
        with self._lock:
            self.repeats += is_cut and kind in UNDOES_A_MARK
        return not is_cut

    def after(self, kind: str) -> bool:
        if kind.startswith(("DAM", "Box")):
            return True
        system = "mail" if kind.startswith("mail") else "SQL"
        if not self.strikes(system, "answer lost"):
            return True
        with self._lock:
            self.repeats += kind == "mail sent" or kind in UNDOES_A_MARK
        return False


class DamWeather(FaultBook):
    """What the DAM's requests meet."""

    def __init__(self, weather: Weather, expire: Callable[[], None]) -> None:
        super().__init__()
        self._weather = weather
        self._expire = expire

    def claim(self, request: Request) -> DamFault | None:
        weather = self._weather
        if not weather.strikes("DAM"):
            return None
        weather.struck |= set(re.findall(r"[0-9a-f]{40}", request.path))
        if weather.rng.random() < 0.05:
            weather.hits["DAM: tokens ended"] += 1
            self._expire()
            return None
        is_later_page = request.path.endswith("/children") and request.query.get("after", "0") != "0"
        if is_later_page and weather.rng.random() < 0.3:
            weather.hits["DAM: the first page again"] += 1
            request.query["after"] = "0"
            return None
        return DamFault("", **weather.draw("DAM", DAM_FAULTS))


class BoxWeather(BoxFaults):
    """What Box's requests meet."""

    def __init__(self, weather: Weather, expire: Callable[[], None]) -> None:
        super().__init__()
        self._weather = weather
        self._expire = expire

    def take(self, target: str) -> BoxFault | None:
        weather = self._weather
        if not weather.strikes("Box"):
            return None
        if weather.rng.random() < 0.05:
            weather.hits["Box: tokens ended"] += 1
            self._expire()
            return None
        if target.startswith("POST") and target.partition("?")[0].endswith("/upload_sessions"):
            weather.unknown_sessions += 1
        drawn = weather.draw("Box", BOX_FAULTS)
        if target.startswith("DELETE") and drawn.get("status") == 404:
            weather.denied_sessions += 1
        return BoxFault(re.compile(""), **drawn)


@dataclass
class Matrix:
    """Of the looks at campaigns in runs: truly empty or not, against counted or not.

    undisturbed: looks at empty folders that no fault came near, in runs that came to their end.
    """

    cells: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    undisturbed: int = 0
    missed: int = 0

    def lines(self) -> Iterator[str]:
        yield f"{'':<16}{'counted':>10}{'not':>10}"
        for is_empty, name in ((True, "truly empty"), (False, "not empty")):
            yield f"{name:<16}{self.cells[(is_empty, True)]:>10}{self.cells[(is_empty, False)]:>10}"
        yield f"of {self.undisturbed} undisturbed proofs {self.missed} were not counted"


class StormStage(Stage):
    """Many campaigns in bad weather."""

    def __init__(self, server: EmbeddedPostgres, database_url: str, folder: Path, seed: int) -> None:
        self.weather = Weather(seed)
        self._server = server
        super().__init__(database_url, folder, self.weather)
        self.matrix = Matrix()
        self.page_sizes: tuple[int | None, ...] = (1, 2, 5, 50, None)
        self.runs = 0
        self.seconds = 0.0
        self.failures: list[str] = []

    def _restart_when_asked(self) -> None:
        """In the thread that started the server: its end would be the server's."""
        if self.weather.restart_asked.is_set():
            self._server.restart("immediate")
            self.forget_connection()
            self.weather.restart_asked.clear()
            self.weather.restarted.set()

    @contextmanager
    def scene(self, campaigns: int, assets: int) -> Iterator[None]:
        """A third of the campaigns is empty; the assets are shared out among the others, two are large."""
        settings = {
            "TRANSFER_WORKERS": "8",
            "DAM_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
            "BOX_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        }
        with self.cleared(**settings):
            rng = self.weather.rng
            full = max(1, campaigns * 2 // 3)
            counts = [1] * full
            for _ in range(max(0, assets - full)):
                counts[rng.randrange(full)] += 1
            for number in range(campaigns):
                self._add_one(number, counts[number] if number < full else 0)
            self.dam.faults = DamWeather(self.weather, self.dam.expire_tokens)
            self.box._faults = BoxWeather(self.weather, self.box.expire_tokens)
            yield

    def _add_one(self, number: int, count: int) -> None:
        rng = self.weather.rng
        files: dict[str, bytes | GeneratedContent] = {}
        for place in range(count):
            folder = "" if rng.random() < 0.7 else f"sub {rng.randrange(3)}/"
            files[f"{folder}{place:03}.jpg"] = rng.randbytes(rng.randrange(1, 3000))
        if count and number < 2:
            files["film.mov"] = GeneratedContent(20 * MEBIBYTE + 1 + number, seed=number)
        attempts = rng.choice((0, 0, 0, 0, 1, 2, 3)) if not count else 0
        has_folder = bool(count) or rng.random() < 0.8
        self.add(f"Storm {number}", files, has_folder=has_folder, attempts=attempts, is_failed=attempts == 3)

    def fill_some(self, count: int) -> None:
        """Somebody puts a file into folders that were empty until now."""
        rng = self.weather.rng
        failed = {
            row[0] for row in self.rows("SELECT campaign_id FROM campaign_status WHERE a1_permanently_failed")
        }
        empty = [
            one
            for one in self.wanted.values()
            if not one.files and one.listed_folder != one.id and one.id not in failed
        ]
        for one in rng.sample(empty, min(count, len(empty))):
            content = rng.randbytes(500)
            self.dam.add_asset(one.listed_folder, "late.jpg", content)
            one.files["late.jpg"] = figures_of(content)

    def change_weather(self, strength: float) -> None:
        """New rates for a run; now and then a system is much worse than the others."""
        rng, weather = self.weather.rng, self.weather
        weather.rates = {
            "DAM": strength * rng.uniform(0.2, 1.0),
            "Box": strength * rng.uniform(0.2, 1.0),
            "SQL": strength * rng.choice((0.0, 0.002, 0.01)),
            "mail": strength * rng.uniform(0.1, 2.0),
        }
        if strength and rng.random() < 0.15:
            weather.rates[rng.choice(("DAM", "Box", "mail"))] = 4 * strength
        weather.statements = 0
        weather.restart_at = rng.randrange(20, 3000) if strength and self.runs % 3 == 1 else None
        options = self.dam.options
        options.max_page_size = rng.choice(self.page_sizes)
        options.single_object_lists = rng.random() < 0.3
        options.omit_empty_lists = rng.random() < 0.3
        options.child_count_offset = rng.choice((0, 0, -2, 7))
        options.patch_404_after_save = rng.random() < 0.1
        options.html_login_on_expired = rng.random() < 0.3
        options.accept_ranges = rng.random() < 0.5
        self.box.options.commit_202 = rng.choice((0, 1))
        self.box.options.parts_mismatch_once = rng.random() < 0.3
        self.box.options.wrong_sha1 = rng.random() < 0.2
        self.box.options.wrong_sha1_times = 3
        self.mail.relent()
        self.clock_off_seconds = rng.choice((0, *CLOCKS_OFF)) if strength else 0
        weather.hits["clock off"] += self.clock_off_seconds != 0
        if rng.random() < 0.2:
            code, stage = rng.choice(((451, "rcpt"), (550, "rcpt"), (421, "mail"), (554, "data")))
            self.mail.refuse_all(code, "a storm", stage=stage)  # type: ignore[arg-type]
            weather.hits[f"mail: {code} to everything"] += 1

    def share_done(self) -> float:
        """Of the campaigns with files, how many are in A2."""
        full = [one for one in self.wanted.values() if one.files]
        return sum(self.dam.status(one.id) == "A2" for one in full) / len(full)

    def calm_down(self) -> None:
        """The faults are off."""
        self.weather.calm()
        self.change_weather(0.0)
        self.weather.calm()
        self.mail.relent()
        self.box.options.wrong_sha1 = False
        self.dam.options.patch_404_after_save = False

    def play(self) -> Played:
        """One run to its end, whatever that is."""
        self.weather.struck.clear()
        self.weather.restarted.clear()
        process = self.start(UPLOADER)
        while process.wait(0.05) is None:
            self._restart_when_asked()
        self._restart_when_asked()
        self.database_proxy.wait_until_unused()
        self.mail_proxy.wait_until_unused()
        self.runs += 1
        struck, proven = self.weather.struck, self.proven
        is_whole = process.poll() in (0, 4)
        owed = {
            campaign
            for campaign in proven
            if is_whole and not struck & {campaign, self.wanted[campaign].listed_folder}
        }
        return Played(None, process.poll(), proven, owed, self.log)

    def observe(self, checker: Checker, run: Played) -> None:
        """Let the checker see what a run has done, and fill the matrix."""
        before = dict(checker.attempts)
        checker.repeats_allowed = self.weather.repeats
        checker.orphans_allowed = self.weather.unknown_sessions
        checker.denials_allowed = self.weather.denied_sessions
        self.failures += [f"run {self.runs}: {text}" for text in checker.after(run)]
        for one in self.wanted.values():
            counted = checker.attempts[one.id] > before[one.id]
            is_empty = not one.files
            if counted or one.id in run.proven or not is_empty:
                self.matrix.cells[(is_empty, counted)] += 1
            if one.id in run.owed and before[one.id] < 3:
                self.matrix.undisturbed += 1
                self.matrix.missed += not counted

    def lines(self) -> Iterator[str]:
        """The figures of the storm."""
        for name, count in sorted(self.weather.hits.items()):
            yield f"{name:<44}{count:>8}"
        yield from self.matrix.lines()
        assets = sum(len(one.files) for one in self.wanted.values())
        yield (
            f"storm: {len(self.wanted)} campaigns, {assets} assets, {sum(self.weather.hits.values())} faults,"
            f" {self.runs} runs, {self.seconds:.0f} s"
        )


def play_storm(stage: StormStage, campaigns: int, assets: int, *, stormy_runs: int, strength: float) -> None:
    """Runs in bad weather, then in good, until nothing is left to do; what is wrong is in stage.failures."""
    started = time.monotonic()
    with stage.scene(campaigns, assets):
        checker = Checker(stage, may_fail=True)
        for number in range(stormy_runs):
            if stage.share_done() > 0.9:
                break
            stage.change_weather(strength)
            run = stage.play()
            stage.observe(checker, run)
            if run.exit_code not in (0, 2, 4, 75):  # 2: a refused login or a 404 to the search
                stage.failures.append(f"run {stage.runs}: exit code {run.exit_code}: {run.log[-3000:]}")
            stage.let_time_pass()
            if number % 3 == 1:
                stage.fill_some(max(1, campaigns // 50))
        stage.calm_down()
        for number in range(MAIL_RUNS):
            stage.weather.rates |= (
                {"mail": strength, "SQL": 0.0} if number % 2 else {"mail": 0.0, "SQL": 0.0005}
            )
            stage.observe(checker, stage.play())
            stage.let_time_pass()
        stage.weather.calm()
        for _ in range(CALM_RUNS):
            run = stage.play()
            stage.observe(checker, run)
            stage.let_time_pass()
        if run.exit_code != 0:
            stage.failures.append(f"the last run ends with {run.exit_code}: {run.log[-3000:]}")
        stage.failures += checker.settled()
    stage.seconds = time.monotonic() - started
