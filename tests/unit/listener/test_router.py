"""Routing: a notification goes to the subscriptions at the time it is read."""

from types import SimpleNamespace

import pytest
from deliveries import PROVEN, Fake, bind
from psycopg.pq import PGnotify

from pgnotifier._listener.router import Router
from pgnotifier._log.references import Reference
from pgnotifier._registry.registry import Registry


class Taker:
    """Takes the place of a deliverer."""

    def __init__(self):
        self.inbox = []
        self.taken = []
        self.succession = SimpleNamespace()

    def start(self):
        """Do nothing."""

    def stow(self):
        """Take over the inbox."""
        self.taken += [(item.bindings[0].id, item.data) for item in self.inbox]
        self.inbox = []

    def ring(self):
        """Do nothing."""


class Connection:
    """Has notifications, and more of them with each read; it may be lost at the end."""

    def __init__(self, *reads, error=None):
        self.parsed, *self.reads = map(list, reads)
        self.error = error

    def notifies(self):
        """Return the next parsed notification."""
        if not self.parsed:
            return None
        return PGnotify(relname=b"a", be_pid=7, extra=self.parsed.pop(0))

    def read_more(self):
        """Read; return whether there was anything."""
        if self.reads:
            self.parsed = self.reads.pop(0)
            return True
        if self.error:
            raise self.error
        return False


def test_a_subscription_made_between_two_reads():
    """A subscription made between two reads gets what the second one reads."""
    fake, taker = Fake(), Taker()
    registries = [Registry().bind(bind(fake, id=number)) for number in (1, 2)]
    router = Router(lambda: registries[0], lambda _: taker, set)
    connection = Connection([b"1", b"2"], [b"3", b"4"])

    def read_more():
        del registries[:-1]
        return connection.read_more()

    assert router.sort(connection.notifies, PROVEN, read_more) == 4
    assert taker.taken == []
    router.hand_on()
    assert taker.taken == [(1, b"1"), (1, b"2"), (2, b"3"), (2, b"4")]


def test_what_was_read_before_the_connection_was_lost():
    """What was read before the connection was lost is counted and handed on."""
    fake, taker = Fake(), Taker()
    registry = Registry().bind(bind(fake))
    router = Router(lambda: registry, lambda _: taker, set)
    connection = Connection([b"1", b"2"], [b"3", b"4"], error=OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        router.sort(connection.notifies, PROVEN, connection.read_more)
    router.hand_on()
    assert router.received == 4
    assert [data for _, data in taker.taken] == [b"1", b"2", b"3", b"4"]


def test_what_a_listener_sends_to_itself():
    """The listener's own notifications are recorded with their pid, not counted or delivered."""
    fake, taker = Fake(), Taker()
    registry = Registry().bind(bind(fake))
    router = Router(lambda: registry, lambda _: taker, set)
    private = router.private.encode()
    arrived = [
        PGnotify(relname=name, be_pid=pid, extra=data)
        for name, pid, data in [
            (private, 1, b"first"),
            (b"a", 7, b"1"),
            (private, 2, b"second"),
            (b"a", 7, b"2"),
        ]
    ]
    assert router.sort(lambda: arrived.pop(0) if arrived else None, PROVEN, lambda: False) == 2
    router.hand_on()
    assert router.echoes == {"first": 1, "second": 2}
    assert router.received == 2
    assert [data for _, data in taker.taken] == [b"1", b"2"]
    assert private not in router._tallies


def test_references():
    """A reference is counted and routed as a notification of its channel; others are ignored."""
    fake, taker = Fake(), Taker()
    registry = Registry().bind(bind(fake)).add(["quiet"])
    router = Router(lambda: registry, lambda _: taker, set)
    arrived = [
        PGnotify(relname=name, be_pid=7, extra=data)
        for name, data in [
            (b"a", b"1"),
            (b"pgnotifier_reference", b"12 34 a"),
            (b"pgnotifier_reference", b"12 35 quiet"),
            (b"pgnotifier_reference", b"12 36 unknown"),
            (b"pgnotifier_reference", b"12 a"),
            (b"a", b"12 34 a"),
        ]
    ]
    assert router.sort(lambda: arrived.pop(0) if arrived else None, PROVEN, lambda: False) == 4
    first, second, third = taker.inbox
    assert (first.data, third.data) == (b"1", b"12 34 a")
    assert (second.channel, second.pid, second.reference) == ("a", 7, Reference(12, 34))
    assert router.counts() == {"a": 3, "quiet": 1}
    assert b"unknown" not in router._tallies
    assert b"pgnotifier_reference" not in router._tallies
