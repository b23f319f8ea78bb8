"""Enqueue the notifications of one subscription: as a callback's task, or as a signature."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
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
from pgnotifier.dispatchers.origins import ORIGIN, describe_entry
from pgnotifier.notification import Notification

# Any, because celery.canvas declares no types, and type checkers infer wrong ones.
_Signature: Any = canvas.Signature
_Chain: Any = canvas._chain  # noqa: SLF001 - instances of `chain` have this class
_Group: Any = canvas.group
_Chord: Any = vars(canvas)["_chord"]  # the same, but missing in the type stubs

Arguments = list[Any] | tuple[Any, ...]
_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class CeleryTarget(ABC):
    """The target of a subscription: the task that its notifications become.

    Attributes:
        app: The dispatcher's app.
        options: The publish options, checked.
    """

    app: Any
    options: Mapping[str, Any]

    def run(self, delivery: Delivery) -> None:
        """Have Celery run the task of one delivery in this process, as an eager app does."""
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
        """The options of the task and its signature, which the subscription's options override."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """The task's name, or Celery's representation of a canvas."""

    @property
    def ignores_result(self) -> bool:
        """Whether the task's result isn't stored."""
        return bool({**self.own_options, **self.options}.get("ignore_result"))

    @abstractmethod
    def arguments_of(
        self, deliveries: Iterable[Delivery], *, eager: bool = False
    ) -> Iterator[Arguments]:
        """Yield the four arguments of each delivery, in the form that the message carries.

        Args:
            deliveries: The deliveries.
            eager: Whether the task is called in this process.
        """

    def arguments(self, delivery: Delivery, *, eager: bool = False) -> Arguments:
        """Return those of one delivery."""
        return next(self.arguments_of((delivery,), eager=eager))

    @abstractmethod
    def serializers(self) -> set[str]:
        """Return the names of the serializers that the arguments go through."""

    def check(self, delivery: Delivery) -> None:
        """Raise if the arguments of a delivery can't be serialized."""
        for serializer in self.serializers():
            serialization.dumps(self.arguments(delivery), serializer)

    @abstractmethod
    def apply(self, given: "Given", producer: Any, task_id: str | None = None) -> None:
        """Have Celery publish the task.

        Args:
            given: What the task gets from the notification.
            producer: The producer to publish with; None for Celery's own.
            task_id: The id of the task. A canvas ignores it.
        """


