"""What a standby makes of what it sees of the leader."""

import pytest

from pgnotifier.moment import Moment
from pgnotifier.standby import UNKNOWN_AGE, Standby

NOW = Moment.now()


def ago(seconds):
    return NOW.earlier(seconds)


def test_keys_are_those_of_the_name():
    """One name makes one lock, in every process."""
    assert Standby("a").query == Standby("a").query != Standby("b").query


def test_nobody_led():
    """Whoever gets the lock at once takes over from nobody."""
    standby = Standby("a")
    assert standby.learn((b"t", b"1000", b"0.1"), NOW)
    assert standby.take_over() is None


def test_since_the_last_query_but_one():
    """What was committed before it, the leader had got."""
    standby = Standby("a")
    for begun, asked in ((b"970", 29), (b"980", 19), (b"980", 18), (b"995", 4), (b"995", 3)):
        assert not standby.learn((b"f", begun, b"1"), ago(asked))
    assert standby.learn((b"t", None, None), NOW)
    # That at 980 began between the polls of 29 and of 19 seconds ago, and was the last but one.
    assert standby.take_over() == ago(29)
    assert standby.take_over() is None


@pytest.mark.parametrize("late", [0, 3, 300])
def test_a_late_answer(late):
    """However late an answer is read, the gap begins before the leader's last query but one."""
    standby = Standby("a")
    # Its queries began 990 and 991 s after the epoch. What was read at 1000 + late was sent at
    # 990.5, and its answer made at 990.6.
    standby.learn((b"f", b"990", b"0.6"), Moment(990.5, NOW.wall))
    standby.learn((b"f", b"991", b"0.7"), Moment(991.6 + late, NOW.wall))
    since = standby.take_over()
    assert since is not None
    assert since.steady <= 990


def test_one_query_seen_late_is_one():
    """One query, seen by answers that took a different time, isn't two."""
    standby = Standby("a")
    standby.learn((b"f", b"990", b"1"), Moment(988.0, NOW.wall))  # three seconds on the way
    standby.learn((b"f", b"990", b"3"), Moment(993.0, NOW.wall))
    since = standby.take_over()
    assert since is not None
    assert since.steady == pytest.approx(987 - UNKNOWN_AGE)


def test_a_clock_that_is_set():
    """If the server's clock is set back, no sign is dated later than it was seen."""
    standby = Standby("a")
    standby.learn((b"f", b"990", b"-3600"), ago(10))
    standby.learn((b"f", b"991", b"-3600"), ago(9))
    assert standby.take_over() == ago(10)


@pytest.mark.parametrize("age", [b"3", None])
def test_little_is_known(age):
    """With one query seen, or none, a gap reaches back by what a dead connection may take."""
    standby = Standby("a")
    standby.learn((b"f", age and b"997", age), NOW)
    assert standby.take_over() == NOW.earlier(3 if age else UNKNOWN_AGE).earlier(UNKNOWN_AGE)
