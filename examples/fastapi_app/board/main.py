"""The application: a page, a stream of events, and a way to order."""

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
    """Orders may have been missed: have browsers sent what there is."""
    refresh()


@notifier.on("order_placed", on_gap=catch_up)
async def push(id: Hashable, channel: str, order: dict[str, Any], pid: int) -> None:
    """Tell every browser of an order."""
    publish(order)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Listen for as long as the server runs."""
    await create()
    async with notifier:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> HTMLResponse:
    """Show the board, which the stream fills."""
    return HTMLResponse(PAGE)


@app.get("/events")
async def events() -> StreamingResponse:
    """Stream the latest orders, and those that come."""
    return StreamingResponse(subscribe(), media_type="text/event-stream")


@app.post("/orders", status_code=201)
async def place(item: str = Body(embed=True)) -> int:
    """Place an order, as any other program might."""
    ((number,),) = await execute("INSERT INTO orders (item) VALUES (%s) RETURNING id", (item,))
    return int(number)
