"""A whole installation on one machine: PostgreSQL, the DAM, Box, an inbox, and ways to run the scripts.

For demonstrations. Everything listens on 127.0.0.1; passwords and certificates are made on the spot and are
worth nothing afterwards.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from simulators.box import BoxSimulator
from simulators.box import environment as box_environment
from simulators.box_store import Options as BoxOptions
from simulators.dam import DamSimulator
from simulators.dam import environment as dam_environment
from simulators.mail import MailSink
from simulators.postgres import HOST, EmbeddedPostgres, free_port
from simulators.samples import SampleFile

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts"
MIGRATIONS = REPOSITORY / "database" / "migrations"
QUERIES = REPOSITORY / "database" / "queries"

SUPPORT = "support@example.com"
TEAM = "campaigns@example.com"
PAGE_OPERATOR = "support"
"""Who may act on the operator's page."""
BOX_ROOT_NAME = "Agency"
SCRIPT_TIMEOUT_SECONDS = 120

_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Source:
    """A file in the DAM: where it is below Master Assets, and what it really contains."""

    asset_id: str
    file: SampleFile
    sha1: str


@dataclass(frozen=True)
class Finished:
    """How a script ended."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def report(self) -> dict[str, Any]:
        """What --json printed; empty when that is not one JSON object."""
        try:
            document = json.loads(self.stdout)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


class Installation:
    """Everything around the product; a context manager that leaves no process and no secret behind.

    `output` is an existing folder: Box's files come to be in `box/`, mails in `mails/`, and `demo.env` there
    has the settings while it runs. `port` is PostgreSQL's; None takes a free one.

    Start it from the main thread (see EmbeddedPostgres).
    """

    def __init__(self, output: Path, *, port: int | None) -> None:
        """Nothing is started yet."""
        self.output = output
        self.env_file = output / "demo.env"
        self._wanted_port = port
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-demo-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)  # as root, PostgreSQL runs as somebody else, who must get to its own folder
        self.keys = folder / "keys"
        self.keys.mkdir(mode=0o700)
        password = secrets.token_urlsafe(18)
        self.postgres = EmbeddedPostgres(folder / "postgres", port=self._wanted_port, password=password)
        self._stack.callback(self.postgres.stop)  # before the start: that may be broken off in the middle
        self.postgres.start()

        pfx_password = secrets.token_urlsafe(18)
        context = make_certificates(self.keys, pfx_password)
        self.dam = DamSimulator(
            ssl_context=context,
            require_client_certificate=True,
            client_secret=secrets.token_urlsafe(18),
            password=secrets.token_urlsafe(18),
        )
        self.dam.options.generated_checksums = True
        self._stack.enter_context(self.dam)
        self.box = BoxSimulator(
            client_secret=secrets.token_urlsafe(18), options=BoxOptions(content_dir=self.output / "box")
        )
        self._stack.enter_context(self.box)
        self.mail = self._stack.enter_context(MailSink(mailbox=self.output / "mails"))
        self.box_root = self.box.add_folder(self.box.root_id, BOX_ROOT_NAME)
        self.page_url = f"http://{HOST}:{free_port()}"
        """Where the operator's page will be; it is the caller's to start."""
        self._stack.callback(self.env_file.unlink, missing_ok=True)
        write_private(self.env_file, to_env_file(self._settings(password, pfx_password)))

    def _settings(self, password: str, pfx_password: str) -> dict[str, str]:
        return {
            "DB_HOST": HOST,
            "DB_PORT": str(self.postgres.port),
            "DB_NAME": self.postgres.database,
            "DB_USER": self.postgres.user,
            "DB_PASSWORD": password,
            **dam_environment(self.dam),
            "DAM_AUTH": "pfx-v2",
            "DAM_PFX_PATH": str(self.keys / "client.pfx"),
            "DAM_PFX_PASSWORD": pfx_password,
            "DAM_CA_BUNDLE": str(self.keys / "ca.pem"),
            **box_environment(self.box),
            "BOX_ROOT_FOLDER_ID": self.box_root,
            **self.mail.settings,
            "MAIL_FROM": "a1-to-a2@example.com",
            "ERROR_NOTIFICATION_EMAILS": SUPPORT,
            "SUCCESS_NOTIFICATION_EMAILS": TEAM,
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
            "DIGEST_DAY": "none",  # the same story on each day of the week
            "ADMIN_URL": self.page_url,
            "ADMIN_LISTEN": self.page_url.removeprefix("http://"),
            "ADMIN_USERS_FILE": str(self.keys / "page-users"),
            "ADMIN_OPERATORS": PAGE_OPERATOR,
        }

    # --- the product's scripts ---

    def run_script(self, script: str, *arguments: str, **variables: str) -> Finished:
        """Run one of the product's scripts to its end, with these settings, and variables that win over."""
        # An env file of the user's own, or variables of a real installation, must not get in here.
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        started = time.monotonic()
        done = subprocess.run(  # noqa: S603 - a list, never a shell: the project's own scripts
            [sys.executable, SCRIPTS / script, *arguments, "--env-file", self.env_file],
            cwd=REPOSITORY,
            env={**inherited, "LANG": "C.UTF-8", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SCRIPT_TIMEOUT_SECONDS,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    # --- the database, as an operator asks it ---

    def migrations(self) -> list[Path]:
        """The migration files, in order."""
        return sorted(MIGRATIONS.glob("*.sql"))

    def query(self, name: str, **variables: str) -> list[dict[str, str]]:
        """The rows of database/queries/NAME.sql as psql shows them. Raises RuntimeError when psql fails."""
        arguments = [argument for item in variables.items() for argument in ("-v", "=".join(item))]
        return self._rows(*arguments, "-f", str(QUERIES / f"{name}.sql"))

    def sql(self, statement: str) -> list[dict[str, str]]:
        """One statement through psql. Raises RuntimeError when psql fails."""
        return self._rows("-c", statement)

    def table(self, *arguments: str) -> str:
        """What psql prints for people. Raises RuntimeError when psql fails."""
        done = self.postgres.psql(*arguments)
        if done.returncode != 0:
            raise RuntimeError(f"psql {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.rstrip()

    def _rows(self, *arguments: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.table("--csv", *arguments), newline="")))

    # --- the DAM, as people fill it ---

    def deliver(self, campaign_id: str, files: Sequence[SampleFile]) -> list[Source]:
        """Put files into the campaign's Master Assets folder, which is made when there is none."""
        top = self.dam.master_assets_folder(campaign_id) or self.dam.add_folder(campaign_id, "Master Assets")
        folders: dict[tuple[str, ...], str] = {(): top}
        sources = []
        for file in files:
            for depth in range(1, len(file.folders) + 1):
                path = file.folders[:depth]
                if path not in folders:
                    folders[path] = self.dam.add_folder(folders[path[:-1]], path[-1])
            asset_id = self.dam.add_asset(folders[file.folders], file.name, file.content)
            sources.append(Source(asset_id, file, file.sha1()))
        return sources


def make_certificates(folder: Path, pfx_password: str) -> ssl.SSLContext:
    """Write `ca.pem`, `client.pfx` and `client.pem` (for curl); return the DAM's side of it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client = authority.issue_cert("a1-to-a2@example.com", common_name="a1-to-a2 demo")
    key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("trustme made a key of another kind than asked for")
    pfx = pkcs12.serialize_key_and_certificates(
        b"a1-to-a2 demo",
        key,
        x509.load_pem_x509_certificate(client.cert_chain_pems[0].bytes()),
        [x509.load_pem_x509_certificate(authority.cert_pem.bytes())],
        serialization.BestAvailableEncryption(pfx_password.encode()),
    )
    write_private(folder / "client.pfx", pfx)
    write_private(folder / "client.pem", client.private_key_and_cert_chain_pem.bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST, "localhost").configure_cert(context)
    authority.configure_trust(context)
    return context


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner may read, from its first moment on."""
    data = content.encode() if isinstance(content, str) else content
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def to_env_file(values: dict[str, str]) -> str:
    """NAME='value' lines, which a shell reads as python-dotenv does."""
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def is_port_free(port: int) -> bool:
    """Whether PostgreSQL could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
