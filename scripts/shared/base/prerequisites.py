"""Checks Python and its packages; each script imports it first. A fault is one line and exit code 2.

Python 3.6 must be able to read this file and the scripts, so that they can report an old Python.
"""

import os
import sys

PYTHON = (3, 11)
PACKAGES = (
    "certifi",
    "cryptography",
    "dotenv",
    "jinja2",
    "jwt",
    "prometheus_client",
    "psycopg2",
    "requests",
    "urllib3",
)
"""The packages of requirements.txt that the scripts import."""
PAGE_PACKAGES = ("flask", "markupsafe", "waitress", "werkzeug")
"""The packages of requirements-page.txt that admin_page.py imports."""
SCALE_PACKAGES = ("procrastinate", "psycopg", "psycopg_pool")
"""The packages of requirements-scale.txt that a1_worker.py imports."""

_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120


def fault_of(version: tuple, python: str, missing: list, repository: str) -> str:  # type: ignore[type-arg]
    """Why this Python cannot run the scripts, and the remedy; "" if it can."""
    is_old = version < PYTHON
    if is_old:
        fault = f"Python 3.11 or newer is needed, but {python} is {'.'.join(map(str, version))}"
    elif missing:
        fault = f"{python} lacks these packages: {', '.join(missing)}"
    else:
        return ""
    own = os.path.join(repository, ".venv", "bin", "python")  # noqa: PTH118
    if os.path.exists(own) and own != python:  # noqa: PTH110
        return f"{fault}; use {own} instead"
    how = "{0} -m venv {1}/.venv && {1}/.venv/bin/pip install --require-hashes -r {1}/requirements.txt"
    base = "python3.11" if is_old else os.path.realpath(python)
    return f"{fault}; make a virtual environment: {how.format(base, repository)}"


def require(packages: tuple, requirements: str) -> None:  # type: ignore[type-arg]
    """Exit with code 2 when this Python lacks one of the packages of a requirements file."""
    missing = _missing(packages)
    if missing:
        python = sys.executable or "this Python"
        lists = os.path.join(_REPOSITORY, requirements)  # noqa: PTH118
        how = f"{python} -m pip install --require-hashes -r {lists}"
        _refuse(f"{python} lacks these packages: {', '.join(missing)}; install them: {how}")


def _missing(packages: tuple) -> list:  # type: ignore[type-arg]
    finders = sys.meta_path  # used directly: importlib.util would cost each run some milliseconds
    return [name for name in packages if not any(finder.find_spec(name, None) for finder in finders)]


def _refuse(fault: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {fault}\n")  # noqa: PTH119
    raise SystemExit(2)


def _refuse_what_cannot_work() -> None:
    python = sys.executable or "this Python"
    fault = fault_of(sys.version_info[:3], python, _missing(PACKAGES), _REPOSITORY)
    if fault:
        _refuse(fault)


_refuse_what_cannot_work()
