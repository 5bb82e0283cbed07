"""Imported first by each script: an old Python, or one without our packages, is one line and exit code 2.

Python 3.6 must be able to read this file and the scripts, so that they can say what is wrong with it.
"""

import os
import sys

PYTHON = (3, 11)
PACKAGES = ("certifi", "cryptography", "dotenv", "jinja2", "jwt", "psycopg2", "requests", "urllib3")
"""What the scripts import of requirements.txt."""

_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120


def fault_of(version: tuple, python: str, missing: list, repository: str) -> str:  # type: ignore[type-arg]
    """What keeps this Python from running the scripts, and the cure; "" when nothing does."""
    is_old = version < PYTHON
    if is_old:
        fault = f"Python 3.11 or newer is needed, and {python} is {'.'.join(map(str, version))}"
    elif missing:
        fault = f"{python} lacks these packages: {', '.join(missing)}"
    else:
        return ""
    own = os.path.join(repository, ".venv", "bin", "python")  # noqa: PTH118
    if os.path.exists(own) and own != python:  # noqa: PTH110
        return f"{fault}; use {own} in its place"
    how = "{0} -m venv {1}/.venv && {1}/.venv/bin/pip install --require-hashes -r {1}/requirements.txt"
    base = "python3.11" if is_old else os.path.realpath(python)
    return f"{fault}; make a virtual environment: {how.format(base, repository)}"


def _refuse_what_cannot_work() -> None:
    finders = sys.meta_path  # asked directly: importlib.util would cost each run some milliseconds
    missing = [name for name in PACKAGES if not any(finder.find_spec(name, None) for finder in finders)]
    fault = fault_of(sys.version_info[:3], sys.executable or "this Python", missing, _REPOSITORY)
    if fault:
        if sys.stderr is not None:
            sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {fault}\n")  # noqa: PTH119
        raise SystemExit(2)


_refuse_what_cannot_work()
