"""The first spans of the latest notifications, so that further deliveries join their traces."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.dispatch import Delivery

REMEMBERED = 1_000
"""How many notifications are remembered."""

AnySpan = TypeVar("AnySpan")
Ids = TypeVar("Ids")


class _Begun(NamedTuple, Generic[Ids]):
    """The traces of notifications with the same content, in their order.

    A binding gets each of them once, in order, so that its number says which one it is.

    Attributes:
        ids: The span of each.
        had: How many of them a binding has had, by its identity.
    """

    ids: list[Ids]
    had: dict[int, int]


class Recent(Generic[AnySpan, Ids]):
    """Begins a span for each notification, and finds it for further deliveries of it.

    AnySpan is the type of spans, Ids that of their ids. Threads may share it.
    """

    def __init__(self, ids_of: Callable[[AnySpan], Ids]) -> None:
        """Remember none yet.

        Args:
            ids_of: Returns the ids of a span.
        """
        self._ids_of = ids_of
        self._recent: OrderedDict[Any, _Begun[Ids]] = OrderedDict()  # guarded by the lock
        self._lock = ForkSafeLock()

    def join(self, delivery: Delivery, begin: Callable[[], AnySpan]) -> tuple[AnySpan | None, Ids]:
        """Return the ids of a notification's first span, and that span if it begins now.

        Args:
            delivery: What is delivered.
            begin: Begins the span. Another thread that delivers the same notification waits.
        """
        key, binding = _key(delivery), id(delivery.binding)
        with self._lock:
            known = self._recent.get(key)
            if known is None or len(known.ids) > REMEMBERED:
                known = self._recent[key] = _Begun([], {})
            number = known.had.get(binding, 0)
            known.had[binding] = number + 1
            if number < len(known.ids):
                return None, known.ids[number]
            span = begin()
            known.ids.append(ids := self._ids_of(span))
            self._recent.move_to_end(key)
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
            return span, ids


def _key(delivery: Delivery) -> Any:
    arrived = delivery.notification
    return (
        arrived.channel,
        arrived.pid,
        arrived.received_at,
        arrived.id,
        arrived.count,
        arrived.raw,
    )
