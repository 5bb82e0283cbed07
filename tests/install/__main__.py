"""Install, upgrade, go back and remove the product in a bare Debian root, as root: `make test-install`.

The root is made by debootstrap and entered by chroot: no systemd runs in it. PostgreSQL is a throw-away
server of this host, over loopback. The configuration of pip, and the folders that it names, are this host's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from simulators.postgres import EmbeddedPostgres

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = "python3,python3-venv,make,ca-certificates,postgresql-client"
MIRROR = "http://deb.debian.org/debian"
INSIDE = "UNSHARED_FOR_TEST_INSTALL"
SETTINGS = {
    "DAM_AUTH": "password",
    "DAM_PFX_PATH": "",
    "DAM_CLIENT_ID": "id",
    "DAM_CLIENT_SECRET": "secret",
    "DAM_USERNAME": "user",
    "DAM_PASSWORD": "password",
    "DAM_CAMPAIGNS_FOLDER_ID": "root",
    "DAM_STATUS_FIELD_ID": "status",
    "DAM_NUMBER_FIELD_ID": "number",
    "BOX_CLIENT_ID": "id",
    "BOX_CLIENT_SECRET": "secret",
    "BOX_ENTERPRISE_ID": "1",
    "BOX_ROOT_FOLDER_ID": "0",
    "SMTP_HOST": "mail.example.com",
    "SMTP_USERNAME": "user",
    "SMTP_PASSWORD": "secret",
    "MAIL_FROM": "a1-to-a2@example.com",
    "ERROR_NOTIFICATION_EMAILS": "ops@example.com",
}
OWNER = {"DB_USER": "the_owner", "DB_PASSWORD": "of-the-owner"}
STATUS = "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"


def pip_environment() -> dict[str, str]:
    """This host's configuration of pip, as variables."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE)
    return {f"PIP_{name.upper().replace('-', '_')}": value for name, value in found}


class Root:
    """A Debian root, and PostgreSQL beside it."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder, self.database_url = folder, database_url
        self._pip = pip_environment()
        shutil.copy("/etc/resolv.conf", self.at("/etc/resolv.conf"))
        self._mount("/proc", "--rbind")
        self._mount("/dev", "--rbind")
        for word in " ".join(self._pip.values()).split():
            # An index in a folder has its files beside it.
            path = Path(word[7:]).parent if word.startswith("file://") else Path(word)
            if path.is_absolute() and path.exists():
                self._mount(str(path), "--bind")

    def _mount(self, path: str, how: str) -> None:
        place = self.at(path)
        if Path(path).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        subprocess.run(["mount", how, path, place], check=True)

    def at(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def run(self, command: str, expected: int = 0, **more: str) -> str:
        """What a command in the root prints, on both streams; it ends with the exit code that is expected."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **self._pip,
            **more,
        }
        done = subprocess.run(
            ["nice", "-n", "19", "chroot", self.folder, "sh", "-c", f"cd /root && {command}"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, check=False,
        )  # fmt: skip
        print(f"\n# {command}\n{done.stdout}", end="", flush=True)
        assert done.returncode == expected, f"{command}: exit code {done.returncode}, expected {expected}"
        return done.stdout

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with contextlib.closing(psycopg2.connect(self.database_url)) as connection, connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def state(self) -> str:
        """Every file that an installation may have touched, with rights, owner, size and time."""
        return self.run_quietly(
            "find /opt /etc /usr/local /var/lib/a1-to-a2 /var/log/a1-to-a2 -xdev"
            r" -printf '%p %m %u %g %s %T@ %C@\n'"
        )

    def run_quietly(self, command: str) -> str:
        words = ["chroot", self.folder, "sh", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

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
        text = file.read_text(encoding="utf-8")
        for name, value in values.items():
            text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
            if f"\n{name}=" not in f"\n{text}":
                text += f"{name}={value}\n"
        file.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def debian(suite: str, mirror: str, cache: Path, database_url: str) -> Iterator[Root]:
    """A bare root of this suite, made once; what is written to it lies in a layer of its own."""
    base = cache / suite
    if not (base / "usr/bin/psql").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "nice",
                "-n",
                "19",
                "debootstrap",
                "--variant=minbase",
                f"--include={PACKAGES}",
                suite,
                base,
                mirror,
            ],
            check=True,
        )
    layers = Path(tempfile.mkdtemp(prefix="layers-", dir=cache))
    folder, upper, work = layers / "root", layers / "upper", layers / "work"
    for place in (folder, upper, work):
        place.mkdir(mode=0o755)
    options = f"lowerdir={base},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, folder], check=True)
    try:
        yield Root(folder, database_url)
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", folder], check=True)
        subprocess.run(["rm", "-rf", "--one-file-system", layers], check=True)


