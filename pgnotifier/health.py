"""Health: whether a process lives, and whether it is ready, asked over HTTP.

For the probes of containers and load balancers: `/healthz` answers 200 while the listener runs,
be it connected or not; `/readyz` while it hears, or stands by, and its queues can be reached.
Otherwise both answer 503. The body is a JSON object; it tells states, and no addresses.
https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

import json
import logging
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pgnotifier.errors import ArgumentTypeError, ConfigurationError
from pgnotifier.records import about

if TYPE_CHECKING:
    from collections.abc import Sequence
    from http.server import ThreadingHTTPServer

    from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.health")

PATHS = ("/healthz", "/readyz")
PROBE_TIMEOUT = 10.0
"""Seconds that `probe` waits for an answer."""


class HealthServer:
    """Answers for some notifiers, on a thread of its own, on all of the machine's addresses."""

    def __init__(self, notifiers: "Sequence[Notifier]", port: int) -> None:
        """Take what to answer for; `start` opens the port.

        Args:
            notifiers: All have to be well.
            port: From 1 to 65535.

        Raises:
            ArgumentTypeError: The port isn't an int.
            ConfigurationError: There is no such port.
        """
        if not isinstance(port, int) or isinstance(port, bool):
            raise ArgumentTypeError(f"health_port is an int, not {port!r:.80}")
        if not 0 < port < 65536:
            raise ConfigurationError(f"health_port must be from 1 to 65535, not {port}")
        self._notifiers = notifiers
        self._port = port
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Open the port; a no-op if it is open.

        Raises:
            ConfigurationError: It can't be: it is in use, say.
        """
        # Here, as most listeners have no such port, and this takes memory.
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        if self._server is not None:
            return
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            """Answers one request."""

            def do_GET(self) -> None:
                status, body = answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                logger.debug(format, *args, extra=about("probed"))

        try:
            server = ThreadingHTTPServer(("", self._port), Handler)
        except OSError as exc:
            raise ConfigurationError(
                f"health_port {self._port} can't be opened: {exc.strerror or exc}"
            ) from exc
        server.daemon_threads = True
        self._server = server
        threading.Thread(
            target=server.serve_forever, args=(0.1,), name="pgnotifier-health", daemon=True
        ).start()

    def stop(self) -> None:
        """Close the port."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def forget_in_child(self) -> None:
        """Close the parent's port in a forked child, where no thread answers."""
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()

    def _answer(self, path: str) -> tuple[HTTPStatus, bytes]:
        if path not in PATHS:
            return HTTPStatus.NOT_FOUND, b'{"paths": ["/healthz", "/readyz"]}\n'
        trouble = []
        for notifier in self._notifiers:
            if path == "/readyz":
                trouble += notifier.find_trouble()
            elif not notifier.is_running():
                trouble.append("stopped")
        states = [notifier.status().state for notifier in self._notifiers]
        body = json.dumps({"ok": not trouble, "states": states, "trouble": trouble}) + "\n"
        return (
            HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK,
            body.encode(),
        )


def probe(port: int, path: str = "/readyz", host: str = "127.0.0.1") -> tuple[bool, str]:
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
