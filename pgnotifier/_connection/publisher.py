"""Sending: `Notifier.notify()` and the connection that it keeps for that."""

import contextlib
import re
import threading
from typing import Any

import psycopg

from pgnotifier._connection.encoding import Encoding
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import encoding_of, is_quiet
from pgnotifier._payload.substitutes import Encoder
from pgnotifier._runtime.forking import renew_in_children
from pgnotifier.errors import (
    ChannelNameError,
    ConnectionFailedError,
    NotifyRefusedError,
    PayloadEncodingError,
    PayloadTooLargeError,
    PgNotifierError,
    in_one_line,
)
from pgnotifier.payload import encode

MAX_PAYLOAD_BYTES = 7999
"""What NOTIFY takes: https://www.postgresql.org/docs/current/sql-notify.html."""

_NOTIFY = "SELECT pg_catalog.pg_notify(%s, %s)"
_MOST_CANCELS = 10
_LACKING = (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire)
_BYTES = re.compile("0x([0-9a-f]{2})")


class Publisher:
    """Notifies on a connection of its own, made at the first call. Any thread may call it."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._lock = threading.RLock()
        self._is_sending = False
        self._connection: psycopg.Connection[Any] | None = None
        self._closing = False
        renew_in_children(self)

    def notify(self, channel: str, payload: Any, encoder: Encoder | None = None) -> None:
        """Send one notification, in a transaction of its own.

        Raises:
            PayloadEncodingError: No payload carries this value, or the database's encoding
                lacks one of its characters.
            PayloadTooLargeError: It has over 7,999 bytes in the database's encoding.
            ChannelNameError: The database's encoding lacks a character of the name.
            ConnectionFailedError: No connection could be made, or it was lost meanwhile.
            NotifyRefusedError: The server refused: its queue is full, say.
        """
        text = make_text(channel, payload, encoder)
        with self._lock:
            if not self._is_sending:
                self._is_sending = True
                try:
                    self._notify(channel, text)
                finally:
                    self._is_sending = False
                return
        # This thread is in the midst of that: a signal handler, a finalizer or `db_conf` notifies.
        another = Publisher(self._parameters)
        try:
            another._notify(channel, text)
        finally:
            another.close()

    def _notify(self, channel: str, text: str) -> None:
        self._closing = False
        try:
            connection = self._connected()
            try:
                _send(connection, channel, text)
            except psycopg.Error as exc:
                reason = in_one_line(exc)
                if isinstance(exc, _LACKING):
                    # It tells the bytes, in whatever language.
                    char = bytes.fromhex("".join(_BYTES.findall(reason))).decode("utf-8", "replace")
                    raise _lacks(connection, channel, text, char) from exc
                if isinstance(exc, psycopg.errors.InvalidParameterValue) and channel.isascii():
                    # In an encoding that Python doesn't know; such a channel isn't too long.
                    raise _too_large(channel, "too many bytes") from exc
                if not connection.closed:
                    raise NotifyRefusedError(
                        f"the server refused to notify {channel!r}: {reason}"
                    ) from exc
                raise ConnectionFailedError(
                    f"the connection was lost while notifying {channel!r}; whether it was sent "
                    f"is unknown: {reason}"
                ) from exc
        finally:
            if self._closing:
                self._close()

    def close(self) -> None:
        """Close the connection; a later `notify` makes a new one.

        A `notify` under way in another thread closes it at its own end: waiting for that
        could take as long as the server pleases.
        """
        self._closing = True
        if self._lock.acquire(blocking=False):
            try:
                if not self._is_sending:
                    self._close()
            finally:
                self._lock.release()

    def renew(self) -> None:
        """Have no connection, in a forked child: the parent's is the parent's."""
        self._lock = threading.RLock()
        self._is_sending = False
        self._connection = None

    def _connected(self) -> psycopg.Connection[Any]:
        # Found dead before sending, it can be replaced without a doubt about what was sent.
        known = self._connection
        if known is not None and (known.closed or not is_quiet(known)):
            self._close()
        if self._connection is None:
            self._connection = self._parameters.connect()
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def _send(connection: psycopg.Connection[Any], channel: str, text: str) -> None:
    odd = next((char for char in channel + text if not char.isascii()), None)
    if odd:
        encoding = encoding_of(connection)
        if encoding.name == "MULE_INTERNAL":  # which nothing is converted to
            raise _lacks(connection, channel, text, odd)
        check_size(channel, text, encoding)
    for left in reversed(range(_MOST_CANCELS)):
        try:
            connection.execute(_NOTIFY, (channel, text))
        except psycopg.errors.QueryCanceled:  # and so it wasn't sent
            if not left:
                raise
        else:
            return


def _lacks(
    connection: psycopg.Connection[Any], channel: str, text: str, char: str
) -> PgNotifierError:
    encoding = encoding_of(connection).name
    if char in channel and char not in text:
        return ChannelNameError(
            f"{channel!r}: the database's encoding, {encoding}, has no {char!r}"
        )
    return PayloadEncodingError(
        f"the payload for channel {channel!r} can't be sent: the database's encoding, {encoding}, "
        f"has no {char!r}"
    )


def make_text(channel: str, payload: Any, encoder: Encoder | None = None) -> str:
    """Return a payload as the text that NOTIFY sends; `check_size` has the last word on its size.

    Args:
        channel: Where to, for errors.
        payload: Any value that `encode` takes.
        encoder: As `encode` takes it.

    Raises:
        PayloadEncodingError: No payload carries the value.
        PayloadTooLargeError: It has over 7,999 bytes, whatever the encoding.
    """
    text = encode(payload, encoder)
    # In each encoding of PostgreSQL, a character takes a byte at least.
    if len(text) > MAX_PAYLOAD_BYTES:
        raise _too_large(channel, f"{len(text.encode())} bytes")
    return text


def check_size(channel: str, text: str, encoding: Encoding) -> None:
    """Check that a payload fits in the encoding of the database: the server counts those bytes.

    Args:
        channel: Where to, for errors.
        text: What `make_text` returned.
        encoding: That of the database.

    Raises:
        PayloadTooLargeError: It has over 7,999 bytes.
    """
    try:
        size = len(encoding.encode(text))
    except UnicodeEncodeError:  # the server says which character it lacks
        return
    if size > MAX_PAYLOAD_BYTES:
        where = "" if encoding.is_utf8 else f" in the database's encoding, {encoding.name}"
        raise _too_large(channel, f"{size} bytes{where}")


def _too_large(channel: str, size: str) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the payload for channel {channel!r} has {size}; NOTIFY takes {MAX_PAYLOAD_BYTES} at "
        "most. Store it, and send its key instead"
    )
