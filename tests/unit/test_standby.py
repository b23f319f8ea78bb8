"""What a standby makes of what it sees of the leader."""

from datetime import UTC, datetime, timedelta

import pytest

from pgnotifier.standby import UNKNOWN_AGE, Standby


def ago(seconds):
    return datetime.now(UTC) - timedelta(seconds=seconds)


def near(moment, seconds):
    return abs((moment.wall - ago(seconds)).total_seconds()) < 0.3


def test_keys_are_those_of_the_name():
    """One name makes one lock, in every process."""
    assert Standby("a").query == Standby("a").query != Standby("b").query


def test_nobody_led():
    """Whoever gets the lock at once takes over from nobody."""
    standby = Standby("a")
    assert standby.learn((b"t", b"0.1"))
    assert standby.take_over() is None


def test_since_the_last_query_but_one():
    """What was committed before it, the leader had got."""
    standby = Standby("a")
    for age in (b"30", b"20", b"19.9", b"5", b"5.1"):
        assert not standby.learn((b"f", age))
    assert standby.learn((b"t", b"0"))
    assert near(standby.take_over(), 20)
    assert standby.take_over() is None


@pytest.mark.parametrize("age", [b"3", None])
def test_little_is_known(age):
    """With one query seen, or none, a gap reaches back by what a dead connection may take."""
    standby = Standby("a")
    standby.learn((b"f", age))
    assert near(standby.take_over(), UNKNOWN_AGE + (3 if age else UNKNOWN_AGE))
