"""Waiting deliveries go to the current subscription of their id. No server is needed."""

import gc
import threading
from collections import deque
from datetime import UTC, datetime
from time import monotonic, sleep

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from psycopg.pq import PGnotify

from pgnotifier import Delivery, InlineDispatcher, Notification, Subscription, ThreadDispatcher
from pgnotifier._delivery.buffer import GapMarker, Item
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._listener.router import Router
from pgnotifier._registry.writer import Registrar
from pgnotifier._runtime.clock import Moment
from pgnotifier.dispatch import Binding
from pgnotifier.gathering import check_gathering

PROVEN = Moment(0.0, datetime(2026, 1, 1, tzinfo=UTC))
GATHERING = ({}, {"batch": (3, 0.005)}, {"batch": (2, 0.005)}, {"debounce": 0.005})


class Route:
    """A registrar, a router and deliverers, as a notifier has them."""

    def __init__(self, size=100_000):
        self.errors = []
        self.size = size
        self.registrar = Registrar(lambda exc, *_: self.errors.append(exc), self._note)
        self.router = Router(lambda: self.registrar.registry, self._make, set)
        self._arriving = deque()
        self._plugs = []

    def subscribe(self, id, channel, fn, dispatcher, on_gap=None, **gathering):
        gathering = check_gathering(
            id, **{"batch": None, "debounce": None, "key": None, **gathering}
        )
        given = Subscription(id, channel, fn, dispatcher, gathering=gathering, on_gap=on_gap)
        change = self._complete(given)

        def undo():
            before = self.registrar.refuse(change)
            if before is None:
                self.registrar.take_back(change)
            elif self.registrar.holds(change):
                self._complete(before, undoing=change)

        return undo

    def _complete(self, subscription, undoing=None):
        change = self.registrar.begin(subscription.id, subscription.channel, undoing)
        self.registrar.bind(subscription, change)
        assert self.registrar.complete(change)
        return change

    def send(self, channel, *payloads):
        self.send_all((channel, payload) for payload in payloads)

    def send_all(self, pairs):
        for channel, payload in pairs:
            self._arriving.append(
                PGnotify(relname=channel.encode(), extra=str(payload).encode(), be_pid=7)
            )
        self.router.sort(self._next, PROVEN, lambda: False)
        self.router.hand_on()

    def plug(self, *dispatchers, behind=()):
        """Block each dispatcher with a busy callback until `unplug`.

        Args:
            dispatchers: The dispatchers.
            behind: What to send together with the last plug, so that it is on its way already.
        """
        for dispatcher in dispatchers:
            plug = threading.Event(), threading.Event()

            def wait(*_, plug=plug):
                plug[0].set()
                assert plug[1].wait(30)

            channel = f"plug {id(dispatcher)}"
            self.subscribe("plug", channel, wait, dispatcher)
            more = behind if dispatcher is dispatchers[-1] else ()
            self.send_all([(channel, 0), *(("ch", number) for number in more)])
            assert plug[0].wait(30)
            self._plugs.append(plug)

    def unplug(self):
        for _, opened in self._plugs:
            opened.set()
        self._plugs.clear()

    def settle(self):
        """Wait until there is nothing left to deliver."""
        deadline = monotonic() + 30
        still = 0
        while still < 3:  # while it is handed on, a delivery is in none of them
            still = 0 if self._is_busy() else still + 1
            assert monotonic() < deadline, [d.waiting for d in self.router.deliverers.values()]
            sleep(0.0005)

    def holds_back(self, dispatcher, count):
        """Return whether that many notifications are held back."""
        return self.router.deliverers[dispatcher]._gatherer.waiting == count

    def stop(self):
        self.unplug()
        for deliverer in self.router.deliverers.values():
            deliverer.drain()
        for deliverer in self.router.deliverers.values():
            assert deliverer.stop(monotonic() + 30) == 0
        for dispatcher in self.router.deliverers:
            dispatcher.close()
        assert self.errors == []

    def _is_busy(self):
        """Return whether a deliverer is doing anything other than waiting."""
        found = tuple(self.router.deliverers.values())
        return any(d.waiting or d.succession.news or not self._rests(d) for d in found)

    def _rests(self, deliverer):
        # What is handed on doesn't count as waiting, and its thread may not have woken yet.
        has_more = deliverer.buffer.may_take(draining=False)
        return bool(deliverer._ending.bell.is_waited_for) and not has_more

    def _next(self):
        return self._arriving.popleft() if self._arriving else None

    def _note(self, binding):
        deliverer = self.router.deliverers.get(binding.dispatcher)
        if deliverer is not None:
            deliverer.succession.note(binding)

    def _make(self, dispatcher):
        return Deliverer(
            dispatcher, decode=int, size=self.size, overflow="block", on_room=lambda: None
        )


