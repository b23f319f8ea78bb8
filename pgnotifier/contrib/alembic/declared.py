"""Declare triggers on tables of SQLAlchemy, and compare them with those of the database.

https://alembic.sqlalchemy.org/en/latest/api/autogenerate.html#autogenerating-custom-operation-directives
"""

from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import alembic.util
from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import UpgradeOps
from sqlalchemy import inspect

from pgnotifier import triggers
from pgnotifier.contrib.alembic.trigger_operations import CreateTriggerOp, DropTriggerOp
from pgnotifier.triggers import Options, Trigger

INFO = "pgnotifier"
"""The key of `MetaData.info` under which the triggers are. Alembic would render `Table.info`."""

_Place = tuple[str, str, str]  # schema, table, name


def declare_trigger(table: Any, channel: str, **options: Unpack[Options]) -> Trigger:
    """Declare a trigger that notifies of a table's changes; autogenerate then creates it.

        declare_trigger(orders, "orders", on=["update"], columns=["status"])
        declare_trigger(Order.__table__, "orders")

    The list of all is `table.metadata.info["pgnotifier"]`.

    Args:
        table: The `Table`.
        channel: The channel to notify.
        options: As for `Trigger`; the schema is the table's.

    Raises:
        TriggerError: The arguments make no trigger.
    """
    options["schema"] = table.schema
    made = Trigger(table.name, channel, **options)
    table.metadata.info.setdefault(INFO, []).append(made)
    return made


# The tables have to be compared first, from 1.18 on by a priority, before by the order of imports.
_priority = getattr(alembic.util, "DispatchPriority", None)
_last: dict[str, Any] = {} if _priority is None else {"priority": _priority.LAST}


@comparators.dispatch_for("schema", **_last)
def compare_triggers(context: AutogenContext, operations: UpgradeOps, schemas: Any) -> None:
    """Add the operations that make the database have the declared triggers.

    Triggers that Alembic hasn't made are replaced if they are declared, but never dropped.
    """
    connection = context.connection
    if connection is None or connection.dialect.name != "postgresql":
        return
    default = inspect(connection).default_schema_name or "public"
    looked_at = {default if one is None else one for one in schemas}
    existing = {
        (one.schema, one.table or "", one.name): one
        for one in triggers.list(connection)
        if one.table is not None and one.schema in looked_at and one.made_by != "django"
    }
    declared = {place: made for place, made in _declared(context, default) if place[0] in looked_at}
    for place, made in declared.items():
        found = existing.get(place)
        former = found.trigger if found else None
        if former is None or _differ(former, made):
            operations.ops.append(CreateTriggerOp(made, former and _as_given(former, made)))
    for place, found in existing.items():
        if place in declared or found.made_by != "alembic" or found.trigger is None:
            continue
        schema = None if found.schema == default else found.schema
        parents: Any = {"schema_name": schema}
        if context.run_name_filters(found.table, "table", parents):
            options: Any = {**found.trigger.options(), "schema": schema}
            made = Trigger(found.trigger.table, found.trigger.channel, **options)
            operations.ops.insert(0, DropTriggerOp(made))  # before its table is dropped


def _declared(context: AutogenContext, default: str) -> Iterator[tuple[_Place, Trigger]]:
    metadata: Any = context.metadata or []
    for one in metadata if isinstance(metadata, Sequence) else [metadata]:
        for made in one.info.get(INFO, ()):
            parents: Any = {"schema_name": made.schema}
            if context.run_name_filters(made.table, "table", parents):
                yield (made.schema or default, made.table, made.name), made


def _differ(one: Trigger, other: Trigger) -> bool:
    return one.channel != other.channel or {**one.options(), "schema": None} != {
        **other.options(),
        "schema": None,
    }


def _as_given(former: Trigger, made: Trigger) -> Trigger:
    """Return what is replaced, with its schema written as in the declaration."""
    options: Any = {**former.options(), "schema": made.schema}
    return Trigger(former.table, former.channel, **options)


@renderers.dispatch_for(CreateTriggerOp)
def _render_create(context: AutogenContext, operation: CreateTriggerOp) -> str:
    made = operation.trigger
    given = [repr(made.table), repr(made.channel)]
    given += [f"{name}={value!r}" for name, value in made.options().items()]
    return f"{_prefix(context)}create_pgnotifier_trigger({', '.join(given)})"


@renderers.dispatch_for(DropTriggerOp)
def _render_drop(context: AutogenContext, operation: DropTriggerOp) -> str:
    made = operation.trigger
    given = [repr(made.table), repr(made.channel)]
    options = made.options()
    given += [f"{name}={options[name]!r}" for name in ("name", "schema") if name in options]
    return f"{_prefix(context)}drop_pgnotifier_trigger({', '.join(given)})"


def _prefix(context: AutogenContext) -> str:
    return context.opts.get("alembic_module_prefix") or ""
