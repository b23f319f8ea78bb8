"""Stamping: Celery builds the first messages of a subscription; all others are made like them.

Routing, headers, priority, limits, stamps and the like are Celery's own result. What differs
from message to message is filled in: ids, arguments and their repr, the origin. Times (`eta`,
`expires`) are taken over within a batch only.

https://docs.celeryq.dev/en/stable/internals/protocol.html has what messages consist of.
"""

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from celery.app.defaults import DEFAULTS
from kombu import serialization
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.argsrepr import show_arguments
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.targets import ORIGIN, Arguments, CeleryTarget, Given
from pgnotifier.contrib.celery.tracing import INNER, split_headers

dump: Any = kombu_json.dumps
# Of what JSON has no type for, only `Exact` comes along.
encode_json = msgspec.json.Encoder(enc_hook=lambda exact: msgspec.Raw(dump(exact).encode())).encode
_serialize: Any = serialization.dumps
REPR_LEVELS = 3
"""What `task_repr_maxlevels` is in Celery before 5.7, where it can't be set."""
_IDS = 64
"""How many ids to make at once."""


class UnstampableError(Exception):
    """Why the messages of a subscription can't be made without Celery."""


class CeleryStamp(ABC):
    """A message, with places for what differs in others of its subscription.

    Attributes:
        is_dated: Whether they hold times.
        described: What tracing says of all of them.
    """

    is_dated: bool
    described: list[Any]

    def __init__(self, like: Published, target: CeleryTarget) -> None:
        """Take a message that Celery made."""
        self.positional = _find_positional(like)
        trace = like.given.trace
        self._tracing = frozenset() if trace is None else trace.names
        self.described = [] if trace is None else trace.describe(like.settings)
        self.headers, self._inner = self.split(like.settings["headers"])
        self._size = target.app.amqp.argsrepr_maxsize
        # An older Celery ignores the setting, though an app may have it.
        knows_levels = "task_repr_maxlevels" in DEFAULTS
        self._levels = target.app.conf.task_repr_maxlevels if knows_levels else REPR_LEVELS

    @abstractmethod
    def press(self, given: Given, task_id: str) -> Any:
        """Return a message, as the carrier takes it.

        Args:
            given: What comes from the notification.
            task_id: A UUID.
        """

    @abstractmethod
    def find_difference(self, other: Published) -> str | None:
        """Return what of another message, made by Celery, isn't as the stamp makes it.

        What tracing adds is left out.
        """

    def check(self, other: Published) -> None:
        """Compare what Celery made of another notification with what the stamp does.

        Raises:
            UnstampableError: They differ in more than ids and times.
        """
        if self.positional(other.given.arguments) != other.body[0]:
            raise UnstampableError("its arguments are changed on their way")
        _, inner = self.split(other.settings["headers"])
        part = "inner headers" if inner != self._inner else self.find_difference(other)
        if part:
            raise UnstampableError(f"the {part} differ from message to message")

    def split(
        self, headers: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Return what of a message's headers isn't tracing's; and the same of inner headers."""
        return split_headers(headers, self._tracing, ORIGIN)

    def added(self, given: Given) -> Mapping[str, Any]:
        """Return what tracing adds to the headers, inner ones included."""
        added = given.added
        if added is None:
            return {}
        if self._inner is not None:
            return {**added, INNER: {**self._inner, **added, ORIGIN: given.origin}}
        return added

    def show(self, positional: Any) -> str:
        """Return the arguments as monitors show them."""
        return show_arguments(positional, self._size, self._levels)


def new_ids() -> Iterator[str]:
    """Yield random UUIDs. A forked child doesn't go on with those of its parent."""
    while True:
        owner = os.getpid()
        digits = os.urandom(16 * _IDS).hex()  # a call for each would cost as much as the rest
        for at in range(0, 32 * _IDS, 32):
            if owner != os.getpid():
                break
            one = digits[at : at + 32]
            variant = "89ab"[int(one[16], 16) & 3]
            yield f"{one[:8]}-{one[8:12]}-4{one[13:16]}-{variant}{one[17:20]}-{one[20:]}"


def undated(part: Any) -> Any:
    """Return headers or properties without what is a time."""
    if isinstance(part, dict):
        return {k: v for k, v in part.items() if k not in ("eta", "expires", "expiration")}
    return part


def make_serializer(like: Published) -> Callable[[Any], str | bytes]:
    """Return what makes the message's body of the positional arguments, not compressed."""
    _, kwargs, embedded = like.body
    if like.serializer != "json":

        def serialize(positional: Any) -> str | bytes:
            *_, data = _serialize((positional, kwargs, embedded), like.serializer)
            made: str | bytes = data
            return made

        return serialize

    count = len(like.given.arguments) if _begins_with(like.body[0], like.given.arguments) else 0
    own = "".join(f", {dump(value)}" for value in like.body[0][count:])
    ending = f"{own if count else own[2:]}], {dump(kwargs)}, {dump(embedded)}]".encode()

    def serialize_json(positional: Any) -> bytes:
        return b"[" + encode_json(positional[:count])[:-1] + ending

    return serialize_json


def _begins_with(positional: Any, given: Arguments) -> bool:
    return len(positional) >= len(given) and all(map(operator.is_, positional, given))


def _find_positional(like: Published) -> Callable[[Arguments], Any]:
    """Return what makes a task's positional arguments of the four, as was done for this one."""
    positional, given = like.body[0], like.given.arguments
    if not _begins_with(positional, given):
        return lambda _: positional  # an immutable signature's
    kind, own = type(positional), positional[len(given) :]
    return lambda four: kind([*four, *own])
