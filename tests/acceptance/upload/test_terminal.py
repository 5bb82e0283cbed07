"""A run by hand: the real script on a real terminal, with real keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from simulators.dam import GeneratedContent
from world import SCRIPTS, World, wait_for

MEBIBYTE = 1024 * 1024
UPLOADER = "a1_to_a2_box_uploader.py"
CTRL_C = b"\x03"
EVENT = re.compile(r"\d{4}-\d\d-\d\dT\S+Z [A-Z]+ run=\w+ \S+: .")


class Terminal:
    """The person's side of a terminal, and the script that runs on it."""

    def __init__(self, end: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.output = ""
        self._end = end

    def press(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def read_until(self, text: str, seconds: float = 60.0) -> None:
        """Read what the script writes, until this text is in it, or (for "") until the script has ended."""
        give_up_at = time.monotonic() + seconds
        while not text or text not in self.output:
            assert time.monotonic() < give_up_at, f"no {text!r} in {self.output!r}"
            if not select.select([self._end], [], [], 0.1)[0]:
                continue
            try:
                self.output += os.read(self._end, 65536).decode()
            except OSError:  # nobody has the other end any more
                assert not text, f"no {text!r} in {self.output!r}"
                return

    def exit_code(self) -> int:
        self.read_until("")
        return self.process.wait(30)

    @property
    def live_lines(self) -> list[str]:
        """Each live line that was drawn."""
        return re.findall(r"\r\x1b\[\?7l(.*?)\x1b\[K\x1b\[\?7h", self.output)

    @property
    def shown(self) -> list[str]:
        """The lines that are to be seen at the end."""
        lines, column = [""], 0
        for piece in re.findall(r"\x1b\[\??\d*[A-Za-z]|[^\x1b]", self.output):
            if piece == "\n":
                lines.append("")
            elif piece == "\r":
                column = 0
            elif piece == "\x1b[K":
                lines[-1] = lines[-1][:column]
            elif not piece.startswith("\x1b"):
                lines[-1] = lines[-1][:column].ljust(column) + piece + lines[-1][column + 1 :]
                column += 1
        return lines


@contextmanager
def on_terminal(world: World, *arguments: str, columns: int = 100, **changes: str) -> Iterator[Terminal]:
    """Start the uploader as somebody does who types the command."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / UPLOADER, "--auth-pfx-v2", *arguments],
        cwd=world.folder,
        env=world.environment(**{"TERM": "xterm-256color", **changes}),
        preexec_fn=lambda: os.login_tty(its),
    )
    os.close(its)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def film(world: World) -> str:
    """A campaign with a film of 24 parts, which takes a second or two, and a small file."""
    world.box.options.part_size = MEBIBYTE
    world.box.options.upload_delay = 0.3
    campaign = world.add_full_campaign("Spring Launch", "C-1001", [("a.jpg", b"a")])
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.dam.add_asset(folder, "film.mp4", GeneratedContent(24 * MEBIBYTE, seed=7))
    return campaign


@pytest.mark.parametrize("columns", [100, 40])
def test_terminal__one_line_says_how_far_the_run_is(world: World, film: str, columns: int) -> None:
    world.add_full_campaign("Café 冬", "C-1002")
    with on_terminal(world, columns=columns, NO_COLOR="1", TRANSFER_WORKERS="4") as terminal:
        assert terminal.exit_code() == 0, terminal.output
    assert world.dam.status(film) == "A2"
    assert max(map(len, terminal.live_lines)) < columns
    live = "\n".join(terminal.live_lines)
    assert re.search(r"^[01]/2 campaigns +\d/\d files", live, re.MULTILINE)
    assert re.search(r"/\d files .*\d:\d\d left", live)
    wide_only = [
        re.search(pattern, live) is not None for pattern in (r"[1-9]\d*\.\d MB/s", r"film\.mp4 \d+ %")
    ]
    assert wide_only == [columns == 100] * 2
    assert re.findall(r"\x1b\[[\d;]*m", terminal.output) == []
    *lines, last = terminal.shown
    assert last == ""
    assert [line for line in lines if not EVENT.match(line)] == []
    assert sum("is in Box as file" in line for line in lines) == 4
    assert "exit code 0" in lines[-1]


def test_terminal__that_cannot_redraw_gets_lines_only(world: World, film: str) -> None:
    with on_terminal(world, TERM="dumb", TRANSFER_WORKERS="2") as terminal:
        wait_for(lambda: len(world.box.calls("PUT", "/api/2.0/files/upload_sessions/")) >= 3)
        terminal.press(CTRL_C)
        assert terminal.exit_code() == 75
    assert "\x1b" not in terminal.output
    assert "Stopping. Finishing first: the current parts of film.mp4" in terminal.output
    assert world.dam.status(film) == "A1"


def test_ctrl_c__says_what_is_finished_and_how_to_stop_now(world: World, film: str) -> None:
    with on_terminal(world, TRANSFER_WORKERS="2") as terminal:
        wait_for(lambda: len(world.box.calls("PUT", "/api/2.0/files/upload_sessions/")) >= 3)
        terminal.read_until(" left")  # from then on the rate is known, and with it for how long
        world.box.options.upload_delay = 2.0
        terminal.press(CTRL_C)
        terminal.read_until("To stop now, press Ctrl-C again.")
        assert terminal.process.poll() is None, "it is still finishing"
        assert terminal.exit_code() == 75
    said, how = [line for line in terminal.shown if line and not EVENT.match(line)]
    assert said.startswith("Stopping. ")
    assert how.startswith("To stop now, press Ctrl-C again.")
    assert "the current parts of film.mp4 (C-1001 Spring Launch); " in said
    assert any(line.startswith("stopping: film.mp4 ") for line in terminal.live_lines)
    world.box.options.upload_delay = 0.0
    again = world.upload()
    assert again.outcomes == {film: "uploaded"}
    assert again.report["transfer"]["parts_resumed"] >= 3
    assert "\x1b" not in again.stderr


@pytest.mark.parametrize("call", ["GET .*/folders/", "PUT .*/upload_sessions/", "PUT .*/folders|PATCH .*"])
def test_ctrl_c__twice_stops_at_once_and_loses_nothing(world: World, film: str, call: str) -> None:
    world.box.options.upload_delay = 0.0
    system = world.box if "upload_sessions" in call else world.dam
    hanging = system.fail(call, delay=50.0)
    with on_terminal(world) as terminal:
        wait_for(lambda: hanging.hits > 0)
        terminal.press(CTRL_C)
        terminal.read_until("To stop now, press Ctrl-C again.")
        terminal.press(CTRL_C)
        assert terminal.exit_code() == 75
    assert terminal.shown[-2].startswith("Stopped now. Nothing is lost: "), terminal.shown
    system.clear_faults()
    assert world.upload().outcomes == {film: "uploaded"}
    versions = {file.name: file.versions for file in world.box.files() if file.name != "_manifest.json"}
    assert versions == {"a.jpg": 1, "film.mp4": 1}
    assert not world.box.open_sessions()
