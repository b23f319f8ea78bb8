"""Make Celery tasks from callbacks: one for each id, registered with the app."""

import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.contrib.celery.errors import CallbackNotFoundError
from pgnotifier.contrib.celery.forking import renew_in_children
from pgnotifier.dispatch import Callback
from pgnotifier.dispatchers.carrying import unwrap
from pgnotifier.dispatchers.in_workers import MADE_OF
from pgnotifier.errors import ConfigurationError, TaskNameError

logger = logging.getLogger("pgnotifier.celery")

_ATTRIBUTE = "_pgnotifier_tasks"


class CallbackTask:
    """The task of one id: which callback it calls for each channel.

    Attributes:
        name: The task's name.
        id: The id that callbacks get. The id in a message is only for people who read it.
        owner: The dispatcher that the task belongs to.
        decode: Decodes a notification's text, as the listener does.
        options: The options that Celery makes the task with.
        callbacks: The callbacks, by channel.
        problem: Why the task couldn't be registered, if so.
    """

    __slots__ = (
        *(
            "_app",
            "_run",
            "_task",
            "callbacks",
            "decode",
            "id",
            "name",
            "options",
            "owner",
            "problem",
        ),
    )

    def __init__(
        self,
        app: Any,
        name: str,
        id: Hashable,
        owner: object,
        decode: Callable[[str], Any],
        options: Mapping[str, Any],
    ) -> None:
        self._app = app
        self.name = name
        self.id = id
        self.owner = owner
        self.decode = decode
        self.options = options
        self.callbacks: dict[str, Callback] = {}
        self.problem: TaskNameError | None = None
        self._run = self._find_run()
        self._task: Any = None

    @property
    def task(self) -> Any:
        """The task as Celery knows it.

        Raises:
            TaskNameError: Another task had the name when the app was finalized.
        """
        if self._task is None:  # finalizing the app may have failed half-way
            self.register()
        if self._task is None:  # it was unsubscribed, but a delivery still waits for it
            self._task = self.make()
            AppTasks.of(self._app).register(self)
        return self._task

    def prepare(self, channel: str, payload: Any) -> tuple[Callback, Any]:
        """Return the callback of a channel, and the payload that it would have got inline.

        Raises:
            CallbackNotFoundError: There is no callback for the channel.
        """
        callback = self.callbacks.get(channel)
        if callback is None:
            known = ", ".join(map(repr, self.callbacks)) or "none"
            raise CallbackNotFoundError(
                f"subscription {self.id!r} has no callback on channel {channel!r} here (channels: "
                f"{known}): the listener runs other code than this worker; deploy the same code to "
                "both"
            )
        return callback, unwrap(payload, self.decode)

    def register(self) -> None:
        """Register the task with the app, which finalizes the app.

        Raises:
            TaskNameError: The app has another task of that name.
        """
        tasks = AppTasks.of(self._app)
        if self._task is None:
            tasks.finalize()
        if self._task is None:  # finalizing may have registered it
            tasks.register(self)

    def use(self, task: Any) -> None:
        """Keep the task that Celery has made."""
        self._task, self.problem = task, None

    def make(self) -> Any:
        """Have Celery make the task; return it, or an existing task of the same name."""
        options = {"ignore_result": True, **self.options, MADE_OF: self}
        return self._app.task(self._run, name=self.name, shared=False, lazy=False, **options)

    def _find_run(self) -> Callable[..., object]:
        # These functions run in the worker. They are plain functions, so that a Task class of the
        # app with a __call__ of its own works as with any other task.
        def run(id: str, channel: str, payload: Any, pid: int) -> object:  # noqa: ARG001
            callback, restored = self.prepare(channel, payload)
            return callback(self.id, channel, restored, pid)

        def run_bound(task: Any, id: str, channel: str, payload: Any, pid: int) -> object:  # noqa: ARG001
            callback, restored = self.prepare(channel, payload)
            bound: Any = callback
            return bound(task, self.id, channel, restored, pid)

        return run_bound if self.options.get("bind") else run


