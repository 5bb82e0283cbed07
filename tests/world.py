"""A whole installation in miniature: both simulators, a database, an inbox, and the scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg2
import psycopg2.extras

from simulators.box import BoxSimulator
from simulators.box import environment as box_environment
from simulators.dam import DamSimulator
from simulators.dam import environment as dam_environment
from simulators.mail import MailSink
from warm_python import WarmPython, is_of_the_start

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "scripts"
TIMEOUT_SECONDS = 100


@dataclass
class Run:
    """One finished run of a script."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The object that --json printed, and nothing else on standard output."""
        document = json.loads(self.stdout)
        assert isinstance(document, dict)
        return document

    @property
    def outcomes(self) -> dict[str, str]:
        """{campaign id: outcome}."""
        return {entry["campaign_id"]: entry["outcome"] for entry in self.report["campaigns"]}


@dataclass
class World:
    """The systems around the product, and ways to run it against them."""

    dam: DamSimulator
    box: BoxSimulator
    mail: MailSink
    database_url: str
    env: dict[str, str]
    box_root: str
    folder: Path
    python: WarmPython | None = None
    changes: dict[str, str] = field(default_factory=dict)

    def environment(self, **changes: str) -> dict[str, str]:
        """The variables of one run, over what the machine needs to start Python."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        own = {"XDG_STATE_HOME": str(self.folder / "state")}
        return {**inherited, **own, **self.env, **self.changes, **changes}

    def start(
        self,
        script: str,
        *arguments: str,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] = subprocess.PIPE,
        **changes: str,
    ) -> subprocess.Popen[str]:
        """Start a script as a user would, its settings in the environment."""
        return subprocess.Popen(
            [sys.executable, SCRIPTS / script, *arguments],
            cwd=self.folder,
            env=self.environment(**changes),
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, script: str, *arguments: str, **changes: str) -> Run:
        """Run a script to its end, by a Python that is warm where its start makes no difference."""
        if self.python is None or any(map(is_of_the_start, changes)):
            return self.finish(self.start(script, *arguments, **changes))
        done = self.python.run(
            [str(SCRIPTS / script), *arguments],
            cwd=self.folder,
            env=self.environment(**changes),
            timeout=TIMEOUT_SECONDS,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def upload(self, *arguments: str, **changes: str) -> Run:
        """One pass of the uploader, by client certificate, with its JSON report."""
        return self.run("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json", *arguments, **changes)

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Run:
        """Wait for a started script."""
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            raise
        return Run(process.returncode, stdout, stderr)

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement by a connection of its own, as an operator's psql would run it."""
        connection = psycopg2.connect(self.database_url)
        try:
            with connection, connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(statement, values or None)
                return [dict(row) for row in cursor.fetchall()] if cursor.description else []
        finally:
            connection.close()

    def row(self, campaign_id: str) -> dict[str, Any]:
        """The campaign's row in campaign_status."""
        return self.sql("SELECT * FROM campaign_status WHERE campaign_id = %s", campaign_id)[0]

    @property
    def subjects(self) -> list[str]:
        """The subjects in the inbox, in order of arrival."""
        return [str(received.message["Subject"]) for received in self.mail.messages]

    def add_full_campaign(
        self, name: str, number: str, files: Sequence[tuple[str, bytes]] = (("a.jpg", b"a"), ("b.pdf", b"bb"))
    ) -> str:
        """A campaign in A1 with these files in its Master Assets folder."""
        campaign = self.dam.add_campaign(name, number)
        folder = self.dam.master_assets_folder(campaign)
        assert folder is not None
        for file_name, content in files:
            self.dam.add_asset(folder, file_name, content)
        return campaign

    def receipts(self) -> dict[str, dict[str, Any]]:
        """{path below the root folder: content} of every receipt in Box."""
        return {
            file.path.split("/", 1)[1]: json.loads(self.box.content(file.id))
            for file in self.box.files()
            if file.name == "_manifest.json" and file.path.count("/") == 2
        }

    def box_files(self) -> dict[str, tuple[int, str]]:
        """{path below the root folder: (size, SHA-1)} of everything in Box, the receipts left out."""
        return {
            file.path.split("/", 1)[1]: (file.size, file.sha1)
            for file in self.box.files()
            if "/" in file.path and file.name != "_manifest.json"
        }


@contextmanager
def open_world(
    database_url: str,
    folder: Path,
    *,
    pfx: Path,
    ca_path: Path,
    server_context: Any,
    python: WarmPython | None = None,
) -> Iterator[World]:
    """Start the systems, the DAM behind TLS that asks for a client certificate.

    python: runs the scripts; None: each is a Python of its own.
    """
    with ExitStack() as stack:
        dam = stack.enter_context(DamSimulator(ssl_context=server_context, require_client_certificate=True))
        box = stack.enter_context(BoxSimulator())
        mail = stack.enter_context(MailSink())
        box_root = box.add_folder(box.root_id, "Agency")
        env = {
            "DATABASE_URL": database_url,
            **dam_environment(dam),
            "DAM_AUTH": "pfx-v2",
            "DAM_PFX_PATH": str(pfx),
            "DAM_PFX_PASSWORD": "pfx-password",
            "DAM_CA_BUNDLE": str(ca_path),
            **box_environment(box),
            "BOX_ROOT_FOLDER_ID": box_root,
            **mail.settings,
            "MAIL_FROM": "a1-to-a2@example.com",
            "ERROR_NOTIFICATION_EMAILS": "support@example.com",
            "SUCCESS_NOTIFICATION_EMAILS": "done@example.com",
            "DIGEST_DAY": "none",  # a test must not depend on the day it is run on
            "ORCHESTRATOR_TIMEZONE": zone_at(12),
        }
        yield World(dam, box, mail, database_url, env, box_root, folder, python)


def zone_at(hour: int) -> str:
    """A time zone in which it is about so many o'clock now: with 12, no test meets a midnight, or the daily
    report's time.
    """
    ahead = (hour - datetime.now(UTC).hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}"  # POSIX signs: GMT-3 is three hours east


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Until it holds; polled, because it happens in another process."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.01)
