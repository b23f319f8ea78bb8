"""The part of the contract about batches: what is acknowledged, and what is cancelled."""

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pgnotifier.dispatch import Batch, Binding, Delivery, Dispatcher, Subscription
from pgnotifier.notification import Notification
from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.calls import first
from pgnotifier.testing.contract.setup import TIMEOUT, ContractSetup


class BatchTests(ContractSetup):
    """The tests that call `dispatch` with batches of their own."""

    def test_a_batch(self, notifier: Notifier, dispatcher: Dispatcher) -> None:
        """When `dispatch` returns, the whole batch is acknowledged, even what isn't live."""
        notifier.start()
        stays, goes = (self._bind(dispatcher, name) for name in ("stays", "goes"))
        goes.live = False
        batch = Batch(self._delivery(one, n) for n in range(3) for one in (stays, goes))
        self._dispatch(dispatcher, batch)
        assert batch.remaining == 0
        found = [call.payload for call in self.wait_for(3)]
        assert (found if self.ordered else sorted(found)) == [0, 1, 2]

    def test_a_batch_that_is_cancelled(self, notifier: Notifier, dispatcher: Dispatcher) -> None:
        """Nothing more of it is delivered, and `dispatch` returns."""
        notifier.start()
        binding = self._bind(dispatcher, "a")
        batch = Batch(self._delivery(binding, n) for n in range(3))
        batch.cancel()
        self._dispatch(dispatcher, batch)
        self._dispatch(dispatcher, Batch([self._delivery(binding, 3)]))
        assert [call.payload for call in self.wait_for(1)] == [3]

    def _bind(self, dispatcher: Dispatcher, id: Hashable) -> Binding:
        subscription = Subscription(id, "a", self.adapt(first), dispatcher)
        return Binding(subscription, dispatcher.bind(subscription), _fail)

    def _delivery(self, binding: Binding, number: int) -> Delivery:
        now = datetime.now(UTC)
        return Delivery(binding, Notification("a", number, str(number), 1, now))

    def _dispatch(self, dispatcher: Dispatcher, batch: Batch) -> None:
        """Dispatch on another thread, as a deliverer does."""
        with ThreadPoolExecutor(1) as pool:
            pool.submit(dispatcher.dispatch, batch).result(TIMEOUT)


def _fail(exc: BaseException, _: Subscription, __: Notification) -> None:
    raise exc
