"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "scripts" / "shared"
RULES = {
    "errors",
    "models",
    "clocks",
    "cadence",
    "commands",
    "retry",
    "names",
    "rate",
    "alerts",
    "report",
    "redaction",
    "migrations",
}
WIRE = {"wire", "ahead"}
"""HTTP itself, and calls made ahead of their turn: they know no system."""
SYSTEMS = {
    "dam": {"dam", "dam_session", "dam_answers", "client_certificate"},
    "box": {"box", "box_session"},
    "database": {"database", "connection", "database_errors"},
    "notifier": {"notifier"},
}


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """(modules of ours, other top-level packages) that a module imports anywhere in its source."""
    tree = ast.parse((SHARED / f"{module}.py").read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    ours = {name.removeprefix("shared.") for name in names if name.startswith("shared.")}
    return ours, {name.split(".")[0] for name in names if not name.startswith("shared.")}


@pytest.mark.parametrize("module", sorted(RULES))
def test_rules__import_the_standard_library_and_one_another(module: str) -> None:
    ours, others = imports_of(module)
    assert ours <= RULES
    assert others <= sys.stdlib_module_names


@pytest.mark.parametrize("module", sorted(WIRE))
def test_wire__knows_no_system(module: str) -> None:
    ours, others = imports_of(module)
    assert ours == set()
    assert others <= sys.stdlib_module_names | {"certifi", "cryptography"}


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_systems__know_neither_one_another_nor_the_settings(system: str) -> None:
    for module in SYSTEMS[system]:
        ours, _ = imports_of(module)
        assert ours <= RULES | WIRE | SYSTEMS[system], module
        assert "environ" not in (SHARED / f"{module}.py").read_text(encoding="utf-8"), module
