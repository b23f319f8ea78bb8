"""Answer `/healthz` and `/readyz` over HTTP, for the probes of containers and load balancers.

`/healthz` answers 200 while the listener runs, whether it is connected or not. `/readyz` answers
200 while it is listening or a standby, its queues can be reached, and no entry of the durable log
has waited for longer than `max_age`. Otherwise both answer 503.
The body is a JSON object; it shows states, what is known of durable subscriptions and of the log,
and no addresses. Integrations may add further paths.
https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

import errno
import json
import socket
from collections.abc import Sequence
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, Protocol

from pgnotifier._health.http_server import Answer, HttpServer
from pgnotifier._runtime.aside import call_aside, is_without_thread
from pgnotifier.errors import ConfigurationError, ConnectionFailedError
from pgnotifier.settings import check_settings
from pgnotifier.status import DurableStatus, Status

HOST = "127.0.0.1"
"""The address, unless `health_host` is given: only this machine can reach it."""
BACKLOG = 128
"""How many connections may wait to be accepted."""
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of the system for which waiting helps, and another setting doesn't."""
PATHS = ("/healthz", "/readyz")
pages: "dict[str, Page]" = {}
"""What is answered at further paths, on each health port of this process."""


class Checked(Protocol):
    """The part of a notifier that the health server uses."""

    def is_running(self) -> bool: ...
    def status(self) -> Status: ...
    def readiness_problems(self) -> list[str]: ...


class Page(Protocol):
    """Makes the answer of a further path."""

    def __call__(self, notifiers: "Sequence[Checked]", /) -> Answer:
        """Return the answer about some notifiers. It is called on a thread of its own."""
        ...


class HealthServer:
    """Answers probes for some notifiers, on its own thread."""

    def __init__(
        self, notifiers: Sequence[Checked], port: int | None, host: str | None = None
    ) -> None:
        """Check the arguments; `start` opens the port.

        Args:
            notifiers: The notifiers. All of them have to be healthy.
            port: From 1 to 65535. None: `start` opens none.
            host: The address to listen on, or its name. `0.0.0.0` stands for all IPv4 addresses
                of the machine, `::` for all IPv4 and IPv6 addresses. Default: 127.0.0.1.

        Raises:
            ArgumentTypeError: The port isn't an int, or the host isn't a str.
            ConfigurationError: The port is out of range, or the host is empty.
        """
        if port is not None:
            check_settings(health_port=port, health_host=host)
        self._notifiers = notifiers
        self._port = port
        self._host = HOST if host is None else host
        self._server: HttpServer | None = None

    def start(self) -> None:
        """Open the port; a no-op if it is open, or if there is none.

        Raises:
            ConfigurationError: It can't be opened, for example because it is in use.
            ConnectionFailedError: No thread can be started, or no descriptor is left.
        """
        if self._server is not None or self._port is None:
            return
        listening = _listen(self._host, self._port)
        try:
            server = HttpServer(listening, self._find_answer)
        except OSError as exc:
            listening.close()
            raise ConnectionFailedError(
                f"health_port {self._port} isn't open: {exc.strerror or exc}"
            ) from exc
        try:
            server.start()
        except RuntimeError as exc:
            raise ConnectionFailedError(
                f"health_port {self._port} isn't open, because no thread can be started: {exc}"
            ) from exc
        self._server = server

    @property
    def has_port(self) -> bool:
        """Whether it has a port, open or not."""
        return self._port is not None

    def stop(self) -> None:
        """Close the port, without waiting for the server's thread to end."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def forget_in_child(self) -> None:
        """Close the parent's port in a forked child, which has no server thread."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _find_answer(self, path: str) -> Future[Answer]:
        """Return the answer for a path, which a check on a thread of its own makes."""
        if path in pages:
            answer = call_aside("pgnotifier-page", pages[path], self._notifiers)
        elif path in PATHS:
            answer = call_aside("pgnotifier-check", self._check, path)
        else:
            return _give(_make_answer(HTTPStatus.NOT_FOUND, {"paths": [*PATHS, *pages]}))
        if is_without_thread(answer):
            return _give(self._check_here(path, str(answer.exception())))
        return answer

    def _check_here(self, path: str, why: str) -> Answer:
        """Return an answer without waiting for anything, because no thread can be started."""
        trouble = self._find_stopped() if path == "/healthz" else [why]
        return _report([], trouble)

    def _check(self, path: str) -> Answer:
        if path == "/readyz":
            # In parallel, because each may have to wait for its queues.
            found = [
                call_aside("pgnotifier-check", one.readiness_problems) for one in self._notifiers
            ]
            trouble = [why for each in found for why in _problems(each)]
        else:
            trouble = self._find_stopped()
        return _report([notifier.status() for notifier in self._notifiers], trouble)

    def _find_stopped(self) -> list[str]:
        return ["stopped" for one in self._notifiers if not one.is_running()]


def _problems(found: Future[list[str]]) -> list[str]:
    return [str(found.exception())] if is_without_thread(found) else found.result()


def _give(answer: Answer) -> Future[Answer]:
    given: Future[Answer] = Future()
    given.set_result(answer)
    return given


def _report(found: Sequence[Status], trouble: Sequence[str]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
    states = [one.state for one in found]
    content: dict[str, Any] = {"ok": not trouble, "states": states, "trouble": trouble}
    durable = [_describe(each) for one in found for each in one.durable]
    if durable:
        content["durable"] = durable
        content["logs"] = [one.log.to_dict() for one in found if one.log is not None]
    return _make_answer(status, content)


def _describe(one: DurableStatus) -> dict[str, Any]:
    """Return what `status()` says of a subscription, but not why the log can't be read.

    That may contain addresses.
    """
    return {name: value for name, value in one.to_dict().items() if name != "why"}


def _make_answer(status: HTTPStatus, content: object) -> Answer:
    return Answer(status, f"{json.dumps(content)}\n".encode())


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigurationError: The port can't be opened at that address.
        ConnectionFailedError: No descriptor or no memory is left.
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
    except (OSError, UnicodeError) as exc:  # UnicodeError: the host isn't a valid name
        why = getattr(exc, "strerror", None) or exc
        error = ConnectionFailedError if _may_pass(exc) else ConfigurationError
        raise error(f"health_port {port} can't be opened on {host!r}: {why}") from exc


def _may_pass(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno in SHORTAGES