class Given(msgspec.Struct, frozen=True, gc=False):
    """What a task gets from a notification.

    Attributes:
        arguments: The four arguments, in a form from which the worker restores them.
        origin: The content of the header `pgnotifier`.
        trace: The notification's trace, if there is tracing.
        added: The tracing headers of a stamped message.
    """

    arguments: Arguments
    origin: Mapping[str, Any]
    trace: Trace | None = None
    added: Mapping[str, Any] | None = None

    def complete(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the headers of a message that Celery makes, with the origin and the trace."""
        completed = {**headers, ORIGIN: self.origin}
        if self.trace is not None:
            self.trace.join(completed)
        return completed


def origin(arrived: Notification) -> dict[str, Any]:
    """Return where a task comes from: the channel, the pid, and the time of receipt.

    For gathered notifications, these are those of the latest one, and their count is added. Those
    of durable subscriptions have the number, key, time and attempt of the entry as well.
    """
    found: dict[str, Any] = {
        "channel": arrived.channel,
        "pid": arrived.pid,
        "received_at": _iso(arrived.received_at),
    }
    if arrived.count > 1:
        found["count"] = arrived.count
    if arrived.id is not None:
        found |= describe_entry(arrived)
    return found


def origin_as_json(arrived: Notification) -> bytes:
    """Return the same as JSON. What many notifications have in common is made once."""
    if arrived.count > 1:
        return _encode_json(origin(arrived))
    begins = _begin_origin(arrived.channel, arrived.pid, arrived.received_at)
    if arrived.id is None:
        return begins + b"}"
    return b"%b,%b" % (begins, _encode_json(describe_entry(arrived))[1:])


@functools.lru_cache(maxsize=16)  # many notifications have the same
def _begin_origin(channel: str, pid: int, received_at: datetime) -> bytes:
    return _encode_json({"channel": channel, "pid": pid, "received_at": _iso(received_at)})[:-1]


@functools.lru_cache(maxsize=16)
def _iso(at: datetime) -> str:
    return at.isoformat()


@dataclass(frozen=True, slots=True, eq=False)
class CallbackTarget(CeleryTarget):
    """The task that was made from a callback."""

    callback: CallbackTask

    @property
    def task(self) -> Any:
        """The task as Celery knows it."""
        return self.callback.task

    @property
    def own_options(self) -> Mapping[str, Any]:
        """The options of the task."""
        return _exec_options(self.task)

    @property
    def shown(self) -> str:
        """The task's name."""
        return self.callback.name

    def serializers(self) -> set[str]:
        """Return the names of the serializers that the arguments go through."""
        return {_serializer(self.options, self.task)}

    def arguments_of(
        self,
        deliveries: Iterable[Delivery],
        *,
        eager: bool = False,  # noqa: ARG002
    ) -> Iterator[Arguments]:
        """Yield the four arguments of each delivery, as `CallbackTask` takes them in the worker."""
        serializer = _serializer(self.options, self.task)
        for delivery in deliveries:
            arrived = delivery.notification
            payload = wrap_payload(arrived, serializer)
            yield [show_id(delivery.binding.id), arrived.channel, payload, arrived.pid]

    def apply(self, given: Given, producer: Any, task_id: str | None = None) -> None:
        """Enqueue the task."""
        options = {**_publishing(producer, given), **self.options}
        _add_origin(options, given)
        self.task.apply_async(given.arguments, task_id=task_id, **options)


@dataclass(frozen=True, slots=True, eq=False)
class SignatureTarget(CeleryTarget):
    """A task, signature or canvas of the user's own, enqueued as it is.

    It is examined when it is published, because a task may not exist before its app is finalized.
    """

    fn: Any

    @property
    def task(self) -> Any:
        """The first task that is published; None if it isn't registered in this process."""
        (_, task), *_ = _first_tasks(self.fn)
        return None if isinstance(task, _Unregistered) else task

    @property
    def own_options(self) -> Mapping[str, Any]:
        """The options of the first task and its signature."""
        (own, task), *_ = _first_tasks(self.fn)
        return {**_exec_options(task), **own}

    @property
    def shown(self) -> str:
        """The task's name, or Celery's representation of a canvas."""
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

    def arguments_of(
        self, deliveries: Iterable[Delivery], *, eager: bool = False
    ) -> Iterator[Arguments]:
        """Yield the four arguments of each delivery, which come before the signature's own."""
        # An eager canvas passes its arguments on without serializing them.
        wraps = not (eager and self.is_canvas) and self._uses_json()
        for delivery in deliveries:
            arrived = delivery.notification
            key, payload = delivery.binding.id, arrived.payload
            if wraps:
                key, payload = wrap_exact(key), wrap_exact(payload)
            yield (key, arrived.channel, payload, arrived.pid)

    def apply(self, given: Given, producer: Any, task_id: str | None = None) -> None:
        """Enqueue the signature, with the four arguments before its own."""
        more = {**self._publishing(producer, given), **self.options}
        if not self.is_canvas:
            ((own, _),) = _first_tasks(self.fn)
            _add_origin(more, given, own.get("headers") or {})
            if task_id is not None:
                more["task_id"] = task_id
        elif not _has_headers(self.fn):  # headers given here would replace its own
            _add_origin(more, given)
        result = self.fn.apply_async(given.arguments, **more)
        if producer is not None and self.is_canvas:
            with contextlib.suppress(Exception):  # it is published, even if the backend fails
                _stop_waiting(result)

    def _uses_json(self) -> bool:
        if "serializer" in self.options:
            return bool(self.options["serializer"] == "json")
        return {_serializer(options, task) for options, task in _first_tasks(self.fn)} == {"json"}

    def _publishing(self, producer: Any, given: Given) -> dict[str, Any]:
        # Options of a canvas apply to all of its parts, and workers publish some of these. Chains
        # and chords publish with the app's pool.
        if self.is_canvas:
            if producer is None or not isinstance(self.fn, _Group):
                return {}
            return {"producer": Originating(producer, given)}
        ((_, task),) = _first_tasks(self.fn)
        return _publishing(producer, given) if task.app is self.app else {}


class Originating:
    """Stands in for a producer, and completes the headers of what it publishes.

    Headers that are passed to `apply_async` would replace those of a signature or a Task class.
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
    # The deliverer retries, with growing pauses, and stops doing so when it is stopped.
    return {"producer": Originating(producer, given), "retry": False}


def _add_origin(
    options: dict[str, Any], given: Given, headers: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Add the origin to the headers, unless the producer does so."""
    if "producer" not in options:
        options["headers"] = given.complete({**headers, **options.get("headers", {})})


def _stop_waiting(result: Any) -> None:
    """Have the result backend stop waiting for results, because the listener never reads them.

    The backend does this when a result is garbage collected. But Celery makes further objects for
    the results of a chord's header, and the backend itself refers to these. So each of them, and
    its subscription in Redis, would stay until the process ends.
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
    options: dict[str, Any] = task._get_exec_options()  # noqa: SLF001 - apply_async begins with it
    return {"ignore_result": task.ignore_result, **options}


def _first_tasks(fn: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Yield the tasks that get the arguments, each with the options of its signature."""
    if isinstance(fn, _Chain):
        yield from _first_tasks(fn.tasks[0])
    elif isinstance(fn, (_Group, _Chord)):
        for part in getattr(fn.tasks, "tasks", fn.tasks):  # a chord's header may be a group
            yield from _first_tasks(part)
    elif isinstance(fn, _Signature):
        try:
            yield fn.options, fn.type
        except KeyError:  # a task of another program; only its name is known here
            yield fn.options, _Unregistered(fn.app)
    else:
        yield {}, fn


def _has_headers(part: Any) -> bool:
    """Return whether a signature anywhere in a canvas sets headers."""
    if isinstance(part, dict):
        return bool(part.get("headers")) or any(map(_has_headers, part.values()))
    return isinstance(part, list | tuple) and any(map(_has_headers, part))


@dataclass(frozen=True, slots=True)
class _Unregistered:
    app: Any
    serializer: None = None
