"""Relay an outbox: forward jobs that were enqueued in transactions from the log to Redis."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pgnotifier.contrib._queues.patterns import check_patterns
from pgnotifier.contrib._queues.recordings import not_captured
from pgnotifier.contrib._queues.relays import RelayDispatcher, check_name
from pgnotifier.contrib.rq.job_relaying import JobRelay
from pgnotifier.contrib.rq.outbox_jobs import channel_of, subscription_of
from pgnotifier.contrib.rq.queues import make_queue
from pgnotifier.errors import ArgumentTypeError

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue

    from pgnotifier.dispatch import Batch


class JobRelayDispatcher(RelayDispatcher):
    """Forwards the jobs of an outbox to the queues of one Redis.

    Jobs are enqueued as RQ has made them. Those that were enqueued from SQL, RQ makes here.

    While Redis is down, everything waits in the log, in order. A job that Redis or RQ will never
    accept, or that can't be read, becomes a dead letter with the reason, and doesn't hold up those
    after it. Redis notes the latest jobs that it has got, so one that is sent again, because an
    answer was lost or a relay was killed, is left out.
    """

    batch_size: ClassVar[int] = 5000

    def __init__(
        self,
        queue_or_connection: "Queue | Redis | str",
        name: str = "default",
        *,
        allow: Iterable[str] = (),
    ) -> None:
        """Make a dispatcher; nothing is connected yet.

        Args:
            queue_or_connection: A Queue, or a connection or its URL for the queue `default`. The
                other queues of the outbox are made like it.
            name: The name of the outbox.
            allow: The functions that may be enqueued from SQL, by their paths; `*` stands for
                anything but a dot. Default: none.

        Raises:
            ArgumentTypeError: An argument is of the wrong type.
            ConfigurationError: The URL can't be parsed.
        """
        self._queue, self._owns_connection = make_queue(queue_or_connection, type(self).__name__)
        patterns = check_patterns(allow, "shop.jobs.resize")
        if patterns is None:
            raise ArgumentTypeError("allow must be a list of names; [] allows none, which is usual")
        super().__init__(name, channel_of(check_name(name)), subscription_of(name))
        self._relay = JobRelay(self._queue, name, patterns)

    @property
    def queue(self) -> "Queue":
        """The queue that the other queues are made like."""
        return self._queue

    def __repr__(self) -> str:
        return f"<JobRelayDispatcher of outbox {self.name!r}, queue {self._queue.name!r}>"

    def dispatch(self, batch: "Batch") -> None:
        """Enqueue each job, and acknowledge it once Redis has it.

        Raises:
            redis.RedisError: Redis is down, or accepts nothing.
        """
        try:
            with not_captured():
                self._relay.forward(batch)
        finally:
            forwarded, refused = self._relay.take_counts()
            self.count(forwarded)
            self._refused += refused

    def is_reachable(self) -> bool:
        """Return whether Redis answers."""
        try:
            return bool(self._queue.connection.ping())
        except Exception:  # noqa: BLE001 - the client may raise anything
            return False

    def close(self) -> None:
        """Close the connections, if this dispatcher has made them from a URL."""
        if self._owns_connection:
            self._queue.connection.close()
