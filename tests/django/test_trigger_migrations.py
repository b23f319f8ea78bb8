"""Migrations of tables with triggers: changes are sent after renaming, adding and dropping."""

import json

import psycopg
import pytest
from django.apps import apps
from django.db import connection, migrations, models, transaction
from django.db.migrations.state import ModelState, ProjectState
from django.test.utils import isolate_apps
from psycopg import sql

from pgnotifier._triggers.quoting import shorten
from pgnotifier.contrib.django import NotifyOn, notify_on
from pgnotifier.contrib.django.test import captureNotifications
from pgnotifier.contrib.django.trigger_sql import make_create, make_source
from pgnotifier.contrib.django.upkeep import refresh_triggers
from shop.models import Customer, Order

FIELDS = [
    ("id", models.BigAutoField(primary_key=True)),
    ("text", models.TextField()),
]


@pytest.fixture
def migrate(db):
    """Yield a function that applies operations in one migration, as `migrate` does."""
    state = ProjectState()

    def migrate(*operations):
        nonlocal state
        with connection.schema_editor(atomic=True) as editor:
            for operation in operations:
                before, state = state, state.clone()
                operation.state_forwards("shop", state)
                operation.database_forwards("shop", editor, before, state)
        refresh_triggers(apps.get_app_config("shop"), "default", apps=state.apps)

    return migrate


def sent_by(*statements):
    """Return the payloads that statements send."""
    with transaction.atomic(), captureNotifications() as sent, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    return [one.payload for one in sent]


def create(*constraints, fields=FIELDS, name="Thing", **options):
    """Return the operation that creates a model."""
    return migrations.CreateModel(name, fields, {"constraints": constraints, **options})


def test_columns_and_keys_that_are_renamed(migrate):
    """After columns are renamed, payloads have the new names, with the same declaration."""
    migrate(create(NotifyOn("things", update=["text"], new=["text"], name="t")))
    renamed = models.TextField(db_column="other text")
    key = models.BigAutoField(primary_key=True, db_column="other key")
    migrate(
        migrations.AlterField("thing", "text", renamed), migrations.AlterField("thing", "id", key)
    )
    first, second = sent_by(
        "INSERT INTO shop_thing (\"other text\") VALUES ('a')",
        "UPDATE shop_thing SET \"other text\" = 'b'",
    )
    assert first["new"] == {"other text": "a"}
    assert second["changed"] == ["other text"]
    assert first["pk"] == second["pk"] > 0


def test_a_column_that_is_not_there_any_more(migrate):
    """If a column is missing until `migrate` runs, changes are sent without values."""
    migrate(create(NotifyOn("things", update=["text"], new=["text"], name="t")))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_thing RENAME text TO other")
    sent = sent_by(
        "INSERT INTO shop_thing (other) VALUES ('a')",
        "UPDATE shop_thing SET other = 'b'",
        "DELETE FROM shop_thing",
    )
    assert [one.get("truncated") for one in sent] == [True, True, None]
    assert all(one["pk"] > 0 for one in sent)


def test_columns_that_change_their_types(pgnotifier_postgres):
    """A session that has used a trigger goes on sending values after types of columns change."""
    made = NotifyOn("things", update=["name"], old=["name"], new=True)
    source = make_source(Customer, made.definition)
    with (
        pgnotifier_postgres.database() as dsn,
        psycopg.connect(dsn, autocommit=True) as session,
    ):
        session.execute("CREATE TABLE shop_customer (id integer, name text)")
        session.execute(make_create('"shop_customer"', "t", ["insert", "update"], source))
        session.execute("INSERT INTO shop_customer VALUES (1, 'a')")
        session.execute("LISTEN things")
        change = "UPDATE shop_customer SET name = 'b'"
        session.execute(change)
        session.execute("ALTER TABLE shop_customer ALTER id TYPE bigint, ALTER name TYPE varchar")
        session.execute(change.replace("b", "c"))
        session.execute("ALTER TABLE shop_customer ALTER name TYPE integer USING 7")
        session.execute(change.replace("b", "8"))
        sent = [json.loads(one.payload) for one in session.notifies(timeout=20, stop_after=3)]
    update = {"model": "shop.customer", "operation": "update", "pk": 1, "changed": ["name"]}
    assert sent == [
        {**update, "old": {"name": old}, "new": {"id": 1, "name": new}}
        for old, new in [("a", "b"), ("b", "c"), (7, 8)]
    ]


