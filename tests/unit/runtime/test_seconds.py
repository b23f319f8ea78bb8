"""Numbers of seconds: which are allowed, and what an error says otherwise."""

import pytest

from pgnotifier._runtime.seconds import CENTURY, DAY, Seconds, is_number

UP_TO_A_DAY = "above 0 and at most 86400 (a day)"
UP_TO_A_CENTURY = "at least 0 and at most 3155760000 (a century)"


@pytest.mark.parametrize(
    ("allowed", "value", "expected"),
    [
        (Seconds(DAY), 1, None),
        (Seconds(DAY), 0.001, None),
        (Seconds(DAY), DAY, None),
        (Seconds(DAY), 0, UP_TO_A_DAY),
        (Seconds(DAY), -1, UP_TO_A_DAY),
        (Seconds(DAY), DAY + 1, UP_TO_A_DAY),
        (Seconds(DAY), float("nan"), UP_TO_A_DAY),
        (Seconds(DAY), float("inf"), UP_TO_A_DAY),
        (Seconds(DAY), "1", "a number of seconds"),
        (Seconds(DAY), True, "a number of seconds"),
        (Seconds(DAY), None, "a number of seconds"),
        (Seconds(CENTURY, allows_zero=True), 0, None),
        (Seconds(CENTURY, allows_zero=True), -0.5, UP_TO_A_CENTURY),
        (Seconds(CENTURY, allows_zero=True), float("inf"), UP_TO_A_CENTURY),
        (Seconds(allows_zero=True), float("inf"), None),
        (Seconds(allows_zero=True), -1, "at least 0"),
        (Seconds(), 0, "above 0"),
    ],
)
def test_find_problem(allowed, value, expected):
    """A value in the range has no problem; any other gets the range or the type."""
    assert allowed.find_problem(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (1.5, True), (True, False), ("1", False), (1j, False)]
)
def test_is_number(value, expected):
    """A bool is not a number, and neither is a str or a complex."""
    assert is_number(value) is expected
