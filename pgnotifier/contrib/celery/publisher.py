"""Publisher: a batch of tasks into the broker, over one connection."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from pgnotifier.contrib.celery.obstacles import find_obstacle, find_receivers
from pgnotifier.contrib.celery.recording import Published, publish_recorded
from pgnotifier.contrib.celery.stamping import Stamp, UnstampableError, new_id
from pgnotifier.contrib.celery.targets import Target
from pgnotifier.dispatch import Delivery

logger = logging.getLogger("pgnotifier.celery")

CHUNK = 500
"""The most tasks that go into the broker in one round trip."""


class TaskIds(threading.local):
    """The ids of tasks that may be in the broker already, since it gave no answer.

    Published again with the same id, a double can be told. Each deliverer's thread has its own.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Delivery, str]] = {}  # keeps the deliveries, too

    def of(self, delivery: Delivery) -> str:
        """Return the id that was given to a delivery before, or a new one."""
        return self._known.pop(id(delivery))[1] if id(delivery) in self._known else new_id()

    def keep(self, delivery: Delivery, task_id: str) -> None:
        """Remember an id for the next try."""
        self._known[id(delivery)] = (delivery, task_id)

    def forget(self) -> None:
        """Forget them: the batch is done."""
        self._known.clear()


@dataclass(slots=True)
class Route:
    """How the messages of one target are made.

    Attributes:
        obstacle: Why Celery has to make each of them, if so.
        like: A message of Celery's, for the stamp.
        is_checked: Whether a stamp was compared with another message.
        stamp: What makes messages.
    """

    obstacle: str | None = None
    like: Published | None = None
    is_checked: bool = False
    stamp: Stamp | None = None


class Publisher:
    """Publishes with one producer, for one deliverer.

    For Redis, messages are stamped and go out many at a time. Others, and the first ones of each
    target, go through `apply_async`.
    """

    def __init__(
        self, app: Any, producer: Any, ids: TaskIds, has_failed: Callable[[BaseException], bool]
    ) -> None:
        """Take what to publish with.

        Args:
            app: The app.
            producer: In nobody else's use.
            ids: Of tasks that are published again.
            has_failed: Tells whether an exception means that the broker is down.
        """
        self._app = app
        self._producer = producer
        self._ids = ids
        self._has_failed = has_failed
        self._driver: str = producer.connection.get_transport_cls().driver_type
        self._routes: WeakKeyDictionary[Target, Route] = WeakKeyDictionary()
        self._dated: list[Route] = []
        self._router: Any = None
        self._receivers: str | None = None
        self._key = ""
        self._run: list[tuple[Delivery, str, str]] = []  # with id and message, not sent yet
        self._done = 0  # how many at the left of the batch need no further try

    def publish(self, batch: deque[Delivery]) -> None:
        """Publish each delivery, and take it off once the broker has acknowledged it.

        Raises:
            Exception: The broker is down; of whatever type its client raises.
        """
        while chunk := _first_ones(batch):
            self._look_around()
            for delivery in chunk:
                if not batch:  # given up
                    self._run.clear()
                    break
                self._publish_one(delivery, batch)
            self._flush(batch)
        self._ids.forget()

    def _look_around(self) -> None:
        """See what has changed since the last chunk."""
        self._receivers = find_receivers()
        if self._router is not self._app.amqp.router:  # after a change of `task_routes`
            self._router = self._app.amqp.router
            self._routes.clear()
            self._dated.clear()
        for route in self._dated:
            route.stamp = route.like = None

    def _publish_one(self, delivery: Delivery, batch: deque[Delivery]) -> None:
        if delivery.binding.live:
            target: Target = delivery.binding.target
            route = self._routes.get(target)
            if route is None:
                route = self._routes[target] = Route()
                self._bar(route, delivery, self._find_obstacle(target))
            try:
                if route.stamp is None or self._receivers:
                    self._flush(batch)  # in order
                    self._publish_by_celery(delivery, target, route)
                else:
                    self._stamp(delivery, target, route.stamp, batch)
            except BaseException as exc:
                if self._has_failed(exc):
                    raise
                self._flush(batch)  # lest it be reported twice, should that fail
                delivery.report(exc)
        self._done += 1

    def _find_obstacle(self, target: Target) -> str | None:
        try:
            return find_obstacle(target, self._driver)
        except Exception as exc:  # noqa: BLE001 - settings that Celery may never come to look at
            return f"something is wrong with the app: {type(exc).__name__}"

    def _publish_by_celery(self, delivery: Delivery, target: Target, route: Route) -> None:
        task_id = self._ids.of(delivery)
        given = target.arguments(delivery)
        try:
            if route.obstacle or self._receivers:
                target.apply(given, self._producer, task_id)
                return
            published = publish_recorded(target, given, self._producer, task_id)
        except BaseException:
            self._ids.keep(delivery, task_id)
            raise
        # It is published, whatever comes now.
        try:
            self._learn(route, target, published)
        except UnstampableError as exc:
            self._bar(route, delivery, str(exc))
        except Exception as exc:  # noqa: BLE001
            self._bar(route, delivery, f"no stamp could be made of it: {type(exc).__name__}")

    def _learn(self, route: Route, target: Target, messages: list[Published]) -> None:
        """Make a stamp of the first message, and compare it with the second one."""
        (published,) = messages
        channel = self._producer.channel
        if route.is_checked:
            route.stamp = Stamp(published, target, channel)
        elif route.like is None:
            route.like = published
        else:
            stamp = Stamp(route.like, target, channel)
            stamp.check(published)
            # Of the latter, whose times are those of now.
            route.stamp = Stamp(published, target, channel)
            route.is_checked = True
            route.like = None
            if stamp.is_dated:
                self._dated.append(route)

    def _bar(self, route: Route, delivery: Delivery, obstacle: str | None) -> None:
        route.obstacle = obstacle
        if obstacle:
            subscription = delivery.binding.subscription
            logger.debug(
                "subscription %r on channel %r goes through apply_async, task by task: %s",
                subscription.id,
                subscription.channel,
                obstacle,
            )

    def _stamp(
        self, delivery: Delivery, target: Target, stamp: Stamp, batch: deque[Delivery]
    ) -> None:
        if stamp.key != self._key:
            self._flush(batch)
            self._key = stamp.key
        task_id = self._ids.of(delivery)
        message = stamp.press(target.arguments(delivery), task_id, new_id())
        self._run.append((delivery, task_id, message))

    def _flush(self, batch: deque[Delivery]) -> None:
        """Send what was stamped, and take off the batch what is done."""
        if self._run:
            try:
                with self._producer.channel.conn_or_acquire() as client:
                    client.lpush(self._key, *(message for *_, message in self._run))
            except BaseException:
                for delivery, task_id, _ in self._run:
                    self._ids.keep(delivery, task_id)
                raise
            self._run.clear()
        done, self._done = self._done, 0
        with contextlib.suppress(IndexError):  # emptied meanwhile
            for _ in range(done):
                batch.popleft()


def _first_ones(batch: deque[Delivery]) -> tuple[Delivery, ...]:
    """Return what goes out in one round trip. `stop()` may empty the batch at any moment."""
    try:
        return tuple(islice(batch, CHUNK))
    except RuntimeError:  # in the middle of it
        return ()
