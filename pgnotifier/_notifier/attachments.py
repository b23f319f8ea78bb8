"""Attachments: the dispatchers that a notifier uses."""

import weakref
from collections.abc import Callable, Iterator

from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import ArgumentTypeError


class Attachments:
    """The dispatchers that a notifier uses: its own, and those that subscriptions name.

    Attributes:
        default: Delivers to subscriptions that name no dispatcher. It is never removed.
        in_use: All of them. Written under the notifier's lock, or by adding one.
    """

    def __init__(self, owner: object, default: Dispatcher) -> None:
        """Take what dispatchers are attached to; `attach` follows, for the default one as well.

        Args:
            owner: The notifier.
            default: Its own dispatcher.
        """
        self.default = default
        self.in_use: set[Dispatcher] = set()
        self._owner = owner
        self._ever_used: weakref.WeakSet[Dispatcher] = weakref.WeakSet()

    def __iter__(self) -> Iterator[Dispatcher]:
        # A copy: other threads may subscribe with further dispatchers meanwhile.
        return iter(tuple(self.in_use))

    def attach(self, dispatcher: Dispatcher, is_running: Callable[[], bool]) -> None:
        """Attach a dispatcher, and open it if the notifier runs; a no-op if it is attached.

        Args:
            dispatcher: The dispatcher.
            is_running: Returns whether the notifier runs. Called after attaching, which may
                take a while.

        Raises:
            ArgumentTypeError: It isn't an instance of a dispatcher.
            PgNotifierError: It belongs to another notifier, or can't be opened.
        """
        if not isinstance(dispatcher, Dispatcher):
            raise ArgumentTypeError(
                f"a dispatcher must be an instance of pgnotifier.Dispatcher, not {dispatcher!r:.80}"
            )
        if dispatcher not in self.in_use:
            dispatcher.attach(self._owner)
            if is_running():
                dispatcher.open()
            self.in_use.add(dispatcher)
            self._ever_used.add(dispatcher)

    def open_all(self) -> None:
        """Make all of them ready to dispatch.

        Raises:
            PgNotifierError: One of them can't be opened.
        """
        for dispatcher in self:
            dispatcher.open()

    def remove(self, unused: set[Dispatcher]) -> set[Dispatcher]:
        """Remove dispatchers that have no subscription left; return those that were removed."""
        removed = unused - {self.default}
        self.in_use -= removed
        return removed

    def forget_in_child(self) -> None:
        """Have all dispatchers forget their threads in a forked child.

        This includes the dispatchers of listeners that have stopped: their threads may not have
        ended yet.
        """
        for dispatcher in tuple(self._ever_used):
            dispatcher.forget_in_child()
