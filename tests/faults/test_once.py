"""Effects happen once although workers are killed and messages are delivered again."""

import random
import secrets
import threading

import psycopg
import pytest
from celery import Celery

from pgnotifier import durable

from .waiting import eventually

WORKER = """
import sys
from celery import Celery
from pgnotifier.contrib.celery import Once

dsn, broker, queue = sys.argv[1:]
app = Celery("faulty", broker=broker)
app.conf.update(
    pgnotifier_dsn=dsn, task_acks_late=True, worker_prefetch_multiplier=4,
    task_default_queue=queue, broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 2, "unacked_restore_limit": 10000,
                              "unacked_key": queue + "u", "unacked_index_key": queue + "i",
                              "unacked_mutex_key": queue + "m"},
)

@app.task(name="effect", bind=True, base=Once)
def effect(self, n):
    with self.once() as connection:
        connection.execute("INSERT INTO effect VALUES (%s)", (n,))

app.worker_main(["worker", "-P", "threads", "-c", "4", "-l", "WARNING", "--without-gossip",
                 "--without-mingle", "--without-heartbeat", "-n", queue + "@" + str(id(app))])
"""


class Kills:
    """Keeps workers running, and kills one now and then until it is stopped."""

    def __init__(self, start, workers=2):
        self.count = 0
        self._start, self._stops = start, threading.Event()
        self._workers = [start() for _ in range(workers)]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        chance = random.Random(15)
        while not self._stops.wait(chance.uniform(2.0, 6.0)):
            chosen = chance.randrange(len(self._workers))
            self._workers[chosen].process.kill()
            self._workers[chosen].process.wait(60)
            self._workers[chosen] = self._start()
            self.count += 1

    def stop(self):
        """Kill no more."""
        self._stops.set()
        self._thread.join(120)


@pytest.mark.parametrize(
    ("tasks", "copies"),
    [pytest.param(300, 3), pytest.param(3_000, 2, marks=[pytest.mark.gate])],
    ids=["short", "long"],
)
@pytest.mark.timeout(1800)
def test_killed_workers(pgnotifier_dsn, pgnotifier_redis_url, run_script, tasks, copies):
    """Each task has its effect once: however often its id arrives, and whoever is killed."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as session:
        durable.install(session)
        session.execute("CREATE TABLE effect (n int)")
        queue = f"once-{secrets.token_hex(6)}"
        app = Celery("sender", broker=pgnotifier_redis_url, set_as_current=False)
        numbers = [n for n in range(tasks) for _ in range(copies)]
        random.Random(7).shuffle(numbers)
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for n in numbers:
                options = {"task_id": f"{queue}-{n}", "queue": queue, "producer": producer}
                app.send_task("effect", (n,), **options)

        def is_done():
            query = "SELECT count(DISTINCT n) FROM effect"
            return session.execute(query).fetchone() == (tasks,)

        kills = Kills(lambda: run_script(WORKER, pgnotifier_dsn, pgnotifier_redis_url, queue))
        try:
            eventually(lambda: is_done() and kills.count >= 3, 1500)
        finally:
            kills.stop()
        with app.connection_for_read() as connection:
            client = connection.default_channel.client
            eventually(lambda: not client.llen(queue) and not client.hlen(queue + "u"), 300)
        counted = session.execute("SELECT count(*), count(DISTINCT n) FROM effect").fetchone()
        assert counted == (tasks, tasks)
        assert session.execute("SELECT count(*) FROM pgnotifier.done").fetchone() == (tasks,)
