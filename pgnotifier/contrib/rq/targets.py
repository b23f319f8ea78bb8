"""Make the jobs of one subscription, and the commands that enqueue them."""

import hashlib
import logging
import re
import secrets
from collections.abc import Hashable, Mapping
from typing import Any

from rq import Queue
from rq.serializers import DefaultSerializer

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.names import spell
from pgnotifier.contrib._queues.functions import check_found, find_path
from pgnotifier.contrib.rq import jobs
from pgnotifier.contrib.rq.stamping import RedisCommand, RQStamp, record
from pgnotifier.dispatch import Delivery
from pgnotifier.dispatchers.origins import ORIGIN, describe_receipt
from pgnotifier.errors import DispatcherMismatchError

logger = logging.getLogger("pgnotifier.rq")

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
LONGEST_STEM = 60
TRACE = "_sentry_trace_headers"
"""The part that Sentry's RqIntegration continues in the worker."""


class RQTarget:
    """The target of a subscription: the jobs that its notifications become.

    Attributes:
        queue: The queue of the jobs.
        function: The path of the callback.
        name: The subscription's id as text, which is the description of the jobs.
        path: `stamped`, or `enqueue_many` if RQ makes each job; None before the first job.
        reason: Why jobs can't be stamped, if the path is `enqueue_many`.
    """

    def __init__(self, id: Hashable, queue: Queue, fn: Any, settings: Mapping[str, Any]) -> None:
        """Check a subscription.

        Args:
            id: The subscription's id.
            queue: The queue of the jobs.
            fn: The callback.
            settings: Arguments of `Queue.prepare_data`.

        Raises:
            DispatcherMismatchError: A worker couldn't import the callback, or couldn't call it; or
                the queue's serializer can't write the id.
        """
        self.queue = queue
        self.function = find_path(id, fn)
        self.name = spell(id).encode("utf-8", "backslashreplace").decode()  # as Redis takes UTF-8
        self.path: str | None = None
        self.reason: str | None = None
        self._stamp: RQStamp | None = None
        self._stem = make_stem(self.name)
        self._settings = {"description": self.name, **settings}
        self._pickles = queue.serializer is DefaultSerializer
        self._fn = fn
        self._id = id if self._pickles else jobs.write_id(id)
        self._called = self.function if self._pickles else f"{jobs.__name__}.{jobs.call.__name__}"
        try:
            queue.serializer.dumps((self._called, None, (self._id,), {}))
        except Exception as exc:
            raise DispatcherMismatchError(
                f"id {id!r:.80} can't be serialized for a job: {exc}; use a str or a tuple"
            ) from exc

    @property
    def runs_at_once(self) -> bool:
        """Whether the queue runs jobs itself, because it has `is_async=False`."""
        return not self.queue.is_async

    def commands(self, delivery: Delivery, time: str, *, decodes_alike: bool) -> list[RedisCommand]:
        """Return the commands that enqueue a delivery.

        Args:
            delivery: The delivery.
            time: The time of enqueueing, as RQ writes it.
            decodes_alike: Whether a worker decodes texts as the notifier does.

        Raises:
            DispatcherMismatchError: The callback's name is bound to something else.
            Exception: The delivery can't be serialized.
        """
        if self.path is None:
            self._learn()
        arguments = self._arguments(delivery, decodes_alike=decodes_alike)
        known, settings = delivery.identify(), self._settings
        job_id = f"{self._stem}-{known.hex if known else secrets.token_hex(8)}"
        meta: dict[str, Any] = {}
        if known is not None:  # an entry of the log: a repeat has the same id
            meta[ORIGIN] = describe_receipt(delivery.notification)
        tracing = delivery.binding.dispatcher.tracing
        if tracing is not None and (headers := tracing.find(delivery, dict)):
            meta[TRACE] = headers
        if meta:
            meta = {**(settings.get("meta") or {}), **meta}
            settings = {**settings, "meta": meta}
        if self._stamp is not None:
            return self._stamp.press(arguments, job_id, time, meta or None)
        return record(self.queue, self._called, arguments, job_id, settings)

    def run(self, delivery: Delivery, *, decodes_alike: bool) -> None:
        """Have the queue run the job in this process."""
        arguments = self._arguments(delivery, decodes_alike=decodes_alike)
        settings = {name: one for name, one in self._settings.items() if name != "at_front"}
        if described := describe_receipt(delivery.notification):
            settings["meta"] = {**(settings.get("meta") or {}), ORIGIN: described}
        self.queue.enqueue_call(self._called, args=arguments, **settings)

    def check(self, delivery: Delivery, *, decodes_alike: bool) -> None:
        """Raise if a delivery can't be serialized."""
        arguments = self._arguments(delivery, decodes_alike=decodes_alike)
        self.queue.serializer.dumps((self._called, None, arguments, {}))

    def _arguments(self, delivery: Delivery, *, decodes_alike: bool) -> tuple[Any, ...]:
        arrived = delivery.notification
        if self._pickles:
            return (self._id, arrived.channel, arrived.payload, arrived.pid)
        carried = jobs.carry(arrived, decodes_alike=decodes_alike)
        return (self.function, self._id, arrived.channel, carried, arrived.pid)

    def _learn(self) -> None:
        check_found(self.name, self._fn)
        try:
            self._stamp = RQStamp(self.queue, self._called, self._settings)
        except ValueError as exc:
            self.path, self.reason = "enqueue_many", str(exc)
        else:
            self.path = "stamped"
        why = f": {self.reason}" if self.reason else ""
        logger.debug(
            "jobs of %r are made by %s%s",
            self.name,
            self.path,
            why,
            extra=about("unstamped" if self.reason else "stamped", why=self.reason),
        )


def make_stem(name: str) -> str:
    """Return the beginning of the ids of jobs: the name, or part of it with a hash.

    RQ allows letters, digits, `_` and `-`. The hash distinguishes names that contain anything else.
    """
    fit = _UNFIT.sub("-", name).strip("-")[:LONGEST_STEM]
    if fit == name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{fit}-{digest}" if fit else digest
