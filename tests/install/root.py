"""A bare Debian root in which systemd runs: made by debootstrap, booted by systemd-nspawn."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = "systemd,systemd-sysv,python3,python3-venv,make,ca-certificates,postgresql-client"
MIRROR = "http://deb.debian.org/debian"
BOOT_SECONDS = 60
# systemd 256 and later wants to be asked before it runs on the old hierarchy of cgroups.
OLD_CGROUPS = ("systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")


def pip_environment() -> dict[str, str]:
    """This host's configuration of pip, as variables."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE)
    return {f"PIP_{name.upper().replace('-', '_')}": value for name, value in found}


def pip_files(settings: Mapping[str, str]) -> list[Path]:
    """The files and folders of this host that its configuration of pip names."""
    words = " ".join(settings.values()).split()
    # An index in a folder has its files beside it.
    paths = [Path(word[7:]).parent if word.startswith("file://") else Path(word) for word in words]
    return [path for path in paths if path.is_absolute() and path.exists()]


class Root:
    """A running Debian. It shares this host's network, so 127.0.0.1 is the same there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pip = pip_environment()
        binds = [f"--bind-ro={path}" for path in pip_files(self._pip)]
        is_old = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
        command = ["systemd-nspawn", "--quiet", f"--directory={folder}", "--machine=a1-to-a2"]
        command += ["--register=no", "--keep-unit", "--resolv-conf=replace-host", *binds]
        self._console = folder.parent / "console.log"
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                [*command, "--boot", *(OLD_CGROUPS if is_old else ())],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._init = ""

    def wait_until_booted(self) -> None:
        """Raises TimeoutError when systemd is not ready in time."""
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            self._init = children[0] if children else ""
            if self._init and self._enter("systemctl is-system-running").stdout.strip() == "running":
                return
            time.sleep(0.5)
        said = self._console.read_text(encoding="utf-8", errors="replace")
        raise TimeoutError(f"systemd in {self.folder} is not ready after {BOOT_SECONDS} s: {said[-2000:]}")

    def stop(self) -> None:
        """Shut down."""
        self._nspawn.terminate()
        self._nspawn.wait(timeout=BOOT_SECONDS)

    def at(self, path: str) -> Path:
        """A path of the root, as this host sees it."""
        return self.folder / path.lstrip("/")

    def _enter(
        self, command: str, *, given: str = "", more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **self._pip,
            **(more or {}),
        }
        words = ["nsenter", f"--target={self._init}", "--all", "sh", "-euc", f"cd /root\n{command}"]
        # Without a terminal psql takes passwords from its standard input.
        return subprocess.run(
            words, env=environment, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, start_new_session=True,
        )  # fmt: skip

    def run(self, command: str, expected: int = 0, *, given: str = "", **more: str) -> str:
        """What a command in the root prints, on both streams; it ends with the exit code that is expected."""
        done = self._enter(command, given=given, more=more)
        print(f"\n# {command}\n{done.stdout}", end="", flush=True)
        if done.returncode != expected:
            print(self.ask("journalctl --no-pager --lines=60 --unit='a1-to-a2*' || :"))
        assert done.returncode == expected, f"{command}: exit code {done.returncode}, expected {expected}"
        return done.stdout

    def ask(self, command: str) -> str:
        """Like `run`, without showing it."""
        done = self._enter(command)
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def state(self) -> str:
        """Every file that an installation may have touched, with rights, owner, size and time."""
        return self.ask(
            "find /opt /etc /usr/local /var/lib/a1-to-a2 /var/log/a1-to-a2 -xdev"
            r" -printf '%p %m %u %g %s %T@ %C@\n' | sort"
        )

    def checkout(self, name: str, changes: Mapping[str, str] | None = None) -> str:
        """A checkout in the root, with these files written anew; its path there."""
        place = self.at(f"/root/{name}")
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in listed.splitlines():
            if (REPOSITORY / line).is_file():
                (place / line).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / line, place / line)
        for path, text in (changes or {}).items():
            (place / path).write_text(text, encoding="utf-8")
        return f"/root/{name}"

    def settle(self, path: str, values: Mapping[str, str]) -> None:
        """Fill in an env file, as a person with an editor would: its owner and mode stay."""
        file = self.at(path)
        lines = file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.partition("=")[0] not in values]
        added = [f"{name}='{value}'" for name, value in values.items()]
        file.write_text("\n".join([*kept, *added]) + "\n", encoding="utf-8")


@contextlib.contextmanager
def debian(suite: str, mirror: str, cache: Path) -> Iterator[Root]:
    """A bare root of this suite, made once and booted; what is written to it is in a layer of its own."""
    base = cache / suite
    if not (base / ".complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.parent.mkdir(parents=True, exist_ok=True)
        words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(base), mirror]
        subprocess.run(words, check=True)
        (base / ".complete").touch()
    layers = Path(tempfile.mkdtemp(prefix="layers-", dir=cache))
    folder, upper, work = layers / "root", layers / "upper", layers / "work"
    for place in (folder, upper, work):
        place.mkdir(mode=0o755)
    options = f"lowerdir={base},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, folder], check=True)
    try:
        root = Root(folder)
        try:
            root.wait_until_booted()
            yield root
        finally:
            root.stop()
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", folder], check=True)
        subprocess.run(["rm", "-rf", "--one-file-system", layers], check=True)


def go_apart(module: str, arguments: list[str]) -> None:
    """Start this program again where its mounts are seen by itself alone, and end with it."""
    if "UNSHARED_FOR_TEST_INSTALL" in os.environ:
        return
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module, *arguments]
    os.execvpe("unshare", words, {**os.environ, "UNSHARED_FOR_TEST_INSTALL": "1"})
