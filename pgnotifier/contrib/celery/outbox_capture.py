"""While an outbox is active, capture what Celery publishes, and hand it to the outbox.

Celery makes each message as always: options, routes, signals, canvases, serializers. Only the
producer that it would take from its pool is another one, with a transport that connects nowhere:

    apply_async -> producer_or_acquire -> OutboxProducer -> kombu.Producer -> _Channel -> Recording
                   of the app, replaced                    serializes        makes an entry of it
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

from celery._state import get_current_task
from kombu import Connection, Producer
from kombu.transport import virtual

from pgnotifier._log.composing import Draft
from pgnotifier.contrib._queues.patterns import is_among
from pgnotifier.contrib._queues.recordings import (
    Recording,
    find_recording,
    is_suspended,
    record,
)
from pgnotifier.contrib.celery.outbox_messages import make
from pgnotifier.contrib.celery.outbox_stamping import Stamper
from pgnotifier.errors import ConfigurationError

_ATTRIBUTE = "_pgnotifier_capture"
"""The app's attribute with its capture."""


class Sink(Protocol):
    """Takes the log entries of captured messages."""

    def takes(self, task: str) -> bool:
        """Return whether it takes messages of a task. Others go to the broker."""
        ...

    def add(self, draft: Draft) -> None:
        """Take the key and the payload of an entry."""


