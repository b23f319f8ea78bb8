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

import json
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
import pytest

from pgnotifier.dispatch import Batch, Binding, Delivery, Dispatcher, Subscription
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.errors import PgNotifierError, UnknownOptionError
from pgnotifier.notification import Notification
from pgnotifier.notifier import Notifier
from pgnotifier.testing.durable_contract import DurableContract
from pgnotifier.testing.hard_payloads import HardPayloads

TIMEOUT = 60.0
"""Seconds to wait for anything."""
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


class Call(NamedTuple):
    """A call of a callback.

    Attributes:
        name: The callback: `first`, `second` or `failing`.
        id: The subscription's id.
        channel: The notification's channel.
        payload: Its payload.
        pid: The notifying session's process id.
    """

    name: str
    id: Hashable
    channel: str
    payload: Any
    pid: int


CALLS: list[Call] = []
"""All calls, in order."""


def first(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Record a call."""
    CALLS.append(Call("first", id, channel, payload, pid))


def second(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Record a call, as another callback."""
    CALLS.append(Call("second", id, channel, payload, pid))


def failing(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Record a call, and raise."""
    CALLS.append(Call("failing", id, channel, payload, pid))
    raise ValueError("this callback always fails")


class DispatcherContract(HardPayloads, DurableContract):
    """The tests for every dispatcher. Subclass it, and add a fixture `dispatcher`.

    Attributes:
        ordered: Whether the calls of one subscription are made in order.
        many: How many notifications to send before stopping. Choose fewer for slow workers.
    """

    callback = staticmethod(first)

    ordered = True
    many = 500

    # --- what a subclass may override ---

    def adapt(self, fn: Callable[..., None]) -> Any:
        """Return the object to subscribe, so that this function of this module is called."""
        return fn

    def work(self) -> None:
        """Execute what was enqueued, unless a worker is running anyway."""

    def calls(self) -> list[Call]:
        """Return the calls of `first`, `second` and `failing`, in order.

        Override it for workers in other processes, which have to record the calls elsewhere.
        """
        return CALLS

    # --- fixtures ---

    @pytest.fixture
    def errors(self) -> list[BaseException]:
        """Return the list of errors that were reported to `on_error`."""
        return []

    @pytest.fixture
    def notifier(
        self, dispatcher: Dispatcher, pgnotifier_dsn: str, errors: list[BaseException]
    ) -> Iterator[Notifier]:
        """Yield a notifier with the dispatcher. It isn't started yet."""
        CALLS.clear()

        def report(exc: BaseException, _: Subscription, __: Notification) -> None:
            errors.append(exc)

        notifier = Notifier(pgnotifier_dsn, dispatcher=dispatcher, on_error=report)
        yield notifier
        notifier.stop(TIMEOUT)

    @pytest.fixture
    def send(self, pgnotifier_dsn: str) -> Iterator[Callable[..., int]]:
        """Yield a function that sends texts on a channel, and returns its session's pid."""
        with psycopg.connect(pgnotifier_dsn) as connection:

            def send(channel: str, *texts: str) -> int:
                with connection.transaction():
                    for text in texts:
                        connection.execute("SELECT pg_catalog.pg_notify(%s, %s)", (channel, text))
                return connection.info.backend_pid

            yield send

    def wait_for(self, count: int) -> list[Call]:
        """Wait for this many calls, check that no more follow, and return them."""
        deadline = time.monotonic() + TIMEOUT
        while len(found := self._worked()) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} calls: {found}"
            time.sleep(0.02)
        time.sleep(0.1)
        found = self._worked()
        assert len(found) == count, f"{len(found)} calls instead of {count}: {found}"
        return found

    def _worked(self) -> list[Call]:
        self.work()
        return list(self.calls())

    # --- the tests ---

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
        deadline = time.monotonic() + TIMEOUT
        while len(found) < 110:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        assert found == list(range(110))
        assert self._worked() == []

    def test_what_waits_as_batches_are_changed(
        self, notifier: Notifier, send: Callable[..., int]
    ) -> None:
        """It is delivered one by one if the new subscription has no batches."""
        notifier.subscribe("a", "a", self.adapt(first), batch=(100, 3600))
        notifier.start()
        send("a", "1", "2")
        deadline = time.monotonic() + TIMEOUT
        while notifier.status().received < 2:
            assert time.monotonic() < deadline
            time.sleep(0.002)
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
        deadline = time.monotonic() + TIMEOUT
        while notifier.status().state != "listening" or not notifier.status().gaps:
            assert time.monotonic() < deadline
            time.sleep(0.02)
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
            deadline = time.monotonic() + TIMEOUT
            while notifier.status().received < self.many:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            assert notifier.stop(TIMEOUT) == 0
            self.wait_for(start + self.many)
        assert sorted(call.payload for call in self.calls()) == list(range(2 * self.many))

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

    def test_status(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """Its status is JSON-able, and counts what was delivered."""
        notifier.subscribe(("shop", 1), "a", self.adapt(first))
        notifier.start()
        send("a", "1", "2")
        self.wait_for(2)
        deadline = time.monotonic() + TIMEOUT
        while (status := notifier.status().to_dict())["dispatchers"][0]["delivered"] != 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        json.dumps(status)
        assert notifier.readiness_problems() == []

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
            deadline = time.monotonic() + TIMEOUT
            while notifier.status().dispatchers[0].delivered < 300:
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        assert failures == []
        found = self.wait_for(300)
        payloads = [call.payload for call in found]
        assert (payloads if self.ordered else sorted(payloads)) == list(range(300))


def _fail(exc: BaseException, _: Subscription, __: Notification) -> None:
    raise exc


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
        deadline = time.monotonic() + TIMEOUT
        while self._notifier.status().received < received:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def go_on(self) -> None:
        """Let the decoder go on."""
        self._may_go_on.set()


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
            deadline = time.monotonic() + TIMEOUT
            while not notifier.status().dispatchers[0].retrying:
                assert time.monotonic() < deadline
                time.sleep(0.02)
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
            deadline = time.monotonic() + TIMEOUT
            while not notifier.status().dispatchers[0].retrying:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            notifier.stop(0.1)
        notifier.start()
        deadline = time.monotonic() + TIMEOUT
        while {call.payload for call in self._worked()} != set(range(50)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