@pytest.fixture
def route():
    """Yield a route, which is stopped afterwards."""
    route = Route()
    yield route
    route.stop()


class Log(list):
    """Records the calls of callbacks."""

    def taking(self, name):
        return lambda _id, _channel, payload, _pid: self.append((name, payload))


def pairs(name, *numbers):
    return [(name, number) for number in numbers]


@pytest.fixture
def log():
    """Return a log."""
    return Log()


@pytest.mark.parametrize("make", [InlineDispatcher, lambda: ThreadDispatcher(1)])
def test_another_callback(route, log, make):
    """A replaced callback's waiting notifications go to the new one, even if already decoded."""
    by = make()
    route.subscribe("a", "ch", log.taking("old"), by)
    route.plug(by, behind=[1, 2])
    route.send("ch", 3)
    route.subscribe("a", "ch", log.taking("new"), by)
    route.send("ch", 4)
    route.unplug()
    route.settle()
    assert log == pairs("new", 1, 2, 3, 4)


@pytest.mark.parametrize("gathering", [{}, {"batch": (100, 3600)}])
@pytest.mark.parametrize("make", [InlineDispatcher, lambda: ThreadDispatcher(1)])
@pytest.mark.parametrize("make_other", [InlineDispatcher, lambda: ThreadDispatcher(3)])
def test_another_dispatcher(route, log, make, make_other, gathering):
    """After a change of dispatcher, waiting notifications go to the new callback, in order."""
    one, other = make(), make_other()
    route.subscribe("a", "ch", log.taking("old"), one, **gathering)
    route.subscribe("b", "ch", log.taking("b"), one)
    route.plug(one, behind=[1, 2])
    route.send("ch", 3)
    route.subscribe("a", "ch", log.taking("new"), other)
    route.send("ch", 4, 5)
    route.unplug()
    route.settle()
    assert [pair for pair in log if pair[0] != "b"] == pairs("new", 1, 2, 3, 4, 5)
    assert [pair for pair in log if pair[0] == "b"] == pairs("b", 1, 2, 3, 4, 5)
    assert {id(one): 6, id(other): 5} == {
        id(d): deliverer.delivered for d, deliverer in route.router.deliverers.items()
    }
    route.send("ch", 6)
    route.settle()
    route.send("ch", 7)
    route.settle()
    assert ("new", 7) in log
    assert not route.router._relayed


