"""Targets: how one subscription's notifications get into the broker."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec
from celery import canvas
from kombu import serialization

from pgnotifier._runtime.redaction import redact
from pgnotifier.contrib.celery.arguments import show_id, wrap_exact, wrap_payload
from pgnotifier.contrib.celery.tasks import CallbackTask
from pgnotifier.contrib.celery.tracing import Trace
from pgnotifier.dispatch import Delivery
from pgnotifier.notification import Notification

# Any, as celery.canvas declares no types, and what can be inferred of them is wrong.
_Signature: Any = canvas.Signature
_Chain: Any = canvas._chain  # noqa: SLF001 - `chain` itself is no class of its instances
_Group: Any = canvas.group
_Chord: Any = vars(canvas)["_chord"]  # as with `chain`, and unknown to its type stubs


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class CeleryTarget(ABC):
    """What a subscription was bound to.

    Attributes:
        app: The dispatcher's app.
        options: Publish options, checked.
    """

    app: Any
    options: Mapping[str, Any]

    def run(self, delivery: Delivery) -> None:
        """Have Celery run one delivery here, as an eager app does."""
        self.apply(Given(self.arguments(delivery, eager=True), origin(delivery.notification)), None)

    def given(
        self,
        delivery: Delivery,
        trace: Trace | None = None,
        added: Mapping[str, Any] | None = None,
    ) -> "Given":
        """Return what the task gets from a delivery."""
        return Given(self.arguments(delivery), origin(delivery.notification), trace, added)

    @property
    @abstractmethod
    def task(self) -> Any:
        """The task that Celery publishes."""

    @property
    @abstractmethod
    def own_options(self) -> Mapping[str, Any]:
        """What the subscription's options come on top of."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """The task's name, or how Celery shows a canvas."""

    @property
    def ignores_result(self) -> bool:
        """Whether no result of the task is stored."""
        return bool({**self.own_options, **self.options}.get("ignore_result"))

    @abstractmethod
    def arguments(self, delivery: Delivery, *, eager: bool = False) -> "Arguments":
        """Return the four arguments, in a form that the worker's side restores."""

    @abstractmethod
    def serializers(self) -> set[str]:
        """Return the names of the serializers that the arguments go through."""

    def check(self, delivery: Delivery) -> None:
        """Raise if the arguments of a delivery can't be serialized."""
        for serializer in self.serializers():
            serialization.dumps(self.arguments(delivery), serializer)

    @abstractmethod
    def apply(self, given: "Given", producer: Any, task_id: str | None = None) -> None:
        """Have Celery publish a task given this, and with this id if it is one task."""


Arguments = list[Any] | tuple[Any, ...]

ORIGIN = "pgnotifier"
"""The header that tells a task which notification it was made of."""


