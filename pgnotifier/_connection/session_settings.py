"""Setup: what a session of ours needs, whatever its role, database or server sets.

A timeout would end it, or a query of it, again and again. And names are to be looked up in
PostgreSQL's own catalog alone: else whoever may create functions or operators in a schema of the
search_path has them executed as the listener's role.
https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATTERNS
"""

import os
from typing import Any

import psycopg

_TIMEOUTS = {  # by the version of the server that first knew it
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
    # Nothing that the session does needs to be on disk, or on a replica that may be down.
    "synchronous_commit": "off",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "client_min_messages": "warning",
    "jit": "off",
    # Linux counts the time for which a client doesn't read as unanswered, too.
    "tcp_user_timeout": "0",
}
_UNLESS_SET = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
}
"""Has the server find a dead client within 20 seconds, unless its configuration says when. It then
frees the lock of a leader, and no longer keeps notifications in its queue for it."""

# It comes first, in a statement of its own: with a small work_mem, rows of a view such as
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
    """Return the statements that set what a session needs, of what its server knows.

    Args:
        pid: That of the session's process. In another one, given by a pooler that shares them
            and would hand the settings to somebody else, nothing is set.
    """
    values = [f"('{name}', '{value}', true)" for name, value in _NEEDED.items()]
    values += [f"('{name}', '{value}', false)" for name, value in _UNLESS_SET.items()]
    return _QUERY.format(work_mem=_WORK_MEM, values=", ".join(values), pid=pid)


def set_up(connection: psycopg.Connection[Any]) -> None:
    """Set what a session needs.

    Raises:
        psycopg.Error: A timeout that it has was too short for that, or it was lost.
    """
    connection.execute(setup_query(connection.info.backend_pid).encode())


def options_without_timeouts(given: object, server_version: int) -> str:
    """Return libpq's `options` that a session without timeouts begins with.

    Not for each: most poolers refuse them.

    Args:
        given: The options that the user has given, None for those of the environment.
        server_version: As in 170002.
    """
    own = str(os.environ.get("PGOPTIONS", "") if given is None else given)
    timeouts = [f"-c {name}=0" for name, first in _TIMEOUTS.items() if server_version >= first]
    return " ".join([own, *timeouts]).strip()