def install_twice(root: Root) -> str:
    """From nothing to a command that answers. Returns the checkout."""
    checkout = root.checkout("first")
    before = root.state() if root.at("/var/lib/a1-to-a2").exists() else ""
    shown = root.run(f"make -C {checkout} install DRY_RUN=1")
    assert "would: useradd" in shown
    assert not root.at("/etc/a1-to-a2").exists(), before
    root.run(f"make -C {checkout} install")
    state = root.state()
    assert "nothing to do" in root.run(f"make -C {checkout} install")
    assert root.state() == state, "the second time changes nothing"
    assert root.run_quietly("stat -c '%a %U' /etc/a1-to-a2/env") == "600 a1-to-a2\n"
    assert not root.run_quietly("find /opt/a1-to-a2 ! -user root"), "the service cannot change itself"
    assert not root.run_quietly("find /opt/a1-to-a2 -type f -name '*.sh' ! -perm -o=r")
    return checkout


def use(root: Root) -> None:
    """The command, against a database, from a folder that its user cannot enter."""
    url = urlsplit(root.database_url)
    root.settle(
        "/etc/a1-to-a2/env",
        SETTINGS
        | {"DB_HOST": str(url.hostname), "DB_PORT": str(url.port), "DB_NAME": url.path[1:]}
        | {"DB_USER": "the_scripts", "DB_PASSWORD": "of-the-scripts"},
    )
    root.run("a1-to-a2 migrate", **OWNER)
    root.run("a1-to-a2 grant", **OWNER)
    root.sql("ALTER ROLE the_scripts PASSWORD 'of-the-scripts'")
    assert "from /etc/a1-to-a2/env" in root.run("a1-to-a2 check")
    root.sql(f"{STATUS} a1_permanently_failed) VALUES ('stuck', 'C-1', 'Summer', 'A1', 3, TRUE)")
    assert "Summer" in root.run("a1-to-a2 status")
    assert " a1-to-a2 reset stuck\n" in root.run("a1-to-a2 explain C-1")
    root.run("a1-to-a2 reset C-1 --reason 'two  words; $HOME'")
    assert root.sql("SELECT a1_permanently_failed FROM campaign_status") == [(False,)]
    assert root.sql("SELECT count(*) FROM campaign_events WHERE reason = 'two  words; $HOME'") == [(1,)]
    root.run("setpriv --reuid=a1-to-a2 --regid=a1-to-a2 --clear-groups a1-to-a2 status")
    assert "run it as root" in root.run(
        "setpriv --reuid=65534 --regid=65534 --clear-groups a1-to-a2 status", 2
    )
    root.run("install -m 0600 /etc/a1-to-a2/env /root/mine.env")
    denied = root.run("A1_TO_A2_ENV=/root/mine.env a1-to-a2 status", 2)
    assert "/root/mine.env: the env file cannot be read: Permission denied" in denied, (
        "it is not root any more"
    )
    root.run("a1-to-a2 what", 2)
    root.run("a1-to-a2 version")


