"""Spans of what is handed to queues: each lasts until the queue has it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Generic, TypeVar

from pgnotifier._runtime.tracing import Kind
from pgnotifier.dispatch import Delivery, Dispatcher
from pgnotifier.dispatchers import AsyncioDispatcher, InlineDispatcher, ThreadDispatcher

AnySpan = TypeVar("AnySpan")
Ids = TypeVar("Ids")

_IN_PROCESS = (AsyncioDispatcher, InlineDispatcher, ThreadDispatcher)


class HandingOver(ABC, Generic[AnySpan, Ids]):
    """Makes the spans of what is handed to queues, and knows their ids in the meantime."""

    def __init__(self) -> None:
        """Begin without any."""
        self._handed: dict[int, Ids] = {}  # by the delivery's identity

    def handing_over(
        self, deliveries: Iterable[Delivery], by: Dispatcher, /
    ) -> AbstractContextManager[object]:
        """Return what deliveries are to be handed to a queue in."""
        if by.is_relay or isinstance(by, _IN_PROCESS):
            return nullcontext()
        return self._handing_over(deliveries)

    def find(self, delivery: Delivery, kind: type[Kind], /) -> Kind | None:
        """Return the ids of the span of a delivery that is being handed over, or None."""
        found = self._handed.get(id(delivery))
        return found if isinstance(found, kind) else None

    @contextmanager
    def _handing_over(self, deliveries: Iterable[Delivery]) -> Iterator[None]:
        spans: list[AnySpan] = []
        failure: BaseException | None = None
        live = [one for one in deliveries if one.binding.live]  # keeps their identities
        try:
            for delivery in live:
                span, self._handed[id(delivery)] = self._receive(delivery)
                if span is not None:
                    spans.append(span)
            yield
        except BaseException as exc:
            failure = exc
            raise
        finally:
            for span in spans:
                self._end(span, failure)
            for delivery in live:
                self._handed.pop(id(delivery), None)

    @abstractmethod
    def _receive(self, delivery: Delivery) -> tuple[AnySpan | None, Ids]:
        """Return the span of a delivery if one begins, and the ids that messages get."""

    @abstractmethod
    def _end(self, span: AnySpan, failure: BaseException | None) -> None:
        """End a span, and note in it why its deliveries have failed, if they have."""
