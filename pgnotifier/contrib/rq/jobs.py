"""Jobs on the worker's side: the callback gets the very arguments that it would have got inline.

With RQ's own serializer, which is pickle, a job is a call of the callback itself. Others have no
such types, so that `call` brings them back.
"""

from collections.abc import Hashable
from typing import Any

from rq.utils import import_attribute

from pgnotifier.dispatchers.carrying import pack, unpack
from pgnotifier.errors import DispatcherMismatchError, PayloadEncodingError
from pgnotifier.notification import Notification
from pgnotifier.payload import decode, encode_exactly, exact_json

TEXT = "__pgnotifier_raw__"
"""The one key of the dict that stands for a payload which travels as its text, or a batch."""


def call(path: str, id: str, channel: str, carried: Any, pid: int) -> Any:
    """Call a callback, as the job of a queue whose serializer isn't pickle.

    Args:
        path: Where to import it from.
        id: The subscription's, as `write_id` wrote it.
        channel: The channel.
        carried: The payload, as `carry` returned it.
        pid: The notifying session's.
    """
    if isinstance(carried, dict) and carried.keys() == {TEXT}:
        carried = unpack(carried[TEXT])
    return import_attribute(path)(decode(id), channel, carried, pid)


def write_id(id: Hashable) -> str:
    """Return the text of an id.

    Raises:
        DispatcherMismatchError: It is neither JSON nor a Python literal.
    """
    try:
        return encode_exactly(id)
    except PayloadEncodingError:
        raise DispatcherMismatchError(
            f"id {id!r:.80} can't be written for the queue's serializer; use a str or a tuple, or "
            "a queue with RQ's own serializer"
        ) from None


def carry(arrived: Notification, *, decodes_alike: bool) -> Any:
    """Return what travels in a payload's place.

    Args:
        arrived: The notification, or what was gathered.
        decodes_alike: Whether its text means to a worker what it meant here.

    Raises:
        PayloadEncodingError: Neither the payload nor its text could bring it back.
    """
    payload = arrived.payload
    # Each payload of a batch may nest as deep as one by itself.
    values = payload if arrived.parts else (payload,)
    if all(map(exact_json, values)) and not (isinstance(payload, dict) and TEXT in payload):
        return payload
    if not decodes_alike:
        odd = next((type(one).__name__ for one in values if not exact_json(one)), "dict")
        raise PayloadEncodingError(
            f"the decoder of the notifier made a {odd} of a payload, which the "
            "queue's serializer can't carry; use a queue with RQ's own serializer"
        )
    return {TEXT: pack(arrived)}
