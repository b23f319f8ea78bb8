"""Claiming: a dispatcher that serves one notifier only refuses another one."""

from typing import TypeVar

from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import ConfigurationError

Owner = TypeVar("Owner")


def claim(dispatcher: Dispatcher, owner: Owner | None, notifier: Owner) -> Owner:
    """Return the notifier that a dispatcher belongs to from now on.

    Args:
        dispatcher: The dispatcher that a notifier is attaching.
        owner: The notifier that it has belonged to until now, if any.
        notifier: The notifier that attaches it.

    Raises:
        ConfigurationError: It belongs to another notifier.
    """
    if owner is not None and owner is not notifier:
        raise ConfigurationError(
            f"{dispatcher!r} serves {owner!r} already; give each notifier its own "
            f"{type(dispatcher).__name__}"
        )
    return notifier
