"""Check how the receivers of a durable channel read the log: options of `Channel`."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict

from django.core.exceptions import ImproperlyConfigured

from pgnotifier._runtime.suggestions import suggest
from pgnotifier.durability import MaxLag, Start, check_durability
from pgnotifier.errors import UnknownOptionError

RECEIVERS = "receivers"
"""The id of the subscription that calls all receivers of a channel."""


class ReceiverOptions(TypedDict, total=False):
    """The options of `Notifier.subscribe(durable=True)` that a channel's receivers may have.

    Attributes:
        start: Where the receivers begin if they have no position in the log yet: "now" (the
            default), "oldest", or an aware datetime.
        max_attempts: How many times an entry is tried before it becomes a dead letter; 5 by
            default.
        on_failure: "dead_letter" (the default), or "stop": then nothing later is delivered until
            the entry succeeds.
        max_lag: A `MaxLag`: how far the receivers may be behind. What is beyond is dropped, and
            `gap` is sent. By default, there is no limit.
        max_age: How long an entry may wait before the listener counts as not ready. By default,
            there is no limit.
    """

    start: Start | None
    max_attempts: int | None
    on_failure: str | None
    max_lag: MaxLag | None
    max_age: timedelta | None


def check_receiver_options(name: str, given: Mapping[str, Any], *, durable: bool) -> dict[str, Any]:
    """Return the options that were given for a channel, without those that are None.

    Args:
        name: The name of the channel.
        given: The options.
        durable: Whether the channel is durable.

    Raises:
        UnknownOptionError: There is no such option.
        ImproperlyConfigured: The channel isn't durable.
        ArgumentTypeError: An option has the wrong type.
        ConfigurationError: A value is out of range.
    """
    known = ReceiverOptions.__annotations__
    for option in given.keys() - known.keys():
        raise UnknownOptionError(
            f"channel {name!r}: {option}= is not an option of channels; {suggest(option, known)}"
        )
    options = {option: value for option, value in given.items() if value is not None}
    if options and not durable:
        raise ImproperlyConfigured(
            f"channel {name!r}: {next(iter(options))}= is for durable channels: add durable=True"
        )
    every = {option: options.get(option) for option in known}
    check_durability(RECEIVERS, durable, on_gap=None, **every)
    return options
