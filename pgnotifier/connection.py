"""The connection to PostgreSQL: parameters, connecting, LISTEN, draining."""

import contextlib
import difflib
import os
import random
import re
import selectors
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg
from psycopg import conninfo as libpq
from psycopg import pq, sql
from psycopg.pq import PGnotify

from pgnotifier.encoding import Encoding, find_encoding
from pgnotifier.errors import (
    ArgumentTypeError,
    ConfigurationError,
    ConnectionFailedError,
    ListenRefusedError,
    PgNotifierError,
    in_one_line,
)
from pgnotifier.redaction import redact
from pgnotifier.setup import options_without_timeouts, set_up

MAX_NAME_BYTES = 63
"""https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS"""

CONNECT_TIMEOUT = 10
"""Seconds that each host of a connection string gets, unless `connect_timeout` says else."""

KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""What has the kernel find a dead connection within 20 seconds, unless told otherwise.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES"""

READ_ONLY = b"25006"
CANCELED = b"57014"
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""
STANDBY = (
    "it is a standby, which can't. Connect to the primary; or give all hosts, separated by commas, "
    "and target_session_attrs=read-write, which finds it after a failover, too"
)

_SHUFFLE: Mapping[str, Any] = {"load_balance_hosts": "random"}  # since libpq 16
_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "service")
_SECRET = ("password", "sslpassword")
_OPTIONS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


Supply = Callable[[], Mapping[str, Any] | str]
"""Returns what to connect with."""


class ConnectionLostError(Exception):
    """The session is over; internal, since the listener's answer is to make a new one."""


class QueryCanceledError(ListenRefusedError):
    """Somebody has canceled a query, which can be sent again."""


class Parameters:
    """Validated connection parameters, whose repr and errors never show a password."""

    __slots__ = ("_known", "conninfo")

    def __init__(self, db_conf: Mapping[str, Any] | str) -> None:
        """Take a dict of libpq parameters, a conninfo string, or a URI.

        Raises:
            ArgumentTypeError: It is none of these.
            ConfigurationError: It names a parameter that libpq doesn't know, or can't be parsed.
        """
        if isinstance(db_conf, str):
            given = _parse(db_conf)
        elif isinstance(db_conf, Mapping):
            given = {str(name): value for name, value in db_conf.items() if value is not None}
        else:
            raise ArgumentTypeError(
                "db_conf is a dict of libpq parameters, a conninfo string or a URI, or a callable "
                f"that returns one, not {type(db_conf).__name__}"
            )
        for name in given:
            if name not in _OPTIONS:
                raise ConfigurationError(_unknown(name))
        self._known = {"fallback_application_name": "pgnotifier", **given}
        # What is sent and read is UTF-8, whatever PGCLIENTENCODING says. A listener goes over to
        # the database's encoding, if that is another one.
        self._known["client_encoding"] = "UTF8"
        if "connect_timeout" not in given and "PGCONNECT_TIMEOUT" not in os.environ:
            self._known["connect_timeout"] = CONNECT_TIMEOUT
        if "service" not in given and "PGSERVICE" not in os.environ:  # it may set them itself
            self._known = {**KEEPALIVE, **self._known}
        _check_values(given)
        self.conninfo = libpq.make_conninfo("", **self._known)

    def __repr__(self) -> str:
        return " ".join(f"{name}={self._known[name]}" for name in _SHOWN if name in self._known)

    def check(self) -> None:
        """Check that there is something to connect to.

        Raises:
            ConfigurationError: There isn't.
        """

    def connect(self, *, shuffle: bool = False) -> psycopg.Connection[Any]:
        """Make a connection, in autocommit mode, that has what a session of ours needs.

        Args:
            shuffle: Whether to try hosts and addresses in a random order, unless told how:
                the first one may hang.

        Raises:
            ConnectionFailedError: With the reason: unreachable server, wrong password, a database
                that doesn't exist, a server that refuses what a session needs.
            ConfigurationError: A parameter has a value that libpq refuses.
        """
        shuffled = shuffle and _SHUFFLE.keys() <= _OPTIONS - self._known.keys()
        settings = dict(_SHUFFLE) if shuffled else {}
        try:
            return self._open(settings)
        except (psycopg.Error, OSError) as exc:  # OSError: no descriptor left
            shown = redact(exc, *self._find_secrets())
            reason = in_one_line(shown)
            if _is_refused_by_client(exc) or _REFUSED_VALUE.match(reason):
                raise ConfigurationError(
                    f"the connection parameters ({self!r}): {reason}"
                ) from None
            text = f"can't connect to PostgreSQL ({self!r}): {reason}"
            # A traceback prints the cause as well, so it has to go, too, if it shows a secret.
            raise ConnectionFailedError(text) from (exc if shown == str(exc) else None)

    def _find_secrets(self) -> list[str]:
        # One that is the user's name, say, is nothing that hiding it here would protect.
        shown = [str(value) for name, value in self._known.items() if name in _SHOWN]
        found = (str(self._known.get(name) or "") for name in _SECRET)
        return [one for one in found if one not in shown]

    def _open(self, settings: dict[str, Any]) -> psycopg.Connection[Any]:
        connection = self._connect(settings)
        version = connection.info.server_version
        try:
            _set_up_or_close(connection)
        except psycopg.Error:
            # Its role or database may have a timeout that leaves no time for that.
            options = options_without_timeouts(self._known.get("options"), version)
            connection = self._connect({**settings, "options": options})
            _set_up_or_close(connection)
        return connection

    def _connect(self, settings: dict[str, Any]) -> psycopg.Connection[Any]:
        # Prepared statements would fail behind a pooler that shares sessions.
        settings = {"autocommit": True, "prepare_threshold": None, **settings}
        try:
            return psycopg.connect(self.conninfo, **settings)
        except psycopg.OperationalError as exc:
            if "MULE_INTERNAL" not in str(exc):  # which can't be converted to UTF-8
                raise
            return psycopg.connect(self.conninfo, client_encoding="SQL_ASCII", **settings)


