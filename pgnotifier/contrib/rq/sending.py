"""Sending: many jobs in one transaction, of which it is known whether it was made.

Redis may have made a transaction though its answer was lost. So each leaves a mark, its number, and
whoever sends again looks at that first. The mark is watched, too: what is still on its way then can
no longer be made. https://redis.io/docs/latest/develop/interact/transactions/

Within a transaction that was made, single commands may have failed: EXEC goes on after them.
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
"""Seconds for which a mark is kept after the latest transaction."""
PUSHES = ("RPUSH", "LPUSH")


class Job(NamedTuple):
    """A delivery, and the commands that enqueue its job."""

    delivery: Delivery
    commands: Sequence[RedisCommand]


class SendResult(NamedTuple):
    """What became of some jobs.

    Attributes:
        deliveries: What they were made of.
        refused: Why a job is not enqueued, by its place.
    """

    deliveries: Sequence[Delivery]
    refused: Mapping[int, RedisError]


class Transaction:
    """The commands of some jobs, with as few pushes as can be.

    Attributes:
        jobs: The jobs.
        commands: What is sent.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Merge the jobs' commands: one push per end of a queue; what is for all of them once."""
        self.jobs = jobs
        self.commands: list[RedisCommand] = []
        self._owners: list[Sequence[int]] = []  # by command: the places of the jobs that need it
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
        """Yield the place of each push among the commands, and the key of its queue."""
        for place, command in enumerate(self.commands):
            if command[0] in PUSHES:
                yield place, command[1]

    def find_refused(self, failed: Mapping[int, RedisError]) -> dict[int, RedisError]:
        """Return which jobs aren't enqueued, as commands at these places failed."""
        return {job: error for place, error in failed.items() for job in self._owners[place]}

    def take_back(
        self, failed: Collection[int], refused: Collection[int]
    ) -> Iterator[RedisCommand]:
        """Yield what removes the other halves of jobs of which some commands failed."""
        for place, (name, key, *rest) in enumerate(self.commands):
            if place in failed:  # what is there isn't theirs
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
        self._unsure: dict[int, Transaction] = {}  # by number: those without an answer
        self._leftovers: list[RedisCommand] = []  # what is still to be removed
        self._warned_of: set[str] = set()

    def send(self, connection: Redis, jobs: Sequence[Job]) -> SendResult:
        """Enqueue some jobs in one transaction.

        Args:
            connection: One to the server.
            jobs: The jobs.

        Returns:
            What became of these; or else of those of an earlier call, which had failed though Redis
            had made its transaction. Then nothing was sent.

        Raises:
            redis.RedisError: There was no answer, or Redis refused the whole transaction.
        """
        opened: Any = connection.pipeline()  # whose methods have no types
        with opened as pipeline:
            # A pipeline that watches isn't sent again by redis-py itself when its answer is lost.
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
        """Return the earlier transaction that Redis has made after all, if there is one."""
        return self._unsure.get(int(pipeline.get(self._mark) or 0))

    def _execute(self, pipeline: Any, transaction: Transaction) -> dict[int, RedisError]:
        """Return which of the commands failed, by their places."""
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
            with contextlib.suppress(RedisError), opened as pipeline:  # with the next ones, then
                for command in self._leftovers:
                    pipeline.execute_command(*command)
                pipeline.execute(raise_on_error=False)
                self._leftovers.clear()

    def _say_refused(self, command: RedisCommand, error: RedisError) -> None:
        """Warn once of what no job needs: that a queue is in RQ's list of queues, say."""
        shown = f"{command[0]} {command[1]}"
        if shown not in self._warned_of:
            self._warned_of.add(shown)
            extra = about("bookkeeping_refused", error=type(error).__name__)
            logger.warning("jobs are enqueued, but Redis refuses %s: %s", shown, error, extra=extra)


def _find_wrong_types(pipeline: Any, made: Transaction) -> dict[int, RedisError]:
    """Return which pushes failed in a transaction whose answers were lost: by what is there."""
    return {
        place: ResponseError(f"WRONGTYPE the key {key} of a queue holds a {kind}")
        for place, key in made.find_queues()
        if (kind := as_text(pipeline.type(key))) not in ("list", "none")
    }


class Senders(threading.local):
    """The senders of a thread, by connection. A forked child has others than its parent."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._senders: WeakKeyDictionary[Redis, Sender] = WeakKeyDictionary()

    def of(self, connection: Redis) -> Sender:
        """Return the sender of a connection's server."""
        if self._owner != os.getpid():
            # With a mark of the parent's, each of the two would take the other's transactions
            # for its own.
            self._owner = os.getpid()
            self._senders = WeakKeyDictionary()
        return self._senders.setdefault(connection, Sender())


def is_wrong_type(error: BaseException) -> bool:
    """Tell whether a command failed for what its key holds, so that no further try can help."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)
