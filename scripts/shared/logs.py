"""Logging to standard error: one line an event, each with the run's id, no secret, no forged line."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

SHORTEST_SECRET = 4
"""Secrets below this length would blank out ordinary words; they are guarded by never being logged."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure_logging(
    log_format: Literal["text", "json"], level: str, *, run_id: str, secrets: Collection[str]
) -> None:
    """Send the log of this process to standard error. Called once, in `main`."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _JsonFormatter if log_format == "json" else _TextFormatter
    handler.setFormatter(formatter(run_id, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


def use_utf8() -> None:
    """Let names in any script through, whatever the machine's locale (cron's is often plain C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class _TextFormatter(logging.Formatter):
    """`2026-01-31T09:00:00.123Z INFO run=1a2b3c4d dam: text`; further lines only for tracebacks."""

    def __init__(self, run_id: str, secrets: Collection[str]) -> None:
        super().__init__()
        self._run_id = run_id
        self._secrets = spellings(secrets)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = escape_line(record.getMessage())
        line = f"{at[:-6]}Z {record.levelname} run={self._run_id} {record.name}: {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line, self._secrets)


class _JsonFormatter(_TextFormatter):
    """One JSON object a line; `extra=` fields stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run_id": self._run_id,
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return redact(json.dumps(event, ensure_ascii=False, default=str), self._secrets)


def escape_line(text: str) -> str:
    """Text from outside on one line: line breaks and other unprintable characters shown as escapes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact(text: str, secrets: Collection[str]) -> str:
    """Blank out secrets by value, wherever they came from."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def spellings(secrets: Collection[str]) -> list[str]:
    """Each secret as it may turn up: plain, in JSON, in a URL. Longest first, so that none leaves a tail."""
    kept = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    found = {form for secret in kept for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
    return sorted(found, key=len, reverse=True)
