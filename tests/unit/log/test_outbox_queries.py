"""What waits in an outbox and what has failed: counted, listed, set aside."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest

from pgnotifier import durable
from pgnotifier._log import dead_letters, outbox_queries
from pgnotifier._log.outbox_queries import list_entries, outboxes, search_entries, set_aside
from pgnotifier.errors import LogNotInstalledError, LogRefusedError

NAME, CHANNEL = "outbox:celery:shop", "pgnotifier:celery:default"


class Console:
    """An outbox in a log. The tests do what its relay would."""

    def __init__(self, log):
        self.log = log
        self.position = log.subscribe(NAME, CHANNEL)
        self.sub = self.position.sub

    def put(self, *tasks, queue="celery", exchange="", connection=None):
        """Enqueue finished messages in one transaction; return the numbers of their entries."""
        key = f"{exchange}\x1f{queue}\x1f0"
        if connection is not None:  # in its transaction
            return [self._put(task, key, connection) for task in tasks]
        with self.log.connection.transaction():
            return [self._put(task, key, self.log.connection) for task in tasks]

    def _put(self, task, key, connection):
        body = {"headers": {"lang": "py", "task": task, "id": f"id of {task}"}, "properties": {}}
        query = "SELECT pgnotifier.publish(%s, %s, %s)"
        payload = json.dumps({"body": "W10=", **body})
        return connection.execute(query, (CHANNEL, payload, key)).fetchone()[0]

    def fail(self, error="ValueError: no", count=1, *, dead=True):
        """Have the next entries fail."""
        with self.log.connection.transaction():
            reading = self.position.read(self.log.connection, count)
            for entry in reading.entries:
                self.log.execute(
                    "SELECT pgnotifier.fail(%s, %s, %s, %s, %s, %s, %s, 'Traceback', 1, %s)",
                    *(self.sub, entry.id, entry.published_at, CHANNEL),
                    *(entry.key and entry.key.encode(), entry.payload.encode(), error, dead),
                )
            self.position.save(self.log.connection, reading)

    def tasks(self, **given):
        """Return the names of the tasks in a list."""
        return [one.task for one in list_entries(self.log.connection, self.sub, **given)]

    @property
    def state(self):
        """The figures of the outbox."""
        (found,) = outboxes(self.log.connection)
        return found


@pytest.fixture
def console(log):
    """Return the outbox of the app `shop`."""
    return Console(log)


def test_figures(log, console):
    """An outbox is described with its queues; other subscriptions are none."""
    log.subscribe("other", "orders")
    assert console.state.to_dict() == {
        "sub": console.sub,
        "name": "celery:default",
        "channel": CHANNEL,
        "subscription": NAME,
        "waiting": 0,
        "is_exact": True,
        "oldest_seconds": 0.0,
        "rate": None,
        "failed": 0,
        "dead": 0,
        "reader_pid": None,
        "unread_since": console.state.unread_since.isoformat(),
        "queues": (),
    }
    console.put("a", "b", "c")
    console.put("d", queue="eu", exchange="orders")
    log.execute("SELECT pgnotifier.enqueue('e'), pgnotifier.enqueue('f', queue => 'low')")
    console.fail(count=2)
    console.fail(dead=False)
    state = console.state
    assert (state.waiting, state.failed, state.dead) == (3, 1, 2)
    waiting = {one.queue: one.waiting for one in state.queues}
    assert waiting == {"orders/eu": 1, None: 1, "low": 1, "celery": 0}
    assert 0 < state.oldest_seconds < 60
    (again,) = durable.outboxes(log.connection)
    assert again.queues[0].oldest_seconds >= state.queues[0].oldest_seconds


def test_failures_by_queue(log, console):
    """What has failed is counted for each queue, also where nothing waits, with any priority."""
    console.put("a", "b", "c")
    console.put("d", queue="eu", exchange="orders")
    log.execute("SELECT pgnotifier.enqueue('e'), pgnotifier.enqueue('f', queue => 'low')")
    log.execute("SELECT pgnotifier.enqueue('g', queue => 'low', priority => 7)")
    log.execute(
        "INSERT INTO pgnotifier.log (channel, key, payload) VALUES (%s, 'images', '')", CHANNEL
    )
    console.fail(count=2)
    console.fail(dead=False)
    console.fail(count=5)
    console.put("h", queue="low")
    found = {one.queue: (one.waiting, one.failed, one.dead) for one in console.state.queues}
    assert found == {
        "low": (1, 0, 2),
        "celery": (0, 1, 2),
        "orders/eu": (0, 0, 1),
        None: (0, 0, 1),
        "images": (0, 0, 1),
    }
    assert [one.oldest_seconds > 0 for one in console.state.queues] == [True, *[False] * 4]
    assert outboxes(log.connection, counts=False)[0].queues == ()


def test_rates_by_queue(log, console):
    """They are those that the relay has noted, of all priorities, while it runs."""
    console.put("a", queue="low")
    with log.connect() as relay:
        relay.execute("SELECT pgnotifier.note_reader(%s, '{9.5}')", ([console.sub],))
        assert [(one.queue, one.rate) for one in console.state.queues] == [("low", 0.0)]
        keys = [b"\x1flow\x1f0", b"\x1flow\x1f9", b"celery", None]
        note = "SELECT pgnotifier.note_keys(%s, %s::bytea[], %s::float8[])"
        relay.execute(note, (console.sub, keys, [4.0, 2.0, 3.0, 0.5]))
        assert console.state.rate == 9.5
        found = {one.queue: (one.waiting, one.rate) for one in console.state.queues}
        assert found == {"low": (1, 6.0), "celery": (0, 3.0), None: (0, 0.5)}
        with log.connect() as other:  # which doesn't relay
            other.execute(note, (console.sub, [b"celery"], [7.0]))
        assert {one.rate for one in console.state.queues} == {6.0, 3.0, 0.5}
        relay.execute("SELECT pgnotifier.note_reader(%s, '{0}')", ([console.sub],))
        assert [(one.queue, one.rate) for one in console.state.queues] == [("low", 0.0)]
    log.execute("UPDATE pgnotifier.reader SET pid = 0")
    assert [(one.queue, one.rate) for one in console.state.queues] == [("low", None)]


def test_what_the_relay_routes(log, console, monkeypatch):
    """A list can be limited to tasks without a queue, and to a state."""
    console.put("a", "a")
    log.execute("SELECT pgnotifier.enqueue('a', queue => 'low')")
    log.execute("SELECT pgnotifier.enqueue('b'), pgnotifier.enqueue('a')")
    log.execute("SELECT pgnotifier.enqueue('größe')")
    assert console.tasks(routed=True) == ["b", "a", "größe"]
    assert console.tasks(routed=True, task="a") == ["a"]
    assert console.tasks(routed=True, task="größe", limit=1) == ["größe"]
    monkeypatch.setattr(outbox_queries, "SEARCHED", 1)
    for limit, expected in ((1, ([], True)), (2, (["b"], True)), (9, (["b", "a", "größe"], False))):
        found, is_cut = search_entries(log.connection, console.sub, routed=True, limit=limit)
        assert ([one.task for one in found], is_cut) == expected
    console.fail(count=2)
    console.fail(dead=False)
    console.fail(count=2)
    assert console.tasks(failed=True, routed=True) == ["b", "a"]
    assert console.tasks(failed=True, state="failed") == ["a"]
    assert console.tasks(failed=True, state="dead") == ["a", "a", "b", "a"]


def test_ages(log, console):
    """The age is that of the oldest entry that waits, in each queue and in all."""
    console.put("a", "b")
    console.put("c", queue="low")
    ago = datetime.now(UTC) - timedelta(hours=1)
    log.execute(
        "UPDATE pgnotifier.log SET at = %s WHERE id = (SELECT min(id) FROM pgnotifier.log)", ago
    )
    state = console.state
    assert 3600 <= state.oldest_seconds < 3700
    ages = {one.queue: one.oldest_seconds for one in state.queues}
    assert ages["celery"] == state.oldest_seconds
    assert ages["low"] < 100


def test_what_waits(log, console):
    """What was read is left out, what is open isn't there yet, and a window may be under way."""
    numbers = console.put(*"abcdef")
    assert console.tasks() == [*"abcdef"]
    assert console.tasks(limit=2) == ["a", "b"]
    with log.connect(autocommit=False) as other:
        console.put("late", connection=other)
        log.read(console.position, 2)  # of one transaction: the window goes on
        assert console.tasks() == [*"cdef"]
        console.put("g")
        log.read_all(console.position, 2)
        assert console.tasks() == []
        other.commit()
        assert console.tasks() == ["late"]
    (late,) = list_entries(log.connection, console.sub)
    assert late.id > numbers[-1]
    assert (late.state, late.task_id, late.queue, late.n) == (
        "waiting",
        "id of late",
        "celery",
        None,
    )
    assert (late.payload, late.error) == (None, None)
    assert late.enqueued_at.tzinfo is UTC


