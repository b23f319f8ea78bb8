"""The contract of tracing: how OpenTelemetry or Sentry makes spans of deliveries, if installed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

Choose = Callable[[Any], AbstractContextManager[object] | None]
"""Returns the context manager to call the callback of a delivery in; None to just call it."""
Kind = TypeVar("Kind")


class Tracing(Protocol):
    """Makes spans of deliveries. Any thread may call the methods.

    Whether there is tracing is decided when a dispatcher gets its deliverer's thread, so that
    notifications without tracing cost nothing more.
    """

    def calling(self, delivery: Any, /) -> AbstractContextManager[object]:
        """Return the context manager to call a callback in: its span is the current one there."""
        ...

    def begin_batch(self, deliveries: Sequence[Any], /) -> Choose | None:
        """Prepare this thread for the callbacks of a batch; return a function like `calling`.

        That function returns None for a callback that isn't recorded, which costs least. If nothing
        of the batch is recorded, this returns None instead of a function.
        """
        ...

    def handing_over(self, deliveries: Iterable[Any], by: Any, /) -> AbstractContextManager[object]:
        """Return the context manager to hand deliveries to a dispatcher in: each has a span there.

        There are none if the dispatcher calls callbacks in this process, or forwards messages.
        """
        ...

    def find(self, delivery: Any, kind: type[Kind], /) -> Kind | None:
        """Return the ids of the span that `handing_over` has made for a delivery, or None.

        Args:
            delivery: What is being handed over.
            kind: The type of the ids, which each library has of its own.
        """
        ...


FindTracing = Callable[[], Tracing | None]
"""Returns a `Tracing`, or None."""


class _Several:
    """A `Tracing` that makes the spans of several libraries."""

    def __init__(self, tracings: Sequence[Tracing]) -> None:
        self._tracings = tracings

    def calling(self, delivery: Any, /) -> AbstractContextManager[object]:
        return _together([one.calling(delivery) for one in self._tracings])

    def begin_batch(self, deliveries: Sequence[Any], /) -> Choose | None:
        begun = (one.begin_batch(deliveries) for one in self._tracings)
        choices = [one for one in begun if one is not None]

        def choose(delivery: Any) -> AbstractContextManager[object] | None:
            found = [span for one in choices if (span := one(delivery)) is not None]
            return _together(found) if found else None

        return choose if choices else None

    def handing_over(self, deliveries: Iterable[Any], by: Any, /) -> AbstractContextManager[object]:
        given = tuple(deliveries)
        return _together([one.handing_over(given, by) for one in self._tracings])

    def find(self, delivery: Any, kind: type[Kind], /) -> Kind | None:
        found = (one.find(delivery, kind) for one in self._tracings)
        return next((ids for ids in found if ids is not None), None)


def find_all(finders: Iterable[FindTracing]) -> Tracing | None:
    """Return a `Tracing` for all libraries that make spans now, or None."""
    found = [one for find in finders if (one := find()) is not None]
    return _Several(found) if len(found) > 1 else next(iter(found), None)


@contextmanager
def _together(spans: Iterable[AbstractContextManager[object]]) -> Iterator[None]:
    with ExitStack() as stack:
        for span in spans:
            stack.enter_context(span)
        yield
