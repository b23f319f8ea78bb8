"""Durable subscriptions while processes, connections and servers are broken: nothing is lost."""

import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from published import DurableLog

from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.reading import Sizes

from .proxy import Proxy
from .waiting import eventually

BATCH = 1000
"""How many entries may come again after a crash, by default."""
REPLICA = """
import json, os, sys, time
from pgnotifier import Notifier, ThreadDispatcher

def say(id, channel, payload, pid):
    os.write(1, f"{json.dumps([id, payload])}\\n".encode())  # whole lines, from any thread
    if [str(payload)] == sys.argv[2:]:
        time.sleep(600)

notifier = Notifier(sys.argv[1], wait=True)
notifier.subscribe("inline", "paid", say, durable=True, start="oldest")
notifier.subscribe("threads", "paid", say, durable=True, start="oldest",
                   dispatcher=ThreadDispatcher())
os.write(1, b"ready\\n")
"""


def delivered(*scripts):
    """Return the payloads that were delivered, by subscription, in the order of each script."""
    found = {"inline": [], "threads": []}
    for script in scripts:
        for line in script.out.splitlines():
            if line.endswith("]"):
                name, payload = json.loads(line)
                found[name].append(payload)
    return found


def has_all(scripts, expected):
    """Return whether each subscription has got everything."""
    return all(set(expected) <= set(payloads) for payloads in delivered(*scripts).values())


@pytest.fixture
def small_batches(monkeypatch):
    """Have few entries delivered at a time, and yield how many may come again after a crash."""
    sizes = Sizes(batch=10, unsynced=2, at_once=20)
    monkeypatch.setattr(Sizes, "of", lambda dispatcher: sizes)
    return sizes.batch


class Writers:
    """Threads that publish numbers, some of which they roll back, until they are stopped."""

    def __init__(self, dsn, count=3):
        self.committed = []
        self.rolled_back = []
        self._dsn = dsn
        self._stop = threading.Event()
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    def __enter__(self):
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for one in self._threads:
            one.join()

    def _run(self, seed):
        chance = random.Random(seed)
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True) as connection:
                    while not self._stop.wait(chance.uniform(0, 0.01)):
                        self._publish(connection, chance)
            except psycopg.Error:  # the server is being restarted
                self._stop.wait(0.1)

    def _publish(self, connection, chance):
        with self._lock:
            numbers = [next(self._numbers) for _ in range(chance.randint(1, 5))]
        fails = chance.random() < 0.2
        with connection.transaction(force_rollback=fails):
            for number in numbers:
                connection.execute("SELECT pgnotifier.publish('paid', %s)", (str(number),))
            self._stop.wait(chance.choice((0, 0, 0.02)))
        (self.rolled_back if fails else self.committed).extend(numbers)


def test_a_replica_that_is_killed_repeats_a_batch_at_most(log, run_script):
    """What was delivered and saved before a kill doesn't come again."""
    log.publish_together("paid", *range(1500))
    first = run_script(REPLICA, log.dsn, "1200")  # where it hangs
    eventually(lambda: 1200 in delivered(first)["inline"])
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    second = run_script(REPLICA, log.dsn)
    eventually(lambda: has_all((first, second), range(1500)))
    again = set(delivered(first)["inline"]) & set(delivered(second)["inline"])
    assert 1200 in again
    assert len(again) <= BATCH
    assert min(again) >= BATCH - 100  # the first batch is that much smaller


def test_sessions_that_are_terminated(log, make_notifier, record, quick):
    """A reader goes on with another session when its own is ended, and loses nothing."""
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", record, durable=True)
    for number in range(5):
        log.publish("paid", number)
        record.wait_for(number + 1)
        eventually(log.terminate)
    log.publish("paid", 5)
    eventually(lambda: set(record.payloads) == set(range(6)))


