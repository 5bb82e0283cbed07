"""Shows the whole job on this machine: a real PostgreSQL, stand-ins for the other systems, and a story.

Plays the three scenarios of the product through the real scripts, checks every claim, and leaves the e-mails
and files in demo-output/. Ends with 1, saying what was expected, when the product misbehaves.
"""

import shared.base.prerequisites  # noqa: F401 - first: it reports an old Python in one line

# isort: split
import argparse
import contextlib
import fcntl
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

from demo_parts.page import Page, human_size, write_page
from demo_parts.story import ALL_ROWS, RETRY_TOOL, UPLOADER, Demo, Narrator, UnexpectedError, shown
from simulators.installation import (
    PAGE_OPERATOR,
    REPOSITORY,
    SCRIPTS,
    Installation,
    is_port_free,
    write_private,
)
from simulators.postgres import PostgresError

PRODUCT_PORT = 5437
MARKER = ".made-by-the-demo"
NEW_CAMPAIGN = """-d '{"name": "My own", "number": "C-9"}'"""
NEW_FILE = """-d '{"number": "C-9", "name": "brief.txt", "text": "Hello"}'"""
BOX_FAULT = """-d '{"match": "POST .*/files/content", "status": 403}'"""
DAM_FAULT = """-d '{"match": "/children", "status": 403}'"""
PICTURE = """\
A1 → A2: WHAT HAPPENS TO A CAMPAIGN WHOSE FILES ARE READY, COME LATE, OR NEVER COME

  DAM* ──► uploader ──► Box*     PostgreSQL, inbox*, operator's page     all on this machine
"""
"""What runs here. * marks a stand-in."""
TO_COME = """
Six acts follow, in about two minutes: files come late, files never come, a wrong status, a weekend,
promised files, the operator's page. The demo checks every claim that it makes."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KINDS = {
    "⚠️": "retry notices",
    "❌": "permanent failures",
    "✅ Uploaded": "successes",
    "✅ Solved": "solved",
    "🛑": "errors",
    "📊": "daily report",
    "🗓️": "weekly digest",
}


class CannotStartError(Exception):
    """The demo cannot run with these options; the text says why."""


class StoppedError(BaseException):
    """A signal asked us to end. Not an Exception, so that no handler takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# --- output -------------------------------------------------------------------------------------------------


