"""Publisher: a batch of tasks into the broker, over one connection."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from pgnotifier.contrib.celery.carriers import carrier_for
from pgnotifier.contrib.celery.obstacles import find_obstacle, find_receivers
from pgnotifier.contrib.celery.recording import Published, publish_recorded
from pgnotifier.contrib.celery.stamping import Stamp, UnstampableError, new_ids
from pgnotifier.contrib.celery.targets import Target
from pgnotifier.dispatch import Delivery

logger = logging.getLogger("pgnotifier.celery")

Obstacles = MutableMapping[Target, str]
"""Why Celery has to make each message of a target, as that turned out."""


class TaskIds(threading.local):
    """The ids of tasks that may be in the broker already, since it gave no answer.

    Published again with the same id, a double can be told. Each deliverer's thread has its own.
    """

    def __init__(self) -> None:
        # None in the place of the id is one that the broker has for sure.
        self._known: dict[int, tuple[Delivery, str | None]] = {}  # keeps the deliveries, too

    def of(self, delivery: Delivery, fresh: Iterator[str]) -> str | None:
        """Return the id that was given to a delivery before, or a new one; None if it is done."""
        return self._known.pop(id(delivery))[1] if id(delivery) in self._known else next(fresh)

    def keep(self, delivery: Delivery, task_id: str | None) -> None:
        """Remember an id for the next try, or that there is to be none (None)."""
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


class _Handled(msgspec.Struct, frozen=True, gc=False):
    """A delivery, its task's id, and the carrier's positions before and after its messages."""

    delivery: Delivery
    task_id: str | None
    first: int
    last: int


class Publisher:
    """Publishes with one producer, for one deliverer.

    The first messages of each target, and all of some, go through `apply_async`; others are
    stamped. The broker's acknowledgement is awaited for many at a time.
    """

    def __init__(
        self,
        app: Any,
        producer: Any,
        ids: TaskIds,
        obstacles: Obstacles,
        has_failed: Callable[[BaseException], bool],
    ) -> None:
        """Take what to publish with.

        Args:
            app: The app.
            producer: In nobody else's use.
            ids: Of tasks that are published again.
            obstacles: Where to write down what keeps a target from being stamped.
            has_failed: Tells whether an exception means that the broker is down.
        """
        self._app = app
        self._producer = producer
        self._ids = ids
        self._fresh = new_ids()
        self._obstacles = obstacles
        self._has_failed = has_failed
        self._carrier = carrier_for(producer)
        self._routes: WeakKeyDictionary[Target, Route] = WeakKeyDictionary()
        self._dated: list[Route] = []
        self._router: Any = None
        self._receivers: str | None = None
        self._handled: list[_Handled] = []  # of this chunk

    def publish(self, batch: deque[Delivery]) -> None:
        """Publish each delivery, and take it off once the broker has acknowledged it.

        Raises:
            Exception: The broker is down; of whatever type its client raises.
        """
        while chunk := _first_ones(batch, self._carrier.chunk):
            self._look_around()
            try:
                for delivery in chunk:
                    if not batch:  # given up
                        self._carrier.drop()
                        self._handled.clear()
                        return
                    self._publish_one(delivery)
                self._carrier.settle()
            except BaseException:
                self._keep_ids(batch)
                raise
            _take_off(batch, len(self._handled))
            self._handled.clear()
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

    def _publish_one(self, delivery: Delivery) -> None:
        task_id = self._ids.of(delivery, self._fresh)
        first = self._carrier.position
        if not delivery.binding.live:
            delivery.pass_on()
            task_id = None
        elif task_id is not None:
            try:
                self._publish_live(delivery, task_id)
            except BaseException as exc:
                if self._has_failed(exc):
                    self._ids.keep(delivery, task_id)
                    raise
                delivery.report(exc)
                task_id = None
        self._handled.append(_Handled(delivery, task_id, first, self._carrier.position))

    def _publish_live(self, delivery: Delivery, task_id: str) -> None:
        target: Target = delivery.binding.target
        route = self._routes.get(target)
        if route is None:
            route = self._routes[target] = Route()
            self._bar(route, delivery, find_obstacle(target))
        if route.stamp is None or self._receivers:
            self._carrier.send()  # in order
            self._publish_by_celery(delivery, target, route, task_id)
        else:
            self._carrier.add(route.stamp.press(target.given(delivery), task_id))

    def _publish_by_celery(
        self, delivery: Delivery, target: Target, route: Route, task_id: str
    ) -> None:
        given = target.given(delivery)
        if route.obstacle or self._receivers:
            target.apply(given, self._producer, task_id)
            return
        published = publish_recorded(target, given, self._producer, task_id, self._carrier.watch)
        # It is published, whatever comes now.
        try:
            self._learn(route, target, published)
        except UnstampableError as exc:
            self._bar(route, delivery, str(exc))
        except Exception as exc:  # noqa: BLE001
            self._bar(route, delivery, f"no stamp could be made of it: {type(exc).__name__}")

    def _learn(self, route: Route, target: Target, published: Published | None) -> None:
        """Make a stamp of the first message, and compare it with the second one."""
        if published is None:
            raise UnstampableError("it isn't one message")
        make_stamp = self._carrier.make_stamp
        if route.is_checked:
            route.stamp = make_stamp(published, target)
        elif route.like is None:
            route.like = published
        else:
            stamp = make_stamp(route.like, target)
            stamp.check(published)
            # Of the latter, whose times are those of now.
            route.stamp = make_stamp(published, target)
            route.is_checked = True
            route.like = None
            if stamp.is_dated:
                self._dated.append(route)

    def _bar(self, route: Route, delivery: Delivery, obstacle: str | None) -> None:
        route.obstacle = obstacle
        if obstacle:
            subscription = delivery.binding.subscription
            self._obstacles[delivery.binding.target] = obstacle
            logger.debug(
                "subscription %r on channel %r goes through apply_async, task by task: %s",
                subscription.id,
                subscription.channel,
                obstacle,
            )
        else:
            self._obstacles.pop(delivery.binding.target, None)

    def _keep_ids(self, batch: deque[Delivery]) -> None:
        """Take off what the broker surely has, and remember what it may have for the next try."""
        unsettled = list(dropwhile(self._has_settled, self._handled))
        _take_off(batch, len(self._handled) - len(unsettled))
        for one in unsettled:
            self._ids.keep(one.delivery, None if self._has_settled(one) else one.task_id)
        self._handled.clear()

    def _has_settled(self, one: _Handled) -> bool:
        return one.task_id is None or self._carrier.has_settled(one.first, one.last)


def _first_ones(batch: deque[Delivery], count: int) -> tuple[Delivery, ...]:
    """Return what goes out in one round trip. `stop()` may empty the batch at any moment."""
    try:
        return tuple(islice(batch, count))
    except RuntimeError:  # in the middle of it
        return ()


def _take_off(batch: deque[Delivery], count: int) -> None:
    with contextlib.suppress(IndexError):  # emptied meanwhile
        for _ in range(count):
            batch.popleft()
