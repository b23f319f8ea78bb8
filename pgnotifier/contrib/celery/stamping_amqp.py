"""Stamp messages for RabbitMQ as the bytes that go over the wire.

py-amqp encodes one message of Celery's; the stamp fills in the parts that differ. Frames are
described in https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, section 4.2.
"""

import functools
import math
import re
import secrets
from collections.abc import Mapping
from struct import error, pack
from typing import Any

from amqp import basic_message, exceptions, method_framing, serialization, spec
from kombu import compression

from pgnotifier.contrib.celery.errors import MessageRefusedError
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping import UnstampableError
from pgnotifier.contrib.celery.stamping_kombu import KombuStamp
from pgnotifier.contrib.celery.targets import CeleryTarget, Given
from pgnotifier.errors import in_one_line

_Message: Any = basic_message.Message
_frame_writer: Any = method_framing.frame_writer
_encode: Any = serialization.dumps
_compress: Any = compression.compress
_PUBLISH: Any = spec.Basic.Publish

# Placeholders that no message contains, as long as an id, so that the encoded lengths are right.
# They are the same for all stamps, because Python caches each regular expression.
_MARKS = {name: secrets.token_hex(18).encode() for name in (b"id", b"repr", b"origin")}
_PLACE = re.compile(b"(" + b"|".join(_MARKS.values()) + b")")

_METHOD, _HEADER, _BODY = 1, 2, 3  # frame types
_OVERHEAD, _BEFORE_PROPERTIES = 8, 12  # bytes
UNSENDABLE: Any = (error, ValueError, exceptions.FrameSyntaxError)
"""The errors of properties that can't be encoded."""


class AmqpStamp(KombuStamp):
    """The frames of a message, with placeholders in its properties."""

    def __init__(self, like: Published, target: CeleryTarget, channel: Any) -> None:
        """Make the stamp of a message.

        Raises:
            UnstampableError: Messages like this one can't be stamped.
        """
        super().__init__(like, target)
        if len(like.seen) != 1:
            raise UnstampableError("it isn't published exactly once")
        ((message, where),) = like.seen
        self._channel = channel
        self._method = encode_frames(channel, where)
        self._before, self._table, self._after = _take_apart(self._own(message.properties))

    def press(self, given: Given, task_id: str) -> bytes:
        """Return the frames of a message."""
        positional = self.positional(given.arguments)
        body = self._make_body(positional)
        values = {
            b"id": task_id.encode(),
            b"repr": _encode_text(self.show(positional)),
            b"origin": _encode_table(tuple(given.origin.items())),
        }
        table = _fill(self._table, values)
        if added := self.added(given.added, given.origin):
            table += _encode("F", [added])[4:]  # without its length
        properties = (self._before, pack(">I", len(table)), table, _fill(self._after, values))
        return join_frames(self._channel, self._method, b"".join(properties), body)

    def find_difference(self, other: Published) -> str | None:
        """Return which part of another message the stamp makes differently."""
        found = super().find_difference(other)
        if found is None and not self.is_dated:
            ((message, where),) = other.seen
            # Encode the body again, because JSON can be written in more than one way.
            body = self._make_body(self.positional(other.given.arguments))
            properties = self._own(message.properties)
            theirs = encode_frames(self._channel, where, _Message(body, **properties))
            given = Given(other.given.arguments, other.given.origin)
            if theirs != self.press(given, other.settings["correlation_id"]):
                return "frames"
        return found

    def _own(self, properties: dict[str, Any]) -> dict[str, Any]:
        """Return the properties of a message without tracing headers."""
        headers, _ = self.split(properties["application_headers"])
        return {**properties, "application_headers": headers}

    def _make_body(self, positional: Any) -> bytes:
        body = self._serialize(positional)
        if self._like.compression:
            body, _ = _compress(body, self._like.compression)
        return body.encode() if isinstance(body, str) else body


def encode_frames(channel: Any, where: dict[str, Any], message: Any = None) -> bytes:
    """Return what py-amqp sends for a message; without one, only the `basic.publish` frame."""
    sent: list[bytes] = []

    class Wire:
        """Stands in for a transport."""

        def write(self, data: Any) -> None:
            """Record what would be sent."""
            sent.append(bytes(data))

    names = ("exchange", "routing_key", "mandatory", "immediate")
    arguments = _encode("Bssbb", [0, *(where[name] for name in names)])
    write = _frame_writer(channel.connection, Wire())
    write(_METHOD, channel.channel_id, _PUBLISH, arguments, message)
    return b"".join(sent)