@pytest.mark.parametrize("fires", ["DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA"])
def test_a_trigger_that_is_replaced_keeps_when_it_fires(migrate, fires):
    """A trigger that was disabled, or enabled for replicas, is so after `migrate` replaces it."""
    migrate(create(NotifyOn("things", name="t")))
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE shop_thing {fires} TRIGGER t")
    migrate(migrations.RenameModel("Thing", "Other"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.tgenabled::text, p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid ="
            " t.tgfoid WHERE t.tgrelid = 'shop_other'::regclass AND t.tgname = 't'"
        )
        ((enabled, source),) = cursor.fetchall()
    assert "shop.other" in source
    assert enabled == {"DISABLE": "D", "ENABLE ALWAYS": "A", "ENABLE REPLICA": "R"}[fires]


def test_a_model_that_is_renamed(migrate):
    """After a model is renamed, payloads have its new name."""
    migrate(create(NotifyOn("things", name="t")))
    migrate(migrations.RenameModel("Thing", "Other"))
    (sent,) = sent_by("INSERT INTO shop_other (text) VALUES ('a')")
    assert sent["model"] == "shop.other"


def test_a_model_that_is_moved_to_another_app(migrate, caplog):
    """`migrate` warns of a trigger that exists only in the migrations' state, as after a move."""
    migrate(create(NotifyOn("things", name="before")))
    moved = create(NotifyOn("things", name="after"), name="Moved", db_table="shop_thing")
    assert not caplog.records
    migrate(
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.DeleteModel("Thing"), moved]
        ),
        create(NotifyOn("others", name="other"), name="Other"),
    )
    (record,) = caplog.records
    assert record.pgnotifier_event == "trigger_missing"
    assert record.levelname == "WARNING"
    assert 'table "shop_thing" has no trigger after' in record.getMessage()
    migrate(migrations.RunSQL("DROP TABLE shop_thing"))
    assert len(caplog.records) == 1


def test_changes_within_one_migration(migrate, functions):
    """One migration may create a table and then rename it, change it or drop it."""
    migrate(create(NotifyOn("things", name="t")), migrations.AlterModelTable("thing", "away"))
    (sent,) = sent_by("INSERT INTO away (text) VALUES ('a')")
    assert sent["model"] == "shop.thing"
    migrate(
        create(NotifyOn("things", name="gone"), name="Gone"),
        migrations.DeleteModel("Gone"),
        migrations.RemoveConstraint("thing", "t"),
        migrations.AddConstraint("thing", NotifyOn("others", name="t")),
        migrations.AddField("thing", "more", models.TextField(default="")),
    )
    (sent,) = sent_by("UPDATE away SET more = 'x'")
    assert sent["changed"] == ["more"]


def test_two_of_one_channel(migrate):
    """Two triggers with the same channel both send a notification."""
    one, two = NotifyOn("things", update=False), NotifyOn("things", update=["text"], new=True)
    migrate(create(one, two))
    sent = sent_by("INSERT INTO shop_thing (text) VALUES ('a')")
    assert ["new" in one for one in sent] in ([True, False], [False, True])


def test_names_that_begin_alike(migrate, functions):
    """Names that PostgreSQL would truncate to the same name stay distinct."""
    long = "x" * 70
    migrate(
        create(NotifyOn("a", name=f"{long}a"), name="A"),
        create(NotifyOn("b", name=f"{long}b"), fields=[FIELDS[0]], name="B"),
        create(NotifyOn("c"), name="C" * 95, db_table="c"),
        create(NotifyOn("d"), name="C" * 94 + "d", db_table="d"),
    )
    (sent,) = sent_by("INSERT INTO shop_a (text) VALUES ('a')")
    assert sent["model"] == "shop.a"
    for table in "cd":
        (sent,) = sent_by(f"INSERT INTO {table} (text) VALUES ('a')")
        assert sent["operation"] == "insert"
    migrate(migrations.RemoveConstraint("A", shorten(f"{long}a", 63)))
    (sent,) = sent_by("INSERT INTO shop_b DEFAULT VALUES")
    assert sent["model"] == "shop.b"


