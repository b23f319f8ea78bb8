"""A session: LISTEN, NOTIFY and draining on one connection to PostgreSQL."""

import contextlib
import selectors
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.pq import PGnotify

from pgnotifier._connection.encoding import Encoding, find_encoding
from pgnotifier._connection.parameters import MAX_NAME_BYTES
from pgnotifier.errors import (
    ListenRefusedError,
    in_one_line,
)

READ_ONLY = b"25006"


CANCELED = b"57014"


"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""


STANDBY = (
    "it is a standby, which can't. Connect to the primary; or give all hosts, separated by commas, "
    "and target_session_attrs=read-write, which finds it after a failover, too"
)


class ConnectionLostError(Exception):
    """The session is over; internal, since the listener's answer is to make a new one."""


class QueryCanceledError(ListenRefusedError):
    """Somebody has canceled a query, which can be sent again."""


class Session:
    """A connection driven without blocking; owned by the reader thread.

    It works on the libpq connection below psycopg's: `Connection.notifies()` would hold
    the connection's lock, and lose the rest of a batch when it is interrupted.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._pgconn.nonblocking = 1
        self.fd = self._pgconn.socket
        self.encoding = encoding_of(connection)
        self.notifies = self._pgconn.notifies if self.encoding.is_utf8 else self._notifies_recoded
        self.backend_pid = self._pgconn.backend_pid
        self.is_pooled = False
        self.identity: tuple[bytes | None, ...] = ()  # of the server process, once asked for
        self.row: tuple[bytes | None, ...] = ()  # the first of the last query
        self._refused: ListenRefusedError | None = None

    def _notifies_recoded(self) -> PGnotify | None:
        """Return the next notification in UTF-8, as everything behind expects it, or None."""
        arrived = self._pgconn.notifies()
        if arrived is None or (arrived.relname.isascii() and arrived.extra.isascii()):
            return arrived
        recode = self.encoding.to_utf8
        return PGnotify(recode(arrived.relname), arrived.be_pid, recode(arrived.extra))

    def probe(self) -> None:
        """Send what the server need not answer: if it is gone, the network will say so."""
        with contextlib.suppress(psycopg.Error):  # a query may be under way
            self._pgconn.send_flush_request()
            self._pgconn.flush()

    def consume(self) -> None:
        """Read what has arrived, without waiting; notifications then come from `notifies()`.

        Raises:
            ConnectionLostError: The server is gone. What had arrived is kept.
        """
        try:
            self._pgconn.consume_input()
        except psycopg.Error as exc:
            raise ConnectionLostError(in_one_line(exc)) from exc
        if self._pgconn.status == pq.ConnStatus.BAD:
            raise ConnectionLostError(
                in_one_line(self._pgconn.get_error_message(self.encoding.codec))
            )

    def send(self, query: bytes) -> None:
        """Begin to send a query, which may hold several statements."""
        self._refused = None
        self.row = ()
        try:
            self._pgconn.send_query(query)
        except psycopg.Error as exc:
            raise ConnectionLostError(in_one_line(exc)) from exc

    def flush(self) -> bool:
        """Send more of the query; return whether some is still left."""
        try:
            return bool(self._pgconn.flush())
        except psycopg.Error as exc:
            raise ConnectionLostError(in_one_line(exc)) from exc

    def answered(self) -> bool:
        """Return whether the query is over; errors of its statements are raised here.

        Raises:
            ListenRefusedError: A statement failed, and with it the whole query.
            QueryCanceledError: It was canceled.
            ConnectionLostError: The server ended the session instead of answering.
        """
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                if self._refused:
                    raise self._refused
                return True
            if result.status == pq.ExecStatus.TUPLES_OK and result.ntuples:
                self.row = tuple(result.get_value(0, at) for at in range(result.nfields))
            if result.status == pq.ExecStatus.FATAL_ERROR:
                reason = in_one_line(result.get_error_message(self.encoding.codec))
                severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
                if severity != b"ERROR":  # FATAL and PANIC end the session; libpq's own has none
                    raise ConnectionLostError(reason)
                # Kept for the next call: the end of the query may not be here yet.
                self._refused = _refusal(result.error_field(pq.DiagnosticField.SQLSTATE), reason)
        return False

    def close(self) -> None:
        """End the session, telling the server."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()


def is_quiet(connection: psycopg.Connection[Any]) -> bool:
    """Return whether an idle connection has nothing to read: a dead one has, its end-of-file."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)


def encoding_of(connection: psycopg.Connection[Any]) -> Encoding:
    """Return the encoding of the database that a connection leads to."""
    return find_encoding(
        (connection.pgconn.parameter_status(b"server_encoding") or b"UTF8").decode()
    )


def listen_query(
    channels: Iterable[str], verb: str = "LISTEN", encoding: Encoding | None = None
) -> bytes:
    """Return one query that listens to all the channels, or that no longer does (UNLISTEN).

    Ten thousand names take 0.2 s as one query, ten times that one by one.

    Args:
        channels: Their names.
        verb: What to do.
        encoding: That of the session, UTF-8 if it isn't given.

    Raises:
        ListenRefusedError: The encoding lacks a character of a name, or it takes over 63 bytes.
    """
    if encoding is None or encoding.is_utf8:
        return ";".join(f"{verb} {_quote(name)}" for name in channels).encode()
    return b";".join(_encode_command(verb, name, encoding) for name in channels)


def _quote(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _encode_command(verb: str, name: str, encoding: Encoding) -> bytes:
    try:
        size = len(encoding.encode(name))
    except UnicodeEncodeError as exc:
        raise ListenRefusedError(
            f"can't {verb} to channel {name!r}: the database's encoding, {encoding.name}, has no "
            f"{name[exc.start]!r}"
        ) from None
    if size > MAX_NAME_BYTES:
        raise ListenRefusedError(
            f"can't {verb} to channel {name!r}: in the database's encoding, {encoding.name}, it "
            f"has {size} bytes; PostgreSQL takes {MAX_NAME_BYTES} at most"
        )
    return encoding.encode(f"{verb} {_quote(name)}")


def _refusal(sqlstate: bytes | None, reason: str) -> ListenRefusedError:
    if sqlstate == CANCELED:
        return QueryCanceledError(f"a query was canceled: {reason}")
    if sqlstate == READ_ONLY:
        reason = f"{STANDBY} ({reason})"
    return ListenRefusedError(f"the server refused LISTEN: {reason}")


def notify_query(channel: str, payload: str) -> bytes:
    """Return a query that notifies. No right can be missing, as one to call pg_notify() can."""
    return sql.SQL("NOTIFY {}, {}").format(sql.Identifier(channel), payload).as_bytes(None)
