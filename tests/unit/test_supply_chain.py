"""What production installs, by hash; and that the page of promises names tests that exist."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "MARKDOWN_DOCS" / "RELIABILITY_AND_SECURITY.md"


def pins() -> dict[str, tuple[str, str, int]]:
    """{name: (version, marker, number of hashes)} of requirements.txt."""
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    text = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+) *(?:; (.*?))? *((?: --hash=sha256:[0-9a-f]{64} *)+)", line)
        assert match is not None, line
        found[match[1]] = (match[2], match[3] or "", match[4].count("--hash"))
    return found


def test_requirements__are_pinned_by_hash_and_agree_with_pyproject() -> None:
    found = pins()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = dict(line.lower().split("==") for line in project["dependencies"])
    assert {name: found[name][0] for name in wanted} == wanted
    # Compiled packages come as one file a platform and version of Python.
    assert all(found[name][2] > 20 for name in ("cffi", "cryptography", "markupsafe", "psycopg2-binary"))


def test_requirements__are_what_the_tests_run_with() -> None:
    installed = {name: importlib.metadata.version(name) for name in pins()}
    assert installed == {name: version for name, (version, _, _) in pins().items()}


def test_makefile__installs_production_by_hash_before_the_rest() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert makefile.index("--require-hashes -r requirements.txt") < makefile.index("-r requirements-dev.txt")
    assert not (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8").count("-r requirements.txt")


def test_promises__name_tests_that_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:unit|integration|acceptance|crash)/\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for path, test in named:
        source = (REPOSITORY / "tests" / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{path}::{test}"


def test_promises__every_row_names_its_proof() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    proofs = [row.split("|")[-2] for row in rows if not row.startswith("| promise")]
    assert len(proofs) > 20
    assert [proof for proof in proofs if "`" not in proof] == []
