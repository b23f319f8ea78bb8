"""Translate `notify_on` of a model into the SQL of a trigger."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist

from pgnotifier._triggers.creating import (
    Creation,
    create_statement,
    orphans_query,
    remove_statement,
)
from pgnotifier._triggers.quoting import literal, quote
from pgnotifier._triggers.row_body import (
    VARIABLES,
    RowBody,
    compare_columns,
    object_of,
    row_body,
)

Fields = bool | Sequence[str]

ORIGIN = "-- Made by pgnotifier.contrib.django; `manage.py migrate` replaces and drops it.\n"
"""The beginning of the source of our functions."""


class TriggerDefinition(NamedTuple):
    """The definition of a trigger: the arguments of `NotifyOn`."""

    channel: str
    insert: bool
    update: Fields
    delete: bool
    old: Fields
    new: Fields
    durable: bool = False

    @property
    def events(self) -> list[str]:
        """The operations that it notifies about: `insert`, `update`, `delete`."""
        return [event for event in ("insert", "update", "delete") if getattr(self, event)]


def make_body(model: Any, definition: TriggerDefinition) -> str:
    """Return the statements of the trigger's function, for PL/pgSQL."""
    update = definition.update
    watched: bool | Sequence[str] = bool(update)
    compared: Iterable[str] = ()
    if update and not isinstance(update, bool):
        watched = find_columns(model, update)
    elif update:
        compared = compare_columns([field.column for field in model._meta.local_concrete_fields])
    return row_body(
        RowBody(
            channel=definition.channel,
            identity=f"'model', {literal(model._meta.label_lower)}",
            old_key=_key(model, "OLD"),
            new_key=_key(model, "NEW"),
            watched=watched,
            compared=compared,
            values={
                side: _values(model, fields, side.upper())
                for side, fields in (("old", definition.old), ("new", definition.new))
                if fields
            },
            durable=definition.durable,
        )
    )


def make_source(model: Any, definition: TriggerDefinition) -> str:
    """Return the source of the trigger's function, as `pg_proc.prosrc` has it."""
    declared = "".join(f"    {name} {kind};\n" for name, kind in VARIABLES)
    return f"{ORIGIN}DECLARE\n{declared}BEGIN\n{make_body(model, definition)}\nEND\n"


def _values(model: Any, fields: Fields, row: str) -> str:
    if isinstance(fields, bool):
        return f"pg_catalog.to_jsonb({row})"
    return object_of(find_columns(model, fields), row)


def _key(model: Any, row: str) -> str:
    """Return an expression for the primary key; an array for a composite one."""
    fields = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    columns = [f"{row}.{quote(field.column)}" for field in fields]
    if len(columns) == 1:
        return f"pg_catalog.to_jsonb({columns[0]})"
    return f"pg_catalog.jsonb_build_array({', '.join(columns)})"


def find_columns(model: Any, fields: Iterable[str]) -> list[str]:
    """Return the columns of fields. Fields that don't exist are left out; a check reports them."""
    found = []
    for name in fields:
        try:
            column = model._meta.get_field(name).column
        except (FieldDoesNotExist, AttributeError):
            continue
        if column is not None:
            found.append(column)
    return found


def make_create(table: str, name: str, events: Sequence[str], source: str) -> str:
    """Return the statement that creates a trigger and its function, or replaces existing ones.

    A view gets no trigger.

    Args:
        table: The name of the table, quoted by Django.
        name: The name of the trigger.
        events: `insert`, `update`, `delete`.
        source: The source of the function.
    """
    clause = f"AFTER {' OR '.join(event.upper() for event in events)} ON"
    return create_statement(
        Creation(
            table=f"{literal(table)}::pg_catalog.regclass",
            function=name,
            former=_former(name),
            parts=[(name, clause, "FOR EACH ROW")],
            source=[source],
            origin=ORIGIN,
            before_functions=_LEAVE_VIEWS,
        )
    )


def make_remove(table: str, name: str) -> str:
    """Return the statement that removes a trigger, and its function: see `make_create`."""
    found = f"pg_catalog.to_regclass({literal(table)})"
    return remove_statement(found, _former(name), ORIGIN)


def _former(name: str) -> str:
    return f"t.tgname OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.name"


_LEAVE_VIEWS = (
    "    IF kind OPERATOR(pg_catalog.=) ANY ('{v,m}'::pg_catalog.text[]) THEN RETURN; END IF;\n"
)

FIND_ORPHANS = orphans_query(ORIGIN)
"""Finds our functions that aren't called by a trigger, and that this role may drop."""

FIND_SOURCE = """
SELECT p.prosrc FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
WHERE t.tgrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s::pg_catalog.text)
AND t.tgname OPERATOR(pg_catalog.=) %s::pg_catalog.name
"""
"""Finds the source of the function that a table's trigger calls."""

FIND_KIND = """SELECT c.relkind::pg_catalog.text FROM pg_catalog.pg_class c
WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s::pg_catalog.text)"""
"""Finds of what kind a table is, if it exists."""
