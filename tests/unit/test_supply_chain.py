"""What production and the tests install, by hash; and that the page of promises names tests that exist."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from itertools import combinations
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "MARKDOWN_DOCS" / "RELIABILITY_AND_SECURITY.md"


def pins(file: str = "requirements.txt") -> dict[str, tuple[str, str, int]]:
    """{name: (version, marker, number of hashes)} of a list."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    text = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+) *(?:; (.*?))? *((?: --hash=sha256:[0-9a-f]{64} *)+)", line)
        assert match is not None, line
        found[match[1]] = (match[2], match[3] or "", match[4].count("--hash"))
    return found


def directly_wanted(names: list[str]) -> dict[str, str]:
    """{name: version} of pyproject's lines; what is in brackets is the resolver's business."""
    return dict(re.sub(r"\[.*\]", "", line).lower().split("==") for line in names)


def test_requirements__are_pinned_by_hash_and_agree_with_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    for file, names in (
        ("requirements.txt", project["project"]["dependencies"]),
        ("requirements-page.txt", project["dependency-groups"]["page"]),
        ("requirements-scale.txt", project["dependency-groups"]["scale"]),
        ("requirements-dev.txt", project["dependency-groups"]["dev"]),
    ):
        found, wanted = pins(file), directly_wanted(names)
        assert {name: found[name][0] for name in wanted} == wanted
    production, development = pins(), pins("requirements-dev.txt")
    # Compiled packages come as one file a platform and version of Python.
    assert all(production[name][2] > 20 for name in ("cffi", "cryptography", "markupsafe", "psycopg2-binary"))
    lists = [production, pins("requirements-page.txt"), pins("requirements-scale.txt"), development]
    for one, other in combinations(lists, 2):
        both = one.keys() & other.keys()
        assert {name: one[name][0] for name in both} == {name: other[name][0] for name in both}


def test_requirements__are_what_the_tests_run_with() -> None:
    installed = {name: importlib.metadata.version(name) for name in pins()}
    assert installed == {name: version for name, (version, _, _) in pins().items()}


def test_makefile__installs_by_hash_and_production_before_the_rest() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    installed = re.findall(r"-m pip install.* -r (requirements\S*)", makefile)
    by_hash = re.findall(r"-m pip install.* --require-hashes -r (requirements\S*)", makefile)
    wanted = ["requirements.txt", "requirements-page.txt", "requirements-scale.txt", "requirements-dev.txt"]
    assert installed == by_hash == wanted


def test_license__is_there_and_named() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "MIT"
    [file] = project["license-files"]
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 the a1-to-a2 authors\n")


def test_promises__name_tests_that_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:unit|integration|acceptance|crash)/(?:\w+/)?\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for path, test in named:
        source = (REPOSITORY / "tests" / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{path}::{test}"


def test_promises__every_row_names_its_proof() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [row for table in tables if table.startswith("| promise") for row in table.splitlines()[2:]]
    proofs = [row.split("|")[-2] for row in rows]
    assert len(proofs) > 20
    assert [proof for proof in proofs if "`" not in proof] == []
