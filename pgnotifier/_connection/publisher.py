"""Send notifications for `Notifier.notify()`, on a connection that is kept for that."""

import contextlib
import re
import threading
from typing import Any

import psycopg

from pgnotifier._connection.encoding import Encoding
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import encoding_of, is_quiet
from pgnotifier._payload.plain import Encoder
from pgnotifier._runtime.process import renew_in_children
from pgnotifier._runtime.timing import timed
from pgnotifier.errors import (
    ChannelNameError,
    ConnectionFailedError,
    NotifyRefusedError,
    PayloadEncodingError,
    PayloadTooLargeError,
    PgNotifierError,
    in_one_line,
)
from pgnotifier.payload import MAX_PAYLOAD_BYTES, encode

_NOTIFY = "SELECT pg_catalog.pg_notify(%s, %s)"
_MOST_CANCELS = 10
_ENCODING_ERRORS = (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire)
_BYTES = re.compile("0x([0-9a-f]{2})")


class Publisher:
    """Sends notifications on its own connection, made at the first call. Thread-safe."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._closing = False
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Start without a connection, as in a forked child: the parent keeps its own."""
        self._lock = threading.RLock()
        self._is_sending = False
        self._connection: psycopg.Connection[Any] | None = None

    def notify(self, channel: str, payload: Any, encoder: Encoder | None = None) -> None:
        """Send one notification in its own transaction.

        Raises:
            PayloadEncodingError: The value can't be sent as a payload, or the database's encoding
                lacks one of its characters.
            PayloadTooLargeError: It has over 7,999 bytes in the database's encoding.
            ChannelNameError: The database's encoding lacks a character of the name.
            ConnectionFailedError: Connecting failed, or the connection was lost meanwhile.
            NotifyRefusedError: The server refused it, for example because its queue is full.
        """
        text = make_text(channel, payload, encoder)
        with self._lock:
            if not self._is_sending:
                self._is_sending = True
                try:
                    with timed("notify"):
                        self._notify(channel, text)
                finally:
                    self._is_sending = False
                return
        # This thread is already inside this method: a signal handler, a finalizer or `db_conf`
        # has called it again.
        with contextlib.closing(Publisher(self._parameters)) as another:
            another.notify(channel, payload, encoder)

    def _notify(self, channel: str, text: str) -> None:
        self._closing = False
        try:
            connection = self._connected()
            try:
                _send(connection, channel, text)
            except psycopg.Error as exc:
                reason = in_one_line(exc)
                if isinstance(exc, _ENCODING_ERRORS):
                    # The message contains the bytes in hexadecimal, whatever its language is.
                    char = bytes.fromhex("".join(_BYTES.findall(reason))).decode("utf-8", "replace")
                    raise _missing_character(connection, channel, text, char) from exc
                if isinstance(exc, psycopg.errors.InvalidParameterValue) and channel.isascii():
                    # `check_size` can't measure in an encoding that Python doesn't know. The
                    # channel's name is ASCII and was checked, so the payload must be too long.
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

        If another thread is inside `notify`, it closes the connection when it is done. Waiting
        for that here could take as long as the server takes to answer.
        """
        self._closing = True
        if self._lock.acquire(blocking=False):
            try:
                if not self._is_sending:
                    self._close()
            finally:
                self._lock.release()

    def _connected(self) -> psycopg.Connection[Any]:
        # A connection that is found dead before sending can be replaced: nothing was sent on it.
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
        if encoding.name == "MULE_INTERNAL":  # PostgreSQL can't convert UTF-8 to it
            raise _missing_character(connection, channel, text, odd)
        check_size(channel, text, encoding)
    for left in reversed(range(_MOST_CANCELS)):
        try:
            connection.execute(_NOTIFY, (channel, text))
        except psycopg.errors.QueryCanceled:  # so it wasn't sent
            if not left:
                raise
        else:
            return


def _missing_character(
    connection: psycopg.Connection[Any], channel: str, text: str, char: str
) -> PgNotifierError:
    encoding = encoding_of(connection).name
    if char in channel and char not in text:
        return ChannelNameError(
            f"can't notify channel {channel!r}: the database's encoding, {encoding}, has no "
            f"character {char!r}"
        )
    return PayloadEncodingError(
        f"the payload for channel {channel!r} can't be sent: the database's encoding, {encoding}, "
        f"has no character {char!r}"
    )


def make_text(channel: str, payload: Any, encoder: Encoder | None = None) -> str:
    """Return a payload as the text for NOTIFY. Check its size with `check_size` as well.

    Args:
        channel: The channel, for errors.
        payload: Any value that `encode` takes.
        encoder: As for `encode`.

    Raises:
        PayloadEncodingError: The value can't be sent as a payload.
        PayloadTooLargeError: It has over 7,999 bytes in any encoding.
    """
    text = encode(payload, encoder)
    # In every encoding of PostgreSQL, a character takes at least one byte.
    if len(text) > MAX_PAYLOAD_BYTES:
        raise _too_large(channel, f"{len(text.encode())} bytes")
    return text


def check_size(channel: str, text: str, encoding: Encoding) -> None:
    """Check that a payload fits in the database's encoding: the server counts those bytes.

    Args:
        channel: The channel, for errors.
        text: What `make_text` returned.
        encoding: The database's encoding.

    Raises:
        PayloadTooLargeError: It has over 7,999 bytes.
    """
    try:
        size = len(encoding.encode(text))
    except UnicodeEncodeError:  # the server will report the character
        return
    if size > MAX_PAYLOAD_BYTES:
        where = "" if encoding.is_utf8 else f" in the database's encoding, {encoding.name}"
        raise _too_large(channel, f"{size} bytes{where}")


def _too_large(channel: str, size: str) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the payload for channel {channel!r} has {size}; NOTIFY takes {MAX_PAYLOAD_BYTES} at "
        "most. Store it in a table, and send its key instead"
    )