def prepare_output(folder: Path) -> IO[str]:
    """Make the folder, or empty it when an earlier demo made it; ours alone while the answer is open.

    Raises CannotStartError when it holds anything else, or another demo is at work there.
    """
    marker = folder / MARKER
    try:
        if folder.exists() and not marker.exists() and any(folder.iterdir()):
            raise CannotStartError(
                f"{shown(folder)} contains files that no demo made: choose another --output"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = marker.open("a", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise CannotStartError(
                f"another demo is running in {shown(folder)}: choose another --output"
            ) from None
        remove_all_but(marker)
        for name in ("runs", "database"):
            (folder / name).mkdir()
    except OSError as exc:
        raise CannotStartError(
            f"{shown(folder)} cannot be made or emptied: {exc}; choose another --output"
        ) from exc
    return lock


def remove_all_but(marker: Path) -> None:
    """Empty the marker's folder. What a link points to stays."""
    for path in marker.parent.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()


def choose_port(wanted: int | None) -> tuple[int | None, str]:
    """PostgreSQL's port (None: any free one), and what to say about it."""
    if wanted is not None:
        if wanted != 0 and not is_port_free(wanted):
            raise CannotStartError(f"port {wanted} is in use: choose another --port, or 0 for any free one")
        return wanted or None, ""
    if is_port_free(PRODUCT_PORT):
        return PRODUCT_PORT, ""
    return None, f"Port {PRODUCT_PORT}, the usual one, is in use here, so PostgreSQL gets another one."


def make_page(demo: Demo, seconds: float, failure: str) -> None:
    """index.html."""
    page = Page(
        acts=demo.tell.acts,
        mails=demo.mails,
        files=demo.files,
        rows=demo.world.sql(ALL_ROWS),
        snapshots=demo.snapshots,
        pictures=demo.pictures,
        figures=figures(demo, seconds),
        failure=failure,
    )
    write_page(demo.world.output, page)


def figures(demo: Demo, seconds: float) -> list[tuple[str, str]]:
    """The numbers of the summary."""
    signs = Counter(sign for mail in demo.mails for sign in KINDS if mail.subject.startswith(sign))
    by_kind = ", ".join(f"{signs[sign]} {kind}" for sign, kind in KINDS.items() if signs[sign])
    size = human_size(sum(file.size for file in demo.files))
    return [
        ("e-mails", f"{len(demo.mails)}: {by_kind}"),
        ("files", f"{len(demo.files)}, {size}, in Box with the SHA-1 of their source"),
        ("runs", f"{demo.runs} of the uploader"),
        ("checks", str(demo.checks)),
        ("time", f"{seconds:.0f} s"),
    ]


# --- staying up ---------------------------------------------------------------------------------------------


def stay(demo: Demo) -> NoReturn:
    """Keep everything running, and new mails coming in as files, until a signal ends it."""
    world, output = demo.world, shown(demo.world.output)
    secrets = [write_psql_access(demo), write_curl_access(demo)]
    curl = f"curl -K {shlex.quote(shown(secrets[1]))}"
    env_file = f"--env-file {shlex.quote(shown(world.env_file))}"
    scripts = f"{shlex.quote(shown(Path(sys.executable)))} {shlex.quote(shown(SCRIPTS))}"
    psql = "psql" if shutil.which("psql") else shlex.quote(shown(world.postgres.psql_path))
    dam, box = f"{world.dam.url}/_sim", f"{world.box.url}/_sim"
    commands = (
        ("set a new campaign to A1 in the DAM", f"{curl} {dam}/campaigns {NEW_CAMPAIGN}"),
        ("run the uploader once", f"{scripts}/{UPLOADER} --auth-pfx-v2 {env_file}"),
        ("put a file into the campaign", f"{curl} {dam}/assets {NEW_FILE}"),
        ("switch a fault on, Box refuses files", f"{curl} {box}/faults {BOX_FAULT}"),
        ("switch a fault on, the DAM refuses to list folders", f"{curl} {dam}/faults {DAM_FAULT}"),
        ("switch all faults off", f"{curl} -X DELETE {dam}/faults {box}/faults"),
        ("see why a campaign is where it is", f"{scripts}/{RETRY_TOOL} explain C-9 {env_file}"),
        ("see which campaigns are in retry", f"{scripts}/{RETRY_TOOL} status {env_file}"),
        ("reset a campaign", f"{scripts}/{RETRY_TOOL} reset C-9 {env_file}"),
        ("see the DAM's campaigns", f"{curl} {dam}/campaigns"),
        ("see the files in Box", f"{curl} {box}/tree"),
        ("ask the database", f"PGSERVICEFILE={shlex.quote(shown(secrets[0]))} {psql} service=demo"),
    )
    print("\nEVERYTHING STAYS UP until you press Ctrl-C. In another terminal, in this folder, you can")
    for what, command in commands:
        print(f"  {what}:\n    {command}")
    print(
        f"  open the operator's page: {demo.page.url}/ as {PAGE_OPERATOR}, password {demo.page.password}\n"
        f"  read new e-mails as they come: {output}/mails/\n"
        f"  use the settings, TLS and PFX included: {shown(world.env_file)}\n"
        f"demo.env, psql.conf and curl.conf contain passwords or keys. Only you can read them, and they are"
        " removed at the end."
    )
    try:
        while True:
            time.sleep(0.5)
            demo.collect_mails()
    finally:
        for path in secrets:
            path.unlink(missing_ok=True)


def write_psql_access(demo: Demo) -> Path:
    """A service file with which psql reaches the database."""
    world, server = demo.world, demo.world.postgres
    settings = dict(line.split("=", 1) for line in world.env_file.read_text(encoding="utf-8").splitlines())
    access = {
        "host": "127.0.0.1", "port": server.port, "user": server.user, "dbname": server.database,
        "password": settings["DB_PASSWORD"].strip("'"),
    }  # fmt: skip
    path = world.output / "psql.conf"
    write_private(path, "[demo]\n" + "".join(f"{name}={value}\n" for name, value in access.items()))
    return path


def write_curl_access(demo: Demo) -> Path:
    """A file of options with which curl reaches the DAM and Box: the CA, and the client certificate."""
    keys = demo.world.keys
    options = {
        "cacert": keys / "ca.pem", "cert": keys / "client.pem", "header": "Content-Type: application/json",
        "noproxy": "*", "write-out": r"\n",
    }  # fmt: skip
    path = demo.world.output / "curl.conf"
    text = "".join(f'{name} = "{value}"\n' for name, value in options.items())
    write_private(path, f"silent\nshow-error\n{text}")
    return path


# --- start and end ------------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--port", type=int, metavar="N",
        help=f"PostgreSQL's port, 0 for any free one; default: {PRODUCT_PORT}, or another if it is in use",
    )  # fmt: skip
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running until Ctrl-C, and print commands to try"
    )
    parser.add_argument(
        "--simulators", action="store_true",
        help="no story: start the DAM and Box simulators with TLS and PFX, PostgreSQL with the migrations, an"
        " inbox and the operator's page, print commands to try, and leave everything running until Ctrl-C",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "demo-output", metavar="DIR",
        help="where e-mails, files and index.html go; emptied first; default: demo-output",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        parser.error("--port: expected a number from 0 to 65535")
    return arguments


def play(arguments: argparse.Namespace, narrator: Narrator) -> int:
    """Everything between the start and the end of the systems."""
    started = time.monotonic()
    port, remark = choose_port(arguments.port)
    output = arguments.output.absolute()
    with contextlib.ExitStack() as stack:
        stack.enter_context(prepare_output(output))
        print(PICTURE)
        print("* marks a stand-in; the rest is real." + ("" if arguments.simulators else TO_COME))
        if remark:
            print(remark)
        demo = Demo(stack.enter_context(Installation(output, port=port)), narrator, stack)
        try:
            if arguments.simulators:
                return serve(demo)
            return tell(demo, started, keep=arguments.keep)
        finally:
            ignore_signals()  # from here on everything is being ended, which nothing may interrupt


def serve(demo: Demo) -> int:
    """The systems and an empty database, without a story, until a signal ends it."""
    try:
        demo.set_up()
    except UnexpectedError as exc:
        print(exc, file=sys.stderr)
        return 1
    return stay_until_stopped(demo)


def stay_until_stopped(demo: Demo) -> int:
    """`stay`, until a signal ends it."""
    try:
        stay(demo)
    except StoppedError:
        print("\nEnding everything.")
    return 0


def tell(demo: Demo, started: float, *, keep: bool) -> int:
    """The story, the page, the summary."""
    failure = ""
    try:
        demo.play()
    except UnexpectedError as exc:
        failure = str(exc)
    except (RuntimeError, subprocess.SubprocessError) as exc:
        failure = f"a command of the demo failed: {exc}"
    seconds = time.monotonic() - started
    with contextlib.suppress(RuntimeError) if failure else contextlib.nullcontext():
        make_page(demo, seconds, failure)
    demo.tell.act("IN SHORT" if not failure else "THE DEMO FAILED")
    for label, text in figures(demo, seconds):
        demo.tell.say(label, text)
    for line in failure.splitlines():
        demo.tell.say("✗", line)
    demo.tell.say("look at", shown(demo.world.output / "index.html"))
    if failure:
        return 1
    return stay_until_stopped(demo) if keep else 0


def stop(number: int, _: object) -> NoReturn:
    """End everything in order, as an exception does."""
    ignore_signals()
    raise StoppedError(number)


def obey_signals() -> None:
    """Let each signal end the demo; not a hang-up that was ignored from the start, as under nohup."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def ignore_signals() -> None:
    """Ignore a second Ctrl-C, which must not interrupt the end that the first one began."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def main(argv: Sequence[str] | None = None) -> int:
    """0: all as promised. 1: the product misbehaved. 2: it cannot run like this. 128 + n: a signal."""
    arguments = parse_arguments(argv)
    obey_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, errors="replace")  # emoji, whatever the terminal can show
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    narrator = Narrator(is_colourful=is_terminal and not os.environ.get("NO_COLOR"))
    try:
        return play(arguments, narrator)
    except CannotStartError as exc:
        print(f"demo.py: {exc}", file=sys.stderr)
        return 2
    except PostgresError as exc:
        print(f"demo.py: {exc}", file=sys.stderr)
        return 1
    except StoppedError as exc:
        print(f"\nStopped by {signal.Signals(exc.number).name}; everything has been ended.", file=sys.stderr)
        return 128 + exc.number
    except BrokenPipeError:  # nobody reads the rest, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
