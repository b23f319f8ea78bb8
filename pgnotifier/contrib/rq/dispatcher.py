"""Provide `RQDispatcher`, which enqueues notifications as RQ jobs."""

from collections import deque
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

from redis import Redis, RedisError
from rq import Queue
from rq.utils import now, utcformat

from pgnotifier._runtime.redaction import show
from pgnotifier.contrib._queues.redis_errors import is_wrong_type
from pgnotifier.contrib._queues.salvaging import salvage
from pgnotifier.contrib.rq.options import check_options, check_values
from pgnotifier.contrib.rq.queues import make_queue, queue_like
from pgnotifier.contrib.rq.sending import Job, Senders
from pgnotifier.contrib.rq.targets import RQTarget
from pgnotifier.dispatch import Batch, Delivery, Dispatcher
from pgnotifier.dispatchers.claiming import claim
from pgnotifier.errors import ArgumentTypeError
from pgnotifier.payload import decode

if TYPE_CHECKING:
    from weakref import ref

    from pgnotifier.dispatch import Subscription
    from pgnotifier.notifier import Notifier

PORTION = 500
"""The maximum number of jobs in one transaction."""


class RQDispatcher(Dispatcher):
    """Enqueues each notification as a job of RQ.

        notifier = Notifier(conf, dispatcher=RQDispatcher(Redis()))
        notifier.subscribe("resize", "image_uploaded", resize, queue="images", retry=3)

    The job calls the callback with exactly the arguments that it would have got in this process.
    The job's description is the subscription's id, and the job's id begins with it. Workers import
    the callback by its name, so it has to be a function of a module.

    **Options** of `subscribe()` are those of `Queue.enqueue`: `queue` (a name or a Queue),
    `at_front`, `job_timeout`, `result_ttl`, `ttl`, `failure_ttl`, `description`, `meta`, `retry`
    (a Retry, or how many times), `repeat`, `on_success`, `on_failure`, `on_stopped`; and, from RQ 3
    on, `webhooks`. See https://python-rq.org/docs/.

    A notification is delivered once Redis has executed the transaction that enqueues its job. While
    Redis is down, notifications wait in order. A transaction enqueues up to 500 jobs. Even if its
    answer is lost, it takes effect exactly once. If the key of a queue isn't a list, the jobs for
    that queue are reported, and the others are enqueued.
    """

    starts_listener: ClassVar[bool] = False

    def __init__(self, queue_or_connection: "Queue | Redis | str") -> None:
        """Make a dispatcher; nothing is connected yet.

        Args:
            queue_or_connection: A Queue, or a connection or its URL for the queue `default`. A
                queue that is named by the option `queue=` gets the same class, serializer and
                defaults.

        Raises:
            ArgumentTypeError: The argument is of the wrong type.
            ConfigurationError: The URL can't be parsed.
        """
        self._queue, self._owns_connection = make_queue(queue_or_connection)
        self._notifier: ref[Notifier] | None = None
        self._senders = Senders()
        self._targets: dict[tuple[Hashable, str], RQTarget] = {}

    def __repr__(self) -> str:
        return f"<RQDispatcher of queue {self._queue.name!r}, {len(self._targets)} subscriptions>"

    @property
    def connection(self) -> "Redis":
        """The connection to Redis."""
        return self._queue.connection

    def attach(self, notifier: "Notifier") -> None:
        """Remember which notifier uses this dispatcher.

        Raises:
            ConfigurationError: Another notifier uses it already.
        """
        self._notifier = claim(self, self._notifier, notifier)

    def bind(self, subscription: "Subscription") -> RQTarget:
        """Check a subscription.

        Raises:
            DispatcherMismatchError: A worker couldn't import the callback, or couldn't call it; or
                the queue's serializer can't write the id.
            UnknownOptionError: RQ has no such option, or it can't be used here.
            ArgumentTypeError: An option's value is of the wrong type.
            ConfigurationError: RQ refuses an option's value.
        """
        key, given = subscription.id, subscription.options
        options = check_options(key, given)
        queue = self._find_queue(key, given.get("queue"))
        check_values(key, queue, options)
        target = RQTarget(key, queue, subscription.fn, options)
        self._targets[key, subscription.channel] = target
        return target

    def unbind(self, subscription: "Subscription") -> None:
        """Remove a subscription."""
        self._targets.pop((subscription.id, subscription.channel), None)

    def dispatch(self, batch: Batch) -> None:
        """Enqueue each delivery, and acknowledge it once Redis has executed its transaction.

        Raises:
            redis.RedisError: Redis is down, or refuses the transaction.
        """
        while portion := batch.rest(PORTION):
            enqueued = deque(takewhile(_is_enqueued, portion))
            if enqueued:
                self._enqueue(enqueued, batch)
            else:
                self._run(portion[0])
                batch.done(1)

    def targets(self) -> Mapping[tuple[Hashable, str], RQTarget]:
        """Return the target of each subscription, by id and channel."""
        return self._targets.copy()

    def details(self) -> Mapping[str, Any]:
        """Return what the notifications of each subscription become."""
        return {
            "subscriptions": [
                {
                    "id": target.name,
                    "channel": channel,
                    "job": target.function,
                    "queue": target.queue.name,
                    "path": target.path,
                    "reason": target.reason,
                }
                for (_, channel), target in self._targets.copy().items()
            ]
        }

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

    def _find_queue(self, id: Hashable, given: Any) -> Queue:
        """Return the queue that an option names, or the queue that it is."""
        if given is None:
            return self._queue
        if isinstance(given, Queue):
            return given
        if not isinstance(given, str) or not given:
            raise ArgumentTypeError(
                f"subscription {id!r}: queue must be a name or an rq.Queue, not {show(given)}"
            )
        return queue_like(self._queue, given)

    def _enqueue(self, waiting: deque[Delivery], batch: Batch) -> None:
        """Enqueue the first deliveries of a batch, in one transaction per server.

        Args:
            waiting: The deliveries to enqueue.
            batch: The batch, which begins with these deliveries.
        """
        count = len(waiting)
        made: dict[int, Delivery] = {}  # by identity: those with a job that isn't enqueued yet
        jobs: dict[int, tuple[Redis, list[Job]]] = {}  # by connection
        time = utcformat(now())
        try:
            while waiting:
                job = self._make_job(waiting, time)
                if job is not None:
                    made[id(job.delivery)] = job.delivery
                    connection = job.delivery.binding.target.queue.connection
                    jobs.setdefault(id(connection), (connection, []))[1].append(job)
                waiting.popleft()
            for connection, some in jobs.values():
                self._send(connection, some, made)
        finally:
            batch.leave([*made.values(), *waiting, *batch.rest()[count:]])

    def _make_job(self, waiting: deque[Delivery], time: str) -> Job | None:
        """Return the job of the first delivery, or None if it isn't to be enqueued.

        Payloads of a gathered delivery that can't be serialized are reported and removed from it.
        """
        delivery = waiting[0]
        if not delivery.binding.live:
            delivery.pass_on()
            return None
        target: RQTarget = delivery.binding.target
        try:
            return self._job(delivery, time)
        except (RedisError, OSError):  # the first job asks the server for its version
            raise
        except BaseException as exc:  # noqa: BLE001 - pickling calls the value's own methods
            rest = salvage(delivery, partial(target.check, decodes_alike=self._decodes_alike))
            if rest is None:
                delivery.report(exc)
                return None
            waiting[0] = rest
            return self._job(rest, time)

    def _job(self, delivery: Delivery, time: str) -> Job:
        target: RQTarget = delivery.binding.target
        return Job(delivery, target.commands(delivery, time, decodes_alike=self._decodes_alike))

    def _send(
        self, connection: Redis, jobs: Sequence[Job], made: MutableMapping[int, Delivery]
    ) -> None:
        sent = self._senders.of(connection).send(connection, jobs)
        another_try: RedisError | None = None
        for place, delivery in enumerate(sent.deliveries):
            error = sent.refused.get(place)
            if error is not None and not is_wrong_type(error):
                another_try = error
                continue
            made.pop(id(delivery), None)
            if error is not None:
                delivery.report(error)
        if another_try is not None:
            raise another_try

    @property
    def _decodes_alike(self) -> bool:
        notifier = None if self._notifier is None else self._notifier()
        return notifier is None or notifier.decoder is decode

    def _run(self, delivery: Delivery) -> None:
        if not delivery.binding.live:
            delivery.pass_on()
            return
        try:
            delivery.binding.target.run(delivery, decodes_alike=self._decodes_alike)
        except BaseException as exc:  # noqa: BLE001 - sys.exit() in a callback included
            delivery.report(exc)


def _is_enqueued(delivery: Delivery) -> bool:
    return not delivery.binding.target.runs_at_once
