"""Timing: report how long publications take to functions that observe it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Literal

from pgnotifier._runtime.log_records import about

logger = logging.getLogger("pgnotifier.publishing")

Kind = Literal["notify", "durable"]
"""What was published: a notification by `Notifier.notify`, or entries of the durable log."""
Observer = Callable[[Kind, float], object]

_NOTHING = nullcontext()
_UNMEASURED = about("unmeasured")
_observers: tuple[Observer, ...] = ()


def observe(observer: Observer) -> None:
    """Have a function called with the kind and the seconds of each publication of this process.

    It is called on the thread that has published, after a publication that didn't fail.
    """
    global _observers  # noqa: PLW0603 - one per process, as what it measures is
    _observers = (*_observers, observer)


def forget(observer: Observer) -> None:
    """Stop calling a function."""
    global _observers  # noqa: PLW0603
    _observers = tuple(one for one in _observers if one is not observer)


def timed(kind: Kind) -> AbstractContextManager[None]:
    """Return a context manager that measures a publication, if there is an observer."""
    return _timed(kind) if _observers else _NOTHING


@contextmanager
def _timed(kind: Kind) -> Iterator[None]:
    began = perf_counter()
    yield
    seconds = perf_counter() - began
    for observer in _observers:
        try:
            observer(kind, seconds)
        except Exception:  # it was published, so nothing may raise
            logger.debug("a publication couldn't be measured", exc_info=True, extra=_UNMEASURED)
