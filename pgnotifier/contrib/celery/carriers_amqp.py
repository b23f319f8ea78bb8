"""Send messages to RabbitMQ in portions, and wait for the confirms of many at once."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from time import monotonic
from typing import Any, ClassVar

from amqp import spec
from amqp import transport as amqp_transport
from kombu.exceptions import OperationalError

from pgnotifier.contrib.celery.broker import ANSWER_TIMEOUT
from pgnotifier.contrib.celery.carriers import Carrier
from pgnotifier.contrib.celery.forwarding import find_entities, is_queue, nowhere
from pgnotifier.contrib.celery.outbox_messages import Destination
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping_amqp import AmqpStamp, check_message
from pgnotifier.contrib.celery.targets import CeleryTarget

_TCPTransport: Any = amqp_transport.TCPTransport
_ACK = Struct(">BHIHHQBB")
"""The frame of an ack: type, channel, size, class, method, delivery tag, multiple, end mark."""
_METHOD = 1  # the frame type
_ROOM = 65_536  # bytes to read at a time


class AmqpCarrier(Carrier):
    """Sends messages to RabbitMQ, and waits for the confirms of many at once.

    RabbitMQ numbers all messages of the channel, so those that Celery publishes are counted too.
    https://www.rabbitmq.com/docs/confirms#publisher-confirms

    RabbitMQ would confirm and drop a message that no queue gets. So messages are mandatory, and it
    returns such a message instead. If the message's queue existed before, it has been deleted or
    has expired since. Then the message fails as if the broker were down, and Celery declares the
    queue again with the next connection. If the queue has just been declared, the message is
    refused for good.
    https://www.rabbitmq.com/docs/publishers#unroutable
    """

    chunk = 1000  # RabbitMQ confirms after writing to disk, which takes no longer for many
    portion: ClassVar[int] = 100

    def __init__(self, producer: Any, app: Any = None) -> None:
        """Put the producer's channel into confirm mode.

        Args:
            producer: A connected producer.
            app: The app with the queues. Without it, only what goes to a queue by its name is
                mandatory.
        """
        super().__init__(producer)
        self._app = app
        self._sent: dict[Any, int] = {}  # positions by the id of the task, until all is settled
        self._used: set[tuple[str, str]] = set()
        self._fresh: set[tuple[str, str]] = set()
        self._unconfirmed: dict[int, None] = {}
        self._refused: set[int] = set()
        self._waiting: list[bytes] = []
        self._seen: list[tuple[Any, Any]] = []
        self._channel = channel = producer.channel
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        publish = channel.basic_publish

        def count_and_publish(message: Any, **settings: Any) -> Any:
            check_message(channel, message)
            self._count()
            self._sent[message.properties.get("correlation_id")] = self.position
            where = settings.get("exchange") or "", settings.get("routing_key") or ""
            if where not in self._used:
                self._fresh.add(where)
            settings["mandatory"] = self._is_mandatory(*where)
            self._seen.append((message, settings))
            try:
                return publish(message, **settings)
            except BaseException:
                self._uncount()  # it couldn't be encoded, or the connection is lost
                raise

        channel.basic_publish = count_and_publish

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Record what the channel publishes."""
        self._seen.clear()
        seen: list[tuple[Any, Any]] = []
        yield seen
        seen += self._seen

    def make_stamp(self, like: Published, target: CeleryTarget) -> AmqpStamp:
        """Make the stamp of a message."""
        return AmqpStamp(like, target, self._channel)

    def add(self, message: bytes, task_id: str | None = None) -> None:
        """Add a message, and send a portion if it is complete."""
        self._count()
        if task_id is not None:
            self._sent[task_id] = self.position
        self._waiting.append(message)
        if len(self._waiting) >= self.portion:
            self.send()

    def send(self) -> None:
        """Send the added messages."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._channel.connection.transport.write(data)

    def settle(self) -> None:
        """Send the added messages, and wait until the broker has confirmed all of them.

        Raises:
            OperationalError: The broker refused some, or didn't confirm all of them in time.
        """
        self.send()
        deadline = monotonic() + ANSWER_TIMEOUT
        while self._unconfirmed:
            self._take_acks()
            if not self._unconfirmed:
                break
            try:
                self._channel.connection.drain_events(timeout=max(0.001, deadline - monotonic()))
            except TimeoutError:
                raise OperationalError(
                    f"the broker has not confirmed {len(self._unconfirmed)} messages within "
                    f"{ANSWER_TIMEOUT:g} s; RabbitMQ stops reading while its disk or memory is "
                    "nearly full, so look for alarms in `rabbitmqctl status`"
                ) from None
        self._sent.clear()
        self._used |= self._fresh
        self._fresh.clear()
        if self._refused:
            raise OperationalError(
                f"the broker refused {len(self._refused)} messages; a queue may have reached its "
                "maximum length, or was deleted"
            )

    def _take_acks(self) -> None:
        """Read the acks that have arrived, many at once.

        If messages for several queues alternate, RabbitMQ sends an ack for each message, and
        py-amqp needs three system calls to read one. Frames that aren't acks are left for py-amqp.
        """
        transport = self._channel.connection.transport
        if not isinstance(transport, _TCPTransport) or transport.sock.gettimeout() is not None:
            return
        try:
            came = transport.sock.recv(_ROOM, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        data: bytes = transport._read_buffer + came  # noqa: SLF001 - there is no public access
        at, ack = 0, (_METHOD, self._channel.channel_id, 13, *spec.Basic.Ack, 0xCE)
        while len(data) - at >= _ACK.size:
            *head, number, multiple, end = _ACK.unpack_from(data, at)
            if (*head, end) != ack:
                break
            self._on_ack(number, bool(multiple & 1))
            at += _ACK.size
        transport._read_buffer = data[at:]  # noqa: SLF001

    def has_settled(self, first: int, last: int) -> bool:
        """Return whether the broker has confirmed these messages."""
        numbers = range(first + 1, last + 1)
        return not any(n in self._unconfirmed or n in self._refused for n in numbers)

    def refuse(self, position: int) -> None:
        """Count a message as one that the broker has refused: `settle` then raises an error."""
        self._refused.add(position)

    def drop(self) -> None:
        """Discard the added messages that aren't sent yet."""
        for _ in self._waiting:
            self._uncount()
        self._waiting.clear()

    def _count(self) -> None:
        # Number the message as the broker does. Do it before sending: the confirm may be read
        # while the message is being sent.
        self.position += 1
        self._unconfirmed[self.position] = None

    def _uncount(self) -> None:
        self._unconfirmed.pop(self.position, None)
        self.position -= 1

    def _is_mandatory(self, exchange: str, routing_key: str) -> bool:
        """Return whether there has to be a queue for a message.

        What goes to a fanout, or to an exchange without a known queue, is lost if nobody listens.
        """
        if not exchange or self._app is None:
            return not exchange
        destination = Destination(exchange, routing_key, 0)
        return any(map(is_queue, find_entities(self._app, self.producer.connection, destination)))

    def _on_return(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:  # noqa: ARG002
        """Leave a message that no queue has got for another attempt, or refuse it.

        RabbitMQ returns the message before it confirms it.
        """
        position = self._sent.get(message.properties.get("correlation_id"))
        if position is None:
            return
        if (exchange, routing_key) in self._fresh:
            self.refused[position] = nowhere(Destination(exchange, routing_key, 0))
        else:
            self.refuse(position)

    def _on_ack(self, number: int, multiple: bool) -> None:
        self._answered(number, multiple)

    def _on_nack(self, number: int, multiple: bool) -> None:
        self._refused.update(self._answered(number, multiple))

    def _answered(self, number: int, multiple: bool) -> list[int]:
        pending = self._unconfirmed
        if not multiple:
            numbers = [number] if number in pending else []
        else:
            numbers = []
            for waiting in pending:  # in the order of their numbers
                if waiting > number:
                    break
                numbers.append(waiting)
        for one in numbers:
            del pending[one]
        return numbers
