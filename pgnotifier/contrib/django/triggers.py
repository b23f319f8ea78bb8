"""Triggers: rows that change notify, and migrations install what makes them."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import BaseConstraint, Model

from pgnotifier.contrib.django.channels import Channel
from pgnotifier.publisher import MAX_PAYLOAD_BYTES
from pgnotifier.registry import check_channel

MARK = "pgnotifier_"
"""What the names of our functions begin with."""
PGTRIGGER_NAME = 43
"""The most characters that django-pgtrigger takes as a trigger's name."""

Fields = bool | Sequence[str]


class NotifyOn(BaseConstraint):
    """A trigger that notifies of changes, declared as a constraint of a model.

        class Order(models.Model):
            class Meta:
                constraints = [NotifyOn("orders", update=["status"], new=["status"])]

    `makemigrations` and `migrate` treat it as any constraint. The payload is a dict:

        {"model": "shop.order", "operation": "update", "pk": 5, "changed": ["status"],
         "new": {"status": "paid"}}

    `changed` is there for updates, `old` and `new` if asked for. Names are those of columns
    (`customer_id`). A payload that would be over NOTIFY's 7,999 bytes goes without `old` and `new`,
    and with `"truncated": true`: no change of a row fails for that.
    """

    def __init__(
        self,
        channel: Channel | str,
        *,
        insert: bool = True,
        update: Fields = True,
        delete: bool = True,
        old: Fields = False,
        new: Fields = False,
        name: str | None = None,
    ) -> None:
        """Take what to tell.

        Args:
            channel: Where to.
            insert: Whether to tell of new rows.
            update: Whether to tell of updates that change something; or of which fields.
            delete: Whether to tell of deleted rows. (Of TRUNCATE nobody is told.)
            old: Whether to send the values that were there; or of which fields.
            new: Whether to send the values that are there now; or of which fields.
            name: That of the trigger. Default: one made of the channel's and the model's.

        Raises:
            ChannelNameError: PostgreSQL has no such channel.
            ValueError: There would be nothing to tell of.
        """
        self.channel = channel.name if isinstance(channel, Channel) else check_channel(channel)
        self.insert, self.delete = bool(insert), bool(delete)
        self.update, self.old, self.new = _fields(update), _fields(old), _fields(new)
        if not (self.insert or self.update or self.delete):
            raise ValueError(f"channel {self.channel!r}: tell of insert, update or delete")
        digest = hashlib.sha256(self.channel.encode()).hexdigest()[:8]
        super().__init__(name=name or f"{MARK}{digest}_%(app_label)s_%(class)s")

    def __repr__(self) -> str:
        return f"<NotifyOn channel={self.channel!r} name={self.name!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NotifyOn):
            return bool(self.deconstruct() == other.deconstruct())
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def deconstruct(self) -> Any:
        """Return how to make it again, for migrations."""
        options = {
            "insert": self.insert,
            "update": self.update,
            "delete": self.delete,
            "old": self.old,
            "new": self.new,
            "name": self.name,
        }
        return "pgnotifier.contrib.django.NotifyOn", (self.channel,), options

    # --- as a constraint ---

    def constraint_sql(  # type: ignore[override]
        self, model: Any, schema_editor: Any
    ) -> None:
        """Have the trigger created once the table is there."""
        if sql := self.create_sql(model, schema_editor):
            schema_editor.deferred_sql.append(sql)

    def create_sql(self, model: Any, schema_editor: Any) -> str | None:  # type: ignore[override]
        """Return what creates function and trigger; None for other databases than PostgreSQL."""
        if schema_editor.connection.vendor != "postgresql":
            return None
        name, table = _quote(self.name), schema_editor.quote_name(model._meta.db_table)
        events = " OR ".join(event.upper() for event in self.events)
        return (
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$pgnotifier$\nDECLARE\n{_declare()}BEGIN\n{self.body(model)}END\n$pgnotifier$;\n"
            f"DROP TRIGGER IF EXISTS {name} ON {table};\n"
            f"CREATE TRIGGER {name} AFTER {events} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {name}();"
        )

    def remove_sql(self, model: Any, schema_editor: Any) -> str | None:  # type: ignore[override]
        """Return what removes both."""
        if schema_editor.connection.vendor != "postgresql":
            return None
        name, table = _quote(self.name), schema_editor.quote_name(model._meta.db_table)
        return f"DROP TRIGGER IF EXISTS {name} ON {table};\nDROP FUNCTION IF EXISTS {name}();"

    def validate(
        self, model: Any, instance: Any, exclude: Any = None, using: str = DEFAULT_DB_ALIAS
    ) -> None:
        """Refuse no row."""

    def check(self, model: Any, connection: Any) -> list[checks.CheckMessage]:
        """Return what `manage.py check` is to say of a model."""
        return self.find_problems(model)

    _check = check  # as Django 5.2 calls it

    # --- what it does ---

    @property
    def events(self) -> list[str]:
        """What it tells of: `insert`, `update`, `delete`."""
        return [event for event in ("insert", "update", "delete") if getattr(self, event)]

    def body(self, model: Any) -> str:
        """Return the statements of the trigger's function, for PL/pgSQL."""
        lines = []
        if self.update:
            lines += ["IF TG_OP = 'UPDATE' THEN", *self._find_changes(model), "END IF;"]
        lines += [
            "told := jsonb_build_object(",
            f"    'model', {_literal(model._meta.label_lower)}, 'operation', lower(TG_OP), 'pk',",
            f"    CASE TG_OP WHEN 'DELETE' THEN {_key(model, 'OLD')} ELSE {_key(model, 'NEW')} END",
            ");",
            "IF TG_OP = 'UPDATE' THEN",
            "    told := told || jsonb_build_object('changed', to_jsonb(changed));",
            "END IF;",
            "whole := told;",
        ]
        for side, without in (("old", "INSERT"), ("new", "DELETE")):
            fields = getattr(self, side)
            if fields:
                values = _values(model, fields, side.upper())
                lines += [
                    f"IF TG_OP <> '{without}' THEN",
                    f"    whole := whole || jsonb_build_object('{side}', {values});",
                    "END IF;",
                ]
        lines += [
            f"IF octet_length(whole::text) > {MAX_PAYLOAD_BYTES} THEN",
            "    whole := told || '{\"truncated\": true}';",
            "END IF;",
            f"IF octet_length(whole::text) > {MAX_PAYLOAD_BYTES} THEN  -- so many columns",
            "    whole := (told - 'changed') || '{\"truncated\": true}';",
            "END IF;",
            f"PERFORM pg_notify({_literal(self.channel)}, whole::text);",
            "RETURN NULL;",
        ]
        return "".join(f"    {line}\n" for line in lines)

    def find_problems(self, model: Any) -> list[checks.CheckMessage]:
        """Return what `manage.py check` is to say."""
        named = [
            name for fields in (self.update, self.old, self.new) if not isinstance(fields, bool)
            for name in fields
        ]  # fmt: skip
        # Those of parent models are in other tables.
        fields = {field.name for field in model._meta.local_concrete_fields}
        return [
            checks.Error(
                f"{self!r} names {name!r}, which is no field of {model._meta.label}'s table.",
                hint="Correct the name in update=, old= or new=.",
                obj=model,
                id="pgnotifier.E007",
            )
            for name in dict.fromkeys(named)
            if name not in fields
        ]

    def _find_changes(self, model: Any) -> Iterable[str]:
        if self.update is True:  # found anew each time, so that columns added later count, too
            yield "    changed := ARRAY("
            yield "        SELECT n.key FROM jsonb_each(to_jsonb(NEW)) n"
            yield "        JOIN jsonb_each(to_jsonb(OLD)) o USING (key)"
            yield "        WHERE n.value IS DISTINCT FROM o.value ORDER BY 1);"
        else:
            for column in _columns(model, self.update or ()):
                quoted = _quote(column)
                yield f"    IF NEW.{quoted} IS DISTINCT FROM OLD.{quoted} THEN"
                yield f"        changed := changed || {_literal(column)}::text;"
                yield "    END IF;"
        yield "    IF changed = '{}' THEN"
        yield "        RETURN NULL;"
        yield "    END IF;"


