"""Tasks made of callbacks: one for each id, registered with the app, found by the worker."""

import logging
import threading
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any

from pgnotifier.contrib.celery.arguments import restore_payload
from pgnotifier.contrib.celery.errors import CallbackNotFoundError
from pgnotifier.dispatch import Callback
from pgnotifier.errors import TaskNameError

logger = logging.getLogger("pgnotifier.celery")

_ATTRIBUTE = "_pgnotifier_tasks"
_registering = threading.RLock()


class CallbackTask:
    """The task of one id: which callback it calls for each channel.

    Attributes:
        name: The task's name.
        id: What the callbacks get as their id; messages carry it for the reader only.
        owner: The dispatcher it belongs to.
        decode: Makes a payload of a notification's text, as the listener does.
        callbacks: By channel.
    """

    __slots__ = ("_app", "_task", "callbacks", "decode", "id", "name", "owner", "problem")

    def __init__(
        self, app: Any, name: str, id: Hashable, owner: object, decode: Callable[[str], Any]
    ) -> None:
        self._app = app
        self.name = name
        self.id = id
        self.owner = owner
        self.decode = decode
        self.callbacks: dict[str, Callback] = {}
        self.problem: TaskNameError | None = None
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
        # Before taking our lock: who finalizes the app holds its own, and then wants ours.
        self._app.finalize(auto=True)
        with _registering:
            if self._task is None:
                if self.name in _known(self._app):
                    self.problem = _taken(self.name, self.id)
                    raise self.problem
                self._task = self._make()
                self.problem = None

    def _make(self) -> Any:
        # What runs in the worker. A plain function, so that a Task class of the app's own,
        # whose __call__ enters a context, say, works as with any other task.
        def run(id: str, channel: str, payload: Any, pid: int) -> object:  # noqa: ARG001
            callback, restored = self.prepare(channel, payload)
            return callback(self.id, channel, restored, pid)

        return self._app.task(run, name=self.name, shared=False, lazy=False, ignore_result=True)

    def unregister(self) -> None:
        """Have the app forget the task, so that its name is free."""
        known = _known(self._app)
        if self._task is not None and known.get(self.name) is self._task:
            del known[self.name]


class AppTasks:
    """What pgnotifier has to do with one app: its dispatchers, and their tasks by name.

    Kept on the app itself, and so for as long as that lives. Tasks are not made before the app
    is finalized: that would read its configuration, which may not be complete yet.
    """

    def __init__(self, app: Any) -> None:
        self.dispatchers: list[Any] = []
        self._app = app
        self._tasks: dict[str, CallbackTask] = {}

    @classmethod
    def of(cls, app: Any) -> "AppTasks":
        """Return those of an app."""
        made = cls(app)
        found: AppTasks = vars(app).setdefault(_ATTRIBUTE, made)
        if found is made:
            app.on_after_finalize.connect(made.register_all, weak=False)
        return found

    def claim(
        self, name: str, id: Hashable, owner: object, decode: Callable[[str], Any]
    ) -> CallbackTask:
        """Return the task of that name, a new one unless the id has it already.

        Raises:
            TaskNameError: The name is taken.
        """
        if name not in self._tasks and _is_foreign(self._app, name):
            raise _taken(name, id)
        task = self._tasks.setdefault(name, CallbackTask(self._app, name, id, owner, decode))
        if task.owner is not owner:
            raise TaskNameError(
                f"ids {task.id!r} and {id!r} of two notifiers of the app would share the task "
                f"name {name!r}; give one of their dispatchers another task_prefix"
            )
        if type(task.id) is not type(id) or task.id != id:
            raise TaskNameError(
                f"ids {task.id!r} and {id!r} would share the task name {name!r}; rename one of them"
            )
        if self._app.finalized:
            task.register()
        return task

    def release(self, name: str, channel: str) -> None:
        """Forget the callback of a channel, and the task with its last one."""
        task = self._tasks.get(name)
        if task is None:
            return
        task.callbacks.pop(channel, None)
        if not task.callbacks:
            del self._tasks[name]
            task.unregister()

    def register_all(self, **_: Any) -> None:
        """Register what was claimed before the app was finalized: receives that signal.

        Celery would only log what a receiver raises; `check` raises it where it can be seen.
        """
        for task in tuple(self._tasks.values()):
            try:
                task.register()
            except TaskNameError as exc:
                logger.error("%s", exc)  # noqa: TRY400 - that says it all

    def check(self) -> None:
        """Raise what kept a task from being registered, if anything did.

        Raises:
            TaskNameError: Its name was taken.
        """
        for task in tuple(self._tasks.values()):
            if task.problem is not None:
                raise task.problem


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
