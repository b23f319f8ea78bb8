"""Make Sentry's transactions of notifications."""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sentry_sdk
from sentry_sdk.tracing import Transaction

from pgnotifier._runtime.tracing import Choose, Kind
from pgnotifier.contrib._tracing.messages import describe, enqueues, find_carried
from pgnotifier.contrib._tracing.recent import Recent
from pgnotifier.dispatch import Delivery, Dispatcher

ORIGIN = "auto.queue.pgnotifier"
"""What made the spans: https://develop.sentry.dev/sdk/telemetry/traces/trace-origin/"""
TRACE, BAGGAGE = "sentry-trace", "baggage"

_W3C = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
Headers = dict[str, str]


class Transactions:
    """Makes a transaction for each notification.

    Further subscriptions to it have transactions of their own, in the same trace.
    """

    def __init__(self) -> None:
        self._recent = Recent[Any, Headers](_headers_of)
        self._handed: dict[int, Headers] = {}  # by the delivery's identity

    @contextmanager
    def calling(self, delivery: Delivery, /) -> Iterator[None]:
        """Return what a callback is to be called in."""
        with sentry_sdk.isolation_scope(), self._begin(delivery):
            try:
                yield
            except Exception as exc:
                sentry_sdk.capture_exception(exc)  # with the ids of this transaction
                raise

    def begin_batch(self) -> Choose:
        """Return what the callback of a delivery is to be called in: Sentry samples each."""
        return self.calling

    def handing_over(
        self, deliveries: Iterable[Delivery], by: Dispatcher, /
    ) -> AbstractContextManager[object]:
        """Return what deliveries are to be handed to a queue in."""
        return self._handing_over(deliveries) if enqueues(by) else nullcontext()

    def find(self, delivery: Delivery, kind: type[Kind], /) -> Kind | None:
        """Return the headers that continue the transaction of a delivery being handed over."""
        found = self._handed.get(id(delivery))
        return found if isinstance(found, kind) else None

    @contextmanager
    def _handing_over(self, deliveries: Iterable[Delivery]) -> Iterator[None]:
        begun: list[Any] = []
        handed = [one for one in deliveries if one.binding.live]  # keeps their identities
        for delivery in handed:
            with sentry_sdk.isolation_scope():
                transaction, headers = self._join(delivery, "receive")
            self._handed[id(delivery)] = headers
            if transaction is not None:
                begun.append(transaction)
        try:
            yield
        except BaseException:
            for transaction in begun:
                transaction.set_status("internal_error")
            raise
        finally:
            for transaction in begun:
                transaction.finish()
            for delivery in handed:
                self._handed.pop(id(delivery), None)

    def _begin(self, delivery: Delivery) -> Any:
        """Return the transaction that a callback is to be called in."""
        transaction, headers = self._join(delivery, "process")
        return _start(delivery, "process", headers) if transaction is None else transaction

    def _join(self, delivery: Delivery, operation: str) -> tuple[Any, Headers]:
        def begin() -> Any:
            return _start(delivery, operation, find_headers(delivery.notification.payload))

        return self._recent.join(delivery, begin)


def find_headers(payload: Any) -> Headers:
    """Return the headers of Sentry that a payload carries, or what its `traceparent` says."""
    if found := find_carried(payload, TRACE, (BAGGAGE,)):
        return found
    parts = _W3C.fullmatch(find_carried(payload, "traceparent").get("traceparent", ""))
    if parts is None:
        return {}
    trace_id, span_id, flags = parts.groups()
    return {TRACE: f"{trace_id}-{span_id}-{int(flags, 16) & 1}"}


def _start(delivery: Delivery, operation: str, headers: Headers) -> Any:
    """Start a transaction; Sentry's sampler decides whether it is recorded."""
    attributes = describe(delivery, operation)
    transaction = sentry_sdk.continue_trace(
        headers,
        op=f"queue.{operation}",
        name=f"{operation} {delivery.notification.channel}",
        source="custom",
        origin=ORIGIN,
    )
    started = sentry_sdk.start_transaction(
        transaction, custom_sampling_context={"pgnotifier": attributes}
    )
    for name, value in attributes.items():
        started.set_data(name, value)
    return started


def _headers_of(transaction: Any) -> Headers:
    """Return the headers by which others continue a transaction; none if Sentry makes no spans."""
    if not isinstance(transaction, Transaction):
        return {}
    return {name: value for name, value in transaction.iter_headers() if name in (TRACE, BAGGAGE)}