def _set_up_or_close(connection: psycopg.Connection[Any]) -> None:
    try:
        set_up(connection)
    except psycopg.errors.InsufficientPrivilege:
        pass  # no right to look at settings: some work as they are
    except psycopg.Error:
        connection.close()
        raise


def _is_refused_by_client(exc: Exception) -> bool:
    """Return whether psycopg or libpq refuses the parameters, and no server has said so."""
    return isinstance(exc, psycopg.ProgrammingError) and exc.sqlstate is None


class SuppliedParameters(Parameters):
    """Parameters that a callable returns, at each connect anew: credentials that rotate, say."""

    __slots__ = ("_supply",)

    def __init__(self, supply: Supply) -> None:
        """Take the callable; it isn't called yet."""
        self._supply = supply
        self._known = {}

    def __repr__(self) -> str:
        return super().__repr__() or f"as {getattr(self._supply, '__qualname__', 'db_conf')}() says"

    def connect(self, *, shuffle: bool = False) -> psycopg.Connection[Any]:
        """Call it, and make a connection.

        Raises:
            ConnectionFailedError: It raised, or as for `Parameters`.
            PgNotifierError: It returned what `Parameters` don't take.
        """
        try:
            supplied = self._supply()
        except PgNotifierError:
            raise
        except Exception as exc:
            raise ConnectionFailedError(
                f"nothing to connect to PostgreSQL with: db_conf() raised {type(exc).__name__}"
            ) from exc
        parameters = Parameters(supplied)
        self._known = parameters._known  # noqa: SLF001 - of the same class, for the repr
        return parameters.connect(shuffle=shuffle)


class MissingParameters(Parameters):
    """No parameters: an error where a connection is needed, and no earlier."""

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        """Take what the error says."""
        self._why = why
        self._known = {}

    def __repr__(self) -> str:
        return "nothing to connect to"

    def check(self) -> None:
        """Raise.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(self._why)

    def connect(self, *, shuffle: bool = False) -> psycopg.Connection[Any]:  # noqa: ARG002
        """Raise.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(self._why)


