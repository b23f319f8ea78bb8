"""What triggers send of changed rows, of any table, and that no change fails because of them."""

import secrets
from decimal import Decimal
from threading import Thread
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from pgnotifier import durable, triggers
from pgnotifier.errors import TriggerError
from pgnotifier.payload import MAX_PAYLOAD_BYTES, decode
from pgnotifier.triggers import Trigger

ORDERS = """
CREATE TABLE orders (
    id bigint PRIMARY KEY, status text, amount numeric, note text,
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED
)
"""
BOTH = pytest.mark.parametrize("per", ["row", "statement"])


@pytest.fixture(scope="module")
def dsn(pgnotifier_postgres):
    """Yield the conninfo string of a database with the log, which the tests of this file share."""
    with pgnotifier_postgres.database() as found:
        with psycopg.connect(found, autocommit=True) as connection:
            durable.install(connection)
        yield found


@pytest.fixture
def connection(dsn):
    """Yield a connection with a schema of its own, which listens to the channel "orders"."""
    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}; SET search_path = {name}; LISTEN orders")
        try:
            connection.execute(ORDERS)
            yield connection
        finally:
            connection.execute(f"RESET ROLE; DROP SCHEMA {name} CASCADE")


def received(connection):
    """Return the payloads that have arrived, without the schema and the table."""
    connection.execute("SELECT 1")
    found = [decode(one.payload) for one in connection.notifies(timeout=0)]
    for one in found:
        assert {one.pop("schema"), one.pop("table")} == {schema_of(connection), "orders"}
    return found


def schema_of(connection):
    """Return the schema of a test."""
    return connection.execute("SELECT current_schema()").fetchone()[0]


def found_in(connection):
    """Return the triggers in the schema of a test."""
    schema = schema_of(connection)
    return [one for one in triggers.list(connection) if one.schema == schema]


def create(connection, **options):
    """Create a trigger on the table `orders`."""
    triggers.create(connection, Trigger("orders", "orders", **options))


def change(connection):
    """Insert three rows, update two of them, delete one, and truncate the table."""
    connection.execute("INSERT INTO orders (id, status, amount) SELECT n, 'new', 1.10"
                       " FROM generate_series(1, 3) AS n")  # fmt: skip
    connection.execute("UPDATE orders SET status = 'paid' WHERE id < 3")
    connection.execute("DELETE FROM orders WHERE id = 3")
    connection.execute("TRUNCATE orders")


def test_each_row(connection):
    """A trigger for each row sends the primary key of each, and one payload for TRUNCATE."""
    create(connection)
    change(connection)
    assert received(connection) == [
        *({"operation": "insert", "pk": number} for number in (1, 2, 3)),
        *({"operation": "update", "pk": number} for number in (1, 2)),
        {"operation": "delete", "pk": 3},
        {"operation": "truncate"},
    ]


def test_each_statement(connection):
    """A trigger for each statement sends the primary keys of its rows; none if there are none."""
    create(connection, per="statement")
    change(connection)
    connection.execute("DELETE FROM orders")
    assert received(connection) == [
        {"operation": "insert", "count": 3, "pks": [1, 2, 3]},
        {"operation": "update", "count": 2, "pks": [1, 2]},
        {"operation": "delete", "count": 1, "pks": [3]},
        {"operation": "truncate"},
    ]


@pytest.mark.parametrize("payload", ["changed", "full"])
def test_values(connection, payload):
    """Values arrive exactly: of all columns, or those that an update has changed."""
    row = {"id": 1, "status": "new", "amount": Decimal("12345678901234567890.10"), "note": None,
           "doubled": Decimal("24691357802469135780.20")}  # fmt: skip
    paid = {**row, "status": "paid"}
    insert = "INSERT INTO orders (id, status, amount) VALUES (1, 'new', 12345678901234567890.10)"
    update = {"pk": 1, "changed": ["status"], "old": row, "new": paid}
    if payload == "changed":
        update |= {"old": {"status": "new"}, "new": {"status": "paid"}}
    for per in ("row", "statement"):
        create(connection, payload=payload, per=per)
        connection.execute(insert)
        connection.execute("UPDATE orders SET status = 'paid'")
        connection.execute("UPDATE orders SET status = status")
        connection.execute("DELETE FROM orders")
        expected = [
            ("insert", {"pk": 1, "new": row}),
            ("update", update),
            ("delete", {"pk": 1, "old": paid}),
        ]
        assert received(connection) == [
            {"operation": name, **said}
            if per == "row"
            else {"operation": name, "count": 1, "rows": [said]}
            for name, said in expected
        ]


