"""Parameters of a connection, and connecting with them."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg
from psycopg import conninfo as libpq
from psycopg import pq

from pgnotifier._connection.inheriting import keep_from_children
from pgnotifier._connection.session_settings import options_without_timeouts, set_up
from pgnotifier._runtime.redaction import redact
from pgnotifier._runtime.suggestions import find_nearest
from pgnotifier.errors import (
    ArgumentTypeError,
    ConfigurationError,
    ConnectionFailedError,
    PgNotifierError,
    in_one_line,
)

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


_SHUFFLE: Mapping[str, Any] = {"load_balance_hosts": "random"}  # since libpq 16


_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "service")


_SECRET = ("password", "sslpassword")


_OPTIONS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


Supply = Callable[[], Mapping[str, Any] | str]


"""Returns what to connect with."""


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
            return keep_from_children(psycopg.connect(self.conninfo, **settings))
        except psycopg.OperationalError as exc:
            if "MULE_INTERNAL" not in str(exc):  # which can't be converted to UTF-8
                raise
            return keep_from_children(
                psycopg.connect(self.conninfo, client_encoding="SQL_ASCII", **settings)
            )


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
    near = aliases.get(name) or find_nearest(name, _OPTIONS)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"{name!r} is not a connection parameter of libpq{hint}"