NOTHING = (
    "db_conf is None, so there is nothing to connect to; give a connection string, "
    "'postgresql://localhost/shop', say, or a dict of parameters"
)


def make_parameters(db_conf: "Mapping[str, Any] | str | Supply | Parameters | None") -> Parameters:
    """Return the parameters that a user has given, or a callable for them.

    None is an error where a connection is needed, as for a variable of the environment that only
    the listening process has.
    """
    if isinstance(db_conf, Parameters):
        return db_conf
    if db_conf is None:
        return MissingParameters(NOTHING)
    return SuppliedParameters(db_conf) if callable(db_conf) else Parameters(db_conf)


def _parse(conninfo: str) -> dict[str, Any]:
    try:
        if not _MISREAD_URI.match(conninfo):
            return libpq.conninfo_to_dict(conninfo)
    except psycopg.Error as exc:
        # libpq quotes the place where parsing failed, which may be in the password.
        for name in _unknown_names(str(exc)):
            raise ConfigurationError(_unknown(name)) from None
    except UnicodeEncodeError:
        pass
    raise ConfigurationError(
        "the connection string can't be parsed: it is neither 'name=value …' with values "
        "that hold spaces in single quotes, nor a postgresql:// URI with special "
        "characters percent-encoded"
    ) from None


# libpq itself says so before it goes anywhere: https://www.postgresql.org/docs/current/libpq-connect.html
_REFUSED_VALUE = re.compile(
    r'connection is bad: (?:.* failed: )?invalid ["\w ]*(?:value|port number)|could not match'
)
# libpq takes what follows an unencoded @ or / of a password for the host or the database, and
# shows it in its messages: https://www.postgresql.org/docs/current/libpq-connect.html.
_MISREAD_URI = re.compile(r"postgres(?:ql)?://(?:[^/?]*@[^?]*@|[^/?@]*/[^?]*@)")


