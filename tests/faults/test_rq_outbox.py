"""An outbox of RQ while relays are killed: each committed job is enqueued, and just once."""

import os
import random
import signal
import threading
from contextlib import closing

import psycopg
import pytest
from redis import Redis
from rq import Queue

from pgnotifier.contrib.rq import RQOutbox
from pgnotifier.testing import ValkeyServer

from .waiting import eventually

RELAY = """
import os, sys
from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQOutbox

notifier = Notifier(sys.argv[1], wait=True)
RQOutbox(sys.argv[2]).relay_to(notifier)
notifier.start()
os.write(1, b"ready\\n")
notifier.wait()
"""


@pytest.fixture
def broker():
    """Yield a Valkey that keeps what it has got when it is stopped or killed."""
    with ValkeyServer(persistent=True) as server:
        yield server


class Customers:
    """Threads that make transactions with a job each, about half of which are rolled back.

    Every tenth job depends on the first one of its thread, and every tenth is scheduled.
    """

    def __init__(self, dsn, count, threads=2):
        self.committed, self.rolled_back = set(), set()
        self._dsn = dsn
        self._outbox = RQOutbox(Queue("orders", connection=Redis(port=1)))
        numbers = [range(one, count, threads) for one in range(threads)]
        self._threads = [threading.Thread(target=self._run, args=(some,)) for some in numbers]

    def __enter__(self):
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_):
        for one in self._threads:
            one.join()

    def _run(self, numbers):
        chance = random.Random(numbers.start)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for number in numbers:
                fails = chance.random() < 0.5 and number != numbers.start
                options = {"job_id": f"order-{number}"}
                if number % 10 == 5 and number != numbers.start:
                    options["depends_on"] = f"order-{numbers.start}"
                with connection.transaction(force_rollback=fails):
                    self._outbox.enqueue(connection, "orders.invoice", number, **options)
                (self.rolled_back if fails else self.committed).add(options["job_id"])


def found(url):
    """Return the ids in the queue, in order, and those of the jobs that wait for others."""
    with closing(Redis.from_url(url)) as redis:
        queue = Queue("orders", connection=redis)
        return queue.job_ids, queue.deferred_job_registry.get_job_ids()


def sent(url):
    """Return the ids of all jobs that are in Redis."""
    queued, deferred = found(url)
    return {*queued, *deferred}


def check(log, url, customers):
    """Wait until each committed job is there; check that nothing else is, and nothing twice."""
    eventually(lambda: customers.committed <= sent(url), timeout=120)
    queued, deferred = found(url)
    assert sorted([*queued, *deferred]) == sorted(customers.committed)
    assert log.execute("SELECT count(*) FROM pgnotifier.failed") == [(0,)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "kills"),
    [(300, 1), pytest.param(10_000, 6, marks=[pytest.mark.gate, pytest.mark.long])],
)
def test_relays_that_are_killed(log, broker, run_script, count, kills):
    """Half of the transactions are rolled back, while two replicas are killed at random."""
    chance = random.Random(3)
    relays = [run_script(RELAY, log.dsn, broker.url) for _ in range(2)]
    for one in relays:
        one.prints("ready")
    with Customers(log.dsn, count) as customers:
        for part in range(kills):
            least = chance.randint(1, count // 20) + part * count // 20
            eventually(lambda least=least: len(sent(broker.url)) >= least)
            victim = relays.pop(chance.randrange(2))
            os.kill(victim.pid, signal.SIGKILL)
            victim.process.wait()
            relays.append(run_script(RELAY, log.dsn, broker.url))
    check(log, broker.url, customers)
    assert len(customers.committed) + len(customers.rolled_back) == count


@pytest.mark.timeout(600)
@pytest.mark.gate
def test_a_broker_that_is_killed_and_restarted(log, broker, run_script):
    """Valkey is stopped or killed under load; what it has acknowledged it has kept."""
    run_script(RELAY, log.dsn, broker.url).prints("ready")
    with Customers(log.dsn, 3000) as customers:
        for end in (broker.stop, broker.kill):
            before = len(sent(broker.url))
            eventually(lambda before=before: len(sent(broker.url)) >= before + 100)
            end()
            broker.start()
    check(log, broker.url, customers)
