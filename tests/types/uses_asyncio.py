"""What users of asyncio and FastAPI write, which type checkers must accept."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any, assert_type

from fastapi import FastAPI

from pgnotifier import AsyncioDispatcher, Notifier

notifier = Notifier("postgresql://localhost/shop", dispatcher=AsyncioDispatcher(max_tasks=10))
queue: asyncio.Queue[Any] = asyncio.Queue()


@notifier.on("orders")
async def push(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Pass a payload on."""
    await queue.put(payload)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Listen for as long as the application runs."""
    async with notifier as entered:
        assert_type(entered, Notifier)
        yield


app = FastAPI(lifespan=lifespan)


async def main() -> None:
    """Call methods that wait for the server without blocking the loop."""
    loop = asyncio.get_running_loop()
    async with Notifier(None, dispatcher=AsyncioDispatcher(loop, ordered=False)) as other:
        await asyncio.to_thread(other.notify, "orders", {"total": 9.5})
        await asyncio.to_thread(other.subscribe, "push", "stock", push)
