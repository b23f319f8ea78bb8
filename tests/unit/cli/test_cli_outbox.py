"""The command `pgnotifier outbox`."""

import json

import psycopg
import pytest
from celery import Celery, chain
from click.testing import CliRunner
from log_position import Position

from pgnotifier import durable
from pgnotifier._log import outbox_queries, positions
from pgnotifier.cli import outbox as outbox_commands
from pgnotifier.cli.command import pgnotifier
from pgnotifier.contrib.celery import CeleryOutbox

NAME, CHANNEL = "outbox:celery:shop", "pgnotifier:celery:default"
SECRET = "jane@example.com"
ARGS, KWARGS = json.dumps([SECRET]), json.dumps({"email": SECRET})


def redact(task, args, kwargs):
    """Show how many arguments there are."""
    return len(args), task


@pytest.fixture
def run(log):
    """Return a function that runs `pgnotifier outbox` and returns its exit code and output."""

    def run(*arguments, answer=None, **env):
        done = CliRunner().invoke(
            pgnotifier,
            ["outbox", *map(str, arguments)],
            env={"PGNOTIFIER_DSN": log.dsn, **env},
            input=answer,
            catch_exceptions=False,
        )
        return done.exit_code, done.output

    return run


@pytest.fixture
def entries(log):
    """Have three tasks fail, two of them for good, and three wait; return their numbers by name."""
    connection = log.connection
    sub = Position(positions.subscribe(connection, NAME, CHANNEL))
    for task in ("a", "a", "b"):
        log.execute("SELECT pgnotifier.enqueue(%s, args => %s)", task, ARGS)
    with log.connection.transaction():
        reading = sub.read(log.connection, 10)
        for number, one in enumerate(reading.entries):
            log.execute(
                "SELECT pgnotifier.fail(%s, %s, now(), %s, NULL, %s, %s, NULL, 60, %s)",
                *(sub.sub, one.id, CHANNEL, one.payload.encode(), "no\nqueue", number > 0),
            )
        sub.save(log.connection, reading)
    for task in ("a", "c", "c"):
        queue = "low" if task == "c" else None
        query = "SELECT pgnotifier.enqueue(%s, queue => %s, kwargs => %s)"
        log.execute(query, task, queue, KWARGS)
    return [number for (number,) in log.execute("SELECT id FROM pgnotifier.log ORDER BY id")]


def listed(run, *arguments):
    """Return state, number and task of the entries in a list."""
    code, said = run("list", "--json", *arguments)
    assert code == 0
    return [(one["state"], one["id"], one["task"]) for one in json.loads(said)]


def test_a_task_that_others_mention(log, run, entries, monkeypatch):
    """Where a task's name is in others' arguments, its own entries are found, or it is said."""
    for _ in range(5):
        log.execute("SELECT pgnotifier.enqueue('b', args => '[\"d\"]')")
    log.execute("SELECT pgnotifier.enqueue('d')")
    number = log.execute("SELECT max(id) FROM pgnotifier.log")[0][0]
    assert listed(run, "--task", "d", "--limit", 1) == [("waiting", number, "d")]
    assert "more" not in run("list", "--task", "d")[1]
    for module in (outbox_queries, outbox_commands):
        monkeypatch.setattr(module, "SEARCHED", 3)
    code, said = run("list", "--task", "d", "--limit", 2)
    assert code == 0
    assert "there may be more: 3 entries of an outbox were searched for the task d" in said
    assert "nothing waits" not in said
    monkeypatch.setattr(outbox_commands, "_BATCH", 2)
    assert run("drop", "--waiting", "--task", "d", "--yes") == (0, "1 dropped\n")


