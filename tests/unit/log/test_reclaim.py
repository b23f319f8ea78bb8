"""Space is given back once every subscription has passed it, and never before."""

import threading

import psycopg
import pytest

from pgnotifier._log import reclaim
from pgnotifier._log.reclaim import Reclaimer


def current_slot(log):
    """Return the number of the slot that new entries go to."""
    return log.execute("SELECT last_value FROM pgnotifier.slot")[0][0]


def test_what_everybody_has_read_is_truncated(log):
    """A slot is truncated once new entries go to another one, and all subscriptions are past it."""
    one, two = log.subscribe("one"), log.subscribe("two")
    log.publish("orders", *range(10))
    assert log.read_all(one) == [*map(str, range(10))]
    assert log.reclaim() == (0, 0)  # new entries go elsewhere from now on
    assert log.reclaim() == (0, 0)
    assert log.count() == 10
    assert log.read_all(two) == [*map(str, range(10))]
    assert log.reclaim() == (1, 0)
    assert log.count() == 0


def test_new_entries_go_to_an_empty_slot(log):
    """The slot for new entries changes once it is large enough, and goes round."""
    position = log.subscribe()
    slots = []
    for n in range(10):
        log.publish("orders", n)
        assert log.read_all(position) == [str(n)]
        log.reclaim()
        slots.append(current_slot(log))
    assert slots == [1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    assert log.count() <= 2


def test_a_small_slot_is_left_alone(log):
    """While a slot is small and young, new entries go on going to it."""
    log.publish("orders", "a")
    assert log.reclaim(slot_bytes=1 << 20) == (0, 0)
    assert current_slot(log) == 0
    log.execute("SELECT pgnotifier.reclaim('0', 1 << 20, '0')")
    assert current_slot(log) == 1


def test_without_an_empty_slot(log):
    """If no slot is empty, the current one grows, and nothing is lost."""
    position = log.subscribe()
    for n in range(12):
        log.publish("orders", n)
        log.reclaim()
    assert current_slot(log) == 7
    assert log.read_all(position) == [str(n) for n in range(12)]
    log.reclaim()
    assert log.count() == 5


def test_retention(log):
    """What is younger than the retention is kept, and can be read again."""
    position = log.subscribe()
    log.publish("orders", "a")
    log.read_all(position)
    log.reclaim("1 hour")
    assert log.reclaim("1 hour") == (0, 0)
    assert log.read_all(log.subscribe("new", start="oldest")) == ["a"]
    assert log.reclaim() == (1, 0)


def test_an_open_transaction_keeps_its_slot_alone(log):
    """A transaction that has published and is open keeps one slot; others are truncated."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        freed = 0
        for n in range(20):
            log.publish("orders", n)
            assert log.read_all(position) == [str(n)]
            freed += log.reclaim()[0]
        assert freed >= 18
        assert log.count() <= 3
        publisher.commit()
    assert log.read_all(position) == ["late"]


def test_a_slot_that_is_locked(log):
    """VACUUM FULL, say, keeps its slot from being emptied, and no other one; nothing fails."""
    position = log.subscribe()
    for n in range(3):
        log.publish("orders", n)
        assert log.reclaim() == (0, 0)
    assert log.read_all(position) == ["0", "1", "2"]
    with log.connect(autocommit=False) as busy:
        busy.execute("LOCK TABLE pgnotifier.log_1 IN ACCESS EXCLUSIVE MODE")
        freed, blocked = log.reclaim()
        assert freed == 2
        assert blocked >= 1
    assert log.reclaim() == (1, 0)


def test_a_reader_in_its_batch_is_waited_for(log):
    """A slot that somebody reads for long is left alone, and reported; nobody waits for long."""
    position = log.subscribe()
    log.publish("orders", "a")
    log.read_all(position)
    log.reclaim()
    with log.connect(autocommit=False) as dump:
        dump.execute("SELECT count(*) FROM pgnotifier.log")
        assert log.reclaim() == (0, 1)
        dump.rollback()
    assert log.reclaim() == (1, 0)


def test_not_while_a_subscription_is_made(log):
    """While a subscription is made, and nobody sees its position yet, nothing is truncated."""
    log.publish("orders", "a")
    log.reclaim()
    with log.connect(autocommit=False) as other:
        other.execute("SELECT pgnotifier.subscribe('new', 'orders', 'oldest')")
        assert log.reclaim() == (0, 0)
        other.commit()
    assert log.reclaim() == (0, 0)
    assert log.read_all(log.subscribe("new")) == ["a"]


def test_isolation_is_checked(log):
    """It needs READ COMMITTED: in an older snapshot, entries would be missing."""
    with log.connect() as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with (
            pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"),
            other.transaction(),
        ):
            other.execute("SELECT pgnotifier.reclaim()")


def test_old_positions_are_deleted(log):
    """Of each subscription, the last thousand positions are kept."""
    position = log.subscribe()
    log.execute(
        "SELECT pgnotifier.save(%s, pgnotifier.snapshot()) FROM generate_series(1, 2500)",
        position.sub,
    )
    log.reclaim()
    assert log.count("position") == 1001


def test_while_a_subscription_is_forgotten(log):
    """A transaction that forgets a subscription, and stays open, has nothing fail."""
    one, two = log.subscribe("one"), log.subscribe("two")
    for position in (one, two):
        log.execute(
            "SELECT pgnotifier.save(%s, pgnotifier.snapshot()) FROM generate_series(1, 1500)",
            position.sub,
        )
    with log.connect(autocommit=False) as other:
        other.execute("SELECT pgnotifier.forget('one', 'orders')")
        assert log.reclaim() == (0, 0)
        assert log.count("position") == 1501 + 1001
        other.commit()
    assert log.count("position") == 1001


def test_how_often_it_looks(log, monkeypatch):
    """A reader looks every few seconds; less often while a slot can't be locked."""
    monkeypatch.setattr(reclaim, "INTERVAL", 0.0)
    position = log.subscribe()
    log.publish("orders", "a")
    log.read_all(position)
    log.execute("SELECT pgnotifier.reclaim('0', 1)")
    reclaimer = Reclaimer()
    assert reclaimer.reclaim(log.connection) == 1
    monkeypatch.setattr(reclaim, "INTERVAL", 60.0)
    reclaimer = Reclaimer()
    log.publish("orders", "b")
    log.read_all(position)
    log.execute("SELECT pgnotifier.reclaim('0', 1)")
    assert reclaimer.reclaim(log.connection) == 0


def test_nothing_is_lost_while_slots_are_truncated(log):
    """While writers publish and slots are truncated all the time, every entry is read."""
    position = log.subscribe()
    stop = threading.Event()

    def give_back():
        with log.connect() as other:
            while not stop.is_set():
                other.execute("SELECT pgnotifier.reclaim('0', 1)")

    def publish(writer):
        with log.connect() as other:
            for n in range(150):
                other.execute("SELECT pgnotifier.publish('orders', %s)", (f"{writer} {n}",))

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    janitor = threading.Thread(target=give_back)
    janitor.start()
    for one in threads:
        one.start()
    payloads = []
    while any(one.is_alive() for one in threads):
        payloads += log.read_all(position, 50)
    payloads += log.read_all(position)
    stop.set()
    janitor.join()
    assert sorted(payloads) == sorted(f"{writer} {n}" for writer in range(4) for n in range(150))
    log.reclaim()
    log.reclaim()
    assert log.count() == 0
