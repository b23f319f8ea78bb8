"""The ids of tasks, which stay the same when a task is published again."""

import itertools
import threading
from collections.abc import Iterator, Sequence

import msgspec

from pgnotifier.contrib.celery.tracing import Library, Trace
from pgnotifier.dispatch import Delivery
from pgnotifier.notification import Entry

Libraries = tuple[Library, ...]


class TaskIds(threading.local):
    """The ids of tasks that may already be in the broker, because it didn't answer.

    They are published again with the same ids, so that duplicates can be recognised. Each
    deliverer's thread has its own.
    """

    def __init__(self) -> None:
        self._known: dict[int, Attempt] = {}  # by the delivery's identity; keeps it alive as well
        self._trace: Trace | None = None  # of the latest notification

    def of(self, delivery: Delivery, fresh: Iterator[str], libraries: Libraries) -> "Attempt":
        """Return the attempt to publish a delivery, with the id of the previous attempt if any.

        Args:
            delivery: The delivery.
            fresh: Yields new ids.
            libraries: The tracing libraries.
        """
        kept = self._known.get(id(delivery))
        lasting = None
        if kept is None and delivery.notification.id is not None:
            lasting = delivery.identify_as_text()  # so that a repeat can be recognised
        if not libraries:
            return kept or Attempt(delivery, lasting or next(fresh))
        if kept is None:
            return Attempt(delivery, lasting or next(fresh), self._find_trace(delivery, libraries))
        trace = kept.trace
        if trace is None or trace.libraries != libraries:
            trace = Trace(libraries, delivery)
        self._trace = trace
        return Attempt(delivery, kept.task_id, trace)

    def of_all(self, deliveries: Sequence[Delivery], fresh: Iterator[str]) -> Sequence[str]:
        """Return the ids of deliveries of one subscription that nobody has tried to publish yet.

        Args:
            deliveries: The deliveries.
            fresh: Yields new ids.
        """
        binding = deliveries[0].binding
        if binding.subscription.durability is None:
            return list(itertools.islice(fresh, len(deliveries)))
        entries = [whole for one in deliveries if type(whole := one.notification) is Entry]
        if len(entries) == len(deliveries) and not any(one.parts for one in entries):
            return binding.identifier.identify_each(entries)
        return [one.identify_as_text() or next(fresh) for one in deliveries]

    def traces_of(self, deliveries: Sequence[Delivery], libraries: Libraries) -> Sequence[Trace]:
        """Return the traces of deliveries that nobody has tried to publish yet.

        Args:
            deliveries: The deliveries, in the order of their notifications.
            libraries: The tracing libraries.
        """
        return [self._find_trace(one, libraries) for one in deliveries]

    def _find_trace(self, delivery: Delivery, libraries: Libraries) -> Trace:
        """Return the trace of the latest notification if the delivery is of it, or a new one."""
        trace = self._trace
        if trace is None or trace.libraries != libraries or not trace.includes(delivery):
            trace = self._trace = Trace(libraries, delivery)
        return trace

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._known

    def keep(self, attempt: "Attempt") -> None:
        """Keep an id for the next attempt."""
        self._known[id(attempt.delivery)] = attempt

    def forget(self) -> None:
        """Discard the ids, because the batch is done."""
        self._known.clear()


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt to publish a delivery, with the task's id and the notification's trace."""

    delivery: Delivery
    task_id: str
    trace: Trace | None = None
