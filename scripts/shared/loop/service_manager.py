"""Speaks systemd's notification protocol (sd_notify(3)): a datagram of NAME=value lines to $NOTIFY_SOCKET."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables that systemd sets for this process only, not for its children."""

SEND_TIMEOUT_SECONDS = 1.0
"""A manager that does not listen must not delay the loop."""


class ServiceManager:
    """Reports the service's state to systemd; does nothing when systemd did not start it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environment) if address else None
        """How often the watchdog needs a sign; None: there is no watchdog."""
        self._last_status = ""

    @property
    def is_there(self) -> bool:
        """Whether systemd started this process and listens."""
        return bool(self._address)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        self._send("RELOADING=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def feed_watchdog(self) -> None:
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it changes."""
        if text != self._last_status:
            self._last_status = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(SEND_TIMEOUT_SECONDS)
                connection.sendto(message.encode(), self._address)
        except OSError as exc:
            logger.warning("could not send %s to systemd: %s", message.split("=")[0], exc)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Half of the watchdog's time limit, as sd_watchdog_enabled(3) advises."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdecimal() and int(microseconds) > 0 else None
