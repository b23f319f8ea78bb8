"""The contract of tracing: what makes spans of notifications, if anything does."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

Choose = Callable[[Any], AbstractContextManager[object] | None]
"""Returns what the callback of a delivery is to be called in; None: it is just called."""
Kind = TypeVar("Kind")


class Tracing(Protocol):
    """Makes spans of deliveries. Any thread may call the methods.

    Whether there is any is decided when a dispatcher gets a thread that delivers to it, so that
    notifications without tracing cost nothing more.
    """

    def calling(self, delivery: Any, /) -> AbstractContextManager[object]:
        """Return what a callback is to be called in: its span is the current one there."""
        ...

    def begin_batch(self, deliveries: Sequence[Any], /) -> Choose | None:
        """Prepare this thread for the callbacks of a batch; return what `calling` is for each.

        It returns None for a callback that isn't recorded, as that costs least. And there is none
        to be asked, if none of the batch is recorded.
        """
        ...

    def handing_over(self, deliveries: Iterable[Any], by: Any, /) -> AbstractContextManager[object]:
        """Return what a dispatcher is to be given deliveries in: there is a span for each.

        There is none if the dispatcher calls callbacks in this process, or forwards messages.
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
"""Returns what makes spans, or None."""


class _Several:
    """The spans of several libraries."""

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
    """Return what makes the spans of all libraries that make some now, or None."""
    found = [one for find in finders if (one := find()) is not None]
    return _Several(found) if len(found) > 1 else next(iter(found), None)


@contextmanager
def _together(spans: Iterable[AbstractContextManager[object]]) -> Iterator[None]:
    with ExitStack() as stack:
        for span in spans:
            stack.enter_context(span)
        yield
