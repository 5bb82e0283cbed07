"""Who may import whom: the direction over the wings (MARKDOWN_DOCS/ARCHITECTURE.md), read from the source."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHARED = SCRIPTS / "shared"

_CLIENTS = {"base", "rules", "http", "dam", "box"}
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "http": {"base"},
    "rules": {"base"},
    "dam": {"base", "http"},
    "box": {"base", "http"},
    "settings": {"base", "rules"},
    "postgres": {"base"},
    "database": {"base", "rules", "postgres"},
    "upkeep": {"base", "database"},
    "notices": {"base", "rules", "database"},
    "webhooks": {"base", "rules", "http", "database", "notices"},
    "report": {"base", "rules", "database", "upkeep", "notices"},
    "notifier": {"base", "rules", "notices", "report"},
    "upload": {*_CLIENTS, "settings", "database", "upkeep", "notices", "webhooks", "notifier"},
    "loop": {*_CLIENTS, "settings", "database", "upkeep", "notices", "webhooks", "notifier"},
    "scale": {"base", "dam", "settings", "database", "upkeep", "notices", "upload", "loop"},
    "page": {"base", "rules", "settings", "database", "upkeep", "notices", "report", "loop"},
}
"""{wing, or module that belongs to none: those it may import besides itself}. What stands lower may import
what stands higher, never the other way.
"""
PACKAGES = {"base": {"dotenv"}, "rules": set(), "http": {"requests", "urllib3", "certifi", "cryptography"}}
"""What these wings may import besides the standard library."""
WITHOUT_ENVIRONMENT = {"dam", "box", "postgres", "database", "notices", "webhooks", "notifier"}
"""Given their settings: they read none themselves."""


def files_of(wing: str) -> list[Path]:
    """The source of a wing, or of the module that stands alone."""
    alone = SHARED / f"{wing}.py"
    return [alone] if alone.exists() else sorted((SHARED / wing).rglob("*.py"))


def imports_of(source: str) -> tuple[set[str], set[str]]:
    """(wings of ours, other top-level packages) that a module imports anywhere in its source."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import: write `from shared.x import y`"
            module = node.module or ""
            names += [f"shared.{alias.name}" for alias in node.names] if module == "shared" else [module]
    parts = [name.split(".") for name in names]
    return (
        {name[1] for name in parts if name[0] == "shared" and len(name) > 1},
        {name[0] for name in parts if name[0] != "shared"},
    )


def test_wings__are_all_known_and_go_one_way() -> None:
    found = {path.name for path in SHARED.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {*found, *(path.stem for path in SHARED.glob("*.py"))} == MAY_IMPORT.keys()
    TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_wing__imports_only_what_stands_above_it(wing: str) -> None:
    ours_outside = {path.stem for path in SCRIPTS.iterdir()} - {"shared"}
    for path in files_of(wing):
        ours, others = imports_of(path.read_text(encoding="utf-8"))
        assert ours <= MAY_IMPORT[wing] | {wing}, path
        assert not others & ours_outside, path
        if wing in PACKAGES:
            assert others <= sys.stdlib_module_names | PACKAGES[wing], path


def test_engine__is_imported_by_one_module_only() -> None:
    importing = [
        path.name
        for path in [*SHARED.rglob("*.py"), *SCRIPTS.glob("*.py")]
        if imports_of(path.read_text(encoding="utf-8"))[1] & {"procrastinate", "psycopg", "psycopg_pool"}
    ]
    assert importing == ["engine.py"]


@pytest.mark.parametrize("wing", sorted(WITHOUT_ENVIRONMENT))
def test_wing__reads_no_environment(wing: str) -> None:
    for path in files_of(wing):
        assert "environ" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("wing", sorted(path.parent.name for path in SHARED.glob("*/__init__.py")))
def test_wing__says_what_it_is_for_and_loads_nothing(wing: str) -> None:
    (only,) = ast.parse((SHARED / wing / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(only, ast.Expr)
    assert isinstance(only.value, ast.Constant)


@pytest.mark.parametrize(
    "source",
    [
        "import shared.loop.journal",
        "from shared.loop import journal",
        "from shared.loop.journal import Journal",
        "from shared import loop",
        "def f():\n    from shared.loop.journal import Journal",
        "if TYPE_CHECKING:\n    from shared.loop.journal import Journal",
    ],
)
def test_import__is_seen_in_every_form(source: str) -> None:
    assert imports_of(source) == ({"loop"}, set())
