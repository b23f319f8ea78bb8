"""Update triggers and drop unused functions after `migrate`."""

import logging
from collections.abc import Iterator
from typing import Any

from django.apps import apps as installed_apps
from django.db import connections, router, transaction
from django.db.utils import Error

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.redaction import redact
from pgnotifier._triggers.quoting import quote
from pgnotifier.contrib.django.trigger_sql import (
    FIND_KIND,
    FIND_ORPHANS,
    FIND_SOURCE,
    make_source,
)
from pgnotifier.contrib.django.triggers import NotifyOn

logger = logging.getLogger("pgnotifier.django")


def refresh_triggers(sender: Any, using: str, apps: Any = installed_apps, **_: Any) -> None:
    """Replace the triggers of an app that `migrate` has made out of date.

    If a column or a model is renamed, a trigger has to send another payload, although its
    declaration stays the same. A trigger that migrations declare but have not created is not
    created here: the one that it replaces is unknown, and both would notify of a change.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    for model, made in _find_triggers(sender, apps):
        table = connection.ops.quote_name(model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(FIND_SOURCE, [table, str(made.name)])
            row = cursor.fetchone()
        if row is None:
            if router.allow_migrate_model(using, model):
                _warn_of_missing(connection, model, made, table)
        elif row[0] != make_source(model, made.definition) and not _execute(
            using, made.create_in(model, table)
        ):
            logger.warning(
                "trigger %s of %s is not up to date", made.name, table, extra=about("trigger_stale")
            )


def _warn_of_missing(connection: Any, model: Any, made: NotifyOn, table: str) -> None:
    """Warn about a trigger that doesn't exist, if its table does."""
    with connection.cursor() as cursor:
        cursor.execute(FIND_KIND, [table])
        found = cursor.fetchone()
    if found is None:
        return
    kind, why = ("view", _NO_VIEWS) if found[0] in _VIEWS else ("table", _STATE_ALONE)
    logger.warning(
        "%s %s has no trigger %s, which %s declares, so it doesn't notify of changes; %s",
        kind,
        table,
        made.name,
        model._meta.label,
        why,
        extra=about("trigger_missing"),
    )


_VIEWS = ("v", "m")
"""https://www.postgresql.org/docs/current/catalog-pg-class.html"""
_NO_VIEWS = "views can't have such triggers: declare it on the models of the tables that it shows"
_STATE_ALONE = (
    "if a migration has changed the state alone, as in a move to another app, remove the former "
    "NotifyOn by RemoveConstraint and add this one by AddConstraint in the database, too"
)


def _find_triggers(sender: Any, apps: Any) -> Iterator[tuple[Any, NotifyOn]]:
    try:
        config = apps.get_app_config(sender.label)
    except LookupError:  # migrations don't know an app without models
        return
    for model in config.get_models():
        for made in model._meta.constraints:
            if isinstance(made, NotifyOn):
                yield model, made


def drop_orphans(sender: Any, using: str, **_: Any) -> None:
    """Drop the functions of triggers that were dropped with their table, after `migrate`."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(FIND_ORPHANS)
        orphans = cursor.fetchall()
    for _oid, schema, name in orphans:
        _execute(using, f"DROP FUNCTION IF EXISTS {quote(schema)}.{quote(name)}()")


def _execute(using: str, sql: str) -> bool:
    """Execute a statement; return whether it worked. `migrate` goes on if it fails."""
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
