"""Triggers on tables of every kind: foreign, unlogged, partitioned, inherited; and on views."""

import pytest
from django.apps import apps
from django.db import connection, models, transaction
from django.db.migrations.state import ModelState, ProjectState

from pgnotifier.contrib.django import NotifyOn
from pgnotifier.contrib.django.test import captureNotifications
from pgnotifier.contrib.django.upkeep import refresh_triggers

CHANGES = (
    ("INSERT INTO shop_thing VALUES (1, 'a')", ["insert"]),
    ("UPDATE shop_thing SET text = 'b'", ["update"]),
    ("COPY shop_thing FROM PROGRAM 'echo 2,x' (FORMAT csv)", ["insert"]),
    ("DELETE FROM shop_thing", ["delete", "delete"]),
)
TABLES = {
    "unlogged": "CREATE UNLOGGED TABLE shop_thing (id bigint, text text)",
    "inherited": """
        CREATE TABLE shop_thing (id bigint, text text);
        CREATE TABLE odd.child () INHERITS (shop_thing);
        INSERT INTO odd.child VALUES (3, 'unseen')""",
    "foreign": "CREATE FOREIGN TABLE shop_thing (id bigint, text text) SERVER here OPTIONS"
    " (schema_name 'odd', table_name 'remote')",
    "partitions": """
        CREATE TABLE shop_thing (id bigint, text text) PARTITION BY LIST (id);
        CREATE TABLE odd.two PARTITION OF shop_thing FOR VALUES IN (2);
        CREATE FOREIGN TABLE odd.others PARTITION OF shop_thing DEFAULT SERVER here OPTIONS
            (schema_name 'odd', table_name 'remote')""",
}
PREPARE = """
CREATE SCHEMA odd;
CREATE TABLE odd.remote (id bigint, text text);
CREATE EXTENSION postgres_fdw SCHEMA odd;
CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS
    (host '{host}', port '{port}', dbname '{database}', keep_connections 'off');
CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS
    (user '{user}', password_required 'false')
"""


@pytest.fixture
def project(transactional_db):
    """Yield the state of a project with a model; a test makes its table, `shop_thing`.

    There is a foreign server, `here`, which is the same database.
    """
    fields = [("id", models.BigIntegerField(primary_key=True)), ("text", models.TextField())]
    made = NotifyOn("things", name="t", old=True, new=True)
    state = ProjectState()
    state.add_model(ModelState("shop", "Thing", fields, {"constraints": [made]}))
    connection.ensure_connection()
    info = connection.connection.info
    run(PREPARE.format(host=info.host, port=info.port, database=info.dbname, user=info.user))
    yield state.apps
    run("DROP SCHEMA odd CASCADE")


def run(*statements):
    """Execute statements."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def migrate(project, method):
    """Add or remove the constraint, as a migration does."""
    model = project.get_model("shop", "Thing")
    with connection.schema_editor() as editor:
        getattr(editor, method)(model, model._meta.constraints[0])
    refresh_triggers(apps.get_app_config("shop"), "default", apps=project)


def sent_by(statement):
    """Execute a statement; return the operations that it notifies of."""
    with transaction.atomic(), captureNotifications() as sent:
        run(statement)
    return [one.payload["operation"] for one in sent]


@pytest.mark.parametrize("kind", TABLES)
def test_tables(project, kind):
    """Changes are sent while there is a trigger, and never fail."""
    run(TABLES[kind])
    migrate(project, "add_constraint")
    assert [sent_by(statement) for statement, _ in CHANGES] == [sent for _, sent in CHANGES]
    migrate(project, "remove_constraint")
    assert [sent_by(statement) for statement, _ in CHANGES] == [[]] * len(CHANGES)
    run(f"DROP {'FOREIGN' if kind == 'foreign' else ''} TABLE shop_thing CASCADE")


def test_row_level_security(project, stranger):
    """Whoever may change a row notifies of it, also if they aren't allowed to read it."""
    run(
        "CREATE TABLE shop_thing (id bigint, text text)",
        "ALTER TABLE shop_thing ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE shop_thing FORCE ROW LEVEL SECURITY",
        f"GRANT INSERT, UPDATE ON shop_thing TO {stranger}",
        "CREATE POLICY writing ON shop_thing FOR INSERT WITH CHECK (true)",
        "CREATE POLICY changing ON shop_thing FOR UPDATE USING (id = 1)",
    )
    migrate(project, "add_constraint")
    run(f"SET ROLE {stranger}")
    assert sent_by("INSERT INTO shop_thing VALUES (1, 'a'), (2, 'b')") == ["insert", "insert"]
    assert sent_by("UPDATE shop_thing SET text = 'c'") == ["update"]
    run("RESET ROLE")
    write = f"SET ROLE {stranger}; INSERT INTO shop_thing VALUES (3, 'd')"
    assert sent_by(write) == ["insert"]
    run("RESET ROLE", "DROP TABLE shop_thing")


@pytest.mark.parametrize("kind", ["", "MATERIALIZED"])
def test_views(project, kind, caplog, functions):
    """`migrate` makes no trigger on a view, and says so; neither it nor a change fails."""
    run(
        "CREATE TABLE odd.base (id bigint, text text)",
        f"CREATE {kind} VIEW shop_thing AS SELECT * FROM odd.base",
    )
    before = functions()
    migrate(project, "add_constraint")
    (record,) = caplog.records
    assert record.getMessage() == (
        'view "shop_thing" has no trigger t, which shop.Thing declares, so it doesn\'t notify of '
        "changes; views can't have such triggers: declare it on the models of the tables that it "
        "shows"
    )
    assert functions() == before
    if not kind:
        assert sent_by("INSERT INTO shop_thing VALUES (1, 'a')") == []
    migrate(project, "remove_constraint")
    run(f"DROP {kind} VIEW shop_thing")
