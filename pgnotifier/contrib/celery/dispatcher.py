"""Provide `CeleryDispatcher`, which enqueues notifications as Celery tasks."""

import functools
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast
from weakref import WeakKeyDictionary, ref

from celery import Celery
from celery.app.task import Task
from celery.canvas import group
from celery.local import Proxy

from pgnotifier._runtime.redaction import show
from pgnotifier.contrib.celery.broker import Broker
from pgnotifier.contrib.celery.inventory import Enqueued, take_inventory
from pgnotifier.contrib.celery.naming import task_name
from pgnotifier.contrib.celery.options import check_options
from pgnotifier.contrib.celery.publisher import TaskPublisher
from pgnotifier.contrib.celery.targets import CallbackTarget, CeleryTarget, SignatureTarget
from pgnotifier.contrib.celery.task_ids import TaskIds
from pgnotifier.contrib.celery.task_options import check_task_options
from pgnotifier.contrib.celery.tasks import AppTasks, CallbackTask
from pgnotifier.dispatch import Batch, Callback, Dispatcher
from pgnotifier.dispatchers.claiming import claim
from pgnotifier.dispatchers.in_process import runs_when_called
from pgnotifier.errors import (
    ArgumentTypeError,
    DispatcherMismatchError,
    TaskNameError,
    UnknownOptionError,
)
from pgnotifier.payload import decode

if TYPE_CHECKING:
    from pgnotifier.dispatch import Subscription
    from pgnotifier.notifier import Notifier


