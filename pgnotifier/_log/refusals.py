"""Explain the errors with which a server refuses a publication, or something about the schema."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psycopg

from pgnotifier._log.composing import too_large
from pgnotifier._registry.checks import is_reserved
from pgnotifier.errors import (
    ConnectionFailedError,
    LogFullError,
    LogNotInstalledError,
    LogRefusedError,
    PayloadEncodingError,
    PgNotifierError,
    in_one_line,
)


@contextmanager
def explained(channel: str) -> Iterator[None]:
    """Replace errors of drivers by our own, where there is an explanation.

    Errors that are not about publishing (a deadlock, a lost connection, a timeout) are left as the
    driver raises them, because the code around the transaction handles these.
    """
    try:
        yield
    except PgNotifierError:
        raise
    except UnicodeEncodeError as exc:  # by a driver with a `client_encoding` of its own
        raise PayloadEncodingError(
            f"an entry for channel {channel!r} can't be sent: the connection's client_encoding, "
            f"{exc.encoding}, has no character {exc.object[exc.start]!r}. Set it to UTF8"
        ) from exc
    except Exception as exc:
        explain = _EXPLAINED.get(find_state(exc) or "")
        if explain is None:
            raise
        raise explain(channel, in_one_line(getattr(exc, "orig", exc))) from exc


def find_state(exc: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, also if SQLAlchemy or Django has wrapped it.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    for one in (exc, getattr(exc, "orig", None), exc.__cause__):
        for name in ("sqlstate", "pgcode"):
            state = getattr(one, name, None)
            if isinstance(state, str):
                return state
    return None


def _not_installed(channel: str, reason: str) -> PgNotifierError:
    return LogNotInstalledError(
        f"can't publish to {channel!r}: this database has no durable log, or an old one. "
        f"Run: pgnotifier install ({reason})"
    )


def _no_right(channel: str, reason: str) -> PgNotifierError:
    part = "enqueuer" if is_reserved(channel) else "publisher"
    return LogRefusedError(
        f"can't publish to {channel!r}: the role has no right to. "
        f"Run: pgnotifier install --grant-{part} ROLE ({reason})"
    )


def _read_only(channel: str, reason: str) -> PgNotifierError:
    return LogRefusedError(
        f"can't publish to {channel!r}: the transaction is read-only, or the server is a standby "
        f"({reason})"
    )


def _missing_character(channel: str, reason: str) -> PgNotifierError:
    return PayloadEncodingError(
        f"an entry for channel {channel!r} can't be kept: the database's encoding lacks one of its "
        f"characters ({reason})"
    )


def _full(channel: str, reason: str) -> PgNotifierError:
    return LogFullError(f"can't publish to {channel!r}: {reason}")


def _violated(channel: str, reason: str) -> PgNotifierError:
    if "channel_reserved" in reason:  # the constraint's name, in each language
        return _no_right(channel, reason)
    return too_large(channel, f"too many bytes in the database's encoding ({reason})")


_EXPLAINED: Mapping[str, Callable[[str, str], PgNotifierError]] = {
    "3F000": _not_installed,  # invalid_schema_name
    "42P01": _not_installed,  # undefined_table
    "42883": _not_installed,  # undefined_function
    "42501": _no_right,  # insufficient_privilege
    "25006": _read_only,  # read_only_sql_transaction
    "22P05": _missing_character,  # untranslatable_character
    "22021": _missing_character,  # character_not_in_repertoire
    "53400": _full,  # configuration_limit_exceeded
    "23514": _violated,  # check_violation
}


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Replace errors of psycopg by our own.

    Args:
        action: What was tried, as in "can't … here".
    """
    try:
        yield
    except psycopg.errors.ReadOnlySqlTransaction as exc:
        raise LogRefusedError(
            f"can't {action} here: the server is a hot standby, or the transaction is read-only. "
            "Connect to the primary"
        ) from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise LogRefusedError(f"can't {action}, for want of rights: {in_one_line(exc)}") from exc
    except psycopg.Error as exc:
        kind = ConnectionFailedError if _is_lost(exc) else LogRefusedError
        raise kind(f"can't {action}: {in_one_line(exc)}") from exc


def _is_lost(exc: psycopg.Error) -> bool:
    """Return whether an error means that the connection is lost, or that the server shuts down."""
    if exc.sqlstate is None:
        return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    # https://www.postgresql.org/docs/current/errcodes-appendix.html
    return exc.sqlstate.startswith(("08", "57P"))
