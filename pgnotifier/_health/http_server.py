"""A small HTTP server for probes, which many or slow clients can't exhaust.

One thread serves all connections, and their number is limited: when a new one exceeds it, the
oldest is closed. So clients that send nothing, or send slowly, use up neither threads nor file
descriptors, and a client that sends its request at once gets an answer. An answer that takes time
is a future.

    connection -> request line and headers -> answer (a future) -> response -> closed
                  within 5 s, 8 KiB           within 8 s                       within 1 s
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from typing import NamedTuple

from pgnotifier._runtime.log_records import about

logger = logging.getLogger("pgnotifier.health")

MAX_CONNECTIONS = 32
MAX_REQUEST = 8_192
"""Maximum bytes of the request line and headers."""
REQUEST_TIMEOUT = 5.0
"""Seconds from the connection to the end of its request, however many packets that takes."""
ANSWER_TIMEOUT = 8.0
"""Seconds after which a request without an answer gets 503."""
CLOSE_TIMEOUT = 1.0
"""Seconds for a client to read its response before the connection is closed."""
ACCEPT_PAUSE = 0.1
"""Seconds to wait when the process has no file descriptor left for a connection."""


class Answer(NamedTuple):
    """The status of a response, and its body in JSON."""

    status: HTTPStatus
    body: bytes


class _Connection:
    """A client's connection and its progress. Only the server's thread uses it.

    Attributes:
        deadline: When its current step has to be finished, by `time.monotonic()`.
        answer: The future of the answer, once the request has arrived.
        is_closing: Whether the response was sent.
    """

    def __init__(self, client: socket.socket) -> None:
        client.settimeout(0)
        self.client = client
        self.deadline = time.monotonic() + REQUEST_TIMEOUT
        self.answer: Future[Answer] | None = None
        self.is_closing = False
        self._wants_body = True
        self._received = b""

    @property
    def is_waiting(self) -> bool:
        """Whether the request has arrived, and the response wasn't sent yet."""
        return self.answer is not None and not self.is_closing

    def read(self) -> str | Answer | None:
        """Read what has arrived.

        Returns:
            The requested path, or an error response, or None while the request is incomplete.

        Raises:
            EOFError: The client has closed the connection.
            OSError: The connection is lost.
        """
        try:
            received = self.client.recv(MAX_REQUEST)
        except BlockingIOError:
            return None
        if not received:
            raise EOFError
        if self.is_closing:
            return None  # ignore further requests: a connection gets one response
        self._received += received
        head, end, _ = self._received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if len(head) > MAX_REQUEST:
            return _refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return self._parse(head.partition(b"\n")[0]) if end else None

    def respond(self, answer: Answer) -> None:
        """Send the response, and wait for the client to read it.

        Raises:
            OSError: The connection is lost, or the client doesn't read.
        """
        head = (
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n"
        )
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            head += "Allow: GET, HEAD\r\n"
        # The send buffer of a new connection has room for all of it.
        self.client.sendall(f"{head}\r\n".encode() + (answer.body if self._wants_body else b""))
        # Closing it now would discard the response if there were unread data.
        self.client.shutdown(socket.SHUT_WR)
        self.is_closing = True
        self.deadline = time.monotonic() + CLOSE_TIMEOUT

    def _parse(self, line: bytes) -> str | Answer:
        method, _, rest = line.decode("latin-1").partition(" ")
        target, _, version = rest.partition(" ")
        if not (target and version.startswith("HTTP/1.")):
            return _refuse(HTTPStatus.BAD_REQUEST)
        self._wants_body = method != "HEAD"
        if method not in ("GET", "HEAD"):
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        return target.partition("?")[0]


