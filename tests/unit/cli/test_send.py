"""The command `send`."""

import json
import subprocess
import sys

import psycopg
import pytest
from click.testing import CliRunner

from pgnotifier import durable
from pgnotifier.cli.command import pgnotifier


@pytest.fixture
def send(pgnotifier_dsn):
    """Return a function that runs the command and returns its exit code and output."""

    def run(*arguments, dsn=pgnotifier_dsn, given=None):
        done = CliRunner().invoke(
            pgnotifier, ["send", *arguments, "--dsn", dsn], input=given, catch_exceptions=False
        )
        return done.exit_code, done.output

    return run


@pytest.fixture
def received(pgnotifier_dsn):
    """Yield a function that returns so many payloads of the channel `orders`."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as listening:
        listening.execute("LISTEN orders")
        yield lambda count: [
            one.payload for one in listening.notifies(timeout=60, stop_after=count)
        ]


def entries(log):
    """Return payload and key of what is in the log."""
    return log.execute("SELECT payload, key FROM pgnotifier.log ORDER BY id")


def test_a_payload(send, received):
    """It is sent as it is given, and not read or encoded."""
    for payload in ("42", '{"a":  1}', "it's"):
        assert send("orders", payload) == (0, "sent 1 notification to channel 'orders'\n")
    assert send("orders")[0] == 0
    assert send("orders", "-", given='{"a": 1}\n')[0] == 0
    assert received(5) == ["42", '{"a":  1}', "it's", "", '{"a": 1}']


def test_repetition(send, received):
    """Equal payloads are all delivered, although PostgreSQL makes one of those in a transaction."""
    code, said = send("orders", "x", "--repeat", "3", "--rate", "1000/s", "--json")
    assert (code, json.loads(said)) == (0, {"channel": "orders", "sent": 3, "durable": False})
    assert received(3) == ["x", "x", "x"]


def test_a_file(send, received, tmp_path):
    """Each line is a payload; blank lines, a mark at the beginning and CRLF aren't sent."""
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\n[2]\n[2]\n"\xc3\xa9"')
    assert send("orders", "--file", str(path))[0] == 0
    assert received(4) == ['{"id": 1}', "[2]", "[2]", '"é"']


@pytest.mark.parametrize(
    ("name", "bad", "why"),
    [
        ("a.jsonl", b"{1}", "it isn't JSON"),
        ("a.txt", b"a\0b", "NUL"),
        ("a.txt", b"\xff", "it isn't valid UTF-8"),
        ("a.txt", b"x" * 8000, "--durable"),
        ("a.ndjson", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line(send, received, tmp_path, name, bad, why):
    """It is named before anything of a file is sent."""
    path = tmp_path / name
    path.write_bytes(b"1\n2\n" + bad + b"\n3\n")
    code, said = send("orders", "--file", str(path))
    assert (code, "line 3: " in said, why in said) == (1, True, True), said
    assert "nothing was sent" in said
    assert send("orders", "last")[0] == 0
    assert received(1) == ["last"]


def test_a_bad_line_of_standard_input(received, pgnotifier_dsn, tmp_path):
    """Lines before it are sent, and the error says how many."""
    given = tmp_path / "given"
    given.write_bytes(b"1\n2\n\xff\n3\n")
    with given.open("rb") as standard_input:
        done = subprocess.run(
            [sys.executable, "-m", "pgnotifier", "send", "orders", "-f", "-", "-d", pgnotifier_dsn],
            stdin=standard_input,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, "line 3: " in done.stderr) == (1, True), done.stderr
    assert "2 sent before that" in done.stderr
    assert received(2) == ["1", "2"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("x" * 64, "1"),
        ("", "1"),
        ("orders", "x" * 8000),
        ("orders", "1", "--file", "a"),
        ("orders", "--file", "a", "--repeat", "2"),
        ("orders", "1", "--key", "k"),
        ("orders", "1", "--rate", "fast"),
        ("orders", "1", "--rate", "0"),
        ("pgnotifier:celery:a", "1", "--durable"),
    ],
)
def test_what_can_not_work(send, arguments):
    """It exits with code 2, before anything is sent."""
    code, said = send(*arguments)
    assert code in (1, 2) if "--durable" in arguments else code == 2
    assert "Error: " in said


def test_capital_letters(send):
    """A name that LISTEN without quotes never reaches is sent to, with a warning."""
    code, said = send("Orders", "1")
    assert (code, "LISTEN Orders without quotes listens to 'orders'" in said) == (0, True)


def test_publishing(send, log, tmp_path):
    """With --durable, entries are published as they are given, also long ones, with a key."""
    said = "published 1 entry to channel 'orders'\n"
    assert send("orders", "42", "--durable", "--key", "k") == (0, said)
    path = tmp_path / "lines"
    path.write_text("x" * 8000 + "\ny\ny\n")
    assert send("orders", "--durable", "--file", str(path))[0] == 0
    assert entries(log) == [("42", "k"), ("x" * 8000, None), ("y", None), ("y", None)]


def test_without_a_log(send):
    """The error says how to install it."""
    code, said = send("orders", "1", "--durable")
    assert (code, "pgnotifier install" in said, "nothing was sent" in said) == (1, True, True)


def test_failing_in_the_middle(send, log, tmp_path):
    """Transactions before the failure are kept, and the error says how many lines they had."""
    log.execute("ALTER TABLE pgnotifier.log ADD CHECK (payload <> '1500')")
    path = tmp_path / "lines"
    path.write_text("\n".join(map(str, range(3000))))
    code, said = send("orders", "--durable", "--file", str(path))
    assert (code, "1,000 sent before that" in said) == (1, True), said
    assert len(entries(log)) == 1000


def test_a_role_that_may_not_publish(send, log, make_role):
    """The error says which right is missing."""
    _, dsn = make_role()
    code, said = send("orders", "1", "--durable", dsn=dsn)
    assert (code, "--grant-publisher" in said) == (1, True)
    assert send("orders", "1", dsn=dsn)[0] == 0
    assert durable.check(log.connection)
