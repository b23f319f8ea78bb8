"""The sources of a notifier that runs: one for each dispatcher with durable subscriptions."""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import TIMEOUT_MAX
from time import monotonic

from pgnotifier._connection.parameters import Parameters
from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.intake import EntryItem
from pgnotifier._durable.describing import find_overdue
from pgnotifier._durable.dropping import ReportDropped
from pgnotifier._durable.source import Source
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.sync import Outcome
from pgnotifier.dispatch import Dispatcher
from pgnotifier.status import DurableStatus, LogState

LAST_SAVE = 0.5
"""Seconds for saving what is settled when the time of `stop()` is over."""


class Outcomes(Outcome):
    """The outcome of several requests, once all of them are done."""

    def __init__(self, parts: Sequence[Outcome]) -> None:
        """Take the outcomes of the parts."""
        super().__init__()
        self._parts = parts

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all are done, for a number of seconds at most; return whether they are."""
        deadline = math.inf if timeout is None else monotonic() + timeout
        return all(one.wait(min(deadline - monotonic(), TIMEOUT_MAX)) for one in self._parts)

    def result(self) -> None:
        """Wait until all are done, and raise what made one of them fail, if anything did."""
        for one in self._parts:
            one.result()


class Sources:
    """Reads the log, from `start()` to `finish()`. Any thread may call any method.

    Attributes:
        by_dispatcher: The sources. Replaced, never changed in place.
    """

    def __init__(
        self,
        parameters: Parameters,
        registry: Callable[[], Registry],
        find_deliverer: Callable[[Dispatcher], Deliverer],
        patience: float,
        report_dropped: ReportDropped,
    ) -> None:
        """Make them. Nothing is started yet.

        Args:
            parameters: Where to connect.
            registry: Returns the current registry of durable subscriptions.
            find_deliverer: Returns the deliverer of a dispatcher, which is made if there is none.
            patience: The seconds within which the server has to answer a query.
            report_dropped: Logs and reports what a subscription has missed.
        """
        self.by_dispatcher: Mapping[Dispatcher, Source] = {}
        self._parameters = parameters
        self._registry = registry
        self._find_deliverer = find_deliverer
        self._patience = patience
        self._report_dropped = report_dropped
        self._warned: dict[str, object] = {}  # by channel, see `Strays`
        self._lock = threading.RLock()  # so that nothing is started or handed over after `stop`
        self._is_stopping = False

    def start(self) -> Sequence[Outcome]:
        """Start a source for each dispatcher that is used; return what is settled once they read.

        Raises:
            RuntimeError: No thread can be started.
        """
        with self._lock:
            for dispatcher in self._dispatchers():
                self._source(dispatcher)
            return [one.ready for one in self.by_dispatcher.values()]

    def request(self, channels: Iterable[str]) -> Outcome:
        """Have sources look at changed channels; the outcome is settled once these are read."""
        with self._lock:
            registry = self._registry()
            used = {one.dispatcher for name in channels for one in registry.bindings(name)}
            found = [self._source(dispatcher) for dispatcher in used]
        return Outcomes([one.request() for one in found if one is not None])

    def look(self) -> None:
        """Have all running sources look at the changed registry."""
        for one in self.by_dispatcher.values():
            one.request()

    def reconnect(self) -> None:
        """Have all sources go on with new connections."""
        for one in self.by_dispatcher.values():
            one.reconnect()

    def find_problems(self) -> list[str]:
        """Return, in words, why the log can't be read, and which entries have waited too long."""
        found = [(one.trouble, one.dispatcher) for one in self.by_dispatcher.values()]
        unread = [
            f"the durable log can't be read for {type(dispatcher).__name__} since "
            f"{trouble.since.isoformat(timespec='seconds')}"
            for trouble, dispatcher in found
            if trouble.since is not None
        ]
        overdue = [
            why
            for one in self.by_dispatcher.values()
            for why in find_overdue(one.progress, one.trouble)
        ]
        return unread + overdue

    def describe(self) -> tuple[DurableStatus, ...]:
        """Return the status of each durable subscription."""
        return tuple(status for one in self.by_dispatcher.values() for status in one.describe())

    def log_state(self) -> LogState | None:
        """Return how large the log is, and what holds it back, if that is known."""
        found = [one.log_state for one in self.by_dispatcher.values()]
        return next((state for state in found if state is not None), None)

    def stop(self, deadline: float) -> None:
        """Have all stop reading; return at once. Deliverers go on until the deadline."""
        with self._lock:
            self._is_stopping = True
        for one in self.by_dispatcher.values():
            one.stop(deadline)

    def finish(self, deadline: float) -> None:
        """Wait until all have saved what is settled, except for those that wait for the caller."""
        for one in self.by_dispatcher.values():
            if one.thread is not threading.current_thread() and not one.waits_for_caller():
                one.thread.join(max(0.0, deadline - monotonic()) + LAST_SAVE)

    def delivering_here(self) -> list[threading.Thread]:
        """Return the threads that end once the calling callback has returned."""
        return [one.thread for one in self.by_dispatcher.values() if one.waits_for_caller()]

    def is_reading_here(self) -> bool:
        """Return whether the calling code runs on the thread of a source: in `db_conf`, say."""
        return any(one.thread is threading.current_thread() for one in self.by_dispatcher.values())

    def forget_in_child(self) -> None:
        """Forget the parent's threads in a forked child."""
        for one in self.by_dispatcher.values():
            one.forget_in_child()
        self.by_dispatcher = {}

    def _dispatchers(self) -> set[Dispatcher]:
        registry = self._registry()
        return {one.dispatcher for name in registry for one in registry.bindings(name)}

    def _source(self, dispatcher: Dispatcher) -> Source | None:
        found = self.by_dispatcher.get(dispatcher)
        if found is None and not self._is_stopping:
            found = Source(
                dispatcher,
                self._parameters,
                self._registry,
                self._hand_over,
                self._may_retire,
                self._patience,
                self._report_dropped,
                self._warned,
            )
            found.start()
            self.by_dispatcher = {**self.by_dispatcher, dispatcher: found}
        return found

    def _hand_over(
        self, dispatcher: Dispatcher, items: Sequence[EntryItem] | GapMarker
    ) -> Deliverer | None:
        with self._lock:
            if self._is_stopping:
                return None
            deliverer = self._find_deliverer(dispatcher)
            if isinstance(items, GapMarker):
                return deliverer if deliverer.take_over(items) else None
            return deliverer if deliverer.accept(items) else None

    def _may_retire(self, dispatcher: Dispatcher) -> bool:
        with self._lock:
            if dispatcher in self._dispatchers():
                return False
            self.by_dispatcher = {
                d: one for d, one in self.by_dispatcher.items() if d != dispatcher
            }
            return True
