"""Everything around the contenders: databases, the DAM, the Box stand-in, an inbox; and a run's cost."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.box_sink import Behaviour
from bench.dam_front import Front
from bench.load import Load
from bench.openssl import OpenSsl
from bench.sets import FileSet, SourceFile, make_files
from bench.tls import Certificates
from simulators.dam import environment as dam_environment
from simulators.mail import MailSink
from simulators.postgres import EmbeddedPostgres

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parents[1]
TEMPLATE = "bench_template"
UPLOADER_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")


class WrongResultError(Exception):
    """A contender failed, or what arrived is not what was sent."""


@dataclass(frozen=True)
class Cost:
    """What one run of a contender took; calls as DAM and Box counted them."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    foreign: float = 0.0
    """The share of the machine's cores that others had meanwhile."""
    upload_span_s: float = 0.0
    """From the first upload by one request to the last."""
    dam_calls: dict[str, int] = field(default_factory=dict)
    box_calls: dict[str, int] = field(default_factory=dict)
    box_statuses: dict[str, int] = field(default_factory=dict)
    postgres_cpu_s: float = 0.0
    connections: float = 0.0
    """To PostgreSQL."""

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


class BoxSink:
    """The Box stand-in's process, from outside."""

    def __init__(self, certificates: Certificates) -> None:
        path = os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY / "scripts")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.box_sink", "--certificate", str(certificates.server)],
            env={**certificates.server_environment, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.plain_port: int = ports["plain"]
        self.tls_port: int = ports["tls"]
        self.root_id = ""

    @property
    def pid(self) -> int:
        """The process, for a look at what it costs."""
        return self._process.pid

    def url(self, *, tls: bool) -> str:
        """BOX_API_URL; BOX_UPLOAD_URL is the same with /api."""
        return f"https://127.0.0.1:{self.tls_port}" if tls else f"http://127.0.0.1:{self.plain_port}"

    def reset(self, behaviour: Behaviour, sources: Iterable[SourceFile] = ()) -> None:
        """Forget all, make the root folder anew, and behave so from now on; these files are to arrive."""
        originals = {str(source.path): source.sha1 for source in sources}
        given = {"behaviour": asdict(behaviour), "originals": originals}
        self.root_id = self._ask("POST", "reset", given)["root_id"]

    def report(self) -> dict[str, Any]:
        """What was left and asked for since the last reset."""
        return self._ask("GET", "report")

    def _ask(self, method: str, name: str, given: object = None) -> dict[str, Any]:
        body = None if given is None else json.dumps(given).encode()
        url = f"http://127.0.0.1:{self.plain_port}/_bench/{name}"
        request = urllib.request.Request(url, body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=600) as answer:
            document: dict[str, Any] = json.load(answer)
        return document

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Databases:
    """A PostgreSQL of our own, and a new database for every run; a context manager."""

    def __init__(self, folder: Path, migrations: Path) -> None:
        # fsync on, as on a server: what the uploader writes to its ledger is part of what it costs.
        self._postgres = EmbeddedPostgres(folder, password=secrets.token_urlsafe(12), durable=True)
        self._migrations = migrations
        self._number = 0

    def __enter__(self) -> Databases:
        self._postgres.start()
        self._postgres.create_database(TEMPLATE)
        engine = self._migrations.parent / "engine"
        for migration in (*sorted(self._migrations.glob("*.sql")), *sorted(engine.glob("*.sql"))):
            done = self._postgres.psql("--quiet", "-f", migration, database=TEMPLATE)
            if done.returncode:
                raise RuntimeError(f"psql -f {migration}: {done.stderr}")
        return self

    def __exit__(self, *_: object) -> None:
        self._postgres.stop()

    @property
    def pid(self) -> int:
        """The server's process."""
        pid = self._postgres.pid
        assert pid is not None
        return pid

    def fresh(self) -> str:
        """The URL of a database without a memory; the one before it is dropped."""
        self._postgres.drop_database(f"bench_{self._number}")
        self._number += 1
        return self._postgres.create_database(f"bench_{self._number}", template=TEMPLATE)


class Stage:
    """A context manager: the systems up, sets made when first asked for.

    `fresh_database` yields the URL of a database with all migrations and nothing in it.
    """

    def __init__(
        self,
        folder: Path,
        front: Front,
        certificates: Certificates,
        uploader: Path,
        fresh_database: Callable[[], str],
        current_openssl: OpenSsl | None = None,
        postgres_pid: int = 0,
    ) -> None:
        self.folder = folder
        self.current_openssl = current_openssl
        self.front = front
        self.certificates = certificates
        self.uploader = uploader
        self.warm: set[str] = set()
        """Contenders that have run once."""
        self.postgres_pid = postgres_pid
        self._fresh_database = fresh_database
        self._stack = ExitStack()
        self._sets: dict[str, tuple[str, list[SourceFile], str]] = {}
        self._campaigns: dict[str, list[str]] = {}

    def __enter__(self) -> Stage:
        self.mail = self._stack.enter_context(MailSink())
        self.box = BoxSink(self.certificates)
        self._stack.callback(self.box.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- what a run needs ---

    def prepare(self, files: FileSet) -> tuple[str, list[SourceFile], str]:
        """The set's name below /files/, its files, and the campaign that holds them in the DAM."""
        if files.name not in self._sets:
            name = f"set-{len(self._sets)}"
            sources = make_files(files, self.folder / "files" / name)
            self._sets[files.name] = (name, sources, self.front.publish(files, sources, files.name))
        return self._sets[files.name]

    def campaigns(self, files: FileSet, count: int) -> list[str]:
        """As many campaigns; each holds the whole set."""
        _, sources, first = self.prepare(files)
        made = self._campaigns.setdefault(files.name, [first])
        while len(made) < count:
            made.append(self.front.publish(files, sources, f"{files.name} {len(made) + 1}"))
        return made[:count]

    def uploader_environment(self, *, tls: bool, delay_ms: int) -> dict[str, str]:
        """The variables of one run of the uploader, on a fresh database."""
        box_url = self.box.url(tls=tls)
        return {
            "DATABASE_URL": self._fresh_database(),
            **dam_environment(self.front.dam),
            "DAM_BASE_URL": self.front.url(tls=tls, delay_ms=delay_ms),
            "DAM_CA_BUNDLE": str(self.certificates.ca),
            "BOX_CLIENT_ID": "bench",
            "BOX_CLIENT_SECRET": "bench",
            "BOX_ENTERPRISE_ID": "1",
            "BOX_ROOT_FOLDER_ID": self.box.root_id,
            "BOX_API_URL": box_url,
            "BOX_UPLOAD_URL": f"{box_url}/api",
            **self.mail.settings,
            "MAIL_FROM": "a1-to-a2@example.com",
            "ERROR_NOTIFICATION_EMAILS": "support@example.com",
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
        }

    # --- running ---

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str], limit_s: float) -> Cost:
        """Run a contender to its end. Raises WrongResultError when it fails or takes too long."""
        cost, out, err = (self.folder / name for name in ("cost", "stdout", "stderr"))
        cost.unlink(missing_ok=True)
        before = Load.now()
        launcher = [sys.executable, "-I", "-S", BENCH / "launch.py", cost, out, err]
        process = self._start([*launcher, *command], environment)
        try:
            process.wait(limit_s)
        except BaseException as exc:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(exc, subprocess.TimeoutExpired):
                raise WrongResultError(f"{command[0]} took more than {limit_s:.0f} s") from exc
            raise
        if process.returncode or not cost.exists():
            raise WrongResultError(f"cannot run {command[0]}")
        wall, cpu, peak, code = cost.read_text(encoding="ascii").split()
        if code != "0":
            tail = (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")[-3000:]
            raise WrongResultError(f"{' '.join(map(str, command))[:300]} ended with {code}: {tail}")
        foreign = Load.now().foreign_since(before)
        return Cost(float(wall), float(cpu), int(peak), foreign)

    def begin(
        self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program that goes on beside others; what it says goes into the log."""
        with log.open("wb") as output:
            return self._start(command, environment, output)

    def _start(
        self, command: Sequence[str | Path], environment: Mapping[str, str], output: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        inherited = {name: os.environ[name] for name in UPLOADER_ENVIRONMENT if name in os.environ}
        trust = {name: str(self.certificates.ca) for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
        # Compiled modules are kept, but never in somebody's checkout.
        compiled = {"PYTHONPYCACHEPREFIX": str(self.folder / "pycache")}
        return subprocess.Popen(
            [str(word) for word in command],
            env={**inherited, **trust, **compiled, **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL if output else None,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    @property
    def stdout(self) -> str:
        """What the last run printed."""
        return (self.folder / "stdout").read_text(encoding="utf-8", errors="replace")


def remove_folder(folder: Path) -> None:
    """The stage's folder, whoever owns what is in it."""
    shutil.rmtree(folder, ignore_errors=True)
