"""Send messages to Redis and Valkey: to any number of lists in one round trip."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pgnotifier.contrib._queues.redis_errors import is_wrong_type
from pgnotifier.contrib.celery.carriers import Carrier
from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.redis_pushing import push_bytes
from pgnotifier.contrib.celery.stamping_redis import RedisMessage, RedisStamp
from pgnotifier.contrib.celery.targets import CeleryTarget


class Push(NamedTuple):
    """Messages for one list, in order, and their positions."""

    texts: list[bytes]
    positions: list[int]


class RedisCarrier(Carrier):
    """Pushes messages to Redis lists: one command per list, all of them in one round trip."""

    takes_many = True

    def __init__(self, producer: Any) -> None:
        super().__init__(producer)
        self._waiting: dict[str, Push] = {}  # by list
        self._unsettled: set[int] = set()

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Record the queues that a message is put into; None stands for a fanout exchange."""
        seen: list[tuple[Any, Any]] = []
        channel = self.producer.channel
        put, put_fanout = channel._put, channel._put_fanout  # noqa: SLF001 - there is no public hook

        def record_put(queue: str, message: Any, **more: Any) -> None:
            seen.append((queue, message))
            put(queue, message, **more)

        def record_fanout(exchange: str, message: Any, routing_key: str, **more: Any) -> None:
            seen.append((None, message))
            put_fanout(exchange, message, routing_key, **more)

        # Attributes of the instance hide the methods. Only this thread uses the channel.
        vars(channel).update(_put=record_put, _put_fanout=record_fanout)
        try:
            yield seen
        finally:
            del channel._put, channel._put_fanout  # noqa: SLF001

    def make_stamp(self, like: Published, target: CeleryTarget) -> RedisStamp:
        """Make the stamp of a message."""
        return RedisStamp(like, target, self.producer.channel)

    def add(self, message: RedisMessage, task_id: str | None = None) -> None:  # noqa: ARG002
        """Add a message."""
        self.add_all((message,))

    def add_all(self, messages: Sequence[RedisMessage]) -> None:
        """Add messages."""
        key: str | None = None
        push = Push([], [])  # which the first message replaces
        for position, message in enumerate(messages, self.position + 1):
            if message.key != key:
                key = message.key
                push = self._waiting.setdefault(key, Push([], []))
            push.texts.append(message.data)
            push.positions.append(position)
        self._unsettled.update(range(self.position + 1, self.position + len(messages) + 1))
        self.position += len(messages)

    def send(self) -> None:
        """Push the added messages, and wait for the answers."""
        if not self._waiting:
            return
        # If the connection breaks, it is unknown which messages were pushed. All of them are sent
        # again with the same ids.
        pushes, self._waiting = self._waiting, {}
        self._push(pushes)

    def push(self, pushes: Mapping[str, Push], count: int) -> None:
        """Push messages at once, and wait for the answers.

        Args:
            pushes: The messages by list. Their positions are those after the current one.
            count: How many there are.
        """
        if not count:
            return
        self._unsettled.update(range(self.position + 1, self.position + count + 1))
        self.position += count
        self._push(pushes)

    def _push(self, pushes: Mapping[str, Push]) -> None:
        channel = self.producer.channel
        texts = {key: push.texts for key, push in pushes.items()}
        with channel.conn_or_acquire() as client:
            answers = push_bytes(client, texts, channel.global_keyprefix)
        self._note_answers(pushes, answers)

    def _note_answers(self, pushes: Mapping[str, Push], answers: Sequence[Any]) -> None:
        """Note what Redis has stored, or will never accept; raise errors that may be temporary."""
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
        """Return whether Redis has stored these messages, or will never accept them."""
        return self._unsettled.isdisjoint(range(first + 1, last + 1))

    def drop(self) -> None:
        """Discard the added messages that aren't sent yet."""
        self._waiting.clear()
        self._unsettled.clear()
