"""Carriers: how stamped messages get into the broker, and when it has acknowledged them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ClassVar, NamedTuple

import amqp
from kombu.exceptions import OperationalError

from pgnotifier.contrib.celery.broker import ANSWER_TIMEOUT, is_wrong_type
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping import Stamp
from pgnotifier.contrib.celery.stamping_amqp import AmqpStamp
from pgnotifier.contrib.celery.stamping_kombu import KombuMessage, KombuStamp
from pgnotifier.contrib.celery.stamping_redis import RedisMessage, RedisStamp
from pgnotifier.contrib.celery.targets import Target


class Carrier(ABC):
    """Takes messages to the broker over one producer, in order.

    Attributes:
        chunk: The most messages after which to wait for the broker.
        position: How many messages it was given so far.
        refused: By position, why the broker will never take a message; the publisher empties it.
    """

    chunk: ClassVar[int] = 500

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self.position = 0
        self.refused: dict[int, Exception] = {}

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Look on while Celery publishes a message, and take down what a stamp needs."""
        yield []

    @abstractmethod
    def make_stamp(self, like: Published, target: Target) -> Stamp:
        """Make the stamp of a message.

        Raises:
            UnstampableError: It can't be one.
        """

    @abstractmethod
    def add(self, message: Any) -> None:
        """Take a stamped message, and send it now or later."""

    def send(self) -> None:  # noqa: B027 - nothing was taken where `add` sends
        """Send what was taken, so that what others publish now comes after it."""

    def settle(self) -> None:
        """Send what was taken, and wait until the broker has acknowledged it all.

        Raises:
            Exception: It doesn't; of whatever type its client raises.
        """
        self.send()

    @abstractmethod
    def has_settled(self, first: int, last: int) -> bool:
        """Tell whether the broker has the messages after one position, up to another."""

    def drop(self) -> None:  # noqa: B027
        """Forget what was taken and isn't sent yet."""


class RedisCarrier(Carrier):
    """Puts messages into Redis' lists: one command for each list, all of them in one round trip."""

    def __init__(self, producer: Any) -> None:
        super().__init__(producer)
        self._waiting: dict[str, Push] = {}  # by list
        self._unsettled: set[int] = set()

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Take down which queues a message is put into; None is a fanout exchange."""
        seen: list[tuple[Any, Any]] = []
        channel = self.producer.channel
        put, put_fanout = channel._put, channel._put_fanout  # noqa: SLF001 - nothing public does

        def record_put(queue: str, message: Any, **more: Any) -> None:
            seen.append((queue, message))
            put(queue, message, **more)

        def record_fanout(exchange: str, message: Any, routing_key: str, **more: Any) -> None:
            seen.append((None, message))
            put_fanout(exchange, message, routing_key, **more)

        # They hide the methods of the class. Nobody else uses the channel meanwhile.
        vars(channel).update(_put=record_put, _put_fanout=record_fanout)
        try:
            yield seen
        finally:
            del channel._put, channel._put_fanout  # noqa: SLF001

    def make_stamp(self, like: Published, target: Target) -> RedisStamp:
        """Make the stamp of a message."""
        return RedisStamp(like, target, self.producer.channel)

    def add(self, message: RedisMessage) -> None:
        """Take a message."""
        push = self._waiting.get(message.key)
        if push is None:
            push = self._waiting[message.key] = Push([], [])
        self.position += 1
        self._unsettled.add(self.position)
        push.texts.append(message.text)
        push.positions.append(self.position)

    def send(self) -> None:
        """Put what was taken into its lists, and wait for Redis' answers."""
        if not self._waiting:
            return
        # Without MULTI: lists have no need to change at one moment, and may be on several servers.
        # When the connection breaks, all are in doubt, and are sent again with the same ids.
        pushes, self._waiting = self._waiting, {}
        with self.producer.channel.conn_or_acquire() as client:
            answers = _push_all(client, pushes)
        failures = []
        for push, answer in zip(pushes.values(), answers, strict=True):
            if not isinstance(answer, Exception):
                self._unsettled.difference_update(push.positions)
            elif is_wrong_type(answer):
                self._unsettled.difference_update(push.positions)
                self.refused.update(dict.fromkeys(push.positions, answer))
            else:
                failures.append(answer)
        if failures:
            raise failures[0]

    def has_settled(self, first: int, last: int) -> bool:
        """Tell whether Redis has them, or will never take them."""
        return self._unsettled.isdisjoint(range(first + 1, last + 1))

    def drop(self) -> None:
        """Forget what was taken and isn't sent yet."""
        self._waiting.clear()
        self._unsettled.clear()


class Push(NamedTuple):
    """Messages for one list, in order, and their positions."""

    texts: list[str]
    positions: list[int]


def _push_all(client: Any, pushes: Mapping[str, Push]) -> Sequence[Any]:
    """Return Redis' answers, of which some may be errors."""
    if len(pushes) > 1:
        pipeline = client.pipeline(transaction=False)
        for key, push in pushes.items():
            pipeline.lpush(key, *push.texts)
        answers: Sequence[Any] = pipeline.execute(raise_on_error=False)
        return answers
    ((key, push),) = pushes.items()
    try:
        return [client.lpush(key, *push.texts)]
    except Exception as exc:
        if is_wrong_type(exc):
            return [exc]
        raise


class KombuCarrier(Carrier):
    """Publishes messages one by one, with the transport that kombu has for the broker."""

    def make_stamp(self, like: Published, target: Target) -> KombuStamp:
        """Make the stamp of a message."""
        return KombuStamp(like, target)

    def add(self, message: KombuMessage) -> None:
        """Publish a message."""
        self.producer.publish(message.body, **message.settings)

    def has_settled(self, first: int, last: int) -> bool:  # noqa: ARG002
        """Tell that the broker has them: they have been published."""
        return True


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

    def make_stamp(self, like: Published, target: Target) -> AmqpStamp:
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


def carrier_for(producer: Any) -> Carrier:
    """Return the carrier for a producer's transport."""
    if producer.connection.get_transport_cls().driver_type == "redis":
        return RedisCarrier(producer)
    if isinstance(producer.channel, amqp.Channel):
        return AmqpCarrier(producer)
    return KombuCarrier(producer)
