"""Provide `notify_on` and `NotifyOn`: triggers that notify of changed rows, made by migrations."""

import re
from typing import Any

from django.apps import apps
from django.core import checks
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.ddl_references import Statement, Table
from django.db.models import BaseConstraint, Model

from pgnotifier._registry.checks import check_channel, check_unreserved
from pgnotifier._triggers.quoting import digest, shorten
from pgnotifier._triggers.row_body import VARIABLES
from pgnotifier.contrib.django.channels import Channel
from pgnotifier.contrib.django.trigger_sql import (
    Fields,
    TriggerDefinition,
    make_body,
    make_create,
    make_remove,
    make_source,
)

PGTRIGGER_NAME = 43
"""The maximum length of a trigger's name in django-pgtrigger, in characters."""


class NotifyOn(BaseConstraint):
    """A trigger that notifies of changes, declared as a constraint of a model.

        class Order(models.Model):
            class Meta:
                constraints = [NotifyOn("orders", update=["status"], new=["status"])]

    `makemigrations` and `migrate` treat it like any constraint. The payload is a dict:

        {"model": "shop.order", "operation": "update", "pk": 5, "changed": ["status"],
         "new": {"status": "paid"}}

    `changed` is only there for updates; `old` and `new` have to be requested. Names are those of
    columns (`customer_id`). A payload over NOTIFY's limit of 7,999 bytes is sent without `old` and
    `new`, and with `"truncated": true`, so that the change of the row never fails for its size.

    A durable trigger publishes an entry to the log instead, with the primary key as its key, and up
    to 64 MiB. The role that changes a row then needs the rights of a publisher.
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
        durable: bool | None = None,
    ) -> None:
        """Define a trigger.

        Args:
            channel: The channel to notify.
            insert: Whether to notify of inserted rows.
            update: Whether to notify of updates that change something; or the names of the fields
                to watch.
            delete: Whether to notify of deleted rows. TRUNCATE doesn't notify.
            old: Whether to send the old values; or the names of the fields to send.
            new: Whether to send the new values; or the names of the fields to send.
            name: The name of the trigger. If it has over 63 bytes, its end is replaced by a hash.
                Default: made from the model's name and a hash of the other arguments.
            durable: Whether to publish to the log. Default: as the channel, if that is given as an
                object; otherwise no.

        Raises:
            ChannelNameError: PostgreSQL doesn't allow the name of the channel; or it is durable,
                and an outbox.
            ValueError: insert, update and delete are all off.
        """
        if isinstance(channel, Channel):
            channel.keep()  # because it knows the database
            durable = channel.durable if durable is None else durable
            channel = channel.name
        self.channel = check_channel(channel)
        self.insert, self.delete = bool(insert), bool(delete)
        self.update, self.old, self.new = _fields(update), _fields(old), _fields(new)
        self.durable = bool(durable)
        if self.durable:
            check_unreserved(self.channel)
        if not (self.insert or self.update or self.delete):
            raise ValueError(
                f"channel {self.channel!r}: at least one of insert, update and delete must be on"
            )
        *others, _ = self.definition
        # Triggers that aren't durable keep the names that earlier versions gave them.
        hashed = digest(repr((*others, *(["durable"] if self.durable else []))))[:8]
        super().__init__(name=_Name.of(name or f"pgnotifier_{hashed}_%(app_label)s_%(class)s"))

    def __repr__(self) -> str:
        return f"<NotifyOn channel={self.channel!r} name={self.name!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NotifyOn):
            return bool(self.deconstruct() == other.deconstruct())
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def deconstruct(self) -> Any:
        """Return the arguments to make it again, for migrations."""
        options = {
            "insert": self.insert,
            "update": self.update,
            "delete": self.delete,
            "old": self.old,
            "new": self.new,
            "name": str(self.name),
        }
        if self.durable:  # so that existing migrations stay as they are
            options["durable"] = True
        return "pgnotifier.contrib.django.NotifyOn", (self.channel,), options

    # --- as a constraint ---

    def constraint_sql(  # type: ignore[override]
        self, model: Any, schema_editor: Any
    ) -> None:
        """Create the trigger once the table exists."""
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.deferred_sql.append(_Deferred(self, model, schema_editor))

    def create_sql(self, model: Any, schema_editor: Any) -> str | None:  # type: ignore[override]
        """Return SQL that creates the function and the trigger; None if it isn't PostgreSQL."""
        if schema_editor.connection.vendor != "postgresql":
            return None
        return self.create_in(model, schema_editor.quote_name(model._meta.db_table))

    def remove_sql(self, model: Any, schema_editor: Any) -> str | None:  # type: ignore[override]
        """Return SQL that removes the function and the trigger."""
        if schema_editor.connection.vendor != "postgresql":
            return None
        return make_remove(schema_editor.quote_name(model._meta.db_table), str(self.name))

    def create_in(self, model: Any, table: str) -> str:
        """Return SQL that creates the function and the trigger, for a quoted table name."""
        source = make_source(model, self.definition)
        return make_create(table, str(self.name), self.definition.events, source)

    def validate(
        self, model: Any, instance: Any, exclude: Any = None, using: str = DEFAULT_DB_ALIAS
    ) -> None:
        """Accept every row."""

    def check(self, model: Any, connection: Any) -> list[checks.CheckMessage]:
        """Return the problems that `manage.py check` reports."""
        return self.find_problems(model)

    _check = check  # the name in Django 5.2

    # --- what it does ---

    @property
    def definition(self) -> TriggerDefinition:
        """The definition of the trigger, as `trigger_sql` takes it."""
        return TriggerDefinition(
            self.channel,
            self.insert,
            self.update,
            self.delete,
            self.old,
            self.new,
            self.durable,
        )

    def find_problems(self, model: Any) -> list[checks.CheckMessage]:
        """Return the problems of this trigger on a model."""
        if model._meta.proxy or not model._meta.managed:
            return [
                checks.Warning(
                    f"{self!r} has no effect: migrations don't create a table for "
                    f"{model._meta.label}.",
                    hint="Declare it on the model that the table belongs to, if that is managed.",
                    obj=model,
                    id="pgnotifier.W002",
                )
            ]
        named = [
            name for fields in (self.update, self.old, self.new) if not isinstance(fields, bool)
            for name in fields
        ]  # fmt: skip
        # The fields of parent models are in other tables.
        fields = {field.name for field in model._meta.local_concrete_fields}
        return [
            checks.Error(
                f"{self!r} names {name!r}, which isn't a field of {model._meta.label}'s table.",
                hint="Correct the name in update=, old= or new=.",
                obj=model,
                id="pgnotifier.E007",
            )
            for name in dict.fromkeys(named)
            if name not in fields
        ]


