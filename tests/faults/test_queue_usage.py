"""PostgreSQL's notification queue, which fills while a listening session stays in a transaction."""

import logging

import psycopg
import pytest

from pgnotifier._listener import queue_usage as backlog
from pgnotifier._listener.queue_usage import QueueUsage
from pgnotifier.testing import PostgresServer

from .waiting import eventually


def test_a_queue_that_fills(make_notifier, monkeypatch, caplog):
    """While the queue fills, a warning names the session that blocks it; a doubling warns again."""
    caplog.set_level(logging.WARNING, "pgnotifier.backlog")
    monkeypatch.setattr(backlog, "INTERVAL", 0.05)
    with PostgresServer(settings={"max_notify_queue_pages": 64}) as server:
        if server.is_external:
            pytest.skip("needs a server of its own")
        notifier = make_notifier(server.dsn, heartbeat=0.05)
        notifier.add_channel("orders")
        eventually(lambda: notifier.status().queue_usage == 0)
        with psycopg.connect(server.dsn, application_name="sleeper") as sleeper:
            sleeper.execute("LISTEN orders")
            sleeper.commit()
            sleeper.execute("SELECT 1")

            def fill(count):
                with psycopg.connect(server.dsn, autocommit=True) as connection:
                    for number in range(count):
                        connection.execute(
                            "SELECT pg_notify('orders', %s)", (str(number).ljust(7000),)
                        )

            fill(10)
            eventually(lambda: len(caplog.messages) == 1)
            fill(15)
            eventually(lambda: len(caplog.messages) == 2)
        eventually(lambda: (fill(1), notifier.status().queue_usage < 0.1)[1])
        notifier.stop()
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert "% full" in message
        assert "'sleeper'" in message
        assert "idle in transaction" in message


def test_a_full_queue(make_notifier, caplog):
    """A full queue refuses heartbeats, but the listener stays connected, and reports no gap."""
    caplog.set_level(logging.WARNING, "pgnotifier.link")
    with PostgresServer(settings={"max_notify_queue_pages": 64}) as server:
        if server.is_external:
            pytest.skip("needs a server of its own")
        notifier = make_notifier(server.dsn, heartbeat=0.1)
        notifier.add_channel("orders")
        with psycopg.connect(server.dsn) as sleeper:
            sleeper.execute("LISTEN orders")
            sleeper.commit()
            sleeper.execute("SELECT 1")
            with psycopg.connect(server.dsn, autocommit=True) as sender:
                with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                    while True:
                        sender.execute(
                            "SELECT pg_notify('orders', g || repeat('x', 7000))"
                            " FROM generate_series(1, 10) AS g"
                        )
                begun = notifier.status().latency.count
                eventually(lambda: notifier.status().latency.count > begun + 5)
        assert (notifier.status().reconnects, notifier.status().gaps) == (0, 0)
        notifier.stop()
    assert caplog.text.count("refused the heartbeat") == 1


def test_a_queue_that_stays_full(make_notifier, record):
    """A listener starts although the queue is full of what a session that has ended didn't read."""
    with PostgresServer(settings={"max_notify_queue_pages": 64}) as server:
        if server.is_external:
            pytest.skip("needs a server of its own")
        with psycopg.connect(server.dsn, autocommit=True) as sender:
            with psycopg.connect(server.dsn) as sleeper:
                sleeper.execute("LISTEN orders")
                sleeper.commit()
                sleeper.execute("SELECT 1")
                with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                    while True:
                        sender.execute("SELECT pg_notify('orders', repeat('x', 7000))")
            with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                sender.execute("NOTIFY orders")
            notifier = make_notifier(server.dsn)
            notifier.subscribe("book", "orders", record)
            notifier.start()
            sender.execute("NOTIFY orders")
            record.wait_for(1)
        notifier.stop()


def test_doublings(caplog, monkeypatch):
    """A warning comes at 10 % usage, at each doubling, and again after usage has been low."""
    monkeypatch.setattr(backlog, "INTERVAL", 0.0)
    usages = iter([0.05, 0.1, 0.15, 0.19, 0.2, 0.39, 0.4, 0.8, 0.09, 0.3])

    def ask(query):
        return (b"%f" % next(usages),) if b"queue_usage" in query else ()

    watch, warned = QueueUsage(ask), []
    for number in range(10):
        watch.look()
        if len(caplog.messages) > len(warned):
            warned.append(number)
    assert warned == [1, 4, 6, 7, 9]
    assert watch.usage == 0.3
    assert "perhaps a listener doesn't read" in caplog.text