def test_choosing(log, console):
    """A list can be limited to a queue, a task, and numbers, as given in SQL or by Celery."""
    first, _ = console.put("shop.a", "shop.b")
    console.put("shop.a", queue="low")
    console.put("Größe", queue="low")
    log.execute(
        'SELECT pgnotifier.enqueue(\'shop.a\', kwargs => \'{"queue": "low", "task": "shop.b"}\')'
    )
    log.execute("SELECT pgnotifier.enqueue('Größe', args => '[\"shop.a\"]', queue => 'low')")
    assert console.tasks(task="shop.a") == ["shop.a"] * 3
    assert console.tasks(task="shop.b") == ["shop.b"]
    assert console.tasks(task="shop") == []
    assert console.tasks(queue="low") == ["shop.a", "Größe", "Größe"]
    assert console.tasks(task="Größe", queue="low") == ["Größe"] * 2
    assert console.tasks(ids=[first, 10**15]) == ["shop.a"]
    console.fail(count=6)
    assert console.tasks(failed=True, task="shop.a", queue="low") == ["shop.a"]
    assert console.tasks(failed=True, ids=[first]) == ["shop.a"]


def test_a_task_that_others_mention(log, console, monkeypatch):
    """A list is filled with the entries of a task, however many have its name elsewhere before."""
    mention = (
        "SELECT pgnotifier.enqueue('other', args => '[\"shop.a\"]') FROM generate_series(1, 50)"
    )
    log.execute(mention)
    console.put("shop.a", "shop.a", "Größe")
    for task in ("shop.a", "Größe"):
        assert console.tasks(task=task, limit=1) == [task]
    search = partial(search_entries, log.connection, console.sub, task="shop.a")
    found, is_cut = search(limit=3)
    assert ([one.task for one in found], is_cut) == (["shop.a"] * 2, False)
    monkeypatch.setattr(outbox_queries, "SEARCHED", 51)
    for limit, expected in ((1, (1, False)), (2, (1, True)), (52, (2, True)), (53, (2, False))):
        found, is_cut = search(limit=limit)
        assert (len(found), is_cut) == expected
    console.fail(count=60)
    assert console.tasks(failed=True, task="shop.a", limit=2) == ["shop.a"] * 2