def test_a_session_that_ends_during_a_batch(log, make_notifier, quick):
    """What was under way when the session ended isn't delivered again once that is settled."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def wait(id, channel, payload, pid):
        calls.append(payload)
        begun.set()
        assert go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish_together("paid", 1, 2)
    assert begun.wait(60)
    log.terminate()
    eventually(lambda: log.readers())
    go_on.set()
    log.publish("paid", 3)
    eventually(lambda: 3 in calls)
    assert calls == [1, 2, 3]


def test_a_network_that_swallows_everything(log, make_notifier, record, quick):
    """If nobody answers, a reader goes on with another connection, and catches up."""
    with Proxy(conninfo_to_dict(log.dsn)) as proxy:
        notifier = make_notifier(proxy.dsn, heartbeat_timeout=0.2)
        notifier.subscribe("invoice", "paid", record, durable=True)
        log.publish("paid", 1)
        record.wait_for(1)
        proxy.frozen = True
        log.publish("paid", 2)
        eventually(lambda: notifier.status().durable[0].why)
        log.terminate()  # the server would notice it only after some time
        proxy.frozen = False
        log.publish("paid", 3)
        eventually(lambda: set(record.payloads) == {1, 2, 3})
        assert notifier.status().durable[0].why is None
        notifier.stop()


def test_a_session_that_nobody_has_noticed(log, make_notifier, quick):
    """A session that holds a subscription after its network is gone is ended by the next one."""
    begun, go_on, got = threading.Event(), threading.Event(), []

    def wait(id, channel, payload, pid):
        got.append(payload)
        begun.set()
        assert go_on.wait(60)

    with Proxy(conninfo_to_dict(log.dsn)) as proxy:
        notifier = make_notifier(proxy.dsn, heartbeat_timeout=0.2)
        notifier.subscribe("invoice", "paid", wait, durable=True)
        log.publish("paid", 1)
        assert begun.wait(60)  # the subscription is held
        (left,) = eventually(log.readers)
        proxy.frozen = True
        eventually(lambda: notifier.status().durable[0].why)
        assert left in log.readers()
        proxy.frozen = False
        go_on.set()
        log.publish("paid", 2)
        eventually(lambda: got == [1, 2])
        eventually(lambda: left not in log.readers())
        notifier.stop()


@pytest.mark.parametrize("crashes", [False, True], ids=["restarted", "crashed"])
def test_a_server_that_is_restarted(
    pgnotifier_private_postgres, make_notifier, quick, small_batches, crashes
):
    """What was committed before and after a restart, or a crash, of the server is delivered."""
    server = pgnotifier_private_postgres
    log, got = DurableLog(server.dsn), []
    notifier = make_notifier(server.dsn)
    notifier.subscribe("invoice", "paid", lambda *a: got.append(a[2]), durable=True)
    with Writers(server.dsn) as writers:
        eventually(lambda: len(writers.committed) > 50)
        server.kill() if crashes else server.stop()
        log.connection.close()
        server.start()
        before = len(writers.committed)
        eventually(lambda: len(writers.committed) > before + 50)
    eventually(lambda: set(writers.committed) <= set(got))
    assert not set(got) & set(writers.rolled_back)
    assert len(got) - len(set(got)) <= small_batches
    notifier.stop()


def test_a_process_of_the_server_that_is_killed(
    pgnotifier_private_postgres, make_notifier, quick, small_batches
):
    """The server goes on as the same one, but has lost what wasn't on the disk."""
    server = pgnotifier_private_postgres
    log, got = DurableLog(server.dsn), []

    def identify():
        with Parameters(server.dsn).connect() as connection:
            session = LogSession(connection)
            session.prepare()
            return session.run

    notifier = make_notifier(server.dsn)
    notifier.subscribe("invoice", "paid", lambda *a: got.append(a[2]), durable=True)
    before = identify()
    with Writers(server.dsn) as writers:
        eventually(lambda: len(writers.committed) > 50)
        os.kill(log.connection.info.backend_pid, signal.SIGKILL)
        log.connection.close()
        committed = len(writers.committed)
        eventually(lambda: len(writers.committed) > committed + 50)
    eventually(lambda: set(writers.committed) <= set(got))
    assert not set(got) & set(writers.rolled_back)
    assert len(got) - len(set(got)) <= small_batches
    assert identify() != before
    notifier.stop()


def test_a_server_that_is_not_up_yet(pgnotifier_private_postgres, make_notifier, record, quick):
    """With `wait=`, a notifier with durable subscriptions waits for the server."""
    server = pgnotifier_private_postgres
    log = DurableLog(server.dsn)
    log.publish("paid", 1)
    log.connection.close()
    server.stop()
    notifier = make_notifier(server.dsn, wait=True)
    notifier.subscribe("invoice", "paid", record, autorun=False, durable=True, start="oldest")
    notifier.begin()
    assert notifier.is_starting()
    server.start()
    assert record.wait_for(1) == [1]
    notifier.stop()


def test_a_connection_that_is_lost_at_the_start(log, make_notifier, record, quick):
    """With `wait=`, a connection that is lost while the log is looked for is made again."""
    log.publish("paid", 1)
    with Proxy(conninfo_to_dict(log.dsn)) as proxy, ThreadPoolExecutor() as threads:
        proxy.cut_at = b"FROM pgnotifier.installed"
        notifier = make_notifier(proxy.dsn, wait=True)
        notifier.subscribe("invoice", "paid", record, autorun=False, durable=True, start="oldest")
        starting = threads.submit(notifier.start)
        eventually(lambda: starting.done() or proxy.accepted > 5)
        proxy.cut_at = None
        starting.result()
        assert record.wait_for(1) == [1]
        notifier.stop()


