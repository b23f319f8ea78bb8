"""Validate the connection parameters that users give, and connect with them."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg import conninfo as libpq
from psycopg import pq

from pgnotifier._connection.inheriting import keep_from_children
from pgnotifier._connection.libpq_checks import find_unknown, refuses_values
from pgnotifier._connection.session_settings import options_without_timeouts, set_up
from pgnotifier._runtime.names import name_callable
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
"""NAMEDATALEN - 1. LISTEN truncates a longer name, and only sends a notice.
https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS"""
CONNECT_TIMEOUT = 10
"""Seconds to wait for each host of a connection string, unless `connect_timeout` is set."""
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""Defaults with which the kernel detects a dead connection within 20 seconds.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES"""
DEFAULTS = "libpq's defaults"
"""What is shown if there are no parameters."""
_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "service")
_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "service": "PGSERVICE",
}
"""https://www.postgresql.org/docs/current/libpq-envars.html"""
_SECRET = ("password", "sslpassword")
_OPTIONS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
Supply = Callable[[], Mapping[str, Any] | str]
"""A callable that returns connection parameters."""


class Parameters:
    """Validated connection parameters. Their repr and errors never show a password."""

    __slots__ = ("_known", "conninfo")

    def __init__(self, db_conf: Mapping[str, Any] | str) -> None:
        """Validate a dict of libpq parameters, a conninfo string, or a URI.

        Raises:
            ArgumentTypeError: `db_conf` is none of these.
            ConfigurationError: libpq doesn't know a parameter, or the string can't be parsed.
        """
        if isinstance(db_conf, str):
            given = _parse(db_conf)
        elif isinstance(db_conf, Mapping):
            given = {str(name): value for name, value in db_conf.items() if value is not None}
        else:
            raise ArgumentTypeError(
                "db_conf must be a dict of libpq parameters, a conninfo string or a URI, or a "
                f"callable that returns one, not {type(db_conf).__name__}"
            )
        for name in given:
            if name not in _OPTIONS:
                raise ConfigurationError(_unknown(name))
        self._known = {"fallback_application_name": "pgnotifier", **given}
        # Send and read UTF-8, whatever PGCLIENTENCODING says. A listener switches to the
        # database's encoding if that is not UTF-8.
        self._known["client_encoding"] = "UTF8"
        if "connect_timeout" not in given and "PGCONNECT_TIMEOUT" not in os.environ:
            self._known["connect_timeout"] = CONNECT_TIMEOUT
        if "service" not in given and "PGSERVICE" not in os.environ:  # it may set them itself
            self._known = {**KEEPALIVE, **self._known}
        _check_values(given)
        self.conninfo = libpq.make_conninfo("", **self._known)

    @property
    def source(self) -> str:
        """Where they come from, for messages."""
        return "db_conf"

    def __repr__(self) -> str:
        return _describe(self._known) or redact(_describe(_read_environment())) or DEFAULTS

    def check(self) -> None:
        """Check that connection parameters were given.

        Raises:
            ConfigurationError: They were not.
        """

    def resolve(self) -> "Parameters":
        """Return the parameters for a connection that is about to be made."""
        return self

    def connect(
        self, *, shuffle: bool = False, kind: type[psycopg.Connection[Any]] = psycopg.Connection
    ) -> psycopg.Connection[Any]:
        """Make a connection in autocommit mode, with the session settings that pgnotifier needs.

        Args:
            kind: The class of the connection.
            shuffle: Whether to try hosts and addresses in a random order, because the first one
                may hang. Ignored if the parameters set `load_balance_hosts`.

        Raises:
            ConnectionFailedError: With the reason: the server can't be reached, the password is
                wrong, the database doesn't exist, or the server refuses a session setting.
            ConfigurationError: libpq refuses the value of a parameter.
        """
        settings = {}
        if shuffle and "load_balance_hosts" in _OPTIONS - self._known.keys():  # since libpq 16
            settings["load_balance_hosts"] = "random"
        try:
            return self._open(kind, settings)
        except (psycopg.Error, OSError) as exc:  # OSError: out of file descriptors
            shown = redact(exc, *self._find_secrets())
            reason = in_one_line(shown)
            if _is_refused(exc) or (
                isinstance(exc, psycopg.OperationalError) and refuses_values(self._known)
            ):
                raise ConfigurationError(
                    f"the connection parameters ({self!r}) are invalid: {reason}"
                ) from None
            text = f"can't connect to PostgreSQL ({self!r}): {reason}"
            # A traceback prints the cause too, so drop a cause that shows a secret.
            raise ConnectionFailedError(text) from (exc if shown == str(exc) else None)

    def _find_secrets(self) -> list[str]:
        # A password that equals a parameter shown in the repr, such as the user, can't be hidden.
        shown = [str(value) for name, value in self._known.items() if name in _SHOWN]
        found = [str(self._known.get(name) or "") for name in _SECRET]
        found += _find_custom_values(str(self._known.get("options") or ""))
        return [one for one in found if one not in shown]

    def _open(
        self, kind: type[psycopg.Connection[Any]], settings: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        connection = self._connect(kind, settings)
        version = connection.info.server_version
        try:
            _set_up_or_close(connection)
        except psycopg.Error:
            # The role or database may set a timeout that is too short for setting up the session.
            options = options_without_timeouts(self._known.get("options"), version)
            connection = self._connect(kind, {**settings, "options": options})
            _set_up_or_close(connection)
        return connection

    def _connect(
        self, kind: type[psycopg.Connection[Any]], settings: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        # Prepared statements fail behind a pooler that shares server sessions.
        settings = {"autocommit": True, "prepare_threshold": None, **settings}
        try:
            return keep_from_children(kind.connect(self.conninfo, **settings))
        except psycopg.OperationalError as exc:
            if "MULE_INTERNAL" not in str(exc):  # PostgreSQL can't convert it to UTF-8
                raise
            return keep_from_children(
                kind.connect(self.conninfo, client_encoding="SQL_ASCII", **settings)
            )


def _is_refused(exc: Exception) -> bool:
    """Return whether psycopg has refused the parameters, rather than libpq or a server."""
    numbers = str(exc).startswith("could not match")  # of hosts and ports
    return numbers or (isinstance(exc, psycopg.ProgrammingError) and exc.sqlstate is None)


def _set_up_or_close(connection: psycopg.Connection[Any]) -> None:
    try:
        set_up(connection)
    except psycopg.errors.InsufficientPrivilege:
        pass  # no right to read pg_settings: the session may work without the changes
    except psycopg.Error:
        connection.close()
        raise


class SuppliedParameters(Parameters):
    """Parameters from a callable that is called for each connection: for rotating credentials."""

    __slots__ = ("_supply",)

    def __init__(self, supply: Supply) -> None:
        """Keep the callable. It isn't called yet."""
        self._supply = supply
        self._known = {}

    def __repr__(self) -> str:
        return _describe(self._known) or f"from {name_callable(self._supply)}()"

    def resolve(self) -> Parameters:
        """Call the callable, and return the parameters that it returns.

        Raises:
            ConnectionFailedError: The callable raised.
            PgNotifierError: The callable returned invalid parameters.
        """
        try:
            supplied = self._supply()
        except PgNotifierError:
            raise
        except Exception as exc:
            raise ConnectionFailedError(
                f"can't connect to PostgreSQL: db_conf() raised {type(exc).__name__} instead of "
                "returning connection parameters"
            ) from exc
        parameters = Parameters(supplied)
        self._known = parameters._known  # noqa: SLF001 - of the same class, for the repr
        return parameters

    def connect(
        self, *, shuffle: bool = False, kind: type[psycopg.Connection[Any]] = psycopg.Connection
    ) -> psycopg.Connection[Any]:
        """Connect with the parameters that the callable returns.

        Raises:
            PgNotifierError: As `resolve` and `Parameters.connect` raise it.
        """
        return self.resolve().connect(shuffle=shuffle, kind=kind)

    @property
    def source(self) -> str:
        """The name of the callable, for messages."""
        return f"db_conf ({name_callable(self._supply)})"


class MissingParameters(Parameters):
    """Stands for parameters that weren't given: an error as soon as a connection is needed."""

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        """Keep the text of the error."""
        self._why = why
        self._known = {}

    def __repr__(self) -> str:
        return "no connection parameters"

    def check(self) -> None:
        """Raise the error.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(self._why)

    def connect(
        self,
        *,
        shuffle: bool = False,  # noqa: ARG002
        kind: type[psycopg.Connection[Any]] = psycopg.Connection,  # noqa: ARG002
    ) -> psycopg.Connection[Any]:
        """Raise the error.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(self._why)


NOTHING = (
    "db_conf is None, so there is nothing to connect to; give a connection string such as "
    "'postgresql://localhost/shop', or a dict of parameters"
)


def make_parameters(db_conf: "Mapping[str, Any] | str | Supply | Parameters | None") -> Parameters:
    """Return validated parameters for a value of `db_conf`.

    None is an error only when a connection is needed. So `db_conf` may come from an environment
    variable that only the listening process has.
    """
    if isinstance(db_conf, Parameters):
        return db_conf
    if db_conf is None:
        return MissingParameters(NOTHING)
    return SuppliedParameters(db_conf) if callable(db_conf) else Parameters(db_conf)


def _describe(known: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={known[name]}" for name in _SHOWN if name in known)


def _read_environment() -> dict[str, str]:
    """Return what libpq takes from variables such as PGHOST and PGSERVICE, without secrets."""
    return {name: os.environ[key] for name, key in _VARIABLES.items() if os.environ.get(key)}


def _parse(conninfo: str) -> dict[str, Any]:
    try:
        if not _MISREAD_URI.match(conninfo):
            return libpq.conninfo_to_dict(conninfo)
    except psycopg.Error as exc:
        # libpq quotes the text where parsing failed, and that may be part of the password.
        name = find_unknown(str(exc), conninfo, _OPTIONS)
        if name is not None and not _may_be_secret(name, conninfo):
            raise ConfigurationError(_unknown(name)) from None
    except UnicodeEncodeError:
        pass
    raise ConfigurationError(
        "the connection string can't be parsed: it must be 'name=value …', with values that "
        "contain spaces in single quotes, or a postgresql:// URI with special characters "
        "percent-encoded"
    ) from None


def _find_custom_values(options: str) -> list[str]:
    """Return the values of settings that applications define, as in `-c shop.key=value`.

    These may be secret, and the server quotes what it refuses. If a value contains a blank that
    isn't escaped, the server takes its other words for options.
    """
    words = re.split(r"(?<!\\)\s+", options)
    first = next((at for at, word in enumerate(words) if _CUSTOM.match(word)), len(words))
    found = [_CUSTOM.sub("", word) for word in words[first:] if word != "-c"]
    # The server may take the rest of such a word for the argument of an option such as -S.
    return [*found, *(word[2:] for word in found if word.startswith("-"))]


_CUSTOM = re.compile(r"(?:-c|--)?[\w-]+\.[\w.-]+=")


# If a password contains an unencoded @ or /, libpq takes the text after it for the host or the
# database, and shows it in its messages:
# https://www.postgresql.org/docs/current/libpq-connect.html
_MISREAD_URI = re.compile(r"postgres(?:ql)?://(?:[^/?]*@[^?]*@|[^/?@]*/[^?]*@)")


def _check_values(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        # libpq would truncate the value at a NUL.
        if "\0" in (text := str(value)) or any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigurationError(
                f"the value of {name!r} must not contain NUL or a lone surrogate"
            )
    if re.match(r"postgres(?:ql)?://|\w+\s*=", str(given.get("dbname", ""))):
        raise ConfigurationError(
            "'dbname' is a whole connection string; pass that string as db_conf instead"
        )
    ports = str(given.get("port", "")).split(",")
    if not all(port.strip().isdecimal() or not port.strip() for port in ports):
        # Don't show the value: in a URI that lacks the @ and the host, it is the password.
        raise ConfigurationError("'port' must be a number, or several numbers with commas between")
    # An @ is fine within a path, and at the beginning of an abstract socket's name.
    if re.search(r"(?:^|,)[^/@,][^,]*@", str(given.get("host", ""))):
        raise ConfigurationError(
            "'host' must be a name or an address without '@'; give the user and the password as "
            "the parameters 'user' and 'password'"
        )


def _may_be_secret(name: str, conninfo: str) -> bool:
    """Return whether an unknown name may be the rest of a password, as in `password=a&b=c`."""
    before, found, _ = conninfo.partition("password")
    return bool(found) and name not in before and _find_meant(name) is None


def _unknown(name: str) -> str:
    near = _find_meant(name)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"{name!r} is not a connection parameter of libpq{hint}"


def _find_meant(name: str) -> str | None:
    """Return the parameter that an unknown name was probably meant to be, if any."""
    aliases = {"database": "dbname", "db": "dbname", "username": "user", "passwd": "password"}
    return aliases.get(name) or find_nearest(name, _OPTIONS)