class _Name(str):
    """A name that Django completes with the model's name, by `%`. It may contain other `%`, too."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> "_Name":
        """Return a name; once it is complete, shorten it to PostgreSQL's limit."""
        is_open = "%(app_label)s" in text or "%(class)s" in text
        return cls(text if is_open else shorten(text))

    def __mod__(self, names: Any) -> "_Name":
        app, model = names["app_label"], names["class"]
        return self.of(self.replace("%(app_label)s", app).replace("%(class)s", model))


class _Deferred(Statement):
    """Creates a trigger once its table exists, under the name that the table has by then."""

    def __init__(self, made: NotifyOn, model: Any, schema_editor: Any) -> None:
        table = Table(model._meta.db_table, schema_editor.quote_name)
        super().__init__("%(table)s", table=table)
        self._made, self._model = made, model

    def __str__(self) -> str:
        return self._made.create_in(self._model, str(self.parts["table"]))


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
    durable: bool | None = None,
) -> None:
    """Notify of a model's changes. For the arguments, see `NotifyOn`.

        orders = Channel("orders")
        notify_on(Order, insert=True, update=["status"], delete=True, channel=orders)

    Call it in a module that is imported with the models, or in `notifications`; then
    `makemigrations` sees it. Receivers get the model as `sender`.

    If django-pgtrigger is installed, this registers one of its triggers instead.

    Raises:
        ChannelNameError: PostgreSQL doesn't allow the name of the channel; or it is durable, and
            an outbox.
        ValueError: insert, update and delete are all off.
    """
    made = NotifyOn(
        channel,
        insert=insert,
        update=update,
        delete=delete,
        old=old,
        new=new,
        name=name,
        durable=durable,
    )
    if apps.is_installed("pgtrigger"):
        _register_trigger(model, made)
        return
    options: Any = model._meta
    made.name = made.name % {"app_label": options.app_label.lower(), "class": options.model_name}
    if made in options.constraints:  # the module was imported again
        return
    # Migrations read both. Make a new list, because `constraints` may be shared.
    options.constraints = [*options.constraints, made]
    options.original_attrs["constraints"] = options.constraints


def _register_trigger(model: type[Model], made: NotifyOn) -> None:
    import pgtrigger

    operations = {
        "insert": pgtrigger.Insert,
        "update": pgtrigger.Update,
        "delete": pgtrigger.Delete,
    }
    events = [operations[event] for event in made.definition.events]
    operation = events[0]
    for event in events[1:]:
        operation |= event
    trigger = pgtrigger.Trigger(
        name=_name_for_pgtrigger(made),
        when=pgtrigger.After,
        operation=operation,
        declare=list(VARIABLES),
        func=make_body(model, made.definition),
    )
    pgtrigger.register(trigger)(model)


def _name_for_pgtrigger(made: NotifyOn) -> str:
    """Return a name that django-pgtrigger allows: short, of ASCII letters, digits, `-` and `_`.

    django-pgtrigger adds the name of the model itself.
    """
    name = str(made.name)
    plain = name.replace("_%(app_label)s_%(class)s", "")
    if re.fullmatch(r"[a-zA-Z0-9_-]+", plain):
        return shorten(plain, PGTRIGGER_NAME)
    return f"pgnotifier_{digest(name)[:16]}"


def _fields(given: Fields) -> bool | list[str]:
    if isinstance(given, str):
        raise TypeError(f"fields must be True, False or a list of names, not {given!r}")
    return given if isinstance(given, bool) else [*given]
