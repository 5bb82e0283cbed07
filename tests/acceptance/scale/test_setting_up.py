"""What ENGINE=procrastinate needs, and what is said when something is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from fleet import SCHEMA, Fleet, add_engine
from pooler import pooled
from shared.database import Database
from simulators.postgres import EmbeddedPostgres, PostgresServer
from world import REPOSITORY, SCRIPTS, World

ENGINE = {"ENGINE": "procrastinate"}


def test_tables__missing_are_named_with_the_file_that_makes_them(
    world: World, postgres: PostgresServer
) -> None:
    runs = [
        world.upload(**ENGINE),
        world.finish(world.start("a1_worker.py", "--auth-pfx-v2", **ENGINE)),
        world.run("orchestrator-prod.py", "--check", **ENGINE),
        world.run("migrate.py", "--status", **ENGINE),
    ]
    for run in runs:
        assert run.exit_code == 2, run.stderr
        assert f"psql -v ON_ERROR_STOP=1 -f {SCHEMA}" in run.stdout + run.stderr
    assert world.upload().exit_code == 0, "ENGINE=local needs none of it"
    add_engine(postgres, world.database_url)
    assert world.upload(**ENGINE).exit_code == 0
    assert world.run("orchestrator-prod.py", "--check", **ENGINE).exit_code == 0
    assert world.run("migrate.py", "--status", **ENGINE).exit_code == 0


def test_tables__are_the_installed_versions_and_are_made_once(world: World, postgres: PostgresServer) -> None:
    from procrastinate.schema import SchemaManager

    ours = SCHEMA.read_text(encoding="utf-8").split("-- " + "-" * 117)
    assert len(ours) == 3
    assert ours[1].strip() == SchemaManager.get_schema().strip()
    name = urlsplit(world.database_url).path.removeprefix("/")
    for said in ("", "already there; nothing was changed"):
        done = postgres.psql("--quiet", "-v", "ON_ERROR_STOP=1", "-f", SCHEMA, database=name)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_worker__refuses_to_start_without_the_engine(world: World) -> None:
    run = world.finish(world.start("a1_worker.py"))
    assert run.exit_code == 2
    assert "ENGINE: is local, so runs leave nothing to workers; set ENGINE=procrastinate" in run.stderr


def test_packages__missing_are_named_with_their_list(world: World) -> None:
    code = (
        "import runpy, sys\n"
        "path = sys.argv[1]\n"
        "class Less:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def find_spec(self, name, *more):\n"
        "        gone = name in ('procrastinate', 'psycopg')\n"
        "        return None if gone else self.finder.find_spec(name, *more)\n"
        "sys.meta_path[:] = [Less(finder) for finder in sys.meta_path]\n"
        "sys.argv[:] = [path]\n"
        "sys.path.insert(0, path.rpartition('/')[0]); runpy.run_path(path, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPTS / "a1_worker.py"],
        env=world.environment(**ENGINE), cwd=world.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"a1_worker.py: {sys.executable} lacks these packages: procrastinate, psycopg; install them:"
        f" {sys.executable} -m pip install --require-hashes -r {REPOSITORY}/requirements-scale.txt\n"
    )


@pytest.fixture
def role(fleet: Fleet, postgres: PostgresServer) -> Iterator[str]:
    """The URL of the database as the role of database/roles.sql; workers end before it is gone."""
    url = urlsplit(fleet.world.database_url)
    name = f"role_{url.path[1:]}"
    admin = postgres.admin_url if isinstance(postgres, EmbeddedPostgres) else postgres.url
    with Database(admin) as superuser:
        superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'only-for-tests'")
    roles = REPOSITORY / "database" / "roles.sql"
    done = postgres.psql("-v", f"role={name}", "-f", roles, database=url.path[1:])
    assert done.returncode == 0, done.stderr
    yield url._replace(netloc=f"{name}:only-for-tests@{url.hostname}:{url.port}").geturl()
    fleet.end()
    with Database(urlsplit(admin)._replace(path=url.path).geturl()) as superuser:
        superuser.execute(f"DROP OWNED BY {name}")
        superuser.execute(f"DROP ROLE {name}")


def test_worker__works_with_the_rights_of_roles_sql(fleet: Fleet, role: str) -> None:
    fleet.world.changes["DATABASE_URL"] = role
    _assert_works(fleet)


def test_worker__works_through_a_pooler_in_transaction_mode(fleet: Fleet) -> None:
    """Only the engine goes through it; all else needs a session of its own."""
    with pooled(fleet.world.database_url) as through:
        fleet.world.changes |= {"ENGINE_DATABASE_URL": through, "ENGINE_LISTEN": "false"}
        _assert_works(fleet)
        fleet.end()


def _assert_works(fleet: Fleet) -> None:
    """With so many campaigns, each of the engine's statements goes often."""
    campaigns = [fleet.world.add_full_campaign(f"Summer {n}", f"C-{n}") for n in range(12)]
    worker = fleet.worker()
    assert fleet.tick().exit_code == 0
    fleet.wait_until_idle()
    assert {fleet.world.dam.status(campaign) for campaign in campaigns} == {"A2"}
    assert "begins again" not in worker.text
    assert worker.stop() == 0
    assert fleet.names == []
