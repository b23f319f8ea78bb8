"""Provide `SignalDispatcher`, which calls the receivers of channels in the listening process."""

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from django.db import connections

from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.current import called_for
from pgnotifier.dispatch import Batch, Delivery, Dispatcher, Subscription
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.notification import Entry, Notification
from pgnotifier.notifier import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class SignalDispatcher(Dispatcher):
    """Calls the receivers of `Channel.connect`, one notification after the other.

    Database connections are treated as in a request: those that are broken or older than
    `CONN_MAX_AGE` are closed before and after each notification.
    """

    starts_listener = False
    # Small, for the same reason as for `InlineDispatcher`.
    batch_size = InlineDispatcher.batch_size
    _shared: ClassVar[WeakKeyDictionary[Notifier, "SignalDispatcher"]] = WeakKeyDictionary()

    @classmethod
    def shared(cls, notifier: Notifier) -> "SignalDispatcher":
        """Return the dispatcher of a notifier; the first call makes it."""
        found = cls._shared.get(notifier)
        if found is None:
            found = cls._shared[notifier] = cls()
        return found

    def __init__(self) -> None:
        self._opened: Sequence[Any] = ()

    def bind(self, subscription: Subscription) -> Any:
        """Return the channel's method that calls its receivers."""
        return subscription.fn

    def dispatch(self, batch: Batch) -> None:
        """Call the receivers for each delivery; report the exceptions that they raise."""
        # Once for the whole batch: after that, nothing happens between two notifications, and
        # looking for connections costs more than calling a receiver.
        close_stale_connections()
        for delivery in batch.one_by_one():
            self._deliver(delivery)
        self._opened = connections.all(initialized_only=True)

    def close(self) -> None:
        """Close the database connections of the deliverer's thread, which has ended."""
        for connection in self._opened:
            connection.inc_thread_sharing()
            with contextlib.suppress(Exception):
                connection.close()
            connection.dec_thread_sharing()
        self._opened = ()

    def _deliver(self, delivery: Delivery) -> None:
        try:
            for error in _call(delivery.binding.target, delivery.notification):
                delivery.report(error)
        except BaseException as exc:  # noqa: BLE001 - sys.exit() in a receiver included
            delivery.report(exc)
        finally:
            close_stale_connections()


def _call(
    target: "Callable[[Notification], Iterable[Exception]]", arrived: Notification
) -> "Iterable[Exception]":
    if not isinstance(arrived, Entry):
        return target(arrived)
    with called_for(arrived):
        return target(arrived)