@BOTH
def test_columns(connection, per):
    """Only updates that change one of the columns count, whatever statement changes it."""
    create(connection, per=per, on=["update"], columns=["status"])
    connection.execute("INSERT INTO orders (id, status) VALUES (1, NULL), (2, 'new')")
    connection.execute("UPDATE orders SET note = 'x'")
    connection.execute("UPDATE orders SET status = 'new', note = 'y'")
    if per == "row":
        expected = {"operation": "update", "pk": 1, "changed": ["status"]}
    else:
        expected = {"operation": "update", "count": 1, "pks": [1]}
    assert received(connection) == [expected]


@BOTH
def test_conditions(connection, per):
    """`when` decides with OLD and NEW, also in subqueries, and may end with a comment."""
    connection.execute("CREATE TABLE kept (payload int); INSERT INTO kept VALUES (1)")
    schema = schema_of(connection)
    when = (
        "(NEW.amount > 1 OR OLD.amount > 1) AND NEW.status IS DISTINCT FROM OLD.status AND EXISTS"
        f" (SELECT FROM {schema}.kept WHERE payload = COALESCE(NEW.id, OLD.id)) -- that's all"
    )
    create(connection, per=per, when=when)
    change(connection)
    found = received(connection)
    assert [one["operation"] for one in found] == ["insert", "update", "truncate"]
    assert [one.get("pk", one.get("pks")) for one in found[:2]] == (
        [1, 1] if per == "row" else [[1], [1]]
    )


@BOTH
def test_conditions_that_fail(connection, per):
    """If the condition fails, the change doesn't, and it is notified of, with a warning."""
    create(connection, per=per, when="1 / (NEW.id - 1) > 0", on=["insert"])
    notices = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    connection.execute("INSERT INTO orders (id) VALUES (1)")
    (said,) = received(connection)
    assert said["truncated"] is True
    assert "division by zero" in notices[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"when": "NEW.nothing"}, "column new.nothing does not exist$"),
        ({"when": "count(*) > 0"}, "aggregate functions are not allowed in WHERE$"),
        ({"when": "true; DROP TABLE orders"}, "syntax error"),
        ({"when": "true)); DROP TABLE orders; SELECT ((true"}, "cannot open multi-query plan"),
        ({"columns": ["Status"]}, 'has no column "Status"'),
        ({"key": ["no", "id"]}, "has no column no$"),
        ({"schema": "nowhere"}, 'there is no table "nowhere"."orders"$'),
    ],
)
def test_what_is_refused(connection, options, reason):
    """What would fail for each row is refused when the trigger is created."""
    with pytest.raises(TriggerError, match=reason):
        create(connection, **options)
    assert found_in(connection) == []


@BOTH
def test_context(connection, per):
    """The setting `pgnotifier.context` rides along; one that isn't JSON is sent as text."""
    create(connection, per=per, context=True, on=["insert", "truncate"])
    for number, context in enumerate(['{"tenant": 7}', "{no", "", "[" * 9999, None, "x" * 9000]):
        with connection.transaction():
            if context is not None:
                connection.execute("SELECT set_config('pgnotifier.context', %s, true)", [context])
            connection.execute("INSERT INTO orders (id) VALUES (%s)", [number])
    found = received(connection)
    assert [one.get("context") for one in found] == [{"tenant": 7}, "{no", None, None, None, None]
    assert [one.get("truncated") for one in found] == [None, None, None, True, None, True]


