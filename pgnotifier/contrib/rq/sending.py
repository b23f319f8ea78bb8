"""Enqueue many jobs in one transaction, exactly once even if its answer is lost.

Redis may have executed a transaction even if the answer was lost. So each transaction writes its
number to a key, the mark, and the sender reads the mark before it sends again. It also watches the
mark, so that of two transactions, one of which is still on its way, only one is executed.
https://redis.io/docs/latest/develop/interact/transactions/

Single commands of an executed transaction may have failed, because EXEC continues after an error.
"""

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from redis import Redis, RedisError
from redis.exceptions import ResponseError
from rq.utils import as_text

from pgnotifier._runtime.log_records import about
from pgnotifier.contrib.rq.stamping import RedisCommand
from pgnotifier.dispatch import Delivery

logger = logging.getLogger("pgnotifier.rq")

MARK_LIFE = 24 * 3600
"""Seconds to keep the mark after the latest transaction."""
PUSHES = ("RPUSH", "LPUSH")


class Job(NamedTuple):
    """A delivery, and the commands that enqueue its job."""

    delivery: Delivery
    commands: Sequence[RedisCommand]


class SendResult(NamedTuple):
    """The result of an executed transaction.

    Attributes:
        deliveries: The deliveries that the jobs were made from.
        refused: The errors of jobs that aren't enqueued, by the position of the job.
    """

    deliveries: Sequence[Delivery]
    refused: Mapping[int, RedisError]


class Transaction:
    """The commands of some jobs, with as few pushes as possible.

    Attributes:
        jobs: The jobs.
        commands: The commands to send.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Merge the jobs' commands: one push per end of a queue, and equal SADDs once."""
        self.jobs = jobs
        self.commands: list[RedisCommand] = []
        self._owners: list[Sequence[int]] = []  # by command: the positions of the jobs that need it
        pushes: dict[tuple[Any, ...], tuple[list[Any], list[int]]] = {}
        shared: set[RedisCommand] = set()
        for place, job in enumerate(jobs):
            for command in job.commands:
                if command[0] in PUSHES:
                    ids, owners = pushes.setdefault(command[:2], ([], []))
                    ids += command[2:]
                    owners.append(place)
                elif command[0] != "SADD":
                    self._add(command, (place,))
                elif command not in shared:
                    shared.add(command)
                    self._add(command, ())
        for push, (ids, owners) in pushes.items():
            self._add((*push, *ids), owners)

    def _add(self, command: RedisCommand, owners: Sequence[int]) -> None:
        self.commands.append(command)
        self._owners.append(owners)

    def find_queues(self) -> Iterator[tuple[int, str]]:
        """Yield the position of each push among the commands, and the key of its queue."""
        for place, command in enumerate(self.commands):
            if command[0] in PUSHES:
                yield place, command[1]

    def find_refused(self, failed: Mapping[int, RedisError]) -> dict[int, RedisError]:
        """Return the errors of the jobs that aren't enqueued, given those of their commands."""
        return {job: error for place, error in failed.items() for job in self._owners[place]}

    def take_back(
        self, failed: Collection[int], refused: Collection[int]
    ) -> Iterator[RedisCommand]:
        """Yield the commands that undo what succeeded for jobs that aren't enqueued."""
        for place, (name, key, *rest) in enumerate(self.commands):
            if place in failed:  # the key belongs to somebody else
                continue
            owners = self._owners[place]
            if name == "HSET" and owners[0] in refused:
                yield ("DEL", key)
            elif name in PUSHES:
                for job_id, owner in zip(rest, owners, strict=True):
                    if owner in refused:
                        yield ("LREM", key, 0, job_id)


