"""A server that does with each connection just what a test says, for what no simulator does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Serve = Callable[[socket.socket], None]


@contextmanager
def serving(serve: Serve, *, patience_seconds: float = 10) -> Iterator[str]:
    """A server whose every connection is handed to `serve`, in a thread; its address as HOST:PORT.

    patience_seconds: how long, at the end, each thread is waited for.
    """
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=handle, args=(connection,), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
    for thread in threads:
        thread.join(timeout=patience_seconds)


def read_head(connection: socket.socket) -> bytes:
    """A request's head, and what of its body came along. Raises ConnectionError at the connection's end."""
    head = b""
    while b"\r\n\r\n" not in head:
        block = connection.recv(65536)
        if not block:
            raise ConnectionError
        head += block
    return head