def test_many_keys(connection):
    """Keys are sent in a few notifications, and the range of them if they are too many."""
    create(connection, per="statement", on=["insert", "update"])
    connection.execute("INSERT INTO orders (id) SELECT n + 10^6 FROM generate_series(1, 3000) AS n")
    parts = received(connection)
    assert [one.pop("part") for one in parts] == [*range(1, len(parts) + 1)]
    assert [number for one in parts for number in one["pks"]] == [*range(1000001, 1003001)]
    assert {one["parts"] for one in parts} == {len(parts)}
    connection.execute("INSERT INTO orders (id) SELECT n FROM generate_series(1, 30000) AS n")
    assert received(connection) == [
        {"operation": "insert", "count": 30000, "first": 1, "last": 30000, "truncated": True}
    ]
    connection.execute("UPDATE orders SET note = 'x' WHERE id > 1000000")
    assert len(received(connection)) == len(parts)


def test_values_that_do_not_fit(connection):
    """If the values are too long, the keys are sent without them."""
    create(connection, per="statement", payload="full", on=["insert"])
    connection.execute("INSERT INTO orders (id, note) SELECT n, repeat('x', 7000)"
                       " FROM generate_series(1, 7) AS n")  # fmt: skip
    assert [one["rows"][0]["pk"] for one in received(connection)] == [*range(1, 8)]
    connection.execute("INSERT INTO orders (id, note) VALUES (8, repeat('x', 9000)), (9, '')")
    assert received(connection) == [{"operation": "insert", "count": 2, "pks": [8, 9]}]


def test_keys_without_an_order_of_their_own(connection):
    """Composite keys and such of other types have a range, too."""
    connection.execute("DROP TABLE orders;CREATE TABLE orders (a uuid, b text, PRIMARY KEY (b, a))")
    create(connection, per="statement", on=["insert", "update"], columns=["a"])
    connection.execute("INSERT INTO orders SELECT gen_random_uuid(), lpad(n::text, 5, '0')"
                       " FROM generate_series(1, 30000) AS n")  # fmt: skip
    (said,) = received(connection)
    assert (said["first"][0], said["last"][0], said["count"]) == ("00001", "30000", 30000)
    connection.execute("UPDATE orders SET b = b, a = gen_random_uuid() WHERE b < '00003'")
    (said,) = received(connection)
    assert [b for b, _ in said["pks"]] == ["00001", "00002"]


@BOTH
def test_durable(connection, per):
    """Entries of the log have all keys, and those of rows their key."""
    connection.execute("TRUNCATE pgnotifier.log")
    create(connection, per=per, durable=True, on=["insert"])
    count = 30000 if per == "statement" else 3
    connection.execute(f"INSERT INTO orders (id) SELECT n FROM generate_series(1, {count}) AS n")
    found = connection.execute("SELECT key, payload FROM pgnotifier.log ORDER BY id").fetchall()
    if per == "row":
        assert [key for key, _ in found] == ["1", "2", "3"]
    else:
        ((key, payload),) = found
        assert (key, decode(payload)["pks"]) == (None, [*range(1, 30001)])
    assert received(connection) == []


def test_keys_that_change(connection):
    """An update of a key sends the new one; values of a statement then have no old row."""
    connection.execute("INSERT INTO orders (id) VALUES (1)")
    create(connection, payload="changed", on=["update"])
    connection.execute("UPDATE orders SET id = 2")
    create(connection, payload="changed", on=["update"], per="statement")
    connection.execute("UPDATE orders SET id = 3")
    row, statement = received(connection)
    assert (row["pk"], row["old"], row["new"]) == (2, {"id": 1}, {"id": 2})
    assert statement["rows"][0]["new"]["id"] == 3
    assert "old" not in statement["rows"][0]


