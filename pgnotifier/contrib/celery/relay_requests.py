"""Check the tasks that were enqueued from SQL, and have the app make and send their messages."""

from collections.abc import Mapping
from typing import Any

from pgnotifier.contrib._queues.patterns import is_among
from pgnotifier.contrib.celery.errors import TaskNotAllowedError
from pgnotifier.contrib.celery.relay_messages import Request

_OWN_PREFIX = "celery."
"""Celery's own tasks: `celery.map`, for one, calls any other task."""
_OF_CELERY = frozenset(
    {
        *("argsrepr", "compression", "eta", "expires", "group", "group_index", "id"),
        *("ignore_result", "kwargsrepr", "lang", "origin", "parent_id", "replaced_task_nesting"),
        *("retries", "root_id", "shadow", "stamped_headers", "stamps", "task", "timelimit"),
    }
)
"""The headers that Celery makes, such as the task's name. Headers of users would replace them."""
MOST_LEVELS = 32
"""How deep headers may be nested."""


def send_request(
    app: Any, request: Request, task_id: str, allow: tuple[str, ...] | None, producer: Any
) -> None:
    """Have the app make and send the message of a task.

    Args:
        app: The app, finalized.
        request: The task that was enqueued from SQL.
        task_id: The id to use if it has none.
        allow: Patterns, one of which the name has to match. None: the app has to know the task.
        producer: Sends the message.

    Raises:
        TaskNotAllowedError: The relay may not send this task, or not with such a header.
        Exception: What Celery raises, because arguments don't fit for example, or because the
            broker is down.
    """
    _check_allowed(app, request.task, allow)
    _check_headers(request.headers or {})
    options = {
        name: value
        for name in ("queue", "eta", "expires", "priority", "headers")
        if (value := getattr(request, name)) is not None
    }
    given = (request.args, request.kwargs)
    # The relay tries again by itself, and nobody here waits for the result.
    options |= {"task_id": request.id or task_id, "producer": producer, "retry": False}
    task = app.tasks.get(request.task)
    if task is not None:
        task.apply_async(*given, **options, add_to_parent=False)
    else:
        app.send_task(request.task, *given, **options, add_to_parent=False)


def _check_allowed(app: Any, name: str, allow: tuple[str, ...] | None) -> None:
    if allow is None:
        if name not in app.tasks:
            raise TaskNotAllowedError(
                f"the app {app.main!r} has no task {name!r:.200}; register it, or name it in "
                "allow=[…] of the relay"
            )
        if name.startswith(_OWN_PREFIX):
            raise TaskNotAllowedError(
                f"{name!r:.200} is a task of Celery's own; name it in allow=[…] of the relay if "
                "SQL may ask for it"
            )
    elif not is_among(name, allow):
        raise TaskNotAllowedError(
            f"the task {name!r:.200} matches no pattern in allow=[…] of the relay"
        )


def _check_headers(headers: Mapping[str, Any]) -> None:
    reserved = sorted(_OF_CELERY & headers.keys())
    if reserved:
        raise TaskNotAllowedError(f"the header {reserved[0]!r} is one that Celery makes; remove it")
    if _may_end_worker(headers):
        raise TaskNotAllowedError(
            f"a header nests more than {MOST_LEVELS} levels deep, or has an object with "
            '"__type__" and "__value__" alone, which only kombu may write: a worker that can\'t '
            "read it would end"
        )


def _may_end_worker(value: Any, level: int = 0) -> bool:
    """Return whether a worker may fail to read a header.

    For Redis, headers are JSON that kombu reads before the worker gets the message, so that an
    error ends the worker. Kombu makes values such as dates from objects with these two names:
    https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.utils.json.html
    """
    if isinstance(value, Mapping):
        if value.keys() == {"__type__", "__value__"}:
            return True
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return level >= MOST_LEVELS or any(_may_end_worker(one, level + 1) for one in value)
