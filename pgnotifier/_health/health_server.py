"""Health: whether a process lives, and whether it is ready, asked over HTTP.

For the probes of containers and load balancers: `/healthz` answers 200 while the listener runs,
be it connected or not; `/readyz` while it hears, or stands by, and its queues can be reached.
Otherwise both answer 503. The body is a JSON object; it tells states, and no addresses.
https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

import json
import socket
from concurrent.futures import Future
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from pgnotifier._delivery.readiness import call_aside
from pgnotifier.errors import ConfigurationError
from pgnotifier.settings import check_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgnotifier._health.http_server import Answer, HttpServer
    from pgnotifier.status import Status

HOST = "127.0.0.1"
"""Where probes are answered, unless `health_host` says otherwise: on this machine alone."""
BACKLOG = 128
"""How many connections the system keeps until they are accepted."""
PATHS = ("/healthz", "/readyz")
PROBE_TIMEOUT = 10.0
"""Seconds that `probe` waits for an answer."""


class Checked(Protocol):
    """What the server has to know of a notifier."""

    def is_running(self) -> bool: ...
    def status(self) -> "Status": ...
    def readiness_problems(self) -> list[str]: ...


class HealthServer:
    """Answers for some notifiers, on a thread of its own."""

    def __init__(self, notifiers: "Sequence[Checked]", port: int, host: str | None = None) -> None:
        """Take what to answer for; `start` opens the port.

        Args:
            notifiers: All have to be well.
            port: From 1 to 65535.
            host: The address to listen on, or a name of it. `0.0.0.0` stands for all IPv4
                addresses of the machine, `::` for those of IPv6, too. Default: 127.0.0.1.

        Raises:
            ArgumentTypeError: The port isn't an int, or the host isn't a str.
            ConfigurationError: There is no such port, or the host is empty.
        """
        check_settings(health_port=port, health_host=host)
        self._notifiers = notifiers
        self._port = port
        self._host = HOST if host is None else host
        self._server: HttpServer | None = None
        self._checks: dict[str, Future[Answer]] = {}  # by path; of the server's thread

    def start(self) -> None:
        """Open the port; a no-op if it is open.

        Raises:
            ConfigurationError: It can't be: it is in use, say.
        """
        # Here, as most listeners have no such port, and this takes memory.
        from pgnotifier._health.http_server import HttpServer

        if self._server is not None:
            return
        server = HttpServer(_listen(self._host, self._port), self._find_answer)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Close the port, without waiting for the thread that answers."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def forget_in_child(self) -> None:
        """Close the parent's port in a forked child, where no thread answers."""
        server, self._server = self._server, None
        self._checks.clear()
        if server is not None:
            server.close()

    def _find_answer(self, path: str) -> "Future[Answer]":
        """Return the answer to a path: that of the check under way, if there is one."""
        if path not in PATHS:
            unknown: Future[Answer] = Future()
            unknown.set_result(_make_answer(HTTPStatus.NOT_FOUND, {"paths": PATHS}))
            return unknown
        check = self._checks.get(path)
        if check is None or check.done():
            check = self._checks[path] = call_aside("pgnotifier-check", self._check, path)
        return check

    def _check(self, path: str) -> "Answer":
        if path == "/readyz":
            # At the same time, as each may have to wait for its queues.
            found = [
                call_aside("pgnotifier-check", one.readiness_problems) for one in self._notifiers
            ]
            trouble = [why for each in found for why in each.result()]
        else:
            trouble = ["stopped" for one in self._notifiers if not one.is_running()]
        states = [notifier.status().state for notifier in self._notifiers]
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        return _make_answer(status, {"ok": not trouble, "states": states, "trouble": trouble})


def _make_answer(status: HTTPStatus, content: object) -> "Answer":
    from pgnotifier._health.http_server import Answer

    return Answer(status, f"{json.dumps(content)}\n".encode())


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigurationError: None can be opened there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        is_any = address[0] == "::"
        return socket.create_server(
            address,
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=is_any and socket.has_dualstack_ipv6(),
        )
    except (OSError, UnicodeError) as exc:  # a name that is no name is the latter
        why = getattr(exc, "strerror", None) or exc
        raise ConfigurationError(f"health_port {port} can't be opened on {host!r}: {why}") from exc


def probe(port: int, path: str = "/readyz", host: str = HOST) -> tuple[bool, str]:
    """Ask a health server; return whether all is well, and what it said.

    Args:
        port: Its port.
        path: `/healthz` or `/readyz`.
        host: Where it runs.
    """
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        return False, f"no answer from port {port} of {host}: {exc}"
    finally:
        connection.close()
    return response.status == HTTPStatus.OK, said
