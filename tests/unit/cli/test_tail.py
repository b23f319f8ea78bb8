"""The command `tail`, in a pipe."""

import json
import sys
import textwrap
import threading
from inspect import signature

import pytest
from click.testing import CliRunner

from pgnotifier.cli.command import pgnotifier
from pgnotifier.durable import grant

# Before click 8.2, a runner keeps the two outputs apart only if it is asked to.
_APART = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
RUNNER = CliRunner(**_APART)


@pytest.fixture
def tail(pgnotifier_dsn):
    """Return a function that runs the command and returns its exit code and what it has printed."""

    def run(*arguments, dsn=pgnotifier_dsn):
        named = () if dsn is None else ("--dsn", dsn)
        done = RUNNER.invoke(pgnotifier, ["tail", *arguments, *named], catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def sending(db):
    """Yield a function that notifies in one transaction, again and again until the test ends."""
    ended, threads = threading.Event(), []

    def send(*notifications):
        def run():
            while not ended.wait(0.05):
                with db.connection.transaction():
                    for channel, payload in notifications:
                        db.notify(channel, payload)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield send
    ended.set()
    for one in threads:
        one.join(60)


def test_notifications(tail, sending):
    """Each is one line, and the figures are on standard error."""
    sending(("orders", '{"id": 7}'), ("with space", "a\x1b[31m\nb"))
    code, said, figures = tail("orders", "with space", "--count", "2", "--for", "60s")
    first, second = said.splitlines()
    assert code == 0
    assert first.split("  ")[1] == "orders"
    assert first.endswith("  {'id': 7}")
    assert second.endswith(r"  'a\x1b[31m\nb'")
    assert "listening to orders, with space" in figures
    assert "2 notifications in " in figures


def test_json(tail, sending):
    """With --json, each line is an object."""
    sending(("orders", '{"id": 7}'), ("orders", "text"))
    code, said, _ = tail("orders", "--json", "--count", "2", "--for", "60s")
    first, second = map(json.loads, said.splitlines())
    assert (code, first["payload"], second["raw"]) == (0, {"id": 7}, "text")


def test_too_few(tail, db):
    """If the time is over before so many have come, the exit code is 1."""
    assert tail("orders", "--count", "1", "--for", "0.1s")[0] == 1
    assert tail("orders", "--for", "0.1s")[0] == 0


def test_capital_letters(tail, db):
    """A name that NOTIFY without quotes never reaches is warned about."""
    _, _, said = tail("Orders", "--for", "0.1s")
    assert "Warning: channel 'Orders' has capital letters" in said


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("x" * 64,),
        ("orders", "--for", "10"),
        ("orders", "--since", "yesterday"),
        ("orders", "--count", "0"),
        ("pgnotifier:celery:default", "--durable"),
    ],
)
def test_what_can_not_work(tail, arguments):
    """It exits with code 2."""
    code, _, said = tail(*arguments)
    assert (code, "Error: " in said) == (2, True)


def test_no_server(tail, tmp_path):
    """It exits with code 1 and one line."""
    code, said, error = tail("orders", dsn=f"host={tmp_path} dbname=shop")
    assert (code, said) == (1, "")
    assert len(error.splitlines()) == 1


def test_the_log(tail, log):
    """With --since, entries are read from there on, and those published later follow."""
    log.publish("orders", "a", '{"b": 1}')
    log.execute("SELECT pgnotifier.publish('orders', 'c', 'key 1')")
    code, said, figures = tail("orders", "--since", "oldest", "--count", "3", "--for", "60s")
    assert code == 0
    assert [line.split("  ")[2:] for line in said.splitlines()] == [
        ["#1", "-", "'a'"],
        ["#2", "-", "{'b': 1}"],
        ["#3", "key 1", "'c'"],
    ]
    assert "3 entries in " in figures
    code, said, _ = tail("orders", "--since", "2", "--json", "--count", "2", "--for", "60s")
    assert [json.loads(line)["id"] for line in said.splitlines()] == [2, 3]
    assert len(tail("orders", "--since", "1h", "--for", "0.5s")[1].splitlines()) == 3
    assert tail("orders", "--since", "2100-01-01", "--for", "0.5s")[1] == ""
    assert tail("orders", "--durable", "--for", "0.5s")[1] == ""


def test_rights_for_the_log(tail, log, make_role):
    """The rights of a listener are needed, and enough."""
    log.publish("orders", "a")
    role, dsn = make_role()
    code, _, said = tail("orders", "--since", "oldest", dsn=dsn)
    assert (code, "--grant-listener" in said) == (1, True)
    grant(log.connection, role, "listener")
    assert tail("orders", "--since", "oldest", "--count", "1", dsn=dsn)[0] == 0
    assert log.execute("SELECT count(*) FROM pgnotifier.position") == [(0,)]


@pytest.fixture
def shop(tmp_path, monkeypatch, pgnotifier_dsn):
    """Write a module with a notifier, in the current directory."""
    text = f"""
        from pgnotifier import Notifier

        notifier = Notifier({pgnotifier_dsn!r})
        notifier.subscribe("a", "orders", print)
        notifier.subscribe("b", "kept", print, durable=True)
        """
    (tmp_path / "tailed_shop.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield "tailed_shop"
    sys.modules.pop("tailed_shop", None)


def test_all_channels_of_a_module(tail, shop, log):
    """Without a channel, those of the module's subscriptions are shown."""
    assert "listening to orders;" in tail("-m", shop, "--for", "0.1s", dsn=None)[2]
    assert "listening to kept;" in tail("-m", shop, "--durable", "--for", "0.1s", dsn=None)[2]
