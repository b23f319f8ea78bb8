"""What is acknowledged of a batch, and what is left of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, overload

from pgnotifier.errors import BatchError


class HasLife(Protocol):
    """What this module has to know about a binding."""

    live: bool


class Deliverable(Protocol):
    """What this module has to know about a delivery."""

    @property
    def binding(self) -> HasLife:
        """Its binding."""
        ...

    def pass_on(self) -> None:
        """Hand it on to whatever has replaced its binding."""


D = TypeVar("D", bound=Deliverable)
D_co = TypeVar("D_co", bound=Deliverable, covariant=True)


class Kept(Protocol[D_co]):
    """A tuple of deliveries, or what makes them when they are asked for."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> D_co: ...
    @overload
    def __getitem__(self, index: slice, /) -> tuple[D_co, ...]: ...


class Acknowledging(Sequence[D]):
    """A sequence of deliveries that keeps track of those that are acknowledged: see `Batch`."""

    __slots__ = ("_cancelled", "_deliveries", "_done", "_in_hand", "_left")

    def __init__(self, deliveries: Iterable[D] = ()) -> None:
        """Make a batch without acknowledged deliveries.

        Args:
            deliveries: The deliveries, in order.
        """
        self._deliveries: Kept[D] = tuple(deliveries)
        self._left: Kept[D] = self._deliveries
        self._done = 0  # of those that are left
        self._in_hand = False  # whether a loop over `one_by_one` is delivering the next one
        self._cancelled = False

    def __repr__(self) -> str:
        state = ", cancelled" if self._cancelled else ""
        return (
            f"<{type(self).__name__} of {len(self)} deliveries, {self.remaining} remaining{state}>"
        )

    def __len__(self) -> int:
        return len(self._deliveries)

    @overload
    def __getitem__(self, index: int) -> D: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[D, ...]: ...
    def __getitem__(self, index: int | slice) -> D | tuple[D, ...]:
        return self._deliveries[index]

    def rest(self, most: int | None = None) -> tuple[D, ...]:
        """Return what isn't acknowledged, in order; nothing if the batch is cancelled.

        Args:
            most: How many deliveries to return at most. Default: all.
        """
        end = None if most is None else self._done + most
        return () if self._cancelled else self._left[self._done : end]

    @property
    def remaining(self) -> int:
        """How many deliveries `rest()` returns."""
        return 0 if self._cancelled else len(self._left) - self._done

    @property
    def waiting(self) -> int:
        """How many of these a loop over `one_by_one` hasn't begun to deliver."""
        return max(0, self.remaining - self._in_hand)

    @property
    def is_cancelled(self) -> bool:
        """Whether `stop()` has given up the batch, so that `dispatch` should return soon."""
        return self._cancelled

    def one_by_one(self) -> Iterator[D]:
        """Yield the deliveries in order, until all are done or the batch is cancelled.

        A delivery is acknowledged when the loop asks for the next one. So after an exception in
        the loop's body, or a `break`, the current one is tried again. `leave` ends the loop.
        Deliveries of bindings that aren't live are passed on and not yielded.
        """
        left = self._left
        for delivery in self.rest():
            if self._cancelled:
                return
            if delivery.binding.live:
                self._in_hand = True
                try:
                    yield delivery
                finally:
                    self._in_hand = False
                if self._left is not left:
                    return
            else:
                delivery.pass_on()
            self._done += 1

    def done(self, count: int) -> None:
        """Acknowledge the next deliveries, so that they aren't tried again.

        Args:
            count: How many.

        Raises:
            BatchError: Fewer are left.
        """
        if not isinstance(count, int) or not 0 <= count <= len(self._left) - self._done:
            raise BatchError(
                f"done({count!r:.80}): {len(self._left) - self._done} of {len(self)} deliveries "
                "are left in the batch; acknowledge each once"
            )
        self._done += count

    def leave(self, deliveries: Iterable[D]) -> None:
        """Acknowledge everything except for some deliveries.

        Args:
            deliveries: What is to be tried again, in order. It may contain replacements for
                deliveries of the batch, such as salvaged ones.
        """
        left = tuple(deliveries)
        self._done = 0  # first, as other threads read `remaining`, which mustn't be negative
        self._left = left

    def cancel(self) -> None:
        """Give up the batch. Called by the notifier, on any thread."""
        self._cancelled = True
