"""Runs waitress by our own loop: it finishes its answers before it stops, and disconnects slow clients."""

from __future__ import annotations

import errno
import logging
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask

from shared.base.errors import ConfigError
from shared.loop.service_manager import ServiceManager
from shared.page.app import MOST_BODY_BYTES
from shared.settings import AccessSettings

logger = logging.getLogger("page.server")

THREADS = 8
"""Requests that are answered at the same time; each thread has a connection to PostgreSQL."""
CONNECTIONS = 200
CLIENT_SECONDS = 30
"""How long a client may take to send a request, to read an answer, or leave its connection idle."""
LOOK_SECONDS = 5
"""How often the loop checks that."""
MOST_HEADER_BYTES = 32 * 1024
"""Of a request: an OIDC proxy's cookies take a few kilobytes."""
TURN_SECONDS = 1.0
LAST_ANSWERS_SECONDS = 20.0
"""How long a stop waits for the answers to running requests."""
LAST_REQUESTS_SECONDS = 2.0
"""How long a stop waits for the rest of a request that has begun to arrive."""
STUCK_SECONDS = 60.0
"""When requests have waited this long for a thread, the page counts as stuck and the watchdog gets no sign.
"""


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """waitress's own answer to an invalid request, with the headers that every answer has."""

    def build_response_header(self) -> bytes:
        self.response_headers += self.channel.server.page_headers
        logger.info(
            "- refused what %s sent: %s", self.channel.addr[0], self.status, extra={"action": "page_request"}
        )
        header: bytes = super().build_response_header()
        return header


class _Channel(HTTPChannel):  # type: ignore[misc]
    """One connection. waits_for: what the client had to send or read when we last checked; and since when."""

    error_task_class = _ErrorTask
    waits_for: object = None
    waits_since = 0.0


class _Server(TcpWSGIServer):  # type: ignore[misc]
    """The listening socket. waitress itself only ends connections that are completely idle."""

    channel_class = _Channel
    page_headers: tuple[tuple[str, str], ...] = ()

    def maintenance(self, now: float) -> None:
        """End the connections whose client takes too long for one request or one answer."""
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            due = _awaited(channel)
            if due is None or due is not channel.waits_for:
                channel.waits_for, channel.waits_since = due, now
            elif now - channel.waits_since >= CLIENT_SECONDS:
                logger.info("disconnected %s, which took too long", channel.addr[0])
                channel.will_close = True
                channel.handle_close()


def _awaited(channel: _Channel) -> object:
    """The request that the client has begun to send, or the answer that it has to read; None when we are not
    waiting for the client.
    """
    if channel.requests:
        return None
    return channel.request or (channel.outbufs[0] if channel.total_outbufs_len else None)


class PageServer:
    """The page, listening as soon as it is made. Raises ConfigError when it cannot listen on the address."""

    def __init__(self, app: Flask, access: AccessSettings, headers: Mapping[str, str]) -> None:
        """headers: of the answers that waitress gives by itself."""
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # one line for each waiting request
        host = f"[{access.listen_host}]" if ":" in access.listen_host else access.listen_host
        adjustments = Adjustments(
            listen=f"{host}:{access.listen_port}",
            threads=THREADS,
            ident=None,
            connection_limit=CONNECTIONS,
            channel_timeout=CLIENT_SECONDS,
            cleanup_interval=LOOK_SECONDS,
            max_request_header_size=MOST_HEADER_BYTES,
            max_request_body_size=2 * MOST_BODY_BYTES,  # up to here the answer is a page of ours
            inbuf_overflow=4 * MOST_BODY_BYTES,  # never to the disk
            asyncore_use_poll=True,
            log_socket_errors=False,
        )
        self._map: dict[int, Any] = {}
        self._is_stopping = False
        self._waiting_since: float | None = None
        try:
            self._server = _Server(app, map=self._map, adj=adjustments, sockinfo=adjustments.listen[0])
        except OSError as exc:
            raise ConfigError(_cannot_listen(exc, f"{host}:{access.listen_port}")) from exc
        self._server.page_headers = tuple(headers.items())
        shown = self._server.effective_host
        self.address = f"{f'[{shown}]' if ':' in shown else shown}:{self._server.effective_port}"
        """Where it listens, with the real port when port 0 was configured."""

    def run(self, manager: ServiceManager) -> None:
        """Answer until SIGTERM or SIGINT; then finish the answers, and return."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        manager.ready()
        manager.status(f"listening on {self.address}")
        fed_at = 0.0
        while not self._is_stopping:
            self._turn(TURN_SECONDS)
            now = time.monotonic()
            if manager.watchdog_seconds is not None and now - fed_at >= manager.watchdog_seconds:
                if self._answers(now):
                    manager.feed_watchdog()
                fed_at = now
        manager.stopping()
        self._finish()

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._is_stopping = True
        self._server.pull_trigger()  # ends the wait in the loop

    def _answers(self, now: float) -> bool:
        """Whether a thread is free for the waiting requests."""
        if not self._server.task_dispatcher.queue:
            self._waiting_since = None
            return True
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since < STUCK_SECONDS

    def _finish(self) -> None:
        """Accept no new connections, and answer the requests that have arrived, within a time limit."""
        wasyncore.dispatcher.close(self._server)  # only the socket: the threads still wake the loop
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < LAST_ANSWERS_SECONDS:
            if not any(_is_busy(channel, passed) for channel in self._server.active_channels.values()):
                break
            self._turn(0.1)
        else:
            logger.warning("stopped before every request was answered", extra={"action": "page_cut_off"})
        wasyncore.close_all(self._map, ignore_all=True)


def _is_busy(channel: _Channel, passed: float) -> bool:
    """Whether a stop still waits for this connection, that many seconds after it began."""
    is_arriving = channel.request is not None and passed < LAST_REQUESTS_SECONDS
    return bool(channel.requests or channel.total_outbufs_len or is_arriving)


def _cannot_listen(exc: OSError, address: str) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"ADMIN_LISTEN: another program listens on {address}; stop it, or choose another port"
    if exc.errno == errno.EACCES:
        return f"ADMIN_LISTEN: this user may not listen on {address}; choose a port from 1024 on"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"ADMIN_LISTEN: {address} is not an address of this machine"
    return f"ADMIN_LISTEN: cannot listen on {address}: {exc.strerror}"
