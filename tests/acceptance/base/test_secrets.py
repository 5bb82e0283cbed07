"""Marked secrets in every variable and file, every script, many errors: no mark comes out anywhere.

The scripts run under the role of database/roles.sql, whose password is marked too.
"""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg2
import pytest
from psycopg2 import sql

from conftest import Tls
from shared.base.env_file import ENV_FILE_VARIABLE
from shared.base.redaction import spellings
from shared.settings import (
    ReportSettings,
    Settings,
    environment_for,
    read_environment,
    variables_of,
)
from simulators.dam import DamSimulator
from simulators.mail import MailSink
from simulators.postgres import EmbeddedPostgres, PostgresServer
from world import REPOSITORY, SCRIPTS, Run, World, zone_at

MARK = "m4rk"
"""In every secret, and in nothing else."""
SECRETS = {
    name: f"{MARK}-{name.lower()}-pä$$\"w%20ö'r<d>"
    if name in ("DAM_CLIENT_SECRET", "DAM_PASSWORD")
    else f"{MARK}-{name}"
    for name in (
        *("DB_PASSWORD", "DAM_PFX_PASSWORD", "DAM_CLIENT_SECRET", "DAM_PASSWORD"),
        *("BOX_CLIENT_SECRET", "SMTP_PASSWORD", "HEARTBEAT_URL"),
    )
}


