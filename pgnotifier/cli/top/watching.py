"""The thread of `pgnotifier top` that asks listeners every few seconds, and sends them orders."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.asking import TIMEOUT, Inquirer
from pgnotifier._inquiry.messages import Order
from pgnotifier._inquiry.report import Survey
from pgnotifier.cli.printable import printable
from pgnotifier.errors import PgNotifierError, in_one_line

PATIENCE = 1.0
"""Seconds to wait for the thread when the program ends, or is stopped by Ctrl-Z."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a survey has found, or why there was none.

    Attributes:
        survey: The listeners; None if they could not be asked.
        error: Why not, in one line.
    """

    survey: Survey | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of orders.

    Attributes:
        text: What happened, in one line.
        failed: Whether a listener has refused, or could not be asked.
    """

    text: str
    failed: bool


Show = Callable[[Look | Outcome], object]


class Watching(Protocol):
    """The interface that the screen needs: surveys, and a way to give orders."""

    def start(self, show: Show) -> None:
        """Start; call `show` with whatever there is to show, on any thread."""
        ...

    def stop(self) -> None:
        """End."""
        ...

    def pause(self, *, wait: bool = False) -> None:
        """Stop asking until `resume` is called."""
        ...

    def resume(self) -> None:
        """Ask at once, and go on."""
        ...

    def order(self, orders: Sequence[Order], done: str) -> None:
        """Have listeners do something; `done` says what, once they have."""
        ...


class Watcher:
    """Asks listeners on a thread of its own, so that the screen never waits.

    A lost connection is made again by the next survey. While paused, there is no connection, so
    that neither the server nor a standby spends anything on a screen that nobody looks at.
    """

    def __init__(
        self, parameters: Parameters, interval: float = 2.0, timeout: float = TIMEOUT
    ) -> None:
        """Take where to connect; nothing is started.

        Args:
            parameters: Where to connect.
            interval: Seconds between two surveys.
            timeout: Seconds to wait for answers, at most.
        """
        self._parameters = parameters
        self._interval = interval
        self._timeout = timeout
        self._news = threading.Condition()  # guards the four below
        self._orders = deque[tuple[Sequence[Order], str]]()
        self._paused = False
        self._stopped = False
        self._is_resting = True  # it has no connection
        self._thread: threading.Thread | None = None

    def start(self, show: Show) -> None:
        """Start; call `show` on the thread with whatever there is to show."""
        run = threading.Thread(target=self._run, args=(show,), name="pgnotifier-top", daemon=True)
        run.start()
        self._thread = run

    def stop(self) -> None:
        """End, and wait a moment for that. A query that is under way ends with the process."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def pause(self, *, wait: bool = False) -> None:
        """Stop asking until `resume` is called; `wait` until the connection is closed."""
        with self._news:
            self._paused = True
            self._news.notify_all()
            if wait:
                self._news.wait_for(lambda: self._is_resting, self._timeout + PATIENCE)

    def resume(self) -> None:
        """Ask at once, and go on."""
        with self._news:
            self._paused = False
            self._news.notify_all()

    def order(self, orders: Sequence[Order], done: str) -> None:
        """Have listeners do something; `done` says what, once they have."""
        with self._news:
            self._orders.append((orders, done))
            self._news.notify_all()

    # --- the thread ---

    def _run(self, show: Show) -> None:
        due = 0.0
        with Inquirer(self._parameters) as inquirer:
            while True:
                ordered = self._wait(inquirer, due)
                if self._stopped:
                    return
                if ordered is not None:
                    show(self._carry_out(inquirer, *ordered))
                due = monotonic() + self._interval
                show(self._look(inquirer))

    def _wait(self, inquirer: Inquirer, due: float) -> tuple[Sequence[Order], str] | None:
        """Wait until it is time for a survey, or for orders, which are returned."""
        with self._news:
            while not (self._stopped or self._orders):
                if self._paused:
                    inquirer.close()
                    self._is_resting = True
                    self._news.notify_all()
                    self._news.wait()
                    due = 0.0
                elif (left := due - monotonic()) > 0:
                    self._news.wait(left)
                else:
                    break
            self._is_resting = False
            return self._orders.popleft() if self._orders else None

    def _look(self, inquirer: Inquirer) -> Look:
        try:
            return Look(inquirer.survey(self._timeout))
        except Exception as exc:  # noqa: BLE001 - the thread goes on, whatever a survey meets
            self._forget(inquirer)
            return Look(None, printable(in_one_line(exc)))

    def _carry_out(self, inquirer: Inquirer, orders: Sequence[Order], done: str) -> Outcome:
        for order in orders:
            try:
                inquirer.order(order, self._timeout)
            except Exception as exc:  # noqa: BLE001 - as above
                if not isinstance(exc, PgNotifierError):
                    self._forget(inquirer)
                return Outcome(printable(in_one_line(exc)), failed=True)
        return Outcome(done, failed=False)

    @staticmethod
    def _forget(inquirer: Inquirer) -> None:
        with contextlib.suppress(Exception):
            inquirer.close()
