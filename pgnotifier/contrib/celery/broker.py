"""The connection to the broker: made when it is needed, dropped when it fails."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kombu.exceptions import LimitExceeded, OperationalError, SerializationError

from pgnotifier.contrib.celery.settings import check_urls

CONNECT_TIMEOUT = 4.0
"""Seconds for making a connection, if the app's `broker_connection_timeout` is off."""
ANSWER_TIMEOUT = 30.0
"""Seconds after which a broker that doesn't answer a publish is taken for dead."""


@dataclass(slots=True, eq=False)
class Lease:
    """A producer that is connected, in nobody else's use, and what goes with it.

    Attributes:
        producer: The producer.
        publisher: What its user has made for it, which goes when the connection does.
    """

    producer: Any
    publisher: Any = None


class Broker:
    """Keeps one connection, with its producer, from batch to batch.

    Not the app's pool: connections of that may wait for ever, as those of workers must. Here
    `stop()` waits, and a notification counts as delivered only once the broker has said so.

    Who uses the connection takes it out of `_idle`. So `close` touches no connection that a
    deliverer is stuck in, and the deliverer of a listener started meanwhile makes its own.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._idle: Lease | None = None
        self._owner = 0  # the process that made it
        self._closed = 0  # how many times

    @contextlib.contextmanager
    def lease(self) -> Iterator[Lease]:
        """Lend a producer that is connected; an exception costs it its connection.

        Raises:
            ConfigurationError: A URL of the app's can't be parsed.
            Exception: None of the broker's hosts could be reached; of whatever type the
                transport raises.
        """
        closed = self._closed
        lease, self._idle = self._idle, None
        if lease is not None and self._owner != os.getpid():
            lease = None  # a parent's is not to be touched
        if lease is not None and not _is_open(lease.producer):
            _drop(lease.producer)
            lease = None
        if lease is None:
            lease = Lease(self._connect())
        try:
            yield lease
        except BaseException:
            _drop(lease.producer)
            raise
        if self._closed == closed:
            self._idle, self._owner = lease, os.getpid()
        else:
            _drop(lease.producer)

    def is_reachable(self) -> bool:
        """Tell whether a connection can be made, by making one."""
        try:
            _drop(self._connect())
        except Exception:  # noqa: BLE001 - of whatever type the transport raises
            return False
        return True

    def close(self) -> None:
        """Let go of the connection; of one that is lent out, when it comes back."""
        self._closed += 1
        lease, self._idle = self._idle, None
        if lease is not None and self._owner == os.getpid():
            _drop(lease.producer)

    def has_failed(self, exc: BaseException, producer: Any) -> bool:
        """Tell whether an exception means that the broker, or the result backend, is down.

        Anything else would come again with every try.
        """
        failures: tuple[type[BaseException], ...] = (
            OperationalError,
            LimitExceeded,
            *self._connection_errors(producer),
        )
        seen: BaseException | None = exc
        while seen is not None and not isinstance(seen, SerializationError):
            if is_wrong_type(seen.__cause__ or seen):
                return False
            if isinstance(seen, failures):
                return True
            # Celery's Redis backend gives up with a RuntimeError from the connection's error.
            seen = seen.__cause__
        return False

    def _connection_errors(self, producer: Any) -> set[type[BaseException]]:
        clients = [producer.connection]
        with contextlib.suppress(Exception):  # a backend that can't be made has none
            clients.append(self._app.backend)
        kinds = ("connection_errors", "channel_errors")
        found = {error for one in clients for kind in kinds for error in getattr(one, kind, ())}
        # The Redis transport counts any KeyError as one, for the sake of its event loop.
        return found - {KeyError}

    def _connect(self) -> Any:
        check_urls(self._app)
        connection = self._app.connection_for_write()
        connection.connect_timeout = connection.connect_timeout or CONNECT_TIMEOUT
        connection.heartbeat = 0  # nobody would send them while there is nothing to publish
        defaults, required = _transport_options(connection)
        connection.transport_options = {**defaults, **connection.transport_options, **required}
        producer = self._app.amqp.Producer(connection, auto_declare=False)
        try:
            # Each host once: the deliverer does the retrying, and stops when it is told to.
            connection.ensure_connection(
                max_retries=max(0, len(connection.alt) - 1), interval_start=0
            )
        except BaseException:
            _drop(producer)
            raise
        return producer


def is_wrong_type(exc: BaseException) -> bool:
    """Tell whether Redis refuses a queue for what its key holds: no further try can help."""
    return type(exc).__name__ == "ResponseError" and "WRONGTYPE" in str(exc)


def _is_open(producer: Any) -> bool:
    """Tell whether the broker has left a connection open that had nothing to do.

    Redis' client sees to that itself. Of other transports nothing is known in advance.
    """
    if producer.connection.get_transport_cls().driver_type != "amqp":
        return True
    try:
        while True:
            producer.connection.drain_events(timeout=0)
    except TimeoutError:
        return True
    except Exception:  # noqa: BLE001 - of whatever type the transport raises
        return False


def _drop(producer: Any) -> None:
    # Without a word to the broker, for whose answer `stop()` would have to wait.
    with contextlib.suppress(Exception):
        producer.connection.collect()


def _transport_options(connection: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what holds unless the app says otherwise, and what holds whatever it says."""
    match connection.get_transport_cls().driver_type:
        case "redis":
            return {
                "socket_timeout": ANSWER_TIMEOUT,
                "socket_connect_timeout": connection.connect_timeout,
            }, {}
        case "amqp":
            timeouts = {"read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT}
            # The carrier awaits confirms for many messages at once, this would for each.
            return timeouts, {"confirm_publish": False}
        case _:
            return {}, {}
