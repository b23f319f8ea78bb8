"""The contract of tracing: what makes spans of notifications, if anything does."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Tracing(Protocol):
    """Makes spans of deliveries. Any thread may call the methods.

    Whether there is any is decided when a dispatcher gets a thread that delivers to it, so that
    notifications without tracing cost nothing more.
    """

    def calling(self, delivery: Any, /) -> AbstractContextManager[object]:
        """Return what a callback is to be called in: its span is the current one there."""
        ...

    def handing_over(self, deliveries: Iterable[Any], by: Any, /) -> AbstractContextManager[object]:
        """Return what a dispatcher is to be given deliveries in: there is a span for each.

        There is none if the dispatcher calls callbacks in this process, or forwards messages.
        """
        ...

    def find(self, delivery: Any, /) -> Any:
        """Return the ids of the span that `handing_over` has made for a delivery, or None."""
        ...


FindTracing = Callable[[], Tracing | None]
"""Returns what makes spans, or None."""


def without_tracing() -> None:
    """Return None: no spans are made."""