def upgrade(root: Root) -> str:
    """With a migration, then one that fails its check. Returns the checkout that is installed at the end."""
    number = max(int(path.name[:3]) for path in (REPOSITORY / "database/migrations").glob("*.sql")) + 1
    migration = {
        f"database/migrations/{number:03}_probe.sql": "CREATE TABLE IF NOT EXISTS probe (id INTEGER);\n"
    }
    second = root.checkout("second", migration)
    state = root.run_quietly("cd /opt/a1-to-a2 && cat .installed")
    assert "another version: make upgrade" in root.run(f"make -C {second} install", 2)
    assert "migrations are pending" in root.run(f"make -C {second} upgrade", 2)
    assert root.run_quietly("cat /opt/a1-to-a2/.installed") == state
    root.run(f"make -C {second} upgrade DRY_RUN=1", **OWNER)
    assert root.run_quietly("cat /opt/a1-to-a2/.installed") == state
    settings = root.at("/etc/a1-to-a2/env").read_text(encoding="utf-8")
    assert "upgraded" in root.run(f"make -C {second} upgrade", **OWNER)
    assert root.at("/etc/a1-to-a2/env").read_text(encoding="utf-8") == settings
    assert root.sql("SELECT to_regclass('probe')::text") == [("probe",)]
    assert root.run_quietly("cat /opt/a1-to-a2.old/.installed") == state
    assert "nothing to do" in root.run(f"make -C {second} upgrade")
    root.run("a1-to-a2 status")
    assert not root.run_quietly("grep -rlI 'a1-to-a2[.]new' /opt/a1-to-a2/.venv || :")

    installed = root.run_quietly("cat /opt/a1-to-a2/.installed")
    third = root.checkout(
        "third", migration | {"scripts/orchestrator-prod.py": "raise SystemExit('does not work')\n"}
    )
    said = root.run(f"make -C {third} upgrade", 2)
    assert "going back" in said
    assert root.run_quietly("cat /opt/a1-to-a2/.installed") == installed
    root.run("a1-to-a2 check")
    return second


def add_the_page(root: Root, checkout: str) -> None:
    root.run(f"make -C {checkout} install PAGE=1")
    state = root.state()
    assert "nothing to do" in root.run(f"make -C {checkout} install PAGE=1")
    assert root.state() == state
    root.settle(
        "/etc/a1-to-a2/page.env",
        {"DB_USER": "the_page", "DB_PASSWORD": "of-the-page", "ADMIN_URL": "https://a1-to-a2.example.com"},
    )
    root.run("a1-to-a2 grant", **OWNER)
    root.sql("ALTER ROLE the_page PASSWORD 'of-the-page'")
    root.run("echo a-long-password | a1-to-a2 page-user olga")
    assert "users: 1" in root.run("a1-to-a2 page-check")


def remove(root: Root, checkout: str) -> None:
    said = root.run("sh /opt/a1-to-a2/scripts/deployment/install.sh uninstall")
    assert "left: /etc/a1-to-a2\n" in said
    assert root.at("/etc/a1-to-a2/env").exists()
    assert not root.at("/opt/a1-to-a2").exists()
    assert not os.path.lexists(root.at("/usr/local/bin/a1-to-a2"))
    root.run(f"make -C {checkout} uninstall PURGE=1")
    left = root.run_quietly(
        "find / -xdev -name '*a1-to-a2*' ! -path '/root/*' ! -path '/proc/*'; getent passwd"
    )
    assert "a1-to-a2" not in left, left
    assert root.sql("SELECT count(*) FROM campaign_status") == [(1,)], "the database stays"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-install", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", action="append", help="of Debian; default: bookworm")
    parser.add_argument("--mirror", default=MIRROR)
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/a1-to-a2-roots", help="where roots are kept"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        parser.error("it needs root, and debootstrap (Debian: apt-get install debootstrap)")
    if INSIDE not in os.environ:  # the mounts are seen here alone, and end with this process
        words = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            sys.executable,
            "-m",
            "install",
            *sys.argv[1:],
        ]
        os.execvpe("unshare", words, {**os.environ, INSIDE: "1"})
    for suite in arguments.suite or ["bookworm"]:
        with (
            tempfile.TemporaryDirectory() as place,
            EmbeddedPostgres(Path(place), password=uuid.uuid4().hex) as postgres,
        ):
            name = f"install_{uuid.uuid4().hex[:8]}"
            admin = urlsplit(postgres.admin_url)
            for statement in (
                f"CREATE ROLE {OWNER['DB_USER']} LOGIN CREATEROLE PASSWORD '{OWNER['DB_PASSWORD']}'",
                f"CREATE DATABASE {name} OWNER {OWNER['DB_USER']} ENCODING 'UTF8' TEMPLATE template0",
            ):
                with contextlib.closing(psycopg2.connect(postgres.admin_url)) as connection:
                    connection.autocommit = True
                    connection.cursor().execute(statement)
            url = admin._replace(path=f"/{name}").geturl()
            with debian(suite, arguments.mirror, arguments.cache, url) as root:
                checkout = install_twice(root)
                use(root)
                checkout = upgrade(root)
                add_the_page(root, checkout)
                remove(root, checkout)
        print(f"\n{suite}: all passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
