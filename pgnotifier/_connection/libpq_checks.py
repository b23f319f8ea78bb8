"""Find out what libpq refuses, without reading its messages: they come in the user's language.

libpq translates them if it was built with translations and the application has called
`locale.setlocale()`: https://www.postgresql.org/docs/current/nls.html
"""

import os
import re
from collections.abc import Container, Mapping
from typing import Any

import psycopg
from psycopg import conninfo as libpq
from psycopg import pq

_INTEGERS = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
"""Parameters that libpq checks only once it has a TCP socket."""
_INTEGER = re.compile(r"\s*[+-]?\d+\s*")
_NOWHERE = "/dev/null/pgnotifier"
"""A directory that can't exist, in which libpq looks for the socket of a server."""


def refuses_values(known: Mapping[str, Any]) -> bool:
    """Return whether libpq refuses the value of a parameter, before it looks for a server.

    It is made to look in `_NOWHERE`. If its message doesn't name that, it has not got that far.

    Args:
        known: Parameters with which connecting has failed.
    """
    if not all(_INTEGER.fullmatch(str(known[name])) for name in _INTEGERS if name in known):
        return True
    port = str(known.get("port") or os.environ.get("PGPORT", ""))
    elsewhere = {
        "host": _NOWHERE,
        "hostaddr": "",
        "port": "" if "," in port else port,  # there may be one for each host
        "password": "none",  # so that no password file is read
    }
    try:
        attempt = pq.PGconn.connect_start(
            libpq.make_conninfo("", **{**known, **elsewhere}).encode()
        )
    except psycopg.Error:
        return False
    message = attempt.error_message
    attempt.finish()
    return bool(message) and _NOWHERE.encode() not in message


def find_unknown(message: str, conninfo: str, options: Container[str]) -> str | None:
    """Return the name in a conninfo string or URI that libpq doesn't know.

    Args:
        message: Why libpq can't parse it. It quotes the name.
        conninfo: The string.
        options: The names that libpq knows.
    """
    given = {name for name in _NAMES.findall(conninfo) if name not in options}
    return next((name for name in re.findall(r"\w+", message) if name in given), None)


_NAMES = re.compile(r"(\w+)\s*=")
