"""While an upgrade waits for a lock, publishers and readers hardly wait for the upgrade."""

import threading
from time import monotonic

import psycopg
import pytest

from pgnotifier import durable
from pgnotifier._log import versions
from pgnotifier.errors import LogNotInstalledError, LogRefusedError

BULK = "SELECT pgnotifier.publish('orders', 'late') FROM generate_series(1, 10000)"
"""Ten of these entries are ticks, at which a publisher reads the limits."""
SUBSCRIBE = "SELECT pgnotifier.subscribe('late', 'orders')"
LOOK = "SELECT FROM pgnotifier.list_positions()"
WAITS = """
SELECT FROM pg_locks JOIN pg_class ON oid = relation
WHERE NOT granted AND relname IN ('limits', 'installed')
"""
FULL = """
SELECT relname FROM pg_class
WHERE relnamespace = 'pgnotifier'::regnamespace AND relreplident = 'f' ORDER BY 1
"""


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to a database with version 3 of the log, as it was first made."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        durable.install(connection, 3)
        for name in ("limits", "installed"):
            connection.execute(f"ALTER TABLE pgnotifier.{name} REPLICA IDENTITY DEFAULT")
        yield connection


class Upgrade:
    """An upgrade on a thread of its own."""

    def __init__(self, dsn):
        self._dsn = dsn
        self.errors = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            with psycopg.connect(self._dsn, autocommit=True) as session:
                durable.install(session)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.errors.append(exc)

    def wait(self, connection):
        """Wait until it waits for a lock."""
        while not connection.execute(WAITS).fetchall():
            assert self.thread.is_alive(), self.errors

    def end(self):
        """Wait for its end, which must be successful."""
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert self.errors == []


def longest(connection, statement, count):
    """Execute a statement some times; return how long it has taken at most."""
    worst = 0.0
    for _ in range(count):
        began = monotonic()
        connection.execute(statement.encode())
        worst = max(worst, monotonic() - began)
    return worst


@pytest.mark.slow
def test_publishers_hardly_wait(connection, pgnotifier_dsn):
    """A transaction that has published much makes the upgrade wait, but no other publisher."""
    publish = "SELECT pgnotifier.publish('orders', 'now')"
    with psycopg.connect(pgnotifier_dsn) as late:
        late.execute(BULK)
        upgrade = Upgrade(pgnotifier_dsn)
        upgrade.wait(connection)
        for _ in range(30):  # a tick after each hundred at the latest
            assert longest(connection, publish, 100) < 0.8
            assert longest(connection, "SELECT pgnotifier.snapshot()", 1) < 0.8
        assert upgrade.thread.is_alive()
        late.commit()
    upgrade.end()
    assert durable.check(connection) == durable.VERSION
    assert connection.execute("SELECT count(*) FROM pgnotifier.log").fetchone() == (13_000,)
    found = [name for (name,) in connection.execute(FULL)]
    assert found == ["done_keep", "installed", "limits"]


@pytest.mark.slow
@pytest.mark.parametrize("statement", [SUBSCRIBE, LOOK], ids=["subscriber", "onlooker"])
def test_readers_hardly_wait(connection, pgnotifier_dsn, statement):
    """The same applies to readers, who give space back and note what they read.

    And to transactions that have subscribed, or looked at the positions.
    """
    reclaim = "SELECT freed FROM pgnotifier.reclaim('0'::interval)"
    note = "SELECT pgnotifier.note_reader('{}', '{}')"
    with psycopg.connect(pgnotifier_dsn) as late:
        late.execute(statement.encode())
        upgrade = Upgrade(pgnotifier_dsn)
        # It doesn't wait for the lock on `installed`, so look for the lock of installations.
        held = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1885957742"
        while not connection.execute(held).fetchall():
            assert upgrade.thread.is_alive(), upgrade.errors
        began = monotonic()
        while monotonic() < began + 1.5:
            for each in (reclaim, note, "SELECT pgnotifier.snapshot()"):
                assert longest(connection, each, 1) < 0.8
        assert upgrade.thread.is_alive()
        late.commit()
    upgrade.end()


@pytest.mark.parametrize(
    "statement", [BULK, SUBSCRIBE, LOOK], ids=["publisher", "subscriber", "onlooker"]
)
def test_giving_up(connection, pgnotifier_dsn, statement):
    """After a minute, the upgrade fails and names the session that holds it up. Repeat it then."""
    with psycopg.connect(pgnotifier_dsn) as late:
        late.execute(statement.encode())
        script = durable.install_script(3).replace("'60s'", "'300ms'")
        session = f"pid {late.info.backend_pid} since "
        with pytest.raises(psycopg.errors.LockNotAvailable, match=session) as caught:
            connection.execute(script.encode())
        assert "run the upgrade again" in str(caught.value)
        with pytest.raises(LogNotInstalledError, match="has version 3"):
            durable.check(connection)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        late.rollback()
    connection.execute(script.encode())
    assert durable.check(connection) == durable.VERSION


def test_the_error_of_install(connection, pgnotifier_dsn, monkeypatch):
    """`install` says in one line who holds it up."""
    monkeypatch.setattr(versions, "BEGIN", versions.BEGIN.replace("'60s'", "'100ms'"))
    with psycopg.connect(pgnotifier_dsn) as late:
        late.execute(BULK)
        why = f"can't install the durable log: .*limits by pid {late.info.backend_pid} since"
        with pytest.raises(LogRefusedError, match=why) as caught:
            durable.install(connection)
    assert "\n" not in str(caught.value)
