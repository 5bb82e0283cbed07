"""The systems around the product, with campaigns in them: what a play changes, and what the checker reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions

from simulators.box import BoxSimulator
from simulators.box import environment as box_environment
from simulators.dam import DamSimulator, GeneratedContent
from simulators.dam import environment as dam_environment
from simulators.mail import MailSink

MEBIBYTE = 1024 * 1024
PART_SIZE = 7 * MEBIBYTE
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Wanted:
    """A campaign, and what is to become of it. files: {path in its Box folder: (size, SHA-1)}."""

    id: str
    folder: str
    files: dict[str, tuple[int, str]]
    listed_folder: str
    """The folder whose empty listing is the proof."""
    attempts: int = 0
    is_failed: bool = False


class Systems:
    """A DAM, a Box, a mail server, and a database with all migrations; close it at the end.

    database_url: as the checker reaches it. The product's own settings are in `env`. The mail server and the
    database outlive a scene.
    """

    def __init__(self, database_url: str, mail: MailSink | None = None) -> None:
        self.mail = mail or MailSink()
        self.mail.start()
        self.dam: DamSimulator
        self.box: BoxSimulator
        self.wanted: dict[str, Wanted] = {}
        self.env: dict[str, str] = {}
        self._database_url = database_url
        self._connection = self._connect()
        self._tables = [
            row[0]
            for row in self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            if row[0] != "schema_migrations"
        ]

    def close(self) -> None:
        self._connection.close()
        self.mail.stop()

    def _connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(self._database_url)
        connection.autocommit = True
        return connection

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement beside the product, by a connection of its own."""
        if self._connection.closed:
            self._connection = self._connect()
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def forget_connection(self) -> None:
        """The server has ended it, with all others."""
        self._connection.close()

    def new_dam(self) -> DamSimulator:
        """A DAM that is not started yet."""
        return DamSimulator()

    def new_box(self) -> BoxSimulator:
        """A Box that is not started yet."""
        return BoxSimulator()

    @contextmanager
    def cleared(self, **env: str) -> Iterator[None]:
        """New systems, without anything in them. env: settings besides the usual ones."""
        in_order = sorted(self._tables, key=lambda table: (table == "notices", table))
        self.rows("; ".join(f"DELETE FROM {table}" for table in in_order))  # noqa: S608 - from pg_tables
        self.mail.reset()
        self.dam, self.box = self.new_dam(), self.new_box()
        self.wanted = {}
        with self.dam, self.box:
            self.box.options.part_size = PART_SIZE
            self.env = self.environment() | env
            yield

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | GeneratedContent],
        *,
        has_folder: bool = True,
        attempts: int = 0,
        is_failed: bool = False,
        status: str = "A1",
    ) -> None:
        number = f"C-{len(self.wanted) + 1}"
        campaign = self.dam.add_campaign(name, number, status, master_assets=has_folder)
        folder = self.dam.master_assets_folder(campaign)
        below: dict[str, str] = {"": folder or ""}
        wanted: dict[str, tuple[int, str]] = {}
        for path, content in files.items():
            parent, _, file = path.rpartition("/")
            if parent not in below:
                below[parent] = self.dam.add_folder(below[""], parent)
            self.dam.add_asset(below[parent], file, content)
            wanted[path] = figures_of(content)
        self.wanted[campaign] = Wanted(
            campaign, f"{number} - {name}", wanted, folder or campaign, attempts, is_failed
        )
        if attempts:
            self.rows(
                "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status,"
                " a1_retry_count, a1_last_retry_at, a1_permanently_failed)"
                " VALUES (%s, %s, %s, 'A1', %s, now(), %s)",
                campaign, number, name, attempts, is_failed,
            )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """The product's settings."""
        root = self.box.add_folder(self.box.root_id, "Agency")
        return {
            "DATABASE_URL": self._database_url,
            **dam_environment(self.dam),
            **box_environment(self.box),
            "BOX_ROOT_FOLDER_ID": root,
            "BOX_UPLOADS_PER_MINUTE": "0",
            "BOX_CALLS_PER_MINUTE": "0",
            "TRANSFER_WORKERS": "2",
            **self.mail.settings,
            "MAIL_FROM": "a1-to-a2@example.com",
            "ERROR_NOTIFICATION_EMAILS": "support@example.com",
            "SUCCESS_NOTIFICATION_EMAILS": "done@example.com",
            "REPORT_EMAILS": "report@example.com",
            "DIGEST_DAY": "none",  # a test must not depend on the day it is run on
            "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
            "OFF_HOURS_ENABLED": "false",
            "A1_MAX_RETRIES": str(MAX_ATTEMPTS),
        }


def figures_of(content: bytes | GeneratedContent) -> tuple[int, str]:
    """Size and SHA-1."""
    if isinstance(content, GeneratedContent):
        return content.size, content.sha1()
    return len(content), hashlib.sha1(content, usedforsecurity=False).hexdigest()
