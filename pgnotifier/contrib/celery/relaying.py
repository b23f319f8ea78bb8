"""Forward batches of an outbox's entries to the broker, over one connection."""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import amqp

from pgnotifier._delivery.portions import PortionBatch
from pgnotifier.contrib._queues.hiding import without_arguments
from pgnotifier.contrib.celery.carriers import KombuCarrier
from pgnotifier.contrib.celery.errors import MessageRefusedError
from pgnotifier.contrib.celery.forwarding import Forwarder, KombuForwarder
from pgnotifier.contrib.celery.forwarding_amqp import AmqpForwarder, is_closure, is_refusal
from pgnotifier.contrib.celery.forwarding_redis import RedisForwarder
from pgnotifier.contrib.celery.relay_messages import Message, read
from pgnotifier.contrib.celery.relay_requests import send_request
from pgnotifier.dispatch import Batch, Delivery
from pgnotifier.errors import PgNotifierError, in_one_line


class Suspicion:
    """How many of the next messages are sent one at a time, because the broker refuses one of them.

    RabbitMQ closes the channel on which it gets a message that it won't accept, and doesn't say
    which one that was. The suspicion outlasts the connection.

    Some messages make it close the connection instead, but a defect of the broker may do so, too.
    So such a message is refused once RabbitMQ has closed the connection over it alone, several
    times in a row, and has confirmed a message that nobody gets just before.

    Attributes:
        left: How many messages.
    """

    MOST_CLOSURES: ClassVar[int] = 3

    def __init__(self) -> None:
        """Begin without any."""
        self.left = 0
        self._suspect: int | None = None  # the id of the message that it was closed over
        self._closures = 0  # in a row

    def covers(self, delivery: Delivery) -> bool:
        """Return whether RabbitMQ has closed the connection over this message alone."""
        return self._closures > 0 and self._suspect == delivery.notification.id

    def note_closure(self, delivery: Delivery) -> bool:
        """Count a closure over a message alone; return whether the message is to be refused."""
        self._closures = self._closures + 1 if self.covers(delivery) else 1
        self._suspect = delivery.notification.id
        return self._closures >= self.MOST_CLOSURES

    def acquit(self) -> None:
        """Forget the closures: the last message was sent or refused, or failed otherwise."""
        self._closures = 0


class _Handled(NamedTuple):
    """A delivery with the carrier's positions before and after its messages.

    The task's name is None if the message was refused or passed on.
    """

    delivery: Delivery
    task: str | None
    first: int
    last: int


