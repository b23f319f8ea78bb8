"""Read what an outbox holds: finished messages, and tasks that were enqueued from SQL.

A finished message is the text that kombu's Redis transport would push to a list. Only the parts
that decide where it goes are read, and its arguments stay as they are.
"""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from kombu.utils import json as kombu_json

from pgnotifier.contrib._queues.requests import read_request
from pgnotifier.contrib.celery.errors import MessageFormatError
from pgnotifier.contrib.celery.outbox_messages import Destination, read_priority


class _DeliveryInfo(msgspec.Struct, gc=False):
    exchange: str
    routing_key: str


class _Properties(msgspec.Struct, gc=False):
    delivery_tag: str
    delivery_info: _DeliveryInfo
    priority: Any = None


class _Headers(msgspec.Struct, gc=False):
    task: str = ""


class Finished(msgspec.Struct, gc=False, rename={"content_type": "content-type"}):
    """The parts of a finished message that are read to forward it as it is."""

    body: str
    content_type: str
    headers: _Headers
    properties: _Properties

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        where = self.properties.delivery_info
        priority = read_priority(self.properties.priority)
        return Destination(where.exchange, where.routing_key, priority)


class Message(msgspec.Struct, frozen=True, gc=False):
    """A finished message.

    Attributes:
        text: The message as kombu's transport for Redis has it.
        task: The name of the task.
        destination: Where it goes.
    """

    text: str
    task: str
    destination: Destination

    def open(self) -> "Content":
        """Return the parts of the message, for other transports."""
        return open_content(self.text.encode())


_OF_TRANSPORT = frozenset({"body_encoding", "delivery_info", "delivery_tag", "priority"})
"""The properties that other transports make themselves."""


class Content(NamedTuple):
    """The parts of a message.

    Attributes:
        body: The serialized body.
        content_type: How it is serialized.
        content_encoding: How it is encoded.
        headers: The headers.
        properties: The other properties: `correlation_id`, `delivery_mode` and so on.
    """

    body: str | bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


def open_content(data: bytes) -> Content:
    """Return the parts of a finished message, given its UTF-8."""
    # kombu's own decoder makes dates of the objects that its encoder has made of dates, and reads
    # what msgspec refuses: see `_read_leniently`.
    try:
        load = _decode_types if b'"__type__"' in data else msgspec.json.decode
        whole: dict[str, Any] = load(data)
    except msgspec.DecodeError:
        whole = _decode_types(data)
    properties: dict[str, Any] = whole["properties"]
    encoding = whole.get("content-encoding") or "utf-8"
    body: str | bytes = whole["body"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    given = {
        name: value
        for name, value in properties.items()
        if name not in _OF_TRANSPORT and value is not None
    }
    return Content(body, whole["content-type"], encoding, whole["headers"], given)


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A task that was enqueued from SQL, with `pgnotifier.enqueue()`.

    Attributes:
        task: The name of the task.
        id: The task's id. Default: one that is made from the entry's number.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        queue: Its queue. Default: as the app's routes say.
        eta: When it may begin.
        expires: When it expires.
        priority: Its priority.
        headers: Headers of the message.
    """

    task: str
    id: str | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    queue: str | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    priority: int | None = None
    headers: dict[str, Any] | None = None


_UNREADABLE = (msgspec.DecodeError, UnicodeEncodeError, RecursionError)
_decode_types: Any = kombu_json.loads
_read_message = msgspec.json.Decoder(Finished).decode
_read_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read(text: str) -> Message | Request:
    """Return what an entry of the outbox holds.

    Raises:
        MessageFormatError: It is neither a message nor a request.
    """
    try:
        found = _read_message(text)
    except _UNREADABLE as exc:
        lenient = _read_leniently(text, exc)
        if lenient is None:
            return _read_other(text, exc)
        found = lenient
    return Message(text, found.headers.task, found.destination)


def read_finished(data: bytes) -> Finished | None:
    """Return the parts of a finished message that are needed; None if it needs a closer look."""
    try:
        return _read_message(data)
    except _UNREADABLE:
        return None


def _read_leniently(text: str, problem: Exception) -> Finished | None:
    """Return a message with things that kombu writes and msgspec refuses: NaN, lone surrogates.

    A file name may have such a surrogate, and Celery describes arguments in the headers.
    """
    if type(problem) is not msgspec.DecodeError:  # it is JSON, but no message
        return None
    try:
        return msgspec.convert(json.loads(text), Finished)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def _read_other(text: str, problem: Exception) -> Request:
    try:
        names = _read_names(text).keys()
        if "body" not in names and "task" in names:
            return read_request(text, Request)
    except _UNREADABLE as exc:
        problem = exc
    # msgspec names types and places, and never a value.
    raise MessageFormatError(
        f"this is neither a message of Celery's nor a task that SQL has asked for: {problem}"
    ) from None
