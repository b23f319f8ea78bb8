"""Tasks made of callbacks: one for each id, registered with the app, found by the worker."""

import logging
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any

from pgnotifier.contrib.celery.arguments import restore_payload
from pgnotifier.contrib.celery.errors import CallbackNotFoundError
from pgnotifier.contrib.celery.forking import renew_in_children
from pgnotifier.dispatch import Callback
from pgnotifier.errors import ConfigurationError, TaskNameError
from pgnotifier.locks import ForkSafeLock
from pgnotifier.records import about

logger = logging.getLogger("pgnotifier.celery")

_ATTRIBUTE = "_pgnotifier_tasks"
_MADE_OF = "_pgnotifier_callback"
"""The attribute of a Celery task that tells that it is ours."""


class CallbackTask:
    """The task of one id: which callback it calls for each channel.

    Attributes:
        name: The task's name.
        id: What the callbacks get as their id; messages carry it for the reader only.
        owner: The dispatcher it belongs to.
        decode: Makes a payload of a notification's text, as the listener does.
        options: What Celery makes the task with.
        callbacks: By channel.
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
        if self._task is None:  # should the app's finalizing have failed half-way
            self.register()
        return self._task

    def prepare(self, channel: str, payload: Any) -> tuple[Callback, Any]:
        """Return the callback of a channel, and the payload as it would have got it inline."""
        callback = self.callbacks.get(channel)
        if callback is None:
            known = ", ".join(map(repr, self.callbacks)) or "none"
            raise CallbackNotFoundError(
                f"subscription {self.id!r} has no callback on channel {channel!r} here (channels: "
                f"{known}): the listener runs other code than this worker; deploy the same to both"
            )
        return callback, restore_payload(payload, self.decode)

    def register(self) -> None:
        """Have the app know the task, which finalizes it.

        Raises:
            TaskNameError: It has another one of that name.
        """
        if self._task is None:
            AppTasks.of(self._app).finalize()
        if self._task is not None:  # by whoever finalized it
            return
        known = _known(self._app)
        found = known.get(self.name)
        if found is not None:
            other = getattr(found, _MADE_OF, None)
            if other is None:
                self.problem = _taken(self.name, self.id)
                raise self.problem
            if other is not self:  # one that was forgotten while it was registered
                known.pop(self.name, None)
        # No lock of ours is held, as Celery calls hooks of Task classes. Of two threads that make
        # the task at the same time, each makes it of the same function, which Celery allows.
        made = self._make()
        self._task = known.get(self.name, made)
        self.problem = None

    def _make(self) -> Any:
        options = {"ignore_result": True, **self.options, _MADE_OF: self}
        return self._app.task(self._run, name=self.name, shared=False, lazy=False, **options)

    def _find_run(self) -> Callable[..., object]:
        # What runs in the worker. Plain functions, so that a Task class of the app's own,
        # whose __call__ enters a context, say, works as with any other task.
        def run(id: str, channel: str, payload: Any, pid: int) -> object:  # noqa: ARG001
            callback, restored = self.prepare(channel, payload)
            return callback(self.id, channel, restored, pid)

        def run_bound(task: Any, id: str, channel: str, payload: Any, pid: int) -> object:  # noqa: ARG001
            callback, restored = self.prepare(channel, payload)
            bound: Any = callback
            return bound(task, self.id, channel, restored, pid)

        return run_bound if self.options.get("bind") else run

    def unregister(self) -> None:
        """Have the app forget the task, so that its name is free."""
        known = _known(self._app)
        if getattr(known.get(self.name), _MADE_OF, None) is self:
            known.pop(self.name, None)


class AppTasks:
    """What pgnotifier has to do with one app: its dispatchers, and their tasks by name.

    Kept on the app itself, and so for as long as that lives. Tasks are not made before the app
    is finalized: that would read its configuration, which may not be complete yet.

    `_lock` guards which tasks there are, with their callbacks. It is not held while calling Celery:
    a thread that finalizes the app holds Celery's lock, and may have come to us.
    """

    def __init__(self, app: Any) -> None:
        self.dispatchers: list[Any] = []
        self._app = app
        self._lock = ForkSafeLock()
        self._tasks: dict[str, CallbackTask] = {}
        self._is_finalized = False

    @classmethod
    def of(cls, app: Any) -> "AppTasks":
        """Return those of an app."""
        made = cls(app)
        found: AppTasks = vars(app).setdefault(_ATTRIBUTE, made)
        if found is made:
            renew_in_children(app)
            app.on_after_finalize.connect(made.register_all, weak=False)
        return found

    def finalize(self) -> None:
        """Finalize the app, or wait for another thread that does.

        Once that is done, Celery's lock is left alone: a forked child would find it taken if the
        parent's threads took it for a moment, again and again.
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
        """Return the task of that name, with a callback for a channel.

        Args:
            name: The name.
            like: The task as it should be; it is taken, unless the id has such a one already.
            channel: The channel.
            callback: What is called for it.

        Raises:
            TaskNameError: The name is taken.
            ConfigurationError: The id has other task options on another channel.
        """
        if name not in self._tasks and _is_foreign(self._app, name):
            raise _taken(name, like.id)
        with self._lock:
            before = self._tasks.get(name)
            task = like if before is None else _choose(before, like, channel)
            task.callbacks[channel] = callback
            self._tasks[name] = task
        if before is not None and before is not task:
            before.unregister()
        if self._app.finalized:
            try:
                self._register(task)
            except BaseException:
                self.release(name, channel)
                raise
        return task

    def release(self, name: str, channel: str) -> None:
        """Forget the callback of a channel, and the task with its last one."""
        with self._lock:
            task = self._tasks.get(name)
            if task is None:
                return
            task.callbacks.pop(channel, None)
            if task.callbacks:
                return
            del self._tasks[name]
        task.unregister()

    def _register(self, task: CallbackTask) -> None:
        task.register()
        if self._tasks.get(task.name) is not task:  # forgotten meanwhile
            task.unregister()

    def register_all(self, **_: Any) -> None:
        """Register what was claimed before the app was finalized: receives that signal.

        Celery would only log what a receiver raises; `check` raises it where it can be seen.
        """
        for task in tuple(self._tasks.values()):
            try:
                self._register(task)
            except TaskNameError as exc:
                logger.error("%s", exc, extra=about("not_subscribed", error=type(exc).__name__))  # noqa: TRY400 - that says it all

    def check(self) -> None:
        """Raise what kept a task from being registered, if anything did.

        Raises:
            TaskNameError: Its name was taken.
        """
        for task in tuple(self._tasks.values()):
            if task.problem is not None:
                raise task.problem


