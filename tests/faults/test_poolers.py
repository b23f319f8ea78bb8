"""Poolers in between: those that swallow notifications are detected at each connect."""

import psycopg
import pytest

from pgnotifier import NotListeningError
from pgnotifier.durable import install, publish, publish_many

from .pgbouncer import pgbouncer
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("pool_size", [1, 5])
@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_one_that_swallows(pgnotifier_dsn, make_notifier, pool_mode, pool_size):
    """If a pooler accepts LISTEN but delivers nothing, the error says what to do instead."""
    with pgbouncer(pgnotifier_dsn, pool_mode, pool_size) as dsn:
        notifier = make_notifier(dsn, heartbeat_timeout=1.0)
        notifier.add_channel("orders", autorun=False)
        with pytest.raises(NotListeningError, match="pool_mode=session"):
            notifier.start()
        assert not notifier.is_running()
        with pytest.raises(NotListeningError):
            notifier.start()


@pytest.mark.parametrize("pool_size", [1, 5])
def test_one_with_sessions(pgnotifier_dsn, make_notifier, sessions, ledger, pool_size):
    """In session mode everything works, including reconnects and restarts.

    A restart needs a second connection, for which a pool of one session has none.
    """
    with pgbouncer(pgnotifier_dsn, "session", pool_size) as dsn:
        notifier = make_notifier(dsn, heartbeat=0.5, heartbeat_timeout=2.0)
        notifier.subscribe(1, "orders", ledger.callback)
        sessions.notify("orders", 1)
        eventually(lambda: ledger.delivered == [(1, "orders")])
        if pool_size > 1:
            notifier.restart()
            assert notifier.status().gaps == 0
        sessions.terminate()
        eventually(lambda: notifier.status().gaps == 1)
        sessions.notify("orders", 2)
        eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])


def test_taken_into_use_later(pgnotifier_dsn, make_notifier):
    """A listener that reconnects to a transaction pooler stays disconnected, and says why."""
    with pgbouncer(pgnotifier_dsn, "transaction") as dsn:
        to = [pgnotifier_dsn]
        notifier = make_notifier(lambda: to[0], heartbeat_timeout=0.5)
        notifier.add_channel("orders")
        to[0] = dsn
        with pytest.raises(NotListeningError):
            notifier.restart()
        assert notifier.status().state == "disconnected"
        eventually(lambda: "pool_mode=session" in notifier.status().why)
        to[0] = pgnotifier_dsn
        eventually(lambda: notifier.status().state == "listening")
        assert notifier.status().gaps >= 1


def test_what_poolers_say(pgnotifier_dsn):
    """PgBouncer gives its clients a made-up pid, which is how it is recognized."""
    with pgbouncer(pgnotifier_dsn, "session") as dsn, psycopg.connect(dsn) as connection:
        ((pid,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
        assert connection.info.backend_pid != pid


@pytest.mark.parametrize("pool_size", [1, 5])
@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_publishing_durably(pgnotifier_dsn, pool_mode, pool_size):
    """Entries are published through a pooler, in transaction mode as well."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as log:
        install(log)
        log.execute("SELECT pgnotifier.doze()")
        with pgbouncer(pgnotifier_dsn, pool_mode, pool_size) as dsn:
            # Such a pooler may not know prepared statements, which is the user's to set.
            with psycopg.connect(dsn, prepare_threshold=None) as first:
                for number in range(10):  # each in another session of the server, perhaps
                    publish(first, "a", number)
                    publish_many(first, "a", [number] * 2, "k", order="key")
                    first.commit()
                publish(first, "a", "lost")
                first.rollback()
                first.execute("SET LOCAL pgnotifier.wake = off")
                publish(first, "a", "quiet")
                first.commit()
            with psycopg.connect(dsn, prepare_threshold=None, autocommit=True) as second:
                publish(second, "a", "one")
                publish_many(second, "a", ["many"] * 1500)
        found = log.execute("SELECT payload FROM pgnotifier.log ORDER BY id").fetchall()
        expected = [str(number) for number in range(10) for _ in range(3)]
        assert [one for (one,) in found] == [*expected, "quiet", "one", *["many"] * 1500]
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        assert log.execute(held).fetchone() == (0,)
