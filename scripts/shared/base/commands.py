"""Builds the shell commands that messages and e-mails show: they work on this installation from
any folder.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.base.env_file import INSTALLED, REPOSITORY

COMMAND = Path("/usr/local/bin/a1-to-a2")
"""The command that `make install` makes: a link to COMMAND_HERE of the installation."""
COMMAND_HERE = REPOSITORY / "scripts" / "deployment" / "a1-to-a2"
COMMAND_USER = "a1-to-a2"
"""The user that the command changes to."""
COMMAND_SETTINGS = (str(INSTALLED), str(INSTALLED.with_name("page.env")))
"""The settings files of the service and of the page: with either, messages show this command."""
COMMAND_WORDS = {
    ("a1_retry.py", ""): (),
    ("migrate.py", ""): ("migrate",),
    ("daily_report.py", ""): ("report",),
    ("a1_to_a2_box_uploader.py", ""): ("run",),
    ("orchestrator-prod.py", "--check"): ("check",),
    ("orchestrator-prod.py", "--simulate"): ("simulate",),
}
"""{(script, first option): the words of the command that do the same}."""


@dataclass(frozen=True, slots=True)
class Commands:
    """What a command needs to work on this installation.

    python, scripts: absolute paths. env_file: the file with the settings; "" when they come from the process
    environment. user: the one that the scripts run as; "" for root. command: the installation's own command,
    which needs no other values; "" if there is none.
    """

    python: str
    scripts: str
    env_file: str = ""
    user: str = ""
    command: str = ""

    def run(self, script: str, *words: str) -> str:
        """One script with these arguments, on one line. Options go before the `--` that ends them."""
        short = self._short(script, words)
        if short:
            return " ".join(map(shell_word, short))
        options = ("--env-file", self.env_file) if self.env_file else ()
        # Without a file the settings are in the environment, which sudo would drop.
        who = ("sudo", "-u", self.user) if self.user and self.env_file else ()
        command = (*who, self.python, str(Path(self.scripts, script)))
        before, after = _split(words)
        return " ".join(map(shell_word, (*command, *before, *options, *after)))

    def _short(self, script: str, words: Sequence[str]) -> tuple[str, ...]:
        """The words of the installation's own command; none if it has none for this script."""
        for option in ("", *words[:1]):
            found = COMMAND_WORDS.get((script, option))
            if self.command and found is not None:
                return (self.command, *found, *(words[1:] if option else words))
        return ()

    def reset(self, campaign_id: str) -> str:
        """The command that resets this campaign."""
        end_of_options = ("--",) if campaign_id.startswith("-") else ()
        return self.run("a1_retry.py", "reset", *end_of_options, campaign_id)

    def explain(self, campaign_id: str) -> str:
        """The command that says why this campaign is where it is, and what happens next."""
        end_of_options = ("--",) if campaign_id.startswith("-") else ()
        return self.run("a1_retry.py", "explain", *end_of_options, campaign_id)

    @property
    def where(self) -> str:
        """Where and how to run the commands, as part of a sentence."""
        if self.command:
            return f"on the server, as root or {COMMAND_USER}, from any folder"
        if not self.env_file:
            return "on the server, in the environment of the service, which has the settings"
        if not self.user:
            return "on the server, as root, from any folder"
        return f"on the server, from any folder (leave out “sudo -u {self.user}” when you are {self.user})"

    def lacks(self, migrations: Sequence[Path]) -> str:
        """The message for a database that lacks these migrations."""
        names = ", ".join(path.name for path in migrations)
        return f"the database lacks {names}; apply as the owner of its tables: {self.run('migrate.py')}"


def here(env_file: str | None = None, user: str = "") -> Commands:
    """The commands of the installation from which this process runs.

    env_file: "" when the settings come from the process environment; None when that is not known.
    """
    is_usual = env_file is None or env_file in COMMAND_SETTINGS
    command = COMMAND.name if is_usual and leads_here(COMMAND) else ""
    python, scripts = sys.executable or "python3", str(REPOSITORY / "scripts")
    return Commands(python, scripts, env_file or "", user, command)


def leads_here(command: Path) -> bool:
    """Whether the command exists, is executable, and belongs to the installation of this process."""
    return os.access(command, os.X_OK) and os.path.realpath(command) == str(COMMAND_HERE)


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The words up to `--`, and the others."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at:]


def shell_word(value: str) -> str:
    """Quote for a shell. Unprintable characters get bash's $'' form, so that the command stays on one line.

    NUL would end the word early, and so could name another campaign: it becomes U+FFFD, which matches none.
    """
    if value.isprintable():
        return shlex.quote(value)
    data = value.replace("\0", "\ufffd").encode("utf-8", "replace")
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_. "
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in data) + "'"
