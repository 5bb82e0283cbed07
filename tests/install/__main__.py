"""Walk through the README's ten minutes in a bare Debian; upgrade, go back, remove: `make test-install`.

systemd runs in the root. PostgreSQL, the DAM, Box and the mail server are this repository's stand-ins, on
this host; the DAM speaks TLS and wants the client certificate.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2
from dotenv import dotenv_values

from install.root import MIRROR, REPOSITORY, Root, debian, go_apart
from simulators.installation import Installation
from simulators.postgres import HOST, free_port
from simulators.samples import SampleFile

OWNER = {"DB_USER": "the_owner", "DB_PASSWORD": "of-the-owner"}
SERVICE_PASSWORD, PAGE_PASSWORD = "of-the-service", "of-the-page"
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare")
TICK_SECONDS = 300
SLOW_SECONDS = 45
"""The DAM waits so long before it sends a file, three times: longer than an upgrade takes to build."""


class Outside:
    """The systems around the product."""

    def __init__(self, parts: Installation) -> None:
        self.parts = parts
        url = parts.postgres.admin_url
        self.database_url = url
        self.sql(f"CREATE ROLE the_owner LOGIN CREATEROLE PASSWORD '{OWNER['DB_PASSWORD']}'")
        self.sql(f"ALTER DATABASE {parts.postgres.database} OWNER TO the_owner")

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run it as the superuser of the database."""
        with contextlib.closing(psycopg2.connect(self.database_url)) as connection, connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def campaign(self, name: str, number: str, *files: str) -> str:
        """A campaign in A1 with these files. Returns its id."""
        identity = self.parts.dam.add_campaign(name, number)
        self.parts.deliver(identity, [SampleFile(file, f"{name}: {file}".encode()) for file in files])
        return identity

    def is_in_box(self, campaign_id: str, name: str, *files: str) -> bool:
        """Whether the campaign is in A2, and the files are in its folder in Box."""
        paths = [file.path for file in self.parts.box.files()]
        found = [any(name in path and path.endswith(f"/{file}") for path in paths) for file in files]
        return all(found) and self.parts.dam.status(campaign_id) == "A2"

    def settings(self) -> dict[str, str]:
        """What a person fills in."""
        found = {name: value or "" for name, value in dotenv_values(self.parts.env_file).items()}
        return {
            **{name: value for name, value in found.items() if not name.startswith("ADMIN_")},
            "DAM_PFX_PATH": "/etc/a1-to-a2/client.pfx",
            "DAM_CA_BUNDLE": "/etc/a1-to-a2/ca.pem",
            "DB_USER": "a1_to_a2",
            "DB_PASSWORD": SERVICE_PASSWORD,
            "OFF_HOURS_ENABLED": "false",
            "TRANSFER_WORKERS": "1",
        }


def wait_for(what: str, is_done: Callable[[], bool], seconds: float = TICK_SECONDS) -> None:
    """Raises TimeoutError when it does not come."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s: no {what}")
        time.sleep(0.5)
    print(f"\n# seen: {what}", flush=True)


def blocks(page: str, heading: str) -> list[str]:
    """The commands below a heading of a page, in order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    part = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [re.sub("^ +", "", block, flags=re.M) for block in re.findall(r"```text\n(.*?)```", part, re.S)]


def as_owner(root: Root, outside: Outside, commands: str, password: str) -> None:
    """Run each line with what a person writes for OWNER, HOST and PORT, and types when psql asks."""
    server = f"-h {HOST} -p {outside.parts.postgres.port} -U {OWNER['DB_USER']}"
    written = commands.replace("-h HOST -p PORT -U OWNER", server)
    written = written.replace("DB_USER=OWNER DB_PASSWORD=…", shell(OWNER))
    for line in written.splitlines():
        typed = {"psql": f"{password}\n{password}\n", "a1-to-a2": "a-long-password\n"}.get(
            line.split()[0], ""
        )
        root.run(line, given=typed, PGPASSWORD=OWNER["DB_PASSWORD"])


