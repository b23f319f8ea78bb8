"""What a notifier leaves behind: nothing, however often it starts, stops, or can't."""

import gc
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from pgnotifier import ConnectionFailedError, Notifier, ThreadDispatcher
from pgnotifier._listener.router import ECHOES, Router
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.clock import Moment

from .waiting import eventually

CYCLES = 60
MOST = 2000 if sys.gettrace() is None else 8000
"""Bytes that may be left of each cycle. What measures coverage keeps some for each thread."""


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def measure(cycle):
    """Run cycles; return by how much descriptors and memory per cycle have grown.

    The threads of all cycles have to end.
    """
    earlier = set(threading.enumerate())

    def settle():
        eventually(lambda: earlier >= set(threading.enumerate()))
        gc.collect()

    for _ in range(10):
        cycle()
    settle()
    before = descriptors()
    tracemalloc.start()
    try:
        for _ in range(CYCLES):
            cycle()
        settle()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return descriptors() - before, grown / CYCLES


def test_starting_and_stopping(pgnotifier_dsn, make_notifier, db):
    """Of one notifier: it leaves no descriptors, threads or memory."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=ThreadDispatcher(1))
    calls = []
    notifier.subscribe(1, "a", lambda *_: calls.append(1), autorun=False)

    def cycle():
        calls.clear()
        notifier.start()
        db.notify("a")
        eventually(lambda: calls)
        notifier.stop()

    opened, memory = measure(cycle)
    assert opened == 0
    assert memory < MOST


def test_notifiers_that_come_and_go(pgnotifier_dsn, db):
    """Nor does one that was stopped and forgotten."""

    def cycle():
        with Notifier(pgnotifier_dsn) as notifier:
            notifier.subscribe(1, "a", print)

    opened, memory = measure(cycle)
    assert opened == 0
    assert memory < MOST


def test_starts_that_fail(free_port):
    """Nor does a first connection that can't be made."""
    notifier = Notifier(f"host=127.0.0.1 port={free_port} dbname=x user=x")

    def cycle():
        with pytest.raises(ConnectionFailedError):
            notifier.subscribe(1, "a", print)

    opened, memory = measure(cycle)
    assert opened == 0
    assert memory < MOST


def test_connections_that_are_replaced(notifier, db):
    """Nor do those of before a restart."""
    notifier.subscribe(1, "a", print)
    opened, memory = measure(notifier.restart)
    assert opened == 0
    assert memory < MOST


def test_somebody_who_knows_the_private_channel():
    """Can't fill the memory with what is sent there."""
    router = Router(Registry, lambda _: None, set)
    for number in range(10 * ECHOES):
        text = f"{number}".encode() if number % 2 else b"x" * 7000 + str(number).encode()
        found = [None, _Arrived(router.private.encode(), text)]
        assert router.sort(found.pop, Moment.now(), lambda: False) == 0
    assert len(router.echoes) == ECHOES
    assert str(10 * ECHOES - 1) in router.echoes


class _Arrived:
    def __init__(self, relname, extra):
        self.relname, self.extra, self.be_pid = relname, extra, 7
