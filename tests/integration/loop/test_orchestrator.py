"""The loop on a real PostgreSQL with real children; the time is passed in."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg2
import pytest
import tzdata

from heartbeat_server import kinds, watchman
from sessions import end_sessions
from shared.base.errors import gravest
from shared.database import ORCHESTRATOR_LOCK, Database
from shared.loop import orchestrator
from shared.loop.orchestrator import Orchestrator
from shared.loop.tasks import Task
from shared.loop.teller import Teller
from shared.loop.wall_clock import Action
from shared.rules.cadence import Daily, Interval, Weekly
from shared.settings import OrchestratorSettings, load_orchestrator_settings
from simulated_clock import SimulatedClock
from simulators.mail import MailSink
from simulators.postgres import EmbeddedPostgres
from webhook_receivers import Receiver, receiving
from webhook_stage import KEY

ROME = ZoneInfo("Europe/Rome")
MIGRATIONS = Path(__file__).resolve().parents[3] / "database" / "migrations"


def rome(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ROME).astimezone(UTC)


@dataclass
class Stage:
    """Where the loop plays: a database, an inbox, a folder for the children's scripts."""

    url: str
    mail: MailSink
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.url,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(self.mail.port),
            "SMTP_SECURITY": "none",
            "MAIL_FROM": "a1-to-a2@example.com",
            "ERROR_NOTIFICATION_EMAILS": "support@example.com",
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
            **self.variables,
        }

    def settings(self) -> OrchestratorSettings:
        return load_orchestrator_settings(self.env)

    def script(self, name: str, body: str) -> str:
        path = self.folder / f"{name}.py"
        path.write_text(body, encoding="utf-8")
        return str(path)

    def task(self, body: str = "", **changes: Any) -> Task:
        name = changes.pop("name", "work")
        fields = {"schedule": Interval(3), "limit": timedelta(seconds=30), **changes}
        return Task(name, self.script(name, body), **fields)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def runs(self, task: str = "work") -> list[str]:
        """The planned minutes of a task, local, in order."""
        rows = self.sql("SELECT task, planned_at FROM orchestrator_task_runs ORDER BY 2")
        return [at.astimezone(ROME).strftime("%a %H:%M") for name, at in rows if name == task]

    def endings(self) -> list[tuple[Any, ...]]:
        return self.sql("SELECT exit_code, ending FROM orchestrator_task_runs ORDER BY started_at")

    def play(
        self,
        *tasks: Task,
        start: str,
        end: str,
        events: list[tuple[str, Callable[[SimulatedClock], None]]] | None = None,
        environment: dict[str, str] | None = None,
        env_file: Path | None = None,
    ) -> SimulatedClock:
        """Let the loop run from start to end."""
        clock: SimulatedClock
        planned = [
            (rome(at), lambda act=act: act(clock))  # type: ignore[misc]
            for at, act in events or []
        ]
        clock = SimulatedClock(rome(start), rome(end), planned)
        loop = Orchestrator(
            lambda _: tasks,
            self.settings,
            clock=clock,
            environment={**os.environ, **(environment or {})},
            env_file=env_file,
        )
        clock.is_busy = lambda: bool(loop.running)
        assert loop.run_forever() == 0
        return clock

    @property
    def subjects(self) -> list[str]:
        return [str(received.message["Subject"]) for received in self.mail.messages]


