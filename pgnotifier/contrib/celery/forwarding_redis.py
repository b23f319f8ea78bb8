"""Forward an outbox's finished messages to Redis and Valkey: their texts are pushed as they are."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from kombu.common import maybe_declare

from pgnotifier.contrib._queues.redis_limits import find_bulk_limit
from pgnotifier.contrib.celery.carriers_redis import Push, RedisCarrier
from pgnotifier.contrib.celery.errors import MessageRefusedError
from pgnotifier.contrib.celery.forwarding import Forwarder, find_entities, nowhere
from pgnotifier.contrib.celery.outbox_messages import Destination
from pgnotifier.contrib.celery.relay_messages import Message, read_finished
from pgnotifier.contrib.celery.stamping_redis import RedisMessage

_maybe_declare: Any = maybe_declare
_ALWAYS_FITS = 1 << 18
"""A text of this many characters, of up to 4 bytes each, is under the lowest limit of a server."""


class Route(NamedTuple):
    """Where the messages for a destination go.

    Attributes:
        lists: The keys of the lists that they are pushed to.
        topics: The topics that they are published on instead, if their exchange is a fanout.
        expiring: The lists with an expiry to renew, in milliseconds, as their queues expire.
    """

    lists: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    expiring: tuple[tuple[str, int], ...] = ()


class RedisForwarder(Forwarder):
    """Pushes texts to the lists that kombu's transport would push them to."""

    carrier: RedisCarrier

    def __init__(self, app: Any, producer: Any) -> None:
        """Begin without knowing any list."""
        super().__init__(app, RedisCarrier(producer))
        self._channel = producer.channel
        self._routes: dict[Destination, Route] = {}
        self._bound: dict[Destination, Route] = {}
        self._expiring: dict[str, int] = {}
        self._limit: int | None = None

    def begin(self) -> None:
        """Forget the queues of exchanges: others may have been bound meanwhile."""
        self._bound.clear()

    def forward(self, message: Message) -> None:
        """Add a message to the lists of its queues."""
        text, destination = message.text, message.destination
        route = (
            self._routes.get(destination) or self._bound.get(destination) or self._find(destination)
        )
        if len(text) > _ALWAYS_FITS:
            self._check_size(text)
        for key in route.lists:
            self.carrier.add(RedisMessage(key, text.encode()))
        if route.expiring:
            self._expiring.update(route.expiring)
        if route.topics:
            with self._channel.conn_or_acquire() as client:
                for topic in route.topics:
                    client.publish(topic, text)

    def forward_many(self, texts: Iterable[bytes], tasks: list[str]) -> None:
        """Push messages to the lists of their queues, up to the first that isn't for just one."""
        pushes: dict[str, Push] = {}
        by_destination: dict[Destination, Push] = {}
        for position, text in enumerate(texts, self.carrier.position + 1):
            found = read_finished(text)
            if found is None or len(text) > _ALWAYS_FITS:
                break
            destination = found.destination
            push = by_destination.get(destination)
            if push is None:
                key = self._find_list(destination)
                if key is None:
                    break
                push = by_destination[destination] = pushes.setdefault(key, Push([], []))
            push.texts.append(text)
            push.positions.append(position)
            tasks.append(found.headers.task)
        self.carrier.push(pushes, len(tasks))

    def _find_list(self, destination: Destination) -> str | None:
        """Return the list that a destination's messages are pushed to, if it is exactly one."""
        route = self._routes.get(destination) or self._bound.get(destination)
        if route is None:
            try:
                route = self._find(destination)
            except Exception:  # noqa: BLE001 - `forward` comes to it, too
                return None
        is_alone = len(route.lists) == 1 and not (route.topics or route.expiring)
        return route.lists[0] if is_alone else None

    def settle(self) -> None:
        """Push what was added, and wait for the answers."""
        super().settle()
        if self._expiring:
            expiring, self._expiring = self._expiring, {}
            with self._channel.conn_or_acquire() as client:
                pipeline = client.pipeline(transaction=False)
                for key, milliseconds in expiring.items():
                    pipeline.pexpire(key, milliseconds)
                pipeline.execute()

    def _find(self, destination: Destination) -> Route:
        """Return the route of a destination, after declaring what Celery would have declared."""
        channel, (exchange, routing_key, _) = self._channel, destination
        for entity in find_entities(self.app, self.producer.connection, destination):
            _maybe_declare(entity, channel)
        if not exchange:
            route = self._routes[destination] = self._push_to([routing_key], destination)
            return route
        if channel.typeof(exchange).type == "fanout":
            topics = tuple(channel._get_publish_topics(exchange, routing_key))  # noqa: SLF001
            route = Route(topics=topics)
        else:
            queues = sorted(channel._lookup(exchange, routing_key))  # noqa: SLF001
            if not queues:
                raise nowhere(destination)
            route = self._push_to(queues, destination)
        self._bound[destination] = route
        return route

    def _push_to(self, queues: list[str], destination: Destination) -> Route:
        channel = self._channel
        like = {"properties": {"priority": destination.priority}}
        step = channel._get_message_priority(like, reverse=False)  # noqa: SLF001
        expires = getattr(channel, "_expires", None) or {}
        return Route(
            lists=tuple(channel._q_for_pri(queue, step) for queue in queues),  # noqa: SLF001
            expiring=tuple(
                (channel._q_for_pri(queue, priority), expires[queue])  # noqa: SLF001
                for queue in queues
                if queue in expires
                for priority in channel.priority_steps
            ),
        )

    def _check_size(self, text: str) -> None:
        """Check that the server accepts a text: it would close the connection without an answer.

        https://redis.io/docs/latest/develop/reference/protocol-spec/#bulk-strings
        """
        if self._limit is None:
            with self._channel.conn_or_acquire() as client:
                self._limit = find_bulk_limit(client)
        size = len(text.encode())
        if size > self._limit:
            raise MessageRefusedError(
                f"the message has {size:,} bytes, and the broker accepts {self._limit:,} "
                "(its setting proto-max-bulk-len)"
            )