class CeleryDispatcher(Dispatcher):
    """Enqueues each notification as a task of a Celery app.

        notifier = Notifier(conf, dispatcher=CeleryDispatcher(app))
        notifier.subscribe("resize", "image_uploaded", resize, queue="images", expires=3600)

    **A callable** becomes a task named `<task_prefix><id>`. Its result isn't stored unless
    `ignore_result=False`. In the worker it is called with exactly the arguments that it would
    have got in this process: the original id, and payloads of every type. Workers need to
    import the module that subscribes. `task={...}` holds options of `app.task()`:
    `autoretry_for`, `max_retries`, `acks_late`, `rate_limit`, `bind`, `base` and so on.

    **A Task or Signature**, including a canvas, is enqueued as it is, with id, channel, payload
    and pid before its own arguments, just as a link of a chain gets its parent's result. `.si()`
    keeps them out. With the serializer `json`, types that JSON doesn't have arrive unchanged in
    workers that import this package; other serializers write what they can. If the broker fails
    while a group is being enqueued, the whole group is enqueued again.

    **Options** of `subscribe()` are those of `apply_async`: `queue`, `exchange`, `routing_key`,
    `priority`, `countdown`, `eta`, `expires`, `serializer`, `compression`, `headers`,
    `delivery_mode`, `time_limit`, `soft_time_limit`, `ignore_result`, `shadow`, `link`,
    `link_error`. See https://docs.celeryq.dev/en/stable/userguide/calling.html.

    A notification is delivered once the broker has acknowledged its task. While the broker is
    down, notifications wait in order. If the broker's answer was lost, the task is enqueued twice,
    with the same task id.
    """

    starts_listener: ClassVar[bool] = False

    def __init__(self, app: Celery, task_prefix: str = "pgnotifier.") -> None:
        """Make a dispatcher; the configuration isn't read yet, and nothing is connected.

        Args:
            app: The app with the broker, routes, settings and signals to use.
            task_prefix: The prefix of the names of callbacks' tasks.

        Raises:
            ArgumentTypeError: An argument is of the wrong type.
        """
        self._app = check_app(app)
        if not isinstance(task_prefix, str):
            raise ArgumentTypeError(f"task_prefix must be a str, not {task_prefix!r:.80}")
        self._prefix = task_prefix
        self._owner: ref[Notifier] | None = None
        self._notifier: Notifier | None = None  # which the app keeps, while it has subscriptions
        self._broker = Broker(self._app)
        self._tasks = AppTasks.of(self._app)
        self._ids = TaskIds()
        self._obstacles: WeakKeyDictionary[CeleryTarget, str] = WeakKeyDictionary()
        self._names: dict[tuple[Hashable, str], str] = {}  # of the tasks made of callbacks
        self._targets: dict[tuple[Hashable, str], CeleryTarget] = {}
        self._delivering_gaps: set[tuple[Hashable, str]] = set()  # those of an on_gap

    def __repr__(self) -> str:
        return (
            f"<CeleryDispatcher of {self._app.main!r}, prefix {self._prefix!r}, "
            f"{len(set(self._names.values()))} tasks>"
        )

    @property
    def notifier(self) -> "Notifier | None":
        """The notifier that uses this dispatcher; None before one does."""
        return self._notifier

    @property
    def app(self) -> Any:
        """The app that its tasks belong to."""
        return self._app

    def attach(self, notifier: "Notifier") -> None:
        """Remember which notifier uses this dispatcher: workers use its decoder as well.

        Raises:
            ConfigurationError: Another notifier uses it already.
        """
        is_new = self._notifier is None
        self._owner = claim(self, self._owner, notifier)
        self._notifier = notifier
        if is_new:
            self._tasks.add(self)

    def bind(self, subscription: "Subscription") -> CeleryTarget:
        """Check a subscription, and register its callback as a task of the app.

        Raises:
            TaskNameError: The id can't be a task name, or another task has that name.
            DispatcherMismatchError: The callback is a coroutine function or a Task class.
            UnknownOptionError: Celery has no such option, or it can't be used here.
            ArgumentTypeError: An option's value is of the wrong type.
            ConfigurationError: An option's value is invalid, or the id has other task options
                on another channel.
        """
        key, channel, fn = subscription.id, subscription.channel, subscription.fn
        if (key, channel) in self._targets and self._is_taken(subscription):
            raise TaskNameError(
                f"id {key!r} on channel {channel!r} is that of another subscription's on_gap, too; "
                "rename one of them"
            )
        given = dict(subscription.options)
        made_with = check_task_options(self._app, key, given.pop("task", None))
        options = check_options(key, given)
        _check_callback(key, fn)
        if _is_published_as_it_is(fn):
            if made_with and not subscription.delivers_gaps:
                raise UnknownOptionError(
                    f"subscription {key!r}: task= is only for plain callables; {fn!r:.80} is a "
                    "task already: set its options where it is defined"
                )
            _check_links(key, fn, options)
            self._forget(key, channel)
            target: CeleryTarget = SignatureTarget(self._app, options, fn)
        else:
            target = self._bind_callback(key, channel, fn, options, made_with)
        self._targets[key, channel] = target
        if subscription.delivers_gaps:
            self._delivering_gaps.add((key, channel))
        self._tasks.hold(self)
        return target

    def _is_taken(self, subscription: "Subscription") -> bool:
        """Return whether the id of an `on_gap` is that of another subscription, or the reverse."""
        known = (subscription.id, subscription.channel) in self._delivering_gaps
        return known is not subscription.delivers_gaps

    def _bind_callback(
        self,
        key: Hashable,
        channel: str,
        fn: Any,
        options: Mapping[str, Any],
        made_with: Mapping[str, Any],
    ) -> CeleryTarget:
        name = task_name(self._prefix, key)
        like = CallbackTask(self._app, name, key, self, self._decode, made_with)
        task = self._tasks.claim(name, like, channel, cast("Callback", fn))
        if self._names.get((key, channel)) != name:
            self._forget(key, channel)
        self._names[key, channel] = name
        return CallbackTarget(self._app, options, task)

    def unbind(self, subscription: "Subscription") -> None:
        """Remove the callback; with its last channel, remove its task."""
        self._forget(subscription.id, subscription.channel)
        self._targets.pop((subscription.id, subscription.channel), None)
        self._delivering_gaps.discard((subscription.id, subscription.channel))
        if not self._targets:
            self._tasks.let_go(self)

    def dispatch(self, batch: Batch) -> None:
        """Publish each delivery, and acknowledge it once the broker has acknowledged its task.

        Raises:
            Exception: The broker is down. The type depends on its client.
        """
        # Without a current app in this thread, tasks of @shared_task would have no app.
        self._app.set_current()
        self._app.finalize(auto=True)
        if self._app.conf.task_always_eager:
            _run_all(batch)
            return
        with self._broker.lease() as lease:
            if lease.publisher is None:
                lease.publisher = TaskPublisher(
                    self._app,
                    lease.producer,
                    self._ids,
                    self._obstacles,
                    functools.partial(self._broker.has_failed, producer=lease.producer),
                )
            lease.publisher.publish(batch)

    def targets(self) -> list[CeleryTarget]:
        """Return the targets of all subscriptions."""
        return list(self._targets.copy().values())

    def inventory(self) -> dict[tuple[Hashable, str], Enqueued]:
        """Return what the notifications of each subscription become, by id and channel.

        This finalizes the app.
        """
        self._app.finalize(auto=True)
        return take_inventory(self._app, self._targets.copy(), self._obstacles)

    def details(self) -> Mapping[str, Any]:
        """Return the inventory; it is empty until the app is finalized."""
        inventory = self.inventory() if self._app.finalized else {}
        return {"subscriptions": [enqueued.to_dict() for enqueued in inventory.values()]}

    def is_reachable(self) -> bool:
        """Return whether a connection to the broker can be made."""
        return bool(self._app.conf.task_always_eager) or self._broker.is_reachable()

    def close(self) -> None:
        """Close the connection to the broker."""
        self._broker.close()

    def _forget(self, id: Hashable, channel: str) -> None:
        name = self._names.pop((id, channel), None)
        if name is not None:
            self._tasks.release(name, channel)

    def _decode(self, text: str) -> Any:
        return (decode if self._notifier is None else self._notifier.decoder)(text)