def notify_on(
    model: type[Model],
    *,
    channel: Channel | str,
    insert: bool = True,
    update: Fields = True,
    delete: bool = True,
    old: Fields = False,
    new: Fields = False,
    name: str | None = None,
) -> None:
    """Have a model's changes notify: see `NotifyOn`, whose arguments these are.

        orders = Channel("orders")
        notify_on(Order, insert=True, update=["status"], delete=True, channel=orders)

    Call it in a module that is imported with the models, or in `notifications`; then
    `makemigrations` sees it. Receivers get the model as `sender`.

    Where django-pgtrigger is installed it becomes one of its triggers.

    Raises:
        ChannelNameError: PostgreSQL has no such channel.
        ValueError: There would be nothing to tell of.
    """
    made = NotifyOn(
        channel, insert=insert, update=update, delete=delete, old=old, new=new, name=name
    )
    if apps.is_installed("pgtrigger"):
        _register_trigger(model, made)
        return
    options: Any = model._meta
    made.name = made.name % {
        "app_label": options.app_label.lower(),
        "class": options.model_name,
    }
    # What migrations are made of is both; Options has made it a list of its own.
    others = [one for one in options.constraints if one.name != made.name]
    options.constraints = [*others, made]
    options.original_attrs["constraints"] = options.constraints


