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
