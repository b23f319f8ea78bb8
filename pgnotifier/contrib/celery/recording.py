"""Record the message that Celery and kombu make for a task."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pgnotifier.contrib.celery.targets import CeleryTarget, Given

Watch = Callable[[], AbstractContextManager[list[tuple[Any, Any]]]]
"""The carrier's context manager that records how a message is published."""


@dataclass(slots=True)
class Published:
    """One message that Celery has published.

    Attributes:
        given: What the task got from the notification.
        body: The task's positional arguments, its keyword arguments, and the rest of the body.
        settings: The other arguments of `Producer.publish`.
        seen: What the carrier recorded in the transport.
    """

    given: Given
    body: Any
    settings: dict[str, Any]
    seen: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def serializer(self) -> str | None:
        """The serializer's name."""
        return self.settings.get("serializer")

    @property
    def compression(self) -> str | None:
        """The compression's name, if there is one."""
        return self.settings.get("compression")


class Recorder:
    """Stands in for a producer, and records what is published with it."""

    def __init__(self, producer: Any, given: Given, watch: Watch) -> None:
        self._producer = producer
        self._given = given
        self._watch = watch
        self.published: list[Published] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **settings: Any) -> Any:
        """Publish, as the producer does."""
        # Copy the headers, because the producer adds to them.
        one = Published(self._given, body, {**settings, "headers": dict(settings["headers"])})
        with self._watch() as one.seen:
            result = self._producer.publish(body, **settings)
        self.published.append(one)
        return result


def publish_recorded(
    target: CeleryTarget, given: Given, producer: Any, task_id: str, watch: Watch
) -> Published | None:
    """Have Celery publish a task; return its message, or None if there isn't exactly one.

    Args:
        target: The subscription's target.
        given: What the task gets from the notification.
        producer: The producer to publish with.
        task_id: The task's id.
        watch: The carrier's context manager that records.
    """
    recorder = Recorder(producer, given, watch)
    target.apply(given, recorder, task_id)
    return recorder.published[0] if len(recorder.published) == 1 else None
