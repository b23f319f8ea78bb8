"""Describe outboxes: their figures, their queues, and single entries."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

EntryState = Literal["waiting", "failed", "dead"]
"""`waiting` for the relay; `failed`, to be tried again; or `dead`, not to be tried again."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits in an outbox for one queue, and what has failed.

    Attributes:
        queue: The queue, or `exchange/routing key`; None if the relay chooses it.
        waiting: How many entries wait.
        oldest_seconds: How long ago the oldest of them was enqueued; 0 if none waits.
        failed: How many entries have failed, and are going to be tried again.
        dead: How many have failed for good.
        rate: How many entries a second the relay has sent in the last minute; None if it doesn't
            run, or that isn't known yet.
    """

    queue: str | None
    waiting: int
    oldest_seconds: float
    failed: int
    dead: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class OutboxState:
    """One outbox of a database, for one relay.

    Attributes:
        sub: The number of the relay's subscription.
        name: Its name: `celery:default`.
        channel: Its channel in the log.
        subscription: The id of the relay's subscription, which names the app:
            `outbox:celery:shop`.
        waiting: How many entries wait for the relay.
        is_exact: Whether they were all counted. Otherwise, `waiting` is a lower bound.
        oldest_seconds: How long ago the oldest of them was enqueued.
        rate: How many entries a second the relay has sent in the last minute; None if it doesn't
            run, or that isn't known yet.
        failed: How many entries have failed, and are going to be tried again.
        dead: How many have failed for good.
        reader_pid: The relay's session in the server; None if it doesn't run.
        unread_since: Since when it doesn't, to a minute.
        queues: What waits, what has failed and what is sent, by queue, those with most entries that
            wait first; at most a thousand for each of the three.
    """

    sub: int
    name: str
    channel: str
    subscription: str
    waiting: int
    is_exact: bool
    oldest_seconds: float
    rate: float | None
    failed: int
    dead: int
    reader_pid: int | None
    unread_since: datetime | None
    queues: tuple[QueueState, ...]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        since = self.unread_since and self.unread_since.isoformat()
        return {**asdict(self), "unread_since": since}


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One entry of an outbox, without the arguments of its task.

    Attributes:
        state: Whether it waits, has failed, or is dead.
        id: Its number in the log.
        task: The name of the task, or of an RQ job's function; None if it can't be read.
        task_id: The id of the task or job.
        queue: As in `QueueState`.
        enqueued_at: When it was enqueued.
        age: How many seconds ago.
        size: The bytes of the message.
        n: Its number among what has failed.
        attempts: How many times it was tried.
        failed_at: When it failed last.
        error: Why.
        payload: The message; None unless it was asked for.
    """

    state: EntryState
    id: int
    task: str | None
    task_id: str | None
    queue: str | None
    enqueued_at: datetime
    age: float
    size: int
    n: int | None
    attempts: int | None
    failed_at: datetime | None
    error: str | None
    payload: str | None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values, without the message."""
        shown = {name: value for name, value in asdict(self).items() if name != "payload"}
        shown["enqueued_at"] = self.enqueued_at.isoformat()
        shown["failed_at"] = self.failed_at and self.failed_at.isoformat()
        return shown
