"""A TCP proxy in front of a server that can delay, throttle, drop and cut its connections."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

CHUNK = 65536
NO_LINGER = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing the socket sends RST, and discards what wasn't sent yet."""

Upstream = Path | tuple[str, int]
"""A unix socket, or host and port."""

Direction = Literal["requests", "answers"]
EVERYTHING: frozenset[Direction] = frozenset(("requests", "answers"))
ANSWERS: frozenset[Direction] = frozenset(("answers",))


@dataclass(frozen=True, slots=True)
class Weather:
    """The current state of the network.

    Attributes:
        delay: Seconds by which each chunk of up to 64 KB is delayed.
        rate: Bytes a second in each direction of a connection, or None for no limit.
        swallows: The directions in which everything is dropped. A connection that has lost data
            stays dead afterwards, because TCP doesn't deliver data with gaps.
    """

    delay: float = 0.0
    rate: float | None = None
    swallows: frozenset[Direction] = frozenset()


FAIR = Weather()


class _Link:
    """A client's connection, and the one to the server. The proxy's thread owns both."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.dead: frozenset[Direction] = frozenset()
        self.closed = asyncio.Event()
        self._ends = (client, server)

    def close(self, *, abruptly: bool = False) -> None:
        """Close both ends, normally or with RST."""
        self.closed.set()
        for end in self._ends:
            if abruptly:
                with contextlib.suppress(OSError):  # a unix socket has no RST
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER
                    )
                end.transport.abort()
            else:
                end.close()


class FaultyProxy:
    """Listens on a port of 127.0.0.1 during the `with` block, and forwards all data.

    One thread runs the event loop, which owns the connections. Other threads set `weather`,
    a value that is replaced as a whole, and call the other methods.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.weather = FAIR
        self.port = 0
        self.accepted = 0
        self._upstream = upstream
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None] | None] = set()
        self._started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def cut(self) -> None:
        """Close every connection, as a server or a middlebox does when it shuts down."""
        self._call(lambda: self._close_all(abruptly=False))

    def reset(self) -> None:
        """End every connection with RST."""
        self._call(lambda: self._close_all(abruptly=True))

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._started.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(self._ending.set)
        self._thread.join()

    def _call(self, do: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(do)

    # --- the proxy's thread ---

    def _run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        try:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        except OSError as exc:
            self._started.set_exception(exc)
            return
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._ending.wait()
        server.close()
        self._close_all(abruptly=True)
        await asyncio.gather(*filter(None, self._serving), return_exceptions=True)

    def _close_all(self, *, abruptly: bool) -> None:
        for link in self._links:
            link.close(abruptly=abruptly)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            await self._join(reader, writer)
        except OSError:  # the server is down
            writer.transport.abort()
        finally:
            self._serving.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await self._connect()
        link = _Link(writer, up_writer)
        self._links.add(link)
        tasks = [
            asyncio.create_task(self._pump(link, "requests", reader, up_writer)),
            asyncio.create_task(self._pump(link, "answers", up_reader, writer)),
            asyncio.create_task(_wait_until(link.closed)),
        ]
        # The first end-of-file ends both directions: neither protocol uses half-closed connections.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        link.close()
        self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    async def _pump(
        self,
        link: _Link,
        direction: Direction,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(OSError):
            # Chunks are small on a slow link, so that no sleep is longer than the weather.
            while data := await source.read(int((self.weather.rate or CHUNK * 20) / 20)):
                weather = self.weather
                await asyncio.sleep(weather.delay)
                if weather.rate:
                    await asyncio.sleep(len(data) / weather.rate)
                if direction in self.weather.swallows:
                    link.dead |= self.weather.swallows
                if direction not in link.dead:
                    target.write(data)
                    await target.drain()
        if direction in link.dead:  # then the end of this connection is dropped, too
            await link.closed.wait()


async def _wait_until(closed: asyncio.Event) -> None:
    await closed.wait()
