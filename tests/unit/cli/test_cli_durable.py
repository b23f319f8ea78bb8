"""The commands for durable subscriptions."""

import json
import re
from datetime import timedelta

import psycopg
import pytest
from click.testing import CliRunner
from log_position import Position
from psycopg.conninfo import make_conninfo

from pgnotifier import durable
from pgnotifier._log import dead_letters, positions
from pgnotifier._log.dead_letters import Failure
from pgnotifier.cli.command import pgnotifier


@pytest.fixture
def run(pgnotifier_dsn):
    """Return a function that runs the command and returns its exit code and output."""

    def run(*arguments, dsn=pgnotifier_dsn, answer=None):
        done = CliRunner().invoke(
            pgnotifier, arguments, env={"PGNOTIFIER_DSN": dsn}, input=answer, catch_exceptions=False
        )
        return done.exit_code, done.output

    return run


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to the database."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def letters(connection):
    """Install the log with two dead letters and one that is still retried; return their numbers."""
    durable.install(connection)
    sub = positions.subscribe(connection, "invoice", "orders")
    for payload in ("a", "b", "c"):
        connection.execute("SELECT pgnotifier.publish('orders', %s)", (payload,))
    position, made = Position(sub), []
    with connection.transaction():
        reading = position.read(connection, 10)
        for entry in reading.entries:
            failure = Failure(
                "ValueError: no", "Traceback\n  here", retry_in=60.0, is_dead=entry.payload != "c"
            )
            dead_letters.record_failure(connection, sub, "orders", entry, failure)
        position.save(connection, reading)
    made = dead_letters.find_letters(connection, everything=True)
    return [one.n for one in made]


def test_limits_of_the_log(run, connection):
    """`install` sets the retention and the quota, and `--sql` prints the same."""
    said = (0, "installed the durable log\n")
    assert run("install", "--retention", "7d", "--quota", "1.5GB") == said
    state = durable.log_state(connection)
    assert (state.retention, state.quota) == (timedelta(days=7), 1536 * 1024**2)
    assert run("install", "--quota", "0") == said
    assert run("install", "--quota", "0") == (0, "the durable log is up to date\n")
    state = durable.log_state(connection)
    assert (state.retention, state.quota) == (timedelta(days=7), None)
    connection.execute("DROP SCHEMA pgnotifier CASCADE")
    code, script = run("install", "--sql", "--retention", "90s")
    assert code == 0
    with connection.transaction():
        connection.execute(script.encode())
    assert durable.log_state(connection).retention == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--retention", "7"),
        ("--retention", "-1d"),
        ("--quota", "5 apples"),
        ("--quota", "9999999TB"),
    ],
)
def test_limits_that_can_not_work(run, option, value):
    """A value without a unit, or one that is out of range, is refused."""
    code, said = run("install", option, value)
    assert code in (1, 2)
    assert "Error: " in said


def test_listing_positions(run, connection):
    """`positions list` shows who is behind and what holds the log back, also as JSON."""
    durable.install(connection, quota=1024**3)
    assert run("positions", "list")[1].startswith("no durable subscriptions\n\nlog: ")
    connection.execute("SELECT pgnotifier.subscribe('invoice', 'orders')")
    for number in range(3):
        connection.execute("SELECT pgnotifier.publish('orders', %s)", (str(number),))
        connection.execute("SELECT pgnotifier.reclaim('0', 1)")
    code, said = run("positions", "list")
    assert code == 0
    headings, row, _, log, held = said.splitlines()
    assert headings.split()[:3] == ["SUBSCRIPTION", "CHANNEL", "LAG"]
    assert row.split()[:3] == ["invoice", "orders", "3"]
    assert "nobody for" in row
    assert headings.split()[5:8] == ["FAILED", "ATTEMPTS", "DEAD"]
    assert re.fullmatch(r"log: \d+ kB of 1.0 GB in 3 slots", log)
    assert "by subscription 'invoice' on channel 'orders', since 2" in held
    shown = json.loads(run("positions", "list", "--json")[1])
    assert shown["positions"][0]["lag"] == 3
    assert shown["log"]["holders"][0]["kind"] == "subscription"


def test_listing_attempts(run, connection):
    """`positions list` shows how often the failed entry that was tried most often was tried."""
    durable.install(connection)
    connection.execute("SELECT pgnotifier.subscribe('invoice', 'orders')")
    for n in (1, 2):
        connection.execute(
            "SELECT pgnotifier.fail(1, %s, now(), 'orders', NULL, '', 'no', '', 600, false)", (n,)
        )
    for _ in range(6):
        connection.execute("SELECT pgnotifier.fail_again(2, 'no', '', 600, false)")
    headings, row, *_ = run("positions", "list")[1].splitlines()
    at = headings.index("ATTEMPTS")
    assert row[at:].split()[0] == "7"
    assert json.loads(run("positions", "list", "--json")[1])["positions"][0]["attempts"] == 7


