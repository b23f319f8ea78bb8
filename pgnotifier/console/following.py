"""The last notifications of a channel, for a page that looks at it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pgnotifier._connection.parameters import Parameters
from pgnotifier.notification import Gap
from pgnotifier.notifier import Notifier

MOST = 8
"""How many pages may follow channels at the same time: each takes a connection."""
WAITING = 500
"""How many notifications wait for a page at most; later ones are counted."""
BUFFER = 2_000
"""How many wait in the listener."""


class Follower:
    """Listens to one channel, and hands on what arrives."""

    def __init__(self, parameters: Parameters, channel: str, *, shows_payloads: bool) -> None:
        """Take what to listen to.

        Args:
            parameters: The database.
            channel: The channel.
            shows_payloads: Whether to hand on payloads, or only their sizes.
        """
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._shows_payloads = shows_payloads
        self._left_out = 0
        self._notifier = Notifier(
            parameters,
            decoder=lambda text: text,
            on_gap=self._note_gap,
            buffer_size=BUFFER,
            overflow="drop_oldest",
            daemon=True,
            autorun=False,
            answers=False,  # it isn't a listener that delivers anything
        )
        self._notifier.subscribe("console", channel, self._note, autorun=False)

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what arrives, until the iterator is closed.

        Raises:
            PgNotifierError: The channel can't be listened to.
        """
        async with self._notifier:
            while True:
                yield await self._queue.get()

    def _note(self, _id: object, channel: str, payload: Any, pid: int) -> None:
        found = {"channel": channel, "pid": pid, "size": len(payload.encode("utf-8", "replace"))}
        self._hand_on(found | ({"payload": payload} if self._shows_payloads else {}))

    def _note_gap(self, gap: Gap) -> None:
        self._hand_on({"gap": gap.to_dict()})

    def _hand_on(self, found: dict[str, Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._put, found)
        except RuntimeError:  # the loop has ended
            return

    def _put(self, found: dict[str, Any]) -> None:
        if self._queue.full():
            self._left_out += 1
            return
        self._queue.put_nowait(found | {"left_out": self._left_out})
        self._left_out = 0
