"""Notifiers leave nothing behind, however often they start, stop, or fail to start."""

import gc
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from psycopg.pq import PGnotify

from pgnotifier import ConnectionFailedError, Notifier, ThreadDispatcher
from pgnotifier._listener.router import ECHOES, Router
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.clock import Moment

from .waiting import eventually

CYCLES = 60
MOST = 2000 if sys.gettrace() is None else 8000
"""Bytes that each cycle may leave behind; measuring coverage keeps some for each thread."""


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def measure(cycle):
    """Run cycles; return the growth in descriptors, and in bytes of memory per cycle.

    It waits until the threads of all cycles have ended.
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
    """A notifier that starts and stops leaves no descriptors, threads or memory behind."""
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
    """A notifier that was stopped and discarded leaves nothing behind."""

    def cycle():
        with Notifier(pgnotifier_dsn) as notifier:
            notifier.subscribe(1, "a", print)

    opened, memory = measure(cycle)
    assert opened == 0
    assert memory < MOST


def test_starts_that_fail(free_port):
    """A start that can't connect leaves nothing behind."""
    notifier = Notifier(f"host=127.0.0.1 port={free_port} dbname=x user=x")

    def cycle():
        with pytest.raises(ConnectionFailedError):
            notifier.subscribe(1, "a", print)

    opened, memory = measure(cycle)
    assert opened == 0
    assert memory < MOST


def test_connections_that_are_replaced(notifier, db):
    """Connections that a restart has replaced leave nothing behind."""
    notifier.subscribe(1, "a", print)
    opened, memory = measure(notifier.restart)
    assert opened == 0
    assert memory < MOST


def test_somebody_who_knows_the_private_channel():
    """Whoever knows the private channel can't fill the memory by sending to it."""
    router = Router(Registry, lambda _: None, set)
    for number in range(10 * ECHOES):
        text = f"{number}".encode() if number % 2 else b"x" * 7000 + str(number).encode()
        found = [None, PGnotify(router.private.encode(), 7, text)]
        assert router.sort(found.pop, Moment.now(), lambda: False) == 0
    assert len(router.echoes) == ECHOES
    assert str(10 * ECHOES - 1) in router.echoes
