"""The link, with a session of the test's own, where the timing must be exact."""

import os
from types import SimpleNamespace

import pytest

from pgnotifier import InlineDispatcher, ListenRefusedError, Subscription
from pgnotifier.connection import ConnectionLostError, Parameters
from pgnotifier.delivery import Deliverer
from pgnotifier.latency import Latency
from pgnotifier.link import Link
from pgnotifier.registry import Binding, Registry
from pgnotifier.routing import Router


class LateNotification:
    """A session with which libpq finds a notification only while it looks for the answer."""

    def __init__(self, fd, outcome):
        self.fd = fd
        self.outcome = outcome
        self.arrived = []
        self.row = ()

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

    def close(self):
        """Have nothing to close."""

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
    router = Router(lambda: registry, lambda _: make_deliverer(inline), set)
    link = Link(Parameters({}), router, 15.0, 5.0, lambda: False)
    end, other = os.pipe()
    try:
        link.session = LateNotification(end, outcome)
        if outcome:
            with pytest.raises(type(outcome)):
                link.ask(b"LISTEN b")
        else:
            link.ask(b"LISTEN b")
        assert record.wait_for(1) == [1]
        assert isinstance(router.deliverers[inline], Deliverer)
    finally:
        link.end()
        os.close(end)
        os.close(other)


def test_latency():
    """The latest round trip, the mean of all and the slowest are kept."""
    latency = Latency(0, 0, 0, 0).plus(0.1).plus(0.3).plus(0.2)
    assert (latency.last, latency.highest, latency.count) == (0.2, 0.3, 3)
    assert latency.mean == pytest.approx(0.2)
