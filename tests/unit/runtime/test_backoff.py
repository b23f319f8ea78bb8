"""The pauses between attempts."""

import pytest

from pgnotifier._runtime.backoff import Backoff


@pytest.mark.parametrize(("last", "longest"), [(None, 30.0), (1.0, 1.0)])
def test_pauses_double_up_to_the_longest(last, longest):
    """Each pause is between half and all of 0.1 s, then of 0.2 s, and so on."""
    backoff, expected = Backoff(last), 0.1
    for _ in range(12):
        assert expected / 2 <= backoff.pause() <= expected
        expected = min(2 * expected, longest)
    assert expected == longest


def test_jitter():
    """Pauses double from 0.1 s to 30 s, with a jitter of at most half."""
    for _ in range(50):
        backoff = Backoff()
        bound = 0.1
        for _ in range(15):
            assert bound / 2 <= backoff.pause() <= bound
            bound = min(bound * 2, 30.0)
        assert bound == 30.0
    assert len({Backoff().pause() for _ in range(10)}) > 1
