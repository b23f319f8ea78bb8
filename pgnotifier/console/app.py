"""The console's web application: the page, its events, and what it may change."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Literal, TypeVar

import msgspec
import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import pgnotifier
from pgnotifier._inquiry.messages import Order
from pgnotifier._log import dead_letters
from pgnotifier._runtime.log_records import about
from pgnotifier.console import acting
from pgnotifier.console.following import MOST, Follower
from pgnotifier.console.guarding import COOKIE, HEADERS, Guard
from pgnotifier.console.observing import Look, Observer
from pgnotifier.errors import PgNotifierError, in_one_line

logger = logging.getLogger("pgnotifier.console")

BODY_BYTES = 100_000
"""The longest body of a request."""
PATIENCE = 15.0
"""Seconds after which a stream without news sends a comment, so that proxies keep it."""
_STATIC = files("pgnotifier.console") / "static"
_TYPES = {"console.css": "text/css", "console.js": "text/javascript", "plots.js": "text/javascript"}
T = TypeVar("T")


class Numbers(msgspec.Struct, forbid_unknown_fields=True):
    """A request about failed entries, by their numbers."""

    numbers: list[int]


class Entries(msgspec.Struct, forbid_unknown_fields=True):
    """A request about entries of an outbox that wait."""

    sub: int
    entries: list[int]


class Muting(msgspec.Struct, forbid_unknown_fields=True):
    """A request to mute or unmute a channel, or one of its subscriptions."""

    listener: str
    verb: Literal["mute", "unmute"]
    channel: str
    subscription: str | None = None


class Console:
    """The application's handlers."""

    def __init__(
        self,
        observer: Observer,
        guard: Guard,
        *,
        shows_payloads: bool = False,
        read_only: bool = False,
    ) -> None:
        """Take what the handlers need.

        Args:
            observer: What looks at the database.
            guard: Who may ask.
            shows_payloads: Whether payloads are shown.
            read_only: Whether nothing may be changed.
        """
        self._observer = observer
        self._guard = guard
        self._shows_payloads = shows_payloads
        self._read_only = read_only
        self._followers = 0
        self._ended = asyncio.Event()

    def end(self) -> None:
        """End all streams, as a server waits for them before it stops."""
        self._ended.set()

    def make_app(self) -> ASGIApp:
        """Return the application."""
        changes = {
            "/api/dead/retry": self._change(Numbers, self._retry),
            "/api/dead/drop": self._change(Numbers, self._drop),
            "/api/outbox/drop": self._change(Entries, self._drop_waiting),
            "/api/mute": self._change(Muting, self._mute),
        }
        routes = [
            Route("/", self._page),
            Route("/static/{name}", self._file),
            Route("/events", self._events),
            Route("/api/notifications", self._notifications),
            Route("/api/dead", self._letters),
            Route("/api/dead/{number:int}", self._letter),
            Route("/api/outbox/{sub:int}", self._outbox),
            *(Route(path, handle, methods=["POST"]) for path, handle in changes.items()),
        ]

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with self._observer.running():
                yield

        return _Guarded(Starlette(routes=routes, lifespan=lifespan), self._guard)

    # --- the page ---

    async def _page(self, _: Request) -> Response:
        text = (_STATIC / "index.html").read_text("utf-8")
        settings = {
            "secret": self._guard.secret,
            "version": pgnotifier.__version__,
            "connection": repr(self._observer.parameters),
            "payloads": self._shows_payloads,
            "readOnly": self._read_only,
        }
        # In an attribute, so only a quote could end it.
        shown = json.dumps(settings).replace("&", "&amp;").replace('"', "&quot;")
        return Response(text.replace("%SETTINGS%", shown), media_type="text/html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _TYPES:
            return _refuse(404, "there is no such file")
        return Response((_STATIC / name).read_bytes(), media_type=_TYPES[name])

    # --- what is seen ---

    async def _events(self, request: Request) -> Response:
        async def stream() -> AsyncGenerator[str]:
            yield _event("history", self._observer.history.to_dict())
            seen, known = 0, dict[str, Any]()
            while not await request.is_disconnected():
                try:
                    async with asyncio.timeout(PATIENCE):
                        look = await self._observer.next(seen)
                except TimeoutError:
                    yield ":\n\n"
                    continue
                seen = look.number
                yield _event("look", _describe(look, known))

        return self._stream(stream())

    async def _notifications(self, request: Request) -> Response:
        channel = request.query_params.get("channel", "")
        try:
            follower = Follower(
                self._observer.parameters, channel, shows_payloads=self._shows_payloads
            )
        except PgNotifierError as exc:
            return _refuse(400, in_one_line(exc))

        async def stream() -> AsyncGenerator[str]:
            if self._followers >= MOST:
                yield _event("problem", f"{MOST} pages follow channels already")
                return
            self._followers += 1
            found = follower.follow()
            try:
                yield ":\n\n"
                async for one in found:
                    yield _event("notification", one)
            except PgNotifierError as exc:
                yield _event("problem", in_one_line(exc))
            finally:
                self._followers -= 1
                await found.aclose()  # type: ignore[attr-defined]

        return self._stream(stream())

    def _stream(self, events: AsyncGenerator[str]) -> Response:
        headers = {"x-accel-buffering": "no"}  # nginx would collect events
        kept = _until(self._ended, events)
        return StreamingResponse(kept, media_type="text/event-stream", headers=headers)

    async def _letters(self, _: Request) -> Response:
        return await self._answer(acting.list_letters)

    async def _letter(self, request: Request) -> Response:
        number = request.path_params["number"]
        return await self._answer(
            lambda one: acting.show_letter(one, number, shows_payloads=self._shows_payloads)
        )

    async def _outbox(self, request: Request) -> Response:
        sub, failed = request.path_params["sub"], "failed" in request.query_params
        return await self._answer(lambda one: acting.list_outbox(one, sub, failed=failed))

    async def _answer(self, step: Callable[[psycopg.Connection[Any]], Any]) -> Response:
        try:
            found = await self._observer.call(step)
        except (PgNotifierError, psycopg.Error) as exc:
            return _refuse(502, in_one_line(exc))
        return _refuse(404, "it isn't there any more") if found is None else JSONResponse(found)

    # --- what is changed ---

    def _change(
        self, kind: type[T], act: Callable[[T], Awaitable[int]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of a request that changes something."""

        async def handle(request: Request) -> Response:
            if self._read_only:
                return _refuse(403, "this console is read-only")
            if (why := self._guard.find_forgery(request.headers)) is not None:
                return _refuse(403, why)
            try:
                given = msgspec.json.decode(await _read_body(request), type=kind)
            except (msgspec.DecodeError, ValueError) as exc:
                return _refuse(400, str(exc))
            user = self._guard.find_user(request.headers)
            try:
                count = await act(given)
            except (PgNotifierError, psycopg.Error) as exc:
                return _refuse(409, in_one_line(exc))
            logger.info("%s: %s by %s", request.url.path, given, user, extra=about("acted"))
            return JSONResponse({"count": count})

        return handle

    async def _retry(self, given: Numbers) -> int:
        return await self._observer.call(lambda one: dead_letters.retry_letters(one, given.numbers))

    async def _drop(self, given: Numbers) -> int:
        return await self._observer.call(lambda one: dead_letters.drop_letters(one, given.numbers))

    async def _drop_waiting(self, given: Entries) -> int:
        return await self._observer.call(
            lambda one: acting.drop_waiting(one, given.sub, given.entries)
        )

    async def _mute(self, given: Muting) -> int:
        order = Order(given.listener, given.verb, given.channel, given.subscription)
        await self._observer.order(order)
        return 1


class _Guarded:
    """Asks the guard before each request, and sends its headers with each answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [*message.get("headers", [])]
                kept += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": kept}
            await send(message)

        request = Request(scope)
        token = request.query_params.get("token")
        problem = self._guard.find_problem(request.headers)
        response: Response | None = None
        if problem is not None and problem[0] == 401 and self._guard.knows(token):
            response = RedirectResponse("/", status_code=303)
            response.set_cookie(COOKIE, token or "", httponly=True, samesite="strict")
        elif problem is not None:
            response = _refuse(*problem)
        await (response or self._app)(scope, receive, send_with_headers)


def _describe(look: Look, known: dict[str, Any]) -> Mapping[str, Any]:
    """Return what a page doesn't know yet: subscriptions are sent when they have changed.

    Args:
        look: What was seen.
        known: The subscriptions that this page knows, by the listener's id; it is updated.
    """
    listeners, now = [], {}
    for report in look.survey.reports if look.survey is not None else ():
        shown = dict(report.to_dict())
        subscriptions = now[report.id] = report.subscriptions
        if known.get(report.id) == subscriptions:
            del shown["subscriptions"]
        listeners.append(shown)
    known.clear()
    known.update(now)
    silent = [one.to_dict() for one in look.survey.silent] if look.survey is not None else []
    return {
        "at": look.at,
        "problem": look.problem,
        "listeners": listeners,
        "silent": silent,
        "log": look.log,
        "point": look.point and asdict(look.point),
    }


async def _read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        ValueError: It is too long.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            raise ValueError(f"the request has over {BODY_BYTES} bytes")
    return bytes(body)


def _event(name: str, data: Any) -> str:
    """Return an event of a stream.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def _until(ended: asyncio.Event, events: AsyncGenerator[str]) -> AsyncIterator[str]:
    """Yield what a generator yields, until it ends or the event is set."""
    ending = asyncio.ensure_future(ended.wait())
    step: asyncio.Future[str | None] | None = None
    try:
        while not ended.is_set():
            step = asyncio.ensure_future(anext(events, None))
            await asyncio.wait({step, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done() or (event := step.result()) is None:
                return
            yield event
    finally:
        ending.cancel()
        if step is not None and not step.done():
            step.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await step
        await events.aclose()


def _refuse(status: int, why: str) -> Response:
    return JSONResponse({"problem": why}, status_code=status)
