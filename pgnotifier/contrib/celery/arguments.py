"""Carry a callback's four arguments through a message, so that they keep their values and types."""

from collections.abc import Hashable
from typing import Any

from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery import trees
from pgnotifier.dispatchers.carrying import RAW, wrap
from pgnotifier.notification import Notification
from pgnotifier.payload import exact_json

_ENVELOPE = {"__type__", "__value__"}


def is_native(value: Any) -> bool:
    """Return whether a value passes through kombu's JSON unchanged.

    Kombu decodes a dict with the keys `__type__` and `__value__` to a value of that type, and fails
    in the worker if it doesn't know the type. Any session of the database could send such a dict.
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


# --- tasks made of callbacks: this package also runs in the worker ------------------------------


def show_id(id: Hashable) -> str:
    """Return an id for people who read messages. Workers don't use it."""
    return id if type(id) is str else ascii(id)


def wrap_payload(arrived: Notification, serializer: str) -> Any:
    """Return the payload in the form that the message of a callback's task carries.

    This is the payload itself if the serializer keeps all of its types. Otherwise it is the text
    of the payload, or of each payload of a batch, and the worker decodes it again. The text is
    ASCII, which no serializer changes.

    Args:
        arrived: The notification, or several that were gathered.
        serializer: The name of the message's serializer.
    """
    if serializer in ("json", "pickle") and is_native(arrived.payload):
        return arrived.payload
    return wrap(arrived)


# --- the user's own tasks: the worker calls them directly ---------------------------------------


class Exact:
    """Wraps a value, so that kombu's JSON decodes it to the same value, whatever its type.

    This works in workers that import `pgnotifier.contrib.celery`; see
    https://docs.celeryq.dev/projects/kombu/en/stable/userguide/serialization.html.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)  # monitors show this as the task's argument


kombu_json.register_type(Exact, "pgnotifier", lambda exact: trees.pack(exact.value), trees.unpack)


def wrap_exact(value: Any) -> Any:
    """Return the value itself if kombu's JSON keeps it; otherwise, wrapped in `Exact`."""
    return value if is_native(value) else Exact(value)