def test_stopping_gives_up_in_time(log, make_notifier, record):
    """`stop()` returns in time although a callback doesn't; what it hadn't got comes again."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish("paid", 1, 2)
    assert begun.wait(60)
    since = time.monotonic()
    assert notifier.stop(timeout=0.2) == 1
    assert time.monotonic() - since < 10
    go_on.set()
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", record, durable=True)
    assert record.wait_for(2) == [1, 2]


def test_what_is_settled_is_saved_within_a_batch(log, make_notifier, make_recorder):
    """A slow callback that is stopped within a batch goes on with the entry that it was at."""
    begun, go_on, first, second = threading.Event(), threading.Event(), [], make_recorder()

    def wait(id, channel, payload, pid):
        first.append(payload)
        if payload == 150:
            begun.set()
            go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish_together("paid", *range(200))
    assert begun.wait(60)
    stopping = threading.Thread(target=notifier.stop)
    stopping.start()
    go_on.set()
    stopping.join()
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", second, durable=True)
    eventually(lambda: {*first, *second.payloads} == set(range(200)))
    assert len(first) + len(second.payloads) == 200


FORK = """
import os, sys, time
from pgnotifier import Notifier

def say(id, channel, payload, pid):
    os.write(1, f"[{os.getpid() == parent}, {payload}]\\n".encode())

parent = os.getpid()
notifier = Notifier(sys.argv[1])
notifier.subscribe("invoice", "paid", say, durable=True)
child = os.fork()
if not child:
    assert not notifier.is_running()
    notifier.start()
    time.sleep(0.5)
    notifier.stop()
    os._exit(0)
os.waitpid(child, 0)
os.write(1, b"forked\\n")
"""


def test_a_forked_child_has_sources_of_its_own(log, run_script):
    """A child may start the notifier; the parent's goes on, and neither loses anything."""
    script = run_script(FORK, log.dsn)
    script.prints("forked")
    log.publish("paid", 1)
    script.prints("[True, 1]")
    assert "Error" not in script.err


def test_seeking_during_a_batch(log, make_notifier):
    """`seek` doesn't wait for a batch that is under way, and isn't undone by its end."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def wait(id, channel, payload, pid):
        calls.append(payload)
        begun.set()
        assert go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish_together("paid", 1, 2)
    assert begun.wait(60)
    notifier.seek("invoice", "paid", "oldest")
    go_on.set()
    eventually(lambda: calls == [1, 2, 1, 2])
    log.publish("paid", 3)
    eventually(lambda: calls == [1, 2, 1, 2, 3])


def test_seeking_while_more_was_read_ahead(log, make_notifier):
    """After `seek`, nothing follows but the rest of the batch that is under way, once."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def wait(id, channel, payload, pid):
        calls.append(payload)
        begun.set()
        assert go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish_together("paid", *range(4 * BATCH))
    assert begun.wait(60)
    notifier.seek("invoice", "paid", "now")
    log.publish("paid", "next")
    go_on.set()
    eventually(lambda: "next" in calls)
    assert calls == [*range(len(calls) - 1), "next"]
    assert len(calls) - 1 <= BATCH


def test_unsubscribing_while_more_was_read_ahead(log, make_notifier, make_recorder):
    """What wasn't handed over stays in the log, for whoever subscribes the id again."""
    begun, go_on, calls, again = threading.Event(), threading.Event(), [], make_recorder()

    def wait(id, channel, payload, pid):
        calls.append(payload)
        begun.set()
        assert go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish_together("paid", *range(3 * BATCH))
    assert begun.wait(60)
    notifier.unsubscribe("invoice", "paid")
    go_on.set()
    notifier.subscribe("invoice", "paid", again, durable=True)
    eventually(lambda: set(again.payloads) | set(calls) == set(range(3 * BATCH)))
    assert again.payloads == sorted(again.payloads)
    assert len(calls) == 1


def test_no_transaction_is_open_during_a_batch(log, make_notifier):
    """While a callback takes long, its notifier keeps nothing from being vacuumed or truncated."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        go_on.wait(60)

    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", wait, durable=True)
    log.publish("paid", 1)
    assert begun.wait(60)
    held = (
        "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'pgnotifier'"
        " AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"
    )
    eventually(lambda: log.readers())
    eventually(lambda: log.execute(held) == [])
    with log.connection.transaction():
        log.execute("LOCK TABLE pgnotifier.log IN ACCESS EXCLUSIVE MODE NOWAIT")
    go_on.set()