def test_partitions(connection):
    """A partitioned table has both kinds of trigger; a partition has none for statements."""
    connection.execute(
        "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF orders FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE high PARTITION OF orders FOR VALUES FROM (10) TO (20)"
    )
    create(connection, on=["insert"])
    create(connection, on=["insert"], per="statement", name="all")
    connection.execute("INSERT INTO orders VALUES (1), (11)")
    assert received(connection) == [
        {"operation": "insert", "pk": 1},
        {"operation": "insert", "pk": 11},
        {"operation": "insert", "count": 2, "pks": [1, 11]},
    ]
    assert (
        len([one for one in triggers.list(connection) if one.schema == schema_of(connection)]) == 2
    )
    with pytest.raises(TriggerError, match="low is a partition or a child"):
        triggers.create(connection, Trigger("low", "orders", per="statement"))


def test_children(connection):
    """A statement on a parent notifies of its children's rows; for rows, a warning says so."""
    connection.execute("CREATE TABLE child () INHERITS (orders); INSERT INTO child (id) VALUES (1)")
    notices = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    create(connection)
    assert "has children" in notices[0]
    create(connection, per="statement")
    connection.execute("UPDATE orders SET note = 'x'")
    assert received(connection) == [{"operation": "update", "count": 1, "pks": [1]}]
    with pytest.raises(TriggerError, match="or for each row"):
        triggers.create(connection, Trigger("child", "orders", key=["id"], per="statement"))


def test_no_primary_key(connection):
    """Without a primary key, a key is needed, or all values are sent."""
    connection.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    for options in ({}, {"per": "statement", "payload": "full"}):
        with pytest.raises(TriggerError, match="has no primary key"):
            create(connection, **options)
    create(connection, key=["status", "id"], on=["insert"])
    connection.execute("INSERT INTO orders (id, status) VALUES (1, 'a')")
    create(connection, payload="full", on=["insert"])
    connection.execute("INSERT INTO orders (id) VALUES (2)")
    keyed, full = received(connection)
    assert keyed["pk"] == ["a", 1]
    assert (full["pk"], full["new"]["id"]) == (None, 2)


def test_exact_values(connection):
    """Values of many types arrive as their texts; a column that is computed on reading is null."""
    is_new = connection.info.server_version >= 180000
    virtual = ", v int GENERATED ALWAYS AS (id + 1) VIRTUAL" if is_new else ""
    connection.execute(
        "CREATE TYPE mood AS ENUM ('glad', 'it''s'); DROP TABLE orders;"
        "CREATE TABLE orders (id int PRIMARY KEY, m mood, t timestamptz, n numeric[], d date,"
        f" u uuid{virtual})"
    )
    connection.execute("SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German'")
    expected = {
        "id": 1, "m": "it's", "t": "2026-01-31T05:45:00.000001+05:45", "d": "0044-03-15 BC",
        "n": [Decimal("12345678901234567890.10"), None], "u": f"{UUID(int=1)}",
    } | ({"v": None} if is_new else {})  # fmt: skip
    for per in ("row", "statement"):
        create(connection, per=per, payload="full", on=["insert"])
        connection.execute(
            "INSERT INTO orders VALUES (1, 'it''s', '2026-01-31 00:00:00.000001Z', '"
            f"{{12345678901234567890.10,NULL}}', '0044-03-15 BC', '{UUID(int=1)}')"
        )
        connection.execute("DELETE FROM orders")
        (said,) = received(connection)
        assert (said["rows"][0] if per == "statement" else said)["new"] == expected


def test_other_encodings(connection):
    """Names and channels arrive whatever the encoding of the client is."""
    connection.execute('CREATE TABLE "Müller" (id int PRIMARY KEY); LISTEN "Müll"')
    connection.execute("SET client_encoding = 'LATIN1'")
    triggers.create(connection, Trigger("Müller", "Müll", when="NEW.id > 0 OR 'é' = 'e'"))
    connection.execute('INSERT INTO "Müller" VALUES (1)')
    connection.execute("SET client_encoding = 'UTF8'")
    (said,) = [decode(one.payload) for one in connection.notifies(timeout=0)]
    assert said["table"] == "Müller"


