"""The commands in the pages, run as they stand there; and the pages' links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from page import PASSWORD, Browser
from shared.base.errors import ExitCode
from shared.page.acts import CHANGED, ENDED, LOCKED, NOT_READ, TOO_MANY, UNKNOWN, UNTOUCHED
from shared.page.app import create_app
from shared.page.app_context import EXTENSION
from shared.page.filters import STATES
from shared.settings import PageSettings, load_page_settings, read_environment, variables_of
from simulators.postgres import EmbeddedPostgres, PostgresServer
from world import REPOSITORY, World

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "MARKDOWN_DOCS").glob("*.md")]


PSQL_AS_WRITTEN = "PGPASSWORD=… psql -h localhost -p 5437 -U ferrero_user -d ferrero_tracking"
RETRY_PAGE = REPOSITORY / "MARKDOWN_DOCS" / "A1_RETRY_LOGIC.md"
OPERATORS_PAGE = REPOSITORY / "MARKDOWN_DOCS" / "OPERATORS_PAGE.md"


def blocks(page: Path, language: str, *, below: str = "") -> list[str]:
    """The fenced blocks of a page, or of what stands below one of its headings."""
    text = page.read_text(encoding="utf-8")
    if below:
        text = re.split(r"\n##+ ", text.partition(f"# {below}\n")[2])[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Shell:
    """A shell on a machine where psql, `python` and the settings are at hand."""

    def __init__(self, world: World, postgres: PostgresServer) -> None:
        url = urlsplit(world.database_url)
        server = f"-h {url.hostname} -p {url.port} -U {url.username} -d {url.path[1:]}"
        self._psql = f"PGPASSWORD='{url.password}' psql {server}"
        tools = [str(Path(sys.executable).parent), str(Path(postgres.psql_path).parent), os.environ["PATH"]]
        self._environment = world.environment(
            PATH=os.pathsep.join(tools),
            PGHOST=str(url.hostname),
            PGPORT=str(url.port),
            PGUSER=str(url.username),
            PGPASSWORD=str(url.password),
            PGDATABASE=url.path[1:],
        )

    def run(self, block: str) -> str:
        """What the block prints; it must work, each statement of it."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace(PSQL_AS_WRITTEN, self._psql)],
            cwd=REPOSITORY, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}: {done.stderr}"
        assert "ERROR" not in done.stderr
        return done.stdout


@pytest.fixture
def shell(world: World, postgres: PostgresServer) -> Shell:
    return Shell(world, postgres)


def test_pages__shell_blocks_run(world: World, shell: Shell) -> None:
    world.dam.add_campaign("Summer", "C-1")
    world.sql("UPDATE schema_migrations SET applied_at = now()")
    found = [block for page in PAGES for block in blocks(page, "bash")]
    assert len(found) >= 5
    for block in found:
        shell.run(block)


def test_retry_page__psql_lines_are_whole() -> None:
    lines = [
        line for block in blocks(RETRY_PAGE, "bash") for line in block.splitlines() if "PGPASSWORD" in line
    ]
    assert len(lines) == 6
    assert all(line.startswith(PSQL_AS_WRITTEN) for line in lines)


def test_retry_page__its_tests_by_hand_show_what_it_says(world: World, shell: Shell) -> None:
    campaign = world.dam.add_campaign("Summer", "TEST_CAMPAIGN")
    (three_runs,) = blocks(RETRY_PAGE, "bash", below="Test the retry logic")
    shown = shell.run(three_runs)
    assert re.findall(r"TEST_CAMPAIGN +\| +(\d) \| ([tf])", shown) == [("1", "f"), ("2", "f"), ("3", "t")]
    assert [subject[:2] for subject in world.subjects] == ["⚠️", "⚠️", "❌ "]
    (reset,) = blocks(RETRY_PAGE, "bash", below="Test the reset")
    assert re.findall(r"TEST_CAMPAIGN +\| +(\d) \| ([tf])", shell.run(reset)) == [("1", "f")]
    assert "(Attempt 1/3)" in world.subjects[-1]
    assert world.row(campaign)["a1_retry_count"] == 1


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [
        ("Reset a single campaign", {"failed"}),
        ("Reset all failed campaigns", {"failed"}),
        ("View all failed campaigns", set()),
    ],
)
def test_retry_page__resets_reset(world: World, shell: Shell, heading: str, wanted: set[str]) -> None:
    for language in ("sql", "bash"):
        for block in blocks(RETRY_PAGE, language, below=heading):
            world.sql("DELETE FROM campaign_status")
            world.sql(
                "INSERT INTO campaign_status (campaign_id, campaign_number, status, a1_retry_count,"
                " a1_permanently_failed) VALUES ('YOUR_CAMPAIGN_ID', 'YOUR_CAMPAIGN_NUMBER', 'A1', 3, TRUE),"
                " ('near', 'N', 'A1', 2, FALSE)"
            )
            if language == "sql":
                world.sql(block)
            else:
                shell.run(block)
            rows = world.sql("SELECT campaign_id, a1_retry_count AS n FROM campaign_status ORDER BY 1 DESC")
            assert rows == [
                {"campaign_id": "near", "n": 2},
                {"campaign_id": "YOUR_CAMPAIGN_ID", "n": 0 if wanted else 3},
            ], block


