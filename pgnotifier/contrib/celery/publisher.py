"""Publish a batch of tasks to the broker, over one connection."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import amqp
import msgspec

from pgnotifier._runtime.log_records import about
from pgnotifier.contrib._queues.salvaging import salvage
from pgnotifier.contrib.celery.carriers import Carrier, KombuCarrier
from pgnotifier.contrib.celery.carriers_amqp import AmqpCarrier
from pgnotifier.contrib.celery.carriers_redis import RedisCarrier
from pgnotifier.contrib.celery.obstacles import Hooks, find_hooks, find_obstacle, find_receivers
from pgnotifier.contrib.celery.recording import Published, publish_recorded
from pgnotifier.contrib.celery.stamping import CeleryStamp, UnstampableError, new_ids
from pgnotifier.contrib.celery.targets import CeleryTarget, Given
from pgnotifier.contrib.celery.task_ids import Attempt, TaskIds
from pgnotifier.contrib.celery.together import Together
from pgnotifier.dispatch import Batch, Binding, Delivery

logger = logging.getLogger("pgnotifier.celery")

TRACED = 100
"""For how many messages to make tracing headers at a time."""
Obstacles = MutableMapping[CeleryTarget, str]
"""Why Celery has to make each message of a target, where publishing has found that out."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class PublishPath:
    """How the messages of one target are made: by a stamp, or by Celery.

    Attributes:
        obstacle: Why Celery has to make each of them, if so.
        like: The first message, made by Celery, for the stamp.
        is_checked: Whether a stamp was compared with a second message.
        stamp: Makes the messages, once there is one.
    """

    obstacle: str | None = None
    like: Published | None = None
    is_checked: bool = False
    stamp: CeleryStamp | None = None


class _Handled(msgspec.Struct, frozen=True, gc=False):
    """An attempt, with the carrier's positions before and after its messages."""

    attempt: Attempt
    is_done: bool
    first: int
    last: int


