"""A stream of server-sent events for each browser that shows the board.

Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from board.database import execute

MOST = 100
"""How many orders may wait for a browser. A slower one is sent the latest orders instead."""

_streams: set["asyncio.Queue[dict[str, Any] | None]"] = set()


def publish(order: dict[str, Any]) -> None:
    """Send an order to every browser."""
    for stream in _streams:
        if stream.qsize() < MOST:
            stream.put_nowait(order)
        else:
            _refresh(stream)


def refresh() -> None:
    """Send the latest orders to every browser, which ignores those that it already has."""
    for stream in _streams:
        _refresh(stream)


async def subscribe() -> AsyncIterator[str]:
    """Yield the latest orders, and new ones, until the browser disconnects."""
    stream: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    _streams.add(stream)  # before the table is read, so that no order is missed in between
    try:
        _refresh(stream)
        while True:
            order = await stream.get()
            for one in await _latest() if order is None else [order]:
                yield f"event: order\ndata: {json.dumps(one)}\n\n"
    finally:
        _streams.discard(stream)


def _refresh(stream: "asyncio.Queue[dict[str, Any] | None]") -> None:
    while not stream.empty():
        stream.get_nowait()
    stream.put_nowait(None)


async def _latest() -> list[dict[str, Any]]:
    rows = await execute("SELECT id, item FROM orders ORDER BY id DESC LIMIT %s", (MOST,))
    return [{"id": number, "item": item} for number, item in reversed(rows)]
