"""Recording: what Celery and kombu made of a task's message, by the time that it was sent."""

from dataclasses import dataclass, field
from typing import Any

from pgnotifier.contrib.celery.targets import Arguments, Target


@dataclass(slots=True)
class Published:
    """One message that Celery has published.

    Attributes:
        given: The four arguments that came from the notification.
        body: The task's positional and keyword arguments, and the rest of the body.
        serializer: The serializer's name.
        compression: The compression's name, if there is one.
        put: The queues that it was put into, each with the transport's message; None is
            a fanout exchange.
    """

    given: Arguments
    body: Any = None
    serializer: str | None = None
    compression: str | None = None
    put: list[tuple[str | None, Any]] = field(default_factory=list)


class Recorder:
    """Passes for a producer, and takes down what is published with it."""

    def __init__(self, producer: Any, given: Arguments) -> None:
        self._producer = producer
        self._given = given
        self.published: list[Published] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **settings: Any) -> Any:
        """Publish, as the producer does."""
        one = Published(self._given, body, settings.get("serializer"), settings.get("compression"))
        channel = self._producer.channel
        put, put_fanout = channel._put, channel._put_fanout  # noqa: SLF001 - nothing public does

        def record_put(queue: str, message: Any, **more: Any) -> None:
            one.put.append((queue, message))
            put(queue, message, **more)

        def record_fanout(exchange: str, message: Any, routing_key: str, **more: Any) -> None:
            one.put.append((None, message))
            put_fanout(exchange, message, routing_key, **more)

        # They hide the methods of the class. Nobody else uses the channel meanwhile.
        vars(channel).update(_put=record_put, _put_fanout=record_fanout)
        try:
            result = self._producer.publish(body, **settings)
        finally:
            del channel._put, channel._put_fanout  # noqa: SLF001
        self.published.append(one)
        return result


def publish_recorded(
    target: Target, given: Arguments, producer: Any, task_id: str
) -> list[Published]:
    """Have Celery publish a task; return its message, in a list that should have that one."""
    recorder = Recorder(producer, given)
    target.apply(given, recorder, task_id)
    return recorder.published
