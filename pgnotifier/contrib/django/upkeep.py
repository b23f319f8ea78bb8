"""Upkeep: what `migrate` does for the triggers when it is done with the rest."""

import logging
from collections.abc import Iterator
from typing import Any

from django.apps import apps as installed_apps
from django.db import connections, transaction
from django.db.utils import Error

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.redaction import redact
from pgnotifier.contrib.django.trigger_sql import FIND_ORPHANS, FIND_SOURCE, make_source, quote
from pgnotifier.contrib.django.triggers import NotifyOn

logger = logging.getLogger("pgnotifier.django")


def refresh_triggers(sender: Any, using: str, apps: Any = installed_apps, **_: Any) -> None:
    """Create the triggers of an app anew that tell what was so before `migrate`.

    Columns that are renamed, and models, change what a trigger has to say, though the declaration
    stays the same.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    for model, made in _find_triggers(sender, apps):
        table = connection.ops.quote_name(model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(FIND_SOURCE, [table, str(made.name)])
            row = cursor.fetchone()
        if row is None or row[0] == make_source(model, made.telling):
            continue
        if not _execute(using, made.create_in(model, table)):
            logger.warning(
                "trigger %s of %s is not up to date", made.name, table, extra=about("trigger_stale")
            )


def _find_triggers(sender: Any, apps: Any) -> Iterator[tuple[Any, NotifyOn]]:
    try:
        config = apps.get_app_config(sender.label)
    except LookupError:  # an app without models, as migrations see it
        return
    for model in config.get_models():
        for made in model._meta.constraints:
            if isinstance(made, NotifyOn):
                yield model, made


def drop_orphans(sender: Any, using: str, **_: Any) -> None:
    """Drop functions whose table has been dropped, and their trigger with it, after `migrate`."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(FIND_ORPHANS)
        orphans = cursor.fetchall()
    for _oid, schema, name in orphans:
        _execute(using, f"DROP FUNCTION IF EXISTS {quote(schema)}.{quote(name)}()")


def _execute(using: str, sql: str) -> bool:
    """Execute a statement that may fail, as `migrate` may not; return whether it worked."""
    try:
        with transaction.atomic(using=using), connections[using].cursor() as cursor:
            cursor.execute(sql)
    except Error as exc:
        logger.warning(
            "after migrate: %s",
            redact(exc).partition("\n")[0],
            extra=about("trigger_stale", error=type(exc).__name__),
        )
        return False
    return True