def shell(variables: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in variables.items())


def walk_through_the_readme(root: Root, outside: Outside) -> str:
    """From nothing to campaigns in Box. Returns the checkout."""
    install, pfx, database, check, look, once, start = blocks("README.md", "To production in ten minutes")
    checkout = root.checkout("first")
    shown = root.run(f"make -C {checkout} install DRY_RUN=1")
    assert "would: useradd" in shown
    assert not root.at("/etc/a1-to-a2").exists()
    root.run(f"cd {checkout}\n{install}")
    state = root.state()
    assert "nothing to do" in root.run(f"cd {checkout}\n{install}")
    assert root.state() == state, "the second time changes nothing"
    assert root.ask("stat -c '%a %U' /etc/a1-to-a2/env") == "600 a1-to-a2\n"
    assert not root.ask("find /opt/a1-to-a2 ! -user root"), "the service cannot change itself"
    assert not root.ask("find /opt/a1-to-a2 -type f ! -perm -o=r")

    shutil.copy(outside.parts.keys / "client.pfx", root.at(f"{checkout}/client.pfx"))
    root.run(f"cd {checkout}\n{pfx}")
    shutil.copy(outside.parts.keys / "ca.pem", root.at("/etc/a1-to-a2/ca.pem"))
    root.settle("/etc/a1-to-a2/env", outside.settings())

    as_owner(root, outside, database, SERVICE_PASSWORD)
    assert "from /etc/a1-to-a2/env" in root.run(check)

    campaign = outside.campaign("Summer Splash", "C-1001", "visual.png")
    assert "Summer Splash" in root.run(look)
    assert outside.parts.dam.status(campaign) == "A1"
    root.run(once.replace("ID", campaign))
    assert outside.is_in_box(campaign, "Summer Splash", "visual.png")
    root.run(start)
    assert root.ask("systemctl is-active a1-to-a2") == "active\n"
    another = outside.campaign("Autumn Leaves", "C-1002", "visual.png")
    wait_for(
        "a campaign that the service took to Box",
        lambda: outside.is_in_box(another, "Autumn Leaves", "visual.png"),
    )
    return checkout


def use_the_command(root: Root, outside: Outside) -> None:
    """From a folder that its user cannot enter."""
    outside.sql(
        "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status, a1_retry_count,"
        " a1_permanently_failed) VALUES ('stuck', 'C-1', 'Stuck', 'A1', 3, TRUE)"
    )
    root.run("a1-to-a2 migrate --status")
    assert "Stuck" in root.run("a1-to-a2 status")
    assert " a1-to-a2 reset stuck\n" in root.run("a1-to-a2 explain C-1")
    root.run("a1-to-a2 reset C-1 --reason 'two  words; $HOME'")
    found = "SELECT count(*) FROM campaign_events WHERE reason = 'two  words; $HOME'"
    assert outside.sql(found) == [(1,)]
    as_service = "setpriv --reuid=a1-to-a2 --regid=a1-to-a2 --clear-groups a1-to-a2"
    root.run(f"{as_service} status")
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups a1-to-a2"
    assert "run it as root" in root.run(f"{as_nobody} status", 2)
    root.run("install -m 0600 /etc/a1-to-a2/env /root/mine.env")
    denied = root.run("A1_TO_A2_ENV=/root/mine.env a1-to-a2 status", 2)
    assert "cannot read the env file /root/mine.env: Permission denied" in denied, "it is not root"
    root.run("a1-to-a2 what", 2)
    root.run("a1-to-a2 version")
    root.run("a1-to-a2 simulate --days 1")