def test_forgetting_a_position(run, connection):
    """`positions forget` asks, and deletes a subscription."""
    durable.install(connection)
    connection.execute("SELECT pgnotifier.subscribe('invoice', 'orders')")
    assert run("positions", "forget", "invoice", "-c", "orders", answer="n\n")[0] == 1
    assert run("positions", "forget", "invoice", "-c", "orders", answer="y\n")[0] == 0
    code, said = run("positions", "forget", "invoice", "-c", "orders", "-y")
    assert (code, "there is no durable subscription 'invoice'" in said) == (1, True)
    assert durable.positions(connection) == []


def test_reclaiming(run, connection):
    """`reclaim` gives space back although nobody reads, and applies a subscription's limit."""
    durable.install(connection)
    connection.execute("SELECT pgnotifier.subscribe('forgotten', 'orders')")
    for number in range(4):
        connection.execute("SELECT pgnotifier.publish('orders', %s)", (str(number),))
        connection.execute("SELECT pgnotifier.reclaim('0', 1)")
    connection.execute("SELECT pgnotifier.limit_lag(1, 1, NULL, NULL)")
    code, said = run("reclaim")
    assert code == 0
    assert said.startswith("3 slots given back; the log has ")
    assert durable.positions(connection)[0].dropped == 3


def test_what_is_done_once(run, connection, make_role):
    """`install` sets how long ids are kept, and grants a worker's rights; `reclaim` truncates."""
    name, dsn = make_role()
    assert run("install", "--keep-done", "14d", "--grant-worker", name) == (
        0,
        f"installed the durable log\nrole {name!r} has the rights of a worker\n",
    )
    assert run("install", "--keep-done", "14d") == (0, "the durable log is up to date\n")
    assert durable.keep_done(connection, timedelta(days=14)) is False
    durable.keep_done(connection, timedelta(microseconds=1))
    with psycopg.connect(dsn, autocommit=True) as worker:
        worker.execute("SELECT pgnotifier.once('a')")
    code, said = run("reclaim")
    assert (code, said[:18]) == (0, "0 slots given back")
    code, said = run("reclaim")
    assert (code, said[:17]) == (0, "1 slot given back")
    code, said = run("install", "--sql", "--keep-done", "1d")
    assert (code, "pgnotifier.keep_done" in said) == (2, True)


def test_install(run, connection):
    """`install` installs once, `--check` checks, `uninstall` asks before it drops anything."""
    code, said = run("install", "--check")
    assert (code, "Run: pgnotifier install" in said) == (1, True)
    assert run("install") == (0, "installed the durable log\n")
    assert run("install") == (0, "the durable log is up to date\n")
    assert run("install", "--check") == (0, f"the durable log has version {durable.VERSION}\n")
    code, said = run("uninstall", answer="n\n")
    assert (code, "Aborted" in said) == (1, True)
    assert durable.check(connection) == durable.VERSION
    assert run("uninstall", "--yes") == (0, "dropped the durable log\n")
    assert run("uninstall", "--yes") == (0, "no durable log was installed\n")


def test_the_script(run, connection):
    """`install --sql` prints what installs the log and grants rights, without connecting."""
    arguments = ("--grant-enqueuer", "pg_monitor", "--grant-listener", "pg_monitor")
    code, script = run("install", "--sql", *arguments, dsn="host=127.0.0.1 port=1")
    assert code == 0
    with connection.transaction():
        connection.execute(script.encode())
        connection.execute("SET LOCAL ROLE pg_monitor")
        connection.execute("SELECT pgnotifier.publish('orders', '1'), pgnotifier.retry('{}')")
        connection.execute("SELECT pgnotifier.may_enqueue()")
    code, said = run("install", "--sql", "--to", "2", *arguments)
    assert (code, "'enqueuer' need version 3 of the log" in said) == (2, True)


def test_the_difference_of_two_versions(run, connection):
    """`install --sql --from --to` prints what upgrades one version to another."""
    assert run("install", "--to", "1") == (0, "installed the durable log\n")
    assert connection.execute("SELECT version FROM pgnotifier.installed").fetchone() == (1,)
    for version in range(2, durable.VERSION + 1):
        code, script = run("install", "--sql", "--from", str(version - 1), "--to", str(version))
        assert (code, "CREATE SCHEMA" in script) == (0, False)
        with connection.transaction():
            connection.execute(script.encode())
    assert durable.check(connection) == durable.VERSION
    newest = str(durable.VERSION)
    code, said = run("install", "--sql", "--from", newest)
    assert (code, f"from version {newest} to {newest}" in said) == (2, True)
    assert run("install", "--to", str(durable.VERSION + 1))[0] == 2
    code, said = run("install", "--from", "0")
    assert (code, "--from needs --sql" in said) == (2, True)


