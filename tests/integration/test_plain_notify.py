"""A plain NOTIFY on a channel that is read durably leads to one warning."""

import logging

import psycopg
import pytest
from database import LISTENING

from pgnotifier import ThreadDispatcher
from pgnotifier.durable import install, publish, publish_many


@pytest.fixture
def warnings(caplog):
    """Return a function that returns the channels that were warned of."""
    caplog.set_level(logging.INFO, "pgnotifier")
    return lambda: [
        one.channel
        for one in caplog.records
        if getattr(one, "pgnotifier_event", None) == "plain_notify"
    ]


@pytest.fixture
def in_time(log, notifier):
    """Return a function that waits until a channel was warned of, by a notification of its own.

    Its warning comes after all others.
    """
    notifier.subscribe("latest", "latest", print, durable=True)

    def wait(warnings, eventually):
        log.notify("latest")
        eventually(lambda: "latest" in warnings())
        return warnings()[:-1]

    return wait


def test_one_warning(notifier, log, record, warnings, in_time, eventually, caplog):
    """The first plain NOTIFY is warned of; nothing is delivered, and no gap is reported."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 1)
    log.notify("paid", "plain")
    eventually(lambda: warnings() == ["paid"])
    log.notify("paid", "again")
    log.publish("paid", 2)
    assert record.wait_for(2) == [1, 2]
    assert in_time(warnings, eventually) == ["paid"]
    (first, *_) = [one for one in caplog.records if getattr(one, "channel", None) == "paid"]
    assert first.levelno == logging.WARNING
    assert first.name == "pgnotifier.durable"
    assert "pgnotifier.durable.publish()" in first.getMessage()
    assert record.payloads == [1, 2]
    status = notifier.status()
    assert (status.gaps, status.received, status.errors) == (0, 0, 0)


def test_what_is_published_with_notify(notifier, log, record, warnings, in_time, eventually):
    """What `publish(…, notify=True)` sends isn't warned of, on whatever connections."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    notifier.subscribe("shipping", "sent", record, durable=True)
    with psycopg.connect(log.dsn) as other:
        for number in range(20):
            publish(other, "paid", number, notify=True)
            publish(log.connection, "paid", number, notify=True)
            publish(other, "sent", number, notify=True)
            publish_many(log.connection, "sent", [number, "x" * 8000], notify=True)
            if number % 3:
                other.commit()
    record.wait_for(100)
    assert in_time(warnings, eventually) == []
    log.notify("paid", "plain")
    eventually(lambda: "paid" in warnings())


def test_several_sources(notifier, log, make_recorder, warnings, in_time, eventually):
    """Several dispatchers that read a channel lead to one warning; muting changes nothing."""
    inline, threaded = make_recorder(), make_recorder()
    notifier.subscribe("a", "paid", inline, durable=True)
    notifier.subscribe("b", "paid", threaded, durable=True, dispatcher=ThreadDispatcher(1))
    notifier.mute_channels("paid")
    log.notify("paid", "plain")
    assert in_time(warnings, eventually) == ["paid"]
    notifier.unmute_channels("paid")
    log.publish("paid", 1)
    assert inline.wait_for(1) == threaded.wait_for(1) == [1]


def test_beside_a_volatile_subscription(notifier, log, make_recorder, warnings, eventually):
    """It is warned of, and delivered to volatile subscriptions all the same."""
    volatile, durable = make_recorder(), make_recorder()
    notifier.subscribe("volatile", "paid", volatile)
    notifier.subscribe("durable", "paid", durable, durable=True)
    log.notify("paid", "plain")
    eventually(lambda: warnings() == ["paid"])
    assert volatile.wait_for(1) == ["plain"]
    assert notifier.status().received == 1


def test_after_unsubscribing(notifier, log, record, warnings, in_time, eventually):
    """A channel that isn't read durably any more isn't warned of."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    notifier.unsubscribe("invoice", "paid")
    eventually(lambda: [one.id for one in notifier.status().durable] == ["latest"])
    log.publish("latest", 1)
    log.notify("paid", "plain")
    assert in_time(warnings, eventually) == []


def test_after_a_lost_connection(notifier, log, record, warnings, eventually):
    """A new connection listens as the one before did."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.terminate()
    log.publish("paid", 1)
    record.wait_for(1)
    log.notify("paid", "plain")
    eventually(lambda: warnings() == ["paid"])


def test_notifications_do_not_have_the_log_read(notifier, log, record):
    """Notifications that aren't the bell's don't have the source look into the log."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    queries = set()
    with psycopg.connect(log.dsn, autocommit=True) as other:
        for number in range(300):
            other.execute(f"NOTIFY pgnotifier_published, 'paid'; NOTIFY paid, '{number}'")
            queries.update(
                log.execute(
                    "SELECT pid, query_start FROM pg_stat_activity"
                    " WHERE application_name = 'pgnotifier' AND datname = current_database()"
                )
            )
    # It looks by itself now and then, after 5 ms at first, and less and less often.
    assert len(queries) < 100
    log.publish("paid", 1)
    assert record.wait_for(1) == [1]


def test_in_another_encoding(database_in, make_notifier, record):
    """In a database with another encoding, no payload can end the source's session."""
    dsn = database_in("WIN1252")
    with psycopg.connect(dsn, autocommit=True, client_encoding="SQL_ASCII") as raw:
        install(raw)
        notifier = make_notifier(dsn)
        notifier.subscribe("invoice", "paid", record, durable=True)
        before = {*raw.execute(LISTENING)}
        raw.execute(b"NOTIFY paid, '\x81'")
        raw.execute(b"SELECT pgnotifier.publish('paid', 'fine \x81', notify => true)")
        raw.execute(b"SELECT pgnotifier.publish('paid', '2')")
        assert record.wait_for(2) == ["fine \udc81", 2]
        assert {*raw.execute(LISTENING)} == before
