"""The names of ids and callables."""

import functools
from enum import Enum

import pytest

from pgnotifier._runtime.names import name_callable, spell


class Colour(Enum):
    """An enum with a member that is used as an id."""

    RED = 1


class Secret:
    """A callable with a repr that may not be shown."""

    def __call__(self):
        """Do nothing."""

    def __repr__(self):
        return "s3cret"


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("invoice", "invoice"),
        (("a", "b", 1), "a.b.1"),
        (frozenset({"b", "a"}), "{a,b}"),
        (Colour.RED, "Colour.RED"),
        ((Colour.RED, ("x",)), "Colour.RED.x"),
        (5, "5"),
    ],
)
def test_spell(id, expected):
    """An id has the same name in every process."""
    assert spell(id) == expected


def test_spell_shows_the_rest_as_asked():
    """Other values are shown by the given function, also within a tuple."""
    assert spell(("a", 5), lambda value: f"<{value}>") == "a.<5>"


def test_name_callable():
    """A function has its own name, and any other callable its type's, without a repr."""
    assert name_callable(functools.wraps) == "functools.wraps"
    assert name_callable(Secret()) == f"{__name__}.Secret"
    partial = functools.partial(Secret(), "s3cret")
    assert name_callable(partial) == f"partial of {__name__}.Secret"
