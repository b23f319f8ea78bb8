"""Callbacks that record their calls, for the contract of dispatchers."""

from collections.abc import Hashable
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A call of a callback.

    Attributes:
        name: The callback: `first`, `second` or `failing`.
        id: The subscription's id.
        channel: The notification's channel.
        payload: Its payload.
        pid: The notifying session's process id.
    """

    name: str
    id: Hashable
    channel: str
    payload: Any
    pid: int


CALLS: list[Call] = []
"""All calls, in order."""


def first(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Record a call."""
    CALLS.append(Call("first", id, channel, payload, pid))


def second(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Record a call, as another callback."""
    CALLS.append(Call("second", id, channel, payload, pid))


def failing(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Record a call, and raise."""
    CALLS.append(Call("failing", id, channel, payload, pid))
    raise ValueError("this callback always fails")
