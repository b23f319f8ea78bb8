"""Triggers: what they send when rows change, and how migrations install them."""

from decimal import Decimal

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, connections, migrations, models
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.state import ModelState, ProjectState
from django.test.utils import isolate_apps

from pgnotifier import ChannelNameError, triggers
from pgnotifier.contrib.django import NotifyOn, notify_on
from pgnotifier.contrib.django.test import captureNotifications, liveNotifications
from pgnotifier.contrib.django.trigger_sql import make_body
from pgnotifier.contrib.django.upkeep import drop_orphans
from pgnotifier.triggers import Trigger
from shop.models import Customer, Letter, Note, Order, orders


def test_insert(db):
    """An insert sends the operation, the model, the primary key and the new values."""
    with captureNotifications() as sent:
        order = Order.objects.create(item="tea", note='a "quoted" note é')
    (change,) = sent
    assert change.channel == "orders"
    assert change.payload == {
        "model": "shop.order",
        "operation": "insert",
        "pk": order.pk,
        "new": {"order status": "new", "note": 'a "quoted" note é'},
    }


def test_update(db):
    """An update sends which watched fields have changed, and the requested values."""
    order = Order.objects.create(item="tea")
    customer = Customer.objects.create(name="Ada")
    with captureNotifications() as sent:
        Order.objects.update(status="paid", customer=customer)
    (change,) = sent
    assert change.payload == {
        "model": "shop.order",
        "operation": "update",
        "pk": order.pk,
        "changed": ["order status", "customer_id"],
        "old": {"order status": "new", "customer_id": None},
        "new": {"order status": "paid", "note": ""},
    }


def test_delete(db):
    """A delete sends the primary key and the old values."""
    order = Order.objects.create(item="tea")
    key = order.pk
    with captureNotifications() as sent:
        order.delete()
    (change,) = sent
    assert change.payload == {
        "model": "shop.order",
        "operation": "delete",
        "pk": key,
        "old": {"order status": "new", "customer_id": None},
    }


def test_what_is_not_sent(db):
    """An update of fields that aren't watched, or to the same value, isn't sent."""
    Order.objects.create(item="tea")
    with captureNotifications() as sent:
        Order.objects.update(item="coffee", amount=Decimal("1.10"))
        Order.objects.update(status="new")
    assert sent == []


def test_whole_rows(db):
    """A child of an abstract model has its own trigger, which watches every column."""
    letter = Letter.objects.create(text="one")
    with captureNotifications() as sent:
        Letter.objects.update(extra="more")
        Letter.objects.update(extra="more")
    (change,) = sent
    assert change.channel == "dated"
    assert change.payload["changed"] == ["extra"]
    assert change.payload["old"] == {"id": letter.pk, "text": "one", "extra": ""}
    assert change.payload["new"] == {"id": letter.pk, "text": "one", "extra": "more"}


def test_a_row_that_is_too_large(db):
    """A row that is too large for a payload is sent without its values."""
    with captureNotifications() as sent:
        letter = Letter.objects.create(text="é" * 4000)
    (change,) = sent
    assert change.payload == {
        "model": "shop.letter",
        "operation": "insert",
        "pk": letter.pk,
        "truncated": True,
    }


@pytest.mark.django_db(transaction=True, databases=["default", "second"])
def test_the_second_database(calls):
    """A model in the second database sends its changes there, and its channel listens there."""
    with liveNotifications(using="second") as live:
        note = Note.objects.create(text="hello")
        (change,) = live.wait_for(1)
    assert change.payload == {
        "model": "shop.note", "operation": "insert", "pk": note.pk, "new": {"text": "hello"}
    }  # fmt: skip
    ((what, sender, payload, _),) = calls
    assert (what, sender, payload) == ("note", Note, change.payload)


def test_no_migration_is_missing(db):
    """The migrations of the project match its declarations."""
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def _detect(before, after):
    """Return the operations that change some constraints into others."""
    states = []
    for constraints in (before, after):
        state = ProjectState()
        fields = [("id", models.BigAutoField(primary_key=True)), ("text", models.TextField())]
        state.add_model(ModelState("shop", "Thing", fields, {"constraints": constraints}))
        states.append(state)
    changes = MigrationAutodetector(*states).changes(graph=_Graph())
    return [
        operation for migration in changes.get("shop", []) for operation in migration.operations
    ]


