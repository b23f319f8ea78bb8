"""Make messages from a template: Celery builds the first ones of a subscription, a stamp the rest.

Routing, headers, priority and limits are therefore exactly what Celery makes them. The stamp fills
in what differs between messages: ids, arguments and their repr, and the origin. Times (`eta`,
`expires`) are only reused within a batch.

https://docs.celeryq.dev/en/stable/internals/protocol.html describes messages.
"""

import itertools
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from celery.app.defaults import DEFAULTS
from kombu import serialization
from kombu.utils import json as kombu_json

from pgnotifier._runtime.identifying import show_uuids, with_version
from pgnotifier.contrib.celery.argsrepr import show_arguments
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.targets import Arguments, CeleryTarget, Given
from pgnotifier.contrib.celery.tracing import INNER, split_headers
from pgnotifier.dispatch import Delivery
from pgnotifier.dispatchers.origins import ORIGIN

dump: Any = kombu_json.dumps
# `Exact` is the only type here that JSON doesn't have.
encode_json = msgspec.json.Encoder(enc_hook=lambda exact: msgspec.Raw(dump(exact).encode())).encode
_serialize: Any = serialization.dumps
REPR_LEVELS = 3
"""The value of `task_repr_maxlevels` before Celery 5.7, which made it a setting."""
_IDS = 64
"""How many ids to make at once."""


class UnstampableError(Exception):
    """The messages of a subscription can't be stamped. The message says why."""


class CeleryStamp(ABC):
    """A message with placeholders for what differs in other messages of its subscription.

    Attributes:
        is_dated: Whether the messages hold times (`eta`, `expires`).
        described: What the tracing libraries say about all of the messages.
    """

    is_dated: bool
    described: list[Any]

    def __init__(self, like: Published, target: CeleryTarget) -> None:
        """Learn from a message that Celery made."""
        self.positional = _find_positional(like)
        trace = like.given.trace
        self._tracing = frozenset() if trace is None else trace.names
        self.described = [] if trace is None else trace.describe(like.settings)
        self.headers, self._inner = self.split(like.settings["headers"])
        self._size = target.app.amqp.argsrepr_maxsize
        # An older Celery ignores the setting, although an app may have it.
        knows_levels = "task_repr_maxlevels" in DEFAULTS
        self._levels = target.app.conf.task_repr_maxlevels if knows_levels else REPR_LEVELS

    @abstractmethod
    def press(self, given: Given, task_id: str) -> Any:
        """Return a message in the form that the carrier takes.

        Args:
            given: What the task gets from the notification.
            task_id: The task's id, a UUID.
        """

    def press_all(
        self,
        target: CeleryTarget,
        deliveries: Sequence[Delivery],
        ids: Sequence[str],
        added: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[Any]:
        """Return messages.

        Args:
            target: The target of all deliveries.
            deliveries: What to make messages for.
            ids: The ids of their tasks.
            added: The tracing headers of each, if there is tracing.
        """
        headers = added or [None] * len(ids)
        return [
            self.press(target.given(one, None, more), task_id)
            for one, task_id, more in zip(deliveries, ids, headers, strict=True)
        ]

    @abstractmethod
    def find_difference(self, other: Published) -> str | None:
        """Return which part of another message, made by Celery, the stamp makes differently.

        Tracing headers are left out.
        """

    def check(self, other: Published) -> None:
        """Compare the message that Celery made for another notification with the stamp's.

        Raises:
            UnstampableError: They differ in more than ids and times.
        """
        if self.positional(other.given.arguments) != other.body[0]:
            raise UnstampableError("something changes its arguments before they are sent")
        _, inner = self.split(other.settings["headers"])
        part = "inner headers" if inner != self._inner else self.find_difference(other)
        if part:
            raise UnstampableError(f"the {part} differ from message to message")

    def split(
        self, headers: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Return the headers of a message, and its inner headers, without those of tracing."""
        return split_headers(headers, self._tracing, ORIGIN)

    def added(
        self, headers: Mapping[str, Any] | None, origin: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return tracing headers, with the inner headers if the message has some.

        Args:
            headers: The tracing headers, if there is tracing.
            origin: The content of the origin header.
        """
        if headers is None:
            return {}
        if self._inner is not None:
            return {**headers, INNER: {**self._inner, **headers, ORIGIN: origin}}
        return headers

    def show(self, positional: Any) -> str:
        """Return the arguments as monitors show them."""
        return show_arguments(positional, self._size, self._levels)


def new_ids(find_owner: Callable[[], object] = os.getpid) -> Iterator[str]:
    """Yield random UUIDs. A forked child makes its own instead of using those of its parent.

    Args:
        find_owner: Returns the process. A constant spares a system call per id, if a child gets
            another iterator.
    """
    while True:
        owner = find_owner()
        for one in make_ids(_IDS):  # a call per id would double the cost
            if owner != find_owner():
                break
            yield one


def make_ids(count: int) -> list[str]:
    """Return random UUIDs, as `uuid.uuid4` makes them, in a tenth of the time."""
    return show_uuids(with_version(os.urandom(16 * count), 4))


def new_tags() -> Iterator[str]:
    """Return an endless iterator of delivery tags: different strings, as long as a UUID.

    A forked child needs another iterator.
    """
    prefix = os.urandom(8).hex()
    return map(f"{prefix}%016x".__mod__, itertools.count())


def undated(part: Any) -> Any:
    """Return headers or properties without times."""
    if isinstance(part, dict):
        return {k: v for k, v in part.items() if k not in ("eta", "expires", "expiration")}
    return part


def make_serializer(like: Published) -> Callable[[Any], str | bytes]:
    """Return a function that makes a body, uncompressed, from the positional arguments."""
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
    """Return a function that makes a task's positional arguments from the four arguments."""
    positional, given = like.body[0], like.given.arguments
    if not _begins_with(positional, given):
        return lambda _: positional  # the signature is immutable
    kind, own = type(positional), positional[len(given) :]
    return lambda four: kind([*four, *own])