class Capture:
    """Replaces the producers of an app while an outbox is active. There is one per app.

    Attributes:
        stamper: Makes the messages of simple tasks.
        finders: Functions that find a sink while no block is executed: the first one that returns
            a sink decides. If all of them return None, messages go to the broker.
    """

    def __init__(self, app: Any) -> None:
        self.finders: list[Callable[[], Sink | None]] = []
        self._app = app
        self.stamper = Stamper(app, self.find)
        self._acquire = app.producer_or_acquire
        self._made = threading.local()  # kombu's objects are for one thread at a time

    @classmethod
    def of(cls, app: Any) -> "Capture":
        """Return the instance of an app."""
        made = cls(app)
        found: Capture = vars(app).setdefault(_ATTRIBUTE, made)
        if found is made:
            app.producer_or_acquire = app.default_producer = made.producer_or_acquire
            app.send_task = made.stamper.send_task
        return found

    def find(self) -> Sink | None:
        """Return the sink that takes the app's messages now; None if they go to the broker."""
        if is_suspended():
            return None
        if (recording := find_recording(self._is_mine)) is not None:
            return recording
        for find in self.finders:
            if (found := find()) is not None:
                return found
        return None

    def record(self) -> AbstractContextManager[Recording]:
        """Return a recording, for `with`, that takes the messages of the block."""
        return record(self)

    def _is_mine(self, owner: Any) -> bool:
        return owner is self

    def producer_or_acquire(self, producer: Any = None) -> Any:
        """Stand in for `Celery.producer_or_acquire`."""
        if isinstance(producer, OutboxProducer):
            producer = None  # a canvas hands it on to its tasks
        if self.find() is None:
            return self._acquire(producer)
        self._check(producer)
        self._spare_backend()
        if (found := getattr(self._made, "producer", None)) is None:
            found = self._made.producer = OutboxProducer(self)
        return nullcontext(found)

    def takes(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a message is for the outbox, given the fields about its task."""
        sink = self.find()
        name = fields.get("task")
        return sink is None or not isinstance(name, str) or sink.takes(name)

    def publish_now(self, body: Any, settings: dict[str, Any]) -> Any:
        """Publish a message to the broker, as if there were no outbox."""
        with self._acquire(None) as producer, producer.connection._reraise_as_library_errors():  # noqa: SLF001 - as Celery does
            return producer.publish(body, **settings)

    def make_producer(self) -> Producer:
        """Return a producer with a channel that hands each message to the sink of that moment."""
        conf = self._app.conf
        options = {
            name: value
            for name, value in conf.broker_transport_options.items()
            if name in virtual.Channel.from_transport_options
        }
        connection = Connection(transport=_Transport, transport_options=options)
        transport = connection.transport
        # Tracing libraries record the kind of broker.
        with contextlib.suppress(Exception):  # an app without a broker can enqueue, too
            kind = self._app.connection_for_write().get_transport_cls()
            transport.driver_type, transport.driver_name = kind.driver_type, kind.driver_name
        channel = cast("_Channel", transport.create_channel(transport))
        channel.take = self._take
        return Producer(channel)

    def _take(self, message: dict[str, Any]) -> None:
        sink = self.find()
        if sink is None:
            raise RuntimeError("this producer is only for the block that it was acquired in")
        draft = make(message)
        sink.add(draft)
        self.stamper.note(draft)

    def _check(self, producer: Any) -> None:
        """Check that a producer that was given leads to the app's broker, as the relay does.

        Raises:
            ConfigurationError: It leads elsewhere.
        """
        if producer is None:
            return
        mine, given = self._app.connection_for_write(), producer.connection
        # One that was made with several URLs has the one that it uses now.
        ours = {one.as_uri(include_password=True) for one in (mine, *map(Connection, mine.alt))}
        if given.as_uri(include_password=True) not in ours:
            raise ConfigurationError(
                f"this task has a producer or connection of its own, to {given.as_uri()}, but an "
                "outbox is active, and tasks in it go to the app's broker. Publish it elsewhere, "
                "or without connection= and producer="
            )

    def _spare_backend(self) -> None:
        """Keep the result backend from waiting for results of tasks before somebody asks for them.

        Celery's backends subscribe to the result of each task, although `AsyncResult.get` does so
        as well. A Redis that is down would delay and fail publishing, which doesn't need it.
        """
        try:
            backend = self._app.backend
        except Exception:  # noqa: BLE001 - if the task needs the backend, Celery will say so
            return
        if not isinstance(backend.on_task_call, _UnlessCaptured):
            backend.on_task_call = _UnlessCaptured(self, backend.on_task_call)


class _UnlessCaptured:
    """Calls `on_task_call` of a result backend unless a message is captured."""

    def __init__(self, capture: Capture, call: Callable[[Any, str], Any]) -> None:
        self._capture = capture
        self._call = call

    def __call__(self, producer: Any, task_id: str) -> Any:
        return self._call(producer, task_id) if self._capture.find() is None else {}


class OutboxProducer:
    """Stands in for a producer of kombu while an outbox is active."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._producer = capture.make_producer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **settings: Any) -> Any:
        """Make a message, and hand it to the outbox.

        Queues aren't declared, and nothing is tried again: the relay does both.
        """
        fields = _find_fields(body, settings.get("headers"))
        if _ends_task(fields) or not self._capture.takes(fields):
            return self._capture.publish_now(body, settings)
        return self._producer.publish(body, **{**settings, "declare": None, "retry": False})


def _find_fields(body: Any, headers: Any) -> Mapping[str, Any]:
    """Return the part of a message with its task's name and id: task_protocol 1 has no headers.

    https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    is_new = isinstance(headers, Mapping) and "task" in headers
    fields = headers if is_new else body
    return fields if isinstance(fields, Mapping) else {}


def _ends_task(fields: Mapping[str, Any]) -> bool:
    """Return whether a message continues the task that is running: by `retry` or `replace`.

    Both end the task with an exception, which rolls back a transaction around them. Their message
    has to reach the broker all the same.
    """
    task: Any = get_current_task()
    if task is None or task.request.called_directly:
        return False
    request = task.request
    nesting = request.get("replaced_task_nesting") or 0
    return fields.get("id") == request.id or (fields.get("replaced_task_nesting") or 0) > nesting


def takes_part(app: Any, task: str, exclude: Iterable[str] = ()) -> bool:
    """Return whether a task is published in transactions without a block.

    Args:
        app: The app.
        task: The task's name. If the app knows the task, its `outbox` must not be False.
        exclude: Patterns, none of which the name may match.
    """
    is_wanted = getattr(app.tasks.get(task), "outbox", True) is not False
    return is_wanted and not is_among(task, exclude)


class _Channel(virtual.Channel):
    """A channel that hands on what is published, in the form of kombu's virtual transports."""

    take: Callable[[dict[str, Any]], None]

    def basic_publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, **_: Any
    ) -> None:
        """Hand on a message."""
        self._inplace_augment_message(message, exchange, routing_key)
        self.take(message)


class _Transport(virtual.Transport):
    """A transport without a broker."""

    Channel = _Channel
    driver_type = driver_name = "virtual"