def test_the_overview(log, run, entries):
    """Without a subcommand, outboxes and their queues are shown, also as JSON."""
    code, said = run()
    assert code == 0
    headings, whole, low, routed = said.splitlines()
    assert headings.split()[:4] == ["OUTBOX", "RELAY", "QUEUE", "WAITING"]
    assert whole.split()[:4] == ["celery:default", NAME, "-", "3"]
    assert "nobody since" in whole
    assert low.split()[2:4] == ["low", "2"]
    assert low.split()[-3:] == ["0", "0", "-"]
    assert "as routed" in routed
    assert routed.split()[-4:] == ["-", "1", "2", "-"]
    (shown,) = json.loads(run("--json")[1])
    assert (shown["waiting"], shown["failed"], shown["dead"]) == (3, 1, 2)
    sub = shown["sub"]
    with psycopg.connect(log.dsn, autocommit=True) as relay:
        relay.execute("SELECT pgnotifier.note_reader(%s, '{7}')", ([sub],))
        relay.execute("SELECT pgnotifier.note_keys(%s, '{low}', '{2.5}')", (sub,))
        _, whole, low, routed = run()[1].splitlines()
    assert "7.0/s" in whole
    assert low.split()[-4:] == ["2.5/s", "0", "0", "-"]
    assert routed.split()[-4:] == ["0.0/s", "1", "2", "-"]
    durable.uninstall(log.connection)
    code, said = run()
    assert (code, "pgnotifier install" in said) == (1, True)


def test_lists(run, entries):
    """A list has what has failed and what waits, with reasons and without arguments."""
    code, said = run("list")
    assert code == 0
    assert SECRET not in said
    assert "no queue" in said
    one, two, three, four, five, six = entries
    failed = [("failed", one, "a"), ("dead", two, "a"), ("dead", three, "b")]
    waiting = [("waiting", four, "a"), ("waiting", five, "c"), ("waiting", six, "c")]
    assert listed(run) == failed + waiting
    assert listed(run, "--failed") == failed
    assert listed(run, "--limit", 4) == failed + waiting[:1]
    assert listed(run, "--task", "a") == [failed[0], failed[1], waiting[0]]
    assert listed(run, "--queue", "low") == waiting[1:]
    assert run("list", "--task", "d")[1] == "nothing has failed, and nothing waits\n"
    assert run("list", "--task", "d", "--failed")[1] == "nothing has failed\n"
    for name in ("celery:default", "default", NAME, CHANNEL):
        assert listed(run, "--outbox", name) == failed + waiting
    code, said = run("list", "--outbox", "other")
    assert (code, "there are: celery:default" in said) == (1, True)


def test_showing_one(run, entries, tmp_path):
    """Arguments of one are shown only if asked for, and through `--redact`."""
    code, said = run("show", entries[-1], "--json")
    assert (code, SECRET in said) == (0, False)
    assert json.loads(said)["kwargs"] == {"email": "…"}
    said = run("show", entries[-1])[1]
    assert "\ntask: c\n" in said
    assert 'kwargs: {"email": "…"}' in said
    assert json.loads(run("show", entries[-1], "--arguments", "--json")[1])["kwargs"] == {
        "email": SECRET
    }
    assert json.loads(run("show", entries[0], "--arguments", "--json")[1])["args"] == [SECRET]
    code, said = run("show", entries[-1], "--redact", "name, email", "--json")
    assert json.loads(said)["kwargs"] == {"email": "…"}
    code, said = run("show", entries[0], "--json", PGNOTIFIER_REDACT=f"{__name__}:redact")
    assert (json.loads(said)["args"], json.loads(said)["kwargs"]) == (1, "a")
    for wrong in ("there.is:none", f"{__name__}:none", f"{__name__}:SECRET"):
        code, said = run("show", entries[0], "--redact", wrong)
        assert (code, "--redact" in said) == (2, True)
    assert run("show", 10**12)[0] == 1


def test_what_the_relay_routes(run, entries):
    """What has no queue is listed with the word of the overview, and can be chosen."""
    one, two, three, four, five, six = entries
    assert run("list")[1].count("as routed") == 4
    assert [number for _, number, _ in listed(run, "--as-routed")] == [one, two, three, four]
    assert listed(run, "--as-routed", "--failed", "--task", "b") == [("dead", three, "b")]
    assert run("list", "--as-routed", "--queue", "low")[0] == 2
    assert run("retry", "--as-routed") == (0, "3 sent again\n")
    assert run("drop", "--waiting", "--as-routed", "-y") == (0, "1 dropped\n")
    assert [number for _, number, _ in listed(run)] == [one, two, three, five, six]
    assert run("retry", "--all", "--as-routed")[0] == 2


