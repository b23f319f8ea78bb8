"""The four arguments on their way through a message: the same values, of the same types."""

from collections.abc import Callable, Hashable
from typing import Any

from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery import trees
from pgnotifier.dispatchers.carrying import pack, unpack
from pgnotifier.notification import Notification
from pgnotifier.payload import exact_json

RAW = "__pgnotifier_raw__"
"""The one key of the dict that stands for a payload which travels as its text."""

_ENVELOPE = {"__type__", "__value__"}


def is_native(value: Any) -> bool:
    """Tell whether kombu's JSON brings a value back unchanged.

    It turns a dict with the keys `__type__` and `__value__` into something else, or fails in
    the worker if it can't: any session of the database could send one.
    """
    return exact_json(value) and not _is_reserved(value)


def _is_reserved(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        if RAW in value or value.keys() == _ENVELOPE:
            return True
        value = value.values()
    elif kind is not list:
        return False
    for item in value:
        kind = type(item)
        if (kind is dict or kind is list) and _is_reserved(item):
            return True
    return False


# --- tasks made of callbacks: both ends are ours ------------------------------------------------


def show_id(id: Hashable) -> str:
    """Return what stands for an id in a message, for those who read it; no worker does."""
    return id if type(id) is str else ascii(id)


def wrap_payload(arrived: Notification, serializer: str) -> Any:
    """Return what a message to one of our own tasks carries as the payload.

    The payload itself if every type survives; else its text, or those of a batch, which the
    worker decodes anew. That is in ASCII, which no serializer changes.

    Args:
        arrived: The notification, or what was gathered.
        serializer: The name of the message's serializer.
    """
    if serializer in ("json", "pickle") and is_native(arrived.payload):
        return arrived.payload
    return {RAW: pack(arrived)}


def restore_payload(carried: Any, decode: Callable[[str], Any]) -> Any:
    """Return the payload that a message carries: what `wrap_payload` was given."""
    if type(carried) is dict and RAW in carried:
        return unpack(carried[RAW], decode)
    return carried


# --- tasks of the user's own: the worker calls them without us ----------------------------------


class Exact:
    """A value that kombu's JSON decodes to that value itself, whatever its type.

    For workers that import `pgnotifier.contrib.celery`; see
    https://docs.celeryq.dev/projects/kombu/en/stable/userguide/serialization.html.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)  # this is what monitors show as the task's argument


kombu_json.register_type(Exact, "pgnotifier", lambda exact: trees.pack(exact.value), trees.unpack)


def wrap_exact(value: Any) -> Any:
    """Return the value if kombu's JSON leaves it as it is, else one that it turns into it."""
    return value if is_native(value) else Exact(value)