def test_shortening():
    """Names are cut at the end of a character, and differ if their ends do."""
    assert shorten("short", 63) == "short"
    cut = {shorten("é日" * 20 + end, 63) for end in "ab"}
    assert len(cut) == 2
    assert all(len(name.encode()) <= 63 for name in cut)


def test_two_models_with_one_name_for_the_trigger(migrate):
    """Two models may have triggers of the same name; each keeps its own function."""
    migrate(
        create(NotifyOn("a", name="same"), name="A"), create(NotifyOn("b", name="same"), name="B")
    )
    sent = sent_by("INSERT INTO shop_a (text) VALUES ('a')", "INSERT INTO shop_b (text) VALUES (1)")
    assert [one["model"] for one in sent] == ["shop.a", "shop.b"]


def test_many_fields(migrate):
    """A trigger may have more fields than a PostgreSQL function may have arguments."""
    names = [f"f{number}" for number in range(150)]
    fields = [FIELDS[0], *((name, models.IntegerField(default=0)) for name in names)]
    migrate(create(NotifyOn("things", update=names, new=names, name="t"), fields=fields))
    values = ", ".join("1" for _ in names)
    (sent,) = sent_by(f"INSERT INTO shop_thing ({', '.join(names)}) VALUES ({values})")
    assert sent["new"] == dict.fromkeys(names, 1)


def test_a_table_with_a_schema_and_partitions(migrate):
    """Changes of a partition in another schema are sent as changes of the model."""
    migrate(create(name="Thing", db_table="plain"))
    made = NotifyOn("things", name="t")
    state = ProjectState()
    state.add_model(ModelState("shop", "Log", FIELDS, {"db_table": '"other schema"."log"'}))
    model = state.apps.get_model("shop", "Log")
    with connection.cursor() as cursor:
        cursor.execute(
            'CREATE SCHEMA "other schema"; CREATE TABLE "other schema".log (id bigint, text text)'
            ' PARTITION BY LIST (id); CREATE TABLE log_1 PARTITION OF "other schema".log'
            " FOR VALUES IN (1)"
        )
    with connection.schema_editor(atomic=False) as editor:
        editor.add_constraint(model, made)
        sent = sent_by(
            "INSERT INTO \"other schema\".log VALUES (1, 'a')", "UPDATE log_1 SET text = 'b'"
        )
        assert [one["operation"] for one in sent] == ["insert", "update"]
        assert {one["model"] for one in sent} == {"shop.log"}
        editor.remove_constraint(model, made)
    assert sent_by("UPDATE log_1 SET text = 'c'") == []


