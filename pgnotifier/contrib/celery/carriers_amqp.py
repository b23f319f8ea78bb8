"""RabbitMQ: messages go out many at a time, and so are their confirms awaited."""

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
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping_amqp import AmqpStamp
from pgnotifier.contrib.celery.targets import CeleryTarget

_TCPTransport: Any = amqp_transport.TCPTransport
_ACK = Struct(">BHIHHQBB")
"""The frame of an ack: type, channel, size, class, method, number, whether multiple, end."""
_METHOD = 1  # a type of frame
_ROOM = 65_536


class AmqpCarrier(Carrier):
    """Sends messages to RabbitMQ, and awaits the confirms for many at once.

    Every message of the producer counts, whoever publishes it.
    https://www.rabbitmq.com/docs/confirms#publisher-confirms
    """

    chunk = 1000  # it confirms once it has written to disk, which takes no longer for many
    portion: ClassVar[int] = 100

    def __init__(self, producer: Any) -> None:
        """Put the producer's channel into confirm mode."""
        super().__init__(producer)
        self._unconfirmed: dict[int, None] = {}
        self._refused: set[int] = set()
        self._waiting: list[bytes] = []
        self._seen: list[tuple[Any, Any]] = []
        self._channel = channel = producer.channel
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        publish = channel.basic_publish

        def count_and_publish(message: Any, **settings: Any) -> Any:
            self._count()
            self._seen.append((message, settings))
            return publish(message, **settings)

        channel.basic_publish = count_and_publish

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Take down what the channel publishes."""
        self._seen.clear()
        seen: list[tuple[Any, Any]] = []
        yield seen
        seen += self._seen

    def make_stamp(self, like: Published, target: CeleryTarget) -> AmqpStamp:
        """Make the stamp of a message."""
        return AmqpStamp(like, target, self._channel)

    def add(self, message: bytes) -> None:
        """Take a message."""
        self._count()
        self._waiting.append(message)
        if len(self._waiting) >= self.portion:
            self.send()

    def send(self) -> None:
        """Send what was taken."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._channel.connection.transport.write(data)

    def settle(self) -> None:
        """Send what was taken, and wait until the broker has confirmed all messages."""
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
                    f"{ANSWER_TIMEOUT:g} s; RabbitMQ stops to read while its disk or memory is full"
                ) from None
        if self._refused:
            raise OperationalError(
                f"the broker refused {len(self._refused)} messages: a queue is full, say"
            )

    def _take_acks(self) -> None:
        """Read what acks have come, many at once.

        RabbitMQ sends one for each message where several queues take turns; py-amqp reads them with
        three system calls each. What is no ack is left for it.
        """
        transport = self._channel.connection.transport
        if not isinstance(transport, _TCPTransport) or transport.sock.gettimeout() is not None:
            return
        try:
            came = transport.sock.recv(_ROOM, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        data: bytes = transport._read_buffer + came  # noqa: SLF001 - nothing public has it
        at, ack = 0, (_METHOD, self._channel.channel_id, 13, *spec.Basic.Ack, 0xCE)
        while len(data) - at >= _ACK.size:
            *head, number, multiple, end = _ACK.unpack_from(data, at)
            if (*head, end) != ack:
                break
            self._on_ack(number, bool(multiple & 1))
            at += _ACK.size
        transport._read_buffer = data[at:]  # noqa: SLF001

    def has_settled(self, first: int, last: int) -> bool:
        """Tell whether the broker has confirmed them."""
        numbers = range(first + 1, last + 1)
        return not any(n in self._unconfirmed or n in self._refused for n in numbers)

    def drop(self) -> None:
        """Forget what was taken and isn't sent yet."""
        for _ in self._waiting:
            self._unconfirmed.pop(self.position)
            self.position -= 1
        self._waiting.clear()

    def _count(self) -> None:
        # As the broker does. Before it is sent: the confirm may be read amid that.
        self.position += 1
        self._unconfirmed[self.position] = None

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
