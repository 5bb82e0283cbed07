"""Connections that the server ends, on every version: `pg_terminate_backend` waits only since 14."""

from __future__ import annotations

import time
from contextlib import closing

import psycopg2

TIMEOUT_SECONDS = 10.0


def end_sessions(url: str, name: str) -> int:
    """End the sessions of this database whose application_name is LIKE `name`, and wait until they are gone.

    Returns how many there were.
    """
    with closing(psycopg2.connect(url, application_name="a test that ends sessions")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s"
                " AND datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'",  # autovacuum has a superuser's rights
                [name],
            )
            pids = [pid for (pid,) in cursor.fetchall()]
            cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", [pids])
            give_up_at = time.monotonic() + TIMEOUT_SECONDS
            while True:
                cursor.execute("SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
                if not cursor.fetchall():
                    return len(pids)
                assert time.monotonic() < give_up_at, "the server keeps sessions that it was told to end"
                time.sleep(0.01)
