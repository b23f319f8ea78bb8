"""Fixtures of all tests: waiting for a condition, a session, notifiers that get stopped."""

import gc
import itertools
import os
import secrets
import signal
import socket
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest
import waiting
from database import Database, role
from hypothesis import HealthCheck, settings
from preforked import Preforked
from psycopg.conninfo import make_conninfo
from published import DurableLog

from pgnotifier import Notifier
from pgnotifier.durable import install
from pgnotifier.testing import RabbitServer, ServerNotInstalledError

# How long an example takes depends on what else runs on the machine. `make check` has as many
# examples as Hypothesis has by default, with --hypothesis-profile=thorough.
settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=25)
settings.load_profile("quick")


SLOW = Path(__file__).with_name("slow.txt")
"""The list of tests that take long, with a mark for each; `scripts/slow_tests` writes it."""
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 4 << 30  # bytes; it takes much less, but other programs need memory, too


def pytest_configure():
    """Prepare this process and the processes that it starts."""
    _have_sigint_end_what_we_start()
    _keep_servers_in_memory()


def _have_sigint_end_what_we_start():
    """Restore SIGINT, which a shell makes background commands ignore.

    Child processes inherit that: `make test &` in a script would start programs that no test could
    interrupt. https://www.gnu.org/software/bash/manual/html_node/Signals.html
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_servers_in_memory():
    """Have servers keep their files in memory, if there is room and TMPDIR isn't set.

    A new server has a thousand files, a new database 300. If ext4 has just deleted as many,
    creating those of a database takes a quarter of a second. The directories that pytest keeps
    after a failed test stay in their usual place.
    """
    if "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    file_system = os.statvfs(MEMORY)
    has_room = file_system.f_bavail * file_system.f_frsize >= MEMORY_NEEDED
    if has_room and not file_system.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # it is computed again


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    """Mark what is slow, have one process run the tests of RabbitMQ, and the longest ones first.

    RabbitMQ is slow to start, also after a test that closes it, which so comes last. A long test
    that began last would delay the end of the run.
    """
    marks = {name: mark for mark, name in map(str.split, SLOW.read_text().splitlines())}
    for item in items:
        if mark := marks.get(item.nodeid.partition("[")[0]):
            item.add_marker(mark)
        names = (item.name, *getattr(item, "fixturenames", ()))
        if any("rabbitmq" in name for name in names):
            item.add_marker(pytest.mark.xdist_group("rabbitmq"))
            item.add_marker(pytest.mark.servers)
    yield  # pytest-randomly shuffles the tests here
    items.sort(key=_when)


def _when(item):
    return 0 if item.get_closest_marker("long") else 2 if item.get_closest_marker("last") else 1


def pytest_collection_finish():
    """Keep a million imported and collected objects out of garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def eventually():
    """Return the function that waits until a condition is true."""
    return waiting.eventually


class Recorder:
    """A callback that records the arguments of its calls."""

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

    def wait_for(self, count, timeout=60.0):
        """Wait until `count` calls have been made, and return the payloads."""
        waiting.eventually(lambda: len(self.calls) >= count, timeout)
        return self.payloads


@pytest.fixture
def record():
    """Return a recording callback."""
    return Recorder()


@pytest.fixture
def make_recorder():
    """Return the class of recording callbacks."""
    return Recorder


@pytest.fixture(scope="session")
def _database_with_log(pgnotifier_postgres):
    """Return the name of a database with the durable log, which nothing was published into."""
    name = f"with_log_{secrets.token_hex(4)}"
    with psycopg.connect(pgnotifier_postgres.create_database(name)) as connection:
        install(connection)
    yield name
    pgnotifier_postgres.drop_database(name)


@pytest.fixture
def pgnotifier_dsn(request, pgnotifier_postgres, _pgnotifier_databases):
    """Yield the conninfo string of a database; it has the durable log if the test uses `log`.

    A copy of a database with the log takes a tenth of the time of a new database and `install()`.
    """
    if "log" in request.fixturenames:
        template = request.getfixturevalue("_database_with_log")
        database = pgnotifier_postgres.database(template)
    else:
        database = _pgnotifier_databases.lend()
    with database as dsn:
        yield dsn


@pytest.fixture
def db(pgnotifier_dsn):
    """Yield a session in the test's database."""
    database = Database(pgnotifier_dsn)
    yield database
    database.connection.close()


@pytest.fixture
def log(pgnotifier_dsn):
    """Install the durable log in the test's database, and yield a session that publishes there."""
    log = DurableLog(pgnotifier_dsn)
    yield log
    log.connection.close()


def _our_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("pgnotifier")]


@pytest.fixture
def make_notifier():
    """Yield a function that makes notifiers; afterwards they are stopped and leave no thread."""
    made = []

    def make(dsn, **settings):
        made.append(Notifier(dsn, daemon=True, **settings))
        return made[-1]

    yield make
    for notifier in made:
        notifier.stop()
    waiting.eventually(lambda: not _our_threads())


@pytest.fixture
def notifier(pgnotifier_dsn, make_notifier):
    """Return a notifier on the test's database, not running yet."""
    return make_notifier(pgnotifier_dsn)


_settlings = itertools.count()


@pytest.fixture
def settle(db):
    """Return a function that waits until all that was committed before has been delivered.

    It sends a further notification, which passes through the connection and the notifier's own
    dispatcher behind all others; what other dispatchers deliver isn't waited for.
    """

    def settled(notifier):
        channel, came = f"settle {next(_settlings)}", threading.Event()
        notifier.subscribe("settle", channel, lambda *_: came.set())
        db.notify(channel)
        assert came.wait(60), "a running notifier does not deliver"
        notifier.unsubscribe("settle", channel)

    return settled


@pytest.fixture(scope="session")
def preforked(tmp_path_factory):
    """Yield what starts the commands of Celery, RQ, Django and pgnotifier faster."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # which all workers share
    with Preforked(directory) as preforked:
        yield preforked


@pytest.fixture
def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def _rabbitmq_server():
    try:
        with RabbitServer() as server:
            yield server
    except ServerNotInstalledError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture
def rabbitmq(_rabbitmq_server):
    """Return a RabbitMQ server that the tests of this process share; tests must not stop it."""
    if not _rabbitmq_server.is_running():  # the last test was one that breaks it
        _rabbitmq_server.start()
    return _rabbitmq_server


@pytest.fixture
def breakable_rabbitmq(rabbitmq):
    """Return that server for a test that stops, kills or closes it."""
    return rabbitmq


@pytest.fixture
def make_role(pgnotifier_dsn, request):
    """Return a function that makes a role, and returns its name and conninfo string."""

    def make():
        made = role(pgnotifier_dsn)
        name = made.__enter__()
        request.addfinalizer(lambda: made.__exit__(None, None, None))
        return name, make_conninfo(pgnotifier_dsn, user=name)

    return make
