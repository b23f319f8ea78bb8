"""The bell: no ring is lost, whoever is waiting by then."""

import threading
import time

import pytest

from pgnotifier._runtime.sync import Bell

LONG = 30


@pytest.fixture
def bell():
    """Yield a bell with its lock held for the duration of the test."""
    bell = Bell()
    with bell.lock:
        yield bell


def in_a_thread(fn):
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    return thread


def test_a_ring_before_the_wait(bell):
    """Rings before a wait end that wait at once, but not the one after it."""
    for _ in range(3):
        bell.ring()
    began = time.monotonic()
    bell.wait(LONG)
    assert time.monotonic() - began < LONG / 2
    began = time.monotonic()
    bell.wait(0.05)
    assert time.monotonic() - began >= 0.05


def test_a_ring_amid_the_wait(bell):
    """During a wait the lock is free, and afterwards the owner holds it again."""
    seen = []

    def ring():
        with bell.lock:
            seen.append(bell.is_waited_for)
            bell.ring()

    thread = in_a_thread(ring)
    while not seen:
        bell.wait(LONG)
    thread.join(LONG)
    assert seen == [True]
    assert not bell.is_waited_for
    assert not bell._unrung.acquire(blocking=False)


def test_rings_of_several_threads_at_once(bell):
    """No event is missed, even if several threads ring at the same time."""
    seen, threads = set(), []

    def ring(number):
        with bell.lock:
            done.add(number)
        bell.ring()

    done = set()
    threads = [in_a_thread(lambda number=number: ring(number)) for number in range(50)]
    deadline = time.monotonic() + LONG
    while len(seen) < 50 and time.monotonic() < deadline:
        bell.wait(LONG)
        seen |= done
    assert seen == set(range(50))
    for thread in threads:
        thread.join(LONG)
