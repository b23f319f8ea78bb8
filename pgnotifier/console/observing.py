"""Look at a database every few seconds, for all pages that are open."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.asking import Inquirer
from pgnotifier._inquiry.messages import Order
from pgnotifier._inquiry.report import Survey
from pgnotifier._log.outbox_queries import outboxes
from pgnotifier._log.overview import log_state, positions
from pgnotifier.console import INTERVAL
from pgnotifier.console.history import History, Point
from pgnotifier.errors import LogNotInstalledError, PgNotifierError, in_one_line

LOG_INTERVAL = 10.0
"""Seconds between two looks at the durable log."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment.

    Attributes:
        number: Which look it is.
        survey: The listeners; None if they couldn't be asked.
        log: The durable log, its subscriptions and the outboxes; None if it isn't installed.
        problem: Why something couldn't be seen.
        at: Unix time in seconds.
        point: The new point of the history, if there is one.
    """

    number: int = 0
    survey: Survey | None = None
    log: Mapping[str, Any] | None = None
    problem: str | None = None
    at: float = 0.0
    point: Point | None = None


class Observer:
    """Looks again and again, and lets the pages wait for the next look.

    Attributes:
        parameters: The database.
        interval: Seconds between two looks at the listeners.
        history: The figures of the last hour.
        latest: What was seen last.
    """

    def __init__(self, parameters: Parameters, interval: float = INTERVAL) -> None:
        """Take what to look at, and how many seconds are between two looks."""
        self.parameters = parameters
        self.interval = interval
        self.history = History()
        self.latest = Look()
        self._changed = asyncio.Condition()
        self._inquirer = Inquirer(parameters)
        self._asking = threading.Lock()  # an inquirer is for one thread at a time
        self._is_ending = False
        self._log_due = 0.0

    async def run(self) -> None:
        """Look until the task is cancelled."""
        try:
            while True:
                begun = time.monotonic()
                await self._look()
                await asyncio.sleep(max(0.1, self.interval - (time.monotonic() - begun)))
        finally:
            # A thread that asks can't be cancelled, and closes the connection itself.
            self._is_ending = True
            if self._asking.acquire(blocking=False):
                self._inquirer.close()
                self._asking.release()

    async def next(self, after: int) -> Look:
        """Return the latest look, once there is one after that of this number."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.latest.number > after)
            return self.latest

    async def order(self, order: Order) -> None:
        """Have a listener mute or unmute something: see `Inquirer.order`."""
        await asyncio.to_thread(self._ask, partial(self._inquirer.order, order))

    async def call(self, step: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Call a function with a connection of its own, on another thread.

        Raises:
            PgNotifierError: There is no connection, or the function has failed.
        """
        return await asyncio.to_thread(self._call, step)

    def _ask(self, step: Callable[[], T]) -> T:
        with self._asking:
            try:
                return step()
            finally:
                if self._is_ending:
                    self._inquirer.close()

    def _call(self, step: Callable[[psycopg.Connection[Any]], T]) -> T:
        with self.parameters.connect() as connection:
            connection.execute("RESET synchronous_commit")  # what was reported is on disk
            return step(connection)

    async def _look(self) -> None:
        survey, problem, log = None, None, self.latest.log
        try:
            survey = await asyncio.to_thread(self._ask, self._inquirer.survey)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the next look may succeed
            problem = _explain(exc)
        if problem is None and time.monotonic() >= self._log_due:
            self._log_due = time.monotonic() + LOG_INTERVAL
            try:
                log = await self.call(_read_log)
            except LogNotInstalledError:
                log = None
            except Exception as exc:  # noqa: BLE001 - as above
                problem = _explain(exc)
        at = time.time()
        point = None if survey is None else self.history.add(survey, at)
        async with self._changed:
            self.latest = Look(self.latest.number + 1, survey, log, problem, at, point)
            self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Look during the `async with` block."""
        task = asyncio.create_task(self.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _explain(exc: Exception) -> str:
    """Return an error in one line; with its type, if it may be a missing thread or descriptor."""
    is_plain = isinstance(exc, PgNotifierError | psycopg.Error)
    return in_one_line(exc if is_plain else f"{type(exc).__name__}: {exc}")


def _read_log(connection: psycopg.Connection[Any]) -> Mapping[str, Any]:
    return {
        "state": log_state(connection).to_dict(),
        "positions": [one.to_dict() for one in positions(connection)],
        "outboxes": [one.to_dict() for one in outboxes(connection)],
    }
