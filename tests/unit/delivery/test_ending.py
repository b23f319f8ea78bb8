"""The steps of ending a deliverer."""

from pgnotifier._delivery.ending import Ending


def flags(ending):
    """Return whether it is draining, is abandoned, and has retired."""
    return ending.is_draining, ending.is_abandoned, ending.has_retired


def test_draining_and_abandoning():
    """An ending that is abandoned is draining as well."""
    ending = Ending()
    assert flags(ending) == (False, False, False)
    ending.drain()
    assert flags(ending) == (True, False, False)
    ending = Ending()
    ending.abandon()
    assert flags(ending) == (True, True, False)


def test_retiring():
    """A deliverer retires once its thread has reported that it is idle, unless it is busy."""
    ending = Ending()
    ending.is_idle = True  # from before it was asked
    with ending.bell.lock:
        assert not ending.retire(is_busy=False)
        assert not ending.retire(is_busy=False)
        ending.is_idle = True
        assert not ending.retire(is_busy=True)
        assert ending.retire(is_busy=False)
    assert flags(ending) == (True, False, True)


def test_in_a_child_the_lock_is_free():
    """In a forked child, the lock is free, even if the parent held it."""
    ending = Ending()
    before = ending.bell
    with before.lock:
        ending.abandon_in_child()
    assert ending.bell is not before
    assert flags(ending) == (True, True, False)
