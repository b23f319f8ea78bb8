"""Provide `TaskDispatcher`, which enqueues notifications as tasks of Django's own framework.

That is `django.tasks` from Django 6 on, and its backport `django-tasks` for Django 5.2:
https://docs.djangoproject.com/en/6.0/topics/tasks/.
"""

from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string

from pgnotifier._runtime.suggestions import suggest
from pgnotifier.contrib._queues.functions import find_path
from pgnotifier.contrib._queues.salvaging import salvage
from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.current import called_for
from pgnotifier.dispatch import Batch, Delivery, Dispatcher, Subscription
from pgnotifier.dispatchers.carrying import pack, pack_texts, unpack
from pgnotifier.dispatchers.origins import describe_receipt, read_entry
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
    """Check that a backend exists and can be made.

    Raises:
        ImproperlyConfigured: The backend doesn't exist, or can't be made.
    """
    try:
        task_backends[alias]
    except Exception as exc:
        raise ImproperlyConfigured(
            f"PGNOTIFIER['TASKS_BACKEND'] must be an alias of TASKS, and {alias!r} can't be used: "
            f"{exc}"
        ) from exc


@task()
def notification(
    path: str,
    id: str,
    channel: str,
    payload: str,
    pid: int,
    described: dict[str, Any] | None = None,
) -> None:
    """Call a callback. The id and the payload are text, so that they keep their types.

    What is described is an entry of the log. A task without it was made of a notification, or by
    an earlier version.
    """
    unpacked = unpack(payload)
    with called_for(read_entry(described, channel, unpacked, pid)):
        import_string(path)(decode(id), channel, unpacked, pid)


class TaskTarget(NamedTuple):
    """The target of a subscription: the task that its notifications become.

    Attributes:
        path: The path to import the callback from.
        id: The subscription's id, as text.
        task: The task, with its options.
        run_after: The delay after which the task may run, if there is one.
    """

    path: str
    id: str
    task: Any
    run_after: timedelta | None


class TaskDispatcher(Dispatcher):
    """Enqueues each notification as a task of `django.tasks`.

    Workers import the callback by its name, so it has to be a function of a module.

    The options of `subscribe()` and `Channel.task` are `queue`, `priority` and `backend`, as in
    `Task.using`, and `run_after`, a timedelta.
    """

    starts_listener = False

    def __init__(self, backend: str = "default") -> None:
        """Make a dispatcher.

        Args:
            backend: An alias of `TASKS`.
        """
        self._backend = backend
        self._notifiers: WeakSet[Notifier] = WeakSet()

    def attach(self, notifier: "Notifier") -> None:
        """Remember a notifier: workers only have pgnotifier's default decoder, not its own."""
        self._notifiers.add(notifier)

    def bind(self, subscription: Subscription) -> TaskTarget:
        """Check a subscription.

        Raises:
            UnknownOptionError: Tasks have no such option.
            ArgumentTypeError: `run_after` isn't a timedelta.
            ConfigurationError: The backend refuses an option's value.
            DispatcherMismatchError: The id can't be written as text; or a worker couldn't import
                the callback, or couldn't call it.
        """
        key, given = subscription.id, dict(subscription.options)
        for name in given.keys() - set(OPTIONS):
            hint = suggest(name, OPTIONS)
            raise UnknownOptionError(f"task {key!r}: {name}= is not an option of tasks; {hint}")
        run_after = given.pop("run_after", None)
        if run_after is not None and not isinstance(run_after, timedelta):
            raise ArgumentTypeError(
                f"task {key!r}: run_after must be a timedelta, not {run_after!r:.80}"
            )
        used = {"backend": given.get("backend", self._backend)}
        used |= {"queue_name": given.get("queue"), "priority": given.get("priority")}
        if run_after is not None:
            used["run_after"] = timezone.now() + run_after
        try:
            made = notification.using(**used)
        except (TaskException, TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"task {key!r}: the backend refuses {used!r:.200}: {exc}"
            ) from exc
        return TaskTarget(find_path(key, subscription.fn), _write(key), made, run_after)

    def dispatch(self, batch: Batch) -> None:
        """Enqueue each delivery.

        Raises:
            Exception: The backend can't be reached. The type depends on the backend.
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
                    batch.leave([fit, *batch.rest()[1:]])  # so that payloads are reported once
                    raise
        finally:
            close_stale_connections()

    def _find_fit(self, delivery: Delivery) -> tuple[Delivery | None, str]:
        """Return a delivery of the payloads that can be encoded, and its text; report others."""
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
        described = describe_receipt(arrived)
        more = (described,) if described else ()  # the others are as earlier versions take them
        made.enqueue(target.path, target.id, arrived.channel, payload, arrived.pid, *more)

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
