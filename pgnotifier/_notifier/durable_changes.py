"""Changes of durable subscriptions: in their registry first, then in the log."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable.translating import translate
from pgnotifier._listener.commands import Verb
from pgnotifier._log.positions import Start, forget, seek
from pgnotifier._notifier.changes import Changes
from pgnotifier._notifier.lifecycle import Lifecycle
from pgnotifier._registry.checks import check_unreserved
from pgnotifier._registry.writer import Registrar
from pgnotifier._runtime.sync import Outcome
from pgnotifier.dispatch import Subscription
from pgnotifier.durability import Durability

T = TypeVar("T")


class DurableChanges(Changes):
    """Makes changes of durable subscriptions, which have a registry of their own.

    The listener never sees that registry: it would listen to their channels.
    """

    def _choose_registrar(self, lifecycle: Lifecycle) -> Registrar:
        return lifecycle.durable_registrar

    def subscribe(self, given: Subscription, autorun: bool) -> None:
        """Add or replace a subscription. Only a relay may read an outbox.

        Raises:
            ChannelNameError: The channel is an outbox, and the dispatcher isn't a relay.
        """
        if not given.dispatcher.is_relay:
            check_unreserved(given.channel)
        super().subscribe(given, autorun)

    def get_durability(self, id: Hashable, channel: str) -> Durability | None:
        """Return the options of a subscription; None if there is none."""
        binding = self._registrar.registry.binding(id, channel)
        return None if binding is None else binding.subscription.durability

    def unsubscribe(self, id: Hashable, channel: str, autorun: bool) -> None:
        """Remove a subscription; its position stays."""
        super().unsubscribe(id, channel, autorun)
        self._look()

    def mute_channels(self, names: list[str] | None, *, muted: bool) -> None:
        """Mute or unmute channels; None stands for all."""
        super().mute_channels(names, muted=muted)
        self._look()

    def mute_subscriber(self, id: Hashable, names: list[str] | None, *, muted: bool) -> None:
        """Mute or unmute an id on channels; None stands for all."""
        super().mute_subscriber(id, names, muted=muted)
        self._look()

    def seek(self, id: str, channel: str, to: Start) -> bool:
        """Move a position, and wake whoever reads from it; return False if there is none."""
        return self._execute(lambda connection: seek(connection, id, channel, to))

    def forget(self, id: str, channel: str) -> bool:
        """Delete a position, and what has failed; return False if there is none."""
        return self._execute(lambda connection: forget(connection, id, channel))

    def _execute(self, step: Callable[[psycopg.Connection[Any]], bool]) -> bool:
        """Do something in the log, on a connection of its own."""
        return in_log(self._lifecycle.parameters, step)

    def _request(self, verb: Verb, names: list[str], autorun: bool) -> Outcome | None:
        """Have sources look at these channels, if the notifier runs."""
        sources = self._lifecycle.sources
        if not autorun or sources is None or self._lifecycle.running is None:
            return None
        sources.look()
        return sources.request(names) if verb == "listen" else None

    def _look(self) -> None:
        if self._lifecycle.sources is not None:
            self._lifecycle.sources.look()


def in_log(parameters: Parameters, step: Callable[[psycopg.Connection[Any]], T]) -> T:
    """Return what a step in the log returns, on a connection of its own.

    Raises:
        ConnectionFailedError: No connection could be made, or it was lost.
        LogNotInstalledError: The database has no durable log.
        LogRefusedError: This role may not do so.
    """
    connection = parameters.connect()
    try:
        return step(connection)
    except psycopg.Error as exc:
        raise translate(exc, parameters) from exc
    finally:
        connection.close()
