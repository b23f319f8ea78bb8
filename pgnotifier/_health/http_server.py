"""A small HTTP server for probes, which many or slow clients can't exhaust.

One thread serves all connections, and their number is limited: when a new one exceeds it, the
oldest is closed. So clients that send nothing, or send slowly, use up neither threads nor file
descriptors, and a client that sends its request at once gets an answer. An answer that takes time
is a future.

    connection -> request line and headers -> answer (a future) -> response -> closed
                  within 5 s, 8 KiB           within 8 s                       within 1 s
"""

import asyncio
import contextlib
import logging
import selectors
import socket
import threading
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
    """The status of a response, its body, and what that is."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


class HttpServer:
    """Serves a listening socket on an event loop of its own, in its own thread.

    The sockets are its own as well, and not those of asyncio's transports: a forked child has to
    close its copies.
    """

    def __init__(
        self, listening: socket.socket, find_answer: Callable[[str], Future[Answer]]
    ) -> None:
        """Take over the socket. The server closes it.

        Args:
            listening: A bound and listening socket.
            find_answer: Returns the future of the answer for a path. The server's thread calls
                it, so it must not wait. All who ask until that is done get this answer.

        Raises:
            OSError: The process has no descriptor left. The socket is still the caller's.
        """
        listening.settimeout(0)
        self._listening = listening
        self._find_answer = find_answer
        self._clients: dict[socket.socket, asyncio.Task[None]] = {}  # the oldest first
        self._waiting: set[socket.socket] = set()  # those that wait for an answer
        self._answers: dict[str, asyncio.Future[Answer]] = {}  # under way, by path
        self._selector = selectors.DefaultSelector()
        try:
            for one in socket.socketpair():  # as a loop needs; one without can't be closed
                one.close()
            self._loop = asyncio.SelectorEventLoop(self._selector)
        except OSError:
            self._selector.close()
            raise
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="pgnotifier-health", daemon=True)

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
        self._listening.close()  # here, so that another server can use the port at once
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """Close all sockets. In a forked child, this closes the child's copies."""
        for one in (self._listening, *self._clients):
            one.close()
        if self._loop.is_running():
            # In the child, which shares its epoll with the parent: nothing is to be unregistered.
            self._selector.close()
        else:
            self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self.close()

    async def _serve(self) -> None:
        accepting = self._loop.create_task(self._accept())
        await self._stopping.wait()
        tasks = (accepting, *self._clients.values())
        for task in tasks:
            task.cancel()
        for answer in self._answers.values():  # or it would be set when the loop is closed
            answer.cancel()
        await asyncio.wait(tasks)

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._listening)
            except ConnectionError:  # the client has disconnected
                continue
            except OSError:  # stopped, or out of descriptors: close a connection to free one
                if not await self._make_room():
                    await asyncio.sleep(ACCEPT_PAUSE)
                continue
            if len(self._clients) >= MAX_CONNECTIONS:
                await self._make_room()
            client.settimeout(0)
            self._clients[client] = self._loop.create_task(self._talk(client))
            await asyncio.sleep(0)  # it reads what is there, before later connections displace it

    async def _make_room(self) -> bool:
        """Close the oldest connection, preferably one that doesn't wait for an answer."""
        if not self._clients:
            return False
        oldest = min(self._clients, key=self._waiting.__contains__)
        self._clients[oldest].cancel()
        await asyncio.wait([self._clients[oldest]])
        return True

    async def _talk(self, client: socket.socket) -> None:
        """Read a request, respond to it, and close the connection."""
        try:
            response = await self._find_response(client)
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._loop.sock_sendall(client, response)
                # Closing it now would discard the response if there were unread data. Further
                # requests are ignored: a connection gets one response.
                client.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(client, MAX_REQUEST):
                    pass
        except (OSError, EOFError):  # TimeoutError is an OSError
            pass
        finally:
            self._waiting.discard(client)
            del self._clients[client]
            with contextlib.suppress(OSError):  # a forked child may have a copy that keeps it open
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    async def _find_response(self, client: socket.socket) -> bytes:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            head = await self._receive(client)
        if len(head) > MAX_REQUEST:
            return _write(_refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        method, _, rest = head.partition(b"\n")[0].decode("latin-1").partition(" ")
        target, _, version = rest.partition(" ")
        if not (target and version.startswith("HTTP/1.")):
            return _write(_refuse(HTTPStatus.BAD_REQUEST))
        if method not in ("GET", "HEAD"):
            return _write(_refuse(HTTPStatus.METHOD_NOT_ALLOWED))
        self._waiting.add(client)
        answer = await self._await_answer(target.partition("?")[0])
        self._waiting.discard(client)
        return _write(answer, with_body=method != "HEAD")

    async def _receive(self, client: socket.socket) -> bytes:
        """Return the request line and headers, or more than the maximum.

        Raises:
            EOFError: The client has closed the connection.
            OSError: The connection is lost.
        """
        head, end, received = b"", b"", b""
        while not end and len(head) <= MAX_REQUEST:
            more = await self._loop.sock_recv(client, MAX_REQUEST)
            if not more:
                raise EOFError
            received += more
            head, end, _ = received.replace(b"\r\n", b"\n").partition(b"\n\n")
        return head

    async def _await_answer(self, path: str) -> Answer:
        self._answers = {known: one for known, one in self._answers.items() if not one.done()}
        answer = self._answers.get(path)
        if answer is None:
            answer = self._answers[path] = asyncio.wrap_future(self._find_answer(path))
        await asyncio.wait([answer], timeout=ANSWER_TIMEOUT)
        if not answer.done():
            return _refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        error = answer.exception()
        if error is None:
            return answer.result()
        logger.error("a health check failed", exc_info=error, extra=about("probe_failed"))
        return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR)


def _write(answer: Answer, *, with_body: bool = True) -> bytes:
    """Return the response with an answer."""
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n"
    )
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        head += "Allow: GET, HEAD\r\n"
    return f"{head}\r\n".encode() + (answer.body if with_body else b"")


def _refuse(status: HTTPStatus) -> Answer:
    return Answer(status, f'{{"error": "{status.phrase}"}}\n'.encode())
