"""Logs to standard error: one line per event, each with the run's id, without secrets and forged lines.

The loop reads these lines from its tasks (`read_event`), and logs each once, as the same event.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from shared.base.redaction import escape_json, escape_line, redact, spellings

RUN_ID_VARIABLE = "A1_TO_A2_RUN_ID"
"""Set by the loop for its tasks: the id of their run, in `orchestrator_task_runs` and in every log line."""
SIGN_OF_LIFE = "sign_of_life"
"""The logger for the regular line of a long upload, at any LOG_LEVEL: the loop expects it."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_JSON_FIELDS = frozenset({"at", "level", "run_id", "logger", "traceback"})
# Compiled where it is used, because the uploader does not need it.
_TEXT_EVENT = r"(?a)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([A-Z]+) run=\S+ (\S+): (.*)"


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
    logging.getLogger(SIGN_OF_LIFE).setLevel(min(logging.INFO, root.level))
    logging.captureWarnings(True)


def new_run_id(environment: Mapping[str, str] = os.environ) -> str:
    """The id of this run: from the loop, else a new one."""
    given = environment.get(RUN_ID_VARIABLE, "")
    return given if re.fullmatch("[0-9a-f]{12}", given) else os.urandom(6).hex()


def read_event(line: str) -> logging.LogRecord | None:
    """The event in a line that one of the formatters below wrote; None for any other line."""
    fields = _fields_of(line)
    said: list[Any] = [fields.get(name) for name in ("at", "level", "logger", "message")]
    at, level, origin, message = said
    if not all(isinstance(text, str) for text in said) or level not in LEVELS:
        return None
    try:
        created = datetime.fromisoformat(at).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    taken = _STANDARD_FIELDS | _JSON_FIELDS | set(dir(logging.LogRecord))
    more = {name: fields[name] for name in fields if name not in taken}
    traceback = fields.get("traceback")
    return logging.makeLogRecord(
        {
            **more, "created": created, "levelno": getattr(logging, level), "levelname": level,
            "name": origin, "msg": message, "exc_text": traceback if isinstance(traceback, str) else None,
        }
    )  # fmt: skip


def _fields_of(line: str) -> Mapping[str, Any]:
    """The fields of an event, by name; none for a line that is not an event."""
    if line.startswith("{"):
        try:
            return dict(json.loads(line, parse_constant=str))
        except (ValueError, RecursionError):
            return {}
    match = re.fullmatch(_TEXT_EVENT, line)
    return dict(zip(("at", "level", "logger", "message"), match.groups(), strict=True)) if match else {}


def readable(line: str) -> str:
    """A line of a task's log for people: a JSON event as text, followed by its traceback."""
    event = read_event(line) if line.startswith("{") else None
    if event is None:
        return line
    at = datetime.fromtimestamp(event.created, UTC)
    lines = [f"{at:%Y-%m-%dT%H:%M:%SZ} {event.levelname} {event.name}: {event.getMessage()}"]
    return "\n".join(lines + ([event.exc_text] if event.exc_text else []))


class _TextFormatter(logging.Formatter):
    """`2026-01-31T09:00:00.123Z INFO run=1a2b3c4d dam: text`; further lines only for tracebacks, each after a
    bar, so that none of them looks like an event.
    """

    def __init__(self, run_id: str, secrets: Collection[str]) -> None:
        super().__init__()
        self._run_id = run_id
        self._secrets = spellings(secrets)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        run_id = getattr(record, "run_id", self._run_id)
        line = f"{at[:-6]}Z {record.levelname} run={run_id} {record.name}: {record.getMessage()}"
        line = escape_line(line)
        if traceback := self._traceback(record):
            line += "".join(f"\n  | {escape_line(text)}" for text in traceback.split("\n"))
        return redact(line, self._secrets)

    def _traceback(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else record.exc_text


class _JsonFormatter(_TextFormatter):
    """One JSON object per line; `extra=` fields are next to the message."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run_id": self._run_id,
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}
        if traceback := self._traceback(record):
            event["traceback"] = traceback
        return redact(escape_json(json.dumps(event, ensure_ascii=False, default=str)), self._secrets)