def test_retry_page__monitoring_counts_and_orders(world: World) -> None:
    world.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, status, a1_retry_count, a1_last_retry_at,"
        " a1_permanently_failed) SELECT number, number, status, count, now() - ago * interval '1 h', failed"
        " FROM (VALUES ('a', 'A1', 0, NULL, FALSE), ('b', 'A1', 1, 1, FALSE), ('c', 'A1', 2, 2, FALSE),"
        " ('d', 'A1', 2, 1, FALSE), ('e', 'A1', 3, 1, TRUE), ('f', 'A2', 0, NULL, FALSE),"
        " ('g', 'A2', 2, 1, FALSE)) AS v (number, status, count, ago, failed)"
    )
    (dashboard,) = blocks(RETRY_PAGE, "sql", below="Dashboard query: current retry status")
    assert world.sql(dashboard) == [{"No Issues": 1, "Attempt 1": 1, "Attempt 2": 2, "Permanently Failed": 1}]
    (alert,) = blocks(RETRY_PAGE, "sql", below="Alert query: campaigns near failure")
    assert [row["campaign_number"] for row in world.sql(alert)] == ["d", "c"]


def test_retry_page__code_is_where_it_says() -> None:
    rows = re.findall(
        r"^\| [^|]+ \| `([a-z0-9_/.-]+\.[a-z0-9]+)` \| ([^|]+) \|$",
        RETRY_PAGE.read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) >= 12
    for file, functions in rows:
        code = (REPOSITORY / file).read_text(encoding="utf-8")
        for function in re.findall(r"`(\w+)`", functions):
            assert f"def {function}(" in code, f"{file} has no {function}"


