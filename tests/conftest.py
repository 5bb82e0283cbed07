"""What every test may ask for: a PostgreSQL, the simulators, certificates; and a clean environment.

PostgreSQL is a throw-away server of our own, one per pytest-xdist worker. With `DATABASE_URL` in the
environment that server is used instead, in databases of our own beside the one named there. When neither can
be had, the tests fail: they are never skipped.
"""

import contextlib
import itertools
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import hypothesis
import psycopg2
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from shared.postgres.connection import Answer, Connection
from simulators.mail import MailSink
from simulators.postgres import EmbeddedPostgres, PostgresError, PostgresServer, find_binaries

if TYPE_CHECKING:
    from simulators.box import BoxSimulator
    from simulators.dam import DamSimulator

MIGRATIONS = Path(__file__).resolve().parent.parent / "database" / "migrations"
PASSWORD = "only-for-tests"

# Read before the environment is cleaned for the first test.
EXTERNAL_DATABASE_URL = os.environ.get("DATABASE_URL")

ApplyMigrations = Callable[[str, Path], None]


# How long an example takes says something of the machine and nothing of the product.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


PASS_VARIABLES = {
    "DAM_BASE_URL": "https://dam.example.com",
    "DAM_CLIENT_ID": "id",
    "DAM_CLIENT_SECRET": "secret",
    "DAM_USERNAME": "user",
    "DAM_PASSWORD": "password",
    "DAM_CAMPAIGNS_FOLDER_ID": "root",
    "DAM_STATUS_FIELD_ID": "status",
    "DAM_NUMBER_FIELD_ID": "number",
    "BOX_CLIENT_ID": "id",
    "BOX_CLIENT_SECRET": "secret",
    "BOX_ENTERPRISE_ID": "1",
    "BOX_ROOT_FOLDER_ID": "0",
    "MAIL_FROM": "a1-to-a2@example.com",
    "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
}
"""What a pass needs whose DAM is played by the test and whose Box is never asked."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the long proofs are (tests/crash, tests/scale), and what they draw from."""
    parser.addoption("--seed", type=int, default=1, help="of the crash proof, the storm, and the hosts")
    parser.addoption("--kills", type=int, default=2000, help="of the crash proof")
    parser.addoption("--campaigns", type=int, help="in the storm (1,000), on the hosts (300)")
    parser.addoption("--assets", type=int, help="in the storm (10,000), on the hosts (3,000)")
    parser.addoption("--hosts", type=int, default=3, help="that have a worker, 2 to 9")
    parser.addoption("--disturbances", type=int, default=40, help="of the hosts")


def pytest_report_header() -> list[str]:
    """Which PostgreSQL the tests meet; asked in the process that prints, whatever xdist does."""
    try:
        own = find_binaries()
        told = subprocess.run([own / "postgres", "--version"], capture_output=True, text=True, check=True)
        servers = [f"{told.stdout.strip()}, started from {own}"]
    except (PostgresError, OSError, subprocess.CalledProcessError) as exc:
        servers = [f"none to start: {exc}"]
    if EXTERNAL_DATABASE_URL:
        try:
            server = external_server(EXTERNAL_DATABASE_URL)
            with contextlib.closing(psycopg2.connect(server.url, connect_timeout=10)) as connection:
                shown = connection.get_parameter_status("server_version")
            servers = [f"PostgreSQL {shown}, of DATABASE_URL", f"{servers[0]}, where a test stops its server"]
        except (pytest.fail.Exception, psycopg2.Error):
            servers = ["DATABASE_URL names none that can be used"]
    return [f"server: {server}" for server in servers]


# ---------------------------------------------------------------------------------------------------------
# Environment

OUR_VARIABLES = (
    *("DATABASE_URL", "MAIL_FROM", "LOG_FORMAT", "LOG_LEVEL", "METRICS_FILE", "ENGINE"),
    *("ERROR_NOTIFICATION_EMAILS", "SUCCESS_NOTIFICATION_EMAILS", "REPORT_EMAILS", "ALERT_EMAILS"),
)
OUR_PREFIXES = (
    *("DB_", "DAM_", "BOX_", "SMTP_", "A1_", "ORCHESTRATOR_", "OFF_HOURS_", "TRANSFER_", "ADMIN_"),
    *("ENGINE_", "WORKER_"),
)
PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def _must_not_leak_in(name: str) -> bool:
    return (
        name.removesuffix("_FILE") in OUR_VARIABLES
        or name.startswith(OUR_PREFIXES)
        or name.lower() in PROXY_VARIABLES
        or name in CERTIFICATE_VARIABLES
        or (name.startswith("PG") and not name.startswith("PG_"))  # libpq's, such as PGHOST and PGSERVICE
    )


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Hide from each test whatever the machine's environment would tell the product, and put it back."""
    before = dict(os.environ)
    for name in filter(_must_not_leak_in, before):
        del os.environ[name]
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


# ---------------------------------------------------------------------------------------------------------
# PostgreSQL


@pytest.fixture(scope="session")
def worker(request: pytest.FixtureRequest) -> str:
    """A word that no other pytest process on this machine uses; fit for a database name."""
    name = getattr(request.config, "workerinput", {}).get("workerid", "main")
    return f"{name}_{os.getpid()}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server that the tests share. Do not stop it: see `private_postgres`."""
    if EXTERNAL_DATABASE_URL:
        yield external_server(EXTERNAL_DATABASE_URL)
        return
    with _temporary_folder() as folder, EmbeddedPostgres(folder, password=PASSWORD) as server:
        yield server