class AppTasks:
    """The dispatchers of one app, and the tasks of their callbacks by name.

    It is an attribute of the app, and lives as long as the app does. Tasks are not made before the
    app is finalized, because making one reads the configuration, which may not be complete yet.

    `_lock` guards the tasks and their callbacks. It is not held while calling Celery: a thread that
    finalizes the app holds Celery's lock, and may call `register_all`.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._dispatchers: WeakKeyDictionary[Any, None] = WeakKeyDictionary()  # in order
        self._held: set[Any] = set()
        self._lock = ForkSafeLock()
        self._tasks: dict[str, CallbackTask] = {}
        self._is_finalized = False

    @classmethod
    def of(cls, app: Any) -> "AppTasks":
        """Return the instance of an app."""
        made = cls(app)
        found: AppTasks = vars(app).setdefault(_ATTRIBUTE, made)
        if found is made:
            renew_in_children(app)
            app.on_after_finalize.connect(made.register_all, weak=False)
        return found

    @property
    def dispatchers(self) -> list[Any]:
        """The dispatchers that notifiers use, in the order in which they were attached."""
        # `keyrefs` makes a list in one step, so that other threads may add some meanwhile.
        return [one for ref in self._dispatchers.keyrefs() if (one := ref()) is not None]

    def add(self, dispatcher: Any) -> None:
        """Add a dispatcher, with a weak reference."""
        self._dispatchers[dispatcher] = None

    def hold(self, dispatcher: Any) -> None:
        """Keep a dispatcher that has subscriptions, with its notifier.

        A module may make a notifier in a function, and keep no reference to it.
        """
        self._held.add(dispatcher)

    def let_go(self, dispatcher: Any) -> None:
        """Stop keeping a dispatcher."""
        self._held.discard(dispatcher)

    def finalize(self) -> None:
        """Finalize the app, or wait for another thread that does.

        After that, Celery's lock isn't taken again: otherwise a child that is forked while a thread
        of the parent holds it would wait for ever.
        """
        if not self._is_finalized:
            self._app.finalize(auto=True)
            self._is_finalized = True

    def claim(
        self,
        name: str,
        like: CallbackTask,
        channel: str,
        callback: Callback,
    ) -> CallbackTask:
        """Return the task of a name, with a callback for a channel.

        Args:
            name: The task's name.
            like: The task to use unless the id already has one with the same options.
            channel: The channel.
            callback: The callback to call for the channel.

        Raises:
            TaskNameError: Another task has the name.
            ConfigurationError: The id has other task options on another channel.
        """
        if name not in self._tasks and _is_foreign(self._app, name):
            raise _taken(name, like.id)
        with self._lock:
            before = self._tasks.get(name)
            task = like if before is None else _choose(before, like, channel)
            former = task.callbacks.get(channel)
            task.callbacks[channel] = callback
            self._tasks[name] = task
        if self._app.finalized:
            try:
                self.finalize()
                self.register(task)
            except BaseException:
                self._restore(task, channel, before, former)
                raise
        return task

    def release(self, name: str, channel: str) -> None:
        """Remove the callback of a channel; with the last one, remove the task."""
        with self._lock:
            task = self._tasks.get(name)
            if task is None:
                return
            task.callbacks.pop(channel, None)
            if task.callbacks:
                return
            del self._tasks[name]
        self._remove_unwanted(name)

    def register(self, task: CallbackTask) -> None:
        """Register the task that has a name now with the app, which is finalized.

        No lock is held, so other threads may register or remove tasks at the same time. The loop
        therefore ends only once the app has the wanted task.

        Raises:
            TaskNameError: The app has another task of that name.
        """
        known, name = _known(self._app), task.name
        while True:
            self._remove_unwanted(name)
            wanted, found = self._tasks.get(name), known.get(name)
            if found is not None and not _is_ours(found):
                task.problem = _taken(name, task.id)
                raise task.problem
            made_of = getattr(found, MADE_OF, None)
            if made_of is wanted:
                if wanted is not None:
                    wanted.use(found)
                return
            if found is None and wanted is not None:
                wanted.make()

    def _remove_unwanted(self, name: str) -> None:
        """Remove a callback's task from the app if it isn't wanted, so that its name is free."""
        known = _known(self._app)
        found = known.get(name)
        if not _is_ours(found) or getattr(found, MADE_OF) is self._tasks.get(name):
            return
        removed = known.pop(name, None)
        if removed is not None and removed is not found:  # another thread has made it meanwhile
            known.setdefault(name, removed)

    def _restore(
        self,
        task: CallbackTask,
        channel: str,
        before: CallbackTask | None,
        former: Callback | None,
    ) -> None:
        """Undo a claim, unless the name was claimed or released again since."""
        with self._lock:
            if self._tasks.get(task.name) is not task:
                return
            if former is not None:
                task.callbacks[channel] = former
            else:
                task.callbacks.pop(channel, None)
            if before is not None:
                self._tasks[task.name] = before
            elif not task.callbacks:
                del self._tasks[task.name]
        with contextlib.suppress(Exception):  # the exception that is being raised says more
            self.register(task)

    def register_all(self, **_: Any) -> None:
        """Register the tasks that were claimed before the app was finalized.

        This is a receiver of Celery's signal. Celery only logs what a receiver raises; `check`
        raises it where it can be seen.
        """
        for task in tuple(self._tasks.values()):
            try:
                self.register(task)
            except TaskNameError as exc:
                logger.error("%s", exc, extra=about("not_subscribed", error=type(exc).__name__))  # noqa: TRY400 - no traceback needed

    def check(self) -> None:
        """Check that all tasks could be registered.

        Raises:
            TaskNameError: Another task has the name of one of them.
        """
        for task in tuple(self._tasks.values()):
            if task.problem is not None:
                raise task.problem


def _choose(known: CallbackTask, like: CallbackTask, channel: str) -> CallbackTask:
    """Return the known task of a name, or the new one if it can replace that."""
    if known.owner is not like.owner:
        raise TaskNameError(
            f"ids {known.id!r} and {like.id!r} of two dispatchers of the app, or of two notifiers, "
            f"would share the task name {known.name!r}; unsubscribe the former, or give one "
            "dispatcher another task_prefix"
        )
    if type(known.id) is not type(like.id) or known.id != like.id:
        raise TaskNameError(
            f"ids {known.id!r} and {like.id!r} would share the task name {known.name!r}; rename "
            "one of them"
        )
    if known.options == like.options:
        return known
    others = sorted(known.callbacks.keys() - {channel})
    if others:
        raise ConfigurationError(
            f"id {like.id!r} has other task options on channel {others[0]!r} than on {channel!r}, "
            "but an id has one task for all of its channels; give the same task= on each channel, "
            "or use another id"
        )
    return like


def _taken(name: str, id: Hashable) -> TaskNameError:
    return TaskNameError(
        f"id {id!r} can't have the task name {name!r}: the app has another task of that name; "
        "rename one of them, or subscribe that task itself"
    )


def _known(app: Any) -> MutableMapping[str, Any]:
    """Return the tasks of an app that is finalized, or about to be.

    Reading `app.tasks` could deadlock: a thread that reads it first holds the lock of that property
    and waits for that of `finalize()`, while a thread that finalizes holds the latter when it calls
    `register_all`.
    """
    tasks: MutableMapping[str, Any] = app._tasks  # noqa: SLF001 - Celery's own hooks use it
    return tasks


def _is_ours(task: Any) -> bool:
    return getattr(task, MADE_OF, None) is not None


def _is_foreign(app: Any, name: str) -> bool:
    """Return whether the app has another task of that name, as far as it is known by now.

    Reading `app.tasks` would finalize the app, so the names of pending tasks are read from their
    proxies. Those of `@shared_task` can't be found like this; `register` finds them later.
    """
    if app.finalized:
        found = _known(app).get(name)
        return found is not None and not _is_ours(found)
    for proxy in tuple(getattr(app, "_pending", ())):
        try:
            (fn,) = object.__getattribute__(proxy, "_Proxy__args")
            options = object.__getattribute__(proxy, "_Proxy__kwargs")
            pending = options.get("name") or app.gen_task_name(fn.__name__, fn.__module__)
        except (AttributeError, ValueError, TypeError):
            continue
        if pending == name:
            return True
    return False