class _Graph:
    def leaf_nodes(self, app=None):
        """Return the last migration."""
        return [("shop", "0001_initial")]


def test_makemigrations_notices_changes(db):
    """`makemigrations` notices a trigger that was added, changed or removed."""
    one = NotifyOn("a", update=["text"], name="one")
    same = NotifyOn("a", update=["text"], name="one")
    other = NotifyOn("a", update=["text"], new=["text"], name="one")
    assert _detect([one], [same]) == []
    (added,) = _detect([], [one])
    assert isinstance(added, migrations.AddConstraint)
    (removed,) = _detect([one], [])
    assert isinstance(removed, migrations.RemoveConstraint)
    first, second = _detect([one], [other])
    assert isinstance(first, migrations.RemoveConstraint)
    assert isinstance(second, migrations.AddConstraint)
    assert one != other
    assert one == one.clone()


@pytest.fixture
def migrate(transactional_db):
    """Yield a function that applies operations to a table, or reverses them."""
    state = ProjectState()

    def migrate(*operations, forwards=True):
        nonlocal state
        states = [state]
        for operation in operations:
            later = states[-1].clone()
            operation.state_forwards("shop", later)
            states.append(later)
        steps = list(zip(operations, states[:-1], states[1:], strict=True))
        with connection.schema_editor() as editor:
            if forwards:
                for operation, before, after in steps:
                    operation.database_forwards("shop", editor, before, after)
            else:
                for operation, before, after in reversed(steps):
                    operation.database_backwards("shop", editor, after, before)
        if forwards:
            state = states[-1]

    return migrate


FIELDS = [("id", models.BigAutoField(primary_key=True)), ("text", models.TextField())]


def test_forwards_and_backwards(migrate, functions):
    """Adding a trigger creates it, and reversing that removes it with its function."""
    before = functions()
    create = migrations.CreateModel("Thing", FIELDS)
    add = migrations.AddConstraint("thing", NotifyOn("things", name="pgnotifier_thing"))
    migrate(create)
    state = ProjectState()
    create.state_forwards("shop", state)
    later = state.clone()
    add.state_forwards("shop", later)
    for _ in range(2):
        with connection.schema_editor() as editor:
            add.database_forwards("shop", editor, state, later)
        assert functions() == sorted([*before, "pgnotifier_thing"])
        assert _sent_by("INSERT INTO shop_thing (text) VALUES ('x')") == ["insert"]
        assert _sent_by("UPDATE shop_thing SET text = 'y'") == ["update"]
        assert _sent_by("DELETE FROM shop_thing") == ["delete"]
        with connection.schema_editor() as editor:
            add.database_backwards("shop", editor, later, state)
        assert functions() == before
        assert _sent_by("INSERT INTO shop_thing (text) VALUES ('x')") == []
        assert _sent_by("DELETE FROM shop_thing") == []
    with connection.schema_editor() as editor:
        create.database_backwards("shop", editor, state, ProjectState())


def _sent_by(statement):
    from django.db import transaction

    with transaction.atomic(), captureNotifications() as sent, connection.cursor() as cursor:
        cursor.execute(statement)
    return [one.payload["operation"] for one in sent]


def test_a_table_that_is_dropped(migrate, functions):
    """The function of a dropped table's trigger is dropped after `migrate`; others stay."""
    before = functions()
    constraints = [NotifyOn("things", name="pgnotifier_thing")]
    create = migrations.CreateModel("Thing", FIELDS, {"constraints": constraints})
    migrate(create)
    assert "pgnotifier_thing" in functions()
    state = ProjectState()
    create.state_forwards("shop", state)
    with connection.schema_editor() as editor:
        create.database_backwards("shop", editor, state, ProjectState())
    assert "pgnotifier_thing" in functions()
    drop_orphans(sender=None, using="default")
    assert functions() == before
    drop_orphans(sender=None, using="lite")


