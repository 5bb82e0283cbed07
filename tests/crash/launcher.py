"""Starts scripts faster than a new interpreter does: by a fork of a process that has imported their parts.

Run as `python launcher.py SCRIPTS_FOLDER`. Each line on standard input is a JSON object with argv, env, cwd,
stdout, stderr, and by how many seconds the process's clock is off; the answers are the process's id and, at
its end, its exit code (minus the signal's number).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import runpy
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

MODULES = (
    *("shared.box.client", "shared.dam.client", "shared.database", "shared.notices.delivery"),
    *("shared.notifier", "shared.settings", "shared.upload.buckets", "shared.upload.limiter"),
    *("shared.upload.receipt", "shared.upload.transfer", "shared.upload.workers"),
    *("email.message", "email.utils", "jinja2", "psycopg2", "smtplib", "ssl", "uuid", "zoneinfo"),
)


def run(job: dict[str, Any]) -> None:
    """In the child: become the script, as `python SCRIPT` would."""
    os.chdir(job["cwd"])
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.environ.clear()
    os.environ.update(job["env"])
    random.seed()
    sys.argv = job["argv"]
    if job["clock_off_seconds"]:
        shown = datetime.now(UTC) + timedelta(seconds=job["clock_off_seconds"])
        time_machine.travel(shown, tick=True).start()
    code: object = 1
    try:
        runpy.run_path(job["argv"][0], run_name="__main__")
        code = 0
    except SystemExit as exc:
        code = exc.code or 0
    except BaseException:  # noqa: BLE001 - shown as the interpreter would show it
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    for name in MODULES:
        importlib.import_module(name)
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(job)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
