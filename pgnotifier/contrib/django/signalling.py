"""SignalDispatcher: calls the receivers of channels in the process that listens."""

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from django.db import connections

from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.dispatch import Batch, Delivery, Dispatcher, Subscription
from pgnotifier.notifier import Notifier

if TYPE_CHECKING:
    from collections.abc import Sequence


class SignalDispatcher(Dispatcher):
    """Calls what `Channel.connect` has subscribed, one notification after the other.

    Database connections are treated as around a request: those past their `CONN_MAX_AGE`, or
    broken, are closed before and after.
    """

    starts_listener = False
    _shared: ClassVar[WeakKeyDictionary[Notifier, "SignalDispatcher"]] = WeakKeyDictionary()

    @classmethod
    def shared(cls, notifier: Notifier) -> "SignalDispatcher":
        """Return a notifier's own."""
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
        """Call the receivers for each delivery; report what they raise."""
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
        close_stale_connections()
        try:
            for error in delivery.binding.target(delivery.notification):
                delivery.report(error)
        except BaseException as exc:  # noqa: BLE001 - sys.exit() in a receiver included
            delivery.report(exc)
        finally:
            close_stale_connections()
