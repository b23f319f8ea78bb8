"""The log loses nothing, invents nothing and keeps its order, while readers and servers die."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from pgnotifier._log import installing
from pgnotifier.testing import PostgresServer

from .log_load import SETUP, Verdict, Writer
from .waiting import eventually

pytestmark = pytest.mark.servers

READER = Path(__file__).with_name("log_reader.py")
NAMES = ("one", "two")
NAIVE = """
SELECT id, payload FROM pgnotifier.log WHERE channel = 'orders' AND id > %s ORDER BY id
"""
TICKS = """
SELECT count(DISTINCT tick.id), count(*) FILTER (WHERE l.id >= tick.id OR l.at > tick.at)
FROM pgnotifier.log AS tick CROSS JOIN pgnotifier.log AS l
WHERE tick.snap IS NOT NULL AND pg_visible_in_snapshot(l.xid, tick.snap)
"""


class Readers:
    """Replicas that die all the time, and are started again."""

    def __init__(self, dsn, directory, count):
        self._directory = directory
        command = [sys.executable, str(READER), dsn, str(directory), str(count), *NAMES]
        self._process = subprocess.Popen(command, start_new_session=True)

    @property
    def deaths(self):
        """How many have died."""
        path = self._directory / "deaths"
        return int(path.read_text() or 0) if path.exists() else 0

    def finish(self):
        """Have one that doesn't die read what is left."""
        (self._directory / "stop").touch()
        assert self._process.wait(120) == 0

    def close(self):
        """End them all."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def delivered(self, name):
        """Return (id, key, n) of what a subscription got, in order."""
        path = self._directory / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(map(int, line.split())) for line in lines]


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
                for last, payload in connection.execute(NAIVE, (last,)):  # noqa: B020
                    self.delivered.append((last, *map(int, payload.split())))

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


def publish_held(connection, key):
    """Publish the first entry of a key that no writer has, and leave the transaction open."""
    (made,) = connection.execute(
        "SELECT pgnotifier.publish('orders', %s)", (f"{key} 1",)
    ).fetchone()
    connection.execute("INSERT INTO journal VALUES (%s, %s, 1)", (made, key))


def read_journal(server):
    """Return (id, key, n) of what was committed."""
    with psycopg.connect(server.dsn) as connection:
        return connection.execute("SELECT id, key, n FROM journal").fetchall()


def reclaim(server, freed, stopping):
    """Give space back all the time, with small slots."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        while not stopping.is_set():
            (count,) = connection.execute("SELECT freed FROM pgnotifier.reclaim('0', 1)").fetchone()
            freed.append(count)
            time.sleep(0.02)


SECONDS = [pytest.param(4, id="short"), pytest.param(60, marks=pytest.mark.gate, id="long")]


@pytest.mark.parametrize("seconds", SECONDS)
def test_readers_are_killed(make_server, tmp_path, seconds):
    """Every committed publication is read, in order, however writers write and readers die.

    Slots are truncated meanwhile, and one transaction is open from the beginning to the end.
    """
    server = make_server()
    stopping, freed = threading.Event(), []
    with psycopg.connect(server.dsn) as held, psycopg.connect(server.dsn) as prepared:
        publish_held(held, 101)
        publish_held(prepared, 102)
        prepared.execute("PREPARE TRANSACTION 'held'")
        prepared.commit()
        writers = [Writer(server.dsn, number, stopping) for number in range(8)]
        janitor = threading.Thread(target=reclaim, args=(server, freed, stopping))
        readers = Readers(server.dsn, tmp_path, 3)
        try:
            for one in (*writers, janitor):
                one.start()
            time.sleep(seconds)
            eventually(lambda: sum(freed) > 2 and readers.deaths > 2)
            stopping.set()
            for one in (*writers, janitor):
                one.join()
            held.commit()
            prepared.autocommit = True
            prepared.execute("COMMIT PREPARED 'held'")
            readers.finish()
        finally:
            stopping.set()
            readers.close()
    journal = read_journal(server)
    verdicts = {name: Verdict(readers.delivered(name), journal, writers) for name in NAMES}
    assert all(one.is_good for one in verdicts.values()), verdicts
    assert len(journal) > 100


def test_the_check_can_fail(make_server):
    """A reader that looks at ids alone loses entries under the same load."""
    server = make_server()
    stopping = threading.Event()
    naive = Naive(server.dsn)
    with psycopg.connect(server.dsn) as held:
        publish_held(held, 101)
        writers = [Writer(server.dsn, number, stopping) for number in range(8)]
        for one in (naive, *writers):
            one.start()
        time.sleep(3.0)
        stopping.set()
        for one in writers:
            one.join()
        held.commit()
    naive.stop()
    verdict = Verdict(naive.delivered, read_journal(server), writers)
    assert len(verdict.lost) > 1  # not only the one that was held
    assert not verdict.invented
    # And what seeking depends on: a tick shows lower ids than its own, and earlier times.
    with psycopg.connect(server.dsn) as connection:
        ticks, shown = connection.execute(TICKS).fetchone()
        assert (ticks > 0, shown) == (True, 0)


@pytest.mark.parametrize("crashes", [2, pytest.param(10, marks=pytest.mark.gate)])
def test_the_server_crashes(make_server, tmp_path, crashes):
    """Nothing is lost when the server crashes, and all that writers know of is still there."""
    server = make_server(fsync="on", full_page_writes="on")
    stopping = threading.Event()
    writers = [Writer(server.dsn, number, stopping) for number in range(8)]
    readers = Readers(server.dsn, tmp_path, 2)
    try:
        for one in writers:
            one.start()
        for _ in range(crashes):
            time.sleep(1.0)
            server.stop("immediate")
            server.start()
        time.sleep(1.0)
        stopping.set()
        for one in writers:
            one.join()
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            for (name,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
                connection.execute(f"COMMIT PREPARED '{name}'")
        readers.finish()
    finally:
        stopping.set()
        readers.close()
    journal = read_journal(server)
    known = {entry for one in writers for entry in one.ended}
    assert known <= {entry for entry, *_ in journal}
    verdicts = {name: Verdict(readers.delivered(name), journal, writers) for name in NAMES}
    assert all(one.is_good for one in verdicts.values()), verdicts
    assert len(known) > 50


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