def test_what_has_failed(log, console):
    """What has failed says why, and whether it is tried again."""
    console.put("a", "b", "c")
    console.fail("KeyError: 7", dead=False)
    console.fail("ValueError: no")
    one, two = list_entries(log.connection, console.sub, failed=True, reads=True)
    assert (one.state, one.task, one.error, one.attempts) == ("failed", "a", "KeyError: 7", 1)
    assert (two.state, two.task, two.error) == ("dead", "b", "ValueError: no")
    assert two.n > one.n
    assert json.loads(two.payload)["headers"]["task"] == "b"
    assert two.failed_at >= two.enqueued_at


def test_what_can_not_be_read(log, console):
    """Whatever somebody has put in, it is listed."""
    for payload in (
        "",
        "nonsense",
        '{"task": 7}',
        '{"task": "a\\"b", "id": "\\u00e9"}',
        '"task": "',
    ):
        log.publish(CHANNEL, payload)
    assert console.tasks() == [None, None, None, 'a"b', None]
    assert [one.task_id for one in list_entries(log.connection, console.sub)][3] == "é"


def test_setting_aside(log, console):
    """What is set aside isn't read, and becomes a dead letter, which can be delivered after all."""
    a, b, c = console.put("a", "b", "c")
    made, is_read = set_aside(log.connection, console.sub, [b, c, 10**15], "not now")
    assert (len(made), is_read) == (2, False)
    assert set_aside(log.connection, console.sub, [b], "again") == ([], False)
    assert console.tasks() == ["a"]
    (state,) = outboxes(log.connection)
    assert (state.waiting, state.dead) == (1, 2)
    assert [json.loads(one)["headers"]["task"] for one in log.read_all(console.position)] == ["a"]
    letters = dead_letters.find_letters(log.connection)
    assert [(one.id, one.channel, one.error, one.attempts) for one in letters] == [
        (b, CHANNEL, "not now", 0),
        (c, CHANNEL, "not now", 0),
    ]
    assert dead_letters.retry_letters(log.connection, made) == 2
    with log.connection.transaction():
        due = dead_letters.find_due(log.connection, console.sub, 10)
    assert [one.id for one in due] == [b, c]
    assert a < b


