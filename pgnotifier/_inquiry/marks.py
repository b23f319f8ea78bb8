"""Advisory locks that show which sessions listen, and whether somebody asks.

Both are taken by `pg_try_…` alone, so that nobody who holds them can make anybody wait.
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

import hashlib
from typing import Any

import psycopg


def _keys(name: str) -> tuple[int, int]:
    """Return a lock's two keys. The locks of leaders and of durable subscriptions have one."""
    digest = hashlib.sha256(f"pgnotifier {name}".encode()).digest()
    return int.from_bytes(digest[:4], signed=True), int.from_bytes(digest[4:8], signed=True)


_LISTENER, _ASKER = _keys("listener"), _keys("asker")
_HALVES = tuple(one % (1 << 32) for one in _LISTENER)  # as pg_locks has them

MARK = (
    b"SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_try_advisory_lock_shared(%d, %d)"
    % _LISTENER
)
"""Has a session show that it belongs to a listener that answers, leader or standby."""
IS_ASKED = b"NOT pg_catalog.pg_try_advisory_xact_lock_shared(%d, %d)" % _ASKER
"""Whether somebody asks: an expression. Standbys look once a second, as they don't listen."""
_ASK = b"SELECT pg_catalog.pg_try_advisory_lock(%d, %d)" % _ASKER
_FIND = """
SELECT held.pid, seen.usename::pg_catalog.text, seen.application_name,
  seen.client_addr::pg_catalog.text, seen.backend_start
FROM pg_catalog.pg_locks AS held LEFT JOIN pg_catalog.pg_stat_activity AS seen
ON seen.pid OPERATOR(pg_catalog.=) held.pid
WHERE held.locktype OPERATOR(pg_catalog.=) 'advisory' AND held.granted
AND held.classid::pg_catalog.int8 OPERATOR(pg_catalog.=) %s::pg_catalog.int8
AND held.objid::pg_catalog.int8 OPERATOR(pg_catalog.=) %s::pg_catalog.int8
AND held.objsubid OPERATOR(pg_catalog.=) 2
AND held.database OPERATOR(pg_catalog.=) (
    SELECT oid FROM pg_catalog.pg_database
    WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
ORDER BY held.pid
"""


def show_asking(connection: psycopg.Connection[Any]) -> bool:
    """Have standbys notice, until the session ends; return whether they will.

    If not, another session shows it already, or a standby looks at this very moment.
    """
    row = connection.execute(_ASK).fetchone()
    return row is not None and bool(row[0])


def find_marked(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Return the sessions of listeners: pid, role, application name, address, and since when."""
    return connection.execute(_FIND, _HALVES).fetchall()
