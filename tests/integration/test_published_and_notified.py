"""Volatile subscriptions get what is published with `notify`, however long it is."""

import logging
import secrets
import threading

import psycopg
import pytest

from pgnotifier import ThreadDispatcher
from pgnotifier.durable import grant, install, publish, publish_many

LONG = "x" * 8000
MIXED = [1, LONG, 2, {"long": ["ü" * 5000]}, "y" * 7999, "ü" * 4000, 3]


@pytest.fixture
def missing(caplog):
    """Return a function that returns the fields of the records of payloads that were missing."""

    def found():
        return [
            {name: getattr(one, name, None) for name in ("channel", "entry", "error")}
            for one in caplog.records
            if getattr(one, "pgnotifier_event", None) == "payload_missing"
        ]

    return found


def test_payloads_of_all_sizes(notifier, log, record):
    """Payloads arrive in order, whether they are sent or read from the log, and only committed."""
    notifier.subscribe("page", "orders", record)
    with psycopg.connect(log.dsn) as publisher:
        publish(publisher, "orders", "undone", notify=True)
        publish(publisher, "orders", LONG, notify=True)
        publisher.rollback()
        publish(publisher, "orders", "quiet")
        publish(publisher, "orders", LONG + "quiet")
        publish_many(publisher, "orders", MIXED, notify=True)
        publisher.commit()
        publish_many(publisher, "orders", MIXED, notify=True)
        pid = publisher.info.backend_pid
    assert record.wait_for(2 * len(MIXED)) == [*MIXED, *MIXED]
    assert {sent_by for *_, sent_by in record.calls} == {pid}
    status = notifier.status()
    assert status.gaps == 0
    assert status.channel_counts == {"orders": 2 * len(MIXED)}


def test_equal_payloads_of_a_transaction(notifier, log, record, settle):
    """Equal payloads of a transaction arrive once if they are short, like any notification."""
    notifier.subscribe("page", "orders", record)
    with psycopg.connect(log.dsn) as publisher:
        publish_many(publisher, "orders", ["same", "same", LONG, LONG], notify=True)
    assert record.wait_for(3) == ["same", LONG, LONG]
    settle(notifier)
    assert len(record.payloads) == 3


def test_each_subscription_gets_it(notifier, log, make_recorder):
    """Several dispatchers read the payload each; `batch` and `debounce` gather it as any other."""
    inline, threaded, batched, gathered = (make_recorder() for _ in range(4))
    notifier.subscribe("inline", "orders", inline)
    notifier.subscribe("threaded", "orders", threaded, dispatcher=ThreadDispatcher(1))
    notifier.subscribe("batched", "orders", batched, batch=(2, 60))
    notifier.subscribe("gathered", "orders", gathered, debounce=0.05)
    notifier.subscribe("muted", "orders", pytest.fail)
    notifier.mute_subscriber("muted")
    publish(log.connection, "orders", LONG, notify=True)
    publish(log.connection, "orders", 2, notify=True)
    assert inline.wait_for(2) == threaded.wait_for(2) == [LONG, 2]
    assert batched.wait_for(1) == [[LONG, 2]]
    assert sorted(gathered.wait_for(2), key=str) == [2, LONG]


def test_beside_a_durable_subscription(notifier, log, make_recorder):
    """A durable subscription gets each entry once, notified or not."""
    volatile, durable = make_recorder(), make_recorder()
    notifier.subscribe("volatile", "orders", volatile)
    notifier.subscribe("durable", "orders", durable, durable=True)
    publish_many(log.connection, "orders", MIXED, notify=True)
    publish(log.connection, "orders", "quiet")
    publish(log.connection, "orders", "last", notify=True)
    assert durable.wait_for(len(MIXED) + 2) == [*MIXED, "quiet", "last"]
    assert volatile.wait_for(len(MIXED) + 1) == [*MIXED, "last"]


