"""The part of the contract about subscriptions that are changed while notifications arrive."""

import threading
from collections.abc import Callable
from typing import Any

from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.calls import first, second
from pgnotifier.testing.contract.setup import TIMEOUT, ContractSetup, wait_until


class ChangeTests(ContractSetup):
    """The tests that replace, move, mute and remove subscriptions."""

    def test_a_replaced_callback(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """The new callback is called, and the old one no longer."""
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        send("a", "1")
        self.wait_for(1)
        notifier.subscribe("a", "a", self.adapt(second))
        send("a", "2")
        assert [(call.name, call.payload) for call in self.wait_for(2)] == [
            ("first", 1),
            ("second", 2),
        ]

    def test_what_waits_goes_to_the_new_callback(
        self, notifier: Notifier, send: Callable[..., int]
    ) -> None:
        """Replacing a callback, muting and unmuting lose nothing that was received."""
        held = _Holding(notifier, "0")
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        send("a", *map(str, range(110)))
        held.wait(110)
        notifier.subscribe("a", "a", self.adapt(second))
        notifier.mute_channels("a")
        notifier.unmute_channels("a")
        notifier.mute_subscriber("a")
        notifier.unmute_subscriber("a")
        held.go_on()
        send("a", "110")
        found = [(call.name, call.payload) for call in self.wait_for(111)]
        expected = [("second", number) for number in range(111)]
        assert (found if self.ordered else sorted(found)) == expected

    def test_what_waits_goes_to_another_dispatcher(
        self, notifier: Notifier, send: Callable[..., int]
    ) -> None:
        """It is delivered there, in order and before later notifications."""
        held = _Holding(notifier, "0")
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        send("a", *map(str, range(100)))
        held.wait(100)
        found: list[Any] = []
        notifier.subscribe(
            "a", "a", lambda *call: found.append(call[2]), dispatcher=InlineDispatcher()
        )
        send("a", *map(str, range(100, 110)))
        held.go_on()
        wait_until(lambda: len(found) >= 110)
        assert found == list(range(110))
        assert self.worked() == []

    def test_what_waits_as_batches_are_changed(
        self, notifier: Notifier, send: Callable[..., int]
    ) -> None:
        """It is delivered one by one if the new subscription has no batches."""
        notifier.subscribe("a", "a", self.adapt(first), batch=(100, 3600))
        notifier.start()
        send("a", "1", "2")
        wait_until(lambda: notifier.status().received >= 2)
        notifier.subscribe("a", "a", self.adapt(second))
        send("a", "3")
        found = [(call.name, call.payload) for call in self.wait_for(3)]
        assert (found if self.ordered else sorted(found)) == [("second", n) for n in (1, 2, 3)]

    def test_unsubscribed_and_muted(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Unsubscribed and muted ids get nothing; an unmuted id is called again."""
        notifier.subscribe("gone", "a", self.adapt(first))
        notifier.subscribe("mute", "a", self.adapt(first))
        notifier.subscribe("stays", "a", self.adapt(first))
        notifier.start()
        notifier.unsubscribe("gone", "a")
        notifier.mute_subscriber("mute")
        send("a", "1")
        assert [call.id for call in self.wait_for(1)] == ["stays"]
        notifier.unmute_subscriber("mute")
        send("a", "2")
        assert sorted(str(call.id) for call in self.wait_for(3)[1:]) == ["mute", "stays"]

    def test_changes_while_delivering(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """No delivery is lost while threads subscribe and unsubscribe other ids."""
        notifier.subscribe("stays", "a", self.adapt(first))
        notifier.start()
        stopping = threading.Event()
        failures: list[BaseException] = []

        def change(number: int) -> None:
            try:
                while not stopping.is_set():
                    notifier.subscribe(f"comes-{number}", f"b{number}", self.adapt(second))
                    notifier.unsubscribe(f"comes-{number}", f"b{number}")
            except BaseException as exc:  # noqa: BLE001 - the test checks it
                failures.append(exc)

        threads = [threading.Thread(target=change, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for begin in range(0, 300, 30):
                send("a", *map(str, range(begin, begin + 30)))
            wait_until(lambda: notifier.status().dispatchers[0].delivered >= 300)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        assert failures == []
        found = self.wait_for(300)
        payloads = [call.payload for call in found]
        assert (payloads if self.ordered else sorted(payloads)) == list(range(300))


class _Holding:
    """Makes a notifier's decoder wait at one text, so that everything after it waits as well."""

    def __init__(self, notifier: Notifier, text: str) -> None:
        self._notifier = notifier
        self._may_go_on = threading.Event()
        decode = notifier.decoder

        def decoder(given: str) -> Any:
            if given == text:
                assert self._may_go_on.wait(TIMEOUT)
            return decode(given)

        notifier.decoder = decoder

    def wait(self, received: int) -> None:
        """Wait until this many notifications were received."""
        wait_until(lambda: self._notifier.status().received >= received)

    def go_on(self) -> None:
        """Let the decoder go on."""
        self._may_go_on.set()
