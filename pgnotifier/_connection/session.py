"""Drive one connection without blocking: send LISTEN, and read notifications and answers."""

import contextlib
import selectors
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.pq import PGnotify

from pgnotifier._connection.encoding import Encoding, find_encoding
from pgnotifier._connection.parameters import MAX_NAME_BYTES
from pgnotifier.errors import ListenRefusedError, in_one_line

READ_ONLY = b"25006"
CANCELED = b"57014"
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""

STANDBY = (
    "it is a hot standby, which can't LISTEN. Connect to the primary; or give all hosts, separated "
    "by commas, and target_session_attrs=read-write, which also finds it after a failover"
)


class ConnectionLostError(Exception):
    """The session has ended. Internal: the listener reacts by making a new one."""


class QueryCanceledError(ListenRefusedError):
    """A query was canceled. It can be sent again."""


class Session:
    """A connection that is driven without blocking. The reader thread owns it.

    It uses the libpq connection below psycopg's. `Connection.notifies()` would hold the
    connection's lock, and lose the rest of a batch when it is interrupted.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._pgconn.nonblocking = 1
        self.fd = self._pgconn.socket
        self.encoding = encoding_of(connection)
        self.notifies = self._pgconn.notifies if self.encoding.is_utf8 else self._notifies_recoded
        self.backend_pid = self._pgconn.backend_pid
        self.server_pid: int | None = None  # the true one, once queried: poolers make one up
        self.is_pooled = False
        self.identity: tuple[bytes | None, ...] = ()  # the server process's, once queried
        self.row: tuple[bytes | None, ...] = ()  # the first row of the last query
        self._refused: ListenRefusedError | None = None

    def _notifies_recoded(self) -> PGnotify | None:
        """Return the next notification, converted to UTF-8, or None."""
        arrived = self._pgconn.notifies()
        if arrived is None or (arrived.relname.isascii() and arrived.extra.isascii()):
            return arrived
        recode = self.encoding.to_utf8
        return PGnotify(recode(arrived.relname), arrived.be_pid, recode(arrived.extra))

    def probe(self) -> None:
        """Send a message that gets no answer, so that TCP notices when the server is gone."""
        with contextlib.suppress(psycopg.Error):  # a query may be under way
            self._pgconn.send_flush_request()
            self._pgconn.flush()

    def consume(self) -> None:
        """Read what has arrived, without waiting; `notifies()` then returns notifications.

        Raises:
            ConnectionLostError: The server is gone. Notifications that had arrived are kept.
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
        """Begin to send a query. It may contain several statements."""
        self._refused = None
        self.row = ()
        try:
            self._pgconn.send_query(query)
        except psycopg.Error as exc:
            raise ConnectionLostError(in_one_line(exc)) from exc

    def flush(self) -> bool:
        """Send more of the query; return whether some of it is left."""
        try:
            return bool(self._pgconn.flush())
        except psycopg.Error as exc:
            raise ConnectionLostError(in_one_line(exc)) from exc

    def answered(self) -> bool:
        """Return whether the query has finished.

        Raises:
            ListenRefusedError: A statement failed, so the whole query has failed.
            QueryCanceledError: The query was canceled.
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
                # FATAL and PANIC end the session. An error of libpq's own has no severity.
                if severity != b"ERROR":
                    raise ConnectionLostError(reason)
                # Raised later: the end of the query may not have arrived yet.
                self._refused = _refusal(result.error_field(pq.DiagnosticField.SQLSTATE), reason)
        return False

    def close(self) -> None:
        """End the session properly."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()


def is_quiet(connection: psycopg.Connection[Any]) -> bool:
    """Return whether an idle connection has nothing to read. A dead one has end-of-file to read."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)


def encoding_of(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Encoding:
    """Return the encoding of a connection's database."""
    return find_encoding(
        (connection.pgconn.parameter_status(b"server_encoding") or b"UTF8").decode()
    )


def listen_query(
    channels: Iterable[str], verb: str = "LISTEN", encoding: Encoding | None = None
) -> bytes:
    """Return one query with a LISTEN or UNLISTEN for each channel.

    10,000 channels take 0.2 s as one query, and ten times as long one by one.

    Args:
        channels: Their names.
        verb: LISTEN or UNLISTEN.
        encoding: The session's encoding. Default: UTF-8.

    Raises:
        ListenRefusedError: The encoding lacks a character of a name, or a name has over 63 bytes
            in it.
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
            f"character {name[exc.start]!r}"
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
    """Return a query that notifies. Unlike pg_notify(), NOTIFY needs no privilege."""
    return sql.SQL("NOTIFY {}, {}").format(sql.Identifier(channel), payload).as_bytes(None)