@pytest.mark.django_db(databases=["lite"])
def test_other_databases():
    """On SQLite, tables are created without triggers."""
    state = ProjectState()
    constraints = [NotifyOn("things", name="pgnotifier_thing")]
    create = migrations.CreateModel("Thing", FIELDS, {"constraints": constraints})
    create.state_forwards("shop", state)
    model = state.apps.get_model("shop", "Thing")
    made = NotifyOn("x", name="x")
    connection = connections["lite"]
    connection.disable_constraint_checking()
    editor = connection.SchemaEditorClass(connection, collect_sql=True)
    editor.deferred_sql = []
    editor.create_model(model)
    assert [sql for sql in editor.collected_sql if "CREATE" in sql]
    assert editor.deferred_sql == []
    assert made.create_sql(model, editor) is None
    assert made.remove_sql(model, editor) is None


@isolate_apps("shop")
def test_names():
    """A trigger's default name begins with `pgnotifier_` and ends with the model's name."""

    class Named(models.Model):
        class Meta:
            app_label = "shop"
            constraints = (NotifyOn("one"), NotifyOn("two", name="mine"))

    names = [constraint.name for constraint in Named._meta.constraints]
    assert names[0].startswith("pgnotifier_")
    assert names[0].endswith("_shop_named")
    assert names[1] == "mine"


@isolate_apps("shop")
def test_a_declaration_that_is_repeated():
    """A repeated declaration has no effect; another one for the same channel is added."""

    class Twice(models.Model):
        class Meta:
            app_label = "shop"

    for update in (True, ["id"], True):
        notify_on(Twice, channel="twice", update=update)
    assert [one.update for one in Twice._meta.constraints] == [True, ["id"]]
    assert len({one.name for one in Twice._meta.constraints}) == 2


@isolate_apps("shop")
def test_a_composite_key():
    """A composite primary key is sent as an array."""

    class Pair(models.Model):
        pk = models.CompositePrimaryKey("a", "b")
        a = models.IntegerField()
        b = models.IntegerField()

        class Meta:
            app_label = "shop"

    body = make_body(Pair, NotifyOn("pairs", name="x").definition)
    assert 'jsonb_build_array(NEW."a", NEW."b")' in body


def test_what_can_not_be():
    """Invalid arguments raise an error at the declaration."""
    with pytest.raises(ChannelNameError, match="is reserved"):
        NotifyOn("pgnotifier:celery:default", durable=True)
    with pytest.raises(ValueError, match="'x': at least one of insert, update and delete"):
        NotifyOn("x", insert=False, update=False, delete=False)
    with pytest.raises(TypeError, match="a list of names, not 'status'"):
        NotifyOn("x", update="status")


def test_a_channel_with_quotes(db):
    """Names of channels and triggers may contain quotes."""
    made = NotifyOn("it's", name='a "b"')
    with connection.schema_editor(atomic=False) as editor:
        sql = made.create_sql(Customer, editor)
        editor.execute(sql, None)
        with captureNotifications() as sent:
            Customer.objects.create(name="Ada")
        assert [one.channel for one in sent] == ["it's"]
        editor.execute(made.remove_sql(Customer, editor), None)


def test_full_clean(db):
    """The trigger, although it is a constraint, accepts every row when it is validated."""
    Order(item="tea", status="new", note="x", customer=Customer.objects.create(name="Ada")).clean()
    Letter(text="x", extra="y").full_clean()
    assert apps.get_model("shop.letter") is Letter


def test_listing(db):
    """`pgnotifier.triggers` lists the triggers of models, and doesn't drop them."""
    found = {one.table: one for one in triggers.list(connection) if one.table == "shop_order"}
    one = found["shop_order"]
    assert (one.made_by, one.enabled, one.trigger) == ("django", "yes", None)
    assert one.channel == orders.name
    assert not triggers.drop(connection, Trigger("shop_order", one.channel, name=one.name))
    made = Trigger("shop_order", "plain", payload="full", when="NEW.item LIKE 'a%' OR true")
    triggers.create(connection, made)
    with captureNotifications() as sent:
        Order.objects.create(item="a", amount=1)
    assert {one.channel for one in sent} >= {"plain", orders.name}
    assert triggers.drop(connection, made)