def test_there_and_back(route, log):
    """Several changes while the first dispatcher is busy keep the order."""
    one, other = InlineDispatcher(), InlineDispatcher()
    route.subscribe("a", "ch", log.taking(0), one)
    route.plug(one, behind=[1, 2])
    for number, by in enumerate((other, one, other, one), 1):
        route.send("ch", 2 * number + 1)
        route.subscribe("a", "ch", log.taking(number), by)
        route.send("ch", 2 * number + 2)
    route.unplug()
    route.settle()
    assert log == pairs(4, *range(1, 11))


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"batch": (100, 3600)}, {}, [1, 2, 3, 4]),
        ({"debounce": 3600}, {}, [1, 2, 3, 4]),
        ({}, {"batch": (2, 3600)}, [[1, 2], [3, 4]]),
        ({"batch": (100, 3600)}, {"batch": (2, 3600)}, [[1, 2], [3, 4]]),
        ({"debounce": 3600}, {"batch": (4, 3600)}, [[1, 2, 3, 4]]),
    ],
)
@pytest.mark.parametrize("is_busy", [True, False])
def test_another_gathering(route, log, before, after, found, is_busy, eventually):
    """What is held back is delivered at once, in the shape that the new subscription expects."""
    by = InlineDispatcher()
    route.subscribe("a", "ch", log.taking("old"), by, **before)
    if is_busy:
        route.plug(by, behind=[1, 2])
    else:
        if not before:
            route.subscribe("a", "ch", log.taking("old"), by, batch=(100, 3600))
        route.send("ch", 1, 2)
        eventually(lambda: route.holds_back(by, 2))
    route.subscribe("a", "ch", log.taking("new"), by, **after)
    route.send("ch", 3, 4)
    route.unplug()
    route.settle()
    assert log == pairs("new", *found)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("gathering", [{}, {"batch": (100, 0.01)}])
@pytest.mark.parametrize(("before", "at_once"), [({}, 2), ({"batch": (2, 3600)}, 3)])
def test_leaving_a_dispatcher_that_is_down(route, log, before, at_once, gathering, eventually):
    """What waits for a dispatcher that is down is delivered by another one after a change."""

    class Down(InlineDispatcher):
        is_up = False

        def dispatch(self, batch):
            if not self.is_up:
                raise ConnectionError("down")
            super().dispatch(batch)

    down = Down()
    route.subscribe("a", "ch", log.taking("old"), down, **before)
    route.subscribe("b", "ch", log.taking("b"), down)
    route.send("ch", *range(1, at_once + 1))
    eventually(lambda: route.router.deliverers[down].retrying)
    route.send("ch", *range(at_once + 1, 4))
    route.subscribe("a", "ch", log.taking("new"), InlineDispatcher(), **gathering)
    route.send("ch", 4)
    eventually(lambda: sum(len(one) if gathering else 1 for _, one in log) == 4)
    flat = [n for _, one in log for n in (one if gathering else [one])]
    assert (flat, {name for name, _ in log}) == ([1, 2, 3, 4], {"new"})
    down.is_up = True
    route.settle()
    assert [pair for pair in log if pair[0] == "b"] == pairs("b", 1, 2, 3, 4)


def test_another_gathering_while_there_is_no_room(log):
    """What is held back isn't lost if it has to make room for what is given back before it."""
    route = Route(size=2)
    by = InlineDispatcher()
    route.subscribe("a", "ch", log.taking("old"), by, batch=(2, 3600))
    route.plug(by, behind=[1, 2, 3])  # the former two on their way, the latter held back
    route.subscribe("a", "ch", log.taking("new"), by, debounce=3600)
    route.stop()
    assert log == pairs("new", 1, 2, 3)


@pytest.mark.parametrize("gathering", [{}, {"batch": (100, 3600)}, {"debounce": 3600}])
def test_stopping_amid_a_change(route, log, gathering, eventually):
    """A delivery that is handed on is delivered, even if the other deliverer has ended."""
    one, other = InlineDispatcher(), ThreadDispatcher(1)
    route.subscribe("b", "other", log.taking("b"), other)
    route.send("other", 0)
    route.settle()
    route.subscribe("a", "ch", log.taking("old"), one)
    route.plug(one, behind=[1])
    route.send("ch", 2)
    route.subscribe("a", "ch", log.taking("new"), other, **gathering)
    for deliverer in route.router.deliverers.values():
        deliverer.drain()
    eventually(lambda: not route.router.deliverers[other].thread.is_alive())
    route.stop()
    numbers = ([1], [2]) if "batch" in gathering else (1, 2)
    assert log[1:] == pairs("new", *numbers)


def test_a_callback_that_moves_itself(route, log):
    """If a callback replaces itself, later notifications go to the new one."""
    by, other = InlineDispatcher(), InlineDispatcher()

    def move(_id, _channel, payload, _pid):
        log.append(("old", payload))
        if payload == 1:
            route.subscribe("a", "ch", log.taking("new"), other)

    route.subscribe("a", "ch", move, by)
    route.send("ch", 0, 1, 2, 3)
    route.settle()
    assert log == pairs("old", 0, 1) + pairs("new", 2, 3)


