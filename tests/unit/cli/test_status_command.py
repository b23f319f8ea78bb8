"""`pgnotifier status`: what it shows of listeners, and its exit codes."""

import json

import psycopg
import pytest
from click.testing import CliRunner
from database import role
from psycopg.conninfo import make_conninfo

from pgnotifier import durable
from pgnotifier._inquiry.marks import MARK
from pgnotifier.cli.command import pgnotifier


@pytest.fixture
def run(pgnotifier_dsn):
    """Return a function that runs the command and returns its exit code and output."""

    def run(*arguments, dsn=pgnotifier_dsn):
        done = CliRunner().invoke(
            pgnotifier, ["status", *arguments], env={"PGNOTIFIER_DSN": dsn}, catch_exceptions=False
        )
        return done.exit_code, done.output

    return run


@pytest.fixture
def start(make_notifier, pgnotifier_dsn):
    """Return a function that starts a notifier with one subscription."""

    def start(channel="orders", **settings):
        notifier = make_notifier(pgnotifier_dsn, **settings)
        notifier.subscribe("invoice", channel, print)
        return notifier

    return start


def test_nobody_listens(run):
    """Without a listener, that is said, and the exit code is 1."""
    assert run() == (1, "! nobody listens\n")


def test_all_is_well(run, start):
    """A leader and its standby are shown, with their channels and subscriptions."""
    start(standby="shop")
    start(standby="shop")
    code, said = run()
    assert code == 0
    for shown in ("listening", "standby", "orders", "invoice", "builtins.print", "all is well"):
        assert shown in said


def test_json(run, start):
    """--json prints everything."""
    start()
    code, said = run("--json")
    (one,) = json.loads(said)["listeners"]
    assert (code, one["state"], one["subscriptions"][0]["id"]) == (0, "listening", "invoice")
    assert one["rate"] == 0


def test_names_with_escape_sequences(run, start):
    """Control characters in names don't reach the terminal."""
    start('or"ders \x1b[31m ü')
    code, said = run("--all")
    assert (code, "\x1b" in said, r"\x1b[31m ü" in said) == (0, False, True)


def test_many(run, make_notifier, pgnotifier_dsn):
    """With 200 channels and 1,000 subscriptions, 20 of each are shown; --all shows all."""
    notifier = make_notifier(pgnotifier_dsn, autorun=False)
    for n in range(1000):
        notifier.subscribe(f"s{n}", f"c{n % 200}", print, autorun=False)
    notifier.start()
    said = run()[1]
    assert len(said.splitlines()) < 60
    assert "180 more channels" in said
    assert "980 more subscriptions" in said
    assert len(run("--all")[1].splitlines()) > 1200
    said = run("--channel", "c7", "--json")[1]
    (one,) = json.loads(said)["listeners"]
    assert [each["name"] for each in one["channels"]] == ["c7"]
    assert len(one["subscriptions"]) == 5


def test_a_listener_that_does_not_answer(run, start, pgnotifier_dsn):
    """A session that is marked as that of a listener, and doesn't answer, is a problem."""
    start()
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as silent:
        silent.execute(MARK)
        code, said = run("--timeout", "0.5")
        assert code == 1
        assert f"session {silent.info.backend_pid}" in said


def test_the_log(run, start, pgnotifier_dsn):
    """If the log is installed, the positions of durable subscriptions are shown."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        durable.install(connection)
    notifier = start()
    notifier.subscribe("books", "sales", print, durable=True)
    code, said = run()
    assert (code, "log: " in said, "books" in said) == (0, True, True)
    assert json.loads(run("-j")[1])["log"]["positions"][0]["name"] == "books"


def test_errors(run):
    """A server that isn't there is one line and exit code 1; a wrong option is exit code 2."""
    code, said = run("--dsn", "host=/nowhere password=s3cret-word")
    assert (code, said.count("\n"), "s3cret-word" in said) == (1, 1, False)
    assert run("--watch", "0")[0] == 2
    assert run("--timeout", "never")[0] == 2


def test_an_ordinary_role(run, start, other_dsn):
    """A role without rights sees the listeners as well."""
    start()
    assert run(dsn=other_dsn)[0] == 0


@pytest.fixture
def other_dsn(pgnotifier_dsn):
    """Return a connection string with an ordinary role."""
    with role(pgnotifier_dsn) as name:
        yield make_conninfo(pgnotifier_dsn, user=name)