def test_showing_a_canvas(log, run):
    """What follows a task is shown by name; with arguments and queues, if they are asked for."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    add = app.signature("shop.add", (SECRET,), {"email": SECRET}, queue="low", immutable=True)
    store = app.signature("shop.store", kwargs={"copies": 2}, immutable=True)
    with psycopg.connect(log.dsn) as connection:
        canvas = chain(store, add, store.clone().set(link_error=add))
        CeleryOutbox(app).enqueue(connection, canvas)
    ((number,),) = log.execute("SELECT id FROM pgnotifier.log")
    shown = json.loads(run("show", number, "--json")[1])
    assert shown["then"] == ["shop.add", "shop.store"]
    code, said = run("show", number, "--arguments", "--json")
    first, second = json.loads(said)["then"]
    assert (first["task"], first["args"], first["kwargs"]) == (
        "shop.add",
        [SECRET],
        {"email": SECRET},
    )
    assert first["options"]["queue"] == "low"
    assert second["then"][0]["args"] == [SECRET]
    code, said = run("show", number, "--redact", "email", "--json")
    assert (code, SECRET in said) == (0, False)
    assert json.loads(said)["then"][0]["options"]["queue"] == "low"
    assert json.loads(said)["then"][1]["kwargs"] == {"copies": 2}


def test_dead_letters_of_tasks(log, entries):
    """`pgnotifier dead` hides the values of arguments of tasks."""
    for arguments in (["show", "2"], ["list", "--all", "--json"]):
        given = ["dead", *arguments, "--dsn", log.dsn]
        done = CliRunner().invoke(pgnotifier, given, catch_exceptions=False)
        said = done.output.replace("\\u2026", "…")
        assert (done.exit_code, SECRET in said, "…" in said) == (0, False, True)


def test_retrying(run, entries):
    """What has failed is sent again: by number, by task, or all of it."""
    one, two, three, *_ = entries
    assert run("retry") == run("retry", "--outbox", "default")
    assert run("retry")[0] == 2
    assert run("retry", two) == (0, "1 sent again\n")
    assert listed(run, "--failed") == [
        ("failed", one, "a"),
        ("failed", two, "a"),
        ("dead", three, "b"),
    ]
    assert run("retry", "--task", "b") == (0, "1 sent again\n")
    assert run("retry", "--all", "-o", "default") == (0, "3 sent again\n")
    code, said = run("retry", one, 10**12)
    assert (code, "nothing was done" in said) == (1, True)
    assert run("retry", "--all", one)[0] == 2


def test_dropping_what_has_failed(run, entries):
    """What has failed is dropped after a question; what waits stays."""
    one, two, _, *waiting = entries
    assert run("drop", two, answer="n\n")[0] == 1
    assert run("drop", two, answer="y\n")[0] == 0
    assert run("drop", "--task", "b", "--yes") == (0, "1 dropped\n")
    assert [number for _, number, _ in listed(run)] == [one, *waiting]
    assert run("drop", "--all", "-y") == (0, "1 dropped\n")
    assert [number for _, number, _ in listed(run)] == waiting
    code, said = run("drop", waiting[0], "-y")
    assert (code, "nothing was done" in said) == (1, True)


def test_dropping_what_waits(log, run, entries):
    """What waits is dropped for good, or kept as dead letters, which can be sent."""
    *_, four, five, six = entries
    assert run("drop", "--waiting", "--all", "-y")[0] == 2
    assert run("drop", "--waiting", "-y")[0] == 2
    assert run("drop", "--keep", five, "-y")[0] == 2
    assert run("drop", "--waiting", five, entries[0], "-y")[0] == 1
    assert run("drop", "--waiting", five, answer="n\n")[0] == 1
    assert run("drop", "--waiting", five, answer="y\n")[0] == 0
    assert run("drop", "--waiting", "--queue", "low", "--keep", "-y") == (
        0,
        "1 kept as dead letters\n",
    )
    assert listed(run)[2:] == [
        ("dead", entries[2], "b"),
        ("dead", six, "c"),
        ("waiting", four, "a"),
    ]
    assert run("retry", six) == (0, "1 sent again\n")
    with psycopg.connect(log.dsn, autocommit=True) as relay:
        relay.execute("SELECT pgnotifier.hold(sub) FROM pgnotifier.subscription")
        code, said = run("drop", "--waiting", "--task", "a", "-y")
    assert (code, "was reading" in said, "1 dropped" in said) == (0, True, True)
