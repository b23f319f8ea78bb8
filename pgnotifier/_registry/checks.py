"""Check the channel names and subscription ids that users give."""

from collections.abc import Hashable, Iterable

from pgnotifier._connection.parameters import MAX_NAME_BYTES
from pgnotifier.errors import ArgumentTypeError, ChannelNameError

RESERVED = "pgnotifier:"
"""The prefix of the log's outbox channels. Whoever publishes on these has tasks run."""


def check_channel(name: object) -> str:
    """Return the name if PostgreSQL can LISTEN to it.

    Raises:
        ArgumentTypeError: It isn't a str.
        ChannelNameError: It is empty, over 63 bytes of UTF-8, or contains NUL or a lone surrogate.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a channel must be a str, not {type(name).__name__}: {name!r:.80}")
    if not name:
        raise ChannelNameError("a channel name must not be empty")
    if "\x00" in name:
        raise ChannelNameError(f"channel {name!r:.80} contains NUL, which PostgreSQL refuses")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ChannelNameError(
            f"channel {name!r:.80} contains a lone surrogate; it must be valid Unicode"
        ) from None
    if size > MAX_NAME_BYTES:
        raise ChannelNameError(
            f"channel {name!r:.80} has {size} bytes; PostgreSQL takes {MAX_NAME_BYTES} at most"
        )
    return name


def is_reserved(channel: str) -> bool:
    """Return whether the log reserves a channel for outboxes."""
    return channel.startswith(RESERVED)


def check_unreserved(channel: str) -> str:
    """Return the name of a channel if it isn't reserved for outboxes.

    Raises:
        ChannelNameError: It is the channel of an outbox.
    """
    if is_reserved(channel):
        raise ChannelNameError(
            f"channel {channel!r} is reserved: those that begin with {RESERVED!r} are outboxes, "
            "which keep tasks and jobs until they are relayed. Choose another name"
        )
    return channel


def check_channels(channels: object) -> list[str]:
    """Check the names in a str or an iterable of str; return them in order, without duplicates."""
    if isinstance(channels, str):
        return [check_channel(channels)]
    if not isinstance(channels, Iterable) or isinstance(channels, bytes | bytearray):
        raise ArgumentTypeError(
            f"channels must be a str or an iterable of str, not {type(channels).__name__}"
        )
    return list(dict.fromkeys(check_channel(name) for name in channels))


def check_id(id: object) -> Hashable:
    """Return the id of a subscription if it is valid.

    Raises:
        ArgumentTypeError: It isn't hashable.
    """
    try:
        hash(id)
    except TypeError as exc:
        raise ArgumentTypeError(
            f"a subscription id must be hashable, and {id!r:.80} is not ({exc}); "
            "use a tuple or frozenset instead of a list or set"
        ) from None
    return id


_NOBODY = object()


def check_callable(name: str, value: object, of: object = _NOBODY) -> None:
    """Check that a value can be called.

    Args:
        name: The name that users know it by.
        value: The value.
        of: The id of the subscription that it was given for, if any.

    Raises:
        ArgumentTypeError: It isn't callable.
    """
    if not callable(value):
        where = "" if of is _NOBODY else f"subscription {of!r:.80}: "
        raise ArgumentTypeError(f"{where}{name} must be callable, not {value!r:.80}")