def _choose(known: CallbackTask, like: CallbackTask, channel: str) -> CallbackTask:
    """Return the task to use, of that which has the name and that which wants it for a channel."""
    if known.owner is not like.owner:
        raise TaskNameError(
            f"ids {known.id!r} and {like.id!r} of two notifiers of the app would share the task "
            f"name {known.name!r}; give one of their dispatchers another task_prefix"
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
            f"id {like.id!r} has other task options on channel {others[0]!r} than on "
            f"{channel!r}, and one task serves it on all its channels; give it the same task= on "
            "each, or use another id"
        )
    return like


def _taken(name: str, id: Hashable) -> TaskNameError:
    return TaskNameError(
        f"id {id!r} can't have the task name {name!r}: the app has another task of that name; "
        "rename one of them, or subscribe that task itself"
    )


def _known(app: Any) -> MutableMapping[str, Any]:
    """Return the tasks of an app that is finalized, or about to be.

    Not by `app.tasks`: a thread that looks there first holds the lock of that property and wants
    that of `finalize()`, while one that finalizes holds the latter when it calls us.
    """
    tasks: MutableMapping[str, Any] = app._tasks  # noqa: SLF001 - as Celery's own hooks do
    return tasks


def _is_foreign(app: Any, name: str) -> bool:
    """Tell whether the app has a task of that name, as far as can be seen already.

    Looking into `app.tasks` would finalize the app. The tasks that wait for that show
    their names in no other way; those of `@shared_task` not even so, and are found out later.
    """
    if app.finalized:
        return name in _known(app)
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
