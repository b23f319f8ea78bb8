"""Find the databases with a durable log, and limit how long the admin may keep them busy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import DatabaseError, connections
from django.db.transaction import atomic

from pgnotifier._log.installing import check
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.channels import Channel
from pgnotifier.contrib.django.durable.operations import open_driver
from pgnotifier.errors import LogRefusedError, PgNotifierError, in_one_line

_LIMIT = """
SELECT pg_catalog.set_config('statement_timeout', %s, true),
    pg_catalog.set_config('lock_timeout', %s, true)
"""
_LIMITS = """
SELECT pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('lock_timeout')
"""


def find_aliases() -> list[str]:
    """Return the aliases of PostgreSQL databases that durable channels and outboxes belong to.

    The first one is `PGNOTIFIER["DATABASE"]`, even if it has no durable channel.
    """
    used = sorted({channel.database for channel in Channel.all_known() if channel.durable})
    aliases = dict.fromkeys([str(conf.get("DATABASE")), *conf.outbox_aliases(), *used])
    return [one for one in aliases if one in connections and _is_postgresql(one)]


def _is_postgresql(alias: str) -> bool:
    return bool(connections[alias].vendor == "postgresql")


@contextmanager
def reading(alias: str) -> Iterator[Any]:
    """Yield the driver's connection to a database with a log, in a transaction with timeouts.

    Raises:
        LogNotInstalledError: The log isn't installed, or is too old.
        LogRefusedError: The role has no right to use it, or the server refused or took too long.
    """
    connection = connections[alias]
    try:
        with atomic(using=alias), connection.cursor() as cursor:
            cursor.execute(_LIMITS)
            before = cursor.fetchone()
            cursor.execute(_LIMIT, [f"{max(1, int(conf.get('ADMIN_TIMEOUT') * 1000))}ms"] * 2)
            driver = open_driver(connection)
            check(driver)
            yield driver
            # The transaction may span the whole request.
            cursor.execute(_LIMIT, before)
    except PgNotifierError:
        raise
    except (DatabaseError, psycopg.Error) as exc:
        raise LogRefusedError(f"the database answered: {in_one_line(exc)}") from exc
