"""`pgnotifier trigger`: create, list and drop."""

import json

import click
import psycopg
import pytest
from click.testing import CliRunner

from pgnotifier import triggers
from pgnotifier.cli.command import pgnotifier
from pgnotifier.cli.identifiers import read_names, read_table
from pgnotifier.cli.printable import printable


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to a database with a table."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, status text)")
        yield connection


@pytest.fixture
def run(pgnotifier_dsn):
    """Return a function that runs the command on the test's database."""

    def run(*args):
        return CliRunner().invoke(pgnotifier, ["trigger", *args, "--dsn", pgnotifier_dsn])

    return run


def test_create_list_drop(connection, run):
    """A trigger is created as its options say, listed and dropped."""
    options = ("--on", "update", "--columns", "status", "--when", "NEW.id > 1", "--context")
    more = ("--payload", "changed", "--per", "statement", "--key", "id")
    done = run("create", "ORDERS", "--channel", "paid", *options, *more)
    assert (done.exit_code, done.output) == (
        0, 'created trigger pgnotifier_paid on "orders"\n',
    )  # fmt: skip
    (found,) = triggers.list(connection)
    assert found.trigger == triggers.Trigger(
        "orders", "paid", on=["update"], columns=["status"], when="NEW.id > 1", context=True,
        payload="changed", per="statement", key=["id"], schema="public",
    )  # fmt: skip
    assert "public.orders  pgnotifier_paid  paid     update  statement" in run("list").output
    (listed,) = json.loads(run("list", "--json").output)
    assert listed["columns"] == ["status"]
    assert listed["enabled"] == "yes"
    done = run("drop", "public.orders", "-c", "paid")
    assert (done.exit_code, done.output) == (
        0, 'dropped trigger pgnotifier_paid of "public"."orders"\n',
    )  # fmt: skip
    done = run("drop", "orders", "-c", "paid")
    assert (done.exit_code, done.output) == (
        1, 'Error: "orders" has no trigger pgnotifier_paid that was made by pgnotifier\n',
    )  # fmt: skip
    assert run("list").output == "no triggers\n"


def test_sql(connection, run):
    """`--sql` prints statements that do the same."""
    for args in (("create",), ("create", "--per", "statement"), ("drop",)):
        done = run(args[0], "orders", "-c", "orders", *args[1:], "--sql")
        assert done.exit_code == 0
        connection.execute(done.output.encode())
        assert len(triggers.list(connection)) == (args[0] == "create")


def test_orphans(connection, run):
    """What is left of a dropped table is shown, and dropped."""
    run("create", "orders", "-c", "orders")
    connection.execute("DROP TABLE orders")
    assert "orphan" in run("list").output
    assert "pgnotifier_orders_orders" in run("drop", "--orphans").output
    assert run("drop", "--orphans").output == "no orphans\n"


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (("create", "nowhere", "-c", "x"), 1, 'there is no table "nowhere" on the search_path'),
        (("create", "orders", "-c", "x", "--columns", "no"), 1, "public.orders has no column no"),
        (("create", "orders", "-c", "x", "--durable"), 1, "Run: pgnotifier install"),
        (("create", "orders", "-c", "x", "--on", "select"), 2, "on has 'select'"),
        (("create", "a.b.c", "-c", "x"), 2, "isn't the name of a table"),
        (("create", "my table", "-c", "x"), 2, "isn't written as names are in SQL"),
        (("drop", "orders"), 2, "name a TABLE, and --channel or --name"),
    ],
)
def test_what_is_refused(connection, run, args, code, reason):
    """What can't be done is said in one line."""
    done = run(*args)
    assert done.exit_code == code
    (line,) = [one for one in done.output.splitlines() if one.startswith("Error: ")]
    assert reason in line


def test_terminals(connection, run):
    """Escape sequences in names never reach the terminal, and warnings are shown."""
    connection.execute('CREATE TABLE "\x1b[31m" (id int PRIMARY KEY); CREATE TABLE child ()'
                       ' INHERITS ("\x1b[31m")')  # fmt: skip
    outputs = [
        run(*args).output
        for args in (
            ("create", '"\x1b[31m"', "-c", "\x1b]0;x"),
            ("list",),
            ("list", "--json"),
            ("create", '"\x1b[31m"', "-c", "x", "--columns", '"\x1b"'),
            ("drop", '"\x1b[31m"', "-c", "\x1b]0;x"),
        )
    ]
    assert all("\x1b" not in one for one in outputs)
    assert "WARNING" in outputs[0]


def test_names():
    """Names are read as SQL reads them."""
    assert read_table("Orders") == (None, "orders")
    assert read_table('"Shop"."My "".Table"') == ("Shop", 'My ".Table')
    assert read_table(" shop . ÄB$ ") == ("shop", "Äb$")
    assert read_names('a,"B,c", d') == ["a", "B,c", "d"]
    assert read_names(None) == []
    for wrong in ("", "a b", "a;b", '"a', "a.", "'a'", "a--\n"):
        with pytest.raises(click.UsageError):
            read_table(wrong)


def test_printable():
    """What a terminal would act on is escaped, and other characters are not."""
    assert printable("é日 \x1b[31m\n\x07\u202e\ud800") == "é日 \\x1b[31m\\n\\x07\\u202e\\ud800"