def add_the_page(root: Root, outside: Outside, checkout: str) -> str:
    """Returns the command that asks the page whether it works."""
    install, filled_in, commands = blocks("MARKDOWN_DOCS/OPERATORS_PAGE.md", "Set it up")
    root.run(f"cd {checkout}\n{install}")
    state = root.state()
    assert "nothing to do" in root.run(f"cd {checkout}\n{install}")
    assert root.state() == state
    address = f"{HOST}:{free_port()}"
    values = dict(line.split("=", 1) for line in filled_in.replace("…", PAGE_PASSWORD).splitlines())
    root.settle("/etc/a1-to-a2/page.env", values | {"ADMIN_LISTEN": address})
    as_owner(root, outside, commands, PAGE_PASSWORD)
    code = f"import urllib.request as r; print(r.urlopen('http://{address}/healthz').status)"
    asked = f'python3 -c "{code}"'
    assert root.run(asked) == "200\n"
    assert root.run(asked.replace("healthz", "readyz")) == "200\n"
    return asked


def add_workers(root: Root, outside: Outside, checkout: str) -> None:
    """Let a worker take a campaign to Box, drain it, and let runs work by themselves again."""
    tables, install, commands = blocks("MARKDOWN_DOCS/SCALE_OUT.md", "Set it up")
    as_owner(root, outside, tables, "")
    root.run(f"cd {checkout}\n{install}")
    state = root.state()
    assert "nothing to do" in root.run(f"cd {checkout}\n{install}")
    assert root.state() == state
    root.settle("/etc/a1-to-a2/env", {"ENGINE": "procrastinate"})
    assert "no worker is running" in root.run("a1-to-a2 check")
    root.run(commands)
    campaign = outside.campaign("Winter Lights", "C-1004", "visual.png")
    wait_for(
        "a campaign that a worker took to Box",
        lambda: outside.is_in_box(campaign, "Winter Lights", "visual.png"),
    )
    (holder,) = outside.sql(f"SELECT holder FROM campaign_epochs WHERE campaign_id = '{campaign}'")[0]
    assert str(holder).startswith("a1_to_a2 worker ")
    assert "1 worker running" in root.run("a1-to-a2 check")
    root.run("a1-to-a2 workers")
    root.run("a1-to-a2 drain $(hostname)")
    is_active = "systemctl is-active a1-to-a2-worker@1 || :"
    wait_for("the end of the worker that was drained", lambda: root.ask(is_active) == "inactive\n")
    root.settle("/etc/a1-to-a2/env", {"ENGINE": "local"})
    root.run("systemctl disable a1-to-a2-worker@1\nsystemctl reload a1-to-a2")


