"""RQDispatcher: notifications become jobs in Redis."""

import re
from collections import deque
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

from redis import Redis, RedisError
from rq import Queue
from rq.utils import now, utcformat

from pgnotifier._runtime.redaction import show
from pgnotifier.contrib._queues.salvaging import salvage
from pgnotifier.contrib.rq.options import check_options, check_values
from pgnotifier.contrib.rq.sending import Job, Senders, is_wrong_type
from pgnotifier.contrib.rq.targets import Target
from pgnotifier.dispatch import Batch, Delivery, Dispatcher, claim
from pgnotifier.errors import ArgumentTypeError, ConfigurationError
from pgnotifier.payload import decode

if TYPE_CHECKING:
    from weakref import ref

    from pgnotifier.dispatch import Subscription
    from pgnotifier.notifier import Notifier

PORTION = 500
"""The most jobs of one transaction."""
TIMEOUT = 10.0
"""Seconds for which to wait for a server given by its URL, to connect and to answer."""
_NO_URL = (
    "a URL of Redis is redis://, rediss:// or unix://; in a password, characters such as / ? # [ ] "
    "have to be percent-encoded, as urllib.parse.quote(…, safe='') does"
)
# The path would be the rest of a password: redis-py says in its errors where it can't connect.
_MISREAD = re.compile(r"unix://[^/@]+[/?#][^@]*@")


class RQDispatcher(Dispatcher):
    """Enqueues each notification as a job of RQ.

        notifier = Notifier(conf, dispatcher=RQDispatcher(Redis()))
        notifier.subscribe("resize", "image_uploaded", resize, queue="images", retry=3)

    The job calls the callback with the very arguments that it would have got in this process. Its
    description is the subscription's id, and its own id begins with that. Workers import the
    callback by its name, so that it has to be a function of a module.

    **Options** of `subscribe()`, as in `Queue.enqueue`: `queue` (a name or a Queue), `at_front`,
    `job_timeout`, `result_ttl`, `ttl`, `failure_ttl`, `description`, `meta`, `retry` (a Retry, or
    how many times), `repeat`, `on_success`, `on_failure`, `on_stopped`; and `webhooks`, from RQ 3
    on. See https://python-rq.org/docs/.

    A notification is delivered once Redis has made the transaction that enqueues its job. While
    Redis is down it waits, in order. Up to 500 jobs are enqueued in a transaction; one whose answer
    was lost is neither repeated nor forgotten. One whose queue's key holds something other than a
    list is reported, and the others go on.
    """

    starts_listener: ClassVar[bool] = False

    def __init__(self, queue_or_connection: "Queue | Redis | str") -> None:
        """Take where jobs go; nothing is connected yet.

        Args:
            queue_or_connection: A Queue, whose class, serializer and defaults those that are
                named in `queue=` have, too; or a connection or its URL, for the queue `default`.

        Raises:
            ArgumentTypeError: It is of another type.
            ConfigurationError: The URL can't be one.
        """
        self._queue, self._owns_connection = _make_queue(queue_or_connection)
        self._notifier: ref[Notifier] | None = None
        self._senders = Senders()
        self._targets: dict[tuple[Hashable, str], Target] = {}

    def __repr__(self) -> str:
        return f"<RQDispatcher of queue {self._queue.name!r}, {len(self._targets)} subscriptions>"

    def attach(self, notifier: "Notifier") -> None:
        """Learn which notifier uses this dispatcher.

        Raises:
            ConfigurationError: Another one does.
        """
        self._notifier = claim(self, self._notifier, notifier)

    def bind(self, subscription: "Subscription") -> Target:
        """Check a subscription.

        Raises:
            DispatcherMismatchError: No worker could find the callback, or call it; or the
                queue's serializer can't take the id.
            UnknownOptionError: RQ has no such option, or it can't be one here.
            ArgumentTypeError: An option's value is of the wrong type.
            ConfigurationError: RQ refuses an option's value.
        """
        key, given = subscription.id, subscription.options
        options = check_options(key, given)
        queue = self._find_queue(key, given.get("queue"))
        check_values(key, queue, options)
        target = Target(key, queue, subscription.fn, options)
        self._targets[key, subscription.channel] = target
        return target

    def unbind(self, subscription: "Subscription") -> None:
        """Forget a subscription."""
        self._targets.pop((subscription.id, subscription.channel), None)

    def dispatch(self, batch: Batch) -> None:
        """Enqueue each delivery, and acknowledge it once Redis has made its transaction.

        Raises:
            redis.RedisError: Redis is down, or refuses.
        """
        while portion := batch.rest(PORTION):
            enqueued = deque(takewhile(_is_enqueued, portion))
            if enqueued:
                self._enqueue(enqueued, batch)
            else:
                self._run(portion[0])
                batch.done(1)

    def details(self) -> Mapping[str, Any]:
        """Return what each subscription's notifications become."""
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
        except Exception:  # noqa: BLE001 - whatever the client raises
            return False

    def close(self) -> None:
        """Let go of the connections, if they were made for this dispatcher."""
        if self._owns_connection:
            self._queue.connection.close()

    def _find_queue(self, id: Hashable, given: Any) -> Queue:
        """Return a queue by its name, or as it is."""
        if given is None:
            return self._queue
        if isinstance(given, Queue):
            return given
        if not isinstance(given, str) or not given:
            raise ArgumentTypeError(
                f"subscription {id!r}: queue is a name or an rq.Queue, not {show(given)}"
            )
        base = self._queue
        return type(base)(
            given,
            connection=base.connection,
            is_async=base.is_async,
            job_class=base.job_class,
            serializer=base.serializer,
            default_timeout=base._default_timeout,  # noqa: SLF001 - nothing public tells
        )

    def _enqueue(self, waiting: deque[Delivery], batch: Batch) -> None:
        """Enqueue the first of a batch: a transaction per server, of as many jobs as may be.

        Args:
            waiting: What to enqueue.
            batch: What begins with that.
        """
        count = len(waiting)
        made: dict[int, Delivery] = {}  # by identity: what there is a job of that isn't enqueued
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
        """Return the job of the first delivery, if it is to be enqueued.

        Of a batch, what can't be carried is reported, and the rest takes its place.
        """
        delivery = waiting[0]
        if not delivery.binding.live:
            delivery.pass_on()
            return None
        target: Target = delivery.binding.target
        try:
            return self._job(delivery, time)
        except (RedisError, OSError):  # the first job asks for the version of the server
            raise
        except BaseException as exc:  # noqa: BLE001 - a value's own __reduce__, say
            rest = salvage(delivery, partial(target.check, decodes_alike=self._decodes_alike))
            if rest is None:
                delivery.report(exc)
                return None
            waiting[0] = rest
            return self._job(rest, time)

    def _job(self, delivery: Delivery, time: str) -> Job:
        target: Target = delivery.binding.target
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


def _make_queue(given: Any) -> tuple[Queue, bool]:
    """Return a queue, and whether its connection was made for it."""
    if isinstance(given, Queue):
        return given, False
    if isinstance(given, Redis):
        return Queue(connection=given), False
    if not isinstance(given, str):
        raise ArgumentTypeError(
            f"RQDispatcher takes an rq.Queue, a redis.Redis or its URL, not {type(given).__name__}"
        )
    if _MISREAD.match(given):
        raise ConfigurationError(_NO_URL)
    try:
        connection = Redis.from_url(given, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    except ValueError:
        raise ConfigurationError(_NO_URL) from None  # its message may hold a part of the password
    return Queue(connection=connection), True


def _is_enqueued(delivery: Delivery) -> bool:
    return not delivery.binding.target.runs_at_once
