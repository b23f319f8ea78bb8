"""The part of the contract about what is delivered, and what a notifier can rely on."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgnotifier.errors import PgNotifierError, UnknownOptionError
from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.calls import Call, failing, first, second
from pgnotifier.testing.contract.setup import TIMEOUT, ContractSetup, wait_until

VALUES = (
    '{"id": 1, "tags": ["a", null], "amount": 2.5}',
    "{1: (2, b'\\xff'), 'set': {1}}",
    "plain words é",
    "",
    "...",
    "123456789012345678901234567890",
    "true",
    "'\"quoted\"'",
)
"""Payloads of every kind, as text."""


class DeliveryTests(ContractSetup):
    """The tests with notifications that PostgreSQL sends."""

    def test_values_arrive_as_they_are(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Id, channel, payload and pid are the same as for a callback in the process."""
        notifier.subscribe(("shop", 1), "a", self.adapt(first))
        notifier.start()
        pid = send("a", *VALUES)
        expected = [Call("first", ("shop", 1), "a", notifier.decoder(v), pid) for v in VALUES]
        found = self.wait_for(len(VALUES))
        if not self.ordered:
            found.sort(key=repr)
            expected.sort(key=repr)
        assert repr(found) == repr(expected)

    def test_order(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """A subscription gets notifications in the order of the commits, each once."""
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        for begin in range(0, 200, 40):
            send("a", *map(str, range(begin, begin + 40)))
        payloads = [call.payload for call in self.wait_for(200)]
        assert (payloads if self.ordered else sorted(payloads)) == list(range(200))

    def test_everybody_is_called(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Every subscription of a channel is called, and an id on all of its channels."""
        notifier.subscribe("one", "a", self.adapt(first))
        notifier.subscribe("two", "a", self.adapt(second))
        notifier.subscribe("one", "b", self.adapt(first))
        notifier.start()
        send("a", "1", "2")
        send("b", "3")
        found = {(call.name, call.id, call.channel, call.payload) for call in self.wait_for(5)}
        assert found == {
            ("first", "one", "a", 1),
            ("first", "one", "a", 2),
            ("second", "two", "a", 1),
            ("second", "two", "a", 2),
            ("first", "one", "b", 3),
        }

    def test_a_failing_callback(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """It affects neither later calls nor other subscriptions."""
        notifier.subscribe("bad", "a", self.adapt(failing))
        notifier.subscribe("good", "a", self.adapt(first))
        notifier.start()
        send("a", "1", "2")
        found = {(call.name, call.payload) for call in self.wait_for(4)}
        assert found == {("failing", 1), ("first", 1), ("failing", 2), ("first", 2)}

    def test_a_payload_that_cannot_be_decoded(
        self, notifier: Notifier, send: Callable[..., int], errors: list[BaseException]
    ) -> None:
        """It is reported, and later notifications are delivered."""

        def decoder(text: str) -> Any:
            if text == "bad":
                raise ValueError("this payload is bad")
            return int(text)

        notifier.decoder = decoder
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        send("a", "1", "bad", "2")
        assert sorted(call.payload for call in self.wait_for(2)) == [1, 2]
        assert [str(exc) for exc in errors] == ["this payload is bad"]

    def test_batches(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """A batch is delivered as a list of payloads."""
        notifier.subscribe("a", "a", self.adapt(first), batch=(3, 0.5))
        notifier.start()
        send("a", '{"n": 1}', "(2,)", "three", "4")
        payloads = [call.payload for call in self.wait_for(2)]
        assert sorted(payloads, key=len) == [[4], [{"n": 1}, (2,), "three"]]

    def test_debounces(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Of many notifications in a short time, the last one is delivered."""
        notifier.subscribe(
            "a", "a", self.adapt(first), debounce=0.3, key=lambda payload: payload["id"]
        )
        notifier.start()
        send("a", *(f'{{"id": 1, "n": {n}}}' for n in range(20)))
        assert [call.payload for call in self.wait_for(1)] == [{"id": 1, "n": 19}]

    def test_gaps(self, notifier: Notifier, send: Callable[..., int], pgnotifier_dsn: str) -> None:
        """A subscription's `on_gap` is called before later notifications are delivered."""
        notifier.subscribe("a", "a", self.adapt(first), on_gap=self.adapt(second))
        notifier.start()
        with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
                " WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
                " AND application_name OPERATOR(pg_catalog.=) 'pgnotifier'"
            )
        wait_until(lambda: notifier.status().gaps and notifier.status().state == "listening")
        send("a", "1")
        found = self.wait_for(2)
        if not self.ordered:
            found.sort(key=lambda call: call.name, reverse=True)
        gap, after = found
        assert (gap.name, gap.id, gap.channel, gap.pid) == ("second", ("a", "gap"), "a", 0)
        assert gap.payload["channels"] == ["a"]
        assert (after.name, after.payload) == ("first", 1)

    def test_an_unknown_option(self, notifier: Notifier) -> None:
        """It is refused by `subscribe()`, and nothing is subscribed."""
        with pytest.raises(UnknownOptionError, match="no_such_option"):
            notifier.subscribe("a", "a", self.adapt(first), no_such_option=1)
        assert notifier.get_channels() == set()

    def test_an_unfit_callback(self, notifier: Notifier) -> None:
        """A generator function is refused, because calling it does nothing."""

        def generate(*_: object) -> Iterator[None]:
            yield

        with pytest.raises(PgNotifierError):
            notifier.subscribe("a", "a", generate)
        assert notifier.get_channels() == set()

    def test_stopping_delivers_the_rest(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """`stop()` returns when everything received was delivered; `start()` works again."""
        notifier.subscribe("a", "a", self.adapt(first))
        for start in (0, self.many):
            notifier.start()
            send("a", *map(str, range(start, start + self.many)))
            wait_until(lambda: notifier.status().received >= self.many)
            assert notifier.stop(TIMEOUT) == 0
            self.wait_for(start + self.many)
        assert sorted(call.payload for call in self.calls()) == list(range(2 * self.many))

    def test_status(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Its status is JSON-able, and counts what was delivered."""
        notifier.subscribe(("shop", 1), "a", self.adapt(first))
        notifier.start()
        send("a", "1", "2")
        self.wait_for(2)
        wait_until(lambda: notifier.status().dispatchers[0].delivered == 2)
        json.dumps(notifier.status().to_dict())
        assert notifier.readiness_problems() == []