class TaskPublisher:
    """Publishes with one producer, for one deliverer.

    The first messages of each target go through `apply_async`; the others are stamped, unless there
    is an obstacle. The publisher waits for the broker's acknowledgement of many messages at a time.
    """

    def __init__(
        self,
        app: Any,
        producer: Any,
        ids: TaskIds,
        obstacles: Obstacles,
        has_failed: Callable[[BaseException], bool],
    ) -> None:
        """Prepare a publisher; nothing is sent yet.

        Args:
            app: The app.
            producer: A connected producer that nobody else uses.
            ids: The ids of tasks that are published again.
            obstacles: Where to record why a target can't be stamped.
            has_failed: Returns whether an exception means that the broker is down.
        """
        self._app = app
        self._producer = producer
        self._ids = ids
        self._fresh = new_ids()
        self._obstacles = obstacles
        self._has_failed = has_failed
        self._carrier = carrier_for(producer, app)
        self._paths: WeakKeyDictionary[CeleryTarget, PublishPath] = WeakKeyDictionary()
        self._dated: WeakSet[PublishPath] = WeakSet()
        self._router: Any = None
        self._receivers: str | None = None
        self._hooks = Hooks((), None, ())
        self._together: Together | None = None  # the end of this chunk, or all of it
        self._begun: list[Attempt] = []  # what comes before that
        self._added: dict[str, Mapping[str, Any]] = {}  # the tracing headers, by the task's id
        self._handled: list[_Handled] = []
        self._has_new_stamp = False

    def publish(self, batch: Batch) -> None:
        """Publish each delivery, and acknowledge it once the broker has acknowledged its task.

        Raises:
            Exception: The broker is down. The type depends on its client.
        """
        while chunk := batch.rest(self._carrier.chunk):
            self._look_around()
            try:
                if not self._add_all(chunk):
                    self._add_each(batch, chunk)
                if batch.is_cancelled:
                    self._carrier.drop()
                    self._end_chunk()
                    return
                self._carrier.settle()
            except BaseException:
                self._leave_unsettled(batch)
                raise
            self._report_refused()
            batch.done(len(chunk))
            self._end_chunk()
        self._ids.forget()

    def _end_chunk(self) -> None:
        self._together = None
        self._begun.clear()
        self._added.clear()
        self._handled.clear()

    def _look_around(self) -> None:
        """Discard stamps if routes, hooks or times have changed since the last chunk."""
        hooks = find_hooks()
        self._receivers = find_receivers() or hooks.unexpected
        router = self._app.amqp.router
        if router is not self._router or hooks != self._hooks:  # after a change of `task_routes`
            self._router, self._hooks = router, hooks
            self._paths.clear()
            self._dated.clear()
        for path in self._dated:
            path.stamp = path.like = None

    def _add_all(self, chunk: Sequence[Delivery]) -> bool:
        """Stamp and add messages together.

        Args:
            chunk: A chunk, or the rest of one.

        Returns:
            False if a message needs more than a stamp, or can't be made. Nothing was added then.
        """
        if self._receivers or not self._ids.is_empty or not self._carrier.takes_many:
            return False
        together = Together(chunk, self._carrier.position)
        stamps = self._find_stamps(together.bindings)
        if stamps is None:
            return False
        together.identify(self._ids, self._fresh, self._hooks.libraries)
        try:
            messages = together.press(stamps)
        except BaseException:  # noqa: BLE001 - one by one, that is reported
            if together.traced:  # its spans are made already
                self._added.update(together.traced)
                for attempt in together.attempts():
                    self._ids.keep(attempt)
            return False
        self._together = together
        self._carrier.add_all(messages)
        return True

    def _find_stamps(self, bindings: Iterable[Binding]) -> Mapping[Binding, CeleryStamp] | None:
        """Return the stamps of some subscriptions; None if one has none, or isn't delivered to."""
        stamps: dict[Binding, CeleryStamp] = {}
        for binding in bindings:
            path = self._paths.get(binding.target)
            if path is None or path.stamp is None or not binding.live:
                return None
            stamps[binding] = path.stamp
        return stamps

    def _unfold(self) -> None:
        """Note what was added together as if it had been added one by one."""
        if self._together is not None:
            attempts, first = self._together.attempts(), self._together.first
            self._together = None
            self._begun[len(self._handled) :] = attempts
            self._handled += [
                _Handled(one, is_done=False, first=at, last=at + 1)
                for at, one in enumerate(attempts, first)
            ]

    def _add_each(self, batch: Batch, chunk: Sequence[Delivery]) -> None:
        """Publish or add each delivery of a chunk; the rest together, once there are stamps.

        With tracing, only the next chunk: traces of this one have begun already.
        """
        for count, attempt in enumerate(self._begin(chunk), 1):
            if batch.is_cancelled:
                return
            self._has_new_stamp = False
            self._publish_one(attempt)
            is_ready = self._has_new_stamp and not self._hooks.libraries
            if is_ready and self._add_all(chunk[count:]):
                return

    def _begin(self, chunk: Sequence[Delivery]) -> Iterator[Attempt]:
        """Yield the attempts of a chunk.

        The tracing headers are made for a hundred of them at a time: the code that makes spans is
        large, and would have left the processor's caches before the next message.
        """
        libraries = self._hooks.libraries
        for at in range(0, len(chunk), TRACED):
            some = [self._ids.of(one, self._fresh, libraries) for one in chunk[at : at + TRACED]]
            self._begun += some
            if libraries and not self._receivers:
                for attempt in some:
                    self._trace(attempt)
            yield from some

    def _trace(self, attempt: Attempt) -> None:
        """Make the tracing headers of a message that is going to be stamped."""
        binding, trace = attempt.delivery.binding, attempt.trace
        path = self._paths.get(binding.target)
        if trace is None or path is None or path.stamp is None:
            return
        if binding.live and attempt.task_id not in self._added:
            described = path.stamp.described
            self._added[attempt.task_id] = trace.make_headers(described, attempt.task_id)

    def _publish_one(self, attempt: Attempt) -> None:
        delivery = attempt.delivery
        first = self._carrier.position
        is_done = True
        if not delivery.binding.live:
            delivery.pass_on()
        else:
            try:
                attempt = self._publish_fit(attempt)
                is_done = False
            except BaseException as exc:
                if self._has_failed(exc):
                    raise
                delivery.report(exc)
        self._handled.append(_Handled(attempt, is_done, first, self._carrier.position))

    def _publish_fit(self, attempt: Attempt) -> Attempt:
        """Publish a delivery, except for payloads that can't be serialized.

        Returns:
            The attempt with the delivery that was published.
        """
        try:
            self._publish_live(attempt)
        except BaseException as exc:
            delivery = attempt.delivery
            target: CeleryTarget = delivery.binding.target
            rest = None if self._has_failed(exc) else salvage(delivery, target.check)
            if rest is None:
                raise
            attempt = msgspec.structs.replace(attempt, delivery=rest)
            # Keep it for the next attempt as well, so that such payloads are reported only once.
            self._begun[len(self._handled)] = attempt
            self._publish_live(attempt)
        return attempt

    def _publish_live(self, attempt: Attempt) -> None:
        delivery, task_id, trace = attempt.delivery, attempt.task_id, attempt.trace
        target: CeleryTarget = delivery.binding.target
        path = self._paths.get(target)
        if path is None:
            path = self._paths[target] = PublishPath()
            self._set_obstacle(path, delivery, find_obstacle(target))
        if path.stamp is None or self._receivers:
            self._carrier.send()  # to keep the order
            with nullcontext() if trace is None else trace.activate():
                self._publish_by_celery(delivery, target.given(delivery, trace), path, task_id)
        else:
            added = self._added.get(task_id)
            if added is None and trace is not None:  # the stamp was made after `_begin`
                added = trace.make_headers(path.stamp.described, task_id)
            message = path.stamp.press(target.given(delivery, None, added), task_id)
            self._carrier.add(message, task_id)

    def _publish_by_celery(
        self, delivery: Delivery, given: Given, path: PublishPath, task_id: str
    ) -> None:
        target: CeleryTarget = delivery.binding.target
        if path.obstacle or self._receivers:
            target.apply(given, self._producer, task_id)
            return
        published = publish_recorded(target, given, self._producer, task_id, self._carrier.watch)
        # The message is published, so nothing may raise from here on.
        try:
            self._learn(path, target, published)
        except UnstampableError as exc:
            self._set_obstacle(path, delivery, str(exc))
        except Exception as exc:  # noqa: BLE001
            self._set_obstacle(path, delivery, f"making a stamp raised {type(exc).__name__}")

    def _learn(self, path: PublishPath, target: CeleryTarget, published: Published | None) -> None:
        """Make a stamp of the first message, and compare it with the second one."""
        if published is None:
            raise UnstampableError("a delivery isn't published as exactly one message")
        make_stamp = self._carrier.make_stamp
        if path.is_checked:
            path.stamp = make_stamp(published, target)
            self._has_new_stamp = True
        elif path.like is None:
            path.like = published
        else:
            stamp = make_stamp(path.like, target)
            stamp.check(published)
            # Make the stamp of the second message, because its times are current.
            path.stamp = make_stamp(published, target)
            self._has_new_stamp = path.is_checked = True
            path.like = None
            if stamp.is_dated:
                self._dated.add(path)

    def _set_obstacle(self, path: PublishPath, delivery: Delivery, obstacle: str | None) -> None:
        path.obstacle = obstacle
        if obstacle:
            subscription = delivery.binding.subscription
            self._obstacles[delivery.binding.target] = obstacle
            logger.debug(
                "subscription %r on channel %r goes through apply_async, task by task: %s",
                subscription.id,
                subscription.channel,
                obstacle,
                extra=about(
                    "unstamped",
                    subscription=subscription.id,
                    channel=subscription.channel,
                    why=obstacle,
                ),
            )
        else:
            self._obstacles.pop(delivery.binding.target, None)

    def _leave_unsettled(self, batch: Batch) -> None:
        """Leave what the broker may not have for the next attempt, with the same ids."""
        self._unfold()
        self._report_refused()
        unsettled = [one.attempt for one in self._handled if not self._has_settled(one)]
        unsettled += self._begun[len(self._handled) :]
        for attempt in unsettled:
            self._ids.keep(attempt)
        rest = batch.rest()[len(self._begun) :]
        batch.leave([*(attempt.delivery for attempt in unsettled), *rest])
        self._end_chunk()

    def _report_refused(self) -> None:
        """Report the deliveries that the broker will never accept."""
        refused = self._carrier.refused
        if refused:
            self._unfold()
            for one in self._handled:
                found = (refused.get(at) for at in range(one.first + 1, one.last + 1))
                for error in filter(None, found):
                    one.attempt.delivery.report(error)
                    break
            refused.clear()

    def _has_settled(self, one: _Handled) -> bool:
        return one.is_done or self._carrier.has_settled(one.first, one.last)


def carrier_for(producer: Any, app: Any = None) -> Carrier:
    """Return the carrier for a producer's transport, of an app with its queues."""
    if producer.connection.get_transport_cls().driver_type == "redis":
        return RedisCarrier(producer)
    if isinstance(producer.channel, amqp.Channel):
        return AmqpCarrier(producer, app)
    return KombuCarrier(producer)