@pytest.mark.parametrize("statement", ["RAISE 'no'", "ASSERT false"])
def test_a_cast_that_raises(migrate, statement):
    """If a user's cast to JSON raises an error, the change is sent without values."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TYPE odd AS ENUM ('a'); CREATE FUNCTION fail(odd) RETURNS json"
            f" LANGUAGE plpgsql AS $$BEGIN {statement}; END$$;"
            " CREATE CAST (odd AS json) WITH FUNCTION fail(odd)"
        )
    migrate(create(NotifyOn("things", new=True, name="t")))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_thing ADD odd odd")
    (sent,) = sent_by("INSERT INTO shop_thing (text, odd) VALUES ('a', 'a')")
    assert sent.pop("pk") > 0
    assert sent == {"model": "shop.thing", "operation": "insert", "truncated": True}


@pytest.mark.parametrize("channel", ["back\\slash\\", "it's 100%s of $1 \\", 'a"b'])
def test_sessions_that_read_backslashes_otherwise(migrate, channel):
    """A trigger works the same where `standard_conforming_strings` is off."""
    migrate(create(NotifyOn(channel, new=["text"], name=f"t {channel}")))
    with captureNotifications() as sent, connection.cursor() as cursor:
        cursor.execute("SET standard_conforming_strings = off")
        cursor.execute("INSERT INTO shop_thing (text) VALUES ('a')")
        cursor.execute("RESET standard_conforming_strings")
    assert [(one.channel, one.payload["new"]) for one in sent] == [(channel, {"text": "a"})]


def test_no_right_to_call_pg_notify(pgnotifier_postgres):
    """A role that may not call `pg_notify` can change rows; the trigger uses NOTIFY instead."""
    channel = "it's 100%s of $1 \\"
    source = make_source(Customer, NotifyOn(channel, new=["name"]).definition)
    with (
        pgnotifier_postgres.database() as dsn,
        psycopg.connect(dsn, autocommit=True) as session,
    ):
        session.execute("CREATE TABLE shop_customer (id bigint, name text)")
        session.execute(make_create('"shop_customer"', "t", ["insert"], source))
        session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        session.execute("REVOKE EXECUTE ON FUNCTION pg_notify FROM public")
        session.execute(
            "CREATE ROLE pgnotifier_poor; GRANT ALL ON shop_customer TO pgnotifier_poor"
        )
        try:
            session.execute("SET ROLE pgnotifier_poor")
            session.execute("INSERT INTO shop_customer (name) VALUES (E'it''s \\\\ $1 %s')")
            (sent,) = session.notifies(timeout=20, stop_after=1)
        finally:
            session.execute("RESET ROLE; DROP OWNED BY pgnotifier_poor; DROP ROLE pgnotifier_poor")
    assert json.loads(sent.payload)["new"] == {"name": "it's \\ $1 %s"}


def test_what_json_has_one_value_for(migrate):
    """A change from NULL to JSON's null is sent, and null to null isn't a change."""
    fields = [FIELDS[0], ("value", models.JSONField(null=True))]
    migrate(create(NotifyOn("things", name="t"), fields=fields))
    sent = sent_by(
        "INSERT INTO shop_thing (value) VALUES (NULL)",
        "UPDATE shop_thing SET value = 'null'",
        "UPDATE shop_thing SET value = 'null'",
    )
    assert [one.get("changed") for one in sent] == [None, ["value"]]


def test_a_database_of_another_encoding(pgnotifier_postgres):
    """The trigger measures a payload in the server's encoding, as NOTIFY does."""
    with psycopg.connect(pgnotifier_postgres.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
        try:
            dsn = psycopg.conninfo.make_conninfo(pgnotifier_postgres.dsn, dbname="latin")
            with psycopg.connect(dsn, autocommit=True, client_encoding="utf8") as latin:
                latin.execute(
                    'CREATE TABLE shop_order (id bigint, "order status" text, note text,'
                    " customer_id bigint, item text, amount numeric)"
                )
                source = make_source(Order, NotifyOn("orders", new=["note"]).definition)
                latin.execute(make_create('"shop_order"', "t", ["insert"], source))
                latin.execute("LISTEN orders")
                for count in (7500, 8000):  # each has two bytes in UTF-8
                    latin.execute("INSERT INTO shop_order (note) VALUES (repeat('é', %s))", [count])
                sent = [one.payload for one in latin.notifies(timeout=5, stop_after=2)]
        finally:
            admin.execute("DROP DATABASE latin WITH (FORCE)")
    assert ["truncated" in one for one in sent] == [False, True]


@isolate_apps("shop")
def test_names_and_fields_that_are_not_there():
    """A name may contain any `%`, and an unknown field is left out, for a check to report."""

    class Odd(models.Model):
        class Meta:
            app_label = "shop"
            constraints = (
                NotifyOn("a", name="100% $$ \"'"),
                NotifyOn("a", update=["nothing"], name="%(class)s_%s"),
            )

    notify_on(Odd, channel="b", name="%")
    names = [one.name for one in Odd._meta.constraints]
    assert names == ["100% $$ \"'", "odd_%s", "%"]
    assert "nothing" not in make_source(Odd, Odd._meta.constraints[1].definition)
