"""The tasks of a channel: receivers that a worker calls, and why some of them can't subscribe."""

import logging
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, overload

from django.core.exceptions import ImproperlyConfigured
from django.dispatch import Signal

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.redaction import redact
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.notifiers import get_notifier, task_dispatcher
from pgnotifier.contrib.django.running import run

logger = logging.getLogger("pgnotifier.django")

F = TypeVar("F", bound=Callable[..., Any])


class TaskSignal(Signal):
    """A signal with a channel of PostgreSQL, with tasks as receivers.

    Attributes:
        name: The name of the channel.
        durable: Whether its tasks read from the log.
        tasks: The receivers that workers call, by id.
        gap_tasks: The receivers that workers call for gaps, by id.
    """

    _kept: ClassVar[set["TaskSignal"]] = set()
    _is_subscribing: ClassVar[bool] = False

    def __init__(self, name: str, using: str | None, *, durable: bool) -> None:
        super().__init__()
        self.name = name
        self.durable = durable
        self.tasks: dict[Hashable, Callable[..., Any]] = {}
        self.gap_tasks: dict[Hashable, Callable[..., Any]] = {}
        self._using = using
        self._options: dict[Hashable, dict[str, Any]] = {}
        self._problems: dict[Hashable, Exception] = {}

    def keep(self) -> None:
        """Keep this channel, even if nothing else refers to it any more."""
        self._kept.add(self)

    @property
    def database(self) -> str:
        """The alias of the channel's database."""
        return self._using or str(conf.get("DATABASE"))

    @overload
    def task(
        self,
        fn: F,
        *,
        id: Hashable = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> F: ...

    @overload
    def task(
        self,
        fn: None = None,
        *,
        id: Hashable = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> Callable[[F], F]: ...

    def task(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        id: Hashable = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> Any:
        """Have a worker call a receiver: a worker of Celery, of RQ, or of Django's tasks.

            @orders.task(id="invoice", queue="low")
            def invoice(sender, payload, **kwargs): ...

        `PGNOTIFIER["DISPATCHER"]` chooses the kind of worker. The receiver gets the same arguments
        as others do. Its `notification` is made in the worker, with the time at which it runs. On
        a durable channel, it is the `Entry`, with `id`, `key`, `published_at`, `attempt` and the
        time at which it was received.

        This method doesn't raise if the dispatcher refuses the task, because every process of the
        project calls it. Instead, `manage.py check` reports it, and `manage.py pgnotifier` doesn't
        start.

        Args:
            fn: A receiver, sync or async. If none is given, a decorator is returned.
            id: The name of the task. Default: `"module.qualname"` of the function.
            on_gap: A receiver that a worker calls with `gap` when notifications may have been
                missed. A durable channel misses nothing unless the task has `max_lag=`, so this
                needs that.
            options: Options of the dispatcher (`queue=` …), and `batch=`, `debounce=`, `key=`; for
                a durable channel also `start=`, `max_attempts=`, `on_failure=`, `max_lag=` and
                `max_age=`.

        Returns:
            The receiver.
        """
        if fn is None:
            return lambda fn: self.task(fn, id=id, on_gap=on_gap, **options)
        key = f"{fn.__module__}.{fn.__qualname__}" if id is None else id
        self._options[key] = {**options, "on_gap": None if on_gap is None else run}
        if self.durable:
            self._options[key]["durable"] = True
        self.tasks[key] = fn
        if on_gap is not None:
            self.gap_tasks[gap_id(key)] = on_gap
        self.keep()
        self._try_to_subscribe(key)
        return fn

    def subscribe_known_tasks(self) -> None:
        """Subscribe the tasks that were made before the apps were ready."""
        for key in [*self._options]:
            self._try_to_subscribe(key)

    def find_problems(self) -> dict[Hashable, Exception]:
        """Try again to subscribe the tasks that failed; return why they fail, by id."""
        for key in [*self._problems]:
            self._try_to_subscribe(key)
        return dict(self._problems)

    def subscribe_tasks(self) -> None:
        """Subscribe the tasks again, after the dispatcher was replaced.

        Raises:
            ImproperlyConfigured: The dispatcher doesn't exist, or can't be made.
            PgNotifierError: `Notifier.subscribe` refuses a task.
        """
        for key in self._options:
            self._subscribe(key)

    def _try_to_subscribe(self, key: Hashable) -> None:
        """Subscribe a task, unless it is too early; if that fails, record the reason."""
        if not self._is_subscribing:
            return
        try:
            self._subscribe(key)
        except Exception as exc:  # noqa: BLE001 - a user's dispatcher may raise anything
            self._problems[key] = exc
            what = (
                "tasks aren't" if isinstance(exc, ImproperlyConfigured) else f"task {key!r} isn't"
            )
            _warn_once(redact(f"{what} subscribed: {exc}"))

    def _subscribe(self, key: Hashable) -> None:
        notifier = get_notifier(self.database)
        through = task_dispatcher(self.database)
        live = notifier.is_running()
        notifier.subscribe(key, self.name, run, live, dispatcher=through, **self._options[key])
        self._problems.pop(key, None)


def gap_id(id: Hashable) -> Hashable:
    """Return the id of the task that is run for the gaps of a task."""
    return (*id, "gap") if isinstance(id, tuple) else (id, "gap")


@lru_cache(256)
def _warn_once(text: str) -> None:
    """Warn about a problem, for workers, because they don't run checks."""
    level = logging.DEBUG if conf.runs_checks() else logging.WARNING
    logger.log(level, "%s", text, extra=about("not_subscribed"))
