"""The package's SQL doesn't run code of a stranger who may create objects in `public`."""

import pytest
from django.apps import apps
from django.db import connection
from django.db.migrations.state import ProjectState

from pgnotifier.contrib.django import NotifyOn
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.contrib.django.rows import find_foreign_owner
from pgnotifier.contrib.django.test import captureNotifications
from pgnotifier.contrib.django.trigger_sql import make_create
from pgnotifier.contrib.django.upkeep import drop_orphans, refresh_triggers
from pgnotifier.contrib.django.watching import Watch
from shop.models import Customer, Letter, Order, orders

# What the stranger shadows, with argument types that match better than PostgreSQL's own.
FUNCTIONS = [
    "array_append", "cardinality", "chr", "concat",
    "coalesce", "current_setting", "jsonb_build_array", "jsonb_build_object",
    "jsonb_each", "ltrim", "lower", "md",
    "octet_length", "pg_backend_pid", "pg_get_functiondef", "pg_has_role",
    "pg_notify", "quote_ident", "quote_literal", "random",
    "set_config", "starts_with", "strpos", "to_jsonb",
    "to_regclass",
]  # fmt: skip
ARGUMENTS = [
    "", "anyelement", "text", "varchar", "jsonb", "bigint", "oid", "name", "shop_order",
    "shop_letter", "oid, text", "name, text", "text, text", "varchar, varchar", "text, varchar",
    "text, text, boolean", "anyarray, text", "text[], text", "text, text, text",
    "text, text, text, text", "text, text, text, text, text, bigint",
    "text, text, text, text, text, jsonb", "text, jsonb", "text, varchar, text, bigint",
]  # fmt: skip
OPERATORS = ["=", "<>", "||", ">", "<", ">=", "-", "~~", "*=", "*<>", "->"]
OPERANDS = [
    ("text", "text"), ("varchar", "varchar"), ("varchar", "text"), ("text", "varchar"),
    ("name", "text"), ("name", "name"), ("oid", "oid"), ("oid", "regclass"), ("oid", "bigint"),
    ("jsonb", "jsonb"), ("jsonb", "text"), ("integer", "integer"), ("bigint", "bigint"),
    ("text[]", "text[]"), ("text[]", "text"), ("regclass", "oid"), ("regtype", "oid"),
    ("oid", "regtype"), ("timestamptz", "timestamptz"), ("shop_order", "shop_order"),
    ("shop_letter", "shop_letter"),
]  # fmt: skip
RELATIONS = [
    "pg_proc", "pg_trigger", "pg_namespace", "pg_class", "pg_language", "pg_roles", "pg_database",
    "pg_auth_members",
]  # fmt: skip
TYPES = ["text", "jsonb", "name", "oid", "regclass", "regtype", "record", "trigger", "timestamptz"]


@pytest.fixture
def theft(stranger):
    """Shadow all names; yield a function that returns how often the stranger's code has run."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE stolen; GRANT ALL ON SEQUENCE stolen TO PUBLIC")
        cursor.execute("SET ROLE stranger")
        # A rollback or a caught exception doesn't reset a sequence.
        body = "$$ BEGIN PERFORM pg_catalog.nextval('public.stolen'); RETURN {}; END $$"
        made = "CREATE FUNCTION public.{}({}) RETURNS {} LANGUAGE plpgsql AS " + body
        for name in FUNCTIONS:
            for arguments in ARGUMENTS:
                _try(cursor, made.format(f'"{name}"', arguments, "pg_catalog.text", "'x'"))
        for left, right in OPERANDS:
            for operator in OPERATORS:
                returns = {"||": "jsonb", "-": "jsonb", "->": "jsonb"}.get(operator, "boolean")
                name = f'"{operator} {left} {right}"'
                value = "NULL" if returns == "jsonb" else "true"
                _try(cursor, made.format(name, f"{left}, {right}", returns, value))
                _try(
                    cursor,
                    f"CREATE OPERATOR public.{operator} (leftarg = {left}, rightarg = {right}, "
                    f"function = public.{name})",
                )
        for name in RELATIONS:
            _try(
                cursor,
                f"CREATE VIEW public.{name} AS SELECT pg_catalog.nextval('public.stolen') AS oid",
            )
        for name in TYPES:
            _try(
                cursor,
                f"CREATE DOMAIN public.{name} AS pg_catalog.text "
                "CHECK (pg_catalog.nextval('public.stolen') IS NOT NULL)",
            )
        cursor.execute("RESET ROLE; SET search_path = public, pg_catalog")

        def count():
            with connection.cursor() as again:
                again.execute("SELECT last_value, is_called FROM stolen")
                value, is_called = again.fetchone()
            return value if is_called else 0

        yield count
        cursor.execute("SET search_path = public")


def _try(cursor, sql):
    cursor.execute("SAVEPOINT here")
    try:
        cursor.execute(sql)
    except Exception:  # noqa: BLE001 - some signatures are invalid
        cursor.execute("ROLLBACK TO SAVEPOINT here")


def test_the_traps_work(theft):
    """A superuser who uses names without a schema runs the stranger's code."""
    for number, sql in enumerate(
        [
            "SELECT to_jsonb(5::bigint)",
            "SELECT pg_notify('a', 'b')",
            "SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text",
            "SELECT '{}'::pg_catalog.jsonb || '{}'::pg_catalog.jsonb",
            "SELECT 'a'::text",
            "SELECT * FROM pg_proc",
            "SELECT octet_length('a'::pg_catalog.text)",
        ],
        1,
    ):
        with connection.cursor() as cursor:
            cursor.execute(sql)
        assert theft() >= number, sql