class Relay:
    """Forwards with one producer, for one deliverer. Waits for many acknowledgements at a time."""

    def __init__(
        self,
        app: Any,
        producer: Any,
        has_failed: Callable[[BaseException, Any], bool],
        allow: tuple[str, ...] | None,
        suspicion: Suspicion,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            app: The app, finalized.
            producer: A connected producer that nobody else uses.
            has_failed: Returns whether an exception means that the broker is down.
            allow: Which tasks may be enqueued from SQL: see `send_request`.
            suspicion: How many messages to send one at a time.
        """
        self._app = app
        self._producer = producer
        self._has_failed = has_failed
        self._allow = allow
        self._suspicion = suspicion
        self._forwarder = forwarder_for(app, producer)
        self._carrier = self._forwarder.carrier
        self._handled: list[_Handled] = []
        self._forwarded: Counter[str] = Counter()
        self._refused = 0

    def take_counts(self, refused: int = 0) -> tuple[Counter[str], int]:
        """Return how many messages were forwarded by task, and refused, since the last call.

        Args:
            refused: A number to add to the refused ones.
        """
        forwarded, self._forwarded = self._forwarded, Counter()
        refused, self._refused = refused + self._refused, 0
        return forwarded, refused

    def forward(self, batch: Batch) -> None:
        """Forward each delivery, and acknowledge it once the broker has acknowledged its message.

        Raises:
            Exception: The broker is down. The type depends on its client.
        """
        while batch.remaining:
            if not self._forward_rows(batch):
                self._forward_chunk(batch)

    def _forward_rows(self, batch: Batch) -> bool:
        """Forward the next messages as they are in the log; return whether there were any.

        If not, the next one is a task that was enqueued from SQL, or needs a closer look.
        """
        if not isinstance(batch, PortionBatch) or self._suspicion.left or not batch.binding.live:
            return False
        rows = batch.rows(self._carrier.chunk)
        first, tasks = self._carrier.position, list[str]()
        self._forwarder.begin()
        try:
            self._forwarder.forward_many([row.payload for row in rows], tasks)
            self._forwarder.settle()
        except BaseException as exc:
            self._handled = self._list_handled(batch, first, tasks)
            self._leave_unsettled(batch, len(tasks), exc)
            raise
        if self._carrier.refused:
            self._handled = self._list_handled(batch, first, tasks)
            self._end_chunk(is_settled=True)
        else:
            self._forwarded.update(tasks)  # Counter counts a list much faster than a loop does
        batch.done(len(tasks))
        return bool(tasks)

    def _list_handled(self, batch: Batch, first: int, tasks: list[str]) -> list[_Handled]:
        """Return the next deliveries, which have one message each, with their positions."""
        deliveries = zip(batch.rest(len(tasks)), tasks, strict=False)  # none if it is cancelled
        return [
            _Handled(delivery, task, at, at + 1)
            for at, (delivery, task) in enumerate(deliveries, first)
        ]

    def _forward_chunk(self, batch: Batch) -> None:
        """Forward the next deliveries, whatever they are."""
        chunk = batch.rest(1 if self._suspicion.left else self._carrier.chunk)
        if chunk and self._suspicion.covers(chunk[0]):
            self._forwarder.probe()
        self._forwarder.begin()
        try:
            for delivery in chunk:
                if batch.is_cancelled:
                    self._carrier.drop()
                    self._handled.clear()
                    return
                self._handled.append(self._forward_one(delivery))
            self._forwarder.settle()
        except BaseException as exc:
            self._leave_unsettled(batch, len(chunk), exc)
            raise
        self._end_chunk(is_settled=True)
        batch.done(len(chunk))
        self._suspicion.acquit()
        self._suspicion.left = max(0, self._suspicion.left - 1)

    def _forward_one(self, delivery: Delivery) -> _Handled:
        first, task = self._carrier.position, None
        if not delivery.binding.live:
            delivery.pass_on()
        else:
            try:
                task = self._forward_live(delivery)
            except Exception as exc:
                if isinstance(exc, PgNotifierError) or not self._has_failed(exc, self._producer):
                    self._refuse(delivery, exc)
                elif (error := _hide_arguments(exc, delivery)) is exc:
                    raise
                else:
                    raise error from None
        return _Handled(delivery, task, first, self._carrier.position)

    def _forward_live(self, delivery: Delivery) -> str:
        """Forward a message, and return the name of its task."""
        found = read(delivery.notification.raw)
        if isinstance(found, Message):
            self._forwarder.forward(found)
        else:
            self._carrier.send()  # to keep the order
            task_id = delivery.identify_as_text() or ""
            send_request(self._app, found, task_id, self._allow, self._producer)
        return found.task

    def _refuse(self, delivery: Delivery, exc: Exception) -> None:
        self._refused += 1
        raw = delivery.notification.raw
        delivery.report(without_arguments(exc, raw, MessageRefusedError, "task"))

    def _end_chunk(self, *, is_settled: bool) -> None:
        """Report messages that the broker will never accept, and count the rest.

        Args:
            is_settled: Whether the broker has answered for all of them.
        """
        refused = self._carrier.refused
        if is_settled and not refused:
            # Counter counts a list much faster than a loop does.
            self._forwarded.update([one.task for one in self._handled if one.task is not None])
            self._handled.clear()
            return
        for one in self._handled:
            errors = (refused.get(at) for at in range(one.first + 1, one.last + 1))
            error = next(filter(None, errors), None) if refused else None
            if error is not None:
                self._refuse(one.delivery, _explain(error))
            elif one.task is not None and self._carrier.has_settled(one.first, one.last):
                self._forwarded[one.task] += 1
        refused.clear()
        self._handled.clear()

    def _leave_unsettled(self, batch: Batch, count: int, exc: BaseException) -> None:
        """Leave what the broker may not have for the next attempt."""
        rest = batch.rest()[len(self._handled) :]
        has_settled = self._carrier.has_settled
        left = [
            one.delivery
            for one in self._handled
            if one.task is not None and not has_settled(one.first, one.last)
        ]
        sent = left[0] if left else None
        alone = sent if self._handled else next(iter(rest), None)  # if it could be at fault
        left += rest
        self._end_chunk(is_settled=False)
        if not is_refusal(exc) and not is_closure(exc):
            self._suspicion.acquit()
        elif count != 1:
            self._suspicion.left = max(1, count)
        elif alone is not None and self._is_at_fault(alone, exc, is_sent=sent is not None):
            self._refuse(left.pop(0), _explain(exc))
            self._suspicion.acquit()
            self._suspicion.left = max(0, self._suspicion.left - 1)
        batch.leave(left)

    def _is_at_fault(self, alone: Delivery, exc: BaseException, *, is_sent: bool) -> bool:
        """Return whether the broker refuses a message that was sent alone.

        If it closed the connection before the message was sent, it did so over a declaration.
        RabbitMQ does this while nodes of a cluster are down.
        """
        if is_refusal(exc):
            return True
        self._suspicion.left = max(1, self._suspicion.left)
        return is_sent and self._suspicion.note_closure(alone)


def forwarder_for(app: Any, producer: Any) -> Forwarder:
    """Return the forwarder for a producer's transport."""
    if producer.connection.get_transport_cls().driver_type == "redis":
        return RedisForwarder(app, producer)
    if isinstance(producer.channel, amqp.Channel):
        return AmqpForwarder(app, producer)
    return KombuForwarder(app, KombuCarrier(producer))


def _hide_arguments(exc: Exception, delivery: Delivery) -> Exception:
    """Return an error of a broker that is down: a router or serializer may have raised it, too."""
    if is_refusal(exc) or is_closure(exc):
        return exc
    return without_arguments(exc, delivery.notification.raw, ConnectionError, "task")


def _explain(exc: BaseException) -> MessageRefusedError:
    what = "closes the connection over" if is_closure(exc) else "refuses"
    error = MessageRefusedError(f"the broker {what} the message: {in_one_line(exc)}")
    error.__cause__ = exc
    return error