def test_views(connection):
    """A view is refused."""
    connection.execute("CREATE VIEW seen AS SELECT * FROM orders")
    with pytest.raises(TriggerError, match="seen is not a table"):
        triggers.create(connection, Trigger("seen", "orders"))


def test_types_that_change(connection):
    """After a column's type has changed, sessions with a plan for the former go on."""
    connection.execute("INSERT INTO orders (id) VALUES (1)")
    create(connection, on=["update"], columns=["note"], payload="full")
    create(connection, on=["update"], columns=["note"], payload="full", per="statement", name="all")
    connection.execute("UPDATE orders SET note = '1'")
    connection.execute("ALTER TABLE orders ALTER note TYPE int USING note::int,"
                       " ALTER id TYPE int, ADD added int DEFAULT 5")  # fmt: skip
    connection.execute("UPDATE orders SET note = 2")
    for one in received(connection)[2:]:
        row = one["rows"][0] if "rows" in one else one
        assert (row["new"]["note"], row["new"]["added"], row["pk"]) == (2, 5, 1)


def test_other_statements(connection):
    """COPY, MERGE and ON CONFLICT are notified of as what they do."""
    create(connection, per="statement")
    with connection.cursor().copy("COPY orders (id) FROM STDIN") as copy:
        copy.write("1\n2\n")
    connection.execute("INSERT INTO orders (id) VALUES (2), (3)"
                       " ON CONFLICT (id) DO UPDATE SET note = 'x'")  # fmt: skip
    found = [(one["operation"], one["pks"]) for one in received(connection)]
    assert sorted(found) == [("insert", [1, 2]), ("insert", [3]), ("update", [2])]


@BOTH
def test_a_writer_without_rights(connection, dsn, per):
    """A role that may only insert needs no right for the trigger, not even to call pg_notify."""
    role = f"writer_{secrets.token_hex(4)}"
    schema = schema_of(connection)
    create(connection, per=per, on=["insert"], payload="full", when="NEW.id > 0")
    notify = "FUNCTION pg_catalog.pg_notify(text, text)"
    connection.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}")
    connection.execute(f"GRANT INSERT ON orders TO {role}; REVOKE EXECUTE ON {notify} FROM PUBLIC")
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL ROLE {role}")
            connection.execute("INSERT INTO orders (id) VALUES (1)")
    finally:
        connection.execute(f"GRANT EXECUTE ON {notify} TO PUBLIC")
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert len(received(connection)) == 1


# As in tests/django/test_trigger_properties.py, which has more types.
VALUES = {
    "bigint": ("9223372036854775807", "-1"),
    "numeric": ("'12345678901234567.89'", "'NaN'"),
    "double precision": ("'Infinity'", "'NaN'"),
    "text": ("'a'", "repeat(E'\\u0001é\"', 3000)"),
    "json": ("'{\"a\": 1}'", "'[1, 1e400]'"),
    "jsonb": ("'{\"a\": 1}'", "'null'"),
    "jsonpath": ("'$.a'", "'$.b'"),
    "timestamptz": ("'infinity'", "'4713-01-01 BC'"),
    "interval": ("'1 day'", "'-1 month 24:00'"),
    "point": ("'(1,2)'", "'(NaN,Infinity)'"),
    "json[]": ("'{}'", "ARRAY['{}'::json, NULL]"),
    "int4range": ("'empty'", "'[1,)'"),
}
AWKWARD = ["$", "$$", "$source$", "%s", "'", '"', "\\", "é", "new", "old", "amount", "part", "head"]
AWKWARD += ["payload", "none", ".", "{}", "first", "--", "/*", "context", "pgnotifier_new", "n"]
names = st.one_of(
    st.sampled_from([*AWKWARD, "a" * 63]),
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9
    ),
)
T, F = True, False