def test_changes_of_rows(theft):
    """Triggers, of some columns or of all, don't run the stranger's code."""
    with connection.cursor() as cursor:
        for table, column in (("shop_order", "note"), ("shop_letter", "text")):
            cursor.execute(
                {
                    "shop_order": (
                        'INSERT INTO shop_order (item, "order status", amount, note) '
                        "VALUES ('a', 'b', 1, 'c')"
                    ),
                    "shop_letter": "INSERT INTO shop_letter (text, extra) VALUES ('a', 'b')",
                }[table]
            )
            cursor.execute(f"UPDATE {table} SET {column} = 'other'")
            cursor.execute(f"UPDATE {table} SET {column} = NULL WHERE false")
        cursor.execute("UPDATE shop_order SET \"order status\" = 'paid'")
        cursor.execute("DELETE FROM shop_order")
        cursor.execute("DELETE FROM shop_letter")
    assert theft() == 0


def test_what_migrations_run(theft):
    """Creating, replacing, refreshing and removing triggers doesn't run the stranger's code."""
    made = NotifyOn("orders", update=["note"], new=True, name="pgnotifier_attacked")
    with connection.schema_editor(atomic=False) as editor:
        for _ in range(2):
            editor.execute(made.create_sql(Order, editor), None)
        editor.execute(made.remove_sql(Order, editor), None)
        stale = make_create(
            '"shop_order"', Order._meta.constraints[0].name, ["insert"], "BEGIN END"
        )
        editor.execute(stale, None)
        with connection.cursor() as cursor:
            cursor.execute(f'DROP TRIGGER "{Letter._meta.constraints[0].name}" ON shop_letter')
    refresh_triggers(apps.get_app_config("shop"), "default")
    drop_orphans(None, "default")
    assert theft() == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT p.prosrc FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p"
                       " ON p.oid OPERATOR(pg_catalog.=) t.tgfoid"
                       " WHERE t.tgrelid OPERATOR(pg_catalog.=) 'shop_order'::pg_catalog.regclass"
                       " AND NOT t.tgisinternal")  # fmt: skip
        (source,) = cursor.fetchone()
    assert "order status" in source


def test_sending(theft):
    """`Channel.notify` doesn't run the stranger's code."""
    orders.notify("hello")
    assert theft() == 0


def test_what_a_listener_writes_for_the_admin(theft):
    """Inserting and updating a listener's row doesn't run the stranger's code."""
    watch = Watch({"default": get_notifier("default")})
    for ended in (False, True):
        watch._write(ended=ended)
    assert theft() == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT state FROM pgnotifier_listener")
        assert cursor.fetchall() == [("stopped",)]


def test_what_a_check_looks_up(theft):
    """Finding the owner of the table of listeners doesn't run the stranger's code."""
    assert find_foreign_owner() is None
    assert theft() == 0


def test_functions_have_a_path_of_their_own(db):
    """Each function of the package sets its own search path."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT proconfig FROM pg_proc WHERE proname LIKE 'pgnotifier%%' AND proconfig IS NOT"
            " NULL OR prosrc LIKE '%%pg_notify%%' AND pronamespace = 'public'::regnamespace"
        )
        paths = cursor.fetchall()
    assert len(paths) >= 2
    assert {tuple(path) for (path,) in paths} == {("search_path=pg_catalog, pg_temp",)}


def test_a_function_of_a_stranger(db, stranger):
    """A stranger's function with the trigger's name is left alone, and the migration goes on."""
    made = NotifyOn("orders", name="pgnotifier_mine")
    theirs = "CREATE FUNCTION public.pgnotifier_mine() RETURNS trigger LANGUAGE plpgsql AS "
    theirs += "'BEGIN RETURN NULL; END -- pg_notify'"
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE stranger; {theirs}; RESET ROLE")
    with connection.schema_editor(atomic=False) as editor:
        editor.execute(made.create_sql(Customer, editor), None)
        with captureNotifications() as sent:
            Customer.objects.create(name="Ada")
        assert [one.channel for one in sent] == ["orders"]
        drop_orphans(None, "default")
        editor.execute(made.remove_sql(Customer, editor), None)
    with connection.cursor() as cursor:
        cursor.execute("SELECT proowner::regrole::text FROM pg_proc WHERE proname ="
                       " 'pgnotifier_mine'")  # fmt: skip
        assert cursor.fetchall() == [("stranger",)]


def test_migrating_as_another_role(db, stranger, functions):
    """A role that doesn't own an orphaned function leaves it, and the migration goes on."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE shop_away (id bigint PRIMARY KEY)")
    state = ProjectState.from_apps(apps)
    model = state.apps.get_model("shop", "Customer")
    made = NotifyOn("orders", name="pgnotifier_away")
    with connection.schema_editor(atomic=False) as editor:
        editor.execute(made.create_in(model, '"shop_away"'), None)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE shop_away; SET ROLE stranger")
        drop_orphans(None, "default")
        cursor.execute("RESET ROLE")
        assert "pgnotifier_away" in functions()
        drop_orphans(None, "default")
    assert "pgnotifier_away" not in functions()