def upgrade(root: Root, outside: Outside, first: str, is_well: str) -> None:
    """With a migration and a file in hand; to one that fails its check; and back to the first."""
    number = max(int(path.name[:3]) for path in (REPOSITORY / "database/migrations").glob("*.sql")) + 1
    probe = {f"database/migrations/{number:03}_probe.sql": "CREATE TABLE IF NOT EXISTS probe (id INTEGER);\n"}
    second = root.checkout("second", probe)
    first_version = root.ask("cat /opt/a1-to-a2/.installed")
    assert "another version: use make upgrade" in root.run(f"make -C {second} install", 2)
    assert "migrations are pending" in root.run(f"make -C {second} upgrade", 2)
    root.run(f"make -C {second} upgrade DRY_RUN=1", **OWNER)
    assert root.ask("cat /opt/a1-to-a2/.installed") == first_version
    settings = root.at("/etc/a1-to-a2/env").read_text(encoding="utf-8")

    files = ("one.png", "two.png", "three.png")
    slow = outside.campaign("Slow Winter", "C-1003", *files)
    outside.parts.dam.clear_requests()
    outside.parts.dam.fail("GET .*/contents", delay=SLOW_SECONDS, times=len(files))
    wait_for(
        "the service copying files",
        lambda: any("/contents" in call.path for call in outside.parts.dam.requests),
    )
    assert "upgraded" in root.run(f"make -C {second} upgrade", **OWNER)
    assert root.at("/etc/a1-to-a2/env").read_text(encoding="utf-8") == settings
    assert outside.sql("SELECT to_regclass('probe')::text") == [("probe",)]
    assert root.ask("cat /opt/a1-to-a2.old/.installed") == first_version
    assert root.ask("systemctl is-active a1-to-a2 a1-to-a2-page") == "active\nactive\n"
    wait_for("the copied files in Box", lambda: outside.is_in_box(slow, "Slow Winter", *files))
    kept = [
        file for file in outside.parts.box.files() if "Slow Winter" in file.path and "one.png" in file.path
    ]
    assert len(kept) == 1
    root.run("a1-to-a2 page-check")
    assert root.run(is_well) == "200\n"
    assert "nothing to do" in root.run(f"make -C {second} upgrade")
    assert not root.ask("grep -rlI 'a1-to-a2[.]new' /opt/a1-to-a2/.venv || :")

    second_version = root.ask("cat /opt/a1-to-a2/.installed")
    more = {
        f"database/migrations/{number + 1:03}_more.sql": "CREATE TABLE IF NOT EXISTS more (id INTEGER);\n"
    }
    broken = {"scripts/orchestrator-prod.py": "raise SystemExit('does not work')\n"}
    third = root.checkout("third", probe | more | broken)
    assert "going back" in root.run(f"make -C {third} upgrade", 2, **OWNER)
    assert root.ask("cat /opt/a1-to-a2/.installed") == second_version
    assert outside.sql("SELECT to_regclass('more')::text") == [("more",)]
    assert root.ask("systemctl is-active a1-to-a2 a1-to-a2-page") == "active\nactive\n"
    root.run("a1-to-a2 check")
    assert root.run(is_well) == "200\n"

    assert "upgraded" in root.run(f"make -C {first} upgrade"), "an older release comes back the same way"
    assert root.ask("cat /opt/a1-to-a2/.installed") == first_version
    assert root.ask("systemctl is-active a1-to-a2 a1-to-a2-page") == "active\nactive\n"
    assert root.run(is_well) == "200\n"


def remove(root: Root, outside: Outside, checkout: str) -> None:
    """First what can be made again, then everything but the database."""
    rows = outside.sql("SELECT count(*) FROM campaign_status")
    said = root.run("bash /opt/a1-to-a2/scripts/deployment/install.sh uninstall")
    assert "kept: /etc/a1-to-a2\n" in said
    assert root.at("/etc/a1-to-a2/env").exists()
    assert not root.at("/opt/a1-to-a2").exists()
    assert not os.path.lexists(root.at("/usr/local/bin/a1-to-a2"))
    assert not root.ask("systemctl list-units --all --plain --no-legend 'a1-to-a2*'")
    root.run(f"make -C {checkout} uninstall PURGE=1")
    left = root.ask(
        "find / -xdev -name '*a1-to-a2*' ! -path '/root/*' ! -path '/proc/*' ! -path '/sys/*'; getent passwd"
    )
    assert "a1-to-a2" not in left, left
    assert outside.sql("SELECT count(*) FROM campaign_status") == rows, "the database stays"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-install", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", action="append", help="of Debian; default: bookworm and trixie")
    parser.add_argument("--mirror", default=MIRROR)
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/a1-to-a2-roots", help="where roots are kept"
    )
    arguments = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        parser.error("it needs root and, on Debian: apt-get install debootstrap systemd-container")
    go_apart("install", sys.argv[1:])
    for suite in arguments.suite or ["bookworm", "trixie"]:
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory() as output,
            Installation(Path(output), port=None) as parts,
            debian(suite, arguments.mirror, arguments.cache) as root,
        ):
            outside = Outside(parts)
            checkout = walk_through_the_readme(root, outside)
            use_the_command(root, outside)
            is_well = add_the_page(root, outside, checkout)
            add_workers(root, outside, checkout)
            upgrade(root, outside, checkout, is_well)
            remove(root, outside, checkout)
        print(f"\n{suite}: all passed, in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
