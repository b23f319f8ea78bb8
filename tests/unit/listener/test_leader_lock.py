"""What a standby makes of what it sees of the leader."""

import pytest

from pgnotifier._listener.leader_lock import UNKNOWN_AGE, Standby
from pgnotifier._runtime.clock import Moment

NOW = Moment.now()
ALONE = b"7", b"f"
"""The pid of a leader without a companion, and that it has none."""


def ago(seconds):
    return NOW.earlier(seconds)


def test_keys_are_those_of_the_name():
    """One name makes one lock, in every process."""
    assert Standby("a").query == Standby("a").query != Standby("b").query


def test_nobody_led():
    """Whoever gets the lock at once takes over from nobody."""
    standby = Standby("a")
    assert standby.learn((b"t", b"1000", b"0.1", *ALONE), NOW)
    assert standby.take_over() is None


def test_since_the_last_query_but_one():
    """What was committed before it, the leader had got."""
    standby = Standby("a")
    for begun, asked in ((b"970", 29), (b"980", 19), (b"980", 18), (b"995", 4), (b"995", 3)):
        assert not standby.learn((b"f", begun, b"1", *ALONE), ago(asked))
    assert standby.learn((b"t", None, None, *ALONE), NOW)
    # That at 980 began between the polls of 29 and of 19 seconds ago, and was the last but one.
    assert standby.take_over() == ago(29)
    assert standby.take_over() is None


@pytest.mark.parametrize("late", [0, 3, 300])
def test_a_late_answer(late):
    """However late an answer is read, the gap begins before the leader's last query but one."""
    standby = Standby("a")
    # Its queries began 990 and 991 s after the epoch. What was read at 1000 + late was sent at
    # 990.5, and its answer made at 990.6.
    standby.learn((b"f", b"990", b"0.6", *ALONE), Moment(990.5, NOW.wall))
    standby.learn((b"f", b"991", b"0.7", *ALONE), Moment(991.6 + late, NOW.wall))
    since = standby.take_over()
    assert since is not None
    assert since.steady <= 990


def test_one_query_seen_late_is_one():
    """One query, seen by answers that took a different time, isn't two."""
    standby = Standby("a")
    standby.learn((b"f", b"990", b"1", *ALONE), Moment(988.0, NOW.wall))  # three seconds on the way
    standby.learn((b"f", b"990", b"3", *ALONE), Moment(993.0, NOW.wall))
    since = standby.take_over()
    assert since is not None
    assert since.steady == pytest.approx(987 - UNKNOWN_AGE)


def test_a_clock_that_is_set():
    """If the server's clock is set back, no sign is dated later than it was seen."""
    standby = Standby("a")
    standby.learn((b"f", b"990", b"-3600", *ALONE), ago(10))
    standby.learn((b"f", b"991", b"-3600", *ALONE), ago(9))
    assert standby.take_over() == ago(10)


@pytest.mark.parametrize("age", [b"3", None])
def test_little_is_known(age):
    """With one query seen, or none, a gap reaches back by what a dead connection may take."""
    standby = Standby("a")
    standby.learn((b"f", age and b"997", age, *ALONE), NOW)
    assert standby.take_over() == NOW.earlier(3 if age else UNKNOWN_AGE).earlier(UNKNOWN_AGE)


class Leader:
    """A leader as a standby sees it, a poll a second."""

    def __init__(self, **settings):
        self.standby = Standby("a", **settings)
        self.now = 0

    def polls(self, seconds, pid=b"7", accompanied=b"t", query=None):
        """Poll; return after how many seconds it has vanished."""
        for second in range(seconds):
            self.now += 1
            begun = b"%d" % (self.now if query is None else query)
            row = (b"f", begun, b"0", pid, accompanied)
            self.standby.learn(row, Moment(float(self.now), NOW.wall))
            if self.standby.vanished is not None:
                assert self.standby.vanished == int(pid)
                return second
        return None


def test_a_leader_that_has_vanished():
    """It asks nothing any more, and its companion's session has ended."""
    leader = Leader()
    assert leader.polls(5) is None
    assert leader.polls(20, query=5) is None  # until PostgreSQL notices that of the companion
    gone = leader.polls(120, query=5, accompanied=b"f")
    assert gone is not None
    assert 20 <= gone <= UNKNOWN_AGE - 20 + 1
    assert leader.polls(120, query=5, accompanied=b"f") is None  # said once


@pytest.mark.parametrize(
    "seen",
    [
        {"query": 5},  # it pauses: its companion is there
        {"accompanied": b"f"},  # it asks: its companion may have had no connection
        {"accompanied": b"f", "query": 5, "pid": b"8"},  # never had one
    ],
)
def test_a_leader_that_is_there(seen):
    """One of the signs is enough."""
    leader = Leader()
    leader.polls(5)
    assert leader.polls(1000, **seen) is None


def test_long_heartbeats():
    """A leader that asks seldom has so much more time."""
    leader = Leader(heartbeat=300.0, timeout=5.0)
    leader.polls(5)
    gone = leader.polls(1000, query=5, accompanied=b"f")
    assert gone is not None
    assert gone >= 600
