"""What a standby concludes from what it sees of the leader."""

import pytest

from pgnotifier._listener.leader_lock import UNKNOWN_AGE, Standby
from pgnotifier._runtime.clock import Moment

NOW = Moment.now()
ALONE = b"7", b"f", b"f"
"""The pid of a leader, and that it has no companion."""


def ago(seconds):
    return NOW.earlier(seconds)


def test_keys_are_those_of_the_name():
    """The same name gives the same lock, in every process."""
    assert Standby("a").query == Standby("a").query != Standby("b").query


def test_nobody_led():
    """A standby that gets the lock at once doesn't take over, because there was no leader."""
    standby = Standby("a")
    assert standby.learn((b"t", b"1000", b"0.1", *ALONE), NOW)
    assert standby.take_over() is None


def test_since_the_last_query_but_one():
    """The gap begins at the leader's last query but one, before which it received everything."""
    standby = Standby("a")
    for begun, asked in ((b"970", 29), (b"980", 19), (b"980", 18), (b"995", 4), (b"995", 3)):
        assert not standby.learn((b"f", begun, b"1", *ALONE), ago(asked))
    assert standby.learn((b"t", None, None, *ALONE), NOW)
    # The query at 980 was the last but one. It began between the polls 29 and 19 seconds ago.
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
    """A query that is seen in several answers counts once, even if their delays differ."""
    standby = Standby("a")
    standby.learn((b"f", b"990", b"1", *ALONE), Moment(988.0, NOW.wall))  # three seconds on the way
    standby.learn((b"f", b"990", b"3", *ALONE), Moment(993.0, NOW.wall))
    since = standby.take_over()
    assert since is not None
    assert since.steady == pytest.approx(987 - UNKNOWN_AGE)


def test_a_clock_that_is_set():
    """If the server's clock is set back, a sign of life isn't dated later than it was seen."""
    standby = Standby("a")
    standby.learn((b"f", b"990", b"-3600", *ALONE), ago(10))
    standby.learn((b"f", b"991", b"-3600", *ALONE), ago(9))
    assert standby.take_over() == ago(10)


@pytest.mark.parametrize("age", [b"3", None])
def test_little_is_known(age):
    """With at most one query seen, the gap is longer by the time a dead connection may last."""
    standby = Standby("a")
    standby.learn((b"f", age and b"997", age, *ALONE), NOW)
    assert standby.take_over() == NOW.earlier(3 if age else UNKNOWN_AGE).earlier(UNKNOWN_AGE)


class Leader:
    """A leader as a standby sees it, polled once a second."""

    def __init__(self, **settings):
        self.standby = Standby("a", **settings)
        self.now = 0

    def polls(self, seconds, pid=b"7", accompanied=b"t", query=None):
        """Poll; return after how many seconds the leader has vanished, or None."""
        for second in range(seconds):
            self.now += 1
            begun = b"%d" % (self.now if query is None else query)
            row = (b"f", begun, b"0", pid, accompanied, b"f")
            self.standby.learn(row, Moment(float(self.now), NOW.wall))
            if self.standby.vanished is not None:
                assert self.standby.vanished == int(pid)
                return second
        return None


def test_a_leader_that_has_vanished():
    """A leader has vanished if it sends no queries and its companion's session has ended."""
    leader = Leader()
    assert leader.polls(5) is None
    assert leader.polls(20, query=5) is None  # PostgreSQL hasn't noticed yet
    gone = leader.polls(120, query=5, accompanied=b"f")
    assert gone is not None
    assert 20 <= gone <= UNKNOWN_AGE - 20 + 1
    assert leader.polls(120, query=5, accompanied=b"f") is None  # reported once


@pytest.mark.parametrize(
    "seen",
    [
        {"query": 5},  # it pauses, but its companion is there
        {"accompanied": b"f"},  # it sends queries; its companion may have failed to connect
        {"accompanied": b"f", "query": 5, "pid": b"8"},  # it never had a companion
    ],
)
def test_a_leader_that_is_there(seen):
    """A leader hasn't vanished if there is any sign of life, or if it never had a companion."""
    leader = Leader()
    leader.polls(5)
    assert leader.polls(1000, **seen) is None


def test_long_heartbeats():
    """A leader with a long heartbeat has more time."""
    leader = Leader(heartbeat=300.0, timeout=5.0)
    leader.polls(5)
    gone = leader.polls(1000, query=5, accompanied=b"f")
    assert gone is not None
    assert gone >= 600
