"""Targets: how one subscription's notifications get into the broker."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celery import canvas

from pgnotifier.contrib.celery.arguments import show_id, wrap_exact, wrap_payload
from pgnotifier.contrib.celery.tasks import CallbackTask
from pgnotifier.dispatch import Delivery

# Any, as celery.canvas declares no types, and what can be inferred of them is wrong.
_Signature: Any = canvas.Signature
_Chain: Any = canvas._chain  # noqa: SLF001 - `chain` itself is no class of its instances
_Group: Any = canvas.group
_Chord: Any = vars(canvas)["_chord"]  # as with `chain`, and unknown to its type stubs


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Target(ABC):
    """What a subscription was bound to.

    Attributes:
        app: The dispatcher's app.
        options: Publish options, checked.
    """

    app: Any
    options: Mapping[str, Any]

    def run(self, delivery: Delivery) -> None:
        """Have Celery run one delivery here, as an eager app does."""
        self.apply(self.arguments(delivery, eager=True), None)

    @property
    @abstractmethod
    def task(self) -> Any:
        """The task that Celery publishes."""

    @abstractmethod
    def arguments(self, delivery: Delivery, *, eager: bool = False) -> "Arguments":
        """Return the four arguments, in a form that the worker's side restores."""

    @abstractmethod
    def apply(self, arguments: "Arguments", producer: Any, task_id: str | None = None) -> None:
        """Have Celery publish a task with these arguments, and with this id if it is one task."""


Arguments = list[Any] | tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CallbackTarget(Target):
    """The task that was made of a callback."""

    callback: CallbackTask

    @property
    def task(self) -> Any:
        """The task as Celery knows it."""
        return self.callback.task

    def arguments(self, delivery: Delivery, *, eager: bool = False) -> Arguments:  # noqa: ARG002
        """Return what the worker's half of the task is called with."""
        arrived = delivery.notification
        serializer = _serializer(self.options, self.task)
        payload = wrap_payload(arrived.payload, arrived.raw, serializer)
        return [show_id(delivery.binding.id), arrived.channel, payload, arrived.pid]

    def apply(self, arguments: Arguments, producer: Any, task_id: str | None = None) -> None:
        """Enqueue the task."""
        self.task.apply_async(arguments, task_id=task_id, **_publishing(producer), **self.options)


@dataclass(frozen=True, slots=True, eq=False)
class SignatureTarget(Target):
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
    def is_canvas(self) -> bool:
        """Whether it is a chain, group or chord."""
        return isinstance(self.fn, (_Chain, _Group, _Chord))

    def arguments(self, delivery: Delivery, *, eager: bool = False) -> Arguments:
        """Return what comes before its own arguments."""
        arrived = delivery.notification
        key, payload = delivery.binding.id, arrived.payload
        # An eager canvas hands its arguments over as they are, with no serializer between.
        if not (eager and self.is_canvas) and self._uses_json():
            key, payload = wrap_exact(key), wrap_exact(payload)
        return (key, arrived.channel, payload, arrived.pid)

    def apply(self, arguments: Arguments, producer: Any, task_id: str | None = None) -> None:
        """Enqueue it with these arguments before its own."""
        more = {**self._publishing(producer), **self.options}
        if task_id is not None and not self.is_canvas:
            more["task_id"] = task_id
        result = self.fn.apply_async(arguments, **more)
        if producer is not None and self.is_canvas:
            with contextlib.suppress(Exception):  # it is published, whatever the backend says
                _stop_waiting(result)

    def _uses_json(self) -> bool:
        if "serializer" in self.options:
            return bool(self.options["serializer"] == "json")
        return {_serializer(options, task) for options, task in _first_tasks(self.fn)} == {"json"}

    def _publishing(self, producer: Any) -> dict[str, Any]:
        # What a canvas is given spreads to all that it consists of, and some of that is
        # published by workers. Chains and chords publish with the app's pool.
        if self.is_canvas:
            return {"producer": producer} if isinstance(self.fn, _Group) and producer else {}
        ((_, task),) = _first_tasks(self.fn)
        return _publishing(producer) if task.app is self.app else {}


def _publishing(producer: Any) -> dict[str, Any]:
    # The deliverer retries, with longer pauses, and stops when it is told to.
    return {} if producer is None else {"producer": producer, "retry": False}


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


@dataclass(frozen=True, slots=True)
class _Unregistered:
    app: Any
    serializer: None = None
