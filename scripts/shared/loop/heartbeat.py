"""Pings a dead man's switch, by the conventions of healthchecks.io: start, success, failure, log."""

from __future__ import annotations

import logging
from typing import Literal

logger = logging.getLogger(__name__)

PING_TIMEOUT_SECONDS = 10
SUFFIXES = {"start": "/start", "success": "", "failure": "/fail", "log": "/log"}

Signal = Literal["start", "success", "failure", "log"]


def ping(url: str, signal: Signal, run_id: str, text: str = "") -> None:
    """Send one signal. run_id: a UUID that connects the start of a run with its end. Never raises."""
    from shared.http.client import Http
    from shared.http.guards import NoAnswerError

    address = f"{url}{SUFFIXES[signal]}?rid={run_id}"
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    http = Http(None, PING_TIMEOUT_SECONDS)
    try:
        with http.call("POST", address, headers, text.encode()) as reply:
            if reply.status >= 300:
                logger.warning("the heartbeat server answered %s with HTTP %d", signal, reply.status)
    except NoAnswerError as exc:
        logger.warning("could not send the heartbeat %s: %s", signal, type(exc.reason).__name__)
    finally:
        http.close()
