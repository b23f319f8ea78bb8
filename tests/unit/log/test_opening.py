"""Open outboxes, and publish to them, by SQL."""

import asyncio
import threading

import psycopg
import pytest
from log_position import Position

from pgnotifier import durable
from pgnotifier._log import positions
from pgnotifier._log.outbox_entries import Outbox
from pgnotifier._log.refusals import explained
from pgnotifier.errors import ChannelNameError, LogNotInstalledError, LogRefusedError

NAME, CHANNEL = "outbox:celery:shop", "pgnotifier:celery:default"
OPEN = "SELECT pgnotifier.open_outbox(%s, %s)"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = ANY (%s)"


def opened(session):
    """Open the outbox, and return whether the subscription is there for good."""
    with explained(CHANNEL):
        return session.execute(OPEN, (NAME, CHANNEL)).fetchone()[0]


def put(session, payload):
    """Publish to the outbox."""
    with explained(CHANNEL):
        session.execute("SELECT pgnotifier.publish(%s, %s)", (CHANNEL, payload))


@pytest.fixture
def enqueuer(log, make_role):
    """Return the conninfo string of an enqueuer."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "enqueuer")
    return dsn


def test_once(log, enqueuer):
    """The first call makes the subscription; those after its commit find it, and lock nothing."""
    with psycopg.connect(enqueuer) as first, psycopg.connect(enqueuer) as second:
        assert opened(first) is False
        first.commit()
        assert opened(first) is True
        assert opened(second) is True
        assert second.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
    assert log.count("subscription") == 1


def test_what_its_own_transaction_has_made(log, enqueuer):
    """As long as the transaction that has made it can be rolled back, it isn't there for good."""
    with psycopg.connect(enqueuer) as session:
        with session.transaction():
            assert opened(session) is False
            assert opened(session) is False
            with session.transaction():
                session.execute("SELECT pg_current_xact_id()")
                assert opened(session) is False
            raise psycopg.Rollback
        with session.transaction():
            with session.transaction():
                session.execute("SELECT pg_current_xact_id()")
                assert opened(session) is False
            assert opened(session) is False
        with session.transaction():
            session.execute("SELECT pg_current_xact_id()")
            assert opened(session) is True


def test_nothing_is_lost(log, enqueuer):
    """The relay gets what was enqueued before it has ever run, by all who have opened the outbox.

    What was published there earlier isn't enqueued: a publisher may have done so before version 3.
    """
    put(log.connection, "before")
    with psycopg.connect(enqueuer) as early, psycopg.connect(enqueuer) as first:
        put(early, "early")  # it opens the outbox at its end
        put(first, "first")
        assert opened(first) is False
        first.commit()
        assert opened(early) is False  # it can't be sure: this transaction is older
        log.reclaim()
        early.commit()
    log.reclaim()
    put(log.connection, "later")
    position = Position(positions.subscribe(log.connection, NAME, CHANNEL, "oldest"))
    assert log.read_all(position) == ["early", "first", "later"]


def test_the_first_two(log, enqueuer, eventually):
    """If two transactions open it at the same time, the second waits for the first one."""
    with psycopg.connect(enqueuer) as first, psycopg.connect(enqueuer) as second:
        assert opened(first) is False
        results = []
        waiting = threading.Thread(target=lambda: results.append(opened(second)))
        waiting.start()
        eventually(lambda: log.execute(WAITING, [second.info.backend_pid]) == [(1,)])
        first.commit()
        waiting.join(60)
        assert results == [False]
        second.rollback()
        assert opened(second) is True


@pytest.mark.parametrize("connects_again", [True, False])
def test_a_position_that_is_gone(log, enqueuer, eventually, connects_again):
    """It is made again for what a new connection enqueues, and soon for what an old one does."""
    outbox = Outbox(CHANNEL, NAME)
    with psycopg.connect(enqueuer, autocommit=True) as connection:
        outbox.insert(connection, [(None, "1")])
        outbox.insert(connection, [(None, "2")])
        log.execute("DELETE FROM pgnotifier.subscription")
        if connects_again:
            with psycopg.connect(enqueuer, autocommit=True) as other:
                outbox.insert(other, [(None, "3")])
        else:

            def is_made_again():
                outbox.insert(connection, [(None, "3")])
                return log.count("subscription") == 1

            eventually(is_made_again)
    assert log.count("subscription") == 1


def test_other_channels(log, enqueuer):
    """An enqueuer can subscribe to the channels of outboxes only."""
    with psycopg.connect(enqueuer, autocommit=True) as session:
        for channel in ("orders", "", None, "Pgnotifier:x"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="begins with"):
                session.execute(OPEN, (NAME, channel))
    assert log.count("subscription") == 0


def test_refusals(log, make_role):
    """Without the right, the error says what to run; users are refused before anything is sent."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "publisher")
    with psycopg.connect(dsn, autocommit=True) as session:
        for action in (lambda: put(session, "1"), lambda: opened(session)):
            with pytest.raises(LogRefusedError, match="--grant-enqueuer ROLE") as caught:
                action()
            assert CHANNEL in str(caught.value)
    for given in (CHANNEL, "pgnotifier:"):
        for publish in (durable.publish, durable.publish_many):
            with pytest.raises(ChannelNameError, match="is reserved"):
                publish(log.connection, given, "1")
    durable.publish(log.connection, "pgnotifier", "1")
    assert log.count() == 1


def test_asyncio_refuses_reserved_channels(log):
    """Asyncio's functions refuse them as well."""

    async def publish_there():
        async with await psycopg.AsyncConnection.connect(log.dsn) as session:
            for publish in (durable.apublish, durable.apublish_many):
                with pytest.raises(ChannelNameError, match="is reserved"):
                    await publish(session, CHANNEL, "1")

    asyncio.run(publish_there())


def test_an_older_log(pgnotifier_dsn):
    """Version 2 has no outboxes, and the error says what to run."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as session:
        durable.install(session, 2)
        with pytest.raises(LogNotInstalledError, match="an old one"):
            opened(session)
