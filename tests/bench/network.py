"""A network of the bench's own, the same whatever the machine is set to."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from contextlib import suppress
from pathlib import Path

CONGESTION_CONTROL = "cubic"
"""Linux's default. BBR, which some machines are set to, paces what it sends by timers: on loopback that is a
load on the processor that no line would ask for.
"""

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def enter_own_network() -> None:
    """Give this process and all it starts a network of its own: loopback alone, TCP as Linux has it.

    It ends with the process. To be called before anything listens. Where that is not allowed the machine's
    network is used as it is; the record tells by `congestion_control`.
    """
    with suppress(OSError):
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        _SETTING.write_text(CONGESTION_CONTROL, encoding="ascii")


def congestion_control() -> str:
    """TCP's, as it is set here."""
    return _SETTING.read_text(encoding="ascii").strip() if _SETTING.exists() else "unknown"