def test_an_unsubscribed_id(route, log):
    """Waiting notifications of an unsubscribed id aren't delivered, even if it subscribes again."""
    by = InlineDispatcher()
    route.subscribe("a", "ch", log.taking("old"), by)
    route.plug(by, behind=[1])
    route.registrar.unsubscribe("a", "ch")
    route.subscribe("a", "ch", log.taking("new"), by)
    route.send("ch", 2)
    route.unplug()
    route.settle()
    assert log == pairs("new", 2)


def test_removed_after_a_change(route, log):
    """After a change and an unsubscribe, waiting notifications aren't delivered."""
    one = InlineDispatcher()
    route.subscribe("a", "ch", log.taking("old"), one)
    route.plug(one, behind=[1])
    route.subscribe("a", "ch", log.taking("new"), InlineDispatcher())
    route.registrar.unsubscribe("a", "ch")
    route.unplug()
    route.settle()
    assert log == []


@pytest.mark.parametrize("make_other", [lambda by: by, lambda _: InlineDispatcher()])
def test_taking_a_change_back(route, log, make_other):
    """When a change is undone, as after a refused LISTEN, the former callback gets what waits."""
    by = InlineDispatcher()
    route.subscribe("a", "ch", log.taking("old"), by)
    route.plug(by, behind=[1])
    undo = route.subscribe("a", "ch", log.taking("new"), make_other(by))
    route.send("ch", 2)
    undo()
    route.send("ch", 3)
    route.unplug()
    route.settle()
    assert log == pairs("old", 1, 2, 3)


def test_taking_back_what_was_replaced(route, log):
    """Undoing a change has no effect after another change."""
    by = InlineDispatcher()
    route.subscribe("a", "ch", log.taking("old"), by)
    undo = route.subscribe("a", "ch", log.taking("new"), by)
    route.subscribe("a", "ch", log.taking("newest"), by)
    undo()
    route.send("ch", 1)
    route.settle()
    route.registrar.unsubscribe("a", "ch")
    undo()
    assert log == pairs("newest", 1)
    assert len(route.registrar.registry) == 0


@pytest.mark.parametrize("make_other", [lambda by: by, lambda _: InlineDispatcher()])
def test_gaps(route, log, make_other):
    """A waiting gap goes to the new `on_gap`, or to nobody if the new subscription has none."""
    by = InlineDispatcher()
    for name in ("a", "b"):
        route.subscribe(name, "ch", log.taking("old"), by, on_gap=log.taking("old gap"))
    route.plug(by)
    barrier = GapMarker()
    deliverer = route.router.deliverers[by]
    deliverer.hold(barrier)
    found = [route.registrar.registry.binding(name, "ch").on_gap for name in ("a", "b")]
    arrived = Notification("ch", 0, "0", 0, PROVEN.wall)
    deliverer.release(barrier, [Delivery(one, arrived) for one in found])
    route.send("ch", 1)
    other = make_other(by)
    route.subscribe("a", "ch", log.taking("new"), other, on_gap=log.taking("new gap"))
    route.subscribe("b", "ch", log.taking("new b"), other)
    route.unplug()
    route.settle()
    assert [pair for pair in log if pair[0] != "new b"] == [("new gap", 0), ("new", 1)]


def count_bindings():
    """Count the process's bindings by `type`, because `isinstance` would look into proxies."""
    return sum(type(one) is Binding for one in gc.get_objects())


@pytest.mark.slow
def test_nothing_is_kept(route, log):
    """Replaced callbacks aren't kept once nothing waits for them."""
    dispatchers = [InlineDispatcher(), InlineDispatcher()]

    def replace(count):
        for number in range(count):
            fn = log.taking(number)
            route.subscribe("a", "ch", fn, dispatchers[number % 2], batch=(1 + number % 3, 0.001))
            route.send("ch", number)
        route.settle()

    replace(100)
    gc.collect()
    before = count_bindings()
    replace(300)
    route.send("ch", 0)
    route.settle()
    gc.collect()
    assert count_bindings() <= before + 10


