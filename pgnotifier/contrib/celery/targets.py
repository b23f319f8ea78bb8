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


@dataclass(frozen=True, slots=True)
class Target(ABC):
    """What a subscription was bound to.

    Attributes:
        app: The dispatcher's app.
        options: Publish options, checked.
    """

    app: Any
    options: Mapping[str, Any]

    @abstractmethod
    def publish(self, delivery: Delivery, producer: Any) -> None:
        """Enqueue one delivery, or run it if the app is eager.

        Args:
            delivery: What is to be enqueued.
            producer: What to publish with. None if the app is eager.
        """


@dataclass(frozen=True, slots=True)
class CallbackTarget(Target):
    """The task that was made of a callback."""

    task: CallbackTask

    def publish(self, delivery: Delivery, producer: Any) -> None:
        """Enqueue the task, its payload in a form that the worker's side restores."""
        arrived, task = delivery.notification, self.task.task
        payload = wrap_payload(arrived.payload, arrived.raw, _serializer(self.options, task))
        task.apply_async(
            [show_id(delivery.binding.id), arrived.channel, payload, arrived.pid],
            **_publishing(producer),
            **self.options,
        )


@dataclass(frozen=True, slots=True)
class SignatureTarget(Target):
    """A task, signature or canvas of the user's own, enqueued as it is.

    It is looked at when it is published, as a task may not exist before its app is finalized.
    """

    fn: Any

    def publish(self, delivery: Delivery, producer: Any) -> None:
        """Enqueue it with the four arguments before its own."""
        arrived = delivery.notification
        key, payload = delivery.binding.id, arrived.payload
        # An eager canvas hands its arguments over as they are, with no serializer between.
        if not (producer is None and _is_canvas(self.fn)) and self._uses_json():
            key, payload = wrap_exact(key), wrap_exact(payload)
        arguments = (key, arrived.channel, payload, arrived.pid)
        result = self.fn.apply_async(arguments, **self._publishing(producer), **self.options)
        if producer is not None and _is_canvas(self.fn):
            with contextlib.suppress(Exception):  # it is published, whatever the backend says
                _stop_waiting(result)

    def _uses_json(self) -> bool:
        if "serializer" in self.options:
            return bool(self.options["serializer"] == "json")
        return {_serializer(options, task) for options, task in _first_tasks(self.fn)} == {"json"}

    def _publishing(self, producer: Any) -> dict[str, Any]:
        # What a canvas is given spreads to all that it consists of, and some of that is
        # published by workers. Chains and chords publish with the app's pool.
        if _is_canvas(self.fn):
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


def _is_canvas(fn: Any) -> bool:
    return isinstance(fn, (_Chain, _Group, _Chord))


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
