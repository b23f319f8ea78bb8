"""The reader's dealings with a session of the test's own, where the timing must be exact."""

import os
from types import SimpleNamespace

import pytest

from pgnotifier import InlineDispatcher, ListenRefusedError, Subscription
from pgnotifier.connection import ConnectionLostError, Parameters
from pgnotifier.delivery import Deliverer
from pgnotifier.listener import Listener
from pgnotifier.registry import Binding, Registry
from pgnotifier.reporting import GapReport


class LateNotification:
    """A session with which libpq finds a notification only while it looks for the answer."""

    def __init__(self, fd, outcome):
        self.fd = fd
        self.outcome = outcome
        self.arrived = []

    def send(self, query):
        """Take a query."""

    def flush(self):
        """Have nothing left to send."""
        return False

    def consume(self):
        """Have nothing to read."""

    def notifies(self):
        """Return what was parsed."""
        return self.arrived.pop(0) if self.arrived else None

    def answered(self):
        """Parse the notification and the answer."""
        self.arrived.append(SimpleNamespace(relname=b"a", be_pid=7, extra=b"1"))
        if self.outcome:
            raise self.outcome
        return True


@pytest.mark.parametrize("outcome", [None, ListenRefusedError("no"), ConnectionLostError("gone")])
def test_what_comes_with_an_answer(make_deliverer, record, outcome):
    """What is read together with an answer, a refusal or the end is delivered at once."""
    inline = InlineDispatcher()
    binding = Binding(Subscription(1, "a", record, inline), record, lambda *_: None)
    registry = Registry().bind(binding)
    listener = Listener(
        Parameters({}), lambda: registry, lambda *_: make_deliverer(inline), GapReport(None)
    )
    end, other = os.pipe()
    try:
        listener._session = LateNotification(end, outcome)
        if outcome:
            with pytest.raises(type(outcome)):
                listener._round_trip(b"LISTEN b")
        else:
            listener._round_trip(b"LISTEN b")
        assert record.wait_for(1) == [1]
        assert isinstance(listener.deliverers[inline], Deliverer)
    finally:
        listener._waiter.close()
        os.close(end)
        os.close(other)
