"""Claiming: a dispatcher that can serve only one notifier refuses a second one."""

from typing import TypeVar
from weakref import ref

from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import ConfigurationError

Owner = TypeVar("Owner")


def claim(dispatcher: Dispatcher, owner: "ref[Owner] | None", notifier: Owner) -> "ref[Owner]":
    """Return a weak reference to the notifier that a dispatcher belongs to from now on.

    A strong one would keep the notifier alive for ever: its registry refers to the dispatcher, and
    the garbage collector can't look into the registry. A running notifier is kept alive elsewhere.

    Args:
        dispatcher: The dispatcher that a notifier is attaching.
        owner: The notifier that it has belonged to until now, if any.
        notifier: The notifier that attaches it.

    Raises:
        ConfigurationError: It belongs to another notifier.
    """
    before = None if owner is None else owner()
    if before is not None and before is not notifier:
        raise ConfigurationError(
            f"{dispatcher!r} serves {before!r} already; give each notifier its own "
            f"{type(dispatcher).__name__}"
        )
    return ref(notifier)
