"""Moments: stretches of time are right even if a clock is set or stops."""

from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from pgnotifier._runtime.clock import Moment, stretch

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_now():
    """`Moment.now` returns the present by both clocks."""
    before, now, after = (monotonic(), datetime.now(UTC)), Moment.now(), monotonic()
    assert before[0] <= now.steady <= after
    assert before[1] <= now.wall <= datetime.now(UTC)
    assert now.wall.utcoffset() == timedelta(0)


def test_earlier():
    """`earlier` moves both clocks back by the same time."""
    assert Moment(100.0, NOON).earlier(60.0) == Moment(40.0, NOON - timedelta(minutes=1))


@pytest.mark.parametrize(
    ("jump", "since", "until"),
    [
        (0, 0, 10),  # undisturbed
        (3600, 0, 3610),  # set forward: what was committed at first has the old time
        (-3600, -3600, 10),  # set back: what was committed at last has the new time
    ],
)
def test_a_clock_that_is_set(jump, since, until):
    """If the clock is set during a stretch, the bounds cover its times by both settings."""
    begin = Moment(50.0, NOON)
    end = Moment(60.0, NOON + timedelta(seconds=10 + jump))
    bounds = NOON + timedelta(seconds=since), NOON + timedelta(seconds=until)
    assert stretch(begin, end) == bounds