@pytest.fixture(autouse=True)
def quiet_root_logger() -> Iterator[None]:
    """The loop configures the log of its process; here that is pytest's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def stage(database_url: str, mail: MailSink, tmp_path: Path) -> Stage:
    return Stage(database_url, mail, tmp_path)


# When


def test_loop__friday_evening_to_saturday(stage: Stage) -> None:
    report = stage.task(name="report", schedule=Daily(time(19)))
    stage.play(stage.task(), report, start="2026-01-30T21:50:20", end="2026-01-31T20:10:00")
    assert stage.runs()[:6] == ["Fri 21:50", "Fri 21:53", "Fri 21:56", "Fri 21:59", "Fri 23:00", "Sat 00:00"]
    assert len(stage.runs()) == 4 + 22
    assert stage.runs("report") == ["Fri 19:00", "Sat 19:00"]  # the first is late: the loop was not there


def test_loop__restarts_neither_repeat_nor_forget(stage: Stage) -> None:
    tasks = (stage.task(), stage.task(name="report", schedule=Daily(time(19))))
    stage.play(*tasks, start="2026-01-28T18:50:00", end="2026-01-28T18:59:59")
    stage.play(*tasks, start="2026-01-28T18:59:59", end="2026-01-28T19:00:30")
    stage.play(*tasks, start="2026-01-28T19:00:31", end="2026-01-28T19:07:00")
    assert stage.runs() == [f"Wed {at}" for at in
                            ("18:50", "18:53", "18:56", "18:59", "19:02", "19:05")]  # fmt: skip
    assert stage.runs("report") == ["Wed 19:00"]
    stage.play(*tasks, start="2026-01-28T21:59:10", end="2026-01-28T22:31:00")
    stage.play(*tasks, start="2026-01-28T22:31:01", end="2026-01-28T23:29:00")
    assert stage.runs()[6:] == ["Wed 21:59", "Wed 23:00"]


def test_loop__clock_set_back_and_forward_and_a_sleep(stage: Stage) -> None:
    report = stage.task(name="report", schedule=Daily(time(19)))
    stage.play(
        stage.task(), report, start="2026-01-28T18:00:00", end="2026-01-28T21:00:00",
        events=[
            ("2026-01-28T18:10:30", lambda clock: clock.set_clock(timedelta(hours=-2))),
            ("2026-01-28T16:30:30", lambda clock: clock.set_clock(timedelta(hours=3))),
            ("2026-01-28T19:50:00", lambda clock: clock.sleep_machine(2700)),
        ],
    )  # fmt: skip
    started = [
        row[0].astimezone(ROME).strftime("%H:%M")
        for row in stage.sql("SELECT started_at FROM orchestrator_task_runs WHERE task = 'work' ORDER BY 1")
    ]
    assert len(set(started)) == len(started)
    back = started[: started.index("18:00")]
    assert back == [f"16:{minute}" for minute in range(10, 30, 3)]  # at once, then as ever
    assert "19:30" in started
    assert started[-1] > "20:50"
    assert [at for at in started if "19:50" < at < "20:35"] == []
    assert stage.runs("report") == ["Wed 19:00"]


# Children


def wait_until_gone(pid: int) -> None:
    """Until the process is dead, buried or not; a killed one takes a moment."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
        except FileNotFoundError:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"process {pid} lives on")


@pytest.mark.parametrize(
    ("body", "limit", "wanted"),
    [
        pytest.param("import time; time.sleep(60)", 0.3, (-15, "time limit"), id="hangs"),
        pytest.param(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
            0.5, (-9, "time limit"), id="ignores TERM",
        ),
        pytest.param("import os; os.kill(os.getpid(), 11)", 20, (-11, "killed by SIGSEGV"), id="crashes"),
        *(
            pytest.param(f"raise SystemExit({code})", 20, (code, f"exit code {code}"), id=f"code {code}")
            for code in (0, 1, 2, 3, 4, 75, 255)
        ),
    ],
)  # fmt: skip
def test_child__ends(stage: Stage, body: str, limit: float, wanted: tuple[int, str]) -> None:
    task = stage.task(
        body, limit=timedelta(seconds=limit), kill_after=timedelta(seconds=0.3), schedule=Interval(60)
    )
    stage.play(task, start="2026-01-28T10:00:00", end="2026-01-28T10:30:00")
    [(code, ending)] = stage.endings()
    assert code == wanted[0]
    assert wanted[1] in ending


def test_child__leaves_nothing_behind(stage: Stage) -> None:
    body = (
        "import os, sys, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    time.sleep(60)\n"
        "open('child.pid', 'w').write(str(pid))\n"
    )
    old = Path.cwd()
    os.chdir(stage.folder)
    try:
        stage.play(
            stage.task(body, schedule=Interval(60)), start="2026-01-28T10:00:00", end="2026-01-28T10:10:00"
        )
    finally:
        os.chdir(old)
    wait_until_gone(int((stage.folder / "child.pid").read_text()))


