"""Forking: what a forked child must not share with its parent is renewed in the child."""

import itertools
import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something with locks or threads, of which a child has only what it makes itself."""

    def renew(self) -> None:
        """Be as new, in a forked child. A thread that doesn't exist there may hold any lock."""


_known: "weakref.WeakValueDictionary[int, Renewable]" = weakref.WeakValueDictionary()
_numbers = itertools.count()


def renew_in_children(one: Renewable) -> None:
    """Have something renewed in each child that is forked for as long as it exists.

    What was registered first is renewed first.
    """
    _known[next(_numbers)] = one


def _in_child() -> None:
    for one in tuple(_known.values()):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
