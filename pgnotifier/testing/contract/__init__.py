"""The contract of dispatchers, as tests that you can run for your own dispatcher.

    # tests/test_my_dispatcher.py
    import pytest

    class TestMyDispatcher(DispatcherContract):
        @pytest.fixture
        def dispatcher(self):
            return MyDispatcher(...)

        def work(self):  # only for queues: execute what was enqueued
            worker.run_until_empty()

They need pytest, and the fixture `pgnotifier_dsn` of the plugin `pgnotifier.testing.plugin`. Every
test uses a real PostgreSQL and a real `Notifier`. `QueueDispatcherContract` is for dispatchers to a
queue, which may be down for a while.
"""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.acknowledging import BatchTests
from pgnotifier.testing.contract.calls import CALLS, Call, failing, first, second
from pgnotifier.testing.contract.changes import ChangeTests
from pgnotifier.testing.contract.delivery import DeliveryTests
from pgnotifier.testing.contract.durable import DurableTests
from pgnotifier.testing.contract.hard_payloads import HardPayloads
from pgnotifier.testing.contract.setup import wait_until

__all__ = [
    "CALLS",
    "Call",
    "DispatcherContract",
    "QueueDispatcherContract",
    "failing",
    "first",
    "second",
]


class DispatcherContract(DeliveryTests, ChangeTests, BatchTests, HardPayloads, DurableTests):
    """The tests for every dispatcher. Subclass it, and add a fixture `dispatcher`.

    Attributes:
        ordered: Whether the calls of one subscription are made in order.
        many: How many notifications to send before stopping. Choose fewer for slow workers.
    """


class QueueDispatcherContract(DispatcherContract):
    """The tests for dispatchers to a queue, including the time while the queue is down."""

    @abstractmethod
    def outage(self) -> AbstractContextManager[object]:
        """Take the queue down during the `with` block."""

    def test_importing_a_module_does_not_listen(self, notifier: Notifier) -> None:
        """Subscribing starts nothing, because workers import the modules that subscribe."""
        notifier.subscribe("a", "a", self.adapt(first))
        assert not notifier.is_running()

    def test_an_outage(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Notifications wait until the queue is back, and none is lost."""
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        send("a", "0")
        self.wait_for(1)
        with self.outage():
            send("a", *map(str, range(1, 100)))
            wait_until(lambda: notifier.status().dispatchers[0].retrying)
        assert sorted(call.payload for call in self.wait_for(100)) == list(range(100))

    def test_durable_entries_and_an_outage(
        self, notifier: Notifier, publish: Callable[..., None]
    ) -> None:
        """Entries wait in the log until the queue is back; stopping meanwhile loses none."""
        notifier.subscribe("a", "a", self.adapt(first), durable=True)
        notifier.start()
        publish("a", "0")
        self.wait_for(1)
        with self.outage():
            publish("a", *map(str, range(1, 50)))
            wait_until(lambda: notifier.status().dispatchers[0].retrying)
            notifier.stop(0.1)
        notifier.start()
        wait_until(lambda: {call.payload for call in self.worked()} == set(range(50)))