def test_operators_page__is_set_up_and_removed_as_written(
    database_url: str, postgres: PostgresServer, tmp_path: Path, python: str
) -> None:
    """Each line is run, on folders and roles of this test, without what makes users and services."""
    url, role = urlsplit(database_url), f"page_{uuid.uuid4().hex[:12]}"
    etc = tmp_path / "etc/a1-to-a2"
    etc.mkdir(parents=True)
    (tmp_path / "etc/nginx/conf.d").mkdir(parents=True)
    (etc / "env").write_text(
        f"DB_HOST={url.hostname}\nDB_PORT={url.port}\nDB_NAME={url.path[1:]}\nDB_USER={role}_scripts\n"
        "DB_PASSWORD=of-the-uploader\nORCHESTRATOR_TIMEZONE=Europe/Rome\nA1_MAX_RETRIES=4\n"
        "DAM_STATUS_A1=A1\nDAM_STATUS_FIELD_ID=status\nDAM_CLIENT_SECRET=of-the-dam\n"
    )
    (etc / "env").chmod(0o600)
    settings_file = etc / "page.env"
    # Making a role takes more than owning a database.
    admin = urlsplit(postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url)
    libpq = {"HOST": url.hostname, "PORT": url.port, "USER": admin.username, "PASSWORD": admin.password}
    tools = [str(Path(postgres.psql_path).parent), os.environ["PATH"]]
    environment = {f"PG{name}": str(value) for name, value in libpq.items()}
    environment |= {"PGDATABASE": url.path[1:], "PATH": os.pathsep.join(tools), "PYTHON": python}
    environment |= {"A1_TO_A2_ENV": str(settings_file), "DESTDIR": str(tmp_path)}
    owner = f"DB_USER={admin.username} DB_PASSWORD={admin.password}"
    both = f"--env-file {etc}/env --page-env-file {settings_file}"

    def run(script: str) -> str:
        for written, here in (
            (r"make install PAGE=1", "PAGE=1 bash scripts/deployment/install.sh install"),
            (r"psql .* -c '\\password (\w+)'", rf"""psql -c "ALTER ROLE \1 PASSWORD '{PASSWORD}'" """),
            (r"-U postgres -d ferrero_tracking", ""),
            (r"a1_to_a2_page", role),
            (r"/etc/", f"{tmp_path}/etc/"),
            (
                r"DB_USER=OWNER DB_PASSWORD=… a1-to-a2 grant",
                f"{owner} {sys.executable} scripts/grant_rights.py {both}",
            ),
            (r"a1-to-a2 (page-user)", rf"echo {PASSWORD} | {sys.executable} scripts/a1_retry.py \1"),
            (r"a1-to-a2 page-check", f"{sys.executable} scripts/admin_page.py --check"),
            (r"useradd|userdel|systemctl", ":"),
        ):
            script = re.sub(written, here, script)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stderr}"
        return done.stdout

    install, filled_in, commands = blocks(OPERATORS_PAGE, "text", below="Set it up")
    run(install)
    text = settings_file.read_text(encoding="utf-8")
    for line in filled_in.replace("…", PASSWORD).splitlines():
        text, count = re.subn(rf"^#?{line.partition('=')[0]}=.*$", line, text, flags=re.MULTILINE)
        assert count == 1, line
    settings_file.write_text(text.replace("a1_to_a2_page", role).replace("=/etc/", f"={tmp_path}/etc/"))
    said = run(commands)
    assert said.endswith(f"settings: ok\nusers: 1 in {etc}/page-users\ndatabase: ok\n")
    assert set(re.findall(r"^(\w+)=", text, re.MULTILINE)) <= variables_of(PageSettings)
    assert "A1_MAX_RETRIES=4" in text
    assert "=of-" not in text

    app = create_app(load_page_settings(read_environment(settings_file)))
    browser = Browser(app, "https://a1-to-a2.example.com")
    assert browser.log_in("olga", PASSWORD).status_code == 303
    for path in ("/", "/campaigns", "/runs", "/notices", "/audit", "/metrics", "/readyz"):
        assert browser.get(path).status_code == 200, path
    app.extensions[EXTENSION].connections.get().close()
    # A command as the campaign's page shows it.
    failed = "INSERT INTO campaign_status (campaign_id, status, a1_retry_count, a1_permanently_failed)"
    postgres.psql("-c", f"{failed} VALUES ('stuck', 'A1', 3, TRUE)", database=url.path[1:]).check_returncode()
    tool = [sys.executable, REPOSITORY / "scripts/a1_retry.py", "reset", "stuck", "--env-file", settings_file]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr

    run("\n".join(blocks(OPERATORS_PAGE, "text", below="Upgrade and remove it")))
    assert sorted(path.name for path in etc.iterdir()) == ["env"]
    assert not (tmp_path / "etc/systemd/system/a1-to-a2-page.service").exists()
    drop = f"DROP OWNED BY {role}_scripts; DROP ROLE {role}_scripts"
    PostgresServer(admin.geturl()).psql("-c", drop, database=url.path[1:]).check_returncode()


def test_operators_page__tells_each_filter_and_each_reason_to_skip() -> None:
    text = OPERATORS_PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:`(\w+)`|\(none\)) \| ([^|]+) \|", text.partition("`state=`")[2], re.MULTILINE)
    assert rows[: len(STATES)] == list(STATES.items())
    for why in (CHANGED, LOCKED, TOO_MANY, NOT_READ, UNKNOWN, UNTOUCHED, ENDED):
        assert f"| {why}" in text, why


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may have behind its #, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages__links_and_pictures_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
            if "://" in target:
                continue
            meant = page.parent / target if target else page
            assert meant.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(meant), f"{page.name} links to {target}#{anchor}"


def test_pages__exit_codes_are_all_told() -> None:
    for name in ("README.md", "RUN_ORCHESTRATOR.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert [code for code in ExitCode if f"| {code.value} |" not in text] == []
