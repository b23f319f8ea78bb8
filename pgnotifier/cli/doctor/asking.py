"""Call a function with a deadline, because a server or a broker that it asks may hang."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


class NoAnswerError(Exception):
    """There was no answer in time."""

    def __init__(self, seconds: float) -> None:
        """Take the time that has passed, in seconds."""
        super().__init__(f"no answer within {seconds:g} s")


def within(seconds: float, ask: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """Return the result of a function, which runs in a thread of its own.

    Args:
        seconds: How long it may take.
        ask: The function. If it takes longer, it isn't waited for.
        discard: Called with a result that comes too late.

    Raises:
        NoAnswerError: It took longer.
        Exception: Whatever the function raises.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            result = ask()
        except BaseException as exc:  # noqa: BLE001 - raised where the answer is waited for
            answer.set_exception(exc)
        else:
            answer.set_result(result)

    threading.Thread(target=run, name="pgnotifier-doctor", daemon=True).start()
    if wait([answer], seconds).done:
        return answer.result()
    answer.add_done_callback(lambda late: _discard(late, discard))
    raise NoAnswerError(seconds)


def _discard(late: "Future[T]", discard: Callable[[T], object] | None) -> None:
    if late.exception() is None and discard is not None:
        discard(late.result())
