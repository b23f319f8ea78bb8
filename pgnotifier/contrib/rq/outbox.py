"""Provide `RQOutbox`, which enqueues jobs as part of a PostgreSQL transaction."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rq import Queue
from rq.job import Job

from pgnotifier._log.outbox_entries import Outbox
from pgnotifier._registry.checks import check_channel
from pgnotifier.contrib._queues.blocks import Block
from pgnotifier.contrib._queues.connections import AnyConnection, ainsert, check_sync
from pgnotifier.contrib._queues.patterns import check_patterns
from pgnotifier.contrib._queues.relays import check_name
from pgnotifier.contrib.rq.job_blocks import OwningRedis, capture_blocks
from pgnotifier.contrib.rq.job_capture import JobCapture
from pgnotifier.contrib.rq.outbox_jobs import channel_of, draft, subscription_of
from pgnotifier.contrib.rq.queues import make_queue, queue_like
from pgnotifier.contrib.rq.relay import JobRelayDispatcher
from pgnotifier.errors import ArgumentTypeError

if TYPE_CHECKING:
    from redis import Redis

    from pgnotifier.notifier import Notifier


class RQOutbox:
    """Enqueues jobs in a transaction of PostgreSQL: they are sent if and once it has committed.

        outbox = RQOutbox(Queue("default", connection=Redis()))

        with connection.transaction():
            connection.execute("INSERT INTO orders ...")
            job = outbox.enqueue(connection, invoice, order_id, job_timeout=60)
            outbox.enqueue(connection, ship, order_id, depends_on=job)
            with outbox(connection):
                notices.enqueue(send_mail, order_id)  # on any queue of this Redis

    RQ makes the jobs as always, but nothing is sent to Redis. They are inserted into the durable
    log, and a relay enqueues them after the commit, in order. If the transaction is rolled back,
    even just to a savepoint, they are never enqueued.

    The options are those of `Queue.enqueue`: see https://python-rq.org/docs/. There is no
    connection to Redis. A queue with `is_async=False` runs its jobs at once, as without an outbox.
    """

    def __init__(self, queue_or_connection: "Queue | Redis | str", name: str = "default") -> None:
        """Make an outbox; nothing is connected yet.

        Args:
            queue_or_connection: A Queue, or a connection or its URL for the queue `default`.
            name: The outbox's name in the database. Queues of one Redis can share an outbox;
                projects that share a database, but not their Redis, need different ones.

        Raises:
            ArgumentTypeError: An argument is of the wrong type.
            ConfigurationError: The URL can't be parsed.
            ChannelNameError: The name is longer than 49 bytes, or PostgreSQL doesn't allow it.
        """
        self._queue, _ = make_queue(queue_or_connection, type(self).__name__)
        self.name = check_name(name)
        self._log = Outbox(check_channel(channel_of(name)), subscription_of(name))
        self._allowed: WeakKeyDictionary[Notifier, tuple[str, ...]] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<RQOutbox {self.name!r} of queue {self._queue.name!r}>"

    @property
    def queue(self) -> Queue:
        """The queue of the jobs."""
        return self._queue

    @property
    def channel(self) -> str:
        """The channel of the durable log that holds the jobs."""
        return self._log.channel

    @property
    def subscription(self) -> str:
        """The name of the relay's subscription in the durable log."""
        return self._log.subscription

    def to(self, queue: "Queue | str") -> "RQOutbox":
        """Return the same outbox for another queue of the same Redis.

        Args:
            queue: A queue, or the name of one that is like this outbox's.

        Raises:
            ArgumentTypeError: It is neither.
        """
        if not isinstance(queue, Queue | str) or not queue:
            raise ArgumentTypeError(f"a queue is an rq.Queue or a name, not {queue!r:.80}")
        found = queue_like(self._queue, queue) if isinstance(queue, str) else queue
        other = type(self)(found, self.name)
        other._log = self._log  # noqa: SLF001 - which knows the databases that it was used in
        other._allowed = self._allowed  # noqa: SLF001
        return other

    def relay_to(
        self,
        notifier: "Notifier",
        *,
        allow: Iterable[str] | None = None,
        max_age: timedelta | None = None,
    ) -> None:
        """Have a notifier, in any process, enqueue committed jobs in Redis.

        `pgnotifier listen` runs it. One relay serves all queues of an outbox.

        Called again for the same notifier, it replaces what is given, and keeps the rest.

        Args:
            notifier: Any notifier on the same database.
            allow: The functions that may be enqueued from SQL with `pgnotifier.enqueue_job()`, by
                their paths, such as `shop.jobs.resize`. `*` stands for anything but a dot. Default:
                none.
            max_age: How long a job may wait before the notifier counts as not ready: see `/readyz`.
                Default: any time.

        Raises:
            ArgumentTypeError: `allow` isn't a list of names, or `max_age` isn't a timedelta.
            ConfigurationError: `max_age` isn't positive.
            PgNotifierError: Whatever `Notifier.subscribe` raises.
        """
        patterns = check_patterns(allow, "shop.jobs.resize")
        if patterns is None:
            patterns = self._allowed.get(notifier, ())
        dispatcher = JobRelayDispatcher(self._queue, self.name, allow=patterns)
        dispatcher.relay_to(notifier, max_age=max_age)
        self._allowed[notifier] = patterns

    def __call__(self, connection: AnyConnection = None) -> Block:
        """Return a block, for `with` or `async with`: its jobs are part of a transaction.

        That applies to everything that is enqueued in the block with RQ's own calls, on any queue
        of the outbox's Redis: the same database of the same server. Queues of another one aren't
        captured. What the block enqueues is inserted when it ends, in one statement. If it raises,
        nothing is. Threads have their own blocks; of nested ones, the innermost takes the jobs.

        Args:
            connection: As for `enqueue`; with `async with`, one for asyncio.
        """
        capture_blocks()
        return Block(self._log, OwningRedis(self._queue.connection), connection)

    def enqueue(
        self,
        connection: AnyConnection,
        fn: "Callable[..., Any] | str",
        /,
        *args: Any,
        **options: Any,
    ) -> Job:
        """Enqueue a job in a transaction; return it, with the id that it will have.

        Args:
            connection: A connection of psycopg, psycopg2 or Django; a Connection or Session of
                SQLAlchemy; a cursor of any driver that takes arguments as `%s`; an alias of
                Django's DATABASES, or None for Django's default database. In autocommit, the job
                is committed at once.
            fn: The function, or its path.
            args: Its arguments.
            options: Its keyword arguments, and the options of `Queue.enqueue`.

        Raises:
            ArgumentTypeError: It isn't a connection, or it is one for asyncio.
            ConfigurationError: There is an option that an outbox can't support.
            PgNotifierError: As for `pgnotifier.durable.publish`.
            Exception: RQ refuses an option, or the arguments can't be serialized.
        """
        return self._put(connection, [lambda queue: queue.enqueue(fn, *args, **options)])[0]

    def enqueue_at(
        self,
        connection: AnyConnection,
        at: datetime,
        fn: "Callable[..., Any] | str",
        /,
        *args: Any,
        **options: Any,
    ) -> Job:
        """Schedule a job for a time, in a transaction: see `enqueue`."""
        return self._put(connection, [lambda queue: queue.enqueue_at(at, fn, *args, **options)])[0]

    def enqueue_in(
        self,
        connection: AnyConnection,
        delay: timedelta,
        fn: "Callable[..., Any] | str",
        /,
        *args: Any,
        **options: Any,
    ) -> Job:
        """Schedule a job after a delay from now on, in a transaction: see `enqueue`."""
        return self._put(connection, [lambda queue: queue.enqueue_in(delay, fn, *args, **options)])[
            0
        ]

    def enqueue_many(self, connection: AnyConnection, jobs: Iterable[Any]) -> list[Job]:
        """Enqueue many jobs, in order, in one statement per thousand; return them.

        Args:
            connection: As for `enqueue`.
            jobs: What `Queue.prepare_data` returns, as for `Queue.enqueue_many`.

        Raises:
            PgNotifierError: As for `enqueue`.
        """
        return self._put(connection, [*map(_call_of, jobs)])

    async def aenqueue(
        self,
        connection: AnyConnection,
        fn: "Callable[..., Any] | str",
        /,
        *args: Any,
        **options: Any,
    ) -> Job:
        """Enqueue a job on an async connection: see `enqueue`."""
        return (await self._aput(connection, [lambda queue: queue.enqueue(fn, *args, **options)]))[
            0
        ]

    async def aenqueue_at(
        self,
        connection: AnyConnection,
        at: datetime,
        fn: "Callable[..., Any] | str",
        /,
        *args: Any,
        **options: Any,
    ) -> Job:
        """Schedule a job on an async connection: see `enqueue_at`."""
        return (
            await self._aput(connection, [lambda queue: queue.enqueue_at(at, fn, *args, **options)])
        )[0]

    async def aenqueue_in(
        self,
        connection: AnyConnection,
        delay: timedelta,
        fn: "Callable[..., Any] | str",
        /,
        *args: Any,
        **options: Any,
    ) -> Job:
        """Schedule a job on an async connection: see `enqueue_in`."""
        return (
            await self._aput(
                connection, [lambda queue: queue.enqueue_in(delay, fn, *args, **options)]
            )
        )[0]

    async def aenqueue_many(self, connection: AnyConnection, jobs: Iterable[Any]) -> list[Job]:
        """Enqueue many jobs on an async connection: see `enqueue_many`."""
        return await self._aput(connection, [*map(_call_of, jobs)])

    def _put(self, connection: AnyConnection, calls: list[Callable[[Any], Job]]) -> list[Job]:
        found = check_sync(connection, "await aenqueue() or aenqueue_many()")
        if not self._queue.is_async:
            return [call(self._queue) for call in calls]
        capture = JobCapture(self._queue)
        jobs = [call(capture.queue) for call in calls]
        self._log.insert(found, map(draft, capture.take(len(calls))))
        return jobs

    async def _aput(
        self, connection: AnyConnection, calls: list[Callable[[Any], Job]]
    ) -> list[Job]:
        if not self._queue.is_async:
            return [call(self._queue) for call in calls]
        capture = JobCapture(self._queue)
        jobs = [call(capture.queue) for call in calls]
        await ainsert(self._log, connection, map(draft, capture.take(len(calls))))
        return jobs


def _call_of(data: Any) -> Callable[[Any], Job]:
    """Return a function that enqueues a job described by `Queue.prepare_data`.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if not hasattr(data, "_asdict"):
        raise ArgumentTypeError(
            f"enqueue_many() takes what Queue.prepare_data(…) returns, not {type(data).__name__}"
        )
    given = data._asdict()
    return lambda queue: queue.enqueue_call(**given)
