"""Ask a listener's health port, for `pgnotifier health`."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from pgnotifier._health.health_server import HOST

TIMEOUT = 10.0
"""Seconds for which `probe` waits for an answer."""


class Health(NamedTuple):
    """The answer of a health port.

    Attributes:
        ok: Whether all is well.
        states: The states of its notifiers.
        trouble: What is wrong, or why there is no answer.
        durable: The status of each durable subscription.
        logs: The state of each durable log that they are read from.
    """

    ok: bool
    states: list[str]
    trouble: list[str]
    durable: Sequence[Any] = ()
    logs: Sequence[Any] = ()


def probe(port: int, path: str = "/readyz", host: str = HOST) -> Health:
    """Ask a health server; return its answer. If there is none, `ok` is False.

    Args:
        port: Its port.
        path: `/healthz` or `/readyz`.
        host: Its address.
    """
    import http.client  # it takes memory, and most commands don't need it

    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        why = (isinstance(exc, OSError) and exc.strerror) or exc
        return Health(ok=False, states=[], trouble=[f"no answer from port {port} of {host}: {why}"])
    finally:
        connection.close()
    is_ok = response.status == HTTPStatus.OK
    try:
        found = json.loads(said)
        states, trouble = ([*map(str, found[name])] for name in ("states", "trouble"))
        durable, logs = ([*found.get(name, ())] for name in ("durable", "logs"))
        return Health(is_ok, states, trouble, durable, logs)
    except (ValueError, LookupError, TypeError, AttributeError):  # a proxy's answer, perhaps
        return Health(is_ok, [said] if is_ok else [], [] if is_ok else [said])