def test_on_new_connections(notifier, log, record, sessions_ended):
    """References are received after a restart, after a lost connection, and after `unsubscribe`."""
    notifier.subscribe("page", "orders", record)
    notifier.subscribe("odd", "pgnotifier_reference", print)
    notifier.unsubscribe("odd", "pgnotifier_reference")
    publish(log.connection, "orders", LONG, notify=True)
    record.wait_for(1)
    notifier.restart()
    publish(log.connection, "orders", LONG, notify=True)
    record.wait_for(2)
    sessions_ended(notifier)
    publish(log.connection, "orders", LONG + "!", notify=True)
    assert record.wait_for(3) == [LONG, LONG, LONG + "!"]


@pytest.fixture
def sessions_ended(log, eventually):
    """Return a function that ends all sessions of a notifier, and waits until it listens again."""

    def end(notifier):
        before = notifier.status().gaps
        assert log.terminate() >= 2  # the listener's, and the one that payloads are read with
        eventually(lambda: notifier.status().gaps == before + 1)

    return end


def test_in_other_encodings(database_in, make_notifier, make_recorder):
    """What counts is the size in the database's encoding; channels and payloads are recoded."""
    for encoding, channel, letter, most in (
        ("LATIN1", "gelée", "é", 7999),
        ("EUC_JP", "注文", "\uff5eあ", 1999),
        ("SQL_ASCII", "ü", "ü", 3999),
    ):
        dsn, record = database_in(encoding), make_recorder()
        notifier = make_notifier(dsn)
        notifier.subscribe("page", channel, record)
        with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as publisher:
            install(publisher)
            publish(publisher, channel, letter * most, notify=True)
            publish(publisher, channel, letter * (most + 1), notify=True)
            publish(publisher, channel, [letter * 10_000], notify=True)
            publish(publisher, channel, letter, notify=True)
        expected = [letter * most, letter * (most + 1), [letter * 10_000], letter]
        assert record.wait_for(4) == expected, encoding
        assert notifier.status().gaps == 0
        notifier.stop()


def test_bytes_that_are_not_unicode(database_in, make_notifier, record):
    """A long payload with bytes that UTF-8 has no equivalent for is read like any other."""
    dsn = database_in("WIN1252")
    notifier = make_notifier(dsn)
    notifier.subscribe("page", "orders", record)
    with psycopg.connect(dsn, autocommit=True, client_encoding="SQL_ASCII") as raw:
        install(raw)
        raw.execute(b"SELECT pgnotifier.publish('orders', '%b', notify => true)" % (b"\x81" * 9000))
    assert record.wait_for(1) == ["\udc81" * 9000]


# --- what can't be read ---


def test_without_the_right_to_read(log, make_role, make_notifier, make_recorder, missing):
    """If the listener may not read the log, a gap covers what is long; the rest is delivered."""
    _, dsn = make_role()
    record, on_gap, gaps = make_recorder(), make_recorder(), []
    notifier = make_notifier(dsn, on_gap=gaps.append)
    notifier.subscribe("page", "orders", record, on_gap=on_gap)
    made = publish(log.connection, "orders", LONG, notify=True)
    publish(log.connection, "orders", 2, notify=True)
    assert record.wait_for(1) == [2]
    on_gap.wait_for(1)
    assert gaps[0].channels == {"orders"}
    assert "can't be read from the log: this role may not read" in gaps[0].reason
    assert missing() == [{"channel": "orders", "entry": made, "error": "LogRefusedError"}]
    assert notifier.status().errors == 0


def test_with_the_right_to_read(log, make_role, make_notifier, record):
    """The rights of a listener are enough."""
    name, dsn = make_role()
    grant(log.connection, name, "listener")
    notifier = make_notifier(dsn)
    notifier.subscribe("page", "orders", record)
    publish(log.connection, "orders", LONG, notify=True)
    assert record.wait_for(1) == [LONG]