def test_child__a_megabyte_of_output(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    body = (
        "import sys\n"
        "sys.stdout.write('x' * 1_000_000 + '\\n')\n"
        "for i in range(5000): print('line', i)\n"
        "sys.stdout.buffer.write(b'\\xff\\x1b[31mred\\n no end of line')\n"
    )
    stage.play(
        stage.task(body, schedule=Interval(60)), start="2026-01-28T10:00:00", end="2026-01-28T10:01:00"
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if " work: | " in line]
    assert sum(line.count("x" * 64) for line in lines) >= 1_000_000 // 64 - 100
    numbered = [line for line in lines if " | line " in line]
    assert len(numbered) == 5000
    assert len({re.search(r" INFO run=([0-9a-f]{12}) work: ", line)[1] for line in lines}) == 1  # type: ignore[index]
    assert any(line.endswith("no end of line") for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_child__is_not_started_twice_and_does_not_see_the_manager(stage: Stage) -> None:
    body = (
        "import os, time\n"
        "assert 'NOTIFY_SOCKET' not in os.environ and 'WATCHDOG_USEC' not in os.environ\n"
        "time.sleep(1.2)\n"
    )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(stage.folder / "notify"))
    told: list[str] = []

    def listen() -> None:
        while not told or told[-1] != "over":
            told.append(listener.recv(1000).decode())

    manager = threading.Thread(target=listen)
    manager.start()
    environment = {"NOTIFY_SOCKET": str(stage.folder / "notify"), "WATCHDOG_USEC": "400000"}
    stage.play(
        stage.task(body, schedule=Interval(1)), start="2026-01-28T10:00:59.5", end="2026-01-28T10:02:30",
        environment=environment,
    )  # fmt: skip
    # 10:01 came while the first run was at work; it made one run, right after.
    assert stage.runs() == ["Wed 10:00", "Wed 10:01", "Wed 10:02"]
    assert [code for code, _ in stage.endings()] == [0, 0, 0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
        last.sendto(b"over", str(stage.folder / "notify"))
    manager.join()
    listener.close()
    assert told.index("READY=1") < told.index("STOPPING=1")
    assert told.count("WATCHDOG=1") > 5
    assert any(line.startswith("STATUS=work running since 2026-01-28T") for line in told)
    assert any(line.startswith("STATUS=work next at 2026-01-28T10:0") for line in told)


def test_loop__stopping_lets_a_run_finish_and_a_second_signal_does_not(stage: Stage) -> None:
    slow = stage.task("import time; time.sleep(1); print('finished')", schedule=Interval(60))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    stage.play(slow, start="2026-01-28T10:00:00", end="2026-01-28T12:00:00")
    assert stage.endings() == [(0, "exit code 0")]
    hanging = stage.task("import time; time.sleep(60)", schedule=Interval(60), name="hanging")
    for seconds in (0.4, 0.8):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
    stage.play(hanging, start="2026-01-28T14:00:00", end="2026-01-28T16:00:00")
    assert stage.endings()[1:] == [(-15, "the orchestrator was stopped")]
    assert stage.mail.messages == []


def test_loop__a_script_that_is_not_there_is_a_failure_and_no_crash(stage: Stage) -> None:
    task = Task("work", "no_such_script.py", Interval(3), timedelta(seconds=20))
    stage.play(task, start="2026-01-28T10:00:00", end="2026-01-28T10:05:00")
    assert [code for code, _ in stage.endings()] == [2, 2]  # Python's own word for a file it cannot open


# Their log

SPEAKS = """
import logging, os, sys
from shared.base.logs import configure_logging, new_run_id
configure_logging(os.environ["LOG_FORMAT"], "DEBUG", run_id=new_run_id(), secrets=())
logger = logging.getLogger("dam")
logger.debug("small talk")
logger.warning("the certificate %s ends", "soon", extra={"action": "certificate_ends", "days": 3})
print("printed", flush=True)
try:
    raise ValueError("broken")
except ValueError:
    logger.exception("a bug")
print('{"level": "ERROR"', flush=True)
print("2026-13-45T00:00:00.000Z CRITICAL run=x orchestrator: no such day", flush=True)
print("2026-01-28T09:00:00.000Z LOUD run=x orchestrator: no such level", flush=True)
print("2026-01-28T09:00:00.000Z INFO run=000000000000 orchestrator: ended", flush=True)
print("[" * 9000, flush=True)
raise SystemExit(3)
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log__a_tasks_event_is_logged_once_with_its_level_time_and_run(
    stage: Stage, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    stage.variables |= {"LOG_FORMAT": log_format, "ALERT_AFTER_FAILURES": "1"}
    stage.play(
        stage.task(SPEAKS, schedule=Interval(60)), start="2026-01-28T10:00:00", end="2026-01-28T10:30:00",
        environment={"LOG_FORMAT": log_format, "PYTHONPATH": "scripts"},
    )  # fmt: skip
    [(run_id,)] = stage.sql("SELECT run_id FROM orchestrator_task_runs")
    lines = [line for line in capsys.readouterr().err.splitlines() if run_id in line]
    if log_format == "json":
        events = [json.loads(line) for line in lines]
        assert {event["task"] for event in events} == {"work"}
        assert {event["run_id"] for event in events} == {run_id}
        of_certificate = next(event for event in events if event.get("action") == "certificate_ends")
        assert of_certificate["days"] == 3
        assert next(event for event in events if "traceback" in event)["traceback"].count("\n") == 3
        told = [(event["level"], event["logger"], event["message"]) for event in events]
    else:
        shape = re.compile(rf"(\S+Z) ([A-Z]+) run={run_id} (\S+): (.*)")
        told = [shape.fullmatch(line).groups()[1:] for line in lines]  # type: ignore[union-attr,misc]
        at = datetime.fromisoformat(lines[1].split()[0])
        assert abs(at - datetime.now(UTC)) < timedelta(minutes=5)  # the child's own time
    assert [event for event in told if "Traceback" not in event[2] and "raise" not in event[2]][1:-1] == [
        ("WARNING", "work.dam", "the certificate soon ends"),
        ("WARNING", "work", "| printed"),
        ("ERROR", "work.dam", "a bug"),
        *([("ERROR", "work", '|   File "' + str(stage.folder / "work.py") + '", line 10, in <module>'),
           ("ERROR", "work", "| ValueError: broken")] if log_format == "text" else []),
        ("ERROR", "work", '| {"level": "ERROR"'),
        ("ERROR", "work", "| 2026-13-45T00:00:00.000Z CRITICAL run=x orchestrator: no such day"),
        ("ERROR", "work", "| 2026-01-28T09:00:00.000Z LOUD run=x orchestrator: no such level"),
        ("INFO", "work.orchestrator", "ended"),
        ("INFO", "work", "| " + "[" * 9000),
    ]  # fmt: skip
    text = stage.mail.messages[0].message.get_body(("plain",)).get_content()
    assert "ERROR" in text
    assert "ValueError: broken" in text
    assert '"message"' not in text


# The database


@pytest.fixture
def own_server(worker: str) -> Iterator[EmbeddedPostgres]:
    """A server with the product's database that comes back on the same port after a stop."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix=f"a1-to-a2-loop-{worker}-"))
    try:
        with EmbeddedPostgres(folder, port=port, password="only-for-tests") as server:
            for file in sorted(MIGRATIONS.glob("*.sql")):
                assert server.psql("--quiet", "-f", file).returncode == 0
            yield server
    finally:
        shutil.rmtree(folder)


def test_loop__database_away_for_a_while(
    own_server: EmbeddedPostgres, mail: MailSink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(own_server.url, mail, tmp_path)
    stage.play(
        stage.task(), start="2026-01-28T10:00:00", end="2026-01-28T11:00:00",
        events=[
            ("2026-01-28T10:10:00", lambda _: own_server.stop("immediate")),
            ("2026-01-28T10:40:00", lambda _: own_server.start()),
        ],
    )  # fmt: skip
    assert stage.runs() == [f"Wed 10:{minute:02}" for minute in range(0, 60, 3)]
    assert {ending for _, ending in stage.endings()} == {"exit code 0"}
    told = capsys.readouterr().err
    assert told.count("the database is away") == 1
    assert told.count("the database is back") == 1


def test_loop__connection_cut_by_the_server_is_taken_up_again(stage: Stage) -> None:
    def cut(_: SimulatedClock) -> None:
        assert end_sessions(stage.url, "a1_to_a2 orchestrator%") == 1

    stage.play(
        stage.task(), start="2026-01-28T10:00:00", end="2026-01-28T10:20:00",
        events=[("2026-01-28T10:07:00", cut)],
    )  # fmt: skip
    assert stage.runs() == [f"Wed 10:{minute:02}" for minute in range(0, 20, 3)]


def test_loop__frozen_and_cut_off_starts_nothing_while_another_acts(stage: Stage) -> None:
    """Frozen between the wait and the start, it wakes up with a run due by its memory, and no lock."""
    others: list[Database] = []

    class Freeze(SimulatedClock):
        """At the end of a wait the connection is lost and another one acts; the loop has seen neither."""

        def wait(self, until: datetime | None, seconds: float | None) -> list[Action]:
            actions = super().wait(until, seconds)
            if others or loop.running:
                return actions
            assert end_sessions(stage.url, "a1_to_a2 orchestrator%") == 1
            others.append(Database(stage.url, application_name="the other"))
            assert others[0].take_run(ORCHESTRATOR_LOCK) is None
            return []

    clock = Freeze(rome("2026-01-28T10:00:00"), rome("2026-01-28T10:30:00"), [])
    loop = Orchestrator(lambda _: [stage.task()], stage.settings, clock=clock)
    clock.is_busy = lambda: bool(loop.running)
    loop.run_forever()
    assert len(others) == 1
    others[0].close()
    assert stage.runs() == ["Wed 10:00"]


def test_loop__a_stop_that_comes_while_it_connects_starts_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_meanwhile(*arguments: Any, **options: Any) -> Database:
        os.kill(os.getpid(), signal.SIGTERM)
        return Database(*arguments, **options)

    monkeypatch.setattr(orchestrator, "Database", stopped_meanwhile)
    for is_once in (False, True):
        clock = SimulatedClock(rome("2026-01-28T10:00:00"), rome("2026-01-28T11:00:00"), [])
        loop = Orchestrator(lambda _: [stage.task()], stage.settings, clock=clock)
        assert (loop.run_once() if is_once else loop.run_forever()) == 0
        assert stage.runs() == []


# E-mails of the loop


def test_alerts__a_dam_that_is_down_all_weekend_costs_four_mails(stage: Stage) -> None:
    state = stage.folder / "down"
    body = (
        f"import pathlib, sys\nif pathlib.Path({str(state)!r}).exists():\n"
        "    print('the DAM dam.example.com is out of reach'); sys.exit(75)\n"
    )
    state.touch()
    stage.play(
        stage.task(body), start="2026-01-30T21:00:00", end="2026-02-02T09:30:00",
        events=[("2026-02-02T09:00:00", lambda _: state.unlink())],
    )  # fmt: skip
    host = socket.gethostname()
    assert stage.subjects == [
        f"🛑 Task Failing - work on {host}",
        f"🛑 Task Still Failing - work on {host}",
        f"🛑 Task Still Failing - work on {host}",
        f"✅ Task Recovered - work on {host}",
    ]
    text = stage.mail.messages[0].message.get_body(("plain",)).get_content()
    assert "exit code 75" in text
    assert "the DAM dam.example.com is out of reach" in text
    assert len(stage.runs()) > 100


def test_alerts__restarts_and_flapping_make_no_more_mail(stage: Stage) -> None:
    counter = stage.folder / "count"
    counter.write_text("0")
    body = (
        f"import pathlib\npath = pathlib.Path({str(counter)!r})\n"
        "n = int(path.read_text()) + 1; path.write_text(str(n))\n"
        "raise SystemExit(0 if n % 4 == 0 else 3)\n"
    )
    for hour in range(9, 13):
        stage.play(stage.task(body), start=f"2026-01-28T{hour:02}:00:00", end=f"2026-01-28T{hour:02}:58:00")
    assert [subject.split(" - ")[0] for subject in stage.subjects] == ["🛑 Task Failing", "✅ Task Recovered"]


def test_alerts__failures_the_task_told_itself_are_not_told_again(stage: Stage) -> None:
    task = stage.task("raise SystemExit(4)", own_failures=frozenset({4}))
    stage.play(task, start="2026-01-28T10:00:00", end="2026-01-28T10:30:00")
    assert stage.subjects == []
    assert len(stage.runs()) == 10


def test_alerts__the_database_being_away_is_told_without_it(
    own_server: EmbeddedPostgres, mail: MailSink, tmp_path: Path
) -> None:
    stage = Stage(own_server.url, mail, tmp_path)
    own_server.stop()
    stage.play(stage.task("raise SystemExit(75)"), start="2026-01-28T10:00:00", end="2026-01-28T10:30:00")
    assert [subject.split(" - ")[0] for subject in stage.subjects] == ["🛑 Task Failing"]


def test_alerts__secrets_in_a_childs_output_are_blanked(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.variables |= {"BOX_CLIENT_SECRET": "hush-hush-box"}
    stage.play(
        stage.task("print('using hush-hush-box'); raise SystemExit(3)"),
        start="2026-01-28T10:00:00", end="2026-01-28T10:08:00",
    )  # fmt: skip
    [received] = stage.mail.messages
    assert "using ***" in received.message.get_body(("plain",)).get_content()
    assert "hush" not in received.message.as_string() + capsys.readouterr().err


def test_alerts__a_run_that_writes_nothing_is_told_of_while_it_runs(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once per run, at most once a day, and once when it is over; one that writes now and then is none."""
    counter = stage.folder / "count"
    counter.write_text("")
    body = (
        f"import pathlib, time\npath = pathlib.Path({str(counter)!r})\n"
        "n = len(path.read_text()); path.write_text('x' * (n + 1))\n"
        "print('waiting for the lock', flush=True)\n"
        "if n < 2: time.sleep(60)\n"
        "for i in range(15): print('at work', flush=True); time.sleep(0.2)\n"
    )
    task = stage.task(body, schedule=Interval(600), silence=timedelta(seconds=2), limit=timedelta(seconds=5))
    stage.play(task, start="2026-01-28T07:00:00", end="2026-01-28T19:30:00")
    assert [subject.split(" - ")[0] for subject in stage.subjects] == ["🛑 Task Without Progress"]
    text = stage.mail.messages[0].message.get_body(("plain",)).get_content()
    assert "has written nothing since 07:00 CET on Wednesday 28 January 2026" in text
    assert "waiting for the lock" in text
    assert [code for code, _ in stage.endings()] == [-15, -15]
    assert capsys.readouterr().err.count("has written nothing since") == 2  # the log has each
    stage.play(task, start="2026-01-29T07:00:00", end="2026-01-29T07:30:00")
    assert [subject.split(" - ")[0] for subject in stage.subjects][1:] == ["✅ Task Recovered"]
    assert stage.endings()[2:] == [(0, "exit code 0")]


# Settings


def test_task__is_handed_what_it_reads_of_the_env_file_at_each_start(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file = stage.folder / "env"

    def write(text: str) -> None:
        env_file.write_text("BOX_CLIENT_SECRET=hush\nDAM_PFX_PASSWORD_FILE=/run/pfx\nHTTPS_PROXY=p\n" + text)
        env_file.chmod(0o600)

    shown = stage.folder / "shown"
    body = (
        "import json, os, sys\nassert len(sys.argv) == 1\n"
        f"open({str(shown)!r}, 'a').write(json.dumps(dict(os.environ)) + '\\n')\n"
    )
    some = stage.task(body, reads=frozenset({"DAM_PFX_PASSWORD", "LOG_LEVEL", "SMTP_PORT"}))
    write("LOG_LEVEL=DEBUG\n")
    stage.play(
        some, start="2026-01-28T10:00:00", end="2026-01-28T10:11:00", env_file=env_file,
        environment={"SMTP_PORT": "26", "DAM_PASSWORD": "hush", "OWN": "x"},
        events=[
            ("2026-01-28T10:01:00", lambda _: write("LOG_LEVEL=INFO\n")),
            ("2026-01-28T10:04:00", lambda _: write("a line that is none\n")),
            ("2026-01-28T10:07:00", lambda _: write("")),
        ],
    )  # fmt: skip
    first, second, third = (json.loads(line) for line in shown.read_text().splitlines())
    added = {name: first[name] for name in first.keys() - os.environ.keys() - {"LC_CTYPE"}}
    del added["A1_TO_A2_RUN_ID"]
    assert added == {
        "DAM_PFX_PASSWORD_FILE": "/run/pfx", "LOG_LEVEL": "DEBUG", "SMTP_PORT": "26", "OWN": "x",
        "A1_TO_A2_ENV_FILE": str(env_file),
    }  # fmt: skip
    assert second["LOG_LEVEL"] == "INFO"
    assert "LOG_LEVEL" not in third
    assert stage.endings() == [(0, "exit code 0")] * 2 + [(2, "exit code 2"), (0, "exit code 0")]
    assert f"{env_file}: line 4 is not NAME=value" in capsys.readouterr().err
    every = stage.task(body, name="every")
    stage.play(every, start="2026-01-28T11:00:00", end="2026-01-28T11:01:00", env_file=env_file)
    last = json.loads(shown.read_text().splitlines()[-1])
    assert last["BOX_CLIENT_SECRET"] == "hush"
    assert "HTTPS_PROXY" not in last  # as ever: of the file, what is ours


def test_loop__hangup_takes_the_new_rules_of_a_time_zone(stage: Stage) -> None:
    """The country goes over to another time: what was 22:30 is 14:30, no off-hours any more."""
    own, before = "Country/Own", zoneinfo.TZPATH
    packaged = Path(tzdata.__file__).parent / "zoneinfo" / "Etc"

    def upgrade(name: str) -> None:
        (stage.folder / "Country").mkdir(exist_ok=True)
        (stage.folder / own).write_bytes((packaged / name).read_bytes())

    def act(_: SimulatedClock) -> None:
        upgrade("GMT+7")
        os.kill(os.getpid(), signal.SIGHUP)

    upgrade("GMT-1")
    stage.variables |= {"ORCHESTRATOR_TIMEZONE": own}
    zoneinfo.reset_tzpath([str(stage.folder)])
    try:
        stage.play(
            stage.task(), start="2026-01-28T22:00:00", end="2026-01-28T22:40:00",
            events=[("2026-01-28T22:31:10", act)],
        )  # fmt: skip
    finally:
        zoneinfo.reset_tzpath(before)
        ZoneInfo.clear_cache()
    assert stage.runs() == ["Wed 22:00", "Wed 22:31", "Wed 22:34", "Wed 22:37"]


def test_loop__hangup_changes_the_table(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """A task that comes, one whose time moves, one that goes: as the settings say."""
    tables = {
        "false": (stage.task(),),
        "true": (
            stage.task(),
            stage.task(name="digest", schedule=Weekly(2, time(10, 20))),
            stage.task(name="report"),
        ),
    }

    def change(is_enabled: str) -> Callable[[SimulatedClock], None]:
        def act(_: SimulatedClock) -> None:
            stage.variables |= {"OFF_HOURS_ENABLED": is_enabled}
            os.kill(os.getpid(), signal.SIGHUP)

        return act

    stage.variables |= {"OFF_HOURS_ENABLED": "false"}
    clock = SimulatedClock(
        rome("2026-01-28T10:00:00"), rome("2026-01-28T10:40:00"),
        [(rome("2026-01-28T10:10:10"), lambda: change("true")(clock)),
         (rome("2026-01-28T10:30:10"), lambda: change("false")(clock))],
    )  # fmt: skip
    loop = Orchestrator(
        lambda settings: tables[str(settings.cadence.off_hours.enabled).lower()], stage.settings, clock=clock
    )
    clock.is_busy = lambda: bool(loop.running)
    assert loop.run_forever() == 0
    assert stage.runs("digest") == ["Wed 10:20"]
    assert stage.runs("report")[-1] == "Wed 10:28"
    assert stage.runs()[-1] == "Wed 10:39"
    assert "the database is away" not in capsys.readouterr().err


def test_loop__hangup_reads_the_settings_again_or_keeps_them(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(**variables: str) -> Callable[[SimulatedClock], None]:
        def act(_: SimulatedClock) -> None:
            stage.variables = variables
            os.kill(os.getpid(), signal.SIGHUP)

        return act

    stage.play(
        stage.task(), start="2026-01-28T22:00:00", end="2026-01-29T01:59:00",
        events=[
            ("2026-01-28T23:10:00", change(OFF_HOURS_END="25:99")),
            ("2026-01-29T00:10:00", change(OFF_HOURS_ENABLED="false")),
        ],
    )  # fmt: skip
    runs = stage.runs()
    assert runs[:3] == ["Wed 22:00", "Wed 23:00", "Thu 00:00"]
    assert runs[3:6] == ["Thu 00:10", "Thu 00:13", "Thu 00:16"]
    told = capsys.readouterr().err
    assert "OFF_HOURS_END" in told
    assert "the old settings stay in use" in told


# Webhooks


def test_webhooks__get_the_news_of_tasks_and_a_dead_target_holds_nothing_up(stage: Stage) -> None:
    state = stage.folder / "down"
    state.touch()
    body = f"import pathlib\nraise SystemExit(75 if pathlib.Path({str(state)!r}).exists() else 0)\n"
    with receiving(Receiver()) as ops, receiving(Receiver(refusing=(503, {}))) as dead:
        for name, receiver in (("OPS", ops), ("DEAD", dead)):
            stage.variables |= {
                f"WEBHOOK_{name}_URL": receiver.url, f"WEBHOOK_{name}_SECRET": KEY,
                f"WEBHOOK_{name}_EVENTS": "task.*", "WEBHOOK_ALLOW_PRIVATE": "true",
            }  # fmt: skip
        stage.play(
            stage.task(body), start="2026-01-28T10:00:00", end="2026-01-28T10:30:00",
            events=[("2026-01-28T10:16:00", lambda _: state.unlink())],
        )  # fmt: skip
    assert ops.types == ["task.failing", "task.recovered"]
    assert [subject.split(" - ")[0] for subject in stage.subjects] == ["🛑 Task Failing", "✅ Task Recovered"]
    assert len(stage.runs()) == 10
    assert dead.calls
    assert stage.sql("SELECT DISTINCT recipient FROM notice_deliveries WHERE sent_at IS NULL") == [("dead",)]


def test_webhooks__get_the_news_while_the_database_is_away(
    own_server: EmbeddedPostgres, mail: MailSink, tmp_path: Path
) -> None:
    stage = Stage(own_server.url, mail, tmp_path)
    own_server.stop()
    with receiving(Receiver()) as ops:
        stage.variables |= {
            "WEBHOOK_OPS_URL": ops.url, "WEBHOOK_OPS_SECRET": KEY, "WEBHOOK_OPS_EVENTS": "*",
            "WEBHOOK_ALLOW_PRIVATE": "true",
        }  # fmt: skip
        stage.play(stage.task("raise SystemExit(75)"), start="2026-01-28T10:00:00", end="2026-01-28T10:30:00")
    assert ops.types == ["task.failing"]


# Heartbeat


def test_heartbeat__start_success_and_failure(stage: Stage) -> None:
    counter = stage.folder / "count"
    counter.write_text("")
    body = (
        f"import pathlib\npath = pathlib.Path({str(counter)!r})\npath.write_text(path.read_text() + 'x')\n"
        "raise SystemExit([0, 3, 75][len(path.read_text()) - 1])\n"
    )
    with watchman() as (url, paths):
        stage.variables["HEARTBEAT_URL"] = url
        stage.play(
            stage.task(body, has_heartbeat=True), start="2026-01-28T10:00:00", end="2026-01-28T10:08:00"
        )
    assert kinds(paths) == ["start", "success", "start", "fail", "start", "log"]
    run_ids = [path.split("?rid=")[1] for path in paths]
    assert run_ids[0::2] == run_ids[1::2]
    assert len(set(run_ids)) == 3


def test_heartbeat__one_that_never_answers_holds_nothing_up(stage: Stage) -> None:
    with watchman(delay=3) as (url, paths):
        stage.variables["HEARTBEAT_URL"] = url
        clock = SimulatedClock(rome("2026-01-28T10:00:00"), rome("2026-01-28T10:04:00"), [])
        loop = Orchestrator(lambda _: [stage.task(has_heartbeat=True)], stage.settings, clock=clock)
        clock.is_busy = lambda: bool(loop.running)
        loop.run_forever()
        assert len(stage.runs()) == 2
        assert kinds(paths)[0] == "start"


# One round


def test_once__runs_what_is_due_and_says_how_it_went(stage: Stage) -> None:
    def once(at: str, *tasks: Task) -> int:
        clock = SimulatedClock(rome(at), rome("2026-02-28T10:00:00"), [])
        loop = Orchestrator(lambda _: tasks, stage.settings, clock=clock)
        clock.is_busy = lambda: bool(loop.running)
        return loop.run_once()

    good, bad = stage.task(), stage.task("raise SystemExit(4)", name="bad")
    assert once("2026-01-28T10:00:05", good, bad) == 4
    assert once("2026-01-28T10:01:05", good, bad) == 0
    assert once("2026-01-28T10:03:05", good, bad) == 4
    assert stage.runs() == ["Wed 10:00", "Wed 10:03"]


def test_once__database_lost_before_anything_was_started(
    stage: Stage, own_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.url = own_server.url
    clock = SimulatedClock(rome("2026-01-28T10:00:05"), rome("2026-02-28T10:00:00"), [])
    loop = Orchestrator(lambda _: [stage.task()], stage.settings, clock=clock)
    monkeypatch.setattr(Teller, "round_began", lambda *_: own_server.stop())
    assert loop.run_once() == 75


@pytest.mark.parametrize(
    ("codes", "wanted"), [([], 0), ([0, 0], 0), ([75, 4, 0], 4), ([4, 2], 2), ([75, -9], 3), ([1], 3)]
)
def test_gravest__table(codes: list[int], wanted: int) -> None:
    assert gravest(codes) == wanted
