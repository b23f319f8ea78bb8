"""A notifier that runs while its database is replaced: by an older state, or by another log.

The older state is a base backup that was made a moment before: what a restore from a backup, or a
standby that had not got everything, goes on from. Its next transactions, entries, subscriptions and
positions have the numbers of those that are lost, which the notifier has seen.
"""

import threading

import psycopg
import pytest
from database import Database
from published import DurableLog

from pgnotifier.durable import install, uninstall
from pgnotifier.testing.wheels import find_postgres

from .replica import Replica
from .waiting import eventually

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("quick")]


class Past:
    """A server with the log, and later a copy of a state that it had."""

    def __init__(self, server):
        self.server = server
        self.log = DurableLog(server.dsn)
        self._copy = None

    @property
    def dsn(self):
        """Where to connect: to the server, or to the copy once that has replaced it."""
        return self.server.dsn

    def keep(self):
        """Make the copy."""
        self._copy = Replica(self.server, follows=False)
        self._copy.start()

    def go_back(self):
        """Have the copy replace the server."""
        self.server.kill()
        self.log.connection.close()
        self.server = self._copy
        self.log = Database(self.dsn)

    def publish(self, channel, *payloads):
        """Publish, each payload in a transaction of its own."""
        for one in payloads:
            self.log.execute("SELECT pgnotifier.publish(%s, %s)", channel, str(one))

    def close(self):
        """Stop the copy."""
        self.log.connection.close()
        if self._copy is not None:
            self._copy.close()


@pytest.fixture
def past(pgnotifier_private_postgres):
    """Yield a server that can go back."""
    if not (find_postgres() / "bin" / "pg_basebackup").exists():
        pytest.skip("needs pg_basebackup, which this PostgreSQL lacks")
    past = Past(pgnotifier_private_postgres)
    yield past
    past.close()


class Gate:
    """A callback that waits at its first call, and records its calls."""

    def __init__(self, error=None):
        self.calls = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, id, channel, payload, pid):
        self.calls.append(payload)
        self.begun.set()
        assert self.go_on.wait(60)


def test_the_place_that_an_idle_subscription_has_seen(past, make_notifier, make_recorder):
    """What the older state publishes isn't mistaken for what was seen before."""
    paid, sent = make_recorder(), make_recorder()
    notifier = make_notifier(lambda: past.dsn)
    notifier.subscribe("paid", "paid", paid, durable=True)
    notifier.subscribe("sent", "sent", sent, durable=True)
    past.publish("paid", 1)
    past.publish("sent", 1)
    paid.wait_for(1)
    sent.wait_for(1)
    past.keep()
    for number in range(2, 30):
        past.publish("sent", number)
        sent.wait_for(number)
    past.go_back()
    past.publish("paid", 2, 3)
    assert paid.wait_for(3) == [1, 2, 3]
    notifier.stop()


def test_a_batch_that_is_under_way(past, make_notifier):
    """Once a batch of the lost state is done, the older state is read from its own position."""
    gate = Gate()
    notifier = make_notifier(lambda: past.dsn)
    notifier.subscribe("invoice", "paid", gate, durable=True)
    notifier.mute_channels("paid")
    past.publish("paid", 1)
    past.keep()
    past.publish("other", *range(30))
    past.publish("paid", "lost")
    notifier.unmute_channels()
    assert gate.begun.wait(60)
    past.go_back()
    past.publish("paid", 2)
    past.publish("other", *range(60))  # as many transactions as the lost state had, and more
    gate.go_on.set()
    eventually(lambda: {1, 2} <= set(gate.calls))
    past.publish("paid", 3)
    eventually(lambda: 3 in gate.calls)
    assert gate.calls.count(2) == gate.calls.count(3) == 1
    notifier.stop()


def test_a_failed_entry_that_is_being_retried(past, make_notifier):
    """What succeeds after the change isn't taken for a failed entry with the same number."""
    calls, begun, go_on = [], threading.Event(), threading.Event()

    def fail_once(id, channel, payload, pid):
        calls.append(payload)
        if calls == ["lost"]:
            raise ValueError
        if calls == ["lost", "lost"]:
            begun.set()
            assert go_on.wait(60)

    notifier = make_notifier(lambda: past.dsn)
    notifier.subscribe("invoice", "paid", fail_once, durable=True)
    past.keep()
    past.publish("paid", "lost")
    eventually(lambda: past.log.failed("invoice"))
    past.log.have_retried()
    assert begun.wait(60)
    past.go_back()
    past.log.execute(
        "SELECT pgnotifier.fail(sub, 1, now(), channel, NULL, '2', 'ValueError', '', 0, false)"
        " FROM pgnotifier.subscription"
    )
    assert past.log.execute("SELECT n FROM pgnotifier.failed") == [(1,)]
    go_on.set()
    eventually(lambda: calls == ["lost", "lost", 2])
    eventually(lambda: past.log.execute("SELECT n FROM pgnotifier.failed") == [])
    notifier.stop()


def test_a_subscription_that_the_older_state_lacks(past, make_notifier, make_recorder):
    """It gets a position of its own, although another one has its number by now."""
    lost, new, at = make_recorder(), make_recorder(), [past.dsn]
    past.keep()
    first = make_notifier(lambda: at[0])
    first.subscribe("lost", "paid", lost, durable=True)
    past.publish("paid", 1)
    lost.wait_for(1)
    past.go_back()
    second = make_notifier(past.dsn)
    second.subscribe("new", "paid", new, durable=True)
    at[0] = past.dsn
    names = "SELECT name FROM pgnotifier.subscription ORDER BY sub"
    eventually(lambda: past.log.execute(names) == [("new",), ("lost",)])
    past.publish("paid", *range(2, 10))
    assert lost.wait_for(9) == [*range(1, 10)]
    assert new.wait_for(8) == [*range(2, 10)]
    first.stop()
    second.stop()


def test_a_log_that_is_installed_again(log, make_notifier, make_recorder):
    """A notifier that runs gets a new position, although another one has its number by now."""
    before, new = make_recorder(), make_recorder()
    first = make_notifier(log.dsn)
    first.subscribe("before", "paid", before, durable=True)
    log.publish("paid", 1)
    before.wait_for(1)
    with psycopg.connect(log.dsn) as connection:
        uninstall(connection)
        install(connection)
        connection.execute("SELECT pgnotifier.subscribe('new', 'paid')")
    eventually(lambda: log.execute("SELECT count(*) FROM pgnotifier.subscription") == [(2,)])
    log.publish("paid", *range(2, 10))
    assert before.wait_for(9) == [*range(1, 10)]
    second = make_notifier(log.dsn)
    second.subscribe("new", "paid", new, durable=True)
    assert new.wait_for(8) == [*range(2, 10)]
