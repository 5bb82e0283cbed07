"""The operator's page for tests: an application on a database, and browsers of people who are logged in."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from shared.page.app import create_app
from shared.page.app_context import EXTENSION
from shared.page.users import Cost, line_of
from shared.settings import PageSettings, load_page_settings

ORIGIN = "http://localhost"
OPERATOR, READER = "olga", "ruth"
PASSWORD = "only-for-these-tests"
CHEAP = Cost(2**14, 8, 1)
"""The least that the users' file may have."""
LINES = {name: line_of(name, PASSWORD, CHEAP) for name in (OPERATOR, READER)}


class Clock:
    """The page's clock: stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.at

    def pass_by(self, **units: float) -> None:
        self.at += timedelta(**units)


class Browser:
    """A client with cookies that sends forms as the page's own pages do: with their token and Origin.

    name: who is logged in; "" for nobody.
    """

    def __init__(self, app: Flask, origin: str = ORIGIN, *, peer: str = "127.0.0.1") -> None:
        self.client = app.test_client()
        self.origin = origin
        self.peer = peer
        self.name = ""

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.send("GET", path, headers=headers)

    def send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> TestResponse:
        """A request as it is given; nothing is added but the address and the cookies."""
        return self.client.open(
            path,
            method=method,
            base_url=self.origin,
            headers=[(name.replace("_", "-"), value) for name, value in (headers or {}).items()],
            environ_overrides={"REMOTE_ADDR": self.peer},
            buffered=True,
            **more,
        )

    def csrf(self, path: str = "/") -> str:
        """The token of the forms of a page."""
        found = re.search(r'name="csrf"\s+value="([0-9a-f]{64})"', self.get(path).text)
        assert found is not None, f"{path} has no form"
        return found[1]

    def post(self, path: str, *, follow_redirects: bool = False, **fields: Any) -> TestResponse:
        """A form, with its token and the page's Origin."""
        form = {"csrf": self.csrf("/" if self.name else "/login"), **fields}
        return self.send(
            "POST", path, data=form, headers={"Origin": self.origin}, follow_redirects=follow_redirects
        )

    def log_in(self, name: str, password: str = PASSWORD, **fields: str) -> TestResponse:
        answer = self.post("/login", name=name, password=password, **fields)
        if answer.status_code == 303:
            self.name = name
        return answer

    @property
    def cookies(self) -> dict[str, str]:
        """{name: value}."""
        return {cookie.key: cookie.value for cookie in self.client._cookies.values()}


@dataclass
class Page:
    """An application, and where its settings come from."""

    app: Flask
    settings: PageSettings
    clock: Clock
    users_file: Path
    origin: str = ORIGIN

    def browser(self, name: str = "", *, peer: str = "127.0.0.1") -> Browser:
        """A browser in which this person is logged in; "" for nobody."""
        browser = Browser(self.app, self.origin, peer=peer)
        if name:
            answer = browser.log_in(name)
            assert answer.status_code == 303, html.unescape(answer.text)
        return browser

    def write_users(self, *lines: str) -> None:
        _write(self.users_file, lines)


@contextmanager
def open_page(database_url: str, folder: Path, **variables: str) -> Iterator[Page]:
    """The page with the users OPERATOR and READER, over further variables, on a migrated database."""
    users_file, clock = folder / "page-users", Clock()
    _write(users_file, LINES.values())
    env = {
        "DATABASE_URL": database_url,
        "ORCHESTRATOR_TIMEZONE": "Europe/Rome",
        "ADMIN_USERS_FILE": str(users_file),
        "ADMIN_OPERATORS": OPERATOR,
        **variables,
    }
    settings = load_page_settings(env)
    app = create_app(settings, clock)
    yield Page(app, settings, clock, users_file, env.get("ADMIN_URL", ORIGIN))
    app.extensions[EXTENSION].connections.get().close()


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    path.chmod(0o600)
