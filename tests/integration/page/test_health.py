"""What the page tells machines, without a log-in: metrics, health, readiness; on a real PostgreSQL."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from page import Page, open_page
from shared.database import Database
from shared.report.metrics import exposition
from shared.upkeep.schema import migration_files
from simulators.postgres import EmbeddedPostgres


@pytest.fixture
def page(database_url: str, tmp_path: Path) -> Iterator[Page]:
    with open_page(database_url, tmp_path) as opened:
        yield opened


def execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def test_metrics__are_what_the_file_holds_and_need_no_log_in(page: Page, database_url: str) -> None:
    execute(
        database_url, "INSERT INTO campaign_status (campaign_id, status) VALUES ('c1', 'A1'), ('c2', 'A2')"
    )
    answer = page.browser().get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    with Database(database_url) as database:
        assert answer.data == exposition(database, page.settings.retry, "A1", page.clock())
    due = [
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.labels.get("state") == "due"
    ]
    assert due == [1]
    assert "Set-Cookie" not in answer.headers


def test_ready__while_no_migration_is_pending(page: Page, database_url: str) -> None:
    browser = page.browser()
    assert (browser.get("/readyz").status_code, browser.get("/readyz").text) == (200, "ready\n")
    last = migration_files()[-1].stem
    execute(database_url, f"DELETE FROM schema_migrations WHERE name = '{last}'")  # noqa: S608
    answer = browser.get("/readyz")
    assert (answer.status_code, answer.text) == (503, f"the migration {last} is not applied\n")
    assert browser.get("/healthz").status_code == 200


def test_metrics__of_a_database_that_lacks_a_table_are_refused_without_its_words(
    page: Page, database_url: str
) -> None:
    execute(database_url, "DROP TABLE metric_totals")
    answer = page.browser().get("/metrics")
    assert answer.status_code == 503
    assert "the database refused the query" in answer.text
    assert "metric_totals" not in answer.text


@pytest.fixture
def own_server(worker: str) -> Iterator[EmbeddedPostgres]:
    """A migrated server that comes back on the same port after a stop."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix=f"a1-to-a2-health-{worker}-"))
    try:
        with EmbeddedPostgres(folder, port=port, password="only-for-tests") as server:
            for file in migration_files():
                assert server.psql("--quiet", "-f", file).returncode == 0
            yield server
    finally:
        shutil.rmtree(folder)


def test_database_away__only_the_process_is_well(own_server: EmbeddedPostgres, tmp_path: Path) -> None:
    with open_page(own_server.url, tmp_path) as page:
        browser = page.browser()
        assert browser.get("/readyz").status_code == 200
        own_server.stop("immediate")
        for path in ("/readyz", "/metrics"):
            answer = browser.get(path)
            assert (answer.status_code, answer.text) == (503, "the database cannot be reached\n")
            assert answer.headers["Retry-After"] == "10"
        assert (browser.get("/healthz").status_code, browser.get("/healthz").text) == (200, "ok\n")
        own_server.start()
        assert browser.get("/readyz").status_code == 200
        assert browser.get("/metrics").status_code == 200


def test_health__answers_reads_alone(page: Page) -> None:
    for path in ("/metrics", "/healthz", "/readyz"):
        assert page.browser().send("HEAD", path).status_code == 200
        assert page.browser().send("POST", path).status_code in (403, 405)