def drop_orphans(sender: Any, using: str, **_: Any) -> None:
    """Drop functions whose table has been dropped, and their trigger with it, after `migrate`."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p"
            " WHERE p.proname LIKE %s AND p.prorettype = 'trigger'::regtype"
            " AND p.prosrc LIKE '%%pg_notify%%'"
            " AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid)",
            [MARK.replace("_", r"\_") + "%"],
        )
        for (function,) in cursor.fetchall():
            cursor.execute(f"DROP FUNCTION IF EXISTS {function}")


def _register_trigger(model: type[Model], made: NotifyOn) -> None:
    import pgtrigger

    operations = {
        "insert": pgtrigger.Insert,
        "update": pgtrigger.Update,
        "delete": pgtrigger.Delete,
    }
    events = [operations[event] for event in made.events]
    operation = events[0]
    for event in events[1:]:
        operation |= event
    digest = hashlib.sha256(made.channel.encode()).hexdigest()[:8]
    name = made.name if "%" not in made.name else f"{MARK}{digest}"
    trigger = pgtrigger.Trigger(
        name=name[:PGTRIGGER_NAME],
        when=pgtrigger.After,
        operation=operation,
        declare=list(VARIABLES),
        func=made.body(model),
    )
    pgtrigger.register(trigger)(model)


VARIABLES = (("changed", "text[] := '{}'"), ("told", "jsonb"), ("whole", "jsonb"))


def _declare() -> str:
    return "".join(f"    {name} {kind};\n" for name, kind in VARIABLES)


def _fields(given: Fields) -> bool | list[str]:
    if isinstance(given, str):
        raise TypeError(f"fields are True, False or a list of names, not {given!r}")
    return given if isinstance(given, bool) else [*given]


def _columns(model: Any, fields: Iterable[str]) -> list[str]:
    return [model._meta.get_field(name).column for name in fields]


def _values(model: Any, fields: bool | list[str], row: str) -> str:
    if isinstance(fields, bool):
        return f"to_jsonb({row})"
    pairs = (f"{_literal(one)}, {row}.{_quote(one)}" for one in _columns(model, fields))
    return f"jsonb_build_object({', '.join(pairs)})"


def _key(model: Any, row: str) -> str:
    """Return an expression for the primary key; an array for a composite one."""
    fields = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    columns = [f"{row}.{_quote(field.column)}" for field in fields]
    if len(columns) == 1:
        return f"to_jsonb({columns[0]})"
    return f"jsonb_build_array({', '.join(columns)})"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    # With standard_conforming_strings, which Django needs, too.
    return "'" + text.replace("'", "''") + "'"
