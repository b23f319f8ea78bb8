"""A change that the server refuses is undone, whatever other threads have done meanwhile."""

import threading

import pytest

from pgnotifier import InlineDispatcher, ListenRefusedError, Notifier
from pgnotifier._runtime.sync import Outcome

REFUSED = ListenRefusedError("no")


class Listener:
    """A listener with a server that answers when the test says so.

    Attributes:
        asked: The requests, with their outcomes.
    """

    is_alive = True
    deliverers = {}  # noqa: RUF012

    def __init__(self):
        self.asked = []

    def request(self, verb, channels):
        """Record the request."""
        outcome = Outcome()
        self.asked.append((verb, channels, outcome))
        return outcome

    def waits_for_caller(self):
        """Return whether it waits for the calling code."""
        return False

    def retire(self, dispatchers):
        """Do nothing."""


class Caller:
    """A call on a thread of its own, which waits for the server.

    Attributes:
        refused: Whether it raised ListenRefusedError.
    """

    def __init__(self, listener, eventually, call, *args, **kwargs):
        self.refused = False
        asked = len(listener.asked)
        self._thread = threading.Thread(target=self._run, args=(call, args, kwargs), daemon=True)
        self._thread.start()
        eventually(lambda: len(listener.asked) > asked)
        *_, self._outcome = listener.asked[-1]

    def _run(self, call, args, kwargs):
        try:
            call(*args, **kwargs)
        except ListenRefusedError:
            self.refused = True

    def settle(self, exc=None):
        """Have the server answer, and wait until the call has returned."""
        self._outcome.settle(exc)
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.refused == (exc is not None)


@pytest.fixture
def notifier():
    """Return a notifier, with nothing registered."""
    return Notifier("host=nowhere", daemon=True)


@pytest.fixture
def begin(notifier, eventually):
    """Return a function that begins a call which waits for the server."""
    listener = notifier._lifecycle.listener = Listener()

    def begin(method, *args, **kwargs):
        return Caller(listener, eventually, getattr(notifier, method), *args, **kwargs)

    yield begin
    notifier._lifecycle.listener = None


def first(*args):
    """Do nothing."""


def second(*args):
    """Do nothing."""


def third(*args):
    """Do nothing."""


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("other", [False, True])
def test_all_are_refused(notifier, begin, order, other):
    """If three threads subscribe one id and all are refused, nothing is left."""
    by = InlineDispatcher() if other else None
    calls = [begin("subscribe", 1, "a", first)]
    calls += [begin("subscribe", 1, "a", second, dispatcher=by)]
    calls += [begin("subscribe", 1, "a", third)]
    for at in order:
        calls[at].settle(REFUSED)
    assert notifier.get_subscriptions() == {}
    assert notifier.get_channels() == set()
    assert notifier._lifecycle.registrar._unsettled == {}
    assert notifier._lifecycle.registrar._tentative == {}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_was_there_before_is_there_again(notifier, begin, order):
    """If all replacements are refused, the former subscription is back in its place."""
    notifier.subscribe(1, "a", first, autorun=False)
    notifier.subscribe(2, "a", first, autorun=False)
    calls = [begin("subscribe", 1, "a", second), begin("subscribe", 1, "a", third)]
    for at in order:
        calls[at].settle(REFUSED)
    assert notifier.get_subscriptions() == {"a": {1: first, 2: first}}
    assert list(notifier.get_subscriptions()["a"]) == [1, 2]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("accepted", "left"), [(0, first), (1, second)])
def test_one_is_accepted(notifier, begin, order, accepted, left):
    """If one of two changes is accepted, it is what is left, whether or not it was the latest."""
    calls = [begin("subscribe", 1, "a", first), begin("subscribe", 1, "a", second)]
    for at in order:
        calls[at].settle(None if at == accepted else REFUSED)
    assert notifier.get_subscriptions() == {"a": {1: left}}
    assert notifier._lifecycle.registrar._unsettled == {}
    assert notifier._lifecycle.registrar._tentative == {}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("accepted", [None, 0, 1])
@pytest.mark.parametrize(
    "calls",
    [
        (("add_channels", ["a", "b"]), ("add_channels", ["a"])),
        (("add_channels", ["a"]), ("subscribe", 1, "a", first)),
        (("subscribe", 1, "a", first), ("add_channels", ["a"])),
        (("subscribe", 1, "a", first), ("subscribe", 2, "a", first)),
    ],
)
def test_a_channel_that_two_have_added(notifier, begin, calls, order, accepted):
    """A channel added by two stays if one is accepted, with only that one's subscription."""
    begun = [begin(*call) for call in calls]
    for at in order:
        begun[at].settle(None if at == accepted else REFUSED)
    assert ("a" in notifier.get_channels()) == (accepted is not None)
    kept = notifier.get_subscriptions().get("a", {})
    wants = accepted is not None and calls[accepted][0] == "subscribe"
    assert list(kept) == ([calls[accepted][1]] if wants else [])


def test_a_channel_that_was_there(notifier, begin):
    """An existing channel stays when changes of it are refused."""
    notifier.add_channels("a", autorun=False)
    begin("subscribe", 1, "a", first).settle(REFUSED)
    begin("add_channels", "a").settle(REFUSED)
    assert notifier.get_channels() == {"a"}


def test_removed_meanwhile(notifier, begin):
    """A refusal doesn't undo what a user has removed and added again in the meantime."""
    call, channels = begin("subscribe", 1, "a", first), begin("add_channels", "a")
    notifier.remove_channels("a", autorun=False)
    notifier.subscribe(1, "a", second, autorun=False)
    call.settle(REFUSED)
    channels.settle(REFUSED)
    assert notifier.get_subscriptions() == {"a": {1: second}}