@pytest.fixture
def private_postgres() -> Iterator[EmbeddedPostgres]:
    """A started server for one test alone, to be stopped, crashed and restarted. Costs about a second."""
    with _temporary_folder() as folder, EmbeddedPostgres(folder, password=PASSWORD) as server:
        yield server


def external_server(url: str) -> PostgresServer:
    """The server of `DATABASE_URL`, after a look at the name: the tests must not meet real data."""
    database = unquote(urlsplit(url).path.removeprefix("/"))
    if not url.startswith(("postgresql://", "postgres://")):
        pytest.fail("DATABASE_URL: the tests need it as postgresql://user@host/name_test", pytrace=False)
    if not database.endswith("_test"):
        pytest.fail(f"DATABASE_URL: the tests refuse {database!r}: no name in _test", pytrace=False)
    return PostgresServer(url)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    # Not pytest's tmp_path: that is closed to other users, and as root PostgreSQL runs as one of them.
    folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-postgres-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def apply_migrations(postgres: PostgresServer) -> ApplyMigrations:
    """`apply_migrations(database, folder)` runs each of the folder's .sql files by psql, in name order."""

    def apply(database: str, folder: Path) -> None:
        files = sorted(folder.glob("*.sql"))
        if not files:
            pytest.fail(f"no migrations in {folder}", pytrace=False)
        for file in files:
            done = postgres.psql("--quiet", "-f", file, database=database)
            if done.returncode != 0:
                pytest.fail(f"psql -f {file.name}: exit code {done.returncode}\n{done.stderr}", pytrace=False)

    return apply


@pytest.fixture(scope="session")
def template_database(
    postgres: PostgresServer, apply_migrations: ApplyMigrations, worker: str
) -> Iterator[str]:
    """The name of a database with all migrations, made once and then only copied."""
    name = f"a1_to_a2_template_{worker}_test"
    postgres.create_database(name)
    try:
        apply_migrations(name, MIGRATIONS)
        yield name
    finally:
        postgres.drop_database(name)


_numbers = itertools.count(1)


@pytest.fixture
def database_url(postgres: PostgresServer, template_database: str, worker: str) -> Iterator[str]:
    """The URL of a fresh database with all migrations applied."""
    name = f"a1_to_a2_{worker}_{next(_numbers)}_test"
    yield postgres.create_database(name, template=template_database)
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: PostgresServer, worker: str) -> Iterator[str]:
    """The URL of a fresh database without anything in it."""
    name = f"a1_to_a2_{worker}_{next(_numbers)}_test"
    yield postgres.create_database(name)
    postgres.drop_database(name)


# ---------------------------------------------------------------------------------------------------------
# The other systems


@pytest.fixture
def dam() -> Iterator["DamSimulator"]:
    """A started DAM simulator."""
    from simulators.dam import DamSimulator

    with DamSimulator() as simulator:
        yield simulator


@pytest.fixture
def box() -> Iterator["BoxSimulator"]:
    """A started Box simulator."""
    from simulators.box import BoxSimulator

    with BoxSimulator() as simulator:
        yield simulator


@pytest.fixture
def mail() -> Iterator[MailSink]:
    """A started mail sink without encryption and login."""
    with MailSink() as sink:
        yield sink


# ---------------------------------------------------------------------------------------------------------
# Certificates


@dataclass
class Tls:
    """One certificate authority, a server's certificate for localhost and 127.0.0.1, and client files."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)
    ca_path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.ca_path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_path))
        self._server_certificate = self.ca.issue_cert("localhost", "127.0.0.1")
        self._numbers = itertools.count(1)

    @property
    def server_context(self) -> ssl.SSLContext:
        """A new context for a server that asks for no client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._server_certificate.configure_cert(context)
        return context

    @property
    def mutual_server_context(self) -> ssl.SSLContext:
        """A new context for a server that takes only clients with a certificate of this authority."""
        context = self.server_context
        context.load_verify_locations(self.ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def client_context(self) -> ssl.SSLContext:
        """A new context for a client that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca_path))

    def pfx(
        self,
        password: bytes | None = b"pfx-password",
        *,
        cn: str = "a1-to-a2-client",
        expired: bool = False,
        expires_in_days: float | None = None,
        other_ca: bool = False,
    ) -> Path:
        """Write a PKCS#12 file with a client certificate, its key and its authority; return the path.

        It is valid for a year unless `expired` (since yesterday) or `expires_in_days` says otherwise;
        `other_ca` has it signed by an authority that no server here knows.
        """
        if expired and expires_in_days is not None:
            raise ValueError("expired and expires_in_days exclude each other")
        days = -1.0 if expired else 365.0 if expires_in_days is None else expires_in_days
        issuer = trustme.CA() if other_ca else self.ca
        issuer_certificate = x509.load_pem_x509_certificate(issuer.cert_pem.bytes())
        issuer_key = serialization.load_pem_private_key(issuer.private_key_pem.bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
            .issuer_name(issuer_certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
            )
            .sign(issuer_key, hashes.SHA256())
        )
        encryption = (
            serialization.NoEncryption()
            if password is None
            else serialization.BestAvailableEncryption(password)
        )
        path = self.folder / f"client-{next(self._numbers)}.pfx"
        path.write_bytes(
            pkcs12.serialize_key_and_certificates(
                cn.encode(), key, certificate, [issuer_certificate], encryption
            )
        )
        return path


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Certificates for this session."""
    return Tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def sent_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that this process sends to PostgreSQL, as they go out."""
    sent: list[str] = []
    execute = Connection.execute

    def noted(connection: Connection, sql: str, values: Mapping[str, object] | None = None) -> Answer:
        sent.append(sql)
        return execute(connection, sql, values)

    monkeypatch.setattr(Connection, "execute", noted)
    return sent
