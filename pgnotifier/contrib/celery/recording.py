"""Recording: what Celery and kombu made of a task's message, by the time that it was sent."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pgnotifier.contrib.celery.targets import CeleryTarget, Given

Watch = Callable[[], AbstractContextManager[list[tuple[Any, Any]]]]
"""How a carrier looks on while a message is published."""


@dataclass(slots=True)
class Published:
    """One message that Celery has published.

    Attributes:
        given: What came from the notification.
        body: The task's positional and keyword arguments, and the rest of the body.
        settings: What else the producer was given.
        seen: What the carrier saw the transport do with it.
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
    """Passes for a producer, and takes down what is published with it."""

    def __init__(self, producer: Any, given: Given, watch: Watch) -> None:
        self._producer = producer
        self._given = given
        self._watch = watch
        self.published: list[Published] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **settings: Any) -> Any:
        """Publish, as the producer does."""
        # A copy, as the producer adds to them.
        one = Published(self._given, body, {**settings, "headers": dict(settings["headers"])})
        with self._watch() as one.seen:
            result = self._producer.publish(body, **settings)
        self.published.append(one)
        return result


def publish_recorded(
    target: CeleryTarget, given: Given, producer: Any, task_id: str, watch: Watch
) -> Published | None:
    """Have Celery publish a task; return its message, or None if there isn't just one.

    Args:
        target: The subscription's.
        given: What comes from the notification.
        producer: Where to.
        task_id: Of the task.
        watch: The carrier's.
    """
    recorder = Recorder(producer, given, watch)
    target.apply(given, recorder, task_id)
    return recorder.published[0] if len(recorder.published) == 1 else None
