"""Deliveries with messages that are stamped together, in two thirds of the time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pgnotifier.contrib.celery.stamping import CeleryStamp
from pgnotifier.contrib.celery.task_ids import Attempt, Libraries, TaskIds
from pgnotifier.dispatch import Binding, Delivery

if TYPE_CHECKING:
    from pgnotifier.contrib.celery.tracing import Trace

T = TypeVar("T")
Stamps = Mapping[Binding, CeleryStamp]
"""The stamp of each subscription."""


class Together:
    """The end of a chunk, or all of it, in columns.

    Attributes:
        bindings: The subscriptions.
        first: The carrier's position before the messages.
        traced: The tracing headers, by the task's id.
    """

    def __init__(self, deliveries: Sequence[Delivery], first: int) -> None:
        """Sort the deliveries by subscription.

        Args:
            deliveries: What to make messages for. Nobody has tried to publish it yet.
            first: The carrier's position before the messages.
        """
        self.first = first
        self.traced: dict[str, Mapping[str, Any]] = {}
        self._deliveries = deliveries
        self._ids = [""] * len(deliveries)
        self._traces: Sequence[Trace] = ()
        self._places: dict[Binding, list[int]] = {}
        for at, delivery in enumerate(deliveries):
            self._places.setdefault(delivery.binding, []).append(at)
        self.bindings = self._places.keys()

    def identify(self, ids: TaskIds, fresh: Iterator[str], libraries: Libraries) -> None:
        """Give each an id, and a trace if there is tracing.

        Args:
            ids: Knows the ids of entries.
            fresh: Yields new ids.
            libraries: The tracing libraries.
        """
        for places in self._places.values():
            given = ids.of_all(_pick(self._deliveries, places), fresh)
            for at, task_id in zip(places, given, strict=True):
                self._ids[at] = task_id
        if libraries:
            self._traces = ids.traces_of(self._deliveries, libraries)

    def press(self, stamps: Stamps) -> list[Any]:
        """Return the messages, in order.

        Raises:
            BaseException: One of them can't be made. The tracing headers are in `traced` then.
        """
        self._trace(stamps)
        messages: list[Any] = [None] * len(self._deliveries)
        for binding, places in self._places.items():
            deliveries, ids = _pick(self._deliveries, places), _pick(self._ids, places)
            added = list(map(self.traced.get, ids)) if self._traces else None
            pressed = stamps[binding].press_all(binding.target, deliveries, ids, added)
            for at, message in zip(places, pressed, strict=True):
                messages[at] = message
        return messages

    def attempts(self) -> list[Attempt]:
        """Return the attempts to publish them."""
        traces = (self._traces,) if self._traces else ()
        return list(map(Attempt, self._deliveries, self._ids, *traces))

    def _trace(self, stamps: Stamps) -> None:
        """Make the tracing headers, if there is tracing.

        All of them before the first message: the code that makes spans is large, and would have
        left the processor's caches before the next one.
        """
        for at, trace in enumerate(self._traces):
            described = stamps[self._deliveries[at].binding].described
            self.traced[self._ids[at]] = trace.make_headers(described, self._ids[at])


def _pick(column: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """Return what is in some places of a column."""
    return column if len(places) == len(column) else [column[at] for at in places]