class Given(msgspec.Struct, frozen=True, gc=False):
    """What a task gets from a notification.

    Attributes:
        arguments: The four, in a form that the worker's side restores.
        origin: What the header `pgnotifier` holds.
        trace: What messages that Celery makes belong to, where there is tracing.
        added: The headers that tracing adds to a message that Celery doesn't make.
    """

    arguments: Arguments
    origin: Mapping[str, Any]
    trace: Trace | None = None
    added: Mapping[str, Any] | None = None

    def complete(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the headers of a message that Celery makes, with what comes from here."""
        completed = {**headers, ORIGIN: self.origin}
        if self.trace is not None:
            self.trace.join(completed)
        return completed


def origin(arrived: Notification) -> dict[str, Any]:
    """Return where a task comes from: channel, pid, and when that was received.

    And of how many notifications, the latest of which these are, if it was gathered of some.
    """
    found: dict[str, Any] = {
        "channel": arrived.channel,
        "pid": arrived.pid,
        "received_at": _iso(arrived.received_at),
    }
    if arrived.count > 1:
        found["count"] = arrived.count
    return found


@functools.lru_cache(maxsize=16)  # many are received at one moment
def _iso(at: datetime) -> str:
    return at.isoformat()


@dataclass(frozen=True, slots=True, eq=False)
class CallbackTarget(CeleryTarget):
    """The task that was made of a callback."""

    callback: CallbackTask

    @property
    def task(self) -> Any:
        """The task as Celery knows it."""
        return self.callback.task

    @property
    def own_options(self) -> Mapping[str, Any]:
        """The task's."""
        return _exec_options(self.task)

    @property
    def shown(self) -> str:
        """The task's name."""
        return self.callback.name

    def serializers(self) -> set[str]:
        """Return the names of the serializers that the arguments go through."""
        return {_serializer(self.options, self.task)}

    def arguments(self, delivery: Delivery, *, eager: bool = False) -> Arguments:  # noqa: ARG002
        """Return what the worker's half of the task is called with."""
        arrived = delivery.notification
        serializer = _serializer(self.options, self.task)
        payload = wrap_payload(arrived, serializer)
        return [show_id(delivery.binding.id), arrived.channel, payload, arrived.pid]

    def apply(self, given: Given, producer: Any, task_id: str | None = None) -> None:
        """Enqueue the task."""
        options = {**_publishing(producer, given), **self.options}
        _add_origin(options, given)
        self.task.apply_async(given.arguments, task_id=task_id, **options)


@dataclass(frozen=True, slots=True, eq=False)
class SignatureTarget(CeleryTarget):
    """A task, signature or canvas of the user's own, enqueued as it is.

    It is looked at when it is published, as a task may not exist before its app is finalized.
    """

    fn: Any

    @property
    def task(self) -> Any:
        """The first task that is published, or None if it isn't known in this process."""
        (_, task), *_ = _first_tasks(self.fn)
        return None if isinstance(task, _Unregistered) else task

    @property
    def own_options(self) -> Mapping[str, Any]:
        """The first task's and its signature's."""
        (own, task), *_ = _first_tasks(self.fn)
        return {**_exec_options(task), **own}

    @property
    def shown(self) -> str:
        """The task's name, or how Celery shows a canvas."""
        name: str = (
            redact(repr(self.fn)) if self.is_canvas else getattr(self.fn, "task", self.fn.name)
        )
        return name

    @property
    def is_canvas(self) -> bool:
        """Whether it is a chain, group or chord."""
        return isinstance(self.fn, (_Chain, _Group, _Chord))

    def serializers(self) -> set[str]:
        """Return the names of the serializers that the arguments go through."""
        return {_serializer({**own, **self.options}, task) for own, task in _first_tasks(self.fn)}

    def arguments(self, delivery: Delivery, *, eager: bool = False) -> Arguments:
        """Return what comes before its own arguments."""
        arrived = delivery.notification
        key, payload = delivery.binding.id, arrived.payload
        # An eager canvas hands its arguments over as they are, with no serializer between.
        if not (eager and self.is_canvas) and self._uses_json():
            key, payload = wrap_exact(key), wrap_exact(payload)
        return (key, arrived.channel, payload, arrived.pid)

    def apply(self, given: Given, producer: Any, task_id: str | None = None) -> None:
        """Enqueue it with these arguments before its own."""
        more = {**self._publishing(producer, given), **self.options}
        if not self.is_canvas:
            ((own, _),) = _first_tasks(self.fn)
            _add_origin(more, given, own.get("headers") or {})
            if task_id is not None:
                more["task_id"] = task_id
        elif not _has_headers(self.fn):  # which ours would replace
            _add_origin(more, given)
        result = self.fn.apply_async(given.arguments, **more)
        if producer is not None and self.is_canvas:
            with contextlib.suppress(Exception):  # it is published, whatever the backend says
                _stop_waiting(result)

    def _uses_json(self) -> bool:
        if "serializer" in self.options:
            return bool(self.options["serializer"] == "json")
        return {_serializer(options, task) for options, task in _first_tasks(self.fn)} == {"json"}

    def _publishing(self, producer: Any, given: Given) -> dict[str, Any]:
        # What a canvas is given spreads to all that it consists of, and some of that is
        # published by workers. Chains and chords publish with the app's pool.
        if self.is_canvas:
            if producer is None or not isinstance(self.fn, _Group):
                return {}
            return {"producer": Originating(producer, given)}
        ((_, task),) = _first_tasks(self.fn)
        return _publishing(producer, given) if task.app is self.app else {}


class Originating:
    """Passes for a producer, and completes the headers of what it publishes.

    Given to `apply_async`, headers would replace those that a signature or a Task class has.
    """

    def __init__(self, producer: Any, given: Given) -> None:
        self._producer = producer
        self._given = given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **settings: Any) -> Any:
        """Publish, as the producer does."""
        headers = self._given.complete(settings.pop("headers", None) or {})
        return self._producer.publish(body, **settings, headers=headers)


def _publishing(producer: Any, given: Given) -> dict[str, Any]:
    if producer is None:
        return {}
    # The deliverer retries, with longer pauses, and stops when it is told to.
    return {"producer": Originating(producer, given), "retry": False}


def _add_origin(
    options: dict[str, Any], given: Given, headers: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Add the origin to the headers, where no producer does."""
    if "producer" not in options:
        options["headers"] = given.complete({**headers, **options.get("headers", {})})


def _stop_waiting(result: Any) -> None:
    """Have the result backend no longer wait for results: here nobody would ever ask for them.

    It does so by itself once a result is out of use; but Celery makes second objects of those of
    a chord's header, which nothing but the backend holds. So each of them, and its Redis
    subscription, would stay for as long as this process lives.
    """
    waiting = [result]
    while waiting:
        one = waiting.pop()
        if one is not None:
            waiting += [one.parent, *getattr(one, "results", ())]
            backend: Any = getattr(one, "backend", None)
            for pending in getattr(backend, "_pending_results", ()):
                if pending.pop(one.id, None) is not None:
                    backend.remove_pending_result(one)


def _serializer(options: Mapping[str, Any], task: Any) -> str:
    found: str = options.get("serializer") or task.serializer or task.app.conf.task_serializer
    return found


def _exec_options(task: Any) -> dict[str, Any]:
    if isinstance(task, _Unregistered):
        return {}
    options: dict[str, Any] = task._get_exec_options()  # noqa: SLF001 - what apply_async starts with
    return {"ignore_result": task.ignore_result, **options}


def _first_tasks(fn: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Yield those that will get the arguments, each with the options of its signature."""
    if isinstance(fn, _Chain):
        yield from _first_tasks(fn.tasks[0])
    elif isinstance(fn, (_Group, _Chord)):
        for part in getattr(fn.tasks, "tasks", fn.tasks):  # a chord's header may be a group
            yield from _first_tasks(part)
    elif isinstance(fn, _Signature):
        try:
            yield fn.options, fn.type
        except KeyError:  # a task of another program's, known here by its name alone
            yield fn.options, _Unregistered(fn.app)
    else:
        yield {}, fn


def _has_headers(part: Any) -> bool:
    """Tell whether a signature somewhere in a canvas sets headers."""
    if isinstance(part, dict):
        return bool(part.get("headers")) or any(map(_has_headers, part.values()))
    return isinstance(part, list | tuple) and any(map(_has_headers, part))


@dataclass(frozen=True, slots=True)
class _Unregistered:
    app: Any
    serializer: None = None
