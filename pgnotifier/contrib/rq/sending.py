"""Sending: many jobs in one transaction, of which it is known whether it was made.

Redis may have made a transaction though its answer was lost. So each leaves a mark, its number, and
whoever sends again looks at that first. The mark is watched, too: what is still on its way then can
no longer be made. https://redis.io/docs/latest/develop/interact/transactions/
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redis import Redis

from pgnotifier.contrib.rq.stamping import Command
from pgnotifier.dispatch import Delivery

MARK_LIFE = 24 * 3600
"""Seconds for which a mark is kept after the latest transaction."""
PUSHES = ("RPUSH", "LPUSH")


class Sender:
    """Sends to one Redis server; owned by the deliverer's thread."""

    def __init__(self, connection: Redis) -> None:
        """Take a connection, which isn't used yet."""
        self._connection = connection
        self._mark = f"pgnotifier:rq:{secrets.token_hex(8)}"
        self._number = 0
        self._unsure: dict[int, Sequence[Delivery]] = {}  # by number: those without an answer

    def send(
        self, commands: Iterable[Command], deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """Enqueue some jobs, all or none.

        Args:
            commands: What enqueues them.
            deliveries: What they were made of.

        Returns:
            What is enqueued now: these deliveries; or else those of an earlier call, which had
            failed though Redis had made its transaction. Then nothing was sent.

        Raises:
            redis.RedisError: There was no answer, or a refusal.
        """
        opened: Any = self._connection.pipeline()  # whose methods have no types
        with opened as pipeline:
            # A pipeline that watches isn't sent again by redis-py itself when its answer is lost.
            pipeline.watch(self._mark)
            if self._unsure:
                made = self._unsure.get(int(pipeline.get(self._mark) or 0))
                if made is not None:
                    self._unsure.clear()
                    return made
            pipeline.multi()
            for command in _merge(commands):
                pipeline.execute_command(*command)
            self._number += 1
            pipeline.set(self._mark, self._number, ex=MARK_LIFE)
            self._unsure[self._number] = deliveries
            pipeline.execute()
        self._unsure.clear()
        return deliveries


def _merge(commands: Iterable[Command]) -> Iterator[Command]:
    """Yield what is to the same effect: what is said twice once, and as few pushes as can be."""
    seen: set[Command] = set()
    pushes: list[list[object]] = []
    for command in commands:
        name = command[0]
        if name in PUSHES:
            if pushes and pushes[-1][:2] == [*command[:2]]:
                pushes[-1] += command[2:]
            else:
                pushes.append([*command])
        elif name != "SADD":
            yield command
        elif command not in seen:
            seen.add(command)
            yield command
    for push in pushes:
        yield tuple(push)
