"""What is sent on the private channels: questions, and answers in parts.

Anybody who may connect to the database can send on these channels. So both are input from outside:
limited in size, decoded to fixed types, and never evaluated.
"""

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Literal, TypeVar

import msgspec

from pgnotifier._inquiry.report import MOST_CHANNELS, ListenerReport

QUESTIONS = "pgnotifier_questions"
"""Where questions are sent. Listeners listen to it, except for standbys."""
ANSWERS = "pgnotifier_answers"
"""Where answers are sent. Whoever asks listens to it."""

QUESTION_BYTES = 2_000
"""The longest question."""
PART_BYTES = 7_500
"""The bytes of an answer in one notification, encoded."""
MOST_PARTS = 200
"""The most parts of an answer: a megabyte, compressed."""
MOST_BYTES = 32 << 20
"""The longest answer, uncompressed."""
MOST_PENDING = 5_000
"""How many parts of incomplete answers are kept."""
LONGEST_TEXT = 10_000
"""The longest text in an answer, in characters."""
LARGEST = 1 << 63
"""The largest number of an answer."""

_PART = re.compile(rb"([0-9a-f]{16}) ([0-9]{1,10}) ([0-9]{1,3})/([0-9]{1,3}) ([A-Za-z0-9+/=]+)")

Verb = Literal["mute", "unmute"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """Something that one listener is asked to do.

    Attributes:
        listener: The id of the listener.
        verb: What to do: `mute` or `unmute`.
        channel: With a channel.
        subscription: With this subscription of it, by the id that reports show; None for all.
    """

    listener: str
    verb: Verb
    channel: str
    subscription: str | None = None


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A question to all listeners, or an order for one.

    Attributes:
        id: Names the question, so that the outcome of its order can be recognized.
        session: The start of the asking session, as `pg_stat_activity` has it.
        order: What to do, if anything.
    """

    id: str = ""
    session: str = ""
    order: Order | None = None

    def encode(self) -> str:
        """Return the question as a payload in ASCII.

        Raises:
            ValueError: It is too long.
        """
        text = base64.b64encode(msgspec.json.encode(self)).decode()
        if len(text) > QUESTION_BYTES:
            raise ValueError("the question is too long")
        return text


def read_question(data: bytes) -> Inquiry | None:
    """Return the question that a payload contains; None if it isn't one."""
    if len(data) > QUESTION_BYTES:
        return None
    try:
        question = _decode(base64.b64decode(data, validate=True), Inquiry)
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        return None
    return question if _is_sound(question) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one listener to all questions that it got since the last one.

    Attributes:
        report: What the listener says about itself.
        outcomes: By the ids of questions with an order: why it was refused, or None.
    """

    report: ListenerReport
    outcomes: dict[str, str | None] = field(default_factory=dict)

    def encode(self, serial: int) -> list[str]:
        """Return the answer as payloads, in ASCII.

        Args:
            serial: Numbers the answers of a listener.

        Raises:
            ValueError: It is too long.
        """
        packed = base64.b64encode(zlib.compress(msgspec.json.encode(self), 1)).decode()
        parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
        if len(parts) > MOST_PARTS:
            raise ValueError(f"the answer has {len(parts)} parts, over {MOST_PARTS}")
        name = self.report.id
        return [f"{name} {serial} {n}/{len(parts)} {part}" for n, part in enumerate(parts, 1)]


class Assembler:
    """Puts the parts of answers together; what isn't one is ignored."""

    def __init__(self) -> None:
        """Begin without a part."""
        self._parts: dict[tuple[bytes, bytes], dict[int, bytes]] = {}
        self._pending = 0

    def take(self, data: bytes) -> Answer | None:
        """Take a payload; return the answer that it completes, if it does."""
        found = _PART.fullmatch(data)
        if found is None:
            return None
        name, serial, number, count = found[1], found[2], int(found[3]), int(found[4])
        if not 1 <= number <= count <= MOST_PARTS:
            return None
        known = self._parts.setdefault((name, serial), {})
        self._pending += number not in known
        known[number] = found[5]
        if len(known) < count:
            while self._pending > MOST_PENDING:
                self._pending -= len(self._parts.pop(next(iter(self._parts))))
            return None
        self._pending -= len(self._parts.pop((name, serial)))
        answer = _unpack(b"".join(known[n] for n in sorted(known)))
        return answer if answer is not None and answer.report.id.encode() == name else None


def _unpack(packed: bytes) -> Answer | None:
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(packed, validate=True), MOST_BYTES)
        if not unpacking.eof:  # it is cut off, or longer than that
            return None
        answer = _decode(data, Answer)
    except (msgspec.MsgspecError, binascii.Error, zlib.error, ValueError):
        return None
    report = answer.report
    if len(report.channels) > MOST_CHANNELS or len(report.subscriptions) > MOST_CHANNELS:
        return None
    # They may be thousands, and have nothing but texts, a count and a rate.
    fits = all(0 <= one.received <= LARGEST and one.rate is None for one in report.channels)
    return answer if fits and _is_sound(replace(report, channels=(), subscriptions=())) else None


def _decode(data: bytes, kind: type[T]) -> T:
    """Decode JSON to a type.

    Raises:
        ValueError: It isn't of that type, or is nested too deeply.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _is_sound(value: object) -> bool:
    """Return whether everything can be used in a calculation, shown, and sent to the server.

    So times are aware and no time zone shifts them out of the calendar, numbers are finite and of a
    size that occurs, and texts have no NUL, which PostgreSQL doesn't take.
    """
    if isinstance(value, datetime):
        return value.tzinfo is not None and MINYEAR < value.year < MAXYEAR
    if isinstance(value, int | float):
        return -LARGEST <= value <= LARGEST
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and "\0" not in value
    if isinstance(value, tuple):
        return all(map(_is_sound, value))
    if is_dataclass(value):
        return all(_is_sound(getattr(value, one.name)) for one in fields(value))
    return True