def test_grants(run, connection):
    """`install` grants rights, also when the log is installed already."""
    run("install")
    code, said = run("install", "--grant-publisher", "pg_monitor")
    assert (code, said.splitlines()[1:]) == (0, ["role 'pg_monitor' has the rights of a publisher"])
    with connection.transaction():
        connection.execute("SET LOCAL ROLE pg_monitor")
        connection.execute("SELECT pgnotifier.publish('orders', '1')")
    code, said = run("install", "--grant-enqueuer", "pg_monitor")
    assert (code, said.splitlines()[1:]) == (0, ["role 'pg_monitor' has the rights of an enqueuer"])
    code, said = run("install", "--grant-listener", "nobody_at_all")
    assert (code, "nobody_at_all" in said) == (1, True)


def test_the_password_is_not_shown(run):
    """If connecting fails, the reason is printed in one line, without the password."""
    code, said = run("install", dsn=make_conninfo(host="127.0.0.1", port=1, password="sesame"))
    assert code == 1
    assert said.startswith("Error: can't connect to PostgreSQL (host=127.0.0.1 port=1)")
    assert "sesame" not in said


@pytest.mark.parametrize(
    "arguments",
    [("dead", "list"), ("replay", "invoice", "-c", "orders", "--now"), ("dead", "show", "1")],
)
def test_without_a_log(run, arguments):
    """Without a log, a command exits with 1, and one line says how to install it."""
    code, said = run(*arguments)
    assert code == 1
    assert "Run: pgnotifier install" in said
    assert len(said.splitlines()) == 1


def test_dead_list(run, letters):
    """`dead list` shows dead letters; with `--all`, also what is still being retried."""
    code, said = run("dead", "list")
    assert code == 0
    heading, *rows = said.splitlines()
    assert heading.split() == [
        "NUMBER", "SUBSCRIPTION", "CHANNEL", "ENTRY", "ATTEMPTS", "FAILED", "AT", "ERROR",
    ]  # fmt: skip
    assert [row.split()[:5] for row in rows] == [
        [str(letters[0]), "invoice", "orders", "1", "1"],
        [str(letters[1]), "invoice", "orders", "2", "1"],
    ]
    assert len(run("dead", "list", "--all")[1].splitlines()) == 4
    assert run("dead", "list", "-s", "another") == (0, "no dead letters\n")
    assert run("dead", "list", "-s", "another", "--all") == (0, "no failed entries\n")
    found = json.loads(run("dead", "list", "--json", "-n", "1")[1])
    assert [(one["n"], one["payload"]) for one in found] == [(letters[0], "a")]


def test_dead_show(run, letters):
    """`dead show` prints everything about one of them."""
    code, said = run("dead", "show", str(letters[0]))
    assert code == 0
    assert "payload: a\n" in said
    assert "traceback:\nTraceback\n  here\n" in said
    shown = json.loads(run("dead", "show", str(letters[0]), "--json")[1])
    assert (shown["payload"], shown["traceback"]) == ("a", "Traceback\n  here")
    code, said = run("dead", "show", "12345")
    assert (code, "no failed entry number 12345" in said) == (1, True)


def test_dead_retry_and_drop(run, letters):
    """`dead retry` and `dead drop` take numbers, or the letters of a subscription or channel."""
    assert run("dead", "retry", str(letters[0])) == (0, "1 delivered again\n")
    assert run("dead", "drop", "-s", "invoice") == (0, "1 deleted\n")
    assert run("dead", "drop", "-c", "orders") == (0, "0 deleted\n")
    assert run("dead", "drop", *map(str, letters)) == (0, "2 deleted\n")
    code, said = run("dead", "drop")
    assert (code, "--subscription" in said) == (2, True)
    assert run("dead", "drop", "1", "-s", "invoice")[0] == 2


@pytest.mark.parametrize(
    ("options", "payloads"),
    [
        (["--from-id", "2"], ["b", "c"]),
        (["--oldest"], ["a", "b", "c"]),
        (["--now"], []),
        (["--since", "2020-01-31T12:00Z"], ["a", "b", "c"]),
        (["--since", "2999-01-31"], []),
    ],
)
def test_replay(run, connection, letters, options, payloads):
    """`replay` moves a subscription, and what follows is delivered again."""
    assert run("replay", "invoice", "--channel", "orders", *options) == (
        0,
        "moved subscription 'invoice'\n",
    )
    position = Position(positions.subscribe(connection, "invoice", "orders"))
    with connection.transaction():
        assert [one.payload for one in position.read(connection, 10).entries] == payloads


def test_replay_checks_its_arguments(run, letters):
    """`replay` needs one place, a time that is one, and a subscription that exists."""
    assert run("replay", "invoice", "-c", "orders")[0] == 2
    assert run("replay", "invoice", "-c", "orders", "--now", "--oldest")[0] == 2
    assert run("replay", "invoice", "-c", "orders", "--since", "later")[0] == 2
    code, said = run("replay", "another", "-c", "orders", "--now")
    assert (code, "no durable subscription 'another'" in said) == (1, True)
