"""Tasks made of callbacks: one for each id, registered with the app, found by the worker."""

import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.contrib.celery.arguments import restore_payload
from pgnotifier.contrib.celery.errors import CallbackNotFoundError
from pgnotifier.contrib.celery.forking import renew_in_children
from pgnotifier.dispatch import Callback
from pgnotifier.errors import ConfigurationError, TaskNameError

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
        if self._task is None:  # forgotten meanwhile, though something waits for it still
            self._task = self.make()
            AppTasks.of(self._app).register(self)
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
        tasks = AppTasks.of(self._app)
        if self._task is None:
            tasks.finalize()
        if self._task is None:  # else by whoever finalized it
            tasks.register(self)

    def use(self, task: Any) -> None:
        """Be the task that the app knows."""
        self._task, self.problem = task, None

    def make(self) -> Any:
        """Have Celery make the task; return it, or another one that has its name already."""
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


class AppTasks:
    """What pgnotifier has to do with one app: its dispatchers, and their tasks by name.

    Kept on the app itself, and so for as long as that lives. Tasks are not made before the app
    is finalized: that would read its configuration, which may not be complete yet.

    `_lock` guards which tasks there are, with their callbacks. It is not held while calling Celery:
    a thread that finalizes the app holds Celery's lock, and may have come to us.
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
        """Return those of an app."""
        made = cls(app)
        found: AppTasks = vars(app).setdefault(_ATTRIBUTE, made)
        if found is made:
            renew_in_children(app)
            app.on_after_finalize.connect(made.register_all, weak=False)
        return found

    @property
    def dispatchers(self) -> list[Any]:
        """The dispatchers that notifiers use, in the order they began to."""
        # A list of references is made at once, whatever other threads do meanwhile.
        return [one for ref in self._dispatchers.keyrefs() if (one := ref()) is not None]

    def add(self, dispatcher: Any) -> None:
        """Know a dispatcher for as long as something else refers to it."""
        self._dispatchers[dispatcher] = None

    def hold(self, dispatcher: Any) -> None:
        """Keep a dispatcher, with its notifier, though nothing else may refer to it.

        It has subscriptions: a module may make a notifier within a function, and forget it.
        """
        self._held.add(dispatcher)

    def let_go(self, dispatcher: Any) -> None:
        """Keep a dispatcher no longer."""
        self._held.discard(dispatcher)

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
        """Forget the callback of a channel, and the task with its last one."""
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
        """Have the app, which is finalized, know a task, or that which is in its place by now.

        No lock is held, so that other threads may do the same, or the reverse, at any moment. So
        it is done only once it is seen to be.

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
            made_of = getattr(found, _MADE_OF, None)
            if made_of is wanted:
                if wanted is not None:
                    wanted.use(found)
                return
            if found is None and wanted is not None:
                wanted.make()

    def _remove_unwanted(self, name: str) -> None:
        """Have the app forget a task of ours unless it is wanted, so that its name is free."""
        known = _known(self._app)
        found = known.get(name)
        if not _is_ours(found) or getattr(found, _MADE_OF) is self._tasks.get(name):
            return
        removed = known.pop(name, None)
        if removed is not None and removed is not found:  # what another thread has made meanwhile
            known.setdefault(name, removed)

    def _restore(
        self,
        task: CallbackTask,
        channel: str,
        before: CallbackTask | None,
        former: Callback | None,
    ) -> None:
        """Undo a claim, unless the same has been claimed, or released, since."""
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
        with contextlib.suppress(Exception):  # what is raised already says more
            self.register(task)

    def register_all(self, **_: Any) -> None:
        """Register what was claimed before the app was finalized: receives that signal.

        Celery would only log what a receiver raises; `check` raises it where it can be seen.
        """
        for task in tuple(self._tasks.values()):
            try:
                self.register(task)
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


def _is_ours(task: Any) -> bool:
    return getattr(task, _MADE_OF, None) is not None


def _is_foreign(app: Any, name: str) -> bool:
    """Tell whether the app has a task of that name, as far as can be seen already.

    Looking into `app.tasks` would finalize the app. The tasks that wait for that show
    their names in no other way; those of `@shared_task` not even so, and are found out later.
    """
    if app.finalized:
        found = _known(app).get(name)
        return found is not None and not _is_ours(found)  # else it is about to be removed
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
