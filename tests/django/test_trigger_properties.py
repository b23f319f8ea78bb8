"""Triggers of any table: its rows can be changed, whatever its names, types and values are."""

import pytest
from django.db import connection, models, transaction
from django.db.migrations.state import ModelState, ProjectState
from django.db.utils import NotSupportedError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pgnotifier.contrib.django import NotifyOn
from pgnotifier.contrib.django.test import captureNotifications

# Two values of each type: `json`, `xml`, `point`, `jsonpath` and some others have no `=`.
VALUES = {
    "integer": ("1", "2"),
    "bigint": ("9223372036854775807", "-1"),
    "numeric": ("'12345678901234567.89'", "'NaN'"),
    "numeric(9,2)": ("1", "'NaN'"),
    "double precision": ("'Infinity'", "'NaN'"),
    "real": ("0.1", "'-Infinity'"),
    "boolean": ("true", "false"),
    "text": ("'a'", "repeat(E'\\u0001é\"', 3000)"),
    "varchar(20)": ("''", "E'\\x7f$$%s'"),
    "char(3)": ("'a'", "'b'"),
    '"char"': ("'a'", "'b'"),
    "name": ("'a'", "'b'"),
    "bytea": ("'\\x00ff'", "''"),
    "json": ("'{\"a\": 1}'", "'[1, 1e400]'"),
    "jsonb": ("'{\"a\": 1}'", "'null'"),
    "jsonpath": ("'$.a'", "'$.b'"),
    "xml": ("'<a/>'", "'<b>é</b>'"),
    "date": ("'infinity'", "'4713-01-01 BC'"),
    "time": ("'24:00'", "'00:00'"),
    "timetz": ("'24:00+14'", "'00:00'"),
    "timestamp": ("'-infinity'", "'294276-12-31'"),
    "timestamptz": ("'infinity'", "'4713-01-01 BC'"),
    "interval": ("'1 day'", "'-1 month 24:00'"),
    "money": ("1", "-1"),
    "uuid": ("'00000000-0000-0000-0000-000000000000'", "gen_random_uuid()"),
    "inet": ("'::1'", "'10.0.0.1/8'"),
    "macaddr": ("'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    "bit(3)": ("'101'", "'111'"),
    "varbit": ("''", "'1'"),
    "point": ("'(1,2)'", "'(NaN,Infinity)'"),
    "polygon": ("'((0,0),(1,1),(1,0))'", "'((0,0),(1,1),(2,0))'"),
    "circle": ("'<(0,0),1>'", "'<(0,0),2>'"),
    "tsvector": ("'a:1'", "'b:2'"),
    "int4range": ("'empty'", "'[1,)'"),
    "nummultirange": ("'{}'", "'{[1,2),(3,)}'"),
    "integer[]": ("'{}'", "'{{1,NULL},{3,4}}'"),
    "json[]": ("'{}'", "ARRAY['{}'::json, NULL]"),
    "pg_lsn": ("'0/0'", "'F/F'"),
    "regclass": ("'shop_order'", "'pg_class'"),
    "refcursor": ("'a'", "'b'"),
    "shop_mood": ("'glad'", "'it''s $$ bad'"),
    "shop_small": ("1", "2"),
    "shop_pair": ("ROW(1, '{}')", "ROW(NULL, NULL)"),
    "shop_plain": ("'x'", "'y'"),
}
TYPES = """
CREATE TYPE shop_mood AS ENUM ('glad', 'it''s $$ bad');
CREATE DOMAIN shop_small AS integer CHECK (VALUE < 10);
CREATE TYPE shop_pair AS (a integer, b json);
CREATE DOMAIN shop_plain AS text COLLATE "C";
"""

# Django can't quote a table's name that contains `"`.
AWKWARD = [
    "$",
    "$$",
    "$pgnotifier$",
    "$source$",
    "%",
    "%s",
    "%(class)s",
    "'",
    "\\",
    "é",
    "日",
    "{}",
]
names = st.lists(
    st.one_of(st.sampled_from([*AWKWARD, "a" * 40, "é" * 20]), st.text("abAB _.-;", max_size=5)),
    min_size=1,
).map(lambda parts: cut("".join(parts)) or "x")
column_names = st.one_of(names, st.sampled_from(['"', 'a"b', "changed", "head", "payload", "new"]))


def cut(name):
    """Return as much of a name as PostgreSQL keeps."""
    return name.encode()[:63].decode(errors="ignore").strip(".")


class RawField(models.Field):
    """A column of any type."""

    def __init__(self, kind="text", **options):
        super().__init__(**options)
        self.kind = kind

    def db_type(self, connection):
        """Return the column's PostgreSQL type."""
        return self.kind

    def deconstruct(self):
        """Return the arguments to make it again."""
        name, path, args, options = super().deconstruct()
        return name, path, args, {**options, "kind": self.kind}


@st.composite
def tables(draw):
    """Draw a table's name, its columns, their types, and the fields that its trigger sends."""
    columns = draw(st.lists(column_names, min_size=1, max_size=4, unique=True))
    kinds = [draw(st.sampled_from(sorted(VALUES))) for _ in columns]
    fields = [f"f{number}" for number in range(len(columns))]
    some = st.one_of(st.booleans(), st.lists(st.sampled_from(fields), min_size=1, unique=True))
    return draw(names), columns, kinds, draw(some), draw(some), draw(some)


def quoted(name):
    """Return a name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def types(db):
    """Create the types that PostgreSQL doesn't have; return the types that this server supports."""
    with connection.cursor() as cursor:
        cursor.execute(TYPES)
        try:
            with transaction.atomic():
                cursor.execute("SELECT '<a/>'::xml")
        except NotSupportedError:  # built without libxml
            return {*VALUES} - {"xml"}
    return {*VALUES}


@given(table=tables(), channel=names, name=st.one_of(st.none(), names), key=st.integers(0, 8000))
@example(
    table=("plain", ["a"], ["json"], ["f0"], True, ["f0"]), channel="x" * 63, name="%", key=7990
)
@example(table=("100%", ['a"$$'], ["xml"], True, True, True), channel="$$", name="$$", key=0)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_table(types, table, channel, name, key):
    """For any table, the trigger can be created and removed, and each change is made and sent."""
    table, columns, kinds, update, old, new = table
    kinds = [kind if kind in types else "json" for kind in kinds]
    made = NotifyOn(channel, update=update, old=old, new=new, name=name)
    # Django puts the model's name into the names of its "constraints", as here.
    fields = [("key", models.CharField(primary_key=True, db_column="the key", max_length=9999))]
    fields += [
        (f"f{number}", RawField(kind, null=True, db_column=column))
        for number, (column, kind) in enumerate(zip(columns, kinds, strict=True))
    ]
    state = ProjectState()
    state.add_model(ModelState("shop", "Thing", fields, {"constraints": [made], "db_table": table}))
    model = state.apps.get_model("shop", "Thing")
    (constraint,) = model._meta.constraints
    assert len(constraint.name.encode()) <= 63
    listed = ", ".join(map(quoted, ["the key", *columns]))
    firsts = ", ".join(VALUES[kind][0] for kind in kinds)
    seconds = ", ".join(
        f"{quoted(column)} = {VALUES[kind][1]}" for column, kind in zip(columns, kinds, strict=True)
    )
    defined = ", ".join(f"{quoted(c)} {kind}" for c, kind in zip(columns, kinds, strict=True))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f'CREATE TABLE {quoted(table)} ("the key" text PRIMARY KEY, {defined})')
        with connection.schema_editor(atomic=False) as editor:
            constraint.constraint_sql(model, editor)
            editor.remove_constraint(model, constraint)
            editor.add_constraint(model, constraint)  # and the deferred SQL creates it again
        with captureNotifications() as sent:
            # Compressible, because an index refuses keys that take more than 2,700 bytes.
            cursor.execute(
                f"INSERT INTO {quoted(table)} ({listed}) VALUES (repeat('k', {key}), {firsts})"
            )
            cursor.execute(f"UPDATE {quoted(table)} SET {quoted(columns[0])} = NULL WHERE false")
            cursor.execute(f"UPDATE {quoted(table)} SET {seconds}")
            cursor.execute(f"DELETE FROM {quoted(table)}")
        with connection.schema_editor(atomic=False) as editor:
            editor.remove_constraint(model, constraint)
        cursor.execute(f"INSERT INTO {quoted(table)} (\"the key\") VALUES ('last')")
        cursor.execute("SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%%Made by pgnotifier%%'"
                       " AND prosrc LIKE '%%shop.thing%%'")  # fmt: skip
        assert cursor.fetchone() == (0,)
        transaction.set_rollback(True)
    assert {one.channel for one in sent} == {channel}
    operations = [one.payload["operation"] for one in sent]
    assert operations == ["insert", *(["update"] if update else []), "delete"]
    for one in sent:
        assert len(one.raw.encode()) <= 7999
        assert one.payload["model"] == "shop.thing"
        short = key < 7800
        assert one.payload["pk"] == ("k" * key if short else one.payload["pk"])
        if one.payload.get("truncated"):
            assert len(one.raw) + 3 * 9000 > 7999
        else:
            assert ("new" in one.payload) == (bool(new) and one.payload["operation"] != "delete")
            assert ("old" in one.payload) == (bool(old) and one.payload["operation"] != "insert")
        if one.payload["operation"] == "update" and short and not one.payload.get("truncated"):
            expected = columns if update is True else [columns[int(f[1:])] for f in update]
            assert sorted(one.payload["changed"]) == sorted(expected)