class Changes(RuleBasedStateMachine):
    """Sends notifications and changes a subscription, with dispatchers busy or not."""

    @initialize()
    def begin(self):
        self.route, self.log = Route(), Log()
        self.dispatchers = [InlineDispatcher(), ThreadDispatcher(1), InlineDispatcher()]
        self.sent = 0
        self.version = None  # of the callback, if there is one
        self.muted = {"id": False, "channel": False}
        self.waiting, self.expected = [], []
        self.is_plugged = False
        self.at = 0
        self.subscribe(0, {})

    @rule(count=st.integers(1, 5))
    def send(self, count):
        self.route.send("ch", *self.next_numbers(count))

    def next_numbers(self, count):
        numbers = [*range(self.sent, self.sent + count)]
        self.sent += count
        if self.version is not None and not any(self.muted.values()):
            self.waiting += numbers
        return numbers

    @rule(number=st.integers(0, 2), gathering=st.sampled_from(GATHERING))
    def subscribe(self, number, gathering):
        if self.version is None:
            self.muted["id"] = False
        self.version = 0 if self.version is None else self.version + 1
        self.at = number
        self.name = (self.version, number, "batch" in gathering)
        fn = self.log.taking(self.name)
        self.route.subscribe("a", "ch", fn, self.dispatchers[number], **gathering)

    @precondition(lambda self: self.version is not None)
    @rule()
    def unsubscribe(self):
        self.route.registrar.unsubscribe("a", "ch")
        self.version = None
        self.waiting.clear()
        self.muted = {"id": False, "channel": False}  # the channel goes with its last one

    @precondition(lambda self: self.version is not None)
    @rule(muted=st.booleans(), whole=st.booleans())
    def mute(self, muted, whole):
        if whole:
            self.route.registrar.mute_channels(["ch"], muted)
        else:
            self.route.registrar.mute_subscriber("a", ["ch"], muted)
        self.muted["channel" if whole else "id"] = muted

    @precondition(lambda self: not self.is_plugged)
    @rule(count=st.integers(0, 5))
    def plug(self, count):
        last = self.dispatchers[self.at]
        others = [one for one in self.dispatchers if one is not last]
        self.route.plug(*others, last, behind=self.next_numbers(count))
        self.is_plugged = True

    @precondition(lambda self: self.is_plugged)
    @rule()
    def unplug(self):
        self.route.unplug()
        self.is_plugged = False

    @invariant()
    def what_was_waiting_is_delivered(self):
        if self.is_plugged:
            return
        self.route.settle()
        if not any(self.muted.values()):
            self.expected += [(self.name, number) for number in self.waiting]
        self.waiting.clear()
        found = []
        for name, payload in self.log:
            assert isinstance(payload, list) is name[2]
            found += ((name, one) for one in (payload if name[2] else [payload]))
        assert found == self.expected

    def teardown(self):
        self.route.stop()


Changes.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestChanges = pytest.mark.slow(Changes.TestCase)


def test_handing_on_to_a_deliverer_that_has_just_retired():
    """What is handed on goes to the dispatcher's next deliverer, which else would overtake it."""
    route = Route()
    first, second = InlineDispatcher(), InlineDispatcher()
    old, retired, new = route._make(first), route._make(second), route._make(second)
    assert not retired.retire()
    retired._ending.is_idle = True  # as its thread reports
    assert retired.retire()
    found = deque([retired, new])
    old.succession.find = lambda _: found.popleft()
    before, after = (
        Binding(Subscription(1, "a", print, by), print, lambda *_: None) for by in (first, second)
    )
    item = Item("a", (before,), b"1", 7, PROVEN.wall, PROVEN)
    old.succession.forward(after, item)
    assert (retired.waiting, new.waiting) == (0, 1)
