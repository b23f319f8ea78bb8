"""An outbox while relays, the broker and connections are broken: each committed task is sent."""

import json
import os
import random
import re
import signal
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest
from redis import Redis

from benchmarks.soaking.proxy import ANSWERS, FAIR, FaultyProxy, Weather
from pgnotifier.testing import ValkeyServer

from .customers import Customers
from .waiting import eventually

ID = re.compile('"id": "task-([0-9]+)"')
BEHIND = "SELECT lag FROM pgnotifier.list_positions()"
CHANNEL = "pgnotifier:celery:default"
RELAY = """
import os, sys
from celery import Celery
from pgnotifier import Notifier
from pgnotifier.contrib.celery.relay import OutboxDispatcher

app = Celery("shop", broker=sys.argv[2], set_as_current=False)
notifier = Notifier(sys.argv[1], wait=True)
OutboxDispatcher(app).relay_to(notifier)
notifier.start()
os.write(1, b"ready\\n")
notifier.wait()
"""


@pytest.fixture
def broker():
    """Yield a Valkey that keeps what it has got when it is stopped or killed."""
    with ValkeyServer(persistent=True) as server:
        yield server


def message(number):
    """Return key and text of a message, with an id that is made of its number."""
    task_id = f"task-{number}"
    headers = {"lang": "py", "task": "shop.invoice", "id": task_id, "root_id": task_id}
    properties = {
        "correlation_id": task_id,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": f"tag-{number}",
    }
    whole = {
        "body": "W1sxXSwge30sIHt9XQ==",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return "\x1fcelery\x1f0", json.dumps(whole)


def put(connection, *numbers):
    """Put messages into the outbox, in the transaction of a connection."""
    for number in numbers:
        connection.execute(
            "INSERT INTO pgnotifier.log (channel, key, payload) VALUES (%s, %s, %s)",
            (CHANNEL, *message(number)),
        )


def read(url):
    """Return the messages in the queue."""
    with closing(Redis.from_url(url, decode_responses=True)) as redis:
        return redis.lrange("celery", 0, -1)


def sent(url):
    """Return the numbers of the messages in the queue."""
    return {int(number) for text in read(url) for number in ID.findall(text)}


def has_all(url, committed):
    """Return whether every committed message is in the queue."""
    return committed <= sent(url)


@pytest.mark.parametrize(
    "count", [2000, pytest.param(10_000, marks=[pytest.mark.gate, pytest.mark.long])]
)
@pytest.mark.timeout(600)
def test_relays_that_are_killed(log, broker, run_script, count):
    """Many transactions, half of them rolled back, while two replicas are killed at random."""
    chance = random.Random(3)
    relays = [run_script(RELAY, log.dsn, broker.url) for _ in range(2)]
    for one in relays:
        one.prints("ready")
    with Customers(log.dsn, count, put) as customers:
        for _ in range(6):
            least = len(sent(broker.url)) + chance.randint(1, count * 6 // 100)
            eventually(lambda least=least: len(sent(broker.url)) >= min(least, count * 4 // 10))
            victim = relays.pop(chance.randrange(2))
            os.kill(victim.pid, signal.SIGKILL)
            victim.process.wait()
            relays.append(run_script(RELAY, log.dsn, broker.url))
    eventually(lambda: has_all(broker.url, customers.committed), timeout=120)
    assert not sent(broker.url) & customers.rolled_back
    assert len(customers.committed) + len(customers.rolled_back) == count
    assert log.execute("SELECT count(*) FROM pgnotifier.failed") == [(0,)]


@pytest.mark.timeout(600)
def test_a_broker_that_is_killed_and_restarted(log, broker, run_script):
    """Valkey is stopped or killed under load; what it has acknowledged it has kept."""
    run_script(RELAY, log.dsn, broker.url).prints("ready")
    with Customers(log.dsn, 2000, put) as customers:
        for end in (broker.stop, broker.kill):
            before = len(sent(broker.url))
            eventually(lambda before=before: len(sent(broker.url)) >= before + 100)
            end()
            broker.start()
    eventually(lambda: has_all(broker.url, customers.committed), timeout=120)
    assert not sent(broker.url) & customers.rolled_back


def test_answers_that_are_lost(log, broker, run_script):
    """If Redis has got messages, and its answer is lost, they come again with the same ids."""
    where = urlsplit(broker.url)
    with FaultyProxy((where.hostname, where.port)) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        run_script(RELAY, log.dsn, url).prints("ready")
        for number in range(0, 30, 10):
            some = set(range(number, number + 10))
            proxy.weather = Weather(swallows=ANSWERS)
            with psycopg.connect(log.dsn) as connection:
                put(connection, *some)
            if number:  # the first time, it has no connection yet
                eventually(lambda some=some: some <= sent(broker.url))
            proxy.weather = FAIR
            proxy.cut()
            eventually(lambda some=some: some <= sent(broker.url))
            eventually(lambda: log.execute(BEHIND) == [(0,)])
    texts = read(broker.url)
    assert len(texts) > len(set(texts)) == 30
