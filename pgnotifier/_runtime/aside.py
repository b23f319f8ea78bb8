"""Call a function on a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class NoThreadError(RuntimeError):
    """No thread can be started: the limit of the user, the container or the system is reached."""


def call_aside(name: str, fn: Callable[..., T], *args: Any) -> Future[T]:
    """Call a function on a daemon thread of its own, in the caller's context.

    Not by an executor: the process would wait for its threads before it ends.

    Returns:
        A future with its result or its exception; with `NoThreadError` if it wasn't called.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # nobody who awaits it may cancel it

    def run() -> None:
        try:
            future.set_result(fn(*args))
        except BaseException as exc:  # noqa: BLE001 - who awaits it decides
            future.set_exception(exc)

    try:
        threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True).start()
    except RuntimeError as exc:
        future.set_exception(NoThreadError(f"no thread can be started: {exc}"))
    return future


def is_without_thread(future: Future[Any]) -> bool:
    """Return whether a function wasn't called, because no thread could be started."""
    return future.done() and isinstance(future.exception(), NoThreadError)
