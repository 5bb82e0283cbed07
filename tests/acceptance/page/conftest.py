"""A real browser, and pages for it that run as processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from real_browser import People, Site, open_chromium, open_people, open_site
from simulators.postgres import PostgresServer

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser that the tests of a module share."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def module_database_url(postgres: PostgresServer, template_database: str, worker: str) -> Iterator[str]:
    """A database with all migrations that the tests of a module share."""
    name = f"a1_to_a2_browser_{worker}_{next(_numbers)}_test"
    yield postgres.create_database(name, template=template_database)
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def site(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A page on that database, empty at first."""
    with open_site(module_database_url, tmp_path_factory.mktemp("site")) as opened:
        yield opened


@pytest.fixture
def people(chromium: Browser, site: Site) -> Iterator[People]:
    """People at that page."""
    with open_people(chromium, site) as opened:
        yield opened
