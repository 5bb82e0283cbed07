"""Logging to standard error: one line an event, each with the run's id, no secret, no forged line.

The loop reads the same lines back from its tasks (`read_event`), and logs each once, as the event that it is.
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
"""The logger for a line that long work writes now and then, whatever LOG_LEVEL is: the loop waits for it."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_JSON_FIELDS = frozenset({"at", "level", "run_id", "logger", "traceback"})
# Compiled where it is used: the uploader starts without.
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
    """The id of this run: the one that the loop gave it, else a new one."""
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
    """The fields of an event, by name; none for a line that is no event."""
    if line.startswith("{"):
        try:
            return dict(json.loads(line, parse_constant=str))
        except (ValueError, RecursionError):
            return {}
    match = re.fullmatch(_TEXT_EVENT, line)
    return dict(zip(("at", "level", "logger", "message"), match.groups(), strict=True)) if match else {}


def readable(line: str) -> str:
    """A line of a task's log for people: a JSON event as text, its traceback behind it."""
    event = read_event(line) if line.startswith("{") else None
    if event is None:
        return line
    at = datetime.fromtimestamp(event.created, UTC)
    lines = [f"{at:%Y-%m-%dT%H:%M:%SZ} {event.levelname} {event.name}: {event.getMessage()}"]
    return "\n".join(lines + ([event.exc_text] if event.exc_text else []))


class _TextFormatter(logging.Formatter):
    """`2026-01-31T09:00:00.123Z INFO run=1a2b3c4d dam: text`; further lines only for tracebacks, each
    behind a bar, so that none of them looks like an event.
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
        if traceback := self._traceback(record):
            event["traceback"] = traceback
        return redact(escape_json(json.dumps(event, ensure_ascii=False, default=str)), self._secrets)