@given(
    table=names,
    columns=st.dictionaries(names, st.sampled_from([*VALUES]), min_size=1, max_size=4),
    channel=names.filter(lambda name: len(name.encode()) < 64),
    per=st.sampled_from(["row", "statement"]),
    payload=st.sampled_from(["key", "changed", "full"]),
    watches=st.booleans(),
    context=st.booleans(),
    size=st.sampled_from([0, 5, 7990, 9000]),
)
@example("orders", {"new": "json", "old": "text"}, "x", "statement", "full", T, T, 5)
@example("new", {"$": "jsonb", "amount": "point"}, "$$", "statement", "changed", F, T, 9000)
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_table(connection, table, columns, channel, per, payload, watches, context, size):
    """Whatever the names, types and values are, each change is made and notified of."""
    columns.pop("the key", None)
    made = Trigger(
        table, channel, per=per, payload=payload, columns=[*columns] if watches else [],
        context=context, when="COALESCE(NEW.\"the key\", OLD.\"the key\") <> 'no'",
    )  # fmt: skip
    at = sql.Identifier(table)
    defined = [
        sql.SQL("{} {}").format(sql.Identifier(one), sql.SQL(kind)) for one, kind in columns.items()
    ]

    def values(which):
        return sql.SQL(", ").join(sql.SQL(VALUES[kind][which]) for kind in columns.values())

    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    try:
        with connection.transaction():
            connection.execute("DROP TABLE IF EXISTS orders")
            connection.execute(
                sql.SQL('CREATE TABLE {} ("the key" text PRIMARY KEY, {})').format(
                    at, sql.SQL(", ").join(defined)
                )
            )
            triggers.create(connection, made)
            connection.execute("SELECT set_config('pgnotifier.context', '[1]', true)")
            # Compressible, because an index refuses keys that take more than 2,700 bytes.
            key = f"repeat('k', {size})"
            into = sql.SQL('INSERT INTO {} ("the key", {}) VALUES (' + key + ", {})")
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            connection.execute(into.format(at, listed, values(0)))
            update = sql.SQL("UPDATE {} SET ({}) = ROW ({})")
            connection.execute(update.format(at, listed, values(1)))
            connection.execute(sql.SQL("DELETE FROM {}").format(at))
            (found,) = [one for one in triggers.list(connection) if one.table == table]
            assert found.trigger.options() == {**made.options(), "schema": schema_of(connection)}
            assert triggers.drop(connection, made)
            connection.execute(sql.SQL("INSERT INTO {} (\"the key\") VALUES ('last')").format(at))
            connection.execute(sql.SQL("DROP TABLE {}").format(at))
    finally:
        connection.execute("UNLISTEN *; LISTEN orders")
    sent = [*connection.notifies(timeout=0)]
    assert {one.channel for one in sent} == {channel}
    assert all(len(one.payload.encode()) <= MAX_PAYLOAD_BYTES for one in sent)
    said = [decode(one.payload) for one in sent]
    assert [one["operation"] for one in said] == ["insert", "update", "delete"]
    for one in said:
        assert one["table"] == table
        if size < 7000:
            assert one.get("context") == ([1] if context else None)
            keys = one["pks"] if "pks" in one else [row["pk"] for row in one.get("rows", [one])]
            assert keys == ["k" * size]
        else:
            assert one["truncated"] or "new" not in one


def test_two_at_once(connection, dsn):
    """Two processes that create the same trigger at once leave one."""
    made = Trigger("orders", "orders", schema=schema_of(connection), per="statement")
    failed = []

    def again():
        try:
            with psycopg.connect(dsn, autocommit=True) as other:
                for number in range(5):
                    triggers.create(
                        other, Trigger(**{**made.to_dict(), "context": number % 2 == 0})
                    )
        except Exception as exc:  # noqa: BLE001 - is reported
            failed.append(exc)

    threads = [Thread(target=again) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert failed == []
    found = found_in(connection)
    assert [one.enabled for one in found] == ["yes"]
    connection.execute("INSERT INTO orders (id) VALUES (1)")
    assert len(received(connection)) == 1
