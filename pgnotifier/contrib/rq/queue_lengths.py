"""Measure how many jobs wait in RQ's queues, for `pgnotifier top`."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from rq import Queue

from pgnotifier.contrib.rq.dispatcher import RQDispatcher
from pgnotifier.dispatch import Dispatcher

if TYPE_CHECKING:
    from redis import Redis


class RQQueues:
    """Asks Redis for the lengths of queues."""

    kind = "RQ"
    dispatchers = frozenset({"RQDispatcher"})

    def __init__(self, connection: "Redis") -> None:
        """Take the connection of a dispatcher."""
        self._connection = connection

    def measure(self, names: Collection[str]) -> Mapping[str, int | None]:
        """Return the lengths of queues.

        Raises:
            redis.RedisError: Redis doesn't answer.
        """
        chosen = [*names]
        pipeline = self._connection.pipeline(transaction=False)
        for name in chosen:
            pipeline.llen(f"{Queue.redis_queue_namespace_prefix}{name}")
        return dict(zip(chosen, pipeline.execute(), strict=True))

    def close(self) -> None:
        """Leave the connection to the dispatcher."""


def find_queues(app: Any, dispatchers: Collection[Dispatcher]) -> list[RQQueues]:  # noqa: ARG001
    """Return objects that ask the servers of RQ's dispatchers."""
    found = [one.connection for one in dispatchers if isinstance(one, RQDispatcher)]
    return [RQQueues(one) for one in {id(each): each for each in found}.values()]
