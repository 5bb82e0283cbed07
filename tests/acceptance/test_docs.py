"""The commands in the pages, run as they stand there; and the pages' links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import ExitCode
from simulators.postgres import PostgresServer
from world import REPOSITORY, World

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "MARKDOWN_DOCS").glob("*.md")]


def test_pages__shell_blocks_run(world: World, postgres: PostgresServer) -> None:
    world.dam.add_campaign("Summer", "C-1")
    world.sql("UPDATE schema_migrations SET applied_at = now()")
    url = urlsplit(world.database_url)
    tools = [str(Path(sys.executable).parent), str(Path(postgres.psql_path).parent), os.environ["PATH"]]
    environment = world.environment(
        PATH=os.pathsep.join(tools),
        PGHOST=str(url.hostname),
        PGPORT=str(url.port),
        PGUSER=str(url.username),
        PGPASSWORD=str(url.password),
        PGDATABASE=url.path[1:],
    )
    ran = 0
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{page.name}: {done.stderr}"
            ran += 1
    assert ran >= 2


def test_pages__links_and_pictures_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pages__exit_codes_are_all_told() -> None:
    for name in ("README.md", "RUN_ORCHESTRATOR.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert [code for code in ExitCode if f"| {code.value} |" not in text] == []