class HttpServer:
    """Serves a listening socket on its own thread."""

    def __init__(
        self, listening: socket.socket, find_answer: Callable[[str], Future[Answer]]
    ) -> None:
        """Take over the socket. The server closes it.

        Args:
            listening: A bound and listening socket.
            find_answer: Returns the future of the answer for a path. The server's thread calls
                it, so it must not wait.
        """
        listening.settimeout(0)
        self._listening = listening
        self._find_answer = find_answer
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._awaited: set[Future[Answer]] = set()  # futures that will wake this thread
        self._is_stopping = False
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.settimeout(0)
        self._waker.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._clear_wakeup)
        self._thread = threading.Thread(target=self._serve, name="pgnotifier-health", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: No thread can be started.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self.close()
            raise

    def stop(self) -> None:
        """Close the port; the thread then closes all connections and ends.

        This doesn't wait for the thread: it may be inside a log handler that waits for a lock
        of the caller.
        """
        self._is_stopping = True
        self._listening.close()  # here, so that another server can use the port at once
        self._wake()

    def close(self) -> None:
        """Close all sockets. In a forked child, this closes the child's copies."""
        # No `unregister`: a forked child shares its epoll with the parent.
        for one in (self._listening, self._wakeup, self._waker, self._selector):
            one.close()
        for connection in tuple(self._connections):
            connection.client.close()
        self._connections.clear()

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                for key, _ in self._selector.select(self._find_pause()):
                    key.data()
                self._answer_waiting()
                self._close_expired()
        finally:
            for connection in tuple(self._connections):
                self._drop(connection)
            self.close()

    def _find_pause(self) -> float | None:
        """Return the seconds until the next deadline, or None if there are no connections."""
        deadlines = [connection.deadline for connection in self._connections]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except (BlockingIOError, ConnectionError):  # the client has disconnected
            return
        except OSError:  # stopped, or out of descriptors: close a connection to free one
            if not (self._is_stopping or self._make_room()):
                time.sleep(ACCEPT_PAUSE)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._make_room()
        connection = _Connection(client)
        self._connections[connection] = None
        self._watch(connection)
        self._read(connection)  # now, because later connections could displace it

    def _watch(self, connection: _Connection) -> None:
        def read() -> None:
            self._read(connection)

        self._selector.register(connection.client, selectors.EVENT_READ, read)

    def _make_room(self) -> bool:
        """Close the oldest connection, preferably one that doesn't wait for an answer."""
        for is_waiting in (False, True):
            for connection in self._connections:
                if connection.is_waiting is is_waiting:
                    self._drop(connection)
                    return True
        return False

    def _read(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return  # it was closed to make room
        try:
            asked = connection.read()
            if isinstance(asked, Answer):
                connection.respond(asked)
            elif asked is not None:
                self._ask(connection, asked)
        except (OSError, EOFError):
            self._drop(connection)

    def _ask(self, connection: _Connection, path: str) -> None:
        self._selector.unregister(connection.client)  # further data can wait
        connection.deadline = time.monotonic() + ANSWER_TIMEOUT
        connection.answer = self._find_answer(path)
        # Many connections may wait for the same one.
        if connection.answer not in self._awaited:
            self._awaited.add(connection.answer)
            connection.answer.add_done_callback(self._wake)

    def _answer_waiting(self) -> None:
        self._awaited = {future for future in self._awaited if not future.done()}
        for connection in tuple(self._connections):
            future = connection.answer
            if future is not None and future.done() and not connection.is_closing:
                self._respond(connection, future)

    def _respond(self, connection: _Connection, future: Future[Answer]) -> None:
        error = future.exception()
        if error is not None:
            logger.error("a health check failed", exc_info=error, extra=about("probe_failed"))
            self._finish(connection, _refuse(HTTPStatus.INTERNAL_SERVER_ERROR))
        else:
            self._finish(connection, future.result())

    def _finish(self, connection: _Connection, answer: Answer) -> None:
        try:
            connection.respond(answer)
        except OSError:
            self._drop(connection)
        else:
            self._watch(connection)

    def _close_expired(self) -> None:
        now = time.monotonic()
        for connection in [one for one in self._connections if one.deadline <= now]:
            if connection.is_waiting:
                self._finish(connection, _refuse(HTTPStatus.SERVICE_UNAVAILABLE))
            else:
                self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        with contextlib.suppress(KeyError):  # not watched while it waits for its answer
            self._selector.unregister(connection.client)
        with contextlib.suppress(OSError):  # a forked child may have a copy that keeps it open
            connection.client.shutdown(socket.SHUT_RDWR)
        connection.client.close()

    def _wake(self, _: object = None) -> None:
        with contextlib.suppress(OSError):  # closed, or full: the thread will wake up anyway
            self._waker.send(b"x")

    def _clear_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(64):
                pass


def _refuse(status: HTTPStatus) -> Answer:
    return Answer(status, f'{{"error": "{status.phrase}"}}\n'.encode())
