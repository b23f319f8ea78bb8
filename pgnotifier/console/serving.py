"""Serve the console with uvicorn: in a process of its own, or on a thread beside a listener."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import uvicorn

from pgnotifier._connection.parameters import Parameters
from pgnotifier.console import HOST, INTERVAL, PORT
from pgnotifier.console.app import Console
from pgnotifier.console.guarding import Guard
from pgnotifier.console.observing import Observer
from pgnotifier.errors import ConfigurationError

GRACE = 2
"""Seconds in which requests end when the server stops."""
CUT = 1.0
"""Seconds after which connections are cut then: some clients don't read."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the console is served.

    Attributes:
        host: The address that it listens on.
        port: The port; 0 for any that is free.
        token: What whoever wants to see it has to know.
        user_header: The header in which a proxy says who the user is.
        names: Further names by which browsers may ask for it.
        shows_payloads: Whether payloads are shown.
        read_only: Whether nothing may be changed.
        interval: Seconds between two looks at the listeners.
    """

    host: str = HOST
    port: int = PORT
    token: str | None = None
    user_header: str | None = None
    names: tuple[str, ...] = ()
    shows_payloads: bool = False
    read_only: bool = False
    interval: float = INTERVAL


class ConsoleServer:
    """One console. Its port is open once it was made."""

    def __init__(self, parameters: Parameters, options: Options) -> None:
        """Open the port.

        Raises:
            ConfigurationError: It can't be opened, or would be open to everybody.
        """
        self._parameters = parameters
        self._options = options
        self._guard = Guard(options.host, options.token, options.user_header, options.names)
        try:
            family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
            self._socket = socket.create_server((options.host, options.port), family=family)
        except OSError as exc:
            why = str(exc.strerror or exc)
            if exc.errno == errno.EADDRINUSE:
                why = "another program has that port; choose one by PGNOTIFIER_CONSOLE_PORT"
            raise ConfigurationError(
                f"the console can't be opened on {options.host}:{options.port}: {why}"
            ) from exc

    @property
    def address(self) -> str:
        """The address for a browser."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    @property
    def url(self) -> str:
        """The same with the token, which the browser keeps from then on."""
        token = self._options.token
        return f"{self.address}?{urlencode({'token': token})}" if token else self.address

    def run(self) -> None:
        """Serve until a signal comes."""
        self._make().run(sockets=[self._socket])

    @contextlib.contextmanager
    def beside(self) -> Iterator["ConsoleServer"]:
        """Serve on a thread of its own during the `with` block."""
        server = self._make()
        thread = threading.Thread(
            target=server.run, args=([self._socket],), name="pgnotifier-console", daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(GRACE + 3)

    def _make(self) -> uvicorn.Server:
        options = self._options
        # The observer belongs to the event loop that the server starts.
        observer = Observer(self._parameters, options.interval)
        console = Console(
            observer,
            self._guard,
            shows_payloads=options.shows_payloads,
            read_only=options.read_only,
        )
        config = uvicorn.Config(
            console.make_app(),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
        return _Server(config, console)


class _Server(uvicorn.Server):
    """Ends streams itself as it stops: uvicorn logs a traceback for each that it has to cancel."""

    def __init__(self, config: uvicorn.Config, console: Console) -> None:
        super().__init__(config)
        self._console = console

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.end()
        asyncio.get_running_loop().call_later(CUT, self._cut)
        await super().shutdown(sockets)

    def _cut(self) -> None:
        for one in [*self.server_state.connections]:
            if one.transport is not None:
                one.transport.abort()
