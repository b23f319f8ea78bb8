"""Readiness: whether dispatchers can reach their queues, checked with a deadline."""

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, wait
from weakref import WeakKeyDictionary

from pgnotifier._runtime.aside import call_aside, is_without_thread
from pgnotifier._runtime.log_records import about
from pgnotifier.dispatch import Dispatcher

logger = logging.getLogger("pgnotifier.health")

PROBE_TIMEOUT = 5.0
"""Seconds that all queues together have to answer."""


class Probes:
    """Asks each dispatcher on a thread of its own, with one question at a time.

    Callers that ask meanwhile get the same answer, so a queue that doesn't answer holds only one
    thread.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards what is under way
        self._under_way: WeakKeyDictionary[Dispatcher, Future[bool]] = WeakKeyDictionary()

    def readiness_problems(self, dispatchers: Iterable[Dispatcher]) -> list[str]:
        """Return what is wrong with their queues, in words; an empty list if all answer.

        Args:
            dispatchers: Which to check, all at the same time.
        """
        asked = {one: self._ask(one) for one in dispatchers if _has_queue(one)}
        wait(asked.values(), PROBE_TIMEOUT)
        found = ((type(one).__name__, _judge(answer)) for one, answer in asked.items())
        return [f"{name} {trouble}" for name, trouble in found if trouble]

    def _ask(self, dispatcher: Dispatcher) -> Future[bool]:
        with self._lock:
            answer = self._under_way.get(dispatcher)
            if answer is None or answer.done():
                answer = call_aside("pgnotifier-probe", dispatcher.is_reachable)
                self._under_way[dispatcher] = answer
            return answer


def _has_queue(dispatcher: Dispatcher) -> bool:
    return type(dispatcher).is_reachable is not Dispatcher.is_reachable


def _judge(answer: Future[bool]) -> str | None:
    """Return what is wrong with a queue."""
    if not answer.done():
        return f"got no answer from its queue within {PROBE_TIMEOUT:g} s"
    error = answer.exception()
    if is_without_thread(answer):
        return f"can't probe its queue: {error}"
    if error is not None:
        logger.error("a queue can't be probed", exc_info=error, extra=about("probe_failed"))
        return f"can't probe its queue: {type(error).__name__}"
    return None if answer.result() else "can't reach its queue"
