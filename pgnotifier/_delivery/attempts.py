"""Attempts: dispatch a batch, and retry it after pauses until all of it is acknowledged."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from time import monotonic

from pgnotifier._delivery.buffer import Trouble
from pgnotifier._delivery.ending import Ending
from pgnotifier._delivery.intake import settle_acknowledged
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.log_records import LogThrottle, about, count
from pgnotifier.dispatch import Batch, Delivery, Dispatcher
from pgnotifier.errors import BatchError, in_one_line

logger = logging.getLogger("pgnotifier.delivery")

LAST_PAUSE = 0.2
"""The longest pause between two attempts while draining, in seconds."""


class Attempts:
    """Dispatches a deliverer's batches, with pauses between the attempts.

    The deliverer's thread calls the methods, except for `cancel`, which any thread may call.

    Attributes:
        delivered: How many deliveries dispatchers have acknowledged.
        trouble: Since when it has been retrying, and why; None if it isn't.
        has_entries: Whether some deliveries are durable, so that they are to be settled.
    """

    def __init__(
        self,
        name: str,
        ending: Ending,
        renew: Callable[[list[Delivery]], list[Delivery]],
        count_waiting: Callable[[], int],
    ) -> None:
        """Begin without a batch.

        Args:
            name: The dispatcher's name in the log.
            ending: The deliverer's flags.
            renew: Returns what to dispatch next, given what is left of a batch.
            count_waiting: Returns how many notifications are waiting, for the log.
        """
        self.delivered = 0
        self.trouble: Trouble | None = None
        self.has_entries = False
        self._name = name
        self._ending = ending
        self._renew = renew
        self._count_waiting = count_waiting
        self._batches: list[Batch] = []  # the current one, after those that it has interrupted
        self._warn = LogThrottle(logger)

    @property
    def waiting(self) -> int:
        """How many deliveries of its batches are waiting."""
        return sum(batch.waiting for batch in self._batches)

    def begin(self, batch: Batch) -> bool:
        """Take a batch to `dispatch`; return False if the deliverer was abandoned."""
        with self._ending.bell.lock:
            if not self._ending.is_abandoned:
                self._batches.append(batch)
            return not self._ending.is_abandoned

    def cancel(self) -> None:
        """Give up the batches, even in the middle of an attempt."""
        for batch in self._batches:
            batch.cancel()

    def dispatch(self, batch: Batch, by: Dispatcher) -> None:
        """Have the batch that `begin` took last dispatched, in as many attempts as it takes."""
        with nullcontext() if by.tracing is None else by.tracing.handing_over(batch, by):
            self._dispatch(batch, by)

    def _dispatch(self, batch: Batch, by: Dispatcher) -> None:
        backoff = Backoff()
        delivered = 0
        while batch.remaining:
            before = batch.remaining
            failure = _attempt(batch, by)
            delivered += before - batch.remaining
            if not batch.remaining:  # all is acknowledged, or it was cancelled
                break
            self._note_failure(_unacknowledged(batch) if failure is None else failure)
            self._pause(backoff.pause())
            batch = self._replace(batch, by)
        if not self._ending.is_abandoned:
            if self.has_entries and not by.settles_itself:
                settle_acknowledged(batch, ())
            self._note_success()
            self.delivered += delivered
        self._batches.pop()

    def _replace(self, batch: Batch, by: Dispatcher) -> Batch:
        """Return the batch of the next attempt."""
        left = list(batch.rest())
        if self.has_entries and not (by.settles_itself or batch.is_cancelled):
            settle_acknowledged(batch, left)
        batch.leave(())
        renewed = self._renew(left)
        with self._ending.bell.lock:
            self._batches[-1] = Batch(() if self._ending.is_abandoned else renewed)
            return self._batches[-1]

    def _note_failure(self, failure: BaseException) -> None:
        why = in_one_line(f"{type(failure).__name__}: {failure}")
        if self.trouble is not None:
            self.trouble = Trouble(self.trouble.since, why)
            return
        self.trouble = Trouble(datetime.now(UTC), why)
        waiting = self._count_waiting()
        self._warn(
            "%s can't deliver (%s); waiting: %s; retrying",
            self._name,
            why,
            count(waiting, "notification"),
            extra=about(
                "retrying", dispatcher=self._name, count=waiting, error=type(failure).__name__
            ),
        )

    def _note_success(self) -> None:
        if self.trouble is not None:
            self.trouble = None
            extra = about("delivers_again", dispatcher=self._name)
            logger.info("%s delivers again", self._name, extra=extra)

    def _pause(self, seconds: float) -> None:
        """Wait, but not for long while draining: there is a deadline for that."""
        ending = self._ending
        with ending.bell.lock:
            was_draining = ending.is_draining
            deadline = monotonic() + (min(seconds, LAST_PAUSE) if was_draining else seconds)
            while ending.is_draining is was_draining and (left := deadline - monotonic()) > 0:
                ending.bell.wait(left)


def _attempt(batch: Batch, by: Dispatcher) -> BaseException | None:
    """Have a batch dispatched once; return what was raised, if anything."""
    try:
        by.dispatch(batch)
    except BaseException as exc:  # noqa: BLE001 - whatever a queue's client raises
        return exc
    return None


def _unacknowledged(batch: Batch) -> BatchError:
    return BatchError(
        f"dispatch() returned with {batch.remaining} of {len(batch)} deliveries not acknowledged; "
        "see Batch for how to"
    )