def _check_values(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        # libpq would cut it at the NUL.
        if "\0" in (text := str(value)) or any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigurationError(f"the value of {name!r} holds NUL or a lone surrogate")
    if re.match(r"postgres(?:ql)?://|\w+\s*=", str(given.get("dbname", ""))):
        raise ConfigurationError(
            "'dbname' holds a whole connection string; give that as db_conf itself"
        )
    ports = str(given.get("port", "")).split(",")
    if not all(port.strip().isdecimal() or not port.strip() for port in ports):
        # Not its value: in a URI without the @ and the host, it is the password.
        raise ConfigurationError("'port' must be a number, or several with commas between them")
    # A path may hold one, and an abstract socket's name begins with one.
    if re.search(r"(?:^|,)[^/@,][^,]*@", str(given.get("host", ""))):
        raise ConfigurationError(
            "'host' must be a name or an address; the user and the password, which end at the "
            "last @, are parameters of their own"
        )


def _unknown_names(message: str) -> Iterable[str]:
    if "invalid connection option" in message or "invalid URI query parameter" in message:
        yield message.split('"')[1]


def _unknown(name: str) -> str:
    aliases = {"database": "dbname", "db": "dbname", "username": "user", "passwd": "password"}
    near = aliases.get(name) or next(iter(difflib.get_close_matches(name, _OPTIONS, 1)), None)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"{name!r} is not a connection parameter of libpq{hint}"


class _ConnectingThread(threading.Thread):
    """A thread that makes a connection with these parameters, and on which `db_conf` is called."""

    def __init__(self, target: Callable[[], None], parameters: Parameters) -> None:
        super().__init__(target=target, name="pgnotifier-connect", daemon=True)
        self.parameters = parameters


def is_connecting_here(parameters: Parameters) -> bool:
    """Return whether the calling code is a `db_conf` that a listener's connection waits for."""
    thread = threading.current_thread()
    return isinstance(thread, _ConnectingThread) and thread.parameters is parameters


class Connecting:
    """A connection under way on a thread of its own.

    Looking a host up, and reaching one that doesn't answer, block for as long as they
    please; the reader goes on listening to `stop()` meanwhile, and walks away if need be.
    """

    def __init__(
        self,
        parameters: Parameters,
        wake: Callable[[], None],
        statement: bytes = b"",
        *,
        shuffle: bool = False,
    ) -> None:
        """Begin to connect.

        Args:
            parameters: Where to.
            wake: Called when it is done.
            statement: What to execute then, before it is done. Its first row is kept.
            shuffle: Whether to try hosts in a random order.
        """
        self._parameters = parameters
        self._wake = wake
        self._statement = statement
        self._shuffle = shuffle
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._error: Exception | None = None
        self._abandoned = False
        self.done = False
        self.row: tuple[Any, ...] = ()
        try:
            _ConnectingThread(self._run, parameters).start()
        except RuntimeError:
            # None to be had: too many, or Python 3.12.0/1 once the main program has ended.
            self._run()

    def _run(self) -> None:
        try:
            connection = self._parameters.connect(shuffle=self._shuffle)
        except Exception as exc:  # noqa: BLE001 - handed to the reader, whatever it is
            self._error = exc
        else:
            with self._lock:
                self._connection = connection
                abandoned = self._abandoned
            if abandoned:
                connection.close()
            else:
                self._prepare(connection)
        self.done = True
        self._wake()

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        try:
            encoding = encoding_of(connection)
            if encoding.client != "UTF8":  # of which nothing is converted
                connection.execute(f"SET client_encoding TO {encoding.client}".encode())
            if self._statement:
                cursor = connection.execute(self._statement)
                self.row = (cursor.fetchone() if cursor.description else None) or ()
        except psycopg.Error as exc:
            self._error = ConnectionFailedError(
                f"lost the connection to PostgreSQL ({self._parameters!r}) at once: "
                f"{in_one_line(exc)}"
            )
            connection.close()

    @property
    def has_failed(self) -> bool:
        """Whether there is no connection, or its statement failed. To be asked once done."""
        return self._error is not None

    @property
    def is_quiet(self) -> bool:
        """Whether there is a connection, and nothing to be read on it. To be asked once done."""
        return not self.has_failed and self._connection is not None and is_quiet(self._connection)

    def result(self) -> "Session":
        """Return the session, or raise why there is none. To be called once done."""
        if self._error is not None:
            raise self._error
        assert self._connection is not None
        return Session(self._connection)

    def abandon(self) -> None:
        """Have the connection closed as soon as it is there."""
        with self._lock:
            self._abandoned = True
            connection = self._connection
        if connection is not None:
            connection.close()

    def forget_in_child(self) -> None:
        """Let go of a parent's connection in a forked child."""
        if self._connection is not None and not self._connection.closed:
            forget_in_child(self._connection)


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

    def forget_in_child(self) -> None:
        """Let go of a parent's session in a forked child."""
        forget_in_child(self._connection)


_inherited: list[psycopg.Connection[Any]] = []


def forget_in_child(connection: psycopg.Connection[Any]) -> None:
    """Let go of a parent's connection after a fork, without a word to the server.

    Closing it through libpq would end the parent's session, and keeping the descriptor open
    would keep that session alive after the parent's death. So the descriptor's number is put
    to other use, and the object kept, lest its finalizer touch either.
    """
    _inherited.append(connection)
    if connection.pgconn.status == pq.ConnStatus.OK:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, connection.pgconn.socket, inheritable=False)
        os.close(null)


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


class Backoff:
    """Pauses between tries: 0.1 s, doubling to 30 s, each jittered by half, for one incident."""

    FIRST = 0.1
    LAST = 30.0

    def __init__(self, last: float | None = None) -> None:
        """Begin an incident.

        Args:
            last: The longest pause, in seconds, in the place of `LAST`.
        """
        self._next = self.FIRST
        self._last = self.LAST if last is None else last

    def pause(self) -> float:
        """Return the seconds to wait before the next try."""
        pause, self._next = self._next, min(self._next * 2, self._last)
        # Jitter keeps a thousand clients of one failed server from coming back as one.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
