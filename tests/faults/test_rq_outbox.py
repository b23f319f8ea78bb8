"""An outbox of RQ while relays are killed: each committed job is enqueued, and just once."""

import os
import random
import signal
from contextlib import closing

import pytest
from redis import Redis
from rq import Queue

from pgnotifier.contrib.rq import RQOutbox
from pgnotifier.testing import ValkeyServer

from .customers import Customers
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


THREADS = 2


@pytest.fixture
def customers(log):
    """Return a function that makes customers, given how many jobs they enqueue.

    Every tenth job depends on the first one of its thread.
    """
    outbox = RQOutbox(Queue("orders", connection=Redis(port=1)))

    def put(connection, number):
        first = number % THREADS
        depends = number % 10 == 5 and number != first
        others = {"depends_on": name(first)} if depends else {}
        outbox.enqueue(connection, "orders.invoice", number, job_id=name(number), **others)

    return lambda count: Customers(log.dsn, count, put, threads=THREADS, first_commits=True)


def name(number):
    """Return the id of a job."""
    return f"order-{number}"


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
    expected = set(map(name, customers.committed))
    eventually(lambda: expected <= sent(url), timeout=120)
    queued, deferred = found(url)
    assert sorted([*queued, *deferred]) == sorted(expected)
    assert log.execute("SELECT count(*) FROM pgnotifier.failed") == [(0,)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "kills"),
    [(300, 1), pytest.param(10_000, 6, marks=[pytest.mark.gate, pytest.mark.long])],
)
def test_relays_that_are_killed(log, broker, run_script, customers, count, kills):
    """Half of the transactions are rolled back, while two replicas are killed at random."""
    chance = random.Random(3)
    relays = [run_script(RELAY, log.dsn, broker.url) for _ in range(2)]
    for one in relays:
        one.prints("ready")
    with customers(count) as ours:
        for part in range(kills):
            least = chance.randint(1, count // 20) + part * count // 20
            eventually(lambda least=least: len(sent(broker.url)) >= least)
            victim = relays.pop(chance.randrange(2))
            os.kill(victim.pid, signal.SIGKILL)
            victim.process.wait()
            relays.append(run_script(RELAY, log.dsn, broker.url))
    check(log, broker.url, ours)
    assert len(ours.committed) + len(ours.rolled_back) == count


@pytest.mark.timeout(600)
@pytest.mark.gate
def test_a_broker_that_is_killed_and_restarted(log, broker, run_script, customers):
    """Valkey is stopped or killed under load; what it has acknowledged it has kept."""
    run_script(RELAY, log.dsn, broker.url).prints("ready")
    with customers(3000) as ours:
        for end in (broker.stop, broker.kill):
            before = len(sent(broker.url))
            eventually(lambda before=before: len(sent(broker.url)) >= before + 100)
            end()
            broker.start()
    check(log, broker.url, ours)
