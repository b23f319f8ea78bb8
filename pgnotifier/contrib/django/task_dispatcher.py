"""TaskDispatcher: notifications become tasks of Django's own framework.

That is `django.tasks` from Django 6 on, and its backport `django-tasks` on 5.2:
https://docs.djangoproject.com/en/6.0/topics/tasks/.
"""

import difflib
from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string

from pgnotifier.contrib._queues.functions import find_path
from pgnotifier.contrib._queues.salvaging import salvage
from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.dispatch import Batch, Delivery, Dispatcher, Subscription
from pgnotifier.dispatchers.carrying import pack, pack_texts, unpack
from pgnotifier.errors import (
    ArgumentTypeError,
    ConfigurationError,
    DispatcherMismatchError,
    PayloadEncodingError,
    UnknownOptionError,
)
from pgnotifier.payload import decode, encode_exactly

try:
    from django.tasks import task, task_backends
    from django.tasks.exceptions import TaskException
except ModuleNotFoundError:
    from django_tasks import (  # type: ignore[no-redef,assignment,unused-ignore]
        task,
        task_backends,
    )
    from django_tasks.exceptions import (  # type: ignore[assignment,unused-ignore]
        TaskException,
    )

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

OPTIONS = ("queue", "priority", "run_after", "backend")


def check_backend(alias: str) -> None:
    """See to it that there is a backend of that alias.

    Raises:
        ImproperlyConfigured: There isn't, or it can't be made.
    """
    try:
        task_backends[alias]
    except Exception as exc:
        raise ImproperlyConfigured(
            f"PGNOTIFIER['TASKS_BACKEND'] is {alias!r}, which can't be used: {exc}"
        ) from exc


@task()
def notification(path: str, id: str, channel: str, payload: str, pid: int) -> None:
    """Call a callback; id and payload travel as text, so that they arrive as what they were."""
    import_string(path)(decode(id), channel, unpack(payload), pid)


class TaskTarget(NamedTuple):
    """What a subscription's deliveries carry.

    Attributes:
        path: Where the callback is imported from.
        id: The subscription's, as text.
        task: The task, with its options.
        run_after: How much later than now it may run.
    """

    path: str
    id: str
    task: Any
    run_after: timedelta | None


class TaskDispatcher(Dispatcher):
    """Enqueues each notification as a task of `django.tasks`.

    Workers import the callback by its name, so that it has to be a function of a module.

    Options of `subscribe()` and `Channel.task`: `queue`, `priority`, `backend`, as in `Task.using`,
    and `run_after`, a timedelta.
    """

    starts_listener = False

    def __init__(self, backend: str = "default") -> None:
        """Take the alias of a backend in `TASKS`."""
        self._backend = backend
        self._notifiers: WeakSet[Notifier] = WeakSet()

    def attach(self, notifier: "Notifier") -> None:
        """Learn whose notifications come: a worker knows no decoder but pgnotifier's own."""
        self._notifiers.add(notifier)

    def bind(self, subscription: Subscription) -> TaskTarget:
        """Check a subscription.

        Raises:
            UnknownOptionError: Tasks have no such option.
            ArgumentTypeError: `run_after` is no timedelta.
            ConfigurationError: The backend refuses an option's value.
            DispatcherMismatchError: The id can't be written as text; or no worker could find the
                callback, or call it.
        """
        key, given = subscription.id, dict(subscription.options)
        for name in given.keys() - set(OPTIONS):
            near = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(OPTIONS)}"
            raise UnknownOptionError(f"task {key!r}: {name}= is not an option of tasks; {hint}")
        run_after = given.pop("run_after", None)
        if run_after is not None and not isinstance(run_after, timedelta):
            raise ArgumentTypeError(
                f"task {key!r}: run_after is a timedelta, not {run_after!r:.80}"
            )
        used = {"backend": given.get("backend", self._backend)}
        used |= {"queue_name": given.get("queue"), "priority": given.get("priority")}
        if run_after is not None:
            used["run_after"] = timezone.now() + run_after
        try:
            made = notification.using(**used)
        except (TaskException, TypeError, ValueError) as exc:
            raise ConfigurationError(f"task {key!r}: the backend takes no {used!r}: {exc}") from exc
        return TaskTarget(find_path(key, subscription.fn), _write(key), made, run_after)

    def dispatch(self, batch: Batch) -> None:
        """Enqueue each delivery.

        Raises:
            Exception: Whatever a backend raises that can't be reached.
        """
        close_stale_connections()
        try:
            for delivery in batch.one_by_one():
                fit, payload = self._find_fit(delivery)
                if fit is None:
                    continue
                try:
                    self._enqueue(fit, payload)
                except BaseException:
                    batch.leave([fit, *batch.rest()[1:]])  # what isn't fit is reported once
                    raise
        finally:
            close_stale_connections()

    def _find_fit(self, delivery: Delivery) -> tuple[Delivery | None, str]:
        """Return what of a delivery can be carried, and its text; report what can't."""
        try:
            return delivery, self._pack(delivery)
        except PayloadEncodingError as exc:
            rest = salvage(delivery, self._pack)
            if rest is None:
                delivery.report(exc)
                return None, ""
            return rest, self._pack(rest)

    def _enqueue(self, delivery: Delivery, payload: str) -> None:
        target: TaskTarget = delivery.binding.target
        arrived = delivery.notification
        made = target.task
        if target.run_after is not None:
            made = made.using(run_after=timezone.now() + target.run_after)
        made.enqueue(target.path, target.id, arrived.channel, payload, arrived.pid)

    def _pack(self, delivery: Delivery) -> str:
        arrived = delivery.notification
        if all(notifier.decoder is decode for notifier in self._notifiers):
            return pack(arrived)
        if arrived.parts:
            return pack_texts([encode_exactly(part.payload) for part in arrived.parts])
        return pack_texts(encode_exactly(arrived.payload))


def _write(id: Hashable) -> str:
    try:
        return encode_exactly(id)
    except PayloadEncodingError:
        raise DispatcherMismatchError(
            f"id {id!r:.80} can't be written as text; use a str or a tuple"
        ) from None
