"""Write the table of listeners for the admin, with SQL that can't run another user's code.

Django's own queries don't name schemas. Somebody who may create operators in `public` could
therefore make a listener run their code. The queries here name every schema, as those
of triggers do.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db import connections, router

from pgnotifier._triggers.quoting import quote
from pgnotifier.contrib.django.models import Listener

_FIND_SCHEMA = """
SELECT n.nspname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s)
"""

# Memberships are looked up by hand: for pg_has_role() a superuser is a member of every role.
_FIND_FOREIGN_OWNER = """
WITH RECURSIVE mine (role) AS (
  SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) CURRENT_USER
  UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m
  JOIN mine ON m.member OPERATOR(pg_catalog.=) mine.role)
SELECT owner.rolname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_roles owner ON owner.oid OPERATOR(pg_catalog.=) c.relowner
WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND NOT owner.rolsuper
AND NOT EXISTS (SELECT FROM mine WHERE role OPERATOR(pg_catalog.=) owner.oid)
AND NOT EXISTS (SELECT FROM pg_catalog.pg_database d
  WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
  AND d.datdba OPERATOR(pg_catalog.=) owner.oid)
AND NOT EXISTS (SELECT FROM pg_catalog.pg_class m
  WHERE m.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('django_migrations')
  AND m.relowner OPERATOR(pg_catalog.=) owner.oid)
"""


def find_foreign_owner() -> str | None:
    """Return the table's owner, if that is a role that doesn't belong to this project.

    Whoever owns a table can give it triggers, which are executed as the role that writes to it.
    """
    connection = _connection()
    with connection.cursor() as cursor:
        cursor.execute(_FIND_FOREIGN_OWNER, [connection.ops.quote_name(Listener._meta.db_table)])
        row = cursor.fetchone()
    return None if row is None else str(row[0])


def write_row(values: Mapping[str, Any]) -> None:
    """Insert the row of a listener, or replace the existing row of the same `name`."""
    table = _find_table()
    if table is None:
        given = dict(values)
        Listener.objects.update_or_create(name=given.pop("name"), defaults=given)
        return
    columns = [quote(name) for name in values]
    marks = ", ".join(["%s"] * len(columns))
    changes = ", ".join(f"{column} = EXCLUDED.{column}" for column in columns)
    _execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) "  # noqa: S608 - quoted
        f'ON CONFLICT ("name") DO UPDATE SET {changes}',
        [_write_text(value) for value in values.values()],
    )


def forget_before(seen_at: datetime) -> None:
    """Delete the rows of listeners that haven't reported since a time."""
    table = _find_table()
    if table is None:
        Listener.objects.filter(seen_at__lt=seen_at).delete()
        return
    _execute(
        f"DELETE FROM {table} WHERE seen_at OPERATOR(pg_catalog.<) "  # noqa: S608 - quoted
        "%s::pg_catalog.timestamptz",
        [seen_at.isoformat()],
    )


def find_names(prefix: str) -> list[str]:
    """Return the names of the listeners that begin with a prefix."""
    table = _find_table()
    if table is None:
        found = Listener.objects.filter(name__startswith=prefix)
        return [*found.values_list("name", flat=True)]
    sql = f"SELECT name FROM {table} WHERE pg_catalog.starts_with(name, %s)"  # noqa: S608 - quoted
    with _connection().cursor() as cursor:
        cursor.execute(sql, [prefix])
        return [name for (name,) in cursor.fetchall()]


def forget(names: Iterable[str]) -> None:
    """Delete the rows of some listeners."""
    table = _find_table()
    for name in names:
        if table is None:
            Listener.objects.filter(name=name).delete()
        else:
            sql = f"DELETE FROM {table} WHERE name OPERATOR(pg_catalog.=) %s"  # noqa: S608 - quoted
            _execute(sql, [name])


def _connection() -> Any:
    return connections[router.db_for_write(Listener)]


def _find_table() -> str | None:
    """Return the table's name with its schema; None if it doesn't exist or isn't in PostgreSQL."""
    connection = _connection()
    if connection.vendor != "postgresql":
        return None
    table = Listener._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(_FIND_SCHEMA, [connection.ops.quote_name(table)])
        row = cursor.fetchone()
    return None if row is None else f"{quote(row[0])}.{quote(table)}"


def _execute(sql: str, values: list[str]) -> None:
    with _connection().cursor() as cursor:
        cursor.execute(sql, values)


def _write_text(value: Any) -> str:
    """Return a value as text, because a text parameter needs no cast to a type without a schema."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else json.dumps(value)
