"""Shared parts of the scripts' `main` functions: streams, the logging of failures, and exit codes."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TextIO

from shared.base.errors import AppError, ConfigError, ExitCode

logger = logging.getLogger("script")


def prepare_streams() -> None:
    """Prepare the standard streams, so that the script can rely on them.

    A stream that the caller has closed (`2>&-`) is opened to /dev/null, before a socket gets its number.
    Names in any script can be written, whatever the locale (cron's is often plain C).
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def say(text: str, *, to: TextIO | None = None) -> None:
    """Write to standard output, or to another stream. When the reader has gone, as with `| head`, the rest is
    dropped: the work and its exit code do not change.
    """
    stream = to or sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows of cells with aligned columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def shown(instant: datetime) -> str:
    """An instant in its own zone's time, always of the same width."""
    return f"{instant:%a %Y-%m-%d %H:%M} {instant.isoformat()[-6:]}"


def exit_code_of(work: Callable[[], int]) -> int:
    """Do a script's work and return its exit code; an exception is logged and becomes one."""
    try:
        return work()
    except ConfigError as exc:
        for fault in exc.faults:
            logger.error("%s", fault, extra={"action": "bad_configuration"})
        return ExitCode.BAD_CONFIG
    except AppError as exc:
        logger.error("%s", exc, extra={"action": "run_failed", "kind": exc.kind})
        return exc.exit_code
    except Exception:  # a bug: logged with its traceback, and shown by the exit code
        logger.exception("a bug ended the run")
        return ExitCode.BUG
