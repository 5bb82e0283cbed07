"""Logging to standard error: one line an event, each with the run's id, no secret, no forged line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Literal

from shared.redaction import escape_json, escape_line, redact, spellings

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


class _TextFormatter(logging.Formatter):
    """`2026-01-31T09:00:00.123Z INFO run=1a2b3c4d dam: text`; further lines only for tracebacks, each
    behind a bar, so that none of them passes for an event.
    """

    def __init__(self, run_id: str, secrets: Collection[str]) -> None:
        super().__init__()
        self._run_id = run_id
        self._secrets = spellings(secrets)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = escape_line(record.getMessage())
        line = f"{at[:-6]}Z {record.levelname} run={self._run_id} {record.name}: {message}"
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n  | {escape_line(text)}" for text in lines)
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
        return redact(escape_json(json.dumps(event, ensure_ascii=False, default=str)), self._secrets)