def join_frames(channel: Any, method: bytes, properties: bytes, body: bytes) -> bytes:
    """Return the frames of a message.

    Args:
        channel: The channel that it is sent on.
        method: The `basic.publish` frame.
        properties: The encoded properties.
        body: The body.

    Raises:
        MessageRefusedError: The properties are too large.
    """
    check_size(channel, properties)
    room = channel.connection.frame_max - _OVERHEAD
    header = pack(">HHQ", 60, 0, len(body)) + properties
    parts = [(_HEADER, header)]
    parts += [(_BODY, body[at : at + room]) for at in range(0, len(body), room)]
    number = channel.channel_id
    frames = (pack(">BHI", kind, number, len(one)) + one + b"\xce" for kind, one in parts)
    return b"".join((method, *frames))


def check_message(channel: Any, message: Any) -> None:
    """Check that RabbitMQ doesn't close the connection over a message that Celery has made.

    Raises:
        MessageRefusedError: It would.
    """
    try:
        check_finite(message.properties.get("application_headers") or {})
    except ValueError as exc:
        raise unsendable(exc) from None
    # py-amqp encodes them once more, which takes a while. No encoding is eight times as long as
    # the repr, so most messages are small enough anyway.
    if len(repr(message.properties)) * 8 > channel.connection.frame_max:
        check_size(channel, message._serialize_properties())  # noqa: SLF001


def unsendable(exc: BaseException) -> MessageRefusedError:
    """Return the error for a message with properties that can't be encoded."""
    return MessageRefusedError(f"its properties can't be sent to RabbitMQ: {in_one_line(exc)}")


def check_size(channel: Any, properties: bytes) -> None:
    """Check that the properties of a message fit into one frame.

    They can't be split, and RabbitMQ closes the connection over a frame that is too large.

    Raises:
        MessageRefusedError: They don't fit.
    """
    most = channel.connection.frame_max - _OVERHEAD - _BEFORE_PROPERTIES
    if len(properties) > most:
        raise MessageRefusedError(
            f"its headers and other properties take {len(properties)} bytes, and RabbitMQ accepts "
            f"{most} at most"
        )


def check_finite(headers: Mapping[str, Any]) -> None:
    """Check that no header is NaN or infinite: RabbitMQ closes the connection over such a number.

    Raises:
        ValueError: One is, or contains such a number.
    """
    for name, value in headers.items():
        if not _is_finite(value):
            raise ValueError(f"the header {name!r:.80} is or contains NaN or an infinite number")


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_finite, value))


def _encode_text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return pack(">I", len(encoded)) + encoded


@functools.lru_cache(maxsize=16)  # notifications received together often have the same origin
def _encode_table(items: tuple[tuple[str, Any], ...]) -> bytes:
    encoded: bytes = _encode("F", [dict(items)])
    return encoded


Pieces = list[bytes]
"""Bytes, alternating with the names of the placeholders between them."""


def _take_apart(properties: dict[str, Any]) -> tuple[bytes, Pieces, Pieces]:
    """Return the encoded properties of a message: before the headers, the headers, after them."""
    headers, task_id = properties["application_headers"], properties["correlation_id"]
    text = {name: mark.decode() for name, mark in _MARKS.items()}
    marked = {
        name: text[b"id"] if value == task_id else value for name, value in headers.items()
    } | {"argsrepr": text[b"repr"], "pgnotifier": text[b"origin"]}
    table: bytes = _encode("F", [marked])
    opened = {**properties, "correlation_id": text[b"id"], "application_headers": marked}
    message = _Message(**opened)
    whole: bytes = message._serialize_properties()  # noqa: SLF001 - there is no public method
    before, _, after = whole.partition(table)
    # A string is encoded as S, its length and its bytes. The origin will be a table, which begins
    # with F.
    for name, kind, becomes in ((b"repr", b"S", b"S"), (b"origin", b"S", b"F")):
        encoded = kind + _encode("S", [_MARKS[name]])
        table = table.replace(encoded, becomes + _MARKS[name])
    return before, _cut(table[4:]), _cut(after)


def _cut(whole: bytes) -> Pieces:
    names = {mark: name for name, mark in _MARKS.items()}
    pieces = _PLACE.split(whole)
    pieces[1::2] = [names[mark] for mark in pieces[1::2]]
    return pieces


def _fill(pieces: Pieces, values: dict[bytes, bytes]) -> bytes:
    parts = pieces.copy()
    parts[1::2] = [values[name] for name in parts[1::2]]
    return b"".join(parts)
