"""pytest-celery's clusters, with local processes as brokers, workers and listeners."""

import os
import secrets
import time
from pathlib import Path

import kombu
import psycopg
import pytest
import pytest_celery.api.base
import pytest_celery.api.container
import redis
from local import (
    LocalListener,
    LocalProcess,
    LocalRabbit,
    LocalRedis,
    LocalServer,
    LocalWorker,
    celery,
    wait_for_callable,
)
from pytest_celery import (
    CeleryTestBackend,
    CeleryTestNode,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from pgnotifier.testing import ValkeyServer

BROKERS = ["celery_redis_broker", "celery_rabbitmq_broker"]
WITH_BOTH_BROKERS = {"test_exact_types", "test_two_queues"}
"""The tests that `make test` runs with RabbitMQ, too."""


def pytest_configure(config):
    """Load the plug-in for these tests only: importing it takes half a second."""
    config.pluginmanager.import_plugin("pytest_celery.plugin")


def pytest_collection_modifyitems(items):
    """Make gates of most tests with RabbitMQ, which is slow; `make test` has them with Valkey."""
    for item in items:
        is_here = item.path.parent == Path(__file__).parent
        if is_here and "rabbitmq" in item.name and item.originalname not in WITH_BOTH_BROKERS:
            item.add_marker(pytest.mark.gate)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    """Make pytest-celery poll more often than once a second."""
    for module in (pytest_celery.api.base, pytest_celery.api.container):
        monkeypatch.setattr(module, "wait_for_callable", wait_for_callable)


# --- brokers: shared by the tests, unless one breaks them ---


@pytest.fixture
def broken_broker(request):
    """Return whether the test stops its broker, and so needs a private one."""
    return request.node.get_closest_marker("breaks_broker") is not None


@pytest.fixture
def default_redis_broker(request, broken_broker):
    """Return a running Valkey."""
    name = "pgnotifier_private_valkey" if broken_broker else "pgnotifier_valkey"
    return LocalRedis(LocalServer(request.getfixturevalue(name)))


@pytest.fixture
def default_rabbitmq_broker(request, broken_broker):
    """Return a running RabbitMQ."""
    name = "breakable_rabbitmq" if broken_broker else "rabbitmq"
    return LocalRabbit(LocalServer(request.getfixturevalue(name)))


@pytest.fixture(params=BROKERS)
def celery_broker(request):
    """Yield the broker's node: each test runs with every broker."""
    broker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


@pytest.fixture(scope="session")
def book_server():
    """Yield a Valkey server that stores what tasks write, and their results."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def default_redis_backend(book_server):
    """Return the result backend."""
    return LocalRedis(LocalServer(book_server))


@pytest.fixture
def celery_redis_backend(default_redis_backend):
    """Return the backend's node; pytest-celery's own would look at all objects of this process."""
    return CeleryTestBackend(default_redis_backend)


# --- the application's processes ---


class Application:
    """The application that a test's cluster runs: its settings, and what its tasks have written."""

    def __init__(self, dsn, broker, book):
        self.queue = f"cluster-{secrets.token_hex(6)}"
        self.dsn = dsn
        self.book = redis.Redis.from_url(book)
        self.env = {
            "PGNOTIFIER_DSN": dsn,
            "BROKER": broker,
            "BOOK": book,
            "QUEUE": self.queue,
            "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "C_FORCE_ROOT": "1",
        }

    def notify(self, *pairs):
        """Send pairs of channel and text in one transaction; return the session's pid."""
        with psycopg.connect(self.dsn, application_name="test") as connection:
            for channel, text in pairs:
                connection.execute("SELECT pg_notify(%s, %s)", (channel, text))
            return connection.info.backend_pid

    def waiting_in_broker(self):
        """Return how many messages wait in the default queue."""
        with kombu.Connection(self.env["BROKER"]) as connection, connection.channel() as channel:
            try:
                return channel.queue_declare(self.queue, passive=True).message_count
            except connection.channel_errors:  # no such queue yet
                return 0

    def written(self, what):
        """Return what tasks have written to the list `what`, as tuples."""
        return [eval(line) for line in self.book.lrange(f"{self.queue}:{what}", 0, -1)]

    def wait_written(self, what, count, timeout=60.0):
        """Wait for `count` facts that differ in more than their task id; return all facts."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.written(what)
            if len({repr(facts[1:]) for facts in found}) >= count:
                break
            assert time.monotonic() < deadline, f"{len(found)} of {count} {what}: {found[-5:]}"
            time.sleep(0.05)
        return found


@pytest.fixture
def application(pgnotifier_dsn, celery_broker, default_redis_backend):
    """Yield the application."""
    application = Application(
        pgnotifier_dsn, celery_broker.container.url, default_redis_backend.url
    )
    yield application
    application.book.close()


@pytest.fixture
def start_worker(application, celery_setup_app, preforked, tmp_path):
    """Yield a function that starts a worker node for some queues."""
    started = []

    def start(*queues, pool=("-P", "solo")):
        names = queues or (application.queue,)
        argv = celery(
            *("worker", "-l", "INFO", "-n", f"{secrets.token_hex(4)}@cluster"),
            *("-Q", ",".join(names), "--without-gossip", "--without-mingle", *pool),
        )
        process = LocalProcess(preforked.start, tmp_path, argv, application.env)
        started.append(process)
        container = LocalWorker(process)
        container.queue = names[0]
        worker = CeleryTestWorker(container, celery_setup_app)
        assert worker.ready()
        return worker

    yield start
    for process in started:
        process.remove()


@pytest.fixture
def celery_worker_cluster(request):
    """Return a cluster with its first worker; tests may start further ones."""
    options = request.node.get_closest_marker("worker")
    worker = request.getfixturevalue("start_worker")(**(options.kwargs if options else {}))
    return CeleryWorkerCluster(worker)


@pytest.fixture
def start_listener(application, preforked, tmp_path):
    """Yield a function that starts a listener node."""
    started = []

    def start(*args):
        argv = celery("pgnotifier", *args)
        process = LocalProcess(preforked.start, tmp_path, argv, application.env)
        started.append(process)
        listener = CeleryTestNode(LocalListener(process))
        assert listener.ready()
        return listener

    yield start
    for process in started:
        process.remove()
