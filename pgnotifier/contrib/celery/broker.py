"""Keep the connection to the broker: open it when it is needed, close it when it fails."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kombu.exceptions import LimitExceeded, OperationalError, SerializationError

from pgnotifier.contrib._queues.recordings import not_captured
from pgnotifier.contrib._queues.redis_errors import is_wrong_type
from pgnotifier.contrib.celery.settings import check_urls

CONNECT_TIMEOUT = 4.0
"""Seconds to wait for a connection if the app's `broker_connection_timeout` is off."""
ANSWER_TIMEOUT = 30.0
"""Seconds to wait for the answer to a publish before the connection counts as dead."""


@dataclass(slots=True, eq=False)
class Lease:
    """A connected producer that has one user at a time.

    Attributes:
        producer: The producer.
        publisher: The publisher that its user made for it. It is dropped with the connection.
    """

    producer: Any
    publisher: Any = None


class Broker:
    """Keeps one connection, with its producer, between batches.

    It doesn't use the app's pool, because connections from there have no timeouts. Here `stop()`
    waits for a publish to end, and a notification counts as delivered only once the broker has
    acknowledged its task.

    The user of the connection takes it out of `_idle`. So `close` doesn't touch a connection in
    which a deliverer is blocked, and a listener that is started meanwhile opens its own.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._idle: Lease | None = None
        self._owner = 0  # the pid of the process that opened the connection
        self._closed = 0  # how many times `close` was called

    @contextlib.contextmanager
    def lease(self) -> Iterator[Lease]:
        """Yield a connected producer. The connection is dropped if the block raises.

        What the block publishes is never captured by an outbox.

        Raises:
            ConfigurationError: A URL in the app's configuration can't be parsed.
            Exception: None of the broker's hosts could be reached. The type depends on the
                transport.
        """
        closed = self._closed
        lease, self._idle = self._idle, None
        if lease is not None and self._owner != os.getpid():
            lease = None  # it belongs to the parent process
        if lease is not None and not _is_open(lease.producer):
            _drop(lease.producer)
            lease = None
        if lease is None:
            lease = Lease(self._connect())
        try:
            with not_captured():
                yield lease
        except BaseException:
            _drop(lease.producer)
            raise
        if self._closed == closed:
            self._idle, self._owner = lease, os.getpid()
        else:
            _drop(lease.producer)

    def is_reachable(self) -> bool:
        """Return whether a connection can be opened, by opening one."""
        try:
            _drop(self._connect())
        except Exception:  # noqa: BLE001 - a transport may raise anything
            return False
        return True

    def close(self) -> None:
        """Close the connection. If it is in use, it is closed once its user is done."""
        self._closed += 1
        lease, self._idle = self._idle, None
        if lease is not None and self._owner == os.getpid():
            _drop(lease.producer)

    def has_failed(self, exc: BaseException, producer: Any) -> bool:
        """Return whether an exception means that the broker, or the result backend, is down.

        Any other exception would be raised again by each retry.
        """
        failures: tuple[type[BaseException], ...] = (
            OperationalError,
            LimitExceeded,
            *self._connection_errors(producer),
        )
        seen: BaseException | None = exc
        while seen is not None and not isinstance(seen, SerializationError):
            # kombu wraps a KeyError, such as that of an unknown `task_compression`.
            if is_wrong_type(seen.__cause__ or seen) or isinstance(seen.__cause__, KeyError):
                return False
            if isinstance(seen, failures):
                return True
            # Celery's Redis backend raises a RuntimeError from the connection's error.
            seen = seen.__cause__
        return False

    def _connection_errors(self, producer: Any) -> set[type[BaseException]]:
        clients = [producer.connection]
        with contextlib.suppress(Exception):  # the backend may be misconfigured
            clients.append(self._app.backend)
        kinds = ("connection_errors", "channel_errors")
        found = {error for one in clients for kind in kinds for error in getattr(one, kind, ())}
        # The Redis transport lists KeyError, which only its event loop needs.
        return found - {KeyError}

    def _connect(self) -> Any:
        check_urls(self._app)
        connection = self._app.connection_for_write()
        connection.connect_timeout = connection.connect_timeout or CONNECT_TIMEOUT
        connection.heartbeat = 0  # nothing would send heartbeats between two batches
        defaults, required = _transport_options(connection)
        connection.transport_options = {**defaults, **connection.transport_options, **required}
        producer = self._app.amqp.Producer(connection, auto_declare=False)
        try:
            # Try each host once: the deliverer retries, and stops doing so when it is stopped.
            connection.ensure_connection(
                max_retries=max(0, len(connection.alt) - 1), interval_start=0
            )
        except BaseException:
            _drop(producer)
            raise
        return producer


def _is_open(producer: Any) -> bool:
    """Return whether the broker has left an idle connection open.

    The Redis client reconnects by itself. For other transports than AMQP this isn't known.
    """
    if producer.connection.get_transport_cls().driver_type != "amqp":
        return True
    try:
        while True:
            producer.connection.drain_events(timeout=0)
    except TimeoutError:
        return True
    except Exception:  # noqa: BLE001 - a transport may raise anything
        return False


def _drop(producer: Any) -> None:
    # Close the socket without closing the channel first: `stop()` would wait for the answer.
    with contextlib.suppress(Exception):
        producer.connection.collect()


def _transport_options(connection: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the transport options that the app can override, and those that it can't."""
    match connection.get_transport_cls().driver_type:
        case "redis":
            return {
                "socket_timeout": ANSWER_TIMEOUT,
                "socket_connect_timeout": connection.connect_timeout,
            }, {}
        case "amqp":
            timeouts = {"read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT}
            # The carrier waits for the confirms of many messages; this would wait for each one.
            return timeouts, {"confirm_publish": False}
        case _:
            return {}, {}
