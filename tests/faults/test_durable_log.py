"""The log loses nothing, invents nothing and keeps its order, while readers and servers die."""

import contextlib
import random
import threading
from contextlib import ExitStack

import psycopg
import pytest
import redis

from pgnotifier._log import installing
from pgnotifier.testing import PostgresServer

from .log_faults import BATCH, Replicas
from .log_load import SETUP, Verdict, Writer, publish
from .log_replicas import NAMES
from .waiting import eventually

pytestmark = pytest.mark.servers

LEAST = 2
"""How many times as many entries are published as may be repeated: few repetitions would say
nothing otherwise."""
BEHIND = 2000
"""How many entries replicas may be behind before writers pause. Otherwise they may be so far behind
in the end that they take minutes for the rest: they read in small batches, and often die."""
NAIVE = """
SELECT id, payload::json FROM pgnotifier.log WHERE channel = 'orders' AND id > %s ORDER BY id
"""
TICKS = """
SELECT count(DISTINCT tick.id), count(*) FILTER (WHERE l.id >= tick.id OR l.at > tick.at)
FROM pgnotifier.log AS tick CROSS JOIN pgnotifier.log AS l
WHERE tick.snap IS NOT NULL AND pg_visible_in_snapshot(l.xid, tick.snap)
"""


class Naive(threading.Thread):
    """Reads what has a higher id than the last one, as is often done."""

    def __init__(self, dsn):
        super().__init__()
        self._dsn = dsn
        self._stopping = threading.Event()
        self.delivered = []

    def run(self):
        """Poll until stopped."""
        last = 0
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            stopping = False
            while not stopping:
                stopping = self._stopping.is_set()
                for found, payload in connection.execute(NAIVE, (last,)):
                    self.delivered.append((*payload, 0))
                    last = found

    def stop(self):
        """Read once more, and end."""
        self._stopping.set()
        self.join()


@pytest.fixture
def make_server():
    """Yield a function that starts a server with the log."""
    with ExitStack() as stack:

        def make(**settings):
            settings = {"max_prepared_transactions": 20, **settings}
            server = stack.enter_context(PostgresServer(settings=settings))
            if server.is_external:
                pytest.skip(f"needs a server that it can stop and start: unset {server.variable}")
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                installing.install(connection)
                connection.execute(SETUP)
                for name in NAMES:
                    connection.execute("SELECT pgnotifier.subscribe(%s, 'orders')", (name,))
            return server

        yield make


class Load:
    """Sixteen writers, while slots are truncated, and a transaction is open throughout.

    Another transaction is prepared at the beginning, and committed at the end.
    """

    def __init__(self, server, seed):
        self._dsn = server.dsn
        self._stopping, self._pausing = threading.Event(), threading.Event()
        events = self._stopping, self._pausing
        self.writers = [Writer(server.dsn, number, seed, *events) for number in range(16)]
        self._janitor = threading.Thread(target=self._reclaim)
        self.freed = 0

    def __enter__(self):
        self._held = psycopg.connect(self._dsn)
        publish(self._held, -1, 101, 1)
        with psycopg.connect(self._dsn) as prepared:
            prepared.execute("SET LOCAL pgnotifier.wake = off")
            publish(prepared, -2, 102, 1)
            prepared.execute("PREPARE TRANSACTION 'held'")
        for one in (*self.writers, self._janitor):
            one.start()
        return self

    def __exit__(self, *_):
        self._end()
        self._held.close()

    @property
    def count(self):
        """How many publications are known to be committed."""
        return sum(len(one.ended) for one in self.writers)

    def wait_for(self, replicas):
        """Pause if replicas are far behind, and go on if they aren't.

        Nobody knows how far they are while the broker is down.
        """
        with contextlib.suppress(redis.ConnectionError):
            if self.count - min(map(replicas.count, NAMES)) > BEHIND:
                self._pausing.set()
                return
        self._pausing.clear()

    def finish(self):
        """Commit everything that isn't yet, and return (number, key, n) of what was committed."""
        self._end()
        with contextlib.suppress(psycopg.OperationalError):  # the server was restarted
            self._held.commit()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for (name,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
                connection.execute(f"COMMIT PREPARED '{name}'")
            return connection.execute("SELECT number, key, n FROM journal").fetchall()

    def _end(self):
        self._stopping.set()
        for one in (*self.writers, self._janitor):
            one.join()

    def _reclaim(self):
        """Give space back all the time, with small slots."""
        while not self._stopping.is_set():
            with (
                contextlib.suppress(psycopg.OperationalError),  # the server is restarted
                psycopg.connect(self._dsn, autocommit=True) as connection,
            ):
                while not self._stopping.wait(0.02):
                    query = "SELECT freed FROM pgnotifier.reclaim('0', 1)"
                    self.freed += connection.execute(query).fetchone()[0]


def judge(replicas, load):
    """Return the verdicts on all subscriptions, once they have got everything."""
    journal = load.finish()
    replicas.calm_down()
    expected = {number for number, *_ in journal}

    def has_all(name):
        if replicas.count(name) < len(expected):
            return False
        return expected <= {number for number, *_ in replicas.delivered(name)}

    with contextlib.suppress(AssertionError):  # the verdicts say what is missing
        eventually(lambda: all(map(has_all, NAMES)))
    verdicts = {name: Verdict(replicas.delivered(name), journal, load.writers) for name in NAMES}
    what = (
        f"seed {replicas.seed}, {len(journal)} published, {replicas.faults} faults, {verdicts}, "
        f"{load.freed} slots truncated"
    )
    print(what)  # noqa: T201 - shown if the test fails
    assert all(one.is_good for one in verdicts.values()), what
    assert "Traceback" not in replicas.errors, replicas.errors
    assert len(journal) > LEAST * BATCH * replicas.faults, what
    assert all(one.repeated <= BATCH * replicas.faults for one in verdicts.values()), what
    assert load.freed > 2
    return verdicts


def strike_often(replicas, load, count):
    """Cause faults, as often as the number of publications allows."""

    def may_go_on():
        replicas.look()
        load.wait_for(replicas)
        # Some more will die until all is over.
        return load.count > (LEAST + 1) * BATCH * (replicas.faults + 3)

    last = replicas.faults + count
    while replicas.faults < last:
        eventually(may_go_on)
        replicas.strike()
    eventually(may_go_on)
    eventually(lambda: replicas.look() or load.freed > 2)


@pytest.mark.parametrize("faults", [8, pytest.param(80, marks=pytest.mark.gate)])
def test_readers_are_killed(make_server, tmp_path, faults):
    """Replicas that are killed and stopped lose nothing, and repeat one batch per kill at most.

    Slots are truncated meanwhile, and one transaction is open from the beginning to the end.
    """
    server, seed = make_server(), random.randrange(1 << 32)
    with Load(server, seed) as load, Replicas(server, tmp_path, seed) as replicas:
        strike_often(replicas, load, faults)
        verdicts = judge(replicas, load)
    for one in verdicts.values():
        assert max(one.repeats.values(), default=0) <= BATCH, one.repeats
        assert one.repeats.keys() <= replicas.killed, one.repeats


@pytest.mark.parametrize("faults", [20, pytest.param(80, marks=pytest.mark.gate)])
def test_readers_are_cut_off(make_server, tmp_path, faults):
    """The same holds if networks break as well, so that others go on with what was under way."""
    server, seed = make_server(), random.randrange(1 << 32)
    with Load(server, seed) as load, Replicas(server, tmp_path, seed, cuts=True) as replicas:
        strike_often(replicas, load, faults)
        judge(replicas, load)


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.gate)])
def test_the_broker_is_killed(make_server, pgnotifier_private_valkey, tmp_path, kills):
    """The same holds for tasks that are sent to a broker, if that is killed and started as well."""
    server, broker, seed = make_server(), pgnotifier_private_valkey, random.randrange(1 << 32)
    with (
        Load(server, seed) as load,
        Replicas(server, tmp_path, seed, broker=broker.url) as replicas,
    ):
        for _ in range(kills):
            strike_often(replicas, load, 5)
            broker.kill()
            strike_often(replicas, load, 2)
            broker.start()
            replicas.faults += 1
        strike_often(replicas, load, 5)
        judge(replicas, load)


