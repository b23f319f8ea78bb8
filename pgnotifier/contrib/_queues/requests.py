"""Read a task or job that was enqueued from SQL, as JSON."""

from typing import TypeVar

import msgspec

from pgnotifier._payload.nesting import JSON_DEPTH
from pgnotifier.payload import decode

R = TypeVar("R")


def read_request(text: str, kind: type[R]) -> R:
    """Return the struct that a JSON object stands for. Its numbers keep their digits.

    Args:
        text: The JSON.
        kind: The struct to make of it.

    Raises:
        msgspec.ValidationError: It isn't one. The message names types and places, but no value.
    """
    values = decode(text)
    if not isinstance(values, dict):
        raise msgspec.ValidationError(
            f"it nests more than {JSON_DEPTH} levels deep, or has a number with over 4,300 digits"
        )
    return msgspec.convert(values, kind)
