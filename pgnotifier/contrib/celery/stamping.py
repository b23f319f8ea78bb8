"""Stamping: Celery builds the first messages of a subscription; all others are made like them.

Routing, headers, priority, limits, stamps and the like are Celery's own result. What differs
from message to message is filled in: ids, arguments and their repr. Times (`eta`, `expires`)
are taken over within a batch only.

https://docs.celeryq.dev/en/stable/internals/protocol.html has what messages consist of.
"""

import base64
import operator
import os
import re
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from kombu import compression, serialization
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.argsrepr import show_arguments
from pgnotifier.contrib.celery.arguments import Exact
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.targets import Arguments, Target

_dump: Any = kombu_json.dumps
_compress: Any = compression.compress
_serialize: Any = serialization.dumps
_json = msgspec.json.Encoder().encode


class UnstampableError(Exception):
    """Why the messages of a subscription can't be made without Celery."""


class Stamp:
    """A message, with places for what differs in others of its subscription.

    Attributes:
        key: The Redis list that these messages are put into.
        is_dated: Whether they hold times.
    """

    def __init__(self, like: Published, target: Target, channel: Any) -> None:
        """Make the stamp of a message.

        Raises:
            UnstampableError: It can't be one.
        """
        queue, message = like.put[0] if len(like.put) == 1 else (None, {})
        if queue is None:
            raise UnstampableError("its messages don't go to one queue each")
        if message["properties"]["delivery_info"]["exchange"]:
            raise UnstampableError("what is bound to its exchange may change")
        if queue in (getattr(channel, "_expires", None) or ()):
            raise UnstampableError("its queue expires")
        priority = channel._get_message_priority(message, reverse=False)  # noqa: SLF001
        self.key: str = channel._q_for_pri(queue, priority)  # noqa: SLF001
        self.is_dated = bool(message["headers"]["eta"] or message["headers"]["expires"])
        self._texts, self._places = _take_apart(message)
        self._positional = _find_positional(like)
        self._encode = _make_encoder(like, channel)
        self._size = target.app.amqp.argsrepr_maxsize
        self._levels = target.app.conf.task_repr_maxlevels

    def press(self, given: Arguments, task_id: str, tag: str) -> str:
        """Return a message in the form that Redis holds.

        Args:
            given: The four arguments that come from the notification.
            task_id: A UUID.
            tag: Another one, for the transport.
        """
        positional = self._positional(given)
        shown = show_arguments(positional, self._size, self._levels)
        values = {
            "id": task_id,
            "tag": tag,
            "body": self._encode(positional),
            "repr": _json(shown).decode()[1:-1],
        }
        parts = self._texts.copy()
        parts[1::2] = [values[place] for place in self._places]
        return "".join(parts)

    def check(self, other: Published) -> None:
        """Compare what Celery made of other arguments with what the stamp does.

        Raises:
            UnstampableError: They differ in more than ids and times.
        """
        if len(other.put) != 1:
            raise UnstampableError("its messages go to different queues")
        _, theirs = other.put[0]
        properties = theirs["properties"]
        text = self.press(other.given, properties["correlation_id"], properties["delivery_tag"])
        mine = kombu_json.loads(text)
        if self._positional(other.given) != other.body[0]:
            raise UnstampableError("its arguments are changed on their way")
        for part in ("headers", "properties", "content-type", "content-encoding"):
            theirs_then, mine_then = _undated(theirs[part]), _undated(mine[part])
            # Through JSON, as there are tuples in it.
            if kombu_json.loads(_dump(theirs_then)) != mine_then:
                raise UnstampableError(f"the {part} differ from message to message")


def new_id() -> str:
    """Return a random UUID."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _take_apart(message: Any) -> tuple[list[str], list[str]]:
    """Return the message's JSON in pieces, every second one a place, and what the places hold."""
    mark = secrets.token_hex(8)
    task_id = message["properties"]["correlation_id"]
    headers = {**message["headers"], "argsrepr": f"{mark}repr{mark}"}
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
    pieces = re.split(f"{mark}(id|tag|body|repr){mark}", _dump(opened))
    return pieces, pieces[1::2]


def _begins_with(positional: Any, given: Arguments) -> bool:
    return len(positional) >= len(given) and all(map(operator.is_, positional, given))


def _find_positional(like: Published) -> Callable[[Arguments], Any]:
    """Return what makes a task's positional arguments of the four, as was done for this one."""
    positional, given = like.body[0], like.given
    if not _begins_with(positional, given):
        return lambda _: positional  # an immutable signature's
    kind, own = type(positional), positional[len(given) :]
    return lambda four: kind([*four, *own])


def _make_encoder(like: Published, channel: Any) -> Callable[[Any], str]:
    """Return what makes the message's body of the positional arguments."""
    _, kwargs, embedded = like.body
    properties = like.put[0][1]["properties"]
    if (
        like.serializer == "json"
        and not like.compression
        and properties["body_encoding"] == "base64"
    ):
        count = len(like.given) if _begins_with(like.body[0], like.given) else 0
        own = "".join(f", {_dump(value)}" for value in like.body[0][count:])
        start = b"[[" if count else b"[[" + own[2:].encode()
        ending = f"{own if count else ''}], {_dump(kwargs)}, {_dump(embedded)}]".encode()

        def encode_json(positional: Any) -> str:
            four = b", ".join(map(_encode_exact, positional[:count]))
            return base64.b64encode(start + four + ending).decode("ascii")

        return encode_json

    def encode(positional: Any) -> str:
        *_, data = _serialize((positional, kwargs, embedded), like.serializer)
        if like.compression:
            data, _ = _compress(data, like.compression)
        text: str
        text, _ = channel.encode_body(data, channel.body_encoding)
        return text

    return encode


def _encode_exact(value: Any) -> bytes:
    encoded: bytes = _dump(value).encode() if type(value) is Exact else _json(value)
    return encoded


def _undated(part: Any) -> Any:
    if isinstance(part, dict):
        return {k: v for k, v in part.items() if k not in ("eta", "expires", "expiration")}
    return part