class Sender:
    """Sends to one Redis server; owned by one thread of one process."""

    def __init__(self) -> None:
        self._mark = f"pgnotifier:rq:{secrets.token_hex(8)}"
        self._number = 0
        self._unsure: dict[int, Transaction] = {}  # by number: transactions without an answer
        self._leftovers: list[RedisCommand] = []  # commands that still have to undo something
        self._warned_of: set[str] = set()

    def send(self, connection: Redis, jobs: Sequence[Job]) -> SendResult:
        """Enqueue some jobs in one transaction.

        Args:
            connection: A connection to the server.
            jobs: The jobs.

        Returns:
            The result for these jobs. If an earlier call failed although Redis had executed its
            transaction, it is the result of that one, and nothing is sent now.

        Raises:
            redis.RedisError: There was no answer, or Redis refused the whole transaction.
        """
        opened: Any = connection.pipeline()  # its methods have no types
        with opened as pipeline:
            # redis-py doesn't resend a pipeline that watches a key when the answer is lost.
            pipeline.watch(self._mark)
            made = self._find_made(pipeline) if self._unsure else None
            if made is not None:
                failed = _find_wrong_types(pipeline, made)
            else:
                made = Transaction(jobs)
                failed = self._execute(pipeline, made)
        self._unsure.clear()
        refused = made.find_refused(failed)
        self._leftovers += made.take_back(failed, refused)
        self._remove_leftovers(connection)
        return SendResult([job.delivery for job in made.jobs], refused)

    def _find_made(self, pipeline: Any) -> Transaction | None:
        """Return the earlier transaction that Redis has executed after all, if there is one."""
        return self._unsure.get(int(pipeline.get(self._mark) or 0))

    def _execute(self, pipeline: Any, transaction: Transaction) -> dict[int, RedisError]:
        """Execute a transaction; return the errors of its commands, by their positions."""
        pipeline.multi()
        for command in transaction.commands:
            pipeline.execute_command(*command)
        self._number += 1
        pipeline.set(self._mark, self._number, ex=MARK_LIFE)
        self._unsure[self._number] = transaction
        answers = pipeline.execute(raise_on_error=False)
        failed = {
            place: answer
            for place, answer in enumerate(answers[: len(transaction.commands)])
            if isinstance(answer, RedisError)
        }
        for place, error in failed.items():
            if not transaction.find_refused({place: error}):
                self._say_refused(transaction.commands[place], error)
        return failed

    def _remove_leftovers(self, connection: Redis) -> None:
        if self._leftovers:
            opened: Any = connection.pipeline(transaction=False)
            with contextlib.suppress(RedisError), opened as pipeline:  # else after the next jobs
                for command in self._leftovers:
                    pipeline.execute_command(*command)
                pipeline.execute(raise_on_error=False)
                self._leftovers.clear()

    def _say_refused(self, command: RedisCommand, error: RedisError) -> None:
        """Warn once about a failed command that no job depends on, such as registering a queue."""
        shown = f"{command[0]} {command[1]}"
        if shown not in self._warned_of:
            self._warned_of.add(shown)
            extra = about("bookkeeping_refused", error=type(error).__name__)
            logger.warning("jobs are enqueued, but Redis refused %s: %s", shown, error, extra=extra)


def _find_wrong_types(pipeline: Any, made: Transaction) -> dict[int, RedisError]:
    """Return the pushes that failed in a transaction without an answer, by the keys' types."""
    return {
        place: ResponseError(f"WRONGTYPE the queue's key {key} must hold a list, not a {kind}")
        for place, key in made.find_queues()
        if (kind := as_text(pipeline.type(key))) not in ("list", "none")
    }


class Senders(threading.local):
    """The senders of a thread, by connection. A forked child makes its own."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._senders: WeakKeyDictionary[Redis, Sender] = WeakKeyDictionary()

    def of(self, connection: Redis) -> Sender:
        """Return the sender for a connection."""
        if self._owner != os.getpid():
            # With the parent's mark, each process would take the other's transactions for its own.
            self._owner = os.getpid()
            self._senders = WeakKeyDictionary()
        return self._senders.setdefault(connection, Sender())
