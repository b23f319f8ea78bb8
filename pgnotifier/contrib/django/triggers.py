"""Triggers: rows that change notify, and migrations install what makes them."""

import hashlib
import re
from typing import Any

from django.apps import apps
from django.core import checks
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.ddl_references import Statement, Table
from django.db.models import BaseConstraint, Model

from pgnotifier._registry.checks import check_channel
from pgnotifier.contrib.django.channels import Channel
from pgnotifier.contrib.django.trigger_sql import (
    VARIABLES,
    Fields,
    Telling,
    make_body,
    make_create,
    make_remove,
    make_source,
)

MAX_NAME_BYTES = 63
"""What PostgreSQL takes as a name; it cuts off the rest of longer ones."""
PGTRIGGER_NAME = 43
"""The most characters that django-pgtrigger takes as a trigger's name."""


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
            name: That of the trigger; if it has over 63 bytes, its end is replaced by a hash.
                Default: one made of the model's and a hash of the other arguments.

        Raises:
            ChannelNameError: PostgreSQL has no such channel.
            ValueError: There would be nothing to tell of.
        """
        if isinstance(channel, Channel):
            channel.keep()  # it knows the database
            channel = channel.name
        self.channel = check_channel(channel)
        self.insert, self.delete = bool(insert), bool(delete)
        self.update, self.old, self.new = _fields(update), _fields(old), _fields(new)
        if not (self.insert or self.update or self.delete):
            raise ValueError(f"channel {self.channel!r}: tell of insert, update or delete")
        digest = _digest(repr(tuple(self.telling)))[:8]
        super().__init__(name=_Name.of(name or f"pgnotifier_{digest}_%(app_label)s_%(class)s"))

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
            "name": str(self.name),
        }
        return "pgnotifier.contrib.django.NotifyOn", (self.channel,), options

    # --- as a constraint ---

    def constraint_sql(  # type: ignore[override]
        self, model: Any, schema_editor: Any
    ) -> None:
        """Have the trigger created once the table is there."""
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.deferred_sql.append(_Deferred(self, model, schema_editor))

    def create_sql(self, model: Any, schema_editor: Any) -> str | None:  # type: ignore[override]
        """Return what creates function and trigger; None for other databases than PostgreSQL."""
        if schema_editor.connection.vendor != "postgresql":
            return None
        return self.create_in(model, schema_editor.quote_name(model._meta.db_table))

    def remove_sql(self, model: Any, schema_editor: Any) -> str | None:  # type: ignore[override]
        """Return what removes both."""
        if schema_editor.connection.vendor != "postgresql":
            return None
        return make_remove(schema_editor.quote_name(model._meta.db_table), str(self.name))

    def create_in(self, model: Any, table: str) -> str:
        """Return what creates function and trigger, for a table whose name is quoted."""
        source = make_source(model, self.telling)
        return make_create(table, str(self.name), self.telling.events, source)

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
    def telling(self) -> Telling:
        """What it tells."""
        return Telling(self.channel, self.insert, self.update, self.delete, self.old, self.new)

    def find_problems(self, model: Any) -> list[checks.CheckMessage]:
        """Return what `manage.py check` is to say."""
        if model._meta.proxy or not model._meta.managed:
            return [
                checks.Warning(
                    f"{self!r} makes no trigger: migrations make no table of {model._meta.label}.",
                    hint="Declare it on the model that the table belongs to, if that is managed.",
                    obj=model,
                    id="pgnotifier.W002",
                )
            ]
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


class _Name(str):
    """A name that Django puts the model's into, by `%`; it may have other `%` in it."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> "_Name":
        """Return a name; no longer than PostgreSQL takes, once the model's is in it."""
        is_open = "%(app_label)s" in text or "%(class)s" in text
        return cls(text if is_open else shorten(text, MAX_NAME_BYTES))

    def __mod__(self, names: Any) -> "_Name":
        app, model = names["app_label"], names["class"]
        return self.of(self.replace("%(app_label)s", app).replace("%(class)s", model))


class _Deferred(Statement):
    """Creates a trigger once its table is there, by whatever name that has by then."""

    def __init__(self, made: NotifyOn, model: Any, schema_editor: Any) -> None:
        table = Table(model._meta.db_table, schema_editor.quote_name)
        super().__init__("%(table)s", table=table)
        self._made, self._model = made, model

    def __str__(self) -> str:
        return self._made.create_in(self._model, str(self.parts["table"]))


def shorten(name: str, size: int) -> str:
    """Return a name of up to so many bytes: with a hash of the whole, if it has more."""
    if len(name.encode()) <= size:
        return name
    digest = _digest(name)[:16]
    head = name.encode()[: size - len(digest) - 1].decode(errors="ignore")
    return f"{head}_{digest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    made.name = made.name % {"app_label": options.app_label.lower(), "class": options.model_name}
    if made in options.constraints:  # its module has been imported once more
        return
    # What migrations are made of is both; Options has made it a list of its own.
    options.constraints = [*options.constraints, made]
    options.original_attrs["constraints"] = options.constraints


def _register_trigger(model: type[Model], made: NotifyOn) -> None:
    import pgtrigger

    operations = {
        "insert": pgtrigger.Insert,
        "update": pgtrigger.Update,
        "delete": pgtrigger.Delete,
    }
    events = [operations[event] for event in made.telling.events]
    operation = events[0]
    for event in events[1:]:
        operation |= event
    trigger = pgtrigger.Trigger(
        name=_name_for_pgtrigger(made),
        when=pgtrigger.After,
        operation=operation,
        declare=list(VARIABLES),
        func=make_body(model, made.telling),
    )
    pgtrigger.register(trigger)(model)


def _name_for_pgtrigger(made: NotifyOn) -> str:
    """Return a name as django-pgtrigger takes it: short, of ASCII letters, digits, `-` and `_`.

    The model's is added by django-pgtrigger itself.
    """
    name = str(made.name)
    plain = name.replace("_%(app_label)s_%(class)s", "")
    if re.fullmatch(r"[a-zA-Z0-9_-]+", plain):
        return shorten(plain, PGTRIGGER_NAME)
    return f"pgnotifier_{_digest(name)[:16]}"


def _fields(given: Fields) -> bool | list[str]:
    if isinstance(given, str):
        raise TypeError(f"fields are True, False or a list of names, not {given!r}")
    return given if isinstance(given, bool) else [*given]