class Watch:
    """Looks at the command lines of all processes, and at the environment of what the orchestrator starts."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.environments: dict[str, str] = {}
        self.looks = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._is_over.wait(0.1):
            self.looks += 1
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes().decode(errors="replace")
                    if MARK in line:
                        self.found.add(line)
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                    if b"orchestrator-prod.py" in Path("/proc", parent, "cmdline").read_bytes():
                        text = (process / "environ").read_bytes().decode(errors="replace")
                        if "orchestrator-prod.py" not in line:  # not between fork and exec
                            self.environments[process.name] = text
                except OSError:
                    continue

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


@pytest.fixture
def role(postgres: PostgresServer, database_url: str, worker: str) -> Iterator[str]:
    """The URL of the database as the role of database/roles.sql, applied twice."""
    name, database = f"a1_app_{worker}", urlsplit(database_url).path[1:]
    admin = postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url
    with as_role(admin) as cursor:  # making a role takes more than owning a database
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRETS['DB_PASSWORD']}'")
    with as_role(admin.replace(urlsplit(admin).path, urlsplit(database_url).path)) as cursor:
        # Before 15 the superuser owns schema public, and only its owner can close it to everybody.
        cursor.execute(f"ALTER SCHEMA public OWNER TO {urlsplit(database_url).username}")
    for _ in range(2):
        done = postgres.psql(
            *("-v", f"role={name}", "-f", REPOSITORY / "database" / "roles.sql"), database=database
        )
        assert done.returncode == 0, done.stderr
    parts = urlsplit(database_url)
    yield f"postgresql://{name}:{SECRETS['DB_PASSWORD']}@{parts.hostname}:{parts.port}{parts.path}"
    with as_role(admin.replace(urlsplit(admin).path, urlsplit(database_url).path)) as cursor:
        cursor.execute(f"DROP OWNED BY {name}")
        cursor.execute(f"DROP ROLE {name}")


@pytest.fixture
def marked(world: World, role: str, tls: Tls) -> Iterator[World]:
    """A world in which every secret is marked, and works."""
    world.dam.client_secret, world.dam.password = SECRETS["DAM_CLIENT_SECRET"], SECRETS["DAM_PASSWORD"]
    world.box._accounts.client_secret = SECRETS["BOX_CLIENT_SECRET"]
    with MailSink(username="robot", password=SECRETS["SMTP_PASSWORD"]) as mail:
        env = {
            **world.env,
            **{
                name: value for name, value in SECRETS.items() if name not in ("DB_PASSWORD", "HEARTBEAT_URL")
            },
            "DATABASE_URL": role,
            "DAM_PFX_PATH": str(tls.pfx(SECRETS["DAM_PFX_PASSWORD"].encode())),
            "HEARTBEAT_URL": f"http://127.0.0.1:9/{SECRETS['HEARTBEAT_URL']}",
            "SMTP_PORT": str(mail.port),
            "SMTP_USERNAME": "robot",
            "TMPDIR": str(world.folder),
        }
        yield replace(world, env=env, mail=mail)


def quoting(*names: str) -> dict[str, object]:
    """An error of a system that quotes the request back."""
    return {"exception_body": {"message": "refused: " + " ".join(SECRETS[name] for name in names)}}


def drive(world: World, postgres: PostgresServer) -> list[Run]:
    """Every script through what it does and into its errors."""
    uploader, dam, box = "a1_to_a2_box_uploader.py", world.dam, world.box
    full = world.add_full_campaign("Summer", "C-1")
    dam.add_campaign("Empty", "C-2")
    runs = [world.upload("-v"), world.upload("-v", LOG_FORMAT="json")]
    assert [run.exit_code for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr

    def under(simulator: DamSimulator, match: str, *arguments: str, **fault: object) -> None:
        simulator.fail(match, **fault)  # type: ignore[arg-type]
        for log_format in ("text", "json"):
            runs.append(world.upload("-v", *arguments, LOG_FORMAT=log_format))
        simulator.clear_faults()

    # Systems that refuse, fail, and quote what they were sent.
    under(dam, r"oauth2/token", status=401, body=quoting("DAM_CLIENT_SECRET", "DAM_PASSWORD"))
    under(dam, r"oauth2/token", status=500, body=quoting("DAM_CLIENT_SECRET", "DAM_PASSWORD"))
    under(dam, r"/children", status=403, body=quoting("DAM_CLIENT_SECRET", "DAM_PASSWORD"))
    under(dam, r"/children", status=200, body=quoting("DAM_PASSWORD", "DAM_CLIENT_SECRET"))
    under(dam, r"/search/text", status=400, body=quoting("DAM_PASSWORD"))
    runs.append(world.run(uploader, "--auth-password", "--json", "-v"))
    runs.append(world.run(uploader, "--auth-password", "--json", DAM_PASSWORD=SECRETS["DAM_PASSWORD"] + "x"))
    dam.set_status(full, "A1")
    dam.replace_content(dam.add_asset(dam.master_assets_folder(full), "new.jpg", b"n"), b"nn")
    said = {"error": "invalid_client", "error_description": f"secret {SECRETS['BOX_CLIENT_SECRET']} is wrong"}
    box.fail(r"/oauth2/token", status=400, body=json.dumps(said))
    runs += [world.upload("-v"), world.run(uploader, "--verify", full, "--json", "-v")]
    box.clear_faults()
    world.mail.refuse_all(535, f"5.7.8 bad password {SECRETS['SMTP_PASSWORD']}", stage="mail")
    runs.append(world.upload())
    world.mail.refuse_login = True
    runs += [world.upload(), world.run("daily_report.py")]
    world.mail.reset()

    # Settings that cannot work.
    def with_file(name: str, value: str) -> dict[str, str]:
        path = world.folder / f"{name}.secret"
        path.write_text(value, encoding="utf-8")
        return {f"{name}_FILE": str(path)}

    password = SECRETS["DB_PASSWORD"]
    broken: list[dict[str, str]] = [
        {"DATABASE_URL": f"postgresql://u:{password}%zz@127.0.0.1:1/x"},
        {"DATABASE_URL": f"postgresql://u:{password}@[::1/x"},
        {"DATABASE_URL": f"mysql://u:{password}@127.0.0.1/x"},
        {"DATABASE_URL": f"postgresql://u@127.0.0.1:1/x?password={quote(password)}&sslpassword={password}"},
        {"DATABASE_URL": f"postgresql://u:{password}@127.0.0.1:{urlsplit(world.env['DATABASE_URL']).port}/x"},
        {"DATABASE_URL": "", "DB_PASSWORD": password, "DB_PORT": "1", "DB_HOST": "127.0.0.1"},
        {"DAM_PFX_PASSWORD": SECRETS["DAM_PFX_PASSWORD"] + "x"},
        {"DAM_PFX_PASSWORD_FILE": "/nonexistent"},
        {"SMTP_PASSWORD": f"{SECRETS['SMTP_PASSWORD']}ü"},
        {"HEARTBEAT_URL": f"http://example.com/{SECRETS['HEARTBEAT_URL']}"},
        {"HEARTBEAT_URL": f"https://robot:{SECRETS['HEARTBEAT_URL']}@example.com/"},
        with_file("SMTP_PASSWORD", SECRETS["SMTP_PASSWORD"]),
        {"BOX_CLIENT_SECRET": "", **with_file("BOX_CLIENT_SECRET", SECRETS["BOX_CLIENT_SECRET"])},
    ]
    jwt = world.folder / "jwt.json"
    jwt.write_text(
        json.dumps(
            {
                "enterpriseID": "1",
                "boxAppSettings": {
                    "clientID": "a", "clientSecret": f"{MARK}-jwt-secret",
                    "appAuth": {
                        "publicKeyID": "k", "privateKey": f"-----{MARK}-key", "passphrase": f"{MARK}-pass",
                    },
                },
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    broken.append({"BOX_JWT_CONFIG": str(jwt)})
    env_file = world.folder / "settings.env"
    env_file.write_text(
        f"DAM_PASSWORD={SECRETS['DAM_PASSWORD']}\nthis is {MARK}, no setting\n", encoding="utf-8"
    )
    for changes in broken:
        runs.append(world.upload("-v", **changes))
        if "DATABASE_URL" in changes:
            runs += [
                world.run("migrate.py", "--status", **changes),
                world.run("a1_retry.py", "status", **changes),
            ]
        if "HEARTBEAT_URL" in changes or "SMTP_PASSWORD" in changes:
            runs.append(world.run("orchestrator-prod.py", "--check", **changes))
    runs.append(world.run(uploader, "--env-file", str(env_file)))

    # Everything else, as it should be.
    for words in (
        "migrate.py --status",
        "migrate.py",
        "a1_retry.py status --json",
        "a1_retry.py failed",
        "a1_retry.py reset --all-failed --yes",
        "daily_report.py --dry-run -v",
        "daily_report.py -v",
        "orchestrator-prod.py --check",
        "orchestrator-prod.py --list",
        "orchestrator-prod.py --explain --hours 1",
    ):
        runs.append(world.run(*words.split()))
    dam.fail(r"/search/text", delay=1.0, times=1)  # long enough to be looked at
    own = replace(world, python=None)  # what it starts is known by its command line
    runs.append(own.run("orchestrator-prod.py", "--once", "-v", OFF_HOURS_ENABLED="false"))
    return runs


def database_text(url: str) -> str:
    """All rows of all tables."""
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        rows = []
        for table in tables:
            cursor.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table)))
            rows += [row[0] for row in cursor.fetchall()]
    connection.close()
    assert len(tables) >= 12
    return "\n".join(rows)


def marks_in(text: str) -> list[str]:
    return re.findall(rf".{{0,80}}{MARK}.{{0,40}}", text)


@pytest.mark.timeout(300)
def test_secrets__come_out_nowhere(marked: World, postgres: PostgresServer, database_url: str) -> None:
    with Watch() as watch:
        runs = drive(marked, postgres)
    codes = {run.exit_code for run in runs}
    assert codes >= {0, 2, 4, 75}, codes
    assert 3 not in codes, [run.stderr for run in runs if run.exit_code == 3]
    for run in runs:
        assert marks_in(run.stdout) == []
        assert marks_in(run.stderr) == []
    assert marks_in(database_text(database_url)) == []
    assert marked.mail.messages
    for received in marked.mail.messages:
        assert marks_in(received.message.as_string()) == []
        for part in received.message.walk():
            assert marks_in(str(part.get_payload(decode=True))) == []
    given = {"jwt.json", "settings.env", "SMTP_PASSWORD.secret", "BOX_CLIENT_SECRET.secret"}
    left = [path for path in marked.folder.rglob("*") if path.is_file() and path.name not in given]
    assert [path for path in left if MARK.encode() in path.read_bytes()] == [], "TMPDIR was this folder"
    assert watch.looks > 50
    assert watch.found == set()
    shown = list(watch.environments.values())
    assert any(SECRETS["DAM_PASSWORD"] in text for text in shown)  # the uploader; the report is shown none
    assert not any(SECRETS["HEARTBEAT_URL"] in text for text in shown)


def test_child__is_shown_what_it_reads() -> None:
    env = {name: "x" for name in (*SECRETS, "DAM_PASSWORD_FILE", "DATABASE_URL_FILE", "PATH", "https_proxy")}
    report = environment_for(variables_of(ReportSettings), env)
    assert set(report) == {"DB_PASSWORD", "SMTP_PASSWORD", "DATABASE_URL_FILE", "PATH", "https_proxy"}
    uploader = environment_for(variables_of(Settings), env)
    assert set(env) - set(uploader) == {"HEARTBEAT_URL"}
    assert set(env) - set(environment_for(None, env)) == {"HEARTBEAT_URL"}


@pytest.mark.timeout(120)
def test_child__is_shown_what_it_reads_as_deployed(marked: World) -> None:
    """All settings in the env file, as the unit and the crontab have them."""
    env_file = marked.folder / "env"
    settings = {**marked.env, "OFF_HOURS_ENABLED": "false", "ORCHESTRATOR_TIMEZONE": zone_at(20)}
    lines = (f"{name}='{value.replace(chr(39), chr(92) + chr(39))}'\n" for name, value in settings.items())
    env_file.write_text("".join(lines), encoding="utf-8")
    env_file.chmod(0o600)
    marked.dam.fail(r"/search/text", delay=1.0, times=1)  # long enough to be looked at
    with Watch() as watch:
        done = Run(*started_alone("--once", "--env-file", str(env_file)))
    assert done.exit_code == 0, done.stderr
    assert watch.found == set()
    # Other tests' tasks may run beside this one.
    ours = [text for text in watch.environments.values() if f"A1_TO_A2_ENV_FILE={env_file}" in text]
    assert all("A1_TO_A2_RUN_ID=" in text for text in ours)
    shown = {frozenset(name for name in SECRETS if SECRETS[name] in text) for text in ours}
    of_report = {"DB_PASSWORD", "SMTP_PASSWORD"}
    assert shown == {frozenset(of_report), frozenset(SECRETS.keys() - {"HEARTBEAT_URL"})}
    assert {row["exit_code"] for row in marked.sql("SELECT exit_code FROM orchestrator_task_runs")} == {0}


def started_alone(*arguments: str) -> tuple[int, str, str]:
    """The orchestrator with nothing in its environment."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "orchestrator-prod.py", *arguments],
        env={"PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("mode", "is_warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)]
)
def test_env_file__open_to_others_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_warned: bool
) -> None:
    path = tmp_path / "my settings.env"
    path.write_text("A=b\n", encoding="utf-8")
    path.chmod(mode)
    assert read_environment(path, {}) == {"A": "b", ENV_FILE_VARIABLE: str(path)}
    assert (f"chmod 600 '{path}'" in caplog.text) is is_warned


