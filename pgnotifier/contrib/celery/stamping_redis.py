"""Stamp messages for Redis and Valkey, as the text that is pushed to a list there."""

import operator
import re
import secrets
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from kombu import compression
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping import (
    CeleryStamp,
    UnstampableError,
    dump,
    encode_json,
    make_serializer,
    new_tags,
    undated,
)
from pgnotifier.contrib.celery.targets import CeleryTarget, Given, origin, origin_as_json
from pgnotifier.dispatch import Delivery

_compress: Any = compression.compress
_MARK = secrets.token_hex(8)
"""A mark that no message contains. It is the same for all stamps, because Python caches each
regular expression.
"""
_PLACES = ("id", "tag", "body", "repr", "origin", "trace")
"""The names of the placeholders, in the order in which a message's values are given."""
_PLACE = re.compile(f"{_MARK}({'|'.join(_PLACES)}){_MARK}")


class RedisMessage(msgspec.Struct, frozen=True, gc=False):
    """A message, and the key of the list that it is pushed to."""

    key: str
    data: bytes


class RedisStamp(CeleryStamp):
    """A message as Redis holds it, split at the placeholders.

    Attributes:
        key: The key of the list that these messages are pushed to.
    """

    def __init__(self, like: Published, target: CeleryTarget, channel: Any) -> None:
        """Make the stamp of a message.

        Raises:
            UnstampableError: Messages like this one can't be stamped.
        """
        super().__init__(like, target)
        queue, message = like.seen[0] if len(like.seen) == 1 else (None, {})
        if queue is None:
            raise UnstampableError("its messages don't go to exactly one queue")
        if message["properties"]["delivery_info"]["exchange"]:
            raise UnstampableError("the queues that are bound to its exchange may change")
        if queue in (getattr(channel, "_expires", None) or ()):
            raise UnstampableError("its queue expires")
        priority = channel._get_message_priority(message, reverse=False)  # noqa: SLF001
        self.key: str = channel._q_for_pri(queue, priority)  # noqa: SLF001
        self.is_dated = bool(message["headers"]["eta"] or message["headers"]["expires"])
        headers, _ = self.split(message["headers"])
        self._template, places = _take_apart({**message, "headers": headers})
        self._choose = operator.itemgetter(*map(_PLACES.index, places))
        self._tags = new_tags()  # a child makes its own stamps, as it has its own connection
        self._serialize = make_serializer(like)
        self._compression = like.compression
        self._channel = channel
        self._is_base64 = message["properties"]["body_encoding"] == "base64"

    def press(self, given: Given, task_id: str) -> RedisMessage:
        """Return a message with the key of its list."""
        added = self.added(given.added, given.origin)
        return RedisMessage(self.key, self.press_data(given, task_id, next(self._tags), added))

    def press_all(
        self,
        target: CeleryTarget,
        deliveries: Sequence[Delivery],
        ids: Sequence[str],
        added: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[RedisMessage]:
        """Return the messages, as `press` makes them, in two thirds of the time."""
        key, template, choose, tags = self.key, self._template, self._choose, self._tags
        made = []
        for at, arguments in enumerate(target.arguments_of(deliveries)):
            positional, arrived = self.positional(arguments), deliveries[at].notification
            values = (
                ids[at].encode(),
                next(tags).encode(),
                self._encode(positional),
                self._show_as_json(positional),
                origin_as_json(arrived),
                _as_more(self.added(added[at], origin(arrived))) if added else b"",
            )
            made.append(RedisMessage(key, template % choose(values)))
        return made

    def press_data(
        self, given: Given, task_id: str, tag: str, added: Mapping[str, Any] = MappingProxyType({})
    ) -> bytes:
        """Return the text of a message, in UTF-8.

        Args:
            given: What the task gets from the notification.
            task_id: The task's id.
            tag: The delivery tag, which kombu's transport needs.
            added: The tracing headers.
        """
        positional = self.positional(given.arguments)
        values = (
            task_id.encode(),
            tag.encode(),
            self._encode(positional),
            self._show_as_json(positional),
            encode_json(given.origin),
            _as_more(added),
        )
        made: bytes = self._template % self._choose(values)
        return made

    def _show_as_json(self, positional: Any) -> bytes:
        """Return the arguments as monitors show them, as the content of a JSON string."""
        return encode_json(self.show(positional))[1:-1]

    def find_difference(self, other: Published) -> str | None:
        """Return which part of another message the stamp makes differently."""
        if len(other.seen) != 1:
            return "queues"
        _, theirs = other.seen[0]
        properties = theirs["properties"]
        data = self.press_data(
            other.given, properties["correlation_id"], properties["delivery_tag"]
        )
        mine = kombu_json.loads(data)
        headers, _ = self.split(theirs["headers"])
        theirs = {**theirs, "headers": headers}
        for part in ("headers", "properties", "content-type", "content-encoding"):
            # Compare after a round trip through JSON, which turns tuples into lists.
            if kombu_json.loads(dump(undated(theirs[part]))) != undated(mine[part]):
                return part
        return None

    def _encode(self, positional: Any) -> bytes:
        data = self._serialize(positional)
        if self._compression:
            data, _ = _compress(data, self._compression)
        if self._is_base64 and isinstance(data, bytes):
            return b2a_base64(data, newline=False)
        text: str
        text, _ = self._channel.encode_body(data, self._channel.body_encoding)
        return text.encode()


def _as_more(headers: Mapping[str, Any] | None) -> bytes:
    """Return headers as JSON that comes after that of others."""
    return b"," + encode_json(headers)[1:-1] if headers else b""


def _take_apart(message: Any) -> tuple[bytes, list[str]]:
    """Return the message's JSON as a template for `%`, and the names of its placeholders."""
    mark = _MARK
    task_id = message["properties"]["correlation_id"]
    headers = {
        **message["headers"],
        "argsrepr": f"{mark}repr{mark}",
        "pgnotifier": f"{mark}origin{mark}",
        f"{mark}trace{mark}": 0,
    }
    for name, value in headers.items():
        if value == task_id:
            headers[name] = f"{mark}id{mark}"
    properties = {
        **message["properties"],
        "correlation_id": f"{mark}id{mark}",
        "delivery_tag": f"{mark}tag{mark}",
    }
    opened = {
        **message,
        "body": f"{mark}body{mark}",
        "headers": headers,
        "properties": properties,
    }
    # The origin is an object. All others are strings, and keep their quotes.
    text = dump(opened).replace(f'"{mark}origin{mark}"', f"{mark}origin{mark}")
    # The tracing headers come after the last header, if there are any.
    text = text.replace(f', "{mark}trace{mark}": 0', f"{mark}trace{mark}")
    pieces = _PLACE.split(text)
    template = "%b".join(piece.replace("%", "%%") for piece in pieces[::2])
    return template.encode(), pieces[1::2]
