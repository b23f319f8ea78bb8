"""The FastAPI application: a page, a stream of events, and a URL for placing orders."""

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Body, FastAPI
from fastapi.responses import HTMLResponse, StreamingResponse

from board.database import create, execute
from board.settings import DSN
from board.streams import publish, refresh, subscribe
from pgnotifier import AsyncioDispatcher, Notifier

PAGE = Path(__file__).with_name("page.html").read_text()

notifier = Notifier(DSN, dispatcher=AsyncioDispatcher())


async def catch_up(id: Hashable, channel: str, gap: dict[str, Any], pid: int) -> None:
    """Send the latest orders to all browsers, because notifications may have been missed."""
    refresh()


@notifier.on("order_placed", on_gap=catch_up)
async def push(id: Hashable, channel: str, order: dict[str, Any], pid: int) -> None:
    """Send an order to every browser."""
    publish(order)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Listen while the server runs."""
    await create()
    async with notifier:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> HTMLResponse:
    """Show the board. The stream of events fills it."""
    return HTMLResponse(PAGE)


@app.get("/events")
async def events() -> StreamingResponse:
    """Stream the latest orders, and new ones."""
    return StreamingResponse(subscribe(), media_type="text/event-stream")


@app.post("/orders", status_code=201)
async def place(item: str = Body(embed=True)) -> int:
    """Place an order, as any other program might do."""
    ((number,),) = await execute("INSERT INTO orders (item) VALUES (%s) RETURNING id", (item,))
    return int(number)