def test_pages__and_the_rule_agree_on_modes() -> None:
    for name in ("README.md", "RUN_ORCHESTRATOR.md", "MARKDOWN_DOCS/TROUBLESHOOTING.md"):
        found = re.findall(r"install -m (\d+) -o a1-to-a2 ", (REPOSITORY / name).read_text(encoding="utf-8"))
        assert found, name
        assert all(int(mode, 8) & (stat.S_IRWXG | stat.S_IRWXO) == 0 for mode in found), name


def test_spellings__cover_how_a_secret_is_written() -> None:
    secret = SECRETS["DAM_PASSWORD"]
    forms = spellings([secret])
    for form in (
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        repr(secret),
        quote(secret),
        secret,
    ):
        assert any(known in form for known in forms)


# The role


@contextmanager
def as_role(url: str) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


def test_role__can_change_no_table(role: str, database_url: str) -> None:
    with as_role(role) as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        forbidden = [
            *(f"DROP TABLE {table}" for table in tables),
            *(f"ALTER TABLE {table} ADD COLUMN x INTEGER" for table in tables),
            *(f"TRUNCATE {table}" for table in tables),
            *(f"CREATE TRIGGER x AFTER INSERT ON {table} EXECUTE FUNCTION now()" for table in tables),
            "CREATE TABLE mine (x INTEGER)",
            "CREATE ROLE mine",
            "CREATE DATABASE mine",
            "CREATE INDEX x ON campaign_status (status)",
            "DELETE FROM campaign_status",
            "DELETE FROM run_epochs",
            "UPDATE notices SET subject = ''",
            "UPDATE campaign_events SET reason = ''",
            "INSERT INTO campaign_events (campaign_id, kind, actor, source) VALUES ('c', 'reset', '', '')",
            "SELECT add_campaign_event('c', 'reset', 1, '', '{}', NULL)",
            "INSERT INTO schema_migrations (name) VALUES ('x')",
            "COPY campaign_status TO PROGRAM 'cat'",
            "COPY campaign_status TO '/tmp/x'",
            "SELECT pg_read_file('/etc/passwd')",
        ]
        for statement in forbidden:
            with pytest.raises(psycopg2.Error) as told:
                cursor.execute(statement)
            assert told.value.pgcode in ("42501", "0LP01"), (statement, told.value)
    granted = (REPOSITORY / "database" / "roles.sql").read_text(encoding="utf-8")
    with as_role(database_url) as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        missing = [row[0] for row in cursor.fetchall() if not re.search(rf"\b{row[0]}\b", granted)]
    assert missing == [], "grant what the scripts need of it in database/roles.sql"


