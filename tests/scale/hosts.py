"""Hosts on one machine: network namespaces, joined by a bridge, each with a cable that can be cut.

The systems listen on the bridge's address, and see from which host a request comes. Needs root and iproute2.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from simulators.postgres import ending_with_us

NAMESPACES = Path("/run/netns")
OURS = re.compile(r"a1scale(\d+)n\d+")
"""The names of our namespaces, with the process that made them."""

Cut = Literal["unplugged", "down"]
"""unplugged: what is sent is lost without a word. down: the host's own interface is off, so that it knows."""


class NoHostsError(RuntimeError):
    """This machine cannot make network namespaces; the text says what is missing."""


class Host:
    """One namespace. address: as the systems see it."""

    def __init__(self, name: str, address: str, cable: str) -> None:
        self.name = name
        self.address = address
        self._cable = cable

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, in this host's network; it ends with us. The process is the command's own."""
        return ["ip", "netns", "exec", self.name, *ending_with_us("KILL"), *command]

    def cut(self, how: Cut) -> None:
        """From now on nothing arrives in either direction."""
        self._set("down", how)

    def connect(self, how: Cut) -> None:
        """Undo `cut`."""
        self._set("up", how)

    def _set(self, state: str, how: Cut) -> None:
        where = (
            ["link", "set", self._cable] if how == "unplugged" else ["-n", self.name, "link", "set", "eth0"]
        )
        _ip(*where, state)


class Network:
    """A bridge and hosts; a context manager. Raises NoHostsError where that cannot be.

    address: the bridge's, for all that the hosts use. hosts: from 2, because somebody has to take over, to 9.
    """

    def __init__(self, hosts: int) -> None:
        if not 2 <= hosts <= 9:
            raise NoHostsError(f"--hosts is {hosts}: give a number from 2 to 9")
        pid = os.getpid()
        # 198.18.0.0/15 is for measurements (RFC 2544): no real network has it.
        self._prefix = f"198.18.{pid % 256}"
        self._bridge = f"a1s{pid}"
        self.address = f"{self._prefix}.1"
        self.hosts = [
            Host(f"a1scale{pid}n{number}", f"{self._prefix}.{number + 1}", f"{self._bridge}-{number}")
            for number in range(1, hosts + 1)
        ]

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NoHostsError("network namespaces need root: run it as root")
        if shutil.which("ip") is None:
            raise NoHostsError("the command ip is missing (Debian: apt-get install iproute2)")
        _remove_leftovers()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for host in self.hosts:
            cable = host._cable
            _ip("netns", "add", host.name)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", interface, "up")

    def _remove(self) -> None:
        for host in self.hosts:
            if (NAMESPACES / host.name).exists():
                _ip("netns", "delete", host.name)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)


def _remove_leftovers() -> None:
    """What a killed process of ours left behind."""
    for path in NAMESPACES.glob("a1scale*"):
        found = OURS.fullmatch(path.name)
        if found and not Path("/proc", found[1]).exists():
            _ip("netns", "delete", path.name)
            subprocess.run(["ip", "link", "delete", f"a1s{found[1]}"], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoHostsError(f"ip {' '.join(words)}: {done.stderr.strip()}")
