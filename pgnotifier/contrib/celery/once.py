"""Provide `Once`, the base of tasks that change a database once.

    @app.task(bind=True, base=Once, acks_late=True)
    def invoice(self, order_id):
        with self.once() as connection:
            connection.execute("UPDATE …")

A `with` block can't be skipped. If the task was done before, `self.once()` raises an exception that
only `Once.__call__` catches, and the task ends there, as if it had returned.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import getattr_static
from typing import Any, ClassVar

from celery import Task, _state, states

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.redaction import redact
from pgnotifier.contrib.celery.once_connections import open_connection
from pgnotifier.contrib.celery.once_upkeep import look_after
from pgnotifier.errors import AlreadyDoneError, ConfigurationError
from pgnotifier.once import once, open_block

logger = logging.getLogger("pgnotifier.celery")

_STATE = "_pgnotifier_once"


class _DoneBeforeError(BaseException):
    """Ends a task that was done before.

    It isn't an `Exception`, so that neither `except Exception` nor `autoretry_for` catches it.
    """


class _Block:
    """The block of a task that runs: its connection while it is open, None after it was."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection


class Once(Task):  # type: ignore[type-arg,misc,unused-ignore]
    """The base of tasks that change a database once, however often they are delivered.

    The task's id is inserted into `pgnotifier.done` in the same transaction as the effects. If the
    worker dies before the commit, nothing has happened, and the next delivery does the work; after
    the commit, the next delivery ends at `self.once()`, with the stored result if there is one.

    In a Django project, it has the methods of Celery's `DjangoTask` as well.

    Attributes:
        once_using: What opens the connection: an alias of Django's DATABASES, a pool of
            `psycopg_pool`, an engine or a `sessionmaker` of SQLAlchemy, a connection string, or a
            callable that returns a connection. Default: connections to `pgnotifier_dsn`.
    """

    abstract = True
    once_using: ClassVar[Any] = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; end it quietly if it was done before."""
        ours: Any = self
        if ours.request_stack.top is None:  # called as a function
            return super().__call__(*args, **kwargs)
        try:
            return self.run(*args, **kwargs)
        except _DoneBeforeError:
            logger.info(
                "task %s[%s] was done before: nothing is done again",
                self.name,
                self.request.id,
                extra=about("done_before", task=self.name, id=self.request.id),
            )
            return self._find_result()

    @contextmanager
    def once(self, using: Any = None) -> Iterator[Any]:
        """Open the transaction of the effects, unless the task was done before: then end the task.

        While another worker is doing the same task, this waits for the end of its transaction.
        An exception in the block rolls the transaction back, and so does `self.retry()`; the task,
        which keeps its id, is then done by the next try. A block inside an open one is part of it.

        A task that is called as a function has no id, so it is done each time.

        Args:
            using: What opens the connection. Default: `once_using`.

        Yields:
            The connection, in a transaction: of psycopg, SQLAlchemy or Django.

        Raises:
            ConfigurationError: A block of this task has already ended, so this one would be skipped
                if the worker died in between; or there is no database.
            LogNotInstalledError: The database has no durable log, or an old one.
            LogRefusedError: The role has no right to, or the transaction is read-only.
        """
        request: Any = self.request
        found: _Block | None = getattr(request, _STATE, None)
        if found is not None:
            yield self._join(found)
            return
        given = _find_using(self) if using is None else using
        with open_connection(given, self.app) as connection:
            block = _Block(connection)
            setattr(request, _STATE, block)
            ended = False
            try:
                with _begin(connection, _find_id(request)):
                    yield connection
                ended = True
            finally:
                block.connection = None
                if not ended:  # nothing has happened
                    delattr(request, _STATE)
            look_after(self, connection)

    @property
    def delay_on_commit(self) -> Callable[..., None]:
        """In a Django project, `DjangoTask.delay_on_commit`; elsewhere, no attribute.

        https://docs.celeryq.dev/en/stable/reference/celery.contrib.django.task.html
        """
        return _find_in_django(self, "delay_on_commit")

    @property
    def apply_async_on_commit(self) -> Callable[..., None]:
        """In a Django project, `DjangoTask.apply_async_on_commit`; elsewhere, no attribute."""
        return _find_in_django(self, "apply_async_on_commit")

    def _join(self, block: _Block) -> Any:
        if block.connection is None:
            raise ConfigurationError(
                f"task {self.name!r} has had its block already: a task has one `with self.once()`. "
                "Put all effects into it, or make two tasks"
            )
        return block.connection

    def _find_result(self) -> Any:
        """Return the task's stored result from when it was done, if there is one."""
        request: Any = self.request
        if self.ignore_result or getattr(request, "ignore_result", False) or request.is_eager:
            return None
        try:
            stored = self.backend.get_task_meta(request.id, cache=False)
        except Exception as exc:  # noqa: BLE001 - a backend may raise anything, or there is none
            logger.debug(
                "the result of task %s[%s] can't be read: %s",
                self.name,
                request.id,
                redact(exc),
                extra=about("result_unread", task=self.name, error=type(exc).__name__),
            )
            return None
        return stored.get("result") if stored.get("status") == states.SUCCESS else None


def _find_in_django(task: Once, name: str) -> Callable[..., None]:
    """Return a method of Celery's `DjangoTask` for a task that isn't derived from that class.

    `Once` is imported in projects without Django, too. So whether this is one with Django is only
    known when somebody calls the method.

    Raises:
        AttributeError: This is a project without Django.
    """
    settings: Any = getattr(sys.modules.get("django.conf"), "settings", None)
    if os.environ.get("DJANGO_SETTINGS_MODULE") or getattr(settings, "configured", False):
        try:
            from celery.contrib.django.task import DjangoTask
        except ImportError:
            pass
        else:
            found: Callable[..., None] = getattr(DjangoTask, name).__get__(task)
            return found
    raise AttributeError(
        f"{type(task).__name__!r} object has no attribute {name!r}: Django isn't configured",
        name=name,
        obj=task,
    )


def _find_using(task: Once) -> Any:
    """Return a task's `once_using`, without making a method of a function."""
    found = getattr_static(task, "once_using")
    return found.__func__ if isinstance(found, staticmethod) else found


def _find_id(request: Any) -> str | None:
    """Return what is noted when a task is done.

    `Task.replace` passes the task's id on, to another task or to the same one with other arguments.
    They differ in the level of replacement, which retries and redeliveries keep.
    """
    level = _count_eager(request.id) if request.is_eager else request.replaced_task_nesting
    return f"{request.id}:replacement-{level}" if request.id and level else request.id


def _count_eager(id: str | None) -> int:
    """Return how many tasks this one replaces, which run around it and have no levels."""
    state: Any = _state
    tasks = {one.name: one for one in state._task_stack.stack}.values()  # noqa: SLF001
    found = [request for one in tasks for request in one.request_stack.stack if request.id == id]
    return len(found) - 1


@contextmanager
def _begin(connection: Any, id: str | None) -> Iterator[None]:
    """Open the transaction, or end the task."""
    with ExitStack() as stack:
        try:
            stack.enter_context(open_block(connection) if id is None else once(connection, id))
        except AlreadyDoneError:
            raise _DoneBeforeError from None
        yield  # outside the `try`, as the block may raise the same error for another id
