"""Call callbacks in an RQ worker with exactly the arguments that they would have got inline.

With RQ's default serializer, pickle, a job calls the callback itself. Other serializers have fewer
types, so the job calls `call`, which restores the arguments first.
"""

from collections.abc import Hashable
from typing import Any

from rq.utils import import_attribute

from pgnotifier.dispatchers.carrying import RAW, unwrap, wrap
from pgnotifier.errors import DispatcherMismatchError, PayloadEncodingError
from pgnotifier.notification import Notification
from pgnotifier.payload import decode, encode_exactly, exact_json


def call(path: str, id: str, channel: str, carried: Any, pid: int) -> Any:
    """Call a callback. This is the job of queues with another serializer than pickle.

    Args:
        path: The path to import the callback from.
        id: The subscription's id, as `write_id` returned it.
        channel: The channel.
        carried: The payload, as `carry` returned it.
        pid: The pid of the session that notified.
    """
    return import_attribute(path)(decode(id), channel, unwrap(carried), pid)


def write_id(id: Hashable) -> str:
    """Return an id as text.

    Raises:
        DispatcherMismatchError: Neither JSON nor a Python literal can hold the id.
    """
    try:
        return encode_exactly(id)
    except PayloadEncodingError:
        raise DispatcherMismatchError(
            f"id {id!r:.80} can't be written by the queue's serializer; use a str or a tuple, or "
            "a queue with RQ's default serializer"
        ) from None


def carry(arrived: Notification, *, decodes_alike: bool) -> Any:
    """Return what a job carries as the payload: the payload itself, or its text.

    Args:
        arrived: The notification, or several that were gathered.
        decodes_alike: Whether a worker decodes the text to the same payload.

    Raises:
        PayloadEncodingError: The payload can't be restored from either.
    """
    payload = arrived.payload
    # Check the payloads of a batch one by one, because each may be nested to the maximum depth.
    values = payload if arrived.parts else (payload,)
    if all(map(exact_json, values)) and not (isinstance(payload, dict) and RAW in payload):
        return payload
    if not decodes_alike:
        odd = next((type(one).__name__ for one in values if not exact_json(one)), "dict")
        raise PayloadEncodingError(
            f"the notifier's decoder returned a {odd}, which the queue's serializer can't write; "
            "use a queue with RQ's default serializer"
        )
    return wrap(arrived)