def test_setting_aside_while_a_relay_reads(log, console):
    """It is said if a relay reads at that moment, as it may have taken them already."""
    (a,) = console.put("a")
    with log.connect() as relay:
        relay.execute("SELECT pgnotifier.hold(%s)", (console.sub,))
        made, is_read = set_aside(log.connection, console.sub, [a], "not now")
    assert (len(made), is_read) == (1, True)


def test_setting_aside_at_the_same_time(log, console):
    """Two that set the same entry aside make one dead letter of it."""
    (a,) = console.put("a")
    with log.connect(autocommit=False) as other:
        made, _ = set_aside(other, console.sub, [a], "first")
        log.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            set_aside(log.connection, console.sub, [a], "second")
        other.commit()
    assert len(made) == 1
    assert set_aside(log.connection, console.sub, [a], "second") == ([], False)


def test_only_outboxes(log):
    """What other subscriptions wait for isn't set aside: several may read the same channel."""
    position = log.subscribe("invoice", "orders")
    (entry,) = log.publish("orders", "1")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="isn't that of a relay"):
        set_aside(log.connection, position.sub, [entry], "no")


def test_counting_is_bounded(log, console):
    """So many entries are counted, and no more."""
    log.execute(
        "INSERT INTO pgnotifier.log (channel, key, payload)"
        " SELECT %s, chr(31) || n %% 2 || chr(31) || '0', '{}' FROM generate_series(1, 1000) AS n",
        CHANNEL,
    )
    query = "SELECT entries, is_all FROM pgnotifier.count_waiting(%s, %s)"
    assert log.execute(query, console.sub, 1001) == [(500, True), (500, True)]
    assert log.execute(query, console.sub, 600) == [(300, False), (300, False)]


def test_a_listener(log, console, make_role):
    """The rights of a listener are enough."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "listener")
    entries = console.put("a", "b")
    with psycopg.connect(dsn, autocommit=True) as listener:
        assert outboxes(listener)[0].waiting == 2
        assert len(list_entries(listener, console.sub)) == 2
        assert len(set_aside(listener, console.sub, entries, "not now")[0]) == 2


def test_without_rights(log, make_role):
    """For others than listeners, the error says what is missing."""
    _, dsn = make_role()
    with psycopg.connect(dsn) as stranger:
        for look in (outboxes, lambda session: list_entries(session, 1)):
            with pytest.raises(LogRefusedError, match="grant-listener"):
                look(stranger)
            stranger.rollback()
    log.execute("DROP SCHEMA pgnotifier CASCADE")
    with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
        outboxes(log.connection)