def test_the_check_can_fail(make_server):
    """A reader that looks at ids alone loses entries under the same load."""
    server = make_server()
    naive = Naive(server.dsn)
    with Load(server, random.randrange(1 << 32)) as load:
        naive.start()
        eventually(lambda: load.count > 2000)
        journal = load.finish()
    naive.stop()
    verdict = Verdict(naive.delivered, journal, load.writers)
    assert len(verdict.lost) > 2  # not only what was held
    assert not verdict.invented
    # And what seeking depends on: a tick shows lower ids than its own, and earlier times.
    with psycopg.connect(server.dsn) as connection:
        ticks, shown = connection.execute(TICKS).fetchone()
        assert (ticks > 0, shown) == (True, 0)


@pytest.mark.parametrize("crashes", [1, pytest.param(8, marks=pytest.mark.gate)])
def test_the_server_crashes(make_server, tmp_path, crashes):
    """Nothing is lost when the server crashes, and all that writers know of is still there."""
    server, seed = make_server(fsync="on", full_page_writes="on"), random.randrange(1 << 32)
    with Load(server, seed) as load, Replicas(server, tmp_path, seed) as replicas:
        for _ in range(crashes):
            strike_often(replicas, load, 3)
            server.stop("immediate")
            server.start()
            replicas.faults += 1
        strike_often(replicas, load, 3)
        verdicts = judge(replicas, load)
        known = {number for one in load.writers for number in one.ended}
    assert known <= {number for number, *_ in replicas.delivered(NAMES[0])}
    for one in verdicts.values():  # each replica is killed once at most
        assert max(one.repeats.values(), default=0) <= BATCH * (crashes + 1), one.repeats


def test_the_wake_up_after_a_reader_was_killed(make_server):
    """A reader that is killed in its sleep leaves the bell on; the next publisher turns it off."""
    server = make_server()
    with (
        psycopg.connect(server.dsn, autocommit=True) as connection,
        psycopg.connect(server.dsn, autocommit=True) as sleeper,
    ):
        sleeper.execute("SELECT pgnotifier.doze()")
        connection.execute("SELECT pg_terminate_backend(%s)", (sleeper.info.backend_pid,))
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        eventually(lambda: connection.execute(locks).fetchone() == (0,))
        bell = "SELECT last_value FROM pgnotifier.bell"
        assert connection.execute(bell).fetchone() == (1,)
        connection.execute("SELECT pgnotifier.publish('orders', '1')")
        assert connection.execute(bell).fetchone() == (0,)
