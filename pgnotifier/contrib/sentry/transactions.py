"""Make Sentry's transactions of notifications."""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sentry_sdk
from sentry_sdk.tracing import Transaction

from pgnotifier._runtime.tracing import Choose
from pgnotifier.contrib._tracing.handing import HandingOver
from pgnotifier.contrib._tracing.messages import (
    any_may_carry,
    describe,
    find_carried,
    hash_of,
    may_carry,
)
from pgnotifier.contrib._tracing.recent import Recent
from pgnotifier.dispatch import Delivery

ORIGIN = "auto.queue.pgnotifier"
"""What made the spans: https://develop.sentry.dev/sdk/telemetry/traces/trace-origin/"""
TRACE, BAGGAGE, TRACEPARENT = "sentry-trace", "baggage", "traceparent"

_W3C = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_HAS_NUMBER = "_sample_rand" in vars(Transaction)
"""Whether a transaction can be given the number that its sampling is decided by."""
_SCALE = 1_000_000
Headers = dict[str, str]


class Transactions(HandingOver[Any, Headers]):
    """Makes a transaction for each notification.

    Further subscriptions to it have transactions of their own, in the same trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recent = Recent[Any, Headers](_headers_of)

    def calling(self, delivery: Delivery, /) -> AbstractContextManager[object]:
        """Return what a callback is to be called in."""
        return self._choose(delivery, find_rate()) or nullcontext()

    def begin_batch(self, deliveries: Sequence[Delivery], /) -> Choose | None:
        """Return what a callback of a batch is to be called in; None if none is recorded."""
        rate = find_rate()
        if rate == 0 and not any_may_carry(deliveries, TRACE, TRACEPARENT):
            return None
        return lambda delivery: self._choose(delivery, rate)

    def _choose(
        self, delivery: Delivery, rate: float | None
    ) -> AbstractContextManager[object] | None:
        return self._calling(delivery, rate) if _may_be_recorded(delivery, rate) else None

    @contextmanager
    def _calling(self, delivery: Delivery, rate: float | None) -> Iterator[None]:
        with sentry_sdk.isolation_scope(), self._begin(delivery, rate):
            try:
                yield
            except Exception as exc:
                sentry_sdk.capture_exception(exc)  # with the ids of this transaction
                raise

    def _receive(self, delivery: Delivery) -> tuple[Any, Headers]:
        rate = find_rate()
        if not _may_be_recorded(delivery, rate):
            return None, _make_unrecorded(delivery)
        with sentry_sdk.isolation_scope():
            return self._join(delivery, "receive", rate)

    def _end(self, span: Any, failure: BaseException | None) -> None:
        if failure is not None:
            span.set_status("internal_error")
        span.finish()

    def _begin(self, delivery: Delivery, rate: float | None) -> Any:
        """Return the transaction that a callback is to be called in."""
        transaction, headers = self._join(delivery, "process", rate)
        return _start(delivery, "process", headers, None) if transaction is None else transaction

    def _join(self, delivery: Delivery, operation: str, rate: float | None) -> tuple[Any, Headers]:
        def begin() -> Any:
            return _start(delivery, operation, find_headers(delivery.notification.payload), rate)

        return self._recent.join(delivery, begin)


def find_rate() -> float | None:
    """Return the share of traces that Sentry records; None if it has to be asked for each.

    Making a transaction that isn't recorded takes 20 times as long as calling a callback. So it is
    decided before that here, in Sentry's way: a random number that belongs to the trace is compared
    with the rate.
    """
    options = sentry_sdk.get_client().options
    rate = options.get("traces_sample_rate")
    if options.get("traces_sampler") is not None or not _HAS_NUMBER:
        return None
    return rate if isinstance(rate, int | float) and 0 <= rate <= 1 else None


def _may_be_recorded(delivery: Delivery, rate: float | None) -> bool:
    """Return whether Sentry has to be asked, or records the trace."""
    payload = delivery.notification.payload
    if rate is None or may_carry(payload, TRACE) or may_carry(payload, TRACEPARENT):
        return True
    return rate > 0 and _number_of(delivery) < rate


def _number_of(delivery: Delivery) -> float:
    """Return the random number of a notification's trace, from 0 to 1."""
    return hash_of(delivery) % _SCALE / _SCALE


def _make_unrecorded(delivery: Delivery) -> Headers:
    """Return headers by which workers know that the trace is not recorded."""
    digits = f"{hash_of(delivery) % (1 << 63):016x}"
    return {TRACE: f"{digits}{digits}-{digits}-0"}


def find_headers(payload: Any) -> Headers:
    """Return the headers of Sentry that a payload carries, or what its `traceparent` says."""
    if found := find_carried(payload, TRACE, (BAGGAGE,)):
        return found
    parts = _W3C.fullmatch(find_carried(payload, TRACEPARENT).get(TRACEPARENT, ""))
    if parts is None:
        return {}
    trace_id, span_id, flags = parts.groups()
    return {TRACE: f"{trace_id}-{span_id}-{int(flags, 16) & 1}"}


def _start(delivery: Delivery, operation: str, headers: Headers, rate: float | None) -> Any:
    """Start a transaction. Sentry decides whether it is recorded, by our number if it begins."""
    attributes = describe(delivery, operation)
    transaction = sentry_sdk.continue_trace(
        headers,
        op=f"queue.{operation}",
        name=f"{operation} {delivery.notification.channel}",
        source="custom",
        origin=ORIGIN,
    )
    if rate is not None and not headers:
        transaction._sample_rand = _number_of(delivery)  # noqa: SLF001 - there is no public access
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
