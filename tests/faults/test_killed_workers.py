"""Relays and workers are killed, and the broker's answers are lost: each effect happens once."""

import os
import random
import re
import signal
import threading
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from redis import Redis

from benchmarks.soaking.proxy import ANSWERS, FAIR, FaultyProxy, Weather
from pgnotifier.contrib.celery import CeleryOutbox
from pgnotifier.testing import ValkeyServer

from .shopping import SCRIPT, TABLES, make_app
from .waiting import eventually

TASKS = int(os.environ.get("PGNOTIFIER_TEST_TASKS", "10000"))
"""How many tasks there are."""
COUNTS = "SELECT count(*), count(DISTINCT number) FROM invoices"
BEHIND = "SELECT sum(lag) FROM pgnotifier.list_positions()"
MISSING = "SELECT n FROM generate_series(1, %s) AS n WHERE n NOT IN (SELECT number FROM invoices)"


class Chaos:
    """The processes that are killed, and a proxy between relays and broker that loses answers."""

    def __init__(self, dsn, url, run_script):
        where = urlsplit(url)
        self.proxy = FaultyProxy((where.hostname, where.port))
        self.losses = 0
        self._dsn, self._url, self._run_script = dsn, url, run_script
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._lose_answers)

    def __enter__(self):
        self.proxy.__enter__()
        where = urlsplit(self._url)
        user = where.netloc.rpartition("@")[0]
        host = f"{user}@127.0.0.1" if user else "127.0.0.1"
        proxied = urlunsplit(where._replace(netloc=f"{host}:{self.proxy.port}"))
        self.relays = [self._run_script(SCRIPT, self._dsn, "relay", proxied, "5") for _ in range(2)]
        self.workers = [
            self._run_script(SCRIPT, self._dsn, "worker", self._url, "15") for _ in range(2)
        ]
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join()
        self.proxy.__exit__(None, None, None)

    def calm_down(self):
        """Lose no more answers, and kill no more; return how often workers were killed."""
        self._ends.set()
        self._thread.join()
        for one in (*self.relays, *self.workers):
            one.process.send_signal(signal.SIGTERM)
            one.prints("kills")
        return sum(int(re.search(r"(\d+) kills", one.out)[1]) for one in self.workers)

    def repeated(self):
        """Return how often a task has arrived that was done before."""
        return sum(one.out.count("was done before") for one in self.workers)

    def _lose_answers(self):
        chance = random.Random()
        while not self._ends.wait(chance.uniform(0.5, 2.0)):
            self.proxy.weather = Weather(swallows=ANSWERS)
            self._ends.wait(chance.uniform(0.0, 0.5))
            self.proxy.weather = FAIR
            self.proxy.cut()
            self.losses += 1


def enqueue(app, dsn, numbers, waiting):
    """Enqueue a task per number, which has the number's own id, 200 in a transaction.

    It goes on whenever few messages are waiting in the broker, so that relays have something to
    send all the time.
    """
    outbox = CeleryOutbox(app)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for at in range(0, len(numbers), 200):
            eventually(lambda: waiting() < 1000, 600)
            some = numbers[at : at + 200]
            outbox.enqueue_many(connection, [invoice(app, number) for number in some])


def invoice(app, number):
    """Return the task for a number."""
    options = {"queue": "outbox", "task_id": f"invoice-{number}"}
    return app.signature("invoice", ("outbox", number), **options)


def find_missing(log, tasks):
    """Return the numbers without an effect."""
    return [number for (number,) in log.execute(MISSING, tasks)]


@pytest.mark.gate
@pytest.mark.timeout(3600)
def test_each_effect_happens_once(log, run_script):
    """Through Redis, each task has its effect once, whoever is killed and whatever is repeated.

    Celery takes a task from Redis before it notes that it isn't acknowledged, so a worker that is
    killed in between loses it: one for each kill at most. Those are enqueued again, with the same
    ids, and some that were done as well.
    """
    log.execute(TABLES)
    with (
        ValkeyServer() as broker,
        Chaos(log.dsn, broker.url, run_script) as chaos,
        closing(Redis.from_url(broker.url)) as redis,
    ):
        app = make_app(broker.url)

        def send(numbers):
            enqueue(app, log.dsn, numbers, lambda: redis.llen("outbox"))
            eventually(lambda: log.execute(BEHIND) == [(0,)], 600)
            eventually(lambda: not redis.exists("outbox", "unacked"), 600)

        send(range(1, TASKS + 1))
        kills = chaos.calm_down()
        eventually(lambda: not redis.exists("outbox", "unacked"), 600)
        lost = find_missing(log, TASKS)
        assert len(lost) <= kills
        send([*lost, *range(1, TASKS, 20)])
        assert log.execute(COUNTS) == [(TASKS, TASKS)]
        assert chaos.losses
        assert chaos.repeated() > TASKS / 20  # more than was enqueued twice


@pytest.mark.gate
@pytest.mark.timeout(1200)
def test_rabbitmq_is_killed(log, breakable_rabbitmq, run_script):
    """Through RabbitMQ, nothing is lost, though it is killed amid a relay, and workers as well."""
    log.execute(TABLES)
    tasks, app = 2000, make_app(breakable_rabbitmq.url)

    def waiting():
        with app.connection_for_read() as connection, connection.channel() as channel:
            return channel.queue_declare("outbox", durable=True, auto_delete=False).message_count

    with Chaos(log.dsn, breakable_rabbitmq.url, run_script) as chaos:
        enqueue(app, log.dsn, range(1, tasks // 2), waiting)
        breakable_rabbitmq.kill()
        enqueue(app, log.dsn, range(tasks // 2, tasks + 1), lambda: 0)
        breakable_rabbitmq.start()
        eventually(lambda: not find_missing(log, tasks), 600)
        chaos.calm_down()
        enqueue(app, log.dsn, range(1, tasks, 20), waiting)
        eventually(lambda: log.execute(BEHIND) == [(0,)] and not waiting(), 120)
        assert log.execute(COUNTS) == [(tasks, tasks)]
    with app.connection_for_read() as connection:
        connection.channel().queue_delete("outbox")
