"""Measure how many messages wait in an app's queues, for `pgnotifier top`."""

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from kombu.exceptions import ChannelError

from pgnotifier.dispatch import Dispatcher

TIMEOUT = 2.0
"""Seconds to wait for the broker."""
_OPTIONS: Mapping[str, Mapping[str, float]] = {
    "redis": {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT},
    "amqp": {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT},
}
"""Transports that can say how long a queue is, cheaply; and their timeouts."""


class CeleryQueues:
    """Asks an app's broker for the lengths of queues, on a connection that it keeps.

    For one thread at a time.
    """

    kind = "Celery"
    dispatchers = frozenset({"CeleryDispatcher"})

    def __init__(self, app: Any) -> None:
        """Take a Celery app; the first question connects."""
        self._app = app
        self._connection: Any = None

    def measure(self, names: Collection[str]) -> Mapping[str, int | None]:
        """Return the lengths of queues; None for one that doesn't exist, or isn't known.

        Declares queues passively, which changes nothing:
        https://www.rabbitmq.com/amqp-0-9-1-reference#queue.declare.passive

        Raises:
            Exception: The broker doesn't answer; transports have errors of their own.
        """
        if self._connection is None:
            self._connection = self._connect()
        kind = self._connection.get_transport_cls().driver_type
        if kind not in _OPTIONS:
            return dict.fromkeys(names)
        # Redis has no empty list: a queue that isn't there is an empty one.
        missing = 0 if kind == "redis" else None
        try:
            return {name: self._measure(name, missing) for name in names}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collect()  # without waiting for an answer

    def _measure(self, name: str, missing: int | None) -> int | None:
        try:
            return int(self._connection.default_channel.queue_declare(name, passive=True)[1])
        except (ChannelError, *self._connection.channel_errors):
            return missing  # with AMQP, this has closed the channel; the next use makes another

    def _connect(self) -> Any:
        plain = self._app.connection_for_read()
        timeouts = _OPTIONS.get(plain.get_transport_cls().driver_type, {})
        options = {**timeouts, **(plain.transport_options or {})}
        return self._app.connection_for_read(connect_timeout=TIMEOUT, transport_options=options)


def find_queues(app: Any, dispatchers: Collection[Dispatcher]) -> list[CeleryQueues]:
    """Return objects that ask the brokers of apps.

    Args:
        app: The app that the command line names, or None.
        dispatchers: Dispatchers. They may have other apps.
    """
    found = [app, *(getattr(one, "app", None) for one in dispatchers)]
    apps = {id(one): one for one in found if one is not None}
    return [CeleryQueues(one) for one in apps.values()]
