"""The part of the contract that is about durable subscriptions."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgnotifier.durable import install
from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.calls import first
from pgnotifier.testing.contract.setup import ContractSetup, wait_until


class DurableTests(ContractSetup):
    """The tests of `DispatcherContract` with entries of the durable log.

    A dispatcher passes them without code of its own, unless it hands deliveries to threads or tasks
    of this process. Then it has `settles_itself`, and calls `Delivery.settle` for what is done.
    """

    @pytest.fixture
    def publish(self, pgnotifier_dsn: str) -> Iterator[Callable[..., None]]:
        """Yield a function that publishes texts on a channel, in one transaction."""
        with psycopg.connect(pgnotifier_dsn) as connection:
            install(connection)
            connection.commit()

            def publish(channel: str, *texts: str) -> None:
                with connection.transaction():
                    for text in texts:
                        connection.execute("SELECT pgnotifier.publish(%s, %s)", (channel, text))

            yield publish

    def test_durable_entries(self, notifier: Notifier, publish: Callable[..., None]) -> None:
        """What was published while the notifier was stopped is delivered, in order, and once."""
        notifier.subscribe("a", "a", self.adapt(first), durable=True)
        notifier.start()
        publish("a", *map(str, range(20)))
        self.wait_for(20)
        assert notifier.stop(60.0) == 0
        publish("a", *map(str, range(20, 40)))
        notifier.start()
        payloads = [call.payload for call in self.wait_for(40)]
        assert (payloads if self.ordered else sorted(payloads)) == list(range(40))

    def test_durable_and_volatile(
        self, notifier: Notifier, publish: Callable[..., None], send: Callable[..., int]
    ) -> None:
        """Both kinds of subscriptions work beside each other."""
        notifier.subscribe("durable", "a", self.adapt(first), durable=True)
        notifier.subscribe("volatile", "a", self.adapt(first))
        notifier.start()
        publish("a", *map(str, range(50)))
        send("a", *map(str, range(50)))
        found = sorted((call.id, call.payload) for call in self.wait_for(100))
        assert found == [(name, n) for name in ("durable", "volatile") for n in range(50)]

    def test_durable_stops(self, notifier: Notifier, publish: Callable[..., None]) -> None:
        """Stopping at any moment loses nothing."""
        notifier.subscribe("a", "a", self.adapt(first), durable=True)
        for begin in range(0, 90, 30):
            notifier.start()
            publish("a", *map(str, range(begin, begin + 30)))
            notifier.stop(60.0)
        notifier.start()
        wait_until(lambda: {call.payload for call in self.worked()} == set(range(90)))

    def test_durable_and_muted(self, notifier: Notifier, publish: Callable[..., None]) -> None:
        """What is published while a subscription is muted is delivered afterwards."""
        notifier.subscribe("a", "a", self.adapt(first), durable=True)
        notifier.start()
        notifier.mute_subscriber("a")
        publish("a", "1")
        notifier.unmute_subscriber("a")
        publish("a", "2")
        assert sorted(call.payload for call in self.wait_for(2)) == [1, 2]

    def test_durable_batches(self, notifier: Notifier, publish: Callable[..., None]) -> None:
        """A batch is delivered as a list of payloads, and is done afterwards."""
        notifier.subscribe("a", "a", self.adapt(first), durable=True, batch=(3, 0.2))
        notifier.start()
        publish("a", "1", "2", "3", "4")
        payloads = [call.payload for call in self.wait_for(2)]
        assert sorted(payloads, key=len) == [[4], [1, 2, 3]]
        notifier.stop(60.0)
        notifier.start()
        publish("a", "5")
        assert self.wait_for(3)[2].payload == [5]