def test_what_was_truncated_meanwhile(notifier, log, record, missing, eventually):
    """An entry that is gone by the time that its turn comes is covered by a gap."""
    go_on = threading.Event()
    notifier.subscribe("wait", "first", lambda *_: go_on.wait(60))
    notifier.subscribe("page", "orders", record)
    log.notify("first")
    made = publish(log.connection, "orders", LONG, notify=True)
    eventually(lambda: notifier.status().channel_counts.get("orders") == 1)
    log.execute("SELECT pgnotifier.reclaim('0', 1), pgnotifier.reclaim('0', 1)")
    assert log.execute("SELECT count(*) FROM pgnotifier.log") == [(0,)]
    go_on.set()
    log.notify("orders", "next")
    assert record.wait_for(1) == ["next"]
    eventually(lambda: notifier.status().gaps == 1)
    assert notifier.status().last_gap.reason.endswith("isn't in the log any more")
    assert missing() == [{"channel": "orders", "entry": made, "error": "LookupError"}]


@pytest.mark.parametrize("text", ["", "1 2", "1 2 ", "x y orders", "1 2 orders\n" * 99, "\0x1 2 a"])
def test_what_only_resembles_a_reference(db, notifier, record, settle, text, caplog):
    """What anybody may send on the channel of references is ignored if it isn't one."""
    caplog.set_level(logging.DEBUG, "pgnotifier")
    notifier.subscribe("page", "orders", record)
    db.notify("pgnotifier_reference", text.replace("\0", ""))
    db.notify("pgnotifier_reference", "18446744073709551616 1 orders")
    db.notify("pgnotifier_reference", "1 9223372036854775808 orders")
    db.notify("pgnotifier_reference", "1 1 others")
    db.notify("orders", LONG[:7999])
    db.notify("orders", "1 2 orders")
    assert record.wait_for(2) == [LONG[:7999], "1 2 orders"]
    settle(notifier)
    assert notifier.status().gaps == 0
    assert "others" not in notifier.status().channel_counts


def test_forged_references(notifier, log, record, eventually):
    """A forged reference yields no entry of another channel, and none that is short: a gap."""
    notifier.subscribe("page", "orders", record)
    secret = publish(log.connection, "secrets", LONG)
    short = publish(log.connection, "orders", "short")
    xids = dict(log.execute("SELECT id, xid::text FROM pgnotifier.log"))
    for entry in (secret, short):
        log.notify("pgnotifier_reference", f"{xids[entry]} {entry} orders")
    log.notify("pgnotifier_reference", f"{xids[short]} {secret} orders")
    log.notify("orders", "real")
    assert record.wait_for(1) == ["real"]
    eventually(lambda: notifier.status().gaps >= 1)
    assert record.payloads == ["real"]


def test_without_a_log(db, notifier, record, eventually):
    """In a database without a log, a forged reference makes a gap, and nothing else."""
    notifier.subscribe("page", "orders", record)
    db.notify("pgnotifier_reference", "1 1 orders")
    db.notify("orders", "real")
    assert record.wait_for(1) == ["real"]
    eventually(lambda: notifier.status().gaps == 1)
    assert "isn't installed" in notifier.status().last_gap.reason


def test_what_anybody_receives(db, notifier, log, record):
    """Others that listen get payloads unchanged, however odd these are."""
    notifier.subscribe("page", "orders", record)
    odd = f"12 34 orders {secrets.token_hex(4)}"
    publish_many(log.connection, "orders", [odd, "pgnotifier_reference", ""], notify=True)
    assert record.wait_for(3) == [odd, "pgnotifier_reference", ""]


def test_the_connection_is_closed(notifier, log, record, eventually):
    """The connection that payloads are read with is made for the first one; `stop` closes it."""
    notifier.subscribe("page", "orders", record)
    assert len(log.listening()) == 1
    publish(log.connection, "orders", LONG, notify=True)
    record.wait_for(1)
    assert len(log.listening()) == 2
    notifier.stop()
    eventually(lambda: log.listening() == [])
    notifier.start()
    publish(log.connection, "orders", LONG, notify=True)
    assert record.wait_for(2) == [LONG, LONG]
