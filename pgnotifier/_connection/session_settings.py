"""Set the server parameters that a session needs, whatever its role, database or server sets.

A timeout would end the session, or its queries, again and again. The search_path is restricted to
PostgreSQL's own catalog. Otherwise, anybody who may create functions or operators in one of its
schemas could have them executed with the listener's role.
https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATTERNS
"""

import os
from typing import Any

import psycopg

_TIMEOUTS = {  # with the first server version that has it
    "statement_timeout": 0,
    "lock_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 140000,
    "transaction_timeout": 170000,
}
_NEEDED = {
    "search_path": "pg_catalog, pg_temp",
    **dict.fromkeys(_TIMEOUTS, "0"),
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # Nothing that the session does has to reach the disk, or a replica that may be down.
    "synchronous_commit": "off",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "DateStyle": "ISO",  # the only ones that psycopg reads
    "IntervalStyle": "postgres",
    "client_min_messages": "warning",
    "jit": "off",
    # Linux also counts the time during which a client doesn't read as unanswered.
    "tcp_user_timeout": "0",
}
HURTFUL = {name: _NEEDED[name] for name in (*_TIMEOUTS, "default_transaction_read_only")}
"""Parameters that, set otherwise, would end the session or its queries or keep it from writing."""
_UNLESS_SET = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
}
"""Defaults with which the server detects a dead client within 20 seconds. It then frees a leader's
lock, and no longer keeps notifications in its queue for that client."""

# Set first, in a statement of its own: with a small work_mem, rows of a view such as
# pg_settings or pg_locks go to temporary files, which temp_file_limit may forbid.
# https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-TEMP-FILE-LIMIT
_WORK_MEM = "4MB"

_QUERY = """
SELECT pg_catalog.set_config('work_mem', '{work_mem}', false)
WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid};
SELECT pg_catalog.set_config(wanted.name, wanted.value, false)
FROM pg_catalog.pg_settings AS setting JOIN (VALUES {values}) AS wanted (name, value, always)
ON setting.name OPERATOR(pg_catalog.=) wanted.name
WHERE (wanted.always OR setting.source OPERATOR(pg_catalog.=) 'default')
AND pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid}"""


def setup_query(pid: int) -> str:
    """Return the statements that set the parameters, except for those that the server doesn't have.

    Args:
        pid: The process id of the session. A pooler may run the query in another server process,
            which it shares between clients. Nothing is set there.
    """
    values = [f"('{name}', '{value}', true)" for name, value in _NEEDED.items()]
    values += [f"('{name}', '{value}', false)" for name, value in _UNLESS_SET.items()]
    return _QUERY.format(work_mem=_WORK_MEM, values=", ".join(values), pid=pid)


def set_up(connection: psycopg.Connection[Any]) -> None:
    """Set the parameters of a session.

    Raises:
        psycopg.Error: A timeout of the session was too short for that, or the session was lost.
    """
    connection.execute(setup_query(connection.info.backend_pid).encode())


def options_without_timeouts(given: object, server_version: int) -> str:
    """Return libpq's `options` for a session that starts without timeouts.

    They aren't used for every session, because most poolers refuse them.

    Args:
        given: The options that the user has given. None: those in PGOPTIONS.
        server_version: The server's version as a number, such as 170002.
    """
    own = str(os.environ.get("PGOPTIONS", "") if given is None else given)
    timeouts = [f"-c {name}=0" for name, first in _TIMEOUTS.items() if server_version >= first]
    return " ".join([own, *timeouts]).strip()