def test_role__migrations_are_told_to_run_as_the_owner(role: str) -> None:
    with as_role(role) as cursor, pytest.raises(psycopg2.Error):
        cursor.execute("ALTER TABLE campaign_status ADD COLUMN x INTEGER")
    done = subprocess.run(
        [sys.executable, SCRIPTS / "migrate.py", "--status"],
        env={"DATABASE_URL": role, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_role__is_enough_for_the_scenarios(marked: World) -> None:
    """Temporary, persistent, reset, wrong status, a large file, an error, the report, the orchestrator."""
    temporary, persistent = (
        marked.dam.add_campaign("Temporary", "C-1"),
        marked.dam.add_campaign("Persistent", "C-2"),
    )
    film = marked.add_full_campaign("Film", "C-3", [("film.mp4", bytes(21 * 1024 * 1024))])
    broken = marked.add_full_campaign("Broken", "C-4")
    marked.dam.fail(rf"PATCH .*{broken}", status=403)
    assert marked.upload().exit_code == 4
    marked.dam.add_asset(marked.dam.master_assets_folder(temporary), "a.jpg", b"a")
    marked.dam.clear_faults()
    outcomes = [marked.upload().outcomes for _ in range(2)]
    assert outcomes[0][temporary] == outcomes[0][broken] == "uploaded"
    assert outcomes[1][persistent] == "permanently_failed"
    assert marked.run("a1_retry.py", "reset", persistent).exit_code == 0
    assert marked.upload().outcomes[persistent] == "empty"
    marked.dam.set_status(persistent, "B1")
    assert marked.upload().exit_code == 0
    assert marked.row(persistent)["status"] == "B1"
    assert marked.dam.status(film) == "A2"
    assert marked.run("daily_report.py").exit_code == 0
    assert marked.run("orchestrator-prod.py", "--once", "-v", OFF_HOURS_ENABLED="false").exit_code == 0
    assert marked.run("orchestrator-prod.py", "--check").exit_code == 0
    assert "📊 Daily Report" in " ".join(marked.subjects)
