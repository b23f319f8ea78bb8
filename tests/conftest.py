"""What the tests share: waiting for a condition, a session to notify from, notifiers that end."""

import inspect
import itertools
import os
import socket
import threading
import time

import psycopg
import pytest
from preforked import Preforked

from pgnotifier import Notifier
from pgnotifier.testing import RabbitServer, ServerNotInstalledError


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    """Have one process run the tests that use RabbitMQ, and begin with the longest.

    RabbitMQ takes its time to start; and nobody is to wait for a long test that began as the last.
    """
    for item in items:
        names = (item.name, *getattr(item, "fixturenames", ()))
        if any("rabbitmq" in name for name in names):
            item.add_marker(pytest.mark.xdist_group("rabbitmq"))
            item.add_marker(pytest.mark.servers)
    yield  # the order is random from here on
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def _eventually(condition, timeout=20.0):
    """Wait until the condition is true, and return what it returned."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            source = inspect.getsource(condition).strip()
            raise AssertionError(f"not within {timeout} s: {source}")
        time.sleep(0.003)
    return value


@pytest.fixture(scope="session")
def eventually():
    """Return the function that waits until a condition is true."""
    return _eventually


class Recorder:
    """A callback that takes down what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, id, channel, payload, pid):
        self.calls.append((id, channel, payload, pid))

    @property
    def ids(self):
        """The ids, in the order of the calls."""
        return [call[0] for call in self.calls]

    @property
    def channels(self):
        """The channels, in the order of the calls."""
        return [channel for _, channel, *_ in self.calls]

    @property
    def payloads(self):
        """The payloads, in the order of the calls."""
        return [payload for *_, payload, _ in self.calls]

    def wait_for(self, count, timeout=20.0):
        """Wait until so many calls were made, and return their payloads."""
        _eventually(lambda: len(self.calls) >= count, timeout)
        return self.payloads


@pytest.fixture
def record():
    """Return a recording callback."""
    return Recorder()


@pytest.fixture
def make_recorder():
    """Return the maker of recording callbacks."""
    return Recorder


class Database:
    """A session beside the notifier's, in the same database."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True, application_name="test")
        self.pid = self.connection.info.backend_pid

    def execute(self, query, *args):
        """Run a query and return its rows."""
        cursor = self.connection.execute(query, args or None)
        return cursor.fetchall() if cursor.description else []

    def notify(self, channel, payload=""):
        """Send one notification, committed on return."""
        self.execute("SELECT pg_notify(%s, %s)", channel, str(payload))

    def listening(self):
        """Return the pids of the sessions of notifiers in this database."""
        return [
            pid
            for (pid,) in self.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE application_name = 'pgnotifier' AND datname = current_database()"
            )
        ]

    def terminate(self):
        """Have the server end them."""
        for pid in self.listening():
            self.execute("SELECT pg_terminate_backend(%s)", pid)


@pytest.fixture
def db(pgnotifier_dsn):
    """Yield a session in the test's database."""
    database = Database(pgnotifier_dsn)
    yield database
    database.connection.close()


def _our_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("pgnotifier")]


@pytest.fixture
def make_notifier():
    """Yield a maker of notifiers, which are stopped afterwards and must leave no thread."""
    made = []

    def make(dsn, **settings):
        made.append(Notifier(dsn, daemon=True, **settings))
        return made[-1]

    yield make
    for notifier in made:
        notifier.stop()
    _eventually(lambda: not _our_threads(), timeout=10)


@pytest.fixture
def notifier(pgnotifier_dsn, make_notifier):
    """Return a notifier on the test's database, not running yet."""
    return make_notifier(pgnotifier_dsn)


_settlings = itertools.count()


@pytest.fixture
def settle(db):
    """Return a function that waits until all that was committed before has been delivered.

    Delivered by the notifier's own dispatcher, that is: a further notification has passed
    through the connection and the dispatcher behind all others.
    """

    def settled(notifier):
        channel, came = f"settle {next(_settlings)}", threading.Event()
        notifier.subscribe("settle", channel, lambda *_: came.set())
        db.notify(channel)
        assert came.wait(20), "a running notifier does not deliver"
        notifier.unsubscribe("settle", channel)

    return settled


@pytest.fixture(scope="session")
def preforked():
    """Yield what starts the commands of Celery, of RQ and of ours in less time."""
    with Preforked() as preforked:
        yield preforked


@pytest.fixture
def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def rabbitmq():
    """Yield a RabbitMQ server that the tests of this process share; don't stop it."""
    try:
        with RabbitServer() as server:
            yield server
    except ServerNotInstalledError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture
def breakable_rabbitmq(rabbitmq):
    """Yield that server, to be stopped and killed at will; it runs again for the next test."""
    yield rabbitmq
    if not rabbitmq.is_running():
        rabbitmq.start()
