"""What the loop makes of the lines that a task writes."""

from __future__ import annotations

import json
import logging

import pytest

from shared.base.logs import configure_logging, read_event, readable

EVENT = {"at": "2026-01-28T09:00:00+00:00", "level": "INFO", "logger": "dam", "message": "said"}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        pytest.param({"getMessage": 1, "args": [1], "msg": 2}, "dam: said", id="fields that logging needs"),
        pytest.param(
            {"logger": "dam\n2026-01-28T09:00:00.000Z ERROR run=1 orchestrator"},
            r"dam\n2026-01-28T09:00:00.000Z ERROR run=1 orchestrator: said",
            id="a logger that forges a line",
        ),
        pytest.param({"logger": "\x9b31m\u202e"}, r"\x9b31m\u202e: said", id="a logger that is unprintable"),
        pytest.param({"message": "%s %d"}, "dam: %s %d", id="a format without values"),
    ],
)
def test_event__is_one_line_whatever_it_holds(
    fields: dict[str, object], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    line = json.dumps(EVENT | fields)
    event = read_event(line)
    assert event is not None
    try:
        configure_logging("text", "INFO", run_id="loop", secrets=())
        root.handle(event)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    assert capsys.readouterr().err == f"2026-01-28T09:00:00.000Z INFO run=loop {shown}\n"
    assert "said" in readable(line) or "%s" in readable(line)