class OfApp(Protocol):
    """The interface of all dispatchers of an app: `CeleryDispatcher` and the relay of an outbox."""

    @property
    def notifier(self) -> "Notifier | None":
        """The notifier that uses it; None before one does."""
        ...

    def targets(self) -> list[Any]:
        """Return the targets of all subscriptions."""
        ...

    def inventory(self) -> dict[tuple[Hashable, str], Enqueued]:
        """Return what the notifications of each subscription become, by id and channel."""
        ...


def dispatchers_of(app: Celery) -> list[OfApp]:
    """Return the dispatchers of an app, in the order in which notifiers began to use them."""
    return AppTasks.of(app).dispatchers


def notifiers_of(app: Celery) -> "list[Notifier]":
    """Return the notifiers that enqueue tasks of an app, in the order in which they were made."""
    found = (dispatcher.notifier for dispatcher in dispatchers_of(app))
    return [notifier for notifier in dict.fromkeys(found) if notifier is not None]


def check_tasks(app: Celery) -> None:
    """Check that every callback of an app's notifiers has its task.

    Raises:
        TaskNameError: Another task has the name of one of them.
    """
    AppTasks.of(app).check()


def check_app(app: Any) -> Any:
    """Return an app; for `celery.current_app`, the app that is current now.

    Raises:
        ArgumentTypeError: It isn't an app.
    """
    if not isinstance(app, Celery):
        raise ArgumentTypeError(
            f"app must be a Celery app, as in app = Celery('shop'), not {show(app)}"
        )
    proxy: Any = app
    return proxy._get_current_object() if isinstance(app, Proxy) else app  # noqa: SLF001


def _run_all(batch: Batch) -> None:
    for delivery in batch.one_by_one():
        try:
            delivery.binding.target.run(delivery)
        except BaseException as exc:  # noqa: BLE001 - sys.exit() in a task included
            delivery.report(exc)


def _is_published_as_it_is(fn: Any) -> bool:
    # @app.task and @shared_task return a proxy. Reading an attribute of it would make the task,
    # and the app's configuration may not be complete yet.
    return isinstance(fn, Proxy) or hasattr(type(fn), "apply_async")


def _check_callback(id: Hashable, fn: Any) -> None:
    """Check that a worker can call the callback, or that it can be published."""
    if isinstance(fn, Proxy):
        return
    if isinstance(fn, type) and issubclass(fn, Task):
        raise DispatcherMismatchError(
            f"subscription {id!r}: {fn!r} is a Task class; subscribe the task itself, which "
            "app.register_task() returns"
        )
    if not runs_when_called(fn):
        raise DispatcherMismatchError(
            f"subscription {id!r}: {fn!r} is a coroutine or generator function, which no worker "
            "awaits or iterates over; subscribe a plain function that does so, with asyncio.run() "
            "for example"
        )


def _check_links(id: Hashable, fn: Any, options: Mapping[str, Any]) -> None:
    if type(fn) is group and not {"link", "link_error"}.isdisjoint(options):
        raise UnknownOptionError(
            f"subscription {id!r}: a group can't have link or link_error; use a chord, or set them "
            "on its tasks"
        )
