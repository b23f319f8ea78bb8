"""Put messages into an outbox on the connections that users have, those of Django by alias."""

from collections.abc import Iterable
from typing import Any

from pgnotifier._log import sessions
from pgnotifier._log.composing import Draft
from pgnotifier._log.outbox_entries import Outbox
from pgnotifier._log.sessions import Given, GivenForAsyncio
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

AnyConnection = Given | GivenForAsyncio | str | None
"""A connection, or the alias of one of Django's; None stands for Django's default."""


def check_sync(connection: AnyConnection, instead: str) -> Any:
    """Return a connection, given the connection or an alias of Django's.

    Args:
        connection: The connection or the alias.
        instead: What to write for a connection for asyncio.

    Raises:
        ArgumentTypeError: The connection is for asyncio.
        ConfigurationError: There is no such alias.
    """
    if sessions.is_for_asyncio(connection):
        raise ArgumentTypeError(f"{type(connection).__name__} is for asyncio: {instead}")
    return find_django(connection) if is_of_django(connection) else connection


async def ainsert(log: Outbox, connection: AnyConnection, drafts: Iterable[Draft]) -> None:
    """Insert entries in the transaction of a connection for asyncio, or on one of Django's.

    Raises:
        PgNotifierError: As for `Outbox.ainsert`.
    """
    given: Any = connection
    if not is_of_django(given):
        await log.ainsert(given, drafts)
        return
    from asgiref.sync import sync_to_async

    # Django's connections belong to the thread that runs synchronous code.
    def insert() -> None:
        log.insert(find_django(given), drafts)

    await sync_to_async(insert)()


def is_of_django(connection: Any) -> bool:
    """Return whether a connection is to be found by its alias in Django's settings."""
    return connection is None or isinstance(connection, str)


def find_django(alias: Any) -> Any:
    """Return a connection of Django.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        from django.conf import settings
        from django.db import DEFAULT_DB_ALIAS, connections
    except ImportError:
        raise ConfigurationError(_NO_DJANGO) from None
    if not settings.configured:
        raise ConfigurationError(_NO_DJANGO)
    name = DEFAULT_DB_ALIAS if alias is None else alias
    if name not in connections:
        raise ConfigurationError(f"DATABASES of Django has no alias {name!r}")
    return connections[name]


_NO_DJANGO = (
    "an outbox without a connection, or with an alias, needs Django, which isn't configured: give "
    "it a connection"
)
