"""Lend the databases of a server to one test after the other."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgnotifier.testing.postgres import PostgresServer

SESSIONS_WAIT = 5.0  # seconds in which a terminated session usually ends
EXACT_STATISTICS = 150000  # earlier versions may lose what a session reports as it ends

TERMINATE = """
    SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE datname OPERATOR(pg_catalog.=) %s
"""
# The counters include catalogs, and what was rolled back. A database's own settings and rights are
# in catalogs that all databases share, and so aren't counted.
# https://www.postgresql.org/docs/18/monitoring-stats.html#MONITORING-PG-STAT-DATABASE-VIEW
LOOK = """
    SELECT tup_inserted, tup_updated, tup_deleted, datacl, datconnlimit, datallowconn, EXISTS (
        SELECT FROM pg_catalog.pg_db_role_setting
        WHERE setdatabase OPERATOR(pg_catalog.=) datid
    )
    FROM pg_catalog.pg_database AS d
    JOIN pg_catalog.pg_stat_database AS s ON d.oid OPERATOR(pg_catalog.=) s.datid
    WHERE d.datname OPERATOR(pg_catalog.=) %s
"""
AS_NEW = (0, 0, 0, None, -1, True, False)


class Databases:
    """Lends new, empty databases. Only one thread may use it.

    CREATE DATABASE copies 300 files, and DROP DATABASE deletes them. Most tests only listen and
    notify. So a database that nothing was written to serves the next test, under a new name:
    what the last test may have left running can't connect to it.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._session: psycopg.Connection | None = None
        self._spare: str | None = None

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Yield the conninfo string of a database, which is gone after the block."""
        if self._session is None:
            self._session = psycopg.connect(self._server.dsn, autocommit=True)
        name, self._spare = self._spare, None
        if name is None:
            name = _make_name()
            self._server.create_database(name)
        try:
            yield self._server.dsn_for(name)
        finally:
            self._take_back(name)

    def close(self) -> None:
        """Drop the database that is left, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._spare is not None:
            self._server.drop_database(self._spare)
            self._spare = None

    def _take_back(self, name: str) -> None:
        renamed = None
        if self._session is not None and self._spare is None:
            # If the server had crashed, which resets its counters, the session would be broken.
            try:
                renamed = _rename(self._session, name)
            except psycopg.Error:
                self._session.close()
                self._session = None
        if renamed is None:
            self._server.drop_database(name)
        self._spare = self._spare or renamed


def _rename(session: psycopg.Connection, name: str) -> str | None:
    """Rename a database and return its new name, or return None if it isn't as new."""
    deadline = time.monotonic() + SESSIONS_WAIT
    while session.execute(TERMINATE, [name]).fetchall():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)
    found = session.execute(LOOK, [name]).fetchone()
    if session.info.server_version < EXACT_STATISTICS or found != AS_NEW:
        return None
    renamed = _make_name()
    statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    session.execute(statement.format(sql.Identifier(name), sql.Identifier(renamed)))
    return renamed


def _make_name() -> str:
    return f"pgn_{secrets.token_hex(6)}"
